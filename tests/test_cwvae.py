"""The model against the formulas in plain NumPy, and what must hold of its loss and gradients."""

import inspect
import textwrap

import numpy as np
import pytest
import reference
import tensorflow as tf

import cnns
import conv_kernels
import cwvae
from cells import fold_in
from config import Config
from cwvae import CWVAE, in_chunks, last_state, over_videos, state_vector
from distribution import update
from tools import UserError
from validation import nats_of_videos

SEED = tf.constant([0, 0])


def tiny(**changes):
    settings = dict(
        dataset="moving_digits", levels=2, tmp_abs_factor=2, channels_mult=1 / 32, cell_stoch_size=3,
        cell_deter_size=5, cell_embed_size=4, enc_dense_embed_size=6, seq_len=8, open_loop_ctx=4)
    settings.update(changes)
    return Config(**settings)


def build(config, action_size=0, seed=0):
    """A model whose every variable, biases too, is random and large enough to matter."""
    tf.keras.utils.set_random_seed(seed)
    model = CWVAE(config, action_size)
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        fan_in = np.prod(variable.shape[:-1]) if len(variable.shape) > 1 else 4
        variable.assign(rng.normal(size=variable.shape) / fan_in**0.5)
    return model


def video(config, batch=2, frames=8, seed=0):
    return np.random.default_rng(seed).integers(
        0, 256, [batch, frames, config.image_size, config.image_size, config.channels], dtype=np.uint8)


def loss(model, clip, actions=None):
    noise = model.noise(SEED, len(clip), clip.shape[1])
    return model.loss(model.rollout(tf.constant(clip), noise, actions=actions), tf.constant(0))


CASES = {
    "one level": dict(levels=1, frames=5),
    "two levels": dict(),
    "two levels, odd length": dict(frames=7, channels=3),
    "three levels": dict(levels=3, frames=9, seq_len=9),
    "three levels, a list of factors": dict(levels=3, tmp_abs_factor=[3, 2], open_loop_ctx=6, frames=8),
    "no temporal abstraction": dict(levels=3, tmp_abs_factor=1, frames=6),
    "no dense layers": dict(enc_dense_layers=0),
    "top level hidden": dict(levels=3, use_obs="TTF"),
    "bottom level hidden": dict(levels=3, use_obs="FTT", frames=5),
    "nothing observed": dict(use_obs=False, dec_stddev=0.4, dec_negative_slope=0.3),
    "reset states": dict(levels=3, cell_reset_state=True, frames=9, seq_len=9),
    "actions": dict(frames=7, action_size=3),
    "actions of all levels": dict(
        levels=3, tmp_abs_factor=[3, 2], open_loop_ctx=6, frames=11, action_size=2, action_levels="all"),
    "sizes by level": dict(cell_stoch_size=[3, 2], cell_deter_size=[4, 6]),
    "categorical": dict(cell_type="CategoricalRSSMCell", cell_stoch_classes=4, levels=3, frames=7),
    "categorical, actions": dict(cell_type="CategoricalRSSMCell", action_size=3),
    "small images": dict(image_size=32),
    "large images": dict(image_size=128, frames=5),
    "plain forms": dict(fast=False, levels=3, frames=7),
}


@pytest.mark.parametrize("case", CASES)
def test_deterministic_model_equals_numpy(case):
    settings = dict(CASES[case])
    frames, action_size = settings.pop("frames", 8), settings.pop("action_size", 0)
    config = tiny(cell_mean_only=True, **settings)
    model = build(config, action_size)
    clip = video(config, frames=frames)
    actions = np.random.default_rng(1).normal(size=[2, frames, action_size]) if action_size else None
    observed = model.observed()
    expected = reference.loss(model, clip / 255, actions)

    tf_actions = None if actions is None else tf.constant(actions, tf.float32)
    _, metrics = loss(model, clip, tf_actions)
    for name in ["total_loss", "nll_term", "kl_term"]:
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-4, atol=1e-6)
    for level in range(config.levels):
        for ours, theirs in [("kl_prior_posterior", "kl"), ("entropy_prior", "entropy_prior"),
                             ("entropy_posterior", "entropy_posterior")]:
            np.testing.assert_allclose(
                metrics[f"avg_{ours}__level_{level}"], expected[theirs][level], rtol=1e-4, atol=1e-6)

    context = config.open_loop_ctx
    predicted = model.open_loop(tf.constant(clip), context, SEED, tf_actions)
    for i in range(len(clip)):
        wanted = reference.open_loop(
            model, clip[i] / 255, context, observed, None if actions is None else actions[i])
        np.testing.assert_allclose(predicted[i], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("config, count", [
    (dict(dataset="mmnist"), 12_466_817),
    (dict(dataset="mazes", channels=3), 12_470_147),
    (dict(dataset="minerl", channels=3, cell_stoch_size=100, cell_deter_size=800,
          cell_embed_size=800), 34_396_627)])
def test_parameters_of_the_paper(config, count):
    model = CWVAE(Config(**config))
    assert model.count_params() == count
    assert sum(part.count_params() for part in model.parts.values()) == count


def gradients(model, function):
    named = {f"{name}/{v.path}": v
             for name, part in model.parts.items() for v in part.trainable_variables}
    assert len(named) == len(model.trainable_variables)
    with tf.GradientTape() as tape:
        value = function()
    return tape.gradient(value, named)


def test_every_variable_gets_a_gradient():
    model = build(tiny(levels=3, cell_embed_size=32))
    clip = video(model.config)
    for path, gradient in gradients(model, lambda: loss(model, clip)[0]).items():
        assert gradient is not None and np.abs(gradient).max() > 0, path


def test_the_loss_is_differentiated_right():
    # Along the gradient's own direction, against a central difference.
    model = build(tiny(levels=2, free_nats=0.1, beta=[0.5, 2.0]))
    clip = video(model.config)
    variables = model.trainable_variables
    with tf.GradientTape() as tape:
        value, _ = loss(model, clip)
    gradient = tape.gradient(value, variables)
    norm = tf.linalg.global_norm(gradient)
    weights = [v.numpy() for v in variables]

    def at(distance):
        for v, w, g in zip(variables, weights, gradient, strict=True):
            v.assign(w + distance * g / norm)
        return float(loss(model, clip)[0])

    np.testing.assert_allclose((at(1e-3) - at(-1e-3)) / 2e-3, norm, rtol=2e-2)


def test_kl_balance_scales_each_distributions_own_gradient():
    # One level and one tick: the heads meet the KL nowhere but in their own distribution.
    def head_gradients(share):
        model = build(tiny(levels=1, kl_grad_post_perc=share, seq_len=1, eval_seq_len=8))
        clip = video(model.config, frames=1)

        def kl_alone():
            return loss(model, clip)[1]["kl_term"]

        assert float(share or 1) * float(kl_alone()) > 1  # above the floor of the posterior's term
        found = gradients(model, kl_alone)
        return [np.concatenate([np.ravel(g) for path, g in found.items() if f"{head}_" in path
                                and ("mean" in path or "stddev" in path)])
                for head in ("prior", "posterior")]

    prior, posterior = head_gradients(None)
    balanced_prior, balanced_posterior = head_gradients(0.8)
    np.testing.assert_allclose(balanced_prior, 0.2 * prior, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(balanced_posterior, 0.8 * posterior, rtol=1e-4, atol=1e-7)


def objective(config, kl, nll=10.0, frames=2, step=0, clip=2):
    """The loss of so many frames from averages over videos, trained on clips of so many."""
    names = ("avg_kl_prior_posterior", "to_prior", "to_posterior")
    nats = {"nll_term": tf.constant(nll)}, {name: tf.constant(kl, tf.float32) for name in names}
    return {name: float(value) for name, value in CWVAE(config.replace(seq_len=clip)).loss(
        None, tf.constant(step), lambda _: nats, frames)[1].items()}


def test_beta_free_nats_and_balance_follow_their_formulas():
    assert objective(tiny(), [3, 4])["kl_term"] == 3.5
    assert objective(tiny(beta=0.5), [3, 4])["kl_term"] == 1.75
    assert objective(tiny(beta=[0.5, 2]), [3, 4])["kl_term"] == (1.5 + 8) / 2
    assert objective(tiny(free_nats=3.5), [3, 4])["kl_term"] == 0.25
    assert objective(tiny(free_nats=1, beta=2), [3, 4])["kl_term"] == (4 + 6) / 2
    assert objective(tiny(free_nats=[1, 3.5]), [3, 4])["kl_term"] == (2 + 0.5) / 2
    # (1 - a) KL + max(1, a KL)
    assert objective(tiny(kl_grad_post_perc=0.25), [2, 8])["kl_term"] == (1.5 + 1 + 6 + 2) / 2
    assert objective(tiny(), [3, 4])["total_loss"] == 8.5
    # Free nats and the least KL are those of a clip: a video as long as three has three times as many.
    for settings in (dict(free_nats=3.5), dict(kl_grad_post_perc=0.25)):
        assert objective(tiny(**settings), [9, 12], nll=30.0, frames=6) == pytest.approx(
            objective(tiny(**settings), [3, 4]))
    # The KL's weight rises to beta.
    warm = tiny(beta=0.5, beta_warmup_steps=4)
    assert [objective(warm, [3, 4], step=step)["kl_term"] for step in (0, 1, 3, 9)] == [
        1.75 / 4, 1.75 / 2, 1.75, 1.75]


def test_free_nats_stop_the_gradient_of_a_level_below_them():
    model = build(tiny(levels=1, free_nats=1e6))
    clip = video(model.config)
    found = gradients(model, lambda: loss(model, clip)[0])
    assert all(np.abs(g).max() == 0 for path, g in found.items() if "prior_mean" in path)


def test_noise_is_a_function_of_seed_and_step_alone():
    model = build(tiny())
    first, again = model.noise([3, 7], 2, 8), model.noise([3, 7], 2, 8)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    for other in ([3, 8], [4, 7]):
        assert not np.allclose(first[0], model.noise(other, 2, 8)[0])
    assert not np.allclose(first[0][:, :4], first[1])
    assert not np.allclose(fold_in(SEED, 1), fold_in(SEED, 2))


def test_samples_differ_and_means_do_not():
    clip = tf.constant(video(tiny(), frames=8))
    sampled, mean = build(tiny()), build(tiny(cell_mean_only=True))
    assert not np.allclose(sampled.open_loop(clip, 4, [0, 1]), sampled.open_loop(clip, 4, [0, 2]))
    np.testing.assert_array_equal(mean.open_loop(clip, 4, [0, 1]), mean.open_loop(clip, 4, [0, 2]))


def test_a_video_in_chunks_equals_the_whole():
    model = build(tiny(levels=3, seq_len=14, cell_reset_state=True, action_levels="all"), 2)
    clip = tf.constant(video(model.config, frames=14))
    actions = tf.constant(np.random.default_rng(1).normal(size=[2, 14, 2]), tf.float32)
    noise = model.noise(SEED, 2, 14)
    whole = nats_of_videos(model, model.rollout(clip, noise, actions=actions))

    def observe(video, noise, states, actions):
        rollout = model.rollout(video, noise, states, actions)
        return nats_of_videos(model, rollout), [last_state(level) for level in rollout.levels]

    def noise_of(start, frames):
        return [x[:, start // s:-(-(start + frames) // s)]
                for x, s in zip(noise, model.config.strides, strict=True)]

    parts = list(in_chunks(observe, clip, actions, model.initial_states(2), noise_of, 8))
    assert len(parts) == 2
    summed = tf.nest.map_structure(lambda *x: sum(x), *parts)
    for a, b in zip(tf.nest.flatten(whole), tf.nest.flatten(summed), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


def test_prediction_sees_the_context_only():
    model = build(tiny(levels=3))
    clip = video(model.config)
    other = clip.copy()
    other[:, 4:] = 255 - other[:, 4:]
    np.testing.assert_array_equal(model.open_loop(tf.constant(clip), 4, SEED),
                                  model.open_loop(tf.constant(other), 4, SEED))
    other[:, 3] = 255 - other[:, 3]
    assert not np.allclose(model.open_loop(tf.constant(clip), 4, SEED)[:, 4:],
                           model.open_loop(tf.constant(other), 4, SEED)[:, 4:])


def test_prediction_in_pieces_equals_one_run():
    model = build(tiny(levels=3, cell_reset_state=True))
    observed = model.observe_context(tf.constant(video(model.config, frames=4)), model.noise(SEED, 2, 4))
    noise = model.noise(SEED, 2, 12)
    whole, _ = model.imagine(observed.states, 12, noise)
    first, states = model.imagine(
        observed.states, 8, [n[:, :8 // s] for n, s in zip(noise, model.config.strides, strict=True)])
    second, _ = model.imagine(
        states, 4, [n[:, 8 // s:] for n, s in zip(noise, model.config.strides, strict=True)])
    np.testing.assert_allclose(whole, tf.concat([first, second], 1), rtol=1e-5, atol=1e-6)


def test_the_one_step_prediction_does_not_see_its_frame():
    model = build(tiny(levels=1, open_loop_ctx=1))
    clip = video(model.config, frames=4)
    other = clip.copy()
    other[:, -1] = 255 - other[:, -1]
    noise = model.noise(SEED, 2, 4)
    a, b = (model.observe_context(tf.constant(x), noise) for x in (clip, other))
    np.testing.assert_array_equal(a.prior, b.prior)
    assert not np.allclose(a.posterior[:, -1], b.posterior[:, -1])


def test_bfloat16_is_close_to_float32_and_keeps_what_is_summed_in_float32():
    clip = video(tiny())
    full, half = build(tiny()), build(tiny(precision="bfloat16"))
    value, metrics = loss(half, clip)
    np.testing.assert_allclose(value, loss(full, clip)[0], rtol=1e-2)
    assert all(tensor.dtype == tf.float32 for tensor in metrics.values())
    assert all(v.dtype == "float32" for v in half.trainable_variables)


def test_a_clipped_update_has_the_norm_it_is_clipped_to():
    model = build(tiny(clip_grad_norm_by=0.5))
    before = [v.numpy() for v in model.trainable_variables]
    optimizer = tf.keras.optimizers.SGD(1.0)
    optimizer.build(model.trainable_variables)
    metrics = update(model, optimizer, tf.constant(video(model.config)), 0)
    moved = [v.numpy() - b for v, b in zip(model.trainable_variables, before, strict=True)]
    assert float(metrics["grad_norm"]) > 1
    np.testing.assert_allclose(tf.linalg.global_norm(moved), 0.5, rtol=1e-3)


def test_use_obs_hides_frames_from_prediction_and_not_from_training():
    hiding, seeing = build(tiny(use_obs="TF")), build(tiny())
    clip = video(hiding.config)
    assert float(loss(hiding, clip)[0]) == float(loss(seeing, clip)[0])
    assert not np.allclose(*(model.open_loop(tf.constant(clip), 4, SEED) for model in (hiding, seeing)))


EXAMPLE = 'terms["memory_term"] = 1e-3 * tf.reduce_sum(levels[0].deter ** 2, [1, 2])'


def add_to_the_loss(monkeypatch, line):
    """Puts a line into CWVAE.loss in the place of the example that its comment gives."""
    source, made = textwrap.dedent(inspect.getsource(CWVAE.loss)), {}
    assert source.count(f"# {EXAMPLE}\n") == 1
    exec(source.replace(f"# {EXAMPLE}\n", f"{line}\n"), vars(cwvae), made)
    monkeypatch.setattr(CWVAE, "loss", made["loss"])


def test_a_term_of_the_loss_is_one_line(monkeypatch):
    model, clip = build(tiny()), video(tiny())
    before, _ = loss(model, clip)
    add_to_the_loss(monkeypatch, EXAMPLE)
    after, metrics = loss(model, clip)
    level = model.rollout(tf.constant(clip), model.noise(SEED, 2, 8)).levels[0]
    expected = 1e-3 * np.mean(np.sum(np.square(level.deter), (1, 2))) / 8
    np.testing.assert_allclose(metrics["memory_term"], expected, rtol=1e-5)
    np.testing.assert_allclose(after - before, expected, rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("fast", [True, False])
def test_a_term_sees_the_decoded_frames_and_they_are_decoded_once(fast, monkeypatch):
    model, clip = build(tiny(fast=fast)), video(tiny())
    owner = conv_kernels if fast else tf.nn
    name, calls = "conv_transpose" if fast else "conv2d_transpose", []
    plain = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *x: calls.append(1) or plain(*x))
    before, _ = loss(model, clip)
    alone = len(calls)
    add_to_the_loss(monkeypatch, 'terms["bright_term"] = tf.reduce_sum(pixels.mean, [1, 2, 3, 4])')
    after, metrics = loss(model, clip)
    assert len(calls) == 2 * alone > 0
    rollout = model.rollout(tf.constant(clip), model.noise(SEED, 2, 8))
    expected = np.sum(model.decoder(state_vector(rollout.levels[0]))) / 2 / 8
    np.testing.assert_allclose(metrics["bright_term"], expected, rtol=1e-3)
    np.testing.assert_allclose(after - before, expected, rtol=1e-2)


def test_the_loss_averages_once_over_whatever_videos_there_are():
    model, clip = build(tiny(free_nats=2.0, kl_grad_post_perc=0.3)), tf.constant(video(tiny()))
    noise, calls = model.noise(SEED, 2, 8), []
    halves = [[x[i:i + 1] for x in noise] for i in range(2)]
    parts = [nats_of_videos(model, model.rollout(clip[i:i + 1], halves[i])) for i in range(2)]
    average = tf.nest.map_structure(lambda *x: tf.add_n(x)[0] / 2, *parts)
    ours = model.loss(None, 0, lambda nats: calls.append(nats) or average, frames=8)[1]
    theirs = model.loss(model.rollout(clip, noise), 0)[1]
    assert len(calls) == 1 and ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5)
    np.testing.assert_allclose(over_videos(lambda: tf.constant([1.0, 3.0])), 2)


@pytest.mark.parametrize("key, word, near", [
    ("cell_type", "RSMCell", "RSSMCell"), ("encoder_type", "encoders", "Encoder"),
    ("decoder_type", "Coder", "Decoder")])
def test_a_name_that_names_no_class_is_one_line(key, word, near):
    with pytest.raises(UserError, match=f"{key}: '{word}' is not one of .*; nearest: {near}"):
        CWVAE(tiny(**{key: word}))


def test_encoder_and_decoder_are_exchanged_by_name(monkeypatch, capsys):
    class Dimmed(cnns.Encoder):
        def convolve(self, frames):
            return super().convolve(frames / 2)

    class Inverted(cnns.Decoder):
        def call(self, states):
            return 1 - super().call(states)

    monkeypatch.setitem(cnns.ENCODERS, "Dimmed", Dimmed)
    monkeypatch.setitem(cnns.DECODERS, "Inverted", Inverted)
    config, clip = tiny(), tf.constant(video(tiny()))
    other = config.replace(encoder_type="Dimmed", decoder_type="Inverted")
    assert "encodertypeDimmed_decodertypeInverted" in other.experiment.replace("_cell", "")
    plain, changed = build(config), build(other)
    said = capsys.readouterr().err
    assert said.count("runs as it is written") == 2 and "Dimmed" in said and "Inverted" in said
    np.testing.assert_allclose(changed.decoder(tf.ones([1, 8])), 1 - plain.decoder(tf.ones([1, 8])),
                               atol=1e-5)
    half = tf.cast(clip, tf.float32) / 255 / 2
    for ours, theirs in zip(changed.encoder(2 * half), plain.encoder(half), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    states = tf.ones([2, 8, 8])
    np.testing.assert_allclose(changed.decoder.pixels(states).log_prob(half),
                               plain.decoder.pixels(states).log_prob(1 - half), rtol=1e-4)
    before = loss(changed, clip)[0]
    optimizer = tf.keras.optimizers.SGD(1e-5)
    optimizer.build(changed.trainable_variables)
    update(changed, optimizer, clip, 0)
    assert loss(changed, clip)[0] < before
    assert changed.open_loop(clip, 4, SEED).shape == clip.shape


def test_a_layer_that_the_loss_does_not_reach_stays_as_it_is(monkeypatch, capsys):
    model = build(tiny(fast=False))
    model.cells[1].posterior_hidden.activation = tf.stop_gradient
    reached = model.cells[1].posterior_hidden
    before = [v.numpy() for v in model.trainable_variables]
    optimizer = tf.keras.optimizers.SGD(1.0)
    optimizer.build(model.trainable_variables)
    for _ in range(2):
        metrics = update(model, optimizer, tf.constant(video(model.config)), 0)
    said = capsys.readouterr().err
    assert said.count("The loss does not depend on ") == 1 and said.count("level_1/") == 4
    assert np.isfinite(metrics["grad_norm"]) and reached.activation is tf.stop_gradient
    moved = {id(v): not np.array_equal(v, b)
             for v, b in zip(model.trainable_variables, before, strict=True)}
    unreached = [reached, model.cells[1].posterior_input]
    assert not any(moved[id(v)] for layer in unreached for v in layer.trainable_variables)
    assert all(moved[id(v)] for v in model.decoder.convs[-1].trainable_variables)


def test_last_state_is_the_last_tick():
    model = build(tiny())
    level = model.unroll(5, model.initial_states(2), model.noise(SEED, 2, 5))[0]
    np.testing.assert_array_equal(last_state(level).deter, level.deter[:, 4])
