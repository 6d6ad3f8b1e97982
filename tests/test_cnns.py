"""Encoder and decoder: shapes, and the fast forms of the layers against the plain ones."""

import numpy as np
import pytest
import tensorflow as tf

from cnns import (
    Decoder,
    Encoder,
    conv,
    conv_by_blocks,
    conv_transpose,
    dense_conv_transpose,
    sum_windows,
    two_conv_transposes,
)


def random(*shape):
    return tf.constant(np.random.default_rng(0).normal(size=shape), tf.float32)


def assert_same_function(ours, theirs, inputs):
    """Equal values, and equal gradients of every input."""
    results = []
    for function in (ours, theirs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            y = function(*inputs)
            loss = tf.reduce_sum((y - random(*y.shape)) ** 2)
        results.append([y, *tape.gradient(loss, inputs)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("size, kernel, filters, channels", [
    (1, 5, 3, 4), (5, 5, 3, 4), (13, 6, 2, 3), (4, 6, 1, 5), (1, 6, 3, 2), (3, 2, 2, 2), (2, 4, 3, 1)])
@pytest.mark.parametrize("extra", [0, 1])
def test_conv_transpose_equals_tensorflows(size, kernel, filters, channels, extra):
    assert_same_function(
        conv_transpose,
        lambda x, k, b: tf.nn.leaky_relu(plain_conv_transpose(x, k, b), 0.2),
        [random(2, size, size + extra, channels), random(kernel, kernel, filters, channels),
         random(filters)])


@pytest.mark.parametrize("rows", [2, 40])  # two products, and one
def test_dense_conv_transpose_equals_its_layers(rows):
    assert_same_function(
        dense_conv_transpose,
        lambda x, dense, b1, k, b2: plain_conv_transpose((x @ dense + b1)[:, None, None], k, b2),
        [random(rows, 3), random(3, 6) / 3, random(6), random(5, 5, 2, 6) / 3, random(2)])


@pytest.mark.parametrize("height, width", [(13, 13), (1, 2), (3, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_two_conv_transposes_equal_tensorflows(height, width, channels):
    def plain(x, k1, b1, k2, b2):
        return plain_conv_transpose(tf.nn.leaky_relu(plain_conv_transpose(x, k1, b1), 0.2), k2, b2)

    assert_same_function(
        two_conv_transposes, plain,
        [random(2, height, width, 4), random(6, 6, 2, 4) / 10, random(2),
         random(6, 6, channels, 2) / 10, random(channels)])


def plain_conv_transpose(x, kernel, bias):
    size = kernel.shape[0]
    shape = [x.shape[0], *(2 * (n - 1) + size for n in x.shape[1:3]), kernel.shape[2]]
    return tf.nn.conv2d_transpose(x, kernel, shape, 2, "VALID") + bias


@pytest.mark.parametrize("height, width, channels, filters", [(6, 6, 3, 2), (4, 10, 1, 5)])
@pytest.mark.parametrize("ours", [conv, conv_by_blocks])
def test_convolutions_equal_tensorflows(ours, height, width, channels, filters):
    assert_same_function(
        ours,
        lambda x, k, b: tf.nn.leaky_relu(tf.nn.conv2d(x, k, 2, "VALID") + b, 0.2),
        [random(2, height, width, channels), random(4, 4, channels, filters), random(filters)])


def test_the_decoder_equals_its_keras_layers():
    decoder = Decoder(6, 3, channels_mult=1 / 16)
    for variable in decoder.trainable_variables:
        variable.assign(random(*variable.shape) / 4)
    states = random(2, 3, 6)
    hidden = decoder.dense(tf.reshape(states, [6, 6]))[:, None, None]
    for layer in decoder.convs[:-1]:
        hidden = tf.nn.leaky_relu(layer(hidden), 0.2)
    expected = tf.reshape(tf.tanh(decoder.convs[-1](hidden)), [2, 3, 64, 64, 3])
    np.testing.assert_allclose(decoder(states), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frames, stride, expected", [
    (6, 3, [3, 12]), (7, 3, [3, 12, 6]), (2, 3, [1]), (3, 1, [0, 1, 2])])
def test_windows_are_summed_and_the_last_is_padded(frames, stride, expected):
    x = tf.range(frames, dtype=tf.float32)[None, :, None]
    np.testing.assert_array_equal(sum_windows(x, stride)[0, :, 0], expected)


@pytest.mark.parametrize("frames", [1, 5, 12])
@pytest.mark.parametrize("strides", [[1], [1, 2, 4], [1, 3]])
def test_one_embedding_a_tick(frames, strides):
    encoder = Encoder(strides, 3, channels_mult=1 / 16, dense_size=7)
    embeddings = encoder(random(2, frames, 64, 64, 3))
    assert [e.shape for e in embeddings] == [(2, -(-frames // s), 64) for s in strides]


@pytest.mark.parametrize("layers, count", [(0, 0), (1, 1), (3, 3)])
def test_the_last_dense_layer_is_linear(layers, count):
    encoder = Encoder([1, 2, 4], 1, channels_mult=1 / 16, dense_layers=layers, dense_size=7)
    assert [len(stack) for stack in encoder.denses] == [count, count]
    for stack in encoder.denses:
        assert all(dense.activation is tf.keras.activations.relu for dense in stack[:-1])
        assert all(dense.activation is tf.keras.activations.linear for dense in stack[-1:])


def test_every_frame_is_embedded_alone():
    encoder = Encoder([1], 1, channels_mult=1 / 16)
    video = random(1, 4, 64, 64, 1)
    np.testing.assert_allclose(
        encoder(video)[0][:, 2], encoder(video[:, 2:3])[0][:, 0], rtol=1e-5, atol=1e-6)
