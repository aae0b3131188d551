import numpy as np
import pytest
from search_folders import best_json, draw, make_search, make_trial

from keras_switcher.tuning.reading import Parameter, best_of, read_search
from keras_switcher.tuning.report import write_report


@pytest.mark.parametrize("name", ["search.yaml", "trials.csv"])
def test_missing_files_are_named(tmp_path, name):
    make_search(tmp_path, [])
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"No {name} in"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("name", "old", "new", "reason"),
    [
        ("search.yaml", "model:", "other:", "`model` is missing"),
        ("search.yaml", "model: lenet300", "model: [", "while parsing"),
        ("search.yaml", "max: 0.3", "most: 0.3", "expected `values`, or numbers `min` and `max`"),
        ("trials.csv", "objective", "other", "it has no column `objective`"),
        ("trials.csv", "COMPLETED", "RUNNING", "line 2: unknown status 'RUNNING'"),
        ("trials.csv", "0.9,0.9", "0.9", "line 2 has 24 values for 25 names"),
        ("trials.csv", "0.9,0.9", "good,0.9", "line 2: could not convert string to float: 'good'"),
        ("best.json", '"trial"', '"other"', "expected an object with `trial`"),
        ("best.json", "{", "", "'"),
    ],
)
def test_damaged_files_are_named_with_the_reason(tmp_path, name, old, new, reason):
    trial = make_trial(0, 0.9, draw(np.random.default_rng(0)))
    make_search(tmp_path, [trial], best_json(trial))
    path = tmp_path / name
    before = path.read_text()
    assert old in before
    path.write_text(before.replace(old, new, 1))
    with pytest.raises(ValueError) as caught:
        write_report(tmp_path)
    assert str(caught.value).startswith(f"'{path}' is damaged or not a file of a search: ")
    assert reason in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_values_are_read_as_they_were(tmp_path):
    values = {"flag": True, "rate": 1e-05, "width": 16, "gate": "step", "off": None}
    space = {
        "flag": [True, False],
        "rate": ["1e-5", "1e-4"],
        "width": {"min": 10, "max": 12, "sampling": "linear", "kind": "int"},
        "gate": "step",
        "off": {"min": 0, "max": 20, "sampling": "log", "kind": "int"},
    }
    make_search(tmp_path, [make_trial(7, 0.5, values, 3)], space=space)
    search = read_search(tmp_path)
    assert dict(search.trials[0].values) == values
    assert search.space["flag"].values == (True, False)
    assert search.space["rate"].values == (1e-05, 1e-04)
    assert search.space["width"].values == (10, 11, 12, 13, 14, 15, 16)
    assert search.space["gate"].values == ("step",)
    assert search.space["off"] == Parameter("off", (), 0, 20, is_log=False)


def test_hopeless_trial_is_never_the_best():
    trials = [make_trial(0, 0.9, {}), make_trial(1, 0.99, {}, stopped="hopeless")]
    assert best_of(trials) is trials[0]
    assert best_of(trials[1:]) is None
