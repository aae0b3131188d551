"""`python -m keras_switcher.compare`: what it trains, leaves, refuses, and survives."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
import yaml
from command import ROOT, SMALL, Process, offline
from rich.console import Console

from keras_switcher.callbacks import Diverged
from keras_switcher.checks import ConfigError
from keras_switcher.compare.arguments import checked_plan
from keras_switcher.compare.cell import _reason, train_cell
from keras_switcher.compare.command import _check_data, main
from keras_switcher.compare.pool import Pool
from keras_switcher.compare.provenance import commit, versions_of
from keras_switcher.files import RunError
from keras_switcher.peak_memory import forget_peak, peak_mib
from keras_switcher.signals import StopSignals

# A method of a user's own: quick, and it leaves a trace of each training.
OWN = """
import os
import pathlib
import time
from keras_switcher.compare import Method, Trained, register


@register("own")
class Own(Method):
    title = "a method of mine"
    needs = ("dense",)

    def train(self, work):
        with open(os.environ["TRACE"], "a") as trace:
            trace.write(work.folder.name + "\\n")
        while pathlib.Path(os.environ["TRACE"]).with_name("wait").exists():
            time.sleep(0.05)
            work.stop.check()
        if work.target_sparsity == 0.5:
            raise ArithmeticError("no such sparsity [/of 0.5]")
        layers = [{**row, "on": 1} for row in work.found["dense"]["layers"]]
        return Trained(0.5, 0.25 + work.config.optimisation.seed / 10, layers, 10_000, 3, 1.0)
"""


class Compare(Process):
    program = ("-m", "keras_switcher.compare")


@pytest.fixture
def compare(tmp_path):
    """Starts the command with a method of the test's own; returns the process."""
    (tmp_path / "own.py").write_text(OWN)

    def start(*flags, methods=("dense", "own"), sparsities=(0.9,), seeds=2):
        return Compare(
            *SMALL,
            *("--epochs", "1", "--load", "own.py", "--out", "out", "--seeds", str(seeds)),
            *("--methods", *methods, "--sparsity", *map(str, sparsities), *flags),
            cwd=tmp_path,
            TRACE=str(tmp_path / "trace"),
            PYTHONPATH=str(Path(__file__).parent.parent),
        )

    return start


def wait_for(happened):
    deadline = time.monotonic() + 180
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def trace(folder):
    path = folder / "trace"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.slow
def test_it_trains_each_cell_once_and_shows_what_they_come_to(
    compare, tmp_path, monkeypatch, capsys
):
    first = compare()
    assert first.wait() == 0, first.output
    assert "4 networks to train on" in first.output
    assert "0 of them are there already" in first.output
    assert "TensorFlow" not in first.output.splitlines()[0]
    assert "a method of mine" in first.output
    out = tmp_path / "out"
    with open(out / "results.csv") as file:
        rows = {(row["method"], row["seed"]): row for row in csv.DictReader(file)}
    assert len(rows) == 4
    assert rows["own", "1"]["test_accuracy"] == "0.35"
    assert rows["dense", "0"]["target_sparsity"] == ""
    assert float(rows["dense", "0"]["peak_mib"]) > 100
    results = json.loads((out / "results.json").read_text())
    (own,) = [group for group in results["groups"] if group["method"] == "own"]
    assert own["test_accuracy"]["mean"] == pytest.approx(0.3)
    dense = [float(rows["dense", seed]["test_accuracy"]) for seed in "01"]
    difference, by_validation = results["differences"]
    assert (difference["figure"], by_validation["figure"]) == (
        "test_accuracy",
        "validation_accuracy",
    )
    assert (difference["minus"], difference["target_sparsity"]) == ("own", 0.9)
    assert difference["mean"] == pytest.approx(sum(dense) / 2 - 0.3)
    assert (out / "pareto.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "report.html").read_text()
    assert "a method of mine" in page and "Not complete" not in page
    assert not list(out.glob("cells/*/checkpoints"))

    # Another sparsity, and less names: only what is missing is trained, and nothing is forgotten.
    again = compare(methods=("own",), sparsities=(0.9, 0.5))
    assert again.wait() == 1, again.output
    assert "4 of them are there already" in again.output
    assert "ArithmeticError: no such sparsity [/of 0.5]" in again.output
    assert "2 of 6 networks failed" in again.output
    cells = [f"own-{target}-seed{seed}" for target in (0.5, 0.9) for seed in range(2)]
    assert sorted(trace(tmp_path)) == cells
    with open(out / "results.csv") as file:
        assert len(list(csv.DictReader(file))) == 4
    assert yaml.safe_load((out / "compare.yaml").read_text())["methods"] == ["dense", "own"]
    assert "Not complete" in (out / "report.html").read_text()

    for name, value in offline(tmp_path).items():
        monkeypatch.setenv(name, value)
    flags = (*SMALL, "--epochs", "1", "--batch-size", "16", "--methods", "dense")
    assert main([*flags, "--out", str(out)]) == 2
    assert "is another one: batch_size: 32 -> 16" in " ".join(capsys.readouterr().err.split())


def test_the_peak_of_a_cell_is_not_that_of_what_started_it():
    large = b"x" * (400 << 20)
    code = "from keras_switcher.peak_memory import peak_mib; print(peak_mib())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT,
        # Without TensorFlow, which is as large.
        env={**os.environ, "KERAS_SWITCHER_FLAGS_FIRST": "1"},
    )
    assert 10 < float(done.stdout) < len(large) / 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="there is no way to elsewhere")
def test_a_peak_can_be_forgotten():
    large = b"x" * (300 << 20)
    before = peak_mib()
    del large
    forget_peak()
    assert peak_mib() < before - 250


def test_the_commit_of_a_checkout_is_known_and_whether_it_has_changes(tmp_path):
    def git(*command):
        identity = ("-c", "user.name=n", "-c", "user.email=e")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *command], check=True)

    assert commit(tmp_path) == ""
    git("init", "--quiet")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "--quiet", "--message", "first")
    clean = commit(tmp_path)
    assert re.fullmatch("[0-9a-f]{7,}", clean)
    (tmp_path / "file").write_text("two")
    assert commit(tmp_path) == f"{clean}-dirty"


def test_a_cell_that_goes_on_by_another_version_names_both(tmp_path, monkeypatch):
    names = iter(["one", "two", "two", "three"])
    monkeypatch.setattr("keras_switcher.compare.provenance.version", lambda: next(names))
    assert versions_of(tmp_path) == ["one"]
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "switched-00001.checkpoint").touch()
    assert versions_of(tmp_path) == versions_of(tmp_path) == ["one", "two"]
    (tmp_path / "checkpoints" / "switched-00001.checkpoint").unlink()
    # From the beginning.
    assert versions_of(tmp_path) == ["three"]


def test_a_cell_trains_on_the_data_of_the_comparison_or_not_at_all(tmp_path, monkeypatch):
    flags = [*SMALL, "--out", str(tmp_path / "out"), "--methods", "dense", "--seeds", "1"]
    _, plan = checked_plan(flags)
    with monkeypatch.context() as patch:
        patch.setattr(
            "keras_switcher.children.subprocess.Popen",
            lambda *a, **k: mock.Mock(poll=lambda: 1),
        )
        # As if these had been there when it began.
        Pool(plan, tmp_path / "out", "tfds mnist", 1, 1, lambda cell, reason: None).run()
    with pytest.raises(RunError, match="the data of the comparison: tfds mnist"):
        train_cell(tmp_path / "out" / "cells" / "dense-seed0", StopSignals(), Console(quiet=True))


def test_a_method_without_a_target_can_not_need_the_results_of_one_with(tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        OWN.replace('needs = ("dense",)', 'needs = ("switcher",)\n    is_sparse = False').replace(
            'register("own")', 'register("no-target")'
        )
    )
    flags = [*SMALL, "--out", str(tmp_path / "out"), "--load", str(own)]
    with pytest.raises(ConfigError, match=r"needs the results of 'switcher'.*'no-target'"):
        checked_plan([*flags, "--methods", "no-target"])


def test_the_dropout_of_a_file_is_no_option_of_a_method(tmp_path):
    (tmp_path / "net.keras").touch()
    flags = ["--dataset", "mnist5k", "--out", str(tmp_path / "out")]
    flags += ["--methods", "dense", "dense:dropout=0.5"]
    assert len(checked_plan(flags)[1].variants) == 2
    with pytest.raises(ConfigError, match=r"Expected no dropout.*dense:dropout=0.5"):
        checked_plan([*flags, "--init-from", str(tmp_path / "net.keras")])


def test_a_method_that_diverged_is_named(tmp_path):
    for method, advised in (
        ("l0", "--methods l0:learning_rate=0.00015,"),
        ("switcher:gate=step", "--methods switcher:gate=step,learning_rate=0.00015,"),
        ("dense:learning_rate=0.0003", "--methods dense:learning_rate=0.00015,"),
    ):
        order = {"cell": {"method": method}, "config": {"learning_rate": 0.0003}}
        (tmp_path / "cell.json").write_text(json.dumps(order))
        said = _reason(Diverged("The loss is nan in epoch 3."), tmp_path)
        assert "The loss is nan in epoch 3." in said and advised in said


def test_networks_are_kept_of_all_or_of_none():
    flags = [*SMALL, "--out", "out", "--methods", "dense"]
    plain, kept = (checked_plan([*flags, *more])[1] for more in ([], ["--keep-models"]))
    assert kept.changes(plain.content()) == ["keep_models: none -> True"]
    assert plain.changes(kept.content()) == ["keep_models: True -> none"]


def test_methods_that_no_one_named_are_left_out_where_the_network_is_none_for_them(tmp_path):
    flags = ["--dataset", "mnist5k", "--limit", "200", "--out", str(tmp_path / "out")]
    for more, gone in (
        (["--model", "resnet18", "--width", "0.05"], ["small-dense"]),
        (
            ["--model", "resnet18", "--width", "0.05", "--ablations", "granularity"],
            ["switcher:granularity=unit"],
        ),
        (["--model", "lenet300"], []),
    ):
        options, plan = checked_plan([*flags, *more])
        _, kept, reasons = _check_data(plan, options.out, options.methods_named)
        assert [str(v) for v in plan.variants if v not in kept.variants] == gone
        assert [reason.split(". ")[0] for reason in reasons] == [f"Without {name}" for name in gone]


def test_the_layers_offsets_that_magnitudes_have_learn_by_options_of_the_switcher(tmp_path):
    name = "magnitude-switcher:switcher_learning_rate=0.003"
    _, plan = checked_plan([*SMALL, "--out", str(tmp_path / "out"), "--methods", name])
    assert [str(variant) for variant in plan.variants] == [name]


def test_a_cell_that_began_by_other_code_begins_anew(tmp_path, monkeypatch):
    own = tmp_path / "own.py"
    own.write_text(OWN)
    flags = [*SMALL, "--out", str(tmp_path / "out"), "--methods", "dense", "--load", str(own)]
    monkeypatch.setattr(
        "keras_switcher.children.subprocess.Popen", lambda *a, **k: mock.Mock(poll=lambda: 1)
    )
    cell = tmp_path / "out" / "cells" / "dense-seed0"
    checkpoints = cell / "checkpoints"

    def start():
        _, plan = checked_plan([*flags, "--seeds", "1"])
        Pool(plan, tmp_path / "out", "made", 1, 1, lambda cell, reason: None).run()

    start()
    checkpoints.mkdir()
    (cell / "tensorboard").mkdir()
    start()
    assert checkpoints.exists() and (cell / "tensorboard").exists()
    # Another file registers other methods.
    (tmp_path / "more.py").write_text("")
    flags.append(str(tmp_path / "more.py"))
    start()
    assert checkpoints.exists()
    own.write_text(OWN.replace("0.25", "0.26"))
    start()
    assert not checkpoints.exists() and not (cell / "tensorboard").exists()


@pytest.mark.slow
@pytest.mark.endurance
def test_a_comparison_that_was_killed_goes_on_and_its_cells_have_ended(compare, tmp_path):
    (tmp_path / "wait").touch()
    first = compare("--first-seed", "3", seeds=1)
    wait_for(lambda: trace(tmp_path))
    first.kill()
    cells = tmp_path / "out" / "cells"
    assert (cells / "dense-seed3" / "result.json").exists()
    dense = (cells / "dense-seed3" / "result.json").read_text()

    stopped = compare("--first-seed", "3", seeds=1)
    wait_for(lambda: len(trace(tmp_path)) == 2)
    assert stopped.send(signal.SIGTERM) == 143
    assert "Nothing is lost: go on with the same command." in stopped.output

    (tmp_path / "wait").unlink()
    last = compare("--first-seed", "3", seeds=1)
    assert last.wait() == 0, last.output
    assert "1 of them are there already" in last.output
    assert (cells / "dense-seed3" / "result.json").read_text() == dense
    # Once in each of the three.
    assert trace(tmp_path) == ["own-0.9-seed3"] * 3


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--sparsity", "95"], "Expected --sparsity to be shares in [0, 1). Received: 95.0"),
        (["--seeds", "0"], "Expected --seeds to be an integer >= 1"),
        (["--first-seed", "-1"], "to be integers in [0, 2**31). Received: -1"),
        (["--first-seed", "2147483646", "--seeds", "3"], "to be integers in [0, 2**31)"),
        (["--methods", "tfmott"], "Did you mean 'tfmot'"),
        (["--methods", "switcher:gate=x"], "Unknown gate 'x'"),
        (["--methods", "switcher:settle=0.95"], "Expected --warmup and --settle to leave time"),
        (["--methods", "switcher:gate=["], "Expected a value of gate"),
        (["--methods", "magnitude-global:granularity=block4"], "granularity would change nothing"),
        (["--methods", "l0:multiplier_rate=0.5"], "Expected options that l0 reads: deterministic,"),
        (["--methods", "free:switcher_hidden=16"], "whose switcher_hidden would change nothing"),
        (["--methods", "switcher:verbose=true"], "whose verbose has none"),
        (
            ["--switcher", "orthogonal", "--methods", "switcher", "switcher:switcher_hidden=16"],
            "Add switcher=unit, for one that has. Received: switcher:switcher_hidden=16",
        ),
        (["--seedz", "3"], "Unknown option --seedz. Did you mean '--seeds'?"),
        (["--batchsize=3"], "Did you mean '--batch-size'? For all of them, run python -m keras_"),
        (["--no-dense-baseline"], "Expected no --no-dense-baseline: the method `dense` is one"),
        (
            ["--model", "resnet18", "--width", "0.05", "--granularity", "unit"],
            "Can't compare switcher. ",
        ),
        (
            [*("--model", "resnet18", "--width", "0.05", "--granularity", "unit")]
            + ["--methods", "dense", "tfmot-layerwise"],
            "Can't compare tfmot-layerwise. ",
        ),
        (
            ["--model", "resnet18", "--width", "0.05", "--methods", "switcher", "small-dense"],
            "Can't compare small-dense. A small dense network needs a dense hidden layer",
        ),
        (["--ablations", "gates"], "Did you mean 'gate'"),
        (["--ablations", "--methods", "switcher"], "Expected --methods or --ablations"),
        (["--target-sparsity", "0.9"], "--sparsity lists them"),
        (["--run-dir", "x"], "a comparison writes into --out"),
        (["--seed", "3"], "--seeds says how many there are"),
        (["--strategy", "mirrored"], "Expected --strategy none"),
        (
            ["--init-from", "no.keras", "--width", "1"],
            "Expected --init-from to be a .keras file",
        ),
        (["--load", "nothing.py"], "Expected --load to be Python files"),
        (["--sparsities", "0.9"], "Did you mean '--sparsity'"),
        (["--epochs", "0"], "Expected --epochs"),
    ],
)
def test_wrong_flags_are_refused_and_leave_nothing(flags, said, tmp_path, monkeypatch, capsys):
    for name, value in offline(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    assert main([*SMALL, "--out", "out", *flags]) == 2
    assert said in " ".join("".join(capsys.readouterr()).split())
    assert os.listdir(tmp_path) == []


def test_a_folder_of_something_else_is_left_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("mine")
    assert main([*SMALL, "--out", "out"]) == 2
    assert "which holds something else" in " ".join("".join(capsys.readouterr()).split())
    assert os.listdir(tmp_path / "out") == ["letter.txt"]
