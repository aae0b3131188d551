import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keras_switcher import granularity
from keras_switcher.objective import check_target, choose_on, next_multiplier, next_offset


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


# What stays on when the structure settles

layer_lists = st.lists(
    st.tuples(
        st.sampled_from(["connection", "block4", "block16", "unit"]),
        st.integers(1, 50),  # inputs
        st.integers(1, 20),  # units
        st.floats(-4, 4),  # mean of the logits
        st.sampled_from([0.0, 0.01, 1.0]),  # their deviation; 0 makes all of them equal
    ),
    min_size=1,
    max_size=4,
)


def made(layers, seed=0):
    """Logits and group sizes of made-up layers."""
    rng = np.random.default_rng(seed)
    logits, sizes = [], []
    for name, inputs, units, mean, deviation in layers:
        grain = granularity.get(name)
        shape = grain.shape((inputs, units))
        logits.append(rng.normal(mean, deviation, shape).astype("float32"))
        sizes.append(grain.sizes((inputs, units)))
    return logits, sizes


def count(chosen, sizes):
    return sum(float((on * size).sum()) for on, size in zip(chosen, sizes, strict=True))


def total(logits, sizes):
    return count([np.ones(z.shape) for z in logits], sizes)


def least(logits, sizes):
    """Connections that are on where each layer keeps its first switch alone."""
    first = [np.argsort(-z, axis=None, kind="stable")[0] for z in logits]
    spread = [np.broadcast_to(s, z.shape).ravel() for z, s in zip(logits, sizes, strict=True)]
    return float(sum(s[i] for s, i in zip(spread, first, strict=True)))


@settings(max_examples=300)
@given(layer_lists, st.integers(0, 2**16), st.floats(0, 0.99))
# Two layers of a few large units: both must give way for the target to be met.
@example([("unit", 54, 2, -9, 1), ("unit", 47, 5, 9, 1), ("unit", 11, 1, -9, 1)], 0, 0.5)
@example([("unit", 59, 5, -9, 1), ("unit", 44, 6, 9, 1)], 0, 0.8)
# And more than once.
@example([("unit", 10, 10, -4, 1), ("block4", 47, 12, -1, 1), ("unit", 30, 19, -4, 1)], 0, 0.74)
def test_target_is_met_to_within_one_group(layers, seed, target):
    logits, sizes = made(layers, seed)
    kept = count(choose_on(logits, sizes, target), sizes)
    wanted = (1 - target) * total(logits, sizes)
    largest = max(float(size.max()) for size in sizes)
    if wanted >= least(logits, sizes):
        assert abs(kept - wanted) <= largest
    else:  # as sparse as it gets
        assert kept <= least(logits, sizes) + largest


@settings(max_examples=200)
@given(layer_lists, st.integers(0, 2**16), st.floats(0, 0.99))
def test_every_layer_keeps_a_connection_and_its_largest_logits(layers, seed, target):
    logits, sizes = made(layers, seed)
    for z, on in zip(logits, choose_on(logits, sizes, target), strict=True):
        assert on.dtype == bool and on.shape == z.shape
        assert on.any()
        assert on.all() or z[on].min() >= z[~on].max()


@pytest.mark.parametrize("target", [0, 0.1, 0.5, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("name", ["connection", "block4", "block16", "unit"])
def test_target_of_a_network_is_met_to_half_a_point(name, target):
    """LeNet-300-100, wherever its grain allows half a point: 784 x 300 has units of 0.3 points."""
    layers = [(name, 784, 300, -2, 1), (name, 300, 100, -1, 1), (name, 100, 10, 1, 1)]
    logits, sizes = made(layers)
    sparsity = 1 - count(choose_on(logits, sizes, target), sizes) / total(logits, sizes)
    assert sparsity == pytest.approx(target, abs=0.005)


def test_target_of_single_connections_is_met_to_one_connection():
    logits, sizes = made([("connection", 50, 20, -1, 1), ("connection", 20, 10, 1, 1)])
    assert count(choose_on(logits, sizes, 0.9), sizes) == 120
    assert count(choose_on(logits, sizes, 0.0), sizes) == 1200


def test_layers_keep_the_densities_that_the_switchers_gave_them():
    logits, sizes = made([("connection", 100, 50, -2, 1), ("connection", 100, 50, 1, 1)])
    sparse, dense = (float((z > 0).mean()) for z in logits)
    both_on = 1 - (sparse + dense) / 2
    for z, on in zip(logits, choose_on(logits, sizes, both_on), strict=True):
        assert np.abs(on ^ (z > 0)).mean() < 0.001
    sparser = [on.mean() for on in choose_on(logits, sizes, 0.9)]
    assert sum(sparser) / 2 == pytest.approx(0.1, abs=1e-3)
    odds = [d / (1 - d) for d in (sparse, dense, *sparser)]
    assert odds[1] / odds[0] == pytest.approx(odds[3] / odds[2], rel=0.05)


def test_ties_are_broken_by_position():
    (on,) = choose_on([np.zeros((2, 4), "float32")], [np.ones((2, 1), "float32")], 0.5)
    assert on.tolist() == [[True] * 4, [False] * 4]


def test_a_layer_that_was_all_off_keeps_one():
    logits = [np.full((20, 20), -50, "float32"), np.full((20, 20), 50, "float32")]
    off, on = choose_on(logits, [np.ones((20, 1), "float32")] * 2, 0.5)
    assert off.sum() >= 1
    assert off.sum() + on.sum() == 400


def test_logits_are_left_as_they_were():
    logits, sizes = made([("block4", 9, 3, 0, 1)])
    before = logits[0].copy()
    choose_on(logits, sizes, 0.5)
    assert np.array_equal(logits[0], before)


def test_choosing_takes_less_than_five_times_the_memory_of_the_logits():
    # It comes on top of what the training holds.
    logits = np.random.default_rng(0).normal(size=(500, 1000)).astype("float32")
    tracemalloc.start()
    choose_on([logits], [np.ones((500, 1), "float32")], 0.95)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * logits.nbytes
