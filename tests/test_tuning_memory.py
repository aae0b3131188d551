"""What a search leaves in memory from one trial to the next."""

import gc
import weakref

import tensorflow as tf
from keras import ops

from keras_switcher import gates
from keras_switcher.tuning.memory import forget_gradients


def graph_with_a_gate():
    @tf.function
    def gradient(logits):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            switches = ops.sum(gates.step(logits))
        return tape.gradient(switches, logits)

    gradient(tf.zeros(3))
    return weakref.ref(gradient.get_concrete_function(tf.zeros(3)).graph)


def test_graphs_go_with_what_made_them():
    graph = graph_with_a_gate()
    gc.collect()
    assert graph() is not None, "TensorFlow lets it go by itself: forget_gradients has had its day."
    forget_gradients()
    gc.collect()
    assert graph() is None


def test_gates_have_a_gradient_in_what_is_traced_afterwards():
    forget_gradients()
    logits = tf.Variable([0.0, 1.0])
    with tf.GradientTape() as tape:
        switches = ops.sum(tf.function(gates.step)(logits))
    slopes = ops.convert_to_numpy(tape.gradient(switches, logits))
    assert slopes[0] == 0.25
