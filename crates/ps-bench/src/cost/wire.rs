//! Costs of sending chunks and small messages over our stream on loopback, with one thread at each end.

use crate::cost::time::{Passing, median};
use crate::raw::Way;
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
    let Seconds { passed, here, there } =
        middle(|stream| (0..PINGS).for_each(|_| stream.there_and_back(&nothing, 0)))?;
    // Each end sends one message and receives one.
    costs.message = (here + there) / 4.0 / PINGS as f64;
    costs.wire_wake = (passed / 2.0 / PINGS as f64 - 2.0 * costs.message).max(0.0);
    Ok(())
}

/// Measures the chunks of a gradient, sent one after the other, repeatedly.
pub(crate) fn measure_chunks(parameters: usize, costs: &mut Costs) -> io::Result<()> {
    let gradient = tensor::share(vec![0.001; parameters]);
    let Seconds { here, there, .. } = middle(|stream| stream.there_and_back(&gradient, 1))?;
    let bytes = (parameters * 4) as f64;
    (costs.send_byte, costs.receive_byte) = (here / bytes, there / bytes);
    Ok(())
}

/// Elapsed seconds, and seconds of CPU time of the threads at both ends.
struct Seconds {
    passed: f64,
    here: f64,
    there: f64,
}

/// Medians over all turns, each of which starts with cold caches.
fn middle(turn: impl Fn(&mut Stream)) -> io::Result<Seconds> {
    let mut stream = Stream::new(Way::Tcp, one_thread()?, Chunks::Keep)?;
    let mut passing = Passing::default();
    (0..FIRST_TURNS).for_each(|_| turn(&mut stream));
    let mut turns = Vec::new();
    for _ in 0..TURNS {
        passing.pass();
        let ([here, there], begun) = (stream.busy(), Instant::now());
        turn(&mut stream);
        let passed = begun.elapsed().as_secs_f64();
        let [here_after, there_after] = stream.busy();
        turns.push([passed, here_after - here, there_after - there]);
    }
    let [passed, here, there] = [0, 1, 2].map(|which| median(turns.iter().map(|turn| turn[which]).collect()));
    Ok(Seconds { passed, here, there })
}
