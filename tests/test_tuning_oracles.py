import json
import os
import threading

import keras_tuner
import pytest
from keras_tuner.engine.trial import TrialStatus
from keras_tuner.src.distribute.oracle_chief import exit_chief

from keras_switcher.tuning import oracles
from keras_switcher.tuning.objective import NAME


def oracle_in(folder, name="random", trials=6, max_epochs=9, seed=0):
    oracle = oracles.make(name, trials, max_epochs, seed)
    oracle.verbose = 0
    oracle._set_project_dir(str(folder), "trials")
    space = keras_tuner.HyperParameters()
    space.Float("rate", 0.0, 1.0)
    oracle.update_space(space)
    return oracle


def reloaded(folder, **options):
    oracle = oracle_in(folder, **options)
    oracle.reload()
    return oracle


def end(oracle, trial, value=0.5, status=TrialStatus.COMPLETED):
    if status == TrialStatus.COMPLETED:
        oracle.update_trial(trial.trial_id, {NAME: value})
    trial.status = status
    oracle.end_trial(trial)


def run(oracle, number, worker="tuner0"):
    for index in range(number):
        end(oracle, oracle.create_trial(worker), 0.1 * index)


def rates(oracle):
    return [oracle.trials[n].hyperparameters.values["rate"] for n in oracle.start_order]


@pytest.mark.filterwarnings("error::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", ["random", "bayesian", "hyperband"])
def test_a_search_that_was_killed_gives_out_what_one_that_was_not_does(tmp_path, name):
    whole = oracle_in(tmp_path / "whole", name)
    run(whole, 6)
    first = oracle_in(tmp_path / "killed", name)
    run(first, 3)
    first.create_trial("tuner0")
    # The kill: nothing of the object is left but its files.
    second = reloaded(tmp_path / "killed", name=name)
    assert second.create_trial("tuner0").trial_id == "3"
    end(second, second.trials["3"], 0.3)
    for index in (4, 5):
        end(second, second.create_trial("tuner0"), 0.1 * index)
    assert second.create_trial("tuner0").status == TrialStatus.STOPPED
    assert rates(second) == rates(whole)
    assert second.end_order == whole.end_order == ["0", "1", "2", "3", "4", "5"]


@pytest.mark.parametrize("name", ["random", "hyperband"])
def test_no_moment_of_a_kill_loses_or_repeats_a_trial(tmp_path, name, monkeypatch):
    """A kill before each of the renames by which files take their place, one after the other."""

    class Killed(BaseException):
        pass

    real, left = os.replace, [0]

    def replace(*paths):
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        real(*paths)

    monkeypatch.setattr(os, "replace", replace)
    ended: dict[int, list[str]] = {}
    for moment in range(1, 24):
        folder = tmp_path / str(moment)
        left[0] = 10_000
        oracle = oracle_in(folder, name, trials=4)
        oracle.save()
        left[0] = moment
        done = []
        try:
            for index in range(4):
                trial = oracle.create_trial("tuner0")
                end(oracle, trial, 0.1 * index)
                done.append(trial.trial_id)
        except Killed:
            pass
        left[0] = 10_000
        again = reloaded(folder, name=name, trials=4)
        while (trial := again.create_trial("tuner0")).status == TrialStatus.RUNNING:
            assert trial.trial_id not in done
            end(again, trial)
            done.append(trial.trial_id)
        ended[moment] = again.end_order
    assert all(sorted(order) == ["0", "1", "2", "3"] for order in ended.values())


def test_a_trial_under_way_stays_with_a_worker_that_outlives_its_chief(tmp_path):
    first = oracle_in(tmp_path)
    mine = first.create_trial("tuner0")
    other = first.create_trial("tuner1")
    first.keeps_workers = True
    first.save()
    chief = oracle_in(tmp_path)
    chief.keeps_workers = True
    chief.reload()
    # A worker that has been started again gets its trial, one that lives on ends it.
    assert chief.create_trial("tuner1").trial_id == other.trial_id
    end(chief, mine)
    assert chief.create_trial("tuner0").trial_id not in (mine.trial_id, other.trial_id)


def test_a_trial_that_was_put_back_and_ends_after_all_is_not_run_again(tmp_path):
    first = oracle_in(tmp_path)
    trial = first.create_trial("tuner0")
    again = reloaded(tmp_path)
    end(again, trial)
    assert again.create_trial("tuner0").trial_id != trial.trial_id
    assert again.end_order == [trial.trial_id]


def test_the_state_on_the_disk_knows_that_a_trial_has_ended(tmp_path):
    run(oracle_in(tmp_path), 1)
    state = json.loads((tmp_path / "trials" / "oracle.json").read_text())
    assert state["ongoing_trials"] == {} and state["end_order"] == ["0"]


def test_three_failures_in_a_row_end_the_search(tmp_path):
    oracle = oracle_in(tmp_path, trials=20)
    for status in ("COMPLETED", "FAILED", "FAILED", "COMPLETED", "FAILED", "FAILED", "FAILED"):
        end(oracle, oracle.create_trial("tuner0"), status=status)
    assert oracle.failures == oracles.MOST_FAILURES == 3
    assert oracle.create_trial("tuner0").status == TrialStatus.STOPPED
    assert not oracle.tuner_ids


def test_a_failure_that_a_worker_tells_again_is_one(tmp_path):
    oracle = oracle_in(tmp_path, trials=20)
    trial = oracle.create_trial("tuner0")
    for _ in range(3):
        # The answer to the first was lost.
        end(oracle, trial, status="FAILED")
    assert oracle.failures == 1
    assert oracle.create_trial("tuner0").status == TrialStatus.RUNNING
    again = reloaded(tmp_path, trials=20)
    end(again, trial, status="FAILED")
    assert again.failures == 0


def test_a_trial_of_another_worker_that_ends_well_does_not_take_the_end_back(tmp_path):
    oracle = oracle_in(tmp_path, trials=20)
    long = oracle.create_trial("tuner1")
    for _ in range(3):
        end(oracle, oracle.create_trial("tuner0"), status="FAILED")
    end(oracle, long)
    for worker in ("tuner0", "tuner1"):
        assert oracle.create_trial(worker).status == TrialStatus.STOPPED


def test_a_search_goes_on_after_what_made_trials_fail_is_mended(tmp_path):
    oracle = oracle_in(tmp_path, trials=20)
    for _ in range(3):
        end(oracle, oracle.create_trial("tuner0"), status="FAILED")
    again = reloaded(tmp_path, trials=20)
    assert again.create_trial("tuner0").status == TrialStatus.RUNNING


def test_a_trial_of_a_single_process_is_given_to_a_worker_of_a_cluster(tmp_path):
    trial = oracle_in(tmp_path).create_trial("tuner0")
    chief = oracle_in(tmp_path)
    chief.keeps_workers = True
    chief.reload()
    assert chief.create_trial("worker-1").trial_id == trial.trial_id


def test_what_can_not_be_written_ends_the_search_and_leaves_no_lock(tmp_path):
    oracle = oracle_in(tmp_path)

    def fail(it):
        raise OSError("The disk is full.")

    oracle.ended = fail
    end(oracle, oracle.create_trial("tuner0"))
    assert str(oracle.error) == "The disk is full."
    told = []
    other = threading.Thread(target=lambda: told.append(oracle.create_trial("tuner1")))
    other.start()
    other.join(timeout=10)
    assert told[0].status == TrialStatus.STOPPED


def test_a_trial_whose_end_can_not_be_written_does_not_keep_its_chief(tmp_path, monkeypatch):
    oracle = oracle_in(tmp_path)
    trial = oracle.create_trial("tuner0")

    def fail(it):
        raise OSError("The disk is full.")

    monkeypatch.setattr(oracle, "_save_trial", fail)
    end(oracle, trial)
    assert oracle.create_trial("tuner0").status == TrialStatus.STOPPED
    assert exit_chief(oracle)


def test_who_listens_is_told_of_each_trial(tmp_path):
    oracle = oracle_in(tmp_path)
    told = []
    oracle.ended = lambda it: told.append([trial.trial_id for trial in it.ended_trials])
    run(oracle, 2)
    assert told == [["0"], ["0", "1"]]


@pytest.mark.parametrize(
    ("most", "rungs"), [(9, [1, 3, 9]), (30, [4, 10, 30]), (11, [2, 4, 11]), (2, [2])]
)
def test_hyperband_has_rungs_of_a_ninth_a_third_and_all_epochs(tmp_path, most, rungs):
    oracle = oracle_in(tmp_path, "hyperband", trials=30, max_epochs=most)
    budgets = []
    for index in range(30):
        trial = oracle.create_trial("tuner0")
        budgets.append(trial.hyperparameters.values["tuner/epochs"])
        end(oracle, trial, 0.01 * index)
    assert sorted(set(budgets)) == rungs
    assert oracle.create_trial("tuner0").status == TrialStatus.STOPPED


def test_seeds_draw_differently_and_the_same_seed_the_same(tmp_path):
    drawn = []
    for index, seed in enumerate((0, 0, 1)):
        oracle = oracle_in(tmp_path / str(index), seed=seed)
        run(oracle, 6)
        drawn.append(rates(oracle))
    assert drawn[0] == drawn[1]
    # Nor the same values in another order.
    assert not set(drawn[0]) & set(drawn[2])
