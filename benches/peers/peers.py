"""The other programs, one at a time: `python peers.py PEER WORK BATCH SECONDS DATA` prints samples per second.

Each trains the same model on the same MNIST images (f32, in memory, scaled to 0..1) with plain SGD and momentum 0.9,
and is measured once it runs steadily, start-up and compilation excluded. Where a peer offers several ways, the
fastest one counts.
"""

import gzip
import os
import sys
import time

import numpy as np

CLASSES = 10


def images(data):
    """`[60000, 784]` f32 in 0..1, and `[60000]` i64."""
    with gzip.open(os.path.join(data, "mnist", "train-images-idx3-ubyte.gz")) as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 784)
    with gzip.open(os.path.join(data, "mnist", "train-labels-idx1-ubyte.gz")) as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return (pixels / np.float32(255)).astype(np.float32), labels.astype(np.int64)


def widths(work):
    """`784-512-256-10` as numbers."""
    return [int(width) for width in work.split("-")]


def steady(step, batch, seconds):
    """Samples per second of `step()`, after a second of warming up."""
    end = time.perf_counter() + 1
    while time.perf_counter() < end:
        step()
    steps, start = 0, time.perf_counter()
    while (now := time.perf_counter()) - start < seconds:
        for _ in range(8):
            step()
        steps += 8
    return steps * batch / (time.perf_counter() - start)


def torch_model(work, seed=1):
    import torch

    torch.manual_seed(seed)
    layers = []
    pairs = list(zip(widths(work), widths(work)[1:]))
    for index, (inputs, outputs) in enumerate(pairs):
        layers.append(torch.nn.Linear(inputs, outputs))
        if index + 1 < len(pairs):
            layers.append(torch.nn.ReLU())
    return torch.nn.Sequential(*layers)


def torch_step(model, pixels, labels, batch, first=0, share=None, compiled=False):
    """A step on a batch of samples at random, as every epoch has another order."""
    import torch

    share = share or batch
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, foreach=True)
    loss_of = torch.nn.functional.cross_entropy

    def forward(x, y):
        return loss_of(model(x), y)

    if compiled:
        forward = torch.compile(forward)
    shuffle = torch.Generator().manual_seed(1)
    pixels, labels = torch.from_numpy(pixels), torch.from_numpy(labels)
    order, at = torch.randperm(len(pixels), generator=shuffle), 0

    def step():
        nonlocal order, at
        if at + batch > len(pixels):
            order, at = torch.randperm(len(pixels), generator=shuffle), 0
        mine = order[at + first : at + first + share]
        x, y = pixels[mine], labels[mine]
        at += batch
        optimizer.zero_grad(set_to_none=True)
        forward(x, y).backward()
        optimizer.step()

    return step


def run_torch(work, batch, seconds, data, threads=2):
    import torch

    torch.set_num_threads(threads)
    pixels, labels = images(data)
    best = {"eager": steady(torch_step(torch_model(work), pixels, labels, batch), batch, seconds)}
    try:
        step = torch_step(torch_model(work), pixels, labels, batch, compiled=True)
        best["compiled"] = steady(step, batch, seconds)
    except Exception as error:  # No compiler, or one that it does not like: eager counts.
        print(f"torch.compile: {type(error).__name__}", file=sys.stderr)
    print(f"torch {work} {batch}: {best}", file=sys.stderr)
    return max(best.values())


def ddp_rank(rank, work, batch, seconds, data, port, results):
    import torch

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    pixels, labels = images(data)
    share = batch // 2
    model = torch.nn.parallel.DistributedDataParallel(torch_model(work))
    step = torch_step(model, pixels, labels, batch, first=rank * share, share=share)
    # All ranks must make the same number of steps, which the first one chooses.
    for _ in range(5):
        step()
    start = time.perf_counter()
    for _ in range(10):
        step()
    count = torch.tensor([max(20, int(10 * seconds / (time.perf_counter() - start)))])
    torch.distributed.broadcast(count, 0)
    torch.distributed.barrier()
    start = time.perf_counter()
    for _ in range(int(count)):
        step()
    torch.distributed.barrier()
    if rank == 0:
        results.put(int(count) * batch / (time.perf_counter() - start))
    torch.distributed.destroy_process_group()


def two_ranks(target, *arguments):
    """Runs `target(rank, *arguments, port, results)` in two processes; returns what rank 0 puts into results."""
    import socket

    import torch.multiprocessing as mp

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("spawn")
    results = context.Queue()
    ranks = [context.Process(target=target, args=(rank, *arguments, port, results)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    value = results.get(timeout=300)
    for rank in ranks:
        rank.join()
    return value


def run_ddp(work, batch, seconds, data):
    return two_ranks(ddp_rank, work, batch, seconds, data)


def gloo_rank(rank, size, seconds, port, results):
    import torch

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    tensor = torch.zeros(size // 4)
    times = []
    for _ in range(3):
        torch.distributed.all_reduce(tensor)
    start = time.perf_counter()
    torch.distributed.all_reduce(tensor)
    once = time.perf_counter() - start
    count = torch.tensor([max(10, min(5000, int(seconds / once)))])
    torch.distributed.broadcast(count, 0)
    for _ in range(int(count)):
        start = time.perf_counter()
        torch.distributed.all_reduce(tensor)
        times.append(time.perf_counter() - start)
    torch.distributed.barrier()
    if rank == 0:
        results.put(times)
    torch.distributed.destroy_process_group()


def run_gloo(size, seconds):
    """Median and 99th percentile of an all-reduce of `size` bytes on two ranks, in seconds."""
    times = sorted(two_ranks(gloo_rank, size, seconds))
    return times[len(times) // 2], times[len(times) * 99 // 100]


def run_sklearn(work, batch, seconds, data):
    pixels, labels = images(data)
    classes = np.arange(CLASSES)
    if len(widths(work)) == 2:
        from sklearn.linear_model import SGDClassifier

        # One sample at a time, one class against the rest, without momentum: its own kind of softmax regression.
        model = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.01, n_jobs=2)
    else:
        from sklearn.neural_network import MLPClassifier

        hidden = tuple(widths(work)[1:-1])
        model = MLPClassifier(hidden, solver="sgd", momentum=0.9, nesterovs_momentum=False, alpha=0, batch_size=batch)
    at = 0

    def step():
        nonlocal at
        if at + batch > len(pixels):
            at = 0
        model.partial_fit(pixels[at : at + batch], labels[at : at + batch], classes=classes)
        at += batch

    return steady(step, batch, seconds)


def run_jax(work, batch, seconds, data):
    import jax
    import jax.numpy as jnp

    pixels, labels = images(data)
    rng = np.random.default_rng(1)
    pairs = list(zip(widths(work), widths(work)[1:]))
    weights = [
        (jnp.asarray(rng.normal(0, (2 / i) ** 0.5, (i, o)), jnp.float32), jnp.zeros(o)) for i, o in pairs
    ]
    velocity = jax.tree.map(jnp.zeros_like, weights)

    def loss(weights, x, y):
        for index, (weight, bias) in enumerate(weights):
            x = x @ weight + bias
            if index + 1 < len(weights):
                x = jax.nn.relu(x)
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(x), y[:, None], 1))

    @jax.jit
    def update(weights, velocity, x, y):
        gradient = jax.grad(loss)(weights, x, y)
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, gradient)
        return jax.tree.map(lambda w, v: w - 0.01 * v, weights, velocity), velocity

    batches = [
        (jnp.asarray(pixels[at : at + batch]), jnp.asarray(labels[at : at + batch]))
        for at in range(0, len(pixels) - batch + 1, batch)
    ]
    at = 0

    def step():
        nonlocal at, weights, velocity
        weights, velocity = update(weights, velocity, *batches[at % len(batches)])
        jax.block_until_ready(weights)
        at += 1

    return steady(step, batch, seconds)


def run_vw(work, batch, seconds, data):
    """Vowpal Wabbit on softmax regression: `--oaa`, logistic, one sample at a time, examples parsed beforehand."""
    import vowpalwabbit

    pixels, labels = images(data)
    count = 5000
    model = vowpalwabbit.Workspace("--oaa 10 --loss_function logistic --sgd -b 14 --quiet")
    examples = []
    for row, label in zip(pixels[:count], labels[:count]):
        text = " ".join(f"{i}:{value:.3f}" for i, value in enumerate(row) if value)
        examples.append(model.parse(f"{label + 1} | {text}"))
    start, learned = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        for example in examples:
            model.learn(example)
        learned += count
    return learned / (time.perf_counter() - start)


PEERS = {"torch": run_torch, "ddp": run_ddp, "sklearn": run_sklearn, "jax": run_jax, "vw": run_vw}

if __name__ == "__main__":
    peer, arguments = sys.argv[1], sys.argv[2:]
    if peer == "gloo":
        print(*run_gloo(int(arguments[0]), float(arguments[1])))
    else:
        work, batch, seconds, data = arguments
        print(PEERS[peer](work, int(batch), float(seconds), data))
