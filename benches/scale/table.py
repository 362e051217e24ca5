"""The tables of docs/scaling.md: `python3 table.py FOLDER`, which keeps the figures that were measured.

Each machine is one like this, with as many cores, and its worker computes on all of them.
"""

import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORKERS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000]
LINKS = ["10Gbit", "25Gbit"]
PARTS = ["1", "8", "colocated"]
# Hidden widths, batch, leaf, samples.
WORKS = [([512, 256], 1024, 32, 8192), ([2048, 2048], 65536, 64, 65536)]
RUN = """
[data]
train = "digits:{samples}"
[model]
kind = "mlp"
hidden = {hidden}
[train]
batch = {batch}
leaf = {leaf}
[optimizer]
momentum = 0.9
[learning_rate]
initial = 0.01
"""


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(exist_ok=True)
    for hidden, batch, leaf, samples in WORKS:
        name = f"{'-'.join(map(str, [784, *hidden, 10]))}-b{batch}"
        run = folder / f"{name}.toml"
        run.write_text(RUN.format(samples=samples, hidden=hidden, batch=batch, leaf=leaf))
        print(f"\n{name}, leaves of {leaf}, steps/s:\n")
        columns = {(link, parts): simulate(run, link, parts) for link in LINKS for parts in PARTS}
        print("| workers |", " | ".join(f"{link}, {title(parts)}" for link, parts in columns), "|")
        print("| ---: |", " | ".join("---:" for _ in columns), "|")
        for index, workers in enumerate(WORKERS):
            rows = [column[index] for column in columns.values()]
            cells = [f"{row['steps_per_second']:.3g} {row['waits_for']}" for row in rows]
            print(f"| {workers} |", " | ".join(cells), "|")
        ends = [column[len(WORKERS) :] for column in columns.values()]
        ends = [f"{end[0]['stops_paying_beyond']}: {end[0]['waits_for']}" if end else "never" for end in ends]
        print("| no gain beyond |", " | ".join(ends), "|")


def title(parts):
    return {"1": "one server", "colocated": "colocated"}.get(parts, f"{parts} servers")


def simulate(run, link, parts):
    costs = run.with_suffix(".jsonl")
    command = [ROOT / "target" / "release" / "downhill", "simulate", run, "--json", "--quiet", "--bandwidth", link]
    command += ["--shards", parts, "--workers", ",".join(map(str, WORKERS))]
    command += ["--bench" if costs.exists() else "--save", costs]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return list(map(json.loads, lines))


if __name__ == "__main__":
    main()
