"""What a run learns: the sparse network and its dense counterpart, and what is told of them."""

import contextlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from rich.console import Console

from keras_switcher.checks import ConfigError
from keras_switcher.config import Config
from keras_switcher.convert import strip
from keras_switcher.data import ImageData
from keras_switcher.display import say
from keras_switcher.files import replacing, write_text, writing
from keras_switcher.fitting import (
    accuracy,
    check_replicas,
    execution,
    fit,
    load_data,
    origin_of,
    resources,
)
from keras_switcher.initial import validation_accuracy
from keras_switcher.model import SwitchedModel
from keras_switcher.multiworker import lost_workers_named
from keras_switcher.networks import (
    Start,
    dense_model,
    new_start,
    switched_model,
    whole_dense,
    whole_switched,
)
from keras_switcher.report.page import FinishedRun, page
from keras_switcher.runs import (
    CHECKPOINTS,
    DENSE_FILE,
    HISTORY_FILE,
    MODEL_FILE,
    REPORT_FILE,
    STRIPPED_FILE,
    SUMMARY_FILE,
    RunFolder,
)
from keras_switcher.signals import StopSignals
from keras_switcher.summary import gzip_bytes, seconds, summary_of
from keras_switcher.workers import WorkerLost, Workers

# What `fitting.execution` yields: it opens the scope in which models are created and compiled.
_Scope = Callable[[], AbstractContextManager[Any]]


class _Prepared(NamedTuple):
    """What a run learns from, and the network that is to become sparse."""

    data: ImageData
    start: Start
    switched: SwitchedModel
    origin: dict[str, str]
    accuracy_before: float | None


def learn(
    config: Config,
    console: Console,
    stop: StopSignals,
    workers: Workers,
    folder: RunFolder,
    resumed: bool,
) -> dict[str, Any]:
    """Train both networks, and write all files of the run but its configuration.

    Args:
        config: The configuration, valid.
        console: Where to show progress.
        stop: The signals that stop the training.
        workers: The workers of the run.
        folder: The run's folder.
        resumed: Whether the run was begun before, and is not to be removed if it can't be set up.

    Returns:
        The content of `summary.json`.

    Raises:
        ConfigError: If the data or the model can't be set up as configured.
        RunError: If the training fails.
        Interrupted: If a signal stops it.
    """
    # Workers are silent while TensorFlow's servers meet, so wait here for those that are slow to
    # load TensorFlow.
    workers.gather("the start of TensorFlow", None)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lost_workers_named(workers))
            scope = stack.enter_context(execution(config))
            prepared = _prepared(config, workers, folder, scope)
        except WorkerLost:
            raise
        except Exception as error:
            if not resumed and workers.is_chief:
                folder.discard()
            if isinstance(error, (ValueError, OSError)):
                raise ConfigError(str(error)) from error
            # It may come from the code of a user's own data set.
            raise
        data, start, switched, origin, before = prepared
        _show(console, config, data, before)

        # From here on, an error of the operating system is a failure to write.
        with writing(folder.path), resources(folder):
            train_network = partial(
                fit,
                config=config,
                origin=origin,
                data=_examples(start, data, folder, console),
                folder=folder,
                stop=stop,
                console=console,
                workers=workers,
            )
            rows = train_network(switched, "switched", HISTORY_FILE)
            with scope():
                switched = whole_switched(config, data, start, switched)
            if workers.is_chief:
                _save(switched, folder.path / MODEL_FILE)
                stripped = strip(switched)
                _save(stripped, folder.path / STRIPPED_FILE)

            dense, dense_rows = None, []
            if config.run.dense_baseline:
                # The switched network is a copy, so this one is as it was built or loaded.
                keras.utils.set_random_seed(config.optimisation.seed)
                with scope():
                    dense = dense_model(config, data, start)
                dense_rows = train_network(dense, "dense", f"dense_{HISTORY_FILE}")
                with scope():
                    dense = whole_dense(config, data, start)
                if workers.is_chief:
                    _save(dense, folder.path / DENSE_FILE)

            # The test examples are not read before this point.
            test = (data.x_test, data.y_test, config.optimisation.batch_size)
            accuracies = {
                "test_accuracy": accuracy(switched, *test),
                "dense_test_accuracy": None if dense is None else accuracy(dense, *test),
            }

            def finish() -> bytes:
                summary = {
                    **summary_of(config, data, switched, stripped, rows),
                    **accuracies,
                    "dense_gzip_bytes": None if dense is None else gzip_bytes(dense),
                    "dense_seconds": None if dense is None else seconds(dense_rows),
                }
                text = json.dumps(summary, indent=2) + "\n"
                write_text(folder.path / SUMMARY_FILE, text)
                run = FinishedRun(config, summary, rows, switched)
                write_text(folder.path / REPORT_FILE, page(run))
                folder.finish()
                return text.encode()

            summary: dict[str, Any] = json.loads(workers.from_chief("the summary", finish))
    return summary


def _prepared(config: Config, workers: Workers, folder: RunFolder, scope: _Scope) -> _Prepared:
    with workers.chief_first("the data"):
        data = load_data(config)
    with scope(), resources(folder):
        check_replicas(config, data)
        start = new_start(config, data)
        origin = origin_of(config)
        is_trained = config.network.init_from is not None
        before = validation_accuracy(start.network, data) if is_trained else None
        return _Prepared(data, start, switched_model(config, data, start), origin, before)


def _show(console: Console, config: Config, data: ImageData, before: float | None) -> None:
    devices = [device.device_type for device in tf.config.list_physical_devices()]
    say(
        console,
        f"Data: {data.source}: {len(data.x_train):,} training, {len(data.x_validation):,} "
        f"validation, {len(data.x_test):,} test examples. Devices: {', '.join(devices)}.",
    )
    if before is not None:
        say(
            console,
            f"{config.network.init_from} before training: {before:.2%} of the validation "
            "examples right.",
        )


def _examples(start: Start, data: ImageData, folder: RunFolder, console: Console) -> ImageData:
    """Return the inputs of the part that learns: the images, or the features of a frozen trunk."""
    if start.trunk is None:
        return data
    say(
        console,
        f"Computing the {start.trunk.size:,} features of each image below the dense layers, once.",
    )
    return start.trunk.features(data, folder.path / CHECKPOINTS)


def _save(model: keras.Model, path: Path) -> None:
    with replacing(path) as temporary:
        model.save(temporary)
