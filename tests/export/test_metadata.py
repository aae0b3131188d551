import io
import re
import zipfile

import numpy as np
import pytest
from small_run import sparse_lenet300
from tflite_files import facts

from export import flatbuffer, metadata, runtime
from export.convert import convert
from export.csr import Storage
from export.sparsify import store
from export.validate import validate
from export.weights import weights


@pytest.fixture(scope="module")
def model():
    return flatbuffer.read(convert(sparse_lenet300()))


def test_a_file_says_what_it_is(model):
    metadata.describe(model, {"model": "lenet300", "labels": "labels.txt"})
    again = flatbuffer.read(flatbuffer.write(model))
    found = facts(again)
    assert found["model"] == "lenet300"
    assert re.fullmatch(r"TensorFlow Lite >= \d\.\d+\.0, or any LiteRT", found["runtime"])
    assert metadata.in_words("2.18.0") == "TensorFlow Lite >= 2.18.0, or as recent a LiteRT"


def test_describing_again_replaces(model):
    metadata.describe(model, {"model": "first"})
    count = len(model.metadata)
    metadata.describe(model, {"model": "second"})
    assert len(model.metadata) == count
    assert facts(model)["model"] == "second"


def test_sparse_tensors_need_a_newer_runtime(model):
    assert tuple(map(int, metadata.runtime_needed(model).split("."))) < (2, 2, 0)
    first = weights(model)[0].tensor
    assert metadata.runtime_needed(store(model, {first: Storage.DENSIFY})) == "2.2.0"
    sparse = store(model, {first: Storage.CSR})
    assert metadata.runtime_needed(sparse) == "2.3.0"
    metadata.describe(sparse, {})
    (entry,) = [
        e for e in sparse.metadata if e.name in ("min_runtime_version", b"min_runtime_version")
    ]
    written = bytes(bytearray(sparse.buffers[entry.buffer].data))
    assert written == b"2.3.0".ljust(16, b"\0")


def test_labels_are_a_file_in_the_file_that_the_runtime_does_not_mind(model, tmp_path):
    content = flatbuffer.write(model)
    labelled = metadata.with_labels(content, ["zero", "één"])
    assert labelled.startswith(content)
    validate(labelled)
    with zipfile.ZipFile(io.BytesIO(labelled)) as archive:
        assert archive.read("labels.txt").decode() == "zero\néén\n"
    assert metadata.with_labels(content, ["zero", "één"]) == labelled
    given = {"image": np.ones((1, 28, 28, 1), "float32")}
    outputs = []
    for name, written in (("plain", content), ("labelled", labelled)):
        path = tmp_path / f"{name}.tflite"
        path.write_bytes(written)
        outputs.append(runtime.run(path, given)["logits"])
    np.testing.assert_array_equal(*outputs)
