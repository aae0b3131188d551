"""L0 regularisation: dense layers whose connections have stochastic gates."""

import math
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_switcher.layers import SwitchedDense
from keras_switcher.model import SwitchedModel
from keras_switcher.registry import PACKAGE
from keras_switcher.settling import choose_on
from keras_switcher.switchers import Switcher

# Temperature and limits of the stretched distribution, as in the paper.
_BETA, _GAMMA, _ZETA = 2 / 3, -0.1, 1.1


@keras.saving.register_keras_serializable(PACKAGE)
class GateParameters(Switcher):
    """`log(alpha)` of each connection's gate: how likely the connection is to be on.

    Args:
        log_alpha: Mean of the initial values, whose standard deviation is 0.01.
        seed: Seed of the initial values.
        **kwargs: Keyword arguments of `Switcher`.
    """

    def __init__(self, log_alpha: float = 2.0, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.log_alpha, self.seed = log_alpha, seed

    def build(self, kernel_shape: tuple[int, int]) -> None:
        self.values = self.add_weight(
            name="log_alpha",
            shape=kernel_shape,
            initializer=keras.initializers.RandomNormal(self.log_alpha, 0.01, seed=self.seed),
            autocast=False,
        )

    def call(self, kernel: Any) -> Any:
        return ops.convert_to_tensor(self.values)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "log_alpha": self.log_alpha, "seed": self.seed}


@keras.saving.register_keras_serializable(PACKAGE)
class HardConcreteDense(SwitchedDense):
    """`Dense` whose kernel is multiplied by hard concrete gates.

    In training, until the structure is frozen, a gate is a sample of the hard concrete
    distribution. Otherwise it is the paper's estimate for testing, which `refresh` writes into
    `switches`.

    Args:
        *args: Positional arguments of `SwitchedDense`.
        seed: Seed of the samples.
        **kwargs: Keyword arguments of `SwitchedDense`; the switcher must be `GateParameters`.

    Reference:
        [Louizos et al., 2018](https://arxiv.org/abs/1712.01312), equations 10 to 13.
    """

    def __init__(self, *args: Any, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seed = seed
        self._samples = keras.random.SeedGenerator(seed)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        self.frozen = self.add_weight(
            name="frozen", shape=(), initializer="zeros", dtype="float32", trainable=False
        )

    def sampled_gates(self) -> Any:
        """Return a sample of the gates, of the kernel's shape, in [0, 1]."""
        log_alpha = ops.convert_to_tensor(self.switcher.values)
        noise = keras.random.uniform(log_alpha.shape, 1e-6, 1 - 1e-6, seed=self._samples)
        logistic = ops.log(noise) - ops.log(1 - noise)
        return _stretched(ops.sigmoid((logistic + log_alpha) / _BETA))

    def expected_on(self) -> Any:
        """Return the expected number of gates that are not 0: a scalar with a gradient."""
        log_alpha = ops.convert_to_tensor(self.switcher.values)
        return ops.sum(ops.sigmoid(log_alpha - _BETA * math.log(-_GAMMA / _ZETA)))

    def refresh(self) -> None:
        """Write the gates for testing into `switches`."""
        log_alpha = ops.convert_to_tensor(self.switcher.values)
        self.switches.assign(_stretched(ops.sigmoid(log_alpha)))

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        if not training:
            return super().call(inputs)
        gates = ops.where(
            self.frozen > 0, ops.convert_to_tensor(self.switches), self.sampled_gates()
        )
        kernel = ops.convert_to_tensor(self.kernel)
        x = ops.matmul(inputs, kernel * ops.cast(gates, kernel.dtype))
        if self.bias is not None:
            x = ops.add(x, self.bias)
        return x if self.activation is None else self.activation(x)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seed": self.seed}


def _stretched(share: Any) -> Any:
    return ops.clip(share * (_ZETA - _GAMMA) + _GAMMA, 0.0, 1.0)


class HardConcreteModel(SwitchedModel):
    """A model that learns weights and gates by one objective: `loss + multiplier * density`.

    The expected density is constrained to the target's course. After each step, the multiplier
    rises by `multiplier_rate` times the share by which the density is above the course, and is 0
    again as soon as it is not. When the model settles, the gates with the largest `log(alpha)` stay
    on, as many as the target allows.

    Reference:
        [Gallego-Posada et al., 2022](https://arxiv.org/abs/2208.04425), the constraint and the
        restarts of the multiplier.
    """

    learns_switches = False

    def train_step(self, data: Any) -> dict[str, Any]:
        """Take one step of both optimisers on the same loss.

        Args:
            data: A batch, as for `SwitchedModel.train_step`.

        Returns:
            The logs.
        """
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        state, layers = self.alternation_state, self.switched_layers()
        task, gates = self.task_variables, self.switcher_variables
        connections = sum(layer.connections for layer in layers)
        with tf.GradientTape() as tape:
            # They are hidden from the task's optimiser as not trainable, so no tape watches them by
            # itself.
            tape.watch([v.value for v in gates])
            y_pred = self(x, training=True)
            loss = self.compute_loss(
                x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True
            )
            density = sum(layer.expected_on() for layer in layers) / connections
            objective = self.optimizer.scale_loss(loss + state.multiplier * density)
        self._build_metrics(y, y_pred)
        gradients = tape.gradient(objective, [*task, *gates])
        one = ops.ones(())
        rescaled = self.switcher_optimizer.scale_loss(one) / self.optimizer.scale_loss(one)
        self.optimizer.apply(gradients[: len(task)], task)
        learns = ops.logical_and(state.settled < 1, state.step >= state.plan[0])

        def move_gates() -> Any:
            self.switcher_optimizer.apply(
                [
                    ops.zeros_like(variable) if gradient is None else rescaled * gradient
                    for gradient, variable in zip(gradients[len(task) :], gates, strict=True)
                ],
                gates,
            )
            return tf.constant(True)

        # Not applied with gradients of 0 until then, as Adam's first steps would then be several
        # times too long.
        tf.cond(learns, move_gates, lambda: tf.constant(False))
        # Relative to the course, or a few connections would never raise it.
        missing = density / state.target_density(self.target_sparsity or 0.0) - 1.0
        risen = state.multiplier + self.multiplier_rate * missing
        state.multiplier.assign(
            ops.where(ops.logical_and(learns, missing > 0), risen, ops.zeros_like(risen))
        )
        state.step.assign(state.step + 1)
        tf.cond(state.settled < 1, self._refresh, lambda: tf.constant(False))
        self._track_loss(loss, x)
        return self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    def _refresh(self) -> Any:
        for layer in self.switched_layers():
            layer.refresh()
        return tf.constant(True)

    def choose_structure(self) -> None:
        """Keep the most probable gates, as many as the target allows, and freeze them."""
        layers = self.switched_layers()
        logits = [ops.convert_to_numpy(layer.switcher.values) for layer in layers]
        sizes = [layer.group_sizes() for layer in layers]
        # By the paper's estimate, a connection is on if its gate is above 0.
        edge = math.log(-_GAMMA / _ZETA)
        chosen = choose_on([z - edge for z in logits], sizes, self.target_sparsity or 0.0)
        for layer, z, on in zip(layers, logits, chosen, strict=True):
            gates = ops.convert_to_numpy(_stretched(ops.sigmoid(z)))
            layer.switches.assign((on * gates.clip(1e-3)).astype("float32"))
            layer.frozen.assign(1.0)
