"""What `train.py` shows."""

import io
from pathlib import Path

from rich.console import Console

from keras_switcher.config import from_values
from keras_switcher.display import show_config


def test_the_configuration_is_shown_as_it_is():
    shown = io.StringIO()
    console = Console(file=shown, width=400)
    config = from_values(
        {"data_dir": "/Data/TFDS", "learning_rate": 0.00012345678, "switcher_hidden": (64, 32)}
    )
    show_config(console, config, Path("runs/Mine"))
    text = shown.getvalue()
    assert "data_dir=/Data/TFDS" in text and "runs/Mine" in text
    assert "learning_rate=0.00012345678" in text and "switcher_hidden=64,32" in text
    assert "init_from=none" in text and "jit=false" in text
