//! Helpers that create files to read.
// Each test file uses some of these helpers. They fail by panicking, as tests do.
#![allow(dead_code, clippy::unwrap_used)]

use flate2::{Compression, write::GzEncoder};
use ps_data::{DataConfig, DataError, Loaded, NewData, NoProgress, Task, load};
use std::io::Write;
use std::path::{Path, PathBuf};

/// New data with labels.
pub(crate) const LABELLED: NewData = NewData { is_labelled: true, is_strict: false };

/// New data whose labels are not read.
pub(crate) const UNLABELLED: NewData = NewData { is_labelled: false, is_strict: false };

/// A temporary folder for one test.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        Folder(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> &Self {
        std::fs::write(self.path().join(name), content).unwrap();
        self
    }

    pub(crate) fn load(&self, config: &DataConfig, task: Task) -> Result<Loaded, DataError> {
        load(config, task, 1, self.path(), &NoProgress)
    }

    /// The error message, without the path of the folder.
    pub(crate) fn refusal(&self, config: &DataConfig, task: Task) -> String {
        let error = self.load(config, task).expect_err("this should be refused").to_string();
        error.replace(&format!("{}/", self.path().display()), "")
    }

    /// The error message for `content` as the training source.
    pub(crate) fn refuses(&self, kind: &str, content: impl AsRef<[u8]>, task: Task) -> String {
        self.write("file", content);
        self.refusal(&DataConfig::new(format!("{kind}:file")), task)
    }
}

/// An IDX file with these bytes.
pub(crate) fn idx(shape: &[u32], bytes: &[u8]) -> Vec<u8> {
    let mut file = vec![0, 0, 8, shape.len() as u8];
    shape.iter().for_each(|size| file.extend(size.to_be_bytes()));
    file.extend(bytes);
    file
}

pub(crate) fn gz(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

/// The folder of real data sets, if it exists.
pub(crate) fn shared() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: {} is not there", folder.display());
    None
}

/// Number of samples of each class.
pub(crate) fn counts(split: &ps_data::Split) -> Vec<usize> {
    use ps_core::Samples;
    let mut counts = vec![0; split.dataset().class_names.len()];
    (0..split.len()).for_each(|index| counts[split.target(index) as usize] += 1);
    counts
}

/// The features of a sample.
pub(crate) fn row(split: &ps_data::Split, index: usize) -> Vec<f32> {
    use ps_core::Samples;
    let mut row = vec![0.0; split.features()];
    split.write_row(index, &mut row);
    row
}
