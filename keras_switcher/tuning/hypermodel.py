"""`SwitcherHyperModel`: a model for Keras Tuner, which decides how its layers are switched."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras
import keras_tuner

from keras_switcher.checks import nearest
from keras_switcher.config import OF_SWITCHING, Config, from_values, to_values, validate
from keras_switcher.model import SwitchedModel
from keras_switcher.networks import switched_as_configured
from keras_switcher.switchers import Switcher
from keras_switcher.tuning.objective import LogObjective
from keras_switcher.tuning.plan import Terms
from keras_switcher.tuning.space import Space


class SwitcherHyperModel(keras_tuner.HyperModel):
    """A compiled Keras model with its dense layers switched, for any tuner of Keras Tuner.

    The search covers how the layers are switched: the switcher's kind, depth, widths, activation
    and normalisation, the gate, the switchers' optimiser and learning rate, how many steps each
    network takes in turn, the shares of the phases, and how fast the target is approached. The
    model may also have hyperparameters of its own.

    A trial always trains from new weights. The phases of training are shares of its epochs, so a
    model that Hyperband would continue with has already settled; a trial with more epochs is
    another training.

    Args:
        model: A function that takes the `keras_tuner.HyperParameters` and returns a compiled model
            with plain `Dense` layers, or a `HyperModel` that builds one.
        target_sparsity: Share of their connections to turn off, in [0, 1), or `None`.
        space: Ranges that replace the default ones, by name (docs/tuning.md lists them): a list of
            values, a mapping with "min", "max" and "sampling", or a single value, which is fixed.
        switcher: A function that takes the `HyperParameters` and returns a `Switcher` of your own;
            its kind, depth, widths, activation and normalisation are then not searched.
        metric: Name in the logs of the metric to maximise.
        penalty: Factor by which the missing share of the target sparsity lowers the objective.
        cost: "none", "parameters" (weights of the switchers per connection) or "seconds" (of a
            training step).
        cost_weight: Factor by which the cost lowers the objective.
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
        space: Mapping[str, Any] | Space | None = None,
        switcher: Callable[[Any], Switcher] | None = None,
        metric: str = "val_accuracy",
        penalty: float = 10.0,
        cost: str = "none",
        cost_weight: float = 0.0,
        **options: Any,
    ):
        super().__init__()
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
        self.terms = Terms(metric, penalty, cost, cost_weight)
        self.config = validate(from_values({**options, "target_sparsity": target_sparsity}))
        space = space if isinstance(space, Space) else Space.from_yaml(space)
        # A switcher of the user's own comes with these options, so they are not searched.
        own = ("switcher", "switcher_hidden", "switcher_activation", "switcher_normalization")
        ready = options_of(self.config, own) if switcher else {}
        self.space = space.without({**options, **ready, "target_sparsity": target_sparsity})

    def build(self, hp: keras_tuner.HyperParameters) -> SwitchedModel:
        """Return a compiled model, switched as the hyperparameters say.

        Args:
            hp: The hyperparameters of a trial.

        Raises:
            ValueError: If the function returns no compiled model, or the model has no dense layer.
        """
        dense = self.model.build(hp) if hasattr(self.model, "build") else self.model(hp)
        if not isinstance(dense, keras.Model) or not dense.compiled:
            raise ValueError(
                f"Expected `model` to give a compiled keras.Model. Received: {dense!r}"
            )
        # The arguments of `compile`. The public `get_compile_config` serialises them, and a loss or
        # metric that is a plain function would have to be registered to be restored from that.
        compiled = dict(dense._compile_config.config)
        optimizer = keras.optimizers.get(compiled["optimizer"])
        # Each model gets its own optimiser: that of a loaded model is built for other variables,
        # and one instance may serve all trials.
        own = type(optimizer).from_config(optimizer.get_config())
        # Its configuration does not tell this.
        if excluded := getattr(optimizer, "_exclude_from_weight_decay_pattern", None):
            own.exclude_from_weight_decay(var_names=[excluded.pattern])
        compiled["optimizer"] = own
        return switched_as_configured(
            self.configured(hp),
            dense,
            switcher=None if self.switcher is None else self.switcher(hp),
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
        """
        if kwargs.pop("initial_epoch", 0):
            model = self.build(hp)
        kwargs["callbacks"] = [LogObjective(self.terms), *(kwargs.get("callbacks") or [])]
        if isinstance(self.model, keras_tuner.HyperModel):
            return self.model.fit(hp, model, *args, **kwargs)
        return model.fit(*args, **kwargs)


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
