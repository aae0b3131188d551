"""Training a network of a run as configured, from its last checkpoint on."""

import errno
import faulthandler
import functools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from keras_switcher.batches import evaluation_batches, training_batches
from keras_switcher.callbacks import (
    Diverged,
    EpochRows,
    ProgressBar,
    SaveCheckpoints,
    StopOnDivergence,
    StopOnSignal,
    restore,
)
from keras_switcher.checkpoints import Checkpoint, Checkpoints, digest_of
from keras_switcher.checks import ConfigError
from keras_switcher.config import Config, influences
from keras_switcher.data import ImageData, load
from keras_switcher.display import say
from keras_switcher.files import RunError, WriteError, write_csv
from keras_switcher.initial import file_digest
from keras_switcher.machine import GPUS
from keras_switcher.moving_statistics import AverageStatistics
from keras_switcher.runs import CHECKPOINTS, RunFolder
from keras_switcher.signals import StopSignals
from keras_switcher.strategy import MultiWorkerStrategy
from keras_switcher.workers import LAUNCHER_FLAGS, Workers


@functools.cache
def _mirrored() -> tf.distribute.Strategy:
    """Return the only strategy of this process: TensorFlow mixes up the sums of two."""
    return tf.distribute.MirroredStrategy()


STRATEGIES: dict[str, Callable[[], tf.distribute.Strategy] | None] = {
    "none": None,
    "mirrored": _mirrored,
    "multiworker": MultiWorkerStrategy,
}


class OutOfMemory(RunError):
    """The device does not have enough memory."""

    exit_status = 1


@contextmanager
def execution(config: Config) -> Iterator[Callable[[], AbstractContextManager[Any]]]:
    """Set the machine up as configured, and yield a function that opens the scope for models.

    Models are created and compiled in that scope. The environment variable TF_CONFIG says who the
    workers of --strategy multiworker are.
    """
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(config.execution.precision)
    if config.execution.deterministic:
        tf.config.experimental.enable_op_determinism()
    try:
        strategy = STRATEGIES[config.execution.strategy]
        if strategy is None:
            yield nullcontext
            return
        _check_gpus()
        with _in_time(config) if strategy is MultiWorkerStrategy else nullcontext():
            scope = strategy().scope
        # A scope of TensorFlow can be entered only once, and there are two networks.
        yield scope
    finally:
        keras.config.set_dtype_policy(policy)


def _check_gpus() -> None:
    """Check that this process has the GPUs that the launcher has given to it, if it has any."""
    if not os.environ.get(LAUNCHER_FLAGS):
        return
    given = os.environ.get(GPUS, "").split(",")
    found = tf.config.list_physical_devices("GPU")
    if len(found) < len(given):
        raise ConfigError(
            f"Expected the GPUs {', '.join(given)}, which --gpus-per-worker gives to this worker. "
            f"Received: {len(found)} that TensorFlow can use. Leave the flag out to train on the "
            "processor."
        )


@contextmanager
def _in_time(config: Config) -> Iterator[None]:
    """End the process with a traceback if the block lasts longer than the workers' timeout.

    Until its servers have met, TensorFlow holds the lock of the interpreter, so no Python thread
    could end the process.
    """
    faulthandler.dump_traceback_later(config.execution.worker_timeout, exit=True, file=2)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def load_data(config: Config) -> ImageData:
    """Load the data of a run.

    Args:
        config: The configuration.

    Raises:
        ConfigError: If the data can't be had, or a batch is larger than the number of training
            examples.
    """
    options = config.data
    try:
        data = load(options.dataset, options.data_dir, options.limit, options.validation)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from error
    check_batch_size(config, data)
    return data


def check_batch_size(config: Config, data: ImageData) -> None:
    """Check that there are enough training examples for a batch.

    Args:
        config: The configuration.
        data: Its data.

    Raises:
        ConfigError: If a batch is larger than their number.
    """
    examples, batch = len(data.x_train), config.optimisation.batch_size
    if batch > examples:
        raise ConfigError(
            f"Expected --batch-size to be at most the number of training examples, {examples}. "
            f"Received: {batch}"
        )


def check_replicas(config: Config, data: ImageData) -> None:
    """Check that the replicas of the strategy in scope can share batches and examples.

    Args:
        config: The configuration.
        data: The data.

    Raises:
        ConfigError: If they can't.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if config.optimisation.batch_size % replicas:
        raise ConfigError(
            f"Expected --batch-size to be a multiple of {replicas}, the number of devices that "
            f"share a batch. Received: {config.optimisation.batch_size}"
        )
    fewest = min(len(data.x_validation), len(data.x_test))
    if replicas > 1 and fewest < 2 * replicas:
        raise ConfigError(
            f"Expected two validation and test examples for each of {replicas} devices. "
            f"Received: {fewest}"
        )


def fit(
    model: keras.Model,
    name: str,
    history: str,
    config: Config,
    data: ImageData,
    folder: RunFolder,
    stop: StopSignals,
    console: Console,
    workers: Workers,
    origin: dict[str, str],
    *,
    epochs_before: int = 0,
) -> list[dict[str, Any]]:
    """Train a network from its last checkpoint to the last epoch; return the history's rows.

    Args:
        model: The compiled network.
        name: Its name, in the names of its checkpoints and in what is shown.
        history: The name of the file of its history.
        config: The configuration.
        data: What to learn from and to validate on.
        folder: The folder of the run.
        stop: The signals that stop the training.
        console: Where to show the epochs.
        workers: The workers of the run.
        origin: What `origin_of` returned when the network was loaded.
        epochs_before: The number of epochs of an earlier part of the training, after which the
            batches go on.
    """
    options = config.optimisation
    digest = data_digest(data)
    workers.check_same("the training data", digest)
    workers.check_same("the file of --init-from", origin)
    # Through JSON, as a checkpoint holds them.
    facts = json.loads(
        json.dumps({"network": name, "data": digest, **origin, **influences(config)})
    )
    checkpoints = Checkpoints(folder.path / CHECKPOINTS, name)
    checkpoint = _newest(checkpoints, workers)
    rows = EpochRows([] if checkpoint is None else checkpoint.rows)
    done = len(rows.rows)
    if checkpoint is not None:
        restore(model, checkpoint, facts)
        # The process may have ended after it wrote the checkpoint and before the history.
        if workers.is_chief:
            write_csv(folder.path / history, rows.rows)
        say(console, f"Going on after epoch {done} of the {name} network.")
    if done == options.epochs:
        return rows.rows
    say(console, f"Training the {name} network:")
    progress = ProgressBar(console, name, options.epochs, rows)
    callbacks = [StopOnDivergence(), AverageStatistics(), rows]
    if workers.is_chief:
        # Before the checkpoint: a killed process may show an epoch twice there, but loses none.
        board = folder.path / "tensorboard" / name
        callbacks.append(keras.callbacks.TensorBoard(board, write_graph=False))
    callbacks += [
        SaveCheckpoints(checkpoints, rows, facts, folder, history, workers),
        progress,
        StopOnSignal(stop, workers),
    ]
    with progress.shown(), stop.deferred(), resources(folder):
        arguments = fit_arguments(
            config,
            data,
            initial_epoch=done,
            epochs_before=epochs_before,
            strategy=model.distribute_strategy,
        )
        try:
            model.fit(**arguments, callbacks=callbacks)
        except FloatingPointError as error:
            raise Diverged(str(error)) from error
    return rows.rows


def fit_arguments(
    config: Config,
    data: ImageData,
    *,
    epochs: int | None = None,
    initial_epoch: int = 0,
    epochs_before: int = 0,
    strategy: tf.distribute.Strategy | None = None,
) -> dict[str, Any]:
    """Return the arguments of `fit`, but for the callbacks, of a training as configured.

    Args:
        config: The configuration.
        data: What to learn from and to validate on.
        epochs: The number of epochs; the configured one by default.
        initial_epoch: The number of epochs that are trained already.
        epochs_before: As for `fit`.
        strategy: The distribution strategy of the model.
    """
    options = config.optimisation
    epochs = options.epochs if epochs is None else epochs
    batches = training_batches(
        data.x_train,
        data.y_train,
        options.batch_size,
        seed=options.seed,
        epochs=epochs_before + epochs,
        initial_epoch=epochs_before + initial_epoch,
        # The features of a frozen trunk are computed once.
        augmentation="none" if config.network.freeze_trunk else config.data.augmentation,
    )
    return {
        "x": batches,
        "steps_per_epoch": len(data.x_train) // options.batch_size,
        "epochs": epochs,
        "initial_epoch": initial_epoch,
        "shuffle": False,
        "validation_data": evaluation_batches(
            data.x_validation, data.y_validation, options.batch_size, strategy
        ),
        "verbose": 0,
    }


def _newest(checkpoints: Checkpoints, workers: Workers) -> Checkpoint | None:
    """Return the newest checkpoint; the chief reads it, as others may not see its folder."""
    if workers.count == 1:
        return checkpoints.load()

    def read() -> bytes:
        checkpoint = checkpoints.load()
        return b"" if checkpoint is None else checkpoint.to_bytes()

    content = workers.from_chief("the checkpoint", read)
    return Checkpoint.from_bytes(content) if content else None


@contextmanager
def tensorboard_in(folder: Path) -> Iterator[None]:
    """Say so where the disk has no place for TensorBoard's files, which TensorFlow writes.

    Args:
        folder: The folder of the files.

    Raises:
        WriteError: If they do not fit on the disk.
    """
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        # TensorBoard's writer has no message, or this one; that of the allocator is another.
        full = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT)]
        if error.message and not any(reason in error.message for reason in full):
            raise
        raise WriteError(folder, OSError(errno.ENOSPC, full[0])) from error


@contextmanager
def resources(folder: RunFolder) -> Iterator[None]:
    """Say what to do where the memory or the disk does not suffice.

    Args:
        folder: The folder of the run.

    Raises:
        OutOfMemory: If the memory does not suffice.
        WriteError: If TensorBoard's files do not fit on the disk.
    """
    try:
        with tensorboard_in(folder.path / "tensorboard"):
            yield
    except tf.errors.ResourceExhaustedError as error:
        raise OutOfMemory(
            "The memory does not suffice. Try a smaller --batch-size or --width in another "
            f"--run-dir. {error.message}"
        ) from error


def origin_of(config: Config) -> dict[str, str]:
    """Return what tells the file that a network starts from from others; nothing without one."""
    start = config.network.init_from
    return {} if start is None else {"initial weights": file_digest(start)}


def data_digest(data: ImageData) -> str:
    """Return a string that tells two sets of training examples apart."""
    return f"{data.source} {digest_of((data.x_train, data.y_train))[:16]}"


def accuracy(model: keras.Model, x: np.ndarray, y: np.ndarray, batch_size: int) -> float:
    """Return the share of examples that a model, compiled with this metric, gets right.

    Args:
        model: The model.
        x: Inputs, (examples, ...).
        y: Integer labels, (examples,).
        batch_size: Examples in a batch.
    """
    batches = evaluation_batches(x, y, batch_size, model.distribute_strategy)
    return float(model.evaluate(batches, verbose=0, return_dict=True)["accuracy"])
