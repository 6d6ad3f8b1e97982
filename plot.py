"""Compares runs in one figure: python3 plot.py logs/moving_digits/* --out comparison.pdf

Of a run directory it shows the training curves and the newest evaluation, of an eval_<date_time>/
that evaluation. Runs that differ in the seed alone are one curve, with intervals over seeds and
examples. The means, with 95% intervals, are printed as a Markdown table and written beside the figure.
"""

import tools
from flags import Parser, whole_number
from tools import UserError, cannot_write, write_atomically


def parse_flags():
    parser = Parser(description="Compares runs in one figure and one table.")
    parser.add_argument("dirs", nargs="+", metavar="RUN_OR_EVAL_DIR",
                        help="run directories, or evaluations (eval_<date_time>/) in them")
    parser.add_argument("--labels", nargs="+", metavar="LABEL",
                        help="one per curve (default: the settings that differ); runs that differ in "
                             "the seed alone are one curve")
    parser.add_argument("--best", action="store_true",
                        help="draw the best sample of each example (default: the mean over samples)")
    parser.add_argument("--spans", nargs="+", metavar="FIRST-LAST", type=span, default=[],
                        help="also give each metric's mean over these predicted frames, such as "
                             "1-16 297-304, in the table")
    parser.add_argument("--together", action="store_true",
                        help="draw into one panel what is not comparable, too: other data, contexts "
                             "or conventions of a metric (default: a row of panels for each)")
    parser.add_argument("--animation", metavar="FILE.gif",
                        help="also write the truth above each curve's first prediction, moving")
    parser.add_argument("--examples", nargs="+", type=whole_number("examples", 0), metavar="N",
                        help="which test videos the animation shows, from 0 on (default: the first 6)")
    parser.add_argument("--frames", type=whole_number("frames", 1), metavar="N",
                        help="predicted frames that the animation shows (default: all)")
    parser.add_argument("--out", required=True, metavar="FIGURE", help="such as comparison.pdf or .png")
    return parser.parse_args()


def span(text):
    """The first and the last of some predicted frames: "1-16" to (1, 16)."""
    first, last = map(int, text.split("-"))
    if not 1 <= first <= last:
        raise ValueError
    return first, last


if __name__ == "__main__":
    # Importing TensorFlow takes seconds: a wrong flag is told before.
    tools.run_script(parse_flags)

import startup  # noqa: F401

# isort: split
import dataclasses
import glob
import json
import os
import sys
import zipfile

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import pictures
from config import Config, read_yaml
from metrics import (
    METRICS,
    TRIVIAL,
    bootstrap_interval_of_runs,
    cell,
    markdown,
    mean_and_interval,
)

LOSSES = {
    "total_loss": "Loss (nats per frame)",
    "nll_term": "Negative log-likelihood\n(nats per frame)",
    "kl_term": "KL (nats per frame)",
}
ANIMATION_FPS = 20
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
# What an evaluation can set otherwise than the run did.
EVALUATION_KEYS = ("open_loop_ctx", "eval_seq_len", "use_obs", "num_examples", "num_samples")


@dataclasses.dataclass
class Result:
    """What is known of one run or evaluation.

    path: the folder, as the user gave it.
    settings: of the run and of the evaluation, flat.
    training: the lines of metrics.jsonl, [] where only an evaluation was given.
    scores: metric -> [N, S, T] of N examples, S samples, T predicted frames; {} without evaluation.
    context: frames observed before those.
    trivial: metric -> trivial predictor -> [N, T]; {} for an evaluation that has none.
    conventions: metric -> what exactly it is, in words.
    fvd: what eval.py reports of FVD, None where it does not.
    evaluation: the folder of the evaluation, None without one.
    """

    path: str
    settings: dict
    training: list
    scores: dict
    context: int | None
    trivial: dict = dataclasses.field(default_factory=dict)
    conventions: dict = dataclasses.field(default_factory=dict)
    fvd: dict | None = None
    evaluation: str | None = None

    def over_samples(self, name, best):
        """A metric of every example: [N, T]. The mean over samples, or the best sample.

        The best sample of an example is the one with the best mean over time.
        """
        scores = self.scores[name]
        if not best:
            return scores.mean(1)
        return scores[np.arange(len(scores)), METRICS[name].best_sample(scores)]


@dataclasses.dataclass
class Curve:
    """What is drawn as one curve: a result, or several that differ in the seed of training alone."""

    results: list

    def __getattr__(self, name):
        return getattr(self.results[0], name)

    def of(self, name, best=False):
        """A metric of every run and example: [R, N, T]."""
        return np.stack([result.over_samples(name, best) for result in self.results])


def main():
    flags = parse_flags()
    stem, suffix = os.path.splitext(flags.out)
    formats = Figure().canvas.get_supported_filetypes()
    if suffix[1:] not in formats:
        raise UserError(f"out: {flags.out} must end in one of {', '.join(sorted(formats))}")
    if flags.animation and not flags.animation.endswith(".gif"):
        raise UserError(f"animation: {flags.animation} must end in .gif")

    curves = group_seeds([read_result(path) for path in flags.dirs])
    if flags.labels and len(flags.labels) != len(curves):
        raise UserError(f"labels: {len(flags.labels)} are given for {len(curves)} curves")
    labels = flags.labels or label_by_difference(curves)
    text = table(curves, labels, flags.spans)
    if flags.animation:
        frames = animated(curves, labels, flags.examples, flags.frames)
        try:
            with write_atomically(flags.animation, "wb") as file:
                file.write(pictures.encode_gif(frames, ANIMATION_FPS))
        except OSError as error:
            raise cannot_write("animation", flags.animation, error) from None
    try:
        with write_atomically(flags.out, "wb") as file:
            save_comparison(file, suffix[1:], curves, labels, flags.best, flags.together)
        with write_atomically(f"{stem}.md") as file:
            file.write(text)
    except OSError as error:
        raise cannot_write("out", flags.out, error) from None
    print(f"{text}\nFigure: {flags.out}\nTable: {stem}.md")


def animated(curves, labels, examples, frames):
    """The frames of an animation: the truth, and what each curve's first result predicts of it.

    Raises UserError where an evaluation lacks one of the examples, or the curves are not of the same
    videos and context.
    """
    shapes = [values.shape for curve in curves for values in curve.scores.values()]
    frames = min([length for *_, length in shapes] + [frames or sys.maxsize])
    examples = examples or range(min([count for count, *_ in shapes] + [6]))

    def videos(curve, file):
        for example in examples:
            path = os.path.join(curve.evaluation, file.format(example))
            try:
                with np.load(path) as video:
                    yield video["arr_0"][:frames]
            except FileNotFoundError:
                raise UserError(f"examples: {path} does not exist") from None

    for curve in curves:
        if curve.evaluation is None:
            raise UserError(f"animation: {curve.path} has no evaluation")
        if data_of(curve) != data_of(curves[0]) or curve.context != curves[0].context:
            raise UserError(f"animation: {curve.path} is of other videos, or of another context, than "
                            f"{curves[0].path}")
    rows = [("truth", list(videos(curves[0], "sample{}_gt/gt_pred.npz"))),
            *((label, list(videos(curve, "sample{}/random_sample_1.npz")))
              for label, curve in zip(labels, curves, strict=True))]
    return pictures.comparison_gif_frames(rows, curves[0].context + 1)


# ------------------------------------------------------------------------------------------ reading


def read_result(path):
    """Reads a run directory or an evaluation. Raises UserError where it is neither."""
    if not os.path.isdir(path):
        raise UserError(f"{path}: no such directory")
    if is_evaluation(path):
        return read_evaluation(path)
    config = os.path.join(path, "config.yml")
    if not os.path.exists(config):
        raise UserError(f"{path} is neither a run directory (no config.yml) nor an evaluation "
                        f"(no summary.json)")
    defaults = {field.name: field.default for field in dataclasses.fields(Config)}
    run = Result(path, {**defaults, **read_yaml(config)}, read_training(path), {}, None)
    # Their names hold the date and time: the last one is the newest.
    evaluations = sorted(filter(is_evaluation, glob.glob(os.path.join(glob.escape(path), "eval_*"))))
    if evaluations:
        newest = read_evaluation(evaluations[-1])
        return dataclasses.replace(
            newest, path=path, settings={**run.settings, **newest.settings}, training=run.training)
    if not run.training:
        raise UserError(f"{path} has nothing to show yet: no metrics.jsonl and no evaluation")
    return run


def is_evaluation(path):
    return os.path.exists(os.path.join(path, "summary.json"))


def read_evaluation(path):
    """Reads what eval.py wrote into a directory. Raises UserError where that is incomplete."""
    summary, arrays = os.path.join(path, "summary.json"), os.path.join(path, "metrics.npz")
    try:
        with open(summary) as file:
            numbers = json.load(file)
        settings, fvd = numbers["settings"], numbers.get("fvd")
        with np.load(arrays) as file:
            scores = {name: np.asarray(file[name], np.float64) for name in METRICS if name in file}
            conventions = {name: str(file[f"{name}_convention"])
                           for name in scores if f"{name}_convention" in file}
            trivial = {name: {predictor: np.asarray(file[f"{name}_{predictor}"], np.float64)
                              for predictor in TRIVIAL}
                       for name in scores if all(f"{name}_{predictor}" in file for predictor in TRIVIAL)}
            context = int(file["open_loop_ctx"])
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a whole evaluation: {error}") from None
    for name, values in scores.items():
        if values.ndim != 3 or not values.size:
            raise UserError(f"{arrays}: {name} has the shape {list(values.shape)}; "
                            f"expected [examples, samples, frames]")
        if not np.isfinite(values).all():
            raise UserError(f"{arrays}: {name} has values that are not finite")
    if not scores:
        raise UserError(f"{arrays} has none of the metrics {', '.join(METRICS)}")
    return Result(path, settings, [], scores, context, trivial, conventions, fvd, path)


def read_training(run_dir):
    """Returns the lines of metrics.jsonl as dicts; none where there is no such file."""
    path = os.path.join(run_dir, "metrics.jsonl")
    if not os.path.exists(path):
        return []
    with open(path) as file:
        # The last line of a run in progress may be cut short.
        lines = [line for line in file if line.endswith("\n")]
    training = []
    for number, line in enumerate(lines, 1):
        try:
            training.append(json.loads(line))
        except ValueError:
            raise UserError(f"{path}: line {number} is not JSON") from None
    return training


# ---------------------------------------------------------------------------------- what compares


def compared_keys():
    """The settings that can make results differ."""
    keys = [field.name for field in dataclasses.fields(Config) if field.metadata["changes"] != "run"]
    return keys + [key for key in EVALUATION_KEYS if key not in keys]


def group_seeds(results):
    """Makes one Curve of the results that differ in the seed alone, and one of each other result."""
    curves, found = [], {}
    for result in results:
        same = {key: result.settings.get(key) for key in compared_keys() if key != "seed"}
        shapes = {name: scores.shape for name, scores in result.scores.items()}
        key = json.dumps([same, data_of(result), result.conventions, shapes, bool(result.training)])
        others = found.get(key)
        # The same seed again is no other draw: it is shown by itself.
        seed = result.settings.get("seed")
        if others and all(seed != other.settings.get("seed") for other in others.results):
            others.results.append(result)
        else:
            curves.append(Curve([result]))
            found.setdefault(key, curves[-1])
    return curves


def data_of(result):
    """What tells the test data of a result from other data."""
    settings = result.settings
    # Evaluations have it since they stand beside trivial predictors.
    if "data_digest" in settings:
        return settings["data_digest"]
    root = settings.get("data_root") if settings.get("dataset") == "videos" else None
    return settings.get("dataset"), root, settings.get("frame_skip")


def comparable(curves, name):
    """The curves that have a metric, by what must be equal for them to share a panel.

    Returns: a list of lists of indices.
    """
    having = [index for index, curve in enumerate(curves) if name in curve.scores]
    digests = all("data_digest" in curves[index].settings for index in having)
    found = {}
    for index in having:
        curve = curves[index]
        data = data_of(curve) if digests else curve.settings.get("dataset")
        key = data, curve.context, curve.conventions.get(name)
        found.setdefault(key, []).append(index)
    return list(found.values())


# ------------------------------------------------------------------------------------------- labels


def label_by_difference(curves):
    """Labels curves by the settings in which they differ, or else by their paths."""
    # A setting that one of them lacks (of the evaluation: a run may have none) is no difference.
    differing = [
        key for key in compared_keys()
        if all(key in curve.settings for curve in curves)
        and not (key == "seed" and any(len(curve.results) > 1 for curve in curves))
        and any(curve.settings[key] != curves[0].settings[key] for curve in curves)]
    labels = [", ".join(f"{key} {spelled(curve.settings[key])}" for key in differing
                        if key != "tmp_abs_factor" or curve.settings["levels"] > 1)
              for curve in curves]
    if len(set(labels)) < len(labels) or not differing and len(curves) == 1:
        labels = [os.path.basename(os.path.abspath(curve.path)) for curve in curves]
    if len(set(labels)) < len(labels):
        labels = [os.path.normpath(curve.path) for curve in curves]
    return [label + (f" ({len(curve.results)} seeds)" if len(curve.results) > 1 else "")
            for label, curve in zip(labels, curves, strict=True)]


def spelled(value):
    """A setting as the YAML file spells it."""
    return json.dumps(value).strip('"')


# -------------------------------------------------------------------------------------------- table


def table(curves, labels, spans=()):
    """The means over frames, samples and examples, with their intervals, as Markdown."""
    text = markdown([["", *labels], *table_rows(curves, spans)])
    if any(curve.scores for curve in curves):
        over = "the seeds and the examples" if any(
            len(curve.results) > 1 for curve in curves) else "the examples"
        text += (f"\nMeans over the predicted frames and {over}; in brackets the 95% bootstrap "
                 f"interval over {over}.\nThe best sample of an example is the one with the best "
                 f"mean over time, chosen for each metric.\n")
    for name in METRICS:
        found = {curve.conventions[name] for curve in curves if name in curve.conventions}
        if len(found) > 1:
            text += f"{METRICS[name].label} is of {len(found)} conventions here, which do not compare.\n"
    return text


def table_rows(curves, spans=()):
    """Yields the rows of the table: a name, then a cell a curve, empty where it has no such thing.

    spans: predicted frames (first, last) whose means have rows, too.
    """
    shapes = [next(iter(curve.scores.values())).shape if curve.scores else None for curve in curves]
    if any(len(curve.results) > 1 for curve in curves):
        yield ["Seeds", *(str(len(curve.results)) for curve in curves)]
    if any(shapes):
        for axis, name in enumerate(["Examples", "Samples of each", "Frames predicted"]):
            yield [name, *(str(shape[axis]) if shape else "" for shape in shapes)]
        yield ["Frames of context", *(str(curve.context or "") for curve in curves)]
    several = sorted({shape[1] for shape in shapes if shape and shape[1] > 1})
    for name, metric in METRICS.items():
        having = [name in curve.scores for curve in curves]
        if not any(having):
            continue

        def row(words, values, metric=metric):
            return [f"{metric.heading}, {words}", *(
                "" if value is None else cell(mean_and_interval(value.mean(-1)), metric.decimals)
                for value in values)]

        yield row("mean", [curve.of(name) if has else None
                           for curve, has in zip(curves, having, strict=True)])
        for first, last in spans:
            yield row(f"frames +{first} to +{last}", [
                curve.of(name)[..., first - 1:last] if has and shape[2] >= last else None
                for curve, has, shape in zip(curves, having, shapes, strict=True)])
        for samples in several:
            yield row(f"best of {samples}", [
                curve.of(name, best=True) if has and shape[1] == samples else None
                for curve, has, shape in zip(curves, having, shapes, strict=True)])
        if any(name in curve.trivial for curve in curves):
            for predictor, words in TRIVIAL.items():
                yield row(words, [curve.trivial[name][predictor] if name in curve.trivial else None
                                  for curve in curves])
    if any(curve.fvd for curve in curves):
        yield ["FVD ↓ (videos, frames of each)", *(map(fvd_text, curves))]
    for level in range(max(curve.settings["levels"] for curve in curves)):
        row = [kl_text(curve, f"avg_kl_prior_posterior__level_{level}") for curve in curves]
        if any(row):
            yield [f"KL of level {level} in validation (nats per frame)", *row]
    if any(curve.training for curve in curves):
        yield ["Steps trained", *(str(curve.training[-1]["step"]) if curve.training else ""
                                  for curve in curves)]


def kl_text(curve, name):
    """A level's KL at the last validation of every seed."""
    logged = [[line[name] for line in result.training if line["split"] == "val" and name in line]
              for result in curve.results]
    return ", ".join(f"{values[-1]:.2f}" for values in logged if values)


def fvd_text(curve):
    """The FVD of every seed, and of how many videos and frames."""
    if not all(result.fvd for result in curve.results):
        return ""
    distances = ", ".join(f"{result.fvd['fvd']:.1f}" for result in curve.results)
    return "{} ({fvd_num_videos}, {fvd_num_frames})".format(distances, **curve.fvd)


# ------------------------------------------------------------------------------------------- figure


def save_comparison(file, suffix, curves, labels, best, together):
    """Draws the metrics over time in rows of panels, the training curves in another.

    Curves of other data, contexts or conventions of a metric have rows of their own, unless they are to
    be drawn together: the panel then says so.
    """
    rows = metric_rows(curves, together)
    losses = [(name, None) for name in LOSSES if any(curve.training for curve in curves)]
    rows += [losses] if losses else []
    with matplotlib.rc_context({**pictures.STYLE, "font.size": 8, "axes.titlesize": 8}):
        # As wide as the text of a page.
        figure = Figure(figsize=(7, 2.3 * len(rows) + 0.3), layout="constrained")
        parts = np.atleast_1d(figure.subfigures(len(rows), 1))
        for part, panels in zip(parts, rows, strict=True):
            for axes, (name, shown) in zip(
                    np.atleast_1d(part.subplots(1, len(panels))), panels, strict=True):
                if name in LOSSES:
                    draw_training(axes, name, curves)
                else:
                    draw_metric(axes, name, curves, shown, best)
            part.supxlabel("Training step (light: training loss, dark: validation loss)"
                           if panels is losses else "Frame", fontsize=8)
        handles = [matplotlib.lines.Line2D([], [], **style(index)) for index in range(len(curves))]
        if any(curve.trivial for curve in curves):
            handles.append(matplotlib.lines.Line2D([], [], **pictures.TRIVIAL_LINE))
            labels = [*labels, pictures.TRIVIAL_LINE["label"]]
        figure.legend(handles, labels, loc="outside upper center", ncols=legend_columns(labels),
                      handlelength=3)
        figure.savefig(file, format=suffix)


def metric_rows(curves, together, panels=3):
    """The rows of panels, each a list of (metric, indices of the curves in it)."""
    drawn = [name for name, metric in METRICS.items() if metric.headline]
    groups = {name: comparable(curves, name) for name in drawn}
    if together:
        groups = {name: [sum(found, [])] for name, found in groups.items() if found}
    rows = []
    for number in range(max(map(len, groups.values()), default=0)):
        row = [(name, found[number]) for name, found in groups.items() if number < len(found)]
        rows += [row[i:i + panels] for i in range(0, len(row), panels)]
    return rows


def legend_columns(labels):
    """As many columns as fit 7 inches of 8 point letters."""
    return max(1, min(len(labels), 110 // (max(map(len, labels)) + 8)))


def style(index):
    """Colour, line and marker of a result: any one of them tells few results apart."""
    return dict(
        color=pictures.COLORS[index % len(pictures.COLORS)], linestyle=LINES[index % len(LINES)],
        marker=MARKERS[index % len(MARKERS)], markersize=3.5, linewidth=1.3)


def draw_metric(axes, name, curves, shown, best):
    """A metric over the predicted frames, with its 95% interval, of the curves of these indices."""
    metric, trivial = METRICS[name], []
    for index in shown:
        curve = curves[index]
        values = curve.of(name, best)  # [R, N, T]
        frames = np.arange(curve.context + 1, curve.context + 1 + values.shape[2])
        low, high = bootstrap_interval_of_runs(values)
        look = style(index)
        axes.fill_between(frames, low, high, color=look["color"], alpha=0.15, linewidth=0)
        # Few markers, and none upon another's.
        axes.plot(frames, values.mean((0, 1)), markevery=marked(len(frames), index, len(curves)), **look)
        if name in curve.trivial:
            bound = metric.best([values.mean(0) for values in curve.trivial[name].values()], 0)
            if not any(len(bound) == len(other) and np.allclose(bound, other) for other in trivial):
                trivial.append(bound)
                axes.plot(frames, bound, **pictures.TRIVIAL_LINE, zorder=1.5)
    samples = sorted({curves[index].scores[name].shape[1] for index in shown})
    chosen = f", best of {' or '.join(map(str, samples))}" if best else ""
    axes.set_ylabel(metric.heading + chosen)
    differing = differences([curves[index] for index in shown], name)
    if differing:
        axes.set_title(f"not comparable: {differing}", color=pictures.VERMILLION, fontsize=6)
    elif len(comparable(curves, name)) > 1:
        curve = curves[shown[0]]
        axes.set_title(f"{curve.settings.get('dataset')}, context {curve.context}")


def differences(curves, name):
    """In what curves of a metric differ that makes them no comparison, in words; "" for nothing."""
    if len(comparable(curves, name)) < 2:
        return ""
    words = {
        "context": len({curve.context for curve in curves}),
        "convention": len({curve.conventions.get(name) for curve in curves})}
    found = [word for word, count in words.items() if count > 1]
    if len(comparable([dataclasses.replace(
            curve.results[0], context=0, conventions={}) for curve in curves], name)) > 1:
        found.insert(0, "data")
    return f"other {' and '.join(found)}"


def marked(points, index, results, count=5):
    """Which of a curve's points get a marker: `count` of them, where no other curve has its own."""
    step = max(1, points // count)
    return slice(index * step // results, None, step)


def draw_training(axes, name, curves):
    """A loss over the steps: that of validation, and lightly that of training; of seeds their mean."""
    late = []
    for index, curve in enumerate(curves):
        for split, light in (("train", dict(alpha=0.35, linewidth=0.8, marker="")), ("val", {})):
            steps, values = training_curve(curve, split, name)
            look = {**style(index), **light, "markevery": marked(len(steps), index, len(curves))}
            if len(values) > 1 and split == "val":
                axes.fill_between(steps, values.min(0), values.max(0), color=look["color"], alpha=0.15,
                                  linewidth=0)
            axes.plot(steps, values.mean(0), **look)
            late.extend(values[:, steps >= 0.05 * steps.max(initial=0)].flat)
    # The first steps lose so much more than all others that these would be one flat line.
    if np.isfinite(late).any():
        low, high = np.nanmin(late), np.nanmax(late)
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    axes.set_ylabel(LOSSES[name])


def training_curve(curve, split, name):
    """The steps that all runs of a curve have logged, and a scalar at these: [R, steps]."""
    logged = [{line["step"]: float(line[name]) for line in result.training if line["split"] == split}
              for result in curve.results]
    steps = sorted(set.intersection(*map(set, logged)))
    return np.array(steps, float), np.array([[run[step] for step in steps] for run in logged])


if __name__ == "__main__":
    tools.run_script(main)
