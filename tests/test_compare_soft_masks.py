"""PQuantML's soft mask without its sort: the package's numbers, to the bit."""

import keras
import numpy as np
import pquant
import pytest
import tensorflow as tf
from compare_work import work
from pquant.core.keras.pruning_methods.pdp import PDP

from keras_switcher.compare.method import registry
from keras_switcher.compare.soft_masks import without_sorting
from keras_switcher.runs import MODEL_FILE

SHAPE = (30, 40)


def masked(weight, pruning, up):
    """Returns the masked weights as a compiled step has them, and their gradient."""
    variable = tf.Variable(weight)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            outcome = pruning(variable)
            gradient = tape.gradient(outcome, variable, output_gradients=up)
        return outcome, tf.convert_to_tensor(gradient)

    return [part.numpy() for part in step()]


@pytest.mark.parametrize("decimals", [8, 2], ids=["distinct", "with equal magnitudes"])
@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.98, 1.0])
def test_masks_and_gradients_are_those_of_the_package(sparsity, decimals):
    random = np.random.default_rng(3)
    weight = (random.normal(size=SHAPE) * 0.05).round(decimals).astype("float32")
    up = random.normal(size=SHAPE).astype("float32")
    outcomes = []
    for prepare in (lambda pruning: None, without_sorting):
        pruning = PDP(pquant.pdp_config(), "linear")
        pruning.build(SHAPE)
        pruning.post_pre_train_function()
        pruning.r.assign(sparsity)
        prepare(pruning)
        outcomes.append(masked(weight, pruning, up))
    for packages, own in zip(*outcomes, strict=True):
        assert np.isfinite(own).all()
        np.testing.assert_array_equal(own, packages)


@pytest.mark.parametrize("bad", [1, SHAPE[0] * SHAPE[1]])
def test_a_mask_of_weights_that_are_no_numbers_is_none_either(bad):
    weight = np.ones(SHAPE, "float32")
    weight.ravel()[:bad] = np.nan
    pruning = PDP(pquant.pdp_config(), "linear")
    pruning.build(SHAPE)
    pruning.post_pre_train_function()
    without_sorting(pruning)
    assert np.isnan(pruning(weight)).any()


def test_a_training_ends_with_the_weights_that_the_package_gives(tmp_path, monkeypatch):
    kept, sorts = [], []
    top_k = keras.ops.top_k
    monkeypatch.setattr("keras.ops.top_k", lambda *given: sorts.append(1) or top_k(*given))
    for name in ("own", "packages"):
        if name == "packages":
            sorts_before = len(sorts)
            monkeypatch.setattr(
                "keras_switcher.compare.methods.pquant_pdp.without_sorting", lambda pruning: None
            )
        task = work(tmp_path / name / "cell", "--epochs", "10", "--lr", "0.003", target=0.9)
        task.keeps_models = True
        registry.get("pquant-pdp")().train(task)
        kept.append(keras.models.load_model(task.folder / MODEL_FILE).get_weights())
    # Before its layers are prepared, they are called once, to build them.
    assert len(sorts) > 2 * sorts_before
    for own, packages in zip(*kept, strict=True):
        np.testing.assert_array_equal(own, packages)
