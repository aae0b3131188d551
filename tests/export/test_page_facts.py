import base64

import keras
import numpy as np
import pytest
from small_run import sparse_lenet300

from export.convert import score_kind
from export.page_facts import example_images, live_inputs, page_facts, takes_pixels
from export.source import Examples, Source, made_examples


def with_zeros(model, name, on):
    kernel, bias = model.get_layer(name).get_weights()
    model.get_layer(name).set_weights([np.ones_like(kernel) * on, bias])


def test_the_live_pixels_are_those_with_a_connection():
    model = sparse_lenet300()
    found = live_inputs(model)
    kernel = np.asarray(model.get_layer("dense1").kernel)
    on = np.count_nonzero(kernel, axis=1)
    assert found == {
        "name": "dense1",
        "inputs": 784,
        "live": int((on > 0).sum()),
        "kind": "pixels",
        "shape": [28, 28, 1],
        "connections": on.tolist(),
    }
    assert 0 < found["live"] < 784


def test_features_are_counted_at_their_places():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(5, 3, strides=2, padding="same")(inputs)
    x = keras.layers.Flatten()(keras.layers.ReLU()(x))
    x = keras.layers.Dense(7, name="first")(keras.layers.Dropout(0.5)(x))
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    on = np.zeros((4, 4, 5, 7))
    on[1, 2, 3, :4] = 1
    on[3, 3, :, 0] = 1
    with_zeros(model, "first", on.reshape(80, 7))
    found = live_inputs(model)
    assert (found["kind"], found["shape"], found["live"]) == ("features", [4, 4, 5], 6)
    connections = np.array(found["connections"]).reshape(4, 4)
    assert connections[1, 2] == 4
    assert connections[3, 3] == 5
    assert connections.sum() == 9


def test_features_of_the_whole_picture_have_no_place():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(6, 3)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, name="only")(x))
    on = np.ones((6, 2))
    on[4] = 0
    with_zeros(model, "only", on)
    found = live_inputs(model)
    assert (found["kind"], found["shape"]) == ("vector", [1, 6, 1])
    assert found["connections"] == [2, 2, 2, 2, 0, 2]


def test_the_first_layer_with_zeros_is_shown():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(3, name="all_on", kernel_initializer="ones")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="sparse")(x))
    with_zeros(model, "sparse", np.array([[1, 0], [0, 0], [1, 1]]))
    assert live_inputs(model)["name"] == "sparse"
    assert live_inputs(model)["connections"] == [1, 0, 2]


def test_without_a_zero_nothing_is_shown():
    inputs = keras.Input((4,))
    dense = keras.layers.Dense(3, kernel_initializer="ones")
    assert live_inputs(keras.Model(inputs, dense(inputs))) is None


def images(count=50, shape=(4, 4, 1)):
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def test_examples_are_of_many_classes_and_as_they_were():
    pixels, labels = images(), np.arange(50) // 10
    found = example_images(Examples("made", {"image": pixels}, labels, None))
    assert [one["label"] for one in found][:5] == [0, 1, 2, 3, 4]
    assert len(found) == 10
    for one, place in zip(found[:5], (0, 10, 20, 30, 40), strict=True):
        assert base64.b64decode(one["pixels"]) == pixels[place].tobytes()


@pytest.mark.parametrize(
    ("pixels", "is_real"),
    [
        (images() / 255, True),  # no pixel values
        (images(), False),
        (images(shape=(4, 4, 2)), True),
        (images(2, (600, 600, 1)), True),  # too large to load before the first answer
        (np.zeros((5, 7)), True),
    ],
)
def test_what_is_no_picture_to_show_is_left_out(pixels, is_real):
    examples = Examples("made", {"image": pixels}, None, None, are_real=is_real)
    assert example_images(examples) == []


def test_images_of_other_values_than_pixels_are_told():
    def told(values, **options):
        return takes_pixels(Examples("made", {"image": values}, None, None, **options))

    assert told(images()) and told(np.zeros((5, 7))) and told(images() / 255, are_real=False)
    assert told(0.97 * images()), "a resized picture has fractions"
    assert not told(images() / 255)
    assert not told((images() > 127).astype("float32"))
    assert not told(images() // 16), "of 16 shades, such as scikit-learn's digits"
    assert not told(images(shape=(28, 28)) / 255)
    assert told(images(shape=(20, 4)) / 255), "a sequence"


def test_fractions_of_resized_pictures_are_rounded():
    pixels = images(2) * np.float32(0.97)
    found = example_images(Examples("made", {"image": pixels}, None, None))
    assert base64.b64decode(found[0]["pixels"]) == pixels[0].round().astype(np.uint8).tobytes()


@pytest.mark.parametrize(
    ("shape", "values", "picture"),
    [
        ((8, 6, 3), None, [8, 6, 3]),
        ((8, 6, 2), None, None),
        ((28, 28), None, [28, 28, 1]),
        ((28, 28), images(shape=(28, 28)) / 255, None),
        ((8, 6), None, None),  # perhaps of a sequence
        ((8, 6), images(shape=(8, 6)), [8, 6, 1]),
        ((8, 6), images(shape=(8, 6)) / 255, None),
        ((48,), None, None),
    ],
)
def test_pictures_have_rows_columns_and_one_channel_or_three(shape, values, picture):
    inputs = keras.Input(shape, name="image")
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs)))
    examples = made_examples(model)
    if values is not None:
        examples = Examples("made", {"image": values}, None, None)
    facts = page_facts(Source("one", model, examples, {}))
    assert facts["picture"] == picture
    assert bool(facts["examples"]) == (values is not None and picture is not None)


def test_inputs_of_rows_and_columns_have_their_places():
    inputs = keras.Input((3, 2))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, name="only")(x))
    with_zeros(model, "only", np.array([[1, 0], [0, 0], [1, 1], [0, 1], [1, 1], [0, 0]]))
    found = live_inputs(model)
    assert (found["kind"], found["shape"]) == ("pixels", [3, 2, 1])
    assert found["connections"] == [1, 0, 2, 1, 2, 0]


THREE = ["0", "1", "2"]


def nested(layer):
    return keras.Sequential([keras.Input((4,)), layer])


@pytest.mark.parametrize(
    ("head", "labels", "scores"),
    [
        ([keras.layers.Dense(3)], THREE, "logits"),
        ([keras.layers.Dense(3, activation="softmax")], THREE, "softmax"),
        ([keras.layers.Dense(3), keras.layers.Softmax()], THREE, "softmax"),
        ([keras.layers.Dense(3), keras.layers.Activation("sigmoid")], THREE, "sigmoid"),
        ([keras.layers.Dense(3), keras.layers.Activation("linear")], THREE, "logits"),
        (
            [keras.layers.Dense(3, activation="softmax"), keras.layers.Reshape((3,))],
            THREE,
            "softmax",
        ),
        ([keras.layers.Dense(4, activation="softmax"), keras.layers.Dense(3)], THREE, "logits"),
        ([nested(keras.layers.Dense(3, activation="softmax"))], THREE, "softmax"),
        ([nested(keras.layers.Dense(1, activation="sigmoid"))], ["0", "1"], "sigmoid"),
        ([keras.layers.Dense(1, activation="sigmoid")], ["0", "1"], "sigmoid"),
        ([keras.layers.Dense(1)], None, "logits"),
    ],
)
def test_a_classifier_has_labels_and_scores_of_a_kind(head, labels, scores):
    model = keras.Sequential([keras.Input((4,), name="x"), *head])
    facts = page_facts(Source("one", model, made_examples(model), {}))
    assert (facts["labels"], facts["scores"]) == (labels, scores)


def test_an_operation_may_make_the_shares():
    inputs = keras.Input((4,), name="x")
    model = keras.Model(inputs, keras.ops.softmax(keras.layers.Dense(3)(inputs)))
    assert score_kind(model) == "softmax"


def test_filters_over_a_sequence_have_no_place():
    inputs = keras.Input((28, 28), name="image")
    x = keras.layers.Flatten()(keras.layers.Conv1D(4, 3)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, name="only")(x))
    on = np.ones((104, 2))
    on[:50] = 0
    with_zeros(model, "only", on)
    assert live_inputs(model)["kind"] == "vector"


def test_an_input_is_told_with_its_shape():
    inputs = keras.Input((4,), name="x")
    model = keras.Model(inputs, keras.layers.Dense(3)(inputs))
    facts = page_facts(Source("one", model, made_examples(model), {}))
    assert facts["inputs"] == [{"name": "x", "shape": [4]}]
