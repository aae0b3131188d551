import keras
import numpy as np
import pytest
import tflite_files as files
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st
from tflite_files import refused

from export.csr import Storage
from export.errors import InvalidFile
from export.flatbuffer import read, write
from export.validate import validate, validate_model


@pytest.mark.parametrize("network", ["mlp", "cnn"])
@pytest.mark.parametrize("mode", ["float32", "float16", "dynamic", "int8", "sparse"])
def test_what_the_converter_writes_is_accepted(network, mode):
    validate(files.converted(network, mode, 0.8))


def test_blocks_of_the_converter_are_accepted():
    content = files.converted("mlp", "sparse", 0.97, 8)
    assert all(
        len(t.sparsity.dimMetadata) == 3
        for t in read(content).subgraphs[0].tensors
        if t.sparsity is not None
    )
    validate(content)


@pytest.mark.parametrize("storage", Storage)
def test_every_storage_is_accepted(storage):
    validate(files.sparse_file(storage))
    validate(files.sparse_file(storage) + b"PK\5\6" + bytes(18))


@pytest.mark.parametrize("mode", ["float32", "int8"])
def test_many_kinds_of_layers_are_accepted(mode):
    validate(files.converted("layers", mode))


def operators(model, name):
    code = getattr(schema.BuiltinOperator, name)
    graph = model.subgraphs[0]
    return [
        (
            operator,
            [None if n < 0 else graph.tensors[n] for n in operator.inputs],
            [graph.tensors[n] for n in operator.outputs],
        )
        for operator in graph.operators
        if model.operatorCodes[operator.opcodeIndex].builtinCode == code
    ]


WRONG = [
    ("Model", "expected version 3", lambda m: setattr(m, "version", 4)),
    ("Model", "expected a subgraph", lambda m: setattr(m, "subgraphs", [])),
    ("Model", "expected buffers", lambda m: setattr(m, "buffers", None)),
    ("Metadata", "buffers. Received: 99", lambda m: setattr(m.metadata[0], "buffer", 99)),
    (
        "Metadata b'model_control_dependencies'",
        "expected facts alone",
        lambda m: setattr(m.metadata[0], "name", b"model_control_dependencies"),
    ),
    (
        "Signature",
        "one of the tensors [0]. Received: 5",
        lambda m: setattr(m.signatureDefs[0].inputs[0], "tensorIndex", 5),
    ),
    (
        "Signature",
        "one of 1 subgraphs",
        lambda m: setattr(m.signatureDefs[0], "subgraphIndex", 1),
    ),
    ("Tensor 0", "buffers. Received: ", lambda m: setattr(tensor(m, 0), "buffer", 500)),
    ("Tensor 0", "axes of one or more", lambda m: setattr(tensor(m, 0), "shape", [1, -6, 6, 2])),
    ("Tensor 0", "one of the types", lambda m: setattr(tensor(m, 0), "type", 5)),
    ("Tensor 0", "keeps no state", lambda m: setattr(tensor(m, 0), "isVariable", True)),
    ("Tensor 0", "a signature of shape", lambda m: setattr(tensor(m, 0), "shapeSignature", [1])),
    ("Tensor 0", "at most 1073741824 by", lambda m: setattr(tensor(m, 0), "shape", [1, 2**29, 2])),
    ("inputs", "some of", lambda m: setattr(m.subgraphs[0], "inputs", [900])),
    ("inputs", "some of", lambda m: setattr(m.subgraphs[0], "inputs", [])),
    ("outputs", "what operators make", lambda m: setattr(m.subgraphs[0], "outputs", [2])),
    ("Operator 0", "operator codes", lambda m: setattr(operator(m, 0), "opcodeIndex", 77)),
    ("Operator 0", "1 inputs", lambda m: setattr(operator(m, "MAX_POOL_2D"), "inputs", [])),
    ("Operator 0 (MUL)", "were made before", lambda m: setattr(operator(m, 0), "inputs", [99, 1])),
    ("Operator 0 (MUL)", "nothing else makes", lambda m: setattr(operator(m, 0), "outputs", [0])),
    ("(CONV_2D)", "Conv2DOptionsT. Received: none", lambda m: options(m, "CONV_2D", None)),
    ("(CONV_2D)", "strides and dilations", lambda m: option(m, "CONV_2D", strideH=0)),
    ("(CONV_2D)", "strides and dilations", lambda m: option(m, "CONV_2D", dilationWFactor=-1)),
    ("(CONV_2D)", "padding SAME or VALID", lambda m: option(m, "CONV_2D", padding=2)),
    ("(CONV_2D)", "expected shape (1, 3, 6, 4)", lambda m: option(m, "CONV_2D", strideH=2)),
    ("(CONV_2D)", "fused activation", lambda m: option(m, "CONV_2D", fusedActivationFunction=99)),
    ("(DEPTHWISE", "filters", lambda m: option(m, "DEPTHWISE_CONV_2D", depthMultiplier=0)),
    ("(MAX_POOL_2D)", "a window of", lambda m: option(m, "MAX_POOL_2D", filterHeight=2**31 - 1)),
    ("(MAX_POOL_2D)", "a window of", lambda m: option(m, "MAX_POOL_2D", filterWidth=0)),
    ("(GATHER)", "an axis of", lambda m: option(m, "GATHER", axis=2)),
    ("(GATHER)", "no batch axes", lambda m: option(m, "GATHER", batchDims=1)),
    ("(FULLY_CONNECTED)", "default", lambda m: option(m, "FULLY_CONNECTED", weightsFormat=1)),
    ("(SOFTMAX)", "a beta", lambda m: option(m, "SOFTMAX", beta=float("nan"))),
]


def tensor(model, number):
    return model.subgraphs[0].tensors[number]


def operator(model, which):
    if isinstance(which, int):
        return model.subgraphs[0].operators[which]
    return operators(model, which)[0][0]


def options(model, name, value):
    operator(model, name).builtinOptions = value


def option(model, name, **fields):
    for field, value in fields.items():
        assert hasattr(operator(model, name).builtinOptions, field)
        setattr(operator(model, name).builtinOptions, field, value)


@pytest.mark.parametrize(("where", "expected", "change"), WRONG)
def test_what_kernels_take_for_granted_is_checked(where, expected, change):
    model = read(files.converted("cnn"))
    validate_model(model)
    change(model)
    message = refused(model)
    assert (where in message or where == "Operator 0") and expected in message


@pytest.mark.parametrize("name", ["CONV_2D", "DEPTHWISE_CONV_2D"])
def test_a_convolution_without_bias_is_refused(name):
    # The float kernel of DEPTHWISE_CONV_2D reads it all the same, and crashes.
    model = read(files.converted("cnn"))
    convolution = operator(model, name)
    inputs = [int(number) for number in convolution.inputs]
    convolution.inputs = inputs[:2]
    assert f"({name}): expected 3 inputs. Received: 2" in refused(model)
    convolution.inputs = [*inputs[:2], -1]
    assert f"({name}): expected a tensor as input 2. Received: none" in refused(model)


def test_an_index_of_gather_beyond_its_input_is_refused():
    model = read(files.converted("cnn"))
    ((_, (_, places), _),) = operators(model, "GATHER")
    model.buffers[places.buffer].data = np.array([0, 3, 5, 9, 16], "<i4").view("u1")
    assert "(GATHER): expected places 0 to 15" in refused(model)


def test_data_of_another_length_than_the_shape_asks_for_is_refused():
    model = read(files.converted("cnn"))
    ((_, (_, filters, _), _),) = operators(model, "CONV_2D")
    buffer = model.buffers[filters.buffer]
    buffer.data = buffer.data[:-1]
    assert "expected 288 bytes for float32 of shape (4, 3, 3, 2). Received: 287" in refused(model)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"scale": np.full(3, 0.1, "f4")}, "scales"),
        ({"scale": np.full(4, np.nan, "f4")}, "scales within"),
        ({"scale": np.full(4, 0, "f4")}, "scales within"),
        ({"zeroPoint": None}, "4 zero points. Received: 0"),
        ({"zeroPoint": np.full(4, 500)}, "zero points within -128 and 127"),
        ({"zeroPoint": np.full(4, 3)}, "symmetric weights"),
        ({"quantizedDimension": 7}, "a channel axis"),
        ({"quantizedDimension": -1}, "a channel axis"),
    ],
)
def test_quantisation_that_kernels_can_not_use_is_refused(change, expected):
    model = read(files.converted("cnn", "int8"))
    ((_, (_, filters, _), _),) = operators(model, "CONV_2D")
    assert len(filters.quantization.scale) == 4
    for field, value in change.items():
        setattr(filters.quantization, field, value)
    assert expected in refused(model)


def test_shapes_of_a_sum_that_do_not_fit_are_refused():
    model = read(files.converted("cnn"))
    (_, _, (output,)), *_ = operators(model, "ADD")
    output.shape = [1, 6, 6, 1]
    assert "(ADD): expected shape (1, 6, 6, 2) of Tensor" in refused(model)
    (_, (first, _), _), *_ = operators(model, "ADD")
    first.shape = [1, 1, 6, 6, 2]
    assert "expected" in refused(model)


def test_a_scale_of_one_in_an_int8_comparison_is_refused():
    # The kernel knows multipliers above and below 1, and aborts on 1.
    model = read(files.converted("layers", "int8"))
    (_, (first, _), _), *_ = operators(model, "GREATER")
    first.quantization.scale = np.ones(1, "f4")
    assert "(GREATER): expected scales other than 1. Received: [1.0" in refused(model)


@pytest.mark.parametrize("name", ["CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"])
def test_scales_that_xnnpack_can_not_multiply_are_refused(name):
    # It would free a convolution twice, and abort.
    model = read(files.converted("cnn", "int8"))
    (_, (image, weight, _), (output,)), *_ = operators(model, name)
    scales = weight.quantization.scale.copy()
    scales[2] = 257 * output.quantization.scale[0] / image.quantization.scale[0]
    weight.quantization.scale = scales
    assert f"({name}): expected input times weight scales below 256 times" in refused(model)
    scales[2] *= 255 / 257
    validate_model(model)


def test_scales_that_make_an_int8_sum_abort_are_refused():
    model = read(files.converted("cnn", "int8"))
    (_, _, (output,)), *_ = operators(model, "ADD")
    output.quantization.scale = np.array([1e-12], "f4")
    assert "(ADD): expected scales with a ratio below 2^19" in refused(model)


def test_an_operator_that_is_not_known_is_refused_with_those_that_are():
    model = read(files.converted("cnn"))
    model.operatorCodes[0].builtinCode = schema.BuiltinOperator.WHILE
    message = refused(model)
    assert "(WHILE): expected one of the operators ABS, ADD" in message


def test_a_trusted_operator_is_accepted_as_long_as_its_tensors_are_right():
    given = keras.Input((4, 4, 2), name="image")
    resized = keras.layers.UpSampling2D(2, interpolation="bilinear")(given)
    model = read(files.convert(keras.Model(given, resized)))
    trusted = [schema.BuiltinOperator.RESIZE_BILINEAR]
    assert "RESIZE_BILINEAR" in refused(model)
    validate_model(model, trusted=trusted)
    (operator,) = (
        operator for operator in model.subgraphs[0].operators if len(operator.inputs) == 2
    )
    operator.inputs = np.array([99, operator.inputs[1]], np.int32)
    with pytest.raises(InvalidFile, match="tensor 99"):
        validate_model(model, trusted=trusted)


@settings(max_examples=200)
@given(place=st.floats(0, 1, exclude_max=True), count=st.integers(1, 40))
def test_a_file_with_a_piece_missing_is_refused_or_still_right(place, count):
    content = files.sparse_file(Storage.CSR)
    start = int(place * len(content))
    cut = content[:start] + content[start + count :]
    try:
        validate(cut)
    except InvalidFile as error:
        assert "Received" in str(error)
    else:
        # What nothing looks at was missing: the file reads as a model that can be written.
        validate(write(read(cut)))
