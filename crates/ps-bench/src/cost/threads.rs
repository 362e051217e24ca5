//! Cost of a message from one thread of a process to another one that is asleep.

use crate::cost::time::thread_seconds;
use crate::stream::one_thread;
use ps_scale::Costs;
use std::io;
use std::time::Instant;
use tokio::sync::mpsc;

const ROUNDS: u32 = 500;

pub(crate) fn measure(costs: &mut Costs) -> io::Result<()> {
    let (here, there) = (one_thread()?, one_thread()?);
    let (ping, mut pinged) = mpsc::channel::<()>(1);
    let (pong, mut ponged) = mpsc::channel::<()>(1);
    let answering = std::thread::spawn(move || {
        there.block_on(async { while pinged.recv().await.is_some() && pong.send(()).await.is_ok() {} });
    });
    let seconds = here.block_on(async {
        let (mut begun, start) = (Instant::now(), Instant::now());
        let mut busy = 0.0;
        for round in 0..2 * ROUNDS {
            if round == ROUNDS {
                (begun, busy) = (Instant::now(), thread_seconds(start));
            }
            if ping.send(()).await.is_err() || ponged.recv().await.is_none() {
                return None;
            }
        }
        Some([begun.elapsed().as_secs_f64(), thread_seconds(start) - busy])
    });
    drop(ping);
    let ended = answering.join().is_ok();
    let [passed, busy] =
        seconds.filter(|_| ended).ok_or_else(|| io::Error::other("the thread that was to answer did not"))?;
    // In each round, each thread sends one message and receives one.
    costs.switch = busy / f64::from(ROUNDS);
    costs.handoff = (passed / f64::from(2 * ROUNDS) - costs.switch).max(0.0);
    Ok(())
}
