"""Scalars of validation against known ones and against the training loss, and means over steps."""

import numpy as np
import pytest
import tensorflow as tf
from test_cwvae import build, loss, tiny, video

from validation import Means, Validation


class Videos:
    """Stands in for data_loader.Sequences."""

    split = "val"

    def __init__(self, video):
        self.video = video

    def __len__(self):
        return len(self.video)

    def batch(self, start, size):
        return {"video": self.video[start:start + size]}


OBJECTIVES = {
    "plain": {}, "free nats": dict(free_nats=[3.0, 0.5]), "balance": dict(kl_grad_post_perc=0.8),
    "all": dict(free_nats=1.0, kl_grad_post_perc=0.3, beta=[0.5, 2], beta_warmup_steps=9)}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_validation_of_one_clip_is_the_loss(name):
    model = build(tiny(cell_mean_only=True, batch_size=2, **OBJECTIVES[name]))
    clip = video(model.config)
    scalars = Validation(model.config, model, Videos(clip), 2).scalars(1)
    _, metrics = loss(model, clip)
    assert scalars.keys() == metrics.keys()
    for name in metrics:
        np.testing.assert_allclose(scalars[name], metrics[name], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_loss_per_frame_does_not_depend_on_the_number_of_clips(name):
    """A video that repeats itself, seen by a model without memory: every clip of it costs the same."""
    model = build(tiny(cell_mean_only=True, batch_size=2, cell_min_stddev=1, **OBJECTIVES[name]))
    for cell in model.cells:  # h stays 0, and z does not count.
        for layer in (cell.gru, cell.prior_input):
            layer.set_weights([np.zeros(weights.shape) for weights in layer.get_weights()])
    clip = video(model.config)
    found = []
    for clips in (1, 3):
        config = model.config.replace(eval_seq_len=8 * clips)
        found.append(Validation(config, model, Videos(np.tile(clip, [1, clips, 1, 1, 1])), 2).scalars(1))
    assert float(found[0]["kl_term"]) > 0.01
    for name in found[0]:
        np.testing.assert_allclose(*(scalars[name] for scalars in found), rtol=1e-4, err_msg=name)


# ------------------------------------------------------------------------------ means over steps


def metrics(step):
    return {"total_loss": tf.constant(float(step) ** 2), "learning_rate": tf.constant(0.1 * step)}


def test_a_scalar_is_the_mean_since_the_one_before_and_the_learning_rate_the_last():
    means = Means()
    for step in (1, 2, 3):
        means.add(metrics(step))
    assert means.take() == pytest.approx({"total_loss": 14 / 3, "learning_rate": 0.3})
    means.add(metrics(5))
    assert means.take() == pytest.approx({"total_loss": 25, "learning_rate": 0.5})
    assert means.take() == {}


def run(start, end, log_every, save_every, path, logged):
    """Steps that log and save; what was saved last is where a later call goes on from."""
    means = Means()
    if start:
        status = tf.train.Checkpoint(means=means).read(f"{path}-{start}")
        status.assert_existing_objects_matched().expect_partial()
    for step in range(start + 1, end + 1):
        means.add(metrics(step) | {"kl_term": tf.random.stateless_uniform([], [step, 0])})
        if step % log_every == 0:
            logged[step] = means.take()
        if step % save_every == 0:
            tf.train.Checkpoint(means=means).write(f"{path}-{step}")


@pytest.mark.parametrize("log_every, save_every", [(7, 5), (5, 7), (4, 4), (9, 1)])
def test_a_run_that_goes_on_logs_what_the_whole_one_does(log_every, save_every, tmp_path):
    whole, pieces = {}, {}
    run(0, 30, log_every, save_every, tmp_path / "a", whole)
    saved = 2 * save_every
    run(0, saved + 3, log_every, save_every, tmp_path / "b", pieces)  # The last three are lost.
    run(saved, 30, log_every, save_every, tmp_path / "b", pieces)
    assert pieces == whole and len(whole) == 30 // log_every


def test_another_term_from_some_step_on_has_its_own_mean(tmp_path):
    means = Means()
    means.add(metrics(1))
    tf.train.Checkpoint(means=means).write(tmp_path / "c")
    means = Means()
    tf.train.Checkpoint(means=means).read(tmp_path / "c").expect_partial()
    means.add(metrics(3) | {"memory_term": tf.constant(2.0)})
    assert means.take() == pytest.approx(
        {"total_loss": 5, "learning_rate": 0.3, "memory_term": 2})
