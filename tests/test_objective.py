import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_switcher.objective import check_target, next_multiplier, next_offset


@pytest.mark.parametrize("target", [0, 0.0, 0.5, 0.999999, np.float32(0.5), np.float64(0.9)])
def test_valid_target_is_returned_as_a_float(target):
    assert check_target(target) == float(target)
    assert type(check_target(target)) is float


def test_no_target_is_valid():
    assert check_target(None) is None


@pytest.mark.parametrize(
    "target", [-0.1, 1, 1.0, 1.5, 95, True, False, float("nan"), float("inf"), "0.5", [0.5], 1j]
)
def test_target_outside_its_range_is_refused_with_an_example(target):
    with pytest.raises(ValueError) as error:
        check_target(target)
    assert "in [0, 1), such as 0.95 for 95 %" in str(error.value)
    assert str(error.value).endswith(f"Received: target_sparsity={target!r}")


# Offset and multiplier

shares = st.floats(0, 1, width=32)


@settings(max_examples=30)
@given(st.floats(-10, 10, width=32), shares, shares)
def test_offset_moves_towards_the_target_by_a_bounded_step(offset, density, target):
    step = float(next_offset(offset, np.float32(density), np.float32(target))) - offset
    assert abs(step) <= 0.25 + 1e-5
    if abs(step) > 1e-5:
        assert (step > 0) == (target > density)


def test_offset_step_is_half_of_the_missing_log_odds():
    moved = float(next_offset(1.0, np.float32(0.50), np.float32(0.55)))
    assert moved == pytest.approx(1.0 + 0.5 * np.log(0.55 / 0.45), abs=1e-5)


@pytest.mark.parametrize(("density", "target", "step"), [(0.1, 0.9, 0.25), (0.9, 0.1, -0.25)])
def test_offset_far_from_the_target_moves_by_the_largest_step(density, target, step):
    assert float(next_offset(0.0, np.float32(density), np.float32(target))) == pytest.approx(step)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_offset_rests_at_the_target(share):
    assert float(next_offset(2.0, np.float32(share), np.float32(share))) == 2.0


def test_offset_arrives_at_the_target():
    logits = np.random.default_rng(0).normal(size=2000)
    offset = 3.0
    for _ in range(60):
        density = np.float32((logits + offset > 0).mean())
        offset = float(next_offset(offset, density, np.float32(0.05)))
    assert (logits + offset > 0).mean() == pytest.approx(0.05, abs=0.005)


def test_multiplier_moves_by_the_rate_against_the_gradient():
    moved = next_multiplier(np.float32(2.0), np.float32(0.6), np.float32(0.3), 0.05)
    assert float(moved) == pytest.approx(2.0 - 0.05 * 2.0, rel=1e-5)
    moved = next_multiplier(np.float32(2.0), np.float32(-0.6), np.float32(0.3), 0.5)
    assert float(moved) == pytest.approx(2.0 + 0.5 * 2.0, rel=1e-5)


def test_multiplier_rests_where_the_objective_does_not_change_with_the_offset():
    assert float(next_multiplier(np.float32(2.0), np.float32(0.0), np.float32(0.3), 0.5)) == 2.0


def test_multiplier_finds_the_price_of_density():
    loss_slope, density_slope, multiplier = -0.8, 0.2, np.float32(0.0)
    for _ in range(200):
        gradient = np.float32(loss_slope + float(multiplier) * density_slope)
        multiplier = next_multiplier(multiplier, gradient, np.float32(density_slope), 0.05)
    assert float(multiplier) == pytest.approx(4.0, rel=1e-3)


@pytest.mark.parametrize("gradient", [np.nan, np.inf, -np.inf])
def test_multiplier_survives_a_gradient_that_is_not_finite(gradient):
    assert float(next_multiplier(np.float32(2.0), np.float32(gradient), np.float32(0.3), 1)) == 2.0
