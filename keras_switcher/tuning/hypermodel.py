"""`SwitcherHyperModel`: a model for Keras Tuner, which decides how its layers are switched."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import keras_tuner
from keras_tuner.errors import FatalValueError

from keras_switcher.checks import nearest
from keras_switcher.config import OF_SWITCHING, Config, from_values, to_values, validate
from keras_switcher.model import SwitchedModel
from keras_switcher.networks import switched_as_configured
from keras_switcher.switchers import Switcher
from keras_switcher.tuning.objective import NAME, LogObjective
from keras_switcher.tuning.plan import Terms
from keras_switcher.tuning.space import Space

logger = logging.getLogger(__name__)


class SwitcherHyperModel(keras_tuner.HyperModel):
    """A compiled Keras model with its dense layers switched, for any tuner of Keras Tuner.

    The search covers how the layers are switched: the switcher's kind, depth, widths, activation
    and normalisation, the gate, the switchers' optimiser and learning rate, how many steps each
    network takes in turn, the shares of the phases, and how fast the target is approached. The
    model may also have hyperparameters of its own.

    A trial always trains from new weights. The phases of training are shares of its epochs, so a
    model that Hyperband would continue with has already settled; a trial with more epochs is
    another training.

    Give the tuner `keras_switcher.tuning.objective()`. By another objective, the best epoch would
    be one from before the connections are off.

    Args:
        model: A function that takes the `keras_tuner.HyperParameters` and returns a compiled model
            with plain `Dense` layers, or a `HyperModel` that builds one.
        target_sparsity: Share of their connections to turn off, in [0, 1), or `None`.
        space: Ranges that replace the default ones, by name (docs/tuning.md lists them): a list of
            values, a mapping with "min", "max" and "sampling", or a single value, which is fixed.
        switcher: A function that takes the `HyperParameters` and returns a `Switcher` of your own;
            its kind, depth, widths, activation and normalisation are then not searched.
        metric: Name in the logs of the metric that counts, such as "val_accuracy".
        penalty: Factor by which the missing share of the target sparsity lowers the objective.
        cost: "none", "parameters" (weights of the switchers per connection) or "seconds" (of a
            training step, in the mean over all epochs).
        cost_weight: Factor by which the cost lowers the objective.
        direction: "max", or "min" for a metric that is better the smaller it is: the objective then
            has `-metric` in its place.
        layers: The dense layers to switch, as for `keras_switcher.switch`.
        **options: Other options of switching, by their names in a run's config.yaml, that are not
            searched, such as `granularity="block4"`.

    Raises:
        ValueError: If a name, a range or an option is wrong.

    Example:

    ```python
    hypermodel = SwitcherHyperModel(build, target_sparsity=0.9)
    tuner = keras_tuner.Hyperband(hypermodel, objective=objective(), max_epochs=9)
    tuner.search(x_train, y_train, validation_data=(x_validation, y_validation))
    sparse = tuner.get_best_models(1)[0]
    ```
    """

    def __init__(
        self,
        model: "keras_tuner.HyperModel | Callable[[Any], keras.Model]",
        target_sparsity: float | None = 0.95,
        space: Mapping[str, Any] | None = None,
        switcher: Callable[[Any], Switcher] | None = None,
        metric: str = "val_accuracy",
        penalty: float = 10.0,
        cost: str = "none",
        cost_weight: float = 0.0,
        direction: str = "max",
        layers: Any = None,
        **options: Any,
    ):
        super().__init__()
        if isinstance(model, (type, keras.Model)) or not (
            callable(model) or isinstance(model, keras_tuner.HyperModel)
        ):
            raise ValueError(
                "Expected `model` to be a function that takes the HyperParameters and returns a "
                "compiled model, such as lambda hp: make_model(), or an instance of a HyperModel. "
                f"Received: {model!r}"
            )
        if switcher is not None and (isinstance(switcher, Switcher) or not callable(switcher)):
            raise ValueError(
                "Expected `switcher` to be a function that takes the HyperParameters and returns a "
                f"Switcher. Received: {switcher!r}. To fix its kind, "
                'space={"switcher": "connection"}'
            )
        if others := [name for name in options if name not in OF_SWITCHING]:
            raise ValueError(
                "Expected options of the switching, as the model is compiled and trained by its "
                f"own: {', '.join(sorted(OF_SWITCHING))}. Received: {others[0]}"
                f"{nearest(others[0], OF_SWITCHING)}"
            )
        self.model = model
        self.switcher = switcher
        self.layers = layers
        self.terms = Terms(metric, penalty, cost, cost_weight, direction)
        self.config = validate(from_values({**options, "target_sparsity": target_sparsity}))
        # A switcher of the user's own comes with these options, so they are not searched.
        own = ("switcher", "switcher_hidden", "switcher_activation", "switcher_normalization")
        ready = options_of(self.config, own) if switcher else {}
        given = {**options, **ready, "target_sparsity": target_sparsity}
        self.space = Space.of(space, given)
        self._has_warned = False

    def build(self, hp: keras_tuner.HyperParameters) -> SwitchedModel:
        """Return a compiled model, switched as the hyperparameters say.

        Args:
            hp: The hyperparameters of a trial.

        Raises:
            ValueError: If the function returns no compiled model, the model has no dense layer, or
                it has a hyperparameter by the name of one of the switching.
        """
        before = {parameter.name for parameter in hp.space}
        if isinstance(self.model, keras_tuner.HyperModel):
            dense = self.model.build(hp)
        else:
            dense = self.model(hp)
        added = {parameter.name for parameter in hp.space} - before
        if taken := sorted(added & {*self.space.searched}):
            # Keras Tuner would give both the same value.
            raise ValueError(
                "Expected the model's own hyperparameters to have other names than those of the "
                f"switching. Received: {taken[0]!r}, which is one of the switching: rename yours"
            )
        if not isinstance(dense, keras.Model) or not dense.compiled:
            raise ValueError(
                f"Expected `model` to give a compiled keras.Model. Received: {dense!r}"
            )
        # The arguments of `compile`. The public `get_compile_config` serialises them, and a loss or
        # metric that is a plain function would have to be registered to be restored from that.
        compiled = dict(dense._compile_config.config)
        compiled["optimizer"] = _own(keras.optimizers.get(compiled["optimizer"]))
        return switched_as_configured(
            self.configured(hp),
            dense,
            switcher=None if self.switcher is None else self.switcher(hp),
            layers=self.layers,
            **{name: value for name, value in compiled.items() if value is not None},
        )

    def configured(self, hp: keras_tuner.HyperParameters) -> Config:
        """Return the configuration that the hyperparameters stand for."""
        return with_options(self.config, self.space.choose(hp))

    def fit(
        self, hp: keras_tuner.HyperParameters, model: SwitchedModel, *args: Any, **kwargs: Any
    ) -> Any:
        """Train a model as `keras.Model.fit` does, or as the given `HyperModel` does.

        The logs include `val_objective`.

        Args:
            hp: The hyperparameters of the trial.
            model: What `build` returned.
            *args: Positional arguments of `keras.Model.fit`.
            **kwargs: Keyword arguments of `keras.Model.fit`.

        Returns:
            The `History`.

        Raises:
            keras_tuner.errors.FatalValueError: If the tuner seeks the lowest `val_objective`.
        """
        if kwargs.pop("initial_epoch", 0):
            with model.distribute_strategy.scope():
                model = self.build(hp)
        self._check_objective(kwargs.get("callbacks") or [])
        kwargs["callbacks"] = [LogObjective(self.terms), *(kwargs.get("callbacks") or [])]
        if isinstance(self.model, keras_tuner.HyperModel):
            return self.model.fit(hp, model, *args, **kwargs)
        return model.fit(*args, **kwargs)

    def _check_objective(self, callbacks: Iterable[Any]) -> None:
        # That of Keras Tuner which keeps the weights of the best epoch has the tuner's.
        found = [getattr(each, "objective", None) for each in callbacks]
        objectives = [each for each in found if isinstance(each, keras_tuner.Objective)]
        if any(each.name == NAME and each.direction == "min" for each in objectives):
            # Any other error would be one of this trial alone.
            raise FatalValueError(
                f"Expected {NAME!r} to be maximised, whatever the `direction` of the metric: give "
                "the tuner objective=keras_switcher.tuning.objective(). Received: direction='min'"
            )
        if not self._has_warned and (
            others := [each.name for each in objectives if each.name != NAME]
        ):
            self._has_warned = True
            logger.warning(
                "The tuner seeks %s, by which the best epoch may be one from before the "
                "connections are off. Give it objective=keras_switcher.tuning.objective().",
                others[0],
            )


def _own(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Return a new optimiser like the given one.

    One instance may serve all trials, and that of a loaded model is built for other variables.
    """
    try:
        own = type(optimizer).from_config(optimizer.get_config())
    except (NotImplementedError, TypeError, ValueError):
        # A schedule or a function of the user's own that can't be serialised.
        if optimizer.built:
            raise
        return optimizer
    # Its configuration does not tell this.
    if excluded := getattr(optimizer, "_exclude_from_weight_decay_pattern", None):
        own.exclude_from_weight_decay(var_names=[excluded.pattern])
    return own


def with_options(config: Config, options: Mapping[str, Any]) -> Config:
    """Return a configuration with some options replaced.

    Args:
        config: The configuration.
        options: Options by name.

    Raises:
        ConfigError: If a value is wrong.
    """
    return validate(from_values({**to_values(config), **options}))


def options_of(config: Config, names: Iterable[str]) -> dict[str, Any]:
    """Return some options of a configuration by name."""
    values = to_values(config)
    return {name: values[name] for name in names}
