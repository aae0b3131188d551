"""What `benchmarks/sweep.py` goes on with, and what it refuses."""

import sys

import pytest

from benchmarks.sweep import check_shared, main
from keras_switcher.files import locked

FIGURES = dict.fromkeys(("validation_accuracy", "test_accuracy", "sparsity", "seconds"), 0.5)


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


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--out", "none/sweep.csv"], "Expected --out in a folder that exists"),
        (["--vary", "epochs=20,0"], "Expected --epochs"),
        (["--vary", "epochs"], "Expected --vary name=value,value"),
        (["--vary", "seed=0", "--vary", "seed=1"], "Expected --vary seed once"),
        (["--vary", "limit=2000,100"], "Expected --batch-size to be at most.*, 92"),
        (["--limit", "1"], "at least one example each"),
        (["--init-from", "net.keras", "--freeze-trunk"], "Expected no --freeze-trunk"),
    ],
)
def test_what_can_not_be_trained_is_told_before_anything_is(flags, said, tmp_path, monkeypatch):
    (tmp_path / "net.keras").touch()
    monkeypatch.chdir(tmp_path)
    vary = [] if "--vary" in flags else ["--vary", "seed=0"]
    command = ["sweep.py", "--dataset", "mnist5k", "--out", "sweep.csv", *vary, *flags]
    monkeypatch.setattr("sys.argv", command)
    monkeypatch.setattr("benchmarks.sweep.train", None)
    with pytest.raises(SystemExit, match=said):
        main()
    assert [path.name for path in tmp_path.iterdir()] == ["net.keras"]


def test_a_value_is_the_same_however_it_is_written(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(
        "benchmarks.sweep.train", lambda config, *_: trained.append(config) or dict(FIGURES)
    )
    for rates in ("1e-3,0.002,1.0e-3", "0.001,0.002,0.0030"):
        flags = ["--out", str(tmp_path / "sweep.csv"), "--vary", f"learning_rate={rates}"]
        monkeypatch.setattr("sys.argv", ["sweep.py", "--dataset", "mnist5k", *flags])
        main()
    rates = [config.optimisation.learning_rate for config in trained]
    assert rates == [0.001, 0.002, 0.003]


@pytest.mark.parametrize("other", ["--init-from", "--data-dir"])
def test_figures_of_other_data_or_weights_are_not_taken_for_these(tmp_path, monkeypatch, other):
    monkeypatch.setattr("benchmarks.sweep.train", lambda *_: dict(FIGURES))
    digests = iter(["before", "after"])
    name = "file_digest" if other == "--init-from" else "digest_of"
    monkeypatch.setattr(f"keras_switcher.fitting.{name}", lambda _: next(digests))
    (tmp_path / "net.keras").touch()
    monkeypatch.chdir(tmp_path)
    flags = ["--out", "sweep.csv", "--vary", "seed=0", "--init-from", "net.keras"]
    monkeypatch.setattr("sys.argv", ["sweep.py", "--dataset", "mnist5k", *flags])
    if other != "--init-from":
        del sys.argv[-2:]
    main()
    sys.argv[sys.argv.index("seed=0")] = "seed=1"
    with pytest.raises(SystemExit, match=r"of such trainings in sweep.csv: .*before.*after"):
        main()


def test_a_sweep_of_which_another_writes_the_file_is_refused(tmp_path, monkeypatch):
    out = tmp_path / "sweep.csv"
    monkeypatch.setattr("sys.argv", ["sweep.py", "--out", str(out), "--vary", "seed=0"])
    with (
        locked(tmp_path / ".sweep.csv.lock"),
        pytest.raises(SystemExit, match="Another sweep is writing"),
    ):
        main()
    assert not out.exists()
