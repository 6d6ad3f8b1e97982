"""Compares runs in one figure: python3 plot.py logs/moving_digits/* --out comparison.pdf

Of a run directory it shows the training curves and the newest evaluation, of an eval_<date_time>/
that evaluation. The means, with 95% intervals, are printed as a Markdown table and written beside
the figure.
"""

import quiet  # noqa: F401

# isort: split
import dataclasses
import glob
import json
import os
import zipfile

import matplotlib
import numpy as np
from matplotlib.figure import Figure

import metrics
import pictures
from tools import Config, Parser, UserError, read_yaml, run_script, write_atomically


@dataclasses.dataclass(frozen=True)
class Metric:
    label: str
    decimals: int
    drawn: bool  # and not only in the table


METRICS = {
    "psnr": Metric("PSNR (dB)", 2, True),
    "ssim": Metric("SSIM", 3, True),
    "lpips": Metric("LPIPS", 3, True),
    "psnr_unclipped": Metric("PSNR (dB), unclipped", 2, False),
    "ssim_range2": Metric("SSIM, unclipped, range 2", 3, False),
}
LOSSES = {
    "total_loss": "Loss (nats per frame)",
    "nll_term": "Negative log-likelihood\n(nats per frame)",
    "kl_term": "KL (nats per frame)",
}
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
    fvd: what eval.py reports of FVD, None where it does not.
    context: frames observed before those.
    """

    path: str
    settings: dict
    training: list
    scores: dict
    context: int | None
    fvd: dict | None = None

    def over_samples(self, name, best):
        """A metric of every example: [N, T]. The mean over samples, or the best sample.

        The best sample of an example is the one with the best mean over time.
        """
        scores = self.scores[name]
        if not best:
            return scores.mean(1)
        return scores[np.arange(len(scores)), metrics.best_sample(name, scores)]


def main():
    parser = Parser(description="Compares runs in one figure and one table.")
    parser.add_argument("dirs", nargs="+", metavar="RUN_OR_EVAL_DIR",
                        help="run directories, or evaluations (eval_<date_time>/) in them")
    parser.add_argument("--labels", nargs="+", metavar="LABEL",
                        help="one per directory (default: the settings that differ)")
    parser.add_argument("--best", action="store_true",
                        help="draw the best sample of each example (default: the mean over samples)")
    parser.add_argument("--out", required=True, metavar="FIGURE", help="such as comparison.pdf or .png")
    flags = parser.parse_args()
    stem, suffix = os.path.splitext(flags.out)
    formats = Figure().canvas.get_supported_filetypes()
    if suffix[1:] not in formats:
        raise UserError(f"out: {flags.out} must end in one of {', '.join(sorted(formats))}")
    if flags.labels and len(flags.labels) != len(flags.dirs):
        raise UserError(f"labels: {len(flags.labels)} are given for {len(flags.dirs)} directories")

    results = [read_result(path) for path in flags.dirs]
    labels = flags.labels or label_by_difference(results)
    text = table(results, labels)
    try:
        with write_atomically(flags.out, "wb") as file:
            save_comparison(file, suffix[1:], results, labels, flags.best)
        with write_atomically(f"{stem}.md") as file:
            file.write(text)
    except OSError as error:
        raise UserError(f"cannot write {flags.out}: {error.strerror}") from None
    print(f"{text}\nFigure: {flags.out}\nTable: {stem}.md")


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
            context = int(file["open_loop_ctx"])
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from None
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a whole evaluation: {error}") from None
    for name, values in scores.items():
        if values.ndim != 3 or not values.size:
            raise UserError(f"{arrays}: {name} has the shape {list(values.shape)}; "
                            f"expected [examples, samples, frames]")
        if not np.isfinite(values).all():
            raise UserError(f"{arrays}: {name} has values that are not finite")
    if not scores:
        raise UserError(f"{arrays} has none of the metrics {', '.join(METRICS)}")
    return Result(path, settings, [], scores, context, fvd)


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


# ------------------------------------------------------------------------------------------- labels


def label_by_difference(results):
    """Labels results by the settings in which they differ, or else by their paths."""
    compared = [field.name for field in dataclasses.fields(Config) if field.metadata["changes"] != "run"]
    compared += [key for key in EVALUATION_KEYS if key not in compared]
    # A setting that one of them lacks (of the evaluation: a run may have none) is no difference.
    differing = [
        key for key in compared
        if all(key in result.settings for result in results)
        and any(result.settings[key] != results[0].settings[key] for result in results)]
    labels = [", ".join(f"{key} {spelled(result.settings[key])}" for key in differing)
              for result in results]
    if len(set(labels)) < len(labels):
        labels = [os.path.normpath(result.path) for result in results]
    return labels


def spelled(value):
    """A setting as the YAML file spells it."""
    return json.dumps(value).strip('"')


# -------------------------------------------------------------------------------------------- table


def table(results, labels):
    """The means over frames, samples and examples, with their intervals, as Markdown."""
    lines = [["", *labels], *table_rows(results)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * width for width in widths])
    lines = [" | ".join(map(str.ljust, line, widths)) for line in lines]
    text = "".join(f"| {line} |\n" for line in lines)
    if any(result.scores for result in results):
        text += ("\nMeans over the predicted frames and the examples; in brackets the 95% bootstrap "
                 "interval over the examples.\nThe best sample of an example is the one with the best "
                 "mean over time, chosen for each metric.\n")
    return text


def table_rows(results):
    """Yields the rows of the table: a name, then a cell a result, empty where it has no such thing."""
    shapes = [next(iter(result.scores.values())).shape if result.scores else None for result in results]
    if any(shapes):
        for axis, name in enumerate(["Examples", "Samples of each", "Frames predicted"]):
            yield [name, *(str(shape[axis]) if shape else "" for shape in shapes)]
        yield ["Frames of context", *(str(result.context or "") for result in results)]
    several = sorted({shape[1] for shape in shapes if shape and shape[1] > 1})
    for name in METRICS:
        having = [name in result.scores for result in results]
        if any(having):
            yield [f"{label(name)}, mean", *(
                cell(result, name) if has else "" for result, has in zip(results, having, strict=True))]
        for samples in several if any(having) else []:
            yield [f"{label(name)}, best of {samples}", *(
                cell(result, name, best=True) if name in result.scores and shape[1] == samples else ""
                for result, shape in zip(results, shapes, strict=True))]
    if any(result.fvd for result in results):
        yield ["FVD ↓ (videos, frames of each)", *(
            "{fvd:.1f} ({fvd_num_videos}, {fvd_num_frames})".format(**result.fvd) if result.fvd else ""
            for result in results)]
    if any(result.training for result in results):
        yield ["Steps trained", *(str(result.training[-1]["step"]) if result.training else ""
                                  for result in results)]


def cell(result, name, best=False):
    """A mean and its interval: "21.30 [20.95, 21.66]"; the mean alone where there is one example."""
    values = result.over_samples(name, best).mean(1)
    low, high = metrics.bootstrap_interval(values)
    decimals = METRICS[name].decimals
    if np.isnan(low):
        return f"{values.mean():.{decimals}f}"
    return f"{values.mean():.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"


def label(name):
    """A metric's name with its unit, and which way is better."""
    return f"{METRICS[name].label} {'↓' if name in metrics.LOWER_IS_BETTER else '↑'}"


# ------------------------------------------------------------------------------------------- figure


def save_comparison(file, suffix, results, labels, best):
    """Draws the metrics over time in one row of panels, the training curves in another."""
    drawn = [name for name, metric in METRICS.items()
             if metric.drawn and any(name in result.scores for result in results)]
    losses = [name for name in LOSSES if any(result.training for result in results)]
    rows = [row for row in (drawn, losses) if row]
    with matplotlib.rc_context({**pictures.STYLE, "font.size": 8}):
        # As wide as the text of a page.
        figure = Figure(figsize=(7, 2.3 * len(rows) + 0.3), layout="constrained")
        parts = np.atleast_1d(figure.subfigures(len(rows), 1))
        for part, names in zip(parts, rows, strict=True):
            for axes, name in zip(np.atleast_1d(part.subplots(1, len(names))), names, strict=True):
                if name in LOSSES:
                    draw_training(axes, name, results)
                else:
                    draw_metric(axes, name, results, best)
            part.supxlabel("Training step (light: training loss, dark: validation loss)"
                           if names is losses else "Frame", fontsize=8)
        handles = [matplotlib.lines.Line2D([], [], **style(index)) for index in range(len(results))]
        figure.legend(handles, labels, loc="outside upper center", ncols=legend_columns(labels),
                      handlelength=3)
        figure.savefig(file, format=suffix)


def legend_columns(labels):
    """As many columns as fit 7 inches of 8 point letters."""
    return max(1, min(len(labels), 110 // (max(map(len, labels)) + 8)))


def style(index):
    """Colour, line and marker of a result: any one of them tells few results apart."""
    return dict(
        color=pictures.COLORS[index % len(pictures.COLORS)], linestyle=LINES[index % len(LINES)],
        marker=MARKERS[index % len(MARKERS)], markersize=3.5, linewidth=1.3)


def draw_metric(axes, name, results, best):
    """A metric over the predicted frames, with its 95% interval."""
    for index, result in enumerate(results):
        if name not in result.scores:
            continue
        values = result.over_samples(name, best)  # [N, T]
        frames = np.arange(result.context + 1, result.context + 1 + values.shape[1])
        low, high = metrics.bootstrap_interval(values)
        look = style(index)
        axes.fill_between(frames, low, high, color=look["color"], alpha=0.15, linewidth=0)
        # Few markers, and none upon another's.
        axes.plot(frames, values.mean(0), markevery=marked(len(frames), index, len(results)), **look)
    samples = sorted({result.scores[name].shape[1] for result in results if name in result.scores})
    chosen = f", best of {' or '.join(map(str, samples))}" if best else ""
    axes.set_ylabel(label(name) + chosen)


def marked(points, index, results, count=5):
    """Which of a curve's points get a marker: `count` of them, where no other curve has its own."""
    step = max(1, points // count)
    return slice(index * step // results, None, step)


def draw_training(axes, name, results):
    """A loss over the steps: that of validation, and lightly that of training."""
    late = []
    for index, result in enumerate(results):
        for split, light in (("train", dict(alpha=0.35, linewidth=0.8, marker="")), ("val", {})):
            points = np.array([(line["step"], line[name]) for line in result.training
                               if line["split"] == split], float).reshape(-1, 2)
            steps, values = points.T
            axes.plot(steps, values, **{
                **style(index), **light, "markevery": marked(len(steps), index, len(results))})
            late.extend(values[steps >= 0.05 * steps.max(initial=0)])
    # The first steps lose so much more than all others that these would be one flat line.
    if np.isfinite(late).any():
        low, high = np.nanmin(late), np.nanmax(late)
        axes.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    axes.set_ylabel(LOSSES[name])


if __name__ == "__main__":
    run_script(main)
