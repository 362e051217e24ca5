//! The wire contract: generated types, conversions and checks, limits.
