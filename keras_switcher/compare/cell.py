"""One cell of a comparison, in a process of its own.

The comparison starts it as `python -m keras_switcher.compare.cell DIR PID`, with the id of its own
process. The folder holds `cell.json`, which says what to do; the cell leaves `result.json` there.
"""

import contextlib
import dataclasses
import json
import os
import platform
import re
import resource
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from rich.console import Console

from keras_switcher.checkpoints import CheckpointError
from keras_switcher.checks import ConfigError
from keras_switcher.commands import load_tensorflow, shown_messages
from keras_switcher.compare.plan import DIVERGED, ERROR_FILE, RESULT_FILE, TRAINS_ANEW
from keras_switcher.config import from_values, validate
from keras_switcher.files import LOCK, RunError, locked, write_json, write_text
from keras_switcher.runs import CHECKPOINTS, RunFolder
from keras_switcher.signals import Interrupted, StopSignals
from keras_switcher.training import load_data

CELL_FILE = "cell.json"
FEATURES = "features"
_VERSIONS_FILE = "versions.json"


def load_methods(paths: list[str]) -> None:
    """Register the methods of this package, and those of Python files.

    Args:
        paths: The files.

    Raises:
        RunError: If one of them can't be run.
    """
    import keras_switcher.compare.methods  # noqa: F401

    for path in paths:
        # As for `python path`: it may import what lies beside it, also later.
        if (neighbours := str(Path(path).resolve().parent)) not in sys.path:
            sys.path.append(neighbours)
        try:
            runpy.run_path(path, run_name=Path(path).stem)
        except Exception as error:
            raise RunError(
                f"Can't run {path}, from which --load was to read methods: "
                f"{type(error).__name__}: {error}"
            ) from error


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
    # They may register what the configuration names.
    load_methods(order["load"])
    config = validate(from_values(order["config"]))
    from keras_switcher.compare.method import Trained, registry
    from keras_switcher.compare.work import Work
    from keras_switcher.fitting import execution
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
        versions = _versions(folder)
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
        "peak_mib": peak_mib(),
        "threads": os.environ.get("TF_NUM_INTRAOP_THREADS"),
        "versions": "; ".join(versions),
        "processor": _processor(),
    }


def _versions(folder: Path) -> list[str]:
    """Return the versions that train the cell in a folder: several, if others continue it.

    They are read when its process starts, whatever happens to the checkout while it trains.
    """
    path = folder / _VERSIONS_FILE
    before: list[str] = []
    if any((folder / CHECKPOINTS).glob("*")):
        before = json.loads(path.read_text(encoding="utf-8"))
    versions = list(dict.fromkeys([*before, _version()]))
    write_json(path, versions)
    return versions


def _version() -> str:
    import keras
    import tensorflow as tf

    import keras_switcher

    ours = f"keras_switcher {keras_switcher.__version__}"
    if commit := _commit(Path(keras_switcher.__file__).parents[1]):
        ours += f" ({commit})"
    return f"{ours}, Keras {keras.__version__}, TensorFlow {tf.__version__}"


def _commit(folder: Path) -> str:
    """Return a checkout's commit, with `-dirty` if it has changes; nothing for another folder."""
    if not (folder / ".git").exists():
        return ""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _processor() -> str:
    """Return the name of the processor, as far as the system tells."""
    with contextlib.suppress(OSError):
        facts = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        if found := re.search(r"^model name\s*: (.+)$", facts, re.MULTILINE):
            return found[1]
    return platform.processor() or platform.machine()


def forget_peak() -> None:
    """Make `peak_mib` leave out the time before, on Linux; elsewhere there is no way to."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_mib() -> float:
    """Return the greatest resident size of this process so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux, the peak of getrusage is at least that of the process that started this one.
        size = re.search(r"^VmHWM:\s+(\d+) kB", status.read_text(), re.MULTILINE)
        if size is not None:
            return int(size[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak) / (2**20 if sys.platform == "darwin" else 2**10)


def _end_with(parent: int) -> None:
    """Stop this process, as by SIGTERM, when the process that started it is gone.

    Args:
        parent: The id of the process that started this one.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def main() -> int:
    """Train a cell; return the exit status, and leave the reason in `error.txt` if it failed."""
    folder = Path(sys.argv[1])
    _end_with(int(sys.argv[2]))
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
        method = order["cell"]["method"]
        separator = "," if ":" in method else ":"
        lower = order["config"]["learning_rate"] / 2
        return (
            f"{DIVERGED} {error.what} Give the method a lower learning rate, such as "
            f"--methods {method}{separator}learning_rate={lower:g}, or leave it out."
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
