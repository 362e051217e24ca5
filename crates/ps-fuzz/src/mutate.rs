//! Derives inputs from others, for tests that run without a fuzzer.

use ps_plan::seed::Stream;

/// Byte strings that parsers treat specially.
const TOKENS: [&[u8]; 16] = [
    b"\0",
    b"\n",
    b"\r\n",
    b",",
    b"\"",
    b":",
    b"=",
    b"[",
    b"]",
    b"#",
    b"nan",
    b"-1",
    b"1e39",
    b"\xff\xff\xff\xff",
    b"\x80\0\0\0",
    b"18446744073709551615",
];

/// Maximum length of a derived input.
const MAX_BYTES: usize = 4096;

/// Returns `input` with up to four random changes. `other` is another input, from which parts are copied.
pub fn mutate(random: &mut Stream, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(4) {
        change(random, &mut bytes, other);
    }
    bytes.truncate(MAX_BYTES);
    bytes
}

fn change(random: &mut Stream, bytes: &mut Vec<u8>, other: &[u8]) {
    let mut below = |bound: usize| random.below(bound as u32) as usize;
    let kind = below(8);
    if bytes.is_empty() {
        bytes.extend(other);
        return;
    }
    let at = below(bytes.len());
    let length = 1 + below((bytes.len() - at).min(16));
    match kind {
        0 => bytes[at] ^= 1 << below(8),
        1 => bytes[at] = below(256) as u8,
        2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][below(5)],
        3 => drop(bytes.drain(at..at + length)),
        4 => bytes.truncate(at),
        5 => {
            let again = bytes[at..at + length].to_vec();
            let times = 1 + below(4);
            drop(bytes.splice(at..at, again.repeat(times)));
        }
        6 => drop(bytes.splice(at..at, TOKENS[below(TOKENS.len())].iter().copied())),
        _ if other.is_empty() => {}
        _ => {
            let from = below(other.len());
            let length = 1 + below((other.len() - from).min(64));
            let end = (at + length * below(2)).min(bytes.len());
            drop(bytes.splice(at..end, other[from..from + length].iter().copied()));
        }
    }
}
