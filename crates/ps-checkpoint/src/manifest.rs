//! What a checkpoint says of itself.

use ps_core::Tally;
use ps_core::params::hex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// Version of the format; what another version wrote is not read.
pub(crate) const FORMAT: u32 = 1;

/// Which run it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Hash of the numeric part of the run file.
    pub run: String,
    /// Hash of the data.
    pub data: String,
    /// Version of the specification of the numbers.
    pub numerics: u32,
}

/// How far a run is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Steps made.
    pub step: u64,
    /// The epoch that the next one belongs to, from 0.
    pub epoch: u32,
    /// Seconds of training so far.
    pub seconds: f64,
    /// Samples so far.
    pub samples: u64,
    /// Loss and metrics of this epoch's steps so far.
    pub tally: Tally,
    /// Loss and metrics of the steps since the last line of steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recent: Option<Tally>,
    /// Lines of metrics written so far.
    #[serde(default = "all")]
    pub lines: u64,
    /// Lines of metrics, as JSON, of epochs that are over and wait for their validation.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<String>,
    /// Where only some sums are audited: who has had a part in the weights, and since which step.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub contributors: BTreeMap<String, u64>,
    /// What has been decided from what was seen.
    #[serde(default)]
    pub control: ps_core::control::State,
}

/// Of a checkpoint that does not say.
fn all() -> u64 {
    u64::MAX
}

/// What a checkpoint is, and what its files must be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the format.
    pub format: u32,
    /// Which run it is.
    pub fingerprint: Fingerprint,
    /// The run file as resolved, in TOML. Checkpoints of earlier releases do not hold it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_file: Option<String>,
    /// How far it is.
    pub progress: Progress,
    /// Which of the processes that used the folder, in their order, has written it.
    pub holder: u64,
    /// The files beside this one.
    pub files: Vec<FileEntry>,
    /// SHA-256 of this manifest with nothing here.
    pub sha256: String,
}

/// The part of a manifest that says which release can read the rest of it. What [`Progress`] holds may change with the version of
/// the numbers, so it is read only once the fingerprints agree.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(crate) struct Header {
    format: u32,
    pub(crate) fingerprint: Fingerprint,
    sha256: String,
}

/// A file beside the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its name.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
}

impl Fingerprint {
    /// What differs, with both values; empty if nothing does. The hash of the run file includes the version of the numbers, so it
    /// is compared only where that is the same.
    pub(crate) fn differences(&self, theirs: &Fingerprint) -> Vec<String> {
        let mut differences = Vec::new();
        let mut compare = |what: &str, ours: &str, theirs: &str| {
            if ours != theirs {
                differences.push(format!("{what} is {ours} here and {theirs} there"));
            }
        };
        if self.numerics == theirs.numerics {
            compare("the run file's fingerprint", &self.run, &theirs.run);
        }
        compare("the data's fingerprint", &self.data, &theirs.data);
        compare("the version of the numbers", &self.numerics.to_string(), &theirs.numerics.to_string());
        differences
    }
}

impl FileEntry {
    /// Of a file with this content.
    pub fn of(name: &str, content: &[u8]) -> Self {
        FileEntry { name: name.into(), bytes: content.len() as u64, sha256: sha256(content) }
    }
}

impl Manifest {
    /// Its text, with the hash of itself.
    pub fn seal(mut self) -> Result<Vec<u8>, serde_json::Error> {
        self.sha256 = String::new();
        self.sha256 = sha256(&self.text()?);
        self.text()
    }

    /// Reads what [`Manifest::seal`] gave; any other byte is an error, and what it is.
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
    /// Reads the header of a manifest that this or another release has sealed, and verifies the hash of the whole. The error says
    /// what is wrong.
    pub(crate) fn open(bytes: &[u8]) -> Result<Self, String> {
        let header: Header = parse(bytes)?;
        if header.format != FORMAT {
            let theirs = header.format;
            return Err(format!("it is of format {theirs}; this release reads format {FORMAT}"));
        }
        // The hash is over the bytes as they are, not as they would be written again.
        let stated = header.sha256.as_bytes();
        let at = bytes.windows(stated.len().max(1)).rposition(|window| window == stated);
        let blank = at.map(|at| [&bytes[..at], &bytes[at + stated.len()..]].concat());
        match blank {
            Some(blank) if sha256(&blank).as_bytes() == stated => Ok(header),
            _ => Err("its SHA-256 is not the one that it states".into()),
        }
    }
}

fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|error| format!("it is no manifest: {error}"))
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
            let tally = Tally { loss: number(), target: number(), ..Tally::new(2) };
            let manifest = Manifest {
                format: FORMAT,
                fingerprint: Fingerprint { run: "r".into(), data: "d".into(), numerics: 1 },
                run_file: None,
                progress: Progress { seconds: number(), tally, ..Progress::default() },
                holder: 1,
                files: Vec::new(),
                sha256: String::new(),
            };
            let opened = Manifest::open(&manifest.clone().seal().unwrap()).unwrap();
            assert_eq!(Manifest { sha256: String::new(), ..opened }, manifest);
        }
    }
}
