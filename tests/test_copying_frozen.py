"""Copies of models of which parts are frozen, and their unfreezing."""

import keras
import pytest
from kinds_of_models import REGISTER, Tower, X
from small import CLASSES, INPUTS

from keras_switcher import strip, switch


@REGISTER
class Classifier(keras.Model):
    """A subclassed model around a layer that holds a model."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.tower = Tower()
        self.last = keras.layers.Dense(CLASSES)

    def call(self, inputs):
        return self.last(self.tower(inputs))


def subclassed():
    model = Classifier()
    model(X)
    return model, model.tower


def functional():
    inputs, tower = keras.Input((INPUTS,)), Tower()
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(tower(inputs))), tower


@pytest.mark.parametrize("make", [subclassed, functional])
@pytest.mark.parametrize("layers", [None, lambda layer: layer.units == CLASSES])
def test_what_is_frozen_inside_stays_frozen(make, layers):
    model, tower = make()
    tower.base.trainable = False
    expected = {tuple(v.shape) for v in model.trainable_variables}
    assert (INPUTS, 7) not in expected and (7, 6) in expected
    switched = switch(model, layers)
    assert {tuple(v.shape) for v in switched.task_variables} == expected
    assert {tuple(v.shape) for v in strip(switched).trainable_variables} == expected
    tower.base.trainable = True
    tower.base.layers[1].trainable = False
    assert len(switch(model, layers).task_variables) == len(model.trainable_variables) == 5


def tuned_functional(base):
    inputs = keras.Input((INPUTS,))
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(base(inputs, training=False)))


@REGISTER
class Tuned(keras.Model):
    """A subclassed model on a base, which it is given."""

    def __init__(self, base, **kwargs):
        super().__init__(**kwargs)
        self.base = base
        self.last = keras.layers.Dense(CLASSES)

    def call(self, inputs):
        return self.last(self.base(inputs, training=False))

    def get_config(self):
        return {"base": keras.saving.serialize_keras_object(self.base), "name": self.name}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["base"]), name=config["name"])


def tuned_subclassed(base):
    model = Tuned(base)
    model(X)
    return model


@pytest.mark.parametrize("copy", [switch, lambda model: strip(switch(model))])
@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("make", [tuned_functional, tuned_subclassed])
@pytest.mark.parametrize("whole", [False, True])
def test_what_is_frozen_can_be_unfrozen(make, copy, saved, whole, tmp_path):
    inputs = keras.Input((INPUTS,))
    normalized = keras.layers.BatchNormalization()(keras.layers.Dense(7)(inputs))
    base = keras.Model(inputs, normalized, name="base")
    model = make(base)
    (model if whole else base).trainable = False
    new = copy(model)
    # Keras itself does not save that a subclassed model is frozen.
    if saved and not (whole and isinstance(new, Tuned)):
        new.save(tmp_path / "model.keras")
        new = keras.saving.load_model(tmp_path / "model.keras")
    assert new.trainable is not whole
    count = len(new.trainable_variables)
    assert count == (0 if whole else 2)
    part = new if whole else next(x for x in new._flatten_layers() if x.name == "base")
    assert part.trainable is False
    part.trainable = True
    assert len(new.trainable_variables) == 6


def test_a_frozen_network_in_its_wrapper_is_saved_as_frozen(tmp_path):
    inputs = keras.Input((INPUTS,))
    model = tuned_subclassed(keras.Model(inputs, keras.layers.Dense(7)(inputs)))
    switched = switch(model)
    switched.network.trainable = False
    switched.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.trainable and not loaded.network.trainable
    assert not loaded.trainable_variables and not strip(loaded).trainable_variables
    loaded.network.trainable = True
    assert len(loaded.trainable_variables) == 4
