"""`SwitchedModel`: a Keras model whose training step alternates between two networks."""

import inspect
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_switcher import gates
from keras_switcher.alternation import SETTLE, Alternation, AlternationState
from keras_switcher.checks import is_integer, is_number
from keras_switcher.functional import functional_base, functional_class, is_functional_call
from keras_switcher.gradients import SwitchGradients, overflowing_together
from keras_switcher.layers import SwitchedDense, switched_layers
from keras_switcher.metrics import Sparsity
from keras_switcher.nesting import inside_layers, serialized_switched
from keras_switcher.objective import check_target, next_multiplier, next_offset
from keras_switcher.rates import scale_rates
from keras_switcher.registry import PACKAGE
from keras_switcher.schedule import PhaseSchedule, warn_of_early_callbacks, warn_of_the_end
from keras_switcher.settling import is_at_target, settle
from keras_switcher.weights import is_of_dense_layers, load_dense_weights

logger = logging.getLogger(__name__)

# The logits of a layer have mean 0 and variance 1: with this offset nearly all are positive.
_OPEN = 3.0


# What describes the graph, and not the model around it, in the configuration of a functional model.
_OF_GRAPH = ("layers", "input_layers", "output_layers")


def _symbolic(tensor: Any) -> keras.KerasTensor | None:
    if tensor is None:
        # An optional input.
        return None
    return keras.KerasTensor(tensor.shape, keras.backend.standardize_dtype(tensor.dtype))


@keras.saving.register_keras_serializable(PACKAGE)
class SwitchedModel(keras.Model):
    """A model that learns its weights and its structure alternately.

    Build it like any `keras.Model`, from inputs and outputs or by subclassing, with `SwitchedDense`
    layers in it, or convert a model with `Dense` layers by `keras_switcher.switch`. `fit`,
    `evaluate`, `predict` and `save` work as in Keras, and so do callbacks; those that judge the
    network by its loss have to wait until it is sparse, and `fit` warns of those that don't. The
    logs include `sparsity`, and so does what `evaluate` returns; with `return_dict=True` it has its
    name.

    A task step updates the weights of the task network, with the switches fixed. A switcher step
    updates the weights of the switcher networks by the gradient of the same loss, with the task
    network fixed, and refreshes the switches. This gradient flows through the switches. The task
    steps since the last turn have accumulated the gradients with respect to them, of which the
    switcher step takes the mean, so no part of the task network runs a second time. `Alternation`
    determines when each step is taken.

    With a target sparsity, the switchers descend along `density = target density`: an offset of all
    logits keeps the density on its course, a Lagrange multiplier in the objective tells the
    switchers what a connection costs, and when the model settles, its structure is brought to the
    target exactly. Without a target, the objective is the loss alone.

    Args:
        *args: Inputs and outputs, as for `keras.Model`.
        **kwargs: As for `keras.Model`.

    Example:

    ```python
    inputs = keras.Input((784,))
    x = SwitchedDense(300, "relu")(inputs)
    model = SwitchedModel(inputs, SwitchedDense(10)(x))
    model.compile("adam", loss=loss, metrics=["accuracy"], target_sparsity=0.95)
    model.fit(x_train, y_train, epochs=20)
    ```

    Reference:
        [Explore the Knowledge contained in Network Weights to Obtain Sparse Neural
        Networks](https://arxiv.org/abs/2103.15590), for the alternation; the gate, the schedule and
        the treatment of the target are this project's.
    """

    learns_switches = True
    """Whether `switcher_step` takes gradients with respect to the switches. Set it to `False` in a
    subclass whose own step chooses the switches by a rule."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "SwitchedModel":
        if is_functional_call(args, kwargs) and not issubclass(cls, functional_base()):
            cls = functional_class(cls)
        return super().__new__(cls, *args, **kwargs)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if is_functional_call(args, kwargs) and not isinstance(self, functional_base()):
            # The arguments of a subclass are others, and its `__init__` passes these on.
            self.__class__ = functional_class(type(self))
        super().__init__(*args, **kwargs)
        self.alternation_state = AlternationState(name="alternation_state")
        self.sparsity_metric = Sparsity(self.switched_layers)
        self.alternation = Alternation()
        self.switcher_optimizer: Any = None
        self.target_sparsity: float | None = None
        self._switch_gradients: SwitchGradients | None = None
        parameters = inspect.signature(self.compute_loss).parameters
        self._loss_takes_training = "training" in parameters or any(
            each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()
        )

    def __reduce__(self) -> Any:
        """Pickle the saved form, as `keras.Model` does, whatever class Keras has made of this."""
        revive, state = super().__reduce__()
        return getattr(keras.Model, revive.__name__), state

    def switched_layers(self) -> list[SwitchedDense]:
        """Return the `SwitchedDense` layers of the model, at any depth."""
        return switched_layers(self)

    @property
    def switcher_variables(self) -> list[Any]:
        """The trainable weights of the switcher networks (SNN)."""
        return [v for layer in self.switched_layers() for v in layer.switcher_variables]

    @property
    def task_variables(self) -> list[Any]:
        """The trainable weights of the task network (TNN)."""
        switcher = {id(v) for layer in self.switched_layers() for v in layer.switcher.weights}
        return [v for v in self.trainable_variables if id(v) not in switcher]

    @property
    def phase(self) -> str:
        """The phase of training: "warmup", "alternate" or "settle"."""
        return self.alternation_state.phase()

    @property
    def sparsity(self) -> float:
        """Share of the switched connections that are off, in [0, 1].

        Raises:
            ValueError: If a switched layer is not built, so that it has no switches yet.
        """
        self._check_layers_are_built()
        return float(Sparsity(self.switched_layers).result())

    def _check_layers_are_built(self) -> None:
        unbuilt = [layer.name for layer in self.switched_layers() if not layer.built]
        if unbuilt:
            raise ValueError(
                f"Expected '{self.name}' to be built: call it on a batch of inputs, or train it. "
                f"Received: layers {unbuilt} that are not built"
            )

    def compile(
        self,
        optimizer: Any = "adam",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        *,
        switcher_optimizer: Any = "adam",
        target_sparsity: float | None = None,
        alternation: Alternation | None = None,
        multiplier_rate: float = 0.05,
        rate_exponent: float = 0.25,
        **kwargs: Any,
    ) -> None:
        """Configure training.

        The alternation starts over. If the structure has settled at another target, it does so from
        a dense network; if at this one, or if no target is given, the model stays settled, so that
        it can be fine-tuned with another optimiser.

        Args:
            optimizer: Optimiser of the task network's weights, as in `keras.Model.compile`, but
                "adam" by default. With `None`, the model can only be evaluated.
            loss: As in `keras.Model.compile`.
            loss_weights: As in `keras.Model.compile`.
            metrics: As in `keras.Model.compile`; `sparsity` is added automatically, and no other
                may have that name.
            weighted_metrics: As in `keras.Model.compile`.
            switcher_optimizer: Optimiser of the switcher networks' weights, a name or an instance.
            target_sparsity: Share of the switched connections to turn off, in [0, 1), or `None`
                to minimise the loss alone.
            alternation: When each network learns; `None` for `Alternation()`.
            multiplier_rate: Float in (0, 1], the weight of each switcher step in the running
                average that is the target's Lagrange multiplier.
            rate_exponent: Float in [0, 1]. The learning rate of a switched kernel is divided by the
                density of its layer to this power, as a sparse layer learns more slowly; 0 leaves
                the optimiser's learning rate unchanged.
            **kwargs: Other arguments of `keras.Model.compile`, by keyword.

        Raises:
            ValueError: If the target lies outside [0, 1), the rate outside (0, 1] or the exponent
                outside [0, 1], if both optimisers are the same instance or that of the switchers
                is `None`, if a metric is called "sparsity", or if the model has no switched layer.
            TypeError: If `alternation` is not an `Alternation`.
        """
        target_sparsity = check_target(target_sparsity)
        alternation = Alternation() if alternation is None else alternation
        if not isinstance(alternation, Alternation):
            raise TypeError(
                "Expected `alternation` to be a keras_switcher.Alternation. "
                f"Received: alternation={alternation!r}"
            )
        if not (is_number(multiplier_rate) and 0 < multiplier_rate <= 1):
            raise ValueError(
                "Expected `multiplier_rate` in (0, 1]. "
                f"Received: multiplier_rate={multiplier_rate!r}"
            )
        if not (is_number(rate_exponent) and 0 <= rate_exponent <= 1):
            raise ValueError(
                f"Expected `rate_exponent` in [0, 1]. Received: rate_exponent={rate_exponent!r}"
            )
        if switcher_optimizer is None:
            raise ValueError(
                "Expected `switcher_optimizer` to be a name or an instance. Received: None"
            )
        if switcher_optimizer is optimizer and isinstance(optimizer, keras.optimizers.Optimizer):
            raise ValueError(
                "Expected an optimiser of its own for the switchers, as it is built for their "
                "weights. Received: the same instance for `optimizer` and `switcher_optimizer`"
            )
        given = keras.tree.flatten([metrics, weighted_metrics])
        if any("sparsity" in (getattr(m, "name", ""), getattr(m, "__name__", "")) for m in given):
            raise ValueError(
                "Expected metrics with other names than that of the model's own. Received: a "
                "metric called 'sparsity'"
            )
        self.target_sparsity = target_sparsity
        self.alternation = alternation
        self.rate_exponent = float(rate_exponent)
        self.multiplier_rate = float(multiplier_rate)
        switcher_optimizer = keras.optimizers.get(switcher_optimizer)
        # Saved files need the original values: Keras wraps and replaces the attributes themselves.
        own_config = {
            "switcher_optimizer": switcher_optimizer,
            "target_sparsity": target_sparsity,
            "alternation": alternation,
            "multiplier_rate": self.multiplier_rate,
            "rate_exponent": self.rate_exponent,
        }
        super().compile(optimizer, loss, loss_weights, metrics, weighted_metrics, **kwargs)
        scales = keras.optimizers.LossScaleOptimizer
        if isinstance(self.optimizer, scales) and not isinstance(switcher_optimizer, scales):
            # Keras wraps only the first optimiser.
            switcher_optimizer = scales(switcher_optimizer)
        self.switcher_optimizer = switcher_optimizer
        self._own_compile_config = own_config
        if not self._has_settled_at_target():
            if self.phase == SETTLE:
                for layer in self.switched_layers():
                    layer.switches.assign(ops.ones_like(layer.switches))
            self.alternation_state.restart()
        if self.built and self.optimizer is not None:
            self._build_training()

    def _build_training(self) -> None:
        """Build each optimiser on its own variables, and the state that joins their steps."""
        if not self.switched_layers():
            raise ValueError(
                f"Model '{self.name}' has no SwitchedDense layer, so there is nothing to switch. "
                "Put one in, or make the model by keras_switcher.switch(model). Received: layers "
                f"{[layer.name for layer in self.layers]}"
            )
        unused = [layer.name for layer in self.switched_layers() if not layer.built]
        if unused:
            raise ValueError(
                f"Expected `call` of '{self.name}' to use all of its SwitchedDense layers. "
                f"Received: layers {unused} that are not built, although the model is"
            )
        for optimizer, variables in (
            (self.optimizer, self.task_variables),
            (self.switcher_optimizer, self.switcher_variables),
        ):
            if not optimizer.built:
                optimizer.build(variables)
        scale_rates(self.optimizer, self.switched_layers(), self.rate_exponent)
        if self.phase != SETTLE:
            self._open_switches()
        self._switch_gradients = (
            SwitchGradients(self.switched_layers()) if self.learns_switches else None
        )

    def _open_switches(self) -> None:
        """Choose the offset with which training begins: nearly all switches are on."""
        lowest = min(layer.mean_logit() for layer in self.switched_layers())
        self.alternation_state.offset.assign(_OPEN - lowest)

    def open_if_new(self) -> None:
        """Open the switches if the weights come from a model not compiled, which has no offset."""
        if not (self.compiled and self.switcher_optimizer.built) or self.phase == SETTLE:
            return
        if float(ops.convert_to_numpy(self.alternation_state.offset)) == 0.0:
            self._open_switches()

    def _has_settled_at_target(self) -> bool:
        if self.phase != SETTLE:
            return False
        if self.target_sparsity is None:
            return True
        return is_at_target(self.switched_layers(), self.target_sparsity)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration, as of any `keras.Model`.

        That of a graph has the switched layers inside its other layers, too, such as blocks of a
        user's own: the configuration of a block does not say that `switch` has replaced some of
        its layers.
        """
        config: dict[str, Any] = super().get_config()
        if isinstance(self, functional_base()):
            config["switched"] = serialized_switched(inside_layers(self))
            # Keras leaves it out for a graph. It decides whether a loss is scaled.
            config["dtype"] = keras.saving.serialize_keras_object(self.dtype_policy)
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "SwitchedModel":
        """Recreate a model, with the switched layers inside its other layers."""
        policy = config.get("dtype") if "switched" in config else None
        left_out = ("switched",) if policy is None else ("switched", "dtype")
        own = {name: value for name, value in config.items() if name not in left_out}
        # Keras takes what it has used out of the dictionary.
        model = super().from_config(dict(own), custom_objects)
        if policy is not None:
            model.dtype_policy = keras.saving.deserialize_keras_object(policy)
        if not config.get("switched"):
            return model
        # That module needs this one.
        from keras_switcher.copying import with_switched

        graph = with_switched(model, config["switched"], custom_objects)
        if graph is model:
            return model
        own = {name: value for name, value in own.items() if name not in _OF_GRAPH}
        whole = cls(inputs=graph.input, outputs=graph.output, **own)
        whole.dtype_policy = model.dtype_policy
        return whole

    def get_compile_config(self) -> dict[str, Any]:
        """Return the serialised arguments of `compile`."""
        config = super().get_compile_config()
        if config:
            config.update(
                {
                    name: keras.saving.serialize_keras_object(value)
                    for name, value in self._own_compile_config.items()
                }
            )
        return config

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile with what `get_compile_config` returned, and build both optimisers."""
        self.compile(**keras.saving.deserialize_keras_object(config))

    def save(
        self, filepath: Any, overwrite: bool = True, zipped: bool | None = None, **kwargs: Any
    ) -> None:
        """Save the model as `keras.Model.save` does, but not in the old HDF5 format.

        Args:
            filepath: As for `keras.Model.save`; it ends in `.keras`.
            overwrite: As for `keras.Model.save`.
            zipped: As for `keras.Model.save`.
            **kwargs: As for `keras.Model.save`.

        Raises:
            ValueError: If the name ends in `.h5` or `.hdf5`: Keras keeps only the layers' weights
                there, not the position in the course of training.
        """
        if str(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(
                "Expected a name that ends in .keras, as an HDF5 file does not hold the position "
                "in the course of training; save_weights() to a .weights.h5 does, and strip() "
                f"gives a model for any format. Received: {filepath}"
            )
        super().save(filepath, overwrite=overwrite, zipped=zipped, **kwargs)

    def load_weights(self, filepath: Any, skip_mismatch: bool = False, **kwargs: Any) -> None:
        """Load weights of this model, or of the same model with plain `Dense` layers.

        A file of the latter leaves the switches and the switchers unchanged.

        Args:
            filepath: As for `keras.Model.load_weights`.
            skip_mismatch: As for `keras.Model.load_weights`.
            **kwargs: As for `keras.Model.load_weights`.

        Raises:
            ValueError: If the file is of a model with plain `Dense` layers, but this model is of a
                subclass with its own `call`, which has no such counterpart.
        """
        may_train = self.compiled and self.optimizer is not None
        if may_train and self.built and not self.switcher_optimizer.built:
            # It was built after it was compiled. What is loaded has to come last.
            with self.distribute_strategy.scope():
                self._build_training()
        if is_of_dense_layers(filepath):
            load_dense_weights(self, filepath, skip_mismatch=skip_mismatch, **kwargs)
        else:
            super().load_weights(filepath, skip_mismatch=skip_mismatch, **kwargs)
        self.open_if_new()
        # They belong to other switches.
        self.forget_switch_gradients()

    def quantize(self, *args: Any, **kwargs: Any) -> None:
        """Raise an error, as only the stripped model can be quantised."""
        raise NotImplementedError(
            f"Model '{self.name}' is switched. Call `keras_switcher.strip(model)` and quantise the "
            "plain Keras model."
        )

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Train as `keras.Model.fit` does, through the phases that `alternation` sets.

        The phases are shares of `epochs`. A second `fit` continues where the first stopped: once
        settled, the structure stays fixed.

        Args:
            x: As for `keras.Model.fit`, as all others are.
            y: As for `keras.Model.fit`.
            batch_size: As for `keras.Model.fit`.
            epochs: As for `keras.Model.fit`.
            verbose: As for `keras.Model.fit`.
            callbacks: As for `keras.Model.fit`. None is needed.
            *args: Other positional arguments of `keras.Model.fit`.
            **kwargs: Other keyword arguments of `keras.Model.fit`.

        Returns:
            The `History`, as in Keras.

        Raises:
            FloatingPointError: If weights of a switcher, or logits at the time to settle, are not
                finite.
        """
        begun = self.phase, int(ops.convert_to_numpy(self.alternation_state.step))
        if begun[0] == SETTLE and not self._has_settled_at_target():
            logger.warning(
                "The weights are of a model that had settled at sparsity %.4f, so the structure "
                "stays, and is not brought to the target %.4f. For that, compile() the model after "
                "the weights are loaded.",
                self.sparsity,
                self.target_sparsity,
            )
        # A `CallbackList` is a callback too, so it needs no case of its own.
        callbacks = [PhaseSchedule(), *keras.tree.flatten(callbacks or [])]
        if self.target_sparsity is not None and begun[0] != SETTLE:
            # A plan of phases that is under way covers all epochs, a new one those that are left.
            first = 0 if begun[1] else kwargs.get("initial_epoch", 0)
            warn_of_early_callbacks(callbacks, epochs, self.alternation.settle, first)
        history = super().fit(x, y, batch_size, epochs, verbose, callbacks, *args, **kwargs)
        # After all callbacks, as EarlyStopping may have gone back to an epoch of another phase.
        warn_of_the_end(self, *begun, had_epochs=bool(history.epoch))
        return history

    def make_train_function(self, force: bool = False) -> Any:
        """Return what `keras.Model.make_train_function` returns, after building both optimisers."""
        if self.optimizer is None:
            raise ValueError(
                "Expected an optimiser: with compile(optimizer=None), a model can only be "
                "evaluated. Received: optimizer=None"
            )
        if self.built and not self.switcher_optimizer.built:
            # A subclassed model that was not built when it was compiled, but is by now.
            with self.distribute_strategy.scope():
                self._build_training()
        return super().make_train_function(force)

    def plan_phases(self, total_steps: int) -> int:
        """Plan the phases of a loop of your own over `train_on_batch`; `fit` does so by itself.

        Without a plan, such a loop has no warm-up and no ramp: the switchers alternate from the
        first batch on, until `settle` is called.

        Args:
            total_steps: Number of batches in the whole training, with those that this model has
                been trained on since it was compiled.

        Returns:
            The number of batches after which to call `settle`.

        Raises:
            ValueError: If `total_steps` is not an integer >= 1.
        """
        if not is_integer(total_steps) or total_steps < 1:
            raise ValueError(
                f"Expected an integer `total_steps` >= 1. Received: total_steps={total_steps!r}"
            )
        plan = self.alternation.plan(int(total_steps))
        self.alternation_state.plan.assign(plan)
        return plan[-1]

    def train_step(self, data: Any) -> dict[str, Any]:
        """Take one task step, and the switcher's turn if it is due.

        Args:
            data: A batch: `(x, y)` or `(x, y, sample_weight)`.

        Returns:
            The logs: the loss, the metrics and `sparsity`.
        """
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if not self.switcher_optimizer.built:
            # Without a strategy, Keras leaves the building of a subclassed model to this step. The
            # way that Keras builds it would leave out layers that are used only in training.
            # In the scope, because layers that are made only now need variables that have values.
            with tf.init_scope():
                self(keras.tree.map_structure(_symbolic, x), training=True)
                self._build_training()
        kept = self._switch_gradients
        switches = [layer.switches.value for layer in self.switched_layers()] if kept else []
        with tf.GradientTape() as tape:
            tape.watch(switches)
            y_pred = self(x, training=True)
            # A subclass may have written its `compute_loss` before Keras 3.3, without `training`.
            named = {"training": True} if self._loss_takes_training else {}
            loss = self.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, **named)
            scaled = self.optimizer.scale_loss(loss)
        self._build_metrics(y, y_pred)
        variables = self.task_variables
        gradients = tape.gradient(scaled, [*variables, *switches])
        gradients = overflowing_together(self.optimizer, gradients)
        if kept:
            pairs = zip(variables, gradients, strict=False)
            reached = [variable for variable, gradient in pairs if gradient is not None]
            kept.warn_of_missing(gradients[len(variables) :], reached)
            # Before the update, which may change the scale.
            self._keep(kept, gradients[len(variables) :])
        self.optimizer.apply(gradients[: len(variables)], variables)
        self._track_loss(loss, x)
        # Not of a batch that there is none of, with which data of unknown length end.
        with tf.control_dependencies([tf.convert_to_tensor(loss)]):
            self.alternation_state.step.assign(self.alternation_state.step + 1)
        # An optimiser can't be applied in a branch inside a replica (keras#17429), but the branch
        # can be taken outside the replicas and enter them again.
        tf.distribute.get_replica_context().merge_call(self._maybe_switcher_turn)
        return self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    def forget_switch_gradients(self) -> None:
        """Drop the gradients that task steps have accumulated for the next turn.

        `fit` calls it at the beginning of each epoch, so that what follows depends only on what a
        checkpoint taken at that point holds. A custom loop over `train_on_batch` should call it
        where it saves, and where it sets weights other than by `load_weights`.
        """
        if self._switch_gradients is not None:
            self._switch_gradients.reset()

    def _keep(self, kept: SwitchGradients, gradients: list[Any]) -> None:
        """Add a scaled loss's gradients with respect to the switches to the kept sums."""

        def add() -> Any:
            scale = self.optimizer.scale_loss(ops.ones((), "float32"))
            kept.add([None if g is None else g / scale for g in gradients])
            return tf.constant(True)

        counts = self.alternation_state.alternates()
        if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            # The loss was scaled too much: the optimiser skips its step, too.
            for gradient in gradients:
                if gradient is not None:
                    counts = ops.logical_and(counts, ops.all(ops.isfinite(gradient)))
        tf.cond(counts, add, lambda: tf.constant(False))

    def _build_metrics(self, y: Any, y_pred: Any) -> None:
        """Create the metrics' variables outside the function that is being traced.

        Keras creates them at their first update, inside the function, and TensorFlow traces a
        function that has created variables a second time, which takes seconds. Under a strategy,
        Keras does the same as this method.
        """
        metrics = self._compile_metrics
        if metrics is not None and not metrics.built and not tf.executing_eagerly():
            # `tf.init_scope` is not enough: the variables would still count as the function's. But
            # a function is traced in one thread only, so another thread is outside it.
            def build() -> None:
                # Nor does a `tf.device` around this one reach another thread.
                with tf.device(self.alternation_state.offset.value.device):
                    metrics.build(y, y_pred)

            with ThreadPoolExecutor(1) as apart:
                apart.submit(build).result()

    def _track_loss(self, loss: Any, x: Any) -> None:
        examples = ops.shape(next(t for t in keras.tree.flatten(x) if t is not None))[0]
        # `compute_loss` divides by the number of replicas; the logs show the whole loss.
        whole = loss * tf.distribute.get_strategy().num_replicas_in_sync
        # By Keras's own name for it: a model may have a metric of its own that is called "loss".
        self._loss_tracker.update_state(whole, sample_weight=examples)

    def _maybe_switcher_turn(self, strategy: Any) -> None:
        kept = self._switch_gradients

        def steps() -> None:
            gradients = kept.means() if kept else []
            for _ in range(self.alternation.switcher_steps):
                self.switcher_step(gradients)
            if kept:
                kept.reset()

        def turn() -> Any:
            strategy.run(steps)
            return tf.constant(True)

        tf.cond(
            self.alternation_state.is_switcher_turn(self.alternation),
            turn,
            lambda: tf.constant(False),
        )

    def switcher_step(self, gradients: list[Any]) -> None:
        """Update the switchers' weights by the objective's gradient, then refresh the switches.

        Override it together with `settle` to find the structure in another way; the phases, the
        target's course and everything else that a model does stay the same.

        Args:
            gradients: For each switched layer, the mean gradient of the loss with respect to the
                switches, over the task steps since the last turn or since the epoch began: float32,
                of the switches' shape. Under a distribution strategy, each replica has its own, and
                their sum over replicas is the whole gradient. Empty if `learns_switches` is false.
        """
        state = self.alternation_state
        layers = self.switched_layers()
        variables = self.switcher_variables
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        offset = tf.convert_to_tensor(state.offset.value)
        # What a switcher computes from the kernel alone, a graph computes once for both calls.
        kernels = [layer.normalized_kernel() for layer in layers]

        def offset_logits() -> list[Any]:
            pairs = zip(layers, kernels, strict=True)
            return [layer.compute_logits(kernel) + offset for layer, kernel in pairs]

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([offset, *(v.value for v in variables)])
            logits = offset_logits()
            # The part of the loss that depends on the switches, to first order.
            objective = sum(
                ops.sum(gradient * layer.gate(z))
                for gradient, layer, z in zip(gradients, layers, logits, strict=True)
            )
            if self.target_sparsity is not None:
                objective += state.multiplier * self._density(logits) / replicas
            for penalty in self._switcher_penalties():
                objective += ops.sum(ops.cast(penalty, "float32")) / replicas
            scaled = self.switcher_optimizer.scale_loss(objective)
        *gradients, by_offset = tape.gradient(scaled, [*variables, offset])
        if self.target_sparsity is not None:
            # Before the update, which may change the scale.
            by_offset /= self.switcher_optimizer.scale_loss(ops.ones((), "float32"))
        gradients = overflowing_together(self.switcher_optimizer, gradients)
        self.switcher_optimizer.apply(gradients, variables)
        logits = offset_logits()
        if self.target_sparsity is not None:
            by_offset = tf.distribute.get_replica_context().all_reduce("SUM", by_offset)
            with tf.GradientTape() as slope_tape:
                slope_tape.watch(offset)
                density = self._density([z - ops.stop_gradient(offset) + offset for z in logits])
            slope = slope_tape.gradient(density, offset)
            state.multiplier.assign(
                next_multiplier(state.multiplier, by_offset, slope, self.multiplier_rate)
            )
            moved = next_offset(offset, density, state.target_density(self.target_sparsity))
            state.offset.assign(moved)
            logits = [z - offset + moved for z in logits]
        for layer, z in zip(layers, logits, strict=True):
            layer.switches.assign(layer.gate(z))

    def _switcher_penalties(self) -> list[Any]:
        """Return what the switchers add to their objective, by regularisers and `add_loss`."""
        # Keras has regularisers of trainable weights only, and these are not: see `SwitchedDense`.
        penalties = [v.regularizer(v) for v in self.switcher_variables if v.regularizer is not None]
        for layer in self.switched_layers():
            penalties.extend(layer.switcher.losses)
        return penalties

    def _density(self, logits: list[Any]) -> Any:
        """Return the share of connections that logits turn on, with the step gate's gradient."""
        layers = self.switched_layers()
        # This holds for any gate: it is 0 if and only if the step gate is.
        on = sum(
            layer.on_connections(gates.step(z)) for layer, z in zip(layers, logits, strict=True)
        )
        return on / sum(layer.connections for layer in layers)

    def settle(self) -> None:
        """Bring the structure to the target sparsity, and freeze it.

        `fit` calls it when the alternate phase ends. Without a target, the structure is frozen as
        it is. A model that has settled stays as it is, so a loop of your own may call this after
        every batch from its time on.

        Raises:
            ValueError: As `sparsity`.
            FloatingPointError: If a switcher returns logits that are not finite.
        """
        if self.phase == SETTLE:
            return
        self._check_layers_are_built()
        self.choose_structure()
        self.alternation_state.settled.assign(1)

    def choose_structure(self) -> None:
        """Set the switches at which the model settles; for subclasses with a rule of their own.

        Raises:
            FloatingPointError: As `settle`.
        """
        if self.compiled and int(ops.convert_to_numpy(self.switcher_optimizer.iterations)):
            # If it keeps moving averages of the switchers' weights, these are what it has learned.
            self.switcher_optimizer.finalize_variable_values(self.switcher_variables)
        if self.target_sparsity is not None:
            before = self.sparsity
            settle(self.switched_layers(), self.alternation_state.offset, self.target_sparsity)
            logger.info("Settled: sparsity %.4f -> %.4f", before, self.sparsity)


# A saved file may be loaded before any instance is created.
functional_class(SwitchedModel)
