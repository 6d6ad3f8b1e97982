"""95 % intervals of means over videos and over the seeds of training.

Seeds and videos are two random effects: another seed would train another model, and another test set
would hold other videos. All models are evaluated on the same videos.
"""

import numpy as np
import scipy.special

UNBOUNDED = (-np.inf, np.inf)
ROUNDING = 1e-24  # A variance below this share of the squared mean is only float64's rounding.


def interval(values, other=None, limits=UNBOUNDED, confidence=0.95):
    """Confidence interval of a mean over seeds and videos, or of the difference of two such means.

    The variance of the mean of S seeds and V videos is (MS_seed + MS_video - MS_rest) / (S V). These are
    the mean squares of a two-way analysis of variance (Searle, Casella & McCulloch 1992, chapter 4). Its
    degrees of freedom are Satterthwaite's (1946). Two models are paired by video, and not by seed. With
    one seed the interval is over videos alone.

    Two finite limits make it a score interval (Wilson 1927), whose variance is 0 at both limits, like
    the variance of a share. If nothing varies, other videos may still differ: 20 right videos out of 20
    do not prove that every video would be right. By Clopper & Pearson (1934) their share is then
    at most 1 - 0.025^(1/V), and the interval is what they could change.

    Args:
        values: [S, V, ...]. A video counts if its value is a number in every seed.
        other: [S', V, ...], of another model on the same videos. Its mean is subtracted.
        limits: the least and the greatest possible value. The interval ends there.
        confidence: the share of such intervals that hold the true mean.

    Returns:
        low, high: each [...], float64; NaN where fewer than two videos count.
    """
    groups = [np.asarray(group, np.float64) for group in (values, other) if group is not None]
    if other is not None:
        limits = limits[0] - limits[1], limits[1] - limits[0]
    defined = np.all([np.isfinite(group).all(0) for group in groups], 0)  # [V, ...]
    videos = defined.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean, terms = _terms(groups, defined, videos)
        scaled = [share * square for share, square, _ in terms]
        # An estimate of a sum of variances is no less than each of them.
        variance = np.max([np.sum(scaled, 0), *scaled], 0)
        variance = np.where(variance > ROUNDING * mean**2, variance, 0)
        freedom = variance**2 / sum(part**2 / count for part, (*_, count) in
                                    zip(scaled, terms, strict=True))
        # The subtracted term could make the degrees of freedom almost 0. The least of the added terms
        # bounds them.
        added = [count for share, _, count in terms if np.all(share > 0)]
        least = np.min(np.broadcast_arrays(*added), 0)
        quantile = scipy.special.stdtrit(np.maximum(freedom, least), (1 + confidence) / 2)
        if np.isfinite(limits).all():
            low, high = _score_interval(mean, variance, videos, quantile, limits, confidence)
        else:
            reach = np.where(variance > 0, quantile * np.sqrt(variance), 0)
            low, high = np.clip([mean - reach, mean + reach], *limits)
    return np.where(videos > 1, low, np.nan), np.where(videos > 1, high, np.nan)


def _score_interval(mean, variance, videos, quantile, limits, confidence):
    """The interval of a mean between two limits: Wilson's, or that of `interval` if nothing varies."""
    least, room = limits[0], limits[1] - limits[0]
    share = np.clip((mean - least) / room, 0, 1)
    # For a share of n independent videos, this equals the squared quantile over n.
    excess = quantile**2 * variance / room**2 / (share * (1 - share))
    middle = (share + excess / 2) / (1 + excess)
    reach = np.sqrt(excess * share * (1 - share) + excess**2 / 4) / (1 + excess)
    others = 1 - ((1 - confidence) / 2) ** (1 / videos)
    alike = [share - others * share, share + others * (1 - share)]
    return least + room * np.where(variance > 0, [middle - reach, middle + reach], alike)


def _terms(groups, defined, videos):
    """The mean of one model, or the difference of two, and the terms of its variance.

    Returns: the mean, and triples of a factor, a mean square and its degrees of freedom. The variance is
    the sum of factor times mean square.
    """
    each, terms = [], []
    for group in groups:
        seeds = len(group)
        group = np.where(defined, group, 0)
        of_videos, of_seeds = group.mean(0), group.sum(1) / videos
        each.append(of_videos)
        if seeds > 1:
            mean = of_seeds.mean(0)
            between = videos * ((of_seeds - mean) ** 2).sum(0) / (seeds - 1)
            rest = np.where(defined, group - of_seeds[:, None] - of_videos + mean, 0)
            freedom = (seeds - 1) * (videos - 1)
            terms += [(1 / (seeds * videos), between, seeds - 1),
                      (-1 / (seeds * videos), (rest**2).sum((0, 1)) / freedom, freedom)]
    difference = each[0] - (each[1] if len(each) > 1 else 0)  # [V, ...]
    mean = difference.sum(0) / videos
    spread = np.where(defined, difference - mean, 0)
    return mean, [(1 / videos, (spread**2).sum(0) / (videos - 1), videos - 1), *terms]


def estimate(values, other=None, limits=UNBOUNDED):
    """The mean, its 95 % interval and how many videos count, as a dict for JSON.

    values: [V] of the videos, or [S, V] of several seeds; NaN if a metric is undefined.
    other: likewise, of another model. The result is then of the difference of both.
    """
    groups = [np.reshape(group, [-1, np.shape(group)[-1]]) for group in (values, other)
              if group is not None]
    defined = np.all([np.isfinite(group).all(0) for group in groups], 0)
    if not defined.any():
        return {"mean": None, "confidence_95": None, "videos": 0}
    mean = groups[0][:, defined].mean() - (groups[1][:, defined].mean() if other is not None else 0)
    low, high = interval(*groups, limits=limits)
    return {"mean": float(mean), "confidence_95": None if np.isnan(low) else [float(low), float(high)],
            "videos": int(defined.sum())}


def defined_mean(values, axis):
    """The mean over an axis, or several axes, of the values that are numbers; NaN if there are none."""
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(axis) / defined.sum(axis)


def spans(holds):
    """The spans of frames for which `holds`, bool [F], is true: (first, last) pairs of indices."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], holds, [False]]).astype(int)))
    return [(int(first), int(end) - 1) for first, end in edges.reshape(-1, 2)]
