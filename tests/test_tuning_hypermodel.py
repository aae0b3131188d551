import sys
from types import SimpleNamespace

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf
from small import CLASSES, INPUTS, separable

from keras_switcher import ConnectionSwitcher, SwitchedModel, Switcher, UnitSwitcher
from keras_switcher.tuning import SwitcherHyperModel, objective
from keras_switcher.tuning.objective import (
    NAME,
    LogObjective,
    connections,
    switcher_parameters,
)
from keras_switcher.tuning.plan import Terms


def build(hp):
    keras.utils.set_random_seed(0)
    units = hp.Choice("units", [16, 8])
    model = keras.Sequential(
        [keras.Input((INPUTS,)), keras.layers.Dense(units, "relu"), keras.layers.Dense(CLASSES)]
    )
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        run_eagerly=True,
    )
    return model


def values(**given):
    hp = keras_tuner.HyperParameters()
    for name, value in given.items():
        hp.Fixed(name, value)
    return hp


def tuner_of(hypermodel, folder, **options):
    return keras_tuner.Hyperband(
        hypermodel, objective=objective(), directory=folder, seed=1, **options
    )


DATA = dict(zip(("x", "y"), separable(), strict=True)) | {
    "validation_data": separable(64, seed=0),
    "verbose": 0,
}


@pytest.fixture
def silent(capsys):
    """Keras Tuner prints its progress."""
    yield
    capsys.readouterr()


def test_a_model_of_dense_layers_becomes_a_switched_one_as_the_values_say():
    given = values(
        **{"switcher": "connection", "connection_depth": 2},
        **{"connection_width_1": 8, "connection_width_2": 4},
        **{"switcher_activation": "tanh", "switcher_normalization": "layer", "gate": "relu_tanh"},
        **{"switcher_optimizer": "sgd", "sgd_learning_rate": 0.25, "multiplier_rate": 0.2},
        **{"task_steps": 2, "switcher_steps": 2, "warmup": 0.1, "settle": 0.3, "ramp": 0.5},
    )
    model = SwitcherHyperModel(build, target_sparsity=0.6, granularity="block4").build(given)
    assert isinstance(model, SwitchedModel)
    layer = model.switched_layers()[0]
    assert isinstance(layer.switcher, ConnectionSwitcher)
    assert layer.switcher.hidden == (8, 4)
    assert layer.switcher.activation is keras.activations.tanh
    assert layer.switcher.normalization == "layer"
    assert layer.gate.__name__ == "relu_tanh"
    assert layer.granularity.name == "block4"
    assert isinstance(model.switcher_optimizer, keras.optimizers.SGD)
    assert float(model.switcher_optimizer.learning_rate) == 0.25
    assert model.multiplier_rate == 0.2
    assert model.target_sparsity == 0.6
    course = model.alternation
    assert (course.task_steps, course.switcher_steps) == (2, 2)
    assert (course.warmup, course.settle, course.ramp) == (0.1, 0.3, 0.5)
    # And the model's own.
    assert isinstance(model.optimizer, keras.optimizers.SGD)
    assert float(model.optimizer.momentum) == 0.9
    assert layer.units == 16


def test_a_search_by_a_tuner_of_keras_tuner_finds_a_sparse_model(tmp_path, silent):
    hypermodel = SwitcherHyperModel(build, target_sparsity=0.5, space={"switcher": "unit"})
    tuner = tuner_of(hypermodel, tmp_path, max_epochs=3, factor=3, hyperband_iterations=1)
    tuner.search(**DATA)
    best = tuner.oracle.get_best_trials(1)[0]
    assert {"units", "unit_depth", "warmup"} <= set(best.hyperparameters.values)
    model = tuner.get_best_models(1)[0]
    assert abs(model.sparsity - 0.5) < 0.02
    accuracy = model.evaluate(*separable(64), verbose=0, return_dict=True)["accuracy"]
    # The objective is the accuracy, as nothing is missing of the sparsity.
    assert best.score == pytest.approx(accuracy)
    trials = tuner.oracle.trials.values()
    assert any(trial.hyperparameters.values["tuner/initial_epoch"] for trial in trials)


def test_a_promoted_trial_starts_from_new_weights(tmp_path, silent):
    hypermodel = SwitcherHyperModel(build, target_sparsity=0.5, space={"switcher": "unit"})
    hp = values(unit_depth=0)
    settled = hypermodel.build(hp)
    hypermodel.fit(hp, settled, **DATA, epochs=2)
    assert settled.phase == "settle"
    phases = []
    log = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: phases.append(log.model.phase)
    )
    history = hypermodel.fit(hp, settled, **DATA, epochs=6, initial_epoch=2, callbacks=[log])
    assert len(history.epoch) == 6
    assert phases[0] != "settle" and phases[-1] == "settle"


def test_the_objective_is_accuracy_less_what_is_missing_of_the_sparsity():
    hypermodel = SwitcherHyperModel(build, target_sparsity=0.5, penalty=3.0)
    hp = values(warmup=0.3, settle=0.3)
    history = hypermodel.fit(hp, hypermodel.build(hp), **DATA, epochs=5).history
    first = history["val_accuracy"][0] - 3.0 * (0.5 - history["sparsity"][0])
    assert history[NAME][0] == pytest.approx(first)
    assert history["sparsity"][0] == 0
    assert history[NAME][-1] == pytest.approx(history["val_accuracy"][-1])


def test_an_epoch_that_was_validated_before_the_structure_settled_is_not_sparse():
    # It settles with the last step of the last epoch.
    hypermodel = SwitcherHyperModel(build, target_sparsity=0.5, penalty=1.0, settle=0.0)
    hp = values(warmup=0.3, ramp=1.0, task_steps=8)
    model = hypermodel.build(hp)
    history = hypermodel.fit(hp, model, **DATA, epochs=2).history
    missing = 0.5 - np.array(history["sparsity"])
    assert missing[0] > 0.02 and abs(missing[1]) < 0.02
    np.testing.assert_allclose(history[NAME], history["val_accuracy"] - missing.clip(0), atol=1e-6)


def test_what_an_optimizer_does_not_decay_is_not_decayed():
    def build_with_decay(hp):
        model = build(hp)
        optimizer = keras.optimizers.AdamW(0.01)
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    model = SwitcherHyperModel(build_with_decay).build(values())
    for variable in model.task_variables:
        assert model.optimizer._use_weight_decay(variable) == (variable.name == "kernel")


def test_a_cost_is_part_of_the_objective():
    hypermodel = SwitcherHyperModel(build, None, cost="parameters", cost_weight=2.0)
    hp = values()
    model = hypermodel.build(hp)
    history = hypermodel.fit(hp, model, **DATA, epochs=1).history
    cost = 2.0 * switcher_parameters(model) / connections(model)
    assert history[NAME][0] == pytest.approx(history["val_accuracy"][0] - cost)
    assert connections(model) == 16 * (INPUTS + CLASSES)


def test_the_cost_of_a_step_counts_the_turns_of_a_network_that_has_settled(monkeypatch):
    clock = [0.0]

    class Slow(OwnSwitcher):
        def call(self, kernel):
            clock[0] += 0.001
            return super().call(kernel)

    timer = SimpleNamespace(perf_counter=lambda: clock[0])
    # The package has a function of the same name as that module.
    monkeypatch.setattr(sys.modules["keras_switcher.tuning.objective"], "time", timer)
    slow = SwitcherHyperModel(
        build, 0.5, switcher=lambda hp: Slow(), cost="seconds", cost_weight=1.0
    )
    hp = values(warmup=0.0, settle=0.5, ramp=0.5, task_steps=1, switcher_steps=1)
    model = slow.build(hp)
    history = slow.fit(hp, model, **DATA, epochs=4).history
    assert model.phase == "settle"
    # Half of the steps have a turn, which runs the switchers of two layers twice.
    costs = np.array(history["val_accuracy"]) - history[NAME]
    assert costs[-1] == pytest.approx(0.002, rel=0.15)
    assert costs[-2] > costs[-1]


def test_a_first_epoch_of_one_call_has_a_cost(monkeypatch):
    clock = [0.0]
    timer = SimpleNamespace(perf_counter=lambda: clock[0])
    monkeypatch.setattr(sys.modules["keras_switcher.tuning.objective"], "time", timer)
    log = LogObjective(Terms("val_accuracy", cost="seconds", cost_weight=1.0))
    log.set_model(SwitcherHyperModel(build, None).build(values()))
    log.on_train_begin()
    for seconds, cost in ((8.0, 2.0), (2.0, 0.5), (4.0, 0.75)):
        log.on_epoch_begin(0)
        clock[0] += seconds
        log.on_train_batch_end(3)
        logs = {"val_accuracy": 1.0, "sparsity": 0.0}
        log.on_epoch_end(0, logs)
        assert logs[NAME] == pytest.approx(1 - cost)


def test_a_metric_may_be_better_the_smaller_it_is():
    hypermodel = SwitcherHyperModel(build, None, metric="val_loss", direction="min")
    hp = values()
    history = hypermodel.fit(hp, hypermodel.build(hp), **DATA, epochs=1).history
    assert history[NAME] == [pytest.approx(-history["val_loss"][0])]


def test_a_promoted_trial_keeps_the_strategy():
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    hypermodel = SwitcherHyperModel(build, target_sparsity=0.5, space={"switcher": "unit"})
    hp = values(unit_depth=0)
    with strategy.scope():
        model = hypermodel.build(hp)
    found = []
    log = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: found.append(log.model.distribute_strategy)
    )
    hypermodel.fit(hp, model, **DATA, epochs=2, initial_epoch=1, callbacks=[log])
    assert found == [strategy]


def test_hyperparameters_of_the_model_with_names_of_the_switching_are_told():
    def own(hp):
        hp.Int("warmup", 0, 1000)
        return build(hp)

    with pytest.raises(ValueError, match="other names.*Received: 'warmup'"):
        SwitcherHyperModel(own).build(keras_tuner.HyperParameters())
    # What is fixed is nowhere.
    SwitcherHyperModel(own, warmup=0.1).build(keras_tuner.HyperParameters())


def test_a_tuner_with_another_objective_is_warned_of(tmp_path, silent, caplog):
    for seeks, warned in ((objective(), False), ("val_accuracy", True)):
        hypermodel = SwitcherHyperModel(build, target_sparsity=0.5, space={"switcher": "unit"})
        folder = tmp_path / str(warned)
        tuner = keras_tuner.RandomSearch(hypermodel, seeks, max_trials=2, directory=folder)
        callback = keras.callbacks.Callback()
        callback.objective = "one of its own"
        tuner.search(**DATA, epochs=1, callbacks=[callback])
        told = [r for r in caplog.records if "The tuner seeks val_accuracy" in r.getMessage()]
        assert len(told) == warned


def test_a_tuner_that_seeks_the_lowest_objective_is_refused(tmp_path, silent):
    lowest = keras_tuner.Objective(NAME, direction="min")
    hypermodel = SwitcherHyperModel(build, metric="val_loss", direction="min")
    tuner = keras_tuner.RandomSearch(hypermodel, lowest, max_trials=2, directory=tmp_path)
    with pytest.raises(ValueError, match="Expected 'val_objective' to be maximised.*=keras_switch"):
        tuner.search(**DATA, epochs=1)


def test_an_optimizer_that_can_not_be_serialised_serves_a_trial():
    class Own(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.125

    def own(hp):
        model = build(hp)
        model.compile(keras.optimizers.SGD(Own()), "sparse_categorical_crossentropy")
        return model

    hypermodel = SwitcherHyperModel(own)
    for _ in range(2):
        model = hypermodel.build(keras_tuner.HyperParameters())
        assert float(model.optimizer.learning_rate) == 0.125


def test_layers_may_be_left_dense():
    hypermodel = SwitcherHyperModel(build, layers=lambda layer: layer.units == 16)
    assert [la.units for la in hypermodel.build(values()).switched_layers()] == [16]


@pytest.mark.parametrize("wrong", [keras.Sequential(), keras.Sequential, keras_tuner.HyperModel, 3])
def test_what_gives_no_model_is_told(wrong):
    with pytest.raises(ValueError, match="Expected `model` to be a function that takes"):
        SwitcherHyperModel(wrong)


@keras.saving.register_keras_serializable("test_tuning_hypermodel")
class OwnSwitcher(Switcher):
    def __init__(self, power=1.0, **kwargs):
        super().__init__(**kwargs)
        self.power = power

    def call(self, kernel):
        return keras.ops.abs(kernel) ** self.power

    def get_config(self):
        return {**super().get_config(), "power": self.power}


def test_a_switcher_of_ones_own_is_searched_over():
    hypermodel = SwitcherHyperModel(
        build, switcher=lambda hp: OwnSwitcher(hp.Float("power", 0.5, 2.0, default=1.5))
    )
    hp = keras_tuner.HyperParameters()
    layer = hypermodel.build(hp).switched_layers()[0]
    assert isinstance(layer.switcher, OwnSwitcher) and layer.switcher.power == 1.5
    names = {p.name for p in hp.space}
    assert "power" in names
    assert not any(name.startswith(("unit_", "connection_", "switcher_act")) for name in names)


def test_a_loss_and_a_metric_of_ones_own_need_no_registration():
    def loss(y, y_pred):
        return keras.losses.sparse_categorical_crossentropy(y, y_pred, from_logits=True)

    class Own(keras.metrics.SparseCategoricalAccuracy):
        pass

    def own(hp):
        model = build(hp)
        model.compile("adam", loss=loss, metrics=[Own(name="accuracy")], run_eagerly=True)
        return model

    hypermodel = SwitcherHyperModel(own, target_sparsity=0.5)
    hp = keras_tuner.HyperParameters()
    history = hypermodel.fit(hp, hypermodel.build(hp), **DATA, epochs=2).history
    assert {"accuracy", "val_accuracy", NAME} <= set(history)


def test_a_function_may_load_a_model_or_give_the_same_one_to_every_trial(tmp_path):
    model = build(keras_tuner.HyperParameters())
    x, y, *_ = DATA.values()
    model.fit(x, y, verbose=0)
    model.save(tmp_path / "mine.keras")
    rate = model.optimizer.learning_rate
    for own in (lambda hp: model, lambda hp: keras.models.load_model(tmp_path / "mine.keras")):
        hypermodel = SwitcherHyperModel(own, target_sparsity=0.5)
        hp = keras_tuner.HyperParameters()
        for _ in range(2):
            trial = hypermodel.build(hp)
            assert trial.optimizer is not model.optimizer
            assert float(trial.optimizer.learning_rate) == float(rate)
            assert NAME in hypermodel.fit(hp, trial, **DATA, epochs=1).history


def test_a_hypermodel_may_train_the_model():
    class Own(keras_tuner.HyperModel):
        def build(self, hp):
            return build(hp)

        def fit(self, hp, model, *args, **kwargs):
            return model.fit(*args, **{**kwargs, "epochs": hp.Int("epochs", 3, 9)})

    hypermodel = SwitcherHyperModel(Own(), target_sparsity=0.5)
    history = hypermodel.fit(values(), hypermodel.build(values()), **DATA, epochs=1).history
    assert len(history[NAME]) == 3


def test_a_hypermodel_may_give_the_model():
    class Own(keras_tuner.HyperModel):
        def build(self, hp):
            return build(hp)

    layer = SwitcherHyperModel(Own()).build(values()).switched_layers()[0]
    assert isinstance(layer.switcher, UnitSwitcher)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_sparsity": 95}, "Expected --target-sparsity to be a share"),
        ({"granularty": "unit"}, "Received: granularty Did you mean 'granularity'"),
        # Those of the model itself.
        ({"learning_rate": 0.1}, "Expected options of the switching.*Received: learning_rate"),
        ({"switcher": "connection"}, "Expected `switcher` to be a function.*'connection'"),
        ({"switcher": UnitSwitcher()}, "Expected `switcher` to be a function"),
        ({"settle": 0.8}, "Expected the greatest warmup and settle.*'settle': 0.8"),
        ({"space": {"gat": ["step"]}}, "Unknown hyperparameter 'gat'"),
        ({"cost": "seconds"}, "Expected `cost` and a `cost_weight` above 0 together"),
        ({"cost": "time"}, "Expected `cost` to be"),
        ({"penalty": -1.0}, "Expected `penalty` >= 0"),
        ({"metric": "val_loss"}, "Expected direction='min'"),
        ({"direction": "least"}, "Expected `direction` to be 'max' or 'min'"),
    ],
)
def test_a_wrong_option_is_told(options, message):
    with pytest.raises(ValueError, match=message):
        SwitcherHyperModel(build, **options)


def test_a_model_that_is_not_compiled_is_told():
    def raw(hp):
        return keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])

    with pytest.raises(ValueError, match="Expected `model` to give a compiled keras.Model"):
        SwitcherHyperModel(raw).build(values())


def test_a_metric_that_is_not_in_the_logs_is_told():
    hypermodel = SwitcherHyperModel(build, metric="val_auc")
    hp = values()
    with pytest.raises(ValueError, match=r"Expected 'val_auc' in the logs.*'val_accuracy'"):
        hypermodel.fit(hp, hypermodel.build(hp), **DATA, epochs=1)


def test_the_model_keeps_the_weights_that_its_function_gives():
    dense = build(keras_tuner.HyperParameters())
    model = SwitcherHyperModel(build).build(values())
    np.testing.assert_array_equal(dense.get_weights()[0], model.switched_layers()[0].kernel)
