import dataclasses

import numpy as np
import pytest

from export.csr import Storage, encoded_bytes
from export.storage import Goal, Thresholds, choose
from export.weights import Weight


def weight(array, kind="fully_connected", hybrid=False, rows=1):
    return Weight("kernel", 7, kind, hybrid, Storage.DENSE, array, rows)


def random(sparsity, shape=(64, 128), block=1, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    units, inputs = shape
    mask = rng.random((units, inputs // block)) >= sparsity
    values = rng.integers(1, 100, shape)
    return (values * np.repeat(mask, block, axis=1)).astype(dtype)


def chosen(array, goal, **options):
    return choose([weight(array, **options)], goal).get(7, Storage.DENSE)


@pytest.mark.parametrize("goal", Goal)
def test_a_kernel_without_zeros_stays_dense(goal):
    assert chosen(random(0.0), goal) is Storage.DENSE


@pytest.mark.parametrize("goal", Goal)
def test_very_sparse_connections_are_stored_as_they_are(goal):
    assert chosen(random(0.99, shape=(64, 130)), goal) is Storage.CSR


@pytest.mark.parametrize("goal", Goal)
def test_blocks_are_stored_as_blocks(goal):
    assert chosen(random(0.9, block=4), goal) is Storage.BLOCK4
    int8 = random(0.9, block=16, dtype="int8")
    assert chosen(int8, goal) is Storage.BLOCK16
    assert chosen(int8, goal, hybrid=True) is Storage.BLOCK16


def test_half_of_the_zeros_is_too_few_for_speed_and_enough_for_size():
    half = random(0.6)
    assert chosen(half, Goal.SIZE) is Storage.CSR
    assert chosen(half, Goal.BALANCED) is Storage.DENSIFY
    assert chosen(half, Goal.LATENCY) is Storage.DENSIFY


@pytest.mark.parametrize("goal", Goal)
def test_what_sparse_storage_would_make_larger_stays_dense(goal):
    assert chosen(random(0.15), goal) is Storage.DENSE


def test_size_is_never_larger_than_any_other_storage():
    for sparsity in (0.1, 0.3, 0.35, 0.5, 0.8, 0.95, 0.99):
        for block in (1, 4):
            array = random(sparsity, block=block)
            kinds = (Storage.DENSE, Storage.CSR, Storage.BLOCK4)
            smallest = min(encoded_bytes(array, kind) for kind in kinds)
            assert encoded_bytes(array, chosen(array, Goal.SIZE)) == smallest


def test_latency_takes_blocks_with_zeros_in_them_where_they_make_fewer_steps():
    # Half of the values in its blocks are zero: larger than CSR, and half the steps.
    array = random(0.9, block=4)
    array[:, ::2] = 0
    assert chosen(array, Goal.LATENCY) is Storage.BLOCK4
    assert chosen(array, Goal.BALANCED) is Storage.CSR


def test_filters_can_only_be_unpacked():
    filters = random(0.9, shape=(32, 72)).reshape(32, 3, 3, 8)
    for goal in Goal:
        assert chosen(filters, goal, kind="conv") is Storage.DENSIFY
    full = np.ones((32, 3, 3, 8), "float32")
    assert chosen(full, Goal.SIZE, kind="conv") is Storage.DENSE


def test_int8_weights_without_blocks_stay_dense():
    assert chosen(random(0.8, dtype="int8"), Goal.SIZE) is Storage.DENSE


@pytest.mark.parametrize("goal", [Goal.BALANCED, Goal.LATENCY])
def test_a_layer_that_a_call_uses_many_times_must_be_sparser(goal):
    for array, kind in (
        (random(0.96, shape=(64, 130)), Storage.CSR),
        (random(0.9, block=4), Storage.BLOCK4),
        (random(0.9, block=16, dtype="int8"), Storage.BLOCK16),
    ):
        assert chosen(array, goal) is kind
        assert chosen(array, goal, rows=16) in (Storage.DENSIFY, Storage.DENSE)
        assert chosen(array, Goal.SIZE, rows=16) is kind
    assert chosen(random(0.99, shape=(64, 130)), goal, rows=16) is Storage.CSR


def test_thresholds_are_settings():
    array = random(0.8, shape=(64, 130))
    assert choose([weight(array)], Goal.LATENCY)[7] is Storage.DENSIFY
    eager = Thresholds(csr=0.7)
    assert choose([weight(array)], Goal.LATENCY, eager)[7] is Storage.CSR
    large = dataclasses.replace(Thresholds(), large_csr=0.7, large_bytes=array.nbytes)
    assert choose([weight(array)], Goal.LATENCY, large)[7] is Storage.CSR
