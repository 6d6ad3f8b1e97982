"""The cell of a level: a recurrent state space model (RSSM), one tick and a whole sequence.

Only z_{t-1} and h_{t-1} are known one tick at a time. What the level above and the embeddings
contribute is known for all ticks at once, so those products run outside the loop, and so does the
prior of a level that observes. The loop keeps what truly recurs.
"""

import collections

import tensorflow as tf

# The stochastic state z [B, Z] and the deterministic state h [B, H] of a level; float32.
State = collections.namedtuple("State", "stoch deter")

# What a level did over N ticks. stoch [B, N, Z], deter [B, N, H]; prior and posterior are Gaussians
# over stoch; posterior is None where the level did not observe.
Level = collections.namedtuple("Level", "stoch deter prior posterior")

# The mean and standard deviation, [..., Z] each, of a diagonal Gaussian.
Gaussian = collections.namedtuple("Gaussian", "mean stddev")


class RSSMCell(tf.keras.layers.Layer):
    """One level's state space model (Clockwork VAE, section 3; the RSSM is PlaNet's, Hafner 2019).

    context_size is the width of the context c [B, N, context_size], obs_size that of the
    embeddings e [B, N, obs_size].
    """

    def __init__(self, stoch_size, deter_size, embed_size, context_size, obs_size,
                 min_stddev=1e-4, mean_only=False, **kwargs):
        super().__init__(**kwargs)
        self.stoch_size = stoch_size
        self.deter_size = deter_size
        self.min_stddev = min_stddev
        self.mean_only = mean_only

        def dense(name, inputs, units):
            layer = tf.keras.layers.Dense(units, name=name)
            layer.build((None, inputs))
            return layer

        self.prior_input = dense("prior_input", stoch_size + context_size, embed_size)
        self.gru = tf.keras.layers.GRUCell(deter_size, reset_after=True, name="gru")
        self.gru.build((None, embed_size))
        self.prior_hidden = dense("prior_hidden", deter_size, embed_size)
        self.prior_mean = dense("prior_mean", embed_size, stoch_size)
        self.prior_stddev = dense("prior_stddev", embed_size, stoch_size)
        self.posterior_input = dense("posterior_input", deter_size + obs_size, embed_size)
        self.posterior_hidden = dense("posterior_hidden", embed_size, embed_size)
        self.posterior_mean = dense("posterior_mean", embed_size, stoch_size)
        self.posterior_stddev = dense("posterior_stddev", embed_size, stoch_size)
        self.built = True

    def initial_state(self, batch_size):
        return State(tf.zeros([batch_size, self.stoch_size]), tf.zeros([batch_size, self.deter_size]))

    def context_input(self, context, first=0):
        """The part of Dense([z, c]) that sees columns first, first + 1, ... of c: [..., E]."""
        start = self.stoch_size + first
        rows = self.prior_input.kernel[start:start + context.shape[-1]]
        return self._product(context, rows)

    def observe(self, state, context_input, embedding, noise, keep):
        """Runs the posterior over N ticks.

        Args:
          state: the State before the first tick.
          context_input: what the context adds to Dense([z, c]), [B, N, E] (see context_input).
          embedding: [B, N, obs_size].
          noise: standard normal, [B, N, Z].
          keep: [N], 0 at the ticks that forget z_{t-1}, 1 elsewhere.

        Returns: a Level.
        """
        embedding_input = self._product(
            embedding, self.posterior_input.kernel[self.deter_size:]) + self.posterior_input.bias

        def step(state, inputs):
            context_input, keep, noise, embedding_input = inputs
            deter = self._transition(state, context_input, keep)
            hidden = tf.nn.relu(
                self._product(deter, self.posterior_input.kernel[:self.deter_size]) + embedding_input)
            hidden = tf.nn.relu(self._dense(hidden, self.posterior_hidden))
            posterior = self._gaussian(hidden, self.posterior_mean, self.posterior_stddev)
            return State(self._sample(posterior, noise), deter), posterior

        states, posterior = scan(step, state, (
            self._input(context_input), keep, noise, embedding_input))
        return Level(*states, self.prior(states.deter), posterior)

    def imagine(self, state, context_input, noise, keep):
        """Runs the prior alone over N ticks; arguments and result as those of observe."""

        def step(state, inputs):
            context_input, keep, noise = inputs
            deter = self._transition(state, context_input, keep)
            prior = self.prior(deter)
            return State(self._sample(prior, noise), deter), prior

        states, prior = scan(step, state, (self._input(context_input), keep, noise))
        return Level(*states, prior, None)

    def prior(self, deter):
        """p(z_t | h_t): [..., H] -> a Gaussian over [..., Z]."""
        hidden = tf.nn.relu(self._dense(deter, self.prior_hidden))
        return self._gaussian(hidden, self.prior_mean, self.prior_stddev)

    def _input(self, context_input):
        return context_input + self.prior_input.bias

    def _transition(self, state, context_input, keep):
        """h_t from the state before and what the context adds to the prior's first layer."""
        stoch = self._product(state.stoch * keep, self.prior_input.kernel[:self.stoch_size])
        gru_input = self._product(tf.nn.relu(stoch + context_input), self.gru.kernel)
        recurrent = self._product(state.deter, self.gru.recurrent_kernel)
        input_bias, recurrent_bias = tf.unstack(self.gru.bias)
        update, reset, new = tf.split(gru_input + input_bias, 3, axis=-1)
        past_update, past_reset, past_new = tf.split(recurrent + recurrent_bias, 3, axis=-1)
        update = tf.sigmoid(update + past_update)
        new = tf.tanh(new + tf.sigmoid(reset + past_reset) * past_new)
        return update * state.deter + (1 - update) * new

    def _gaussian(self, hidden, mean, stddev):
        # Dense(y + 0.54) is y W + (b + 0.54 * the column sums of W): one product serves both heads.
        kernel = tf.concat([mean.kernel, stddev.kernel], axis=1)
        bias = tf.concat([mean.bias, stddev.bias + 0.54 * tf.reduce_sum(stddev.kernel, 0)], axis=0)
        mean, raw = tf.split(self._product(hidden, kernel) + bias, 2, axis=-1)
        return Gaussian(mean, tf.nn.softplus(raw) + self.min_stddev)

    def _sample(self, gaussian, noise):
        return gaussian.mean if self.mean_only else gaussian.mean + gaussian.stddev * noise

    def _dense(self, inputs, layer):
        return self._product(inputs, layer.kernel) + layer.bias

    def _product(self, inputs, kernel):
        """A matrix product in the layer's precision; what is summed and kept over time is float32."""
        product = tf.matmul(tf.cast(inputs, self.compute_dtype), tf.cast(kernel, self.compute_dtype))
        return tf.cast(product, tf.float32)


def scan(step, state, inputs):
    """Runs state, output = step(state, inputs of one tick) over all ticks.

    Args:
      step: a function of a State and a tuple of tensors of one tick.
      state: the State before the first tick.
      inputs: a tuple of tensors, [B, N, ...] or, the same for all videos, [N].

    Returns: the states and the outputs of all ticks, each tensor [B, N, ...].
    """
    by_tick = tuple(x if x.shape.rank == 1 else _swap(x) for x in inputs)
    output_like = tf.nest.map_structure(tf.zeros_like, step(state, tuple(x[0] for x in by_tick))[1])
    states, outputs = tf.scan(
        lambda carry, tick: step(carry[0], tick), by_tick, (state, output_like))
    return tf.nest.map_structure(_swap, (states, outputs))


def _swap(x):
    """[B, N, D] to [N, B, D], and back."""
    return tf.transpose(x, [1, 0, 2])
