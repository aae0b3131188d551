import keras
import numpy as np
import pytest
from kinds_of_models import REGISTER, Perceptron, X, made
from small import CLASSES, INPUTS

from keras_switcher import strip, switch


def one_layer(layer):
    inputs = keras.Input((INPUTS,))
    return keras.Model(inputs, layer(inputs), name="small")


def test_model_without_dense_layers_is_refused():
    with pytest.raises(ValueError, match=r"no Dense layer to switch in model 'small'.*Rescaling"):
        switch(one_layer(keras.layers.Rescaling(2.0)))


def test_predicate_that_chooses_nothing_is_refused():
    with pytest.raises(ValueError, match=r"no Dense layer to switch.*'first', 'second'"):
        switch(made("sequential"), lambda layer: False)


def test_unknown_name_is_answered_with_the_names_there_are():
    with pytest.raises(ValueError, match=r"layer 'third'.*\['first', 'second'\].*Received"):
        switch(made("sequential"), ["first", "third"])


@pytest.mark.parametrize("layers", [5, True, b"first", keras.layers.Dense])
def test_a_choice_of_another_type_is_refused(layers):
    with pytest.raises(TypeError, match="Expected `layers` to be None, a layer or its name"):
        switch(made("sequential"), layers)


@pytest.mark.parametrize("function", [switch, strip])
def test_unbuilt_model_is_refused(function):
    with pytest.raises(ValueError, match="is not built.*call it on a batch"):
        function(keras.Sequential([keras.layers.Dense(3)]))
    with pytest.raises(ValueError, match="is not built.*an unbuilt Perceptron"):
        function(Perceptron())


@pytest.mark.parametrize("function", [switch, strip])
@pytest.mark.parametrize("thing", [keras.layers.Dense(3), "model", None])
def test_what_is_no_model_is_refused(function, thing):
    with pytest.raises(TypeError, match=r"expects a keras\.Model\. Received: .*of type"):
        function(thing)


@REGISTER
class Doubled(keras.layers.Dense):
    """A subclass of Dense whose code a switched layer would lose."""

    def call(self, inputs):
        return 2.0 * super().call(inputs)


def test_subclass_of_dense_is_refused_by_name_and_left_alone_otherwise():
    inputs = keras.Input((INPUTS,))
    x = Doubled(5, name="doubled")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(CLASSES, name="plain")(x))
    with pytest.raises(ValueError, match="'doubled'.*Doubled, a subclass of Dense"):
        switch(model, "doubled")
    assert [layer.name for layer in switch(model).switched_layers()] == ["plain"]


def test_layer_with_lora_is_refused_until_it_is_merged(tmp_path):
    dense = keras.layers.Dense(5, name="adapted")
    model = one_layer(dense)
    dense.enable_lora(2)
    with pytest.raises(ValueError, match=r"'adapted'.*LoRA is enabled.*save_weights\(\)"):
        switch(model)
    dense.lora_kernel_b.assign(np.ones((2, 5)))
    model.save_weights(tmp_path / "merged.weights.h5")
    merged = one_layer(keras.layers.Dense(5, name="adapted"))
    merged.load_weights(tmp_path / "merged.weights.h5")
    np.testing.assert_allclose(switch(merged)(X), model(X), atol=1e-5)


def test_quantised_layer_is_refused():
    dense = keras.layers.Dense(5, name="small_numbers")
    model = one_layer(dense)
    dense.quantize("int8")
    with pytest.raises(ValueError, match=r"'small_numbers'.*quantised \(int8\)"):
        switch(model)


def test_layer_that_is_switched_already_is_refused():
    switched = switch(made("sequential"), "first")
    with pytest.raises(ValueError, match="'first'.*switched already"):
        switch(switched, "first")
    again = switch(switched)
    assert {layer.name for layer in again.switched_layers()} == {"first", "second"}


@REGISTER
class InTuple(keras.Model):
    """Holds a layer where it can't be replaced."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.pair = (keras.layers.Dense(5, name="in_tuple"), keras.layers.Dense(CLASSES))

    def call(self, inputs):
        return self.pair[1](self.pair[0](inputs))

    def get_config(self):
        return {}


def test_layer_in_a_tuple_is_refused():
    model = InTuple()
    model(X)
    with pytest.raises(ValueError, match="'in_tuple'.*tuple.*Hold it in a list"):
        switch(model, "in_tuple")


class NoConfig(keras.Model):
    """Can't make a copy of itself."""

    def __init__(self, units):
        super().__init__()
        self.dense = keras.layers.Dense(units)

    def call(self, inputs):
        return self.dense(inputs)


def test_model_that_does_not_come_back_from_its_configuration_is_refused():
    model = NoConfig(4)
    model(X)
    with pytest.raises(ValueError, match="a NoConfig.*Implement get_config"):
        switch(model)


class OldStyle(keras.layers.Layer):
    """As many tutorials write a layer: without `**kwargs` and a configuration."""

    def __init__(self, units):
        super().__init__()
        self.scale = keras.layers.EinsumDense("ab,bc->ac", units)

    def call(self, inputs):
        return self.scale(inputs)


def test_a_layer_that_does_not_come_back_is_named_even_if_nothing_in_it_is_switched():
    inputs = keras.Input((INPUTS,))
    model = keras.Model(inputs, keras.layers.Dense(CLASSES)(OldStyle(5)(inputs)))
    with pytest.raises(ValueError, match=r"'old_style', a OldStyle.*get_config.*\*\*kwargs"):
        switch(model)


@REGISTER
class Lazy(keras.layers.Layer):
    """Gets a layer with weights at some time after it was built."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = keras.layers.Dense(5)
        self.more = []

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, inputs):
        x = self.dense(inputs)
        for layer in self.more:
            x = layer(x)
        return x


def test_weights_that_have_no_place_in_the_copy_are_not_left_out_silently():
    layer, inputs = Lazy(), keras.Input((INPUTS,))
    layer.more.append(keras.layers.LayerNormalization(name="added"))
    model = keras.Model(inputs, keras.layers.Dense(CLASSES)(layer(inputs)))
    with pytest.raises(ValueError, match=r"Can't copy the weights of 'added'.*'more/0' of 'lazy'"):
        switch(model)
    layer.more.clear()
    switch(keras.Model(inputs, keras.layers.Dense(CLASSES)(layer(inputs))))


@REGISTER
class Late(keras.Model):
    """Creates its layer when it is built."""

    def build(self, input_shape):
        self.dense = keras.layers.Dense(4, name="late")
        self.dense.build(input_shape)

    def call(self, inputs):
        return self.dense(inputs)

    def get_config(self):
        return {}


def test_layer_that_is_not_created_in_init_is_refused():
    model = Late()
    model(X)
    with pytest.raises(ValueError, match="'late' at 'dense'.*not created in __init__"):
        switch(model)
