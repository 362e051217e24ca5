//! Costs of sending chunks and small messages over our stream on loopback, with one thread at each end.

use crate::cost::time::{CacheEvictor, median};
use crate::raw::Transport;
use crate::stream::{Chunks, Stream, one_thread};
use bytes::Bytes;
use ps_proto::tensor;
use ps_scale::Costs;
use std::io;
use std::time::Instant;

const PINGS: usize = 500;
/// Number of measurements of pings, and of a tensor. Before them, buffers are allocated and TCP windows grow.
const TURNS: usize = 7;
const FIRST_TURNS: usize = 2;

/// Measures small messages in a ping-pong, on an otherwise idle machine.
pub(crate) fn measure_messages(costs: &mut Costs) -> io::Result<()> {
    let nothing = Bytes::new();
    let Seconds { elapsed, sender, receiver } =
        median_of_turns(|stream| (0..PINGS).for_each(|_| stream.round_trip(&nothing, 0)))?;
    // Each end sends one message and receives one.
    costs.message = (sender + receiver) / 4.0 / PINGS as f64;
    costs.wire_wake = (elapsed / 2.0 / PINGS as f64 - 2.0 * costs.message).max(0.0);
    Ok(())
}

/// Measures the chunks of a gradient, sent one after the other, repeatedly.
pub(crate) fn measure_chunks(parameters: usize, costs: &mut Costs) -> io::Result<()> {
    let gradient = tensor::share(vec![0.001; parameters]);
    let Seconds { sender, receiver, .. } = median_of_turns(|stream| stream.round_trip(&gradient, 1))?;
    let bytes = (parameters * 4) as f64;
    (costs.send_byte, costs.receive_byte) = (sender / bytes, receiver / bytes);
    Ok(())
}

/// Elapsed seconds, and seconds of CPU time of the threads at both ends.
struct Seconds {
    elapsed: f64,
    sender: f64,
    receiver: f64,
}

/// Medians over all turns, each of which starts with cold caches.
fn median_of_turns(turn: impl Fn(&mut Stream)) -> io::Result<Seconds> {
    let mut stream = Stream::new(Transport::Tcp, one_thread()?, Chunks::Keep)?;
    let mut evictor = CacheEvictor::default();
    (0..FIRST_TURNS).for_each(|_| turn(&mut stream));
    let mut turns = Vec::new();
    for _ in 0..TURNS {
        evictor.evict();
        let ([sender, receiver], begun) = (stream.busy(), Instant::now());
        turn(&mut stream);
        let elapsed = begun.elapsed().as_secs_f64();
        let [sender_after, receiver_after] = stream.busy();
        turns.push([elapsed, sender_after - sender, receiver_after - receiver]);
    }
    let [elapsed, sender, receiver] =
        [0, 1, 2].map(|which| median(turns.iter().map(|turn| turn[which]).collect()));
    Ok(Seconds { elapsed, sender, receiver })
}
