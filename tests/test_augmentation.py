import numpy as np
import pytest
import tensorflow as tf
from made_images import made

from keras_switcher import augmentation
from keras_switcher.batches import training_batches


def augmented(name: str, images: np.ndarray, *seed: int) -> np.ndarray:
    return augmentation.registry.get(name)(tf.constant(images), tf.constant(seed)).numpy()


def numbered(count: int = 400, height: int = 6, width: int = 5) -> np.ndarray:
    """Images of which each pixel tells where it was; none is black."""
    places = np.arange(1, 1 + height * width, dtype=np.uint8).reshape(1, height, width, 1)
    return np.repeat(np.concatenate([places, places + 100], axis=3), count, axis=0)


def candidates(image: np.ndarray, mirrored: bool) -> dict[bytes, tuple[int, int, bool]]:
    """Every way in which an image can come out."""
    height, width, _ = image.shape
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    found = {}
    for down in range(9):
        for right in range(9):
            part = padded[down : down + height, right : right + width]
            found[part.tobytes()] = (down, right, False)
            if mirrored:
                found.setdefault(part[:, ::-1].tobytes(), (down, right, True))
    return found


def test_none_leaves_images_alone():
    images = numbered(3)
    assert np.array_equal(augmented("none", images, 1, 2), images)


@pytest.mark.parametrize("name", ["crop", "crop_flip"])
def test_images_are_moved_by_up_to_four_pixels_each_by_itself(name):
    images = numbered()
    result = augmented(name, images, 1, 2)
    assert (result.shape, result.dtype) == (images.shape, images.dtype)
    known = candidates(images[0], mirrored=name == "crop_flip")
    moves = [known[image.tobytes()] for image in result]  # every one is a crop of its image
    for axis in (0, 1):
        counts = np.bincount([move[axis] for move in moves], minlength=9)
        assert len(counts) == 9
        assert counts.min() > 15  # 44 of each are expected
    flipped = np.mean([move[2] for move in moves])
    assert flipped == 0 if name == "crop" else 0.4 < flipped < 0.6


def test_the_seed_decides():
    images = numbered(50)
    first = augmented("crop_flip", images, 1, 2)
    assert np.array_equal(first, augmented("crop_flip", images, 1, 2))
    assert not np.array_equal(first, augmented("crop_flip", images, 1, 3))
    assert not np.array_equal(first, augmented("crop_flip", images, 2, 2))


def test_a_resumed_run_sees_the_same_images():
    x, y = numbered(64), np.zeros(64, int)
    options = {"seed": 3, "augmentation": "crop_flip"}
    whole = [images.numpy() for images, _ in training_batches(x, y, 16, epochs=3, **options)]
    again = training_batches(x, y, 16, epochs=3, initial_epoch=1, **options)
    for (images, _), expected in zip(again, whole[4:], strict=True):
        assert np.array_equal(images, expected)
    assert len({images.tobytes() for images in whole}) == 12


def test_labels_and_order_do_not_depend_on_augmentation():
    x, y = made(50)
    plain = training_batches(x, y, 8, seed=3, epochs=2)
    moved = training_batches(x, y, 8, seed=3, epochs=2, augmentation="crop")
    assert [b[1].numpy().tolist() for b in plain] == [b[1].numpy().tolist() for b in moved]
    assert moved.element_spec[0].shape == (8, 3, 2, 1)


def test_unknown_augmentation_lists_what_exists():
    with pytest.raises(ValueError, match="Unknown augmentation 'flip'.*'crop_flip'"):
        training_batches(*made(50), 8, seed=0, epochs=1, augmentation="flip")
