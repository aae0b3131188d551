"""Train every combination of options, and write the figures on the validation examples as CSV.

The test examples are not used unless `--test` asks for them: choose by the validation accuracy,
then read the test accuracy of the choice, once. A sweep that was stopped can go on: combinations
that are already in the file are not trained again. The options that all of them share are in a YAML
file beside it; with other flags, the sweep is refused.

    python benchmarks/sweep.py --model lenet300 --dataset mnist --epochs 20 \
        --vary target_sparsity=0.9,0.95 --vary seed=0,1,2 --out sweep.csv
"""

import argparse
import csv
import dataclasses
import itertools
import os
import statistics
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import yaml
from rich.console import Console
from rich.table import Table

from keras_switcher.checks import ConfigError
from keras_switcher.config import Config, from_values, influences, to_values, validate
from keras_switcher.data import ImageData
from keras_switcher.files import RunError, locked, write_csv
from keras_switcher.fitting import (
    accuracy,
    check_batch_size,
    data_digest,
    execution,
    fit_arguments,
    load_data,
    origin_of,
)
from keras_switcher.flags import resolve
from keras_switcher.metrics import layer_table
from keras_switcher.networks import dense_model, new_start, switched_model
from keras_switcher.plan_folder import plain, read_plan, write_plan


def combinations(varied: list[str]) -> list[dict[str, Any]]:
    """Return every combination of `name=value,value` arguments."""
    names, values = [], []
    for argument in varied:
        name, separator, listed = argument.partition("=")
        if not separator:
            raise SystemExit(f"Expected --vary name=value,value. Received: {argument}")
        if name.replace("-", "_") in names:
            raise SystemExit(f"Expected --vary {name} once, with all values. Received: it twice")
        names.append(name.replace("-", "_"))
        values.append([yaml.safe_load(value) for value in listed.split(",")])
    return [dict(zip(names, chosen, strict=True)) for chosen in itertools.product(*values)]


def check_shared(out: Path, shared: dict[str, Any]) -> None:
    """Check that any file of results is of this sweep, and write the sweep's options beside it."""
    beside = out.with_name(f"{out.name}.plan.yaml")
    if out.exists():
        earlier = read_plan(beside) if beside.exists() else {}
        changed = [name for name in {**earlier, **shared} if earlier.get(name) != shared.get(name)]
        if changed:
            raise SystemExit(
                f"Expected the options of the sweep in {out}. Received: others, or unknown ones "
                f"({', '.join(changed)}). Choose another --out."
            )
    write_plan(beside, shared)


def train(config: Config, data: ImageData, network: str, with_test: bool) -> dict[str, Any]:
    """Train one network and return its figures."""
    batch_size = config.optimisation.batch_size
    start = time.perf_counter()
    with execution(config) as scope, scope():
        build = switched_model if network == "switched" else dense_model
        model = build(config, data, new_start(config, data))
        # It is validated once, at the end.
        arguments = {**fit_arguments(config, data), "validation_data": None}
        history = model.fit(**arguments).history
        seconds = time.perf_counter() - start

        layers = layer_table(model) if network == "switched" else []
        connections = sum(layer["connections"] for layer in layers)
        return {
            "validation_accuracy": accuracy(
                model, data.x_validation, data.y_validation, batch_size
            ),
            "test_accuracy": accuracy(model, data.x_test, data.y_test, batch_size)
            if with_test
            else "",
            "loss": history["loss"][-1],
            "sparsity": 1 - sum(layer["on"] for layer in layers) / connections if layers else 0.0,
            "layers": " ".join(f"{1 - row['on'] / row['connections']:.4f}" for row in layers),
            "seconds": round(seconds, 1),
        }


def show(rows: list[dict[str, Any]], names: list[str]) -> None:
    """Print a line per combination, with the mean and range over its seeds."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        key = (*(str(row[name]) for name in names if name != "seed"), str(row["network"]))
        groups.setdefault(key, []).append(row)
    columns = [name for name in names if name != "seed"]
    figures = ("validation_accuracy", "test_accuracy", "sparsity", "seconds")
    table = Table(*columns, "network", "runs", *figures)
    for key, runs in groups.items():
        cells = []
        for figure in figures:
            values = [float(row[figure]) for row in runs if row[figure] not in ("", None)]
            scale, unit = (1, " s") if figure == "seconds" else (100, " %")
            spread = (
                f" ({scale * min(values):.2f} to {scale * max(values):.2f})"
                if len(values) > 1
                else ""
            )
            cells.append(f"{scale * statistics.mean(values):.2f}{unit}{spread}" if values else "-")
        table.add_row(*key, str(len(runs)), *cells)
    Console(width=160).print(table)


def main() -> None:
    """Train, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="Every option of train.py that is not listed here sets what all runs share.",
        allow_abbrev=False,
    )
    parser.add_argument("--vary", action="append", default=[], metavar="NAME=VALUE,VALUE")
    networks = ("switched", "dense")
    parser.add_argument("--networks", nargs="+", choices=networks, default=["switched"])
    parser.add_argument("--test", action="store_true", help="read the test accuracy too")
    parser.add_argument("--out", type=Path, required=True, help="CSV file to write or go on with")
    args, flags = parser.parse_known_args()
    try:
        varied = [(chosen, config_of(flags, chosen)) for chosen in combinations(args.vary)]
        common = influences(validate(resolve(flags, is_shared=True)))
        if not args.out.absolute().parent.is_dir():
            raise SystemExit(f"Expected --out in a folder that exists. Received: {args.out}")
        lock = args.out.with_name(f".{args.out.name}.lock")
        with locked(lock, f"Another sweep is writing {args.out}.", is_transient=True):
            sweep(args, common, varied)
    except (ConfigError, RunError) as error:
        raise SystemExit(str(error)) from error


def config_of(flags: list[str], chosen: dict[str, Any]) -> Config:
    """Return the configuration of a combination of options."""
    named = [f"--{key}={chosen[key]}" for key in ("model", "dataset", "switcher") if key in chosen]
    config = validate(from_values({**to_values(resolve([*flags, *named])), **chosen}))
    if config.network.freeze_trunk:
        raise SystemExit("Expected no --freeze-trunk: a sweep trains whole networks.")
    return config


def sweep(
    args: argparse.Namespace, common: dict[str, Any], varied: list[tuple[dict[str, Any], Config]]
) -> None:
    """Train what the file of results has not, write it after each training, and print all."""
    loaded: dict[Any, ImageData] = {}
    for _, config in varied:
        key = dataclasses.astuple(config.data)
        if key not in loaded:
            loaded[key] = load_data(config)
        check_batch_size(config, loaded[key])
    rows: list[dict[str, Any]] = []
    if args.out.exists():
        with args.out.open(newline="") as file:
            rows = list(csv.DictReader(file))
    names = list(varied[0][0])
    shared = {name: value for name, value in common.items() if name not in names}
    check_shared(args.out, {"varied": names, "with_test": args.test, **plain(shared)})
    to_train: list[tuple[Config, ImageData, str, dict[str, Any]]] = []
    for (chosen, config), network in itertools.product(varied, args.networks):
        data = loaded[dataclasses.astuple(config.data)]
        # As the configuration has them, however they were written.
        values = {key: str(to_values(config)[key]) for key in chosen} | {"network": network}
        # The options name neither the folder of the data nor the file that a network starts from.
        weights = origin_of(config).get("initial weights", "")
        origin = {"data": data_digest(data), "initial_weights": weights}
        but_seed = {name: value for name, value in values.items() if name != "seed"}
        alike = [row for row in rows if all(row.get(k) == v for k, v in but_seed.items())]
        for name, value in origin.items():
            if others := {row.get(name, "unknown") for row in alike} - {value}:
                raise SystemExit(
                    f"Expected the {name} of such trainings in {args.out}: "
                    f"{others.pop() or 'none'}. Received: {value or 'none'}. Choose another --out."
                )
        known = (*rows, *(row for *_, row in to_train))
        if values not in [{name: row.get(name) for name in values} for row in known]:
            to_train.append((config, data, network, {**values, **origin}))
    for config, data, network, values in to_train:
        keras.utils.clear_session()
        figures = train(config, data, network, args.test)
        rows.append({**values, **{name: str(value) for name, value in figures.items()}})
        print(" ".join(f"{name}={value}" for name, value in rows[-1].items()), flush=True)
        write_csv(args.out, rows)
    show(rows, names)


if __name__ == "__main__":
    main()
