"""Every command that README, docs and `make bench` have is understood by what it calls."""

import argparse
import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tyro
from fenced import blocks

from export.options import BenchmarkOptions, ExportOptions, ServeOptions
from keras_switcher import launch
from keras_switcher.compare.arguments import checked_plan
from keras_switcher.config import from_values, to_values, validate
from keras_switcher.data import DATASETS
from keras_switcher.flags import resolve
from keras_switcher.models import MODELS
from keras_switcher.tuning.command import plan_of

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Of the shell; what scripts start on a cluster is tested with the pages on that.
SHELL = ("#", "export ", "srun ", "exec ", "python3 -m venv ", ". ")


def shown() -> Iterator[str]:
    for path in PAGES:
        code = "\n".join(blocks(path.read_text(encoding="utf-8"), "sh"))
        for line in code.replace("\\\n", " ").splitlines():
            command = re.sub(r"\s+#.*", "", line).strip().removeprefix(".venv/bin/")
            if command and not command.startswith(SHELL):
                yield " ".join(command.split())
    for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines():
        if line.startswith("\t$(BIN)/python benchmarks/"):
            yield line.removeprefix("\t$(BIN)/")


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """What the commands read: two configurations that differ, a network, files of one's own."""
    monkeypatch.chdir(tmp_path)
    commands = "\n".join(shown())
    for index, name in enumerate(dict.fromkeys(re.findall(r"[\w./-]+\.yaml", commands))):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(f"task_steps: {index + 1}\n")
    for name in set(re.findall(r"[\w./-]+\.keras", commands)):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    (one_shot,) = blocks((ROOT / "docs" / "compare.md").read_text(encoding="utf-8"), "python")
    Path("one_shot.py").write_text(one_shot)
    for code in blocks((ROOT / "docs" / "networks.md").read_text(encoding="utf-8"), "python"):
        if named := re.match(r"# (\w+\.py)\n", code):
            Path(named[1]).write_text(code)
    for registry in (DATASETS, MODELS):
        monkeypatch.setattr(registry, "_items", {**registry._items})


def make(words: list[str]) -> None:
    target, *variables = words
    rules = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{re.escape(target)}:", rules, re.MULTILINE)
    for variable in variables:
        name, _, value = variable.partition("=")
        assert (target, name) == ("train", "ARGS")
        training(shlex.split(value))


def training(flags: list[str]) -> None:
    config = resolve(flags)
    for name, value in (
        ("--model", config.network.model),
        ("--dataset", config.data.dataset),
    ):
        if name in flags:
            assert flags[flags.index(name) + 1] == value


def comparison(flags: list[str]) -> None:
    options, plan = checked_plan(flags)
    assert options.out.parent == Path("comparisons")
    assert len(plan.cells()) >= len(plan.variants)


def search(flags: list[str]) -> None:
    options, plan = plan_of(flags)
    assert plan.trials == int(flags[flags.index("--trials") + 1])
    assert options.out.parent == Path("searches")


def launched(flags: list[str]) -> None:
    own, rest = launch._split(flags)
    assert own
    training([flag for flag in rest if flag != "train.py"])


def exported(flags: list[str]) -> None:
    kinds = {"benchmark": BenchmarkOptions, "serve": ServeOptions}
    kind = kinds.get(flags[0], ExportOptions)
    tyro.cli(kind, args=flags[1:] if flags[0] in kinds else flags)


class Parsed(Exception):
    """The flags of a benchmark are right."""


def benchmark(script: str, flags: list[str], monkeypatch) -> None:
    """Go as far into a benchmark as to its flags."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = importlib.import_module(Path(script).stem)
    if "--json" in flags:
        # A checkout has this folder, or `make bench` makes it.
        Path(flags[flags.index("--json") + 1]).parent.mkdir(parents=True, exist_ok=True)
    parser = argparse.ArgumentParser
    known, parse = parser.parse_known_args, parser.parse_args
    with monkeypatch.context() as patch, pytest.raises(Parsed) as found:
        patch.setattr(sys, "argv", [script, *flags])

        def parse_all(self):
            patch.setattr(parser, "parse_known_args", known)
            raise Parsed(parse(self), [])

        def parse_some(self):
            patch.setattr(parser, "parse_known_args", known)
            raise Parsed(*known(self))

        patch.setattr(parser, "parse_args", parse_all)
        patch.setattr(parser, "parse_known_args", parse_some)
        module.main()
    options, others = found.value.args
    for chosen in module.combinations(options.vary) if "vary" in options else [{}]:
        # What a benchmark does not know goes to `train.py`.
        shared = to_values(resolve([*others, *(f"--{k}={v}" for k, v in chosen.items())]))
        validate(from_values({**shared, **chosen}))


@pytest.mark.parametrize("command", list(dict.fromkeys(shown())))
def test_commands_are_understood(command, monkeypatch):
    program, *words = shlex.split(command)
    if "--help" in words:
        words.remove("--help")
        assert words in (["train.py"], ["-m", "export"])
    elif program == "make":
        make(words)
    elif program == "benchmarks/arm_check.sh":
        assert (ROOT / program).stat().st_mode & 0o100
    elif program == "pip":
        assert words == ["install", "path/to/this/checkout"]
    elif program == "keras-switcher-launch":
        launched(words)
    elif program == "keras-switcher-export":
        exported(words)
    else:
        assert program == "python"
        if words[0].startswith("benchmarks/"):
            benchmark(words[0], words[1:], monkeypatch)
        elif words[0] == "train.py":
            training(words[1:])
        else:
            programs = {
                "keras_switcher.compare": comparison,
                "keras_switcher.tuning": search,
                "keras_switcher.launch": launched,
                "export": exported,
            }
            assert words[0] == "-m"
            programs[words[1]](words[2:])
