import re
import shlex

import keras
import pytest
import tensorflow as tf
import yaml
from command import ROOT
from fenced import blocks
from small import CLASSES, INPUTS, separable

from keras_switcher import strategy
from keras_switcher.cluster import Cluster, read_tf_config
from keras_switcher.flags import resolve

PAGE = (ROOT / "docs" / "distributed.md").read_text()


def commands(word):
    """The flags of every command of the page that holds a word, without the word."""
    lines = "\n".join(blocks(PAGE, "sh")).replace("\\\n", " ").splitlines()
    return [line.split(word)[1] for line in lines if re.search(rf"\b{word}", line)]


def test_commands_of_a_worker_take_their_flags():
    pods = yaml.safe_load(blocks(PAGE, "yaml")[0])["spec"]["tfReplicaSpecs"]["Worker"]
    container = pods["template"]["spec"]["containers"][0]
    assert container["command"] == ["keras-switcher-train"]
    alone = [c for c in commands("train.py ") if "--workers" not in c and "--run-dir" in c]
    step = [c.replace("$HOME", "/home/user") for c in commands("keras-switcher-train ")]
    for flags in (container["args"], shlex.split(alone[0]), shlex.split(step[0])):
        config = resolve([flag for flag in flags if flag != "--resume"])
        assert config.execution.strategy == "multiworker"
        assert config.run.run_dir


def test_the_example_of_tf_config_is_one():
    text = re.search(r"TF_CONFIG='(.*)'", "\n".join(blocks(PAGE, "sh")))[1]
    assert read_tf_config(text) == Cluster(("host1:2222", "host2:2222"), 0)


@pytest.mark.parametrize("program", blocks(PAGE, "python"), ids=["several GPUs", "workers"])
def test_the_programs_of_one_s_own_run(program, monkeypatch):
    def one_device():
        return tf.distribute.OneDeviceStrategy("/cpu:0")

    monkeypatch.setattr(strategy, "MultiWorkerStrategy", one_device)

    def build():
        assert tf.distribute.has_strategy()
        inputs = keras.Input((INPUTS,))
        hidden = keras.layers.Dense(16, "relu")(inputs)
        return keras.Model(inputs, keras.layers.Dense(CLASSES)(hidden))

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    given = {"build": build, "loss": loss, "train": tf.data.Dataset.from_tensors(separable())}
    exec(program.replace("epochs=20", "epochs=3, verbose=0"), given)
    assert given["sparse"].sparsity == pytest.approx(0.95, abs=0.01)


def test_the_default_that_the_page_names_is_that_of_the_option():
    assert f"`--worker-timeout` ({resolve([]).execution.worker_timeout:g} s)" in PAGE
