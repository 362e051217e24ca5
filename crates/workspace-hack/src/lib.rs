//! Empty: the manifest is what counts. See `.config/hakari.toml`.
