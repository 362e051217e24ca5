//! The file-system operations of a store, as a trait, so that a simulated disk can replace the real
//! one in tests.

use ps_host::Ceiling;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// The file-system operations that determine what survives a crash.
pub trait Disk: Send + Sync {
    /// Creates a folder. The parent folder must exist.
    fn create_folder(&self, path: &Path) -> io::Result<()>;
    /// Writes a file, replacing any existing one.
    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// Makes a file's contents, or a folder's list of names, durable.
    fn sync(&self, path: &Path) -> io::Result<()>;
    /// Renames a file or folder. An existing file of the new name is replaced.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Reads the contents of a file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// Lists the names in a folder, in any order.
    fn list(&self, path: &Path) -> io::Result<Vec<String>>;
    /// Removes a folder and everything in it.
    fn remove_folder(&self, path: &Path) -> io::Result<()>;
}

/// The real file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        fs::create_dir(path)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        File::create(path)?.write_all(bytes)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        // On Unix, a folder is opened like a file. Other systems have no way to sync a folder, and no need.
        if cfg!(unix) || path.is_file() { File::open(path)?.sync_all() } else { Ok(()) }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        // A file larger than memory gives a different error, which `Store` does not take for damage.
        ps_host::read(path, Ceiling::memory(1))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        fs::read_dir(path)?
            .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir_all(path)
    }
}
