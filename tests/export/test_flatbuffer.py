import flatbuffers
import numpy as np
import pytest
import tflite_files as files
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st

from export.csr import Storage
from export.errors import InvalidFile
from export.flatbuffer import operator_of, read, write


def as_written_by_the_library(model):
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize("network", ["mlp", "cnn"])
@pytest.mark.parametrize("mode", ["float32", "float16", "dynamic", "int8", "sparse"])
def test_a_file_read_and_written_computes_the_same(network, mode):
    content = files.converted(network, mode, 0.8)
    written = write(read(content))
    assert written[4:8] == b"TFL3"
    for resolver in files.RESOLVERS:
        expected = files.run(content, resolver)[1]
        np.testing.assert_array_equal(files.run(written, resolver)[1], expected)
    assert write(read(written)) == written


def test_names_signatures_and_metadata_survive():
    before = read(files.converted("cnn"))
    after = read(write(before))
    assert [entry.name for entry in after.metadata] == [entry.name for entry in before.metadata]
    for old, new in zip(before.metadata, after.metadata, strict=True):
        data = [
            bytes(model.buffers[entry.buffer].data)
            for model, entry in ((before, old), (after, new))
        ]
        assert data[0] == data[1]
    runner = files.interpreter(write(before)).get_signature_runner("classify")
    assert set(runner.get_input_details()) == {"image"}


@pytest.mark.parametrize("storage", Storage)
def test_data_starts_at_multiples_of_16_bytes(storage):
    content = np.frombuffer(files.sparse_file(storage), np.uint8)
    starts = [
        buffer.data.ctypes.data - content.ctypes.data
        for buffer in read(memoryview(content)).buffers
        if buffer.data is not None
    ]
    assert len(starts) > 2
    assert [start % 16 for start in starts] == [0] * len(starts)


def test_what_nothing_refers_to_is_left_out():
    model = read(files.converted("mlp"))
    expected = write(model)
    model.buffers.insert(1, schema.BufferT(data=np.ones(100_000, np.uint8)))
    for item in [*model.subgraphs[0].tensors, *model.metadata]:
        item.buffer += item.buffer > 0
    assert write(model) == expected


def test_equal_data_is_written_once():
    array = np.random.default_rng(0).normal(size=(300, 40)).astype("float32")
    content = files.dense_layer(array)
    model = read(content)
    double = len(model.buffers)
    model.buffers.append(schema.BufferT(data=model.buffers[-1].data))
    largest = max(model.subgraphs[0].tensors, key=lambda t: int(np.prod(t.shape)))
    model.buffers[double].data = model.buffers[largest.buffer].data
    model.metadata.append(schema.MetadataT(name="copy", buffer=double))
    assert len(write(model)) < len(content) + 500


def test_data_behind_the_flatbuffer_is_resolved():
    array = np.random.default_rng(0).normal(size=(32, 40)).astype("float32")
    content = files.dense_layer(array)
    model = read(content)
    (weight,) = (t for t in model.subgraphs[0].tensors if list(t.shape) == [32, 40])
    model.buffers[weight.buffer] = schema.BufferT(offset=2, size=array.nbytes)
    offset = len(as_written_by_the_library(model))
    model.buffers[weight.buffer].offset = offset
    outside = as_written_by_the_library(model) + array.tobytes()
    np.testing.assert_array_equal(files.run(outside)[1], files.run(content)[1])
    resolved = write(read(outside))
    np.testing.assert_array_equal(files.run(resolved)[1], files.run(content)[1])
    with pytest.raises(InvalidFile, match=r"Buffer \d+: expected data.*Received: bytes"):
        read(outside[:-1])


def test_what_follows_the_model_is_not_read():
    content = files.converted("mlp")
    assert write(read(content + b"PK\x05\x06" + bytes(18))) == write(read(content))


@pytest.mark.parametrize(
    "content",
    [b"", b"TFL3", b"\x1c\0\0\0TFL2" + bytes(60), b"a text of a few words", bytes(1000)],
    ids=["empty", "short", "other identifier", "text", "zeros"],
)
def test_what_is_no_model_is_refused(content):
    with pytest.raises(InvalidFile, match="Expected a TFLite model, with b'TFL3' at byte 4. Rec"):
        read(content)


@given(st.binary(max_size=200))
def test_noise_behind_the_identifier_is_refused_or_read(noise):
    try:
        model = read(noise[:4].ljust(4, b"\0") + b"TFL3" + noise[4:])
    except InvalidFile as error:
        assert "Received" in str(error)
    else:
        assert isinstance(model, schema.ModelT)


def test_a_cut_file_is_refused():
    content = files.converted("mlp")
    with pytest.raises(InvalidFile, match="structure is damaged"):
        read(content[: len(content) // 3])


def test_an_operator_code_of_an_old_file_is_in_another_field():
    model = read(files.converted("mlp"))
    operator = model.subgraphs[0].operators[0]
    code = model.operatorCodes[operator.opcodeIndex]
    code.builtinCode, code.deprecatedBuiltinCode = 0, schema.BuiltinOperator.FULLY_CONNECTED
    assert operator_of(model, operator) == schema.BuiltinOperator.FULLY_CONNECTED
