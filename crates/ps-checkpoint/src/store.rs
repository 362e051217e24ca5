//! A folder of checkpoints, and the lock that gives one process the right to write to it.

use crate::disk::{Disk, RealDisk};
use crate::error::Error;
use crate::manifest::{FORMAT, FileEntry, Fingerprint, Header, Manifest, sha256};
use crate::mutation::{ActiveMutation, Mutation};
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
/// Prefix of a checkpoint's name, before the step. While the checkpoint is being written, `PART` follows the
/// step; once it is found to be damaged, `DAMAGED` does.
const STEP: &str = "step-";
const PART: &str = ".part";
const DAMAGED: &str = ".damaged";

/// What a store keeps, and for which run.
///
/// [`Store::open`] uses it to check that existing checkpoints belong to the run, to name the tensors in their
/// files, and to decide how many to keep.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Identifies the run that the checkpoints belong to.
    pub fingerprint: Fingerprint,
    /// The run's resolved run file, in TOML. It is stored in every checkpoint, so that a run which resumes
    /// with a different run file can be compared with this one.
    pub run_file: Option<String>,
    /// Decides whether the run may resume from a checkpoint with a different fingerprint. If `None`,
    /// it may not.
    pub resume_check: Option<ResumeCheck>,
    /// Names and shapes of the model's tensors.
    pub layout: Layout,
    /// Names of the state vectors besides the weights. Each is stored in a separate file.
    pub state: Vec<&'static str>,
    /// Maximum number of checkpoints to keep, at least 1.
    pub last: usize,
}

/// A function that decides from a checkpoint's manifest whether a run may resume from it.
#[derive(Clone)]
pub struct ResumeCheck(Arc<ResumeCheckFn>);

type ResumeCheckFn = dyn Fn(&Manifest) -> Result<(), String> + Send + Sync;

impl ResumeCheck {
    /// Wraps `resume_check`, which returns the reason if a run may not resume.
    pub fn new(resume_check: impl Fn(&Manifest) -> Result<(), String> + Send + Sync + 'static) -> Self {
        ResumeCheck(Arc::new(resume_check))
    }
}

impl fmt::Debug for ResumeCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResumeCheck")
    }
}

impl StoreOptions {
    /// Settings of a run that resumes only from its own checkpoints.
    pub fn new(fingerprint: Fingerprint, layout: Layout, state: Vec<&'static str>, last: usize) -> Self {
        StoreOptions { fingerprint, run_file: None, resume_check: None, layout, state, last }
    }

    /// Whether the run may resume from the checkpoint of `manifest`; the error is the reason why not.
    fn checked(&self, manifest: &Manifest) -> Result<(), String> {
        let differences = self.fingerprint.differences(&manifest.fingerprint);
        match &self.resume_check {
            _ if differences.is_empty() => Ok(()),
            Some(ResumeCheck(resume_check)) => resume_check(manifest),
            None => Err(other_run(&differences)),
        }
    }
}

fn other_run(differences: &[String]) -> String {
    format!("these checkpoints belong to another run: {}; choose another folder", differences.join("; "))
}

/// A folder of checkpoints of one run, used exclusively by this process.
///
/// [`Store::save`] writes a checkpoint durably, [`Store::newest`] loads the newest good one, and
/// [`Store::go_back`] returns to an earlier one. All calls block on the disk; [`crate::Writer`] runs them on
/// a separate thread.
pub struct Store {
    folder: PathBuf,
    options: StoreOptions,
    /// Number of this process among all that have used the folder.
    holder: u64,
    disk: Box<dyn Disk>,
    /// The lock on the folder, held for the lifetime of the store.
    _lock: Option<File>,
    /// The store's mutation, in tests that must detect it.
    mutation: ActiveMutation,
}

/// The result of loading from a folder.
#[derive(Debug, Default)]
pub struct Found {
    /// The newest good checkpoint, if there is any.
    pub snapshot: Option<Snapshot>,
    /// What is wrong with newer checkpoints, which were renamed: one line each, newest first.
    pub problems: Vec<String>,
}

/// Why a checkpoint was not loaded.
enum Unloaded {
    /// The checkpoint is damaged: rename it and try the previous one.
    Damaged(String),
    /// The checkpoint may be good, so no other may be loaded in its place.
    Refused(Error),
}

impl From<String> for Unloaded {
    fn from(problem: String) -> Self {
        Unloaded::Damaged(problem)
    }
}

impl Store {
    /// Opens and locks the folder. It is created if its parent exists.
    ///
    /// # Errors
    /// Returns an error if another process holds the lock or a file operation fails.
    pub fn open(folder: &Path, options: StoreOptions) -> Result<Self, Error> {
        if let Err(error) = std::fs::create_dir(folder)
            && error.kind() != ErrorKind::AlreadyExists
        {
            return Err(failed("making", folder, error));
        }
        let path = folder.join(LOCK);
        let lock = File::options().create(true).append(true).open(&path);
        let lock = lock.map_err(|error| failed("opening", &path, error))?;
        // The system releases the lock when a process ends, so a killed process blocks no other.
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::Locked { folder: folder.into() }),
            Err(TryLockError::Error(error)) => return Err(failed("locking", &path, error)),
        }
        // Only with the lock: this takes the next holder number, which stops processes with earlier ones.
        let mut store = Store::on(Box::new(RealDisk), folder, options)?;
        store._lock = Some(lock);
        Ok(store)
    }

    /// Opens a folder on another disk, without a lock. The folder must exist, and no other process
    /// may use it.
    ///
    /// # Errors
    /// Returns an error if an operation of the disk fails.
    pub fn on(disk: Box<dyn Disk>, folder: &Path, options: StoreOptions) -> Result<Self, Error> {
        Self::with_mutation(disk, folder, options, ActiveMutation::default())
    }

    /// Like [`Store::on`], but with a mutation.
    pub(crate) fn with_mutation(
        disk: Box<dyn Disk>,
        folder: &Path,
        options: StoreOptions,
        mutation: ActiveMutation,
    ) -> Result<Self, Error> {
        let mut store = Store { folder: folder.into(), options, holder: 0, disk, _lock: None, mutation };
        let last = store.last_holder()?;
        store.holder = if store.has(Mutation::ReuseHolderNumber) { last.max(1) } else { last + 1 };
        store.take_over()?;
        Ok(store)
    }

    /// The folder of the checkpoints.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Loads the newest good checkpoint. If one is damaged, renames it, reports it in [`Found::problems`]
    /// and falls back to the previous one. Removes the remains of a checkpoint that was being written when
    /// a process died.
    ///
    /// # Errors
    /// Returns an error if there are checkpoints but all are damaged, unless `allow_fresh` is set; if this
    /// run may not resume from them; or if a file operation fails.
    pub fn newest(&self, allow_fresh: bool) -> Result<Found, Error> {
        let mut found = Found::default();
        let names = self.names()?;
        // A checkpoint under this name has never been reported as saved, so nothing is lost.
        for name in names.iter().filter(|name| name.starts_with(STEP) && name.ends_with(PART)) {
            let path = self.folder.join(name);
            self.disk.remove_folder(&path).map_err(|error| failed("removing", &path, error))?;
        }
        self.find(&names, u64::MAX, &mut found)?;
        // A checkpoint that was already renamed as damaged counts as well: the run had progressed, so
        // starting over would lose work.
        let damaged =
            names.iter().filter(|name| name.ends_with(DAMAGED)).map(|name| format!("{name} is damaged"));
        let problems: Vec<String> = found.problems.iter().cloned().chain(damaged).collect();
        if found.snapshot.is_none() && !problems.is_empty() && !allow_fresh {
            return Err(Error::NoneIsGood { folder: self.folder.clone(), problems });
        }
        Ok(found)
    }

    /// Returns to the newest good checkpoint of at most `step` steps and removes the later ones, because they
    /// cannot be trusted.
    ///
    /// The beginning of the run counts as its first checkpoint while there are fewer checkpoints than the
    /// store keeps. Returning to it gives `Some` without a snapshot. Returns `None`, and removes nothing, if
    /// neither is available.
    ///
    /// # Errors
    /// Returns the same errors as [`Store::newest`].
    pub fn go_back(&self, step: u64) -> Result<Option<Found>, Error> {
        let mut found = Found::default();
        let names = self.names()?;
        let all = checkpoints(&names);
        self.find(&names, step, &mut found)?;
        if found.snapshot.is_none() && all.len() >= self.options.last.max(1) {
            return Ok(None);
        }
        for (_, name) in all.iter().rev().take_while(|(later, _)| *later > step) {
            let path = self.folder.join(name);
            self.disk.remove_folder(&path).map_err(|error| failed("removing", &path, error))?;
        }
        // Otherwise, a crash could bring back the checkpoints that cannot be trusted.
        self.sync(&self.folder)?;
        Ok(Some(found))
    }

    /// Loads the newest good checkpoint of at most `most` steps, and renames damaged ones on the way.
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

    /// Saves a snapshot durably, then removes all checkpoints except the newest few. If a checkpoint of the
    /// same step already exists, it is kept and made durable.
    ///
    /// # Errors
    /// Returns an error if the snapshot may not have been saved. [`Error::is_final`] says whether the
    /// process may continue.
    pub fn save(&self, snapshot: &Snapshot) -> Result<PathBuf, Error> {
        let name = format!("{STEP}{:012}", snapshot.progress.step);
        let path = self.folder.join(&name);
        if self.names()?.contains(&name) {
            // An earlier attempt may have renamed it but failed to make it durable.
            return self.sync(&self.folder).map(|()| path);
        }
        // Under another name, so that a crash leaves no incomplete checkpoint that looks complete.
        let part = self.folder.join(format!("{name}{PART}"));
        let published = self.write(&part, snapshot).and_then(|()| self.publish(&part, &path));
        if let Err(error) = published {
            // Removing the remains only saves space, so a failure to do so must not hide the error.
            let _ = self.disk.remove_folder(&part);
            return Err(error);
        }
        // Until the new checkpoint is durable, an older one may be the only good one, so pruning comes last.
        self.prune(self.options.last.max(1))?;
        Ok(path)
    }

    /// Writes all files of a checkpoint, makes them durable and reads them back.
    fn write(&self, part: &Path, snapshot: &Snapshot) -> Result<(), Error> {
        let unfit = |problem: String| failed("making", part, io::Error::other(problem));
        let mut files = vec![(WEIGHTS.to_string(), self.to_bytes(&snapshot.weights).map_err(unfit)?)];
        for (number, name) in self.options.state.iter().enumerate() {
            let size = self.options.layout.len();
            let vector = snapshot.state.get(number * size..(number + 1) * size).unwrap_or_default();
            files.push((vector_file(name), self.to_bytes(vector).map_err(unfit)?));
        }
        let manifest = Manifest {
            format: FORMAT,
            fingerprint: self.options.fingerprint.clone(),
            run_file: self.options.run_file.clone(),
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
        // The rename must not become durable before the names of the files in the folder are.
        if self.has(Mutation::NoFolderSyncBeforeRename) { Ok(()) } else { self.sync(part) }
    }

    /// Writes a file, makes it durable and reads it back.
    fn put(&self, path: &Path, content: &[u8]) -> Result<(), Error> {
        self.disk.write(path, content).map_err(|error| failed("writing", path, error))?;
        if !self.has(Mutation::NoFileSync) {
            self.sync(path)?;
        }
        let read = self.disk.read(path).map_err(|error| failed("reading", path, error))?;
        if read == content { Ok(()) } else { Err(Error::ReadBack { path: path.into() }) }
    }

    /// Renames a checkpoint to its final name, durably.
    fn publish(&self, part: &Path, path: &Path) -> Result<(), Error> {
        // Some network file systems do not honour locks, so two processes may reach this point.
        let theirs = self.last_holder()?;
        if theirs != self.holder {
            return Err(Error::Fenced { folder: self.folder.clone(), holders: [self.holder, theirs] });
        }
        if self.has(Mutation::PruneTooEarly) {
            self.prune(self.options.last - 1)?;
        }
        self.disk.rename(part, path).map_err(|error| failed("renaming", part, error))?;
        if self.has(Mutation::NoFolderSyncAfterRename) {
            return Ok(());
        }
        // Until the parent folder is durable, a crash can undo the rename, so this is not saved yet.
        let synced = self.sync(&self.folder);
        if self.has(Mutation::ReportBeforeDurable) { Ok(()) } else { synced }
    }

    /// Removes all but the newest few checkpoints. The newest one was verified when this process wrote
    /// or loaded it.
    fn prune(&self, last: usize) -> Result<(), Error> {
        let all = checkpoints(&self.names()?);
        for (_, name) in all.iter().rev().skip(last) {
            let path = self.folder.join(name);
            self.disk.remove_folder(&path).map_err(|error| failed("removing", &path, error))?;
        }
        Ok(())
    }

    /// Loads and verifies the checkpoint of a step.
    fn load(&self, path: &Path, step: u64) -> Result<Snapshot, Unloaded> {
        let read = |name: &str| {
            let path = path.join(name);
            self.disk.read(&path).map_err(|error| match error.kind() {
                // Too little memory does not mean that the checkpoint is damaged, so it must not be renamed.
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
        // The state that another version of the numerics wrote may not be readable, so the header
        // is compared first.
        let (header, ours) = (Header::open(&bytes).map_err(named)?, &self.options.fingerprint);
        if ours.numerics != header.fingerprint.numerics {
            return Err(of_another_run(other_run(&ours.differences(&header.fingerprint))));
        }
        let manifest = Manifest::open(&bytes).map_err(named)?;
        // Before the tensors are read: a checkpoint of another model has other shapes, and must be refused
        // rather than renamed as damaged.
        self.options.checked(&manifest).map_err(of_another_run)?;
        let theirs = manifest.progress.step;
        // A checkpoint under the name of another step would make the run resume at a step that it is not at.
        if theirs != step {
            return Err(
                format!("{MANIFEST} is of step {theirs}, but the folder is named for step {step}").into()
            );
        }
        let tensors = |name: &str| -> Result<Vec<f32>, Unloaded> {
            let entry = manifest.files.iter().find(|entry| entry.name == name);
            let entry = entry.ok_or_else(|| format!("{name} is not in the manifest"))?;
            let bytes = read(name)?;
            if bytes.len() as u64 != entry.bytes {
                let found = bytes.len();
                return Err(
                    format!("{name} has {found} bytes, but the manifest states {}", entry.bytes).into()
                );
            }
            let found = sha256(&bytes);
            if found != entry.sha256 && !self.has(Mutation::LoadWithoutVerify) {
                let stated = &entry.sha256;
                return Err(
                    format!("{name} has the SHA-256 {found}, but the manifest states {stated}").into()
                );
            }
            tensors::from_bytes(&self.options.layout, &bytes)
                .map_err(|problem| Unloaded::Damaged(format!("{name}: {problem}")))
        };
        let weights = tensors(WEIGHTS)?;
        let vectors = self.options.state.iter().map(|name| tensors(&vector_file(name)));
        let state = vectors.collect::<Result<Vec<_>, _>>()?.concat();
        Ok(Snapshot { progress: manifest.progress.clone(), weights, state })
    }

    fn to_bytes(&self, values: &[f32]) -> Result<Vec<u8>, String> {
        tensors::to_bytes(&self.options.layout, values, None)
    }

    /// An unused name for a damaged checkpoint.
    fn aside(&self, names: &[String], name: &str) -> PathBuf {
        let numbered = |number: u32| match number {
            0 => format!("{name}{DAMAGED}"),
            _ => format!("{name}-{number}{DAMAGED}"),
        };
        let free = (0..).map(numbered).find(|aside| !names.contains(aside));
        self.folder.join(free.expect("some number is free"))
    }

    /// Whether a test has injected this mutation; always `false` outside of tests.
    fn has(&self, mutation: Mutation) -> bool {
        self.mutation.is(mutation)
    }

    fn names(&self) -> Result<Vec<String>, Error> {
        self.disk.list(&self.folder).map_err(|error| failed("listing", &self.folder, error))
    }

    fn sync(&self, path: &Path) -> Result<(), Error> {
        self.disk.sync(path).map_err(|error| match is_shortage(&error) {
            // The file could not be opened, so nothing was left half done.
            true => failed("opening", path, error),
            // This is final: after a failed fsync, the state of the disk is unknown.
            false => Error::NotDurable { path: path.into(), error },
        })
    }

    /// Number of the process that last opened the folder; 0 if there was none or its entry is lost.
    fn last_holder(&self) -> Result<u64, Error> {
        let path = self.folder.join(HOLDER);
        match self.disk.read(&path) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).trim().parse().unwrap_or(0)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(0),
            Err(error) => Err(failed("reading", &path, error)),
        }
    }

    fn take_over(&self) -> Result<(), Error> {
        // Written aside and renamed, so that a crash leaves either the old number or the new one.
        let aside = self.folder.join(format!("{HOLDER}-{}{PART}", self.holder));
        let path = self.folder.join(HOLDER);
        let text = format!("{}\n", self.holder);
        self.disk.write(&aside, text.as_bytes()).map_err(|error| failed("writing", &aside, error))?;
        self.sync(&aside)?;
        self.disk.rename(&aside, &path).map_err(|error| failed("renaming", &aside, error))?;
        self.sync(&self.folder)
    }
}

/// The complete checkpoints among `names`, ascending by step.
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

/// Whether a file could not be opened because the system or this process has too many open files. Like a full
/// disk, this may be temporary.
fn is_shortage(error: &io::Error) -> bool {
    cfg!(unix) && error.raw_os_error().is_some_and(|code| TOO_MANY_OPEN_FILES.contains(&code))
}

/// Name of the file of a state vector.
fn vector_file(name: &str) -> String {
    format!("{name}.safetensors")
}
