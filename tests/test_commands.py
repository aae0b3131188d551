import gc
import importlib
import io
import shlex
import subprocess
import sys

import pytest

from keras_switcher.commands import load_tensorflow, run_command


def test_a_terminal_that_lacks_a_character_shows_the_rest(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert run_command(lambda console: console.print("98.5 ± 0.1 –") or 0, verbose=False) == 0
    sys.stdout.flush()
    assert written.getvalue().startswith(b"98.5 ? 0.1 ?")


@pytest.mark.parametrize("elsewhere", ["contextlib.nullcontext()", "redirect_stdout(sys.stderr)"])
def test_work_goes_on_when_nobody_reads_its_output(elsewhere):
    code = (
        "import contextlib, sys; from contextlib import redirect_stdout\n"
        "from keras_switcher.commands import run_command\n"
        "def work(console):\n"
        f"    with {elsewhere}:\n"
        "        for line in range(10_000): console.print(line)\n"
        "    print('done', file=sys.stderr)\n"
        "    return 0\n"
        "sys.exit(run_command(work, verbose=False))"
    )
    shell = f"set -o pipefail; {shlex.quote(sys.executable)} -c {shlex.quote(code)} | head -1"
    ended = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "0\n")
    assert ended.stderr.endswith("done\n")


@pytest.mark.parametrize("fails", [False, True])
def test_tensorflow_comes_without_garbage_collections_and_what_no_command_uses(fails, monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    monkeypatch.delitem(sys.modules, "tensorflow")
    monkeypatch.delitem(sys.modules, "pandas", raising=False)
    seen = []

    def imported(name):
        with pytest.raises(ImportError):
            __import__("pandas")
        seen.append((name, gc.isenabled()))
        if fails:
            raise ImportError(name)

    with monkeypatch.context() as patch:
        patch.setattr(importlib, "import_module", imported)
        gc.unfreeze()
        if fails:
            with pytest.raises(ImportError):
                load_tensorflow(verbose=False)
        else:
            load_tensorflow(verbose=False)

    assert seen == [("tensorflow", False), ("keras", False)][: 1 if fails else 2]
    # Afterwards, it can be imported as ever.
    assert "pandas" not in sys.modules
    assert gc.isenabled()
    assert (gc.get_freeze_count() > 0) == (not fails)
