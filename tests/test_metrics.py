import keras
import numpy as np
import pytest
from small import network

from keras_switcher import SwitchedDense
from keras_switcher.layers import switched_layers
from keras_switcher.metrics import Sparsity, layer_table


def model(*layers, inputs=18):
    return keras.Sequential([keras.Input((inputs,)), *layers])


def turn_off(layer, *switches):
    values = np.ones(layer.switches.shape, "float32")
    for group, unit in switches:
        values[group, unit] = 0
    layer.switches.assign(values)


@pytest.mark.parametrize(
    ("granularity", "on"),
    [("connection", 54 - 2), ("block4", 54 - 4 - 2), ("block16", 54 - 16 - 2), ("unit", 18)],
)
def test_table_counts_connections_exactly_with_a_last_partial_block(granularity, on):
    net = model(SwitchedDense(3, granularity=granularity, name="dense"))
    turn_off(net.layers[0], *([(0, 0), (0, 1)] if granularity == "unit" else [(0, 0), (-1, 2)]))
    assert layer_table(net) == [{"name": "dense", "shape": [18, 3], "connections": 54, "on": on}]
    assert type(layer_table(net)[0]["on"]) is int


def test_table_has_a_row_for_each_switched_layer_alone_at_any_depth():
    inner = model(SwitchedDense(4, name="deep"), keras.layers.Dense(3), inputs=5)
    net = model(SwitchedDense(5, name="first"), keras.layers.ReLU(), inner)
    assert [(row["name"], row["shape"]) for row in layer_table(net)] == [
        ("first", [18, 5]),
        ("deep", [5, 4]),
    ]
    assert layer_table(model(keras.layers.Dense(3))) == []


def test_table_counts_what_is_on_not_how_strong_it_is():
    net = model(SwitchedDense(2, gate="relu_tanh"), inputs=3)
    net.layers[0].switches.assign([[0.25, 0.0], [0.0, 0.125], [0.5, 1.0]])
    assert layer_table(net)[0]["on"] == 4


def test_table_is_exact_where_float32_no_longer_counts():
    layer = SwitchedDense(
        4097,
        use_bias=False,
        switcher="connection",
        granularity="unit",
        kernel_initializer="zeros",
    )
    (row,) = layer_table(model(layer, inputs=4097))
    assert row["on"] == row["connections"] == 4097**2  # odd, and above 2**24


def test_sparsity_is_the_share_of_connections_off_over_all_layers():
    net = model(SwitchedDense(3, granularity="block4"), SwitchedDense(2))
    first, second = net.layers
    metric = Sparsity(lambda: switched_layers(net))
    assert float(metric.result()) == 0
    turn_off(first, (0, 0), (4, 1))  # 4 and 2 connections of 54
    turn_off(second, (1, 1))  # 1 of 6
    assert float(metric.result()) == pytest.approx(7 / 60, abs=1e-6)


def test_sparsity_without_a_switched_layer_is_zero():
    assert float(Sparsity(lambda: []).result()) == 0


def test_sparsity_has_no_state_to_lose():
    net = model(SwitchedDense(3))
    metric = Sparsity(lambda: switched_layers(net))
    turn_off(net.layers[0], (0, 0))
    before = float(metric.result())
    metric.update_state(np.zeros(3), np.ones(3))
    metric.reset_state()
    assert float(metric.result()) == before == pytest.approx(1 / 54)
    assert metric.variables == []
    assert metric.name == "sparsity"


def test_models_report_the_same_sparsity_everywhere():
    net = network(granularity="block4")
    rng = np.random.default_rng(0)
    for layer in net.switched_layers():
        layer.switches.assign(rng.integers(0, 2, layer.switches.shape))
    rows = layer_table(net)
    share = 1 - sum(row["on"] for row in rows) / sum(row["connections"] for row in rows)
    assert 0.2 < share < 0.8
    assert net.sparsity == pytest.approx(share, abs=1e-6)
