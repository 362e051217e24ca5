//! A disk in memory that loses what was not made durable, for tests.

use crate::disk::Disk;
use ps_plan::seed::{Purpose, random};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::path::{Component, Path};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// An in-memory disk with an existing root folder. Clones share the same disk.
#[derive(Clone, Debug, Default)]
pub struct SimulatedDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    nodes: BTreeMap<u64, Node>,
    next: u64,
    /// Number of operations so far that change something or make it durable.
    operations: u64,
    fault: Option<(u64, Fault)>,
    is_down: bool,
}

/// A fault that occurs at an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The machine crashes during the operation. It and all later ones fail until [`SimulatedDisk::crash`].
    Crash,
    /// The operation fails with this error, after writing half of its data.
    Error(ErrorKind),
    /// No file can be opened because the process has too many files open.
    Shortage,
    /// One bit of the written data flips silently.
    Flip,
}

#[derive(Clone, Debug)]
enum Node {
    File { content: Vec<u8>, durable: Vec<u8> },
    Folder { names: Names, durable: Names },
}

type Names = BTreeMap<String, u64>;

impl Default for State {
    fn default() -> Self {
        let root = Node::Folder { names: Names::new(), durable: Names::new() };
        State { nodes: BTreeMap::from([(0, root)]), next: 1, operations: 0, fault: None, is_down: false }
    }
}

impl SimulatedDisk {
    /// Schedules a fault for operation `operation`, counted from the creation of the disk.
    pub fn fault_at(&self, operation: u64, fault: Fault) {
        self.state().fault = Some((operation, fault));
    }

    /// Number of operations so far.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Crashes and restarts the machine. Of what was not made durable, `seed` decides what survives: for each
    /// folder, the durable or the latest names; for each file, the durable or the latest contents, or a part
    /// of the latter.
    pub fn crash(&self, seed: u64) {
        let mut state = self.state();
        state.fault = None;
        state.is_down = false;
        // Each node is decided separately, because a file system may write nodes in any order.
        for (&number, node) in &mut state.nodes {
            let [chance, share, ..] = random(seed, Purpose::Simulation, 0, number);
            match node {
                Node::Folder { names, durable } => {
                    if chance % 2 == 0 {
                        names.clone_from(durable);
                    }
                    durable.clone_from(names);
                }
                Node::File { content, durable } => {
                    match chance % 3 {
                        0 => content.clone_from(durable),
                        1 if content != durable => content.truncate(share as usize % (content.len() + 1)),
                        _ => {}
                    }
                    durable.clone_from(content);
                }
            }
        }
    }

    /// Restarts the process but not the machine: nothing is lost, and a scheduled fault is cancelled.
    pub fn restart(&self) {
        let mut state = self.state();
        state.fault = None;
        state.is_down = false;
    }

    /// Whether the machine has crashed.
    pub fn is_down(&self) -> bool {
        self.state().is_down
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Counts an operation. Returns its fault, unless that is a crash.
    fn begin(&mut self) -> io::Result<Option<Fault>> {
        if self.is_down {
            return Err(io::Error::other("the machine is down"));
        }
        let operation = self.operations;
        self.operations += 1;
        let fault = self.fault.filter(|&(at, _)| at == operation).map(|(_, fault)| fault);
        self.is_down = fault == Some(Fault::Crash);
        Ok(fault)
    }

    fn find(&self, path: &Path) -> io::Result<u64> {
        let mut at = 0;
        for name in path.components().filter_map(normal) {
            let Node::Folder { names, .. } = &self.nodes[&at] else { return Err(not_found(path)) };
            at = *names.get(name.as_ref()).ok_or_else(|| not_found(path))?;
        }
        Ok(at)
    }

    fn names(&mut self, folder: &Path) -> io::Result<&mut Names> {
        let number = self.find(folder)?;
        match self.nodes.get_mut(&number) {
            Some(Node::Folder { names, .. }) => Ok(names),
            _ => Err(not_found(folder)),
        }
    }

    fn add(&mut self, path: &Path, node: Node) -> io::Result<()> {
        let number = self.next;
        self.next += 1;
        let (folder, name) = split(path);
        self.names(folder)?.insert(name, number);
        self.nodes.insert(number, node);
        Ok(())
    }
}

impl Disk for SimulatedDisk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if let Some(fault) = state.begin()? {
            fault.as_error()?;
        }
        if state.find(path).is_ok() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        state.add(path, Node::Folder { names: Names::new(), durable: Names::new() })
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state();
        let fault = state.begin()?;
        let mut content = bytes.to_vec();
        match fault {
            Some(Fault::Flip) if !content.is_empty() => content[bytes.len() / 2] ^= 4,
            // The file is not even created.
            Some(Fault::Shortage) => return Fault::Shortage.as_error(),
            Some(Fault::Crash | Fault::Error(_)) => content.truncate(bytes.len() / 2),
            _ => {}
        }
        // The previous contents, if the file existed, stay the durable ones.
        let durable = match state.find(path).ok().and_then(|number| state.nodes.get(&number)) {
            Some(Node::File { durable, .. }) => durable.clone(),
            _ => Vec::new(),
        };
        state.add(path, Node::File { content, durable })?;
        fault.map_or(Ok(()), Fault::as_error)
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if let Some(fault) = state.begin()? {
            fault.as_error()?;
        }
        let number = state.find(path)?;
        match state.nodes.get_mut(&number) {
            Some(Node::File { content, durable }) => durable.clone_from(content),
            Some(Node::Folder { names, durable }) => durable.clone_from(names),
            None => {}
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        if let Some(fault) = state.begin()? {
            fault.as_error()?;
        }
        let number = state.find(from)?;
        let ((old_folder, old), (new_folder, new)) = (split(from), split(to));
        state.names(old_folder)?.remove(&old);
        state.names(new_folder)?.insert(new, number);
        Ok(())
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let state = self.state();
        if state.is_down {
            return Err(io::Error::other("the machine is down"));
        }
        match &state.nodes[&state.find(path)?] {
            Node::File { content, .. } => Ok(content.clone()),
            Node::Folder { .. } => Err(ErrorKind::IsADirectory.into()),
        }
    }

    fn list(&self, path: &Path) -> io::Result<Vec<String>> {
        let mut state = self.state();
        if state.is_down {
            return Err(io::Error::other("the machine is down"));
        }
        Ok(state.names(path)?.keys().cloned().collect())
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if let Some(fault) = state.begin()? {
            // A folder is removed name by name, so a crash can leave a part of it.
            if let Some(first) = state.names(path)?.keys().next().cloned() {
                state.names(path)?.remove(&first);
            }
            fault.as_error()?;
        }
        let (folder, name) = split(path);
        state.names(folder)?.remove(&name).map(drop).ok_or_else(|| not_found(path))
    }
}

impl Fault {
    fn as_error(self) -> io::Result<()> {
        match self {
            Fault::Crash => Err(io::Error::other("the machine is down")),
            Fault::Error(kind) => Err(kind.into()),
            // EMFILE: too many open files.
            Fault::Shortage => Err(io::Error::from_raw_os_error(24)),
            Fault::Flip => Ok(()),
        }
    }
}

fn normal(component: Component<'_>) -> Option<std::borrow::Cow<'_, str>> {
    match component {
        Component::Normal(name) => Some(name.to_string_lossy()),
        _ => None,
    }
}

fn split(path: &Path) -> (&Path, String) {
    let name = path.file_name().unwrap_or(OsStr::new("")).to_string_lossy().into_owned();
    (path.parent().unwrap_or(Path::new("")), name)
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(ErrorKind::NotFound, format!("{} is not there", path.display()))
}
