//! Downloads data by URL: `http://`, `https://` and `s3://`, with the `object_store` crate.
//!
//! [`localized`] replaces the URLs in a source by files of a cache. A cached file is reused if the store
//! still has the same version. If the URL ends in `#sha256=…` and the cached file has that hash, the store is
//! not asked at all.

mod cache;
mod locator;
mod store;

pub use locator::{Locator, allowed};

use cache::Cache;
use ps_data::{DataConfig, DataError, ReadProgress, Validation};

/// Returns `source` with each URL replaced by a file in the user's cache. Files are downloaded if necessary.
///
/// # Errors
/// A file cannot be downloaded; the error says which one and why.
pub fn localized(source: &str, progress: &dyn ReadProgress) -> Result<String, DataError> {
    if !source.contains("://") {
        return Ok(source.into());
    }
    Cache::of_user().localized(source, progress)
}

/// Like [`localized`], for all sources of a run.
///
/// # Errors
/// As for [`localized`].
pub fn localized_config(config: &DataConfig, progress: &dyn ReadProgress) -> Result<DataConfig, DataError> {
    let local = |source: &String| localized(source, progress);
    let validation = match &config.validation {
        Some(Validation::Source(source)) => Some(Validation::Source(local(source)?)),
        other => other.clone(),
    };
    let test = config.test.as_ref().map(local).transpose()?;
    Ok(DataConfig { train: local(&config.train)?, test, validation, ..config.clone() })
}
