//! Files that report their size when opened and every byte when read.

use crate::arrays::NamedArrays;
use crate::error::DataError;
use ps_host::Ceiling;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Receives the progress of reading. Called from several threads.
pub trait ReadProgress: Sync {
    /// Called when `bytes_done` of the `bytes_total` bytes of the file or built-in source `name`
    /// have been read.
    fn file(&self, name: &str, bytes_done: u64, bytes_total: u64);
}

/// A [`ReadProgress`] that discards all reports.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl ReadProgress for NoProgress {
    fn file(&self, _name: &str, _bytes_done: u64, _bytes_total: u64) {}
}

/// Where sources are read from, and who receives the progress.
#[derive(Clone, Copy)]
pub(crate) struct ReadContext<'a> {
    /// The folder at which relative paths start.
    pub root: &'a Path,
    /// Files in memory that replace the file system, if any.
    pub memory: Option<&'a BTreeMap<PathBuf, Vec<u8>>>,
    /// Arrays that replace sources, by name.
    pub arrays: &'a NamedArrays,
    pub progress: &'a dyn ReadProgress,
}

/// A file that reports progress while it is read.
pub(crate) struct TrackedFile<'a> {
    file: Box<dyn Read + 'a>,
    path: PathBuf,
    name: String,
    done: u64,
    pub(crate) total: u64,
    progress: &'a dyn ReadProgress,
}

impl<'a> TrackedFile<'a> {
    pub(crate) fn open(path: &Path, context: ReadContext<'a>) -> Result<Self, DataError> {
        let failed = |error| DataError::File { path: path.into(), error };
        let tracked = |file: Box<dyn Read + 'a>, total| TrackedFile {
            file,
            path: path.into(),
            name: path.display().to_string(),
            done: 0,
            total,
            progress: context.progress,
        };
        if let Some(files) = context.memory {
            let content = files.get(path).ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
            return Ok(tracked(Box::new(content.as_slice()), content.len() as u64));
        }
        let file = ps_host::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => {
                let hint = "to read standard input, use `-` instead of the path";
                failed(io::Error::new(error.kind(), format!("{error}; {hint}")))
            }
            _ => failed(error),
        })?;
        let size = file.metadata().map_err(failed)?.len();
        Ok(tracked(Box::new(file), size))
    }
}

impl TrackedFile<'_> {
    /// Reads the whole file, which must fit into memory together with its parsed form.
    pub(crate) fn read_whole(mut self) -> Result<Vec<u8>, DataError> {
        let size = self.total;
        ps_host::drain(&mut self, size, Ceiling::memory(2))
            .map_err(|error| DataError::File { path: self.path, error })
    }
}

impl Read for TrackedFile<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.done += read as u64;
        self.progress.file(&self.name, self.done, self.total.max(self.done));
        Ok(read)
    }
}
