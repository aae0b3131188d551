"""`Config`: the dataclass that defines the flags, the config file and a run's config.yaml.

Nothing here imports TensorFlow, so `--help` and wrong values get an answer at once.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeVar

import tyro
import yaml
from tyro.constructors import PrimitiveConstructorSpec

from keras_switcher.checks import (
    AMOUNT,
    COUNT,
    FILES,
    FLAG,
    INNER_SHARE,
    PATH,
    RATE,
    SEED,
    SHARE,
    UNIT_RATE,
    WAIT,
    WHOLE_SHARE,
    WIDTHS,
    Check,
    ConfigError,
    is_integer,
    nearest,
    one_of,
    or_none,
    registered,
)
from keras_switcher.own_code import run_files

T = TypeVar("T")


def _option(default: T, check: Check, *, influences: bool = True, saved: bool = True) -> T:
    """A field of `Config`.

    Args:
        default: Its default value.
        check: The check that its values must pass.
        influences: Whether it affects the run's numbers; only options that do not may be changed
            when a run is resumed.
        saved: Whether it is written to config.yaml.

    Returns:
        A dataclass field, typed as its value.
    """
    metadata = {"check": check, "influences": influences, "saved": saved}
    field: Any = dataclasses.field(default=default, metadata=metadata)
    return field


def _or_none_from(kind: Callable[[str], Any], metavar: str) -> PrimitiveConstructorSpec[Any]:
    """Return how tyro reads and writes a value that may be `none`."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{metavar}|none",
        instance_from_str=lambda args: None if args[0].lower() == "none" else kind(args[0]),
        is_instance=lambda value: True,
        str_from_instance=lambda value: ["none" if value is None else str(value)],
    )


def _absolute(path: str) -> str:
    """Return a path that means the same from any folder, as a run may be read from another."""
    return os.path.abspath(os.path.expanduser(path)) if path else path


_Path = Annotated[str | None, _or_none_from(os.path.expanduser, "PATH")]
_File = Annotated[
    str,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="FILE",
        instance_from_str=lambda args: _absolute(args[0]),
        is_instance=lambda value: isinstance(value, str),
        str_from_instance=lambda value: [value],
    ),
]
_Count = Annotated[int | None, _or_none_from(int, "INT")]
_Share = Annotated[float | None, _or_none_from(float, "FLOAT")]


@dataclasses.dataclass(frozen=True)
class Network:
    """The network to train."""

    model: Annotated[str, tyro.conf.arg(metavar="NAME")] = _option(
        "lenet",
        registered(
            *("model", "models", "MODELS"),
            *("lenet", "lenet300", "resnet18", "resnet34", "vgg16", "mobilenet"),
        ),
    )
    """lenet, lenet300, resnet18, resnet34, vgg16 or mobilenet."""
    width: float = _option(1.0, RATE)
    """Factor on the channels and units of every hidden layer."""
    dropout: float = _option(0.1, SHARE)
    """Share of activations dropped between the dense layers in training."""
    fc_units: _Count = _option(None, or_none(COUNT))
    """Units of each dense hidden layer of vgg16 at width 1; none means the original 4096."""
    init_from: _Path = _option(None, or_none(PATH))
    """A .keras file: start from this trained model with dense layers instead of a new --model;
    --model then only chooses the recipe."""
    freeze_trunk: bool = _option(False, FLAG)
    """Train only the dense layers and the layers after the first of them; the features below are
    computed once, without augmentation. Requires --init-from."""

    @property
    def name(self) -> str:
        """What the network is called: by its --model, or by the file that it starts from."""
        return self.model if self.init_from is None else os.path.basename(self.init_from)


@dataclasses.dataclass(frozen=True)
class Data:
    """The data to learn from."""

    dataset: Annotated[str, tyro.conf.arg(metavar="NAME")] = _option(
        "mnist",
        registered("data set", "data", "DATASETS", "mnist", "mnist5k", "cifar10", "cifar100"),
    )
    """mnist, cifar10, cifar100; or mnist5k: 5,000 embedded images, which need no network access."""
    data_dir: _Path = _option(None, or_none(PATH), influences=False)
    """Folder of TensorFlow Datasets, to read from and to download into; none means TFDS_DATA_DIR,
    then TFDS's own default."""
    limit: _Count = _option(None, or_none(COUNT))
    """Use only this many training and test examples, the first ones; none means all."""
    validation: float = _option(1 / 12, INNER_SHARE)
    """Share of the training examples set aside for validation."""
    augmentation: Annotated[str, tyro.conf.arg(metavar="NAME")] = _option(
        "none",
        registered("augmentation", "augmentation", "registry", "none", "crop", "crop_flip"),
    )
    """Random changes to training images: none, crop (by up to 4 pixels), crop_flip (and mirror)."""


@dataclasses.dataclass(frozen=True)
class Switching:
    """The switches and the switcher networks."""

    target_sparsity: _Share = _option(0.95, or_none(SHARE))
    """Share of the connections of dense layers to turn off, in [0, 1); none means the task's loss
    alone decides."""
    granularity: Annotated[str, tyro.conf.arg(metavar="NAME")] = _option(
        "connection",
        registered(
            "granularity", "granularity", "registry", "connection", "block4", "block16", "unit"
        ),
    )
    """What one switch controls: connection, block4 or block16 (4 or 16 inputs of a unit), unit."""
    gate: Annotated[str, tyro.conf.arg(metavar="NAME")] = _option(
        "step", registered("gate", "gates", "registry", "step", "relu_tanh")
    )
    """What turns logits into switches: step (0 or 1) or relu_tanh (also scales)."""
    switcher: Annotated[str, tyro.conf.arg(metavar="NAME")] = _option(
        "unit",
        registered("switcher", "switchers", "registry", "unit", "orthogonal", "connection", "free"),
    )
    """The switcher network: unit (reads all weights of a unit at once), orthogonal (the same,
    linear, with the units made orthogonal) or connection (reads each weight); or free, a trained
    logit for each switch and no network."""
    switcher_hidden: tuple[int, ...] = _option((64,), WIDTHS)
    """Widths of its hidden layers, such as 64 32; without any, it is linear. The default for
    connection is 16. orthogonal and free have none, and the next two have no effect on them."""
    switcher_activation: Annotated[str, tyro.conf.arg(metavar="NAME")] = _option(
        "relu", one_of("relu", "tanh", "silu", "gelu", "elu", "leaky_relu")
    )
    """Activation of its hidden layers: relu, tanh, silu, gelu, elu or leaky_relu."""
    switcher_normalization: Annotated[str, tyro.conf.arg(metavar="{none,layer}")] = _option(
        "none", one_of("none", "layer")
    )
    """Normalisation before each of its activations: none or layer."""


@dataclasses.dataclass(frozen=True)
class AlternationOptions:
    """When each network learns. The phases are warm-up, alternate, settle."""

    task_steps: int = _option(8, COUNT)
    """Task steps between two turns of the switcher."""
    switcher_steps: int = _option(1, COUNT)
    """Switcher steps in a turn."""
    warmup: float = _option(0.1, SHARE)
    """Share of the training before the switcher starts."""
    settle: float = _option(0.4, SHARE)
    """Share of the training after the structure is frozen."""
    ramp: float = _option(0.8, WHOLE_SHARE)
    """Share of the alternate phase in which the target sparsity rises to its final value."""


@dataclasses.dataclass(frozen=True)
class Optimisation:
    """How the networks learn."""

    epochs: int = _option(30, COUNT)
    """Passes over the training examples."""
    batch_size: Annotated[int, tyro.conf.arg(aliases=("-b",))] = _option(128, COUNT)
    """Examples in a batch, over all devices."""
    optimizer: Annotated[str, tyro.conf.arg(metavar="{adam,sgd}")] = _option(
        "adam", one_of("adam", "sgd")
    )
    """Of the task network."""
    learning_rate: Annotated[float, tyro.conf.arg(aliases=("--lr",))] = _option(1e-3, RATE)
    """Of the task network."""
    momentum: float = _option(0.9, SHARE)
    """Momentum of the task network's optimiser if that is sgd."""
    switcher_optimizer: Annotated[str, tyro.conf.arg(metavar="{adam,sgd}")] = _option(
        "adam", one_of("adam", "sgd")
    )
    """Optimiser of the switcher networks; sgd has momentum 0.9."""
    switcher_learning_rate: float = _option(1e-3, RATE)
    """Learning rate of the switcher networks."""
    multiplier_rate: float = _option(0.05, UNIT_RATE)
    """Weight of each switcher step in the running average that sets the price of a connection."""
    rate_exponent: float = _option(0.25, WHOLE_SHARE)
    """A sparse layer learns more slowly, so the learning rate of its kernel is divided by its
    density to this power."""
    weight_decay: float = _option(0.0, AMOUNT)
    """Decoupled weight decay of the task network's kernels: with sgd, 5e-4 in the loss corresponds
    to 5e-4 / (1 - momentum) here."""
    lr_schedule: Annotated[str, tyro.conf.arg(metavar="{cosine,constant}")] = _option(
        "cosine", one_of("cosine", "constant")
    )
    """Course of the task network's learning rate: to zero along a cosine, or constant."""
    label_smoothing: float = _option(0.0, SHARE)
    """Share of a label's weight that is spread over all classes."""
    seed: int = _option(0, SEED)
    """Seed of the initial weights, the order of the batches and dropout."""


@dataclasses.dataclass(frozen=True)
class Execution:
    """How the machine runs the training."""

    precision: Annotated[str, tyro.conf.arg(metavar="{float32,mixed_float16,mixed_bfloat16}")] = (
        _option("float32", one_of("float32", "mixed_float16", "mixed_bfloat16"))
    )
    """The dtype policy of Keras."""
    jit: bool = _option(False, FLAG)
    """Compile with XLA; requires --no-deterministic."""
    steps_per_execution: int = _option(1, COUNT)
    """Largest number of batches in one call of the compiled step; the number used divides an epoch
    and leaves the lengths of the phases unchanged, and is 1 with a --strategy."""
    strategy: Annotated[str, tyro.conf.arg(metavar="{none,mirrored,multiworker}")] = _option(
        "none", one_of("none", "mirrored", "multiworker")
    )
    """mirrored spreads each batch over all GPUs of this machine; multiworker, over all workers that
    TF_CONFIG or Slurm names (docs/distributed.md)."""
    worker_timeout: float = _option(600.0, WAIT, influences=False)
    """Seconds to wait at the start for the other workers of multiworker."""
    deterministic: bool = _option(True, FLAG)
    """Use only deterministic operations: the same seed gives the same numbers, bit for bit."""


@dataclasses.dataclass(frozen=True)
class Run:
    """The run's folder, and code of one's own."""

    run_dir: _Path = _option(None, or_none(PATH), influences=False, saved=False)
    """Folder that everything is written to; none means runs/<model>-<dataset>-<number>."""
    resume: bool = _option(False, FLAG, influences=False, saved=False)
    """Continue the run in --run-dir, or else the newest run, with its configuration; if there is
    none, start one."""
    config: _Path = _option(None, or_none(PATH), influences=False, saved=False)
    """A YAML file with options of the run, such as a run's config.yaml; flags override it."""
    load: tuple[_File, ...] = _option((), FILES, influences=False)
    """Python files to run first, which register networks, data sets, switchers, ..., or define
    layers of your own."""
    dense_baseline: bool = _option(True, FLAG)
    """Also train the same network with plain dense layers, for comparison."""
    verbose: bool = _option(False, FLAG, influences=False, saved=False)
    """Log more, and show the traceback of an error."""


OF_SWITCHING = frozenset(
    {*vars(Switching()), *vars(AlternationOptions())}
    | {"switcher_optimizer", "switcher_learning_rate", "multiplier_rate", "rate_exponent"}
)
"""Names of the options that determine how a network is switched."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that a training run depends on.

    Flags, the config file, recipes and the config.yaml of a run use the names of the groups'
    fields. `from_values` makes a `Config` from values by these names.
    """

    network: Network = dataclasses.field(default_factory=Network)
    data: Data = dataclasses.field(default_factory=Data)
    switching: Switching = dataclasses.field(default_factory=Switching)
    alternation: AlternationOptions = dataclasses.field(default_factory=AlternationOptions)
    optimisation: Optimisation = dataclasses.field(default_factory=Optimisation)
    execution: Execution = dataclasses.field(default_factory=Execution)
    run: Run = dataclasses.field(default_factory=Run)


# What a network of a file has of its own.
OF_NEW_NETWORKS = ("width", "dropout", "fc_units")
_PATHS = ("init_from", "data_dir", "config", "run_dir")


# The class of each group, by the group's name, and (group, field) for every option.
_GROUPS: dict[str, Any] = {group.name: group.type for group in dataclasses.fields(Config)}
_FIELDS = [(name, field) for name, cls in _GROUPS.items() for field in dataclasses.fields(cls)]


def to_values(config: Config, *, only_saved: bool = False) -> dict[str, Any]:
    """Return every option by its name.

    Args:
        config: The configuration.
        only_saved: Whether to leave out the options that describe the call rather than the run: the
            run's folder, `resume`, `config` and `verbose`.
    """
    return {
        field.name: getattr(getattr(config, group), field.name)
        for group, field in _FIELDS
        if field.metadata["saved"] or not only_saved
    }


def influences(config: Config) -> dict[str, Any]:
    """Return the options that a run's numbers depend on, by name.

    Of `init_from`, only whether there is one: the file may have moved, and its content, which
    counts, is told from others by `keras_switcher.fitting.origin_of`.
    """
    values = to_values(config)
    if values["init_from"] is not None:
        values["init_from"] = "a file"
    return {field.name: values[field.name] for _, field in _FIELDS if field.metadata["influences"]}


def from_values(values: Mapping[str, Any], source: str = "the configuration") -> Config:
    """Make a `Config` from options by name; the others keep their defaults.

    Args:
        values: Options by name, as read from YAML.
        source: Where they come from, for the error message.

    Returns:
        The configuration; its values are not checked yet.

    Raises:
        ConfigError: If a name is unknown.
    """
    known = {field.name: (group, field) for group, field in _FIELDS}
    groups: dict[str, dict[str, Any]] = {group: {} for group in _GROUPS}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(
                f"Unknown option {name!r} in {source}.{nearest(name, known)} "
                f"Known: {', '.join(known)}."
            )
        group, field = known[name]
        groups[group][name] = _from_yaml(value, field)
    return Config(**{group: _GROUPS[group](**options) for group, options in groups.items()})


def _from_yaml(value: Any, field: dataclasses.Field[Any]) -> Any:
    """Return a value in the type of its option: YAML has no tuples, and reads 1e-3 as text."""
    name, default = field.name, field.default
    if hasattr(value, "item"):
        # A number of NumPy's, from a program, which YAML can't hold.
        value = value.item()
    if name in _PATHS and isinstance(value, str) and value.lower() != "none":
        return os.path.expanduser(value)
    if name == "load" and (value is None or value == "none"):
        return ()
    if isinstance(default, tuple) and value is not None:
        items = tuple(value) if isinstance(value, (list, tuple)) else (value,)
        are_paths = name == "load" and all(isinstance(item, str) for item in items)
        return tuple(map(_absolute, items)) if are_paths else items
    if isinstance(value, str) and value.lower() == "none":
        optional = default is None or name == "target_sparsity"
        return None if optional else value
    if isinstance(default, float) and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    if isinstance(default, float) and is_integer(value):
        return float(value)
    return value


def validate(config: Config) -> Config:
    """Return the configuration if every value is valid and all go together.

    Args:
        config: The configuration.

    Raises:
        ConfigError: If a value is wrong, or two don't go together.
    """
    check_values(config)
    phases = config.alternation
    if phases.warmup + phases.settle >= 1:
        raise ConfigError(
            "Expected --warmup and --settle to leave time to alternate: less than 1 together. "
            f"Received: {phases.warmup} + {phases.settle}. One that is not given has the value of "
            "the recipe, or the default"
        )
    if config.network.freeze_trunk and config.network.init_from is None:
        raise ConfigError(
            "Expected --init-from with --freeze-trunk: the features of an untrained trunk are of "
            "no use. Received: freeze_trunk=True, init_from=None"
        )
    if config.network.freeze_trunk and config.execution.strategy != "none":
        raise ConfigError(
            "Expected --strategy none with --freeze-trunk: dense layers on ready features learn in "
            f"minutes on one device. Received: {config.execution.strategy}"
        )
    for name in OF_NEW_NETWORKS if config.network.init_from is not None else ():
        value = getattr(config.network, name)
        if value != getattr(Network(), name):
            flag = "--" + name.replace("_", "-")
            raise ConfigError(
                f"Expected no {flag} with --init-from: the network is that of the file. "
                f"Received: {value}"
            )
    if config.network.init_from is not None and config.execution.precision != "float32":
        raise ConfigError(
            "Expected --precision float32 with --init-from: the layers of a loaded model have the "
            f"precision that they were saved with. Received: {config.execution.precision}"
        )
    if config.execution.jit and config.execution.deterministic:
        raise ConfigError(
            "Expected --no-deterministic with --jit: XLA has no deterministic form of every "
            "operation. Received: jit=True, deterministic=True"
        )
    strategy = config.execution.strategy
    if strategy != "none" and config.execution.precision == "mixed_float16":
        raise ConfigError(
            f"Expected --precision mixed_bfloat16 or float32 with --strategy {strategy}: Keras's "
            "loss scaling misses what overflows on one device alone. Received: mixed_float16"
        )
    if strategy != "none" and config.execution.jit:
        reason = {
            "mirrored": "Keras can't do both (keras#17187)",
            "multiworker": "XLA compiles no collective of CPUs",
        }[strategy]
        raise ConfigError(
            f"Expected --no-jit with --strategy {strategy}: {reason}. "
            f"Received: jit=True, strategy={strategy}"
        )
    return config


def check_values(config: Config, source: str | None = None) -> None:
    """Check that each value by itself is valid, after running the files of `load`.

    Args:
        config: The configuration.
        source: The file that the values come from, for the error message; `None` for flags.

    Raises:
        ConfigError: If one is wrong.
    """
    if FILES.accepts(config.run.load):
        # They may register what other values name.
        try:
            run_files(config.run.load, config.run.verbose)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}" if source else str(error)) from error
    for group, field in _FIELDS:
        value = getattr(getattr(config, group), field.name)
        check: Check = field.metadata["check"]
        try:
            accepted = check.accepts(value)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}" if source else str(error)) from None
        if not accepted:
            flag = "--" + field.name.replace("_", "-")
            option = f"{field.name} in {source}" if source else flag
            shown = "none" if value is None else value
            raise ConfigError(f"Expected {option} to be {check.expected}. Received: {shown}")


def to_yaml(config: Config) -> str:
    """Return the configuration as YAML that `--config` reads."""
    lines, last = [], None
    values = to_values(config, only_saved=True)
    values["load"] = [_absolute(path) for path in values["load"]]
    for group, field in _FIELDS:
        if field.name not in values:
            continue
        if group != last:
            lines.append(f"# {type(getattr(config, group)).__doc__}")
            last = group
        text = yaml.safe_dump(values[field.name], default_flow_style=True, width=float("inf"))
        lines.append(f"{field.name}: {text.splitlines()[0]}")
    return "\n".join(lines) + "\n"
