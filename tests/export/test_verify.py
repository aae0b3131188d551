from pathlib import Path

import numpy as np
import pytest
from small_run import sparse_lenet300

from export.convert import Precision, convert
from export.errors import RuntimeFailure
from export.source import Examples
from export.verify import Reference, accuracy, difference, verify


@pytest.fixture(scope="module")
def model():
    return sparse_lenet300()


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("verify") / "model.tflite"
    path.write_bytes(convert(model))
    return path


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (40, 28, 28, 1)).astype("uint8")


@pytest.fixture(scope="module")
def outputs(model, images):
    return {"logits": model.predict(images.astype("float32"), verbose=0)}


def verdict(
    file, images, outputs, precision=Precision.FLOAT32, labels=None, drop=0.0, real=True, rounding=0
):
    examples = Examples("made", {"image": images}, labels, None, real)
    given = {"image": images.astype("float32")}
    expected = None if labels is None else accuracy(outputs, labels)
    reference = Reference(given, outputs, expected, {"logits": rounding})
    return verify(file, precision, examples, reference, accuracy_drop=drop, timeout=60)


def test_a_right_file_passes(file, images, outputs):
    labels = outputs["logits"].argmax(-1)
    labels[:10] = (labels[:10] + 1) % 10
    found = verdict(file, images, outputs, labels=labels)
    assert found.problems == ()
    assert 0 <= found.max_difference <= 1e-5 * np.abs(outputs["logits"]).max()
    assert found.same_class == 1
    assert found.accuracy == 0.75


def test_a_float_file_that_differs_fails_and_says_by_how_much(file, images, outputs):
    other = {"logits": outputs["logits"].copy()}
    other["logits"][17, 3] += 0.01
    found = verdict(file, images, other)
    assert found.max_difference == pytest.approx(0.01, rel=1e-2)
    expected = 1e-5 * max(1, np.abs(other["logits"]).max())
    assert f"by 0.01; expected at most {expected:.3g}" in found.problems[0]


def test_a_float_file_may_differ_as_far_as_the_model_s_own_rounding_up_to_a_share(
    file, images, outputs
):
    largest = np.abs(outputs["logits"]).max()
    for share, rounding, passes in ((5e-4, 0, False), (5e-4, 1, True), (2e-3, 1, False)):
        other = {"logits": outputs["logits"].copy()}
        other["logits"][17, 3] += share * largest
        found = verdict(file, images, other, rounding=rounding * largest)
        assert (found.problems == ()) is passes


def test_a_file_of_lower_precision_is_judged_by_its_accuracy(file, images, outputs):
    labels = outputs["logits"].argmax(-1)
    shifted = {"logits": outputs["logits"] + 0.5}  # the same classes, at other scores
    assert verdict(file, images, shifted, Precision.INT8, labels).problems == ()
    wrong = labels.copy()
    wrong[:2] = (wrong[:2] + 1) % 10
    # The reference is right on all, the file on all but two of 40.
    scores = {"logits": np.eye(10, dtype="float32")[wrong]}
    lost = verdict(file, images, scores, Precision.INT8, wrong, drop=0.04)
    assert "its accuracy is 95.00 %, that of the Keras model 100.00 %" in lost.problems[0]
    assert verdict(file, images, scores, Precision.INT8, wrong, drop=0.06).problems == ()


def test_a_file_of_lower_precision_without_labels_is_judged_by_its_outputs(file, images, outputs):
    far = {"logits": outputs["logits"] + 2 * np.abs(outputs["logits"]).max()}
    assert "of its largest output" in verdict(file, images, far, Precision.INT8).problems[0]
    # Of made-up inputs, float16 is as near as of data; int8 may not be.
    assert verdict(file, images, far, Precision.INT8, real=False).problems == ()
    assert "1% of its" in verdict(file, images, far, Precision.FLOAT16, real=False).problems[0]


def test_outputs_that_are_not_finite_fail(tmp_path, images, outputs):
    model = sparse_lenet300()
    layer = model.get_layer("logits")
    kernel, bias = layer.get_weights()
    layer.set_weights([kernel, np.full_like(bias, np.nan)])
    path = tmp_path / "nan.tflite"
    path.write_bytes(convert(model))
    for precision in (Precision.FLOAT32, Precision.DYNAMIC):
        found = verdict(path, images, outputs, precision)
        assert found.problems == ("it puts out values that are not finite",)


def test_the_tolerance_grows_with_outputs_whose_steps_are_larger():
    reference = Reference({}, {"y": np.array([[3.0, -200.0]]), "z": np.array([[0.5]])}, None)
    assert reference.tolerance("y") == pytest.approx(2e-3)
    assert reference.tolerance("z") == 1e-5


def test_the_tolerance_shrinks_with_outputs_that_are_small_themselves():
    small = {"y": np.array([[3e-6, -2e-7]]), "flags": np.array([[True, False]])}
    reference = Reference({}, small, None, {"y": 1e-13, "flags": 0.0})
    assert reference.tolerance("y") == pytest.approx(3e-11)
    assert difference(-small["y"], small["y"]) == pytest.approx(6e-6)
    assert difference(~small["flags"], small["flags"]) == 1.0
    counts = np.array([[3]], "uint8")
    assert difference(counts, counts + np.uint8(1)) == 1.0


def two_outputs(monkeypatch, plain):
    """A verdict on a box of up to 224 and a score, of which the run without XNNPACK is given."""
    reference = Reference(
        {"x": np.zeros((4, 1))},
        {"box": np.full((4, 4), 224.0), "score": np.full((4, 1), 0.5)},
        None,
    )
    runs = iter([reference.outputs, {**reference.outputs, **plain}])
    monkeypatch.setattr("export.runtime.run", lambda *a, **k: next(runs))
    examples = Examples("made", {}, None, None)
    return verify(
        Path("x"), Precision.FLOAT32, examples, reference, accuracy_drop=0.0, timeout=1
    ).problems


def test_each_output_has_a_tolerance_of_its_own(monkeypatch):
    assert two_outputs(monkeypatch, {"box": np.full((4, 4), 224.001)}) == ()
    (problem,) = two_outputs(monkeypatch, {"score": np.full((4, 1), 0.501)})
    assert "by 0.001 in output 'score'; expected at most 1e-05" in problem


def test_the_accuracy_without_xnnpack_counts_too(monkeypatch, images, outputs):
    labels = outputs["logits"].argmax(-1)
    runs = iter([outputs, {"logits": np.zeros_like(outputs["logits"])}])
    monkeypatch.setattr("export.runtime.run", lambda *a, **k: next(runs))
    (problem,) = verdict(Path("x"), images, outputs, Precision.DYNAMIC, labels).problems
    assert problem.startswith("its accuracy without XNNPACK is ")


def test_scores_that_the_model_can_not_tell_apart_are_the_same_class(file, images, outputs):
    tied = {"logits": outputs["logits"].copy()}
    best = tied["logits"].argmax(-1)
    rows = np.arange(len(best))
    tied["logits"][rows, (best + 1) % 10] = tied["logits"][rows, best] + 1e-7
    assert verdict(file, images, tied).same_class == 1


def test_a_file_that_the_runtime_refuses(tmp_path, images, outputs, file):
    path = tmp_path / "cut.tflite"
    path.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(RuntimeFailure):
        verdict(path, images, outputs)
