import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command import ROOT, TRAIN

from keras_switcher import ConnectionSwitcher, flags
from keras_switcher.checks import ConfigError
from keras_switcher.config import Config, from_values, to_values, to_yaml
from keras_switcher.flags import RECIPES, read_yaml, recipe, resolve


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def recipes(tmp_path, monkeypatch):
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "lenet300_mnist5k.yaml").write_text("epochs: 11\nbatch_size: 12\nseed: 13\n")
    monkeypatch.setattr(flags, "RECIPES", folder)


def options(*arguments):
    return to_values(resolve(arguments))


def test_without_flags_the_defaults_and_the_recipe_hold():
    assert options() == {**to_values(Config()), **recipe("lenet", "mnist")}


def test_flags_outdo_file_outdoes_recipe_outdoes_defaults(recipes, tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("model: lenet300\ndataset: mnist5k\nbatch-size: 22\nseed: 23\n")

    got = options("--seed", "33", "--config", str(file))

    default = to_values(Config())
    assert got["learning_rate"] == default["learning_rate"]
    assert (got["epochs"], got["batch_size"], got["seed"]) == (11, 22, 33)
    assert got["model"] == "lenet300"
    # A flag names another model than the file, so that there is no recipe.
    got = options("--config", str(file), "--model", "lenet")
    assert (got["model"], got["epochs"], got["batch_size"]) == ("lenet", default["epochs"], 22)


def test_switcher_of_the_recipe_is_for_its_kind_and_its_network_alone(recipes):
    (flags.RECIPES / "lenet300_mnist.yaml").write_text(
        "epochs: 3\nswitcher_hidden: []\nswitcher_learning_rate: 0.5\n"
    )
    run = ["--model", "lenet300", "--dataset", "mnist"]
    names = ("epochs", "switcher_hidden", "switcher_learning_rate")
    default = to_values(Config())
    defaults = [3, default["switcher_hidden"], default["switcher_learning_rate"]]
    Path("mine.keras").touch()

    for more, expected in (
        ([], [3, (), 0.5]),
        (["--switcher", "unit"], [3, (), 0.5]),
        (["--switcher", "connection"], [3, ConnectionSwitcher().hidden, defaults[2]]),
        (["--switcher", "free"], defaults),
        (["--init-from", "mine.keras"], defaults),
        (["--switcher", "connection", "--switcher-hidden", "8"], [3, (8,), defaults[2]]),
    ):
        got = options(*run, *more)
        assert [got[name] for name in names] == expected, more


def test_switcher_that_is_another_kind_by_the_recipe_keeps_its_options(recipes):
    (flags.RECIPES / "lenet300_mnist.yaml").write_text(
        "switcher: orthogonal\nswitcher_learning_rate: 0.5\n"
    )
    run = ["--model", "lenet300", "--dataset", "mnist"]
    rate = to_values(Config())["switcher_learning_rate"]
    Path("mine.keras").touch()
    Path("unit.yaml").write_text("switcher: unit\n")

    for more, expected in (
        ([], ["orthogonal", 0.5]),
        (["--switcher", "orthogonal"], ["orthogonal", 0.5]),
        (["--switcher-learning-rate", "0.1"], ["orthogonal", 0.1]),
        (["--switcher", "unit"], ["unit", rate]),
        (["--config", "unit.yaml"], ["unit", rate]),
        (["--config", "unit.yaml", "--switcher", "orthogonal"], ["orthogonal", 0.5]),
        (["--init-from", "mine.keras"], ["unit", rate]),
        (["--init-from", "mine.keras", "--switcher", "orthogonal"], ["orthogonal", rate]),
    ):
        got = options(*run, *more)
        assert [got[n] for n in ("switcher", "switcher_learning_rate")] == expected, more


@pytest.mark.parametrize("flag", [["--switcher-hidden", "8"], ["--switcher_hidden=8"]])
def test_hidden_layers_need_a_switcher_that_has_some(recipes, flag):
    (flags.RECIPES / "lenet300_mnist.yaml").write_text("switcher: orthogonal\n")
    run = ["--model", "lenet300", "--dataset", "mnist", *flag]
    with pytest.raises(ConfigError, match="'orthogonal' has no hidden.* Add --switcher unit for"):
        options(*run)
    with pytest.raises(ConfigError, match="'free' has no hidden layers"):
        options(*run, "--switcher", "free")
    assert options(*run, "--switcher", "unit")["switcher_hidden"] == (8,)
    # Several trainings may have several switchers.
    assert resolve(run, is_shared=True).switching.switcher_hidden == (8,)


def test_hidden_layers_of_a_file_need_a_switcher_that_has_some(recipes):
    (flags.RECIPES / "lenet300_mnist.yaml").write_text("switcher: orthogonal\n")
    Path("widths.yaml").write_text("switcher_hidden: [16]\n")
    run = ["--model", "lenet300", "--dataset", "mnist", "--config", "widths.yaml"]
    with pytest.raises(ConfigError, match=r"Expected no switcher_hidden: .* Received: \[16\]"):
        options(*run)
    assert options(*run, "--switcher", "unit")["switcher_hidden"] == (16,)
    # As the configuration of a run, which has all options.
    Path("widths.yaml").write_text("switcher: orthogonal\nswitcher_hidden: [64]\n")
    assert options(*run)["switcher"] == "orthogonal"


def test_the_dropout_of_a_file_is_not_that_of_the_recipe(recipes, caplog):
    caplog.set_level("INFO")
    (flags.RECIPES / "lenet300_mnist.yaml").write_text("epochs: 3\ndropout: 0.5\n")
    Path("mine.keras").touch()
    run = ["--model", "lenet300", "--dataset", "mnist"]
    assert options(*run)["dropout"] == 0.5
    own = options(*run, "--init-from", "mine.keras")
    assert (own["epochs"], own["dropout"]) == (3, to_values(Config())["dropout"])
    with pytest.raises(ConfigError, match="Expected no --dropout with --init-from"):
        options(*run, "--init-from", "mine.keras", "--dropout", "0.3")
    # Those of a run whose network the other one is not.
    Path("run.yaml").write_text("dropout: 0.5\nwidth: 0.25\nfc_units: 64\nepochs: 4\n")
    own = options("--config", "run.yaml", "--init-from", "mine.keras")
    names = ("epochs", "dropout", "width", "fc_units")
    assert [own[n] for n in names] == [4, *(to_values(Config())[n] for n in names[1:])]
    assert "--init-from: width, dropout, fc_units of the config file not used" in caplog.text
    caplog.clear()
    Path("run.yaml").write_text("width: 1.0\nfc_units: null\nepochs: 4\n")
    options("--config", "run.yaml", "--init-from", "mine.keras")
    assert "not used" not in caplog.text


def test_flag_with_the_value_of_the_default_outdoes_a_file(tmp_path):
    (tmp_path / "my.yaml").write_text("target_sparsity: none\njit: true\nseed: 4\n")
    config = ["--config", "my.yaml"]

    got = options(*config, "--target-sparsity", "0.95", "--no-jit", "--seed", "0")
    assert (got["target_sparsity"], got["jit"], got["seed"]) == (0.95, False, 0)
    got = options(*config, "--no-deterministic")
    assert (got["target_sparsity"], got["jit"], got["deterministic"]) == (None, True, False)


def test_flag_may_mend_what_does_not_go_together_in_a_file(tmp_path):
    (tmp_path / "my.yaml").write_text("warmup: 0.7\n")

    with pytest.raises(ConfigError, match=r"Received: 0\.7 \+ 0\.4"):
        resolve(["--config", "my.yaml"])
    assert options("--config", "my.yaml", "--settle", "0.2")["warmup"] == 0.7


@pytest.mark.parametrize("none", ["none", "None"])
def test_none_on_the_command_line(none):
    got = options("--target-sparsity", none, "--limit", none, "--data-dir", none)

    assert (got["target_sparsity"], got["limit"], got["data_dir"]) == (None, None, None)


def test_short_and_familiar_flags():
    got = options(
        "-b", "7", "--lr", "1e-4", "--target_sparsity", "0.5", "--switcher-hidden", "8", "4"
    )

    assert (got["batch_size"], got["learning_rate"], got["target_sparsity"]) == (7, 1e-4, 0.5)
    assert got["switcher_hidden"] == (8, 4)


def test_home_folder_is_understood(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))

    assert options("--run-dir=~/r")["run_dir"] == str(tmp_path / "r")
    (tmp_path / "my.yaml").write_text("run_dir: ~/r\ndata_dir: none\n")
    read = options("--config", "my.yaml")
    assert (read["run_dir"], read["data_dir"]) == (str(tmp_path / "r"), None)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipe_is_right_and_named_for_a_model_and_a_data_set(path):
    model, _, dataset = path.stem.rpartition("_")

    got = options("--model", model, "--dataset", dataset)

    assert {name: got[name] for name in read_yaml(path)} == to_values_of(path)
    assert (got["model"], got["dataset"]) == (model, dataset)


def to_values_of(path):
    values = read_yaml(path)
    return {name: to_values(from_values(values))[name] for name in values}


def test_missing_recipe_is_logged_with_those_that_exist(recipes, caplog):
    with caplog.at_level("INFO", logger="keras_switcher"):
        assert recipe("lenet", "mnist") == {}
        assert recipe("lenet300", "mnist") == {}

    first, second = caplog.messages
    assert first == "No recipe for lenet on mnist: training with the defaults."
    assert second.endswith(f"give its file by --config: lenet300_mnist5k.yaml in {flags.RECIPES}.")


def test_unknown_model_and_data_set_have_no_recipe():
    with pytest.raises(ConfigError, match="Unknown model 'x'"):
        recipe("x", "mnist")
    with pytest.raises(ConfigError, match="Unknown data set 'x'"):
        recipe("lenet", "x")


def save(folder, **values):
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(from_values(values)))
    return folder


def test_saved_configuration_serves_as_config(tmp_path):
    values = {"model": "lenet300", "epochs": 3, "target_sparsity": None, "switcher_hidden": (8, 4)}
    saved = save(tmp_path / "r", **values) / "config.yaml"

    assert options("--config", str(saved)) == {
        **to_values(from_values(values)),
        "config": str(saved),
    }


def test_resume_takes_the_configuration_of_the_run(tmp_path):
    save(tmp_path / "r", model="lenet300", epochs=3)

    got = options("--run-dir", "r", "--resume")
    assert (got["model"], got["epochs"], got["run_dir"]) == ("lenet300", 3, "r")
    # Flags are taken all the same: that they differ is for the run to refuse.
    assert options("--run-dir", "r", "--resume", "--epochs", "9")["epochs"] == 9
    assert options("--epochs", "9", "--resume", "--run-dir", "r")["epochs"] == 9
    # Without --resume the folder means nothing.
    assert options("--run-dir", "r")["model"] == "lenet"


def test_resume_without_a_folder_takes_the_newest_run(tmp_path):
    runs = tmp_path / "runs"
    names = ["lenet300-mnist-2", "lenet-mnist-10", "lenet-mnist-9", "lenet-mnist5k-1"]
    for age, name in enumerate(names):
        model, dataset, _ = name.split("-")
        folder = save(runs / name, model=model, dataset=dataset, epochs=age + 2)
        os.utime(folder / "config.yaml", (1e9 - age, 1e9 - age))
    (runs / "lenet-mnist-99").mkdir()
    (runs / "broken").mkdir()
    (runs / "broken" / "config.yaml").write_text("a: [1")
    os.utime(runs / "broken" / "config.yaml", (1e8, 1e8))

    def newest(*arguments):
        got = options("--resume", *arguments)
        return os.path.basename(got["run_dir"]), got["model"], got["epochs"]

    assert newest() == ("lenet300-mnist-2", "lenet300", 2)
    assert newest("--model", "lenet") == ("lenet-mnist-10", "lenet", 3)
    assert newest("--dataset", "mnist5k") == ("lenet-mnist5k-1", "lenet", 5)
    assert newest("--model", "lenet", "--dataset", "mnist5k")[0] == "lenet-mnist5k-1"
    # A folder of a name of one's own is a run, too.
    save(runs / "mine", model="lenet", dataset="mnist", epochs=9)
    assert newest() == newest("--model", "lenet") == ("mine", "lenet", 9)
    assert newest("--dataset", "mnist5k")[0] == "lenet-mnist5k-1"


def test_resume_without_any_run_starts_one():
    got = options("--resume", "--model", "lenet300")

    assert (got["run_dir"], got["model"], got["resume"]) == (None, "lenet300", True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "is not YAML"),
        (b"\xff\xfe\x00\x01", "not a text file"),
        (b"\x00\x01\x02", "is not YAML"),
        (b"epochs", "Received: a str"),
        (b"- epochs: 3", "Received: a list"),
        (b"epoch: 3", "Unknown option 'epoch' in my.yaml. Did you mean 'epochs'?"),
        (b"network:\n  model: lenet", "Unknown option 'network' in my.yaml"),
        (b"1: 2", "Unknown option '1' in my.yaml"),
        (b"epochs: many", "Expected epochs in my.yaml to be an integer >= 1. Received: many"),
        (b"model: lenet30", "my.yaml: Unknown model 'lenet30'. Did you mean 'lenet300'?"),
        (b"!!python/object/apply:os.system ['true']", "is not YAML"),
    ],
)
def test_wrong_config_file(tmp_path, content, message):
    (tmp_path / "my.yaml").write_bytes(content)

    with pytest.raises(ConfigError) as error:
        resolve(["--config", "my.yaml"])

    assert message in str(error.value)
    assert "my.yaml" in str(error.value)


def test_config_file_that_can_not_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: No such file"):
        resolve(["--config", "nowhere.yaml"])
    with pytest.raises(ConfigError, match="Is a directory"):
        resolve(["--config", str(tmp_path)])


def test_empty_config_file_changes_nothing(tmp_path):
    (tmp_path / "my.yaml").write_text("# nothing\n")

    assert dataclasses.replace(resolve(["--config", "my.yaml"]), run=Config().run) == resolve([])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--modle", "lenet"], "--model"),
        (["--target-sparcity", "0.9"], "--target-sparsity"),
        (["--batchsize", "3"], "--batch-size"),
        (["--epochs", "abc"], "'abc'"),
        (["--limit", "many"], "'many'"),
        (["--epochs"], "--epochs"),
        (["--resume", "yes"], "yes"),
    ],
)
def test_mistyped_flag_exits_with_2_and_says_what_is_right(arguments, message, capsys):
    with pytest.raises(SystemExit) as left:
        resolve(arguments)

    assert left.value.code == 2
    assert message in capsys.readouterr().err


def test_help_in_groups_without_tensorflow():
    script = (
        "import runpy, sys\n"
        f"sys.argv = [{str(TRAIN)!r}, *sys.argv[1:]]\n"
        "try:\n"
        f"    runpy.run_path({str(TRAIN)!r}, run_name='__main__')\n"
        "except SystemExit as left:\n"
        "    print('status', left.code or 0)\n"
        "print('loaded', sorted({'tensorflow', 'keras'} & set(sys.modules)))\n"
    )

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            cwd=ROOT,
            env={**os.environ, "COLUMNS": "100"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert "loaded []" in done.stdout
        return done

    shown = run("--help").stdout
    assert "status 0" in shown
    groups = ("network", "data", "switching", "alternation", "optimisation", "execution", "run")
    places = [shown.index(f" {group} options ") for group in groups]
    assert places == sorted(places)
    for name in to_values(Config()):
        assert f"--{name.replace('_', '-')}" in shown
    # With a model and a data set, the defaults are those of their recipe.
    epochs = recipe("lenet300", "mnist5k")["epochs"]
    assert f"Passes over the training examples. (default: {epochs})" in " ".join(
        run("--help", "--model", "lenet300", "--dataset", "mnist5k").stdout.split()
    )
    wrong = run("--model", "lenet30")
    assert "status 2" in wrong.stdout
    assert "Did you mean 'lenet300'?" in wrong.stderr
