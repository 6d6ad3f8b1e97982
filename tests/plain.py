"""The model as one would first write it: what the fast one is compared and timed with.

The same layers and weights, but every dense layer runs inside the loop, on concatenated inputs, and
all gradients are TensorFlow's.
"""

import tensorflow as tf

from cells import Gaussian, Level, RSSMCell, State
from cnns import sum_windows
from cwvae import CWVAE


class PlainCell:
    """An RSSMCell's interface for CWVAE, one whole tick after the other."""

    def __init__(self, cell: RSSMCell):
        self.cell = cell
        self.initial_state = cell.initial_state

    def context_input(self, context, first=0):
        return context  # as it is: the loop's own first layer will see it

    def observe(self, state, context, embedding, noise, keep):
        return self._run(state, context, noise, keep, embedding)

    def imagine(self, state, context, noise, keep):
        return self._run(state, context, noise, keep)

    def _run(self, state, context, noise, keep, embedding=None):
        cell = self.cell
        size = cell.prior_input.kernel.shape[0] - cell.stoch_size
        if context.shape[-1] != size:  # the top level's: zeros
            context = tf.zeros([*noise.shape[:2], size])
        by_tick = [tf.transpose(x, [1, 0, 2]) for x in (
            [context, noise] if embedding is None else [context, noise, embedding])]

        def gaussian(hidden, mean, stddev):
            return Gaussian(mean(hidden), tf.nn.softplus(stddev(hidden + 0.54)) + cell.min_stddev)

        def tick(carry, inputs):
            (stoch, deter), *_ = carry
            keep, context, noise, *embedding = inputs
            x = tf.nn.relu(cell.prior_input(tf.concat([stoch * keep, context], -1)))
            deter, _ = cell.gru(x, [deter])
            prior = posterior = gaussian(
                tf.nn.relu(cell.prior_hidden(deter)), cell.prior_mean, cell.prior_stddev)
            if embedding:
                hidden = tf.nn.relu(cell.posterior_input(tf.concat([deter, *embedding], -1)))
                posterior = gaussian(tf.nn.relu(cell.posterior_hidden(hidden)),
                                     cell.posterior_mean, cell.posterior_stddev)
            stoch = posterior.mean if cell.mean_only else posterior.mean + posterior.stddev * noise
            return State(stoch, deter), prior, posterior

        like = Gaussian(state.stoch, state.stoch)
        states, prior, posterior = tf.nest.map_structure(
            lambda x: tf.transpose(x, [1, 0, 2]),
            tf.scan(tick, (keep, *by_tick), (state, like, like)))
        return Level(*states, prior, None if embedding is None else posterior)


class PlainCWVAE(CWVAE):
    """A CWVAE with plain cells and Keras's own convolutions, in float32."""

    def __init__(self, config, action_size=0):
        super().__init__(config, action_size)
        self.cells = [PlainCell(cell) for cell in self.cells]

    def encode(self, video):
        batch, frames = video.shape[:2]
        hidden = tf.reshape(video, [-1, *video.shape[2:]])
        for conv in self.encoder.convs:
            hidden = tf.nn.leaky_relu(conv(hidden), 0.2)
        hidden = tf.reshape(hidden, [batch, frames, -1])
        embeddings = [hidden]
        for stride, stack in zip(self.encoder.strides[1:], self.encoder.denses, strict=True):
            for dense in stack:
                hidden = dense(hidden)
            embeddings.append(sum_windows(hidden, stride))
        return embeddings

    def decode(self, states):
        hidden = self.decoder.dense(tf.reshape(states, [-1, states.shape[-1]]))[:, None, None]
        for conv in self.decoder.convs[:-1]:
            hidden = tf.nn.leaky_relu(conv(hidden), 0.2)
        hidden = tf.tanh(self.decoder.convs[-1](hidden))
        return tf.reshape(hidden, [*states.shape[:-1], *hidden.shape[1:]])
