//! The weights file: a safetensors file with all that is needed to use the weights.

use crate::folder::{FolderError, write_atomically};
use crate::job::Job;
use crate::paths;
use ps_checkpoint::{Fingerprint, tensors};
use ps_core::{Layout, Model, weights_hash};
use ps_data::{ArrayEncoding, Encoder};
use ps_host::Ceiling;
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The only key of the metadata. The library for the format writes several keys in random order, and equal
/// results must be equal files.
const KEY: &str = "downhill";

/// Weights that have been checked against a model.
#[derive(Clone, Debug, PartialEq)]
pub struct SavedWeights {
    /// The parameters, `[parameters]`.
    pub weights: Vec<f32>,
    /// The description of the weights.
    pub about: AboutWeights,
}

/// The description in a weights file, as JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AboutWeights {
    /// Number of steps applied to the weights.
    pub step: u64,
    /// Name of each class; empty for regression and counts.
    pub class_names: Vec<String>,
    /// Name of each feature; empty for images.
    pub feature_names: Vec<String>,
    /// Hashes of the run file, the data and the numerics, which identify the run.
    pub fingerprint: Fingerprint,
    /// The resolved run file, with model, sources and preprocessing.
    pub run: String,
    /// The folder at which relative data paths of the run start.
    #[serde(with = "paths::as_text")]
    pub data_root: PathBuf,
    /// SHA-256 of the data that determined the encoding, see [`ps_data::Loaded::training_fingerprint`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training_data: Option<String>,
    /// How samples are encoded and preprocessed. Files of earlier versions do not contain it: the encoding
    /// then follows from `arrays` or from the training data, which has to be read again.
    #[serde(default)]
    pub encoding: Option<Encoder>,
    /// In files of earlier versions, how samples are encoded if the run was trained on arrays.
    #[serde(default, skip_serializing)]
    pub arrays: Option<ArrayEncoding>,
    /// SHA-256 of the weights.
    pub weights_sha256: String,
}

impl AboutWeights {
    /// Describes `weights` after `version` steps. Relative data paths of the run start at `root`.
    pub fn new(job: &Job, root: &Path, weights: &[f32], version: u64) -> Self {
        AboutWeights {
            step: version,
            class_names: job.data.class_names.clone(),
            feature_names: if job.data.image.is_some() { Vec::new() } else { job.data.feature_names.clone() },
            fingerprint: job.fingerprint.clone(),
            run: job.run.to_toml(),
            // If the current folder has been deleted, a relative path is better than no weights.
            data_root: std::path::absolute(root).unwrap_or_else(|_| root.into()),
            training_data: Some(job.data.training_fingerprint.clone()),
            encoding: Some(job.data.encoder()),
            arrays: None,
            weights_sha256: weights_hash(weights),
        }
    }

    /// Writes `weights` with this description to the file `path`. `layout` names the tensors. An existing
    /// file is replaced atomically.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path, layout: &Layout, weights: &[f32]) -> Result<(), FolderError> {
        let bad = |problem| FolderError::Content { path: path.into(), problem };
        let about = serde_json::to_string(self).map_err(|error| bad(error.to_string()))?;
        let metadata = HashMap::from([(KEY.to_string(), about)]);
        write_atomically(path, &tensors::to_bytes(layout, weights, Some(metadata)).map_err(bad)?)
    }

    /// Returns whether `job` encodes samples like the run did, so that predictions are the same.
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
    /// Reads the description in a weights file, and the bytes of the tensors, which are decoded once the
    /// model is known.
    pub fn open(path: &Path) -> Result<WeightsFile, FolderError> {
        let bytes = ps_host::read(path, Ceiling::memory(2))
            .map_err(|error| FolderError::File { path: path.into(), error })?;
        let bad = |problem: String| FolderError::Content { path: path.into(), problem };
        let (_, metadata) =
            SafeTensors::read_metadata(&bytes).map_err(|e| bad(format!("not a safetensors file ({e})")))?;
        let about = metadata.metadata().as_ref().and_then(|texts| texts.get(KEY)).ok_or_else(|| {
            bad("the file does not describe the run of its weights; use a file that Downhill wrote".into())
        })?;
        let about = serde_json::from_str(about).map_err(|error| bad(format!("metadata `{KEY}`: {error}")))?;
        Ok(WeightsFile { path: path.into(), bytes, about })
    }
}

/// A weights file that has been read but not yet checked against a model.
#[derive(Clone, Debug)]
pub struct WeightsFile {
    path: PathBuf,
    bytes: Vec<u8>,
    /// The description in the file.
    pub about: AboutWeights,
}

impl WeightsFile {
    /// Returns the weights. Checks their names and shapes against `model`, and their hash.
    pub fn weights(self, model: &Model) -> Result<SavedWeights, FolderError> {
        let bad = |problem: String| FolderError::Content { path: self.path.clone(), problem };
        let weights = tensors::from_bytes(model.layout(), &self.bytes).map_err(bad)?;
        let (stated, found) = (&self.about.weights_sha256, weights_hash(&weights));
        if *stated != found {
            return Err(bad(format!(
                "the weights are damaged: their SHA-256 is {found}, but the file states {stated}"
            )));
        }
        Ok(SavedWeights { weights, about: self.about })
    }
}
