import errno
import os
import threading

import pytest

from keras_switcher.files import WriteError, locked, replacing
from keras_switcher.runs import RunFolder


def files(folder):
    return sorted(path.name for path in folder.iterdir())


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


def test_disk_that_is_really_full(tmp_path):
    """/dev/full refuses every byte, as a full disk does."""
    with (
        pytest.raises(WriteError, match="The disk is full"),
        replacing(tmp_path / "a") as temporary,
    ):
        os.symlink("/dev/full", temporary)
        temporary.write_text("x" * 10_000)

    assert files(tmp_path) == []


def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, caplog):
    number = errno.ENOSYS

    def fail(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("keras_switcher.files.fcntl.flock", fail)
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
