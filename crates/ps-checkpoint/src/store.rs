//! A folder of checkpoints, and the right to write there.

use crate::disk::{Disk, RealDisk};
use crate::error::Error;
use crate::manifest::{FORMAT, FileEntry, Fingerprint, Header, Manifest, sha256};
use crate::planted::{Defect, Planted};
use crate::{Snapshot, tensors};
use ps_core::Layout;
use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

const LOCK: &str = "lock";
const HOLDER: &str = "holder";
const MANIFEST: &str = "manifest.json";
const WEIGHTS: &str = "weights.safetensors";
/// What stands before the step in a checkpoint's name, and after it while it is written and once it is found damaged.
const STEP: &str = "step-";
const PART: &str = ".part";
const DAMAGED: &str = ".damaged";

/// What a store keeps.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Of which run.
    pub fingerprint: Fingerprint,
    /// That run's run file as resolved, in TOML, for whoever resumes it with another one.
    pub run_file: Option<String>,
    /// Decides whether the run may resume from a checkpoint that has another fingerprint. Without it, no run may.
    pub judge: Option<Judge>,
    /// The model's tensors.
    pub layout: Layout,
    /// Names of the vectors of its state besides the weights; each is a file.
    pub state: Vec<&'static str>,
    /// How many checkpoints, at least 1.
    pub last: usize,
}

/// Decides from a checkpoint's manifest whether a run may resume from it.
#[derive(Clone)]
pub struct Judge(Arc<Judging>);

type Judging = dyn Fn(&Manifest) -> Result<(), String> + Send + Sync;

impl Judge {
    /// One that asks `judge`, which gives the reason why a run may not.
    pub fn new(judge: impl Fn(&Manifest) -> Result<(), String> + Send + Sync + 'static) -> Self {
        Judge(Arc::new(judge))
    }
}

impl fmt::Debug for Judge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Judge")
    }
}

impl Kept {
    /// Of a run that resumes from its own checkpoints only.
    pub fn new(fingerprint: Fingerprint, layout: Layout, state: Vec<&'static str>, last: usize) -> Self {
        Kept { fingerprint, run_file: None, judge: None, layout, state, last }
    }

    /// Why the run may not resume from the checkpoint of `manifest`.
    fn judged(&self, manifest: &Manifest) -> Result<(), String> {
        let differences = self.fingerprint.differences(&manifest.fingerprint);
        match &self.judge {
            _ if differences.is_empty() => Ok(()),
            Some(Judge(judge)) => judge(manifest),
            None => Err(other_run(&differences)),
        }
    }
}

fn other_run(differences: &[String]) -> String {
    format!("these checkpoints are of another run: {}; choose another folder", differences.join("; "))
}

/// A folder of checkpoints of one run, used by this process alone.
pub struct Store {
    folder: PathBuf,
    kept: Kept,
    /// Our number among those who used the folder.
    holder: u64,
    disk: Box<dyn Disk>,
    /// Held as long as the store is.
    _lock: Option<File>,
    /// What is wrong with it, in tests of the tests.
    planted: Planted,
}

/// What a folder held.
#[derive(Debug, Default)]
pub struct Found {
    /// The newest good checkpoint.
    pub snapshot: Option<Snapshot>,
    /// What is wrong with the newer ones, which were renamed: one line each, the newest first.
    pub problems: Vec<String>,
}

/// Why a checkpoint was not loaded.
enum Unloaded {
    /// It is renamed, and the previous one is tried.
    Damaged(String),
    /// It may be good, so no other is loaded in its place.
    Refused(Error),
}

impl From<String> for Unloaded {
    fn from(problem: String) -> Self {
        Unloaded::Damaged(problem)
    }
}

impl Store {
    /// Takes the folder, which is made if its parent is there.
    ///
    /// # Errors
    /// Another process has it; the system refuses.
    pub fn open(folder: &Path, kept: Kept) -> Result<Self, Error> {
        if let Err(error) = std::fs::create_dir(folder)
            && error.kind() != ErrorKind::AlreadyExists
        {
            return Err(failed("making", folder, error));
        }
        let path = folder.join(LOCK);
        let lock = File::options().create(true).append(true).open(&path);
        let lock = lock.map_err(|error| failed("opening", &path, error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Locked { folder: folder.into() }),
            Err(TryLockError::Error(error)) => return Err(failed("locking", &path, error)),
        }
        let mut store = Store::on(Box::new(RealDisk), folder, kept)?;
        store._lock = Some(lock);
        Ok(store)
    }

    /// The same on another disk, where the folder is there and nobody else uses it.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn on(disk: Box<dyn Disk>, folder: &Path, kept: Kept) -> Result<Self, Error> {
        Self::planted(disk, folder, kept, Planted::default())
    }

    /// The same with a defect.
    pub(crate) fn planted(
        disk: Box<dyn Disk>,
        folder: &Path,
        kept: Kept,
        planted: Planted,
    ) -> Result<Self, Error> {
        let mut store = Store { folder: folder.into(), kept, holder: 0, disk, _lock: None, planted };
        let last = store.last_holder()?;
        store.holder = if store.has(Defect::ReuseHolderNumber) { last.max(1) } else { last + 1 };
        store.take_over()?;
        Ok(store)
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The newest good checkpoint. A damaged one is renamed and told of, and the one before it is tried. What was being
    /// written when a process died is removed.
    ///
    /// # Errors
    /// There are checkpoints, but none is good, unless `allow_fresh`; this run may not resume from them; the system refuses.
    pub fn newest(&self, allow_fresh: bool) -> Result<Found, Error> {
        let mut found = Found::default();
        let names = self.names()?;
        for name in names.iter().filter(|name| name.starts_with(STEP) && name.ends_with(PART)) {
            let path = self.folder.join(name);
            self.disk.remove_folder(&path).map_err(|error| failed("removing", &path, error))?;
        }
        self.find(&names, u64::MAX, &mut found)?;
        // One that was found to be damaged before counts, too: it was not nothing that is begun again from.
        let damaged =
            names.iter().filter(|name| name.ends_with(DAMAGED)).map(|name| format!("{name} is damaged"));
        let problems: Vec<String> = found.problems.iter().cloned().chain(damaged).collect();
        if found.snapshot.is_none() && !problems.is_empty() && !allow_fresh {
            return Err(Error::NoneIsGood { folder: self.folder.clone(), problems });
        }
        Ok(found)
    }

    /// Goes back to the newest good checkpoint of at most `step` steps, because later ones cannot be trusted: they are removed.
    ///
    /// The beginning of the run counts as its first checkpoint: as long as fewer are there than are kept, it may be gone back
    /// to, and `Some` without a snapshot says so. `None` if neither is to be had; then nothing is removed.
    ///
    /// # Errors
    /// As for [`Store::newest`].
    pub fn go_back(&self, step: u64) -> Result<Option<Found>, Error> {
        let mut found = Found::default();
        let names = self.names()?;
        let all = checkpoints(&names);
        self.find(&names, step, &mut found)?;
        if found.snapshot.is_none() && all.len() >= self.kept.last.max(1) {
            return Ok(None);
        }
        for (_, name) in all.iter().rev().take_while(|(later, _)| *later > step) {
            let path = self.folder.join(name);
            self.disk.remove_folder(&path).map_err(|error| failed("removing", &path, error))?;
        }
        self.sync(&self.folder)?;
        Ok(Some(found))
    }

    /// Loads the newest good checkpoint of at most `most` steps, and renames damaged ones that it meets.
    fn find(&self, names: &[String], most: u64, found: &mut Found) -> Result<(), Error> {
        for (step, name) in checkpoints(names).into_iter().rev().skip_while(|(step, _)| *step > most) {
            let path = self.folder.join(&name);
            match self.load(&path, step) {
                Ok(snapshot) => {
                    found.snapshot = Some(snapshot);
                    break;
                }
                Err(Unloaded::Refused(error)) => return Err(error),
                Err(Unloaded::Damaged(problem)) => {
                    let aside = self.aside(names, &name);
                    self.disk.rename(&path, &aside).map_err(|error| failed("renaming", &path, error))?;
                    found.problems.push(format!("{name}: {problem} (it is now {})", aside.display()));
                }
            }
        }
        Ok(())
    }

    /// Saves a snapshot. It is durable when this returns `Ok`, and older ones are then removed but for the last few.
    /// One of the same step that is there already is good: it stays.
    ///
    /// # Errors
    /// Then it is not saved. See [`Error::is_final`].
    pub fn save(&self, snapshot: &Snapshot) -> Result<PathBuf, Error> {
        let name = format!("{STEP}{:012}", snapshot.progress.step);
        let path = self.folder.join(&name);
        if self.names()?.contains(&name) {
            // It may have got its name by an attempt that then could not make it durable.
            return self.sync(&self.folder).map(|()| path);
        }
        let part = self.folder.join(format!("{name}{PART}"));
        let published = self.write(&part, snapshot).and_then(|()| self.publish(&part, &path));
        if let Err(error) = published {
            // What is left of it would only take room; the error is what counts.
            let _ = self.disk.remove_folder(&part);
            return Err(error);
        }
        self.prune(self.kept.last.max(1))?;
        Ok(path)
    }

    /// All files of a checkpoint, durable, and read back.
    fn write(&self, part: &Path, snapshot: &Snapshot) -> Result<(), Error> {
        let unfit = |problem: String| failed("making", part, io::Error::other(problem));
        let mut files = vec![(WEIGHTS.to_string(), self.to_bytes(&snapshot.weights).map_err(unfit)?)];
        for (number, name) in self.kept.state.iter().enumerate() {
            let size = self.kept.layout.len();
            let vector = snapshot.state.get(number * size..(number + 1) * size).unwrap_or_default();
            files.push((vector_file(name), self.to_bytes(vector).map_err(unfit)?));
        }
        let manifest = Manifest {
            format: FORMAT,
            fingerprint: self.kept.fingerprint.clone(),
            run_file: self.kept.run_file.clone(),
            progress: snapshot.progress.clone(),
            holder: self.holder,
            files: files.iter().map(|(name, content)| FileEntry::of(name, content)).collect(),
            sha256: String::new(),
        };
        files.push((MANIFEST.to_string(), manifest.seal().map_err(|error| unfit(error.to_string()))?));
        self.disk.create_folder(part).map_err(|error| failed("making", part, error))?;
        for (name, content) in &files {
            self.put(&part.join(name), content)?;
        }
        if self.has(Defect::NoFolderSyncBeforeRename) { Ok(()) } else { self.sync(part) }
    }

    /// Writes a file, makes it durable and reads it back.
    fn put(&self, path: &Path, content: &[u8]) -> Result<(), Error> {
        self.disk.write(path, content).map_err(|error| failed("writing", path, error))?;
        if !self.has(Defect::NoFileSync) {
            self.sync(path)?;
        }
        let read = self.disk.read(path).map_err(|error| failed("reading", path, error))?;
        if read == content { Ok(()) } else { Err(Error::ReadBack { path: path.into() }) }
    }

    /// Gives a checkpoint its name, durably.
    fn publish(&self, part: &Path, path: &Path) -> Result<(), Error> {
        let theirs = self.last_holder()?;
        if theirs != self.holder {
            return Err(Error::Fenced { folder: self.folder.clone(), holders: [self.holder, theirs] });
        }
        if self.has(Defect::PruneTooEarly) {
            self.prune(self.kept.last - 1)?;
        }
        self.disk.rename(part, path).map_err(|error| failed("renaming", part, error))?;
        if self.has(Defect::NoFolderSyncAfterRename) {
            return Ok(());
        }
        let synced = self.sync(&self.folder);
        if self.has(Defect::ReportBeforeDurable) { Ok(()) } else { synced }
    }

    /// Removes all but the newest few. The newest was verified when it was written or loaded by this process.
    fn prune(&self, last: usize) -> Result<(), Error> {
        let all = checkpoints(&self.names()?);
        for (_, name) in all.iter().rev().skip(last) {
            let path = self.folder.join(name);
            self.disk.remove_folder(&path).map_err(|error| failed("removing", &path, error))?;
        }
        Ok(())
    }

    /// The checkpoint of a step.
    fn load(&self, path: &Path, step: u64) -> Result<Snapshot, Unloaded> {
        let read = |name: &str| {
            let path = path.join(name);
            self.disk.read(&path).map_err(|error| match error.kind() {
                // Too little memory says nothing about the checkpoint, which must not be set aside for it.
                ErrorKind::FileTooLarge | ErrorKind::OutOfMemory => {
                    Unloaded::Refused(failed("reading", &path, error))
                }
                // A file that cannot be read is damaged, whether it is missing or its disk reports errors.
                _ => Unloaded::Damaged(format!("{name}: {error}")),
            })
        };
        let of_another_run = |why| Unloaded::Refused(Error::OtherRun { folder: self.folder.clone(), why });
        let named = |problem: String| Unloaded::Damaged(format!("{MANIFEST}: {problem}"));
        let bytes = read(MANIFEST)?;
        // What another version of the numbers has remembered may not be readable here, so the header is compared first.
        let (header, ours) = (Header::open(&bytes).map_err(named)?, &self.kept.fingerprint);
        if ours.numerics != header.fingerprint.numerics {
            return Err(of_another_run(other_run(&ours.differences(&header.fingerprint))));
        }
        let manifest = Manifest::open(&bytes).map_err(named)?;
        self.kept.judged(&manifest).map_err(of_another_run)?;
        let theirs = manifest.progress.step;
        if theirs != step {
            return Err(format!("{MANIFEST} is of step {theirs}, the folder's name says {step}").into());
        }
        let tensors = |name: &str| -> Result<Vec<f32>, Unloaded> {
            let entry = manifest.files.iter().find(|entry| entry.name == name);
            let entry = entry.ok_or_else(|| format!("{name} is not in the manifest"))?;
            let bytes = read(name)?;
            if bytes.len() as u64 != entry.bytes {
                let found = bytes.len();
                return Err(format!("{name} has {found} bytes, the manifest states {}", entry.bytes).into());
            }
            let found = sha256(&bytes);
            if found != entry.sha256 && !self.has(Defect::LoadWithoutVerify) {
                let stated = &entry.sha256;
                return Err(format!("{name} has the SHA-256 {found}, the manifest states {stated}").into());
            }
            tensors::from_bytes(&self.kept.layout, &bytes)
                .map_err(|problem| Unloaded::Damaged(format!("{name}: {problem}")))
        };
        let weights = tensors(WEIGHTS)?;
        let vectors = self.kept.state.iter().map(|name| tensors(&vector_file(name)));
        let state = vectors.collect::<Result<Vec<_>, _>>()?.concat();
        Ok(Snapshot { progress: manifest.progress.clone(), weights, state })
    }

    fn to_bytes(&self, values: &[f32]) -> Result<Vec<u8>, String> {
        tensors::to_bytes(&self.kept.layout, values, None)
    }

    /// A name for a damaged checkpoint that nothing has.
    fn aside(&self, names: &[String], name: &str) -> PathBuf {
        let numbered = |number: u32| match number {
            0 => format!("{name}{DAMAGED}"),
            _ => format!("{name}-{number}{DAMAGED}"),
        };
        let free = (0..).map(numbered).find(|aside| !names.contains(aside));
        self.folder.join(free.expect("some number is free"))
    }

    /// Whether a test has planted this; never, outside of tests.
    fn has(&self, defect: Defect) -> bool {
        self.planted.has(defect)
    }

    fn names(&self) -> Result<Vec<String>, Error> {
        self.disk.list(&self.folder).map_err(|error| failed("listing", &self.folder, error))
    }

    fn sync(&self, path: &Path) -> Result<(), Error> {
        self.disk.sync(path).map_err(|error| match is_shortage(&error) {
            // Nothing was asked of the disk yet.
            true => failed("opening", path, error),
            false => Error::NotDurable { path: path.into(), error },
        })
    }

    /// The number of the process that last took the folder; 0: none has, or what it wrote is lost.
    fn last_holder(&self) -> Result<u64, Error> {
        let path = self.folder.join(HOLDER);
        match self.disk.read(&path) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).trim().parse().unwrap_or(0)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
            Err(error) => Err(failed("reading", &path, error)),
        }
    }

    fn take_over(&self) -> Result<(), Error> {
        let aside = self.folder.join(format!("{HOLDER}-{}{PART}", self.holder));
        let path = self.folder.join(HOLDER);
        let text = format!("{}\n", self.holder);
        self.disk.write(&aside, text.as_bytes()).map_err(|error| failed("writing", &aside, error))?;
        self.sync(&aside)?;
        self.disk.rename(&aside, &path).map_err(|error| failed("renaming", &aside, error))?;
        self.sync(&self.folder)
    }
}

/// The checkpoints among names, by step.
fn checkpoints(names: &[String]) -> Vec<(u64, String)> {
    let step = |name: &String| Some((name.strip_prefix(STEP)?.parse().ok()?, name.clone()));
    let mut all: Vec<(u64, String)> = names.iter().filter_map(step).collect();
    all.sort_unstable();
    all
}

fn failed(action: &'static str, path: &Path, error: io::Error) -> Error {
    Error::File { action, path: path.into(), error }
}

/// ENFILE and EMFILE, which have these numbers on Linux, macOS and the BSDs.
const TOO_MANY_OPEN_FILES: [i32; 2] = [23, 24];

/// Whether a file could not be opened because the system or this process has too many open. Like a full disk, this passes.
fn is_shortage(error: &io::Error) -> bool {
    cfg!(unix) && error.raw_os_error().is_some_and(|code| TOO_MANY_OPEN_FILES.contains(&code))
}

/// The file of a vector of state.
fn vector_file(name: &str) -> String {
    format!("{name}.safetensors")
}
