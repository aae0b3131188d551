"""The networks of a run: built or loaded, their dense layers switched or not, and compiled."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from keras_switcher import models, switchers
from keras_switcher.alternation import Alternation
from keras_switcher.config import Config
from keras_switcher.convert import switch
from keras_switcher.data import ImageData
from keras_switcher.initial import FrozenTrunk, load_initial, returns_logits
from keras_switcher.losses import SmoothedCrossentropy
from keras_switcher.model import SwitchedModel


@dataclasses.dataclass(frozen=True)
class Start:
    """The network that a run starts from.

    Args:
        network: The whole network, of plain dense layers.
        returns_logits: Whether it returns logits rather than probabilities.
        trunk: The frozen trunk with its head; `None` if the whole network learns.
    """

    network: keras.Model
    returns_logits: bool
    trunk: FrozenTrunk | None

    @property
    def learned(self) -> keras.Model:
        """The part that learns; it shares the network's layers."""
        return self.network if self.trunk is None else self.trunk.head


def new_start(config: Config, data: ImageData) -> Start:
    """Build the network, or load the one to start from, with the same weights each time.

    Args:
        config: The configuration.
        data: The data that it will learn from.

    Raises:
        FileNotFoundError: If the file to start from does not exist.
        ValueError: If the network in the file does not fit.
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


def switched_model(
    config: Config, data: ImageData, start: Start, switcher: Any = None
) -> SwitchedModel:
    """Copy the part that learns, switch the dense layers of the copy, and compile it.

    Args:
        config: The configuration.
        data: The data that it will learn from.
        start: The network that the run starts from.
        switcher: The switcher network, as for `switch`; `None` for the configured one.

    Returns:
        The compiled model.
    """
    return switched_as_configured(
        config, start.learned, switcher=switcher, **_compile_options(config, data, start)
    )


def switched_as_configured(
    config: Config,
    network: keras.Model,
    *,
    switcher: Any = None,
    layers: Any = None,
    **compile_options: Any,
) -> SwitchedModel:
    """Copy a network, switch the dense layers of the copy, and compile it.

    Args:
        config: The configuration: how to switch, to alternate, and to train the switchers.
        network: The network.
        switcher: The switcher network, as for `switch`; `None` for the configured one.
        layers: The dense layers to switch, as for `switch`.
        **compile_options: Other arguments of `SwitchedModel.compile`: optimiser, loss, metrics.
    """
    options = config.switching
    if switcher is None:
        switcher = switchers.configured(
            options.switcher,
            hidden=options.switcher_hidden,
            activation=options.switcher_activation,
            normalization=None
            if options.switcher_normalization == "none"
            else options.switcher_normalization,
        )
    model = switch(
        network,
        layers=layers,
        switcher=switcher,
        gate=options.gate,
        granularity=options.granularity,
    )
    return _compiled_switched(config, model, **compile_options)


def alternation_of(config: Config, **changed: Any) -> Alternation:
    """Return the alternation of a configuration, with some of its options changed."""
    return Alternation(**{**dataclasses.asdict(config.alternation), **changed})


def _compiled_switched(
    config: Config, model: SwitchedModel, **compile_options: Any
) -> SwitchedModel:
    rate = config.optimisation.switcher_learning_rate
    model.compile(
        **{
            "switcher_optimizer": keras.optimizers.SGD(rate, momentum=0.9)
            if config.optimisation.switcher_optimizer == "sgd"
            else keras.optimizers.Adam(rate),
            "target_sparsity": config.switching.target_sparsity,
            "alternation": alternation_of(config),
            "multiplier_rate": config.optimisation.multiplier_rate,
            "rate_exponent": config.optimisation.rate_exponent,
            **compile_options,
        }
    )
    return model


def compiled_switched(
    config: Config, data: ImageData, start: Start, model: SwitchedModel, **compile_options: Any
) -> SwitchedModel:
    """Compile a switched model as configured, and return it.

    Args:
        config: The configuration.
        data: The data that it will learn from.
        start: The network that the run starts from.
        model: The model, which may be of another class than the one that `switched_model` returns.
        **compile_options: Arguments of `SwitchedModel.compile` that replace the configured ones.
    """
    options = _compile_options(config, data, start)
    return _compiled_switched(config, model, **{**options, **compile_options})


def dense_model(config: Config, data: ImageData, start: Start) -> keras.Model:
    """Compile the part that learns as it is, with plain dense layers.

    Args:
        config: The configuration.
        data: The data that it will learn from.
        start: The network that the run starts from.

    Returns:
        The compiled part.
    """
    return compiled_dense(config, data, start, start.learned)


def compiled_dense(
    config: Config,
    data: ImageData,
    start: Start,
    network: keras.Model,
    undecayed: Sequence[Any] = (),
) -> keras.Model:
    """Compile a network of plain dense layers as configured, and return it.

    Args:
        config: The configuration.
        data: The data that it will learn from.
        start: The network that the run starts from.
        network: The network, which may be another one than that of `start`.
        undecayed: Variables of the network that are exempt from weight decay, besides biases and
            the like.
    """
    network.compile(**_compile_options(config, data, start, undecayed))
    network.optimizer.build(network.trainable_variables)
    return network


def whole_switched(
    config: Config, data: ImageData, start: Start, learned: SwitchedModel
) -> SwitchedModel:
    """Return the whole network once its switched part has learned."""
    if start.trunk is None:
        return learned
    whole = switched_as_configured(config, start.network, **_compile_options(config, data, start))
    start.trunk.copy_head(learned, whole)
    return whole


def whole_dense(config: Config, data: ImageData, start: Start) -> keras.Model:
    """Return the whole network once its dense part has learned."""
    if start.trunk is None:
        return start.network
    return compiled_dense(config, data, start, start.network)


def optimizer_of(
    config: Config, data: ImageData, undecayed: Sequence[Any] = (), library: Any = keras
) -> Any:
    """Return the optimiser of a network's weights.

    Args:
        config: The configuration.
        data: The data, whose batches the learning rate falls over.
        undecayed: Variables that must not decay, besides biases and normalisations.
        library: Where its class comes from: `keras`, or Keras 2.
    """
    options = config.optimisation
    rate: Any = options.learning_rate
    if options.lr_schedule == "cosine":
        steps = options.epochs * (len(data.x_train) // options.batch_size)
        rate = library.optimizers.schedules.CosineDecay(options.learning_rate, steps)
    decay = options.weight_decay or None
    if options.optimizer == "sgd":
        optimizer = library.optimizers.SGD(rate, options.momentum, weight_decay=decay)
    else:
        optimizer = library.optimizers.Adam(rate, weight_decay=decay)
    if decay:
        optimizer.exclude_from_weight_decay(
            var_list=list(undecayed), var_names=["bias", "gamma", "beta"]
        )
    return optimizer


def _compile_options(
    config: Config, data: ImageData, start: Start, undecayed: Sequence[Any] = ()
) -> dict[str, Any]:
    from_logits = start.returns_logits
    smoothing = config.optimisation.label_smoothing
    return {
        "optimizer": optimizer_of(config, data, undecayed),
        "loss": SmoothedCrossentropy(smoothing, from_logits=from_logits)
        if smoothing
        else keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits),
        "metrics": ["accuracy"],
        "jit_compile": config.execution.jit,
        "steps_per_execution": steps_together(config, data),
    }


def steps_together(config: Config, data: ImageData) -> int:
    """Return the number of steps in one call of the compiled step.

    It divides the steps of an epoch, and is at most the configured number and at most a hundredth
    of the training, so that the phases keep their lengths. With a strategy it is 1, because with
    more than one device `fit` of Keras 3.15 fails in its loop over the steps.

    Args:
        config: The configuration.
        data: The data to learn from.
    """
    if config.execution.strategy != "none":
        return 1
    batches = len(data.x_train) // config.optimisation.batch_size
    most = min(config.execution.steps_per_execution, batches * config.optimisation.epochs // 100)
    return max(n for n in range(1, max(1, most) + 1) if batches % n == 0)
