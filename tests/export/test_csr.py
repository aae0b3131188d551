import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.csr import BLOCKS, Storage, block_density, can_store, decode, encode, encoded_bytes

SPARSE = [storage for storage in Storage if storage is not Storage.DENSE]


@st.composite
def sparse_arrays(draw, block=None):
    """Matrices and filters with any share of zeros, none and all among them."""
    block = draw(st.sampled_from([1, 4, 16])) if block is None else block
    leading = draw(st.lists(st.integers(1, 7), min_size=1, max_size=3))
    columns = block * draw(st.sampled_from([1, 2, 5, 30, 300]))
    density = draw(st.sampled_from([0.0, 0.02, 0.3, 1.0]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from(["float32", "int8"]))
    values = random.integers(1, 127, (*leading, columns)).astype(dtype)
    return values * (random.random(values.shape) < density).astype(dtype), block


@given(sparse_arrays())
def test_decoding_gives_back_what_was_encoded(case):
    array, block = case
    decoded = decode(encode(array, block))
    np.testing.assert_array_equal(decoded, array)
    assert decoded.dtype == array.dtype


@given(sparse_arrays())
def test_rows_and_indices_are_in_order_and_nothing_but_non_zeros_is_kept(case):
    array, block = case
    sparse = encode(array, block)
    rows = array.reshape(-1, array.shape[-1])
    assert len(sparse.segments) == len(rows) + 1
    for row, (start, end) in zip(
        rows, zip(sparse.segments, sparse.segments[1:], strict=False), strict=True
    ):
        found = sorted({place // block for place in np.flatnonzero(row)})
        assert sparse.indices[start:end].tolist() == found
    assert len(sparse.values) == block * len(sparse.indices)
    assert sparse.values.reshape(-1, block).any(axis=1).all()


@pytest.mark.parametrize("storage", SPARSE)
@settings(max_examples=40)
@given(data=st.data())
def test_encoded_bytes_are_those_of_the_encoded_tensor(storage, data):
    array, block = data.draw(sparse_arrays(BLOCKS[storage]))
    sparse = encode(array, block)
    assert encoded_bytes(array, storage) == sparse.nbytes
    assert encoded_bytes(array, Storage.DENSE) == array.nbytes
    np.testing.assert_allclose(
        block_density(array, block), len(sparse.indices) / (array.size / block)
    )


def test_a_matrix_becomes_rows_of_columns_and_values():
    sparse = encode(np.array([[0, 7, 0, 8], [0, 0, 0, 0], [9, 0, 0, 0]], "float32"))
    assert sparse.segments.tolist() == [0, 2, 2, 3]
    assert sparse.indices.tolist() == [1, 3, 0]
    assert sparse.values.tolist() == [7, 8, 9]


def test_a_block_keeps_its_zeros():
    sparse = encode(np.array([[0, 0, 0, 0, 5, 0, 0, 6]], "float32"), block=4)
    assert sparse.segments.tolist() == [0, 1]
    assert sparse.indices.tolist() == [1]
    assert sparse.values.tolist() == [5, 0, 0, 6]
    assert block_density(decode(sparse), 4) == 0.5


@pytest.mark.parametrize(
    ("columns", "dtype"),
    [(256, "uint8"), (257, "uint16"), (65_536, "uint16"), (65_537, "int32"), (70_000, "int32")],
)
def test_indices_take_the_smallest_type_that_holds_the_last_column(columns, dtype):
    array = np.zeros((2, columns), "float32")
    array[1, -1] = 3
    sparse = encode(array)
    assert sparse.indices.dtype == dtype
    assert sparse.segments.dtype == "uint8"
    np.testing.assert_array_equal(decode(sparse), array)


@pytest.mark.parametrize(
    ("count", "dtype"), [(255, "uint8"), (256, "uint16"), (65_535, "uint16"), (65_536, "int32")]
)
def test_segments_take_the_smallest_type_that_holds_the_count(count, dtype):
    array = np.ones((1, count), "float32")
    assert encode(array).segments.dtype == dtype
    assert encoded_bytes(array, Storage.CSR) == encode(array).nbytes


def test_an_all_zero_matrix_keeps_nothing_but_segments():
    sparse = encode(np.zeros((5, 30), "float32"))
    assert sparse.nbytes == 6
    assert sparse.segments.tolist() == [0] * 6
    assert not decode(sparse).any()


def test_not_a_number_is_kept_and_negative_zero_is_not():
    sparse = encode(np.array([[np.nan, -0.0]], "float32"))
    assert sparse.indices.tolist() == [0]


@pytest.mark.parametrize("function", [encode, block_density])
def test_a_block_that_does_not_divide_the_columns_is_an_error(function):
    with pytest.raises(
        ValueError, match=r"block that divides.*Received: block=4 for shape \(2, 30"
    ):
        function(np.ones((2, 30), "float32"), 4)


@pytest.mark.parametrize("storage", Storage)
def test_what_fits_a_kernel_can_be_stored(storage):
    dtype = "int8" if storage is Storage.BLOCK16 else "float32"
    assert can_store(np.ones((3, 32), dtype), storage) is None


@pytest.mark.parametrize(
    ("shape", "dtype", "storage", "reason"),
    [
        ((3, 32), "int8", Storage.CSR, "float32 weights. Received: int8"),
        ((3, 32), "int8", Storage.BLOCK4, "float32 weights. Received: int8"),
        ((3, 32), "int8", Storage.DENSIFY, "float32 weights. Received: int8"),
        ((3, 32), "float16", Storage.DENSIFY, "float32 weights. Received: float16"),
        ((3, 32), "float32", Storage.BLOCK16, "int8 weights. Received: float32"),
        ((3, 30), "float32", Storage.BLOCK4, "multiples of 4. Received: 30 inputs"),
        ((3, 24), "int8", Storage.BLOCK16, "multiples of 16. Received: 24 inputs"),
        ((3, 3, 3, 4), "float32", Storage.CSR, "fully connected layer. Received: a filter"),
    ],
)
def test_what_no_kernel_reads_is_refused_with_the_reason(shape, dtype, storage, reason):
    assert reason in can_store(np.ones(shape, dtype), storage)


@pytest.mark.parametrize(
    ("blocks", "stored_blocks", "is_possible"),
    [(255, 255, True), (256, 255, True), (256, 256, False), (257, 1, False)],
)
def test_hybrid_blocks_are_counted_and_numbered_in_one_byte(blocks, stored_blocks, is_possible):
    array = np.zeros((2, 16 * blocks), "int8")
    array[1, : 16 * stored_blocks] = 1
    assert (can_store(array, Storage.BLOCK16, hybrid=True) is None) == is_possible
    assert can_store(array, Storage.BLOCK16, hybrid=False) is None
