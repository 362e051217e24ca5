//! One synchronous round, a server and two workers on loopback, against raw TCP that moves the same bytes.
//!
//! The server is the real one. The workers answer each assignment at once with a gradient made beforehand, so
//! that a round is what server and wire cost: two gradients in, fold, update, two copies of the weights out. The
//! raw rounds do the same additions over plain blocking sockets.

use downhill_benches::median;
use ps_config::RunConfig;
use ps_core::{Node, Tally};
use ps_data::NoProgress;
use ps_proto::stream::{self, Reader, Side};
use ps_proto::v1::parameter_server_client::ParameterServerClient;
use ps_proto::v1::{self, from_server, from_worker};
use ps_proto::{convert, limits, tensor};
use ps_run::{Job, Recorder, Style};
use ps_server::ServerOptions;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Barrier};
use std::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

const WORKERS: usize = 2;

fn main() {
    ps_proto::allocator::keep_large_blocks();
    println!("one round, {WORKERS} workers, loopback; medians over rounds, passes in turn");
    println!("{:>10} {:>7} {:>12} {:>12} {:>7}", "parameters", "rounds", "raw TCP", "gRPC", "ratio");
    for (width, rounds) in [(47, 2000), (500, 300), (1570, 60), (4990, 12)] {
        let mut times = [Vec::new(), Vec::new()];
        let mut parameters = 0;
        for _ in 0..3 {
            let (count, grpc) = grpc_rounds(width, rounds);
            parameters = count;
            times[1].push(grpc);
            times[0].push(raw_rounds(count, rounds));
        }
        let [raw, grpc] = times.map(median);
        let bytes = format!("{:.1} MB", 4e-6 * parameters as f64);
        println!("{bytes:>10} {rounds:>7} {:>9.3} ms {:>9.3} ms {:>7.2}", raw * 1e3, grpc * 1e3, grpc / raw);
    }
}

/// Parameters of a model with two hidden layers of `width`, and the median seconds of a round over gRPC.
fn grpc_rounds(width: usize, rounds: u64) -> (usize, f64) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("two.csv"), "a,b\n1,2\n3,4\n").expect("it can be written to");
    let text = format!(
        "[data]\ntrain = \"csv:two.csv\"\n[model]\nkind = \"mlp\"\nhead = \"squared-error\"\nhidden = [{width}, {width}]\n\
         [train]\nepochs = {rounds}\nbatch = 2\nleaf = 1\n[learning_rate]\ninitial = 0.001\n"
    );
    let run = RunConfig::parse(&text, "bench", &[]).expect("it is valid");
    let job = Job::load(run, folder.path(), None, &NoProgress).expect("its data is there");
    let parameters = job.model.parameters();
    let recorder = Recorder::new(&job, None, Style::Quiet).expect("there is no folder to fail on");
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("it is bound");
    let options = ServerOptions { min_workers: WORKERS as u32, ..ServerOptions::default() };
    let server = std::thread::spawn(move || {
        runtime().block_on(ps_server::run(listener, job, options, recorder, std::future::pending())).is_ok()
    });
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| std::thread::spawn(move || runtime().block_on(worker(address, parameters))))
        .collect();
    let times = workers
        .into_iter()
        .map(|worker| worker.join().expect("it ends"))
        .next_back()
        .expect("there are some");
    assert!(server.join().expect("it ends"), "the run is made to its end");
    let rounds = times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect();
    (parameters, median(rounds))
}

/// Answers assignments until it is sent away; when each one came.
async fn worker(address: SocketAddr, parameters: usize) -> Vec<Instant> {
    let mut channel = Endpoint::from_shared(format!("http://{address}"))
        .expect("an address")
        .max_frame_size(limits::MAX_FRAME_BYTES)
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
        .tcp_nodelay(true)
        .connect()
        .await
        .expect("the server listens");
    let mut client = ParameterServerClient::new(channel.clone())
        .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(limits::MAX_MESSAGE_BYTES);
    let request = v1::JoinRequest {
        protocol_version: limits::PROTOCOL_VERSION,
        worker_name: "bench".into(),
        build: "bench".into(),
        numerics_version: ps_core::NUMERICS_VERSION,
    };
    let reply = client.join(request).await.expect("it answers").into_inner();
    let hello = v1::Hello {
        protocol_version: limits::PROTOCOL_VERSION,
        worker_name: "bench".into(),
        build: "bench".into(),
        fingerprints: reply.expected,
    };
    let (sender, receiver) = tokio::sync::mpsc::channel(4);
    let first = v1::FromWorker { message: Some(from_worker::Message::Hello(hello)) };
    sender.send(Ok(first)).await.expect("the stream takes it");
    let body = stream::body(ReceiverStream::new(receiver), Side::Client);
    let body = stream::call(&mut channel, stream::ROUNDS_PATH, body).await.expect("admitted");
    let mut stream = Reader::<v1::FromServer>::new(body);
    let tally = Tally { samples: 1, ..Tally::default() };
    let mut buffer = vec![0.0_f32; parameters];
    let gradient = tensor::share(vec![0.001; parameters]);
    let mut times = Vec::new();
    // Work may come before the weights it is for.
    let (mut arrived, mut work) = (0, None);
    while let Ok(Some(message)) = stream.message().await {
        match message.message {
            Some(from_server::Message::Weights(chunk)) => {
                let at = chunk.offset as usize;
                let values = &mut buffer[at..at + chunk.weights.len() / 4];
                tensor::read(&chunk.weights, values);
                arrived += values.len();
            }
            Some(from_server::Message::Assign(assign)) => work = Some(assign),
            Some(from_server::Message::Dismissed(_)) => break,
            _ => {}
        }
        if arrived == parameters
            && let Some(assign) = work.take()
        {
            times.push(Instant::now());
            arrived = 0;
            let node = Node::leaf(assign.leaf_start);
            for chunk in convert::node_chunks(assign.step, node, gradient.clone(), 0..parameters) {
                sender.send(Ok(chunk)).await.expect("the stream takes it");
            }
            sender.send(Ok(convert::node_done(assign.step, node, tally.clone()))).await.expect("likewise");
        }
    }
    times
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// The median seconds of a round over plain sockets: a thread for each worker on the server's side.
fn raw_rounds(parameters: usize, rounds: u64) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("it is bound");
    let workers: Vec<_> =
        (0..WORKERS).map(|_| std::thread::spawn(move || raw_worker(address, parameters, rounds))).collect();
    let barrier = Arc::new(Barrier::new(WORKERS));
    let slots: Arc<Vec<_>> =
        Arc::new((0..WORKERS).map(|_| std::sync::RwLock::new(vec![0_u8; 4 * parameters])).collect());
    let servers: Vec<_> = (0..WORKERS)
        .map(|own| {
            let (stream, _) = listener.accept().expect("a worker connects");
            stream.set_nodelay(true).expect("a socket option");
            let (barrier, slots) = (barrier.clone(), slots.clone());
            std::thread::spawn(move || raw_server(stream, own, &barrier, &slots, rounds))
        })
        .collect();
    servers.into_iter().for_each(|server| server.join().expect("it ends"));
    let times = workers
        .into_iter()
        .map(|worker| worker.join().expect("it ends"))
        .next_back()
        .expect("there are some");
    median(times)
}

fn raw_worker(address: SocketAddr, parameters: usize, rounds: u64) -> Vec<f64> {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.set_nodelay(true).expect("a socket option");
    let mut buffer = vec![0_u8; 4 * parameters];
    (0..rounds)
        .map(|_| {
            let start = Instant::now();
            stream.write_all(&buffer).expect("the server reads");
            stream.read_exact(&mut buffer).expect("the server writes");
            start.elapsed().as_secs_f64()
        })
        .collect()
}

/// Reads its worker's gradient; its share of the sum; sends all of the sum.
fn raw_server(
    mut stream: TcpStream,
    own: usize,
    barrier: &Barrier,
    slots: &[std::sync::RwLock<Vec<u8>>],
    rounds: u64,
) {
    let len = slots[0].read().expect("no panic").len();
    let mut sum = vec![0_u8; len];
    for _ in 0..rounds {
        stream.read_exact(&mut slots[own].write().expect("no panic")).expect("the worker writes");
        barrier.wait();
        let gradients: Vec<_> = slots.iter().map(|slot| slot.read().expect("no panic")).collect();
        for (at, sum) in sum.chunks_exact_mut(4).enumerate() {
            let value =
                |slot: &[u8]| f32::from_le_bytes(slot[4 * at..4 * at + 4].try_into().expect("four bytes"));
            let total: f32 = gradients.iter().map(|slot| value(slot)).sum();
            sum.copy_from_slice(&(-0.001 * total).to_le_bytes());
        }
        drop(gradients);
        barrier.wait();
        stream.write_all(&sum).expect("the worker reads");
    }
}
