"""Evaluation as one would first write it: what eval.py's speed and numbers are compared with.

Every sample encodes the whole video anew, every dense layer runs at every tick, prior and posterior
both, and scikit-image scores one frame at a time.
"""

import numpy as np
import tensorflow as tf
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from predictor import noise_of_videos


class PlainEvaluation:
    """Predicts and scores one video at a time with the weights of a CWVAE that takes no actions."""

    def __init__(self, model, context):
        self.model, self.context = model, context
        self._roll_out = tf.function(self._roll_out_levels)
        self._decode = tf.function(self._decode_states)

    def __call__(self, video, noise):
        """Scores samples of a video, uint8 [T, 64, 64, C], one for each of noise, per level [S, N_l, Z].

        Returns: a dict of psnr and ssim, [S, T - context] each.
        """
        samples = noise[0].shape[0]
        states = self._roll_out(np.repeat(video[None], samples, 0), noise)  # [S, T, Z + H]
        scores = {"psnr": [], "ssim": []}
        for sample in states[:, self.context:]:
            decoded = np.clip(self._decode(sample), 0, 1)
            of_frames = [score(*pair) for pair in zip(video[self.context:] / 255, decoded, strict=True)]
            for name, values in zip(scores, zip(*of_frames, strict=True), strict=True):
                scores[name].append(values)
        return {name: np.array(values) for name, values in scores.items()}

    def _roll_out_levels(self, video, noise):
        """The states of level 0 of all frames: posterior in the context, prior after it."""
        model, config = self.model, self.model.config
        embeddings = model.encoder(tf.cast(video, tf.float32) / 255)
        above = None
        for level in reversed(range(config.levels)):
            ticks = embeddings[level].shape[1]
            if above is None:
                context = tf.zeros([video.shape[0], ticks, model.state_size])
            else:
                context = tf.repeat(above, config.factors[level], axis=1)[:, :ticks]
            above = self._roll_out_level(
                model.cells[level], embeddings[level], context, noise[level],
                self.context // config.strides[level])
        return above

    def _roll_out_level(self, cell, embedding, context, noise, observed):
        samples, ticks = embedding.shape[:2]
        stoch, deter = cell.initial_state(samples)
        states = tf.TensorArray(tf.float32, ticks)
        for tick in tf.range(ticks):
            hidden = tf.nn.relu(cell.prior_input(tf.concat([stoch, context[:, tick]], -1)))
            _, deter = cell.gru(hidden, deter)
            hidden = tf.nn.relu(cell.prior_hidden(deter))
            prior = self._gaussian(hidden, cell.prior_mean, cell.prior_stddev, cell)
            hidden = tf.nn.relu(cell.posterior_input(tf.concat([deter, embedding[:, tick]], -1)))
            hidden = tf.nn.relu(cell.posterior_hidden(hidden))
            posterior = self._gaussian(hidden, cell.posterior_mean, cell.posterior_stddev, cell)
            mean, stddev = (tf.where(tick < observed, q, p)
                            for q, p in zip(posterior, prior, strict=True))
            stoch = mean + stddev * noise[:, tick]
            states = states.write(tick, tf.concat([stoch, deter], -1))
        return tf.transpose(states.stack(), [1, 0, 2])

    def _decode_states(self, states):
        """[F, Z + H] to frames, by Keras's own layers."""
        decoder = self.model.decoder
        hidden = decoder.dense(states)[:, None, None]
        for conv in decoder.convs[:-1]:
            hidden = tf.nn.leaky_relu(conv(hidden), 0.2)
        return tf.tanh(decoder.convs[-1](hidden))

    def _gaussian(self, hidden, mean, stddev, cell):
        return mean(hidden), tf.nn.softplus(stddev(hidden + 0.54)) + cell.min_stddev


def score(truth, prediction):
    """PSNR and SSIM of one frame [64, 64, C]."""
    prediction = prediction.astype(np.float64)
    return (peak_signal_noise_ratio(truth, prediction, data_range=1),
            structural_similarity(truth, prediction, data_range=1, channel_axis=-1))


def noise_of(predictor, first):
    """The noise that a Predictor uses for its samples of video number `first`, over all frames."""
    config = predictor.config
    seeds = predictor.seeds(1, first)
    model = predictor.model
    context = noise_of_videos(model, seeds, 0, 1, config.open_loop_ctx)
    ahead = noise_of_videos(
        model, seeds, 1, predictor.num_samples, config.eval_seq_len - config.open_loop_ctx)
    return [tf.concat([tf.repeat(seen, predictor.num_samples, 0), unseen], 1)
            for seen, unseen in zip(context, ahead, strict=True)]
