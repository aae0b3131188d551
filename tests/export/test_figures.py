import gzip
import math

import numpy as np
import pytest
from small_run import sparse_lenet300

from export import flatbuffer
from export.convert import Precision, convert
from export.csr import Storage
from export.figures import figures, information_bound
from export.sparsify import store
from export.weights import weights


def test_figures_of_a_file_are_those_of_the_model():
    model = sparse_lenet300()
    kernels = [layer.kernel.numpy() for layer in model.layers if hasattr(layer, "kernel")]
    content = convert(model)
    dense = figures(content)
    assert dense.bytes == len(content)
    assert dense.gzip_bytes == len(gzip.compress(content, mtime=0))
    assert dense.nonzeros == sum(np.count_nonzero(kernel) for kernel in kernels)
    assert dense.weights == sum(kernel.size for kernel in kernels)
    assert set(dense.storages.values()) == {Storage.DENSE}

    read = flatbuffer.read(content)
    largest = max(weights(read), key=lambda weight: weight.array.size)
    sparse = figures(flatbuffer.write(store(read, {largest.tensor: Storage.CSR})))
    assert sparse.bytes < dense.bytes
    assert (sparse.nonzeros, sparse.weights) == (dense.nonzeros, dense.weights)
    assert sorted(sparse.storages.values()) == ["csr", "dense", "dense"]


def test_figures_count_the_weights_of_a_float16_file():
    model = sparse_lenet300()
    found = figures(convert(model, Precision.FLOAT16))
    expected = figures(convert(model))
    assert (found.nonzeros, found.weights) == (expected.nonzeros, expected.weights)


def test_bound_of_a_kernel_that_is_half_zeros_is_its_values_and_a_bit_for_each_place():
    kernel = np.tile([0.0, 1.5], (8, 32))
    assert information_bound([kernel], 0, 4) == 4 * 256 + 512 // 8


def test_bound_of_one_value_among_many():
    kernel = np.zeros((10, 100))
    kernel[3, 4] = 1
    entropy = 1000 * -(0.001 * math.log2(0.001) + 0.999 * math.log2(0.999))
    assert information_bound([kernel], 0, 1) == math.ceil(1 + entropy / 8)


@pytest.mark.parametrize("fill", [0.0, 2.0])
def test_bound_of_all_or_nothing_has_no_entropy(fill):
    kernel = np.full((16, 16), fill)
    assert information_bound([kernel], 10, 4) == 4 * (10 + np.count_nonzero(kernel))
