"""How good predictions are: PSNR, SSIM, LPIPS, FVD, and confidence intervals of their means.

METRICS, at the end, is the one list of metrics: files, tables, plots and analyses follow it.

PSNR and SSIM are TensorFlow, usable inside a graph. LPIPS needs PyTorch and FVD a downloaded
network: both are optional, and imported only by who asks for them.
"""

import dataclasses
import functools
import itertools
import os
import typing
import urllib.error
import warnings

import numpy as np
import scipy.stats
import tensorflow as tf

from tools import UserError
from video_data.moving_digit import ROOM, read_digits

SSIM_WINDOW = 7
MAX_PSNR = 100.0  # dB


# ----------------------------------------------------------------------------------- PSNR, SSIM


# XLA fuses each metric into a few passes over memory: on CPU, SSIM is 7 times faster, PSNR 20.
@tf.function(jit_compile=True)
def psnr(truth, prediction, data_range=1.0, per_channel=False):
    """Peak signal-to-noise ratio of every frame, 10 log10(data_range^2 / mse), in dB.

    Two equal frames have an infinite ratio, which would make any mean infinite: ratios are cut off
    at 100 dB. Two 8-bit frames of 64x64 pixels that differ at all are below 90 dB, so the cut-off
    touches equal frames only; everywhere else this is scikit-image's peak_signal_noise_ratio.

    Args:
        truth: [..., H, W, C], in [0, data_range]. Broadcasts against prediction.
        prediction: [..., H, W, C], C known in advance.
        data_range: a Python number, the distance between the least and the greatest pixel value.
        per_channel: take each channel's ratio by itself, and the mean of these over the channels.

    Returns:
        [...] float32.
    """
    error = tf.cast(truth, tf.float64) - tf.cast(prediction, tf.float64)
    mse = tf.reduce_mean(error**2, [-3, -2] if per_channel else [-3, -2, -1])
    mse = tf.maximum(mse, data_range**2 * 10 ** (-MAX_PSNR / 10))
    ratio = 10 / np.log(10) * tf.math.log(data_range**2 / mse)
    return tf.cast(tf.reduce_mean(ratio, -1) if per_channel else ratio, tf.float32)


@tf.function(jit_compile=True)
def ssim(truth, prediction, data_range=1.0):
    """Structural similarity of every frame (Wang et al. 2004), as scikit-image computes it.

    The defaults of skimage.metrics.structural_similarity: a uniform 7x7 window, the sample
    covariance (n - 1), K1 = 0.01, K2 = 0.03, the mean over the windows that lie inside the frame
    and over the channels. Computed in float64: the variance of a flat window is the difference of
    two nearly equal numbers, whose float32 rounding is not small beside (K2 data_range)^2.
    Takes about 100 kB of memory a frame of 64x64x1 while it runs.

    Args:
        truth: [..., H, W, C]. Broadcasts against prediction: give [B, 1, T, H, W, C] for samples
            [B, S, T, H, W, C], and the means of the truth are computed once.
        prediction: [..., H, W, C], C known in advance.
        data_range: a Python number, the distance between the least and the greatest pixel value.

    Returns:
        [...] float32, at most 1.
    """
    channels = truth.shape[-1]

    def window_mean(x):
        return _window_sum(x, channels) / SSIM_WINDOW**2

    x, y = _rows(tf.cast(truth, tf.float64)), _rows(tf.cast(prediction, tf.float64))
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_x, mean_y = window_mean(x), window_mean(y)
    squared_means = mean_x**2 + mean_y**2
    # The formula needs only the sum of the variances: one moving average instead of two.
    unbiased = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)
    variances = unbiased * (window_mean(x**2 + y**2) - squared_means)
    covariance = unbiased * (window_mean(x * y) - mean_x * mean_y)
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)
                  / ((squared_means + c1) * (variances + c2)))
    return tf.cast(tf.reduce_mean(similarity, [-2, -1]), tf.float32)


def _rows(video):
    """Joins columns and channels, so that the innermost axis is long: [..., H, W C]."""
    return tf.reshape(video, tf.concat([tf.shape(video)[:-2], [-1]], 0))


def _window_sum(x, channels):
    """Sum over every 7x7 window inside a frame: [..., H, W C] -> [..., H - 6, (W - 6) C]."""
    # Sums of 7 from sums of 2 and of 4: four additions a pixel and axis.
    pairs = x[..., :-1, :] + x[..., 1:, :]
    fours = pairs[..., :-2, :] + pairs[..., 2:, :]
    x = fours[..., :-3, :] + pairs[..., 4:-1, :] + x[..., 6:, :]
    c = channels
    pairs = x[..., :-c] + x[..., c:]
    fours = pairs[..., : -2 * c] + pairs[..., 2 * c :]
    return fours[..., : -3 * c] + pairs[..., 4 * c : -c] + x[..., 6 * c :]


# --------------------------------------------------------------------------- confidence intervals


def bootstrap_interval(values, confidence=0.95, seed=0, num_resamples=2000):
    """Confidence interval of the mean over examples, by the percentile bootstrap (SciPy).

    One example says nothing of the spread: both bounds are then NaN.

    Args:
        values: [N] or [N, ...], one entry an example; finite.
        confidence: the share of intervals that hold the true mean.
        seed: of the resampling; equal seeds give equal intervals.
        num_resamples: sets of N examples drawn with replacement.

    Returns:
        low, high: each [...], float64.
    """
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
        raise ValueError("bootstrap_interval needs finite values")
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan), np.full(values.shape[1:], np.nan)
    # SciPy resamples the examples' numbers; the mean of the examples a resample holds is a matrix
    # product with how often it holds each, far cheaper than gathering [resamples, N, ...] values.
    flat = values.reshape(len(values), -1)

    def mean(resampled, axis):
        counts = np.apply_along_axis(np.bincount, axis, resampled, minlength=len(flat))
        return np.moveaxis(counts @ flat / len(flat), -1, 0)

    result = scipy.stats.bootstrap(
        (np.arange(len(flat)),), mean, confidence_level=confidence, n_resamples=num_resamples,
        method="percentile", rng=np.random.default_rng(seed))
    interval = result.confidence_interval
    return interval.low.reshape(values.shape[1:]), interval.high.reshape(values.shape[1:])


def bootstrap_interval_of_runs(values, confidence=0.95, seed=0, num_resamples=2000):
    """Confidence interval of the mean over runs and examples, by a bootstrap over both.

    A resample is as many runs and as many examples, each drawn with replacement: all runs are evaluated
    on the same examples. Of one run it is bootstrap_interval.

    Args:
        values: [R, N] or [R, N, ...], of R runs on N examples; finite.
        confidence, seed, num_resamples: as of bootstrap_interval.

    Returns:
        low, high: each [...], float64.
    """
    values = np.asarray(values, np.float64)
    if len(values) == 1:
        return bootstrap_interval(values[0], confidence, seed, num_resamples)
    rng = np.random.default_rng(seed)
    runs, examples = (rng.multinomial(size, np.full(size, 1 / size), num_resamples) / size
                      for size in values.shape[:2])  # [resamples, R] and [resamples, N]
    flat = values.reshape(*values.shape[:2], -1)
    means = sum(runs[:, i, None] * (examples @ flat[i]) for i in range(len(flat)))
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    low, high = np.quantile(means, tails, axis=0)
    return low.reshape(values.shape[2:]), high.reshape(values.shape[2:])


def mean_and_interval(values):
    """The mean and its 95 % interval, as JSON has them; no interval of one example.

    values: [N] of the examples, or [R, N] of several runs on the same examples.
    """
    values = np.asarray(values)
    low, high = bootstrap_interval_of_runs(values.reshape(-1, values.shape[-1]))
    return {"mean": float(np.mean(values)),
            "confidence_95": None if np.isnan(low) else [float(low), float(high)]}


# -------------------------------------------------------------------------------------------- tables


def cell(estimate, decimals):
    """A mean and its interval: "2.30 [1.95, 2.66]"; the mean alone where there is one example.

    estimate: as of mean_and_interval.
    """
    def text(x):
        return f"{round(x, decimals) + 0.0:.{decimals}f}"  # no minus before a zero

    if estimate["confidence_95"] is None:
        return text(estimate["mean"])
    return "{} [{}, {}]".format(*map(text, [estimate["mean"], *estimate["confidence_95"]]))


def markdown(lines):
    """Rows of words, the first of which are heads, as a Markdown table."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines = [lines[0], ["-" * width for width in widths], *lines[1:]]
    return "".join(f"| {' | '.join(map(str.ljust, line, widths))} |\n" for line in lines)


# ------------------------------------------------------------------------------- trivial predictors

# What needs no model: a model that does not beat these has learned nothing. By name, what tables say.
TRIVIAL = {"last_frame": "last frame held", "context_mean": "mean of the context", "black": "black"}


def trivial_predictions(context):
    """The prediction of each trivial predictor, in the order of TRIVIAL; each is the same at all times.

    context: uint8 [B, ctx, H, W, C], the frames observed.

    Returns: float32 [B, 3, 1, H, W, C].
    """
    context = _to_float(context)
    last, mean = context[:, -1], context.mean(1)
    return np.stack([last, mean, np.zeros_like(last)], 1)[:, :, None]


def spans(better):
    """The spans of frames for which `better`, bool [F], holds: (first, last) pairs of indices."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], better, [False]]).astype(int)))
    return [(int(first), int(end) - 1) for first, end in edges.reshape(-1, 2)]


def spans_text(found, context, frames, at_most=3):
    """Where a model is better than the trivial predictors, in words.

    found: the (first, last) numbers of frames, of the `frames` frames that follow a context.
    """
    if not found:
        return "the model is at no frame better than every trivial predictor"
    total = sum(last - first + 1 for first, last in found)
    words = [f"{first} to {last}" if last > first else f"{first}" for first, last in found]
    more = f" and {len(words) - at_most} more spans" if len(words) > at_most else ""
    return (f"the model is better than every trivial predictor from frame {', '.join(words[:at_most])}"
            f"{more}: {total} of the frames {context + 1} to {context + frames}")


# -------------------------------------------------------------------------------------------- LPIPS


class LPIPS:
    """Learned perceptual distance between frames (Zhang et al. 2018), by the `lpips` package.

    0 for equal frames; lower is better. Needs PyTorch; runs on its GPU if it sees one.

    Args:
        net: the backbone: "alex" (what video prediction papers report), "vgg" or "squeeze".
        pretrained: False leaves the backbone at random weights, which need no download. Figures
            from it mean nothing; it is for tests.
        batch_size: frames compared at a time.
    """

    def __init__(self, net="alex", pretrained=True, batch_size=256):
        try:
            import lpips
            import torch
        except ImportError as error:
            raise UserError(
                f"LPIPS needs the package {error.name!r}: pip install torch torchvision --index-url "
                "https://download.pytorch.org/whl/cpu; pip install lpips") from None
        except RuntimeError as error:  # versions of torch and torchvision that do not fit
            raise UserError(f"LPIPS cannot load its packages: {str(error).splitlines()[0]}") from None
        try:
            model = lpips.LPIPS(net=net, pnet_rand=not pretrained, verbose=False)
        except urllib.error.URLError as error:
            raise UserError(f"LPIPS cannot download the weights of {net!r}: {error}") from None
        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = model.eval().to(self._device)
        self._batch_size = batch_size

    def __call__(self, truth, prediction):
        """Distance of every frame.

        Args:
            truth: [..., H, W, C], uint8 or float in [0, 1], C 1 or 3. Broadcasts against prediction.
            prediction: [..., H, W, C], likewise.

        Returns:
            [...] float32.
        """
        truth, prediction = np.broadcast_arrays(truth, prediction)
        leading, frame = truth.shape[:-3], truth.shape[-3:]
        truth, prediction = truth.reshape(-1, *frame), prediction.reshape(-1, *frame)
        distances = []
        with self._torch.inference_mode():
            for i in range(0, len(truth), self._batch_size):
                batch = slice(i, i + self._batch_size)
                distance = self._model(self._images(truth[batch]), self._images(prediction[batch]))
                distances.append(distance.cpu().numpy().reshape(-1))
        return np.concatenate(distances).astype(np.float32).reshape(leading)

    def _images(self, frames):
        """[N, H, W, C] -> [N, 3, H, W] in [-1, 1], as the backbone expects."""
        images = np.moveaxis(2 * _to_float(frames) - 1, -1, 1)
        images = np.repeat(images, 3 // images.shape[1], axis=1)
        return self._torch.from_numpy(np.ascontiguousarray(images)).to(self._device)


def _to_float(video):
    """uint8 video to float32 in [0, 1]; float video as it is."""
    video = np.asarray(video)
    return video.astype(np.float32) / (255 if video.dtype == np.uint8 else 1)


# ---------------------------------------------------------------------------------------------- FVD


class FVD:
    """Fréchet video distance (Unterthiner et al. 2018): of the features of two sets of videos.

    Args:
        model: a network from videos [N, T, 224, 224, 3] in [-1, 1] to features [N, D]: the folder
            of a SavedModel, or a TF-Hub handle such as
            https://tfhub.dev/deepmind/i3d-kinetics-400/1, the network of the paper.
        max_frames: frames in the network at a time, but at least one video.
    """

    MIN_VIDEOS = 256
    SIZE = 224

    def __init__(self, model, max_frames=256):
        # A signature does not keep the variables of its SavedModel alive: hold both.
        self._saved_model = _load_saved_model(model)
        self._signature = _only_signature(self._saved_model, model)
        self._name = model
        self._max_frames = max_frames

    def features(self, videos):
        """Features of videos.

        Args:
            videos: [N, T, H, W, C], uint8 or float in [0, 1], C 1 or 3.

        Returns:
            [N, D] float64.

        Raises UserError where the network cannot take so many frames.
        """
        features = []
        batch_size = max(1, self._max_frames // videos.shape[1])
        for i in range(0, len(videos), batch_size):
            try:
                (output,) = self._signature(self._prepare(videos[i : i + batch_size])).values()
            except (tf.errors.InvalidArgumentError, ValueError) as error:
                raise UserError(f"FVD model {self._name} does not take videos of {videos.shape[1]} "
                                f"frames: {str(error).splitlines()[0]}") from None
            features.append(np.asarray(output, np.float64).reshape(output.shape[0], -1))
        return np.concatenate(features)

    def __call__(self, features_a, features_b, num_frames):
        """The distance, with what it was computed from; warns where that is too little.

        Args:
            features_a, features_b: [N, D], of the true and of the predicted videos.
            num_frames: frames of each video.

        Returns:
            A dict for summary.json: fvd, fvd_num_videos, fvd_num_frames, fvd_model.
        """
        num_videos = min(len(features_a), len(features_b))
        if num_videos < self.MIN_VIDEOS:
            warnings.warn(
                f"FVD of {num_videos} videos is biased upwards; use {self.MIN_VIDEOS} or more",
                stacklevel=2)
        return {
            "fvd": frechet_distance(features_a, features_b), "fvd_num_videos": num_videos,
            "fvd_num_frames": num_frames, "fvd_model": str(self._name)}

    def _prepare(self, videos):
        """[N, T, H, W, C] -> [N, T, 224, 224, 3] in [-1, 1]."""
        videos = tf.convert_to_tensor(_to_float(videos))
        n, t, h, w, c = videos.shape
        # TensorFlow 1's resize, which samples at other points than tf.image.resize: published
        # figures come from it.
        frames = tf.compat.v1.image.resize_bilinear(
            tf.reshape(videos, [n * t, h, w, c]), [self.SIZE, self.SIZE])
        frames = tf.repeat(frames, 3 // c, axis=-1)
        return 2 * tf.reshape(frames, [n, t, self.SIZE, self.SIZE, 3]) - 1


def _load_saved_model(model):
    """Loads a SavedModel from a folder, or from a TF-Hub handle."""
    path = str(model)
    if "://" in path:
        try:
            import tensorflow_hub
        except ImportError:
            raise UserError(
                f"FVD model {model} needs TensorFlow Hub: pip install tensorflow-hub") from None
        try:
            path = tensorflow_hub.resolve(path)
        except OSError as error:
            raise UserError(f"FVD model {model}: cannot download it: {error}") from None
    if not tf.saved_model.contains_saved_model(path):
        raise UserError(f"FVD model {model}: no SavedModel in that folder")
    # A module of TensorFlow 1's Hub holds a second graph for training; this one has no tags.
    is_hub_module = os.path.exists(os.path.join(path, "tfhub_module.pb"))
    return tf.saved_model.load(path, tags=[] if is_hub_module else None)


def _only_signature(saved_model, name):
    """The signature of a SavedModel that maps one tensor to one tensor."""
    for key in ("default", "serving_default"):  # of TensorFlow 1's Hub, of TensorFlow 2
        if key in saved_model.signatures:
            signature = saved_model.signatures[key]
            inputs, outputs = signature.structured_input_signature[1], signature.structured_outputs
            if len(inputs) == len(outputs) == 1:
                return signature
            raise UserError(f"FVD model {name} must map one tensor to one tensor; its signature "
                            f"{key!r} maps {sorted(inputs)} to {sorted(outputs)}")
    raise UserError(f"FVD model {name} has no signature 'default' or 'serving_default'")


def frechet_distance(features_a, features_b):
    """Fréchet distance of the Gaussians fitted to two sets of features.

    |mean_a - mean_b|^2 + tr(cov_a + cov_b - 2 (cov_a cov_b)^(1/2))  (Dowson & Landau 1982),
    with sample covariances. With A and B the centred features over sqrt(N - 1), cov_a = A^T A and
    cov_b = B^T B, so the eigenvalues of cov_a cov_b are the squared singular values of A B^T, and
    the trace of its root is their sum. No root of a matrix is taken, and none has to be regular:
    the result holds for fewer videos than features.

    Args:
        features_a: [N, D], N at least 2.
        features_b: [M, D], M at least 2.

    Returns:
        A float, at least 0.
    """
    mean_a, a = _centred(features_a)
    mean_b, b = _centred(features_b)
    root_trace = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    distance = ((mean_a - mean_b) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * root_trace
    return float(max(distance, 0.0))


def _centred(features):
    """Returns the mean [D], and a matrix [min(N, D), D] whose square is the covariance."""
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise UserError(f"a Fréchet distance needs features [N, D] of at least 2 videos; "
                        f"got {list(features.shape)}")
    mean = features.mean(0)
    centred = (features - mean) / np.sqrt(len(features) - 1)
    if len(centred) > centred.shape[1]:
        centred = np.linalg.qr(centred, mode="r")  # same square, fewer rows
    return mean, centred


# -------------------------------------------------------------------- what is in a frame, and where


_last_read = None, None  # frames, and what is in them: two metrics ask for the same ones


def _read(frames, count):
    """read_digits of frames [B, S, F, 64, 64, 1]: [B, S, F, D] and [B, S, F, D, 2]."""
    global _last_read
    if _last_read[0] is not frames:
        leading = frames.shape[:3]
        labels, positions = read_digits(frames.reshape(-1, *frames.shape[3:]), count)
        _last_read = frames, (labels.reshape(*leading, count), positions.reshape(*leading, count, 2))
    return _last_read[1]


def compare_digits(prediction, factors):
    """Reads the digits in predicted frames, and compares them with the true ones.

    Of several, each true one is compared with one that is read: so that most are right, then so that
    they are near.

    Args:
        prediction: uint8 [B, S, F, 64, 64, 1], or with 1 for F where it is the same for all frames.
        factors: as metrics have them.

    Returns:
        right: bool [B, S, F, D], whether it is read as what it is.
        distance: float [B, S, F, D], from where it is to where it is read, in pixels; where nothing is
            read, what a random place would have on average.
    """
    count = factors["label"].shape[-1]
    labels, positions = _read(prediction, count)
    true_labels, true_positions = factors["label"][:, None, None], factors["position"][:, None]
    found = None
    for order in itertools.permutations(range(count)):
        distance = np.linalg.norm(positions[..., order, :] - true_positions, axis=-1)
        distance = np.where(np.isnan(distance), random_distance(true_positions), distance)
        right = np.broadcast_to(labels[..., order] == true_labels, distance.shape)
        quality = (right - distance / 1000).sum(-1, keepdims=True)  # no distance is as long
        if found is None:
            found = quality, right, distance
        else:
            better = quality > found[0]
            found = [np.where(better, new, old)
                     for new, old in zip((quality, right, distance), found, strict=True)]
    return found[1], found[2]


def random_distance(positions):
    """The mean distance to all places that a digit can have: [..., 2] to [...]."""
    rows, columns = np.moveaxis(np.rint(positions).astype(int).clip(0, ROOM), -1, 0)
    return _random_distances()[rows, columns]


@functools.cache
def _random_distances():
    """random_distance of every place, [37, 37]."""
    places = np.stack(np.meshgrid(*[np.arange(ROOM + 1)] * 2, indexing="ij"), -1)
    return np.linalg.norm(places - places[:, :, None, None], axis=-1).mean((2, 3))


# ---------------------------------------------------------------------------------------- the metrics


@dataclasses.dataclass(frozen=True)
class Metric:
    """How predicted frames are scored, and how the scores are shown.

    name: of the metric in files.
    label, unit: on axes and in tables; the unit may be "".
    convention: what exactly it is, for those who compare it with another paper's.
    function: (truth, prediction, factors) -> the score of every frame, float32 [B, S, F]. Truth is
        [B, 1, F, H, W, C], prediction [B, S, F, H, W, C], or with 1 for F where it is the same for all
        frames: what broadcasts, as subtraction does, gets both right. Factors is a dict of `label`, int
        [B, D], and `position`, float32 [B, F, D, 2]; None where the data has none.
    better: "higher" or "lower".
    decimals: in tables.
    pixels: what the function is given. "clipped" and "unclipped": float32 tensors, in a graph that XLA
        compiles, the predictions clipped to [0, 1] or as decoded. "8-bit": uint8 arrays, outside of it.
    headline: drawn over time, with a best sample; else a number of tables and metrics.npz alone.
    needs_factors: whether the metric is left out for data without factors.
    networks: names of networks, of which a flag --<name> chooses one; without it the metric is left out.
        function(network) then gives the function, and a {network} in the convention is its name.
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
    needs_factors: bool = False
    networks: tuple = ()

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

    def best(self, values, axis):
        """The best values along an axis."""
        return np.max(values, axis) if self.better == "higher" else np.min(values, axis)

    def best_sample(self, values):
        """The best of S samples by its mean over time: [..., S, F] to whole numbers [...]."""
        return self.advantage(np.asarray(values).mean(-1), 0).argmax(-1)


def lpips(network):
    """The function of the metric LPIPS."""
    distance = LPIPS(network)
    return lambda truth, prediction, factors: distance(truth, prediction)


METRICS = {metric.name: metric for metric in (
    Metric(
        "psnr", "PSNR", "dB", "PSNR in dB of predictions clipped to [0, 1], data range 1, per frame",
        lambda truth, prediction, factors: psnr(truth, prediction), decimals=2),
    Metric(
        "ssim", "SSIM", "",
        "SSIM as in scikit-image (7x7 uniform window, sample covariance, K1 0.01, K2 0.03, interior "
        "pixels) of predictions clipped to [0, 1], data range 1, per frame",
        lambda truth, prediction, factors: ssim(truth, prediction)),
    Metric(
        "lpips", "LPIPS", "",
        "LPIPS (lpips 0.1, net {network}) of 8-bit predictions, grey repeated to colour, per frame; "
        "lower is better",
        lpips, better="lower", pixels="8-bit",
        networks=("alex", "vgg", "squeeze")),
    Metric(
        "identity", "Identity", "",
        "share of the digits that are read as the true ones, by the best normalised correlation with "
        "the ten images, per frame; below 0.5 nothing is read, which is wrong",
        lambda truth, prediction, factors: compare_digits(prediction, factors)[0].mean(-1),
        pixels="8-bit", needs_factors=True),
    Metric(
        "position_error", "Position error", "pixels",
        "distance from where a digit is to where it is read, mean over the digits of a frame; where "
        "nothing is read the expected distance of a random place",
        lambda truth, prediction, factors: compare_digits(prediction, factors)[1].mean(-1),
        better="lower", decimals=2, pixels="8-bit", needs_factors=True),
    Metric(
        "psnr_unclipped", "PSNR, unclipped", "dB",
        "PSNR in dB of unclipped predictions, data range 1, per frame; of colour the mean over the "
        "channels of each one's PSNR: as published for this model",
        lambda truth, prediction, factors: psnr(truth, prediction, per_channel=True), decimals=2,
        pixels="unclipped", headline=False),
    Metric(
        "ssim_range2", "SSIM, unclipped, range 2", "",
        "SSIM as above, of unclipped predictions, data range 2: as published for this model",
        lambda truth, prediction, factors: ssim(truth, prediction, data_range=2.0),
        pixels="unclipped", headline=False),
)}


def chosen(networks=None, factors=False):
    """The metrics that can be computed: a list of Metric.

    networks: the network chosen for each metric that has some, by the metric's name.
    factors: whether the data has factors.
    """
    networks = networks or {}
    found = []
    for metric in METRICS.values():
        if metric.networks and metric.name in networks:
            network = networks[metric.name]
            metric = dataclasses.replace(
                metric, function=metric.function(network), networks=(),
                convention=metric.convention.format(network=network))
        if not metric.networks and (factors or not metric.needs_factors):
            found.append(metric)
    return found


def kept_samples(scored, scores):
    """The samples of one video that are kept: two random ones, and the best by each headline metric.

    scores: [S, F] of each of the metrics scored, by name.

    Returns: their numbers by the names of their files, and what a reader calls them by their numbers.
    """
    kept, best = {"random_sample_1": 0}, {}
    if len(scores[scored[0].name]) > 1:
        kept["random_sample_2"] = 1
        for metric in scored:
            if metric.headline:
                number = int(metric.best_sample(scores[metric.name]))
                kept[f"best_{metric.name}_sample"] = number
                best.setdefault(number, []).append(metric.label)
    labels = {number: f"sample {number + 1}" for number in dict.fromkeys(kept.values())}
    for number, names in best.items():
        labels[number] += f": best {', '.join(names)}"
    return kept, labels
