//! The model file: a safetensors file with all that predictions need.

use crate::folder::{FolderError, write_atomically};
use crate::footprint::Footprint;
use crate::job::{Job, task};
use crate::paths;
use ps_checkpoint::{Fingerprint, tensors};
use ps_config::RunConfig;
use ps_core::model::{check_layers, count_parameters};
use ps_core::{Head, LayerSpec, Model, Precision, weights_hash};
use ps_data::{ArrayEncoding, Encoder, NoProgress, Source, Validation};
use ps_host::{Ceiling, Memory};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// The only key of the metadata. The library for the format writes several keys in random order, and equal
/// results must be equal files.
const KEY: &str = "downhill";

/// The version of the description. It grows if a reader of this version would misunderstand a later file.
const FORMAT: u32 = 1;

/// A model that was read from a file.
#[derive(Clone, Debug)]
pub struct SavedModel {
    /// The layers and the head.
    pub network: Model,
    /// The parameters, `[parameters]`.
    pub weights: Vec<f32>,
    /// The description of the model.
    pub about: AboutModel,
    /// In a file of an earlier version, the folder at which relative data paths of the run start.
    pub data_root: Option<PathBuf>,
}

/// The description in a model file, as JSON; `docs/model-file.md` explains it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AboutModel {
    format: u32,
    /// The meaning of the outputs.
    head: Head,
    /// All layers, first to last.
    layers: Vec<LayerSpec>,
    /// How samples become features, and the classes.
    pub encoding: Encoder,
    /// The precision of the weights at which gradients were computed.
    #[serde(default, skip_serializing_if = "is_default")]
    precision: Precision,
    /// Number of steps applied to the weights.
    pub steps: u64,
    /// Hashes of the run file and the data, and the version of the numerics.
    pub fingerprint: Fingerprint,
    /// SHA-256 of the weights.
    pub weights_sha256: String,
    /// Where the model comes from.
    pub provenance: Provenance,
}

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// The resolved run file. Of the paths and URLs of sources, it contains only the last component.
    pub run: String,
    /// Version of the program that trained the model.
    version: String,
    /// Commit that the program was built from, if known.
    commit: Option<String>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl AboutModel {
    /// Describes `weights` after `steps` steps of `job`, trained by a program that was built from `commit`.
    pub fn new(job: &Job, commit: Option<&str>, weights: &[f32], steps: u64) -> Self {
        let encoding = job.data.encoder();
        AboutModel::of_run(&job.run, encoding, job.fingerprint.clone(), weights_hash(weights), steps, commit)
    }

    fn of_run(
        run: &RunConfig,
        encoding: Encoder,
        fingerprint: Fingerprint,
        weights_sha256: String,
        steps: u64,
        commit: Option<&str>,
    ) -> Self {
        let output = run.model.head.layer(encoding.class_names().len());
        AboutModel {
            format: FORMAT,
            head: run.model.head,
            layers: run.model.hidden_layers().into_iter().chain([output]).collect(),
            encoding,
            precision: run.wire.weights,
            steps,
            fingerprint,
            weights_sha256,
            provenance: Provenance {
                run: without_folders(run).to_toml(),
                version: env!("CARGO_PKG_VERSION").into(),
                commit: commit.map(String::from),
            },
        }
    }

    /// Writes `weights` with this description to the file `path`. An existing file is replaced atomically.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path, network: &Model, weights: &[f32]) -> Result<(), FolderError> {
        let bytes = self.to_bytes(network, weights);
        let bad = |problem| FolderError::Content { path: path.into(), problem };
        write_atomically(path, &bytes.map_err(bad)?)
    }

    /// Returns the content of the model file with these `weights`.
    ///
    /// # Errors
    /// Returns the error of the library for the format.
    pub fn to_bytes(&self, network: &Model, weights: &[f32]) -> Result<Vec<u8>, String> {
        let about = serde_json::to_string(self).map_err(|error| error.to_string())?;
        let metadata = HashMap::from([(KEY.to_string(), about)]);
        tensors::to_bytes(network.layout(), weights, Some(metadata))
    }

    /// Builds the network, for a file of `size` bytes.
    ///
    /// # Errors
    /// The parts of the description do not fit together, or the file cannot hold that many parameters.
    fn network(&self, size: usize) -> Result<Model, String> {
        let AboutModel { head, layers, encoding, .. } = self;
        let (features, classes) = (encoding.feature_names().len(), encoding.class_names().len());
        if encoding.task() != task(*head) {
            return Err(format!("the targets are not those of {head:?}"));
        }
        let Some((output, hidden)) = layers.split_last() else { return Err("there are no layers".into()) };
        if *output != head.layer(classes) {
            return Err("the last layer does not have an output for each class, or one in all".into());
        }
        check_layers(Some(features), hidden)?;
        let parameters = count_parameters(features, hidden, *head, classes);
        // Checked before anything of this size is allocated.
        if parameters.saturating_mul(4) > size as u128 {
            return Err(format!("the layers have {parameters} parameters, more than the file contains"));
        }
        Footprint::of_worker(parameters).check(Memory::detect())?;
        Ok(Model::of_layers(features, hidden, *head, classes).with_precision(self.precision))
    }
}

/// Returns the run with only the last component of each path and URL, which may be private.
fn without_folders(run: &RunConfig) -> RunConfig {
    let mut run = run.clone();
    let data = &mut run.data;
    let sources = [Some(&mut data.train), data.test.as_mut()].into_iter().flatten();
    let validation = match &mut data.validation {
        Some(Validation::Source(source)) => Some(source),
        _ => None,
    };
    for source in sources.chain(validation) {
        // Arrays are no sources that could be parsed, and have no paths.
        let Ok(parsed) = Source::parse(source) else { continue };
        let names: Vec<String> = parsed.files().into_iter().map(last_component).collect();
        if !names.is_empty() {
            *source = parsed.with_files(&names);
        }
    }
    run
}

/// Returns the last component of a path, or of a URL without its query, which may hold credentials.
fn last_component(path: &str) -> String {
    let path = match ps_data::is_url(Path::new(path)) {
        true => path.split(['?', '#']).next().unwrap_or_default(),
        false => path,
    };
    Path::new(path).file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

impl SavedModel {
    /// Reads a model file. For a file of an earlier version that was trained on a source, the source is read
    /// again to learn the encoding.
    ///
    /// # Errors
    /// The file is damaged, forged or of a later version, or is no model file.
    pub fn read(path: &Path) -> Result<Self, FolderError> {
        let bytes = ps_host::read(path, Ceiling::memory(2))
            .map_err(|error| FolderError::File { path: path.into(), error })?;
        SavedModel::parse_with(&bytes, relearned)
            .map_err(|problem| FolderError::Content { path: path.into(), problem })
    }

    /// Parses the bytes of a model file without reading anything else.
    ///
    /// # Errors
    /// Returns what is wrong with them.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        SavedModel::parse_with(bytes, |_, _, _| Err("it is not read here".into()))
    }

    fn parse_with(bytes: &[u8], relearn: Relearn) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Outline {
            format: Option<u32>,
            encoding: Option<EncodingOutline>,
        }
        #[derive(Deserialize)]
        struct EncodingOutline {
            input: InputOutline,
        }
        #[derive(Deserialize)]
        struct InputOutline {
            #[serde(default)]
            features: u64,
        }
        let (_, metadata) =
            SafeTensors::read_metadata(bytes).map_err(|error| format!("no safetensors file ({error})"))?;
        let text = metadata.metadata().as_ref().and_then(|texts| texts.get(KEY)).ok_or(
            "the file does not say which model its tensors are of; only files that Downhill wrote can be used",
        )?;
        let bad = |error: serde_json::Error| format!("metadata `{KEY}`: {error}");
        let Outline { format, encoding } = serde_json::from_str(text).map_err(bad)?;
        // Each feature has a weight. Checked before the features get names.
        if let Some(features) = encoding.map(|encoding| encoding.input.features)
            && features > bytes.len() as u64 / 4
        {
            return Err(format!("the file is too short to contain a weight for each of {features} features"));
        }
        let (about, data_root) = match format {
            Some(FORMAT) => (serde_json::from_str::<AboutModel>(text).map_err(bad)?, None),
            Some(later) if later > FORMAT => {
                return Err(format!(
                    "the file has format {later}, and this version reads formats up to {FORMAT}; use a later version"
                ));
            }
            Some(other) => return Err(format!("there is no format {other}")),
            None => {
                let old: OldAbout = serde_json::from_str(text).map_err(bad)?;
                let data_root = old.data_root.clone();
                (old.upgrade(relearn)?, data_root)
            }
        };
        let network = about.network(bytes.len())?;
        let weights = tensors::from_bytes(network.layout(), bytes)?;
        let (stated, found) = (&about.weights_sha256, weights_hash(&weights));
        if *stated != found {
            return Err(format!("the weights are damaged: SHA-256 {found}, the file states {stated}"));
        }
        Ok(SavedModel { network, weights, about, data_root })
    }
}

/// The description in files before format 1. Only models of arrays had their encoding in it.
#[derive(Deserialize)]
struct OldAbout {
    step: u64,
    class_names: Vec<String>,
    fingerprint: Fingerprint,
    run: String,
    /// The folder at which relative data paths of the run start.
    #[serde(default, with = "paths::as_text")]
    data_root: Option<PathBuf>,
    /// SHA-256 of the data that determined the encoding.
    training_data: Option<String>,
    arrays: Option<ArrayEncoding>,
    weights_sha256: String,
}

/// Learns an encoding again: see [`relearned`].
type Relearn = fn(&RunConfig, &Path, Option<&str>) -> Result<Encoder, String>;

impl OldAbout {
    /// Converts the description to the current format.
    fn upgrade(self, relearn: Relearn) -> Result<AboutModel, String> {
        let run = RunConfig::parse(&self.run, "its run file", &[]).map_err(|error| error.to_string())?;
        let encoding = match self.arrays {
            Some(arrays) => arrays.encoder(task(run.model.head), self.class_names)?,
            None => {
                let root = self.data_root.as_deref().unwrap_or(Path::new("."));
                relearn(&run, root, self.training_data.as_deref()).map_err(|problem| format!(
                    "an earlier version wrote the file without the encoding of samples, which is now learned from the \
                     training data again: {problem}"
                ))?
            }
        };
        Ok(AboutModel::of_run(&run, encoding, self.fingerprint, self.weights_sha256, self.step, None))
    }
}

/// Learns the encoding from the training data of `run`, whose hash must be `stated` if that is known.
fn relearned(run: &RunConfig, root: &Path, stated: Option<&str>) -> Result<Encoder, String> {
    let mut needed = run.data.clone();
    // Encoding and preprocessing follow from the training data alone, and the other sources may have moved.
    needed.test = None;
    needed.validation.take_if(|validation| matches!(validation, Validation::Source(_)));
    let data = ps_data::load(&needed, task(run.model.head), run.seed, root, &NoProgress)
        .map_err(|error| error.to_string())?;
    match stated {
        Some(stated) if stated != data.training_fingerprint => {
            Err(format!("`{}` in {} has changed since", needed.train, root.display()))
        }
        _ => Ok(data.encoder()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_keeps_the_last_component_of_its_paths_and_no_query() {
        let run = |train: &str, validation: &str| {
            let text = format!(
                "[data]\ntrain = {train:?}\nvalidation = {validation}\n[model]\nkind = \"softmax\"\n\
                 [learning_rate]\ninitial = 1\n[train]\nepochs = 1\nbatch = 1\n"
            );
            without_folders(&RunConfig::parse(&text, "test", &[]).unwrap()).data
        };
        for (source, expected) in [
            ("csv:/home/me/data.csv", "csv:data.csv"),
            ("idx:../a/images.gz,../b/labels.gz", "idx:images.gz,labels.gz"),
            ("libsvm:https://me:secret@host/a/data.svm?token=1#sha256=2", "libsvm:data.svm"),
            ("csv:s3://bucket/key.csv", "csv:key.csv"),
            ("digits:100,seed=2", "digits:100,seed=2"),
            ("csv:-", "csv:-"),
            ("arrays:train", "arrays:train"),
        ] {
            assert_eq!(run(source, "0.5").train, expected);
        }
        let data = run("csv:/a/b", "\"csv:/c/d\"");
        assert_eq!(data.validation, Some(Validation::Source("csv:d".into())));
    }
}
