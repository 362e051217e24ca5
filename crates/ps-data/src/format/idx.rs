//! `idx:IMAGES,LABELS`: IDX files (the MNIST family), plain or gzipped.

use super::{Format, Reader, csv, path};
use crate::dataset::Image;
use crate::error::DataError;
use crate::progress::{ReadContext, TrackedFile};
use crate::raw::{Pixels, Raw};
use flate2::bufread::MultiGzDecoder;
use ndarray::Array2;
use ps_host::Ceiling;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

pub(super) const FORMAT: Format = Format {
    prefix: "idx",
    name: "IDX",
    usage: "idx:IMAGES,LABELS",
    reads_stdin: false,
    parse: |rest| {
        let (images, labels) =
            rest.split_once(',').map_or((rest, None), |(images, labels)| (images, Some(labels)));
        let labels = labels.map(|labels| path("idx", labels)).transpose();
        Ok(Box::new(Idx { images: path("idx", images)?, labels: labels? }))
    },
};

/// A file of images and a file of labels, which is optional if no labels are needed.
struct Idx {
    images: String,
    labels: Option<String>,
}

impl Reader for Idx {
    fn files(&self) -> Vec<&str> {
        [Some(&self.images), self.labels.as_ref()].into_iter().flatten().map(String::as_str).collect()
    }

    fn read(&self, files: &[PathBuf], from: ReadContext<'_>, _: &csv::Options) -> Result<Raw, DataError> {
        read(&files[0], files.get(1).map(PathBuf::as_path), from).map(Raw::Pixels)
    }
}

/// Maximum expansion ratio of deflate.
const MAX_EXPANSION: u64 = 1032;

/// The contents of one file: its dimensions and its bytes.
struct Content {
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// Reads the images and, if given, their labels, in parallel.
fn read(images: &Path, labels: Option<&Path>, from: ReadContext<'_>) -> Result<Pixels, DataError> {
    let (pixels, labels_read) = std::thread::scope(|scope| {
        let labels_read = labels.map(|path| scope.spawn(move || read_file(path, true, from)));
        let pixels = read_file(images, false, from);
        let labels_read = labels_read.map(|thread| match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        (pixels, labels_read)
    });
    let (pixels, labels_read) = (pixels?, labels_read.transpose()?);
    let location = images.display().to_string();
    let labels_location = labels.map_or_else(|| location.clone(), |path| path.display().to_string());
    let count = pixels.shape[0];
    if let Some(labels) = &labels_read
        && labels.bytes.len() != count
    {
        let problem = format!(
            "the file contains {} labels, but {location} contains {count} images",
            labels.bytes.len()
        );
        return Err(DataError::content(labels_location, problem));
    }
    if count == 0 {
        return Err(DataError::content(location, "the file contains no images"));
    }
    let image = match pixels.shape[..] {
        [_, height, width] => Some(Image { height, width }),
        _ => None,
    };
    let width = pixels.bytes.len() / count;
    let pixels = Array2::from_shape_vec((count, width), pixels.bytes)
        .map_err(|error| DataError::content(location.clone(), error.to_string()))?;
    Ok(Pixels {
        location,
        labels_location,
        pixels,
        image,
        labels: labels_read.map(|labels| labels.bytes),
        classes: None,
    })
}

fn read_file(path: &Path, labels: bool, from: ReadContext<'_>) -> Result<Content, DataError> {
    let file = TrackedFile::open(path, from)?;
    let size = file.total;
    let mut reader = BufReader::with_capacity(1 << 18, file);
    let head = reader.fill_buf().map_err(|error| DataError::File { path: path.into(), error })?;
    if head.is_empty() {
        return Err(DataError::content(path.display().to_string(), "the file is empty"));
    }
    if head.starts_with(&[0x1f, 0x8b]) {
        let limit = size.saturating_mul(MAX_EXPANSION);
        parse(path, labels, MultiGzDecoder::new(reader), limit, true)
    } else {
        parse(path, labels, reader, size, false)
    }
}

/// Reads the header and the bytes from `reader`, which contains at most `limit` bytes.
fn parse(
    path: &Path,
    labels: bool,
    mut reader: impl Read,
    limit: u64,
    gz: bool,
) -> Result<Content, DataError> {
    let bad = |problem: String| DataError::content(path.display().to_string(), problem);
    let failed = |error: io::Error, read: u64| match error.kind() {
        io::ErrorKind::UnexpectedEof if gz => bad(format!(
            "the gzip stream ends after {read} bytes of content; the file is truncated, so download it again"
        )),
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => bad(format!(
            "the gzip stream is corrupt after {read} bytes of content ({error}); download the \
                         file again"
        )),
        _ => DataError::File { path: path.into(), error },
    };
    let mut header = Vec::new();
    let mut take_header = |count: u64, header: &mut Vec<u8>| {
        let before = header.len();
        (&mut reader).take(count).read_to_end(header).map_err(|error| failed(error, before as u64))?;
        if (header.len() - before) as u64 == count {
            return Ok(());
        }
        Err(bad(format!("the file ends after {} bytes, in the middle of its header", header.len())))
    };
    take_header(4, &mut header)?;
    let dimensions = check_magic([header[0], header[1], header[2], header[3]], labels).map_err(bad)?;
    take_header(4 * dimensions as u64, &mut header)?;
    let shape: Vec<u32> = header[4..]
        .chunks_exact(4)
        .map(|word| u32::from_be_bytes([word[0], word[1], word[2], word[3]]))
        .collect();
    let expected = shape
        .iter()
        .try_fold(1_u64, |product, &size| product.checked_mul(u64::from(size)))
        .filter(|&bytes| usize::try_from(bytes).is_ok())
        .ok_or_else(|| bad(format!("shape {shape:?} in the header is larger than any memory")))?;
    let room = limit.saturating_sub(header.len() as u64);
    if expected > room {
        let most = if gz { "at most " } else { "" };
        return Err(bad(format!(
            "shape {shape:?} in the header needs {expected} bytes, but {most}{room} can follow; the file is \
             truncated, or its header is wrong"
        )));
    }
    if shape[0] > 0 && expected == 0 {
        return Err(bad(format!("shape {shape:?} in the header contains no pixels")));
    }
    // A gzip stream can expand to a thousand times its size.
    if Ceiling::memory(1).bytes() < expected {
        return Err(bad(format!(
            "shape {shape:?} in the header needs {}; {}",
            ps_host::bytes(expected.into()),
            Ceiling::memory(1)
        )));
    }
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(expected as usize)
        .map_err(|_| bad(format!("cannot allocate {expected} bytes for shape {shape:?}")))?;
    let read = (&mut reader).take(expected).read_to_end(&mut bytes);
    let read_bytes = (header.len() + bytes.len()) as u64;
    read.map_err(|error| failed(error, read_bytes))?;
    if (bytes.len() as u64) < expected {
        return Err(bad(format!(
            "shape {shape:?} in the header needs {expected} bytes, but only {} follow; the file is truncated",
            bytes.len()
        )));
    }
    // Reading to the end also verifies the checksum of a gzip stream.
    let more = io::copy(&mut reader, &mut io::sink()).map_err(|error| failed(error, read_bytes))?;
    if more > 0 {
        return Err(bad(format!(
            "{more} bytes follow the {expected} bytes of shape {shape:?} in the header"
        )));
    }
    Ok(Content { shape: shape.into_iter().map(|size| size as usize).collect(), bytes })
}

/// Checks the magic number. Returns the number of dimensions.
fn check_magic(magic: [u8; 4], labels: bool) -> Result<u8, String> {
    let number = u32::from_be_bytes(magic);
    let expected = if labels { "0x00000801 (labels as bytes)" } else { "0x00000803 (images as bytes)" };
    let hint = match (magic, labels) {
        ([0, 0, 8, 1], false) => "; this is a labels file, but images come first: idx:IMAGES,LABELS",
        ([0, 0, 8, 3], true) => "; this is an images file, but labels come second: idx:IMAGES,LABELS",
        ([0, 0, 9..=14, _], _) => "; only unsigned bytes (type 0x08) are supported",
        _ => "; this is not an IDX file",
    };
    match (magic, labels) {
        ([0, 0, 8, 1], true) => Ok(1),
        ([0, 0, 8, dimensions @ 2..=4], false) => Ok(dimensions),
        _ => Err(format!("expected the magic number {expected}, found {number:#010x}{hint}")),
    }
}
