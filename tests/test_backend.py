"""Which backend of Keras the library takes."""

import os
import subprocess
import sys
import tomllib

import pytest
from command import ROOT


@pytest.mark.parametrize(
    ("code", "backend", "said"),
    [
        # Keras itself would fail, or `fit` would, long after.
        ("import keras_switcher", "jax", "Expected the TensorFlow backend of Keras"),
        (
            # As if it had been imported with JAX, which is not installed here.
            "import keras; keras.config.backend = lambda: 'jax'; import keras_switcher",
            *("tensorflow", "Received: jax. Set KERAS_BACKEND=tensorflow before Keras is"),
        ),
    ],
)
def test_another_backend_is_refused_at_once(code, backend, said):
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and said in done.stderr


INSTALLED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def help_of(*command):
    return subprocess.run(
        [sys.executable, *map(str, command), "--help"],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.parametrize(
    "command", [["train.py"], ["-m", "keras_switcher.compare"], ["-m", "export"]]
)
def test_a_command_takes_its_own_whatever_the_shell_says(command):
    assert "usage:" in help_of(*command).stdout


@pytest.mark.parametrize("name", INSTALLED)
def test_so_does_an_installed_one_and_it_answers_before_tensorflow_loads(name, tmp_path):
    module, _, main = INSTALLED[name].partition(":")
    script = tmp_path / name
    script.write_text(
        "import atexit, sys\n"
        "atexit.register(lambda: print('tensorflow' in sys.modules))\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        f"from {module} import {main}\n"
        f"sys.exit({main}())\n"
    )
    answer = help_of(script).stdout
    assert "usage:" in answer and answer.endswith("False\n")
