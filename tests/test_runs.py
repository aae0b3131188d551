import json
import os
import re
from pathlib import Path

import pytest

from keras_switcher.checkpoints import Checkpoint, Checkpoints
from keras_switcher.files import RunError, WriteError, write_csv, write_text
from keras_switcher.runs import RunFolder, new_run, newest_run


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_history_has_every_column_and_every_digit(tmp_path):
    folder = RunFolder(tmp_path)
    write_csv(
        folder.path / "h.csv", [{"epoch": 1, "loss": 0.1 + 0.2}, {"epoch": 2, "extra": "a,b"}]
    )

    assert (tmp_path / "h.csv").read_text() == (
        'epoch,loss,extra\n1,0.30000000000000004,\n2,,"a,b"\n'
    )


def test_life_of_a_folder(tmp_path):
    folder = RunFolder(tmp_path / "deep" / "r")
    assert (folder.has_run, folder.is_finished) == (False, False)

    folder.start("epochs: 3\n")
    assert (folder.has_run, folder.is_finished) == (True, False)
    assert (folder.path / "config.yaml").read_text() == "epochs: 3\n"

    Checkpoints(folder.path / "checkpoints", "x").save(Checkpoint(1, [], {}, []))
    write_text(folder.path / "summary.json", json.dumps({}))
    assert folder.is_finished is False
    folder.finish()
    assert (folder.has_run, folder.is_finished) == (True, True)
    assert files(folder.path) == ["config.yaml", "summary.json"]


def test_results_without_a_run_are_named(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.results == []
    (tmp_path / "dense.keras").touch()
    (tmp_path / "history.csv").touch()
    assert not folder.has_run
    assert folder.results == ["dense.keras", "history.csv"]


def test_finish_again_after_a_half_removed_one(tmp_path):
    folder = RunFolder(tmp_path)
    folder.start("")
    write_text(folder.path / "summary.json", "{}")
    (tmp_path / ".finished").mkdir()
    (tmp_path / ".finished" / "x-00001.checkpoint").write_bytes(b"old")

    folder.finish()

    assert folder.is_finished
    assert files(tmp_path) == ["config.yaml", "summary.json"]


@pytest.mark.parametrize("name", ["checkpoints", "model.keras", "summary.json"])
def test_what_a_run_without_its_configuration_has_left_is_no_run(tmp_path, name):
    (tmp_path / name).mkdir()
    assert not RunFolder(tmp_path).has_run
    assert RunFolder(tmp_path).results == [name]


def test_discard_takes_back_start_and_nothing_else(tmp_path):
    folder = RunFolder(tmp_path / "r")
    folder.start("")
    folder.discard()
    assert files(tmp_path) == []

    folder.start("")
    (folder.path / "notes.txt").write_text("mine")
    folder.discard()
    assert files(folder.path) == ["notes.txt"]


def test_a_run_that_is_under_way_is_left_to_its_process(tmp_path):
    folder = RunFolder(tmp_path / "r")
    with (
        folder.under_way(),
        pytest.raises(RunError, match=r"r is under way in another process.*--run-dir"),
        folder.under_way(),
    ):
        pass
    assert files(folder.path) == []
    with folder.under_way():
        folder.start("")
        folder.discard()
    assert files(tmp_path) == []


def test_folder_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")

    for path in (tmp_path / "file", tmp_path / "file" / "r"):
        with pytest.raises(
            RunError, match=re.escape(f"{path}: part of its path is a file")
        ) as error:
            RunFolder(path).start("")
    assert error.value.exit_status == 2


def test_folder_where_the_system_lets_nobody_write():
    with pytest.raises(RunError, match="Can't write the folder /proc/r") as error:
        RunFolder(Path("/proc/r")).start("")
    assert error.value.exit_status == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(RunError, match="Permission denied"):
            RunFolder(tmp_path / "r").start("")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_folder_without_permission_as_somebody_else(tmp_path):
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        try:
            RunFolder(tmp_path / "r").start("")
        except RunError as error:
            os._exit(0 if "Permission denied" in str(error) else 3)
        os._exit(4)

    tmp_path.chmod(0o700)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_new_runs_are_numbered(tmp_path):
    root = tmp_path / "runs"

    assert new_run("lenet", "mnist", root) == root / "lenet-mnist-1"
    assert new_run("lenet", "mnist", root) == root / "lenet-mnist-2"
    (root / "lenet-mnist-10").mkdir()
    (root / "lenet-mnist-mine").mkdir()
    assert new_run("lenet", "mnist", root) == root / "lenet-mnist-11"
    assert new_run("lenet300", "mnist", root) == root / "lenet300-mnist-1"


def test_new_run_beside_another_that_starts_at_the_same_moment(tmp_path, monkeypatch):
    mkdir = type(tmp_path).mkdir

    def taken_meanwhile(path, *arguments, **options):
        monkeypatch.undo()
        mkdir(path, parents=True)
        mkdir(path, *arguments, **options)

    monkeypatch.setattr(type(tmp_path), "mkdir", taken_meanwhile)

    assert new_run("lenet", "mnist", tmp_path / "runs").name == "lenet-mnist-2"


def test_new_run_that_can_not_be_made(tmp_path):
    (tmp_path / "runs").write_text("a file")

    with pytest.raises(WriteError, match="Could not write"):
        new_run("lenet", "mnist", tmp_path / "runs")


def test_no_newest_run(tmp_path):
    assert newest_run(root=tmp_path / "nowhere") is None
    (tmp_path / "lenet-mnist-1").mkdir()
    assert newest_run("lenet", "mnist", tmp_path) is None
