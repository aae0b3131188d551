import re
import subprocess
import sys
from pathlib import Path

import pytest
from command import ROOT
from fenced import blocks
from small_run import sparse_lenet300, write_run

from export.command import main
from keras_switcher import models

EXPORT, MOBILE, BROWSER = (ROOT / "docs" / f"{name}.md" for name in ("export", "mobile", "browser"))


def run_code(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(folder)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs")
    run = write_run(folder / "run", sparse_lenet300())
    assert main([str(run), "--out", str(folder / "files"), "--no-measure"]) == 0
    return folder / "files"


def test_the_python_code_for_devices_classifies_with_an_exported_file(exported):
    (code,) = blocks(MOBILE.read_text(), "python")
    assert re.fullmatch(r"\d 0\.\d\d|\d 1\.00", run_code(code, exported).strip())


@pytest.mark.slow
def test_the_python_code_for_exports_leaves_files(tmp_path):
    (code,) = blocks(EXPORT.read_text(), "python")
    models.build("lenet300", (28, 28, 1), 10).save(tmp_path / "mine.keras")
    run_code(code, tmp_path)
    assert (tmp_path / "small.keras").is_file()
    assert (tmp_path / "files" / "model_sparse.tflite").is_file()
