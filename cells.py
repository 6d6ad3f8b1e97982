"""The cell of a level: it computes the next state and the distribution of z.

A cell is a subclass of Cell and a line in CELLS. The config's key cell_type picks one by its name.
"""

import collections
import math

import numpy as np
import tensorflow as tf

# The stochastic state z [B, Z] and the deterministic state h [B, H] of a level; float32.
State = collections.namedtuple("State", "stoch deter")

# One tick of a level, or N of them: stoch [B, N, Z], deter [B, N, H], and the distributions of stoch.
# The posterior of a level that does not observe is its prior.
Level = collections.namedtuple("Level", "stoch deter prior posterior")


# -------------------------------------------------------------------------- the distributions of z
# A distribution is a namedtuple of its parameters, because tf.nest and tf.scan carry those. It gives
# noise, samples, KL and entropy. Noise of zeros gives the mode.


class Gaussian(collections.namedtuple("Gaussian", "mean stddev")):
    """A diagonal Gaussian. Mean, stddev, noise and samples are [..., Z]."""

    @staticmethod
    def noise(seed, shape):
        return standard_normal(seed, shape)

    def sample(self, noise):
        return self.mean + self.stddev * noise

    def kl(self, other):
        """KL(self || other) in nats, summed over units: [...]."""
        apart = (self.mean - other.mean) / other.stddev
        ratio = tf.math.log(self.stddev) - tf.math.log(other.stddev)
        return tf.reduce_sum(0.5 * (apart**2 + tf.math.expm1(2 * ratio)) - ratio, -1)

    def entropy(self):
        """Nats, summed over units: [...]."""
        return tf.reduce_sum(tf.math.log(self.stddev) + 0.5 * math.log(2 * math.pi * math.e), -1)


class OneHot(collections.namedtuple("OneHot", "logits")):
    """D one-hot variables of C classes. Logits and noise are [..., D, C], samples are [..., D C].

    Samples pass gradients straight through to the probabilities (DreamerV2, Hafner et al. 2021).
    """

    @staticmethod
    def noise(seed, shape):
        return -tf.math.log(-tf.math.log(uniform(seed, shape)))  # Gumbel's

    def sample(self, noise):
        # The argmax of logits plus Gumbel noise is a sample.
        chosen = tf.one_hot(tf.argmax(self.logits + noise, -1), self.logits.shape[-1])
        probs = tf.nn.softmax(self.logits)
        return reshape_end(chosen + (probs - tf.stop_gradient(probs)), 2, [math.prod(probs.shape[-2:])])

    def kl(self, other):
        """KL(self || other) in nats, summed over variables: [...]."""
        ours, theirs = tf.nn.log_softmax(self.logits), tf.nn.log_softmax(other.logits)
        return tf.reduce_sum(tf.exp(ours) * (ours - theirs), [-2, -1])

    def entropy(self):
        """Nats, summed over variables: [...]."""
        return -tf.reduce_sum(tf.nn.softmax(self.logits) * tf.nn.log_softmax(self.logits), [-2, -1])


# -------------------------------------------------------------------------------------- cells


class Cell(tf.keras.layers.Layer):
    """The base class of cells. A subclass has sizes, make_layers, noise and tick.

    Args:
      config: a Config; level: its number, 0 at the bottom.
      context_size: width of the context c: the state of the level above, and the actions of a tick.
      obs_size: width of the embeddings e.
      dtype: the policy of its layers.
    """

    def __init__(self, config, level, context_size, obs_size, **kwargs):
        super().__init__(**kwargs)
        self.config, self.level = config, level
        self.stoch_size, self.deter_size = self.sizes(config, level)
        self.make_layers(context_size, obs_size)
        self.built = True

    @classmethod
    def sizes(cls, config, level):
        """The widths Z and H of z and h, as a State. A cell without memory has H = 0."""
        raise NotImplementedError

    def make_layers(self, context_size, obs_size):
        """Makes the layers as attributes, each by self.add."""
        raise NotImplementedError

    def add(self, kind, inputs, *args, name, **kwargs):
        """Makes a layer of a kind, such as Dense, with its variables for inputs [..., inputs]."""
        layer = kind(*args, name=name, dtype=self.dtype_policy, **kwargs)
        layer.build((None, inputs))
        return layer

    def noise(self, seed, batch_size, ticks):
        """The noise of the samples of N ticks, [B, N, ...]: a function of the seed [2] alone."""
        raise NotImplementedError

    def tick(self, state, context, noise, embedding=None):
        """One tick, [B, ...] each, from the State before it. With an embedding it observes.

        Returns: a Level.
        """
        raise NotImplementedError

    def scan(self, state, context, noise, reset, embedding=None):
        """Runs N ticks.

        Args:
          state: the State before the first tick.
          context: [B, N, context_size].
          noise: [B, N, ...], from self.noise.
          reset: [N], 1 at the ticks that see zeros in place of z_{t-1}, and 0 at the others.
          embedding: [B, N, obs_size], or None to run the prior alone.

        Returns: a Level.
        """
        inputs = tf.nest.map_structure(
            swap, (context, noise) if embedding is None else (context, noise, embedding))

        def step(before, inputs):
            reset, inputs = inputs
            return self.tick(State(before.stoch * (1 - reset), before.deter), *inputs)

        like = self.tick(state, *(x[0] for x in inputs))  # tf.scan starts from a Level of this form
        first = tf.nest.map_structure(tf.zeros_like, like)._replace(**state._asdict())
        return tf.nest.map_structure(swap, tf.scan(step, (reset, inputs), first))


class RSSMCell(Cell):
    """The recurrent state space model (PlaNet, Hafner et al. 2019), which also sees a context.

    A subclass replaces the part that it changes: dense, the recurrence, or the distribution of z.
    """

    @classmethod
    def sizes(cls, config, level):
        return State(config.stoch_sizes[level], config.deter_sizes[level])

    def make_layers(self, context_size, obs_size):
        # Keep this order: the optimizer in a checkpoint counts variables as they are made.
        embed_size = self.config.cell_embed_size
        self.prior_input = self.dense("prior_input", self.stoch_size + context_size, embed_size, "relu")
        self.make_recurrence(embed_size)
        self.prior_hidden = self.dense("prior_hidden", self.deter_size, embed_size, "relu")
        self.make_head("prior", embed_size)
        self.posterior_input = self.dense(
            "posterior_input", self.deter_size + obs_size, embed_size, "relu")
        self.posterior_hidden = self.dense("posterior_hidden", embed_size, embed_size, "relu")
        self.make_head("posterior", embed_size)

    def tick(self, state, context, noise, embedding=None):
        x = self.prior_input(tf.concat([state.stoch, context], -1))
        deter = self.recur(x, state.deter)
        prior = posterior = self.head("prior", self.prior_hidden(deter))
        if embedding is not None:
            x = self.posterior_input(tf.concat([deter, embedding], -1))
            posterior = self.head("posterior", self.posterior_hidden(x))
        return Level(posterior.sample(noise), deter, prior, posterior)

    def dense(self, name, inputs, units, activation=None):
        """The layer of a name, from [..., inputs] to [..., units]."""
        return self.add(Dense, inputs, units, activation, name=name)

    # The recurrence.

    def make_recurrence(self, inputs):
        self.gru = self.add(GRUCell, inputs, self.deter_size, reset_after=True, name="gru")

    def recur(self, x, deter):
        """The next h [B, H] from x [B, E] and the h before it."""
        return self.gru(x, deter)

    # The distribution of z, and the noise that it is sampled with.

    def make_head(self, name, inputs):
        setattr(self, f"{name}_mean", self.dense(f"{name}_mean", inputs, self.stoch_size))
        setattr(self, f"{name}_stddev", self.dense(f"{name}_stddev", inputs, self.stoch_size))

    def head(self, name, hidden):
        """The distribution by its name, prior or posterior, from the last hidden layer [B, E]."""
        mean, stddev = getattr(self, f"{name}_mean"), getattr(self, f"{name}_stddev")
        return Gaussian(
            mean(hidden), tf.nn.softplus(stddev(hidden + 0.54)) + self.config.cell_min_stddev)

    def noise(self, seed, batch_size, ticks):
        return Gaussian.noise(seed, [batch_size, ticks, self.stoch_size])


class CategoricalRSSMCell(RSSMCell):
    """An RSSMCell whose z is `cell_stoch_size` one-hot variables of `cell_stoch_classes` classes."""

    @classmethod
    def sizes(cls, config, level):
        return State(config.stoch_sizes[level] * config.cell_stoch_classes, config.deter_sizes[level])

    def make_head(self, name, inputs):
        setattr(self, f"{name}_logits", self.dense(f"{name}_logits", inputs, self.stoch_size))

    def head(self, name, hidden):
        logits = getattr(self, f"{name}_logits")(hidden)
        return OneHot(reshape_end(logits, 1, self.variables_and_classes))

    def noise(self, seed, batch_size, ticks):
        return OneHot.noise(seed, [batch_size, ticks, *self.variables_and_classes])

    @property
    def variables_and_classes(self):
        return [self.config.stoch_sizes[self.level], self.config.cell_stoch_classes]


CELLS = {cell.__name__: cell for cell in (RSSMCell, CategoricalRSSMCell)}


# ------------------------------------------------------------------------------------- layers
# These are Keras's layers, but bfloat16 rounds only the operands of their products. States, biases and
# sums stay float32. They define __call__, because Keras casts all inputs of call.


class Dense(tf.keras.layers.Dense):
    def __call__(self, x):
        return self.activation(product(x, self.kernel, self.compute_dtype) + self.bias)


class GRUCell(tf.keras.layers.GRUCell):
    """The GRU (Cho et al. 2014) whose reset gate acts after the recurrent product."""

    def __call__(self, x, h):
        """Returns the next h, [B, H]."""
        update, reset, new = tf.split(
            product(x, self.kernel, self.compute_dtype) + self.bias[0], 3, -1)
        past_update, past_reset, past_new = tf.split(
            product(h, self.recurrent_kernel, self.compute_dtype) + self.bias[1], 3, -1)
        update, reset = tf.sigmoid(update + past_update), tf.sigmoid(reset + past_reset)
        return update * h + (1 - update) * tf.tanh(new + reset * past_new)


def product(x, kernel, dtype):
    """The matrix product [..., D] x [D, E] of operands of a dtype, as float32 [..., E]."""
    rows = tf.matmul(tf.cast(tf.reshape(x, [-1, x.shape[-1]]), dtype), tf.cast(kernel, dtype))
    return reshape_end(tf.cast(rows, tf.float32), 1, kernel.shape[1:], like=x)


def reshape_end(x, count, sizes, like=None):
    """Replaces the sizes of the last `count` axes of x. The leading axes may come from `like`."""
    return tf.reshape(x, [*shape(x if like is None else like)[:-count], *sizes])


def shape(x):
    """The sizes of the axes of x, a list: ints, or tensors for sizes that are known when it runs."""
    return [tf.shape(x)[axis] if size is None else size for axis, size in enumerate(x.shape)]


def swap(x):
    """[B, N, ...] to [N, B, ...], and back."""
    return tf.transpose(x, [1, 0, *range(2, x.shape.rank)])


# -------------------------------------------------------------------------------------- noise
# TensorFlow's normal noise differs under XLA. Ours is the same, since the random bits are the same.


def fold_in(seed, *numbers):
    """A new seed [2] from a seed and some numbers, like one that was drawn independently."""
    for number in numbers:
        seed = tf.stack([random_bits(seed, []), number])
    return seed


def random_bits(seed, shape):
    """Uniform int32 of a shape, by Philox: a function of the seed [2] alone."""
    # XLA would not extend the sign of an int32 seed.
    seed = tf.cast(seed, tf.int64)
    return tf.random.stateless_uniform(shape, seed, None, None, tf.int32, alg="philox")


def uniform(seed, shape):
    """Uniform float32 of a shape, in [1e-7, 1)."""
    mantissa = tf.bitwise.bitwise_and(random_bits(seed, shape), 0x7FFFFF)
    return tf.maximum(tf.bitcast(mantissa | np.int32(127 << 23), tf.float32) - 1, 1e-7)


def standard_normal(seed, shape):
    """Standard normal float32 of a shape, by Box and Muller.

    On a CPU the numbers are those of tf.random.stateless_normal, to rounding.
    """
    size = tf.reduce_prod(shape)
    radius, angle = tf.unstack(uniform(seed, [2 * ((size + 3) // 4), 2]), axis=1)
    radius, angle = tf.sqrt(-2 * tf.math.log(radius)), 2 * np.pi * angle
    pairs = tf.stack([radius * tf.sin(angle), radius * tf.cos(angle)], 1)
    return tf.reshape(tf.reshape(pairs, [-1])[:size], shape)
