//! Weights as a safetensors file that says what it is good for.

use crate::folder::{FolderError, write_aside};
use crate::job::Job;
use crate::paths;
use ps_checkpoint::{Fingerprint, tensors};
use ps_core::{Layout, Model, weights_hash};
use ps_data::ArrayEncoding;
use ps_host::Ceiling;
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The metadata's only key: a single one, since the file format's library writes several in random order and
/// equal results should be equal files.
const KEY: &str = "downhill";

/// Final weights with what it takes to use them.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedWeights {
    /// The flat vector, `[parameters]`.
    pub weights: Vec<f32>,
    /// What they are.
    pub about: AboutWeights,
}

/// What a file of weights says of itself, as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AboutWeights {
    /// Steps made.
    pub step: u64,
    /// Name of each class; empty for regression and counts.
    pub class_names: Vec<String>,
    /// Name of each feature; empty for images.
    pub feature_names: Vec<String>,
    /// What the run was.
    pub fingerprint: Fingerprint,
    /// The run file as resolved: model, sources and preprocessing.
    pub run: String,
    /// Folder that relative data paths of the run start at.
    #[serde(with = "paths::as_text")]
    pub data_root: PathBuf,
    /// SHA-256 of what determined encoding and preprocessing, see [`ps_data::Loaded::training_fingerprint`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training_data: Option<String>,
    /// How samples are encoded, if the run was trained on arrays. Otherwise the training data, which is read again, says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrays: Option<ArrayEncoding>,
    /// SHA-256 of the weights.
    pub weights_sha256: String,
}

impl AboutWeights {
    /// What the file says of `weights` after `version` steps; relative data paths of the run started at `root`.
    pub fn new(job: &Job, root: &Path, weights: &[f32], version: u64) -> Self {
        AboutWeights {
            step: version,
            class_names: job.data.class_names.clone(),
            feature_names: if job.data.image.is_some() { Vec::new() } else { job.data.feature_names.clone() },
            fingerprint: job.fingerprint.clone(),
            run: job.run.to_toml(),
            // If there is no current folder any more, a relative path is better than no weights.
            data_root: std::path::absolute(root).unwrap_or_else(|_| root.into()),
            training_data: Some(job.data.training_fingerprint.clone()),
            arrays: job.data.encoder().array_encoding(),
            weights_sha256: weights_hash(weights),
        }
    }

    /// Writes `weights`, of which this is said and whose tensors `layout` names, to the file `path`. A file that is there is
    /// replaced as a whole.
    ///
    /// # Errors
    /// The system refuses.
    pub fn write(&self, path: &Path, layout: &Layout, weights: &[f32]) -> Result<(), FolderError> {
        let bad = |problem| FolderError::Content { path: path.into(), problem };
        let about = serde_json::to_string(self).map_err(|error| bad(error.to_string()))?;
        let metadata = HashMap::from([(KEY.to_string(), about)]);
        write_aside(path, &tensors::to_bytes(layout, weights, Some(metadata)).map_err(bad)?)
    }

    /// Whether `job` encodes and preprocesses samples as the run did, so that predictions are the same.
    pub fn fits(&self, job: &Job) -> bool {
        let data = &job.data;
        let is_same_data = match &self.training_data {
            Some(training) => *training == data.training_fingerprint,
            None => self.fingerprint.data == data.fingerprint,
        };
        is_same_data
            && self.class_names == data.class_names
            && (data.image.is_some() || self.feature_names == data.feature_names)
    }
}

impl SavedWeights {
    /// Reads what the file `path` says of itself, and the bytes that its tensors are taken from once the
    /// model is known.
    pub fn open(path: &Path) -> Result<WeightsFile, FolderError> {
        let bytes = ps_host::read(path, Ceiling::memory(2))
            .map_err(|error| FolderError::File { path: path.into(), error })?;
        let bad = |problem: String| FolderError::Content { path: path.into(), problem };
        let (_, metadata) =
            SafeTensors::read_metadata(&bytes).map_err(|e| bad(format!("no safetensors file ({e})")))?;
        let about = metadata.metadata().as_ref().and_then(|texts| texts.get(KEY)).ok_or_else(|| {
            bad("the file does not say which run its weights are of; only files that a run wrote can be used".into())
        })?;
        let about = serde_json::from_str(about).map_err(|error| bad(format!("metadata `{KEY}`: {error}")))?;
        Ok(WeightsFile { path: path.into(), bytes, about })
    }
}

/// A file of weights, read but not yet compared with a model.
#[derive(Clone, Debug)]
pub struct WeightsFile {
    path: PathBuf,
    bytes: Vec<u8>,
    /// What the file says of itself.
    pub about: AboutWeights,
}

impl WeightsFile {
    /// The weights, which must have the names and shapes of `model` and the hash that the file states.
    pub fn weights(self, model: &Model) -> Result<SavedWeights, FolderError> {
        let bad = |problem: String| FolderError::Content { path: self.path.clone(), problem };
        let weights = tensors::from_bytes(model.layout(), &self.bytes).map_err(bad)?;
        let (stated, found) = (&self.about.weights_sha256, weights_hash(&weights));
        if *stated != found {
            return Err(bad(format!("the weights are damaged: SHA-256 {found}, the file states {stated}")));
        }
        Ok(SavedWeights { weights, about: self.about })
    }
}
