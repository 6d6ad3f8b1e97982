"""Predicts test videos open-loop, with many samples of each, and scores every frame."""

import functools
import itertools

import numpy as np
import tensorflow as tf
import tqdm

import metrics
import startup
import tools
from cells import fold_in
from pixels import to_float, to_uint8

DECODED_AT_ONCE = 1000  # frames; bounds the memory of decoding


class Predictor:
    """Predicts videos open-loop. It encodes the context of a video once for all samples.

    Every random number is a function of (seed, number of the video, sample). Batches change nothing.

    Args:
      scored: the metrics.Metric records to compute; by default all that need only pixels.
      mean_frame: of the training data, [S, S, C], for the trivial predictor of that name; or None.
    """

    def __init__(self, config, model, num_samples, seed, scored=None, mean_frame=None):
        self._mean_frame = mean_frame
        self.config, self.model, self.num_samples, self.seed = config, model, num_samples, seed
        self._scored = metrics.chosen() if scored is None else scored
        # On a CPU, XLA slows down only convolutions, and makes the rest three times as fast.
        without_convolutions = dict(jit_compile=bool(config.jit), autograph=False)
        self._compare = tf.function(self._frames_and_scores, **without_convolutions)
        self._observe = functools.cache(lambda use_obs: startup.graph(
            lambda *inputs: model.observe_context(*inputs, use_obs=use_obs), config))
        self._imagine = tf.function(model.imagine, **without_convolutions)
        self._decode_and_compare = startup.graph(
            lambda states, *truth: self._compare(model.decoder(states), *truth), config)
        self.in_context = slice(0, config.open_loop_ctx)
        self.after_context = slice(config.open_loop_ctx, config.eval_seq_len)

    def predict(self, batch, first):
        """Predicts a batch of videos, the first of which is number `first` of the test set.

        Returns: uint8 [B, S, F, H, W, C], the F frames after the context, and a dict of the metrics of
        every frame: [B, S, F], or [B, ctx] for those of the context itself.
        Raises UserError if a prediction is not finite.
        """
        context = self.observe(batch, first)
        frames, scores = self.decode(
            self.imagine(context.states, batch, first), batch, self.after_context, first)
        for name, states in [("reconstruction", context.posterior), ("one_step", context.prior)]:
            _, values = self.decode(states[:, None], batch, self.in_context, first)
            scores |= {f"{metric}_{name}": value[:, 0] for metric, value in values.items()}
        return frames, scores

    def observe(self, batch, first, use_obs=None):
        """The Context of each video. use_obs: which levels observe, by default those of the config."""
        context = self.config.open_loop_ctx
        actions = batch["actions"][:, :context] if "actions" in batch else None
        seeds = seeds_of_videos(self.seed, first, len(batch["video"]))
        noise = noise_of_videos(self.model, seeds, 0, 1, context)
        return self._observe(use_obs)(batch["video"][:, :context], noise, actions)

    def imagine(self, states, batch, first):
        """The states of level 0 of the F frames after the context, [B, S, F, Z + H].

        states: a State per level, of each video [B, ...].
        """
        size, samples = len(batch["video"]), self.num_samples
        frames = self.config.eval_seq_len - self.config.open_loop_ctx
        actions = None
        if "actions" in batch:
            actions = np.repeat(batch["actions"][:, -frames:], samples, 0)
        noise = noise_of_videos(self.model, seeds_of_videos(self.seed, first, size), 1, samples, frames)
        states = tf.nest.map_structure(lambda x: tf.repeat(x, samples, 0), states)
        imagined, _ = self._imagine(states, frames, noise, actions)
        return tf.reshape(imagined, [size, samples, frames, -1])

    def decode(self, states, batch, frames, first):
        """Decodes states [B, S, F, Z + H] in pieces, and compares the frames with the true ones.

        frames: the slice of the batch's frames that the states belong to.

        Returns: frames, uint8 [B, S, F, H, W, C], and a dict of their metrics, [B, S, F] each.
        Raises UserError if a frame is not finite.
        """
        decoded, scores, finite = self._in_pieces(
            lambda piece, *truth: self._decode_and_compare(states[:, :, piece], *truth),
            batch, frames, states.shape[1])
        if not finite.all():
            raise not_finite(f"test video {first + finite.all((1, 2)).argmin()}")
        return decoded, scores | self._eight_bit_scores(decoded, batch, frames)

    def trivial(self, batch):
        """The metrics of the trivial predictors: [B, F] by names such as "psnr_last_frame"."""
        found = metrics.trivial_predictions(batch["video"][:, self.in_context], self._mean_frame)
        predicted = tf.stack(list(found.values()), 1)[:, :, None]  # [B, predictors, 1, S, S, C]
        _, scores, _ = self._in_pieces(
            lambda _, *truth: self._compare(predicted, *truth), batch, self.after_context,
            predicted.shape[1])
        scores |= self._eight_bit_scores(to_uint8(predicted).numpy(), batch, self.after_context)
        return {f"{name}_{predictor}": values[:, i] for name, values in scores.items()
                for i, predictor in enumerate(found)}

    def _in_pieces(self, compare, batch, frames, predictions):
        """Joins the results of `compare` for pieces of the slice `frames`.

        compare: maps a slice within `frames`, and the video and the Factors in it, to the results of
            _frames_and_scores.
        predictions: how many there are of each video.
        """
        found, length = [], frames.stop - frames.start
        at_most = max(1, DECODED_AT_ONCE // (len(batch["video"]) * predictions))
        size = -(-length // -(-length // at_most))
        for first in range(0, length, size):
            start = min(first, length - size)  # All pieces have one size, so one graph does for all.
            absolute = slice(frames.start + start, frames.start + start + size)
            piece = compare(slice(start, start + size), batch["video"][:, absolute],
                            self._factors(batch, absolute))
            found.append(tf.nest.map_structure(lambda x, again=first - start: x[:, :, again:], piece))
        return tf.nest.map_structure(lambda *pieces: np.concatenate(pieces, 2), *found)

    def _factors(self, batch, frames):
        """The Factors of a slice of a batch's frames."""
        return metrics.Factors(*({name: batch[name][:, part] for name in factors_of(batch)}
                                 for part in (frames, self.in_context)))

    def _eight_bit_scores(self, predicted, batch, frames):
        truth, factors = batch["video"][:, None, frames], self._factors(batch, frames)
        return metrics.scores(self._scored, truth, {"8-bit": predicted}, factors)

    def _frames_and_scores(self, decoded, video, factors):
        """Frames [B, S, F, H, W, C] as uint8, a dict of their scores, and which are finite, [B, S, F].

        decoded: [B, S, F, H, W, C]. video, factors: the true frames [B, F, H, W, C] and their Factors.
        """
        truth = to_float(video)[:, None]
        given = {"clipped": tf.clip_by_value(decoded, 0.0, 1.0), "unclipped": decoded}
        scores = metrics.scores(self._scored, truth, given, factors)
        finite = tf.reduce_all(tf.math.is_finite(decoded), [-3, -2, -1])
        return to_uint8(decoded), scores, finite


def factors_of(batch):
    """The names of the factors in a batch: all but the video and the actions."""
    return [name for name in batch if name not in ("video", "actions")]


def with_progress(total, at_most):
    """Yields (first, size) of batches of videos, and draws a progress bar.

    Batches are of nearly equal size, since every size compiles a graph.
    """
    count = -(-total // max(1, at_most))
    bounds = [total * number // count for number in range(count + 1)]
    with tqdm.tqdm(total=total, unit="video", dynamic_ncols=True) as bar:
        for first, end in itertools.pairwise(bounds):
            yield first, end - first
            bar.update(end - first)


def seeds_of_videos(seed, first, size):
    """A seed for each of the videos from number `first` on."""
    return [fold_in([seed, 0], first + i) for i in range(size)]


def noise_of_videos(model, seeds, purpose, samples, frames):
    """The noise of the samples of several videos, each with its own seed: per level [B S, N_l, Z]."""
    noise = [model.noise(fold_in(seed, purpose), samples, frames) for seed in seeds]
    return [tf.concat(level, 0) for level in zip(*noise, strict=True)]


def not_finite(what):
    """The error of a model whose predictions are NaN or infinite."""
    return tools.UserError(f"the predictions of {what} are not finite: the model has diverged; "
                           f"an earlier checkpoint (--model-dir .../model_<step>) may not have")
