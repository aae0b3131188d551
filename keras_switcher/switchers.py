"""Switcher networks (SNNs): a kernel in, one logit per switch out.

A switcher is a Keras layer whose `call` takes the normalised kernel of one `SwitchedDense` layer
and returns logits; a gate turns these into switches. Each switched layer owns one switcher.
"""

import inspect
from collections.abc import Sequence
from typing import Any, TypeVar

import keras
import tensorflow as tf
from keras import ops

from keras_switcher.checks import is_integer, is_number
from keras_switcher.granularity import Granularity
from keras_switcher.granularity import get as get_granularity
from keras_switcher.registry import PACKAGE, Registry, is_same_definition

registry: Registry[type["Switcher"]] = Registry(
    "switcher", "@keras_switcher.switchers.register('name')"
)

# Added to the mean squares of what `orthonormal` divides by, which are about 1.
_RIDGE = 1e-4

SwitcherType = TypeVar("SwitcherType", bound="type[Switcher]")


def register(name: str) -> Any:
    """Register a `Switcher` class under a short name, and with Keras for saving.

    Args:
        name: The name that `SwitchedDense(switcher=name)` and `--switcher name` will accept.

    Returns:
        A class decorator.

    Raises:
        ValueError: If the name, or that of the class, is taken by another switcher.
    """

    def decorate(cls: SwitcherType) -> SwitcherType:
        # Keras would take the new class for the old one, in files saved earlier, too.
        taken = keras.saving.get_registered_object(f"{PACKAGE}>{cls.__name__}")
        if taken is not None and not is_same_definition(taken, cls):
            raise ValueError(
                f"There is another switcher of the class name '{cls.__name__}', by which saved "
                f"files know it; choose another name for the class. Received: {cls!r}"
            )
        keras.saving.register_keras_serializable(PACKAGE)(cls)
        return registry.register(name)(cls)

    return decorate


class Switcher(keras.layers.Layer):
    """Base class of the networks that read a kernel and switch its connections.

    Override `call(self, kernel)`, and `build(self, kernel_shape)` to create weights. The kernel is
    divided by its root mean square, and no gradient flows back into it. The result is either one
    logit per connection, of shape (inputs, units), which is averaged over each switch's group, or
    one logit per switch, of shape (groups, units), given by
    `self.granularity.shape(kernel_shape)`. Only the differences between the logits matter:
    `SwitchedDense` normalises them to mean 0 and variance 1, adds offsets that decide how many
    connections of the layer are on, and turns a connection on where the sum is positive.

    Only the switcher step of a `SwitchedModel` trains the weights of a switcher. For the task's
    optimiser they are not trainable, so a `SwitchedDense` lists the same `trainable_weights` as a
    `Dense`. Regularisers of these weights, and what `call` adds by `add_loss`, belong to the
    switcher's objective.

    Args:
        **kwargs: Keyword arguments of `keras.layers.Layer`. The dtype defaults to float32.

    Attributes:
        granularity: The `Granularity` of the layer, which sets it before `build`. It is not part of
            the configuration.

    Call arguments:
        kernel: Float tensor of shape (inputs, units), with root mean square 1.

    Returns:
        Float tensor of logits, (inputs, units) or `self.granularity.shape((inputs, units))`.

    Example:

    ```python
    @keras_switcher.switchers.register("rank")
    class RankSwitcher(keras_switcher.Switcher):
        def build(self, kernel_shape):
            self.factor = self.add_weight(shape=(kernel_shape[0], 1), initializer="ones")

        def call(self, kernel):
            return self.factor * keras.ops.abs(kernel)
    ```

    Reference:
        [Explore the Knowledge contained in Network Weights to Obtain Sparse Neural
        Networks](https://arxiv.org/abs/2103.15590), for the idea; the layout is this project's.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.granularity: Granularity = get_granularity("connection")
        self.offset = self.add_weight(name="offset", shape=(), initializer="zeros")

    def load_own_variables(self, store: Any) -> None:
        """Load the weights; keep the current ones if a file of plain `Dense` layers has none."""
        if store.keys():
            super().load_own_variables(store)


def _check_widths(hidden: Sequence[int]) -> tuple[int, ...]:
    if not isinstance(hidden, Sequence) or not all(is_integer(w) and w > 0 for w in hidden):
        raise ValueError(
            "Expected `hidden` to be a sequence of positive integers, such as (64,). "
            f"Received: hidden={hidden!r}"
        )
    # JSON can't hold numbers of NumPy's.
    return tuple(map(int, hidden))


def _check_normalization(normalization: str | None) -> str | None:
    if normalization not in (None, "layer"):
        raise ValueError(
            f"Expected `normalization` to be None or 'layer'. Received: "
            f"normalization={normalization!r}"
        )
    return normalization


def _check_magnitude(magnitude: float | None) -> float | None:
    if magnitude is None:
        return None
    if not (is_number(magnitude) and magnitude >= 0):
        raise ValueError(f"Expected `magnitude` >= 0, or None. Received: magnitude={magnitude!r}")
    return float(magnitude)


def _magnitude_factors(switcher: "UnitSwitcher | OrthogonalSwitcher", units: int) -> Any:
    if switcher.magnitude is None:
        return None
    return switcher.add_weight(
        name="magnitude",
        shape=(1, units),
        initializer=keras.initializers.Constant(switcher.magnitude),
    )


def _magnitude_term(switcher: Switcher, factors: Any, kernel: Any) -> Any:
    if factors is None:
        return 0.0
    return factors * (switcher.granularity.pool(ops.abs(kernel), kernel.shape) - 1.0)


class _PerceptronSwitcher(Switcher):
    """A multilayer perceptron over columns of features, shared by all columns.

    Features have shape (features, columns). Each hidden layer is `activation(norm(A @ x + a))`, and
    the last layer is linear. With no hidden layer, the logits are linear in the features.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (64,),
        activation: Any = "relu",
        normalization: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden = _check_widths(hidden)
        self.activation = keras.activations.get(activation)
        self.normalization = _check_normalization(normalization)

    def _build_perceptron(self, features: int, outputs: int) -> None:
        self._kernels, self._biases, self._scales = [], [], []
        widths = (features, *self.hidden, outputs)
        for index, (fan_in, fan_out) in enumerate(zip(widths, widths[1:], strict=False)):
            last = index == len(self.hidden)
            # The last weights are small so that at first the logits are led by what a switcher adds
            # to the perceptron, such as magnitudes.
            scale = 0.01 if last else 2.0
            self._kernels.append(
                self.add_weight(
                    name=f"kernel_{index}",
                    shape=(fan_out, fan_in),
                    initializer=keras.initializers.RandomNormal(stddev=(scale / fan_in) ** 0.5),
                )
            )
            self._biases.append(
                self.add_weight(
                    name=f"bias_{index}",
                    shape=(fan_out, 1),
                    initializer="zeros",
                )
            )
            if self.normalization and not last:
                self._scales.append(
                    self.add_weight(name=f"scale_{index}", shape=(fan_out, 1), initializer="ones")
                )

    def _perceptron(self, features: Any) -> Any:
        x = features
        for index in range(len(self.hidden)):
            x = ops.matmul(self._kernels[index], x) + self._biases[index]
            if self.normalization:
                mean = ops.mean(x, axis=0, keepdims=True)
                variance = ops.mean(ops.square(x - mean), axis=0, keepdims=True)
                x = (x - mean) * ops.rsqrt(variance + 1e-5) * self._scales[index]
            x = self.activation(x)
        return ops.matmul(self._kernels[-1], x) + self._biases[-1]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "hidden": list(self.hidden),
            "activation": keras.activations.serialize(self.activation),
            "normalization": self.normalization,
        }


@register("unit")
class UnitSwitcher(_PerceptronSwitcher):
    """Computes all logits of a unit from its incoming weights, with one network for all units.

    `logits[:, j] = perceptron(kernel[:, j]) + magnitude * (pool(|kernel[:, j]|) - 1)`: the
    perceptron sees the whole unit at once. Its hidden layer is narrower than the unit's number of
    inputs, so it can't tell single connections apart well; the second term, with one trained factor
    per unit, adds the magnitude of each weight, less its usual value. For a kernel of shape (I, U)
    and one hidden layer of width H, a call takes about `2 * I * H * U` multiply-adds and the
    switcher has about `2 * I * H` weights.

    Args:
        hidden: Widths of the hidden layers; their number is the depth.
        activation: Activation of the hidden layers, as for `keras.layers.Dense`.
        normalization: `None` or "layer", layer normalisation before each activation.
        magnitude: Float >= 0, initial value of the trained factors of the magnitudes; `None` leaves
            the term out.
        **kwargs: Keyword arguments of `Switcher`.

    Call arguments:
        kernel: Float tensor of shape (inputs, units), with root mean square 1.

    Returns:
        Float tensor of logits, (groups, units).

    Raises:
        ValueError: If a width is not a positive integer, the normalisation is unknown, or
            `magnitude` is not a number >= 0.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (64,),
        activation: Any = "relu",
        normalization: str | None = None,
        magnitude: float | None = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(hidden, activation, normalization, **kwargs)
        self.magnitude = _check_magnitude(magnitude)

    def build(self, kernel_shape: tuple[int, int]) -> None:
        groups, units = self.granularity.shape(kernel_shape)
        self._build_perceptron(kernel_shape[0], groups)
        self._magnitude = _magnitude_factors(self, units)

    def call(self, kernel: Any) -> Any:
        return self._perceptron(kernel) + _magnitude_term(self, self._magnitude, kernel)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "magnitude": self.magnitude}


@register("orthogonal")
class OrthogonalSwitcher(Switcher):
    """Computes logits that are linear in a unit's weights, with the units made orthogonal.

    `logits = A @ orthonormal(kernel) + a + magnitude * (pool(|kernel|) - 1)`, with a trained matrix
    `A` of shape (groups, inputs), a trained bias `a` of shape (groups, 1) and, as in
    `UnitSwitcher`, a trained factor for each unit. When a step of gradient descent moves the matrix
    of a linear `UnitSwitcher`, the logits of a unit move by its own gradients and by those of other
    units, as far as their weights are alike. With orthonormal units, a step on `A` moves those of
    each unit by its own alone, as a step of `FreeSwitcher` does, up to a factor. If the kernel has
    more units than inputs, its rows are made orthonormal instead, and this holds only in part.

    For a kernel of shape (I, U), with I >= U, a call takes about `I * (I + 1.5 * U) * U`
    multiply-adds, and the switcher has about `I * I` weights.

    Args:
        magnitude: Float >= 0, initial value of the trained factors of the magnitudes; `None` leaves
            the term out.
        **kwargs: Keyword arguments of `Switcher`.

    Call arguments:
        kernel: Float tensor of shape (inputs, units), with root mean square 1.

    Returns:
        Float tensor of logits, (groups, units).

    Raises:
        ValueError: If `magnitude` is not a number >= 0.
    """

    def __init__(self, magnitude: float | None = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.magnitude = _check_magnitude(magnitude)

    def build(self, kernel_shape: tuple[int, int]) -> None:
        groups, units = self.granularity.shape(kernel_shape)
        inputs = kernel_shape[0]
        # Small, so that at first the logits are led by the magnitudes.
        initial = keras.initializers.RandomNormal(stddev=(0.01 / inputs) ** 0.5)
        self._kernel = self.add_weight(name="kernel", shape=(groups, inputs), initializer=initial)
        self._bias = self.add_weight(name="bias", shape=(groups, 1), initializer="zeros")
        self._magnitude = _magnitude_factors(self, units)

    def call(self, kernel: Any) -> Any:
        logits = ops.matmul(self._kernel, orthonormal(kernel)) + self._bias
        return logits + _magnitude_term(self, self._magnitude, kernel)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "magnitude": self.magnitude}


def orthonormal(kernel: Any) -> Any:
    """Return a kernel whose units are made orthogonal by Cholesky's factor of their products.

    Args:
        kernel: Float tensor of shape (inputs, units), with root mean square 1.

    Returns:
        Float32 tensor of that shape. Its columns, or its rows if there are fewer of these, are
        orthogonal, and each element's mean square is about 1. What depends linearly on others
        becomes small.
    """
    inputs, units = kernel.shape
    # Cholesky's factor has no narrower type.
    kernel = ops.cast(kernel, "float32")
    tall = kernel if inputs >= units else ops.transpose(kernel)
    rows, columns = tall.shape
    # With a ridge, there is a factor where units depend on each other, too, and for zeros.
    ridge = _RIDGE * ops.eye(columns, dtype="float32")
    products = ops.matmul(ops.transpose(tall), tall) / rows + ridge
    # TensorFlow's own, as Keras's raises an error of its own where a weight is not finite, before
    # the training says that it has diverged.
    factor = tf.linalg.cholesky(products)
    wide = ops.solve_triangular(factor, ops.transpose(tall), lower=True)
    return wide if inputs < units else ops.transpose(wide)


@register("connection")
class ConnectionSwitcher(_PerceptronSwitcher):
    """Computes the logit of a connection from its features, with one network for all connections.

    The features of connection (i, j) are its weight, the weight's absolute value, and that value
    relative to the root mean square of the weights of its input and of its unit. The number of
    weights of this switcher does not depend on the size of the kernel; for one hidden layer of
    width H, it costs `4 * H + H` multiply-adds per connection.

    Args:
        hidden: Widths of the hidden layers; their number is the depth.
        activation: Activation of the hidden layers, as for `keras.layers.Dense`.
        normalization: `None` or "layer", layer normalisation before each activation.
        **kwargs: Keyword arguments of `Switcher`.

    Call arguments:
        kernel: Float tensor of shape (inputs, units), with root mean square 1.

    Returns:
        Float tensor of logits, (inputs, units).

    Raises:
        ValueError: If a width is not a positive integer, or the normalisation is unknown.
    """

    def __init__(
        self,
        hidden: Sequence[int] = (16,),
        activation: Any = "relu",
        normalization: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(hidden, activation, normalization, **kwargs)

    def build(self, kernel_shape: tuple[int, int]) -> None:
        self._build_perceptron(4, 1)

    def call(self, kernel: Any) -> Any:
        size = ops.abs(kernel)
        square = ops.square(kernel)
        by_input = size * ops.rsqrt(ops.mean(square, axis=1, keepdims=True) + 1e-6)
        by_unit = size * ops.rsqrt(ops.mean(square, axis=0, keepdims=True) + 1e-6)
        features = ops.stack([kernel, size, by_input, by_unit], axis=0)
        logits = self._perceptron(ops.reshape(features, (4, -1)))
        return ops.reshape(logits, kernel.shape)


@register("free")
class FreeSwitcher(Switcher):
    """A trained logit for each switch, which reads nothing: the method without a network.

    It has as many weights as the layer has switches. See docs/method.md for where it does better
    than a network and where it does not.

    Args:
        seed: Seed of the logits' initial values, which are small so that the logits can overtake
            each other. With a given seed, layers of the same shape start alike. `None` draws a seed
            as Keras's initialisers do, so that `keras.utils.set_random_seed` determines it.
        **kwargs: Keyword arguments of `Switcher`.

    Call arguments:
        kernel: Float tensor of shape (inputs, units); only its shape matters.

    Returns:
        Float tensor of logits, (groups, units).
    """

    def __init__(self, seed: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed = seed

    def build(self, kernel_shape: tuple[int, int]) -> None:
        self._logits = self.add_weight(
            name="logits",
            shape=self.granularity.shape(kernel_shape),
            initializer=keras.initializers.RandomNormal(stddev=0.01, seed=self.seed),
        )

    def call(self, kernel: Any) -> Any:
        return ops.convert_to_tensor(self._logits)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seed": self.seed}


def configured(name: str, **options: Any) -> Switcher:
    """Return a new switcher by its registered name, with those options that it accepts.

    Args:
        name: The registered name.
        **options: Arguments of the classes of this module. An option is left out if neither the
            class of that name nor a class that it passes its keyword arguments on to has it.

    Raises:
        ValueError: If the name is not registered, or a value is wrong.
    """
    cls = registry.get(name)
    taken: set[str] = set()
    for base in cls.__mro__:
        if "__init__" in vars(base):
            parameters = inspect.signature(vars(base)["__init__"]).parameters
            taken |= {*parameters}
            if base is Switcher or inspect.Parameter.VAR_KEYWORD not in {
                parameter.kind for parameter in parameters.values()
            }:
                break
    return cls(**{option: value for option, value in options.items() if option in taken})


def get(identifier: "str | Switcher | dict[str, Any] | None") -> Switcher:
    """Return a new switcher from a registered name, a configuration or an instance.

    An instance serves as a template, as for initialisers: each layer gets a switcher of its own
    with the same configuration. A switcher from a serialised configuration keeps its name.

    Args:
        identifier: A registered name, a serialised configuration, a `Switcher`, or `None` for the
            default, `UnitSwitcher()`.

    Returns:
        A switcher that is not built yet.

    Raises:
        ValueError: If the name is not registered.
        TypeError: If it is none of these.
    """
    if identifier is None:
        return UnitSwitcher()
    if isinstance(identifier, str):
        return registry.get(identifier)()
    if isinstance(identifier, dict):
        # Keras would build it at once, without the layer's granularity.
        config = {name: value for name, value in identifier.items() if name != "build_config"}
        switcher = keras.saving.deserialize_keras_object(config)
        if isinstance(switcher, Switcher):
            return switcher
    if not isinstance(identifier, Switcher):
        raise TypeError(
            "Expected `switcher` to be a registered name, a keras_switcher.Switcher instance or "
            f"None. Received: switcher={identifier!r} (of type {type(identifier).__name__})"
        )
    config = identifier.get_config()
    config.pop("name", None)
    return type(identifier).from_config(config)
