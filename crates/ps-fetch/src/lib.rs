//! Data by URL: `http://`, `https://` and `s3://`, through the `object_store` crate.
//!
//! [`localized`] turns a source that names URLs into one that names files of a cache. What is there is used again if the
//! store still has the same, or if the URL ends in `#sha256=…` and the file has that hash, in which case nobody is asked.

mod cache;
mod locator;
mod store;

pub use locator::{Locator, allowed};

use cache::Cache;
use ps_data::{DataConfig, DataError, Progress, Validation};

/// The same source with a file of the user's cache for each URL in it, which is fetched if need be.
///
/// # Errors
/// What cannot be fetched, and why.
pub fn localized(source: &str, progress: &dyn Progress) -> Result<String, DataError> {
    if !source.contains("://") {
        return Ok(source.into());
    }
    Cache::of_user().localized(source, progress)
}

/// The same for all sources of a run.
///
/// # Errors
/// As for [`localized`].
pub fn localized_config(config: &DataConfig, progress: &dyn Progress) -> Result<DataConfig, DataError> {
    let local = |source: &String| localized(source, progress);
    let validation = match &config.validation {
        Some(Validation::Source(source)) => Some(Validation::Source(local(source)?)),
        other => other.clone(),
    };
    let test = config.test.as_ref().map(local).transpose()?;
    Ok(DataConfig { train: local(&config.train)?, test, validation, ..config.clone() })
}
