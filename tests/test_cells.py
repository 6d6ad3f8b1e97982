"""The fast recurrence against the plain one: every value, and every gradient."""

import numpy as np
import pytest
import tensorflow as tf
from plain import PlainCell

from cells import RSSMCell, State


def random(seed, *shape):
    return tf.constant(np.random.default_rng(seed).normal(size=shape), tf.float32)


def build(mean_only=False):
    cell = RSSMCell(stoch_size=3, deter_size=5, embed_size=7, context_size=4, obs_size=6,
                    min_stddev=0.1, mean_only=mean_only)
    for i, variable in enumerate(cell.trainable_variables):
        variable.assign(random(i, *variable.shape) / 2)
    return cell


@pytest.mark.parametrize("ticks", [1, 6])
@pytest.mark.parametrize("mean_only", [False, True])
@pytest.mark.parametrize("observes", [True, False])
def test_values_and_gradients_equal_those_of_the_plain_recurrence(ticks, mean_only, observes):
    cell = build(mean_only)
    state = State(random(50, 2, 3), random(51, 2, 5))
    context, embedding, noise = (random(52 + i, 2, ticks, size) for i, size in enumerate([4, 6, 3]))
    keep = tf.constant([1.0, 1, 0, 1, 0, 1][:ticks])
    inputs = [*state, context, embedding, *cell.trainable_variables]

    def run(cell):
        with tf.GradientTape() as tape:
            tape.watch(inputs[:4])
            context_input = cell.context_input(context)
            if observes:
                level = cell.observe(state, context_input, embedding, noise, keep)
            else:
                level = cell.imagine(state, context_input, noise, keep)
            outputs = [x for x in tf.nest.flatten(level) if x is not None]
            # Every output counts, each element differently.
            loss = tf.add_n([tf.reduce_sum(x * random(90 + i, *x.shape)) for i, x in enumerate(outputs)])
        return outputs, tape.gradient(loss, inputs)

    for fast, plain in zip(*(tf.nest.flatten(run(c)) for c in (cell, PlainCell(cell))), strict=True):
        assert (fast is None) == (plain is None)
        if fast is not None:
            np.testing.assert_allclose(fast, plain, rtol=1e-4, atol=1e-5)


def test_the_prior_is_the_same_inside_the_loop_and_outside():
    cell = build()
    level = cell.imagine(
        cell.initial_state(2), cell.context_input(random(0, 2, 5, 4)), random(1, 2, 5, 3), tf.ones([5]))
    for inside, outside in zip(level.prior, cell.prior(level.deter), strict=True):
        np.testing.assert_allclose(inside, outside, rtol=1e-5)


def test_a_context_can_be_given_in_parts():
    cell, context = build(), random(0, 2, 5, 4)
    np.testing.assert_allclose(
        cell.context_input(context),
        cell.context_input(context[..., :3]) + cell.context_input(context[..., 3:], first=3), rtol=1e-4)


def test_standard_deviations_are_above_the_least():
    cell = build()
    level = cell.imagine(
        cell.initial_state(4), tf.zeros([4, 9, 7]), random(1, 4, 9, 3), tf.ones([9]))
    assert float(tf.reduce_min(level.prior.stddev)) > 0.1


def test_initial_states_are_zeros():
    assert all(not np.any(part) for part in build().initial_state(3))
