"""The encoder (video -> one embedding sequence per level) and the decoder (states -> video)."""

import tensorflow as tf


def name_layers(owner, layers):
    """Makes layers attributes by their names: tf.train.Checkpoint does not find them in lists."""
    for layer in layers:
        setattr(owner, layer.name, layer)


class Encoder(tf.keras.layers.Layer):
    """Embeds every frame alone, then sums over the window of frames that a tick of a level covers.

    Four convolutions give the embedding of level 0; dense layers on it give, frame by frame, that of
    each level above.
    """

    def __init__(self, strides, channels, channels_mult=1.0, dense_layers=3, dense_size=1000, **kwargs):
        super().__init__(**kwargs)
        self.strides = list(strides)
        filters = round(32 * channels_mult)
        self.embed_size = 32 * filters  # of the last convolution: 2 x 2 x 8 filters
        self.convs = []
        for i in range(4):
            conv = tf.keras.layers.Conv2D(
                filters * 2**i, 4, strides=2, name=f"conv_{i}", dtype=self.dtype_policy,
                activation=lambda x: tf.nn.leaky_relu(x, 0.2))
            conv.build((None, None, None, channels if i == 0 else filters * 2 ** (i - 1)))
            self.convs.append(conv)
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
        for conv in self.convs:
            hidden = conv(hidden)  # 64 -> 31 -> 14 -> 6 -> 2
        hidden = tf.reshape(hidden, [batch, frames, self.embed_size])
        embeddings = [tf.cast(hidden, tf.float32)]
        for stride, stack in zip(self.strides[1:], self.denses, strict=True):
            for dense in stack:
                hidden = dense(hidden)
            embeddings.append(sum_windows(tf.cast(hidden, tf.float32), stride))
        return embeddings


def sum_windows(x, size):
    """Sums [B, T, D] over windows of `size` frames, the last padded with zeros: [B, ceil(T/size), D]."""
    windows = -(-x.shape[1] // size)
    x = tf.pad(x, [[0, 0], [0, windows * size - x.shape[1]], [0, 0]])
    return tf.reduce_sum(tf.reshape(x, [tf.shape(x)[0], windows, size, x.shape[2]]), 2)


class Decoder(tf.keras.layers.Layer):
    """Decodes the states of level 0, frame by frame: a dense layer, four transposed convolutions."""

    def __init__(self, state_size, channels, channels_mult=1.0, **kwargs):
        super().__init__(**kwargs)
        filters = round(32 * channels_mult)
        self.dense = tf.keras.layers.Dense(32 * filters, name="dense", dtype=self.dtype_policy)
        self.dense.build((None, state_size))
        self.convs = []
        size = 32 * filters
        for i, (units, kernel) in enumerate(
                [(4 * filters, 5), (2 * filters, 5), (filters, 6), (channels, 6)]):
            conv = tf.keras.layers.Conv2DTranspose(
                units, kernel, strides=2, name=f"conv_{i}", dtype=self.dtype_policy)
            conv.build((None, None, None, size))
            self.convs.append(conv)
            size = units
        name_layers(self, self.convs)
        self.built = True

    def call(self, states):
        """states: [..., Z + H]. Returns the mean of p(frame | states), float32 [..., 64, 64, C]."""
        hidden = self.dense(tf.reshape(states, [-1, states.shape[-1]]))
        first, *others = self.convs
        hidden = self._activate(self._on_one_pixel(first, hidden), first)  # 1 -> 5
        for conv in others:
            # 5 -> 13 -> 30 -> 64
            hidden = self._activate(conv_transpose(hidden, tf.cast(conv.kernel, hidden.dtype)), conv)
        return tf.reshape(tf.cast(hidden, tf.float32),
                          tf.concat([tf.shape(states)[:-1], tf.shape(hidden)[1:]], 0))

    def _on_one_pixel(self, conv, x):
        """A transposed convolution of images of one pixel is a matrix product: [N, C] to [N, k, k, F]."""
        kernel = tf.cast(conv.kernel, x.dtype)  # [k, k, F, C]
        product = tf.matmul(x, tf.reshape(kernel, [-1, kernel.shape[3]]), transpose_b=True)
        return tf.reshape(product, [-1, *kernel.shape[:3]])

    def _activate(self, x, conv):
        x = tf.nn.bias_add(x, tf.cast(conv.bias, x.dtype))
        return tf.tanh(x) if conv is self.convs[-1] else tf.nn.leaky_relu(x, 0.2)


@tf.custom_gradient
def conv_transpose(x, kernel):
    """A transposed convolution, stride 2, no padding, in the form that is fastest each way.

    Forward, with an even kernel, as a convolution to four times the channels, one for each pixel of a
    2 x 2 block of the result: 1 to 4 times faster. Backward, it is a convolution with stride 2.

    Args:
      x: [N, H, W, C].
      kernel: [k, k, F, C], the layout of Conv2DTranspose.

    Returns: [N, 2 (H - 1) + k, 2 (W - 1) + k, F].
    """
    size, _, filters, channels = kernel.shape
    if size % 2:
        height, width = (2 * (n - 1) + size for n in x.shape[1:3])
        y = tf.nn.conv2d_transpose(x, kernel, [tf.shape(x)[0], height, width, filters], 2, "VALID")
    else:
        # Row 2 m + p of the result is the sum over j of row m - j of x times row 2 j + p of the kernel.
        half = size // 2
        blocks = tf.reshape(kernel, [half, 2, half, 2, filters, channels])[::-1, :, ::-1]
        blocks = tf.reshape(tf.transpose(blocks, [0, 2, 5, 1, 3, 4]), [half, half, channels, 4 * filters])
        border = [half - 1, half - 1]
        y = tf.nn.depth_to_space(tf.nn.conv2d(x, blocks, 1, [[0, 0], border, border, [0, 0]]), 2)

    def gradient(dy):
        return tf.nn.conv2d(dy, kernel, 2, "VALID"), tf.raw_ops.Conv2DBackpropFilter(
            input=dy, filter_sizes=kernel.shape, out_backprop=x, strides=[1, 2, 2, 1], padding="VALID")

    return y, gradient
