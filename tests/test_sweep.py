"""What `benchmarks/sweep.py` goes on with, and what it refuses."""

import pytest

from benchmarks.sweep import check_shared


def test_a_sweep_goes_on_with_its_own_file_alone(tmp_path):
    out = tmp_path / "sweep.csv"
    shared = {"varied": ["seed"], "with_test": False, "epochs": 30, "switcher_hidden": [64, 32]}
    check_shared(out, shared)
    out.write_text("seed,network\n0,switched\n")
    check_shared(out, shared)
    for name, value in (("epochs", 50), ("with_test", True), ("varied", ["seed", "dropout"])):
        with pytest.raises(SystemExit, match=rf"others, or unknown ones \({name}\)"):
            check_shared(out, {**shared, name: value})


def test_a_file_that_does_not_say_what_it_shares_is_refused(tmp_path):
    (tmp_path / "sweep.csv").write_text("seed,network\n0,switched\n")
    with pytest.raises(SystemExit, match="unknown ones"):
        check_shared(tmp_path / "sweep.csv", {"epochs": 30})
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.csv"]


def test_a_folder_that_is_not_there_is_told_before_anything_is_trained(tmp_path):
    with pytest.raises(SystemExit, match="Expected --out in a folder that exists"):
        check_shared(tmp_path / "none" / "sweep.csv", {})
