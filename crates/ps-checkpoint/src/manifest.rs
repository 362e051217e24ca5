//! The manifest of a checkpoint, which describes and verifies its files.

use ps_core::MetricSums;
use ps_core::params::hex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Version of the manifest's format. Manifests of other versions are not read.
pub(crate) const FORMAT: u32 = 1;

/// Identifies the run that a checkpoint belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Hash of the numeric part of the run file.
    pub run: String,
    /// Hash of the data.
    pub data: String,
    /// Version of the numerics specification.
    pub numerics: u32,
}

/// The position of a run, and everything that it has counted so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Number of steps made.
    pub step: u64,
    /// The epoch of the next step, from 0.
    pub epoch: u32,
    /// Training time so far, in seconds.
    pub seconds: f64,
    /// Number of samples processed so far.
    pub samples: u64,
    /// Loss and metrics of the current epoch's steps.
    #[serde(rename = "tally")]
    pub metric_sums: MetricSums,
    /// Loss and metrics since the last metrics line that summarised several steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recent: Option<MetricSums>,
    /// Number of metrics lines written so far.
    #[serde(default = "all")]
    pub lines: u64,
    /// Metrics lines, as JSON, of completed epochs whose validation is still to come.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<String>,
    /// Where only some sums are audited, the contributors to the weights, each with the first step
    /// it contributed to.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub contributors: BTreeMap<String, u64>,
    /// The state of the policies that decide about steps.
    #[serde(default)]
    pub control: ps_core::control::State,
}

/// The default for checkpoints without the field: on resuming, no metrics line is removed.
fn all() -> u64 {
    u64::MAX
}

/// Describes a checkpoint and its files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the manifest's format.
    pub format: u32,
    /// The run that the checkpoint belongs to.
    pub fingerprint: Fingerprint,
    /// The resolved run file, in TOML; `None` in checkpoints of early releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_file: Option<String>,
    /// The position in the run.
    pub progress: Progress,
    /// Number of the process that wrote the checkpoint, counted over all processes that have used the folder.
    pub holder: u64,
    /// The other files of the checkpoint.
    pub files: Vec<FileEntry>,
    /// SHA-256 of this manifest with an empty string in this field.
    pub sha256: String,
}

/// The part of a manifest that tells which release can read the rest. The contents of [`Progress`] may change
/// with the version of the numerics, so they are read only after the fingerprints have been compared.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Header {
    format: u32,
    pub(crate) fingerprint: Fingerprint,
    sha256: String,
}

/// A file of a checkpoint, other than the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Name of the file in the checkpoint's folder.
    pub name: String,
    /// Length of the file in bytes.
    pub bytes: u64,
    /// SHA-256 of the contents, in hexadecimal.
    pub sha256: String,
}

impl Fingerprint {
    /// Describes the differences, with both values; empty if there are none. The hash of the run file covers
    /// the version of the numerics, so it is compared only if the versions agree.
    pub(crate) fn differences(&self, theirs: &Fingerprint) -> Vec<String> {
        let mut differences = Vec::new();
        let mut compare = |what: &str, ours: &str, theirs: &str| {
            if ours != theirs {
                differences.push(format!("{what} is {ours} here and {theirs} in the checkpoint"));
            }
        };
        if self.numerics == theirs.numerics {
            compare("the run file's fingerprint", &self.run, &theirs.run);
        }
        compare("the data's fingerprint", &self.data, &theirs.data);
        compare("the numerics version", &self.numerics.to_string(), &theirs.numerics.to_string());
        differences
    }
}

impl FileEntry {
    /// The entry for a file with this content.
    pub fn of(name: &str, content: &[u8]) -> Self {
        FileEntry { name: name.into(), bytes: content.len() as u64, sha256: sha256(content) }
    }
}

impl Manifest {
    /// Serializes the manifest, including its own hash.
    pub fn seal(mut self) -> Result<Vec<u8>, serde_json::Error> {
        self.sha256 = String::new();
        self.sha256 = sha256(&self.text()?);
        self.text()
    }

    /// Parses and verifies the output of [`Manifest::seal`]. Every changed byte is detected.
    ///
    /// # Errors
    /// Returns a description of what is wrong.
    pub fn open(bytes: &[u8]) -> Result<Self, String> {
        Header::open(bytes)?;
        parse(bytes)
    }

    fn text(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        Ok(text)
    }
}

impl Header {
    /// Parses the header of a manifest sealed by this or another release, and verifies the hash of
    /// the whole manifest.
    ///
    /// # Errors
    /// Returns a description of what is wrong.
    pub(crate) fn open(bytes: &[u8]) -> Result<Self, String> {
        let header: Header = parse(bytes)?;
        if header.format != FORMAT {
            let theirs = header.format;
            return Err(format!("it has format {theirs}, but this release reads format {FORMAT}"));
        }
        // The hash covers the original bytes, which may differ from a new serialization.
        let stated = header.sha256.as_bytes();
        // The last occurrence, because `sha256` is the last field and an earlier one may contain the same
        // string. The hash may also be empty, and windows of length 0 would panic.
        let at = bytes.windows(stated.len().max(1)).rposition(|window| window == stated);
        let blank = at.map(|at| [&bytes[..at], &bytes[at + stated.len()..]].concat());
        match blank {
            Some(blank) if sha256(&blank).as_bytes() == stated => Ok(header),
            _ => Err("its SHA-256 differs from the one that it states".into()),
        }
    }
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("not a valid manifest: {error}"))
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ps_plan::seed::{Purpose, Stream};

    #[test]
    fn any_number_is_read_as_it_was_written() {
        let mut random = Stream::new(1, Purpose::Simulation, 0);
        for _ in 0..20_000 {
            let mut number = || {
                let bits = u64::from(random.below(u32::MAX)) << 32 | u64::from(random.below(u32::MAX));
                Some(f64::from_bits(bits)).filter(|number| number.is_finite()).unwrap_or(0.1)
            };
            let metric_sums = MetricSums { loss: number(), target: number(), ..MetricSums::new(2) };
            let manifest = Manifest {
                format: FORMAT,
                fingerprint: Fingerprint { run: "r".into(), data: "d".into(), numerics: 1 },
                run_file: None,
                progress: Progress { seconds: number(), metric_sums, ..Progress::default() },
                holder: 1,
                files: Vec::new(),
                sha256: String::new(),
            };
            let opened = Manifest::open(&manifest.clone().seal().unwrap()).unwrap();
            assert_eq!(Manifest { sha256: String::new(), ..opened }, manifest);
        }
    }
}
