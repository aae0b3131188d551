"""`Plan`: what is compared, cell by cell; a cell is one method at one sparsity from one seed."""

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

import yaml

from keras_switcher.checks import ConfigError
from keras_switcher.config import (
    OF_SWITCHING,
    Config,
    Data,
    Network,
    check_values,
    from_values,
    influences,
    to_values,
)
from keras_switcher.plan_folder import differences, plain

PLAN_FILE = "compare.yaml"
CELLS = "cells"
RESULT_FILE = "result.json"
ERROR_FILE = "error.txt"
LOG_FILE = "log.txt"
# How the reasons begin or end after which it does not help to repeat the command at once.
DIVERGED = "Training has diverged."
TRAINS_ANEW = "and the same command trains this network anew."

# Options that the comparison itself sets for each cell.
_SET_BY_CELLS = ("seed", "target_sparsity", "dense_baseline")
# Options that all methods share, so that they can be compared.
_SHARED = {*vars(Network()), *vars(Data()), "epochs", "batch_size", "strategy"} - {"dropout"}
# Options that methods may read besides the shared ones: how any network learns, and how its target
# rises.
TRAINING = frozenset(influences(Config())) - OF_SWITCHING - _SHARED - {*_SET_BY_CELLS}
COURSE = frozenset({"warmup", "settle", "ramp"})
# File systems allow names of at most 255 bytes.
_LONGEST_NAME = 150
# A comparison may be continued with more of these.
_MAY_GROW = ("methods", "sparsities", "seeds", "load")


@dataclasses.dataclass(frozen=True)
class Variant:
    """A method, perhaps with options of its own, as `--methods` names it.

    Args:
        method: The method's registered name.
        options: Options of `train.py` by name that differ from the comparison's.
    """

    method: str
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def parse(cls, text: str, reads: Set[str] | None = None) -> "Variant":
        """Read `name` or `name:option=value,option=value`.

        `config=FILE` stands for all options of switching in a configuration file, such as the
        `best.yaml` of a search, as far as the method reads them; options after it override them.

        Args:
            text: The text.
            reads: Options that affect the method; `None` for all.

        Raises:
            ConfigError: If an option is unknown or wrong, or would change nothing.
        """
        method, separator, listed = text.partition(":")
        options: dict[str, Any] = {}
        for part in filter(None, listed.split(",")) if separator else ():
            name, equals, value = part.partition("=")
            if not equals:
                raise ConfigError(
                    f"Expected options of a method as name:option=value. Received: {text}"
                )
            name = name.strip().replace("-", "_")
            if name == "config":
                found = _switching_of(Path(value))
                read = {n: v for n, v in found.items() if reads is None or n in reads}
                if not read:
                    raise ConfigError(
                        f"Expected a file with an option that {method} reads. Received: {text}, "
                        "whose options would change nothing"
                    )
                options.update(read)
                continue
            # A YAML list would need the commas that separate the options.
            many = isinstance(to_values(Config()).get(name), tuple)
            try:
                options[name] = (
                    tuple(map(yaml.safe_load, filter(_is_item, value.split("/"))))
                    if many
                    else yaml.safe_load(value)
                )
            except yaml.YAMLError:
                raise ConfigError(
                    f"Expected a value of {name}, in the method {text}. Received: {value}"
                ) from None
        if taken := [name for name in options if name in _SET_BY_CELLS]:
            raise ConfigError(
                f"Expected no {taken[0]} among the options of a method: the comparison sets it. "
                f"Received: {text}"
            )
        if shared := [name for name in options if name in _SHARED]:
            raise ConfigError(
                f"Expected no {shared[0]} among the options of a method: it is the same for all. "
                f"Give --{shared[0].replace('_', '-')} to the comparison. Received: {text}"
            )
        source = f"the method {text}"
        given = from_values(options, source)
        check_values(given, source)
        if idle := [name for name in options if name not in influences(Config())]:
            raise ConfigError(
                f"Expected options of a method that have an influence on its numbers. Received: "
                f"{text}, whose {idle[0]} has none"
            )
        if unread := [name for name in options if reads is not None and name not in reads]:
            raise ConfigError(
                f"Expected options that {method} reads: {', '.join(sorted(reads or ()))}. "
                f"Received: {text}, whose {unread[0]} would change nothing"
            )
        # However they were written, the same options give the same name.
        return cls(
            method, tuple((name, v) for name, v in to_values(given).items() if name in options)
        )

    def __str__(self) -> str:
        listed = ",".join(
            f"{name}={'/'.join(map(str, value)) if isinstance(value, tuple) else _plain(value)}"
            for name, value in self.options
        )
        return f"{self.method}:{listed}" if listed else self.method


def _is_item(text: str) -> bool:
    return text not in ("", "none")


def _switching_of(path: Path) -> dict[str, Any]:
    """Return the options of switching, by name, that a configuration file sets."""
    # The module that reads flags takes a while to load, and the process of a cell does without it.
    from keras_switcher.flags import read_yaml

    # The comparison has files of its own, and only options of switching are read.
    given = read_yaml(path, leave_out=("load",))
    names = OF_SWITCHING & {*given}
    values = to_values(from_values(given))
    return {name: values[name] for name in values if name in names and name not in _SET_BY_CELLS}


def digest(method: str) -> str:
    """Return a short name for a method with too many options to be named by them.

    Args:
        method: The method with its options, as text.
    """
    return hashlib.sha256(method.encode()).hexdigest()[:8]


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One network to train.

    Args:
        variant: The method.
        target_sparsity: The sparsity to reach; `None` for a method that aims at none.
        seed: The seed.
    """

    variant: Variant
    target_sparsity: float | None
    seed: int

    @property
    def name(self) -> str:
        """A name for its folder, the same in every comparison."""
        return cell_name(str(self.variant), self.target_sparsity, self.seed)

    def config(self, shared: Config) -> Config:
        """Return the training's configuration.

        Args:
            shared: The configuration that all cells share.
        """
        target = 0.0 if self.target_sparsity is None else self.target_sparsity
        cell = {"seed": self.seed, "target_sparsity": target, "dense_baseline": False}
        values, own = to_values(shared), dict(self.variant.options)
        if own.get("switcher", values["switcher"]) != values["switcher"]:
            from keras_switcher.flags import for_another_switcher

            # As in `train.py`.
            values.update(for_another_switcher(shared, own["switcher"]))
        return from_values({**values, **own, **cell})


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is compared.

    Args:
        config: The configuration that all trainings share.
        variants: The methods; all others are compared with the first.
        sparsities: The target sparsities.
        seeds: The seeds.
        facts: What else affects the results or what is kept, by name.
        aims: For each method's name, whether it aims at a sparsity, and whose results it needs.
    """

    config: Config
    variants: tuple[Variant, ...]
    sparsities: tuple[float, ...]
    seeds: tuple[int, ...]
    facts: Mapping[str, Any]
    aims: Mapping[str, tuple[bool, tuple[str, ...]]]

    @property
    def keeps_models(self) -> bool:
        """Whether the trained networks are kept."""
        return bool(self.facts.get("keep_models"))

    def cells(self) -> list[Cell]:
        """Return all cells, seed by seed, so that the results at any time can be compared.

        A cell comes after those whose results it needs, which are included even if they are not
        compared themselves.
        """
        found: dict[Cell, None] = {}

        def add(cell: Cell) -> None:
            for needed in self.needed(cell):
                add(needed)
            found.setdefault(cell)

        for seed in self.seeds:
            for sparsity in self.sparsities:
                for variant in self.variants:
                    add(self._cell(variant, sparsity, seed))
        return list(found)

    def _cell(self, variant: Variant, sparsity: float | None, seed: int) -> Cell:
        is_sparse, _ = self.aims[variant.method]
        return Cell(variant, sparsity if is_sparse else None, seed)

    def needed(self, cell: Cell) -> list[Cell]:
        """Return the cells whose results a cell reads.

        Args:
            cell: The cell.
        """
        _, needs = self.aims[cell.variant.method]
        return [self._cell(Variant(name), cell.target_sparsity, cell.seed) for name in needs]

    def content(self) -> dict[str, Any]:
        """Return the content of `compare.yaml`."""
        options = plain(influences(self.config))
        options = {name: value for name, value in options.items() if name not in _SET_BY_CELLS}
        return {
            "methods": [str(variant) for variant in self.variants],
            "sparsities": list(self.sparsities),
            "seeds": list(self.seeds),
            "load": list(self.config.run.load),
            "config": {**options, **self.facts},
        }

    def changes(self, earlier: Mapping[str, Any]) -> list[str]:
        """Return the differences from an earlier comparison, such as `epochs: 50 -> 30`.

        Args:
            earlier: The content of its `compare.yaml`.
        """
        return differences(earlier.get("config") or {}, self.content()["config"])

    def grown(self, earlier: Mapping[str, Any]) -> dict[str, Any]:
        """Return the new content of `compare.yaml`, which keeps what was compared before.

        Args:
            earlier: Its content so far.
        """
        own = self.content()
        for name in _MAY_GROW:
            own[name] = list(dict.fromkeys([*earlier.get(name, ()), *own[name]]))
        return own


def cell_name(method: str, target_sparsity: float | None, seed: int) -> str:
    """Return the name of a cell's folder.

    Args:
        method: The method with its options, as text.
        target_sparsity: As in `Cell`.
        seed: As in `Cell`.
    """
    short = re.sub(r"[^\w.-]+", "_", method)
    if len(short.encode()) > _LONGEST_NAME:
        start = short.encode()[: _LONGEST_NAME - 9].decode(errors="ignore")
        short = f"{start}-{digest(method)}"
    target = "" if target_sparsity is None else f"-{target_sparsity:.12g}"
    return f"{short}{target}-seed{seed}"


def cell_folder(folder: Path, cell: Cell) -> Path:
    """Return the folder of a cell.

    Args:
        folder: The folder of the comparison.
        cell: The cell.
    """
    return folder / CELLS / cell.name
