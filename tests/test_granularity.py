import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_switcher import SwitchedDense, granularity
from keras_switcher.granularity import Granularity

SIZES = {"connection": 1, "block4": 4, "block16": 16, "unit": None}
some_names = st.sampled_from(sorted(SIZES))
some_kernels = st.tuples(st.integers(1, 40), st.integers(1, 5))
properties = settings(max_examples=30)


def reference_groups(name, inputs):
    """The inputs under each switch of a unit, one list a switch."""
    size = SIZES[name] or inputs
    return [list(range(start, min(start + size, inputs))) for start in range(0, inputs, size)]


@pytest.mark.parametrize("name", SIZES)
def test_registered_names_and_group_sizes(name):
    found = granularity.get(name)
    assert (found.name, found.size) == (name, SIZES[name])
    assert granularity.get(found) is found


@pytest.mark.parametrize(
    ("name", "shape"),
    [("connection", (10, 3)), ("block4", (3, 3)), ("block16", (1, 3)), ("unit", (1, 3))],
)
def test_shape_of_the_switches(name, shape):
    assert granularity.get(name).shape((10, 3)) == shape


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("connection", [1] * 18),
        ("block4", [4, 4, 4, 4, 2]),
        ("block16", [16, 2]),
        ("unit", [18]),
    ],
)
def test_the_last_group_holds_the_rest(name, sizes):
    found = granularity.get(name).sizes((18, 7))
    assert found.dtype == np.float32
    assert found.shape == (len(sizes), 1)
    assert found.ravel().tolist() == sizes


@properties
@given(some_names, some_kernels)
def test_sizes_count_the_groups_and_sum_to_the_inputs(name, kernel_shape):
    found = granularity.get(name)
    groups = reference_groups(name, kernel_shape[0])
    assert found.shape(kernel_shape) == (len(groups), kernel_shape[1])
    assert found.sizes(kernel_shape).ravel().tolist() == [len(group) for group in groups]


@properties
@given(some_names, some_kernels, st.integers(0, 2**16))
def test_expand_gives_each_connection_its_groups_switch(name, kernel_shape, seed):
    found = granularity.get(name)
    switches = np.random.default_rng(seed).normal(size=found.shape(kernel_shape)).astype("float32")
    expected = np.empty(kernel_shape, "float32")
    for row, group in enumerate(reference_groups(name, kernel_shape[0])):
        expected[group] = switches[row]
    expanded = np.asarray(found.expand(switches, kernel_shape))
    assert expanded.shape == ((1, kernel_shape[1]) if name == "unit" else kernel_shape)
    assert np.array_equal(np.broadcast_to(expanded, kernel_shape), expected)


@properties
@given(some_names, some_kernels, st.integers(0, 2**16))
def test_pool_averages_each_group_over_its_own_size(name, kernel_shape, seed):
    found = granularity.get(name)
    values = np.random.default_rng(seed).normal(size=kernel_shape).astype("float32")
    expected = [values[group].mean(axis=0) for group in reference_groups(name, kernel_shape[0])]
    pooled = np.asarray(found.pool(values, kernel_shape))
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(pooled, expected, rtol=1e-4, atol=1e-6)


@properties
@given(some_names, some_kernels, st.integers(0, 2**16))
def test_pool_undoes_expand(name, kernel_shape, seed):
    found = granularity.get(name)
    switches = np.random.default_rng(seed).normal(size=found.shape(kernel_shape)).astype("float32")
    expanded = np.broadcast_to(np.asarray(found.expand(switches, kernel_shape)), kernel_shape)
    pooled = np.asarray(found.pool(expanded, kernel_shape))
    np.testing.assert_allclose(pooled, switches, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [0, -4, 2.5, "4", True])
def test_a_group_holds_at_least_one_input(size):
    with pytest.raises(ValueError, match=f"group of 1 or more inputs.*Received: size={size!r}$"):
        Granularity("mine", size)


@pytest.mark.parametrize("wrong", ["bloc4", "BLOCK4"])
def test_unknown_granularity_is_answered_with_the_nearest_and_all_names(wrong):
    with pytest.raises(ValueError) as error:
        granularity.get(wrong)
    assert str(error.value) == (
        f"Unknown granularity '{wrong}'. Did you mean 'block4'? "
        "Registered: 'block16', 'block4', 'connection', 'unit'. Add your own with "
        "keras_switcher.granularity.register(Granularity('name', size))."
    )


@pytest.mark.parametrize("wrong", [None, 4, ("block4",)])
def test_a_granularity_must_be_a_name_or_a_granularity(wrong):
    with pytest.raises(ValueError, match="Unknown granularity"):
        granularity.get(wrong)


def test_own_granularity_works_in_a_layer_and_is_found_again():
    block3 = granularity.register(Granularity("block3", np.int64(3)))
    layer = SwitchedDense(2, granularity=block3)
    layer.build((None, 7))
    assert layer.switches.shape == (3, 2)
    assert SwitchedDense.from_config(layer.get_config()).granularity == block3


@pytest.mark.parametrize(
    "unregistered", [Granularity("block8", 8), Granularity("block4", 8)], ids=["new", "other size"]
)
def test_unregistered_granularity_is_refused_for_it_could_not_be_loaded(unregistered):
    with pytest.raises(ValueError, match="must be registered.*Received: Granularity"):
        SwitchedDense(2, granularity=unregistered)
