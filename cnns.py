"""The encoder (video -> one embedding sequence per level) and the decoder (states -> video)."""

import tensorflow as tf

from recurrence import product

SLOPE = 0.2  # of every leaky ReLU
REMAT_FRAMES = 500  # that are computed again at once


def name_layers(owner, layers):
    """Makes layers attributes by their names: tf.train.Checkpoint does not find them in lists."""
    for layer in layers:
        setattr(owner, layer.name, layer)


class Encoder(tf.keras.layers.Layer):
    """Embeds every frame alone, then sums over the window of frames that a tick of a level covers.

    Four convolutions give the embedding of level 0; dense layers on it give, frame by frame, that of
    each level above.
    """

    def __init__(self, strides, channels, channels_mult=1.0, dense_layers=3, dense_size=1000,
                 remat=False, **kwargs):
        super().__init__(**kwargs)
        self.remat = remat
        self.strides = list(strides)
        filters = round(32 * channels_mult)
        self.embed_size = 32 * filters  # of the last convolution: 2 x 2 x 8 filters
        self.convs = []
        for i in range(4):
            layer = tf.keras.layers.Conv2D(filters * 2**i, 4, strides=2, name=f"conv_{i}")
            layer.build((None, None, None, channels if i == 0 else filters * 2 ** (i - 1)))
            self.convs.append(layer)
        self.denses = []  # of each level above the bottom
        for level in range(1, len(self.strides)):
            stack, size = [], self.embed_size
            for i in range(dense_layers):
                last = i == dense_layers - 1
                dense = tf.keras.layers.Dense(
                    self.embed_size if last else dense_size, activation=None if last else "relu",
                    name=f"level_{level}_dense_{i}", dtype=self.dtype_policy)
                dense.build((None, size))
                stack.append(dense)
                size = dense_size
            self.denses.append(stack)
        name_layers(self, self.convs + sum(self.denses, []))
        self.built = True

    def call(self, video):
        """video: float in [0, 1], [B, T, 64, 64, C]. Returns a list of [B, N_l, 32 f], per level."""
        batch, frames = tf.shape(video)[0], video.shape[1]
        hidden = tf.reshape(video, [-1, *video.shape[2:]])
        hidden = recomputed(self._convolve, hidden) if self.remat else self._convolve(hidden)
        hidden = tf.reshape(hidden, [batch, frames, self.embed_size])
        embeddings = [tf.cast(hidden, tf.float32)]
        for level, (stride, stack) in enumerate(zip(self.strides[1:], self.denses, strict=True), 1):
            # Nothing else needs the top level's last layer, which is linear: it runs on the sums.
            late = stack[-1:] if level == len(self.strides) - 1 else []
            for dense in stack[:len(stack) - len(late)]:
                hidden = dense(hidden)
            summed = sum_windows(tf.cast(hidden, tf.float32), stride)
            for dense in late:
                counts = sum_windows(tf.ones([1, frames, 1]), stride)
                summed = product(summed, dense.kernel, self.compute_dtype) + counts * dense.bias
            embeddings.append(summed)
        return embeddings

    def _convolve(self, frames):
        """[N, 64, 64, C] to [N, 2, 2, 8 f]."""
        # 64 -> 31 -> 14 -> 6 -> 2, where the second layer sees 30 of the 31: from 62 pixels.
        frames = tf.cast(frames[:, :62, :62], self.compute_dtype)
        for form, layer in zip(ENCODER_FORMS, self.convs, strict=True):
            frames = form(frames, *(tf.cast(x, frames.dtype) for x in (layer.kernel, layer.bias)))
        return frames


def sum_windows(x, size):
    """Sums [B, T, D] over windows of `size` frames, the last padded with zeros: [B, N, D]."""
    windows = -(-x.shape[1] // size)
    x = tf.pad(x, [[0, 0], [0, windows * size - x.shape[1]], [0, 0]])
    return tf.reduce_sum(tf.reshape(x, [tf.shape(x)[0], windows, size, x.shape[2]]), 2)


class Decoder(tf.keras.layers.Layer):
    """Decodes the states of level 0, frame by frame: a dense layer, four transposed convolutions."""

    def __init__(self, state_size, channels, channels_mult=1.0, remat=False, **kwargs):
        super().__init__(**kwargs)
        self.remat = remat
        filters = round(32 * channels_mult)
        self.dense = tf.keras.layers.Dense(32 * filters, name="dense", dtype=self.dtype_policy)
        self.dense.build((None, state_size))
        self.convs = []
        size = 32 * filters
        for i, (units, kernel) in enumerate(
                [(4 * filters, 5), (2 * filters, 5), (filters, 6), (channels, 6)]):
            layer = tf.keras.layers.Conv2DTranspose(units, kernel, strides=2, name=f"conv_{i}")
            layer.build((None, None, None, size))
            self.convs.append(layer)
            size = units
        name_layers(self, self.convs)
        self.built = True

    def call(self, states):
        """states: [..., Z + H]. Returns the mean of p(frame | states), float32 [..., 64, 64, C]."""
        rows = tf.reshape(states, [-1, states.shape[-1]])
        frames = recomputed(self._decode, rows) if self.remat else self._decode(rows)
        return tf.reshape(frames, tf.concat([tf.shape(states)[:-1], frames.shape[1:]], 0))

    def _decode(self, states):
        """[N, Z + H] to [N, 64, 64, C]."""
        dense, first, second, third, last = (
            [tf.cast(x, self.compute_dtype) for x in (layer.kernel, layer.bias)]
            for layer in (self.dense, *self.convs))
        # 1 -> 5 -> 13 -> 30 -> 64
        hidden = dense_conv_transpose(tf.cast(states, self.compute_dtype), *dense, *first)
        hidden = conv_transpose(_leaky_relu(hidden), *second)
        frames = tf.tanh(two_conv_transposes(hidden, *third, *last))
        return tf.cast(frames, tf.float32)


def recomputed(function, x):
    """function(x) [N, ...] in chunks of rows, each computed again when its gradient is wanted."""
    function = tf.recompute_grad(function)
    return tf.concat([function(x[i:i + REMAT_FRAMES]) for i in range(0, x.shape[0], REMAT_FRAMES)], 0)


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


ENCODER_FORMS = (conv, conv, conv, conv_by_blocks)  # of its layers


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


@tf.custom_gradient
def two_conv_transposes(x, first_kernel, first_bias, last_kernel, last_bias):
    """Two transposed convolutions, kernel 6, stride 2, no padding; a leaky ReLU between them.

    Forward, both are convolutions to more channels: from pixels to blocks of 2 x 2 pixels, and from
    these to blocks of 4 x 4. Backward, they are convolutions as they stand.

    Args:
      x: [N, H, W, C].
      first_kernel, first_bias: [6, 6, F, C] and [F].
      last_kernel, last_bias: [6, 6, G, F] and [G].

    Returns: [N, 4 H + 12, 4 W + 12, G].
    """
    blocks = _leaky_relu(_conv_transpose_to_blocks(x, 1, first_kernel, first_bias))
    y = tf.nn.depth_to_space(_conv_transpose_to_blocks(blocks, 2, last_kernel, last_bias), 4)

    def gradient(dy):
        hidden = tf.nn.depth_to_space(blocks, 2)
        d_hidden, *last = _transpose_gradient(hidden, last_kernel, dy)
        d_hidden = _leaky_relu_gradient(d_hidden, hidden)
        return *_transpose_gradient(x, first_kernel, d_hidden), *last

    return y, gradient


def _conv_transpose_to_blocks(x, block, kernel, bias):
    """Both image and result in blocks of pixels: [N, H / b, W / b, b^2 C] to [..., (2 b)^2 F].

    Row a of block I, times row i of the kernel, adds to row 2 a + i of blocks I, I + 1, ...
    """
    filters, channels = kernel.shape[2:]
    moves = [[2 * a, 2 * (block - 1 - a)] for a in range(block)]
    kernels = tf.stack([tf.stack([
        tf.pad(kernel, [down, right, [0, 0], [0, 0]]) for right in moves]) for down in moves])
    size = kernels.shape[2] // (2 * block)
    kernels = tf.reshape(
        kernels, [block, block, size, 2 * block, size, 2 * block, filters, channels])
    kernels = tf.transpose(kernels[:, :, ::-1, :, ::-1], [2, 4, 0, 1, 7, 3, 5, 6])
    kernels = tf.reshape(kernels, [size, size, block**2 * channels, 4 * block**2 * filters])
    border = [size - 1, size - 1]
    y = tf.nn.conv2d(x, kernels, 1, [[0, 0], border, border, [0, 0]])
    return tf.nn.bias_add(y, tf.tile(bias, [4 * block**2]))


def _transpose_gradient(x, kernel, dy):
    """The gradients of a transposed convolution's image, kernel and bias, stride 2, no padding."""
    return tf.nn.conv2d(dy, kernel, 2, "VALID"), _filter_gradient(dy, kernel, x), _bias_gradient(dy)


def _leaky_relu(x):
    return tf.nn.leaky_relu(x, SLOPE)


def _leaky_relu_gradient(dy, y):
    """From the gradient by the result y of a leaky ReLU, that by its argument."""
    return tf.raw_ops.LeakyReluGrad(gradients=dy, features=y, alpha=SLOPE)


def _filter_gradient(x, kernel, dy):
    """The gradient of a convolution's kernel, stride 2, no padding."""
    return tf.raw_ops.Conv2DBackpropFilter(
        input=x, filter_sizes=kernel.shape, out_backprop=dy, strides=[1, 2, 2, 1], padding="VALID")


def _bias_gradient(dy):
    if dy.shape[3] > 4:
        return tf.raw_ops.BiasAddGrad(out_backprop=dy)
    # With few channels: over an image's pixels first, ten times faster than over all at once.
    return tf.reduce_sum(tf.reduce_sum(tf.reshape(dy, [tf.shape(dy)[0], -1, dy.shape[3]]), 0), 0)
