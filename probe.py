"""A linear probe: how well a linear map reads the known factors of a video off features.

The score of a whole-number factor, a class, is the share of frames whose largest output is the right
one. The score of a real factor is the explained share of its variance, R². An angle in degrees becomes
its sine and its cosine.
"""

import os

import numpy as np

import charts
import intervals
import tools
from predictor import factors_of, with_progress
from tables import estimate_text, markdown
from video_model import VideoModel

ANGLES = ("heading",)
RIDGES = 10.0 ** np.arange(-4, 5)  # penalties, for features of variance 1
POOLED = 16  # The frames that serve as features have so many pixels a side.


def analyze(config, model, data, flags, settings, out):
    """Probes the states of each level, and the pixels, for every factor. Writes a figure and a table."""
    features, factors = collect(config, model, data, flags)
    parts = thirds(flags.num_examples, flags.seed)
    results, scores = [], {}
    for words, values in columns(factors).items():
        floor = chance(values, np.concatenate(parts[:2]), parts[2])
        row = {"factor": words, "measure": "share right" if values.dtype.kind in "iub" else "R²",
               "chance": floor}
        for name, array in features.items():
            scores[f"{words}__{name}"] = found = score(array, values, *parts)
            row[name] = intervals.estimate(found, limits=(-np.inf, 1))
        results.append(row)
    settings |= {"num_examples": flags.num_examples, "tested_videos": len(parts[2])}
    np.savez_compressed(os.path.join(out, "probe.npz"), **scores)
    tools.save_json(os.path.join(out, "summary.json"), {"settings": settings, "probe": results})
    with tools.write_atomically(os.path.join(out, "probe.md")) as file:
        file.write(table(results, features, config, parts))
    save_figure(os.path.join(out, "probe"), results, list(features))
    return "probe.png"


def collect(config, model, data, flags):
    """The features of every frame, [V, T, D], and the factors, [V, T, ...], by their names in tables."""
    wanted = factors_of(data.batch(0, 1))
    if not wanted:
        raise tools.UserError(f"dataset: {config.dataset} declares no factors; a probe needs some, as "
                              f"moving_digit has them")
    if flags.num_examples < 4:
        raise tools.UserError(f"num_examples: {flags.num_examples} of {len(data)} test videos are too "
                              f"few to fit a probe to some and test it on others; it needs 4")
    features, factors = {}, {}
    encoder = VideoModel(config, model)
    for first, size in with_progress(flags.num_examples, flags.batch_size):
        batch, actions = data.batch(first, size), None
        if "actions" in batch:  # A batch has each action one row later, at the frame that it led to.
            actions = np.roll(batch["actions"], -1, 1)
        frames = batch["video"].shape[1]
        for level, (states, stride) in enumerate(zip(
                encoder.encode_states(batch["video"], actions), config.strides, strict=True)):
            features.setdefault(f"level {level}", []).append(np.repeat(states, stride, 1)[:, :frames])
        features.setdefault("pixels", []).append(pooled_pixels(batch["video"]))
        for name in wanted:
            factors.setdefault(name, []).append(batch[name])
    return [{name: np.concatenate(arrays) for name, arrays in found.items()}
            for found in (features, factors)]


def table(results, features, config, parts):
    """The scores as Markdown."""
    lines = [["Factor", "Measure", *features, "Chance"]]
    for row in results:
        lines.append([row["factor"], row["measure"],
                      *(estimate_text(row[name], 3) for name in features), f"{row['chance']:.3f}"])
    return (f"{markdown(lines)}\n"
            f"Linear maps from the posterior's states at every frame, fitted to {len(parts[0])} videos. "
            f"{len(parts[1])} others chose the penalty, and {len(parts[2])} others tested the maps; in "
            f"brackets the 95% interval over the tested videos. Level 0 is at the bottom; the levels "
            f"tick every {', '.join(map(str, config.strides))} frames. Pixels are averaged down to "
            f"{POOLED} x {POOLED}. Chance is the commonest class, or the mean.\n")


def save_figure(stem, results, names):
    """Draws a group of bars for every factor: one for the states of each level, and one for pixels."""
    with charts.saved_figure(stem, (7, 2.6)) as figure:
        axes = figure.add_subplot()
        width = 0.8 / len(names)
        for index, name in enumerate(names):
            places = np.arange(len(results)) + (index - (len(names) - 1) / 2) * width
            means = np.array([row[name]["mean"] or 0 for row in results])
            bounds = np.array([row[name]["confidence_95"] or [mean, mean]
                               for row, mean in zip(results, means, strict=True)]).T
            color = "0.6" if name == "pixels" else charts.COLORS[index % len(charts.COLORS)]
            axes.bar(places, np.maximum(means, 0), width, color=color, label=name)
            axes.vlines(places, *np.maximum(bounds, 0), color="black", linewidth=0.8)
        for place, row in enumerate(results):
            axes.hlines(row["chance"], place - 0.4, place + 0.4, color="black", linestyle=":",
                        label="chance" if place == 0 else None)
        axes.set_xticks(range(len(results)), [f"{row['factor']}\n({row['measure']})" for row in results])
        axes.set(ylim=(0, 1.02), ylabel="Read by a linear map")
        figure.legend(loc="outside upper center", ncols=len(names) + 1)


def pooled_pixels(video):
    """Frames as features: each averaged down to 16 x 16 pixels. uint8 [B, T, S, S, C] to [B, T, D]."""
    videos, frames, size, _, channels = video.shape
    step = max(1, size // POOLED)
    blocks = video.reshape(videos, frames, size // step, step, size // step, step, channels)
    return blocks.mean((3, 5)).reshape(videos, frames, -1) / 255


def columns(factors):
    """Splits factors into single numbers: a dict of arrays [V, T] by their names in tables.

    factors: a dict of arrays [V, T, ...]. A whole number below 0 means unknown.
    """
    found = {}
    for name, values in factors.items():
        if name in ANGLES:
            angle = np.radians(values)
            found |= {f"{name}, sine": np.sin(angle), f"{name}, cosine": np.cos(angle)}
            continue
        flat = values.reshape(*values.shape[:2], -1)
        for index in range(flat.shape[-1]):
            found[name if flat.shape[-1] == 1 else f"{name} {index + 1}"] = flat[..., index]
    return found


def score(features, values, fitted, chosen, tested):
    """How well a linear map that was fitted to some videos reads values off the features of others.

    The videos `chosen` choose the ridge penalty. The final map is fitted to `fitted` and `chosen`.

    Args:
        features: [V, T, D].
        values: [V, T], whole numbers or real numbers.
        fitted, chosen, tested: the numbers of the videos in each part.

    Returns: the score of each tested video; NaN if all of its values are unknown.
    """
    classes = values.dtype.kind in "iub"
    known = values >= 0 if classes else np.ones(values.shape, bool)
    names = np.unique(values[np.concatenate([fitted, chosen])]) if classes else None
    names = names[names >= 0] if classes else None
    wanted = (values[..., None] == names).astype(float) if classes else values[..., None].astype(float)

    def part(videos):
        mask = known[videos]
        return features[videos][mask].astype(float), wanted[videos][mask]

    def quality(weights, videos):
        """Of each of the videos, how good the outputs are."""
        output = _apply(weights, features[videos])
        if classes:
            good = names[output.argmax(-1)] == values[videos]
        else:
            spread = wanted[videos].var((0, 1)).sum()
            good = 1 - ((output - wanted[videos]) ** 2).sum(-1) / spread
        return intervals.defined_mean(np.where(known[videos], good, np.nan), 1)

    candidates = _fits(*part(fitted), RIDGES)
    best = int(np.argmax([np.nanmean(quality(weights, chosen)) for weights in candidates]))
    (weights,) = _fits(*part(np.concatenate([fitted, chosen])), RIDGES[best:best + 1])
    return quality(weights, tested)


def chance(values, fitted, tested):
    """The score without features: of the commonest class, or 0 for the mean of real numbers."""
    if values.dtype.kind not in "iub":
        return 0.0
    names, counts = np.unique(values[fitted][values[fitted] >= 0], return_counts=True)
    known = values[tested][values[tested] >= 0]
    return float((known == names[counts.argmax()]).mean())


def _fits(features, wanted, ridges):
    """Linear maps from [N, D] to [N, K] by ridge regression, one for each penalty. See _apply."""
    mean, scale = features.mean(0), features.std(0) + 1e-8
    scaled, middle = (features - mean) / scale, wanted.mean(0)
    eigenvalues, vectors = np.linalg.eigh(scaled.T @ scaled / len(scaled))
    projected = vectors.T @ (scaled.T @ (wanted - middle) / len(scaled))
    return [(mean, scale, vectors @ (projected / (np.maximum(eigenvalues, 0) + ridge)[:, None]), middle)
            for ridge in ridges]


def _apply(weights, features):
    mean, scale, matrix, middle = weights
    return (features - mean) / scale @ matrix + middle


def thirds(videos, seed):
    """Splits the videos into parts to fit (a third), to choose (a sixth) and to test (half of them)."""
    order = np.random.default_rng(seed).permutation(videos)
    return np.split(order, [max(1, videos // 3), max(2, videos // 2)])
