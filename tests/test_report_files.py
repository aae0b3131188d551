import json
import shutil

import pytest
from report_runs import HISTORY, make_run, sparse_model

from keras_switcher.report import write_report


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original")
    make_run(folder, sparse_model())
    return folder


@pytest.fixture
def run(original, tmp_path):
    return shutil.copytree(original, tmp_path / "run")


def change_summary(run, **values):
    path = run / "summary.json"
    summary = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({k: v for k, v in summary.items() if v != "gone"}))


def error_of(run) -> str:
    with pytest.raises(ValueError) as caught:
        write_report(run)
    assert not (run / "report.html").exists()
    return str(caught.value)


@pytest.mark.parametrize(
    "missing",
    [
        ["config.yaml"],
        ["summary.json"],
        ["history.csv"],
        ["model.keras"],
        ["config.yaml", "model.keras"],
    ],
)
def test_missing_files_are_named_with_what_to_do(run, missing):
    for name in missing:
        (run / name).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        write_report(run)
    assert str(caught.value).startswith(f"No {', '.join(missing)} in '{run}'. ")
    assert "--resume" in str(caught.value)


def test_no_run_at_all(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No config.yaml, summary.json, history.csv, mod"):
        write_report(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("config.yaml", "a: [1", "while parsing"),
        ("config.yaml", "", "expected a mapping of settings, found NoneType"),
        ("config.yaml", b"\xff\xfe\x00", "can't decode"),
        ("summary.json", "", "Expecting value"),
        ("summary.json", '{"model": "tiny", ', "Expecting property name"),
        ("summary.json", "[]", "expected an object, found list"),
        ("summary.json", "{}", "`model` is missing"),
        ("history.csv", "", "it has no epoch"),
        ("history.csv", HISTORY[0], "it has no epoch"),
        ("history.csv", "loss,accuracy\n1,2\n", "it has no column `epoch`"),
        ("history.csv", "epoch,loss\n1,2\n2\n", "line 3 has 1 values for 2 names"),
        ("history.csv", "epoch,loss\n1,2,3\n", "line 2 has 3 values for 2 names"),
        ("history.csv", "epoch,loss\n1,low\n", "line 2: could not convert string to float: 'low'"),
        ("history.csv", "epoch,loss\n,1\n", "line 2: invalid literal for int"),
        ("model.keras", "not a zip file", ""),
        ("model.keras", "", ""),
    ],
)
def test_damaged_files_are_named_with_the_reason(run, name, content, reason):
    path = run / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = error_of(run)
    assert message.startswith(f"'{path}' is damaged or not a file of train.py: ")
    assert reason in message
    assert message.endswith("Restore it from a copy, or train again into a new folder.")


def test_half_a_model_is_damaged(run):
    path = run / "model.keras"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert error_of(run).startswith(f"'{path}' is damaged")


def test_flipped_bytes_in_a_model_are_damage(run):
    path = run / "model.keras"
    content = bytearray(path.read_bytes())
    start = content.index(b"config.json") + 40
    content[start : start + 8] = bytes(8)
    path.write_bytes(content)
    assert error_of(run).startswith(f"'{path}' is damaged")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"test_accuracy": "gone"}, "`test_accuracy` is missing"),
        ({"dense_test_accuracy": "gone"}, "`dense_test_accuracy` is missing"),
        ({"test_accuracy": None}, "`test_accuracy` can't be None"),
        ({"epochs": 2.5}, "`epochs` can't be 2.5"),
        ({"layers": {}}, "`layers` can't be {}"),
        ({"layers": [3]}, "`layers[0]` is not an object"),
        ({"layers": [{"name": "hidden"}]}, "`layers[0].shape` is missing"),
    ],
)
def test_wrong_figures_are_named(run, values, reason):
    change_summary(run, **values)
    assert f"summary.json' is damaged or not a file of train.py: {reason}. " in error_of(run)


def test_summary_of_another_run_is_refused(run):
    layers = json.loads((run / "summary.json").read_text())["layers"]
    layers[0]["on"] += 1
    change_summary(run, layers=layers)
    assert error_of(run).startswith(
        f"summary.json and model.keras in '{run}' are not of the same run"
    )


def test_history_may_have_gaps_and_lack_columns(run):
    (run / "history.csv").write_text("epoch,loss,val_loss\n1,2.0,\n2,1.0,1.5\n3,nan,\n")
    text = write_report(run).read_text("utf-8")
    assert text.count("<svg") == 1
    assert "<td>–</td>" in text
    assert "validation from 1.5 to 1.5" in text


def test_what_else_stands_in_the_summary_is_ignored(run):
    before = write_report(run).read_text()
    change_summary(run, more={"than": "needed"})
    assert write_report(run).read_text() == before
