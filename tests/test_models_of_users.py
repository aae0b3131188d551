"""What models of users do that the networks here do not."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small import CLASSES, INPUTS, Own, always, arrays, compiled, network, separable

from keras_switcher import SwitchedDense, SwitchedModel, Switcher, strip, switch

X, Y = separable()


def test_weights_saved_before_compiling_start_a_training_from_a_dense_network(tmp_path):
    sparsities = []
    for loads in (False, True):
        keras.utils.set_random_seed(0)
        model = network()
        model.save_weights(tmp_path / "start.weights.h5")
        compiled(model, target_sparsity=0.5)
        if loads:
            model.load_weights(tmp_path / "start.weights.h5")
        x, y = separable(64)
        history = model.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0)
        sparsities.append(history.history["sparsity"])
    assert sparsities[0] == sparsities[1]


def a_loss(y, predicted):
    return keras.ops.mean(keras.ops.square(y - predicted), axis=-1)


@pytest.mark.parametrize("is_functional", [False, True])
def test_a_nested_model_may_be_compiled_with_a_loss_that_keras_does_not_know(is_functional):
    inner = keras.Sequential([keras.Input((INPUTS,)), keras.layers.Dense(8)])
    if is_functional:
        inner = keras.Model(inner.inputs[0], inner.outputs[0])
    inner.compile("adam", loss=a_loss)
    given = keras.Input((INPUTS,))
    switched = switch(keras.Model(given, keras.layers.Dense(CLASSES)(inner(given))))
    assert len(switched.switched_layers()) == 2
    assert inner.compiled and inner.optimizer is not None


def test_a_layer_that_wrappers_share_stays_shared():
    shared = keras.layers.Dense(4, name="shared")
    first, second = keras.Input((3, 5)), keras.Input((2, 5))
    outputs = [keras.layers.TimeDistributed(shared)(given) for given in (first, second)]
    model = keras.Model([first, second], outputs)
    switched = switch(model)
    assert [layer.name for layer in switched.switched_layers()] == ["shared"]
    plain = strip(switched)
    assert plain.count_params() == model.count_params()
    given = [np.ones((2, 3, 5), "float32"), np.ones((2, 2, 5), "float32")]
    for ours, theirs in zip(plain.predict(given), model.predict(given), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@keras.saving.register_keras_serializable("tests")
class WithConstant(Switcher):
    """A switcher with a weight that does not learn."""

    def build(self, kernel_shape):
        self.constant = self.add_weight(
            name="constant", shape=(), initializer="ones", trainable=False
        )
        self.factor = self.add_weight(name="factor", shape=kernel_shape, initializer="ones")
        self.built = True

    def call(self, kernel):
        return self.factor * self.constant * kernel


def test_only_what_is_trainable_in_a_switcher_learns(tmp_path):
    inputs = keras.Input((INPUTS,))
    hidden = SwitchedDense(16, "relu", switcher=WithConstant())(inputs)
    model = compiled(SwitchedModel(inputs, SwitchedDense(CLASSES)(hidden)), target_sparsity=0.5)
    x, y = separable(64)

    def learned(model):
        switcher = model.switched_layers()[0].switcher
        before = arrays([switcher.constant, switcher.factor])
        model.fit(x, y, batch_size=8, epochs=3, verbose=0)
        constant, factor = arrays([switcher.constant, switcher.factor])
        np.testing.assert_array_equal(constant, before[0])
        return not np.array_equal(factor, before[1])

    model.save(tmp_path / "new.keras")
    assert learned(model)
    assert learned(keras.models.load_model(tmp_path / "new.keras"))


def test_averages_of_a_switcher_s_weights_decide_the_structure():
    optimizer = keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9)
    model = compiled(network(), target_sparsity=0.5, switcher_optimizer=optimizer)
    x, y = separable(64)
    model.fit(x, y, batch_size=8, epochs=3, verbose=0)
    averages = optimizer._model_variables_moving_average
    for variable, average in zip(model.switcher_variables, averages, strict=True):
        np.testing.assert_array_equal(variable, average)


def test_averages_that_have_not_begun_leave_a_switcher_s_weights():
    optimizer = keras.optimizers.Adam(0.01, use_ema=True)
    model = compiled(network(), target_sparsity=0.5, switcher_optimizer=optimizer)
    before = [np.array(v) for v in model.switcher_variables]
    model.settle()
    assert any(np.any(array) for array in before)
    for variable, array in zip(model.switcher_variables, before, strict=True):
        np.testing.assert_array_equal(variable, array)


class OwnLoss(SwitchedModel):
    """A model that tracks a part of its loss under the name of the whole, as Keras's guide does."""

    def __init__(self):
        super().__init__()
        self.last = SwitchedDense(CLASSES)
        self.loss_tracker = keras.metrics.Mean(name="loss")

    def call(self, inputs):
        return self.last(inputs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        self.loss_tracker.update_state(loss)
        return loss + 100.0


def test_a_metric_of_ones_own_that_is_called_loss_stays_ones_own():
    model = compiled(OwnLoss(), target_sparsity=0.5)
    x, y = separable(64)
    logs = model.fit(x, y, batch_size=8, verbose=0, validation_data=(x, y)).history
    assert logs["loss"][0] < 50
    assert logs["val_loss"][0] < 50


def test_a_metric_of_ones_own_must_not_be_called_sparsity():
    def sparsity(y, y_pred):
        return 0.0

    named = keras.metrics.SparseCategoricalAccuracy(name="sparsity")
    for metrics in ([named], {"out": ["accuracy", sparsity]}):
        with pytest.raises(ValueError, match="a metric called 'sparsity'"):
            compiled(network(), metrics=metrics)
    with pytest.raises(ValueError, match="a metric called 'sparsity'"):
        compiled(network(), weighted_metrics=[named])


class Optional(SwitchedModel):
    """A model of which an input may be missing, and that has a layer for training alone."""

    def __init__(self):
        super().__init__()
        self.hidden, self.last = SwitchedDense(16, "relu"), SwitchedDense(CLASSES)
        self.aside = SwitchedDense(CLASSES)

    def call(self, inputs, training=False):
        hidden = self.hidden(inputs["image"])
        return self.last(hidden) + (self.aside(hidden) if training else 0.0)


def test_a_missing_input_and_a_layer_of_training_alone_do_not_stop_a_subclass():
    model = compiled(Optional(), target_sparsity=0.5)
    x, y = separable(64)
    model.fit({"image": x, "text": None}, y, batch_size=8, epochs=3, verbose=0)
    assert model.sparsity == pytest.approx(0.5, abs=0.01)


@keras.saving.register_keras_serializable("tests")
class Plain(keras.Model):
    """A subclassed model of dense layers."""

    def __init__(self, **options):
        super().__init__(**options)
        self.hidden, self.last = keras.layers.Dense(16, "relu"), keras.layers.Dense(CLASSES)

    def call(self, inputs):
        return self.last(self.hidden(inputs))


def test_a_subclass_that_is_switched_keeps_its_policy_in_a_file(tmp_path):
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = Plain()
        model(np.ones((1, INPUTS)))
        switched = switch(model)
    finally:
        keras.config.set_dtype_policy("float32")
    compiled(switched)
    switched.save(tmp_path / "mixed.keras")
    loaded = keras.models.load_model(tmp_path / "mixed.keras")
    assert loaded.dtype_policy.name == "mixed_float16"
    assert type(loaded.optimizer) is type(switched.optimizer)


class Logarithm(Switcher):
    """Ranks by the size of the weight on a scale that has no place for 0."""

    def build(self, kernel_shape):
        self.factor = self.add_weight(shape=(), initializer="ones")

    def call(self, kernel):
        return self.factor * keras.ops.log(keras.ops.abs(kernel))


def test_logits_that_are_no_numbers_are_told_and_not_taken_for_a_structure():
    model = compiled(network(switcher=Logarithm()), alternation=always())
    first = model.switched_layers()[0]
    first.trainable = False
    first.kernel.assign(np.where(np.arange(16) < 2, 0, first.kernel))
    model.train_on_batch(X, Y)
    with pytest.raises(FloatingPointError, match=rf"'{first.name}'.*Logarithm returning"):
        model.settle()
    with pytest.raises(FloatingPointError, match=rf"'{first.name}', a Logarithm.*after epoch 1"):
        model.fit(X, Y, epochs=3, verbose=0)


class Penalised(Switcher):
    """Ranks by magnitude, and has weights that nothing but a penalty reaches."""

    def build(self, kernel_shape):
        l2 = keras.regularizers.L2(0.5)
        self.regularised = self.add_weight(shape=(), initializer="ones", regularizer=l2)
        self.added = self.add_weight(shape=(), initializer="ones")
        self.in_halves = self.add_weight(shape=(), initializer="ones")

    def call(self, kernel):
        self.add_loss(0.5 * keras.ops.square(self.added))
        # Keras adds them up, of whatever type.
        self.add_loss(keras.ops.cast(keras.ops.square(self.in_halves) * [0.25, 0.25], "bfloat16"))
        return keras.ops.abs(kernel)


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_penalties_of_a_switcher_belong_to_its_objective_alone(run_eagerly):
    sgd = keras.optimizers.SGD(0.1)
    options = {"switcher_optimizer": sgd, "run_eagerly": run_eagerly}
    model = compiled(network(switcher=Penalised()), alternation=always(1), **options)
    loss = model.evaluate(X, Y, batch_size=len(X), verbose=0)[0]
    history = model.fit(X, Y, epochs=3, batch_size=len(X), verbose=0).history
    assert history["loss"][0] == pytest.approx(loss)
    for layer in model.switched_layers():
        switcher = layer.switcher
        for weight in (switcher.regularised, switcher.added, switcher.in_halves):
            assert float(weight) == pytest.approx(0.9**3, rel=1e-2)


@pytest.mark.parametrize("name", ["model.h5", "model.hdf5"])
def test_a_format_that_would_lose_the_course_is_refused(name, tmp_path):
    model = compiled(network())
    with pytest.raises(ValueError, match=rf"ends in .keras.*strip\(\).*Received: .*{name}"):
        model.save(tmp_path / name)
    assert not (tmp_path / name).exists()
    strip(model).save(tmp_path / name)


def with_prelu() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((INPUTS,))
    hidden = keras.layers.Dense(16, activation=keras.layers.PReLU())(inputs)
    model = keras.Model(inputs, keras.layers.Dense(CLASSES)(hidden))
    model.predict(X, verbose=0)
    for layer in model.layers[1:2]:
        layer.activation.alpha.assign(np.linspace(-3, 3, 16))
    return model


def test_an_activation_with_weights_keeps_them():
    model = with_prelu()
    expected = model.predict(X, verbose=0)
    switched = switch(model)
    np.testing.assert_allclose(switched.predict(X, verbose=0), expected, atol=1e-5)
    np.testing.assert_allclose(strip(switched).predict(X, verbose=0), expected, atol=1e-5)


def test_an_activation_with_weights_is_trained():
    inputs = keras.Input((INPUTS,))
    hidden = SwitchedDense(16, keras.layers.PReLU())(inputs)
    model = compiled(SwitchedModel(inputs, SwitchedDense(CLASSES)(hidden)))
    model.fit(X, Y, epochs=2, verbose=0)
    (alpha,) = model.layers[1].activation.weights
    assert np.abs(keras.ops.convert_to_numpy(alpha)).max() > 0


def test_a_subclass_that_passes_the_graph_on_leaves_the_other_subclasses_as_they_are():
    class Graph(SwitchedModel):
        def __init__(self, units):
            inputs = keras.Input((INPUTS,))
            super().__init__(inputs, SwitchedDense(CLASSES)(SwitchedDense(units)(inputs)))

    bases = SwitchedModel.__bases__
    model = compiled(Graph(8))
    assert isinstance(model, Graph)
    model.fit(X, Y, epochs=1, verbose=0)
    assert SwitchedModel.__bases__ == bases
    compiled(Own()).fit(X, Y, epochs=1, verbose=0)


@pytest.mark.parametrize("switcher", ["unit", "orthogonal"])
@pytest.mark.parametrize("floatx", ["float64", "bfloat16"])
def test_another_floatx_trains(floatx, switcher):
    before = keras.config.floatx()
    keras.config.set_floatx(floatx)
    try:
        model = compiled(network(switcher=switcher), alternation=always())
        model.fit(X, Y, epochs=1, verbose=0)
        assert 0.4 < model.sparsity < 0.6
    finally:
        keras.config.set_floatx(before)


def test_metrics_are_where_the_model_is(monkeypatch):
    devices = []
    model = compiled(network(), run_eagerly=False)
    monkeypatch.setattr(
        "keras_switcher.model.tf.device",
        lambda name: devices.append(name) or tf.name_scope("here"),
    )
    model.fit(X, Y, epochs=1, verbose=0)
    assert devices == [model.alternation_state.offset.value.device]


def test_the_units_of_an_output_layer_in_a_wrapper_are_classes_too():
    inputs = keras.Input((5, INPUTS))
    hidden = keras.layers.Dense(16)(inputs)
    model = keras.Model(inputs, keras.layers.TimeDistributed(keras.layers.Dense(CLASSES))(hidden))
    (layer,) = switch(model, granularity="unit").switched_layers()
    assert layer.units == 16


def test_the_policy_is_that_of_the_model_and_not_of_the_moment():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        inputs = keras.Input((INPUTS,))
        model = keras.Model(inputs, keras.layers.Dense(CLASSES)(inputs))
    finally:
        keras.config.set_dtype_policy("float32")
    switched = switch(model)
    switched.compile("adam", loss="mse")
    for optimizer in (switched.optimizer, switched.switcher_optimizer):
        assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    assert strip(switched).dtype_policy.name == "mixed_float16"


def test_a_switched_model_is_not_quantised():
    model = network()
    with pytest.raises(NotImplementedError, match="strip"):
        model.quantize("int8")
