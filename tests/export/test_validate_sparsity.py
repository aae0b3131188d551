import numpy as np
import pytest
import tflite_files as files
from ai_edge_litert import schema_py_generated as schema
from tflite_files import refused

from export.csr import Storage
from export.errors import InvalidFile
from export.flatbuffer import read
from export.validate import validate, validate_model


def sparse_tensor(model):
    """Returns the sparse tensor of a model and its compressed dimension."""
    (tensor,) = (t for t in model.subgraphs[0].tensors if t.sparsity is not None)
    return tensor, tensor.sparsity.dimMetadata[1]


def test_blocks_for_which_the_converter_dropped_columns_are_refused():
    # 30 inputs are no multiple of 4: the converter leaves the last two out, without a word.
    content = files.converted("narrow", "sparse", 0.97, 30)
    with pytest.raises(InvalidFile, match="expected a multiple of 4 columns. Received: 30"):
        validate(content)


def test_int8_blocks_that_the_converter_gives_to_a_kernel_for_dense_ones_are_refused():
    content = files.converted("mlp", "sparse dynamic", 0.97, 16)
    with pytest.raises(InvalidFile, match="expected version 8. Received: 12"):
        validate(content)


def test_float16_blocks_of_the_converter_are_refused():
    content = files.converted("mlp", "sparse float16", 0.97, 8)
    with pytest.raises(InvalidFile, match="float16 in blocks of 4"):
        validate(content)


def segments(*changes):
    def change(model):
        _, compressed = sparse_tensor(model)
        vector = np.array(compressed.arraySegments.values, np.int64)
        for place, number in changes:
            vector[place] = number
        set_vector(compressed, "Segments", vector)

    return change


def set_vector(compressed, name, vector):
    setattr(compressed, f"array{name}Type", schema.SparseIndexVector.Int32Vector)
    setattr(compressed, f"array{name}", schema.Int32VectorT(values=vector.astype(np.int32)))


def indices(change):
    def changed(model):
        _, compressed = sparse_tensor(model)
        set_vector(compressed, "Indices", change(np.array(compressed.arrayIndices.values, "i8")))

    return changed


def parameters(**fields):
    def change(model):
        for name, value in fields.items():
            setattr(sparse_tensor(model)[0].sparsity, name, value)

    return change


def compressed_fields(**fields):
    def change(model):
        for name, value in fields.items():
            setattr(sparse_tensor(model)[1], name, value)

    return change


def short_segments(model):
    _, compressed = sparse_tensor(model)
    set_vector(compressed, "Segments", np.array(compressed.arraySegments.values[:-1]))


def no_segments(model):
    set_vector(sparse_tensor(model)[1], "Segments", np.zeros(0))


def falling_segments(model):
    _, compressed = sparse_tensor(model)
    vector = np.array(compressed.arraySegments.values, np.int64)
    vector[2] = vector[3] + 1
    vector[1] = vector[2] + 1
    set_vector(compressed, "Segments", vector)


def values(change):
    def changed(model):
        tensor, _ = sparse_tensor(model)
        buffer = model.buffers[tensor.buffer]
        buffer.data = change(buffer.data)

    return changed


def version(number):
    def change(model):
        for code in model.operatorCodes:
            code.version = number

    return change


def transposed(model):
    parameters(traversalOrder=[1, 0])(model)


HOSTILE = [
    ("short segments", short_segments, "segments: expected 7 of them. Received: 6"),
    ("no segments", no_segments, "segments: expected 7 of them. Received: 0"),
    ("a start after 0", segments((0, 1)), "segments: expected a start at 0. Received: 1"),
    ("a negative segment", segments((1, -5)), "expected none below the one before"),
    ("falling segments", falling_segments, "expected none below the one before"),
    ("an end beyond the indices", segments((-1, 10_000)), "the number of indices. Received: 10"),
    ("an end before the indices", segments((-1, 10), (-2, 10), (-3, 10)), "segments: expected"),
    ("short indices", indices(lambda v: v[:-1]), "the number of indices"),
    ("no indices", indices(lambda v: v[:0]), "an end at 0, the number of indices"),
    ("a small negative index", indices(lambda v: v - 1 - v[0]), "indices: expected 0 to"),
    ("a huge negative index", indices(lambda v: np.r_[-(2**31), v[1:]]), "indices: expected 0 to"),
    ("an index beyond the row", indices(lambda v: np.r_[v[:-1], 64]), "indices: expected 0 to"),
    (
        "indices that fall",
        indices(lambda v: v[::-1]),
        "indices: expected each above the one before",
    ),
    ("an index twice", indices(lambda v: np.r_[v[:1], v[:1], v[2:]]), "each above the one before"),
    ("no vector of indices", compressed_fields(arrayIndices=None), "expected an index vector"),
    ("no vector of segments", compressed_fields(arraySegments=None), "expected an index vector"),
    ("an unknown vector", compressed_fields(arrayIndicesType=0), "expected an index vector"),
    ("another vector", compressed_fields(arrayIndicesType=1), "expected an index vector"),
    ("a dense dimension", compressed_fields(format=0), "expected a compressed dimension"),
    ("an unknown format", compressed_fields(format=7), "expected a compressed dimension"),
    ("short values", values(lambda data: data[:-4]), "bytes of values. Received:"),
    ("no values", values(lambda data: data[:0]), "bytes of values. Received: 0"),
    ("more values", values(lambda data: np.r_[data, data[:4]]), "bytes of values. Received:"),
    ("no buffer", values(lambda data: None), "expected values of a sparse tensor"),
    ("no order", parameters(traversalOrder=None), "expected traversal order [0, 1"),
    ("another order", transposed, "expected traversal order [0, 1"),
    ("a place twice", parameters(traversalOrder=[0, 0]), "expected traversal order [0, 1"),
    ("no dimensions", parameters(dimMetadata=None), "expected"),
    ("a block map", parameters(blockMap=[0]), "expected block map"),
    ("version 1", version(1), "expected version 8. Received: 1"),
    ("version 9", version(9), "expected version 8. Received: 9"),
    ("version 12", version(12), "expected version 8. Received: 12"),
]


@pytest.mark.parametrize("storage", [Storage.CSR, Storage.BLOCK4, Storage.BLOCK16])
@pytest.mark.parametrize(
    ("change", "expected"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE]
)
def test_hostile_sparsity_is_refused(storage, change, expected):
    model = read(files.sparse_file(storage))
    validate_model(model)
    change(model)
    assert expected in refused(model)


def test_a_block_index_beyond_the_row_is_refused():
    model = read(files.sparse_file(Storage.BLOCK4))
    indices(lambda vector: np.r_[vector[:-1], 16])(model)
    assert "indices: expected 0 to 15. Received:" in refused(model)


@pytest.mark.parametrize("size", [0, 1, 2, 3, 5, 8, 16, 32, -4])
def test_a_block_without_a_kernel_is_refused(size):
    model = read(files.sparse_file(Storage.BLOCK4))
    sparse_tensor(model)[0].sparsity.dimMetadata[2].denseSize = size
    assert f"float32 in blocks of {size}" in refused(model)


@pytest.mark.parametrize("storage", [Storage.CSR, Storage.BLOCK4, Storage.BLOCK16])
@pytest.mark.parametrize("rows", [0, 5, 7, 2**31 - 1, -1])
def test_rows_that_are_not_those_of_the_shape_are_refused(storage, rows):
    model = read(files.sparse_file(storage))
    sparse_tensor(model)[0].sparsity.dimMetadata[0].denseSize = rows
    assert f"dimension 0: expected size 6. Received: {rows}" in refused(model)


@pytest.mark.parametrize(("blocks", "full"), [(257, 1), (256, 256)])
def test_hybrid_blocks_beyond_a_byte_are_refused(blocks, full):
    array = np.zeros((2, 16 * blocks), "int8")
    array[:, : 16 * full] = 1
    array[:, -16:] = 1
    # Full int8 has no such limit: its weight is one that the hybrid layer can't have.
    content, _ = files.stored(files.dense_layer(array, "int8"), Storage.BLOCK16)
    validate(content)
    allowed = read(content)
    weight, _ = sparse_tensor(allowed)
    values = allowed.buffers[weight.buffer]
    model = read(files.dense_layer(array, "dynamic"))
    graph = model.subgraphs[0]
    (place,) = (n for n, t in enumerate(graph.tensors) if tuple(t.shape) == array.shape)
    graph.tensors[place] = weight
    weight.buffer = len(model.buffers)
    model.buffers.append(values)
    version(8)(model)
    assert "at most 255 blocks in a row, and none beyond number 255" in refused(model)


def test_a_sparse_tensor_that_no_kernel_reads_as_sparse_is_refused():
    model = read(files.sparse_file(Storage.DENSIFY))
    densify, dense = model.subgraphs[0].operators
    dense.inputs = [densify.inputs[0], *list(dense.inputs)[1:]]
    assert "expected a dense input 0" in refused(model)


def test_blocks_are_not_for_densify():
    model = read(files.sparse_file(Storage.BLOCK4))
    for code in model.operatorCodes:
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.DENSIFY
    operator = model.subgraphs[0].operators[0]
    operator.inputs = list(operator.inputs)[1:2]
    operator.builtinOptions, operator.builtinOptionsType = None, 0
    assert "a fully connected layer to read Tensor" in refused(model)


def test_densify_needs_a_sparse_input_and_an_output_of_its_shape():
    model = read(files.sparse_file(Storage.DENSIFY))
    densify = model.subgraphs[0].operators[0]
    model.subgraphs[0].tensors[densify.outputs[0]].shape = [64, 6]
    assert "expected shape (6, 64)" in refused(model)
    model = read(files.sparse_file(Storage.DENSIFY))
    tensor, _ = sparse_tensor(model)
    tensor.sparsity = None
    model.buffers[tensor.buffer].data = np.zeros(6 * 64 * 4, np.uint8)
    assert "(DENSIFY): expected a sparse input" in refused(model)
