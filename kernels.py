"""Faster forms of RSSMCell and Adam: the same functions of the same weights, with their gradients.

You need not read this to change the model. `fast: false` does not use it, and ties.py makes sure that an
edit of the readable code takes effect. The encoder and the decoder are in conv_kernels.py.
`python3 kernels.py` writes ties.json.
"""

import collections
import functools
import sys

import startup

# isort: split
import tensorflow as tf

import ties
from cells import Dense, Gaussian, GRUCell, Level, RSSMCell, product, shape, swap
from conv_kernels import FastDecoder, FastEncoder

# Ticks that the body of a loop holds. A GPU starts fewer kernels if a loop has fewer rounds.
UNROLLED_ON_GPU = 4
UNROLLED = UNROLLED_ON_GPU if tf.config.list_physical_devices("GPU") else 1
COMPILED_SIZE = 64  # units of h; compiling the loops of a smaller cell takes longer than it saves


# ----------------------------------------------------------------------------------- the recurrence


@ties.repeats("cells.RSSMCell", "cells.Cell", "cells.Dense", "cells.GRUCell", "cells.Gaussian",
              "cells.State", "cells.Level", "cells.product", "cells.reshape_end", "cells.shape",
              "cells.swap")
class FastRSSMCell(RSSMCell):
    """An RSSMCell whose loop holds only the recurrent operations, with a gradient of its own.

    Only z_{t-1} and h_{t-1} become known one tick at a time. The context and the embeddings are known
    for all ticks at once, so their products run outside of the loop. So does the prior of a level that
    observes.
    """

    @property
    def layers_as_built(self):
        relu, linear = tf.keras.activations.relu, tf.keras.activations.linear
        return [(self.gru, GRUCell, None, None)] + [
            (layer, Dense, relu, None) for layer in (
                self.prior_input, self.prior_hidden, self.posterior_input, self.posterior_hidden)] + [
            (layer, Dense, linear, None) for layer in (
                self.prior_mean, self.prior_stddev, self.posterior_mean, self.posterior_stddev)]

    def scan(self, state, context, noise, reset, embedding=None):
        if not ties.hold(self):
            return super().scan(state, context, noise, reset, embedding)
        dtype = self.prior_input.compute_dtype
        stoch_kernel, context_kernel = rows(self.prior_input, self.stoch_size)
        context_input = product(context, context_kernel, dtype) + self.prior_input.bias
        if embedding is None:
            head, hidden = self.prior_hidden.kernel, []
            head_input = tf.broadcast_to(
                self.prior_hidden.bias, [*shape(noise)[:2], head.shape[1]])
            gaussian = both_heads(self.prior_mean, self.prior_stddev)
        else:
            head, embedding_kernel = rows(self.posterior_input, self.deter_size)
            head_input = product(embedding, embedding_kernel, dtype) + self.posterior_input.bias
            hidden = [self.posterior_hidden.kernel, self.posterior_hidden.bias]
            gaussian = both_heads(self.posterior_mean, self.posterior_stddev)
        weights = Weights(*map(tf.convert_to_tensor, [
            stoch_kernel, self.gru.kernel, self.gru.recurrent_kernel, self.gru.bias, head, *gaussian,
            *hidden]))
        stoch, deter, mean, stddev = run_ticks(
            state, context_input, head_input, noise, 1 - reset, weights, self.config.cell_min_stddev,
            dtype, compiled=compiles_loops(self))
        posterior = Gaussian(mean, stddev)
        return Level(stoch, deter, posterior if embedding is None else prior_of(self, deter), posterior)


# Functions, not methods: a method would hide one of the same name that somebody adds to RSSMCell.


def prior_of(cell, deter):
    """p(z_t | h_t) of all ticks at once: [B, N, H] to a Gaussian."""
    kernel, bias = both_heads(cell.prior_mean, cell.prior_stddev)
    both = product(cell.prior_hidden(deter), kernel, cell.prior_mean.compute_dtype) + bias
    mean, raw = tf.split(both, 2, -1)
    return Gaussian(mean, tf.nn.softplus(raw) + cell.config.cell_min_stddev)


def compiles_loops(cell):
    """Whether XLA compiles the loops of a cell, though it does not compile the whole step.

    On a CPU, XLA is slow at convolutions, and fast at many small products and sums.
    """
    config = cell.config
    return (runs_fast(cell) and config.jit == "auto" and not startup.use_xla(config)
            and config.precision == "float32" and cell.deter_size >= COMPILED_SIZE)


def rows(layer, first):
    """Splits a dense layer's kernel after the first rows. The gradient of a slice would be slower."""
    return tf.split(layer.kernel, [first, layer.kernel.shape[0] - first])


def both_heads(mean, stddev):
    """The kernel and bias of one dense layer for both heads of a Gaussian.

    Dense(y + 0.54) is y W + (b + 0.54 times the sum of W over its inputs).
    """
    kernel = tf.concat([mean.kernel, stddev.kernel], axis=1)
    bias = tf.concat([mean.bias, stddev.bias + 0.54 * tf.reduce_sum(stddev.kernel, 0)], axis=0)
    return kernel, bias


# The weights of run_ticks, float32: Z units of z, H of h, E of the dense layers.
#   stoch [Z, E]: z_{t-1} in the prior's first layer.
#   kernel [E, 3 H], recurrent [H, 3 H], bias [2, 3 H]: the GRU's.
#   head [H, E]: h_t in the first layer on the way to z_t.
#   hidden [E, E], hidden_bias [E]: the second layer on this way. A prior has none.
#   gaussian [E, 2 Z], gaussian_bias [2 Z]: the mean and the standard deviation before its softplus.
Weights = collections.namedtuple(
    "Weights", "stoch kernel recurrent bias head gaussian gaussian_bias hidden hidden_bias",
    defaults=(None, None))


def run_ticks(state, context_input, head_input, noise, kept, weights, min_stddev, dtype, compiled=False):
    """Runs N ticks of z_t, h_t = cell(z_{t-1}, h_{t-1}).

    Args:
      state: z [B, Z] and h [B, H] before the first tick.
      context_input: a summand of the prior's first layer, [B, N, E].
      head_input: a summand of the first layer on the way to z_t, [B, N, E].
      noise: [B, N, Z]; with zeros the samples are the means.
      kept: [N], 0 at the ticks that see zeros in place of z_{t-1}, 1 at the others.
      weights: Weights.
      min_stddev: a summand of the standard deviation.
      dtype: of the operands of products. Everything else is float32.
      compiled: whether XLA compiles the loops by themselves.

    Returns: float32 z [B, N, Z], h [B, N, H], mean [B, N, Z] and stddev [B, N, Z].
    """
    sizes = [weights.stoch.shape[0]] * 2
    noise, kept = swap(noise), kept[:, None, None]
    given = [weight for weight in weights if weight is not None]
    forward, backward = (_forward_compiled, _backward_compiled) if compiled else (_forward, _backward)

    @tf.custom_gradient
    def run(*inputs):
        # Without this, eager TensorFlow would also differentiate the loop, which XLA cannot compile.
        inputs = [tf.stop_gradient(x) for x in inputs]
        (stoch, deter, context_input, head_input), w = inputs[:4], Weights(*inputs[4:])
        z, h, gaussian = forward(
            stoch, deter, context_input, head_input, noise, kept, w, min_stddev, dtype)

        def gradient(*upstream):
            return backward(
                stoch, deter, context_input, head_input, noise, kept, w, z, h, gaussian,
                *(tf.stop_gradient(x) for x in upstream), dtype)

        return (z, h, gaussian), gradient

    z, h, gaussian = run(*state, swap(context_input), swap(head_input), *given)
    mean, raw = tf.split(swap(gaussian), sizes, axis=-1)
    return swap(z), swap(h), mean, tf.nn.softplus(raw) + min_stddev


def _blocks(*inputs, fill):
    """Each [N, ...] as [N / UNROLLED, UNROLLED, ...], filled up to this. Few ticks are one block."""
    ticks = inputs[0].shape[0]
    size = min(UNROLLED, ticks)
    blocks = -(-ticks // size)
    for x in inputs:
        if blocks * size > ticks:
            x = tf.pad(x, [[0, blocks * size - ticks]] + [[0, 0]] * (x.shape.rank - 1),
                       constant_values=fill)
        yield tf.reshape(x, [blocks, size, *shape(x)[1:]])


def _tick(inputs, n, t):
    """x[n, t] of each of the inputs. Written so, it traces far fewer operations."""
    at, ones = tf.stack([n, t]), tf.ones(2, tf.int32)
    end = at + ones
    return [tf.strided_slice(x, at, end, ones, shrink_axis_mask=3) for x in inputs]


def _unblock(written, ticks, sizes):
    """What blocks of ticks wrote, [N / UNROLLED, B, UNROLLED * sum(sizes)], as [N, B, size] each."""
    x = written.stack()
    x = tf.transpose(tf.reshape(x, [x.shape[0], shape(x)[1], -1, sum(sizes)]), [0, 2, 1, 3])
    return tf.split(tf.reshape(x, [-1, shape(x)[2], sum(sizes)])[:ticks], sizes, axis=-1)


def _forward(stoch, deter, context_input, head_input, noise, kept, w, min_stddev, dtype):
    """The loop over time-major inputs [N, B, ...]. Returns z, h and the Gaussians' [mean, raw]."""
    ticks, embed = noise.shape[0], w.head.shape[1]
    inputs = list(_blocks(kept, context_input, head_input, noise, fill=1))
    blocks, size = inputs[0].shape[:2]
    stoch_kernel, gru_kernel, gaussian_kernel = (
        tf.cast(x, dtype) for x in (w.stoch, w.kernel, w.gaussian))
    hidden = None if w.hidden is None else tf.cast(w.hidden, dtype)
    # h_t meets the head's kernel now and the GRU's kernel at the next tick. One product does both.
    deter_kernel = tf.cast(tf.concat([w.head, w.recurrent], 1), dtype)

    def block(n, z, h, products, states):
        results = []
        for t in range(size):
            kept, from_context, from_embedding, noise = _tick(inputs, n, t)
            x = tf.nn.relu(_times(z * kept, stoch_kernel) + from_context)
            update, _, _, new = _gates(
                _times(x, gru_kernel) + w.bias[0], products[:, embed:] + w.bias[1])
            h = update * h + (1 - update) * new
            products = _times(h, deter_kernel)
            y = tf.nn.relu(products[:, :embed] + from_embedding)
            if hidden is not None:
                y = tf.nn.relu(_times(y, hidden) + w.hidden_bias)
            gaussian = _times(y, gaussian_kernel)
            mean, raw = tf.split(gaussian + w.gaussian_bias, 2, axis=-1)
            z = mean + (tf.nn.softplus(raw) + min_stddev) * noise
            results += [z, h, gaussian]
        return n + 1, z, h, products, states.write(n, tf.concat(results, -1))

    *_, states = tf.while_loop(
        lambda n, *_: n < blocks, block,
        (0, stoch, deter, _times(deter, deter_kernel), tf.TensorArray(tf.float32, blocks)))
    z, h, gaussian = _unblock(states, ticks, [stoch.shape[1], deter.shape[1], 2 * stoch.shape[1]])
    return z, h, gaussian + w.gaussian_bias


def _backward(stoch, deter, context_input, head_input, noise, kept, w, z, h, gaussian,
              dz, dh, dgaussian, dtype):
    """The gradients of run's arguments from those of its results, [N, B, ...] each."""
    times = functools.partial(product, dtype=dtype)

    # The states determine all of this, so it is computed for all ticks at once.
    z_before = tf.concat([stoch[None], z[:-1]], 0) * kept
    h_before = tf.concat([deter[None], h[:-1]], 0)
    x = tf.nn.relu(times(z_before, w.stoch) + context_input)
    update, reset, past_new, new = _gates(
        times(x, w.kernel) + w.bias[0], times(h_before, w.recurrent) + w.bias[1])
    y = tf.nn.relu(times(h, w.head) + head_input)
    y_last = y if w.hidden is None else tf.nn.relu(times(y, w.hidden) + w.hidden_bias)
    raw_slope = tf.sigmoid(tf.split(gaussian, 2, axis=-1)[1]) * noise  # of z_t
    # These slopes times the gradient of h_t are the gradients of the GRU's products, of x and of h.
    new_slope = (1 - update) * (1 - new**2)
    gates = [(h_before - new) * update * (1 - update), new_slope * past_new * reset * (1 - reset)]
    input_slopes = tf.stack([*gates, new_slope], 2)
    recurrent_slopes = tf.stack([*gates, new_slope * reset], 2)
    open_x, open_y, open_last = (tf.cast(a > 0, tf.float32) for a in (x, y, y_last))

    stoch_kernel, gru_kernel, gaussian_kernel = (
        tf.cast(tf.transpose(a), dtype) for a in (w.stoch, w.kernel, w.gaussian))
    hidden = None if w.hidden is None else tf.cast(tf.transpose(w.hidden), dtype)
    deter_kernel = tf.cast(tf.transpose(tf.concat([w.head, w.recurrent], 1)), dtype)

    inputs = list(_blocks(dz, dh, dgaussian, raw_slope, open_last, open_y, input_slopes,
                          recurrent_slopes, open_x, kept, update, fill=0))
    blocks, size = inputs[0].shape[:2]
    zeros = tf.zeros_like(tf.concat([deter] * 3, -1))

    def block(n, z_later, h_later, recurrent_later, gradients):
        results = []
        for t in reversed(range(size)):
            (d_z, d_h, d_gaussian, raw_slope, open_last, open_y, input_slopes, recurrent_slopes, open_x,
             kept, update) = _tick(inputs, n, t)
            d_z += z_later
            d_gaussian += tf.concat([d_z, d_z * raw_slope], -1)
            d_last = _times(d_gaussian, gaussian_kernel) * open_last
            d_y = d_last if hidden is None else _times(d_last, hidden) * open_y
            d_h += h_later + _times(tf.concat([d_y, recurrent_later], -1), deter_kernel)
            d_input, recurrent_later = (tf.reshape(d_h[:, None] * slopes, shape(zeros))
                                        for slopes in (input_slopes, recurrent_slopes))
            d_x = _times(d_input, gru_kernel) * open_x
            z_later, h_later = _times(d_x, stoch_kernel) * kept, d_h * update
            results = [d_gaussian, d_last, d_y, d_input, recurrent_later, d_x, *results]
        return n - 1, z_later, h_later, recurrent_later, gradients.write(n, tf.concat(results, -1))

    _, d_stoch, d_deter, recurrent_later, gradients = tf.while_loop(
        lambda n, *_: n >= 0, block,
        (blocks - 1, tf.zeros_like(stoch), tf.zeros_like(deter), zeros,
         tf.TensorArray(tf.float32, blocks)))
    sizes = [a.shape[-1] for a in (gaussian, y_last, y, zeros, zeros, x)]
    d_gaussian, d_last, d_y, d_input, d_recurrent, d_x = _unblock(gradients, noise.shape[0], sizes)
    d_deter += times(recurrent_later, tf.transpose(w.recurrent))

    def kernel_gradient(inputs, d_outputs):
        inputs, d_outputs = (tf.reshape(a, [-1, a.shape[-1]]) for a in (inputs, d_outputs))
        return times(tf.transpose(inputs), d_outputs)

    def bias_gradient(d_outputs):
        return tf.reduce_sum(d_outputs, [0, 1])

    weights = Weights(
        stoch=kernel_gradient(z_before, d_x), kernel=kernel_gradient(x, d_input),
        recurrent=kernel_gradient(h_before, d_recurrent),
        bias=tf.stack([bias_gradient(d_input), bias_gradient(d_recurrent)]),
        head=kernel_gradient(h, d_y),
        gaussian=kernel_gradient(y_last, d_gaussian), gaussian_bias=bias_gradient(d_gaussian))
    if w.hidden is not None:
        weights = weights._replace(hidden=kernel_gradient(y, d_last), hidden_bias=bias_gradient(d_last))
    return d_stoch, d_deter, d_x, d_y, *(a for a in weights if a is not None)


_forward_compiled, _backward_compiled = (
    tf.function(loop, jit_compile=True, autograph=False) for loop in (_forward, _backward))


def _gates(inputs, recurrent):
    """The GRU's update and reset gates, the recurrent part of its candidate, and the candidate."""
    update, reset, new = tf.split(inputs, 3, axis=-1)
    past_update, past_reset, past_new = tf.split(recurrent, 3, axis=-1)
    reset = tf.sigmoid(reset + past_reset)
    return tf.sigmoid(update + past_update), reset, past_new, tf.tanh(new + reset * past_new)


def _times(a, kernel):
    """The matrix product of operands of the kernel's dtype; the result is float32."""
    return tf.cast(tf.matmul(tf.cast(a, kernel.dtype), kernel), tf.float32)


# ----------------------------------------------------------------------------------- the optimizer


class FastAdam(tf.keras.optimizers.Adam):
    """Adam with one operation for a variable. Keras has a dozen, each of which reads and writes it."""

    def apply(self, grads, trainable_variables=None):
        # update_step uses these for every variable, since it takes time to trace operations.
        step = tf.cast(self.iterations + 1, tf.float32)
        beta_1, beta_2 = tf.constant(self.beta_1), tf.constant(self.beta_2)
        self._update = functools.partial(
            tf.raw_ops.ResourceApplyAdam, beta1=beta_1, beta1_power=beta_1**step,
            beta2=beta_2, beta2_power=beta_2**step, epsilon=tf.constant(self.epsilon))
        super().apply(grads, trainable_variables)

    def update_step(self, gradient, variable, learning_rate):
        if self.amsgrad:
            super().update_step(gradient, variable, learning_rate)
            return
        index = self._get_variable_index(variable)
        self._update(
            var=variable.handle, m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle, grad=gradient, lr=learning_rate)


# -------------------------------------------------------------------------------- which form runs

FAST = {fast.__base__: fast for fast in (FastRSSMCell, FastEncoder, FastDecoder)}


def fast_form(kind):
    """The faster form of exactly this class. If there is none, says so once and returns the class."""
    if kind not in FAST and kind not in _said:
        _said.add(kind)
        print(f"{kind.__name__} runs as it is written: it has no faster form", file=sys.stderr)
    return FAST.get(kind, kind)


_said = set()


def runs_fast(part):
    """Whether the fast form of a part of a model runs. If an edit prevents it, a line says so."""
    return type(part) in FAST.values() and ties.hold(part)


if __name__ == "__main__":
    ties.write()
