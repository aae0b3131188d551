import errno
import os

import numpy as np
import pytest

from keras_switcher.checkpoints import Checkpoint, CheckpointError, Checkpoints
from keras_switcher.files import WriteError, replacing

ARRAYS = [np.arange(6, dtype="float32").reshape(2, 3), np.array(7, "int32"), np.zeros((0,), bool)]


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def checkpoint(epoch: int) -> Checkpoint:
    rows = [{"epoch": n + 1, "phase": "settle", "loss": 0.1 + n / 3} for n in range(epoch)]
    return Checkpoint(epoch, rows, {"network": "x", "widths": [8, 4]}, [a + epoch for a in ARRAYS])


def assert_same(got: Checkpoint, expected: Checkpoint) -> None:
    assert (got.epoch, got.rows, got.facts) == (expected.epoch, expected.rows, expected.facts)
    for array, other in zip(got.arrays, expected.arrays, strict=True):
        assert array.dtype == other.dtype
        np.testing.assert_array_equal(array, other)


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


def test_the_newest_checkpoints_are_those_of_the_latest_epochs(tmp_path):
    checkpoints = Checkpoints(tmp_path, "x")
    for epoch in (99_998, 99_999, 100_000, 100_001):
        checkpoints.save(checkpoint(epoch))
    assert files(tmp_path) == ["x-100000.checkpoint", "x-100001.checkpoint"]
    (tmp_path / "x-00003 (copy).checkpoint").write_bytes(b"by a file manager")
    assert checkpoints.load().epoch == 100_001
