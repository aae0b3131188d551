import os

import numpy as np
import pytest
import tflite_files as files
from ai_edge_litert import schema_py_generated as schema

from benchmarks.fuzz_validator import Runtime, fuzz, mutated_bytes, mutated_model
from export.csr import Storage
from export.errors import InvalidFile
from export.flatbuffer import read, write
from export.validate import validate

MUTANTS = int(os.environ.get("FUZZ_MUTANTS", "1000"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))


def seeds():
    """Returns a valid file of each kind."""
    array = np.arange(-96, 96, dtype="int8").reshape(6, 32)
    array[1::2, :16] = 0
    int8, _ = files.stored(files.dense_layer(array, "int8"), Storage.BLOCK16)
    network = files.converted("cnn", "float32", 0.5)
    return [
        *(files.sparse_file(storage) for storage in Storage),
        files.dense_layer(array, "dynamic"),
        int8,
        network,
        files.stored(network, Storage.DENSIFY)[0],
        files.converted("cnn", "int8"),
    ]


@pytest.mark.slow
def test_no_mutant_that_is_accepted_crashes_the_runtime():
    outcome = fuzz(seeds(), MUTANTS, SEED)
    assert outcome.crashes == []
    # Were all refused, or none, this would say nothing.
    assert outcome.ran > MUTANTS / 10
    assert outcome.rejected > MUTANTS / 10


def test_a_crash_would_be_noticed():
    model = read(files.sparse_file(Storage.CSR))
    (tensor,) = (t for t in model.subgraphs[0].tensors if t.sparsity is not None)
    compressed = tensor.sparsity.dimMetadata[1]
    compressed.arraySegmentsType = schema.SparseIndexVector.Int32Vector
    compressed.arraySegments = schema.Int32VectorT(
        values=np.array([0, 2**30, 0, 0, 0, 0, 0], np.int32)
    )
    deadly = write(model)
    with pytest.raises(InvalidFile):
        validate(deadly)
    runtime = Runtime()
    try:
        assert runtime.survives(deadly) is None
        assert runtime.survives(files.sparse_file(Storage.CSR)) is True
        assert runtime.survives(b"no model") is False
    finally:
        runtime.close()


@pytest.mark.parametrize("mutate", [mutated_bytes, mutated_model])
def test_mutants_are_repeatable_and_differ(mutate):
    content = files.sparse_file(Storage.BLOCK4)
    made = [
        [mutate(content, random) for _ in range(20)]
        for random in (np.random.default_rng(3), np.random.default_rng(3))
    ]
    assert made[0] == made[1]
    assert len({content, *made[0]}) > 15
