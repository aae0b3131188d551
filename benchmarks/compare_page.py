"""Make the tables and the picture of a page of compared methods from a comparison's CSV file.

python benchmarks/compare_page.py docs/results/compare/lenet300.csv --methods switcher free dense \
    --picture docs/results/compare/lenet300.png
"""

import argparse
import csv
import os
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras_switcher.compare.methods  # noqa: F401
from keras_switcher.compare.figures import Group, grouped
from keras_switcher.compare.method import registry
from keras_switcher.compare.picture import write_picture
from keras_switcher.compare.results import ACCURACIES


def groups_of(path: Path) -> dict[tuple[str, float | None], Group]:
    """Return the results of each method at each target.

    Args:
        path: `results.csv` of a comparison, or one of those in `docs/results/compare/`.

    Raises:
        ValueError: If it is no such file, or has a network twice.
    """
    # A spreadsheet may have put a mark before the first column.
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"method", "target_sparsity", "seed", *ACCURACIES} <= {*rows[0]}:
        raise ValueError(f"Expected results of a comparison in {path}. Received: others, or none")
    keys = [(row["method"], row["target_sparsity"], row["seed"]) for row in rows]
    if twice := {key for key in keys if keys.count(key) > 1}:
        raise ValueError(f"Expected each network once in {path}. Received: {twice} several times")
    results = [
        {
            "method": row["method"],
            "title": _title(row["method"]),
            "target_sparsity": float(row["target_sparsity"]) if row["target_sparsity"] else None,
            "seed": int(row["seed"]),
            **{name: float(row[name]) for name in ACCURACIES},
            "seconds": float(row.get("seconds") or "nan"),
            "peak_mib": float(row.get("peak_mib") or "nan"),
            "layer_sparsities": dict(_layers(row.get("layer_sparsities") or "")),
        }
        for row in rows
    ]
    return {(group.method, group.target_sparsity): group for group in grouped(results)}


def _layers(text: str) -> Iterator[tuple[str, float]]:
    for layer in text.split():
        name, _, sparsity = layer.rpartition("=")
        yield name, float(sparsity)


def shown_layers(group: Group) -> str:
    """Return the mean sparsity of each layer in percent: "96.7 / 85.2 / 0.0"."""
    rows = [result["layer_sparsities"].values() for result in group.results]
    return " / ".join(f"{100 * statistics.fmean(layer):.1f}" for layer in zip(*rows, strict=True))


def shown_median(values: Iterable[float]) -> str:
    """Return a median without decimals, as a table of costs has it."""
    return f"{statistics.median(values):,.0f}"


def _title(method: str) -> str:
    name = method.partition(":")[0]
    # A method of a user's own is not known here.
    return registry.get(name)().title if name in registry.names() else name


def table(rows: Sequence[Sequence[str]], head: Sequence[str]) -> str:
    """Return a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Print the tables, and draw the picture if it is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, help="CSV file of a comparison")
    parser.add_argument("--methods", nargs="+", help="these, in this order (default: all)")
    parser.add_argument("--sparsity", nargs="+", type=float, help="these (default: all)")
    parser.add_argument("--figure", choices=ACCURACIES, default=ACCURACIES[0])
    parser.add_argument("--decimals", type=int, default=2)
    parser.add_argument("--picture", type=Path, help="PNG file to write")
    args = parser.parse_args()
    try:
        found = groups_of(args.results)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    methods = args.methods or list(dict.fromkeys(method for method, _ in found))
    if unknown := set(methods) - {method for method, _ in found}:
        parser.error(f"no results of {', '.join(sorted(unknown))} in {args.results}")
    sparsities = args.sparsity or sorted({target for _, target in found if target is not None})
    # Methods without a target have a column even if there are no others.
    columns = sparsities or [None]
    head = ["", *("" if target is None else f"{100 * target:g} %" for target in columns)]
    d = args.decimals

    means, differences = [], []
    for method in methods:
        mean_cells, difference_cells = [method], [method]
        for sparsity in columns:
            group = found.get((method, sparsity))
            if group is not None or (sparsity == columns[0] and (method, None) in found):
                mean = (group or found[method, None]).mean(args.figure)
                spread = "" if mean.deviation is None else f" ± {100 * mean.deviation:.{d}f}"
                seeds = f" ({mean.count})"
                mean_cells.append(f"{100 * mean.mean:.{d}f}{spread} %{seeds}")
            else:
                mean_cells.append("")
            first, other = (
                found.get((name, sparsity)) or found.get((name, None))
                for name in (methods[0], method)
            )
            minus = None if first is None or other is None else first.minus(other, args.figure)
            if minus is None or minus.low is None or minus.high is None:
                difference_cells.append("")
                continue
            shown = f"{100 * minus.mean:+.{d}f}"
            shown = f"**{shown}**" if minus.is_clear else shown
            interval = f"{100 * minus.low:+.{d}f} to {100 * minus.high:+.{d}f}"
            difference_cells.append(f"{shown} ({interval})")
        means.append(mean_cells)
        differences.append(difference_cells)
    print(
        table(means, head), f"\n{methods[0]} minus each:\n", table(differences[1:], head), sep="\n"
    )

    of = {
        method: [
            g for key, g in found.items() if key[0] == method and key[1] in (None, *sparsities)
        ]
        for method in methods
    }
    costs = []
    for method, groups in of.items():
        results = [result for group in groups for result in group.results]
        seconds, mib = ([result[name] for result in results] for name in ("seconds", "peak_mib"))
        span = f"{min(seconds):,.0f} to {max(seconds):,.0f}"
        costs.append([method, str(len(results)), shown_median(seconds), span, shown_median(mib)])
    print("\nMedians of seconds, and of the peak of resident MiB:\n")
    print(table(costs, ["", "networks", "seconds", "from, to", "MiB"]))
    names = next(iter(found.values())).results[0]["layer_sparsities"]
    layers = [
        [m, *(shown_layers(found[m, s]) if (m, s) in found else "" for s in sparsities)]
        for m in methods
        if (m, None) not in found
    ]
    print(f"\nSparsity of {', '.join(names)} in percent:\n")
    print(table(layers, head))

    if args.picture:
        drawn = [group for groups in of.values() for group in groups]
        write_picture(drawn, args.picture, args.figure.removesuffix("_accuracy"))


if __name__ == "__main__":
    main()
