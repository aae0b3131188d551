"""Combining flags, config file, recipe and an earlier run's configuration into one `Config`."""

import argparse
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro
import yaml

from keras_switcher.checks import ConfigError, nearest
from keras_switcher.config import (
    OF_NEW_NETWORKS,
    Config,
    check_values,
    from_values,
    to_values,
    validate,
)
from keras_switcher.own_code import run_files
from keras_switcher.programs import program_name
from keras_switcher.runs import CONFIG_FILE, newest_run

logger = logging.getLogger(__name__)

RECIPES = Path(__file__).parent / "recipes"
# A recipe chooses these for one switcher on the kernels of one model; for others they may be far
# too large.
_OF_ONE_SWITCHER = ("switcher_hidden", "switcher_learning_rate")
WITHOUT_HIDDEN = ("orthogonal", "free")
"""The switchers that have no hidden layers."""


def resolve(arguments: Sequence[str], *, is_shared: bool = False) -> Config:
    """Make the configuration of a run from its command line.

    Flags override the file of `--config`, which overrides the recipe of the model and the data set,
    which overrides the defaults of `Config`. With `--resume`, the configuration of the existing run
    replaces the recipe and the defaults.

    Args:
        arguments: The flags; wrong ones and `--help` end the process.
        is_shared: Whether several trainings start from it, which may have other switchers.

    Returns:
        The configuration, valid.

    Raises:
        ConfigError: If a value, a name or the config file is wrong, or an option is without effect.
    """
    without_help = [flag for flag in arguments if flag not in ("-h", "--help")]
    flags = _parse(without_help, Config())
    # They may register what the flags and the files name.
    run_files(flags.run.load, flags.run.verbose)
    # Files of flags replace those of a configuration, which may have been moved, or be others.
    replaced = ("load",) if flags.run.load else ()
    file = {} if flags.run.config is None else read_yaml(Path(flags.run.config), replaced)
    named = _parse(without_help, from_values(file))
    if named.run.resume and named.run.run_dir is None:
        # The newest run of the model and the data set that are named, or of any.
        wanted = _parse(without_help, from_values({"model": "*", "dataset": "*", **file}))
        found = newest_run(wanted.network.model, wanted.data.dataset)
        file = file if found is None else {**file, "run_dir": str(found)}
        named = _parse(without_help, from_values(file))
    if named.network.init_from is not None:
        # A network that is loaded has its own, unlike that of the run which the file may be of.
        usual = to_values(Config())
        taken_out = [n for n in OF_NEW_NETWORKS if file.get(n, usual[n]) != usual[n]]
        if taken_out and file.get("init_from") is None:
            logger.info("--init-from: %s of the config file not used.", ", ".join(taken_out))
        file = {name: value for name, value in file.items() if name not in OF_NEW_NETWORKS}
    base = _earlier(named, replaced)
    if base is None:
        options = recipe(named.network.model, named.data.dataset)
        if named.network.init_from is not None:
            # It was chosen for the kernels of another network.
            options.pop("switcher", None)
        # With the recipe's switcher, unless another one is named.
        base = _suited(options, _parse(without_help, from_values({**options, **file})))
    config = _parse(arguments, from_values({**base, **file}))
    if "--load" in arguments and not config.run.load:
        raise ConfigError("Expected --load to be Python files. Received: none")
    switcher = config.switching.switcher
    given = {flag.split("=")[0].replace("_", "-") for flag in arguments if flag.startswith("--")}
    # A file may have all options there are.
    is_given = (
        "--switcher-hidden" in given or "switcher_hidden" in {*file} and "switcher" not in file
    )
    if is_given and switcher in WITHOUT_HIDDEN and not is_shared:
        raise ConfigError(
            f"Expected no switcher_hidden: the switcher '{switcher}' has no hidden layers. Add "
            f"--switcher unit for one that has. Received: {list(config.switching.switcher_hidden)}"
        )
    return validate(config)


def resolve_shared(
    arguments: Sequence[str],
    parser: argparse.ArgumentParser,
    refused: Mapping[str, str],
    spreads: str,
) -> Config:
    """Make the configuration that all trainings of a command start from.

    Args:
        arguments: The flags that are not the command's own.
        parser: The parser of the command's own flags, to suggest what an unknown flag was meant to
            be.
        refused: Flags of `train.py` that the command has no use for, and why.
        spreads: Which flag of the command spreads its work over processes, for the error message.

    Returns:
        The configuration, valid.

    Raises:
        ConfigError: If a flag is refused or unknown, or a value is wrong.
    """
    shared = _flags() - set(refused)
    own = re.findall(r"--[a-z-]+", parser.format_usage())
    for flag in (given.split("=")[0] for given in arguments if given.startswith("--")):
        name = flag.replace("_", "-")
        if name in refused:
            raise ConfigError(f"Expected no {name}: {refused[name]}. Received: {flag}")
        if name not in shared:
            # The message of `resolve` would suggest only options of `train.py`.
            meant = nearest(name, (*own, *sorted(shared - {"--lr"})))
            raise ConfigError(
                f"Unknown option {flag}.{meant} For all of them, run {parser.prog} --help and "
                f"{program_name()} --help."
            )
    config = resolve(arguments, is_shared=True)
    if config.execution.strategy != "none":
        raise ConfigError(
            f"Expected --strategy none: {spreads}. Received: {config.execution.strategy}"
        )
    return config


def _flags() -> set[str]:
    """Return the flags of `train.py` that have long names."""
    values = to_values(Config())
    flags = {name: "--" + name.replace("_", "-") for name in values}
    negated = {"--no-" + flags[name][2:] for name in values if isinstance(values[name], bool)}
    return {*flags.values(), *negated, "--lr", "--help"}


def _suited(found: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """Return the options of a recipe that suit the network and the switcher of a configuration."""
    base = dict(found)
    if config.network.init_from:
        # The network of the file has its own dropout.
        base.pop("dropout", None)
    if (
        config.network.init_from
        or config.switching.switcher != from_values(found).switching.switcher
    ):
        for name in _OF_ONE_SWITCHER:
            base.pop(name, None)
    if config.switching.switcher == "connection":
        # As its class has it: this switcher runs for each connection, so its width is costly.
        base.setdefault("switcher_hidden", [16])
    return base


def for_another_switcher(config: Config, switcher: str) -> dict[str, Any]:
    """Return the options that change in a training by a recipe when its switcher changes.

    Args:
        config: The training.
        switcher: The other switcher.

    Returns:
        By name, the options that are chosen for one switcher, with their values in the recipe and
        the defaults for the other one. Options that the training itself sets to another value are
        left out.
    """
    given = to_values(config)
    other = from_values({**given, "switcher": switcher})
    found = recipe(config.network.model, config.data.dataset)
    before, after = (to_values(from_values(_suited(found, each))) for each in (config, other))
    return {name: after[name] for name in _OF_ONE_SWITCHER if given[name] == before[name]}


def _earlier(config: Config, leave_out: Collection[str]) -> dict[str, Any] | None:
    """Return the options of the run to resume, but some, if there is one."""
    if not (config.run.resume and config.run.run_dir):
        return None
    path = Path(config.run.run_dir) / CONFIG_FILE
    return read_yaml(path, leave_out) if path.is_file() else None


def _parse(arguments: Sequence[str], defaults: Config) -> Config:
    return tyro.cli(
        Config,
        args=list(arguments),
        default=defaults,
        config=(tyro.conf.OmitArgPrefixes,),
        prog=program_name(),
        description="Train a sparse network: a switcher network reads the weights of the dense "
        "layers and turns connections off while the network learns.",
    )


def read_mapping(path: Path, what: str, form: str) -> dict[str, Any] | None:
    """Read values by name from a YAML file.

    Args:
        path: The file.
        what: What it is, in the errors.
        form: The form of its lines, in the errors.

    Returns:
        The values, with underscores in their names; `None` for an empty file.

    Raises:
        ConfigError: If it isn't there, can't be read, or holds anything else.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise ConfigError(f"Can't read the {what} {path}: {reason}.") from None
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"The {what} {path} is not YAML: {problem}") from None
    if values is None:
        return None
    if not isinstance(values, dict):
        raise ConfigError(
            f"Expected the {what} {path} to hold lines of `{form}`. "
            f"Received: a {type(values).__name__}"
        )
    return {str(name).replace("-", "_"): value for name, value in values.items()}


def read_yaml(path: Path, leave_out: Collection[str] = ()) -> dict[str, Any]:
    """Read options by name from a YAML file.

    Args:
        path: The file.
        leave_out: Names of options that are not read.

    Raises:
        ConfigError: If it isn't there, can't be read, or holds anything but options.
    """
    found = read_mapping(path, "config file", "option: value") or {}
    values = {name: value for name, value in found.items() if name not in leave_out}
    if flags := [f"--{name}" for name in ("config", "resume", "verbose") if values.get(name)]:
        raise ConfigError(
            f"Expected the config file {path} to hold options of the run. Received: "
            f"{', '.join(name[2:] for name in flags)}; give {' and '.join(flags)} as a flag"
        )
    check_values(from_values(values, str(path)), str(path))
    return values


def recipe(model: str, dataset: str) -> dict[str, Any]:
    """Return the options that suit a model on a data set, where they differ from the defaults.

    Args:
        model: Name of the model.
        dataset: Name of the data set.

    Returns:
        Options by name; none if there is no recipe, which is logged.

    Raises:
        ConfigError: If there is no such model or data set.
    """
    check_values(from_values({"model": model, "dataset": dataset}))
    path = RECIPES / f"{model}_{dataset}.yaml"
    if path.is_file():
        return read_yaml(path)
    others = ", ".join(sorted(found.name for found in RECIPES.glob(f"{model}_*.yaml")))
    advice = f" To begin from one for other data, give its file by --config: {others} in {RECIPES}."
    logger.info(
        "No recipe for %s on %s: training with the defaults.%s",
        model,
        dataset,
        advice if others else "",
    )
    return {}
