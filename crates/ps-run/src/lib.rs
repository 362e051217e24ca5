//! Runs: loaded from a run file, and recorded in a results folder.
//!
//! A [`Job`] is a run that is ready to start; the reference, local training, the server and the workers all
//! begin with one. A [`RunFolder`] is where the results go. A driver reports its steps to a [`Recorder`],
//! which adds them up, saves checkpoints and reports to every [`Observer`]. Nothing here influences a bit of
//! the weights.

mod accumulator;
mod bans;
mod checkpoints;
mod diagnosis;
mod display;
mod events;
mod folder;
mod footprint;
mod hash_chain;
mod job;
mod lines;
mod measures;
mod memory;
mod model_file;
mod observer;
mod observers;
mod past;
mod paths;
mod phase;
mod processors;
mod progress;
mod recorder;
mod resume;
mod resume_hint;
mod run_state;
mod summary;
mod trace;
mod window;

pub use bans::{BANS_FILE, Ban};
pub use checkpoints::checkpoint_weights;
pub use diagnosis::Diagnosis;
pub use folder::{
    FolderContent, FolderError, METRICS_FILE, MODEL_FILE, RUN_FILE, RunFolder, SUMMARY_FILE, adopt,
    data_root, ended, finished, model_path, reopen,
};
pub use job::{Job, JobError, task};
pub use lines::{EpochLine, EventLine, HashLine, Line, ProbeLine, StepLine};
pub use measures::{Measures, counted, grouped, seconds, short};
pub use memory::HugePages;
pub use model_file::{AboutModel, Provenance, SavedModel};
pub use observer::{Observer, Requests, Resumed, StepMade, StepWeights};
pub use past::PastRun;
pub use paths::escaped;
pub use phase::Phase;
pub use processors::Processors;
pub use progress::{DataProgress, Relay, Style, note};
pub use ps_checkpoint::Fingerprint;
pub use recorder::{Needs, Recorder};
pub use resume_hint::ResumeHint;
pub use run_state::{
    About, Activity, Confusion, Meter, RunSnapshot, RunState, STEP_BOUNDS, WorkerRow, WorkerStanding,
};
pub use summary::{Ending, SUMMARY_INDENT, Slowest, Summary};
pub use trace::Trace;
