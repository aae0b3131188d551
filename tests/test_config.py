import dataclasses
import importlib
import sys
from pathlib import Path

import pytest
import yaml

from keras_switcher.checks import ConfigError
from keras_switcher.config import (
    Config,
    check_values,
    from_values,
    influences,
    to_values,
    to_yaml,
    validate,
)
from keras_switcher.plan_folder import differences

# For every option a value that is right and not its default.
OTHER = {
    "model": "lenet300",
    "width": 0.5,
    "dropout": 0.0,
    "fc_units": 512,
    "init_from": "/some where/dense.keras",
    "freeze_trunk": True,
    "dataset": "mnist5k",
    "data_dir": "/some where",
    "limit": 600,
    "validation": 0.2,
    "augmentation": "crop_flip",
    "target_sparsity": None,
    "granularity": "block4",
    "gate": "relu_tanh",
    "switcher": "connection",
    "switcher_hidden": (32, 16),
    "switcher_activation": "tanh",
    "switcher_normalization": "layer",
    "task_steps": 2,
    "switcher_steps": 2,
    "warmup": 0.0,
    "settle": 0.3,
    "ramp": 1.0,
    "epochs": 3,
    "batch_size": 32,
    "optimizer": "sgd",
    "learning_rate": 1e-5,
    "momentum": 0.5,
    "switcher_optimizer": "sgd",
    "switcher_learning_rate": 0.01,
    "multiplier_rate": 0.1,
    "rate_exponent": 0.75,
    "weight_decay": 1e-4,
    "lr_schedule": "constant",
    "label_smoothing": 0.1,
    "seed": 7,
    "precision": "mixed_bfloat16",
    "jit": True,
    "steps_per_execution": 3,
    "strategy": "mirrored",
    "worker_timeout": 30.0,
    "deterministic": False,
    "dense_baseline": False,
    "run_dir": "r",
    "resume": True,
    "config": "c.yaml",
    "load": (str(Path(__file__).with_name("fenced.py")),),
    "verbose": True,
}
CALL = {"run_dir", "resume", "config", "verbose"}


def test_values_round_trip():
    config = from_values(OTHER)

    assert to_values(config) == OTHER
    assert all(OTHER[name] != default for name, default in to_values(Config()).items())
    # Some do not go together with --init-from and --freeze-trunk.
    apart = {"strategy": "none", "precision": "float32"}
    apart |= {name: to_values(Config())[name] for name in ("width", "dropout", "fc_units")}
    config = from_values({**OTHER, **apart})
    assert validate(config) is config


def test_yaml_round_trip_without_what_describes_the_call():
    text = to_yaml(from_values(OTHER))

    saved = yaml.safe_load(text)
    assert saved.keys() == OTHER.keys() - CALL
    assert to_values(from_values(saved)) == {
        **OTHER,
        **{name: to_values(Config())[name] for name in CALL},
    }
    assert to_yaml(from_values(saved)) == text


def test_defaults_are_right():
    assert validate(Config()) == Config()


@pytest.mark.parametrize("text", ["none", "None", "NONE", "null", "~", ""])
@pytest.mark.parametrize("name", ["target_sparsity", "limit", "data_dir"])
def test_none_in_yaml(name, text):
    values = yaml.safe_load(f"{name}: {text}")

    assert to_values(from_values(values))[name] is None


@pytest.mark.parametrize("name", ["model", "epochs", "width", "jit"])
def test_none_is_refused_where_a_value_is_needed(name):
    with pytest.raises(ConfigError, match="(?i)none"):
        validate(from_values({name: None}))
    with pytest.raises(ConfigError, match="(?i)none"):
        validate(from_values({name: "none"}))


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("learning_rate: 1e-3", 0.001),  # YAML 1.1 reads it as text
        ("learning_rate: 1", 1.0),
        ("width: 2", 2.0),
        ("target_sparsity: 0", 0.0),
        ("target_sparsity: 9e-1", 0.9),
        ("switcher_hidden: 32", (32,)),
        ("switcher_hidden: [32, 16]", (32, 16)),
        ("switcher_hidden: []", ()),
    ],
)
def test_yaml_values_become_those_of_the_option(line, value):
    [(name, read)] = yaml.safe_load(line).items()
    config = from_values({name: read})

    got = to_values(validate(config))[name]
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("target_sparsity", 1.0),
        ("target_sparsity", -0.1),
        ("target_sparsity", 95),
        ("target_sparsity", float("nan")),
        ("width", 0),
        ("width", -1.0),
        ("width", float("inf")),
        ("dropout", 1.0),
        ("limit", 0),
        ("limit", 10.5),
        ("validation", 0.0),
        ("validation", 1.0),
        ("switcher_hidden", (0,)),
        ("switcher_hidden", "64,32"),
        ("switcher_hidden", None),
        ("epochs", 0),
        ("epochs", "ten"),
        ("worker_timeout", 0.0),
        ("worker_timeout", 1e11),
        ("epochs", True),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("learning_rate", "fast"),
        ("weight_decay", -1.0),
        ("lr_schedule", "linear"),
        ("seed", -1),
        ("seed", 2**31),
        ("seed", 1.5),
        ("precision", "float16"),
        ("jit", "yes"),
        ("jit", 1),
        ("strategy", "horovod"),
        ("ramp", 1.1),
        ("run_dir", ""),
    ],
)
def test_wrong_value(name, value):
    config = from_values({name: value})

    with pytest.raises(ConfigError) as flag:
        validate(config)
    with pytest.raises(ConfigError) as file:
        check_values(config, "my.yaml")

    received = f"Received: {'none' if value is None else to_values(config)[name]}"
    assert str(flag.value).startswith(f"Expected --{name.replace('_', '-')} to be ")
    assert str(file.value).startswith(f"Expected {name} in my.yaml to be ")
    assert str(flag.value).endswith(received)
    assert str(file.value).endswith(received)


@pytest.mark.parametrize(
    ("name", "value", "nearest", "known"),
    [
        (
            *("model", "lenet30", "lenet300"),
            ["lenet", "lenet300", "resnet18", "resnet34", "vgg16", "mobilenet"],
        ),
        ("dataset", "mnst", "mnist", ["mnist", "mnist5k", "cifar10", "cifar100"]),
        ("augmentation", "cropflip", "crop_flip", ["none", "crop", "crop_flip"]),
        ("granularity", "block8", "block4", ["connection", "block4", "block16", "unit"]),
        ("gate", "relutanh", "relu_tanh", ["step", "relu_tanh"]),
        ("switcher", "conection", "connection", ["unit", "orthogonal", "connection", "free"]),
    ],
)
def test_unknown_name_lists_what_exists_and_the_nearest(name, value, nearest, known):
    config = from_values({name: value})

    with pytest.raises(ConfigError) as flag:
        validate(config)
    with pytest.raises(ConfigError, match=r"^my\.yaml: Unknown") as file:
        check_values(config, "my.yaml")

    for error in (flag, file):
        assert f"'{value}'. Did you mean '{nearest}'?" in str(error.value)
        assert set(str(error.value).rpartition("Known: ")[2].rstrip(".").split(", ")) == set(known)


@pytest.mark.parametrize("value", [5, ["lenet"], {"lenet": 1}, True])
def test_name_that_is_no_text(value):
    with pytest.raises(ConfigError, match="Unknown model"):
        validate(from_values({"model": value}))


@pytest.mark.parametrize(
    ("option", "module", "attribute"),
    [
        ("model", "models", "MODELS"),
        ("dataset", "data", "DATASETS"),
        ("granularity", "granularity", "registry"),
        ("gate", "gates", "registry"),
        ("switcher", "switchers", "registry"),
    ],
)
def test_names_known_without_tensorflow_are_those_registered(
    option, module, attribute, monkeypatch
):
    name = f"keras_switcher.{module}"
    registry = getattr(importlib.import_module(name), attribute)
    monkeypatch.delitem(sys.modules, name)

    with pytest.raises(ConfigError) as error:
        validate(from_values({option: "?"}))

    known = str(error.value).rpartition("Known: ")[2].rstrip(".").split(", ")
    assert sorted(known) == registry.names()


def test_name_that_a_user_registered_is_accepted():
    from keras_switcher import gates

    gates.registry.register("mine")(lambda z: z)

    assert validate(from_values({"gate": "mine"})).switching.gate == "mine"


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("epoch", "epochs"), ("batch_sizes", "batch_size"), ("target-sparsty", "target_sparsity")],
)
def test_unknown_option_names_the_source_and_the_nearest(key, nearest):
    with pytest.raises(ConfigError) as error:
        from_values({key: 1}, "my.yaml")

    assert f"Unknown option '{key}' in my.yaml. Did you mean '{nearest}'?" in str(error.value)
    assert "switcher_learning_rate" in str(error.value)


def test_phases_must_leave_time_to_alternate():
    values = {"warmup": 0.5, "settle": 0.5}

    with pytest.raises(ConfigError, match=r"--warmup and --settle .* Received: 0\.5 \+ 0\.5"):
        validate(from_values(values))
    # Another file or a flag may still change one of them.
    check_values(from_values(values), "my.yaml")


def test_jit_needs_no_deterministic():
    with pytest.raises(ConfigError, match="--no-deterministic with --jit"):
        validate(from_values({"jit": True}))
    validate(from_values({"jit": True, "deterministic": False}))


def test_what_numbers_depend_on_and_nothing_else_influences_a_run():
    usual = influences(Config())
    other = influences(from_values({"epochs": 40, "limit": 600, "verbose": True}))
    assert differences(usual, usual) == []
    assert differences(usual, other) == ["limit: None -> 600", "epochs: 30 -> 40"]
    free = {"data_dir", "worker_timeout", "load", *CALL}
    expected = {k: v for k, v in OTHER.items() if k not in free}
    # The same file may be elsewhere: its content is told from others.
    assert influences(from_values(OTHER)) == {**expected, "init_from": "a file"}
    assert len(differences(usual, influences(from_values(OTHER)))) == len(OTHER) - len(free)


def test_every_option_is_documented():
    for group in dataclasses.fields(Config):
        assert getattr(Config(), group.name).__doc__.endswith(".")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jit": True, "deterministic": False}, "--no-jit with --strategy mirrored"),
    ],
)
def test_mirrored_excludes_what_keras_can_not_combine_with_it(options, message):
    validate(from_values({**options, "strategy": "none"}))
    with pytest.raises(ConfigError, match=message):
        validate(from_values({**options, "strategy": "mirrored"}))
