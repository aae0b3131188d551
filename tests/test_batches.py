import warnings

import numpy as np
import pytest
from made_images import made, numbers

from keras_switcher.batches import evaluation_batches, training_batches


def training_numbers(count=50, batch_size=8, **arguments):
    """The examples' numbers, per batch."""
    images, labels = made(count)
    batches = []
    for x, y in training_batches(images, labels, batch_size, **arguments):
        batch = numbers(x.numpy())
        assert (np.array(batch) % 4 == y.numpy()).all()  # every image with its own label
        batches.append(batch)
    return batches


def test_an_epoch_has_every_example_at_most_once_in_full_batches():
    batches = training_numbers(seed=3, epochs=4)
    assert len(batches) == 4 * 6
    assert {len(batch) for batch in batches} == {8}
    for epoch in range(4):
        seen = sum(batches[epoch * 6 : epoch * 6 + 6], [])
        assert len(set(seen)) == 48
    assert set(sum(batches, [])) == set(range(50))  # those left over differ


def test_order_differs_between_epochs_and_between_seeds():
    batches = training_numbers(seed=3, epochs=2)
    first, second = sum(batches[:6], []), sum(batches[6:], [])
    assert first != second
    assert first != sorted(first)
    assert first != sum(training_numbers(seed=4, epochs=1), [])


def test_a_resumed_run_sees_the_same_batches():
    whole = training_numbers(seed=3, epochs=5)
    assert training_numbers(seed=3, epochs=5) == whole
    for initial_epoch in range(6):
        resumed = training_numbers(seed=3, epochs=5, initial_epoch=initial_epoch)
        assert resumed == whole[initial_epoch * 6 :]


def test_order_stays_what_it_is():
    """A run that was stopped under one version goes on under the next."""
    batches = training_numbers(count=9, batch_size=4, seed=11, epochs=2)
    assert batches == [[5, 2, 0, 4], [3, 6, 1, 8], [4, 7, 6, 8], [3, 2, 0, 5]]


def test_batches_have_static_shapes_and_the_types_of_the_data():
    images, labels = made(50)
    batches = training_batches(images, labels, 8, seed=0, epochs=3, initial_epoch=1)
    x, y = batches.element_spec
    assert (x.shape, x.dtype.name) == ((8, 3, 2, 1), "uint8")
    assert (y.shape, y.dtype.name) == ((8,), "int32")
    assert batches.cardinality().numpy() == 12


def test_a_batch_may_be_all_of_the_data():
    (batch,) = training_numbers(count=10, batch_size=10, seed=0, epochs=1)
    assert sorted(batch) == list(range(10))


def test_fit_uses_up_the_batches_without_a_warning():
    import keras

    images, labels = made(50)
    model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(4)])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    batches = training_batches(images, labels, 8, seed=0, epochs=3, initial_epoch=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        history = model.fit(
            batches,
            steps_per_epoch=6,
            epochs=3,
            initial_epoch=1,
            shuffle=False,
            verbose=0,
            validation_data=evaluation_batches(images, labels, 16),
        )
    assert history.epoch == [1, 2]
    assert model.optimizer.iterations.numpy() == 12


@pytest.mark.parametrize("batch_size", [7, 50, 64])
def test_evaluation_has_every_example_once_in_order(batch_size):
    images, labels = made(50)
    batches = list(evaluation_batches(images, labels, batch_size))
    assert numbers(np.concatenate([x for x, _ in batches])) == list(range(50))
    assert np.concatenate([y for _, y in batches]).tolist() == labels.tolist()
    assert len(batches[0][1]) == min(batch_size, 50)
    assert batches[0][1].dtype.name == "int32"


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, None])
def test_batch_size_must_be_a_positive_integer(batch_size):
    images, labels = made(50)
    with pytest.raises(ValueError, match="`batch_size` must be a positive.*Received: batch_size="):
        training_batches(images, labels, batch_size, seed=0, epochs=1)
    with pytest.raises(ValueError, match="`batch_size` must be a positive.*Received: batch_size="):
        evaluation_batches(images, labels, batch_size)


def test_batch_larger_than_the_training_data_is_an_error():
    with pytest.raises(ValueError, match="Received: batch_size=51, 50 examples"):
        training_batches(*made(50), 51, seed=0, epochs=1)


@pytest.mark.parametrize(
    "arguments",
    [
        {"epochs": -1},
        {"epochs": 2, "initial_epoch": 3},
        {"epochs": 2, "initial_epoch": -1},
        {"epochs": 1.5},
        {"epochs": 1, "seed": None},
    ],
)
def test_epochs_and_seed_are_checked(arguments):
    with pytest.raises(ValueError, match="Received: "):
        training_batches(*made(50), 8, **{"seed": 0} | arguments)


def test_images_and_labels_must_match():
    images, labels = made(50)
    with pytest.raises(ValueError, match="Received: 50 images, 49 labels"):
        training_batches(images, labels[:49], 8, seed=0, epochs=1)
    with pytest.raises(ValueError, match="Received: 0 images, 0 labels"):
        evaluation_batches(images[:0], labels[:0], 8)
