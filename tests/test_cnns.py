"""Encoder and decoder: shapes, and what they must hold to. (Formulas: test_cwvae.py.)"""

import numpy as np
import pytest
import tensorflow as tf

from cnns import Decoder, Encoder, sum_windows
from config import Config


def random(*shape):
    return tf.constant(np.random.default_rng(0).normal(size=shape), tf.float32)


def config(**settings):
    return Config(dataset="moving_digits", channels_mult=1 / 32, enc_dense_embed_size=7, **settings)


@pytest.mark.parametrize("size, sides", [(32, [15, 6, 2]), (64, [31, 14, 6, 2]),
                                         (128, [63, 30, 14, 6, 2]), (256, [127, 62, 30, 14, 6, 2])])
def test_the_encoder_ends_at_two_by_two(size, sides):
    encoder = Encoder(config(image_size=size, channels=3), "float32")
    frames = random(1, size, size, 3)
    for i, (layer, side) in enumerate(zip(encoder.convs, sides, strict=True)):
        frames = layer(frames)
        assert frames.shape == (1, side, side, 2**i)
    assert encoder.embed_size == 4 * 2 ** (len(sides) - 1)


@pytest.mark.parametrize("size, sides", [(32, [5, 14, 32]), (64, [5, 13, 30, 64]),
                                         (128, [5, 13, 29, 62, 128]), (256, [5, 13, 29, 61, 126, 256])])
def test_the_decoder_ends_at_the_images_size(size, sides):
    decoder = Decoder(config(image_size=size, channels=3), 6, "float32")
    hidden = decoder.dense(random(1, 6))[:, None, None]
    assert hidden.shape[-1] == Encoder(config(image_size=size), "float32").embed_size
    for i, (layer, side) in enumerate(zip(decoder.convs, sides, strict=True)):
        hidden = layer(hidden)
        filters = 3 if side == size else 2 ** (len(sides) - 2 - i)
        assert hidden.shape == (1, side, side, filters)
    assert decoder(random(2, 5, 6)).shape == (2, 5, size, size, 3)


def test_init_gain_multiplies_glorots_kernels():
    def kernels(gain):
        encoder = Encoder(config(init_gain=gain), "float32")
        decoder = Decoder(config(init_gain=gain), 6, "float32")
        return [layer.kernel for layer in [*encoder.convs, decoder.dense, *decoder.convs]]

    for plain, doubled in zip(kernels(1.0), kernels(2.0), strict=True):
        *size, inputs, outputs = plain.shape
        bound = np.sqrt(6 / (np.prod(size) * (inputs + outputs)))
        assert np.abs(plain).max() <= bound < np.abs(doubled).max() <= 2 * bound


@pytest.mark.parametrize("slope", [1.0, 0.1, 0.0])
def test_negative_values_count_less_before_the_tanh(slope):
    decoder = Decoder(config(dec_negative_slope=slope, channels=3), 6, "float32")
    last = decoder.convs[-1]
    last.kernel.assign(tf.zeros_like(last.kernel))
    last.bias.assign([-0.5, 0.0, 0.5])
    expected = np.broadcast_to(np.tanh([-0.5 * slope, 0, 0.5]), [1, 64, 64, 3])
    np.testing.assert_allclose(decoder(random(1, 6)), expected, rtol=1e-5)


def test_log_prob_is_that_of_the_pixels():
    decoder = Decoder(config(dec_stddev=0.3), 6, "float32")
    states, video = random(2, 3, 6), tf.abs(random(2, 3, 64, 64, 1))
    error = (decoder(states) - video) / 0.3
    expected = -0.5 * error**2 - np.log(0.3) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(
        decoder.pixels(states).log_prob(video), tf.reduce_sum(expected, [2, 3, 4]), rtol=1e-5)


@pytest.mark.parametrize("frames, stride, expected", [
    (6, 3, [3, 12]), (7, 3, [3, 12, 6]), (2, 3, [1]), (3, 1, [0, 1, 2])])
def test_windows_are_summed_and_the_last_is_padded(frames, stride, expected):
    x = tf.range(frames, dtype=tf.float32)[None, :, None]
    np.testing.assert_array_equal(sum_windows(x, stride)[0, :, 0], expected)


@pytest.mark.parametrize("frames", [1, 5, 12])
@pytest.mark.parametrize("factors", [[], [2, 2], [3]])
def test_one_embedding_a_tick(frames, factors):
    encoder = Encoder(config(levels=len(factors) + 1, tmp_abs_factor=factors or 1), "float32")
    strides = encoder.config.strides
    embeddings = encoder(random(2, frames, 64, 64, 1))
    assert [e.shape for e in embeddings] == [(2, -(-frames // s), 32) for s in strides]


@pytest.mark.parametrize("layers, count", [(0, 0), (1, 1), (3, 3)])
def test_the_last_dense_layer_is_linear(layers, count):
    encoder = Encoder(config(enc_dense_layers=layers, tmp_abs_factor=2), "float32")
    assert [len(stack) for stack in encoder.denses] == [count, count]
    for stack in encoder.denses:
        assert all(dense.activation is tf.keras.activations.relu for dense in stack[:-1])
        assert all(dense.activation is tf.keras.activations.linear for dense in stack[-1:])


def test_every_frame_is_embedded_alone():
    encoder = Encoder(config(levels=1), "float32")
    video = random(1, 4, 64, 64, 1)
    np.testing.assert_allclose(
        encoder(video)[0][:, 2], encoder(video[:, 2:3])[0][:, 0], rtol=1e-5, atol=1e-6)
