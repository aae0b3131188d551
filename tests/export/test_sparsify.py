import numpy as np
import pytest
import tflite_files as files
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st

from export.csr import BLOCKS, Storage, can_store
from export.errors import ExportError
from export.flatbuffer import operator_of, read, write
from export.sparsify import store
from export.validate import validate
from export.weights import weights

FLOAT = [Storage.CSR, Storage.BLOCK4, Storage.DENSIFY]


def sparse_array(shape, density, block=1, dtype="float32", seed=0):
    random = np.random.default_rng(seed)
    mask = np.repeat(random.random((shape[0], -(-shape[1] // block))) < density, block, axis=1)
    if dtype == "int8":
        return (random.integers(-127, 128, shape) * mask[:, : shape[1]]).astype("int8")
    return (random.normal(size=shape) * mask[:, : shape[1]]).astype("float32")


def check_float(array, storage):
    """Checks a layer in a storage against the dense one and against numpy."""
    dense = files.dense_layer(array)
    sparse, count = files.stored(dense, storage)
    assert count == 1
    validate(sparse)
    for resolver in files.RESOLVERS:
        image, actual = files.run(sparse, resolver)
        bias = files.run(files.dense_layer(np.zeros_like(array)), resolver)[1]
        exact = image.astype("f8") @ array.T.astype("f8") + bias
        # Rounding grows with what is summed, not with the sum.
        size = np.abs(image) @ np.abs(array).T + np.abs(bias)
        assert np.all(np.abs(actual - exact) <= 1e-5 * size)
    (weight,) = weights(read(sparse))
    np.testing.assert_array_equal(weight.array, array)
    return sparse


def output_step(content):
    """Return what one step of the int8 output of a layer stands for."""
    model = read(content)
    (layer,) = (
        operator
        for operator in model.subgraphs[0].operators
        if operator_of(model, operator) == schema.BuiltinOperator.FULLY_CONNECTED
    )
    return float(model.subgraphs[0].tensors[layer.outputs[0]].quantization.scale[0])


def check_int8(array, mode):
    """Checks an int8 layer in blocks of 16 against the dense file of the same weights."""
    dense = files.dense_layer(array, mode)
    sparse, count = files.stored(dense, Storage.BLOCK16)
    assert count == 1
    validate(sparse)
    for resolver in files.RESOLVERS:
        expected, actual = files.run(dense, resolver)[1], files.run(sparse, resolver)[1]
        # XNNPACK adds the products of a hybrid layer in another order, and rounds a sum half-way
        # between two steps of an int8 output to the other one.
        step = 1e-5 if mode == "dynamic" else output_step(dense)
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1.01 * step)
    return sparse


@pytest.mark.parametrize("storage", FLOAT)
@settings(max_examples=15)
@given(
    units=st.integers(1, 20),
    groups=st.integers(1, 40),
    density=st.sampled_from([0.0, 0.05, 0.3, 1.0]),
    seed=st.integers(0, 2**32),
)
def test_a_float_layer_computes_what_numpy_does(storage, units, groups, density, seed):
    block = BLOCKS[storage]
    check_float(sparse_array((units, groups * block), density, block, seed=seed), storage)


@pytest.mark.parametrize("mode", ["dynamic", "int8"])
@settings(max_examples=15)
@given(
    units=st.integers(1, 20),
    blocks=st.integers(1, 12),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 2**32),
)
def test_an_int8_layer_computes_what_the_dense_one_does(mode, units, blocks, density, seed):
    array = sparse_array((units, 16 * blocks), density, 16, "int8", seed)
    check_int8(array, mode)


@pytest.mark.parametrize("storage", FLOAT)
@pytest.mark.parametrize(
    ("shape", "density"),
    [((7, 785), 0.2), ((7, 30), 0.2), ((1, 64), 0.2), ((9, 64), 1.0), ((9, 64), 0.0)],
    ids=["785 inputs", "30 inputs", "a single unit", "no zeros", "all zero"],
)
def test_odd_layers_are_right(storage, shape, density):
    array = sparse_array(shape, density)
    if can_store(array, storage) is not None:
        assert storage is Storage.BLOCK4 and shape[1] % 4
        with pytest.raises(ExportError, match=rf"multiples of 4. Received: {shape[1]} inputs"):
            store(read(files.dense_layer(array)), {_weight(array).tensor: storage})
        return
    check_float(array, storage)


@pytest.mark.parametrize("storage", FLOAT)
def test_70000_inputs_are_right(storage):
    array = sparse_array((3, 70_000), 0.001, BLOCKS[storage])
    array[1] = 0
    array[2, -1] = 2
    check_float(array, storage)


@pytest.mark.parametrize("storage", FLOAT)
def test_empty_rows_are_right(storage):
    array = sparse_array((12, 64), 0.4, BLOCKS[storage])
    array[[0, 3, 4, 11]] = 0
    check_float(array, storage)


@pytest.mark.parametrize(
    ("mode", "inputs"), [("dynamic", 4080), ("dynamic", 4096), ("int8", 4112), ("int8", 69_984)]
)
def test_wide_int8_layers_are_right(mode, inputs):
    array = sparse_array((3, inputs), 0.1, 16, "int8")
    array[0, -16:] = 5
    check_int8(array, mode)


def test_the_widest_hybrid_layer_with_a_full_row_is_refused():
    array = np.ones((2, 4096), "int8")
    content = files.dense_layer(array, "dynamic")
    (weight,) = weights(read(content))
    assert weight.hybrid
    with pytest.raises(ExportError, match="255 blocks in a row. Received: 4096 inputs and 256"):
        store(read(content), {weight.tensor: Storage.BLOCK16})


@pytest.mark.parametrize("storage", FLOAT)
def test_a_sparse_file_is_smaller(storage):
    array = sparse_array((100, 400), 0.1, BLOCKS[storage])
    assert len(check_float(array, storage)) < 0.3 * len(files.dense_layer(array))


def _weight(array, mode="float32"):
    (weight,) = weights(read(files.dense_layer(array, mode)))
    return weight


def test_weights_are_listed_with_what_they_are():
    found = weights(read(files.converted("cnn")))
    kinds = [(weight.kind, weight.array.shape) for weight in found]
    assert kinds == [
        ("conv", (4, 3, 3, 2)),
        ("depthwise", (1, 3, 3, 4)),
        ("fully_connected", (4, 5)),
    ]
    assert {weight.storage for weight in found} == {Storage.DENSE}
    assert not any(weight.hybrid for weight in found)
    first = weights(read(files.converted("mlp", "dynamic")))[0]
    assert (first.hybrid, first.dtype, first.array.shape) == (True, np.int8, (32, 48))
    assert not any(weight.hybrid for weight in weights(read(files.converted("mlp", "int8"))))


def test_weights_stored_by_the_converter_are_decoded():
    plain = {w.array.shape: w.array for w in weights(read(files.converted("cnn", "float32", 0.8)))}
    found = weights(read(files.converted("cnn", "sparse", 0.8)))
    assert {weight.storage for weight in found} == {Storage.DENSIFY}
    for weight in found:
        np.testing.assert_array_equal(weight.array, plain[weight.array.shape])
    blocks = weights(read(files.converted("mlp", "sparse", 0.97, 8)))
    assert {weight.storage for weight in blocks} == {Storage.BLOCK4}
    plain = {
        w.array.shape: w.array for w in weights(read(files.converted("mlp", "float32", 0.97, 8)))
    }
    for weight in blocks:
        np.testing.assert_array_equal(weight.array, plain[weight.array.shape])


def test_filters_are_stored_as_the_converter_does():
    converter = read(files.converted("cnn", "sparse", 0.8))
    content, count = files.stored(files.converted("cnn", "float32", 0.8), Storage.DENSIFY)
    assert count == 3
    ours = read(content)

    def described(model):
        graph = model.subgraphs[0]
        found = {}
        for tensor in graph.tensors:
            if tensor.sparsity is not None:
                dimensions = tensor.sparsity.dimMetadata
                found[tuple(tensor.shape)] = (
                    list(tensor.sparsity.traversalOrder),
                    [
                        (d.format, d.denseSize, d.arraySegmentsType, d.arrayIndicesType)
                        for d in dimensions
                    ],
                    list(dimensions[-1].arraySegments.values),
                    list(dimensions[-1].arrayIndices.values),
                    bytes(model.buffers[tensor.buffer].data),
                )
        return found

    assert described(ours) == described(converter)
    names = [operator_of(ours, operator) for operator in ours.subgraphs[0].operators]
    assert names.count(schema.BuiltinOperator.DENSIFY) == 3
    for resolver in files.RESOLVERS:
        expected = files.run(files.converted("cnn", "float32", 0.8), resolver)[1]
        np.testing.assert_array_equal(files.run(content, resolver)[1], expected)


def test_a_sparse_layer_has_an_operator_code_of_its_own():
    model = read(files.converted("mlp", "float32", 0.8))
    first, second = weights(model)
    sparse = store(model, {first.tensor: Storage.CSR})
    versions = {}
    for operator in sparse.subgraphs[0].operators:
        code = sparse.operatorCodes[operator.opcodeIndex]
        versions[int(operator.inputs[1])] = code.version
    assert versions == {first.tensor: 8, second.tensor: 1}
    assert [code.version for code in model.operatorCodes] == [1]
    assert [weight.storage for weight in weights(sparse)] == [Storage.CSR, Storage.DENSE]


def test_per_channel_int8_keeps_its_scales_and_gets_version_8():
    content = files.dense_layer(sparse_array((6, 64), 0.5, 16, "int8"), "dynamic")
    model = read(content)
    tensor = _weight(sparse_array((6, 64), 0.5, 16, "int8"), "dynamic").tensor
    code = model.operatorCodes[model.subgraphs[0].operators[0].opcodeIndex]
    assert code.version > 8
    sparse = read(write(store(model, {tensor: Storage.BLOCK16})))
    kept = sparse.subgraphs[0].tensors[tensor].quantization
    assert len(kept.scale) == 6
    np.testing.assert_array_equal(kept.scale, model.subgraphs[0].tensors[tensor].quantization.scale)
    operator = sparse.subgraphs[0].operators[0]
    assert sparse.operatorCodes[operator.opcodeIndex].version == 8


@pytest.mark.parametrize("storage", FLOAT)
def test_a_weight_that_two_layers_share_works(storage):
    model = read(files.converted("mlp", "float32", 0.8, 4))
    graph = model.subgraphs[0]
    first = graph.operators[0]
    # The output of one more layer with the first one's weights replaces the network's.
    output = len(graph.tensors)
    graph.tensors.append(schema.TensorT(shape=[1, 32], name=b"again", hasRank=True))
    graph.operators.append(
        schema.OperatorT(
            opcodeIndex=first.opcodeIndex,
            inputs=first.inputs,
            outputs=[output],
            builtinOptionsType=first.builtinOptionsType,
            builtinOptions=first.builtinOptions,
        )
    )
    graph.outputs = [output]
    model.signatureDefs[0].outputs[0].tensorIndex = output
    dense = write(model)
    validate(dense)
    shared = weights(model)[0]
    sparse = write(store(model, {shared.tensor: storage}))
    validate(sparse)
    for resolver in files.RESOLVERS:
        np.testing.assert_allclose(
            files.run(sparse, resolver)[1], files.run(dense, resolver)[1], rtol=1e-5, atol=1e-6
        )


def test_the_given_model_stays_as_it_is():
    model = read(files.converted("mlp", "float32", 0.8))
    before = write(model)
    store(model, {weight.tensor: Storage.DENSIFY for weight in weights(model)})
    assert write(model) == before


def test_no_choice_changes_nothing():
    model = read(files.converted("mlp"))
    expected = write(read(files.converted("mlp")))
    assert write(store(model, {})) == expected
    assert write(store(model, {w.tensor: Storage.DENSE for w in weights(model)})) == expected


def refused(model, choices):
    with pytest.raises(ExportError) as error:
        store(model, choices)
    return str(error.value)


def test_what_can_not_be_stored_is_refused_with_the_reason():
    model = read(files.converted("mlp"))
    first = weights(model)[0].tensor
    assert "expected int8 weights. Received: float32" in refused(
        model, {first: Storage.BLOCK16}
    ).replace("expects", "expected")
    assert "Expected the tensor of a weight, one of" in refused(model, {0: Storage.CSR})
    stored = store(model, {first: Storage.CSR})
    assert "stored as csr already" in refused(stored, {first: Storage.CSR})
    assert "expected a dense weight. Received: one stored as csr" in refused(
        stored, {first: Storage.DENSIFY}
    )
    assert "Received: a filter" in refused(
        read(files.converted("cnn")), {weights(read(files.converted("cnn")))[0].tensor: Storage.CSR}
    )


def test_asymmetric_weights_are_refused():
    content = files.dense_layer(np.ones((4, 32), "int8"), "int8")
    model = read(content)
    (weight,) = weights(model)
    model.subgraphs[0].tensors[weight.tensor].quantization.zeroPoint = np.array([0, 3, 0, 0])
    message = refused(model, {weight.tensor: Storage.BLOCK16})
    assert "symmetric weights. Received: zero points [0, 3]" in message


def test_a_weight_that_something_else_reads_is_refused():
    model = read(files.converted("mlp"))
    (first, _) = weights(model)
    model.subgraphs[0].operators[1].inputs = [first.tensor, first.tensor, -1]
    message = refused(model, {first.tensor: Storage.CSR})
    assert "expected fully_connected layers alone to read it. Received: operator 1" in message


def versions(model):
    """Return the version of each FULLY_CONNECTED by the number of weights that it reads."""
    graph = model.subgraphs[0]
    return {
        int(np.prod(graph.tensors[operator.inputs[1]].shape)): model.operatorCodes[
            operator.opcodeIndex
        ].version
        for operator in graph.operators
        if operator_of(model, operator) == schema.BuiltinOperator.FULLY_CONNECTED
    }


@pytest.mark.parametrize("other", [Storage.DENSE, Storage.DENSIFY])
def test_small_dense_layers_beside_a_sparse_one_are_kept_from_xnnpack(other):
    model = read(files.converted("mlp", sparsity=0.8))
    large, small = sorted(weights(model), key=lambda weight: -weight.array.size)[:2]
    choices = {large.tensor: Storage.CSR, small.tensor: other}
    apart = store(model, choices)
    assert versions(apart)[large.array.size] == 8
    assert versions(apart)[small.array.size] == 1
    joined = store(model, choices, joined_bytes=small.array.nbytes)
    assert versions(joined)[small.array.size] == 8
    content = write(joined)
    validate(content)
    for resolver in files.RESOLVERS:
        expected = files.run(write(model), resolver)[1]
        np.testing.assert_allclose(files.run(content, resolver)[1], expected, atol=1e-6)


def test_without_a_sparse_layer_none_is_kept_from_xnnpack():
    model = read(files.converted("mlp", sparsity=0.8))
    choices = {weight.tensor: Storage.DENSIFY for weight in weights(model)}
    assert set(versions(store(model, choices, joined_bytes=10**6)).values()) == {1}


def test_layers_of_int8_weights_are_left_to_xnnpack():
    network = files.pruned(files.mlp(inputs=64, units=48, outputs=32), 0.9, block=16)
    model = read(files.convert(network, "dynamic"))
    first, second = sorted(weights(model), key=lambda weight: -weight.array.size)
    after = versions(store(model, {first.tensor: Storage.BLOCK16}, joined_bytes=10**6))
    assert after == {first.array.size: 8, second.array.size: versions(model)[second.array.size]}
    assert after[second.array.size] != 8
