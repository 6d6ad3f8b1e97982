"""The encoder (video -> one embedding sequence per level) and the decoder (states -> video)."""

import tensorflow as tf

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
                product = tf.matmul(*(tf.cast(x, self.compute_dtype) for x in (summed, dense.kernel)))
                summed = tf.cast(product, tf.float32) + counts * dense.bias
            embeddings.append(summed)
        return embeddings

    def _convolve(self, frames):
        """[N, 64, 64, C] to [N, 2, 2, 8 f]."""
        frames = tf.cast(frames, self.compute_dtype)
        for i, layer in enumerate(self.convs):
            # 64 -> 31 -> 14 -> 6 -> 2
            weights = (tf.cast(x, frames.dtype) for x in (layer.kernel, layer.bias))
            frames = tf.nn.leaky_relu((conv if i < 3 else conv_by_blocks)(frames, *weights), 0.2)
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
        hidden = self.dense(states)[:, None, None]
        for i, layer in enumerate(self.convs):
            # 1 -> 5 -> 13 -> 30 -> 64
            weights = (tf.cast(x, hidden.dtype) for x in (layer.kernel, layer.bias))
            hidden = conv_transpose(hidden, *weights)
            hidden = tf.nn.leaky_relu(hidden, 0.2) if i < 3 else tf.tanh(hidden)
        return tf.cast(hidden, tf.float32)


def recomputed(function, x):
    """function(x) [N, ...] in chunks of rows, each computed again when its gradient is wanted."""
    function = tf.recompute_grad(function)
    return tf.concat([function(x[i:i + REMAT_FRAMES]) for i in range(0, x.shape[0], REMAT_FRAMES)], 0)


# The layers in the forms that measured best, each the same function of the same weights. On a CPU,
# a gradient in TensorFlow's own form can cost ten times the product it comes from.


@tf.custom_gradient
def conv(x, kernel, bias):
    """A convolution, stride 2, no padding: [N, H, W, C] by [k, k, C, F] to [N, H', W', F]."""
    def gradient(dy):
        d_x = tf.raw_ops.Conv2DBackpropInput(
            input_sizes=tf.shape(x), filter=kernel, out_backprop=dy, strides=[1, 2, 2, 1],
            padding="VALID")
        return d_x, _filter_gradient(x, kernel, dy), _bias_gradient(dy)

    return tf.nn.bias_add(tf.nn.conv2d(x, kernel, 2, "VALID"), bias), gradient


def _filter_gradient(x, kernel, dy):
    """The gradient of a convolution's kernel, stride 2, no padding."""
    dtype = x.dtype
    if dtype == tf.bfloat16 and kernel.shape[0] < 6 and not tf.config.list_physical_devices("GPU"):
        x, dy = (tf.cast(a, tf.float32) for a in (x, dy))  # on a CPU, these are faster in float32
    return tf.cast(tf.raw_ops.Conv2DBackpropFilter(
        input=x, filter_sizes=kernel.shape, out_backprop=dy, strides=[1, 2, 2, 1], padding="VALID"),
        dtype)


def _bias_gradient(dy):
    if dy.shape[3] > 4:
        return tf.raw_ops.BiasAddGrad(out_backprop=dy)
    # With few channels: over an image's pixels first, ten times faster than over all at once.
    return tf.reduce_sum(tf.reduce_sum(tf.reshape(dy, [tf.shape(dy)[0], -1, dy.shape[3]]), 0), 0)


@tf.custom_gradient
def conv_by_blocks(x, kernel, bias):
    """A convolution, kernel 4, stride 2, no padding, as one matrix product on blocks of 2 x 2 pixels.

    Faster than TensorFlow's where the image is small and the channels are many.

    Args:
      x: [N, H, W, C]; H and W are even.
      kernel: [4, 4, C, F].
      bias: [F].

    Returns: [N, H / 2 - 1, W / 2 - 1, F].
    """
    channels, filters = kernel.shape[2:]
    height, width = (n // 2 - 1 for n in x.shape[1:3])
    corners = [(i, j) for i in range(2) for j in range(2)]
    blocks = tf.nn.space_to_depth(x, 2)
    windows = tf.concat([blocks[:, i:i + height, j:j + width] for i, j in corners], -1)
    windows = tf.reshape(windows, [-1, 16 * channels])

    def swap(kernel):  # [block row, row, block column, column, ...], and back
        return tf.transpose(tf.reshape(kernel, [2, 2, 2, 2, channels, filters]), [0, 2, 1, 3, 4, 5])

    product_kernel = tf.reshape(swap(kernel), [16 * channels, filters])
    y = tf.reshape(tf.matmul(windows, product_kernel) + bias, [-1, height, width, filters])

    def gradient(dy):
        dy = tf.reshape(dy, [-1, filters])
        d_windows = tf.reshape(
            tf.matmul(dy, product_kernel, transpose_b=True), [-1, height, width, 4, 4 * channels])
        d_blocks = tf.add_n([
            tf.pad(d_windows[..., 2 * i + j, :], [[0, 0], [i, 1 - i], [j, 1 - j], [0, 0]])
            for i, j in corners])
        d_kernel = tf.reshape(swap(tf.matmul(windows, dy, transpose_a=True)), kernel.shape)
        return tf.nn.depth_to_space(d_blocks, 2), d_kernel, tf.reduce_sum(dy, 0)

    return y, gradient


@tf.custom_gradient
def conv_transpose(x, kernel, bias):
    """A transposed convolution, stride 2, no padding.

    On one pixel it is a matrix product. With an even kernel it runs as a convolution to four times
    the channels, one for each pixel of a 2 x 2 block of the result; backward, it is a convolution.

    Args:
      x: [N, H, W, C].
      kernel: [k, k, F, C], the layout of Conv2DTranspose.
      bias: [F].

    Returns: [N, 2 (H - 1) + k, 2 (W - 1) + k, F].
    """
    size, _, filters, channels = kernel.shape
    if x.shape[1] == x.shape[2] == 1:
        rows = tf.reshape(x, [-1, channels])
        product_kernel = tf.reshape(kernel, [-1, channels])
        y = tf.matmul(rows, product_kernel, transpose_b=True)
        y = tf.reshape(y, [-1, size, size, filters]) + bias
    elif size % 2:
        height, width = (2 * (n - 1) + size for n in x.shape[1:3])
        shape = [tf.shape(x)[0], height, width, filters]
        y = tf.nn.conv2d_transpose(x, kernel, shape, 2, "VALID") + bias
    else:
        # Row 2 m + p of the result is the sum over j of row m - j of x times row 2 j + p of the kernel.
        half = size // 2
        blocks = tf.reshape(kernel, [half, 2, half, 2, filters, channels])[::-1, :, ::-1]
        blocks = tf.transpose(blocks, [0, 2, 5, 1, 3, 4])
        blocks = tf.reshape(blocks, [half, half, channels, 4 * filters])
        border = [half - 1, half - 1]
        y = tf.nn.conv2d(x, blocks, 1, [[0, 0], border, border, [0, 0]])
        y = tf.nn.depth_to_space(tf.nn.bias_add(y, tf.tile(bias, [4])), 2)

    def gradient(dy):
        d_bias = _bias_gradient(dy)
        if x.shape[1] == x.shape[2] == 1:
            d_rows = tf.reshape(dy, [-1, size * size * filters])
            d_kernel = tf.matmul(d_rows, rows, transpose_a=True)
            return (tf.reshape(tf.matmul(d_rows, product_kernel), tf.shape(x)),
                    tf.reshape(d_kernel, kernel.shape), d_bias)
        return tf.nn.conv2d(dy, kernel, 2, "VALID"), _filter_gradient(dy, kernel, x), d_bias

    return y, gradient
