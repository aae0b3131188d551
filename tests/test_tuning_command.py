import subprocess
import sys

import pytest
import yaml
from command import SMALL, offline

from keras_switcher.checks import ConfigError
from keras_switcher.config import to_values, validate
from keras_switcher.files import RunError
from keras_switcher.flags import read_yaml
from keras_switcher.tuning.command import main, plan_of
from keras_switcher.tuning.folder import check_data, open_folder
from keras_switcher.tuning.plan import PLAN_FILE
from keras_switcher.tuning.spread import Place


def plan(*flags, out="search"):
    return plan_of(["--out", str(out), *SMALL, *map(str, flags)])[1]


def opened(of, folder, overwrite=False):
    with open_folder(of, folder, overwrite):
        pass


def test_help_and_mistakes_come_before_tensorflow(tmp_path):
    script = (
        "import sys; sys.orig_argv.append('keras_switcher.tuning');"
        "from keras_switcher.tuning.command import main;"
        f"status = main(['--out', {str(tmp_path)!r}, '--trials', '0']);"
        "sys.exit(10 * status + ('tensorflow' in sys.modules) + ('keras_tuner' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], env=offline(tmp_path))
    assert done.returncode == 20


def test_help_names_the_flags_of_both(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    written = " ".join(capsys.readouterr().out.split())
    assert left.value.code == 0
    assert "--trials" in written and "python train.py --help" in written


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--trials", "0"], "Expected --trials to be an integer >= 1. Received: 0"),
        (["--workers", "0"], "Expected --workers to be an integer >= 1"),
        (["--max-epochs", "0"], "Expected --max-epochs to be an integer >= 1"),
        (["--penalty", "-1"], "Expected --penalty to be a number >= 0. Received: -1.0"),
        (["--cost", "seconds"], "Expected --cost and --cost-weight together"),
        (["--cost-weight", "1"], "Expected --cost and --cost-weight together"),
        (["--resume"], "Expected no --resume: a search writes into --out"),
        (["--run-dir=x"], "Expected no --run-dir: a search writes into --out"),
        (["--strategy", "mirrored"], "Expected --strategy none"),
        (["--trails", "3"], "Unknown option --trails. Did you mean '--trials'?"),
        (["--cost_weight", "3"], "Unknown option --cost_weight. Did you mean '--cost-weight'?"),
        (["--no-stop-hopless"], "Unknown option --no-stop-hopless. Did you mean '--no-stop-"),
        (["--model", "lenet301"], "Did you mean 'lenet300'?"),
        (["--settle", "0.8"], "Expected the greatest warmup and settle of the search space"),
        (["--space", "none.yaml"], "Can't read the search space none.yaml"),
    ],
)
def test_a_mistake_is_told(flags, message, tmp_path, capsys):
    assert main(["--out", str(tmp_path / "out"), *flags]) == 2
    written = " ".join("".join(capsys.readouterr()).split())
    assert message in written and "Traceback" not in written
    assert not (tmp_path / "out").exists()


def test_an_option_that_is_given_is_not_searched():
    given = plan("--gate", "step", "--switcher-learning-rate=0.01", "--warmup", "0.2")
    assert not {"gate", "adam_learning_rate", "sgd_learning_rate", "warmup"} & set(
        given.space.ranges
    )
    # As is the one in SMALL.
    assert "task_steps" not in given.space.ranges
    assert {"settle", "switcher_steps"} <= set(given.space.ranges)
    assert given.config.optimisation.switcher_learning_rate == 0.01


def test_what_a_target_alone_needs_is_not_searched_without_one():
    assert {"ramp", "multiplier_rate"} <= set(plan("--target-sparsity", 0.9).space.ranges)
    assert not {"ramp", "multiplier_rate"} & set(plan("--target-sparsity", "none").space.ranges)


def test_a_trial_has_the_epochs_of_the_run_unless_told():
    assert plan().max_epochs == 2
    assert plan("--max-epochs", 9).max_epochs == 9
    assert plan("--max-epochs", 9).config.optimisation.epochs == 2


def test_an_option_outside_the_space_can_be_searched(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text("granularity: [connection, block4]\ngate: step\n")
    ranges = plan("--space", path).space.ranges
    assert ranges["granularity"].values == ("connection", "block4")
    assert ranges["gate"].is_fixed


def test_the_folder_tells_the_same_search_from_another(tmp_path):
    out = tmp_path / "search"
    opened(plan(), out)
    opened(plan("--trials", 99), out)
    for flags, difference in (
        (("--batch-size", 16), "config.batch_size: 32 -> 16"),
        (("--oracle", "random"), "oracle: hyperband -> random"),
        (("--gate", "step"), r"space.gate: \{'values': \['step', 'relu_tanh'\]\} -> none"),
        (("--penalty", 1), "penalty: 10.0 -> 1.0"),
        (("--seed", 1), "seed: 0 -> 1"),
    ):
        with pytest.raises(Exception, match=f"is another one: .*{difference}"):
            opened(plan(*flags), out)
    assert yaml.safe_load((out / PLAN_FILE).read_text())["trials"] == 99


def test_overwrite_removes_a_search_and_nothing_else(tmp_path):
    out = tmp_path / "search"
    opened(plan(), out)
    (out / "trials").mkdir()
    (out / "trials" / "oracle.json").write_text("{}")
    opened(plan("--seed", 1), out, overwrite=True)
    assert {path.name for path in out.iterdir()} == {PLAN_FILE, ".lock"}

    other = tmp_path / "thesis"
    other.mkdir()
    (other / "thesis.tex").write_text("five years")
    with pytest.raises(Exception, match="which holds something else"):
        opened(plan(), other, overwrite=True)
    assert (other / "thesis.tex").read_text() == "five years"


def test_a_kill_while_a_search_is_removed_leaves_no_part_of_its_trials(tmp_path, monkeypatch):
    opened(plan(), tmp_path)
    (tmp_path / "best.json").write_text("{}")
    for name in ("trial_0", "trial_1"):
        (tmp_path / "trials" / name).mkdir(parents=True)

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shutil.rmtree", lambda path, **_: path.exists() and killed())
        opened(plan(), tmp_path, overwrite=True)
    opened(plan(), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {PLAN_FILE, ".lock"}


def test_a_damaged_plan_is_told_and_can_be_overwritten(tmp_path):
    # As a kill leaves it when nothing else is there yet.
    (tmp_path / ".search.writing.yaml").write_text("model: len")
    opened(plan(), tmp_path)
    for damaged in ("", "model: [", "- 1"):
        (tmp_path / PLAN_FILE).write_text(damaged)
        with pytest.raises(RunError, match="Received: a damaged file"):
            opened(plan(), tmp_path)
    opened(plan(), tmp_path, overwrite=True)
    assert yaml.safe_load((tmp_path / PLAN_FILE).read_text())["model"] == "lenet300"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_second_search_in_the_same_folder_is_refused_and_removes_nothing(tmp_path, overwrite):
    with open_folder(plan(), tmp_path, overwrite=False):
        (tmp_path / "trials.csv").write_text("trial\n")
        with pytest.raises(Exception, match="Another search is under way"):
            opened(plan(), tmp_path, overwrite)
    assert (tmp_path / "trials.csv").exists()
    opened(plan(), tmp_path, overwrite)


def test_the_place_comes_from_the_variables_of_keras_tuner():
    cluster = {"KERASTUNER_ORACLE_IP": "10.0.0.1", "KERASTUNER_ORACLE_PORT": "8000"}
    assert Place.from_environment({}) == Place("tuner0")
    chief = Place.from_environment({**cluster, "KERASTUNER_TUNER_ID": "chief"})
    worker = Place.from_environment({**cluster, "KERASTUNER_TUNER_ID": "worker-3"})
    assert chief.is_chief and not chief.is_worker and chief.is_cluster
    assert worker.is_worker and not worker.is_chief and worker.name == "worker-3"
    with pytest.raises(ConfigError, match="KERASTUNER_ORACLE_PORT together, or none of them"):
        Place.from_environment(cluster)
    for name, value in (("PORT", "70000"), ("PORT", "0"), ("PORT", "a"), ("IP", "a" * 70)):
        wrong = {**cluster, "KERASTUNER_TUNER_ID": "chief", f"KERASTUNER_ORACLE_{name}": value}
        with pytest.raises(ConfigError, match=f"a number from 1 to 65535. Received: .*{value}"):
            Place.from_environment(wrong)


@pytest.mark.parametrize("name", ["chief", "tuner0"])
def test_a_process_of_a_cluster_starts_no_workers(name, tmp_path, monkeypatch, capsys):
    for part, value in (("TUNER_ID", name), ("ORACLE_IP", "10.0.0.1"), ("ORACLE_PORT", "8000")):
        monkeypatch.setenv(f"KERASTUNER_{part}", value)
    assert main(["--out", str(tmp_path / "out"), *SMALL, "--workers", "2"]) == 2
    assert "Expected no --workers with a chief" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_a_chief_that_has_served_outlives_the_word_that_no_worker_is_left(tmp_path):
    script = (
        "import os, signal, sys, time\n"
        "sys.orig_argv.append('keras_switcher.tuning')\n"
        "from keras_switcher.tuning.spread import NO_WORKER_LEFT, Place\n"
        "place = Place('chief', is_chief=True, launcher=os.getppid())\n"
        "place.take()\n"
        "os.kill(os.getpid(), NO_WORKER_LEFT)\n"
        "with place.serving():\n"
        "    os.kill(os.getpid(), NO_WORKER_LEFT)\n"
        "    time.sleep(60)\n"
        "    raise SystemExit('served on')\n"
        # Python resets any other handler before it has ended.
        "assert signal.getsignal(NO_WORKER_LEFT) is signal.SIG_IGN\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, env=offline(tmp_path), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_a_search_writes_as_the_best_is_a_configuration(tmp_path):
    from keras_switcher.config import to_yaml
    from keras_switcher.tuning.hypermodel import with_options

    best = with_options(
        plan().config,
        {"switcher": "connection", "switcher_hidden": (8, 4), "switcher_normalization": "none"},
    )
    path = tmp_path / "best.yaml"
    path.write_text(to_yaml(best))
    values = read_yaml(path)
    assert values["switcher_hidden"] == [8, 4]
    from keras_switcher.config import from_values

    assert to_values(validate(from_values(values))) == {**to_values(best), "run_dir": None}


def test_trials_on_other_data_than_the_first_are_refused(tmp_path):
    check_data(tmp_path, {"data": "tfds mnist 0123", "initial weights": "abc"})
    check_data(tmp_path, {"data": "tfds mnist 0123", "initial weights": "abc"})
    with pytest.raises(RunError, match=r"Expected the data of .*tfds mnist 0123.*mnist5k 4567"):
        check_data(tmp_path, {"data": "embedded mnist5k 4567", "initial weights": "abc"})
    with pytest.raises(RunError, match=r"Expected the initial weights of .*abc.*Received: abd"):
        check_data(tmp_path, {"data": "tfds mnist 0123", "initial weights": "abd"})
