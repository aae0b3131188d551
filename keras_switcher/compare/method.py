"""`Method`: a way to a sparse network, with the interface that the comparison trains it by."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import keras

from keras_switcher.compare.work import Work
from keras_switcher.config import Config
from keras_switcher.convert import strip, switch
from keras_switcher.files import RunError
from keras_switcher.layers import layers_of, switched_layers
from keras_switcher.metrics import layer_table
from keras_switcher.networks import Start
from keras_switcher.registry import Registry

Layers = list[dict[str, Any]]
_M = TypeVar("_M", bound="Method")

registry: Registry[type["Method"]] = Registry("method", "@keras_switcher.compare.register('name')")


@dataclasses.dataclass(frozen=True)
class Trained:
    """The result of a work.

    Args:
        validation_accuracy: Share of the validation examples that are right.
        test_accuracy: Share of the test examples that are right, read once, after the last epoch.
        layers: For each dense layer, its `name`, `shape`, `connections` and how many are `on`. A
            name that comes again gets a number, such as `fc#2`.
        parameters: Number of parameters of the whole network, on or off.
        remaining_parameters: Number of those that are left.
        seconds: Seconds of training, without the start of TensorFlow and without the test.

    Raises:
        RunError: If something is missing in `layers`, a number is none, or an accuracy no share.
    """

    validation_accuracy: float
    test_accuracy: float
    layers: Layers
    parameters: int
    remaining_parameters: int
    seconds: float

    def __post_init__(self) -> None:
        # Numbers of NumPy and of TensorFlow become those of Python, which JSON can hold.
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            number = int if field.name.endswith("parameters") else float
            new = _rows(value) if field.name == "layers" else _number(field.name, value, number)
            object.__setattr__(self, field.name, new)
        for name in ("validation_accuracy", "test_accuracy"):
            if not 0 <= getattr(self, name) <= 1:
                raise RunError(
                    f"Expected {name} to be a share in [0, 1]. Received: {getattr(self, name)}"
                )


def _number(name: str, value: Any, kind: type[int] | type[float]) -> int | float:
    try:
        number = kind(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise RunError(f"Expected {name} to be a number. Received: {name}={value!r}") from error
    if not math.isfinite(number) or number < 0:
        raise RunError(f"Expected {name} to be finite, and >= 0. Received: {name}={value!r}")
    return number


def _rows(layers: Any) -> Layers:
    """Return the rows of `Trained.layers`, checked, with numbers that JSON can hold."""
    if not isinstance(layers, Sequence) or not all(isinstance(row, Mapping) for row in layers):
        raise RunError(f"Expected `layers` to be a list of rows. Received: layers={layers!r}")
    found = []
    # Blocks of a network may have layers of the same names.
    taken: Counter[str] = Counter()
    for row in layers:
        if missing := {"name", "shape", "connections", "on"} - {*row}:
            raise RunError(
                "Expected each row of `layers` to have name, shape, connections and on. Received: "
                f"{row}, without {', '.join(sorted(missing))}"
            )
        counts = {n: int(_number(n, row[n], int)) for n in ("connections", "on")}
        if not 0 <= counts["on"] <= counts["connections"] or not counts["connections"]:
            raise RunError(
                "Expected 0 <= on <= connections in each row of `layers`, and connections > 0. "
                f"Received: {row}"
            )
        name = str(row["name"])
        taken[name] += 1
        name += f"#{taken[name]}" if taken[name] > 1 else ""
        found.append({"name": name, "shape": list(map(int, row["shape"])), **counts})
    return found


class Method:
    """A way to a sparse network.

    Override `model`, which returns a Keras model, compiled with the metric `accuracy`, for a work,
    and `layers`, which says how many of its dense connections are on once it is trained. For a
    method that can't be trained by Keras's `fit`, override `train` itself. All methods are compared
    with the same network, initial weights, data, order of the batches, epochs and optimiser. Each
    training runs in a process of its own.

    Class attributes:
        title: Name in tables and plots.
        needs: Methods whose results, for the same seed and sparsity, this one reads from
            `work.found`.
        is_sparse: Whether the method aims at the target sparsity; one that does not is trained once
            for all targets.
        reads: Options of `train.py` that influence the method, besides those that all methods
            share; `None` for all. `--methods name:option=value` rejects any other option.

    Example:

    ```python
    @keras_switcher.compare.register("dense-again")
    class DenseAgain(keras_switcher.compare.Method):
        is_sparse = False

        def model(self, work):
            return keras_switcher.networks.dense_model(work.config, work.data, work.start())
    ```
    """

    title: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ()
    is_sparse: ClassVar[bool] = True
    reads: ClassVar[frozenset[str] | None] = None

    def check(self, config: Config, start: Start) -> None:
        """Check, before anything is trained, that the method can be used on a network.

        Args:
            config: The configuration of a training by this method.
            start: The network.

        Raises:
            RunError: If it can't be used.
        """

    def model(self, work: Work) -> keras.Model:
        """Return a compiled model that learns to solve the task at the requested sparsity.

        Args:
            work: The work to do.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must override `model` or `train`. Received: neither"
        )

    def layers(self, model: keras.Model) -> Layers:
        """Return a row for each dense layer of a trained model; only switched ones if it has any.

        Args:
            model: The model.

        Returns:
            Rows with `name`, `shape` (inputs, units), `connections` and `on` (counts); in a plain
            layer, a connection is on if its weight is not 0.
        """
        return layer_table(model) if switched_layers(model) else dense_layers(model)

    def remaining(self, model: keras.Model, work: Work) -> int:
        """Return how many parameters of the whole network are left.

        Args:
            model: The trained model.
            work: The work that was done.
        """
        return work.parameters - sum(row["connections"] - row["on"] for row in self.layers(model))

    def train(self, work: Work) -> Trained:
        """Train the network and measure it.

        Args:
            work: The work to do.

        Returns:
            The accuracies, the connections of each layer, and what it took.

        Raises:
            RunError: If `model` does not return a model compiled with the metric `accuracy`.
        """
        model = self.model(work)
        if not isinstance(model, keras.Model) or not model.compiled:
            raise RunError(
                f"Expected `model` of {type(self).__name__} to return a compiled keras.Model. "
                f"Received: {model!r}" + (", not compiled" if hasattr(model, "compiled") else "")
            )
        if (names := _metric_names(model)) is not None and "accuracy" not in names:
            raise RunError(
                f"Expected `model` of {type(self).__name__} to return a model that is compiled "
                'with metrics=["accuracy"], which is what is compared. Received: '
                f"{', '.join(names) or 'no metrics'}"
            )
        rows = work.fit(model)
        work.keep(strip(model) if switched_layers(model) else model)
        return self.measured(model, work, sum(row["seconds"] for row in rows))

    def measured(self, model: keras.Model, work: Work, seconds: float) -> Trained:
        """Return the result of a work.

        Args:
            model: The trained model, compiled.
            work: The work that was done.
            seconds: How long the training took.
        """
        return Trained(
            validation_accuracy=work.accuracy(model, "validation"),
            test_accuracy=work.accuracy(model, "test"),
            layers=self.layers(model),
            parameters=work.parameters,
            remaining_parameters=self.remaining(model, work),
            seconds=seconds,
        )


def register(name: str) -> Callable[[type[_M]], type[_M]]:
    """Return a decorator that registers a method and returns it unchanged.

    Args:
        name: The name for `--methods`.

    Raises:
        TypeError: If it is not a subclass of `Method`, or `needs` or `reads` is one string.
        ValueError: As `Registry.register`.
    """
    add = registry.register(name)

    def decorate(method: type[_M]) -> type[_M]:
        if not (isinstance(method, type) and issubclass(method, Method)):
            raise TypeError(
                f"Expected the method {name!r} to be a subclass of keras_switcher.compare.Method. "
                f"Received: {method!r}"
            )
        for attribute in ("needs", "reads"):
            if isinstance(value := getattr(method, attribute), str):
                raise TypeError(
                    f"Expected `{attribute}` of the method {name!r} to be several names, such as "
                    f"({value!r},). Received: {value!r}"
                )
        return add(method)

    return decorate


def _metric_names(model: keras.Model) -> list[str] | None:
    """Return the names of a compiled model's metrics; `None` if its class keeps them elsewhere."""
    # Keras makes the metrics in the first batch. What they were given as is also in the public
    # configuration, but to make that, it would have to serialise the loss and everything else.
    compiled = getattr(getattr(model, "_compile_config", None), "config", None)
    if compiled is None:
        return None
    given = keras.tree.flatten([compiled.get("metrics"), compiled.get("weighted_metrics")])
    given += [metric for metric in model.metrics if metric.name not in ("loss", "compile_metrics")]
    named = (getattr(m, "name", None) or getattr(m, "__name__", m) for m in given if m is not None)
    return [str(name) for name in named]


def check_granularity(config: Config, start: Start) -> None:
    """Check that a network can be switched with the configured granularity.

    Args:
        config: The configuration of the training.
        start: The network.

    Raises:
        RunError: If it can't be switched.
    """
    granularity = config.switching.granularity
    if granularity != "connection":
        try:
            switch(start.learned, granularity=granularity)
        except ValueError as error:
            raise RunError(str(error)) from error


def dense_layers(model: keras.Model) -> Layers:
    """Return a row for each dense layer of a plain model; a connection is on if it is not 0.

    Args:
        model: The model.
    """
    return [
        {
            "name": layer.name,
            "shape": list(layer.kernel.shape),
            "connections": int(layer.kernel.shape[0] * layer.kernel.shape[1]),
            "on": int((keras.ops.convert_to_numpy(layer.kernel) != 0).sum()),
        }
        for layer in layers_of(model, keras.layers.Dense)
    ]
