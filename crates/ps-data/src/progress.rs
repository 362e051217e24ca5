//! Files opened with their size known and every byte reported.

use crate::arrays::NamedArrays;
use crate::error::DataError;
use ps_host::Ceiling;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Hears of reading as it goes on; called from several threads.
pub trait Progress: Sync {
    /// `bytes_done` of `bytes_total` of the file (or built-in source) `name` are read.
    fn file(&self, name: &str, bytes_done: u64, bytes_total: u64);
}

/// Nobody listens.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn file(&self, _name: &str, _bytes_done: u64, _bytes_total: u64) {}
}

/// Where files are, and who hears of reading them.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    /// Where relative paths start.
    pub root: &'a Path,
    /// What stands in for the file system, where something does.
    pub memory: Option<&'a BTreeMap<PathBuf, Vec<u8>>>,
    /// What stands in for sources.
    pub arrays: &'a NamedArrays,
    pub progress: &'a dyn Progress,
}

/// A file that reports what is read of it.
pub(crate) struct Watched<'a> {
    file: Box<dyn Read + 'a>,
    path: PathBuf,
    name: String,
    done: u64,
    pub(crate) total: u64,
    progress: &'a dyn Progress,
}

impl<'a> Watched<'a> {
    pub(crate) fn open(path: &Path, place: Place<'a>) -> Result<Self, DataError> {
        let failed = |error| DataError::File { path: path.into(), error };
        let watched = |file: Box<dyn Read + 'a>, total| Watched {
            file,
            path: path.into(),
            name: path.display().to_string(),
            done: 0,
            total,
            progress: place.progress,
        };
        if let Some(files) = place.memory {
            let content = files.get(path).ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
            return Ok(watched(Box::new(content.as_slice()), content.len() as u64));
        }
        let file = ps_host::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => {
                let hint = "write `-` in place of the path to read standard input";
                failed(io::Error::new(error.kind(), format!("{error}; {hint}")))
            }
            _ => failed(error),
        })?;
        let size = file.metadata().map_err(failed)?.len();
        Ok(watched(Box::new(file), size))
    }
}

impl Watched<'_> {
    /// The whole content, which must fit into memory beside what its reader makes of it.
    pub(crate) fn read_whole(mut self) -> Result<Vec<u8>, DataError> {
        let size = self.total;
        ps_host::drain(&mut self, size, Ceiling::memory(2))
            .map_err(|error| DataError::File { path: self.path, error })
    }
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.done += read as u64;
        self.progress.file(&self.name, self.done, self.total.max(self.done));
        Ok(read)
    }
}
