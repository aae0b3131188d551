import pytest
from command import offline

from keras_switcher.training import main


@pytest.fixture
def train_here(tmp_path, monkeypatch, capsys):
    """Runs the command in this process; returns its exit status and what it wrote, in one line.

    Without --deterministic, which can't be turned off again in a process.
    """
    for name, value in offline(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)

    def train(*flags):
        capsys.readouterr()
        try:
            status = main([*map(str, flags), "--no-deterministic"])
        except SystemExit as left:
            status = left.code
        written = "".join(capsys.readouterr())
        assert "Traceback" not in written
        return status, " ".join(written.split())

    return train
