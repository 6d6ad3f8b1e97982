"""Open-loop prediction of test videos, many samples of each, and the scores of every frame."""

import functools
import itertools

import numpy as np
import tensorflow as tf

import metrics
import startup
import tools
from cells import fold_in
from cwvae import to_float

DECODED_AT_ONCE = 1000  # frames: bounds the memory of decoding, whatever the samples and their length


class Predictor:
    """Predicts videos open-loop, all samples of one from one encoding of its context.

    Every random number is a function of (seed, number of the video, sample), whatever the batch.

    Args:
      scored: the metrics.Metric records that are reported; by default all that need nothing else.
    """

    def __init__(self, config, model, num_samples, seed, scored=None):
        self.config, self.model, self.num_samples, self.seed = config, model, num_samples, seed
        self._scored = metrics.chosen() if scored is None else scored
        in_graph = [metric for metric in self._scored if metric.pixels != "8-bit"]
        self._compare = tf.function(functools.partial(frames_and_scores, in_graph), jit_compile=True)
        compiled = dict(jit_compile=startup.use_xla(config))
        self._observe = functools.cache(lambda use_obs: tf.function(
            lambda *inputs: model.observe_context(*inputs, use_obs=use_obs), **compiled))
        # The recurrence alone is three times faster compiled, on a CPU too.
        self._imagine = tf.function(model.imagine, jit_compile=True)
        self._decode_and_compare = tf.function(self._decode_then_compare, **compiled)

    def predict(self, batch, first):
        """Predicts a batch of videos, the first of which is number `first` of the test set.

        Returns: uint8 [B, S, F, 64, 64, C], the F frames after the context, and a dict of every metric
        of every frame: [B, S, F], or [B, ctx] for those of the context itself.
        Raises UserError where a prediction is not finite.
        """
        context = self.observe(batch, first)
        seen, unseen = self.split(batch)
        frames, scores = self.decode(self.imagine(context.states, batch, first), unseen, first)
        for name, states in [("reconstruction", context.posterior), ("one_step", context.prior)]:
            _, values = self.decode(states[:, None], seen, first)
            scores |= {f"{metric}_{name}": value[:, 0] for metric, value in values.items()}
        return frames, scores

    def split(self, batch):
        """The batch in the context, and after it."""
        context = self.config.open_loop_ctx
        return during(batch, slice(context)), during(batch, slice(context, None))

    def observe(self, batch, first, use_obs=None):
        """The Context of each video. use_obs: which levels observe, by default as the config says."""
        context = self.config.open_loop_ctx
        actions = batch["actions"][:, :context] if "actions" in batch else None
        noise = noise_of_videos(self.model, self.seeds(len(batch["video"]), first), 0, 1, context)
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
        noise = noise_of_videos(self.model, self.seeds(size, first), 1, samples, frames)
        states = tf.nest.map_structure(lambda x: tf.repeat(x, samples, 0), states)
        imagined, _ = self._imagine(states, frames, noise, actions)
        return tf.reshape(imagined, [size, samples, frames, -1])

    def decode(self, states, truth, first):
        """Decodes states [B, S, F, Z + H] in pieces, and compares them with the truth.

        truth: the part of a batch that holds the same frames.

        Returns: frames, uint8 [B, S, F, 64, 64, C], and a dict of their metrics, [B, S, F] each.
        Raises UserError where one is not finite.
        """
        frames, scores = self._in_pieces(
            lambda piece, truth: self._decode_and_compare(states[:, :, piece], truth),
            truth, states.shape[1])
        scores |= self._eight_bit_scores(frames, truth)
        finite = np.isfinite(sum(scores.values())).all((1, 2))
        if not finite.all():
            raise not_finite(f"test video {first + finite.argmin()}")
        return frames, scores

    def trivial(self, batch):
        """The metrics of the trivial predictors: a dict of [B, F], by names as "psnr_last_frame"."""
        seen, unseen = self.split(batch)
        predicted = metrics.trivial_predictions(seen["video"])
        _, scores = self._in_pieces(
            lambda _, truth: self._compare(predicted, truth), unseen, predicted.shape[1])
        scores |= self._eight_bit_scores(to_uint8(predicted).numpy(), unseen)
        return {f"{name}_{predictor}": values[:, i] for name, values in scores.items()
                for i, predictor in enumerate(metrics.TRIVIAL)}

    def _in_pieces(self, compare, truth, predictions):
        """Frames and scores of so many predictions of each video, joined from pieces of time.

        compare: from a slice of frames and the truth in it to what frames_and_scores returns.
        """
        size, length = truth["video"].shape[:2]
        chunk = max(1, DECODED_AT_ONCE // (size * predictions))
        pieces = [slice(start, start + chunk) for start in range(0, length, chunk)]
        frames, scores = zip(*(compare(piece, during(truth, piece)) for piece in pieces), strict=True)
        return np.concatenate(frames, 2), {
            name: np.concatenate([piece[name] for piece in scores], 2) for name in scores[0]}

    def _eight_bit_scores(self, frames, truth):
        return {metric.name: metric.function(truth["video"][:, None], frames, factors_of(truth))
                for metric in self._scored if metric.pixels == "8-bit"}

    def seeds(self, size, first):
        """A seed for each of `size` videos."""
        return [fold_in([self.seed, 0], first + i) for i in range(size)]

    def _decode_then_compare(self, states, truth):
        return self._compare(self.model.decoder(states), truth)


def frames_and_scores(scored, decoded, truth):
    """The frames of decoded [B, S, F, 64, 64, C] as uint8, and a dict of their scores, [B, S, F].

    scored: the metrics.Metric records that are computed. truth: a part of a batch.
    """
    video = to_float(truth["video"])[:, None]
    pixels = {"clipped": tf.clip_by_value(decoded, 0.0, 1.0), "unclipped": decoded}
    return to_uint8(pixels["clipped"]), {
        metric.name: metric.function(video, pixels[metric.pixels], factors_of(truth))
        for metric in scored}


def during(batch, frames):
    """The part of a batch within a slice of frames."""
    return {name: value if name == "label" else value[:, frames] for name, value in batch.items()}


def factors_of(batch):
    """What the data knows of its videos, as metrics have it; None where it knows nothing."""
    return {name: batch[name] for name in ("label", "position")} if "label" in batch else None


def even_batches(total, at_most):
    """Yields (first, size) of batches as equal as can be: a graph is compiled for every size."""
    count = -(-total // max(1, at_most))
    bounds = [total * number // count for number in range(count + 1)]
    for first, end in itertools.pairwise(bounds):
        yield first, end - first


def noise_of_videos(model, seeds, purpose, samples, frames):
    """The noise of samples of several videos, per level [B S, N_l, Z]: each video has its own seed."""
    noise = [model.noise(fold_in(seed, purpose), samples, frames) for seed in seeds]
    return [tf.concat(level, 0) for level in zip(*noise, strict=True)]


def to_uint8(clipped):
    """Frames in [0, 1] as whole numbers from 0 to 255: a quarter of the bytes to fetch from a GPU."""
    return tf.cast(tf.round(255 * clipped), tf.uint8)


def not_finite(what):
    """The error of a model whose predictions are no numbers."""
    return tools.UserError(f"the predictions of {what} are not finite: the model has diverged; "
                           f"an earlier checkpoint (--model-dir .../model_<step>) may not have")
