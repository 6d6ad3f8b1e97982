"""The recurrence of a cell over a whole sequence, with a gradient of its own.

What a loop costs on a GPU is its number of kernels, tick after tick, so both loops do only what
truly recurs: five products a tick each way. Going back, everything that the states determine is
computed anew for all ticks at once, outside the loop, and so are the gradients of the weights, one
large product each where automatic differentiation would add up a small one every tick.
"""

import collections
import functools

import tensorflow as tf

# The weights of a rollout, float32: Z units of z, H of h, E of the dense layers.
#   stoch [Z, E]: z_{t-1} in the prior's first layer.
#   kernel [E, 3 H], recurrent [H, 3 H], bias [2, 3 H]: the GRU's.
#   head [H, E]: h_t in the first layer on the way to z_t.
#   hidden [E, E], hidden_bias [E]: the second one. None for a prior, which has none.
#   gaussian [E, 2 Z], gaussian_bias [2 Z]: the mean and the standard deviation before its softplus.
Weights = collections.namedtuple(
    "Weights", "stoch kernel recurrent bias head gaussian gaussian_bias hidden hidden_bias",
    defaults=(None, None))


def rollout(state, context_input, head_input, noise, keep, weights, min_stddev, dtype):
    """Runs N ticks of z_t, h_t = cell(z_{t-1}, h_{t-1}).

    Args:
      state: z [B, Z] and h [B, H] before the first tick.
      context_input: what is added to the prior's first layer, [B, N, E].
      head_input: what is added to the first layer on the way to z_t, [B, N, E].
      noise: [B, N, Z]; zeros make samples of means.
      keep: [N], 0 at the ticks that forget z_{t-1}, 1 elsewhere.
      weights: Weights.
      min_stddev: added to the softplus.
      dtype: of the operands of products; all else is float32.

    Returns: float32 z [B, N, Z], h [B, N, H], mean [B, N, Z] and stddev [B, N, Z].
    """
    sizes = [weights.stoch.shape[0]] * 2
    noise, keep = _swap(noise), keep[:, None, None]
    given = [weight for weight in weights if weight is not None]

    @tf.custom_gradient
    def run(stoch, deter, context_input, head_input, *given):
        w = Weights(*given)
        z, h, gaussian = _forward(
            stoch, deter, context_input, head_input, noise, keep, w, min_stddev, dtype)

        def gradient(dz, dh, dgaussian):
            return _backward(
                stoch, deter, context_input, head_input, noise, keep, w, z, h, gaussian,
                dz, dh, dgaussian, dtype)

        return (z, h, gaussian), gradient

    z, h, gaussian = run(*state, _swap(context_input), _swap(head_input), *given)
    mean, raw = tf.split(_swap(gaussian), sizes, axis=-1)
    return _swap(z), _swap(h), mean, tf.nn.softplus(raw) + min_stddev


def _forward(stoch, deter, context_input, head_input, noise, keep, w, min_stddev, dtype):
    """The loop over time-major inputs [N, B, ...]. Returns z, h and the Gaussians' [mean, raw]."""
    ticks = noise.shape[0]
    stoch_kernel, gru_kernel, gaussian_kernel = (
        tf.cast(x, dtype) for x in (w.stoch, w.kernel, w.gaussian))
    hidden = None if w.hidden is None else tf.cast(w.hidden, dtype)
    # h_t meets the head's kernel at this tick and the GRU's at the next one: one product for both.
    deter_kernel = tf.cast(tf.concat([w.head, w.recurrent], 1), dtype)
    embed = w.head.shape[1]

    def tick(t, z, h, recurrent, states):
        x = tf.nn.relu(_times(z * keep[t], stoch_kernel) + context_input[t])
        update, _, _, new = _gates(_times(x, gru_kernel) + w.bias[0], recurrent)
        h = update * h + (1 - update) * new
        head, recurrent = tf.split(_times(h, deter_kernel), [embed, recurrent.shape[1]], axis=-1)
        y = tf.nn.relu(head + head_input[t])
        if hidden is not None:
            y = tf.nn.relu(_times(y, hidden) + w.hidden_bias)
        gaussian = _times(y, gaussian_kernel) + w.gaussian_bias
        mean, raw = tf.split(gaussian, 2, axis=-1)
        z = mean + (tf.nn.softplus(raw) + min_stddev) * noise[t]
        states = states.write(t, tf.concat([z, h, gaussian], -1))
        return t + 1, z, h, recurrent + w.bias[1], states

    recurrent = _times(deter, tf.cast(w.recurrent, dtype)) + w.bias[1]
    *_, states = tf.while_loop(
        lambda t, *_: t < ticks, tick,
        (0, stoch, deter, recurrent, tf.TensorArray(tf.float32, ticks)))
    return tf.split(states.stack(), [stoch.shape[1], deter.shape[1], 2 * stoch.shape[1]], axis=-1)


def _backward(stoch, deter, context_input, head_input, noise, keep, w, z, h, gaussian,
              dz, dh, dgaussian, dtype):
    """The gradients of run's arguments from those of its results, [N, B, ...] each."""
    ticks = noise.shape[0]

    times = functools.partial(product, dtype=dtype)

    # All that the states determine, for all ticks at once.
    z_before = tf.concat([stoch[None], z[:-1]], 0) * keep
    h_before = tf.concat([deter[None], h[:-1]], 0)
    x = tf.nn.relu(times(z_before, w.stoch) + context_input)
    update, reset, past_new, new = _gates(
        times(x, w.kernel) + w.bias[0], times(h_before, w.recurrent) + w.bias[1])
    y = tf.nn.relu(times(h, w.head) + head_input)
    y_last = y if w.hidden is None else tf.nn.relu(times(y, w.hidden) + w.hidden_bias)
    by_raw = tf.sigmoid(tf.split(gaussian, 2, axis=-1)[1]) * noise  # of z_t
    by_update = (h_before - new) * update * (1 - update)  # of h_t, each
    by_new = (1 - update) * (1 - new**2)
    by_reset = past_new * reset * (1 - reset)  # of new's argument
    open_x, open_y, open_last = (tf.cast(a > 0, tf.float32) for a in (x, y, y_last))

    stoch_kernel, gru_kernel, gaussian_kernel = (
        tf.cast(tf.transpose(a), dtype) for a in (w.stoch, w.kernel, w.gaussian))
    hidden = None if w.hidden is None else tf.cast(tf.transpose(w.hidden), dtype)
    deter_kernel = tf.cast(tf.transpose(tf.concat([w.head, w.recurrent], 1)), dtype)

    def tick(t, z_later, h_later, recurrent_later, gradients):
        d_z = dz[t] + z_later
        d_gaussian = dgaussian[t] + tf.concat([d_z, d_z * by_raw[t]], -1)
        d_last = _times(d_gaussian, gaussian_kernel) * open_last[t]
        d_y = d_last if hidden is None else _times(d_last, hidden) * open_y[t]
        d_h = dh[t] + h_later + _times(tf.concat([d_y, recurrent_later], -1), deter_kernel)
        d_update, d_new = d_h * by_update[t], d_h * by_new[t]
        d_reset = d_new * by_reset[t]
        d_input = tf.concat([d_update, d_reset, d_new], -1)
        d_recurrent = tf.concat([d_update, d_reset, d_new * reset[t]], -1)
        d_x = _times(d_input, gru_kernel) * open_x[t]
        d_z = _times(d_x, stoch_kernel) * keep[t]
        gradients = gradients.write(
            t, tf.concat([d_gaussian, d_last, d_y, d_input, d_recurrent, d_x], -1))
        return t - 1, d_z, d_h * update[t], d_recurrent, gradients

    zeros = tf.zeros_like(tf.concat([deter] * 3, -1))
    _, d_stoch, d_deter, recurrent_later, gradients = tf.while_loop(
        lambda t, *_: t >= 0, tick,
        (ticks - 1, tf.zeros_like(stoch), tf.zeros_like(deter), zeros,
         tf.TensorArray(tf.float32, ticks)))
    sizes = [a.shape[-1] for a in (gaussian, y_last, y, zeros, zeros, x)]
    d_gaussian, d_last, d_y, d_input, d_recurrent, d_x = tf.split(gradients.stack(), sizes, axis=-1)
    d_deter += times(recurrent_later, tf.transpose(w.recurrent))

    def of_kernel(inputs, d_outputs):
        inputs, d_outputs = (tf.reshape(a, [-1, a.shape[-1]]) for a in (inputs, d_outputs))
        return times(tf.transpose(inputs), d_outputs)

    def of_bias(d_outputs):
        return tf.reduce_sum(d_outputs, [0, 1])

    weights = Weights(
        stoch=of_kernel(z_before, d_x), kernel=of_kernel(x, d_input),
        recurrent=of_kernel(h_before, d_recurrent),
        bias=tf.stack([of_bias(d_input), of_bias(d_recurrent)]), head=of_kernel(h, d_y),
        gaussian=of_kernel(y_last, d_gaussian), gaussian_bias=of_bias(d_gaussian))
    if w.hidden is not None:
        weights = weights._replace(hidden=of_kernel(y, d_last), hidden_bias=of_bias(d_last))
    return d_stoch, d_deter, d_x, d_y, *(a for a in weights if a is not None)


def _gates(inputs, recurrent):
    """The GRU's update and reset gates, the recurrent part of its candidate, and the candidate."""
    update, reset, new = tf.split(inputs, 3, axis=-1)
    past_update, past_reset, past_new = tf.split(recurrent, 3, axis=-1)
    reset = tf.sigmoid(reset + past_reset)
    return tf.sigmoid(update + past_update), reset, past_new, tf.tanh(new + reset * past_new)


def product(a, b, dtype):
    """The matrix product [..., D] x [D, E] of operands of a dtype; the result is float32."""
    result = _times(tf.reshape(a, [-1, a.shape[-1]]), tf.cast(b, dtype))
    return tf.reshape(result, tf.concat([tf.shape(a)[:-1], b.shape[1:]], 0))


def _times(a, kernel):
    """The matrix product of operands of the kernel's dtype; the result is float32."""
    return tf.cast(tf.matmul(tf.cast(a, kernel.dtype), kernel), tf.float32)


def _swap(x):
    """[B, N, D] to [N, B, D], and back."""
    return tf.transpose(x, [1, 0, 2])
