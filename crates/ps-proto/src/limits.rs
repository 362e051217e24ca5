//! Every size, window and wait of the wire, each with the reason for its value.

use std::ops::Range;
use std::time::Duration;

/// Version of the contract in `proto/downhill/v1`; both sides must speak the same.
pub const PROTOCOL_VERSION: u32 = 5;

/// Longest HTTP/2 frame. The one setting that matters for large tensors: 16 KiB frames, the default, halve the
/// throughput, frames above 1 MiB gain nothing. Both sides set it.
pub const MAX_FRAME_BYTES: u32 = 1 << 20;

/// What one stream may send before the receiver has read it: a few chunks, so that the sender never waits for
/// the receiver's next read, and no more, since the memory is per worker.
pub const STREAM_WINDOW_BYTES: u32 = 4 << 20;

/// The same for a whole connection: the stream of the rounds and some pulls beside it.
pub const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Longest message that is read. A chunk is at most 1 MiB; the rest is room for the tally of many classes and
/// for the run file. Anything longer is refused before memory is taken for it.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Longest chunk of a tensor, in bytes: with its header it still fits into one frame.
pub const MAX_CHUNK_BYTES: usize = (1 << 20) - 4096;

/// Chunk of a small tensor, in bytes: several chunks overlap sending with receiving.
const SMALL_CHUNK_BYTES: usize = 256 << 10;

/// Tensors up to this many bytes are sent in small chunks.
const SMALL_TENSOR_BYTES: usize = 4 << 20;

/// Longest name and build text of a peer, in bytes: it goes to logs and status replies.
pub const MAX_NAME_BYTES: usize = 256;

/// Longest reason and fingerprint of a peer, in bytes, likewise.
pub const MAX_TEXT_BYTES: usize = 1024;

/// Workers at once: each costs a buffer of the size of the model while its node arrives.
pub const MAX_WORKERS: usize = 1024;

/// Streams at once on one connection: the rounds, and a few unary calls beside them.
pub const MAX_STREAMS_PER_CONNECTION: u32 = 16;

/// Connections at once: all workers, as many shards, and those who ask for the status; also a bound on open files.
pub const MAX_CONNECTIONS: usize = 2 * MAX_WORKERS;

/// The same from one address, so that no machine takes all places: more than `launch` starts there.
pub const MAX_CONNECTIONS_PER_ADDRESS: usize = 512;

/// Until a connection must have brought a call that was let in: TCP, TLS, HTTP/2 and headers together. Whoever sends
/// nothing, or a byte now and then, is gone after that.
pub const ADMISSION_TIMEOUT: Duration = Duration::from_secs(10);

/// Headers of one call, in bytes: a token, and what gRPC needs.
pub const MAX_HEADER_BYTES: u32 = 16 << 10;

/// Streams of one connection that the peer has reset before they were looked at; more end the connection.
pub const MAX_PENDING_RESETS: usize = 20;

/// Streams of one connection that were reset because the peer broke the rules, such as by opening too many; more end
/// the connection.
pub const MAX_ERROR_RESETS: usize = 128;

/// Until a unary call is answered, its body and the driver's answer included.
pub const UNARY_TIMEOUT: Duration = Duration::from_secs(30);

/// Until a pull of all weights begins to be answered: shards may have to be asked for theirs.
pub const PULL_TIMEOUT: Duration = Duration::from_secs(90);

/// Pulls of all weights at once: each keeps a copy of the model alive until its reader is done.
pub const MAX_PULLS: usize = 8;

/// Shortest token: no shorter one is safe from guessing.
pub const MIN_TOKEN_BYTES: usize = 16;

/// Longest token: with the other headers it stays below [`MAX_HEADER_BYTES`].
pub const MAX_TOKEN_BYTES: usize = 4096;

/// A changed file of tokens is noticed this soon.
pub const TOKEN_FILE_INTERVAL: Duration = Duration::from_secs(1);

/// Messages from all workers that wait for the driver: enough to keep it busy, little enough that a driver in
/// the middle of an update holds at most 64 MiB of chunks and pushes back on the connections.
pub const INBOX_MESSAGES: usize = 64;

/// Messages that wait for one worker. A round costs two or three; a worker that is this far behind is not
/// draining its stream and is dropped.
pub const OUTBOX_MESSAGES: usize = 64;

/// How long messages may wait for a worker whose connection takes none of them: newer weights replace older
/// ones meanwhile, so a slow link just skips some, but a worker that takes nothing at all is dropped.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Until a TCP connection stands.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Until a unary call, or the answer to `Hello`, is there: a server that is loading its data answers late, one
/// that is not ours never.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Until `Hello` must have come on an open stream.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Until all shards have answered with their weights.
pub const SHARD_ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// HTTP/2 pings on a connection: how an unplugged cable is found while nothing is sent.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// How long a ping may stay unanswered before the connection counts as dead.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a server that is done waits for its workers to take their leave before it closes on them, and for a worker
/// that it has sent away before it stops listening to it.
pub const FAREWELL_TIMEOUT: Duration = Duration::from_secs(3);

/// Elements of a chunk of a tensor of `elements` elements.
pub fn chunk_elements(elements: usize) -> usize {
    let bytes = if elements * 4 < SMALL_TENSOR_BYTES { SMALL_CHUNK_BYTES } else { MAX_CHUNK_BYTES };
    bytes / 4
}

/// The elements that part `part` of `parts` keeps of a tensor of `elements`: whole chunks, as equal as can be. Where
/// there are fewer chunks than parts, the last parts keep none.
pub fn part(elements: usize, part: u32, parts: u32) -> Range<usize> {
    let size = chunk_elements(elements);
    let chunks = elements.div_ceil(size) as u64;
    let parts = u64::from(parts).min(chunks);
    let start = |part: u64| elements.min((chunks * part.min(parts) / parts) as usize * size);
    start(u64::from(part))..start(u64::from(part) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_whole_chunks_and_cover_all_once() {
        for elements in [1, 1000, 65_536, 1 << 20, 26_000_000] {
            for parts in [1, 2, 3, 7, 64] {
                let mut next = 0;
                for index in 0..parts {
                    let range = part(elements, index, parts);
                    assert!(
                        range.start == next
                            && (range.start == elements
                                || range.start.is_multiple_of(chunk_elements(elements)))
                    );
                    next = range.end;
                }
                assert_eq!(next, elements);
            }
        }
    }

    #[test]
    fn a_chunk_with_its_header_fits_into_one_frame_and_one_message() {
        for elements in [1, 1 << 20, 1 << 28] {
            assert!(chunk_elements(elements) * 4 <= MAX_CHUNK_BYTES);
        }
        assert!(MAX_CHUNK_BYTES + 1024 < MAX_FRAME_BYTES as usize);
        assert!(MAX_FRAME_BYTES as usize <= MAX_MESSAGE_BYTES);
    }
}
