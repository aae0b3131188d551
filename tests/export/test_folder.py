import os
import subprocess
import sys
import time

import pytest
from command import ROOT

from export.errors import ExportError
from export.folder import exclusive, publish, write
from keras_switcher.files import RunError, WriteError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_only_what_is_published_stays(tmp_path):
    out = tmp_path / "deep" / "out"
    with exclusive(out) as scratch:
        write(scratch / "model_dense.tflite", b"good")
        write(scratch / "model_sparse.tflite", b"bad")
        assert scratch.parent == out
        publish(out, scratch, ["model_dense.tflite"])
    assert names(out) == ["model_dense.tflite"]
    assert (out / "model_dense.tflite").read_bytes() == b"good"


def test_files_that_are_no_export_s_are_not_lost(tmp_path):
    (tmp_path / "model_mobilenet_v2.tflite").write_text("another's")
    with exclusive(tmp_path) as scratch:
        write(scratch / "export.json", b"{}")
        publish(tmp_path, scratch, ["export.json"])
    assert names(tmp_path) == ["export.json", "model_mobilenet_v2.tflite"]
    (tmp_path / "export.json").unlink()
    (tmp_path / "model_card.md").write_text("another's")
    with (
        pytest.raises(ExportError, match="where model_card.md would be lost: choose another --out"),
        exclusive(tmp_path),
    ):
        pass
    assert (tmp_path / "model_card.md").read_text() == "another's"


def test_a_failure_leaves_what_was_there(tmp_path):
    (tmp_path / "model_dense.tflite").write_bytes(b"earlier")
    (tmp_path / "export.json").write_bytes(b"{}")
    with pytest.raises(RuntimeError), exclusive(tmp_path) as scratch:
        write(scratch / "model_dense.tflite", b"new")
        raise RuntimeError("converting failed")
    assert names(tmp_path) == ["export.json", "model_dense.tflite"]
    assert (tmp_path / "model_dense.tflite").read_bytes() == b"earlier"


def test_a_failure_leaves_no_folder_that_was_not_there(tmp_path):
    with pytest.raises(RuntimeError), exclusive(tmp_path / "new"):
        raise RuntimeError("converting failed")
    assert names(tmp_path) == []


def test_stale_files_of_an_earlier_export_go_and_others_stay(tmp_path):
    for name in ("model_float16.tflite", "export.png", "export.json", "notes.txt", "mine.tflite"):
        (tmp_path / name).write_text("earlier")
    with exclusive(tmp_path) as scratch:
        write(scratch / "model_dense.tflite", b"new")
        write(scratch / "export.json", b"new")
        publish(tmp_path, scratch, ["model_dense.tflite", "export.json"])
    assert names(tmp_path) == ["export.json", "mine.tflite", "model_dense.tflite", "notes.txt"]
    assert (tmp_path / "export.json").read_bytes() == b"new"


def test_what_a_killed_export_left_is_removed(tmp_path):
    (tmp_path / ".unproven-killed").mkdir()
    (tmp_path / ".unproven-killed" / "model_sparse.tflite").write_bytes(b"half")
    with exclusive(tmp_path) as scratch:
        assert names(tmp_path) == [".lock", scratch.name]
    assert names(tmp_path) == []


def test_two_exports_into_one_folder(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom export.folder import exclusive\n"
        "with exclusive(Path(sys.argv[1])):\n    print('holds', flush=True)\n    time.sleep(60)"
    )
    environment = {**os.environ, "KERAS_SWITCHER_FLAGS_FIRST": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout.readline() == "holds\n"
        with (
            pytest.raises(RunError, match="Another export is writing into"),
            exclusive(tmp_path),
        ):
            pass
        assert len(names(tmp_path)) == 2  # its lock, and its work, which is untouched
        other.kill()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            with exclusive(tmp_path):
                break
        except RunError:
            time.sleep(0.05)
    else:
        pytest.fail("the folder of a killed export stays locked")


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "out").write_text("")
    with (
        pytest.raises(ExportError, match="Expected --out to be a folder"),
        exclusive(tmp_path / "out"),
    ):
        pass


def test_what_can_not_be_written_names_the_file(tmp_path):
    with pytest.raises(WriteError, match=r"missing/model.tflite"):
        write(tmp_path / "missing" / "model.tflite", b"")
