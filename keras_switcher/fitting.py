"""The two networks of a run, made as configured and trained from their last checkpoint."""

import dataclasses
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import keras
import tensorflow as tf
from rich.console import Console

from keras_switcher import models, switchers
from keras_switcher.alternation import Alternation
from keras_switcher.batches import evaluation_batches, training_batches
from keras_switcher.callbacks import (
    EpochRows,
    ProgressBar,
    SaveCheckpoints,
    StopOnDivergence,
    StopOnSignal,
    restore,
)
from keras_switcher.config import Config, influences
from keras_switcher.convert import switch
from keras_switcher.data import ImageData
from keras_switcher.initial import FrozenTrunk, file_digest, load_initial, returns_logits
from keras_switcher.losses import SmoothedCrossentropy
from keras_switcher.model import SwitchedModel
from keras_switcher.runs import CHECKPOINTS, Checkpoints, RunError, RunFolder, WriteError
from keras_switcher.signals import StopSignals


class OutOfMemory(RunError):
    """The device has not enough memory."""

    exit_status = 1


@contextmanager
def execution(config: Config) -> Iterator[AbstractContextManager[Any]]:
    """Set the machine up as configured; yields the scope to make and compile models in."""
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(config.execution.precision)
    if config.execution.deterministic:
        tf.config.experimental.enable_op_determinism()
    try:
        mirrored = config.execution.strategy == "mirrored"
        yield tf.distribute.MirroredStrategy().scope() if mirrored else nullcontext()
    finally:
        keras.config.set_dtype_policy(policy)


@dataclasses.dataclass(frozen=True)
class Start:
    """The network that a run starts from.

    Args:
        network: The whole network, of plain dense layers.
        returns_logits: Whether it returns logits, and not probabilities.
        trunk: The part that stays as it is, if one does.
    """

    network: keras.Model
    returns_logits: bool
    trunk: FrozenTrunk | None

    @property
    def learned(self) -> keras.Model:
        """The part that learns, whose layers are those of the network."""
        return self.network if self.trunk is None else self.trunk.head


def new_start(config: Config, data: ImageData) -> Start:
    """Build the network, or read the one to start from; each time with the same weights.

    Args:
        config: The configuration.
        data: What it will learn from.

    Raises:
        FileNotFoundError: If there is no file to start from where it was said to be.
        ValueError: If it doesn't fit.
    """
    keras.utils.set_random_seed(config.optimisation.seed)
    options = config.network
    if options.init_from is None:
        network = models.build(
            options.model,
            data.input_shape,
            data.num_classes,
            options.width,
            options.dropout,
            options.fc_units,
        )
        return Start(network, returns_logits=True, trunk=None)
    network = load_initial(options.init_from, data)
    return Start(
        network,
        returns_logits(network, data.x_train[:32]),
        FrozenTrunk(network) if options.freeze_trunk else None,
    )


def switched_model(config: Config, data: ImageData, start: Start) -> SwitchedModel:
    """Switch the dense layers of the part that learns, a copy of it, and compile that."""
    return _switched(config, data, start, start.learned)


def _switched(config: Config, data: ImageData, start: Start, network: keras.Model) -> SwitchedModel:
    options = config.switching
    model = switch(
        network,
        switcher=switchers.registry.get(options.switcher)(hidden=options.switcher_hidden),
        gate=options.gate,
        granularity=options.granularity,
    )
    model.compile(
        optimizer=_optimizer(config, data),
        switcher_optimizer=keras.optimizers.Adam(config.optimisation.switcher_learning_rate),
        target_sparsity=options.target_sparsity,
        alternation=Alternation(**dataclasses.asdict(config.alternation)),
        **_compile_options(config, start),
    )
    return model


def dense_model(config: Config, data: ImageData, start: Start) -> keras.Model:
    """Compile the part that learns as it is, with plain dense layers."""
    return _compiled(config, data, start, start.learned)


def _compiled(config: Config, data: ImageData, start: Start, network: keras.Model) -> keras.Model:
    network.compile(optimizer=_optimizer(config, data), **_compile_options(config, start))
    network.optimizer.build(network.trainable_variables)
    return network


def whole_switched(
    config: Config, data: ImageData, start: Start, learned: SwitchedModel
) -> SwitchedModel:
    """Return the whole network once its switched part has learned."""
    if start.trunk is None:
        return learned
    whole = _switched(config, data, start, start.network)
    start.trunk.copy_head(learned, whole)
    return whole


def whole_dense(config: Config, data: ImageData, start: Start) -> keras.Model:
    """Return the whole network once its dense part has learned."""
    if start.trunk is None:
        return start.network
    return _compiled(config, data, start, start.network)


def _optimizer(config: Config, data: ImageData) -> keras.optimizers.Optimizer:
    options = config.optimisation
    rate: Any = options.learning_rate
    if options.lr_schedule == "cosine":
        steps = options.epochs * (len(data.x_train) // options.batch_size)
        rate = keras.optimizers.schedules.CosineDecay(options.learning_rate, steps)
    decay = options.weight_decay or None
    optimizer: keras.optimizers.Optimizer
    if options.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(rate, options.momentum, weight_decay=decay)
    else:
        optimizer = keras.optimizers.Adam(rate, weight_decay=decay)
    if decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def _compile_options(config: Config, start: Start) -> dict[str, Any]:
    from_logits = start.returns_logits
    smoothing = config.optimisation.label_smoothing
    return {
        "loss": SmoothedCrossentropy(smoothing, from_logits=from_logits)
        if smoothing
        else keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits),
        "metrics": ["accuracy"],
        "jit_compile": config.execution.jit,
        "steps_per_execution": config.execution.steps_per_execution,
    }


def fit(
    model: keras.Model,
    name: str,
    history: str,
    config: Config,
    data: ImageData,
    folder: RunFolder,
    stop: StopSignals,
    console: Console,
) -> list[dict[str, Any]]:
    """Train a network from its last checkpoint to the last epoch; return the history's rows."""
    options = config.optimisation
    # As JSON has them: the checkpoint holds them so.
    facts = json.loads(
        json.dumps(
            {"network": name, "data": _digest(data), **_origin(config), **influences(config)}
        )
    )
    checkpoints = Checkpoints(folder.path / CHECKPOINTS, name)
    checkpoint = checkpoints.load()
    rows = EpochRows([] if checkpoint is None else checkpoint.rows)
    done = len(rows.rows)
    if checkpoint is not None:
        restore(model, checkpoint, facts)
        # The process may have ended between the checkpoint and the history.
        folder.write_history(history, rows.rows)
        console.print(f"Going on after epoch {done} of the {name} network.", highlight=False)
    if done == options.epochs:
        return rows.rows
    console.print(f"Training the {name} network:", highlight=False)
    progress = ProgressBar(console, name, options.epochs, rows)
    with progress.shown(), stop.deferred(), _resources(folder):
        model.fit(
            training_batches(
                data.x_train,
                data.y_train,
                options.batch_size,
                seed=options.seed,
                epochs=options.epochs,
                initial_epoch=done,
                augmentation="none" if config.network.freeze_trunk else config.data.augmentation,
            ),
            steps_per_epoch=len(data.x_train) // options.batch_size,
            epochs=options.epochs,
            initial_epoch=done,
            shuffle=False,
            validation_data=evaluation_batches(
                data.x_validation, data.y_validation, options.batch_size
            ),
            callbacks=[
                StopOnDivergence(),
                rows,
                SaveCheckpoints(checkpoints, rows, facts, folder, history),
                keras.callbacks.TensorBoard(folder.path / "tensorboard" / name, write_graph=False),
                progress,
                StopOnSignal(stop),
            ],
            verbose=0,
        )
    return rows.rows


@contextmanager
def _resources(folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        # Without a message it comes from TensorBoard's writer, and with one from the allocator.
        if not error.message:
            full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise WriteError(folder.path / "tensorboard", full) from error
        raise OutOfMemory(
            "The memory does not suffice. Try a smaller --batch-size or --width in another "
            f"--run-dir. {error.message}"
        ) from error


def _origin(config: Config) -> dict[str, str]:
    start = config.network.init_from
    return {} if start is None else {"initial weights": file_digest(start)}


def _digest(data: ImageData) -> str:
    """Return what tells two sets of training examples apart."""
    content = hashlib.sha256()
    for part in (data.x_train, data.y_train):
        content.update(part.tobytes())
    return f"{data.source} {content.hexdigest()[:16]}"
