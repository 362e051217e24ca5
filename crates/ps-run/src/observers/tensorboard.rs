//! Event files that TensorBoard reads.
//!
//! A file is a sequence of records, each of which consists of a length, the masked CRC-32C of the length, the
//! data, and the masked CRC-32C of the data
//! (<https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details>). The data is an
//! `Event` message. The structs below declare only those fields of `Event`, `Summary` and `HistogramProto`
//! that are written here.

use crate::folder::FolderError;
use crate::lines::Line;
use crate::observer::Observer;
use prost::Message;
use std::fmt::Display;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// The folder of event files, inside the run's folder.
const TENSORBOARD: &str = "tensorboard";
/// Number of buckets of a histogram.
const BUCKETS: usize = 40;

/// Writes lines of metrics to an event file. Clones share it, for the histograms of the inspector.
#[derive(Clone)]
pub(crate) struct TensorBoard(Arc<Mutex<EventFile>>);

struct EventFile(BufWriter<File>);

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
    #[prost(message, optional, tag = "7")]
    session_log: Option<SessionLog>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    /// 1 (START) if earlier events with a later step than this one are void.
    #[prost(int32, tag = "1")]
    status: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, optional, tag = "2")]
    simple_value: Option<f32>,
    #[prost(message, optional, tag = "5")]
    histo: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(double, tag = "1")]
    min: f64,
    #[prost(double, tag = "2")]
    max: f64,
    #[prost(double, tag = "3")]
    num: f64,
    #[prost(double, tag = "4")]
    sum: f64,
    #[prost(double, tag = "5")]
    sum_squares: f64,
    /// Upper bounds of the buckets.
    #[prost(double, repeated, tag = "6")]
    bucket_limit: Vec<f64>,
    #[prost(double, repeated, tag = "7")]
    bucket: Vec<f64>,
}

impl TensorBoard {
    /// Creates a new event file in the run's folder. Events after `step` in older files become void.
    pub(crate) fn create(run: &Path, step: u64) -> Result<Self, FolderError> {
        let folder = run.join(TENSORBOARD);
        let failed = |path: &Path, error| FolderError::File { path: path.into(), error };
        std::fs::create_dir_all(&folder).map_err(|error| failed(&folder, error))?;
        // TensorBoard reads files in the order of their names, so the name begins with the time.
        let name = format!("events.out.tfevents.{:020}.downhill.{}", now().1, std::process::id());
        let path = folder.join(name);
        let file = File::create_new(&path).map_err(|error| failed(&path, error))?;
        let mut file = EventFile(BufWriter::new(file));
        file.write(Event { file_version: Some("brain.Event:2".into()), ..Event::default() });
        // A resumed run repeats the steps after its checkpoint. This marks those of the older files as void.
        let session_log = Some(SessionLog { status: 1 });
        file.write(Event { step: signed(step), session_log, ..Event::default() });
        Ok(TensorBoard(Arc::new(Mutex::new(file))))
    }

    /// Writes histograms of the tensors after `step` steps.
    pub(super) fn histograms<'a>(&self, step: u64, tensors: impl Iterator<Item = (String, &'a [f32])>) {
        let value = |(tag, values): (String, &[f32])| Value {
            tag,
            simple_value: None,
            histo: Some(Histogram::of(values)),
        };
        let values = tensors.map(value).collect();
        let mut file = self.lock();
        file.summary(step, values);
        file.flush();
    }

    fn lock(&self) -> MutexGuard<'_, EventFile> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for TensorBoard {
    fn on_line(&mut self, line: &Line) {
        let mut file = self.lock();
        file.line(line);
        if matches!(line, Line::Epoch(_)) {
            file.flush();
        }
    }

    fn on_finish(&mut self, _: &crate::Summary) {
        self.lock().flush();
    }

    fn on_failure(&mut self, _: &dyn Display) {
        self.lock().flush();
    }
}

impl EventFile {
    /// Writes a line of metrics as scalars.
    fn line(&mut self, line: &Line) {
        let mut values = Vec::new();
        let mut add = |tag: &str, value: Option<f64>| {
            if let Some(value) = value {
                values.push(Value { tag: tag.into(), simple_value: Some(value as f32), histo: None });
            }
        };
        let step = match line {
            Line::Step(line) => {
                add("loss/train", Some(line.loss));
                add("accuracy/train", line.accuracy);
                add("r_squared/train", line.r_squared);
                add("learning_rate", Some(line.learning_rate.into()));
                add("samples_per_second", Some(line.samples_per_second));
                line.step
            }
            Line::Epoch(line) => {
                let validation = line.validation.as_ref();
                add("loss/validation", validation.map(|it| it.loss));
                add("accuracy/validation", validation.and_then(|it| it.accuracy));
                add("r_squared/validation", validation.and_then(|it| it.r_squared));
                line.step
            }
            Line::Probe(line) => {
                add("gradient_norm", Some(line.gradient_norm));
                line.step
            }
            Line::Event(_) | Line::Hash(_) => return,
        };
        if !values.is_empty() {
            self.summary(step, values);
        }
    }

    fn summary(&mut self, step: u64, value: Vec<Value>) {
        self.write(Event { step: signed(step), summary: Some(Summary { value }), ..Event::default() });
    }

    /// A full disk is no reason to stop training. The file then ends early, which readers tolerate.
    fn write(&mut self, event: Event) {
        let data = Event { wall_time: now().0, ..event }.encode_to_vec();
        let length = (data.len() as u64).to_le_bytes();
        let (of_length, of_data) = (masked(&length).to_le_bytes(), masked(&data).to_le_bytes());
        let _ = [&length[..], &of_length, &data, &of_data].iter().try_for_each(|part| self.0.write_all(part));
    }

    /// Writes buffered events, for programs that follow the file.
    fn flush(&mut self) {
        let _ = self.0.flush();
    }
}

impl Histogram {
    /// Creates the histogram of the finite elements of `values`.
    fn of(values: &[f32]) -> Self {
        let finite = || values.iter().copied().filter(|value| value.is_finite()).map(f64::from);
        let (min, max) = finite()
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(min, max), value| (min.min(value), max.max(value)));
        if min > max {
            return Histogram::default();
        }
        let width = ((max - min) / BUCKETS as f64).max(f64::MIN_POSITIVE);
        let mut histogram = Histogram {
            min,
            max,
            num: 0.0,
            sum: 0.0,
            sum_squares: 0.0,
            bucket_limit: (1..=BUCKETS).map(|interval| min + width * interval as f64).collect(),
            bucket: vec![0.0; BUCKETS],
        };
        for value in finite() {
            histogram.num += 1.0;
            histogram.sum += value;
            histogram.sum_squares += value * value;
            histogram.bucket[(((value - min) / width) as usize).min(BUCKETS - 1)] += 1.0;
        }
        histogram
    }
}

/// The current time, as seconds and as nanoseconds since the Unix epoch.
fn now() -> (f64, u128) {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (since.as_secs_f64(), since.as_nanos())
}

fn signed(step: u64) -> i64 {
    i64::try_from(step).unwrap_or(i64::MAX)
}

/// Masks the CRC-32C of `bytes`. The format requires this because the CRC of data that contains CRCs is weak.
fn masked(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}
