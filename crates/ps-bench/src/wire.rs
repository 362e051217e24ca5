//! Sockets of this machine, bare and with our stream on top.

use crate::raw::Way;
use crate::stream::{Chunks, Stream};
use crate::{Bench, Entrant, Error, Measurement, race};
use ps_proto::tensor;
use ps_shard::transport;
use std::io::{self, Read, Write};

/// Size of a message of the ping-pong, in bytes.
const PING_BYTES: usize = 64;

/// Number of bytes per write.
const BLOCK_BYTES: usize = 1 << 20;

pub(crate) fn measure(bench: &mut Bench) -> Result<(), Error> {
    for (what, unit) in [("latency", "us"), ("bandwidth", "GB/s")] {
        let names: Vec<[String; 2]> = Way::ALL
            .iter()
            .map(|way| {
                let ours = if *way == Way::Tcp { "grpc".to_owned() } else { format!("grpc-{}", way.name()) };
                [way.name(), &ours].map(|way| format!("wire/{way}/{what}"))
            })
            .collect();
        if !names.iter().flatten().any(|name| bench.wants(name)) {
            continue;
        }
        let bytes = bench.effort().pick(128, 16) << 20;
        let failed = |why: &dyn std::fmt::Display| Error::failed(&format!("the wire's {what}"), why);
        let mut entrants = Vec::new();
        for (way, [bare, ours]) in Way::ALL.iter().zip(&names) {
            let ends = (|| {
                let bare = Bare::new(*way, if what == "latency" { PING_BYTES } else { bytes })?;
                Ok((bare, Stream::new(*way, transport::runtime()?, Chunks::Drop)?))
            })();
            let (mut socket, mut stream) = ends.map_err(|error: io::Error| failed(&error))?;
            entrants.push(Entrant::new(bare, move || socket.there_and_back()));
            let gradient = tensor::share(vec![1.0; BLOCK_BYTES / 4 * 8]);
            let times = if what == "latency" { 0 } else { bytes / gradient.len() };
            entrants.push(Entrant::new(ours, move || stream.there_and_back(&gradient, times)));
        }
        let times = race(&mut entrants, bench.effort());
        drop(entrants);
        for ([bare, ours], times) in names.iter().zip(times.chunks(2)) {
            let [other, own] = [times[0], times[1]].map(|time| match what {
                "latency" => time / 2.0 * 1e6,
                _ => bytes as f64 / time / 1e9,
            });
            bench.tell(Measurement::new(bare, other, unit))?;
            bench.tell(Measurement::new(ours, own, unit).against(bare, other))?;
        }
    }
    Ok(())
}

/// A bare socket, with a thread at its far end.
struct Bare {
    socket: Box<dyn crate::raw::Socket>,
    bytes: usize,
    block: Vec<u8>,
}

impl Bare {
    /// Opens a socket. An exchange sends `bytes` bytes; the last [`PING_BYTES`] of them are sent back.
    fn new(way: Way, bytes: usize) -> io::Result<Self> {
        let [near, mut far] = way.pair()?;
        std::thread::spawn(move || {
            let mut block = vec![0; BLOCK_BYTES.min(bytes)];
            loop {
                for _ in 0..bytes / block.len() {
                    // An error means that the near end has closed the connection.
                    if far.read_exact(&mut block).is_err() {
                        return;
                    }
                }
                if far.write_all(&block[..PING_BYTES]).is_err() {
                    return;
                }
            }
        });
        Ok(Bare { socket: near, bytes, block: vec![1; BLOCK_BYTES.min(bytes)] })
    }

    fn there_and_back(&mut self) {
        for _ in 0..self.bytes / self.block.len() {
            self.socket.write_all(&self.block).expect("the other end reads");
        }
        self.socket.read_exact(&mut self.block[..PING_BYTES]).expect("the other end writes");
    }
}
