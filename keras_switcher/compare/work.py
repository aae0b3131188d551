"""`Work`: what a method of the comparison is given to train one network."""

import dataclasses
import functools
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
from rich.console import Console

from keras_switcher.callbacks import Diverged
from keras_switcher.checks import is_integer
from keras_switcher.config import Config
from keras_switcher.data import ImageData
from keras_switcher.files import RunError, replacing
from keras_switcher.fitting import accuracy, fit, fit_arguments, origin_of
from keras_switcher.networks import Start, new_start
from keras_switcher.runs import CHECKPOINTS, MODEL_FILE, RunFolder
from keras_switcher.signals import StopSignals
from keras_switcher.workers import Workers


@dataclasses.dataclass
class Work:
    """The work of a method: training one network, at one sparsity, from one seed.

    Args:
        config: The configuration of the training; `config.switching.target_sparsity` is the
            sparsity to reach.
        data: The data to learn from: images, or features if a trunk is frozen.
        images: The data set itself.
        folder: Folder of this work, for checkpoints and for whatever a method writes.
        found: Results of the methods named in `Method.needs`, for the same seed and sparsity.
        stop: The signals that stop it.
        console: Where progress goes.
        keeps_models: Whether the trained network is kept.
    """

    config: Config
    data: ImageData
    images: ImageData
    folder: Path
    found: dict[str, dict[str, Any]]
    stop: StopSignals
    console: Console
    keeps_models: bool = False

    def __post_init__(self) -> None:
        self._fits = 0
        self._epochs = 0

    @property
    def epochs(self) -> int:
        """Number of epochs that are trained: of all calls of `fit`, if there were any."""
        return self._epochs or self.config.optimisation.epochs

    @property
    def target_sparsity(self) -> float:
        """The sparsity to reach, in [0, 1); 0 if the comparison has none."""
        return self.config.switching.target_sparsity or 0.0

    @property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch."""
        return len(self.data.x_train) // self.config.optimisation.batch_size

    def start(self) -> Start:
        """Return the network that every method starts from, with the weights of the seed."""
        start = new_start(self.config, self.images)
        self.parameters = start.network.count_params()
        return start

    @functools.cached_property
    def parameters(self) -> int:
        """Number of parameters of the whole network that every method starts from, on or off."""
        return int(new_start(self.config, self.images).network.count_params())

    def fit(self, model: keras.Model, epochs: int | None = None) -> list[dict[str, Any]]:
        """Train a compiled model on the batches that every method sees; return a row per epoch.

        A checkpoint is written after each epoch. If the process is stopped, the next one continues
        from the last checkpoint: it makes the same calls again, and those that were complete give
        the model their weights at once.

        Args:
            model: The model.
            epochs: How many epochs. By default all of the configuration's that no earlier call for
                this work has taken, so that a method which trains, prunes and fine-tunes says only
                how many the first part has.

        Raises:
            RunError: If there is no epoch left, or `epochs` is not an integer >= 1.
        """
        if epochs is None:
            epochs = self.config.optimisation.epochs - self._epochs
            if epochs < 1:
                raise RunError(
                    f"Expected an epoch to be left. Received: another `fit` after all "
                    f"{self.config.optimisation.epochs}. Say `epochs` in each: "
                    "work.fit(model, epochs=10)"
                )
        if not is_integer(epochs) or epochs < 1:
            raise RunError(f"Expected an integer `epochs` >= 1. Received: epochs={epochs!r}")
        self._fits += 1
        before = self._epochs
        self._epochs += int(epochs)
        number = "" if self._fits == 1 else f"-{self._fits}"
        optimisation = dataclasses.replace(self.config.optimisation, epochs=int(epochs))
        (self.folder / CHECKPOINTS).mkdir(exist_ok=True)
        return fit(
            model,
            f"compared{number}",
            f"history{number}.csv",
            dataclasses.replace(self.config, optimisation=optimisation),
            self.data,
            RunFolder(self.folder),
            self.stop,
            self.console,
            Workers(),
            origin_of(self.config),
            epochs_before=before,
        )

    def keep(self, learned: keras.Model) -> None:
        """Save the trained network, if the comparison keeps its networks.

        Args:
            learned: The part that learned, of plain Keras layers: the network, or what is above its
                frozen trunk. If the shapes of that part have changed, it is kept alone.
        """
        if not self.keeps_models:
            return
        network = learned
        if self.config.network.freeze_trunk:
            whole = self.start().network
            pairs = [(whole.get_layer(la.name), la) for la in learned.layers if la.weights]
            if all(own.count_params() == la.count_params() for own, la in pairs):
                for own, layer in pairs:
                    own.set_weights(layer.get_weights())
                network = whole
        with replacing(self.folder / MODEL_FILE) as path:
            network.save(path)

    def accuracy(self, model: keras.Model, part: str) -> float:
        """Return the share of examples that a model gets right.

        Args:
            model: The model, compiled with the metric `accuracy`.
            part: "validation" or "test".
        """
        x, y = (getattr(self.data, f"{axis}_{part}") for axis in "xy")
        return accuracy(model, x, y, self.config.optimisation.batch_size)


def fit_at_once(work: Work, model: Any, callbacks: Sequence[Any]) -> float:
    """Train a compiled model as `Work.fit` does, but without checkpoints; return its seconds.

    For a peer whose state no Keras checkpoint holds, or which is a model of Keras 2.

    Args:
        work: The work to do.
        model: The model, compiled with the metric `accuracy`.
        callbacks: Callbacks for the model's version of Keras. One of them must call
            `work.stop.check` after each batch.

    Raises:
        Diverged: If the last loss is not finite.
    """
    start = time.perf_counter()
    with work.stop.deferred():
        arguments = fit_arguments(work.config, work.data)
        history = model.fit(**arguments, callbacks=list(callbacks)).history
    if not math.isfinite(history["loss"][-1]):
        raise Diverged(f"The loss is {history['loss'][-1]} at the end.")
    return time.perf_counter() - start
