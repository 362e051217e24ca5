//! Safe reading of files whose paths come from other people.

use crate::memory::{Memory, bytes};
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

/// The maximum size of a file to read, and the reason for that limit.
///
/// [`read`], [`read_text`] and [`drain`] refuse larger content with an error that gives the limit and the
/// reason, and never hold more than the limit in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ceiling {
    bytes: u64,
    basis: Basis,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Basis {
    Fixed,
    /// Memory must hold this number of copies of the content at a time.
    Memory(Memory, u64),
    /// The available memory is not known.
    Unknown,
}

impl Ceiling {
    /// The limit for run files, summaries and certificates: large enough for any of them, and small enough
    /// that parsing one never exhausts memory.
    pub const TEXT: Ceiling = Ceiling::fixed(16 << 20);

    /// A limit of `bytes`.
    pub const fn fixed(bytes: u64) -> Self {
        Ceiling { bytes, basis: Basis::Fixed }
    }

    /// A limit that lets memory hold `copies` copies of the content, for a parser that needs that many at
    /// once. It depends on the memory available at the time of the call.
    pub fn memory(copies: u64) -> Self {
        match Memory::detect() {
            Some(memory) => Ceiling::of(memory, copies),
            None => Ceiling { bytes: u64::MAX, basis: Basis::Unknown },
        }
    }

    fn of(memory: Memory, copies: u64) -> Self {
        Ceiling { bytes: memory.bytes / copies.max(1), basis: Basis::Memory(memory, copies) }
    }

    /// The limit in bytes.
    pub fn bytes(self) -> u64 {
        self.bytes
    }

    /// Checks that content of `size` bytes is within the limit.
    ///
    /// # Errors
    /// [`ErrorKind::FileTooLarge`], with the size, the ceiling and what the ceiling is derived from.
    pub fn check(self, size: u64) -> io::Result<()> {
        match size > self.bytes {
            true => Err(too_large(format!("the file has {}; {self}", bytes(size.into())))),
            false => Ok(()),
        }
    }
}

impl fmt::Display for Ceiling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let max = bytes(self.bytes.into());
        match self.basis {
            Basis::Fixed => write!(f, "the limit for files of this kind is {max}; is it the right file?"),
            Basis::Unknown => write!(f, "at most {max} can be read"),
            Basis::Memory(memory, 0 | 1) => write!(f, "at most {max} can be read, {memory}"),
            Basis::Memory(memory, copies) => {
                let share = match copies {
                    2 => "half of",
                    3 => "a third of",
                    _ => "a part of",
                };
                write!(f, "at most {max} can be read, {share} {memory}")
            }
        }
    }
}

fn too_large(text: String) -> io::Error {
    io::Error::new(ErrorKind::FileTooLarge, text)
}

/// Opens a regular file for reading. Never blocks, even if the path names a pipe.
///
/// # Errors
/// Returns an error if the system refuses, or if the path names a directory ([`ErrorKind::IsADirectory`]) or
/// a pipe, device or socket ([`ErrorKind::InvalidInput`]).
pub fn open(path: &Path) -> io::Result<File> {
    // Check before opening, because opening a device may have side effects.
    check_kind(&fs::metadata(path)?)?;
    let mut options = File::options();
    options.read(true);
    // The path may name something else by now; a pipe without a writer must still not block.
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY,
    );
    let file = options.open(path)?;
    check_kind(&file.metadata()?)?;
    Ok(file)
}

fn check_kind(metadata: &Metadata) -> io::Result<()> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(());
    }
    if kind.is_dir() {
        return Err(io::Error::new(ErrorKind::IsADirectory, "this is a directory, not a file"));
    }
    let what = kind_name(kind);
    Err(io::Error::new(ErrorKind::InvalidInput, format!("this is {what}, not a regular file")))
}

#[cfg(unix)]
fn kind_name(kind: fs::FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match kind {
        _ if kind.is_fifo() => "a pipe",
        _ if kind.is_socket() => "a socket",
        _ if kind.is_char_device() || kind.is_block_device() => "a device",
        _ => "something else",
    }
}

#[cfg(not(unix))]
fn kind_name(_: fs::FileType) -> &'static str {
    "something else"
}

/// Reads a regular file.
///
/// # Errors
/// Returns the errors of [`open`], or [`ErrorKind::FileTooLarge`], without allocating memory for the content,
/// if the file is larger than `ceiling`.
pub fn read(path: &Path, ceiling: Ceiling) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let size = file.metadata()?.len();
    drain(file, size, ceiling)
}

/// Reads a regular file as a string.
///
/// # Errors
/// Returns the errors of [`read`], or [`ErrorKind::InvalidData`] if the content is not UTF-8.
pub fn read_text(path: &Path, ceiling: Ceiling) -> io::Result<String> {
    String::from_utf8(read(path, ceiling)?)
        .map_err(|_| io::Error::new(ErrorKind::InvalidData, "the file is not valid UTF-8"))
}

/// Number of bytes to read at a time.
const PIECE: u64 = 1 << 20;

/// Reads `source`, such as standard input, to its end. `size` is the expected number of bytes, or 0 if that
/// is not known.
///
/// # Errors
/// Returns an error if reading fails, or [`ErrorKind::FileTooLarge`] if there is more than `ceiling` allows.
pub fn drain(mut source: impl Read, size: u64, ceiling: Ceiling) -> io::Result<Vec<u8>> {
    ceiling.check(size)?;
    let mut content = Vec::new();
    // If memory is short, this returns an error, whereas a plain reservation would abort the process.
    content.try_reserve_exact(usize::try_from(size).unwrap_or(usize::MAX))?;
    // The file may grow while it is read, so its size is not a limit.
    loop {
        // One byte beyond the limit distinguishes content that fits from content that does not.
        let piece = PIECE.min((ceiling.bytes - content.len() as u64).saturating_add(1));
        match source.by_ref().take(piece).read_to_end(&mut content)? {
            0 => return Ok(content),
            _ if content.len() as u64 > ceiling.bytes => {
                return Err(too_large(format!("it is too long: {ceiling}")));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Bound;

    const SMALL: Ceiling = Ceiling::fixed(3 << 20);

    #[test]
    fn content_up_to_the_ceiling_is_read_and_no_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for size in [0, 1, (1 << 20) - 1, 1 << 20, 3 << 20] {
            let content: Vec<u8> = (0..size).map(|index: usize| index as u8).collect();
            fs::write(&path, &content).unwrap();
            assert_eq!(read(&path, SMALL).unwrap(), content);
            assert_eq!(drain(&content[..], 0, SMALL).unwrap(), content);
        }
        fs::write(&path, vec![0; (3 << 20) + 1]).unwrap();
        let error = read(&path, SMALL).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
        assert_eq!(
            error.to_string(),
            "the file has 3.0 MiB; the limit for files of this kind is 3.0 MiB; is it the right file?"
        );
        let error = drain(io::repeat(0), 0, SMALL).unwrap_err();
        assert!(error.kind() == ErrorKind::FileTooLarge && error.to_string().contains("3.0 MiB"), "{error}");
    }

    #[test]
    fn text_must_be_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "é").unwrap();
        assert_eq!(read_text(&path, SMALL).unwrap(), "é");
        fs::write(&path, [0xff]).unwrap();
        assert!(read_text(&path, SMALL).unwrap_err().to_string().contains("UTF-8"));
    }

    #[test]
    fn a_file_larger_than_memory_is_refused_before_memory_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sparse");
        File::create(&path).unwrap().set_len(1 << 42).unwrap();
        let Some(memory) = Memory::detect() else { return };
        let error = read(&path, Ceiling::memory(2)).unwrap_err().to_string();
        assert!(error.starts_with("the file has 4.0 TiB; at most "), "{error}");
        let basis = match memory.bound {
            Bound::Available => "half of the available memory of ",
            Bound::ControlGroup => "half of the control group's memory limit of ",
        };
        assert!(error.contains(basis), "{error}");
    }

    #[test]
    fn a_ceiling_names_its_basis() {
        let memory = Memory { bytes: 9 << 30, bound: Bound::ControlGroup };
        assert_eq!(Ceiling::of(memory, 3).bytes(), 3 << 30);
        for (copies, expected) in [
            (1, "at most 9.0 GiB can be read, the control group's memory limit of 9.0 GiB"),
            (2, "at most 4.5 GiB can be read, half of the control group's memory limit of 9.0 GiB"),
            (3, "at most 3.0 GiB can be read, a third of the control group's memory limit of 9.0 GiB"),
        ] {
            assert_eq!(Ceiling::of(memory, copies).to_string(), expected);
        }
    }

    #[cfg(unix)]
    #[test]
    fn pipes_devices_sockets_and_directories_are_refused_at_once() {
        use std::os::unix::net::UnixListener;
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let socket = folder.path().join("socket");
        let _listener = UnixListener::bind(&socket).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        for (path, expected) in [
            (&pipe, "this is a pipe, not a regular file"),
            (&socket, "this is a socket, not a regular file"),
            (&link, "this is a device, not a regular file"),
            (&folder.path().to_path_buf(), "this is a directory, not a file"),
        ] {
            assert_eq!(open(path).unwrap_err().to_string(), expected);
            assert_eq!(read(path, SMALL).unwrap_err().to_string(), expected);
        }
    }
}
