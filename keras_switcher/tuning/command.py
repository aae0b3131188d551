"""The command `python -m keras_switcher.tuning`."""

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from keras_switcher.checks import AMOUNT, COUNT, ConfigError, check_flags
from keras_switcher.commands import load_tensorflow, run_command
from keras_switcher.config import to_values
from keras_switcher.display import say
from keras_switcher.extras import install_command
from keras_switcher.files import RunError
from keras_switcher.flags import resolve_shared
from keras_switcher.programs import module_command, same_command
from keras_switcher.signals import StopSignals
from keras_switcher.tuning.plan import COSTS, ORACLES, Plan, Terms
from keras_switcher.tuning.space import Space, read_space
from keras_switcher.tuning.spread import ID, Place, Spread, own_command

_NEEDED = {"keras_tuner": "keras-tuner", "sklearn": "scikit-learn"}
# Flags of a run that a search does not have.
_REFUSED = {
    "--run-dir": "a search writes into --out",
    "--resume": "a search writes into --out, and goes on from there by itself",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=module_command("keras_switcher.tuning", "keras-switcher-tune"),
        description="Search for a better switcher network with Keras Tuner. The same command goes "
        "on after it was stopped or killed.",
        epilog="All other flags are those of train.py (--model, --dataset, --limit, --width, ...): "
        "python train.py --help lists them. An option of the switching that is given is not "
        "searched. Example: python -m keras_switcher.tuning --model lenet300 --dataset mnist "
        "--trials 30 --out searches/lenet300",
        # A flag of train.py must not be taken for an abbreviation of one of these.
        allow_abbrev=False,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the search")
    parser.add_argument("--trials", type=int, default=30, help="trials in all (default: 30)")
    parser.add_argument(
        "--workers", type=int, default=1, help="processes of this machine that train trials"
    )
    parser.add_argument(
        "--oracle", choices=ORACLES, default=ORACLES[0], help="what chooses (default: hyperband)"
    )
    parser.add_argument(
        "--max-epochs",
        type=int,
        help="epochs of a trial, at most (default: those of the recipe, or --epochs)",
    )
    parser.add_argument("--space", type=Path, help="YAML file of ranges (docs/tuning.md)")
    parser.add_argument(
        "--penalty",
        type=float,
        default=10.0,
        help="what a missing share of sparsity takes from the objective (default: 10)",
    )
    parser.add_argument(
        "--cost",
        choices=COSTS,
        default=COSTS[0],
        help="what else does: switcher weights per connection, or seconds of a step",
    )
    parser.add_argument("--cost-weight", type=float, help="how much a unit of --cost takes")
    parser.add_argument(
        "--no-stop-hopeless",
        dest="hopeless",
        action="store_false",
        help="train trials to their end that are far behind",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="remove the search that is in --out, start again"
    )
    return parser


def plan_of(arguments: Sequence[str]) -> tuple[argparse.Namespace, Plan]:
    """Return the options of the command, and the search that they describe.

    Args:
        arguments: The flags; wrong ones of the search itself and `--help` end the process.

    Raises:
        ConfigError: If a value is wrong.
    """
    parser = _parser()
    options, others = parser.parse_known_args(arguments)
    spreads = "--workers spreads the trials of a search"
    config = resolve_shared(others, parser, _REFUSED, spreads)
    if config.network.freeze_trunk:
        raise ConfigError(
            "Expected no --freeze-trunk: a search trains whole networks. "
            "Received: freeze_trunk=True"
        )
    if options.max_epochs is None:
        options.max_epochs = config.optimisation.epochs
    if (options.cost == "none") != (options.cost_weight is None):
        raise ConfigError(
            "Expected --cost and --cost-weight together. "
            f"Received: cost={options.cost}, cost_weight={options.cost_weight}"
        )
    check_flags(options, dict.fromkeys(("trials", "workers", "max_epochs"), COUNT))
    check_flags(options, {"penalty": AMOUNT})
    if options.cost_weight is not None:
        check_flags(options, {"cost_weight": AMOUNT})
    names = {
        other[2:].split("=")[0].replace("-", "_") for other in others if other.startswith("--")
    }
    values = to_values(config)
    given = {name: values[name] for name in values if name in {*names, "target_sparsity"}}
    space = Space.of(None if options.space is None else read_space(options.space), given)
    return options, Plan(
        config,
        space,
        options.oracle,
        options.trials,
        options.max_epochs,
        Terms(penalty=options.penalty, cost=options.cost, cost_weight=options.cost_weight or 0.0),
        options.hopeless,
    )


def _search(flags: Sequence[str], console: Console) -> int:
    options, plan = plan_of(flags)
    place = Place.from_environment(os.environ)
    if options.overwrite and place.is_cluster:
        raise ConfigError(
            "Expected no --overwrite with a chief and workers on machines of their own: one that "
            "is started again would remove the search. Remove the folder yourself. "
            "Received: overwrite=True"
        )
    if options.workers > 1 and place.is_cluster:
        raise ConfigError(
            "Expected no --workers with a chief and workers on machines of their own: start one "
            f"process for each worker, with {ID} of its own. Received: workers={options.workers}"
        )
    missing = [pip for name, pip in _NEEDED.items() if importlib.util.find_spec(name) is None]
    if missing:
        raise RunError(f"The search needs {' and '.join(missing)}: {install_command('tune')}")
    if options.workers > 1 and not (place.is_worker or place.is_chief):
        from keras_switcher.tuning.folder import forget_mistaken, open_folder

        with open_folder(plan, options.out, options.overwrite) as is_new:
            pass
        own = [flag for flag in flags if flag != "--overwrite"]
        status = Spread(options.workers, own_command(own), options.out, sys.stderr).run()
        if status == ConfigError.exit_status and is_new:
            forget_mistaken(options.out)
        return status
    place.take()
    stop = StopSignals()
    with stop.handled():
        load_tensorflow(plan.config.run.verbose)
        from keras_switcher.tuning.folder import open_folder, wait_for_folder
        from keras_switcher.tuning.search import Search, summary

        search = Search(plan, options.out, place, console, stop)
        facts: dict[str, Any] | None = None
        if place.is_worker:
            wait_for_folder(plan, options.out)
            search.run()
        else:
            alone = not place.is_chief
            with open_folder(plan, options.out, options.overwrite, alone=alone):
                facts = search.run()
    if facts is not None:
        say(console, summary(facts, options.out))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The flags; those of the process by default.

    Returns:
        The exit status: 0; 2 for a mistake in flags, files or data; 1 for a search that failed;
        130 and 143 after Ctrl-C and SIGTERM.
    """
    flags = sys.argv[1:] if arguments is None else list(arguments)
    advice = f"Nothing is lost: go on with {same_command()}."
    return run_command(lambda console: _search(flags, console), "--verbose" in flags, advice)
