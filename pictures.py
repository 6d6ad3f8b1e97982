"""Pictures of videos: grids, GIFs, contact sheets, and plots of a metric over time.

Videos are [..., T, H, W, C] with C 1 or 3, uint8 or float in [0, 1]; floats outside are clipped.
Frames are numbered from 1, so after a context of 36 the first predicted frame is number 37.
"""

import contextlib
import io
import textwrap

import matplotlib
import numpy as np
import scipy.spatial
from matplotlib.figure import Figure  # not pyplot, which looks for a display
from PIL import Image, ImageDraw, ImageFont
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.image.metadata import create_summary_metadata
from tensorboard.util import tensor_util

from pixels import to_uint8

# The colours of Okabe & Ito, which colour-blind readers can tell apart (https://jfly.uni-koeln.de/color).
BLUE, VERMILLION, GREEN = "#0072B2", "#D55E00", "#009E73"
ORANGE, PURPLE, SKY, BLACK = "#E69F00", "#CC79A7", "#56B4E9", "#000000"
COLORS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK)
CONTEXT_RGB, PREDICTED_RGB = (0, 114, 178), (213, 94, 0)  # BLUE, VERMILLION

FPS = 12.5  # A GIF gives durations in hundredths of a second: a frame takes 8.
GAP, SEPARATOR = 128, 2  # the grey between pictures, and how many pixels of it
WEBP_PIXELS = 2**14 - 1  # the most that a side of a WebP picture may have
PALETTE_FRAMES = 16  # The colours of a GIF come from so many of its frames.


def to_image(pixels):
    """[H, W, C] uint8 -> a PIL image, grey or colour."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


# -------------------------------------------------------------------------------------------- grids


def save_grid(path, video, columns=50):
    """Writes every frame of a video [T, H, W, C] into one PNG, `columns` a row."""
    # Level 3 takes half the time of the default, and 6 % more bytes.
    to_image(frame_grid(to_uint8(video), columns)).save(path, compress_level=3)


def frame_grid(video, columns):
    """[T, H, W, C] -> [rows H, columns W, C]. Black frames fill the last row up."""
    frames, height, width, channels = video.shape
    columns = min(columns, frames)
    rows = -(-frames // columns)
    video = np.pad(video, [(0, rows * columns - frames), (0, 0), (0, 0), (0, 0)])
    video = video.reshape(rows, columns, height, width, channels)
    return video.transpose(0, 2, 1, 3, 4).reshape(rows * height, columns * width, channels)


# --------------------------------------------------------------------------------------------- GIFs


def encode_gif(frames, fps=FPS):
    """The bytes of a GIF that loops for ever, from frames [T, H, W, C].

    Grey frames keep all 256 greys, or 254 greys if they have coloured borders. All frames of a colour
    video share 256 colours.
    """
    frames = to_uint8(frames)
    if frames.shape[-1] == 1:
        images = [to_image(frame) for frame in frames]
    else:
        images = _grey_within_borders(frames) or _of_one_palette(frames)
    # A palette of its own for each frame would make the file 3 % smaller, in twice the time.
    return _encode(images, "gif", fps, optimize=False)


def encode_webp(frames, fps=FPS):
    """The bytes of a WebP animation that loops for ever, from frames [T, H, W, C]. It loses details."""
    images = [to_image(frame).convert("RGB") for frame in to_uint8(frames)]
    return _encode(images, "webp", fps, quality=75)


def _encode(images, kind, fps, **options):
    with io.BytesIO() as file:
        images[0].save(file, kind, save_all=True, append_images=images[1:], duration=1000 / fps, loop=0,
                       **options)
        return file.getvalue()


def _grey_within_borders(frames):
    """Images that share a palette of greys and border colours; None if they have other colours."""
    greys = np.rint(np.linspace(0, 255, 254)).astype(np.uint8)
    palette = np.concatenate([greys.repeat(3), CONTEXT_RGB, PREDICTED_RGB]).astype(np.uint8).tobytes()
    nearest = np.rint(np.arange(256) * 253 / 255).astype(np.uint8)
    images = []
    for frame in frames:
        red, green, blue = np.moveaxis(frame, -1, 0)
        index, colored = nearest[red], (red != green) | (green != blue)
        borders = frame[colored]
        context, predicted = ((borders == color).all(-1) for color in (CONTEXT_RGB, PREDICTED_RGB))
        if not (context | predicted).all():
            return None
        index[colored] = np.where(context, 254, 255)
        images.append(Image.fromarray(index))
        images[-1].putpalette(palette)
    return images


def _of_one_palette(frames):
    """Images that share a palette: the best 254 colours of some frames, and the colours of borders."""
    some = frames[np.linspace(0, len(frames) - 1, PALETTE_FRAMES).astype(int)]
    some = some[:, ::4, ::4]
    some = Image.fromarray(some.reshape(-1, some.shape[2], 3))
    best = some.quantize(254, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    palette = np.array([*np.reshape(best.getpalette(), [-1, 3]), CONTEXT_RGB, PREDICTED_RGB], np.uint8)
    # A table holds the nearest colour of each cube of 8 x 8 x 8 colours, which saves searches.
    middles = np.stack(np.meshgrid(*[np.arange(4, 256, 8)] * 3, indexing="ij"), -1)
    nearest = scipy.spatial.cKDTree(palette).query(middles)[1].astype(np.uint8)
    for index, color in [(-2, CONTEXT_RGB), (-1, PREDICTED_RGB)]:
        nearest[tuple(np.array(color) >> 3)] = len(palette) + index
    images = []
    for frame in frames:
        red, green, blue = np.moveaxis(frame.astype(np.uint16) >> 3, -1, 0)
        images.append(Image.fromarray(nearest.ravel()[red << 10 | green << 5 | blue]))
        images[-1].putpalette(palette.tobytes())
    return images


def save_gif(path, frames, fps=FPS):
    """Writes frames [T, H, W, C] as a GIF that loops for ever."""
    gif = encode_gif(frames, fps)
    with open(path, "wb") as file:
        file.write(gif)


def gif_summary(tag, frames):
    """Frames [T, H, W, C] as a Summary that TensorBoard shows as an animated image."""
    height, width = frames.shape[1:3]
    # TensorBoard passes the bytes of an image on to the browser, which can show a GIF.
    image = [str(width).encode(), str(height).encode(), encode_gif(frames)]
    metadata = create_summary_metadata(display_name=None, description=None)
    return Summary(value=[Summary.Value(
        tag=tag, tensor=tensor_util.make_tensor_proto(np.array(image, object)), metadata=metadata)])


def training_gif_frames(truth, prediction):
    """Truth above prediction above their absolute difference; examples side by side.

    truth, prediction: [B, T, H, W, C]. Returns [T, H', W', C] uint8.
    """
    truth, prediction = to_uint8(truth), to_uint8(prediction)
    error = np.abs(truth.astype(np.int16) - prediction).astype(np.uint8)
    columns = [_stack(videos, axis=1) for videos in zip(truth, prediction, error, strict=True)]
    return _stack(columns, axis=2)


def prediction_gif_frames(truth, prediction, context):
    """Truth beside prediction, with a blue border in the context and an orange one after it.

    Args:
        truth: [T, H, W, C], the context and what follows.
        prediction: [T - context, H, W, C]. In the context its side shows the observed frames.
        context: number of frames observed.

    Returns:
        [T, 2 H + 6, 4 W + 18, 3] uint8. Each pixel becomes 2 x 2, and borders are 3 pixels wide.
    """
    truth, prediction = to_uint8(truth), to_uint8(prediction)
    prediction = np.concatenate([truth[:context], prediction])
    if len(prediction) != len(truth):
        raise ValueError(f"{len(truth) - context} frames follow the context, "
                         f"{len(prediction) - context} are predicted")
    sides = [bordered(video, context, scale=2, border=3) for video in (truth, prediction)]
    return _stack(sides, axis=2, separator=6, gap=255)


def comparison_gif_frames(rows, first):
    """Videos of the same scenes in a labelled row for each source, and the frame's number below them.

    Args:
        rows: pairs of a label and a list of videos [T, H, W, C]. All lists have the same length.
        first: the number of the first frame.

    Returns:
        [T, H', W', C] uint8.
    """
    labels, sources = zip(*rows, strict=True)
    stacked = _stack([_stack(videos, axis=2) for videos in sources], axis=1)
    frames, height, _, channels = stacked.shape
    pitch = (height + SEPARATOR) / len(rows)
    font = ImageFont.load_default(pitch // 5)
    margin = 3 * SEPARATOR + int(max(map(font.getlength, [*labels, f"frame {first + frames}"])))

    def captions(number):
        image = Image.new("L", (margin, height), 255)
        draw = ImageDraw.Draw(image)
        for row, label in enumerate(labels):
            draw.text((SEPARATOR, (row + 0.5) * pitch), label, 0, font, anchor="lm")
        draw.text((SEPARATOR, height - 1), f"frame {number}", GAP, font, anchor="lb")
        return np.asarray(image)[..., None].repeat(channels, -1)

    return np.concatenate([np.stack([captions(first + n) for n in range(frames)]), stacked], 2)


def above_each_other(videos):
    """Joins videos [T, H_i, W_i, C_i] of equal length from top to bottom, flush right on white.

    Returns: [T, H, W, C] uint8, in grey if all are.
    """
    width, channels = (max(video.shape[axis] for video in videos) for axis in (2, 3))
    wide = [np.pad(np.repeat(video, channels // video.shape[3], 3),
                   [(0, 0), (0, 0), (width - video.shape[2], 0), (0, 0)], constant_values=255)
            for video in videos]
    return _stack(wide, axis=1, gap=255)


def bordered(video, context, scale, border):
    """Enlarges uint8 frames [T, H, W, C], with a blue border in the context, an orange one after it.

    Returns: [T, scale H + 2 border, scale W + 2 border, 3].
    """
    frames, height, width, _ = video.shape
    framed = np.empty((frames, scale * height + 2 * border, scale * width + 2 * border, 3), np.uint8)
    framed[:context], framed[context:] = CONTEXT_RGB, PREDICTED_RGB
    framed[:, border:-border, border:-border] = video.repeat(scale, axis=1).repeat(scale, axis=2)
    return framed


def _stack(videos, axis, separator=SEPARATOR, gap=GAP):
    """Joins videos [T, H, W, C] along an axis, with a separator between each two."""
    shape = list(videos[0].shape)
    shape[axis] = separator
    line = np.full(shape, gap, np.uint8)
    parts = [part for video in videos for part in (line, to_uint8(video))]
    return np.concatenate(parts[1:], axis)


# -------------------------------------------------------------------------------------------- plots

STYLE = {
    "font.size": 9, "axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "0.9", "grid.linewidth": 0.6,
    "legend.frameon": False, "lines.linewidth": 1.5, "savefig.dpi": 200, "savefig.bbox": "tight",
    "pdf.fonttype": 42,  # Letters stay text in a PDF, which journals require.
}
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")


def look(index):
    """Colour, line and marker of a curve. Together they tell many curves apart."""
    return dict(color=COLORS[index % len(COLORS)], linestyle=LINES[index % len(LINES)],
                marker=MARKERS[index % len(MARKERS)], markersize=3.5, linewidth=1.3)


TRIVIAL_LINE = dict(color="0.45", linestyle=(0, (4, 2)), linewidth=1.1, label="best trivial predictor")


@contextlib.contextmanager
def saved_figure(stem, size):
    """Yields a figure with letters of 8 points, and then saves it as `stem`.png and `stem`.pdf.

    size: width and height in inches.
    """
    with matplotlib.rc_context({**STYLE, "font.size": 8, "axes.titlesize": 8}):
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        for suffix in ("png", "pdf"):
            figure.savefig(f"{stem}.{suffix}")


def save_range_plot(path, label, mean, low, high, context, trivial):
    """Plots a metric over the predicted frames, with the interval around its mean.

    Args:
        path: of the picture.
        label: of the axis.
        mean, low, high: [T], for frames context + 1 ... context + T. NaN bounds are left out.
        context: number of frames observed.
        trivial: [T], of the best trivial predictor.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5, 2.8), layout="constrained")
        axes = figure.add_subplot()
        frames = np.arange(context + 1, context + 1 + len(mean))
        axes.fill_between(frames, low, high, color=BLUE, alpha=0.25, linewidth=0)
        axes.plot(frames, mean, color=BLUE, label="model")
        axes.plot(frames, trivial, **TRIVIAL_LINE)
        axes.set(xlabel="Frame", ylabel=label, xlim=(context + 1, frames[-1] + 0.5))
        axes.legend()
        figure.savefig(path)


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
            rows.append(np.full((gap, rows[-1].shape[1], 3), 255, np.uint8))
            top += height + gap
        rows.append(np.full((2 * gap, rows[-1].shape[1], 3), 255, np.uint8))
        top += 2 * gap
    # The line is in the gap before the first predicted column.
    end = np.searchsorted(shown, context) * (width + gap) - gap / 2 - 0.5
    centres = np.arange(len(shown)) * (width + gap) + width / 2
    _draw_sheet(path, np.concatenate(rows[:-2]), labels, (centres, shown + 1),
                (end, f"context ends after frame {context}"))


def _draw_sheet(path, sheet, row_labels, ticks, line):
    """Draws an image [H, W, 3] with (place, label) of each row, column ticks, and a labelled line."""
    with matplotlib.rc_context({**STYLE, "axes.grid": False, "font.size": 8}):
        # Each pixel becomes 2 x 2 dots, so that nothing is resampled.
        size = 2 * np.array(sheet.shape[1::-1]) / matplotlib.rcParams["savefig.dpi"]
        figure = Figure(figsize=size)
        axes = figure.add_axes([0, 0, 1, 1])
        axes.imshow(sheet, interpolation="none")
        axes.set_yticks(*zip(*row_labels, strict=True))
        axes.set_xticks(*ticks)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        end, label = line
        axes.axvline(end, color=VERMILLION, linewidth=1.2)
        axes.annotate(label, (end, 0), (3, -3), color=VERMILLION, xycoords=("data", "axes fraction"),
                      textcoords="offset points", va="top")
        figure.savefig(path)


def _contact_row(video, shown, total, gap):
    """The frames `shown` of a video, side by side: [H, W', 3]. Frames it has not stay white."""
    missing = total - len(video)
    height, width = video.shape[1:3]
    row = np.full((height, len(shown) * (width + gap) - gap, 3), 255, np.uint8)
    for column, index in enumerate(shown):
        if index >= missing:
            left = column * (width + gap)
            row[:, left : left + width] = video[index - missing]
    return row
