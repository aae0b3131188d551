import errno
import json
import os
import re
import threading
from pathlib import Path

import numpy as np
import pytest

from keras_switcher.runs import (
    Checkpoint,
    CheckpointError,
    Checkpoints,
    RunError,
    RunFolder,
    WriteError,
    locked,
    new_run,
    newest_run,
    replacing,
)

ARRAYS = [np.arange(6, dtype="float32").reshape(2, 3), np.array(7, "int32"), np.zeros((0,), bool)]


def checkpoint(epoch: int) -> Checkpoint:
    rows = [{"epoch": n + 1, "phase": "settle", "loss": 0.1 + n / 3} for n in range(epoch)]
    return Checkpoint(epoch, rows, {"network": "x", "widths": [8, 4]}, [a + epoch for a in ARRAYS])


def assert_same(got: Checkpoint, expected: Checkpoint) -> None:
    assert (got.epoch, got.rows, got.facts) == (expected.epoch, expected.rows, expected.facts)
    for array, other in zip(got.arrays, expected.arrays, strict=True):
        assert array.dtype == other.dtype
        np.testing.assert_array_equal(array, other)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_checkpoint_round_trip_keeps_the_newest_two(tmp_path):
    checkpoints = Checkpoints(tmp_path, "x")
    assert checkpoints.load() is None

    for epoch in (9, 10, 11):
        checkpoints.save(checkpoint(epoch))
        assert_same(checkpoints.load(), checkpoint(epoch))

    assert files(tmp_path) == ["x-00010.checkpoint", "x-00011.checkpoint"]
    assert Checkpoints(tmp_path, "other").load() is None


def damages(content: bytes):
    """Every way in which a file can be damaged that is tested: what, and the content then."""
    yield "empty", b""
    for length in (1, 40, 100, len(content) // 2, len(content) - 1):
        yield f"first {length} bytes", content[:length]
    for place in [*range(0, 400, 7), *range(400, len(content), 101), len(content) - 1]:
        flipped = bytearray(content)
        flipped[place] ^= 1
        yield f"bit of byte {place}", bytes(flipped)
    yield "longer", content + b"0"
    yield "zeros", bytes(len(content))


def test_every_damage_is_found_and_the_one_before_taken(tmp_path, caplog):
    checkpoints = Checkpoints(tmp_path, "x")
    checkpoints.save(checkpoint(1))
    checkpoints.save(checkpoint(2))
    newest = tmp_path / "x-00002.checkpoint"
    cases = dict(damages(newest.read_bytes()))
    assert len(cases) > 70

    for what, content in cases.items():
        caplog.clear()
        newest.write_bytes(content)
        got = checkpoints.load()
        assert got.epoch == 1, what
        assert str(newest) in caplog.text, what
        assert "damaged" in caplog.text, what
        assert "Going on from the one before" in caplog.text, what


def test_only_damaged_checkpoints_are_an_error_that_says_what_to_do(tmp_path):
    folder = tmp_path / "r" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "x-00001.checkpoint").write_bytes(b"not ours\n\x00")
    (folder / "x-00002.checkpoint").mkdir()

    with pytest.raises(CheckpointError) as error:
        Checkpoints(folder, "x").load()

    message = str(error.value)
    assert "x-00001.checkpoint is not a checkpoint of keras_switcher" in message
    assert "Can't read the checkpoint" in message
    assert "Is a directory" in message
    assert f"Remove the folder {tmp_path / 'r'}" in message
    assert error.value.exit_status == 2


def test_stray_temporary_file_is_no_checkpoint_and_goes(tmp_path):
    checkpoints = Checkpoints(tmp_path, "x")
    checkpoints.save(checkpoint(1))
    with replacing(tmp_path / "x-00002.checkpoint") as temporary:
        temporary.write_bytes(b"half")
        content = temporary.read_bytes()
        name = temporary.name
    (tmp_path / "x-00002.checkpoint").unlink()
    (tmp_path / name).write_bytes(content)

    assert checkpoints.load().epoch == 1
    checkpoints.save(checkpoint(2))
    assert files(tmp_path) == ["x-00001.checkpoint", "x-00002.checkpoint"]
    assert_same(checkpoints.load(), checkpoint(2))


def test_replacing_leaves_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    with pytest.raises(KeyError), replacing(path) as temporary:
        temporary.write_text("new")
        raise KeyError
    assert (path.read_text(), files(tmp_path)) == ("old", ["a.txt"])

    with replacing(path) as temporary:
        temporary.write_text("new")
        assert temporary.suffix == path.suffix
        assert path.read_text() == "old"
    assert (path.read_text(), files(tmp_path)) == ("new", ["a.txt"])


@pytest.mark.parametrize("call", ["replace", "fsync"])
@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOSPC, "The disk is full: could not write"), (errno.EIO, "Input/output error")],
)
def test_failed_write_keeps_what_was_there(tmp_path, monkeypatch, call, number, message):
    checkpoints = Checkpoints(tmp_path, "x")
    checkpoints.save(checkpoint(1))
    checkpoints.save(checkpoint(2))
    before = files(tmp_path)

    def fail(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(WriteError, match=message) as error:
        checkpoints.save(checkpoint(3))
    monkeypatch.undo()

    assert "x-00003.checkpoint" in str(error.value)
    assert error.value.exit_status == 1
    assert files(tmp_path) == before
    assert_same(checkpoints.load(), checkpoint(2))


def test_disk_that_is_really_full(tmp_path):
    """/dev/full refuses every byte, as a full disk does."""
    with (
        pytest.raises(WriteError, match="The disk is full"),
        replacing(tmp_path / "a") as temporary,
    ):
        os.symlink("/dev/full", temporary)
        temporary.write_text("x" * 10_000)

    assert files(tmp_path) == []


def test_history_has_every_column_and_every_digit(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_history("h.csv", [{"epoch": 1, "loss": 0.1 + 0.2}, {"epoch": 2, "extra": "a,b"}])

    assert (tmp_path / "h.csv").read_text() == (
        'epoch,loss,extra\n1,0.30000000000000004,\n2,,"a,b"\n'
    )


def test_life_of_a_folder(tmp_path):
    folder = RunFolder(tmp_path / "deep" / "r")
    assert (folder.has_run, folder.is_finished) == (False, False)

    folder.start("epochs: 3\n")
    assert (folder.has_run, folder.is_finished) == (True, False)
    assert (folder.path / "config.yaml").read_text() == "epochs: 3\n"

    Checkpoints(folder.path / "checkpoints", "x").save(checkpoint(1))
    folder.write_text("summary.json", json.dumps({}))
    assert folder.is_finished is False
    folder.finish()
    assert (folder.has_run, folder.is_finished) == (True, True)
    assert files(folder.path) == ["config.yaml", "summary.json"]


def test_the_newest_checkpoints_are_those_of_the_latest_epochs(tmp_path):
    checkpoints = Checkpoints(tmp_path, "x")
    for epoch in (99_998, 99_999, 100_000, 100_001):
        checkpoints.save(checkpoint(epoch))
    assert files(tmp_path) == ["x-100000.checkpoint", "x-100001.checkpoint"]
    (tmp_path / "x-00003 (copy).checkpoint").write_bytes(b"by a file manager")
    assert checkpoints.load().epoch == 100_001


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
    folder.write_text("summary.json", "{}")
    (tmp_path / ".finished").mkdir()
    (tmp_path / ".finished" / "x-00001.checkpoint").write_bytes(b"old")

    folder.finish()

    assert folder.is_finished
    assert files(tmp_path) == ["config.yaml", "summary.json"]


@pytest.mark.parametrize("name", ["checkpoints", "model.keras", "summary.json", "config.yaml"])
def test_any_trace_of_a_run_is_one(tmp_path, name):
    assert not RunFolder(tmp_path).has_run
    (tmp_path / name).mkdir()
    assert RunFolder(tmp_path).has_run


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


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, caplog):
    number = errno.ENOSYS

    def fail(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("keras_switcher.runs.fcntl.flock", fail)
    with RunFolder(tmp_path).under_way():
        assert files(tmp_path) == [".lock"]
    assert "locks no files" in caplog.text
    number = errno.EIO
    with (
        pytest.raises(WriteError, match=r"Could not write .*\.lock"),
        RunFolder(tmp_path).under_way(),
    ):
        pass


def test_a_lock_that_went_while_another_waited_for_it_is_taken_anew(tmp_path):
    path = tmp_path / ".lock"
    order = []

    def wait():
        with locked(path):
            order.append(path.exists())

    with locked(path, is_transient=True):
        waiting = threading.Thread(target=wait)
        waiting.start()
        waiting.join(0.2)
        assert order == []
    waiting.join(10)
    # Not the file that was removed, which a third one could not see.
    assert order == [True]


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
