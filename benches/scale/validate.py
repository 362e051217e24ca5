"""Compares what `downhill simulate` predicts with real runs on this machine: `python3 validate.py --help`.

Every run consists of one or several servers and of workers, which are separate processes with one thread each and use
TCP. With --link, each process is in its own network namespace, where a token bucket (tc tbf) limits the link to the
given rate in both directions; that needs root. The costs are measured before each block of runs, because shared
machines change by the minute, and never derived from the runs themselves. Disturbed measurements are repeated.
"""

import argparse
import itertools
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / "target" / "release"
NETWORK = "10.77.0"
PORT = 4370
# tbf counts 1514 bytes for a full frame with 1448 bytes of payload. On a real cable, as in `simulate`, it takes 1538.
TBF_FACTOR = 1538 / 1514
# Packets are much smaller than the bucket, or the kernel would split each one into frames, which costs CPU time.
PACKET_BYTES, BUCKET_BYTES = 32_000, 40_000
# A deeper queue delays the acknowledgements of the other direction; a shallower one loses packets when eight workers
# send at once.
QUEUE = "50ms"
# Maximum share of CPU time that other processes may use, and number of attempts if they use more.
OTHERS_SHARE, ATTEMPTS = 0.05, 4

RUN = """
[data]
train = "digits:8192"
[model]
kind = "mlp"
hidden = {hidden}
[train]
epochs = 100000
batch = {batch}
leaf = {leaf}
[optimizer]
momentum = 0.9
[learning_rate]
initial = 0.01
"""


def main():
    arguments = parse()
    # SIGTERM must run the cleanup of processes and namespaces.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as folder, open(arguments.results, "a") as results:
        folder = pathlib.Path(folder)
        for hidden, batch, leaf in map(work, arguments.work):
            run = folder / "run.toml"
            run.write_text(RUN.format(hidden=hidden, batch=batch, leaf=leaf))
            model = "-".join(map(str, [784, *hidden, 10]))
            for link, parts in itertools.product(arguments.link, arguments.parts):
                costs = folder / "costs.json"
                undisturbed(lambda: (costs.unlink(missing_ok=True), simulate(run, costs, link, "1", [1])))
                for row in simulate(run, costs, link, parts, arguments.workers):
                    measured = undisturbed(lambda: measure(arguments, folder, run, link, parts, row))
                    case = {"model": model, "batch": batch, "leaf": leaf, "link": link, "parts": parts}
                    print(json.dumps({**case, **row, "measured": measured}), file=results, flush=True)
    report(arguments.results)


def undisturbed(action):
    """Repeats `action` until other processes use little CPU time meanwhile, and returns its result."""
    for _ in range(ATTEMPTS):
        begun, others = time.monotonic(), -busy_seconds()
        result = action()
        others += busy_seconds()
        share = others / (time.monotonic() - begun) / os.cpu_count()
        if share < OTHERS_SHARE:
            return result
    print(f"disturbed: other processes had {100 * share:.0f} % of the cores", file=sys.stderr)
    return result


def busy_seconds():
    """CPU seconds of all processes except for this one and its children that have ended."""
    user, nice, system = map(int, open("/proc/stat").readline().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


def report(path):
    """Prints the median of each case, over all its results in the file."""
    cases = {}
    for row in map(json.loads, open(path)):
        case = tuple(row[key] for key in ("model", "batch", "leaf", "link", "parts", "workers"))
        cases.setdefault(case, []).append(row)
    print("| model | batch | leaf | link | shards | workers | predicted steps/s | measured | error | waits for |")
    print("| --- | ---: | ---: | --- | --- | ---: | ---: | ---: | ---: | --- |")
    errors = []
    for case, rows in cases.items():
        predicted, measured = (statistics.median(row[key] for row in rows) for key in ("steps_per_second", "measured"))
        errors.append(predicted / measured - 1)
        figures = [f"{predicted:.1f}", f"{measured:.1f}", f"{100 * errors[-1]:+.0f} %", rows[-1]["waits_for"]]
        print("|", " | ".join([*map(str, case), *figures]), "|")
    within, mean = sum(abs(error) <= 0.15 for error in errors), sum(map(abs, errors)) / len(errors)
    turns = max(map(len, cases.values()))
    print(f"\n{within} of {len(errors)} within 15 %, off by {100 * mean:.0f} % on average; medians of {turns} turns.")


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", help="file of JSON lines that is added to; the table is of all that is in it")
    parser.add_argument("--work", nargs="*", default=["512-256:1024:32"], help="hidden widths:batch:leaf")
    parser.add_argument("--link", nargs="+", default=["none"], help="none for loopback, or rates such as 1Gbit")
    parser.add_argument("--parts", nargs="+", default=["1", "2", "colocated"])
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--seconds", type=float, default=1.5, help="of each run, as predicted")
    return parser.parse_args()


def work(text):
    hidden, batch, leaf = text.split(":")
    return [int(width) for width in hidden.split("-")], int(batch), int(leaf)


def simulate(run, costs, link, parts, workers):
    """Predicts steps for each number of workers. Measures the costs if the file `costs` does not exist."""
    command = [PROGRAMS / "downhill", "simulate", run, "--together", "--json", "--quiet", "--shards", parts]
    command += ["--workers", ",".join(map(str, workers)), "--bench" if costs.exists() else "--save", costs]
    if link != "none":
        command += ["--bandwidth", f"{megabits(link) * TBF_FACTOR}Mbit"]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return [row for row in map(json.loads, lines) if "workers" in row]


def megabits(link):
    unit = link.lower().removesuffix("bit")
    return float(unit[:-1]) * {"m": 1, "g": 1000}[unit[-1]]


def measure(arguments, folder, run, link, parts, row):
    """Steps per second of a real run."""
    workers = row["workers"]
    steps = max(10, int(row["steps_per_second"] * arguments.seconds))
    out = folder / f"out-{time.monotonic_ns()}"
    if link == "none":
        loopback(run, out, parts, workers, steps)
    else:
        shaped(run, out, parts, workers, steps, link)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["steps"] == steps, summary
    return steps / summary["seconds"]


def loopback(run, out, parts, workers, steps):
    command = [PROGRAMS / "downhill", "launch", run, "--tcp", "--threads", "1", "--workers", str(workers)]
    command += ["--shards", parts, "--out", out, "--set", f"train.steps={steps}", "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def shaped(run, out, parts, workers, steps, link):
    """Runs the processes of `loopback` in separate network namespaces."""
    servers = 1 if parts == "colocated" else int(parts)
    names = [f"downhill-{index}" for index in range(servers + workers)]
    started = []
    try:
        ip("link add downhill-switch type bridge")
        ip("link set downhill-switch up")
        for index, name in enumerate(names):
            namespace(index, name, link)
        coordinator = f"{NETWORK}.1:{PORT}"
        flags = {"colocated": ["--shards-colocated", str(workers)], "1": []}.get(parts, ["--shard", f"0/{parts}"])
        server = [PROGRAMS / "ps-server", run, "--listen", coordinator, "--insecure", "--quiet", "--out", out]
        server += ["--min-workers", str(workers), "--set", f"train.steps={steps}", *flags]
        started.append(start(names[0], server))
        for index in range(1, servers):
            shard = [PROGRAMS / "ps-server", run, "--listen", f"{NETWORK}.{index + 1}:{PORT}", "--insecure", "--quiet"]
            shard += ["--shard", f"{index}/{parts}", "--coordinator", coordinator, "--set", f"train.steps={steps}"]
            started.append(start(names[index], shard, retry=True))
        for index in range(servers, servers + workers):
            worker = [PROGRAMS / "ps-worker", "--server", coordinator, "--threads", "1", "--quiet"]
            if workers == os.cpu_count():
                # `downhill launch` binds workers in this case as well.
                worker += ["--cpus", str(index - servers)]
            if parts == "colocated":
                worker += ["--host-shard", "--shard-listen", f"{NETWORK}.{index + 1}:0", "--insecure"]
            started.append(start(names[index], worker))
        if started[0].wait(120) != 0:
            sys.exit("the server failed; its message is above")
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait()
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL)
        subprocess.run(["ip", "link", "delete", "downhill-switch"], stderr=subprocess.DEVNULL)


def namespace(index, name, link):
    inside, outside = f"dhi{index}", f"dho{index}"
    ip(f"netns add {name}")
    ip(f"link add {inside} type veth peer name {outside}")
    for end in (inside, outside):
        ip(f"link set {end} gso_max_size {PACKET_BYTES}")
    ip(f"link set {inside} netns {name}")
    ip(f"link set {outside} master downhill-switch up")
    ip(f"-n {name} link set lo up")
    ip(f"-n {name} addr add {NETWORK}.{index + 1}/24 dev {inside}")
    ip(f"-n {name} link set {inside} up")
    bucket = f"root tbf rate {link.lower()} burst {BUCKET_BYTES} latency {QUEUE}"
    call(f"tc qdisc add dev {outside} {bucket}")
    call(f"ip netns exec {name} tc qdisc add dev {inside} {bucket}")


def ip(arguments):
    call(f"ip {arguments}")


def call(command):
    done = subprocess.run(command.split(), stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{command}: {done.stderr.strip()} (shaped links need root, iproute2 and a kernel with veth and tbf)")


def start(namespace, command, retry=False):
    """Starts `command` in a namespace. With `retry`, for shards, until the coordinator is reachable."""
    command = ["ip", "netns", "exec", namespace, *map(str, command)]
    if retry:
        again = 'for try in 1 2 3 4 5 6 7 8 9; do "$@" 2>/dev/null && exit; sleep 0.2; done'
        command = ["sh", "-c", again, "sh", *command]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "DOWNHILL_LOG": "error"})


if __name__ == "__main__":
    main()
