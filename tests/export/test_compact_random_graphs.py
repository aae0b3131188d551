"""Random graphs of layers, with random zeros in their weights."""

import keras
import pytest
from compacting import compacted_like, sparsify
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers


class _Drawn:
    """Builds a random graph over tensors that are drawn from those made so far."""

    def __init__(self, draw):
        self.draw = draw

    def choose(self, *options):
        return self.draw(st.sampled_from(options))

    def size(self):
        return self.draw(st.integers(1, 7))

    def activation(self):
        return self.choose(None, "relu", "sigmoid", "softmax", "leaky_relu")

    def images(self, tensors):
        x = self.choose(*tensors)
        same = [t for t in tensors if t.shape == x.shape]
        merge = self.choose(layers.Add, layers.Multiply, layers.Average, layers.Concatenate)
        kind = self.choose(
            "conv", "depthwise", "separable", "norm", "pad", "pool", "merge", "other", "dense"
        )
        if kind == "conv":
            return layers.Conv2D(
                self.size(),
                self.choose(1, (2, 3)),
                padding=self.choose("same", "valid") if min(x.shape[1:3]) > 3 else "same",
                activation=self.activation(),
                use_bias=self.choose(True, False),
            )(x)
        if kind == "depthwise":
            return layers.DepthwiseConv2D(
                2,
                padding="same",
                depth_multiplier=self.choose(1, 2),
                activation=self.activation(),
                use_bias=self.choose(True, False),
            )(x)
        if kind == "separable":
            return layers.SeparableConv2D(
                self.size(),
                2,
                padding="same",
                depth_multiplier=self.choose(1, 2),
                activation=self.activation(),
                use_bias=self.choose(True, False),
            )(x)
        if kind == "norm":
            return layers.BatchNormalization(scale=self.choose(True, False))(x)
        if kind == "pad":
            return layers.ZeroPadding2D(1)(x)
        if kind == "pool":
            pool = self.choose(layers.MaxPooling2D, layers.AveragePooling2D)
            return pool(2, 1, padding="same")(x)
        if kind == "merge" and len(same) > 1:
            return merge()([x, self.choose(*same)])
        if kind == "dense":
            return layers.Dense(self.size(), self.activation())(x)
        other = self.choose(layers.PReLU, layers.LayerNormalization, layers.ELU, layers.Dropout)
        return other(0.5)(x) if other is layers.Dropout else other()(x)

    def vectors(self, tensors):
        x = self.choose(*tensors)
        same = [t for t in tensors if t.shape == x.shape]
        merge = self.choose(layers.Add, layers.Subtract, layers.Concatenate)
        kind = self.choose("dense", "dense", "norm", "merge", "again", "other")
        if kind == "dense":
            return layers.Dense(self.size(), self.activation(), use_bias=self.choose(True, False))(
                x
            )
        if kind == "norm":
            return layers.BatchNormalization()(x)
        if kind == "merge" and len(same) > 1:
            return merge()([x, self.choose(*same)])
        if kind == "again":
            shared = layers.Dense(x.shape[-1], self.activation())
            return shared(shared(x))
        return self.choose(layers.LayerNormalization, layers.ReLU, layers.PReLU)()(x)


def graph(draw):
    """Draw a model with images and vectors inside, and one to three outputs."""
    drawn = _Drawn(draw)
    image = keras.Input((drawn.choose(4, 5), 6, drawn.choose(1, 3)))
    vector = keras.Input((drawn.size(),))
    images, vectors = [image], [vector]
    for _ in range(draw(st.integers(1, 5))):
        images.append(drawn.images(images))
    vectors.append(layers.Flatten()(drawn.choose(*images)))
    vectors.append(layers.GlobalAveragePooling2D()(images[-1]))
    for _ in range(draw(st.integers(1, 5))):
        vectors.append(drawn.vectors(vectors))
    ends = [layers.Dense(3)(vectors[-1])]
    if draw(st.booleans()):
        ends.append(layers.Dense(2)(drawn.choose(*vectors)))
    if draw(st.booleans()):
        ends.append(layers.Conv2D(2, 1)(drawn.choose(*images)))
    used = keras.Model([image, vector], ends)
    return sparsify(used, draw(st.integers(0, 999)), draw(st.sampled_from([0.2, 0.5, 0.9])))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You are using a softmax over axis -1")
@settings(
    max_examples=30,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(st.data())
def test_random_graphs_predict_the_same(data):
    # Not a strategy: Keras draws seeds of its own, which Hypothesis would not want in one.
    model = graph(data.draw)
    compacted = compacted_like(
        model, data.draw(st.sampled_from([1, 1, 4])), gather=data.draw(st.booleans())
    )
    assert all(change.after.inputs and change.after.units for change in compacted.layers)
