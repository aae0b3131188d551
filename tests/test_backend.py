"""Which backend of Keras the library takes."""

import os
import subprocess
import sys

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


def test_a_command_takes_its_own_whatever_the_shell_says():
    code = """
import os
os.environ["KERAS_SWITCHER_FLAGS_FIRST"] = "1"
import keras_switcher
print(os.environ["KERAS_BACKEND"])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "torch"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "tensorflow\n"
