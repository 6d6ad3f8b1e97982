"""The encoder maps video to embeddings of every level, and the decoder maps states to video.

For images of S pixels a side, 32 to 256, each has n = log2(S) - 2 convolutions of stride 2.
"""

import functools
import math

import tensorflow as tf

from cells import Dense, reshape_end, shape

REMAT_FRAMES = 500  # frames recomputed at once


class Encoder(tf.keras.layers.Layer):
    """Embeds every frame, and sums the embeddings over the frames that a tick of a level covers.

    Convolutions of kernel size 4 give the embedding of level 0. Dense layers map the embedding of one
    level to that of the level above, frame by frame.

    Args:
      config: a Config.
      policy: the dtype policy of the layers.
    """

    def __init__(self, config, policy, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        filters = [round(32 * config.channels_mult) * 2**i for i in range(num_layers(config))]
        self.embed_size = 4 * filters[-1]  # 2 x 2 pixels are left
        self.convs, channels = [], config.channels
        for i, count in enumerate(filters):
            layer = Conv(count, 4, strides=2, activation=leaky_relu, name=f"conv_{i}", dtype=policy,
                         kernel_initializer=initializer(config))
            layer.build((None, None, None, channels))
            self.convs.append(layer)
            channels = count
        self.denses = []  # a stack of layers for each level above the bottom
        for level in range(1, config.levels):
            sizes = [config.enc_dense_embed_size] * (config.enc_dense_layers - 1) + [self.embed_size]
            stack, inputs = [], self.embed_size
            for i, size in enumerate(sizes[:config.enc_dense_layers]):
                last = i == config.enc_dense_layers - 1
                layer = Dense(
                    size, None if last else "relu", name=f"level_{level}_dense_{i}", dtype=policy)
                layer.build((None, inputs))
                stack.append(layer)
                inputs = size
            self.denses.append(stack)
        name_layers(self, self.convs + sum(self.denses, []))
        self.built = True

    def call(self, video):
        """video: float in [0, 1], [B, T, S, S, C]. Returns per level the embeddings, [B, N_l, D]."""
        frames = tf.reshape(video, [-1, *video.shape[2:]])
        hidden = recomputed(self.convolve, frames) if self.config.remat else self.convolve(frames)
        hidden = tf.reshape(hidden, [-1, video.shape[1], self.embed_size])
        embeddings = [hidden]
        for stride, stack in zip(self.config.strides[1:], self.denses, strict=True):
            hidden, summed = self.embed_ticks(hidden, stack, stride)
            embeddings.append(summed)
        return embeddings

    def embed_ticks(self, hidden, stack, stride):
        """Applies dense layers to every frame of [B, T, D]. Returns the result, and its window sums."""
        for dense in stack:
            hidden = dense(hidden)
        return hidden, sum_windows(hidden, stride)

    def convolve(self, frames):
        """[N, S, S, C] to [N, 2, 2, D / 4]."""
        for conv in self.convs:
            frames = conv(frames)
        return frames


def sum_windows(x, size):
    """Sums [B, T, D] over windows of `size` frames: [B, N, D]. Zeros pad the last window."""
    windows = -(-x.shape[1] // size)
    x = tf.pad(x, [[0, 0], [0, windows * size - x.shape[1]], [0, 0]])
    return tf.reduce_sum(tf.reshape(x, [-1, windows, size, x.shape[2]]), 2)


class Decoder(tf.keras.layers.Layer):
    """Decodes the states of level 0, frame by frame: a dense layer, then transposed convolutions.

    Args:
      config: a Config.
      state_size: width Z + H of the states.
      policy: the dtype policy of the layers.
    """

    def __init__(self, config, state_size, policy, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        layers = num_layers(config)
        filters = [round(32 * config.channels_mult) * 2**i for i in range(layers)][::-1]
        self.dense = Dense(4 * filters[0], name="dense", dtype=policy,
                           kernel_initializer=initializer(config))
        self.dense.build((None, state_size))
        self.convs, channels = [], 4 * filters[0]
        for i, count in enumerate([*filters[1:], config.channels]):
            activation = None if i == layers - 1 else leaky_relu
            layer = ConvTranspose(count, 6 if i >= layers - 2 else 5, strides=2, activation=activation,
                                  name=f"conv_{i}", dtype=policy,
                                  kernel_initializer=initializer(config))
            layer.build((None, None, None, channels))
            self.convs.append(layer)
            channels = count
        name_layers(self, self.convs)
        self.built = True

    def call(self, states):
        """states: [..., Z + H]. Returns the mean of p(frame | states), [..., S, S, C]."""
        rows = tf.reshape(states, [-1, states.shape[-1]])
        frames = recomputed(self.decode, rows) if self.config.remat else self.decode(rows)
        return reshape_end(frames, 1, frames.shape[1:], like=states)

    def pixels(self, states):
        """p(frame | states) for states [..., Z + H], as Pixels."""
        return Pixels(self, states)

    def decode(self, states):
        """[N, Z + H] to [N, S, S, C]."""
        hidden = self.dense(states)[:, None, None]
        for conv in self.convs:
            hidden = conv(hidden)
        return tf.tanh(self.bend(hidden))

    def bend(self, x):
        """The values of the last layer; dec_negative_slope multiplies those below 0.

        Negative values mean black. A slope below 1 makes their noise smaller, so black backgrounds
        become cleaner.
        """
        slope = self.config.dec_negative_slope
        return x if slope == 1 else tf.nn.leaky_relu(x, slope)

    def log_normal(self, squares, pixels):
        """The log-density of so many pixels from the sum of their squared errors."""
        stddev = self.config.dec_stddev
        return -squares / (2 * stddev**2) - pixels * math.log(stddev * math.sqrt(2 * math.pi))


class Pixels:
    """p(frame | states) = Normal(mean, dec_stddev) for states [..., Z + H].

    It decodes the frames when mean or log_prob first needs them, and only once.
    """

    def __init__(self, decoder, states):
        self.decoder, self.states = decoder, states

    @functools.cached_property
    def mean(self):
        """The decoded frames: [..., S, S, C]."""
        return self.decoder(self.states)

    def log_prob(self, video):
        """log p(frame | states) of video [..., S, S, C], in nats: [...]."""
        squares = tf.reduce_sum(tf.math.squared_difference(self.mean, video), [-3, -2, -1])
        return self.decoder.log_normal(squares, math.prod(video.shape[-3:]))


ENCODERS, DECODERS = {"Encoder": Encoder}, {"Decoder": Decoder}  # encoder_type, decoder_type pick one


def num_layers(config):
    return int(math.log2(config.image_size)) - 2


def initializer(config):
    """The initializer of Glorot and Bengio (2010) for convolutions and the decoder's dense layer.

    init_gain multiplies the weights. With a gain of 1, as published, each layer shrinks the differences
    between frames, and the model may need very long to learn colours.
    """
    return tf.keras.initializers.VarianceScaling(config.init_gain**2, "fan_avg", "uniform")


def recomputed(function, *inputs):
    """function(*inputs) [N, ...] in chunks of rows. The gradient computes each chunk again."""
    function = tf.recompute_grad(function)
    rows = range(0, inputs[0].shape[0], REMAT_FRAMES)
    return tf.concat([function(*(x[i:i + REMAT_FRAMES] for x in inputs)) for i in rows], 0)


def name_layers(owner, layers):
    """Makes layers attributes by their names, because tf.train.Checkpoint does not look into lists."""
    for layer in layers:
        setattr(owner, layer.name, layer)


# ------------------------------------------------------------------------------------- layers
# These are Keras's layers without padding. As in cells.py, bfloat16 rounds only operands of products.


def leaky_relu(x):
    return tf.nn.leaky_relu(x, 0.2)


class Conv(tf.keras.layers.Conv2D):
    def __call__(self, x):
        operands = (tf.cast(a, self.compute_dtype) for a in (x, self.kernel))
        y = tf.cast(tf.nn.conv2d(*operands, self.strides, "VALID"), tf.float32)
        return self.activation(y + self.bias)


class ConvTranspose(tf.keras.layers.Conv2DTranspose):
    def __call__(self, x):
        sizes = (2 * (n - 1) + k for n, k in zip(x.shape[1:3], self.kernel_size, strict=True))
        operands = (tf.cast(a, self.compute_dtype) for a in (x, self.kernel))
        y = tf.nn.conv2d_transpose(
            *operands, [shape(x)[0], *sizes, self.filters], self.strides, "VALID")
        return self.activation(tf.cast(y, tf.float32) + self.bias)
