//! Every size, window and timeout of connections and of all ports (calls, health, metrics and the dashboard),
//! each with the reason for its value.

use std::time::Duration;

/// Longest HTTP/2 frame. The one setting that matters for large tensors: 16 KiB frames, the default, halve
/// the throughput, frames above 1 MiB gain nothing. Both sides set it.
pub const MAX_FRAME_BYTES: u32 = 1 << 20;

/// What one stream may send before the receiver has read it: a few chunks, so that the sender never waits for
/// the receiver's next read, and no more, since the memory is per worker.
pub const STREAM_WINDOW_BYTES: u32 = 4 << 20;

/// What all streams of a connection may send before the receiver has read it: the stream of the rounds and
/// a few pulls.
pub const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Maximum number of workers: each costs a buffer of the size of the model while its node arrives.
pub const MAX_WORKERS: usize = 1024;

/// Maximum number of concurrent streams on one connection: the rounds, and a few unary calls beside them.
pub const MAX_STREAMS_PER_CONNECTION: u32 = 16;

/// Maximum number of connections for calls: all workers, as many shards, and clients that ask for the status.
pub const MAX_CONNECTIONS: usize = 2 * MAX_WORKERS;

/// Connections for calls from one address, so that one machine cannot use up all of them. `downhill
/// launch` starts fewer.
const MAX_CONNECTIONS_PER_ADDRESS: usize = 512;

/// Maximum number of connections to the page: a few dozen viewers, each with a stream of events and a handful
/// of requests beside it.
const MAX_PAGE_CONNECTIONS: usize = 128;

/// Maximum number of connections to the metrics: a scraper needs one.
const MAX_METRICS_CONNECTIONS: usize = 64;

/// Maximum number of connections to the health service: a supervisor needs one, for less than a second.
const MAX_HEALTH_CONNECTIONS: usize = 32;

/// Files that are reserved for the process itself: listeners, data, checkpoints, logs, and connections
/// that it opens.
const OWN_FILES: u64 = 48;

/// The number of connections that a port accepts at the same time. If the process may open only a few
/// files, each port has a fixed share of them, so that no port uses up the files that another port or
/// a checkpoint needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Limit in total.
    pub all: usize,
    /// Limit per address, so that one machine cannot use up all of them.
    pub of_one_address: usize,
}

impl Capacity {
    /// Capacity of the port for calls, in a process that may open `open_files` files.
    pub fn of_calls(open_files: u64) -> Self {
        let Capacity { all, of_one_address } = Capacity::share(open_files, 20, MAX_CONNECTIONS);
        Capacity { all, of_one_address: of_one_address.min(MAX_CONNECTIONS_PER_ADDRESS) }
    }

    /// Capacity of the page's port.
    pub fn of_page(open_files: u64) -> Self {
        Capacity::share(open_files, 4, MAX_PAGE_CONNECTIONS)
    }

    /// Capacity of the port for metrics.
    pub fn of_metrics(open_files: u64) -> Self {
        Capacity::share(open_files, 2, MAX_METRICS_CONNECTIONS)
    }

    /// Capacity of the health service's port.
    pub fn of_health(open_files: u64) -> Self {
        Capacity::share(open_files, 1, MAX_HEALTH_CONNECTIONS)
    }

    /// `share` 32nds of the files, at most `most`, and half of that from one address. The ports together get
    /// 27 of the 32.
    fn share(open_files: u64, share: u64, max: usize) -> Self {
        let files = open_files.saturating_sub(OWN_FILES) / 32 * share;
        let all = usize::try_from(files).unwrap_or(usize::MAX).clamp(2, max);
        Capacity { all, of_one_address: all.div_ceil(2) }
    }
}

/// Maximum number of concurrent event streams to pages: a quarter of the connections, so that a page can
/// always be opened, even if many streams are never read. The newest replaces the oldest; a browser whose
/// stream ends opens another automatically.
pub fn event_streams(page: Capacity) -> usize {
    page.all.div_ceil(4)
}

/// How long a connection to the page or the metrics may take to send the headers of its first or next
/// request: a browser sends them at once, and a scraper that returns later opens another connection.
pub const PAGE_HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a request to the page may take until its body is complete and the answer begins.
pub const PAGE_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a reader of the page, the metrics or a result may accept no data while some is waiting for it.
pub const PAGE_STALL_TIMEOUT: Duration = Duration::from_secs(20);

/// Memory for a request to the page, and for a file or stream on its way to a reader, whatever it asks for.
/// Headers with a token fit in.
pub const PAGE_BUFFER_BYTES: usize = 64 << 10;

/// Longest body of a request to the page: the form with a token, of which each byte may be written as three.
pub const MAX_FORM_BYTES: usize = 4 * MAX_TOKEN_BYTES;

/// Maximum age of a connection to the health service: each probe opens a new one, and connections that stay
/// must not exclude it.
pub const HEALTH_CONNECTION_AGE: Duration = Duration::from_secs(60);

/// How long a connection may take until one of its calls is admitted: TCP, TLS, HTTP/2 and headers together.
/// Bounds what a peer that sends nothing, or a byte now and then, can occupy.
pub const ADMISSION_TIMEOUT: Duration = Duration::from_secs(10);

/// Headers of one call, in bytes: a token, and what gRPC needs.
pub const MAX_HEADER_BYTES: u32 = 16 << 10;

/// Maximum number of streams on one connection that the peer has reset before they were handled; exceeding it
/// ends the connection.
pub const MAX_PENDING_RESETS: usize = 20;

/// Maximum number of streams on one connection that were reset because the peer violated the protocol, for
/// example by opening too many; exceeding it ends the connection.
pub const MAX_ERROR_RESETS: usize = 128;

/// Time limit for a unary call, including its body and the driver's answer.
pub const UNARY_TIMEOUT: Duration = Duration::from_secs(30);

/// Time limit until the answer to a pull of all weights begins: shards may have to be asked for theirs.
pub const PULL_TIMEOUT: Duration = Duration::from_secs(90);

/// Maximum number of concurrent pulls of all weights: each keeps a copy of the model alive until its
/// reader is done.
pub const MAX_PULLS: usize = 8;

/// Shortest token: no shorter one is safe from guessing.
pub(crate) const MIN_TOKEN_BYTES: usize = 16;

/// Longest token: with the other headers it stays below [`MAX_HEADER_BYTES`].
pub(crate) const MAX_TOKEN_BYTES: usize = 4096;

/// Interval at which a token file is checked for changes.
pub(crate) const TOKEN_FILE_INTERVAL: Duration = Duration::from_secs(1);

/// Bound of the queue from all workers to the driver: enough to keep it busy, but small enough that a driver
/// in the middle of an update holds at most 64 MiB of chunks and pushes back on the connections.
pub const INBOX_MESSAGES: usize = 64;

/// Bound of the queue of messages to one worker. A round needs two or three; a worker that is this far behind
/// is not draining its stream and is dropped.
pub const OUTBOX_MESSAGES: usize = 64;

/// How long messages may wait for a worker whose connection accepts none. A slow link only skips some
/// weights, because newer ones replace older ones in the queue, but a worker that accepts nothing at
/// all is dropped.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Time limit for opening a TCP connection.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time limit for the answer to a unary call or to `Hello`: a server that is loading its data answers late, a
/// peer that is not a Downhill server never.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Time limit for `Hello` on an open stream.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Time limit for the weights of all shards.
pub const SHARD_ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Interval of HTTP/2 pings, which reveal a dead connection while nothing is sent.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How long a ping may stay unanswered before the connection counts as dead.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a server that is done waits for its workers to close their streams, and how long it keeps reading
/// from a worker that it has sent away.
pub const FAREWELL_TIMEOUT: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_limits_leave_open_files_for_the_process() {
        let capacities = |files| {
            [
                Capacity::of_calls(files),
                Capacity::of_page(files),
                Capacity::of_metrics(files),
                Capacity::of_health(files),
            ]
        };
        for files in 80..5000 {
            let all: usize = capacities(files).iter().map(|capacity| capacity.all).sum();
            assert!(all as u64 + OWN_FILES <= files + 8, "{files}: {all}");
        }
        for files in [0, 1, 64, 256, 1024, 4096, u64::MAX] {
            for Capacity { all, of_one_address } in capacities(files) {
                assert!(of_one_address > 0 && of_one_address < all, "{files}");
            }
        }
        let max = [MAX_CONNECTIONS, MAX_PAGE_CONNECTIONS, MAX_METRICS_CONNECTIONS, MAX_HEALTH_CONNECTIONS];
        assert_eq!(capacities(4096).map(|capacity| capacity.all), max);
        // The usual limit is enough for hundreds of workers.
        assert_eq!(capacities(1024).map(|capacity| capacity.all), [600, 120, 60, 30]);
    }
}
