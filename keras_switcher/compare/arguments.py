"""The flags of `python -m keras_switcher.compare`, and the comparison that they describe."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keras_switcher.checks import COUNT, ConfigError, check_flags
from keras_switcher.commands import load_tensorflow
from keras_switcher.compare.ablations import ABLATIONS, ablated
from keras_switcher.compare.plan import Cell, Plan, Variant
from keras_switcher.config import Config, validate
from keras_switcher.flags import WITHOUT_HIDDEN, resolve_shared
from keras_switcher.machine import cores
from keras_switcher.programs import module_command

METHODS = (
    "switcher",
    "dense",
    "small-dense",
    "random",
    "magnitude-uniform",
    "magnitude-global",
    "magnitude-switcher",
    "tfmot",
    "tfmot-layerwise",
    "l0",
    "free",
)
SPARSITIES = (0.8, 0.9, 0.95, 0.98, 0.99)

# Flags of a run that a comparison does not have, or that it sets itself.
_REFUSED = {
    "--run-dir": "a comparison writes into --out",
    "--resume": "a comparison goes on by itself",
    "--seed": "--seeds says how many there are, and --first-seed where they start",
    "--target-sparsity": "--sparsity lists them",
    **dict.fromkeys(
        ("--dense-baseline", "--no-dense-baseline"), "the method `dense` is one, or isn't named"
    ),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=module_command("keras_switcher.compare", "keras-switcher-compare"),
        description="Train the same network by several methods, at several sparsities and from "
        "several seeds, and hold them against each other. The same command goes on after it was "
        "stopped or killed; with more methods, sparsities or seeds it trains what is missing.",
        epilog="All other flags are those of train.py (--model, --dataset, --limit, --epochs, ...)"
        ". A method may have options of its own: --methods switcher 'switcher:gate=relu_tanh'. "
        "Example: python -m keras_switcher.compare --model lenet300 --dataset mnist "
        "--sparsity 0.95 0.98 --seeds 5 --out comparisons/lenet300",
        allow_abbrev=False,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the comparison")
    parser.add_argument(
        "--sparsity",
        type=float,
        nargs="+",
        default=list(SPARSITIES),
        help=f"sparsities to reach (default: {' '.join(map(str, SPARSITIES))})",
    )
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds (default: 5)")
    parser.add_argument(
        "--first-seed",
        type=int,
        default=0,
        help="the first one (default: 0); another where 0 has served to choose, as in a search",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        help=f"the first is held against the others (default: {' '.join(METHODS)})",
    )
    parser.add_argument(
        "--ablations",
        nargs="*",
        metavar="PART",
        help="instead of --methods: the method with one part changed at a time, of these parts or "
        f"of all ({', '.join(ABLATIONS)})",
    )
    parser.add_argument(
        "--keep-models", action="store_true", help="keep each network as cells/NAME/model.keras"
    )
    parser.add_argument(
        "--processes", type=int, help="networks trained at a time (default: one for each core)"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="threads of each (default: 1); numbers depend on it"
    )
    return parser


def _checked(arguments: Sequence[str]) -> tuple[argparse.Namespace, Config]:
    """Return the options of the command, and the configuration that all cells share.

    Raises:
        ConfigError: If a value is wrong.
    """
    parser = _parser()
    options, others = parser.parse_known_args(arguments)
    config = resolve_shared(others, parser, _REFUSED, "--processes spreads a comparison")
    if options.processes is None:
        options.processes = max(1, cores() // max(1, options.threads))
    check_flags(options, dict.fromkeys(("seeds", "processes", "threads"), COUNT))
    if not 0 <= options.first_seed <= 2**31 - options.seeds:
        raise ConfigError(
            "Expected --first-seed, and the --seeds from it on, to be integers in [0, 2**31). "
            f"Received: {options.first_seed}"
        )
    for target in options.sparsity:
        if not 0 <= target < 1:
            raise ConfigError(f"Expected --sparsity to be shares in [0, 1). Received: {target}")
    options.methods_named = options.methods is not None
    if options.ablations is not None:
        if options.methods is not None:
            raise ConfigError(
                "Expected --methods or --ablations, which names the methods itself. Received: both"
            )
        options.methods = ablated(options.ablations, config)
    elif options.methods is None:
        options.methods = list(METHODS)
    return options, config


def _plan(options: argparse.Namespace, config: Config) -> Plan:
    """Return the comparison.

    Raises:
        ConfigError: If there is no such method, or an option of one is wrong.
    """
    given = {text: Variant.parse(text) for text in options.methods}
    variants = tuple(given.values())
    load_tensorflow(config.run.verbose)
    import keras_switcher.compare.methods  # noqa: F401
    from keras_switcher.compare.method import registry
    from keras_switcher.initial import file_digest

    for variant in variants:
        _check_method(variant.method)
    variants = tuple(
        dict.fromkeys(
            Variant.parse(text, registry.get(variant.method).reads)
            for text, variant in given.items()
        )
    )
    for variant in variants:
        if config.network.init_from is not None and "dropout" in dict(variant.options):
            raise ConfigError(
                "Expected no dropout among the options of a method with --init-from, whose network "
                f"has its own. Received: {variant}"
            )
        own, switcher = dict(variant.options), config.switching.switcher
        if "switcher_hidden" in own and "switcher" not in own and switcher in WITHOUT_HIDDEN:
            raise ConfigError(
                f"Expected no switcher_hidden: the switcher '{switcher}' has no hidden layers. "
                f"Add switcher=unit, for one that has. Received: {variant}"
            )
    facts: dict[str, Any] = {"threads": options.threads}
    if config.network.init_from is not None and Path(config.network.init_from).is_file():
        facts["init_from_digest"] = file_digest(config.network.init_from)
    if options.keep_models:
        # A folder in which some networks are kept and others are not would be of no use.
        facts["keep_models"] = True
    plan = Plan(
        config,
        variants,
        tuple(dict.fromkeys(options.sparsity)),
        tuple(range(options.first_seed, options.first_seed + options.seeds)),
        facts,
        {
            name: (registry.get(name).is_sparse, registry.get(name).needs)
            for name in registry.names()
        },
    )
    names: dict[str, Cell] = {}
    for cell in plan.cells():
        validate(cell.config(config))
        # Some file systems take upper and lower case for the same.
        if (other := names.setdefault(cell.name.casefold(), cell)) != cell:
            raise ConfigError(
                "Expected methods and sparsities whose folders have different names. Received: "
                f"{other.variant} at {other.target_sparsity} and {cell.variant} at "
                f"{cell.target_sparsity}, both of which would be in {cell.name}"
            )
    return plan


def _check_method(name: str, needed_by: tuple[str, ...] = ()) -> None:
    """Check that a method exists, and that those whose results it needs do.

    Raises:
        ConfigError: If one does not.
    """
    from keras_switcher.compare.method import registry

    if name in needed_by:
        raise ConfigError(f"The method {name!r} needs its own result: {needed_by}.")
    try:
        needs = registry.get(name).needs
    except ValueError as error:
        wanted = f" It is needed by {needed_by[-1]!r}." if needed_by else ""
        raise ConfigError(f"{error}{wanted}") from None
    for other in needs:
        _check_method(other, (*needed_by, name))
        if registry.get(other).is_sparse and not registry.get(name).is_sparse:
            raise ConfigError(
                f"Expected a method that aims at a sparsity, as it needs the results of {other!r}, "
                f"which does. Received: {name!r}, whose is_sparse is False"
            )


def checked_plan(arguments: Sequence[str]) -> tuple[argparse.Namespace, Plan]:
    """Return the options of the command, and the comparison that they describe.

    Args:
        arguments: The flags; wrong ones of the comparison itself and `--help` end the process.

    Raises:
        ConfigError: If a value or a name is wrong.
    """
    options, config = _checked(arguments)
    return options, _plan(options, config)
