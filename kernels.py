"""Faster forms of the cell, the encoder and the decoder: the same functions of the same weights.

Nobody must read this to change the model: `fast: false` never comes here, a subclass has no fast form,
and at the start every form is compared with the plain one (see check).
"""

import collections
import functools
import math
import sys

import numpy as np
import tensorflow as tf

import startup
from cells import Gaussian, Level, RSSMCell, State, product, swap
from cnns import Decoder, Encoder, recomputed, sum_windows

SLOPE = 0.2  # of every leaky ReLU
COMPILED_SIZE = 64  # of a cell: compiling takes seconds that smaller ones do not win back
BLOCK = 4  # pixels of a side of the blocks that frames are decoded in


# -------------------------------------------------------------------------------- which form runs


def fast_form(kind):
    """The faster form of exactly this class; the class itself where it has none."""
    return FAST.get(kind, kind)


def check(parts):
    """Compares the fast forms among parts of a model with the plain ones, on two ticks or frames.

    Where they differ beyond rounding, the plain one was edited: it runs, and a line says so.
    """
    for part in parts:
        fast = type(part)
        if fast not in FAST.values():
            continue
        # What starts as a constant, such as a bias of zeros, would hide an edit that it is part of.
        rng = np.random.default_rng(0)
        values = [(variable, variable.numpy()) for variable in part.variables]
        constants = [(variable, value) for variable, value in values if np.ptp(value) == 0]
        for variable, value in constants:
            variable.assign(rng.normal(size=value.shape) / 4)
        try:
            same = agrees(part, fast)
        finally:
            for variable, value in constants:
                variable.assign(value)
        if not same:
            print(f"{part.name} runs in its plain form: it was edited, and its fast form was not. "
                  f"(fast: false leaves out the comparison.)", file=sys.stderr)
            become(part, fast.__base__)


def agrees(part, fast):
    """Whether the fast form of a part does what the plain one does, to rounding."""
    try:
        ours = part.trial()
    except Exception:  # of whatever kind: it is made for layers that are not there, or of other shapes
        return False
    become(part, fast.__base__)
    theirs = fast.trial(part)
    become(part, fast)
    return close(ours, theirs, part.config.precision)


def become(part, kind):
    """Makes a part one of another class: the weights stay, the methods change."""
    object.__setattr__(part, "__class__", kind)


def close(ours, theirs, precision):
    """Whether nested tensors are equal to rounding, each relative to its greatest value."""
    tolerance = 0.05 if precision == "bfloat16" else 1e-3
    pairs = zip(tf.nest.flatten(ours), tf.nest.flatten(theirs), strict=True)
    return all(np.abs(a - b).max() <= tolerance * np.abs(b).max() for a, b in pairs)


def trial_input(*shape):
    return tf.constant(np.random.default_rng(0).normal(size=shape), tf.float32)


# ----------------------------------------------------------------------------------- the recurrence


class FastRSSMCell(RSSMCell):
    """An RSSMCell whose loop keeps what truly recurs, with a gradient of its own.

    Only z_{t-1} and h_{t-1} are known one tick at a time. What the context and the embeddings
    contribute is known for all ticks at once, so those products run outside the loop, and so does the
    prior of a level that observes.
    """

    def trial(self):
        sizes = [self.stoch_size, self.deter_size]
        state, noise = State(*(trial_input(1, n) for n in sizes)), trial_input(1, 2, self.stoch_size)
        context, embedding = (
            trial_input(1, 2, layer.kernel.shape[0] - n)
            for layer, n in zip((self.prior_input, self.posterior_input), sizes, strict=True))
        reset = tf.constant([0.0, 1.0])
        return [self.scan(state, context, noise, reset, e) for e in (embedding, None)]

    def scan(self, state, context, noise, reset, embedding=None):
        dtype = self.compute_dtype
        stoch_kernel, context_kernel = rows(self.prior_input, self.stoch_size)
        context_input = product(context, context_kernel, dtype) + self.prior_input.bias
        if embedding is None:
            head, hidden = self.prior_hidden.kernel, []
            head_input = tf.broadcast_to(
                self.prior_hidden.bias, tf.concat([tf.shape(noise)[:2], [head.shape[1]]], 0))
            gaussian = both_heads(self.prior_mean, self.prior_stddev)
        else:
            head, embedding_kernel = rows(self.posterior_input, self.deter_size)
            head_input = product(embedding, embedding_kernel, dtype) + self.posterior_input.bias
            hidden = [self.posterior_hidden.kernel, self.posterior_hidden.bias]
            gaussian = both_heads(self.posterior_mean, self.posterior_stddev)
        weights = Weights(*map(tf.convert_to_tensor, [
            stoch_kernel, self.gru.kernel, self.gru.recurrent_kernel, self.gru.bias, head, *gaussian,
            *hidden]))
        stoch, deter, mean, stddev = rollout(
            state, context_input, head_input, noise, 1 - reset, weights, self.config.cell_min_stddev,
            dtype, compiled=compiles_loops(self))
        posterior = Gaussian(mean, stddev)
        return Level(stoch, deter, posterior if embedding is None else self.prior(deter), posterior)

    def prior(self, deter):
        """p(z_t | h_t) of all ticks at once: [B, N, H] to a Gaussian."""
        kernel, bias = both_heads(self.prior_mean, self.prior_stddev)
        mean, raw = tf.split(product(self.prior_hidden(deter), kernel, self.compute_dtype) + bias, 2, -1)
        return Gaussian(mean, tf.nn.softplus(raw) + self.config.cell_min_stddev)


def compiles_loops(cell):
    """Whether XLA compiles a cell's loops where it does not compile the step.

    On a CPU it is slow at convolutions, and fast at many small products and sums.
    """
    config = cell.config
    return (type(cell) is FastRSSMCell and config.jit == "auto" and not startup.use_xla(config)
            and config.precision == "float32" and cell.deter_size >= COMPILED_SIZE)


def rows(layer, first):
    """The first rows of a dense layer's kernel, and the others. (A slice's gradient is slower.)"""
    return tf.split(layer.kernel, [first, layer.kernel.shape[0] - first])


def both_heads(mean, stddev):
    """The kernel and bias of one dense layer for both heads of a Gaussian.

    Dense(y + 0.54) is y W + (b + 0.54 times the sum of W over its inputs).
    """
    kernel = tf.concat([mean.kernel, stddev.kernel], axis=1)
    bias = tf.concat([mean.bias, stddev.bias + 0.54 * tf.reduce_sum(stddev.kernel, 0)], axis=0)
    return kernel, bias


# The weights of a rollout, float32: Z units of z, H of h, E of the dense layers.
#   stoch [Z, E]: z_{t-1} in the prior's first layer.
#   kernel [E, 3 H], recurrent [H, 3 H], bias [2, 3 H]: the GRU's.
#   head [H, E]: h_t in the first layer on the way to z_t.
#   hidden [E, E], hidden_bias [E]: the second one. None for a prior, which has none.
#   gaussian [E, 2 Z], gaussian_bias [2 Z]: the mean and the standard deviation before its softplus.
Weights = collections.namedtuple(
    "Weights", "stoch kernel recurrent bias head gaussian gaussian_bias hidden hidden_bias",
    defaults=(None, None))


def rollout(state, context_input, head_input, noise, kept, weights, min_stddev, dtype, compiled=False):
    """Runs N ticks of z_t, h_t = cell(z_{t-1}, h_{t-1}).

    Args:
      state: z [B, Z] and h [B, H] before the first tick.
      context_input: what is added to the prior's first layer, [B, N, E].
      head_input: what is added to the first layer on the way to z_t, [B, N, E].
      noise: [B, N, Z]; zeros make samples of means.
      kept: [N], 0 at the ticks that see zeros for z_{t-1}, 1 elsewhere.
      weights: Weights.
      min_stddev: added to the softplus.
      dtype: of the operands of products; all else is float32.
      compiled: whether the loops are compiled, apart from what is around them.

    Returns: float32 z [B, N, Z], h [B, N, H], mean [B, N, Z] and stddev [B, N, Z].
    """
    sizes = [weights.stoch.shape[0]] * 2
    noise, kept = swap(noise), kept[:, None, None]
    given = [weight for weight in weights if weight is not None]
    forward, backward = (_forward_compiled, _backward_compiled) if compiled else (_forward, _backward)

    @tf.custom_gradient
    def run(stoch, deter, context_input, head_input, *given):
        w = Weights(*given)
        z, h, gaussian = forward(
            stoch, deter, context_input, head_input, noise, kept, w, min_stddev, dtype)

        def gradient(dz, dh, dgaussian):
            return backward(
                stoch, deter, context_input, head_input, noise, kept, w, z, h, gaussian,
                dz, dh, dgaussian, dtype)

        return (z, h, gaussian), gradient

    z, h, gaussian = run(*state, swap(context_input), swap(head_input), *given)
    mean, raw = tf.split(swap(gaussian), sizes, axis=-1)
    return swap(z), swap(h), mean, tf.nn.softplus(raw) + min_stddev


def _forward(stoch, deter, context_input, head_input, noise, kept, w, min_stddev, dtype):
    """The loop over time-major inputs [N, B, ...]. Returns z, h and the Gaussians' [mean, raw]."""
    ticks = noise.shape[0]
    stoch_kernel, gru_kernel, gaussian_kernel = (
        tf.cast(x, dtype) for x in (w.stoch, w.kernel, w.gaussian))
    hidden = None if w.hidden is None else tf.cast(w.hidden, dtype)
    # h_t meets the head's kernel at this tick and the GRU's at the next one: one product for both.
    deter_kernel = tf.cast(tf.concat([w.head, w.recurrent], 1), dtype)
    embed = w.head.shape[1]

    def tick(t, z, h, recurrent, states):
        x = tf.nn.relu(_times(z * kept[t], stoch_kernel) + context_input[t])
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


def _backward(stoch, deter, context_input, head_input, noise, kept, w, z, h, gaussian,
              dz, dh, dgaussian, dtype):
    """The gradients of run's arguments from those of its results, [N, B, ...] each."""
    ticks = noise.shape[0]

    times = functools.partial(product, dtype=dtype)

    # All that the states determine, for all ticks at once.
    z_before = tf.concat([stoch[None], z[:-1]], 0) * kept
    h_before = tf.concat([deter[None], h[:-1]], 0)
    x = tf.nn.relu(times(z_before, w.stoch) + context_input)
    update, reset, past_new, new = _gates(
        times(x, w.kernel) + w.bias[0], times(h_before, w.recurrent) + w.bias[1])
    y = tf.nn.relu(times(h, w.head) + head_input)
    y_last = y if w.hidden is None else tf.nn.relu(times(y, w.hidden) + w.hidden_bias)
    raw_slope = tf.sigmoid(tf.split(gaussian, 2, axis=-1)[1]) * noise  # of z_t
    update_slope = (h_before - new) * update * (1 - update)  # of h_t, each
    new_slope = (1 - update) * (1 - new**2)
    reset_slope = past_new * reset * (1 - reset)  # of new's argument
    open_x, open_y, open_last = (tf.cast(a > 0, tf.float32) for a in (x, y, y_last))

    stoch_kernel, gru_kernel, gaussian_kernel = (
        tf.cast(tf.transpose(a), dtype) for a in (w.stoch, w.kernel, w.gaussian))
    hidden = None if w.hidden is None else tf.cast(tf.transpose(w.hidden), dtype)
    deter_kernel = tf.cast(tf.transpose(tf.concat([w.head, w.recurrent], 1)), dtype)

    def tick(t, z_later, h_later, recurrent_later, gradients):
        d_z = dz[t] + z_later
        d_gaussian = dgaussian[t] + tf.concat([d_z, d_z * raw_slope[t]], -1)
        d_last = _times(d_gaussian, gaussian_kernel) * open_last[t]
        d_y = d_last if hidden is None else _times(d_last, hidden) * open_y[t]
        d_h = dh[t] + h_later + _times(tf.concat([d_y, recurrent_later], -1), deter_kernel)
        d_update, d_new = d_h * update_slope[t], d_h * new_slope[t]
        d_reset = d_new * reset_slope[t]
        d_input = tf.concat([d_update, d_reset, d_new], -1)
        d_recurrent = tf.concat([d_update, d_reset, d_new * reset[t]], -1)
        d_x = _times(d_input, gru_kernel) * open_x[t]
        d_z = _times(d_x, stoch_kernel) * kept[t]
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
    """Adam with one operation a variable in place of a dozen, each of which reads and writes it."""

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        step = tf.cast(self.iterations + 1, tf.float32)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle, m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle, grad=gradient, lr=learning_rate,
            beta1=self.beta_1, beta1_power=self.beta_1**step,
            beta2=self.beta_2, beta2_power=self.beta_2**step, epsilon=self.epsilon)


# ------------------------------------------------------------------------------ encoder and decoder


class FastEncoder(Encoder):
    """An Encoder in faster convolutions; nothing else needs the top level's last dense layer, which is
    linear: it runs on the sums.
    """

    def trial(self):
        size = self.config.image_size
        return self(trial_input(1, 2, size, size, self.config.channels))

    def embed_ticks(self, hidden, stack, stride):
        if not stack or stack is not self.denses[-1]:
            return super().embed_ticks(hidden, stack, stride)
        *early, late = stack
        hidden, summed = super().embed_ticks(hidden, early, stride)
        counts = sum_windows(tf.ones([1, hidden.shape[1], 1]), stride)
        return hidden, product(summed, late.kernel, late.compute_dtype) + counts * late.bias

    def convolve(self, frames):
        first, second, *middle = self.convs[:-1]
        if first.filters <= 8:  # more make plain convolutions as fast, or faster
            frames = tf.cast(to_blocks(frames), first.compute_dtype)
            frames = _leaky_relu(conv_of_blocks(frames, 2, *weights_of(first)))
            frames = _leaky_relu(conv_of_blocks(frames, 1, *weights_of(second)))
        else:
            used = frames.shape[1] - 2  # the second layer does not see what comes of the last two pixels
            frames = tf.cast(frames[:, :used, :used], first.compute_dtype)
            frames = conv(conv(frames, *weights_of(first)), *weights_of(second))
        for layer in middle:
            frames = conv(frames, *weights_of(layer))
        return tf.cast(conv_by_blocks(frames, *weights_of(self.convs[-1])), tf.float32)


class FastDecoder(Decoder):
    """A Decoder in faster convolutions."""

    def trial(self):
        size = self.config.image_size
        states = trial_input(1, 2, self.dense.kernel.shape[0])
        video = trial_input(1, 2, size, size, self.config.channels)
        return self(states), self.log_prob(states, video)

    def decode(self, states):
        frames = tf.cast(tf.tanh(self.decode_blocks(states)), tf.float32)
        return tf.nn.depth_to_space(frames, BLOCK)

    def decode_blocks(self, states):
        """[N, Z + H] to frames before the tanh, in blocks of 4 x 4 pixels, [N, S / 4, S / 4, 16 C]."""
        first, *middle, third, last = map(weights_of, self.convs)
        hidden = dense_conv_transpose(
            tf.cast(states, self.dense.compute_dtype), *weights_of(self.dense), *first)
        hidden = _leaky_relu(hidden)
        for weights in middle:
            hidden = conv_transpose(hidden, *weights)
        hidden = _leaky_relu(conv_transpose_to_blocks(hidden, 1, *third))
        return self.bend(conv_transpose_to_blocks(hidden, 2, *last))

    def log_prob(self, states, video):
        rows = tf.reshape(states, [-1, states.shape[-1]])
        decoded = recomputed(self.decode_blocks, rows) if self.config.remat else self.decode_blocks(rows)
        video = to_blocks(tf.reshape(video, [-1, *video.shape[-3:]]))
        squares = tf.reshape(squares_of_tanh(decoded, video), tf.shape(states)[:-1])
        return self.log_normal(squares, math.prod(decoded.shape[1:]))


FAST = {RSSMCell: FastRSSMCell, Encoder: FastEncoder, Decoder: FastDecoder}


def to_blocks(frames):
    """[N, S, S, C] to blocks of 4 x 4 pixels, [N, S / 4, S / 4, 16 C]: space_to_depth, on all cores."""
    size, channels = frames.shape[2:]
    frames = tf.reshape(frames, [-1, size // BLOCK, BLOCK, size // BLOCK, BLOCK, channels])
    frames = tf.transpose(frames, [0, 1, 3, 2, 4, 5])
    return tf.reshape(frames, [-1, size // BLOCK, size // BLOCK, BLOCK**2 * channels])


def weights_of(layer):
    """A layer's kernel and bias as operands of products."""
    return [tf.cast(x, layer.compute_dtype) for x in (layer.kernel, layer.bias)]


# The layers in the forms that measured best, each the same function of the same weights. The leaky ReLU
# after a convolution is part of it: its gradient needs but the sign of its result, so its argument is
# not kept. On a CPU, a gradient in TensorFlow's own form can cost ten times the product it comes from.


@tf.custom_gradient
def conv(x, kernel, bias):
    """A convolution, stride 2, no padding, and a leaky ReLU.

    Args:
      x: [N, H, W, C].
      kernel: [k, k, C, F].
      bias: [F].

    Returns: [N, (H - k) // 2 + 1, (W - k) // 2 + 1, F].
    """
    y = _leaky_relu(tf.nn.bias_add(tf.nn.conv2d(x, kernel, 2, "VALID"), bias))

    def gradient(dy):
        dy = _leaky_relu_gradient(dy, y)
        d_x = tf.raw_ops.Conv2DBackpropInput(
            input_sizes=tf.shape(x), filter=kernel, out_backprop=dy, strides=[1, 2, 2, 1],
            padding="VALID")
        return d_x, _filter_gradient(x, kernel, dy), _bias_gradient(dy)

    return y, gradient


@tf.custom_gradient
def conv_by_blocks(x, kernel, bias):
    """As conv, with a kernel of size 4, as one matrix product on blocks of 2 x 2 pixels.

    Faster than TensorFlow's where the image is small and the channels are many. H and W are even.
    """
    channels, filters = kernel.shape[2:]
    height, width = (n // 2 - 1 for n in x.shape[1:3])
    corners = [(i, j) for i in range(2) for j in range(2)]

    def swap(kernel):  # [block row, row, block column, column, ...], and back
        return tf.transpose(tf.reshape(kernel, [2, 2, 2, 2, channels, filters]), [0, 2, 1, 3, 4, 5])

    blocks = tf.nn.space_to_depth(x, 2)
    windows = tf.concat([blocks[:, i:i + height, j:j + width] for i, j in corners], -1)
    windows = tf.reshape(windows, [-1, 16 * channels])
    product_kernel = tf.reshape(swap(kernel), [16 * channels, filters])
    y = _leaky_relu(tf.nn.bias_add(tf.matmul(windows, product_kernel), bias))

    def gradient(dy):
        dy = _leaky_relu_gradient(tf.reshape(dy, [-1, filters]), y)
        d_windows = tf.reshape(
            tf.matmul(dy, product_kernel, transpose_b=True), [-1, height, width, 4, 4 * channels])
        d_blocks = tf.add_n([
            tf.pad(d_windows[..., 2 * i + j, :], [[0, 0], [i, 1 - i], [j, 1 - j], [0, 0]])
            for i, j in corners])
        d_kernel = tf.reshape(swap(tf.matmul(windows, dy, transpose_a=True)), kernel.shape)
        return tf.nn.depth_to_space(d_blocks, 2), d_kernel, tf.reduce_sum(dy, 0)

    return tf.reshape(y, [-1, height, width, filters]), gradient


def dense_conv_transpose(x, dense_kernel, dense_bias, kernel, bias):
    """A dense layer, then a transposed convolution of the one pixel that it gives.

    Both are linear: one matrix product by the product of their kernels, where that is less work.

    Args:
      x: [N, S].
      dense_kernel, dense_bias: [S, D] and [D].
      kernel: [k, k, F, D], the layout of Conv2DTranspose.
      bias: [F].

    Returns: [N, k, k, F].
    """
    size, _, filters, channels = kernel.shape
    kernel = tf.reshape(kernel, [-1, channels])
    bias = tf.tile(bias, [size**2])
    rows, inputs, outputs = x.shape[0] or 0, x.shape[1], kernel.shape[0]
    at_once = inputs * channels * outputs + rows * inputs * outputs
    one_by_one = rows * inputs * channels + rows * channels * outputs
    if at_once < one_by_one:
        joined = tf.concat([dense_kernel, dense_bias[None]], 0)
        joined = tf.matmul(joined, kernel, transpose_b=True)
        y, bias = tf.matmul(x, joined[:-1]), joined[-1] + bias
    else:
        y = tf.matmul(tf.nn.bias_add(tf.matmul(x, dense_kernel), dense_bias), kernel, transpose_b=True)
    return tf.reshape(tf.nn.bias_add(y, bias), [-1, size, size, filters])


@tf.custom_gradient
def conv_transpose(x, kernel, bias):
    """A transposed convolution, stride 2, no padding, and a leaky ReLU.

    Args:
      x: [N, H, W, C].
      kernel: [k, k, F, C], the layout of Conv2DTranspose.
      bias: [F].

    Returns: [N, 2 (H - 1) + k, 2 (W - 1) + k, F].
    """
    height, width = (2 * (n - 1) + kernel.shape[0] for n in x.shape[1:3])
    shape = [tf.shape(x)[0], height, width, kernel.shape[2]]
    y = tf.nn.conv2d_transpose(x, kernel, shape, 2, "VALID")
    y = _leaky_relu(tf.nn.bias_add(y, bias))
    return y, lambda dy: _transpose_gradient(x, kernel, _leaky_relu_gradient(dy, y))


def conv_of_blocks(x, block, kernel, bias):
    """A convolution, kernel 4, stride 2, no padding, from blocks of pixels to blocks half as large.

    Args:
      x: [N, H, W, (2 b)^2 C], in blocks of 2 b x 2 b pixels.
      block: b.
      kernel: [4, 4, C, F].
      bias: [F].

    Returns: [N, H - 1, W - 1, b^2 F], in blocks of b x b pixels; pixels beyond the last whole block are
    left out.
    """
    return _conv_of_stride_1(x, between_blocks(kernel, block, 2), tf.tile(bias, [block**2]))


@tf.custom_gradient
def _conv_of_stride_1(x, kernel, bias):
    y = tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "VALID"), bias)

    def gradient(dy):
        d_x = tf.raw_ops.Conv2DBackpropInput(
            input_sizes=tf.shape(x), filter=kernel, out_backprop=dy, strides=[1] * 4, padding="VALID")
        return d_x, _filter_gradient(x, kernel, dy, 1), _bias_gradient(dy)

    return y, gradient


def conv_transpose_to_blocks(x, block, kernel, bias):
    """A transposed convolution, kernel 6, stride 2, no padding, from blocks of pixels to larger ones.

    Row a of block I, times row i of the kernel, adds to row 2 a + i of blocks I, I + 1, ...: a
    transposed convolution of blocks, of stride 1, with many channels instead of few.

    Args:
      x: [N, H / b, W / b, b^2 C], in blocks of b x b pixels.
      block: b.
      kernel: [6, 6, F, C], the layout of Conv2DTranspose.
      bias: [F].

    Returns: [N, (H + 2) / b, (W + 2) / b, (2 b)^2 F], in blocks of 2 b x 2 b pixels.
    """
    kernel = between_blocks(kernel, block, (2 + block) // block)
    return _conv_transpose_of_stride_1(x, kernel, tf.tile(bias, [4 * block**2]))


@tf.custom_gradient
def _conv_transpose_of_stride_1(x, kernel, bias):
    border = [kernel.shape[0] - 1] * 2
    flipped = tf.transpose(kernel[::-1, ::-1], [0, 1, 3, 2])
    y = tf.nn.conv2d(x, flipped, 1, [[0, 0], border, border, [0, 0]])
    return tf.nn.bias_add(y, bias), lambda dy: _transpose_gradient(x, kernel, dy, stride=1)


def _transpose_gradient(x, kernel, dy, stride=2):
    """The gradients of a transposed convolution's image, kernel and bias, no padding."""
    return (tf.nn.conv2d(dy, kernel, stride, "VALID"), _filter_gradient(dy, kernel, x, stride),
            _bias_gradient(dy))


def between_blocks(kernel, block, size):
    """The kernel of a stride of 2 pixels as one of a stride of 1 block.

    Args:
      kernel: [k, k, M, N].
      block: b; those of N numbers a pixel have b x b pixels, those of M numbers twice as many each way.
      size: of the new kernel.

    Returns: [size, size, (2 b)^2 M, b^2 N].
    """
    double, (*_, outer, inner) = 2 * block, kernel.shape
    moves = [[2 * a, size * double - kernel.shape[0] - 2 * a] for a in range(block)]
    kernels = tf.stack([tf.stack([
        tf.pad(kernel, [down, right, [0, 0], [0, 0]]) for right in moves]) for down in moves])
    kernels = tf.reshape(kernels, [block, block, size, double, size, double, outer, inner])
    kernels = tf.transpose(kernels, [2, 4, 3, 5, 6, 0, 1, 7])
    return tf.reshape(kernels, [size, size, double**2 * outer, block**2 * inner])


@tf.custom_gradient
def squares_of_tanh(x, truth):
    """The sum of squares of tanh(x) - truth; the difference is kept for its gradient.

    Args:
      x: [N, H, W, C].
      truth: float32 [N, H, W, C].

    Returns: float32 [N].
    """
    y = tf.tanh(x)
    difference = tf.cast(y, tf.float32) - truth

    def gradient(d_squares):
        d_y = 2 * tf.reshape(d_squares, [-1, 1, 1, 1]) * difference
        return tf.raw_ops.TanhGrad(y=y, dy=tf.cast(d_y, x.dtype)), -d_y

    return tf.reduce_sum(difference**2, [1, 2, 3]), gradient


def _leaky_relu(x):
    return tf.nn.leaky_relu(x, SLOPE)


def _leaky_relu_gradient(dy, y):
    """From the gradient by the result y of a leaky ReLU, that by its argument."""
    return tf.raw_ops.LeakyReluGrad(gradients=dy, features=y, alpha=SLOPE)


def _filter_gradient(x, kernel, dy, stride=2):
    """The gradient of a convolution's kernel, no padding."""
    return tf.raw_ops.Conv2DBackpropFilter(
        input=x, filter_sizes=kernel.shape, out_backprop=dy, strides=[1, stride, stride, 1],
        padding="VALID")


def _bias_gradient(dy):
    if dy.shape[3] > 4 and dy.dtype == tf.float32:  # in bfloat16 it would add up in bfloat16
        return tf.raw_ops.BiasAddGrad(out_backprop=dy)
    # With few channels: over an image's pixels first, ten times faster than over all at once.
    return tf.reduce_sum(tf.reduce_sum(tf.reshape(dy, [tf.shape(dy)[0], -1, dy.shape[3]]), 0), 0)
