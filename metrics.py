"""The metrics, which score predicted frames, and the trivial predictors, which a model must beat.

METRICS is the only list of metrics. Files, tables, plots and analyses follow it.
"""

import dataclasses
import functools
import typing

import numpy as np
import tensorflow as tf

import pixels
from intervals import UNBOUNDED, defined_mean, interval
from networks import LPIPS
from video_data import doom_mazes, handwriting
from video_data.digits import compare_digits

BETTER = ("a frame counts if, on the same videos, the 95 % interval of the difference from each trivial "
          "predictor is above 0")
# A model that does not beat these has learned nothing. Keys are names in files, values words in tables.
TRIVIAL = {"last_frame": "last frame held", "context_mean": "mean of the context",
           "mean_frame": "mean frame of the training data", "black": "black"}


def trivial_predictions(context, mean_frame=None):
    """The frame that each trivial predictor predicts at all times: a dict of float32 [B, H, W, C].

    context: uint8 [B, ctx, H, W, C], the frames observed.
    mean_frame: float32 [H, W, C], of the training data; None leaves out its predictor.
    """
    context = pixels.to_float(context)
    last, black = context[:, -1], tf.zeros_like(context[:, 0])
    found = {"last_frame": last, "context_mean": tf.reduce_mean(context, 1), "black": black}
    return found if mean_frame is None else found | {"mean_frame": black + mean_frame}


def trivial_of(name, values):
    """The scores of the trivial predictors in a metric, by the names of the predictors.

    values: scores by names such as "psnr_last_frame", from Predictor.trivial.
    """
    return {predictor: values[f"{name}_{predictor}"] for predictor in TRIVIAL
            if f"{name}_{predictor}" in values}


class Factors(typing.NamedTuple):
    """What a dataset knows about its videos beside their pixels, such as the place of a digit.

    A factor is an array [B, T, ...]. A factor of a whole video is the same in every frame.

    frames: a dict of the factors in the frames that are compared.
    context: a dict of the factors in the frames that the model has observed.
    """

    frames: dict
    context: dict


@dataclasses.dataclass(frozen=True)
class Metric:
    """A score of predicted frames, and how to show it.

    name: in files.
    label, unit: on axes and in tables; the unit may be "".
    convention: the exact definition, for readers who compare with another paper.
    function: (truth, prediction, factors) -> the score of every frame, float32 [B, S, F]. NaN means that
        the metric is undefined for a frame; means and intervals leave such frames out. Truth is
        [B, 1, F, H, W, C]. Prediction is [B, S, F, H, W, C], or has 1 for F if it is the same for all
        frames, so the function must broadcast. Factors are Factors of the names in `needs`.
    better: "higher" or "lower".
    decimals: in tables.
    pixels: the input of the function. "clipped" and "unclipped" are float32 tensors in a graph that XLA
        compiles: predictions clipped to [0, 1], or as decoded. "8-bit" means uint8 arrays.
    headline: whether it is drawn over time and chooses a best sample; others are numbers in tables and
        metrics.npz alone.
    needs: names of factors. Data that lacks one of them does not have the metric.
    limits: the least and the greatest possible score.
    networks: names of networks. A flag of eval.py by the metric's name must choose one of them; without
        it the metric is left out. Then function(network) gives the function, and {network} in the
        convention becomes its name.
    part_of: the name of another metric, whose scores this one has in some frames; in the others it is
        undefined. The function then maps (scores of the other metric, factors) to its own.
    """

    name: str
    label: str
    unit: str
    convention: str
    function: typing.Callable
    better: str = "higher"
    decimals: int = 3
    pixels: str = "clipped"
    headline: bool = True
    needs: tuple = ()
    limits: tuple = UNBOUNDED
    networks: tuple = ()
    part_of: str = ""

    def score(self, truth, prediction, factors):
        """The scores of every frame. The function sees only the factors that the metric needs."""
        needed = ({name: known[name] for name in self.needs} for known in factors)
        return self.function(truth, prediction, Factors(*needed))

    @property
    def axis(self):
        """The label with its unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    @property
    def heading(self):
        """The label with its unit, and which way is better."""
        return f"{self.axis} {'↑' if self.better == 'higher' else '↓'}"

    def advantage(self, a, b):
        """How much better a is than b."""
        return a - b if self.better == "higher" else b - a

    def difference(self, a, b):
        """The interval of a's advantage over b: low, high, each [...].

        a, b: [S, V, ...], scores of one or more seeds on the same videos.
        """
        return interval(a, b, self.limits) if self.better == "higher" else interval(b, a, self.limits)

    def beats(self, scores, others):
        """Where scores [N, F] beat each of the others [N, F], by the rule BETTER: bool [F]."""
        return np.all([self.difference(scores[None], other[None])[0] > 0 for other in others], 0)

    def best(self, values, axis):
        """The best values along an axis. NaN, which means undefined, is never the best."""
        return (np.fmax if self.better == "higher" else np.fmin).reduce(np.asarray(values), axis)

    def best_sample(self, values):
        """The best of S samples by its mean over time: [..., S, F] to whole numbers [...]."""
        worth = self.advantage(defined_mean(np.asarray(values), -1), 0)
        return np.where(np.isnan(worth), -np.inf, worth).argmax(-1)


def lpips(network):
    """The function of the metric LPIPS."""
    distance = LPIPS(network)
    return lambda truth, prediction, factors: distance(truth, prediction)


def handwritten(prediction, factors):
    """The share of the two handwritten digits that are read as the true ones: float32 [B, S, F].

    prediction: uint8 [B, S, F, 64, 64, 1], or with 1 for F.
    """
    read = handwriting.read(prediction.reshape(-1, *prediction.shape[3:]))
    return handwriting.share_right(read.reshape(*prediction.shape[:3], 2),
                                   np.asarray(factors.frames["digits"])[:, None])


def walls(prediction, factors):
    """Whether the wall that a frame of a maze shows is read as the true one: float32 [B, S, F].

    prediction: uint8 [B, S, F, H, W, 3], or with 1 for F. A true frame with several walls gives NaN.
    """
    true = np.asarray(factors.frames["wall"])[:, None]
    read = doom_mazes.read_walls(prediction.reshape(-1, *prediction.shape[3:]))
    right = read.reshape(prediction.shape[:3]) == true
    return np.where(true < 0, np.float32(np.nan), np.float32(right))


def in_cells(revisited, scores, factors):
    """The scores of frames whose cell the context has visited (or: not), and NaN for the others."""
    cells, shown = (tf.reshape(known["cell"], [*known["cell"].shape[:2], -1]) for known in factors)
    equal = tf.reduce_all(tf.equal(cells[:, :, None], shown[:, None]), -1)
    return tf.where(tf.reduce_any(equal, -1)[:, None] == revisited, scores, np.float32(np.nan))


def parts_by_cell(metric):
    """Two measures of memory: a metric in cells where the camera was before, and in other cells."""
    for name, revisited, words in (("revisited", True, "has shown"), ("new", False, "has not shown")):
        yield dataclasses.replace(
            metric, name=f"{metric.name}_{name}", label=f"{metric.label}, {name}", networks=(),
            convention=f"over frames in cells that the context {words}", part_of=metric.name,
            function=functools.partial(in_cells, revisited), needs=(*metric.needs, "cell"))


SCORES = (
    Metric(
        "psnr", "PSNR", "dB", "PSNR in dB of predictions clipped to [0, 1], data range 1, per frame",
        lambda truth, prediction, factors: pixels.psnr(truth, prediction), decimals=2,
        limits=(-np.inf, pixels.MAX_PSNR)),
    Metric(
        "ssim", "SSIM", "",
        "SSIM as in scikit-image (7x7 uniform window, sample covariance, K1 0.01, K2 0.03, interior "
        "pixels) of predictions clipped to [0, 1], data range 1, per frame",
        lambda truth, prediction, factors: pixels.ssim(truth, prediction), limits=(-1, 1)),
    Metric(
        "lpips", "LPIPS", "",
        "LPIPS (lpips 0.1, net {network}) of 8-bit predictions, grey repeated to colour, per frame; "
        "lower is better",
        lpips, better="lower", pixels="8-bit", limits=(0, np.inf), networks=("alex", "vgg", "squeeze")),
    Metric(
        "identity", "Identity", "",
        "share of the digits that are read as the true ones, by the best normalised correlation with "
        "the ten images, per frame; below 0.5 nothing is read, which is wrong",
        lambda truth, prediction, factors: compare_digits(prediction, **factors.frames)[0].mean(-1),
        pixels="8-bit", needs=("label", "position"), limits=(0, 1)),
    Metric(
        "position_error", "Position error", "pixels",
        "distance from where a digit is to where it is read, mean over the digits of a frame; where "
        "nothing is read the expected distance of a random place",
        lambda truth, prediction, factors: compare_digits(prediction, **factors.frames)[1].mean(-1),
        better="lower", decimals=2, pixels="8-bit", needs=("label", "position"), limits=(0, np.inf)),
    Metric(
        "digits", "Digits", "",
        "share of the two handwritten digits, in any order, that a small network reads as the true "
        "ones, per frame; in a frame without a pixel of 64 or more (of 255) nothing is read, which is "
        "wrong",
        lambda truth, prediction, factors: handwritten(prediction, factors),
        pixels="8-bit", needs=("digits", "position"), limits=(0, 1)),
    Metric(
        "walls", "Walls", "",
        "share of frames whose wall is read as the true one, by its colour at the height of the eyes; "
        "frames that truly show several kinds of wall do not count",
        lambda truth, prediction, factors: walls(prediction, factors),
        pixels="8-bit", needs=("wall",), limits=(0, 1)),
    Metric(
        "psnr_unclipped", "PSNR, unclipped", "dB",
        "PSNR in dB of unclipped predictions, data range 1, per frame; of colour the mean over the "
        "channels of each one's PSNR: as published for this model",
        lambda truth, prediction, factors: pixels.psnr(truth, prediction, per_channel=True), decimals=2,
        pixels="unclipped", headline=False, limits=(-np.inf, pixels.MAX_PSNR)),
    Metric(
        "ssim_range2", "SSIM, unclipped, range 2", "",
        "SSIM as above, of unclipped predictions, data range 2: as published for this model",
        lambda truth, prediction, factors: pixels.ssim(truth, prediction, data_range=2.0),
        pixels="unclipped", headline=False, limits=(-1, 1)),
)
METRICS = {metric.name: metric for metric in SCORES}
METRICS |= {part.name: part for name in ("psnr", "ssim", "lpips", "walls")
            for part in parts_by_cell(METRICS[name])}


def chosen(networks=None, factors=()):
    """The metrics that can be computed: a list of Metric.

    networks: the name of the chosen network, by the name of the metric.
    factors: the names of the factors in the data.
    """
    found = {}
    for metric in METRICS.values():
        network, whole = (networks or {}).get(metric.name), found.get(metric.part_of)
        if (metric.networks and not network or metric.part_of and not whole
                or not set(metric.needs) <= set(factors)):
            continue
        if network:
            metric = dataclasses.replace(
                metric, function=metric.function(network),
                convention=metric.convention.format(network=network))
        if whole:
            metric = dataclasses.replace(metric, convention=f"{whole.convention}; {metric.convention}")
        found[metric.name] = metric
    return list(found.values())


def scores(scored, truth, predictions, factors):
    """The scores of every frame: a dict of [B, S, F] by the names of metrics.

    scored: a list of Metric. Those count whose `pixels` are among the predictions.
    predictions: a dict by the `pixels` of metrics. truth, factors: as a function of a Metric takes them.
    """
    found = {}
    for metric in scored:
        if metric.part_of in found:
            found[metric.name] = metric.function(found[metric.part_of], factors)
        elif metric.pixels in predictions:
            found[metric.name] = metric.score(truth, predictions[metric.pixels], factors)
    return found


MEANS = "prediction from means"  # what pictures call a prediction without noise


def kept_samples(scored, scores, mean_only=False):
    """The samples of one video to keep: two random ones, and the best by each headline metric.

    The parts of a metric choose none, because the metric itself does.

    scores: [S, F] of each metric, by name.
    mean_only: whether the prediction is without noise, so that its label is MEANS.

    Returns: numbers of samples by the names of their files, and labels for readers by those numbers.
    """
    kept, best = {"random_sample_1": 0}, {}
    if len(scores[scored[0].name]) > 1:
        kept["random_sample_2"] = 1
        for metric in scored:
            if metric.headline and not metric.part_of:
                number = int(metric.best_sample(scores[metric.name]))
                kept[f"best_{metric.name}_sample"] = number
                best.setdefault(number, []).append(metric.label)
    labels = {number: MEANS if mean_only else f"sample {number + 1}"
              for number in dict.fromkeys(kept.values())}
    for number, names in best.items():
        labels[number] += f": best {', '.join(names)}"
    return kept, labels
