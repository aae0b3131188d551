import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from keras_switcher import granularity
from keras_switcher.settling import choose_on, settled_logits

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


@settings(max_examples=100)
@given(layer_lists, st.integers(0, 2**16), st.floats(0, 0.99))
def test_settled_logits_are_above_0_where_chosen_and_keep_their_order(layers, seed, target):
    logits, sizes = made(layers, seed)
    chosen = choose_on(logits, sizes, target)
    for z, on, settled in zip(logits, chosen, settled_logits(logits, sizes, target), strict=True):
        assert settled.dtype == np.float32
        assert np.array_equal(settled > 0, on)
        assert settled[on].min() >= np.float32(1e-3)
        ranked = settled[on][np.argsort(z[on], kind="stable")]
        assert np.all(np.diff(ranked) >= 0)


def test_logits_that_are_at_the_target_already_stay_as_they_are():
    logits = [np.array([[2.0, -1.0], [0.5, -3.0]], "float32")]
    (settled,) = settled_logits(logits, [np.ones((2, 1), "float32")], 0.5)
    np.testing.assert_array_equal(settled, [[2.0, 0.0], [0.5, 0.0]])
