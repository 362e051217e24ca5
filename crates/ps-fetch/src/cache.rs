//! The cache of downloaded files, with a description of each.

use crate::locator::Locator;
use crate::store::{self, Stored};
use ps_core::params::hex;
use ps_data::{DataError, ReadProgress, Source};
use ps_host::Ceiling;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// A folder of downloaded files.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
}

/// The description that is written next to a file.
#[derive(Debug, Serialize, Deserialize)]
struct Known {
    url: String,
    stored: Stored,
    sha256: String,
}

impl Cache {
    /// Opens the user's cache: `DOWNHILL_DATA_CACHE`, or `downhill` in the system's cache folder.
    pub(crate) fn of_user() -> Self {
        let variable =
            |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = variable("DOWNHILL_DATA_CACHE")
            .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("downhill")))
            .or_else(|| Some(variable("HOME")?.join(".cache").join("downhill")))
            .unwrap_or_else(|| std::env::temp_dir().join("downhill-cache"));
        Cache { folder }
    }

    /// Returns `source` with each URL replaced by a file of the cache, which is downloaded if necessary.
    ///
    /// # Errors
    /// A file cannot be downloaded; the error says which one and why.
    pub(crate) fn localized(&self, source: &str, progress: &dyn ReadProgress) -> Result<String, DataError> {
        let parsed = Source::parse(source)?;
        let local = |file: &str| match Locator::parse(file)? {
            None => Ok(file.to_owned()),
            Some(locator) => self.get(&locator, progress).map(|path| path.display().to_string()),
        };
        let local = parsed.files().into_iter().map(local).collect::<Result<Vec<_>, DataError>>()?;
        Ok(parsed.with_files(&local))
    }

    /// Returns the path of the cached file for `locator`.
    ///
    /// # Errors
    /// The file cannot be downloaded or stored, or it does not have the expected hash.
    pub(crate) fn get(&self, locator: &Locator, progress: &dyn ReadProgress) -> Result<PathBuf, DataError> {
        let url = locator.url.as_str();
        let remote = |problem: String| DataError::Remote { url: url.into(), problem };
        // Different URLs often end in the same file name, so each URL has its own folder.
        let folder = self.folder.join(&hex(&Sha256::digest(url))[..16]);
        let path = folder.join(locator.file_name());
        let known = known(&path, url);
        let is = |wanted: &String| known.as_ref().is_some_and(|known| known.sha256 == *wanted);
        if locator.sha256.as_ref().is_some_and(is) {
            return Ok(path);
        }
        match store::look(&locator.url) {
            Ok(stored) => {
                // A cached file with the wanted hash was returned above. If a hash is wanted, this file has
                // another one and is downloaded again.
                if locator.sha256.is_none() && known.is_some_and(|known| known.stored == stored) {
                    return Ok(path);
                }
                // A file that is too large to be read later need not be downloaded.
                Ceiling::memory(1).check(stored.size).map_err(|error| remote(error.to_string()))?;
            }
            // The copy may be used although the store does not answer: the other processes of the run compare
            // the data's hash.
            Err(problem) if known.is_some() && locator.sha256.is_none() => {
                tracing::warn!("{url}: {problem}; using the copy in {}", path.display());
                return Ok(path);
            }
            Err(problem) => return Err(remote(problem)),
        }
        let failed = |path: &Path, error: io::Error| DataError::File { path: path.into(), error };
        fs::create_dir_all(&folder).map_err(|error| failed(&folder, error))?;
        // Another process may download the same file at the same time. The last rename wins, and the content
        // is the same.
        let aside = folder.join(format!(".{}.part-{}", locator.file_name(), std::process::id()));
        let fetched = File::create(&aside).map_err(|error| failed(&aside, error)).and_then(|mut file| {
            tracing::info!("fetching {url}");
            let mut hash = Sha256::new();
            let mut take = |bytes: &[u8]| {
                hash.update(bytes);
                file.write_all(bytes)
            };
            let report = |done, total| progress.file(url, done, total);
            let stored = store::fetch(&locator.url, &mut take, &report).map_err(remote)?;
            file.sync_all().map_err(|error| failed(&aside, error))?;
            let sha256 = hex(&hash.finalize());
            match &locator.sha256 {
                Some(wanted) if *wanted != sha256 => Err(remote(format!(
                    "its SHA-256 is {sha256}, but the run file requires {wanted}: the content has changed \
                     or is damaged"
                ))),
                _ => Ok(Known { url: url.into(), stored, sha256 }),
            }
        });
        let kept = fetched.and_then(|known| {
            let beside = beside(&path);
            // The description is removed first: if the process dies before the new one is written, the file
            // without a description is not used.
            let _ = fs::remove_file(&beside);
            fs::rename(&aside, &path).map_err(|error| failed(&path, error))?;
            let text = serde_json::to_vec_pretty(&known).map_err(|error| failed(&beside, error.into()))?;
            fs::write(&beside, text).map_err(|error| failed(&beside, error))
        });
        if kept.is_err() {
            let _ = fs::remove_file(&aside);
        }
        kept.map(|()| path)
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".json");
    name.into()
}

/// Returns the description of a file, if the file is unchanged since it was downloaded from `url`.
fn known(path: &Path, url: &str) -> Option<Known> {
    let known: Known = serde_json::from_slice(&ps_host::read(&beside(path), Ceiling::TEXT).ok()?).ok()?;
    let mut file = ps_host::open(path).ok()?;
    // Size and modification time would not reveal a damaged copy, which must not become training data. The
    // whole file is therefore hashed at each use.
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut buffer).ok()? {
            0 => break,
            read => hash.update(&buffer[..read]),
        }
    }
    (known.url == url && known.sha256 == hex(&hash.finalize())).then_some(known)
}
