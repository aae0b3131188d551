import json

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_switcher import Alternation
from keras_switcher.alternation import AlternationState


@pytest.mark.parametrize("name", ["task_steps", "switcher_steps"])
@pytest.mark.parametrize("value", [0, -1, 1.0, "4", None, True])
def test_steps_must_be_integers_from_one(name, value):
    with pytest.raises(ValueError) as error:
        Alternation(**{name: value})
    expected = f"Expected an integer `{name}` >= 1. Received: {name}={value!r}"
    assert str(error.value) == expected


def test_numbers_of_numpy_are_as_good():
    given = Alternation(task_steps=np.int64(4), warmup=np.float32(0.25))
    assert given == Alternation(task_steps=4, warmup=0.25)
    assert json.dumps(given.get_config()) == json.dumps(Alternation(4, warmup=0.25).get_config())


@pytest.mark.parametrize("name", ["warmup", "settle"])
@pytest.mark.parametrize("value", [-0.1, 1, 1.5, "0.1", None, True, float("nan")])
def test_phases_must_be_shares_of_the_training(name, value):
    with pytest.raises(ValueError, match=rf"`{name}`.*in \[0, 1\)\. Received: {name}={value!r}$"):
        Alternation(**{"warmup": 0, "settle": 0, name: value})


@pytest.mark.parametrize("value", [-0.1, 1.01, "1", None, True, float("nan")])
def test_ramp_must_be_a_share_of_the_alternate_phase(value):
    with pytest.raises(ValueError, match=rf"`ramp`.*in \[0, 1\]\. Received: ramp={value!r}$"):
        Alternation(ramp=value)


@pytest.mark.parametrize(("warmup", "settle"), [(0.6, 0.4), (0.5, 0.5), (0.9, 0.9)])
def test_there_must_be_time_to_alternate(warmup, settle):
    with pytest.raises(ValueError, match=f"time to alternate.*warmup={warmup}, settle={settle}$"):
        Alternation(warmup=warmup, settle=settle)


def test_boundary_values_are_valid():
    assert Alternation(1, 1, warmup=0, settle=0, ramp=1) == Alternation(1, 1, 0.0, 0.0, 1.0)
    assert Alternation(warmup=0.999, settle=0).ramp == 0.8


def test_plan_gives_the_first_step_of_the_switcher_the_end_of_the_ramp_and_the_settling():
    assert Alternation(warmup=0.1, settle=0.4, ramp=0.8).plan(1000) == (100, 500, 600)
    assert Alternation(warmup=0, settle=0, ramp=0).plan(50) == (0, 0, 50)
    assert Alternation(warmup=0, settle=0, ramp=1).plan(50) == (0, 50, 50)
    assert Alternation().plan(0) == (0, 0, 0)


@settings(max_examples=200)
@given(
    st.floats(0, 0.99), st.floats(0, 1, exclude_max=True), st.floats(0, 1), st.integers(0, 10**6)
)
def test_plan_never_goes_backwards_nor_beyond_the_training(warmup, rest, ramp, steps):
    alternation = Alternation(warmup=warmup, settle=max(0.0, 0.99 - warmup) * rest, ramp=ramp)
    begin, ramp_end, settle = alternation.plan(steps)
    assert 0 <= begin <= ramp_end <= settle <= steps


def test_configuration_survives_serialisation():
    alternation = Alternation(3, 2, warmup=0.2, settle=0.3, ramp=0.5)
    assert alternation.get_config() == {
        "task_steps": 3,
        "switcher_steps": 2,
        "warmup": 0.2,
        "settle": 0.3,
        "ramp": 0.5,
    }
    assert Alternation.from_config(alternation.get_config()) == alternation
    serialized = keras.saving.serialize_keras_object(alternation)
    assert keras.saving.deserialize_keras_object(serialized) == alternation


def test_alternation_can_not_be_changed_behind_the_checks():
    with pytest.raises(AttributeError):
        Alternation().warmup = 2


# The state of a model


def started(begin=10, ramp_end=50, settle=80):
    state = AlternationState()
    state.plan.assign((begin, ramp_end, settle))
    return state


def at(state, step):
    state.step.assign(step)
    return state


def test_phases_follow_the_plan_until_the_structure_is_frozen():
    state = started()
    phases = {step: at(state, step).phase() for step in (0, 9, 10, 79)}
    assert phases == {0: "warmup", 9: "warmup", 10: "alternate", 79: "alternate"}
    state.settled.assign(1)
    assert {at(state, step).phase() for step in (0, 20, 100)} == {"settle"}


def test_new_state_alternates_from_the_first_step_without_an_end():
    state = AlternationState()
    assert state.phase() == "alternate"
    assert [bool(at(state, n).is_switcher_turn(Alternation(2))) for n in range(5)] == [
        False,
        False,
        True,
        False,
        True,
    ]
    assert at(state, 2**30).phase() == "alternate"


@pytest.mark.parametrize("task_steps", [1, 2, 4, 7])
@pytest.mark.parametrize("switcher_steps", [1, 3])
def test_switcher_has_its_turn_after_every_k_task_steps(task_steps, switcher_steps):
    state, alternation = started(begin=10), Alternation(task_steps, switcher_steps)
    turns = [n for n in range(40) if bool(at(state, n).is_switcher_turn(alternation))]
    assert turns == list(range(10 + task_steps, 40, task_steps))


def test_switcher_has_no_turn_once_the_structure_is_frozen():
    state = started(begin=0)
    state.settled.assign(1)
    assert not any(bool(at(state, n).is_switcher_turn(Alternation(1))) for n in range(20))


@pytest.mark.parametrize("target", [0.0, 0.5, 0.95])
def test_target_density_falls_from_dense_to_its_target(target):
    state = started(begin=10, ramp_end=50)
    densities = np.array([float(at(state, n).target_density(target)) for n in range(70)])
    assert (densities[:11] == 1).all()
    np.testing.assert_allclose(densities[50:], 1 - target, atol=1e-6)
    assert (np.diff(densities) <= 0).all()
    if target:
        assert (np.diff(densities[10:51]) < 0).all()
        assert densities[30] == pytest.approx(1 - target * (1 - 0.5**3), abs=1e-6)


def test_target_without_a_ramp_holds_from_the_first_step():
    state = started(begin=10, ramp_end=10)
    assert float(at(state, 10).target_density(0.9)) == 1
    assert float(at(state, 11).target_density(0.9)) == pytest.approx(0.1)


def test_restart_goes_back_to_the_beginning():
    state, fresh = started(), AlternationState()
    for variable in (state.step, state.settled, state.offset, state.multiplier):
        variable.assign(3)
    state.restart()
    for one, other in zip(state.weights, fresh.weights, strict=True):
        assert np.array_equal(one, other)


def test_state_is_in_the_weights_and_none_is_trained():
    state = AlternationState()
    assert [w.name for w in state.weights] == ["step", "plan", "settled", "offset", "multiplier"]
    assert state.trainable_weights == []
    other = started()
    other.step.assign(42)
    state.set_weights(other.get_weights())
    assert int(state.step) == 42
    assert state.plan.numpy().tolist() == [10, 50, 80]
