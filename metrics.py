"""The metrics: how predicted frames are scored, beside what trivial predictors reach.

METRICS is the one list of metrics: files, tables, plots and analyses follow it.
"""

import dataclasses
import functools
import typing

import numpy as np
import tensorflow as tf

import pixels
from intervals import UNBOUNDED, defined_mean, interval
from networks import LPIPS
from video_data import doom_mazes
from video_data.digits import compare_digits

BETTER = ("a frame counts where, videos paired, the 95 % interval of the difference from each trivial "
          "predictor is above 0")
# A model that does not beat these has learned nothing. The words of tables, by the names of files.
TRIVIAL = {"last_frame": "last frame held", "context_mean": "mean of the context",
           "mean_frame": "mean frame of the training data", "black": "black"}


def trivial_predictions(context, mean_frame=None):
    """The frame that each trivial predictor predicts at all times: a dict of float32 [B, H, W, C].

    context: uint8 [B, ctx, H, W, C], the frames observed.
    mean_frame: float32 [H, W, C], of the training data; without it that predictor is left out.
    """
    context = pixels.to_float(context)
    last, black = context[:, -1], tf.zeros_like(context[:, 0])
    found = {"last_frame": last, "context_mean": tf.reduce_mean(context, 1), "black": black}
    return found if mean_frame is None else found | {"mean_frame": black + mean_frame}


def trivial_of(name, values):
    """The scores of a metric that the trivial predictors reach, by their names.

    values: scores by names as "psnr_last_frame", as of Predictor.trivial.
    """
    return {predictor: values[f"{name}_{predictor}"] for predictor in TRIVIAL
            if f"{name}_{predictor}" in values}


class Factors(typing.NamedTuple):
    """What a dataset knows of its videos beside their pixels, by the names that it gives to it.

    A factor is an array [B, T, ...]; one that holds for a whole video is the same in every frame.

    frames: a dict of the factors in the frames that are compared.
    context: a dict of the factors in the frames that the model has observed.
    """

    frames: dict
    context: dict


@dataclasses.dataclass(frozen=True)
class Metric:
    """How predicted frames are scored, and how the scores are shown.

    name: of the metric in files.
    label, unit: on axes and in tables; the unit may be "".
    convention: the exact definition, for those who compare it with another paper's.
    function: (truth, prediction, factors) -> the score of every frame, float32 [B, S, F]; NaN in a frame
        for which the metric is undefined, which means and intervals then leave out. Truth is
        [B, 1, F, H, W, C], prediction [B, S, F, H, W, C], or with 1 for F where it is the same for all
        frames: what broadcasts, as subtraction does, gets both right. Factors are Factors of the names
        that the metric needs.
    better: "higher" or "lower".
    decimals: in tables.
    pixels: what the function is given. "clipped" and "unclipped": float32 tensors, in a graph that XLA
        compiles, the predictions clipped to [0, 1] or as decoded. "8-bit": uint8 arrays, outside of it.
    headline: drawn over time, with a best sample; else a number of tables and metrics.npz alone.
    needs: the names of the factors that it needs; it is left out for data that lacks one of them.
    limits: the least and the greatest score that there can be.
    networks: names of networks, of which a flag --<name> chooses one; without it the metric is left out.
        function(network) then gives the function, and a {network} in the convention is its name.
    part_of: the name of the metric of which this is a part: it has the same scores in some frames, and
        is undefined in the others. function(that metric's function) then gives the function.
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
        """The function's scores of every frame, given only the factors that the metric needs."""
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
        """By how much a is better than b."""
        return a - b if self.better == "higher" else b - a

    def difference(self, a, b):
        """The interval of a's advantage over b: low, high, each [...].

        a, b: [S, V, ...], of one seed or more on the same videos.
        """
        return interval(a, b, self.limits) if self.better == "higher" else interval(b, a, self.limits)

    def beats(self, scores, others):
        """Where scores [N, F] beat each of the others [N, F], by the rule BETTER: bool [F]."""
        return np.all([self.difference(scores[None], other[None])[0] > 0 for other in others], 0)

    def best(self, values, axis):
        """The best values along an axis; NaN, where this metric is undefined, is never the best."""
        return (np.fmax if self.better == "higher" else np.fmin).reduce(np.asarray(values), axis)

    def best_sample(self, values):
        """The best of S samples by its mean over time: [..., S, F] to whole numbers [...]."""
        worth = self.advantage(defined_mean(np.asarray(values), -1), 0)
        return np.where(np.isnan(worth), -np.inf, worth).argmax(-1)


def lpips(network):
    """The function of the metric LPIPS. It keeps its last scores, since its parts ask for them again."""
    distance, last = LPIPS(network), [None, None]

    def function(truth, prediction, factors):
        if last[0] is not prediction:
            last[:] = prediction, distance(truth, prediction)
        return last[1]

    return function


def walls(prediction, factors):
    """Whether the wall that a frame of a maze shows is read as the true one: float32 [B, S, F].

    prediction: uint8 [B, S, F, H, W, 3], or with 1 for F. NaN where the true frame shows several walls.
    """
    true = np.asarray(factors.frames["wall"])[:, None]
    read = doom_mazes.read_walls(prediction.reshape(-1, *prediction.shape[3:]))
    right = read.reshape(prediction.shape[:3]) == true
    return np.where(true < 0, np.float32(np.nan), np.float32(right))


def in_cells(revisited, function):
    """A metric's function, undefined but in frames whose cell the context has shown, or has not."""
    def restricted(truth, prediction, factors):
        cells, shown = factors.frames["cell"][:, :, None], factors.context["cell"][:, None]
        seen = tf.reduce_any(tf.reduce_all(tf.equal(cells, shown), -1), -1)[:, None]
        return tf.where(seen == revisited, function(truth, prediction, factors), np.float32(np.nan))

    return restricted


def parts_by_cell(metric):
    """Two metrics of memory: a metric where the camera has been before, and where it has not."""
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

    networks: the network chosen for each metric that has some, by the metric's name.
    factors: the names of the factors that the data has.
    """
    networks = networks or {}
    found = {}
    for metric in METRICS.values():
        if metric.networks and metric.name in networks:
            network = networks[metric.name]
            metric = dataclasses.replace(
                metric, function=metric.function(network), networks=(),
                convention=metric.convention.format(network=network))
        if metric.part_of in found:
            whole = found[metric.part_of]
            metric = dataclasses.replace(metric, function=metric.function(whole.function),
                                         convention=f"{whole.convention}; {metric.convention}")
        whole_is_there = not metric.part_of or metric.part_of in found
        if not metric.networks and whole_is_there and set(metric.needs) <= set(factors):
            found[metric.name] = metric
    return list(found.values())


def kept_samples(scored, scores):
    """The samples of one video that are kept: two random ones, and the best by each headline metric.

    Of a metric's parts none is kept: what they are parts of has one.

    scores: [S, F] of each of the metrics scored, by name.

    Returns: their numbers by the names of their files, and what a reader calls them by their numbers.
    """
    kept, best = {"random_sample_1": 0}, {}
    if len(scores[scored[0].name]) > 1:
        kept["random_sample_2"] = 1
        for metric in scored:
            if metric.headline and not metric.part_of:
                number = int(metric.best_sample(scores[metric.name]))
                kept[f"best_{metric.name}_sample"] = number
                best.setdefault(number, []).append(metric.label)
    labels = {number: f"sample {number + 1}" for number in dict.fromkeys(kept.values())}
    for number, names in best.items():
        labels[number] += f": best {', '.join(names)}"
    return kept, labels
