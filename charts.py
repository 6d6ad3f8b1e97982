"""Charts of metrics over time, and contact sheets of predictions, drawn by matplotlib.

Frames are numbered from 1, so after a context of 36 the first predicted frame is number 37. Other
modules import matplotlib after this one.
"""

import contextlib
import os
import sys
import textwrap

import numpy as np

from pixels import to_uint8


def _import_matplotlib():
    """Imports matplotlib, even if MPLBACKEND names a backend that is not here, as notebooks do."""
    if "matplotlib" in sys.modules:
        return sys.modules["matplotlib"]
    backend = os.environ.pop("MPLBACKEND", None)
    import matplotlib

    if backend:
        try:
            matplotlib.rcParams["backend"] = backend
            os.environ["MPLBACKEND"] = backend
        except ValueError:
            print(f"MPLBACKEND={backend} is overridden: matplotlib has no such backend here. Pictures "
                  "still go to files.", file=sys.stderr)
    return matplotlib


matplotlib = _import_matplotlib()
from matplotlib.figure import Figure  # noqa: E402  Not pyplot, which looks for a display.

# The colours of Okabe & Ito (https://jfly.uni-koeln.de/color): colour-blind readers can tell them apart.
BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
ORANGE, PURPLE, SKY, BLACK = "#E69F00", "#CC79A7", "#56B4E9", "#000000"
COLORS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK)
STYLE = {
    "font.size": 9, "axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "0.9", "grid.linewidth": 0.6,
    "legend.frameon": False, "lines.linewidth": 1.5, "savefig.dpi": 200, "savefig.bbox": "tight",
    "pdf.fonttype": 42,  # Letters stay text in a PDF, which journals require.
}
SMALL = {**STYLE, "font.size": 8, "axes.titlesize": 8}
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")


def look(index):
    """Colour, line and marker of a curve. Together they tell many curves apart."""
    return dict(color=COLORS[index % len(COLORS)], linestyle=LINES[index % len(LINES)],
                marker=MARKERS[index % len(MARKERS)], markersize=3.5, linewidth=1.3)


TRIVIAL_DASHES = ((0, (4, 2)), ":", "-.", (0, (8, 2)))
TRIVIAL_LINE = dict(color="0.45", linestyle=TRIVIAL_DASHES[0], linewidth=1.1,
                    label="best trivial predictor")


@contextlib.contextmanager
def saved_figure(stem, size):
    """Yields a figure with letters of 8 points, and then saves it as `stem`.png and `stem`.pdf.

    size: width and height in inches.
    """
    with matplotlib.rc_context(SMALL):
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        for suffix in ("png", "pdf"):
            figure.savefig(f"{stem}.{suffix}")


def save_range_plot(file, label, mean, low, high, context, trivial, kind="png"):
    """Plots a metric over the predicted frames, with the interval around its mean.

    Args:
        file: of the picture, a path or an open file.
        label: of the axis.
        mean, low, high: [T], for frames context + 1 ... context + T. NaN bounds are left out.
        context: number of frames observed.
        trivial: [T] of trivial predictors, by their labels.
        kind: of the picture, "png" or "svg".

    Returns: the place of the first frame at the bottom, and that of the last one at the top, as shares
    of the picture's width and height.
    """
    with matplotlib.rc_context({**STYLE, "savefig.bbox": None, "svg.fonttype": "none"}):
        figure = Figure(figsize=(5, 3), layout="constrained")
        axes = figure.add_subplot()
        frames = np.arange(context + 1, context + 1 + len(mean))
        axes.fill_between(frames, low, high, color=BLUE, alpha=0.25, linewidth=0)
        axes.plot(frames, mean, color=BLUE, label="model")
        for index, (words, values) in enumerate(trivial.items()):
            dashes = TRIVIAL_DASHES[index % len(TRIVIAL_DASHES)]
            axes.plot(frames, values, **TRIVIAL_LINE | {"label": words, "linestyle": dashes})
        axes.set(xlabel="Frame", ylabel=label, xlim=(context + 1, frames[-1] + 0.5))
        figure.legend(loc="outside lower center", ncols=3)
        figure.savefig(file, format=kind)
        corners = np.transpose([frames[[0, -1]], axes.get_ylim()])
        return (axes.transData.transform(corners) / figure.bbox.size).tolist()


def save_contact_sheet(path, examples, context, columns=12):
    """Writes examples of predictions as rows of evenly spaced frames.

    The number of its frame stands above each column; a line marks the end of the context.

    Args:
        path: of the picture.
        examples: for each example a dict from a row's label to its video: [T, H, W, C] with the context
            (ground truth), or [T - context, H, W, C] without it (samples).
        context: number of frames observed.
        columns: frames shown of each video.
    """
    total, height, width = next(iter(examples[0].values())).shape[:3]
    shown = np.unique(np.linspace(0, total - 1, columns).round().astype(int))
    gap = max(2, height // 16)
    rows, labels, top = [], [], 0
    for example in examples:
        for label, video in example.items():
            rows.append(_contact_row(to_uint8(video), shown, total, gap))
            labels.append((top + height / 2, textwrap.fill(label, 24)))
            top += height + gap
        rows.append(np.full((2 * gap, *rows[-1].shape[1:]), 255, np.uint8))
        top += 2 * gap
    sheet = np.concatenate(rows)[:-3 * gap, :-gap]
    with matplotlib.rc_context({**SMALL, "axes.grid": False}):
        # Each pixel becomes 2 x 2 dots, so that nothing is resampled.
        size = 2 * np.array(sheet.shape[1::-1]) / matplotlib.rcParams["savefig.dpi"]
        figure = Figure(figsize=size)
        axes = figure.add_axes([0, 0, 1, 1])
        axes.imshow(sheet, interpolation="none")
        axes.set_yticks(*zip(*labels, strict=True))
        axes.set_xticks(np.arange(len(shown)) * (width + gap) + width / 2, shown + 1)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        # The line is in the gap before the first predicted column.
        end = np.searchsorted(shown, context) * (width + gap) - gap / 2 - 0.5
        axes.axvline(end, color=VERMILLION, linewidth=1.2)
        axes.annotate(f"context ends after frame {context}", (end, 0), (3, -3), color=VERMILLION,
                      xycoords=("data", "axes fraction"), textcoords="offset points", va="top")
        figure.savefig(path)


def _contact_row(video, shown, total, gap):
    """The frames `shown` of a video, side by side, white below and to the right of each: [H', W', 3].

    A video of fewer than `total` frames lacks the first ones, which are white.
    """
    frames = np.full((total, *video.shape[1:3], 3), 255, np.uint8)
    frames[total - len(video):] = video
    framed = np.pad(frames[shown], [(0, 0), (0, gap), (0, gap), (0, 0)], constant_values=255)
    return np.concatenate(framed, 1)
