"""What every cell must hold to, and what z is drawn from. (Their formulas: test_cwvae.py.)"""

import numpy as np
import pytest
import tensorflow as tf

from cells import (
    CELLS,
    Cell,
    Dense,
    Gaussian,
    GRUCell,
    Level,
    OneHot,
    RSSMCell,
    State,
    fold_in,
    random_bits,
    standard_normal,
)
from config import Config
from cwvae import state_vector


class LSTMRSSMCell(RSSMCell):
    """An RSSMCell with an LSTM: h holds its output and its memory."""

    @classmethod
    def sizes(cls, config, level):
        return State(config.stoch_sizes[level], 2 * config.deter_sizes[level])

    def make_recurrence(self, inputs):
        self.lstm = self.dense("lstm", inputs + self.deter_size, 2 * self.deter_size)

    def recur(self, x, deter):
        memory = tf.split(deter, 2, -1)[1]
        keep, write, show, new = tf.split(self.lstm(tf.concat([x, deter], -1)), 4, -1)
        memory = tf.sigmoid(keep) * memory + tf.sigmoid(write) * tf.tanh(new)
        return tf.concat([tf.sigmoid(show) * tf.tanh(memory), memory], -1)


class ResidualRSSMCell(RSSMCell):
    """An RSSMCell whose h moves a tenth of the way to what the GRU says, so that |h| stays below 1."""

    def recur(self, x, deter):
        return deter + 0.1 * (super().recur(x, deter) - deter)


class NormedRSSMCell(RSSMCell):
    """An RSSMCell with other dense layers."""

    def dense(self, name, inputs, units, activation=None):
        return self.add(Dense, inputs, units, "elu" if activation else None, name=name)


class Memoryless(Cell):
    """A cell without h, whose names are those of no other cell."""

    @classmethod
    def sizes(cls, config, level):
        return State(config.stoch_sizes[level], 0)

    def make_layers(self, context_size, obs_size):
        self.guess = self.add(Dense, context_size, 2 * self.stoch_size, name="guess")
        self.look = self.add(Dense, context_size + obs_size, 2 * self.stoch_size, name="look")

    def noise(self, seed, batch_size, ticks):
        return Gaussian.noise(seed, [batch_size, ticks, self.stoch_size])

    def tick(self, state, context, noise, embedding=None):
        def gaussian(numbers):
            mean, raw = tf.split(numbers, 2, -1)
            return Gaussian(mean, tf.nn.softplus(raw))

        prior = posterior = gaussian(self.guess(context))
        if embedding is not None:
            posterior = gaussian(self.look(tf.concat([context, embedding], -1)))
        return Level(posterior.sample(noise), state.deter, prior, posterior)


KINDS = CELLS | {kind.__name__: kind for kind in (
    LSTMRSSMCell, ResidualRSSMCell, NormedRSSMCell, Memoryless)}


def random(seed, *shape):
    return tf.constant(np.random.default_rng(seed).normal(size=shape), tf.float32)


def build(name, level=1, dtype="float32"):
    config = Config(dataset="moving_digits", levels=2, cell_type=name, cell_stoch_size=[2, 3],
                    cell_stoch_classes=4, cell_deter_size=[4, 5], cell_embed_size=16)
    cell = KINDS[name](config, level, context_size=4, obs_size=6, dtype=dtype)
    for i, variable in enumerate(cell.trainable_variables):
        variable.assign(random(i, *variable.shape) / 2)
    return cell


def inputs(cell, ticks=4, batch=2):
    """State, context, noise, reset and embedding of a sequence."""
    stoch, deter = cell.sizes(cell.config, cell.level)
    state = State(random(10, batch, stoch), random(11, batch, deter))
    return (state, random(12, batch, ticks, 4), cell.noise([0, 1], batch, ticks),
            tf.constant([0.0, 0, 1, 0][:ticks]), random(13, batch, ticks, 6))


@pytest.fixture(params=KINDS)
def cell(request):
    return build(request.param)


@pytest.mark.parametrize("observes", [True, False])
@pytest.mark.parametrize("ticks", [1, 4])
def test_shapes(cell, ticks, observes):
    state, context, noise, reset, embedding = inputs(cell, ticks)
    level = cell.scan(state, context, noise, reset, embedding if observes else None)
    stoch, deter = cell.sizes(cell.config, 1)
    assert level.stoch.shape == (2, ticks, stoch) and level.deter.shape == (2, ticks, deter)
    for distribution in (level.prior, level.posterior):
        assert distribution.kl(level.prior).shape == distribution.entropy().shape == (2, ticks)
        assert distribution.sample(noise).shape == level.stoch.shape
    assert all(tensor.dtype == tf.float32 for tensor in tf.nest.flatten(level))


def test_a_scan_is_its_ticks_one_by_one(cell):
    state, context, noise, reset, embedding = inputs(cell)
    scanned = cell.scan(state, context, noise, reset, embedding)
    for t in range(4):
        level = cell.tick(State(state.stoch * (1 - reset[t]), state.deter), context[:, t], noise[:, t],
                          embedding[:, t])
        for all_ticks, one in zip(tf.nest.flatten(scanned), tf.nest.flatten(level), strict=True):
            np.testing.assert_allclose(all_ticks[:, t], one, rtol=1e-4, atol=1e-5)
        state = State(level.stoch, level.deter)


@pytest.mark.parametrize("observes", [True, False])
def test_a_sequence_in_two_pieces_equals_the_sequence(cell, observes):
    state, context, noise, reset, embedding = inputs(cell)
    embedding = embedding if observes else None
    whole = cell.scan(state, context, noise, reset, embedding)
    pieces = []
    for piece in (slice(0, 3), slice(3, 4)):
        level = cell.scan(state, context[:, piece], noise[:, piece], reset[piece],
                          embedding[:, piece] if observes else None)
        pieces.append(level)
        state = State(level.stoch[:, -1], level.deter[:, -1])
    for a, *b in zip(*map(tf.nest.flatten, [whole, *pieces]), strict=True):
        np.testing.assert_allclose(a, tf.concat(b, 1), rtol=1e-4, atol=1e-5)


def test_a_seed_decides_the_noise(cell):
    first, again, other = (cell.noise(seed, 2, 3) for seed in ([3, 7], [3, 7], [3, 8]))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_noise_decides_the_samples_and_none_gives_the_mode(cell):
    state, context, noise, reset, embedding = inputs(cell)
    one, again, other, mode, mode_again = (
        cell.scan(state, context, n, reset, embedding).stoch
        for n in (noise, noise, cell.noise([5, 6], 2, 4), tf.zeros_like(noise), tf.zeros_like(noise)))
    np.testing.assert_array_equal(one, again)
    np.testing.assert_array_equal(mode, mode_again)
    assert not np.allclose(one, other) and not np.allclose(one, mode)


def test_equal_distributions_have_no_divergence_and_others_do(cell):
    state, context, noise, reset, embedding = inputs(cell)
    level = cell.scan(state, context, noise, reset, embedding)
    np.testing.assert_allclose(level.prior.kl(level.prior), 0, atol=1e-5)
    assert np.all(level.posterior.kl(level.prior) > 0)


def test_without_an_embedding_the_posterior_is_the_prior(cell):
    state, context, noise, reset, _ = inputs(cell)
    level = cell.scan(state, context, noise, reset)
    for p, q in zip(level.prior, level.posterior, strict=True):
        np.testing.assert_array_equal(p, q)


def test_gradients_reach_every_variable_and_stop_where_they_should(cell):
    state, context, noise, reset, embedding = inputs(cell)
    weights = random(3, 2, 4, state.stoch.shape[1])
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([state, context, embedding])
        level = cell.scan(state, context, noise, reset, embedding)
        all_of_it = tf.reduce_sum(level.posterior.kl(level.prior)) + tf.reduce_sum(level.stoch * weights)
        last_alone = tf.reduce_sum(level.stoch[:, :1] * weights[:, :1])
        imagined = tf.reduce_sum(cell.scan(state, context, noise, reset).stoch * weights)
    for variable, gradient in zip(
            cell.trainable_variables, tape.gradient(all_of_it, cell.trainable_variables), strict=True):
        assert gradient is not None and np.abs(gradient).max() > 0, variable.path
    remembers = cell.deter_size > 0
    for gradient in tape.gradient(all_of_it, [context, embedding] + remembers * [*state]):
        assert np.abs(gradient).max() > 0
    # Nothing comes from later ticks.
    assert np.abs(tape.gradient(last_alone, context)[:, 1:]).max() == 0
    # Where nothing is observed, only what the prior is made of counts.
    reached = [gradient is not None and np.abs(gradient).max() > 0
               for gradient in tape.gradient(imagined, cell.trainable_variables)]
    assert any(reached) and not all(reached)
    if isinstance(cell, RSSMCell):
        assert reached == ["posterior" not in v.path for v in cell.trainable_variables]


def test_a_forgotten_state_does_not_count(cell):
    state, context, noise, _, embedding = inputs(cell)
    other = State(state.stoch + 1, state.deter)
    kept, forgotten = (
        [state_vector(cell.scan(s, context, noise, tf.constant([first, *[0.0] * 3]), embedding))
         for s in (state, other)] for first in (0.0, 1.0))
    assert np.allclose(*kept) == (cell.deter_size == 0)
    np.testing.assert_array_equal(*forgotten)


@pytest.mark.parametrize("name", KINDS)
def test_states_stay_bounded_over_hundreds_of_ticks(name):
    """With its first weights, on random contexts and embeddings, as training begins and predicts."""
    config = Config(dataset="moving_digits", levels=1, cell_type=name, cell_stoch_size=3,
                    cell_stoch_classes=4, cell_deter_size=8, cell_embed_size=16)
    cell = KINDS[name](config, 0, context_size=4, obs_size=6)
    state = State(*(tf.zeros([2, size]) for size in cell.sizes(config, 0)))
    scan = tf.function(cell.scan, autograph=False)
    for embedding in (None, random(2, 2, 300, 6)):
        level = scan(state, random(1, 2, 300, 4), cell.noise([0, 1], 2, 300), tf.zeros([300]), embedding)
        assert all(np.all(np.isfinite(x)) for x in tf.nest.flatten(level))
        assert not cell.deter_size or np.abs(level.deter).max() < 10


def test_the_residual_cells_state_stays_below_one_whatever_its_weights():
    cell = build("ResidualRSSMCell")
    for variable in cell.trainable_variables:
        variable.assign(20 * variable)
    state, context, _, _, _ = inputs(cell)
    context, noise = tf.repeat(context, 75, 1), cell.noise([0, 1], 2, 300)
    scan = tf.function(cell.scan, autograph=False)
    deter = scan(State(state.stoch, 0 * state.deter), context, noise, tf.zeros([300])).deter
    assert np.abs(deter).max() <= 1 and np.abs(deter[:, -1]).max() > 0.1


@pytest.mark.parametrize("name", KINDS)
def test_bfloat16_rounds_products_alone(name):
    full, half = build(name), build(name, dtype="mixed_bfloat16")
    state, context, noise, reset, embedding = inputs(full)
    noise = tf.zeros_like(noise)
    ours, theirs = (cell.scan(state, context, noise, reset, embedding) for cell in (half, full))
    assert all(tensor.dtype == tf.float32 for tensor in tf.nest.flatten(ours))
    np.testing.assert_allclose(ours.deter, theirs.deter, atol=0.03)


def test_a_slow_memory_survives_bfloat16():
    # An update gate of almost 1 moves h by less than bfloat16 can tell from it.
    found = []
    for dtype in ("float32", "mixed_bfloat16"):
        gru = GRUCell(1, reset_after=True, dtype=dtype)
        gru.build((None, 1))
        gru.kernel.assign([[0.0, 0.0, 1.0]])
        gru.recurrent_kernel.assign(tf.zeros([1, 3]))
        gru.bias.assign([[6.0, 0, 0], [0, 0, 0]])
        states = tf.scan(lambda h, x, gru=gru: gru(x, h), tf.ones([300, 1, 1]), tf.zeros([1, 1]))
        found.append(float(states[-1, 0, 0]))
    np.testing.assert_allclose(found[1], found[0], rtol=0.01)


# --------------------------------------------------------------------------- what z is drawn from


def test_a_gaussians_formulas():
    q, p = Gaussian(tf.constant([1.0, 0]), tf.constant([2.0, 1])), Gaussian(tf.zeros(2), tf.ones(2))
    np.testing.assert_allclose(q.kl(p), -np.log(2) + (4 + 1) / 2 - 0.5, rtol=1e-6)
    np.testing.assert_allclose(p.entropy(), np.log(2 * np.pi * np.e), rtol=1e-6)
    np.testing.assert_array_equal(q.sample(tf.constant([1.0, -1])), [3, -1])


def test_one_hots_formulas():
    q = OneHot(tf.math.log([[0.5, 0.25, 0.25], [1.0, 1e-9, 1e-9]]))
    p = OneHot(tf.zeros([2, 3]))
    np.testing.assert_allclose(q.entropy(), 1.5 * np.log(2), rtol=1e-5)
    np.testing.assert_allclose(p.entropy(), 2 * np.log(3), rtol=1e-5)
    np.testing.assert_allclose(q.kl(p), 2 * np.log(3) - 1.5 * np.log(2), rtol=1e-5)
    np.testing.assert_array_equal(q.sample(tf.zeros([2, 3])), [1, 0, 0, 1, 0, 0])


def test_one_hots_are_drawn_by_their_probabilities_and_pass_gradients_straight_through():
    probs = np.array([0.5, 0.3, 0.2], np.float32)
    logits = tf.tile(tf.math.log(probs)[None, None], [20000, 1, 1])
    noise = OneHot.noise([1, 2], logits.shape)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        sample = OneHot(logits).sample(noise)
        value = tf.reduce_sum(sample * [1.0, 2, 3])
    assert set(np.unique(sample)) == {0, 1} and np.all(tf.reduce_sum(sample, -1) == 1)
    np.testing.assert_allclose(np.mean(sample, 0), probs, atol=0.015)
    # As if the sample were the softmax itself.
    weights = np.array([1, 2, 3])
    np.testing.assert_allclose(
        tape.gradient(value, logits)[0, 0], probs * (weights - probs @ weights), rtol=1e-5)


# -------------------------------------------------------------------------------------- noise


@pytest.mark.parametrize("seed", [[0, 0], [5, 2**30], [123456, -77], [-9, 3]])
def test_noise_is_the_same_compiled_and_not_and_todays(seed):
    def make():
        folded = fold_in(seed, 3, 2**30 + 1)
        return (folded, standard_normal(folded, [3, 7, 5]), standard_normal(seed, [2]),
                OneHot.noise(seed, [9]))

    plain, compiled = make(), tf.function(make, jit_compile=True)()
    np.testing.assert_array_equal(plain[0], compiled[0])
    for a, b in zip(plain[1:], compiled[1:], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    # What trained before TensorFlow's own noise was given up goes on as it was.
    todays = tf.random.experimental.stateless_fold_in(
        tf.random.experimental.stateless_fold_in(seed, 3), 2**30 + 1)
    np.testing.assert_array_equal(plain[0], todays)
    np.testing.assert_allclose(
        plain[1], tf.random.stateless_normal([3, 7, 5], todays, alg="philox"), atol=1e-5)


def test_noise_is_standard_normal_and_its_bits_differ():
    values = standard_normal([1, 2], [100001]).numpy()
    np.testing.assert_allclose([values.mean(), values.std(), (values**3).mean()], [0, 1, 0], atol=0.02)
    assert len(np.unique(random_bits([1, 2], [1000]))) == 1000
