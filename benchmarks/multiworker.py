"""Train with several workers and with one process, in turn, and compare figures and times.

Each seed is trained twice at the same global batch: by one process, and by the launcher. The
accuracy and sparsity of both, the seconds per step, and whether the state of the workers (weights,
switches, both optimisers) had the same digest after every epoch are printed and written as CSV.
"""

import argparse
import csv
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from timing import count

ROOT = Path(__file__).parent.parent
_STATE = re.compile(r"^(?:\[(\d+)\] )?DEBUG\s+State after epoch (\d+): (\w+)", re.MULTILINE)


def train(workers: int, seed: int, flags: list[str], folder: Path) -> dict[str, Any]:
    """Train one network; return its figures."""
    launcher = ["-m", "keras_switcher.launch", "--workers", str(workers), "--show-all"]
    command = [
        *(sys.executable, *(launcher if workers > 1 else []), str(ROOT / "train.py"), *flags),
        *("--seed", str(seed), "--run-dir", str(folder), "--no-dense-baseline", "--verbose"),
        *("--strategy", "multiworker" if workers > 1 else "none"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    output = done.stdout + done.stderr
    if done.returncode:
        raise SystemExit(f"Expected the training to succeed.\n{output[-4000:]}")
    summary = json.loads((folder / "summary.json").read_text())
    rows = list(csv.DictReader((folder / "history.csv").open()))
    batch = int(re.findall(r"^batch_size: (\d+)", (folder / "config.yaml").read_text(), re.M)[0])
    steps = summary["train_examples"] // batch
    seconds = [float(row["seconds"]) for row in rows]
    states = _STATE.findall(output)
    # The digests that the workers logged after each epoch.
    digests = [{digest for _, e, digest in states if int(e) == n + 1} for n in range(len(rows))]
    told = {worker or "0" for worker, _, _ in states}
    return {
        "workers": workers,
        "seed": seed,
        "epochs": len(rows),
        "test_accuracy": summary["test_accuracy"],
        "validation_accuracy": summary["validation_accuracy"],
        "fc_sparsity": summary["fc_sparsity"],
        # The first epoch includes the tracing of the graphs.
        "ms_per_step": 1e3 * statistics.median(seconds[1:] or seconds) / steps,
        "states_equal": all(len(d) == 1 for d in digests) and len(told) == workers
        if workers > 1
        else "",
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0] if __doc__ else None,
        epilog="All other flags are those of train.py.",
        # `--seed` is not `--seeds`.
        allow_abbrev=False,
    )
    parser.add_argument("--workers", type=count, default=2)
    parser.add_argument("--seeds", type=count, default=3)
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    options, flags = parser.parse_known_args()
    if options.workers < 2:
        parser.error(f"expected --workers to be 2 or more. Received: {options.workers}")
    if options.out.exists():
        parser.error(f"expected --out to be a new folder. Received: {options.out}, which exists")
    options.out.mkdir(parents=True)
    rows = []
    for seed in range(options.seeds):
        for workers in (1, options.workers):
            rows.append(train(workers, seed, flags, options.out / f"{workers}-{seed}"))
            print(json.dumps(rows[-1]), flush=True)
            with (options.out / "multiworker.csv").open("w", newline="") as file:
                writer = csv.DictWriter(file, rows[0], lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
        one, several = rows[-2:]
        ratio = several["ms_per_step"] / one["ms_per_step"]
        print(f"Seed {seed}: a step of {options.workers} workers takes {ratio:.2f} times as long.")


if __name__ == "__main__":
    main()
