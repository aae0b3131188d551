"""Measure how large and how fast the networks of a comparison are as TFLite files.

Every network of one seed that `python -m keras_switcher.compare --keep-models` has kept is exported
by `python -m export`. The bytes and latency of its sparse file, and the ratios to the dense file of
the method `dense`, are printed and written as JSON. Without `--comparison`, a short one is
trained first.

    python benchmarks/export_files.py --json export.json
    python benchmarks/export_files.py --comparison comparisons/lenet300
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from timing import new_file

from keras_switcher.compare.arguments import METHODS
from keras_switcher.compare.cell import CELL_FILE
from keras_switcher.compare.plan import PLAN_FILE, RESULT_FILE
from keras_switcher.extras import install_command
from keras_switcher.files import write_json
from keras_switcher.runs import MODEL_FILE

ROOT = Path(__file__).parent.parent
# Of an extra, so not among the default ones.
PQUANT = ("pquant-dst", "pquant-pdp", "pquant-pdp-uniform")


def run(*command: str) -> None:
    """Run a Python module in the checkout; if it fails, exit with its output."""
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed.\n{(done.stdout + done.stderr)[-4000:]}")


def trained(folder: Path, dataset: str, seed: int) -> Path:
    """Train a short comparison whose networks are kept, by all methods; return its folder."""
    extra = PQUANT if importlib.util.find_spec("pquant") else ()
    if not extra:
        print(f"Without {', '.join(PQUANT)}: {install_command('pquant')}", file=sys.stderr)
    flags = ("--model", "lenet300", "--dataset", dataset, "--seeds", "1")
    chosen = ("--first-seed", str(seed), "--sparsity", "0.95", "--keep-models")
    methods = ("--methods", *METHODS, *extra)
    run("keras_switcher.compare", *flags, *chosen, *methods, "--out", str(folder))
    return folder


def is_whole(cell: Path) -> bool:
    """Return whether the network of a cell takes images: one above a frozen trunk may not."""
    order = json.loads((cell / CELL_FILE).read_text(encoding="utf-8"))
    return order["method"] != "small-dense" or not order["config"]["freeze_trunk"]


def files(cell: Path, dataset: str | None, folder: Path) -> dict[str, Any]:
    """Export the network of a cell and return the figures of its files.

    Args:
        cell: The cell's folder.
        dataset: Data set to verify the files with; `None` for the one of the network's training.
        folder: Where the files go.
    """
    config = json.loads((cell / CELL_FILE).read_text(encoding="utf-8"))["config"]
    where = ["--data-dir", str(config["data_dir"])] if config["data_dir"] else []
    run(
        *("export", str((cell / MODEL_FILE).resolve())),
        *("--dataset", dataset or config["dataset"], *where),
        *("--out", str(folder.resolve()), "--no-measure", "--quantize", "none"),
    )
    exported = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    found = {artifact["file"]: artifact for artifact in exported["artifacts"]}
    dense, sparse = found["model_dense.tflite"], found["model_sparse.tflite"]
    result = json.loads((cell / RESULT_FILE).read_text(encoding="utf-8"))
    proved = exported["examples"]["source"]
    if dataset is None and proved != result["dataset_source"]:
        raise SystemExit(
            f"Expected the test examples of {result['dataset_source']}, on which the networks were "
            f"trained. Received: {proved}. Set TFDS_DATA_DIR as for the comparison, or --dataset."
        )
    return {
        "method": result["method"],
        "target_sparsity": result["target_sparsity"],
        "keras_accuracy": result["test_accuracy"],
        "accuracy": sparse["accuracy"],
        "dense_bytes": dense["bytes"],
        "sparse_bytes": sparse["bytes"],
    }


def latencies(paths: list[Path], scratch: Path) -> list[float]:
    """Measure files in turn; return each one's microseconds, with XNNPACK or without if faster."""
    out = scratch / "latencies.json"
    run("export", "benchmark", *map(str, paths), "--threads", "1", "--json", str(out))
    return [
        min(one["median_us"] for one in entry["measurements"] if one["median_us"] is not None)
        for entry in json.loads(out.read_text())["files"]
    ]


def main() -> None:
    """Export, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--comparison", type=Path, help="folder of a comparison")
    parser.add_argument(
        "--dataset", help="what the files are proved with (default: the comparison's, or mnist5k)"
    )
    parser.add_argument("--seed", type=int, default=0, help="whose networks are exported")
    parser.add_argument("--json", type=new_file, help="where to write the figures")
    args = parser.parse_args()
    if args.comparison is not None and not (args.comparison / PLAN_FILE).is_file():
        parser.error(f"expected --comparison to be one's folder. Received: {args.comparison}")
    with tempfile.TemporaryDirectory() as scratch:
        here = Path(scratch).resolve()
        comparison = args.comparison or trained(
            here / "comparison", args.dataset or "mnist5k", args.seed
        )
        cells = sorted(comparison.glob(f"cells/*-seed{args.seed}"))
        ended = [cell for cell in cells if (cell / RESULT_FILE).exists()]
        kept = [cell for cell in ended if (cell / MODEL_FILE).exists() and is_whole(cell)]
        if not kept:
            raise SystemExit(
                "Expected a comparison whose networks were kept by --keep-models. "
                f"Received: {comparison}, with none of seed {args.seed}"
            )
        reference = f"dense-seed{args.seed}"
        if reference not in [cell.name for cell in kept]:
            raise SystemExit(
                f"Expected a kept network of dense, seed {args.seed}. Received: {comparison}"
            )
        rows = [files(cell, args.dataset, here / cell.name) for cell in kept]
        measured = latencies(
            [here / reference / "model_dense.tflite"]
            + [here / cell.name / "model_sparse.tflite" for cell in kept],
            here,
        )
    dense = next(row for row in rows if row["method"] == "dense")
    for row, microseconds in zip(rows, measured[1:], strict=True):
        row["bytes_ratio"] = row["sparse_bytes"] / dense["dense_bytes"]
        row["sparse_us"] = microseconds
        row["latency_ratio"] = microseconds / measured[0]
    table = Table("method", "target", "accuracy", "bytes", "of dense", "latency", "of dense")
    for row in sorted(rows, key=lambda row: (row["target_sparsity"] or 0, row["sparse_bytes"])):
        target = row["target_sparsity"]
        table.add_row(
            row["method"],
            "–" if target is None else f"{100 * target:g} %",
            f"{100 * row['accuracy']:.2f} %",
            f"{row['sparse_bytes']:,}",
            f"{row['bytes_ratio']:.3f}",
            f"{row['sparse_us']:.1f} µs",
            f"{row['latency_ratio']:.2f}",
        )
    Console().print(table)
    if args.json:
        write_json(args.json, rows)


if __name__ == "__main__":
    main()
