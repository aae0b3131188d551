"""What commands a process tells its user to give."""

import subprocess
import sys

import pytest
from command import ROOT

from keras_switcher.compare.command import main as compare_main
from keras_switcher.launch import main as launch_main
from keras_switcher.programs import export_command
from keras_switcher.tuning.command import main as tuning_main


@pytest.mark.parametrize("place", ["own script", "train.py", "console"])
def test_a_run_goes_on_by_the_script_that_began_it(place, tmp_path):
    code = "from keras_switcher.programs import resuming_command; print(resuming_command())"
    (tmp_path / "mine.py").write_text(code)
    command = [str(tmp_path / "mine.py")]
    if place == "console":
        command = ["-c", code]
    elif place == "train.py":
        # As Python runs it.
        patched = f"import __main__; __main__.__file__ = {str(ROOT / 'train.py')!r}; {code}"
        command = ["-c", patched]
    done = subprocess.run(
        [sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    said = done.stdout.split()[-1]
    assert said == ("mine.py" if place == "own script" else str(ROOT / "train.py"))


@pytest.mark.parametrize(
    ("started", "said"),
    [
        ("/bin/keras-switcher-export", "keras-switcher-export"),
        ("checkout/export/__main__.py", "python -m export"),
    ],
)
def test_an_export_is_given_again_as_it_was_called(monkeypatch, started, said):
    monkeypatch.setattr(sys, "argv", [started, "--help"])
    assert export_command("export") == said


@pytest.mark.parametrize(
    ("module", "installed", "main"),
    [
        ("keras_switcher.tuning", "keras-switcher-tune", tuning_main),
        ("keras_switcher.compare", "keras-switcher-compare", compare_main),
        ("keras_switcher.launch", "keras-switcher-launch", launch_main),
    ],
)
def test_help_and_errors_name_the_command_as_it_was_called(
    monkeypatch, capsys, module, installed, main
):
    for started, said in ((f"/bin/{installed}", installed), ("x.py", f"python -m {module}")):
        monkeypatch.setattr(sys, "argv", [started])
        with pytest.raises(SystemExit):
            main([])
        assert f"{said}: error:" in capsys.readouterr().err
