"""Python files of a user's own, as --load names them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from export.options import ExportOptions
from keras_switcher import own_code
from keras_switcher.augmentation import registry
from keras_switcher.checks import ConfigError
from keras_switcher.compare.plan import Variant
from keras_switcher.config import (
    Config,
    Run,
    check_values,
    from_values,
    to_values,
    to_yaml,
    validate,
)
from keras_switcher.flags import resolve
from keras_switcher.own_code import run_files

ROOT = Path(__file__).parent.parent


@pytest.fixture
def file(tmp_path, monkeypatch):
    """Writes a file of a user's own; what it imports or appends to the path is undone."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)

    def write(name, text):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    yield write
    own_code._done.clear()
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) in map(str, tmp_path.glob("*.py")):
            del sys.modules[name]


def test_a_file_is_run_once_and_can_be_imported_with_its_neighbours(file):
    file("beside.py", "NAME = 'seen'")
    path = file("own_of_mine.py", "from beside import NAME\nimport beside\nbeside.NAME += '!'\n")
    for given in (path, path, os.path.join(os.path.dirname(path), ".", "own_of_mine.py")):
        run_files([given])
    import own_of_mine

    assert own_of_mine.NAME == "seen"
    assert sys.modules["beside"].NAME == "seen!"


def test_a_module_that_a_script_has_imported_is_not_run_again(file, monkeypatch):
    path = file("imported.py", "import sys\nsys.path.append('once')\n")
    monkeypatch.syspath_prepend(os.path.dirname(path))
    import imported  # noqa: F401

    run_files([path])
    assert sys.path.count("once") == 1


@pytest.mark.parametrize("name", ["json.py", "wave.py", "keras.py", "my file.v2.py"])
def test_a_file_takes_the_place_of_no_other_module(file, name):
    had = sys.modules.get(name[:-3])
    run_files([file(name, "import sys\nsys.own = __name__\n")])
    if name != "my file.v2.py":
        assert sys.own == name[:-3] + "_"
        assert sys.modules.get(name[:-3]) is had
    assert sys.modules[sys.own].__file__.endswith(name)


def test_two_files_of_one_name_are_both_run(file, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "twins.py").write_text("import sys\nsys.path.append('second')\n")
    run_files([file("twins.py", ""), str(tmp_path / "other" / "twins.py")])
    assert "second" in sys.path


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("fails.py", "1 / 0", r"Can't run .*fails.py, .*--load: ZeroDivisionError: division"),
        ("wrong.py", "def", r"Can't run .*wrong.py, .*: SyntaxError"),
        ("text.txt", "import keras", r"Can't run .*text.txt, .*: ImportError: not a .py file"),
    ],
)
def test_a_file_that_can_not_be_run_is_told_and_leaves_no_module(file, name, text, said):
    path = file(name, text)
    for _ in range(2):
        with pytest.raises(ConfigError, match=said):
            run_files([path])
    assert Path(name).stem not in sys.modules


def test_no_file_is_told(tmp_path):
    for missing in (tmp_path / "no.py", tmp_path):
        with pytest.raises(ConfigError, match="Expected --load to be Python files. Received: /"):
            run_files([str(missing)])


def test_a_file_that_ends_the_process_is_told(file):
    with pytest.raises(ConfigError, match=r"ends.py, .*: it ends the process. Put that under `if"):
        run_files([file("ends.py", "import sys\nsys.exit()\n")])


def test_what_has_been_run_is_not_looked_for_again(file, monkeypatch):
    path = file("once_only.py", "")
    run_files([path])
    monkeypatch.setattr(own_code, "_files_of_modules", lambda: pytest.fail("looked for again"))
    run_files([path])


def test_files_of_flags_replace_those_of_a_configuration_that_were_moved(file, tmp_path):
    config = tmp_path / "moved.yaml"
    config.write_text("load: /nowhere/one.py\ngate: step\n")
    with pytest.raises(ConfigError, match=r"moved\.yaml: Expected --load .*Received: /nowhere/one"):
        resolve(["--config", str(config)])
    path = file("here.py", "")
    assert resolve(["--config", str(config), "--load", path]).run.load == (path,)
    with pytest.raises(ConfigError, match="Expected --load to be Python files. Received: none"):
        resolve(["--load"])
    # A run's own, too.
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("load: [/nowhere/one.py]\nepochs: 3\n")
    config = resolve(["--run-dir", str(run), "--resume", "--load", path])
    assert (config.run.load, config.optimisation.epochs) == ((path,), 3)
    # The comparison reads only options of switching, and has files of its own.
    (tmp_path / "best.yaml").write_text("load: [/nowhere/one.py]\ngate: relu_tanh\n")
    variant = Variant.parse(f"switcher:config={tmp_path / 'best.yaml'}")
    assert dict(variant.options) == {"gate": "relu_tanh"}


@pytest.mark.parametrize("text", ["load: none", "load:", "load: []"])
def test_no_files_in_a_configuration(text, tmp_path):
    (tmp_path / "none.yaml").write_text(text)
    assert resolve(["--config", str(tmp_path / "none.yaml")]).run.load == ()


def test_paths_of_a_script_are_written_so_that_they_mean_the_same_from_anywhere(
    file, tmp_path, monkeypatch
):
    file("relative.py", "")
    monkeypatch.chdir(tmp_path)
    for load in (("relative.py",), ["relative.py"]):
        config = validate(Config(run=Run(load=load)))
        assert yaml.safe_load(to_yaml(config))["load"] == [str(tmp_path / "relative.py")]
    (path,) = ExportOptions("r", load=["~/x.py"]).load
    assert path == Path.home() / "x.py"


def test_flags_and_files_may_name_what_is_registered(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "from keras_switcher.augmentation import registry\n"
    file("one.py", text + "registry.register('upside')(lambda images, seed: images)\n")
    file("two.py", text + "registry.register('down')(lambda images, seed: images)\n")
    paths = [str(tmp_path / "one.py"), str(tmp_path / "two.py")]
    config = resolve(["--load", "one.py", "two.py", "--augmentation", "upside"])
    assert config.run.load == tuple(paths)
    (tmp_path / "own.yaml").write_text("load: two.py\naugmentation: down\n")
    config = resolve(["--config", "own.yaml"])
    assert (config.run.load, config.data.augmentation) == ((paths[1],), "down")
    for name in ("upside", "down"):
        del registry._items[name]


@pytest.mark.parametrize("value", [3, [3], [["a.py"]]])
def test_what_are_no_paths_is_refused(value):
    with pytest.raises(ConfigError, match="Expected --load to be paths of Python files, as text"):
        check_values(from_values({"load": value}))


def test_without_files_nothing_is_run():
    assert to_values(Config())["load"] == ()


DATA = """
from pathlib import Path
import numpy as np
from keras_switcher.data import DATASETS, Examples


@DATASETS.register("mine")
def mine(data_dir):
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 10
    images = rng.integers(0, 256, (200, 8, 8, 1), dtype=np.uint8)
    return Examples("my images", images, labels, images, labels, num_classes=10)
"""
NETWORK = """
import keras
from keras_switcher.models import MODELS


@keras.saving.register_keras_serializable()
class Scaled(keras.layers.Layer):
    def call(self, inputs):
        return keras.ops.cast(inputs, "float32") / 255


@MODELS.register("small")
def small(input_shape, num_classes, *, width, dropout):
    layers = [keras.layers.Flatten(), keras.layers.Dense(20, "relu"), keras.layers.Dense(10)]
    return keras.Sequential([keras.Input(input_shape), Scaled(), *layers])
"""


@pytest.mark.slow
def test_data_and_network_of_ones_own_in_all_commands(tmp_path):
    (tmp_path / "my_data.py").write_text(DATA)
    (tmp_path / "my_network.py").write_text(NETWORK)
    own = ("--load", "my_data.py", "my_network.py", "--dataset", "mine", "--model", "small")

    def run(*flags, status=0):
        done = subprocess.run(
            [sys.executable, *flags],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == status, done.stderr
        return done.stdout + done.stderr

    train, small = str(ROOT / "train.py"), ("--epochs", "2", "--no-dense-baseline")
    run(train, *own, *small, "--run-dir", "r")
    summary = json.loads((tmp_path / "r" / "summary.json").read_text())
    assert (summary["dataset_source"], summary["model"]) == ("my images", "small")
    config = yaml.safe_load((tmp_path / "r" / "config.yaml").read_text())
    paths = [str(tmp_path / "my_data.py"), str(tmp_path / "my_network.py")]
    assert config["load"] == paths
    assert "nothing to resume" in run(train, "--run-dir", "r", "--resume")
    said = run("-m", "export", "r", "--no-measure", "--load", "my_network.py", status=1)
    assert f"If you trust the files of the run: --load {' '.join(paths)}" in " ".join(said.split())
    run("-m", "export", "r", "--no-measure", "--load", *paths)
    assert (tmp_path / "r" / "export" / "model_sparse.tflite").is_file()
    methods = ("--methods", "switcher", "dense", "--sparsity", "0.5", "--seeds", "1")
    run("-m", "keras_switcher.compare", *own, "--epochs", "2", *methods, "--out", "c")
    assert (tmp_path / "c" / "report.html").is_file()
    (tmp_path / "my_data.py").rename(tmp_path / "moved.py")
    again = ("--config", "r/config.yaml", "--epochs", "1", "--run-dir", "again")
    said = run(train, *again, status=2)
    assert "config.yaml: Expected --load to be Python files" in said
    assert not (tmp_path / "again").exists()
    run(train, *again, "--load", "moved.py", "my_network.py")
    (tmp_path / "moved.py").unlink()
    (tmp_path / "again.py").write_text(DATA)
    moved = ("--load", "again.py", "my_network.py")
    assert "nothing to resume" in run(train, "--run-dir", "again", "--resume", *moved)
