"""Measure trials per hour of a search by chief and workers, against one process with all cores.

The same search runs both ways in turn, each time in a folder of its own; `--oracle random` gives
both the same trials, none of which is stopped early. The time is that of the whole command,
including TensorFlow's start, and, next to it, the same without the time until training begins.

    python benchmarks/tuning_workers.py --workers 2 --trials 8 -- --model lenet300 --dataset mnist \
        --limit 10000 --max-epochs 2
"""

import argparse
import csv
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from timing import count, new_file


def search(workers: int, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run the search; return its seconds and the values of its trials."""
    command = [
        *(sys.executable, "-m", "keras_switcher.tuning", "--oracle", "random"),
        *("--trials", str(args.trials), "--workers", str(workers), "--out", str(folder)),
        "--no-stop-hopeless",
        *args.flags,
    ]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        ends = [
            time.perf_counter() - start
            for line in process.stdout or ()
            if line.lstrip().split("/")[0].isdecimal()
        ]
    if process.returncode or len(ends) != args.trials:
        raise RuntimeError(f"Expected {args.trials} trials. Received: {len(ends)} of {command}")
    with open(folder / "trials.csv", encoding="utf-8") as file:
        by_end = list(csv.DictReader(file))
    first, rows = by_end[0], sorted(by_end, key=lambda row: row["trial"])
    values = [[row[name] for name in row if name.startswith("hp:")] for row in rows]
    # The training of the trial that ended first began with the others' or before them.
    begun = ends[0] - float(first["seconds"])
    return {
        "trials_per_hour": 3600 * args.trials / ends[-1],
        "trials_per_hour_once_begun": 3600 * args.trials / (ends[-1] - begun),
        "values": values,
    }


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Search both ways in turn; return the medians and their ratio."""
    found: dict[int, list[dict[str, Any]]] = {1: [], args.workers: []}
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(args.rounds):
            for workers in found if turn % 2 == 0 else reversed(found):
                folder = Path(scratch) / f"{workers}-{turn}"
                found[workers].append(search(workers, args, folder))
    if any(one["values"] != found[1][0]["values"] for each in found.values() for one in each):
        raise RuntimeError("Expected the same trials both ways.")
    result: dict[str, Any] = {"workers": args.workers, "trials": args.trials, "flags": args.flags}
    for name in ("trials_per_hour", "trials_per_hour_once_begun"):
        medians = {w: statistics.median(one[name] for one in each) for w, each in found.items()}
        result[name] = {"one_process": medians[1], "workers": medians[args.workers]}
        result[name]["ratio"] = medians[args.workers] / medians[1]
    return result


def main() -> None:
    """Measure, print the figures and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--trials", type=count, default=8)
    parser.add_argument("--rounds", type=count, default=1, help="searches each way")
    parser.add_argument("--json", type=new_file, help="where to write the figures")
    parser.add_argument("flags", nargs="*", help="of the search, after --")
    args = parser.parse_args()
    if args.workers < 2:
        parser.error(f"expected --workers to be 2 or more. Received: {args.workers}")
    result = measure(args)
    for name, figures in result.items():
        if isinstance(figures, dict):
            print(
                f"{name.replace('_', ' ')}: {figures['one_process']:.0f} by one process, "
                f"{figures['workers']:.0f} by {args.workers} workers, ratio {figures['ratio']:.2f}"
            )
    if args.json:
        from keras_switcher.files import write_json

        write_json(args.json, result)


if __name__ == "__main__":
    main()
