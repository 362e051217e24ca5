//! A proxy that disturbs connections like a network does: it delays them, cuts them, stops forwarding, and
//! flips bits.
//!
//! A seed determines what happens, and after how many bytes of a connection. Each fault is assigned to a
//! connection; if that connection ends or is idle before then, the fault is assigned to another one.

use ps_plan::seed::{Purpose, Stream};
use socket2::SockRef;
use std::collections::BTreeMap;
use std::fmt::{Display, Formatter};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

/// How often a blocked thread checks whether its connection is over.
const GLANCE: Duration = Duration::from_millis(10);
/// Time within which everything that a test waits for must have happened.
const DEADLINE: Duration = Duration::from_secs(60);
/// A direction whose fault has not happened for this long counts as quiet and gives it back.
const QUIET: Duration = Duration::from_secs(1);
/// Maximum number of bytes that are forwarded at once, so that messages are split at random positions.
const PIECE: u32 = 32 << 10;
/// One in this number of pieces is delayed, by up to this number of microseconds.
const DELAY: [u32; 2] = [8, 5000];

/// A direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

/// Both directions of a connection.
pub(super) const BOTH: [Direction; 2] = [Direction::Up, Direction::Down];

/// A fault of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// The connection is closed on both sides.
    Close,
    /// The connection is reset on both sides (RST).
    Reset,
    /// One direction is closed; the other one continues.
    HalfClose,
    /// Nothing is forwarded in one direction any more, and neither side is notified.
    Swallow,
    /// Nothing is forwarded in either direction any more, and neither side is notified.
    SwallowAll,
    /// One bit is flipped.
    Flip,
}

/// A kind of fault, how often it happens, and the range of bytes of a direction after which it does. A range
/// that starts at 0 means the first bytes of a connection.
pub(super) type FaultSpec = (Fault, u32, Range<u32>);

#[derive(Clone, Debug)]
struct ScheduledFault {
    fault: Fault,
    direction: Direction,
    after: u64,
    /// Whether the fault hits the beginning of a connection.
    is_early: bool,
}

/// Forwards connections to a server until it is dropped.
pub(super) struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
}

struct Shared {
    seed: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    server: Option<SocketAddr>,
    /// The remaining faults; the next one is last.
    pending: Vec<ScheduledFault>,
    /// The directions in which everything is held back.
    held: Vec<Direction>,
    /// Connections up to this number are cut.
    broken: u32,
    stopped: bool,
    done: Done,
}

/// The faults that have happened so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Done {
    pub connections: u32,
    pub faults: BTreeMap<Fault, u32>,
    pub delays: u32,
    /// Number of pieces that were held back.
    pub holds: u32,
    pub bytes: u64,
    /// Maximum number of bytes that a sender sent after one of its bits was flipped.
    pub after_flip: u64,
}

impl Display for Done {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Done { connections, faults, delays, holds, bytes, after_flip } = self;
        write!(
            f,
            "{connections} connections, {bytes} bytes, {delays} delays, {holds} held back, {faults:?}"
        )?;
        if *after_flip > 0 { write!(f, ", at most {after_flip} bytes after a flip") } else { Ok(()) }
    }
}

impl Proxy {
    /// Starts a proxy that will cause all faults of `specs`, in random order. It closes all connections until
    /// it has a server.
    pub(super) fn start(seed: u64, specs: &[FaultSpec]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let mut random = Stream::new(seed, Purpose::Simulation, 0);
        let mut shuffled = Vec::new();
        for (fault, count, range) in specs {
            for _ in 0..*count {
                let after = u64::from(range.start + random.below(range.end - range.start));
                let direction = BOTH[random.below(2) as usize];
                let scheduled =
                    ScheduledFault { fault: *fault, direction, after, is_early: range.start == 0 };
                shuffled.insert(random.below(shuffled.len() as u32 + 1) as usize, scheduled);
            }
        }
        let state = State { pending: shuffled, ..State::default() };
        let shared = Arc::new(Shared { seed, state: Mutex::new(state), changed: Condvar::new() });
        let accepting = shared.clone();
        let listener = Some(spawn(move || accept(&listener, &accepting)));
        Proxy { address, shared, listener }
    }

    /// Sets the server to which new connections are forwarded.
    pub(super) fn lead_to(&self, server: SocketAddr) {
        self.shared.lock().server = Some(server);
    }

    /// Holds back everything in these directions, including the ends of connections, until the next call.
    pub(super) fn hold(&self, directions: &[Direction]) {
        self.shared.lock().held = directions.to_vec();
        self.shared.changed.notify_all();
    }

    /// Resets all open connections (RST).
    pub(super) fn cut(&self) {
        let mut state = self.shared.lock();
        state.broken = state.done.connections;
    }

    pub(super) fn done(&self) -> Done {
        self.shared.lock().done.clone()
    }

    /// Waits until `enough` accepts the faults that have happened.
    pub(super) fn wait(&self, enough: impl Fn(&Done) -> bool) {
        let since = Instant::now();
        let mut state = self.shared.lock();
        while !enough(&state.done) {
            assert!(since.elapsed() < DEADLINE, "not after {DEADLINE:?}: {}", state.done);
            state = self.shared.pause(state);
        }
    }

    /// Returns the faults that have happened, for a test that requires every fault to have happened.
    pub(super) fn all_done(&self) -> Done {
        let state = self.shared.lock();
        println!("{}", state.done);
        assert!(state.pending.is_empty(), "the run was over before {:?}\n{}", state.pending, state.done);
        state.done.clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_all();
        // A connection wakes up the thread that accepts them.
        let _ = TcpStream::connect(self.address);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change of the state, for a short time at most.
    fn pause<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, GLANCE).unwrap_or_else(PoisonError::into_inner).0
    }

    fn count(&self, what: impl FnOnce(&mut Done)) {
        what(&mut self.lock().done);
        self.changed.notify_all();
    }
}

/// Accepts connections, with two threads for each, until the proxy is stopped.
fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut pumps: Vec<JoinHandle<()>> = Vec::new();
    for caller in listener.incoming() {
        let mut state = shared.lock();
        if state.stopped {
            break;
        }
        let (Ok(caller), Some(server)) = (caller, state.server) else { continue };
        state.done.connections += 1;
        let number = state.done.connections;
        drop(state);
        let Ok(server) = TcpStream::connect(server) else { continue };
        for end in [&caller, &server] {
            end.set_nodelay(true).expect("it is a socket");
            end.set_read_timeout(Some(GLANCE)).expect("it is a socket");
            end.set_write_timeout(Some(GLANCE)).expect("it is a socket");
        }
        let connection = Arc::new(Connection {
            number,
            caller,
            server,
            shared: shared.clone(),
            over: AtomicBool::new(false),
            mute: AtomicBool::new(false),
        });
        for (index, direction) in (0..).zip(BOTH) {
            let random = Stream::new(shared.seed, Purpose::Simulation, 2 * number + index);
            let connection = connection.clone();
            pumps.push(spawn(move || connection.pump(direction, random)));
        }
        pumps.retain(|pump| !pump.is_finished());
    }
    for pump in pumps {
        let _ = pump.join();
    }
}

/// A connection from a client, with the one to the server. Both close when both directions are done.
struct Connection {
    number: u32,
    caller: TcpStream,
    server: TcpStream,
    shared: Arc<Shared>,
    over: AtomicBool,
    /// Whether nothing is forwarded any more.
    mute: AtomicBool,
}

impl Connection {
    fn pump(&self, direction: Direction, mut random: Stream) {
        let (mut from, to) = match direction {
            Direction::Up => (&self.caller, &self.server),
            Direction::Down => (&self.server, &self.caller),
        };
        let mut buffer = vec![0; PIECE as usize];
        let mut faults = DirectionFaults::new(&self.shared, direction);
        let (mut passed, mut flipped_at, mut mute) = (0, None, false);
        while !self.is_over() {
            faults.draw(passed);
            let due = faults.due(passed);
            match due {
                Some(Fault::Close) => self.end(),
                Some(Fault::Reset) => self.reset(),
                Some(Fault::HalfClose) => {
                    let _ = to.shutdown(Shutdown::Write);
                    mute = true;
                }
                Some(Fault::Swallow) => mute = true,
                Some(Fault::SwallowAll) => self.mute.store(true, Ordering::Relaxed),
                // Flips are handled below, because there must be a byte to flip a bit of.
                Some(Fault::Flip) | None => {}
            }
            if due.is_some_and(|fault| fault != Fault::Flip) {
                faults.happened();
            }
            let piece = faults.piece(passed, 1 + random.below(PIECE) as usize);
            let count = match from.read(&mut buffer[..piece]) {
                Ok(count) => count,
                Err(error) if is_retryable(error.kind()) => continue,
                Err(_) if mute || self.mute.load(Ordering::Relaxed) => break,
                Err(_) => {
                    self.reset();
                    break;
                }
            };
            if count > 0 && due == Some(Fault::Flip) {
                buffer[0] ^= 1 << random.below(8);
                flipped_at = Some(passed);
                faults.happened();
            }
            self.wait_while_held(direction);
            // Reading continues and drops what arrives, because a full buffer would tell the sender that
            // something is wrong.
            if mute || self.mute.load(Ordering::Relaxed) {
                if count == 0 {
                    break;
                }
                continue;
            }
            if count == 0 {
                let _ = to.shutdown(Shutdown::Write);
                break;
            }
            if random.below(DELAY[0]) == 0 {
                std::thread::sleep(Duration::from_micros(random.below(DELAY[1]).into()));
                self.shared.count(|done| done.delays += 1);
            }
            if !self.pass_on(to, &buffer[..count]) {
                break;
            }
            passed += count as u64;
            self.shared.count(|done| {
                done.bytes += count as u64;
                done.after_flip = done.after_flip.max(flipped_at.map_or(0, |at| passed - at));
            });
        }
    }

    fn wait_while_held(&self, direction: Direction) {
        let mut state = self.shared.lock();
        if !state.held.contains(&direction) {
            return;
        }
        state.done.holds += 1;
        self.shared.changed.notify_all();
        while state.held.contains(&direction) && !state.stopped && !self.over.load(Ordering::Relaxed) {
            state = self.shared.pause(state);
        }
    }

    /// Forwards bytes. Returns whether all of them were forwarded.
    fn pass_on(&self, mut to: &TcpStream, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            if self.is_over() {
                return false;
            }
            match to.write(bytes) {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if is_retryable(error.kind()) => {}
                Err(_) => {
                    self.reset();
                    return false;
                }
            }
        }
        true
    }

    fn is_over(&self) -> bool {
        let (is_broken, is_stopped) = {
            let state = self.shared.lock();
            (self.number <= state.broken, state.stopped)
        };
        if is_broken && !self.over.load(Ordering::Relaxed) {
            self.reset();
            self.shared.count(|done| *done.faults.entry(Fault::Reset).or_default() += 1);
        }
        is_stopped || self.over.load(Ordering::Relaxed)
    }

    fn end(&self) {
        for end in [&self.caller, &self.server] {
            let _ = end.shutdown(Shutdown::Both);
        }
        self.over.store(true, Ordering::Relaxed);
    }

    /// Makes the socket send RST when it is closed.
    fn reset(&self) {
        for end in [&self.caller, &self.server] {
            let _ = SockRef::from(end).set_linger(Some(Duration::ZERO));
        }
        self.over.store(true, Ordering::Relaxed);
    }
}

/// The fault that is assigned to one direction of a connection, at most one in its life.
struct DirectionFaults<'a> {
    shared: &'a Shared,
    direction: Direction,
    /// The fault that has not happened yet, after how many bytes it does, and when it was assigned.
    scheduled: Option<(ScheduledFault, u64, Instant)>,
    is_done: bool,
}

impl<'a> DirectionFaults<'a> {
    fn new(shared: &'a Shared, direction: Direction) -> Self {
        DirectionFaults { shared, direction, scheduled: None, is_done: false }
    }

    /// Assigns the next fault to this direction, if it never had one, and gives back one that does not
    /// happen. While there are others, at most every other connection gets a fault at its beginning;
    /// otherwise no connection would ever reach the rounds.
    fn draw(&mut self, passed: u64) {
        if self
            .scheduled
            .take_if(|(_, _, since)| since.elapsed() > QUIET)
            .map(|(scheduled, ..)| self.return_to_pending(scheduled))
            .is_some()
        {
            self.is_done = true;
        }
        if self.is_done || self.scheduled.is_some() {
            return;
        }
        let mut state = self.shared.lock();
        let prefers_early = state.done.connections.is_multiple_of(2);
        let fits = |scheduled: &ScheduledFault| {
            scheduled.direction == self.direction && (passed == 0 || !scheduled.is_early)
        };
        let found = state
            .pending
            .iter()
            .rposition(|scheduled| fits(scheduled) && scheduled.is_early == prefers_early);
        if let Some(index) = found.or_else(|| state.pending.iter().rposition(fits)) {
            let scheduled = state.pending.remove(index);
            let at = passed + scheduled.after;
            self.scheduled = Some((scheduled, at, Instant::now()));
        }
    }

    /// Returns the fault that is due now.
    fn due(&self, passed: u64) -> Option<Fault> {
        self.scheduled.as_ref().filter(|(_, at, _)| *at <= passed).map(|(scheduled, ..)| scheduled.fault)
    }

    /// Records that the fault has happened.
    fn happened(&mut self) {
        if let Some((scheduled, ..)) = self.scheduled.take() {
            self.is_done = true;
            self.shared.count(|done| *done.faults.entry(scheduled.fault).or_default() += 1);
        }
    }

    /// Returns the number of bytes to forward at once: at most `piece`, and none beyond the fault.
    fn piece(&self, passed: u64, piece: usize) -> usize {
        let left = self.scheduled.as_ref().map_or(u64::MAX, |(_, at, _)| at.saturating_sub(passed).max(1));
        piece.min(left.try_into().unwrap_or(usize::MAX))
    }

    fn return_to_pending(&self, scheduled: ScheduledFault) {
        self.shared.lock().pending.push(scheduled);
    }
}

impl Drop for DirectionFaults<'_> {
    fn drop(&mut self) {
        if let Some((scheduled, ..)) = self.scheduled.take() {
            self.return_to_pending(scheduled);
        }
    }
}

/// Returns whether a call can simply be repeated after this error.
fn is_retryable(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
