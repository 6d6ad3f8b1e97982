"""Compares runs in one figure: python3 plot.py logs/moving_digits/* --out comparison.pdf

A run directory gives its training curves and its newest evaluation, and an eval_<date_time>/ gives that
evaluation. Runs that differ in the seed alone become one curve, with intervals over seeds and examples.
plot.py also prints a Markdown table of means with 95% intervals, and writes it beside the figure.
"""

import tools
from flags import Parser, whole_number
from tools import UserError, cannot_write, write_atomically


def parse_flags():
    parser = Parser(description="Compares runs in one figure and one table.")
    parser.add_argument("dirs", nargs="+", metavar="RUN_OR_EVAL_DIR",
                        help="run directories, or evaluations (eval_<date_time>/) in them")
    parser.add_argument("--labels", nargs="+", metavar="LABEL",
                        help="one for each curve (default: the settings that differ); runs that "
                             "differ in the seed alone are one curve")
    parser.add_argument("--best", action="store_true",
                        help="draw the best sample of each example (default: the mean over samples)")
    parser.add_argument("--spans", nargs="+", metavar="FIRST-LAST", type=span, default=[],
                        help="add means over these predicted frames to the table, such as 1-16 "
                             "297-304")
    parser.add_argument("--together", action="store_true",
                        help="draw all results into one panel, even if their data, contexts or "
                             "conventions differ (default: a row of panels for each)")
    parser.add_argument("--animation", metavar="FILE",
                        help="also write an animation, a .gif or a smaller .webp: the truth above the "
                             "first prediction of each curve, in a block for each set of videos")
    parser.add_argument("--examples", nargs="+", type=whole_number("examples", 0), metavar="N",
                        help="numbers of the test videos in the animation (default: 0 to 5)")
    parser.add_argument("--frames", type=whole_number("frames", 1), metavar="N",
                        help="how many predicted frames the animation shows (default: all)")
    parser.add_argument("--out", required=True, metavar="FIGURE",
                        help="the figure to write, such as comparison.pdf")
    return parser.parse_args()


def span(text):
    """Reads the numbers of a first and a last frame: "1-16" gives (1, 16)."""
    first, last = map(int, text.split("-"))
    if not 1 <= first <= last:
        raise ValueError
    return first, last


if __name__ == "__main__":
    # A wrong flag ends the script here, because importing TensorFlow takes seconds.
    tools.run_script(parse_flags)

import startup  # noqa: F401

# isort: split
import csv
import os
import sys

import numpy as np

import charts
import evaluations
import pictures
from charts import Figure, look, matplotlib
from comparison import all_rows, table
from intervals import defined_mean, interval
from metrics import METRICS

# The labels of axes. A term that is not here is labelled by its name.
LOSSES = {"total_loss": "Loss", "nll_term": "Negative log-likelihood\n", "kl_term": "KL"}
PANELS = 3  # a row
ANIMATIONS = {".gif": pictures.encode_gif, ".webp": pictures.encode_webp}
ANIMATION_FPS = 20


def main():
    flags = parse_flags()
    stem, suffix = os.path.splitext(flags.out)
    formats = Figure().canvas.get_supported_filetypes()
    if suffix[1:] not in formats:
        raise UserError(f"out: {flags.out} must end in one of {', '.join(sorted(formats))}")
    kind = os.path.splitext(flags.animation or "")[1]
    if flags.animation and kind not in ANIMATIONS:
        raise UserError(f"animation: {flags.animation} must end in {' or '.join(ANIMATIONS)}")

    curves = evaluations.group_seeds([evaluations.read_result(path) for path in flags.dirs])
    if flags.labels and len(flags.labels) != len(curves):
        raise UserError(f"labels: {len(flags.labels)} are given for {len(curves)} curves")
    labels = flags.labels or evaluations.label_by_difference(curves)
    text = table(curves, labels, flags.spans)
    if flags.animation:
        frames = animated(curves, labels, flags.examples, flags.frames)
        if kind == ".webp" and max(frames.shape[1:3]) > pictures.WEBP_PIXELS:
            raise UserError(f"animation: {frames.shape[2]} x {frames.shape[1]} pixels are too many for "
                            f"a .webp; name a .gif, or fewer examples")
        try:
            with write_atomically(flags.animation, "wb") as file:
                file.write(ANIMATIONS[kind](frames, ANIMATION_FPS))
        except OSError as error:
            raise cannot_write("animation", flags.animation, error) from None
    try:
        with write_atomically(flags.out, "wb") as file:
            save_comparison(file, suffix[1:], curves, labels, flags.best, flags.together)
        with write_atomically(f"{stem}.md") as file:
            file.write(text)
        with write_atomically(f"{stem}.csv") as file:
            csv.writer(file, lineterminator="\n").writerows(all_rows(curves, labels, flags.spans))
    except OSError as error:
        raise cannot_write("out", flags.out, error) from None
    print(f"{text}\nFigure: {flags.out}\nTable: {stem}.md and .csv")


def animated(curves, labels, examples, frames):
    """The frames of an animation: the truth above the prediction of each curve's first result.

    Curves with other videos or another context get a block of their own below.
    Raises UserError if a curve has no evaluation, or if an evaluation lacks one of the examples.
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

    blocks = {}
    for label, curve in zip(labels, curves, strict=True):
        if curve.evaluation is None:
            raise UserError(f"animation: {curve.path} has no evaluation")
        blocks.setdefault((evaluations.data_of(curve), curve.context), []).append((label, curve))
    drawn = []
    for (_, context), block in blocks.items():
        first = block[0][1]
        name = f" ({first.settings.get('dataset')})" if len(blocks) > 1 else ""
        rows = [(f"truth{name}", list(videos(first, "sample{}_gt/gt_pred.npz"))),
                *((label, list(videos(curve, "sample{}/random_sample_1.npz")))
                  for label, curve in block)]
        drawn.append(pictures.comparison_gif_frames(rows, context + 1))
    return pictures.above_each_other(drawn)


# ------------------------------------------------------------------------------------------- figure


def save_comparison(file, suffix, curves, labels, best, together):
    """Draws the metrics over time in rows of panels, and the training curves in further rows.

    Curves whose data, context or convention of a metric differs get rows of their own. If `together`,
    they share a panel, and its title says that they do not compare.
    """
    rows = metric_rows(curves, together)
    losses = terms(curves)
    rows += [[(name, None) for name in losses[i:i + PANELS]] for i in range(0, len(losses), PANELS)]
    with matplotlib.rc_context(charts.SMALL):
        # 7 inches is the width of text on a page.
        figure = Figure(figsize=(7, 2.3 * len(rows) + 0.3), layout="constrained")
        parts = np.atleast_1d(figure.subfigures(len(rows), 1))
        for part, panels in zip(parts, rows, strict=True):
            for axes, (name, shown) in zip(
                    np.atleast_1d(part.subplots(1, len(panels))), panels, strict=True):
                if shown is None:
                    draw_training(axes, name, curves)
                else:
                    draw_metric(axes, name, curves, shown, best)
            part.supxlabel("Training step (light: training loss, dark: validation loss)"
                           if panels[0][1] is None else "Frame", fontsize=8)
        handles = [matplotlib.lines.Line2D([], [], **look(index)) for index in range(len(curves))]
        if any(any(curve.trivial.values()) for curve in curves):
            handles.append(matplotlib.lines.Line2D([], [], **charts.TRIVIAL_LINE))
            labels = [*labels, charts.TRIVIAL_LINE["label"]]
        figure.legend(handles, labels, loc="outside upper center", ncols=legend_columns(labels),
                      handlelength=3)
        figure.savefig(file, format=suffix)


def terms(curves):
    """The names of the loss and of its terms that the runs have logged."""
    logged = {name: None for curve in curves for result in curve.results for line in result.training
              for name in line if name.endswith("_term")}
    trained = any(curve.training for curve in curves)
    return ["total_loss", *logged] if trained else []


def metric_rows(curves, together, panels=PANELS):
    """The rows of panels, each a list of (metric, indices of the curves in it)."""
    drawn = [name for name, metric in METRICS.items() if metric.headline]
    groups = {name: evaluations.comparable(curves, name) for name in drawn}
    if together:
        groups = {name: [sum(found, [])] for name, found in groups.items() if found}
    rows = []
    for number in range(max(map(len, groups.values()), default=0)):
        row = [(name, found[number]) for name, found in groups.items() if number < len(found)]
        rows += [row[i:i + panels] for i in range(0, len(row), panels)]
    return rows


def legend_columns(labels):
    """How many columns fit into 7 inches with letters of 8 points."""
    return max(1, min(len(labels), 110 // (max(map(len, labels)) + 8)))


def draw_metric(axes, name, curves, shown, best):
    """A metric over the predicted frames, with its 95% interval, of the curves of these indices."""
    metric, trivial = METRICS[name], []
    for index in shown:
        curve = curves[index]
        values = curve.of(name, best)  # [R, N, T]
        frames = np.arange(curve.context + 1, curve.context + 1 + values.shape[2])
        low, high = interval(values, limits=metric.limits)
        drawn = look(index)
        axes.fill_between(frames, low, high, color=drawn["color"], alpha=0.15, linewidth=0)
        # Markers of two curves do not cover each other.
        axes.plot(frames, defined_mean(values, (0, 1)),
                  markevery=marked(len(frames), index, len(curves)), **drawn)
        if curve.trivial.get(name):
            bound = metric.best([defined_mean(values, 0) for values in curve.trivial[name].values()], 0)
            if not any(len(bound) == len(other) and np.allclose(bound, other, equal_nan=True)
                       for other in trivial):
                trivial.append(bound)
                axes.plot(frames, bound, **charts.TRIVIAL_LINE, zorder=1.5)
    samples = sorted({curves[index].scores[name].shape[1] for index in shown})
    chosen = f", best of {' or '.join(map(str, samples))}" if best else ""
    axes.set_ylabel(metric.heading + chosen)
    differing = differences([curves[index] for index in shown], name)
    if differing:
        axes.set_title(f"not comparable: {differing}", color=charts.VERMILLION, fontsize=6)
    elif len(evaluations.comparable(curves, name)) > 1:
        curve = curves[shown[0]]
        axes.set_title(f"{curve.settings.get('dataset')}, context {curve.context}")


def differences(curves, name):
    """Says why curves of a metric do not compare: other data, context or convention; "" if they do."""
    kinds = zip(*evaluations.conditions(curves, name).values(), strict=True)
    found = [word for word, kind in zip(("data", "context", "convention"), kinds, strict=True)
             if len(set(kind)) > 1]
    return f"other {' and '.join(found)}" if found else ""


def marked(points, index, results, count=5):
    """The points of a curve that get one of `count` markers, where no other curve has a marker."""
    step = max(1, points // count)
    return slice(index * step // results, None, step)


def draw_training(axes, name, curves):
    """Draws a loss over the steps, the mean over seeds: of validation, and lightly of training."""
    late = []
    for index, curve in enumerate(curves):
        for split, light in (("train", dict(alpha=0.35, linewidth=0.8, marker="")), ("val", {})):
            steps, values = training_curve(curve, split, name)
            drawn = {**look(index), **light, "markevery": marked(len(steps), index, len(curves))}
            if len(values) > 1 and split == "val":
                axes.fill_between(steps, values.min(0), values.max(0), color=drawn["color"], alpha=0.15,
                                  linewidth=0)
            axes.plot(steps, values.mean(0), **drawn)
            late.extend(values[:, steps >= 0.05 * steps.max(initial=0)].flat)
    # The loss of the first steps is so large that the rest would look like a flat line.
    if np.isfinite(late).any():
        low, high = np.nanmin(late), np.nanmax(late)
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    words = LOSSES.get(name, name.removesuffix("_term").replace("_", " ").capitalize())
    axes.set_ylabel(f"{words}{'' if words.endswith(chr(10)) else ' '}(nats per frame)")


def training_curve(curve, split, name):
    """The steps that all runs of a curve have logged, and the values of a scalar there: [R, steps]."""
    logged = [{line["step"]: float(line[name]) for line in result.training
               if line["split"] == split and name in line}
              for result in curve.results]
    steps = sorted(set.intersection(*map(set, logged)))
    return np.array(steps, float), np.array([[run[step] for step in steps] for run in logged])


if __name__ == "__main__":
    tools.run_script(main)
