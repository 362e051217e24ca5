//! Bare sockets: the reference for everything that moves the same bytes through this machine's kernel.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Barrier, RwLock};
use std::time::Instant;

/// A kind of socket between processes of one machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// TCP over the loopback interface.
    Tcp,
    /// Stream sockets of the Unix domain.
    #[cfg(unix)]
    Unix,
}

impl Transport {
    /// All kinds that this system has.
    pub(crate) const ALL: &[Transport] = &[
        Transport::Tcp,
        #[cfg(unix)]
        Transport::Unix,
    ];

    /// The part that stands for this kind in names of figures.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Transport::Tcp => "tcp",
            #[cfg(unix)]
            Transport::Unix => "unix",
        }
    }

    /// Opens a connection and returns both ends.
    pub(crate) fn pair(self) -> io::Result<[Box<dyn Socket>; 2]> {
        Ok(match self {
            Transport::Tcp => {
                let listener = TcpListener::bind("127.0.0.1:0")?;
                let near = TcpStream::connect(listener.local_addr()?)?;
                let (far, _) = listener.accept()?;
                for end in [&near, &far] {
                    // Otherwise, Nagle's algorithm could hold back the last segment of a round.
                    end.set_nodelay(true)?;
                }
                [Box::new(near), Box::new(far)]
            }
            #[cfg(unix)]
            Transport::Unix => {
                let (near, far) = std::os::unix::net::UnixStream::pair()?;
                [Box::new(near), Box::new(far)]
            }
        })
    }
}

/// A bidirectional stream of bytes.
pub(crate) trait Socket: Read + Write + Send {}

impl<T: Read + Write + Send> Socket for T {}

/// Returns the seconds of each round, in which two workers send `elements` elements each and get the sums
/// back, from a server with one thread per worker.
pub(crate) fn via_server(transport: Transport, elements: usize, rounds: usize) -> io::Result<Vec<f64>> {
    let [[near, far], [other_near, other_far]] = [transport.pair()?, transport.pair()?];
    let slots = [0, 1].map(|_| RwLock::new(vec![0_u8; 4 * elements]));
    let halves = [0..elements / 2, elements / 2..elements];
    let sums = halves.clone().map(|half| RwLock::new(vec![0_u8; 4 * half.len()]));
    let barrier = Barrier::new(2);
    std::thread::scope(|scope| {
        for (own, mut socket) in [far, other_far].into_iter().enumerate() {
            let (slots, sums, barrier, half) = (&slots, &sums, &barrier, halves[own].clone());
            scope.spawn(move || {
                for _ in 0..rounds {
                    // An error also occurs at the worker's end, which reports it. This end must continue,
                    // because leaving would block the others at the barrier.
                    let _ = socket.read_exact(&mut write(&slots[own]));
                    // Each half of the sum needs both gradients, and below, each worker needs both halves.
                    barrier.wait();
                    let bytes = 4 * half.start..4 * half.end;
                    let [a, b] = [read(&slots[0]), read(&slots[1])];
                    add(&a[bytes.clone()], &b[bytes], &mut write(&sums[own]));
                    // The next round writes to the slots, for which their locks must be free.
                    drop([a, b]);
                    barrier.wait();
                    let _ = sums.iter().try_for_each(|sum| socket.write_all(&read(sum)));
                }
            });
        }
        let workers = [near, other_near].map(|mut socket| {
            scope.spawn(move || {
                let mut buffer = vec![0_u8; 4 * elements];
                let mut round = || {
                    let start = Instant::now();
                    socket.write_all(&buffer)?;
                    socket.read_exact(&mut buffer)?;
                    Ok(start.elapsed().as_secs_f64())
                };
                (0..rounds).map(|_| round()).collect::<io::Result<Vec<f64>>>()
            })
        });
        let [_, seconds] = workers.map(|worker| worker.join().expect("it does not panic"));
        seconds
    })
}

/// Returns the seconds of each round, in which two ranks exchange half of `elements` elements, add them, and
/// exchange the sums: the traffic of an all-reduce.
pub(crate) fn exchange(transport: Transport, elements: usize, rounds: usize) -> io::Result<Vec<f64>> {
    let [near, far] = transport.pair()?;
    std::thread::scope(|scope| {
        let ranks = [near, far].map(|mut socket| {
            scope.spawn(move || {
                let (mut own, mut other) = (vec![0_u8; 2 * elements], vec![0_u8; 2 * elements]);
                let mut sum = own.clone();
                let mut swap = |out: &[u8], into: &mut [u8]| {
                    out.chunks(BLOCK_BYTES).zip(into.chunks_mut(BLOCK_BYTES)).try_for_each(|(out, into)| {
                        socket.write_all(out)?;
                        socket.read_exact(into)
                    })
                };
                let mut round = || {
                    let start = Instant::now();
                    swap(&own, &mut other)?;
                    add(&own, &other, &mut sum);
                    swap(&sum, &mut own)?;
                    Ok(start.elapsed().as_secs_f64())
                };
                (0..rounds).map(|_| round()).collect::<io::Result<Vec<f64>>>()
            })
        });
        let [_, seconds] = ranks.map(|rank| rank.join().expect("it does not panic"));
        seconds
    })
}

/// Number of bytes that are written before the same number is read. A socket buffers this much without a
/// reader, so the two ends cannot block each other.
const BLOCK_BYTES: usize = 32 << 10;

fn add(a: &[u8], b: &[u8], sum: &mut [u8]) {
    let ((a, _), (b, _), (sum, _)) = (a.as_chunks::<4>(), b.as_chunks::<4>(), sum.as_chunks_mut::<4>());
    for ((a, b), sum) in a.iter().zip(b).zip(sum) {
        *sum = (-0.001 * (f32::from_le_bytes(*a) + f32::from_le_bytes(*b))).to_le_bytes();
    }
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().expect("nobody panics while holding it")
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().expect("nobody panics while holding it")
}
