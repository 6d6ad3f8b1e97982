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
        hidden = hidden[:, None, None]  # an image of 1 x 1
        for i, conv in enumerate(self.convs):
            hidden = conv(hidden)  # 1 -> 5 -> 13 -> 30 -> 64
            hidden = tf.nn.leaky_relu(hidden, 0.2) if i < 3 else tf.tanh(hidden)
        return tf.reshape(tf.cast(hidden, tf.float32),
                          tf.concat([tf.shape(states)[:-1], tf.shape(hidden)[1:]], 0))
