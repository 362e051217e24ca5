//! The sizes of messages, with the reason for each. Those of connections and ports are in [`ps_net::limits`].

use std::ops::Range;

/// Version of the contract in `proto/downhill/v1`; both sides must use the same.
pub const PROTOCOL_VERSION: u32 = 6;

/// Longest message that is accepted. A chunk has at most 1 MiB; the rest leaves room for the metric sums of
/// many classes and for the run file. A longer message is refused before memory is allocated for it.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Longest chunk of a tensor, in bytes: with its header it still fits into one frame.
const MAX_CHUNK_BYTES: usize = (1 << 20) - 4096;

/// Chunk of a small tensor, in bytes: several chunks let sending overlap with receiving.
const SMALL_CHUNK_BYTES: usize = 256 << 10;

/// Tensors up to this many bytes are sent in small chunks.
const SMALL_TENSOR_BYTES: usize = 4 << 20;

/// Longest name and build string of a peer, in bytes: they go to logs and status replies.
pub const MAX_NAME_BYTES: usize = 256;

/// Longest reason and fingerprint of a peer, in bytes: they go to logs, too.
pub const MAX_TEXT_BYTES: usize = 1024;

/// Number of elements per chunk of a tensor of `elements` elements.
pub fn chunk_elements(elements: usize) -> usize {
    let bytes = if elements * 4 < SMALL_TENSOR_BYTES { SMALL_CHUNK_BYTES } else { MAX_CHUNK_BYTES };
    bytes / 4
}

/// The chunks of the elements `kept` of a tensor of `elements` elements.
pub fn chunks(elements: usize, kept: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let size = chunk_elements(elements);
    kept.clone().step_by(size).map(move |start| start..kept.end.min(start + size))
}

/// The elements that shard `shard` of `shards` keeps of a tensor of `elements`: whole chunks, divided as
/// equally as possible. If there are fewer chunks than shards, the last ranges are empty.
pub fn shard_range(elements: usize, shard: u32, shards: u32) -> Range<usize> {
    let size = chunk_elements(elements);
    let chunks = elements.div_ceil(size) as u64;
    let shards = u64::from(shards).min(chunks);
    let start = |shard: u64| elements.min((chunks * shard.min(shards) / shards) as usize * size);
    start(u64::from(shard))..start(u64::from(shard) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ps_net::limits::MAX_FRAME_BYTES;

    #[test]
    fn shard_ranges_are_whole_chunks_and_cover_every_element_once() {
        for elements in [1, 1000, 65_536, 1 << 20, 26_000_000] {
            for shards in [1, 2, 3, 7, 64] {
                let mut next = 0;
                for index in 0..shards {
                    let range = shard_range(elements, index, shards);
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
