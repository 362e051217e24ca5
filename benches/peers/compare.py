"""Downhill and its peers in turn on this machine: `python compare.py --help`.

Prints a table of medians over turns and their ratios; `--json` adds one JSON line each. Nothing is left out: a ratio
below 1 is a loss.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import peers

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent

# Work, batch, and how many times as fast as PyTorch we want to be: in one process, and distributed.
WORKS = [
    ("784-10", 64, 8, 5),
    ("784-10", 1024, 4, 4),
    ("784-16-16-10", 64, 8, 5),
    ("784-128-10", 128, 2, 2.5),
    ("784-512-256-10", 64, 1.5, 2),
    ("784-512-256-10", 1024, 1.25, 1.5),
    ("784-2048-2048-10", 64, 1.4, 1.3),
    ("784-2048-2048-10", 1024, 1.3, 1.3),
]
OTHERS = [("784-10", 64), ("784-10", 1024), ("784-512-256-10", 64), ("784-512-256-10", 1024)]


def run_file(work, batch, steps, data, leaf=64):
    hidden = peers.widths(work)[1:-1]
    model = f'kind = "mlp"\nhidden = {hidden}' if hidden else 'kind = "softmax"'
    mnist = os.path.join(data, "mnist")
    images = f"{mnist}/train-images-idx3-ubyte.gz,{mnist}/train-labels-idx1-ubyte.gz"
    return (
        f'[data]\ntrain = "idx:{images}"\n[model]\n{model}\n'
        f"[train]\nepochs = 1000000\nbatch = {batch}\nleaf = {min(leaf, batch)}\nsteps = {steps}\n"
        "[optimizer]\nmomentum = 0.9\n[learning_rate]\ninitial = 0.01\n"
    )


def downhill(command, work, batch, seconds, data, flags, hint, leaf=64):
    """Samples per second of `downhill COMMAND`, run for about `seconds`. `hint` is the previous result."""
    steps = max(30, int(hint * seconds / batch))
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "run.toml")
        path.write_text(run_file(work, batch, steps, data, leaf))
        program = ROOT / "target" / "release" / "downhill"
        out = pathlib.Path(folder, "out")
        done = subprocess.run(
            [program, command, path, "--quiet", "--out", out, *flags], capture_output=True, text=True
        )
        if done.returncode != 0:
            sys.exit(f"downhill {command} failed:\n{done.stderr}")
        return json.loads((out / "summary.json").read_text())["samples_per_second"]


def peer(name, *arguments):
    """The numbers that `peers.py` prints, run as a separate process; None if it fails."""
    command = [sys.executable, HERE / "peers.py", name, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "2"})
    if done.returncode != 0:
        print(f"{name}: failed: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return [float(value) for value in done.stdout.split()]


def in_turn(turns, ours, theirs):
    """Median rates of both, which take turns."""
    mine, others = [], []
    hint = ours(2000.0, 0.5)
    for _ in range(turns):
        hint = ours(hint, None)
        mine.append(hint)
        other = theirs()
        if other is None:
            return statistics.median(mine), None
        others.append(other[0])
    return statistics.median(mine), statistics.median(others)


def report(rows, name, value, other, unit, aim, as_json):
    ratio = value / other if other else None
    rows.append((name, value, other, ratio, aim))
    shown = f"{ratio:8.2f}" if ratio else "       -"
    aimed = "" if aim is None else f"{aim:6.2f} {'reached' if ratio and ratio >= aim else 'missed'}"
    print(f"{name:52} {value:12,.0f} {other or float('nan'):12,.0f} {shown} {aimed}", flush=True)
    if as_json:
        line = {"name": name, "value": value, "unit": unit, "peer": other, "ratio": ratio, "aim": aim}
        print(json.dumps(line), flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=str(ROOT.parent / "shared" / "data"), help="folder that holds mnist/")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--quick", action="store_true", help="one turn of one second")
    parser.add_argument("--only", choices=["one", "ddp", "others", "gloo"], action="append")
    parser.add_argument("--launch-flags", default="", help='for `downhill launch`, such as "--shards colocated"')
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.turns, arguments.seconds = 1, 1.0
    parts = arguments.only or ["one", "ddp", "others", "gloo"]
    seconds, data = arguments.seconds, arguments.data
    rows = []
    print(f"{'samples/s, medians':52} {'Downhill':>12} {'peer':>12} {'ratio':>8} {'aim':>6}")

    def ours(command, work, batch, flags):
        def run(hint, shorter):
            # As DDP gives each rank half of the batch, there must be a leaf for each worker.
            leaf = min(64, batch // 2) if command == "launch" else 64
            return downhill(command, work, batch, shorter or seconds, data, flags, hint, leaf)

        return run

    def compare(label, command, flags, name, work, batch, aim):
        values = in_turn(
            arguments.turns,
            ours(command, work, batch, flags),
            lambda: peer(name, work, batch, seconds, data),
        )
        report(rows, f"{label}: {work} batch {batch}", *values, "samples/s", aim, arguments.json)

    if "one" in parts:
        for work, batch, aim, _ in WORKS:
            compare("1 process x 2 threads, torch", "train", ["--threads", "2"], "torch", work, batch, aim)
    if "ddp" in parts:
        flags = ["--workers", "2", "--threads", "1", *arguments.launch_flags.split()]
        for work, batch, _, aim in WORKS:
            compare("2 workers x 1 thread, torch DDP", "launch", flags, "ddp", work, batch, aim)
    if "others" in parts:
        for name in ["sklearn", "jax", "vw"]:
            for work, batch in OTHERS:
                if name != "vw" or len(peers.widths(work)) == 2:
                    label = f"1 process x 2 threads, {name}"
                    compare(label, "train", ["--threads", "2"], name, work, batch, None)
    if "gloo" in parts:
        print(f"{'gloo all-reduce on 2 ranks':52} {'p50 ms':>12} {'p99 ms':>12}")
        for size in [10_000, 1_000_000, 10_000_000, 100_000_000]:
            p50, p99 = peer("gloo", size, seconds) or (float("nan"),) * 2
            print(f"{size:>52,} {1e3 * p50:12.3f} {1e3 * p99:12.3f}", flush=True)


if __name__ == "__main__":
    main()
