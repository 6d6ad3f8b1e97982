"""The fast forms against the plain ones: every value, every gradient. (Edits: test_ties.py.)"""

import dataclasses
import glob

import numpy as np
import pytest
import tensorflow as tf
from test_cwvae import SEED, build, tiny, video

import cells
import conv_kernels
import kernels
from config import Config, load_config
from cwvae import CWVAE, adam
from validation import nats_of_videos
from video_data import moving_digits


def random(*shape):
    return tf.constant(np.random.default_rng(0).normal(size=shape), tf.float32)


# -------------------------------------------------------------------------------- whole models


def loss_and_gradients(model, clip, actions=None):
    """What is logged of the loss, and its gradients."""
    with tf.GradientTape() as tape:
        rollout = model.rollout(clip, model.noise(SEED, *clip.shape[:2]), actions=actions)
        loss, metrics = model.loss(rollout, tf.constant(0))
    gradients = tape.gradient(loss, model.trainable_variables)
    return metrics, [tf.zeros(v.shape) if gradient is None else gradient
                     for gradient, v in zip(gradients, model.trainable_variables, strict=True)]


def value_and_gradients(model, clip, actions=None):
    """The loss, its gradients, and a prediction."""
    return *loss_and_gradients(model, clip, actions), model.open_loop(
        clip, model.config.open_loop_ctx, SEED, actions)


def assert_close(ours, theirs, tolerance):
    """Tensor by tensor, relative to the greatest of each."""
    for a, b in zip(tf.nest.flatten(ours), tf.nest.flatten(theirs), strict=True):
        assert np.abs(a - b).max() <= tolerance * np.abs(b).max() + 1e-7, (a, b)


def both(config, action_size=0):
    fast, plain = (build(config.replace(fast=fast), action_size) for fast in (True, False))
    assert {type(part) for part in fast.parts.values()} == set(kernels.FAST.values())
    assert not {type(part) for part in plain.parts.values()} & set(kernels.FAST.values())
    return fast, plain


CASES = {
    "three levels": dict(levels=3, frames=9),
    "one level, one tick": dict(levels=1, frames=3, open_loop_ctx=1, eval_seq_len=3),
    "two levels, odd length, actions": dict(frames=7, action_size=3),
    "reset, hidden levels": dict(levels=3, cell_reset_state=True, use_obs="FTF"),
    "means, no dense layers": dict(cell_mean_only=True, enc_dense_layers=0),
    "sizes by level, every term of the loss, a bent decoder": dict(
        cell_stoch_size=[3, 2], cell_deter_size=[4, 6], free_nats=0.1, kl_grad_post_perc=0.8,
        beta=[0.5, 2], dec_negative_slope=0.1),
    "recomputed activations": dict(remat=True),
    "small images": dict(image_size=32),
    "more filters": dict(channels_mult=0.5, frames=4, open_loop_ctx=2),
    "large images": dict(image_size=128, batch=1, frames=5, channels=3),
}


def models_and_inputs(frames=8, batch=2, action_size=0, **settings):
    """The fast and the plain model of a case, a clip, and actions or None."""
    config = tiny(**settings)
    return (*both(config, action_size), tf.constant(video(config, batch, frames)),
            random(batch, frames, action_size) if action_size else None)


@pytest.mark.parametrize("case", CASES)
def test_fast_and_plain_models_are_equal(case, monkeypatch):
    monkeypatch.setattr("cnns.REMAT_FRAMES", 5)
    fast, plain, *inputs = models_and_inputs(**CASES[case])
    assert_close(value_and_gradients(fast, *inputs), value_and_gradients(plain, *inputs), 3e-4)


@pytest.mark.parametrize("case", [
    "three levels", "two levels, odd length, actions", "reset, hidden levels"])
def test_loops_of_several_ticks_a_round_are_equal(case, monkeypatch):
    """As on a GPU. Ticks fill whole rounds, a part of the last round, or a part of the only one."""
    monkeypatch.setattr("kernels.UNROLLED", kernels.UNROLLED_ON_GPU)
    test_fast_and_plain_models_are_equal(case, monkeypatch)
    test_fast_and_plain_models_are_close_in_bfloat16(CASES[case])


def test_compiled_loops_are_equal(monkeypatch):
    """With actions and resets. (Without them: test_every_config_trains_and_predicts_alike.)"""
    fast, plain, *inputs = models_and_inputs(
        frames=7, action_size=3, cell_reset_state=True)
    assert not any(kernels.compiles_loops(cell) for cell in fast.cells)
    monkeypatch.setattr("kernels.COMPILED_SIZE", 1)
    assert all(kernels.compiles_loops(cell) for cell in fast.cells)
    step = tf.function(value_and_gradients, autograph=False)  # as in training: a function in a function
    assert_close(step(fast, *inputs), value_and_gradients(plain, *inputs), 3e-4)


def test_adam_is_that_of_keras():
    config = tiny(lr=0.1)
    rng = np.random.default_rng(0)
    first = [rng.normal(size=shape).astype(np.float32) for shape in ([3, 4], [5])]
    gradients = [[rng.normal(size=x.shape).astype(np.float32) for x in first] for _ in range(4)]
    results = []
    for fast in (True, False):
        variables = [tf.Variable(x) for x in first]
        optimizer = adam(config.replace(fast=fast))
        optimizer.build(variables)
        for step in gradients:
            optimizer.apply(step, variables)
        results.append([x.numpy() for x in variables + optimizer.variables])
    assert isinstance(optimizer, tf.keras.optimizers.Adam) and type(optimizer) is not kernels.FastAdam
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("settings", [
    dict(levels=3, frames=9), dict(frames=7, action_size=3, remat=True)])
def test_fast_and_plain_models_are_close_in_bfloat16(settings):
    fast, plain, *inputs = models_and_inputs(
        precision="bfloat16", channels_mult=1 / 4, cell_embed_size=32, cell_deter_size=32,
        enc_dense_embed_size=32, **settings)
    fast, plain = (value_and_gradients(model, *inputs) for model in (fast, plain))
    assert_close(fast[0], plain[0], 0.02)
    for ours, theirs in zip(fast[1], plain[1], strict=True):
        assert cosine(ours, theirs) > 0.99


def cosine(a, b):
    a, b = (np.ravel(x).astype(np.float64) for x in (a, b))
    return a @ b / np.sqrt((a @ a) * (b @ b))


def narrow_configs():
    """The configs as in their files, but narrow: what is left are levels, factors, layers and loss.

    They are in float32, since the two forms round at other places in bfloat16. Each model comes once.
    """
    others = {"dataset", "actions", "action_levels", "action_classes"}  # They change the inputs alone.
    keys = {field.name for field in dataclasses.fields(Config) if field.metadata["changes"] == "model"}
    keys = sorted(keys - others | {"kl_grad_post_perc", "init_gain", "remat", "use_obs"})
    found = {}
    for path in sorted(glob.glob("configs/**/*.yml", recursive=True)):
        config = load_config(path, dict(
            precision="float32", channels_mult=1 / 32, cell_stoch_size=3, cell_deter_size=5,
            cell_embed_size=4, enc_dense_embed_size=6))
        found.setdefault(str([getattr(config, key) for key in keys]), pytest.param(config, id=path))
    return found.values()


@pytest.mark.parametrize("config", narrow_configs())
def test_every_config_trains_and_predicts_alike_in_both_forms(config, request, monkeypatch):
    if "configs/demo.yml" in request.node.name:  # Its loops are compiled, as at full size.
        monkeypatch.setattr("kernels.COMPILED_SIZE", 1)
    frames = 1 + config.strides[-1]
    clip = tf.constant(video(config, 1, frames))
    found = []
    for model in both(config):
        with tf.GradientTape() as tape:
            nats = nats_of_videos(model, model.rollout(clip, model.noise(SEED, 1, frames)))
            loss = tf.add_n([tf.reduce_sum(value) for value in tf.nest.flatten(nats)])
        found.append([loss, *tape.gradient(loss, model.trainable_variables),
                      model.open_loop(clip, config.strides[-1], SEED)])
    assert_close(*found, 3e-4)


@pytest.mark.parametrize("name", cells.CELLS)
def test_every_cell_trains_and_predicts_outside_a_function(name, monkeypatch):
    """As in a notebook, loops compiled where the cell has a fast form; also twice under one tape."""
    monkeypatch.setattr("kernels.COMPILED_SIZE", 1)
    config = tiny(cell_type=name, cell_stoch_classes=3)
    model, clip = build(config), tf.constant(video(config, 1, 8))
    with tf.GradientTape(persistent=True) as tape:
        loss, _ = model.loss(model.rollout(clip, model.noise(SEED, 1, 8)), 0)
        inside = tape.gradient(loss, model.trainable_variables)
    step = tf.function(loss_and_gradients, autograph=False)
    assert_close(inside, step(model, clip)[1], 3e-4)
    assert np.all(np.isfinite(model.open_loop(clip, 4, SEED)))


# ------------------------------------------------------------------------------------- layers


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


def plain_conv_transpose(x, kernel, bias):
    size = kernel.shape[0]
    shape = [x.shape[0], *(2 * (n - 1) + size for n in x.shape[1:3]), kernel.shape[2]]
    return tf.nn.conv2d_transpose(x, kernel, shape, 2, "VALID") + bias


@pytest.mark.parametrize("size, kernel, filters, channels", [
    (1, 5, 3, 4), (5, 5, 3, 4), (13, 6, 2, 3), (4, 6, 1, 5), (1, 6, 3, 2), (3, 2, 2, 2), (2, 4, 3, 1)])
@pytest.mark.parametrize("extra", [0, 1])
def test_conv_transpose_equals_tensorflows(size, kernel, filters, channels, extra):
    assert_same_function(
        conv_kernels.conv_transpose,
        lambda x, k, b: tf.nn.leaky_relu(plain_conv_transpose(x, k, b), 0.2),
        [random(2, size, size + extra, channels), random(kernel, kernel, filters, channels),
         random(filters)])


@pytest.mark.parametrize("rows", [2, 40])  # two products, and one
def test_dense_conv_transpose_equals_its_layers(rows):
    assert_same_function(
        conv_kernels.dense_conv_transpose,
        lambda x, dense, b1, k, b2: plain_conv_transpose((x @ dense + b1)[:, None, None], k, b2),
        [random(rows, 3), random(3, 6) / 3, random(6), random(5, 5, 2, 6) / 3, random(2)])


@pytest.mark.parametrize("height, width", [(13, 13), (1, 2), (3, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_two_conv_transposes_in_blocks_equal_tensorflows(height, width, channels):
    def blocks(x, k1, b1, k2, b2):
        hidden = tf.nn.leaky_relu(conv_kernels.conv_transpose_to_blocks(x, 1, k1, b1), 0.2)
        return tf.nn.depth_to_space(conv_kernels.conv_transpose_to_blocks(hidden, 2, k2, b2), 4)

    def plain(x, k1, b1, k2, b2):
        return plain_conv_transpose(tf.nn.leaky_relu(plain_conv_transpose(x, k1, b1), 0.2), k2, b2)

    assert_same_function(
        blocks, plain,
        [random(2, height, width, 4), random(6, 6, 2, 4) / 10, random(2),
         random(6, 6, channels, 2) / 10, random(channels)])


def test_squares_of_tanh_equal_tensorflows():
    assert_same_function(
        conv_kernels.squares_of_tanh,
        lambda x, truth: tf.reduce_sum((tf.tanh(x) - truth) ** 2, [1, 2, 3]),
        [random(2, 3, 4, 5), random(2, 3, 4, 5)[::-1]])


@pytest.mark.parametrize("channels", [1, 3])
def test_two_convolutions_of_blocks_equal_tensorflows(channels):
    def blocks(x, k1, b1, k2, b2):
        hidden = conv_kernels.conv_of_blocks(tf.nn.space_to_depth(x, 4), 2, k1, b1)
        return conv_kernels.conv_of_blocks(hidden, 1, k2, b2)

    def plain(x, k1, b1, k2, b2):
        return tf.nn.conv2d(tf.nn.conv2d(x, k1, 2, "VALID") + b1, k2, 2, "VALID") + b2

    assert_same_function(
        blocks, plain, [random(2, 16, 16, channels), random(4, 4, channels, 2) / 4, random(2),
                        random(4, 4, 2, 3) / 4, random(3)])


@pytest.mark.parametrize("height, width, channels, filters", [(6, 6, 3, 2), (4, 10, 1, 5)])
@pytest.mark.parametrize("ours", [conv_kernels.conv, conv_kernels.conv_by_blocks])
def test_convolutions_equal_tensorflows(ours, height, width, channels, filters):
    assert_same_function(
        ours,
        lambda x, k, b: tf.nn.leaky_relu(tf.nn.conv2d(x, k, 2, "VALID") + b, 0.2),
        [random(2, height, width, channels), random(4, 4, channels, filters), random(filters)])


@pytest.mark.parametrize("path, batch, frames, fast", [
    ("configs/demo.yml", 5, 40, True),
    pytest.param("configs/demo.yml", 5, 40, False, marks=pytest.mark.slow),
    pytest.param("configs/moving_digits.yml", 4, 80, True, marks=pytest.mark.slow),  # three top ticks
    pytest.param("configs/moving_digits.yml", 4, 80, False, marks=pytest.mark.slow)])
def test_bfloat16_gradients_are_those_of_float32(path, batch, frames, fast):
    clips, found = digits(batch, frames), []
    for precision in ("float32", "bfloat16"):
        tf.keras.utils.set_random_seed(0)
        model = CWVAE(load_config(path, dict(precision=precision, fast=fast)))
        _, gradients = tf.function(loss_and_gradients, autograph=False)(model, clips)
        found.append(gradients)
    for variable, full, half in zip(model.trainable_variables, *found, strict=True):
        assert cosine(half, full) > 0.99, variable.path
        assert 0.95 < tf.norm(half) / tf.norm(full) < 1.05, variable.path


def digits(count, frames):
    """Videos as the demo's: with noise for pixels, gradients would be noise."""
    return np.stack([moving_digits.video("train", i, frames) for i in range(count)])
