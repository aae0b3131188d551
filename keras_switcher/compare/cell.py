"""One cell of a comparison, in a process of its own.

The comparison starts it as `python -m keras_switcher.compare.cell DIR PID`, with the id of its own
process. The folder holds `cell.json`, which says what to do; the cell leaves `result.json` there.
"""

import dataclasses
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from rich.console import Console

from keras_switcher.checkpoints import CheckpointError
from keras_switcher.checks import ConfigError
from keras_switcher.children import end_with
from keras_switcher.commands import load_tensorflow, shown_messages
from keras_switcher.compare.plan import DIVERGED, ERROR_FILE, RESULT_FILE, TRAINS_ANEW, Variant
from keras_switcher.compare.provenance import processor, versions_of
from keras_switcher.config import from_values, validate
from keras_switcher.files import LOCK, RunError, locked, write_json, write_text
from keras_switcher.peak_memory import forget_peak, peak_mib
from keras_switcher.runs import CHECKPOINTS, RunFolder
from keras_switcher.signals import Interrupted, StopSignals

CELL_FILE = "cell.json"
FEATURES = "features"


def train_cell(folder: Path, stop: StopSignals, console: Console) -> dict[str, Any]:
    """Train a cell's network, or continue training it, and return the content of `result.json`.

    Args:
        folder: The cell's folder.
        stop: The signals that stop it.
        console: Where progress goes.

    Raises:
        ConfigError: If the network can't be trained as configured.
        RunError: If the training fails.
        Interrupted: If a signal stops it.
    """
    order = json.loads((folder / CELL_FILE).read_text(encoding="utf-8"))
    load_tensorflow(verbose=False)
    import keras_switcher.compare.methods  # noqa: F401
    from keras_switcher.compare.method import Trained, registry

    config = validate(from_values(order["config"]))
    from keras_switcher.compare.work import Work
    from keras_switcher.fitting import execution, load_data
    from keras_switcher.networks import new_start

    method = registry.get(order["method"])()
    with execution(config) as scope, scope():
        images = data = load_data(config)
        if images.source != order["source"]:
            raise RunError(
                f"Expected the data of the comparison: {order['source']}. Received: "
                f"{images.source}. Are the folder of the data and the network still there?"
            )
        if config.network.freeze_trunk:
            cache = folder.parent.parent / FEATURES
            cache.mkdir(exist_ok=True)
            with locked(cache / LOCK):
                trunk = new_start(config, images).trunk
                data = images if trunk is None else trunk.features(images, cache, with_test=True)
            # The first cell makes them for all; the memory that takes is no cost of its method.
            forget_peak()
        versions = versions_of(folder)
        work = Work(
            config, data, images, folder, order["found"], stop, console, order["keeps_models"]
        )
        trained = method.train(work)
        if not isinstance(trained, Trained):
            raise RunError(
                f"Expected `train` of the method {order['method']!r} to return a "
                f"keras_switcher.compare.Trained. Received: {trained!r}"
            )
    on = sum(layer["on"] for layer in trained.layers)
    connections = sum(layer["connections"] for layer in trained.layers)
    return {
        **order["cell"],
        "title": method.title or order["method"],
        "fc_sparsity": 1 - on / connections if connections else 0.0,
        "model_sparsity": 1 - trained.remaining_parameters / trained.parameters,
        **dataclasses.asdict(trained),
        "epochs": work.epochs,
        "dataset_source": images.source,
        "examples": len(images.x_train) + len(images.x_validation),
        "peak_mib": peak_mib(),
        "threads": os.environ.get("TF_NUM_INTRAOP_THREADS"),
        "versions": "; ".join(versions),
        "processor": processor(),
    }


def main() -> int:
    """Train a cell; return the exit status, and leave the reason in `error.txt` if it failed."""
    folder = Path(sys.argv[1])
    end_with(int(sys.argv[2]))
    stop = StopSignals()
    console = Console(width=120, force_terminal=False)
    with stop.handled(), shown_messages(console, verbose=False):
        try:
            # An earlier process that lost its comparison may not have ended yet.
            with locked(folder / LOCK):
                if (folder / RESULT_FILE).exists():
                    return 0
                result = train_cell(folder, stop, console)
                write_json(folder / RESULT_FILE, result)
                if (folder / CHECKPOINTS).exists():
                    RunFolder(folder).finish()
        except Interrupted as error:
            return error.exit_status
        except Exception as error:
            traceback.print_exc()
            text = _reason(error, folder)
            write_text(folder / ERROR_FILE, text + "\n")
            return 1
    return 0


def _reason(error: Exception, folder: Path) -> str:
    """Return what the failure of the cell in a folder means for the user of the comparison."""
    import tensorflow as tf

    from keras_switcher.callbacks import Diverged
    from keras_switcher.fitting import OutOfMemory

    if isinstance(error, Diverged):
        order = json.loads((folder / CELL_FILE).read_text(encoding="utf-8"))
        given = Variant.parse(order["cell"]["method"])
        rate = {"learning_rate": order["config"]["learning_rate"] / 2}
        lower = Variant(given.method, tuple(({**dict(given.options), **rate}).items()))
        return (
            f"{DIVERGED} {error.what} Give the method a lower learning rate, such as "
            f"--methods {lower}, or leave it out."
        )
    if isinstance(error, (OutOfMemory, tf.errors.ResourceExhaustedError)):
        return (
            "The memory does not suffice. Train fewer networks at a time (--processes), or take a "
            "smaller --batch-size or --width in another --out."
        )
    if isinstance(error, CheckpointError):
        return f"{error.what} Remove {folder}, {TRAINS_ANEW}"
    if isinstance(error, (RunError, ConfigError)):
        return str(error)
    return f"{type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(main())
