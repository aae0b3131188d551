"""`SwitchedDense`: a dense layer whose connections a switcher network turns off."""

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import keras
import numpy as np
from keras import ops

from keras_switcher import gates, switchers
from keras_switcher.granularity import Granularity
from keras_switcher.granularity import get as get_granularity
from keras_switcher.registry import PACKAGE

# An optimiser such as Adam moves every weight by about its learning rate. A layer's offset must
# cross the whole range of its logits within one training, so it moves faster by this factor.
_OFFSET_SCALE = 10.0

_Kind = TypeVar("_Kind", bound=keras.layers.Layer)


@keras.saving.register_keras_serializable(PACKAGE)
class SwitchedDense(keras.layers.Dense):
    """A `keras.layers.Dense` whose connections are switched: `activation(x @ (W * S) + b)`.

    The switches `S` are a non-trainable weight, from which calls, saved files and checkpoints take
    them. The switcher network that computes them runs only in the switcher step of a
    `SwitchedModel`. A new layer has all switches on, and its outputs equal those of `Dense` to the
    bit. Training in a plain `keras.Model` leaves the switches unchanged.

    Args:
        units: Positive integer, dimensionality of the output space.
        activation: As for `Dense`.
        use_bias: As for `Dense`.
        switcher: The network that reads the kernel and returns logits: a registered name ("unit",
            "orthogonal", "connection", "free"), a `Switcher` instance (a template, of which the
            layer makes its own copy), or `None` for `UnitSwitcher()`.
        gate: The function that turns logits into switches: a registered name ("step", "relu_tanh")
            or a registered function.
        granularity: What one switch controls: "connection", "block4", "block16" (4 or 16
            consecutive inputs of one unit) or "unit".
        **kwargs: Keyword arguments of `Dense`: initialisers, regularisers, constraints, name,
            dtype. `lora_rank` and `quantization_config` are not accepted: `strip` the model first.

    Attributes:
        switches: Float32 weight of shape (groups, units), not trainable: 0 where connections are
            off. With granularity "connection", there is a group for each input.
        switcher: The layer's own switcher network.
        gate: The function that turns logits into switches.
        granularity: The `Granularity`.

    Call arguments:
        inputs: Float tensor of shape (batch, ..., inputs).

    Returns:
        Tensor of shape (batch, ..., units) in the layer's compute dtype.

    Raises:
        ValueError: If `units` is invalid, the switcher, gate or granularity is unknown, or the
            inputs are integers.
        TypeError: If `switcher` is of another type.

    Example:

    ```python
    layer = SwitchedDense(300, "relu", switcher=UnitSwitcher(hidden=(64,)), granularity="block4")
    ```
    """

    def __init__(
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        *,
        switcher: Any = None,
        gate: str | gates.Gate = "step",
        granularity: str | Granularity = "connection",
        **kwargs: Any,
    ) -> None:
        for refused in ("lora_rank", "quantization_config"):
            if kwargs.pop(refused, None) is not None:
                raise ValueError(
                    f"SwitchedDense does not take `{refused}`: `keras_switcher.strip` the trained "
                    f"model and apply it to the Dense layers. Received: {refused} for "
                    f"{kwargs.get('name', 'a SwitchedDense')}"
                )
        super().__init__(units, activation, use_bias, **kwargs)
        if self.quantization_mode is not None:
            raise ValueError(
                "SwitchedDense does not take a quantised dtype policy: `keras_switcher.strip` the "
                f"trained model and quantise that. Received: dtype={self.dtype_policy.name!r}"
            )
        self.gate = gates.get(gate)
        # An unregistered gate must fail here, not when the layer is saved after the training.
        gates.serialize(self.gate)
        gates.check(self.gate)
        self.granularity = get_granularity(granularity)
        self.switcher = switchers.get(switcher)
        self._learned: tuple[int, ...] = ()
        self.switcher.granularity = self.granularity

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        if isinstance(self.activation, keras.Layer) and not self.activation.built:
            # The optimiser is built before a call could build it.
            self.activation.build(self.compute_output_shape(input_shape))
        kernel_shape = tuple(self.kernel.shape)
        self.switches = self.add_weight(
            name="switches",
            shape=self.granularity.shape(kernel_shape),
            initializer="ones",
            trainable=False,
            dtype="float32",
            # Every replica computes the same switches.
            aggregation="only_first_replica",
        )
        if not self.switcher.built:
            self.switcher.build(kernel_shape)
        logits = self.switcher.compute_output_spec(keras.KerasTensor(kernel_shape, "float32"))
        if logits.shape not in (kernel_shape, self.switches.shape):
            raise ValueError(
                f"The switcher of layer '{self.name}' must return logits of the kernel's shape "
                f"{kernel_shape} or of the switches' shape {self.switches.shape}. Received: "
                f"{type(self.switcher).__name__} returning the shape {logits.shape}"
            )
        # A configuration may say that it is frozen: of another layer, when it was built.
        self.switcher.trainable = True
        learned = {id(v) for v in self.switcher.trainable_weights}
        self._learned = tuple(i for i, v in enumerate(self.switcher.weights) if id(v) in learned)
        # The task's optimiser must not see these weights; the switcher step takes them from the
        # switcher itself.
        self.switcher.trainable = False

    @property
    def switcher_variables(self) -> list[Any]:
        """The weights of the switcher that learn; none before the layer is built."""
        weights = self.switcher.weights
        return [weights[index] for index in self._learned]

    @property
    def trainable(self) -> bool:
        """Settable boolean, whether kernel and bias are trained, as in `Dense`."""
        return bool(super().trainable)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        keras.layers.Dense.trainable.fset(self, value)
        # Keras passes the value on to sublayers: `model.trainable = True` must not reach the
        # switcher.
        self.switcher.trainable = False

    @property
    def connections(self) -> int:
        """Number of connections, on or off: inputs x units."""
        return int(np.prod(self.kernel.shape))

    def expanded_switches(self) -> Any:
        """Return the switches with shape (inputs, units), or (1, units) for granularity `unit`."""
        return self.granularity.expand(self.switches, tuple(self.kernel.shape))

    def group_sizes(self) -> np.ndarray:
        """Return how many connections each switch controls: float32, (groups, 1)."""
        return self.granularity.sizes(tuple(self.kernel.shape))

    def masked_kernel(self) -> Any:
        """Return the kernel that the layer applies, (inputs, units), with exact zeros where off."""
        kernel = ops.convert_to_tensor(self.kernel)
        # Under a policy such as "bfloat16" Keras does not cast the float32 switches by itself.
        return ops.multiply(kernel, ops.cast(self.expanded_switches(), kernel.dtype))

    def compute_output_spec(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self._check_dtype(inputs)
        return super().compute_output_spec(inputs, *args, **kwargs)

    def _check_dtype(self, inputs: Any) -> None:
        if not keras.backend.is_float_dtype(inputs.dtype):
            raise ValueError(
                f"Layer '{self.name}' expects floating-point inputs; scale or cast integers first, "
                "for example by keras.layers.Rescaling(1 / 255). Received: inputs of dtype "
                f"{keras.backend.standardize_dtype(inputs.dtype)}"
            )

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        self._check_dtype(inputs)
        x = ops.matmul(inputs, self.masked_kernel())
        if self.bias is not None:
            x = ops.add(x, self.bias)
        if self.activation is not None:
            x = self.activation(x)
        return x

    def normalized_kernel(self) -> Any:
        """Return what the switcher reads: the kernel, divided by its root mean square.

        Returns:
            Float32 tensor of shape (inputs, units). No gradient flows through it.
        """
        kernel = ops.stop_gradient(ops.cast(ops.convert_to_tensor(self.kernel), "float32"))
        return kernel * ops.rsqrt(ops.mean(ops.square(kernel)) + 1e-12)

    def compute_logits(self, kernel: Any = None) -> Any:
        """Run the switcher on the kernel.

        The switcher's output is normalised to mean 0 and variance 1 over the layer, so that it
        ranks the layer's connections. How many of them are on is left to the layer's offset, which
        is trained and starts at Erdos-Renyi sparsity: density falls with the layer's size as
        `(inputs + units) / (inputs * units)`.

        Args:
            kernel: The result of `normalized_kernel`, which is the default.

        Returns:
            Float32 tensor of logits, of shape (groups, units). The gradient flows only to the
            switcher's weights.

        Reference:
            [Mocanu et al., 2018](https://arxiv.org/abs/1707.04780), the Erdos-Renyi densities.
        """
        if kernel is None:
            kernel = self.normalized_kernel()
        logits = ops.cast(self.switcher(kernel), "float32")
        if self.granularity.size != 1 and logits.shape == kernel.shape:
            logits = self.granularity.pool(logits, tuple(kernel.shape))
        mean = ops.mean(logits)
        deviation = ops.sqrt(ops.mean(ops.square(logits - mean)) + 1e-10)
        normalized = (logits - mean) / deviation
        return normalized + _OFFSET_SCALE * self.switcher.offset + self.initial_offset

    def mean_logit(self) -> float:
        """Return the mean of the layer's logits, without the offset of the model."""
        learned = float(ops.convert_to_numpy(self.switcher.offset))
        return _OFFSET_SCALE * learned + self.initial_offset

    @property
    def initial_offset(self) -> float:
        """What is added to the layer's logits: the logarithm of its Erdos-Renyi density."""
        inputs, units = self.kernel.shape
        return math.log((inputs + units) / (inputs * units))

    def on_connections(self, switches: Any = None) -> Any:
        """Count the connections that are on.

        Args:
            switches: Values to count, of shape (groups, units). Gradients flow through them.
                Defaults to the layer's own switches.

        Returns:
            Float32 scalar tensor.
        """
        if switches is None:
            switches = ops.cast(ops.convert_to_tensor(self.switches) > 0, "float32")
        return ops.sum(switches * self.group_sizes())

    def density(self) -> Any:
        """Return the share of connections that are on, float32 scalar tensor in (0, 1]."""
        # The learning rate of a layer with no connection on would be infinite.
        return ops.maximum(self.on_connections(), 1.0) / self.connections

    def enable_lora(self, *args: Any, **kwargs: Any) -> None:
        """Raise an error, as LoRA has no meaning for switched kernels."""
        raise NotImplementedError(
            f"Layer '{self.name}' is switched. Call `keras_switcher.strip(model)` and enable LoRA "
            "on the plain Dense layer."
        )

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Raise an error, as only the stripped model can be quantised."""
        raise NotImplementedError(
            f"Layer '{self.name}' is switched. Call `keras_switcher.strip(model)` and quantise the "
            "plain Keras model."
        )

    def save_own_variables(self, store: Any) -> None:
        """Save kernel and bias as `Dense` does, and the switches with them."""
        super().save_own_variables(store)
        if self.built:
            store["switches"] = ops.convert_to_numpy(self.switches)

    def load_own_variables(self, store: Mapping[str, Any]) -> None:
        """Load from a file of this class, or from one of `Dense`, which keeps the switches."""
        # Keras counts the entries before it reads kernel and bias.
        entries = {"switches": self.switches} if self.built else {}
        entries.update({name: store[name] for name in store.keys()})
        super().load_own_variables(entries)
        if self.built:
            self.switches.assign(entries["switches"])

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.pop("quantization_config", None)
        return {
            **config,
            "switcher": keras.saving.serialize_keras_object(self.switcher),
            "gate": gates.serialize(self.gate),
            "granularity": self.granularity.name,
        }


def switched_layers(model: keras.layers.Layer) -> list[SwitchedDense]:
    """Return every `SwitchedDense` in a model, at any depth, each once."""
    return layers_of(model, SwitchedDense)


def layers_of(model: keras.layers.Layer, kind: type[_Kind]) -> list[_Kind]:
    """Return every layer of a class in a model, at any depth, each once."""
    # Keras itself uses `_flatten_layers` for `Model.layers`. What it finds, and in which order, is
    # that of Keras's own files, also for a layer that no attribute holds.
    return [layer for layer in model._flatten_layers() if isinstance(layer, kind)]
