"""Which backend of Keras the library takes."""

import os
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.parametrize(
    "command",
    [
        ["train.py"],
        ["-m", "keras_switcher.compare"],
        ["-m", "export"],
        # As pip installs it.
        ["bin/keras-switcher-train"],
    ],
)
def test_a_command_takes_its_own_whatever_the_shell_says(command, tmp_path):
    if command[0].startswith("bin"):
        command = [str(tmp_path / Path(command[0]).name)]
        Path(command[0]).write_text("from keras_switcher.training import main; main()")
    done = subprocess.run(
        [sys.executable, *command, "--help"],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "usage:" in done.stdout
