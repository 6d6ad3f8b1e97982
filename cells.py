"""The cell of a level: a recurrent state space model (RSSM), one tick and a whole sequence.

Only z_{t-1} and h_{t-1} are known one tick at a time. What the level above and the embeddings
contribute is known for all ticks at once, so those products run outside the loop, and so does the
prior of a level that observes. The loop keeps what truly recurs.
"""

import collections

import tensorflow as tf

import recurrence

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
        size = context.shape[-1]
        rest = self.prior_input.kernel.shape[0] - self.stoch_size - first - size
        _, rows, _ = tf.split(self.prior_input.kernel, [self.stoch_size + first, size, rest])
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
        of_deter, of_embedding = _rows(self.posterior_input, self.deter_size)
        embedding_input = self._product(embedding, of_embedding) + self.posterior_input.bias
        *states, posterior = self._rollout(
            state, context_input, embedding_input, noise, keep, of_deter,
            self.posterior_mean, self.posterior_stddev, self.posterior_hidden)
        return Level(*states, self.prior(states[1]), posterior)

    def imagine(self, state, context_input, noise, keep):
        """Runs the prior alone over N ticks; arguments and result as those of observe."""
        head = self.prior_hidden
        bias = tf.broadcast_to(head.bias, [*tf.unstack(tf.shape(noise)[:2]), *head.bias.shape])
        return Level(*self._rollout(
            state, context_input, bias, noise, keep, head.kernel,
            self.prior_mean, self.prior_stddev), None)

    def prior(self, deter):
        """p(z_t | h_t): [..., H] -> a Gaussian over [..., Z]."""
        hidden = tf.nn.relu(self._product(deter, self.prior_hidden.kernel) + self.prior_hidden.bias)
        kernel, bias = _both_heads(self.prior_mean, self.prior_stddev)
        mean, raw = tf.split(self._product(hidden, kernel) + bias, 2, axis=-1)
        return Gaussian(mean, tf.nn.softplus(raw) + self.min_stddev)

    def _rollout(self, state, context_input, head_input, noise, keep, head, mean, stddev, hidden=None):
        kernels = [head, *_both_heads(mean, stddev), *([hidden.kernel, hidden.bias] if hidden else [])]
        weights = recurrence.Weights(*map(tf.convert_to_tensor, [
            _rows(self.prior_input, self.stoch_size)[0], self.gru.kernel, self.gru.recurrent_kernel,
            self.gru.bias, *kernels]))
        stoch, deter, *gaussian = recurrence.rollout(
            state, context_input + self.prior_input.bias, head_input,
            tf.zeros_like(noise) if self.mean_only else noise, keep, weights, self.min_stddev,
            self.compute_dtype)
        return stoch, deter, Gaussian(*gaussian)

    def _product(self, inputs, kernel):
        return recurrence.product(inputs, kernel, self.compute_dtype)


def _rows(layer, first):
    """The first rows of a dense layer's kernel, and the others. (A slice's gradient is slower.)"""
    return tf.split(layer.kernel, [first, layer.kernel.shape[0] - first])


def _both_heads(mean, stddev):
    """The kernel and bias of one dense layer for both heads of a Gaussian.

    Dense(y + 0.54) is y W + (b + 0.54 times the sum of W over its inputs).
    """
    kernel = tf.concat([mean.kernel, stddev.kernel], axis=1)
    bias = tf.concat([mean.bias, stddev.bias + 0.54 * tf.reduce_sum(stddev.kernel, 0)], axis=0)
    return kernel, bias
