"""Faster forms of the encoder and the decoder: the same functions of the same weights, with gradients.

You need not read this to change the model: see kernels.py.
"""

import functools
import math

import tensorflow as tf

import ties
from cells import Dense, product, reshape_end, shape
from cnns import Conv, ConvTranspose, Decoder, Encoder, Pixels, leaky_relu, recomputed, sum_windows

SLOPE = 0.2  # of every leaky ReLU
BLOCK = 4  # side of the blocks of pixels that the decoder works on
relu, linear = tf.keras.activations.relu, tf.keras.activations.linear
LAYERS = ("cells.Dense", "cells.product", "cells.reshape_end", "cells.shape", "cnns.leaky_relu",
          "cnns.recomputed")


@ties.repeats("cnns.Encoder", "cnns.sum_windows", "cnns.Conv", *LAYERS)
class FastEncoder(Encoder):
    """An Encoder with faster convolutions.

    The last dense layer of the top level is linear, so it runs on the sums over windows instead of on
    every frame.
    """

    @property
    def layers_as_built(self):
        return [(layer, Conv, leaky_relu, 4) for layer in self.convs] + [
            (layer, Dense, linear if layer is stack[-1] else relu, None)
            for stack in self.denses for layer in stack]

    def embed_ticks(self, hidden, stack, stride):
        if not stack or stack is not self.denses[-1] or not ties.hold(self):
            return super().embed_ticks(hidden, stack, stride)
        *early, late = stack
        hidden, summed = super().embed_ticks(hidden, early, stride)
        counts = sum_windows(tf.ones([1, hidden.shape[1], 1]), stride)
        return hidden, product(summed, late.kernel, late.compute_dtype) + counts * late.bias

    def convolve(self, frames):
        if not ties.hold(self):
            return super().convolve(frames)
        first, second, *middle = self.convs[:-1]
        if first.filters <= 8:  # With more filters, plain convolutions are as fast or faster.
            frames = tf.cast(to_blocks(frames), first.compute_dtype)
            frames = _leaky_relu(conv_of_blocks(frames, 2, *weights_of(first)))
            frames = _leaky_relu(conv_of_blocks(frames, 1, *weights_of(second)))
        else:
            used = frames.shape[1] - 2  # The second layer does not use the last two pixels.
            frames = tf.cast(frames[:, :used, :used], first.compute_dtype)
            frames = conv(conv(frames, *weights_of(first)), *weights_of(second))
        for layer in middle:
            frames = conv(frames, *weights_of(layer))
        return tf.cast(conv_by_blocks(frames, *weights_of(self.convs[-1])), tf.float32)


@ties.repeats("cnns.Decoder", "cnns.Pixels", "cnns.ConvTranspose", *LAYERS)
class FastDecoder(Decoder):
    """A Decoder with faster convolutions."""

    @property
    def layers_as_built(self):
        *layers, third, last = self.convs
        return [(self.dense, Dense, linear, None),
                *((layer, ConvTranspose, leaky_relu, 5) for layer in layers),
                (third, ConvTranspose, leaky_relu, 6), (last, ConvTranspose, linear, 6)]

    def decode(self, states):
        if not ties.hold(self):
            return super().decode(states)
        return frames_of_blocks(decode_blocks(self, states))

    def pixels(self, states):
        return BlockPixels(self, states) if ties.hold(self) else super().pixels(states)


class BlockPixels(Pixels):
    """Pixels of a FastDecoder: mean and log_prob share its blocks."""

    @functools.cached_property
    def blocks(self):
        rows = tf.reshape(self.states, [-1, self.states.shape[-1]])
        decode = functools.partial(decode_blocks, self.decoder)
        return recomputed(decode, rows) if self.decoder.config.remat else decode(rows)

    @functools.cached_property
    def mean(self):
        frames = frames_of_blocks(self.blocks)
        return reshape_end(frames, 1, frames.shape[1:], like=self.states)

    def log_prob(self, video):
        video = to_blocks(tf.reshape(video, [-1, *video.shape[-3:]]))
        squares = reshape_end(squares_of_tanh(self.blocks, video), 1, [], like=self.states)
        return self.decoder.log_normal(squares, math.prod(self.blocks.shape[1:]))


def decode_blocks(decoder, states):
    """[N, Z + H] to frames before the tanh, in blocks of 4 x 4 pixels, [N, S / 4, S / 4, 16 C]."""
    first, *middle, third, last = map(weights_of, decoder.convs)
    hidden = dense_conv_transpose(
        tf.cast(states, decoder.dense.compute_dtype), *weights_of(decoder.dense), *first)
    hidden = _leaky_relu(hidden)
    for weights in middle:
        hidden = conv_transpose(hidden, *weights)
    hidden = _leaky_relu(conv_transpose_to_blocks(hidden, 1, *third))
    return decoder.bend(conv_transpose_to_blocks(hidden, 2, *last))


def frames_of_blocks(blocks):
    """Frames [N, S, S, C] from the result of decode_blocks."""
    return tf.nn.depth_to_space(tf.cast(tf.tanh(blocks), tf.float32), BLOCK)


def to_blocks(frames):
    """[N, S, S, C] to blocks of 4 x 4 pixels, [N, S / 4, S / 4, 16 C]: space_to_depth, on all cores."""
    size, channels = frames.shape[2:]
    frames = tf.reshape(frames, [-1, size // BLOCK, BLOCK, size // BLOCK, BLOCK, channels])
    frames = tf.transpose(frames, [0, 1, 3, 2, 4, 5])
    return tf.reshape(frames, [-1, size // BLOCK, size // BLOCK, BLOCK**2 * channels])


def weights_of(layer):
    """A layer's kernel and bias as operands of products."""
    return [tf.cast(x, layer.compute_dtype) for x in (layer.kernel, layer.bias)]


# Each layer has the form that was fastest when measured. A convolution includes its leaky ReLU, whose
# gradient needs only the sign of its result, so its argument is not kept. On a CPU, a gradient in
# TensorFlow's own form can cost ten times as much as the product itself.


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
            input_sizes=shape(x), filter=kernel, out_backprop=dy, strides=[1, 2, 2, 1],
            padding="VALID")
        return d_x, _filter_gradient(x, kernel, dy), _bias_gradient(dy)

    return y, gradient


@tf.custom_gradient
def conv_by_blocks(x, kernel, bias):
    """Like conv with a kernel of size 4, by one matrix product on blocks of 2 x 2 pixels.

    It is faster than TensorFlow's convolution for small images with many channels. H and W are even.
    """
    channels, filters = kernel.shape[2:]
    height, width = (n // 2 - 1 for n in x.shape[1:3])
    corners = [(i, j) for i in range(2) for j in range(2)]

    def reorder(kernel):  # to [block row, block column, row, column, ...], and back
        return tf.transpose(tf.reshape(kernel, [2, 2, 2, 2, channels, filters]), [0, 2, 1, 3, 4, 5])

    blocks = tf.nn.space_to_depth(x, 2)
    windows = tf.concat([blocks[:, i:i + height, j:j + width] for i, j in corners], -1)
    windows = tf.reshape(windows, [-1, 16 * channels])
    product_kernel = tf.reshape(reorder(kernel), [16 * channels, filters])
    y = _leaky_relu(tf.nn.bias_add(tf.matmul(windows, product_kernel), bias))

    def gradient(dy):
        dy = _leaky_relu_gradient(tf.reshape(dy, [-1, filters]), y)
        d_windows = tf.reshape(
            tf.matmul(dy, product_kernel, transpose_b=True), [-1, height, width, 4, 4 * channels])
        d_blocks = tf.add_n([
            tf.pad(d_windows[..., 2 * i + j, :], [[0, 0], [i, 1 - i], [j, 1 - j], [0, 0]])
            for i, j in corners])
        d_kernel = tf.reshape(reorder(tf.matmul(windows, dy, transpose_a=True)), kernel.shape)
        return tf.nn.depth_to_space(d_blocks, 2), d_kernel, tf.reduce_sum(dy, 0)

    return tf.reshape(y, [-1, height, width, filters]), gradient


def dense_conv_transpose(x, dense_kernel, dense_bias, kernel, bias):
    """A dense layer, then a transposed convolution of its result, which is one pixel.

    Both are linear. If it is less work, one matrix product by the product of their kernels does both.

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
    sizes = [shape(x)[0], height, width, kernel.shape[2]]
    y = tf.nn.conv2d_transpose(x, kernel, sizes, 2, "VALID")
    y = _leaky_relu(tf.nn.bias_add(y, bias))
    return y, lambda dy: _transpose_gradient(x, kernel, _leaky_relu_gradient(dy, y))


def conv_of_blocks(x, block, kernel, bias):
    """A convolution, kernel 4, stride 2, no padding, from blocks of pixels to blocks half as large.

    Args:
      x: [N, H, W, (2 b)^2 C], in blocks of 2 b x 2 b pixels.
      block: b.
      kernel: [4, 4, C, F].
      bias: [F].

    Returns: [N, H - 1, W - 1, b^2 F], in blocks of b x b pixels, without the pixels after the last whole
    block.
    """
    return _conv_of_stride_1(x, between_blocks(kernel, block, 2), tf.tile(bias, [block**2]))


@tf.custom_gradient
def _conv_of_stride_1(x, kernel, bias):
    y = tf.nn.bias_add(tf.nn.conv2d(x, kernel, 1, "VALID"), bias)

    def gradient(dy):
        d_x = tf.raw_ops.Conv2DBackpropInput(
            input_sizes=shape(x), filter=kernel, out_backprop=dy, strides=[1] * 4, padding="VALID")
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
      block: b. Blocks with N numbers a pixel have b x b pixels, blocks with M numbers 2 b x 2 b pixels.
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
    """The sum of squares of tanh(x) - truth. The gradient reuses the difference.

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
    """The gradient by the argument of a leaky ReLU, from the gradient by its result y."""
    return tf.raw_ops.LeakyReluGrad(gradients=dy, features=y, alpha=SLOPE)


def _filter_gradient(x, kernel, dy, stride=2):
    """The gradient of a convolution's kernel, no padding."""
    return tf.raw_ops.Conv2DBackpropFilter(
        input=x, filter_sizes=kernel.shape, out_backprop=dy, strides=[1, stride, stride, 1],
        padding="VALID")


def _bias_gradient(dy):
    if dy.shape[3] > 4 and dy.dtype == tf.float32:  # For bfloat16 it would add up in bfloat16.
        return tf.raw_ops.BiasAddGrad(out_backprop=dy)
    # With few channels, it is ten times as fast to add up over the pixels of an image first.
    return tf.reduce_sum(tf.reduce_sum(tf.reshape(dy, [shape(dy)[0], -1, dy.shape[3]]), 0), 0)
