//! Sockets of this machine, bare and with our stream on top.

use crate::raw::Transport;
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
        let names: Vec<[String; 2]> = Transport::ALL
            .iter()
            .map(|transport| {
                let ours = if *transport == Transport::Tcp {
                    "grpc".to_owned()
                } else {
                    format!("grpc-{}", transport.name())
                };
                [transport.name(), &ours].map(|name| format!("wire/{name}/{what}"))
            })
            .collect();
        if !names.iter().flatten().any(|name| bench.is_selected(name)) {
            continue;
        }
        let bytes = bench.effort().pick(128, 16) << 20;
        let failed = |why: &dyn std::fmt::Display| Error::failed(&format!("the wire's {what}"), why);
        let mut entrants = Vec::new();
        for (transport, [bare, ours]) in Transport::ALL.iter().zip(&names) {
            let ends = (|| {
                let bare = Bare::new(*transport, if what == "latency" { PING_BYTES } else { bytes })?;
                Ok((bare, Stream::new(*transport, transport::runtime()?, Chunks::Drop)?))
            })();
            let (mut socket, mut stream) = ends.map_err(|error: io::Error| failed(&error))?;
            entrants.push(Entrant::new(bare, move || socket.round_trip()));
            let gradient = tensor::share(vec![1.0; BLOCK_BYTES / 4 * 8]);
            let times = if what == "latency" { 0 } else { bytes / gradient.len() };
            entrants.push(Entrant::new(ours, move || stream.round_trip(&gradient, times)));
        }
        let times = race(&mut entrants, bench.effort());
        drop(entrants);
        for ([bare, ours], times) in names.iter().zip(times.chunks(2)) {
            let [other, own] = [times[0], times[1]].map(|time| match what {
                "latency" => time / 2.0 * 1e6,
                _ => bytes as f64 / time / 1e9,
            });
            bench.report(Measurement::new(bare, other, unit))?;
            bench.report(Measurement::new(ours, own, unit).against(bare, other))?;
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
    fn new(transport: Transport, bytes: usize) -> io::Result<Self> {
        let [near, mut far] = transport.pair()?;
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

    fn round_trip(&mut self) {
        for _ in 0..self.bytes / self.block.len() {
            self.socket.write_all(&self.block).expect("the other end reads");
        }
        self.socket.read_exact(&mut self.block[..PING_BYTES]).expect("the other end writes");
    }
}
