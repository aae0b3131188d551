import keras
import numpy as np
import pytest

from keras_switcher.losses import SmoothedCrossentropy

LOGITS = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
LABELS = np.array([0, 1, 2, 3, 0, 1], "int32")


@pytest.mark.parametrize("labels", [LABELS, LABELS[:, None], LABELS.astype("float32")])
def test_smoothing_is_that_of_one_hot_labels(labels):
    expected = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    loss = SmoothedCrossentropy(0.1, from_logits=True)
    one_hot = np.eye(4, dtype="float32")[LABELS]
    assert float(loss(labels, LOGITS)) == pytest.approx(float(expected(one_hot, LOGITS)), abs=1e-6)


def test_smoothing_by_hand():
    logs = LOGITS - np.log(np.exp(LOGITS).sum(axis=1, keepdims=True))
    by_hand = -(0.7 * logs[np.arange(6), LABELS] + 0.3 * logs.mean(axis=1)).mean()
    assert float(SmoothedCrossentropy(0.3, from_logits=True)(LABELS, LOGITS)) == pytest.approx(
        by_hand, abs=1e-6
    )
    probabilities = np.exp(logs)
    assert float(SmoothedCrossentropy(0.3)(LABELS, probabilities)) == pytest.approx(
        by_hand, abs=1e-5
    )


def test_weights_of_examples_count():
    loss = SmoothedCrossentropy(0.1, from_logits=True, reduction=None)
    each = np.asarray(loss(LABELS, LOGITS))
    assert each.shape == (6,)
    halved = np.asarray(loss(LABELS, LOGITS, np.full(6, 0.5, "float32")))
    np.testing.assert_allclose(halved, each / 2, rtol=1e-6)


def test_comes_back_from_its_configuration():
    loss = SmoothedCrossentropy(0.2, from_logits=True)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert isinstance(again, SmoothedCrossentropy)
    assert (again.label_smoothing, again.from_logits) == (0.2, True)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_share_is_checked(share):
    with pytest.raises(ValueError, match=rf"in \[0, 1\).*label_smoothing={share}"):
        SmoothedCrossentropy(share)
