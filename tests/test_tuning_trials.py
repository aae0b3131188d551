import json

import keras_tuner
import numpy as np
import pytest
from made_searches import made_search, make_trial

from keras_switcher.config import from_values
from keras_switcher.data import ImageData
from keras_switcher.metrics import switcher_parameters
from keras_switcher.signals import Interrupted, StopSignals
from keras_switcher.tuning.objective import connections
from keras_switcher.tuning.plan import Terms
from keras_switcher.tuning.results import best_of
from keras_switcher.tuning.space import Range, Space
from keras_switcher.tuning.trials import (
    Hopeless,
    StopHopeless,
    TrialModel,
    read_result,
)


def write_results(folder, accuracies, epochs=4):
    """Trials that have ended, each at one accuracy in all epochs."""
    for index, accuracy in enumerate(accuracies):
        path = folder / f"trial_{index}"
        path.mkdir(parents=True)
        rows = [{"epoch": epoch + 1, "val_accuracy": accuracy} for epoch in range(epochs)]
        (path / "result.json").write_text(json.dumps({"epochs": epochs, "rows": rows}))


def is_stopped(folder, accuracy, epoch=1, epochs=4):
    try:
        StopHopeless(folder, epochs).on_epoch_end(epoch, {"val_accuracy": accuracy})
    except Hopeless:
        return True
    return False


def test_a_trial_far_behind_the_median_is_hopeless(tmp_path):
    write_results(tmp_path, [0.1, 0.9, 0.9, 0.9, 0.95])
    assert is_stopped(tmp_path, 0.84)
    assert not is_stopped(tmp_path, 0.86)


def test_no_trial_is_hopeless_too_early_at_its_end_or_with_few_others(tmp_path):
    write_results(tmp_path, [0.9] * 5)
    assert not is_stopped(tmp_path, 0.1, epoch=0)
    assert is_stopped(tmp_path, 0.1, epoch=1)
    assert not is_stopped(tmp_path, 0.1, epoch=3)
    # The others had four epochs in all.
    assert not is_stopped(tmp_path, 0.1, epoch=4, epochs=8)
    write_results(tmp_path / "few", [0.9] * 4)
    assert not is_stopped(tmp_path / "few", 0.1)


def trial_model(folder, stop=None, terms=None, **options):
    rng = np.random.default_rng(0)
    labels = (np.arange(240) % 4).astype("int32")
    images = (60 * labels[:, None, None, None] + rng.integers(0, 20, (240, 6, 6, 1))).astype(
        "uint8"
    )
    data = ImageData("made", "made", *(3 * (images, labels)), 4, ("a", "b", "c", "d"))
    config = from_values(
        {"model": "lenet300", "width": 0.05, "batch_size": 24, "learning_rate": 0.01, **options}
    )
    space = Space.of({"switcher": "unit", "unit_depth": 0})
    terms = terms or Terms(penalty=2.0)
    model = TrialModel(config, data, space, terms, 3, True, stop or StopSignals())
    model.folder = folder / "trial_0"
    model.folder.mkdir()
    return model


def run(model):
    hp = keras_tuner.HyperParameters()
    return model.fit(hp, model.build(hp), callbacks=[])


def test_a_trial_keeps_its_epochs_and_gives_its_best_one(tmp_path):
    model = trial_model(tmp_path)
    found = run(model)
    result = read_result(model.folder / "result.json")
    assert (result["epochs"], result["epochs_run"], result["stopped"]) == (3, 3, "")
    objectives = [row["val_objective"] for row in result["rows"]]
    assert found["val_objective"] == max(objectives)
    assert found["sparsity"] == pytest.approx(0.95, abs=0.01)
    # Dense at first: two times what is missing.
    first = result["rows"][0]
    missing = 2.0 * (0.95 - first["sparsity"])
    assert first["val_objective"] == pytest.approx(first["val_accuracy"] - missing)


def test_a_trial_decays_the_weights_that_a_run_decays(tmp_path):
    config = {"optimizer": "sgd", "weight_decay": 0.01}
    built = trial_model(tmp_path, **config).build(keras_tuner.HyperParameters())
    decayed = [v for v in built.task_variables if built.optimizer._use_weight_decay(v)]
    assert [v.name for v in decayed] == ["kernel"] * 3


def test_the_oracle_says_how_many_epochs_and_the_learning_rate_falls_over_them(tmp_path):
    model = trial_model(tmp_path)
    hp = keras_tuner.HyperParameters()
    hp.values["tuner/epochs"] = 2
    built = model.build(hp)
    assert built.optimizer._learning_rate.decay_steps == 2 * 10
    model.fit(hp, built, callbacks=[])
    assert read_result(model.folder / "result.json")["epochs_run"] == 2


def test_a_trial_that_diverges_has_learned_nothing(tmp_path):
    model = trial_model(tmp_path, learning_rate=1e30, optimizer="sgd")
    assert run(model) == {"val_objective": -2.0 * 0.95, "val_accuracy": 0.0, "sparsity": 0.0}
    assert read_result(model.folder / "result.json")["stopped"] == "diverged"


def test_a_trial_that_diverges_is_no_better_than_one_that_costs_much(tmp_path):
    terms = Terms(penalty=2.0, cost="parameters", cost_weight=10.0)
    model = trial_model(tmp_path, terms=terms, learning_rate=1e30, optimizer="sgd")
    found = run(model)["val_objective"]
    built = model.build(keras_tuner.HyperParameters())
    cost = switcher_parameters(built) / connections(built)
    assert found == pytest.approx(-2.0 * 0.95 - 10.0 * cost) and found < -4.0


def test_a_hopeless_trial_is_stopped(tmp_path):
    model = trial_model(tmp_path, learning_rate=1e-9)
    others = [(tmp_path / f"trial_{index}") for index in range(1, 6)]
    rows = [{"val_accuracy": 0.99}] * 3
    for path in others:
        path.mkdir()
        (path / "result.json").write_text(json.dumps({"epochs": 3, "rows": rows}))
    run(model)
    result = read_result(model.folder / "result.json")
    assert (result["stopped"], result["epochs_run"]) == ("hopeless", 2)


def test_a_signal_ends_a_trial_and_leaves_no_result(tmp_path):
    stop = StopSignals()
    stop._received = 15
    model = trial_model(tmp_path, stop)
    with pytest.raises(Interrupted):
        run(model)
    assert not (model.folder / "result.json").exists()


def test_the_best_is_among_the_longest_that_were_not_stopped():
    trials = [
        make_trial(0, 0.99, {}, epochs=3),
        make_trial(1, 0.9, {}),
        make_trial(2, 0.95, {}, stopped="hopeless"),
        make_trial(3, 0.92, {}),
        make_trial(4, 0.92, {}),
        make_trial(5, None, {}),
    ]
    assert best_of(trials) is trials[3]
    assert best_of(trials[:1]) is trials[0]
    assert best_of([trials[2], trials[5]]) is None


def test_a_table_has_an_empty_cell_where_there_is_no_value():
    space = {"a": Range((1, 2)), "b": Range((0.5, 1.0)), "fixed": Range((3,))}
    trials = [make_trial(0, None, {"a": 1, "b": None}), make_trial(1, 0.5, {"a": 2, "b": 0.5})]
    header, first, second = made_search(trials, space=space).to_csv().splitlines()
    assert header.endswith(",worker,hp:a,hp:b")
    assert first.startswith("0000,FAILED,,,,,9,1,180.0,,") and first.endswith(",1,")
    assert second.startswith("0001,COMPLETED,,0.5,0.5,0.951,9,9,180.0,54321,")
    assert second.endswith(",2,0.5")
