"""Methods of a user's own in a comparison: what they are offered, and what they may get wrong."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from command import ROOT, SMALL
from compare_work import work

import keras_switcher.compare.methods  # noqa: F401
from keras_switcher import fitting, switch
from keras_switcher.checkpoints import CheckpointError
from keras_switcher.checks import ConfigError
from keras_switcher.compare.arguments import checked_plan
from keras_switcher.compare.cell import _reason
from keras_switcher.compare.command import _check_data
from keras_switcher.compare.method import Method, Trained, register, registry
from keras_switcher.compare.plan import TRAINS_ANEW
from keras_switcher.files import RunError
from keras_switcher.networks import compiled_dense, dense_model, new_start
from keras_switcher.own_code import run_files

ROW = {"name": "fc", "shape": [4, 5], "connections": 20, "on": 2}
FIGURES = (0.5, 0.4, [ROW], 100, 82, 1.0)


class OnceAndAgain(Method):
    """Trains, takes the smallest half of each kernel away, and goes on with a switched copy."""

    def train(self, work):
        model = dense_model(work.config, work.data, work.start())
        rows = work.fit(model, epochs=1)
        for layer in model.layers:
            if isinstance(layer, keras.layers.Dense):
                kernel = np.array(layer.kernel)
                layer.kernel.assign(kernel * (np.abs(kernel) >= np.median(np.abs(kernel))))
        self.pruned = [np.array(v) for v in model.trainable_variables]
        rows += work.fit(model)
        self.model_after = model
        return Trained(
            validation_accuracy=work.accuracy(model, "validation"),
            test_accuracy=work.accuracy(model, "test"),
            layers=self.layers(model),
            parameters=work.parameters,
            remaining_parameters=work.parameters,
            seconds=sum(row["seconds"] for row in rows),
        )


def test_a_method_that_trains_twice_goes_on_in_its_second_part(tmp_path):
    whole = OnceAndAgain()
    task = work(tmp_path / "whole", "--epochs", "4")
    figures = whole.train(task)
    assert task.epochs == 4
    lines = [
        (tmp_path / "whole" / name).read_text().splitlines()
        for name in ("history.csv", "history-2.csv")
    ]
    assert [len(rows) - 1 for rows in lines] == [1, 3]
    # The second part begins where the method has left the model.
    moved = [
        np.abs(np.array(v) - before).max()
        for v, before in zip(whole.model_after.trainable_variables, whole.pruned, strict=True)
    ]
    assert 0 < max(moved) < 0.2

    class Stop(Exception):
        pass

    # Where the second part is further than the first has ever been.
    def stop():
        history = tmp_path / "stopped" / "history-2.csv"
        if history.exists() and len(history.read_text().splitlines()) == 3:
            raise Stop

    task = work(tmp_path / "stopped", "--epochs", "4")
    task.stop.check = stop
    with pytest.raises(Stop):
        OnceAndAgain().train(task)
    before = (tmp_path / "stopped" / "history-2.csv").read_text().splitlines()
    again = OnceAndAgain().train(work(tmp_path / "stopped", "--epochs", "4"))
    after = (tmp_path / "stopped" / "history-2.csv").read_text().splitlines()
    assert (len(before), after[:3]) == (3, before)
    assert again.layers == figures.layers and again.test_accuracy == figures.test_accuracy


def test_two_parts_see_the_batches_of_one(tmp_path, monkeypatch):
    orders = []
    original = fitting.training_batches

    def recorded(*arguments, **options):
        batches = original(*arguments, **options)
        orders.append([labels.numpy().tolist() for _, labels in batches])
        return batches

    monkeypatch.setattr(fitting, "training_batches", recorded)
    for name, parts in (("whole", (None,)), ("parts", (1, None))):
        task = work(tmp_path / name, "--epochs", "3")
        model = dense_model(task.config, task.data, task.start())
        for epochs in parts:
            task.fit(model, epochs)
    whole, first, second = orders
    assert first + second == whole


def test_no_more_epochs_are_trained_than_all_methods_have_unless_it_is_said(tmp_path):
    task = work(tmp_path, "--epochs", "1")
    model = dense_model(task.config, task.data, task.start())
    task.fit(model)
    with pytest.raises(
        RunError, match=r"Expected an epoch to be left.*work.fit\(model, epochs=10\)"
    ):
        task.fit(model)
    for wrong in (0, 1.5, True):
        with pytest.raises(RunError, match="integer `epochs` >= 1"):
            task.fit(model, epochs=wrong)
    assert len(task.fit(model, epochs=2)) == 2
    assert task.epochs == 3


def test_a_method_that_overrides_nothing_says_what_it_must(tmp_path):
    class Nothing(Method):
        pass

    with pytest.raises(NotImplementedError, match="Nothing must override `model` or `train`"):
        Nothing().train(work(tmp_path))


def test_a_method_of_plain_layers_counts_what_is_not_zero(tmp_path):
    class Plain(Method):
        def model(self, work):
            # Of another network than that of `work.start`.
            network = new_start(work.config, work.images).network
            return compiled_dense(work.config, work.data, work.start(), network)

        def layers(self, model):
            first = next(la for la in model.layers if isinstance(la, keras.layers.Dense))
            first.kernel.assign(np.where(np.arange(first.units) < 3, first.kernel, 0.0))
            return super().layers(model)

    task = work(tmp_path)
    whole = new_start(task.config, task.images).network.count_params()
    assert task.parameters == whole
    result = Plain().train(task)
    first, *others = result.layers
    assert first["on"] == 3 * first["shape"][0]
    assert all(row["on"] == row["connections"] for row in others)
    assert result.parameters - result.remaining_parameters == first["connections"] - first["on"]


@pytest.mark.parametrize("returned", [None, keras.Sequential([keras.layers.Dense(3)])])
def test_a_model_that_can_not_be_trained_is_refused_by_its_method(returned, tmp_path):
    class Wrong(Method):
        def model(self, work):
            return returned

    with pytest.raises(RunError, match="`model` of Wrong to return a compiled keras.Model"):
        Wrong().train(work(tmp_path))


def test_numbers_of_numpy_are_as_good_as_those_of_python():
    row = {**ROW, "on": np.int64(2), "shape": np.array([4, 5]), "kernel": np.ones(3)}
    found = Trained(np.float32(0.5), np.float64(0.25), [row], np.int32(100), 82, np.float32(1.5))
    assert found == Trained(0.5, 0.25, [ROW], 100, 82, 1.5)
    json.dumps(found.layers)
    json.dumps([found.validation_accuracy, found.parameters, found.seconds])


@pytest.mark.parametrize(
    ("index", "value", "said"),
    [
        (
            0,
            None,
            "Expected validation_accuracy to be a number. Received: validation_accuracy=None",
        ),
        (3, "many", "Expected parameters to be a number"),
        (2, None, "Expected `layers` to be a list of rows"),
        (2, [ROW, 3], "Expected `layers` to be a list of rows"),
        (2, [{"name": "fc", "on": 3}], "without connections, shape"),
        (2, [{**ROW, "on": 21}], "Expected 0 <= on <= connections"),
        (2, [{**ROW, "on": "all"}], "Expected on to be a number"),
        (0, float("nan"), "Expected validation_accuracy to be finite"),
        (1, 97.1, "Expected test_accuracy to be a share in [0, 1]. Received: 97.1"),
        (3, float("inf"), "Expected parameters to be a number"),
        (5, float("inf"), "Expected seconds to be finite"),
        (5, -1.0, "Expected seconds to be finite, and >= 0"),
    ],
)
def test_figures_that_are_none_are_refused_with_what_is_wrong(index, value, said):
    figures = list(FIGURES)
    Trained(*figures)
    figures[index] = value
    with pytest.raises(RunError) as error:
        Trained(*figures)
    assert said in str(error.value)


def test_layers_of_the_same_name_are_told_apart():
    rows = [ROW, {**ROW, "on": 3}, {**ROW, "name": "last"}]
    names = [row["name"] for row in Trained(0.5, 0.4, rows, 100, 82, 1.0).layers]
    assert names == ["fc", "fc#2", "last"]


def test_layers_of_blocks_come_in_one_order_whatever_the_method():
    def block(name):
        layers = [keras.layers.Dense(4, name="fc1"), keras.layers.Dense(3, name="fc2")]
        return keras.Sequential([keras.Input((3,)), *layers], name=name)

    given = keras.Input((3,))
    plain = keras.Model(given, keras.layers.Dense(2)(block("two")(block("one")(given))))
    switched = switch(plain)
    assert [model.layers[1].name for model in (plain, switched)] == ["one", "one"]
    before, after = (Method().layers(model) for model in (plain, switched))
    assert [row["shape"] for row in before] == [row["shape"] for row in after]
    # Those of one block are at the same places.
    plain.layers[1].layers[0].kernel.assign(np.zeros((3, 4)))
    switched.layers[1].layers[0].switches.assign(np.zeros((3, 4)))
    before, after = (Method().layers(model) for model in (plain, switched))
    assert [row["on"] for row in before] == [row["on"] for row in after]


@pytest.mark.parametrize(
    ("metrics", "fits"),
    [
        (None, False),
        (["sparse_top_k_categorical_accuracy"], False),
        (["accuracy"], True),
        ({"logits": ["accuracy"]}, True),
        ([keras.metrics.SparseCategoricalAccuracy(name="accuracy")], True),
    ],
)
def test_a_model_without_an_accuracy_is_refused_before_it_trains(metrics, fits, tmp_path):
    class Compiled(Method):
        def model(self, work):
            model = work.start().learned
            model.compile(loss=keras.losses.SparseCategoricalCrossentropy(True), metrics=metrics)
            return model

    task = work(tmp_path)
    if fits:
        assert 0 < Compiled().train(task).test_accuracy < 1
    else:
        with pytest.raises(RunError, match='`model` of Compiled .*metrics=."accuracy".'):
            Compiled().train(task)
        assert not (tmp_path / "history.csv").exists()


def test_only_methods_are_registered_as_such():
    with pytest.raises(
        TypeError, match="'plain' to be a subclass of keras_switcher.compare.Method"
    ):

        @register("plain")
        class Plain:
            pass

    for attribute in ("needs", "reads"):
        wrong = type("Wrong", (Method,), {attribute: "dense"})
        with pytest.raises(TypeError, match=rf"`{attribute}` of the method 'w'.*\('dense',\)"):
            register("w")(wrong)
    assert not {"plain", "w"} & {*registry.names()}


def test_a_file_of_methods_may_import_what_lies_beside_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend("nowhere")
    (tmp_path / "beside_own.py").write_text("NAME = 'imports-its-neighbour'")
    (tmp_path / "own.py").write_text(
        "from beside_own import NAME\n"
        "from keras_switcher.compare import Method, register\n"
        "register(NAME)(type('Own', (Method,), {}))\n"
    )
    run_files([str(tmp_path / "own.py")])
    assert "imports-its-neighbour" in registry.names()


def test_a_method_with_the_name_of_another_is_told_with_its_file(tmp_path):
    (tmp_path / "own_dense.py").write_text(
        "from keras_switcher.compare import Method, register\n"
        "register('dense')(type('Mine', (Method,), {}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "keras_switcher.compare", "--load", "own_dense.py", "--out", "out"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    said = " ".join(done.stderr.split())
    assert done.returncode == 2
    assert "own_dense.py, one of the files of --load: ValueError: The method 'dense' is" in said


def test_methods_whose_folders_would_be_one_are_refused(tmp_path):
    for name in ("Twin", "twin"):
        register(name)(type(name, (Method,), {}))
    flags = [*SMALL, "--out", str(tmp_path), "--sparsity", "0.9"]
    checked_plan([*flags, "--methods", "dense", "twin"])
    with pytest.raises(ConfigError, match="different names. Received: Twin at 0.9 and"):
        checked_plan([*flags, "--methods", "Twin", "twin"])


def test_a_check_that_fails_in_its_own_way_is_of_a_named_method(tmp_path):
    class Picky(Method):
        def check(self, config, start):
            raise ValueError("not this one")

    register("picky")(Picky)
    flags = [*SMALL, "--out", str(tmp_path), "--methods", "dense", "picky"]
    _, plan = checked_plan(flags)
    with pytest.raises(ConfigError, match="Can't compare picky. not this one"):
        _check_data(plan, tmp_path, True)


def test_what_to_do_about_a_checkpoint_is_said_for_a_comparison(tmp_path):
    error = CheckpointError("The checkpoint is damaged.", "Choose another --run-dir.")
    assert str(error) == "The checkpoint is damaged. Choose another --run-dir."
    expected = f"The checkpoint is damaged. Remove {tmp_path}, {TRAINS_ANEW}"
    assert _reason(error, tmp_path) == expected
