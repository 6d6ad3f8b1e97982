"""What every video becomes, whatever it was read from: square frames of one size, as uint8."""

import functools
import typing

import numpy as np
import scipy.sparse

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, by which ffmpeg makes grey too.


class Broken(Exception):
    """A file that holds no video that can be read. Says why.

    again: whether the fault is the system's, so that another try may go well.
    """

    def __init__(self, reason, again=False):
        super().__init__(reason, again)
        self.reason, self.again = reason, again

    def __str__(self):
        return self.reason


class Form(typing.NamedTuple):
    """What every frame becomes: size x size pixels of 1 or 3 channels.

    fit: how it becomes a square: `crop` to the one in its middle, `pad` with black, or `stretch`.
    fps: frames a second, by the file's time stamps; None: every frame once. Arrays and images have no
        time stamps, and keep all their frames.
    """

    size: int = 64
    channels: int = 3
    fit: str = "crop"
    fps: float | None = None

    @property
    def shape(self):
        """Of a frame."""
        return (self.size, self.size, self.channels)


class Video(typing.NamedTuple):
    """A video that was found in a file. part: its name within the file, empty where it is the only one.

    length: its frames now. height, width, fps: as they were; fps is None where it is unknown.
    actions: float32 [length, A], or None; `refused` says why where there are some that do not fit.
    notes: what its user should know of it, in words.
    """

    part: str
    length: int
    height: int
    width: int
    fps: float | None
    actions: np.ndarray | None
    refused: str | None
    notes: tuple = ()


class Request(typing.NamedTuple):
    """What is to be read, and how.

    path: of the file, or what stands for a series of pictures. pictures: their paths, in order.
    within: patterns of the names of arrays in the file, () for none.
    axes, keep_partial: as the config has them.
    onehot: whether whole-number actions become one-hot. scratch: a folder for temporary files.
    threads: of the decoder; 0 leaves the number to it. estimate: only to say about how many frames.
    """

    path: str
    form: Form
    pictures: tuple = ()
    within: tuple = ()
    axes: str | None = None
    keep_partial: bool = False
    onehot: bool = False
    scratch: str | None = None
    threads: int = 0
    estimate: bool = False


def crop(height, width, aspect, fit):
    """What is kept of a frame: (top, left, height, width), in its own pixels.

    aspect: the width of a pixel over its height. Top and left are even, so that what is kept lies on
    whole pixels of a video that has one colour for 2 x 2.
    """
    if fit != "crop":
        return 0, 0, height, width
    rows = min(height, max(1, round(width * aspect)))
    columns = min(width, max(1, round(height / aspect)))
    return (height - rows) // 4 * 2, (width - columns) // 4 * 2, rows, columns


def fitted(height, width, aspect, form):
    """Rows and columns that a frame takes of the square."""
    if form.fit != "pad":
        return form.size, form.size
    sides = (height, width * aspect)
    return tuple(max(1, int(form.size * side / max(sides) + 0.5)) for side in sides)


def convert(frames, form):
    """Converts [t, H, W, C] to uint8 [t, *form.shape].

    frames: uint8, uint16 (0 to 65535), bool or floats from 0 to 1; C is 1, 3, or 4 with opacity, which
    is blended on black.
    """
    if frames.dtype == np.uint8 and frames.shape[1:] == form.shape:
        return frames
    top, left, height, width = crop(*frames.shape[1:3], 1, form.fit)
    rows, columns = fitted(height, width, 1, form)
    result = np.zeros([len(frames), *form.shape], np.uint8)  # Black where it is padded.
    to_255 = np.float32(255 / np.iinfo(frames.dtype).max if frames.dtype.kind == "u" else 255)
    for frame, converted in zip(frames, result, strict=True):
        frame = frame[top : top + height, left : left + width].astype(np.float32)
        if frame.shape[-1] == 4:
            frame = frame[..., :3] * (frame[..., 3:] * (to_255 / 255))
        frame = _resize(frame, rows, columns) * to_255  # [rows, columns, C]
        if form.channels == 1 and frame.shape[-1] == 3:
            frame = frame @ np.array(LUMA, np.float32)[:, None]
        above, before = (form.size - rows) // 2, (form.size - columns) // 2
        converted[above : above + rows, before : before + columns] = np.rint(np.clip(frame, 0, 255))
    return result


def resize(video, form, step=64):
    """Converts a whole video as convert does, `step` frames at a time."""
    if video.shape[1:] == form.shape:
        return video
    return np.concatenate([convert(video[start : start + step], form)
                           for start in range(0, len(video), step)])


def _resize(frame, rows, columns):
    """Resizes float32 [height, width, C] to [rows, columns, C]."""
    height, width, channels = frame.shape
    x = _weights(height, rows) @ frame.reshape(height, -1)
    x = x.reshape(rows, width, channels).swapaxes(0, 1).reshape(width, -1)
    x = _weights(width, columns) @ x
    return x.reshape(columns, rows, channels).swapaxes(0, 1)


@functools.lru_cache(64)
def _weights(source, target):
    """How pixels of a side are weighed: sparse float32 [target, source]; rows sum to one.

    A target pixel averages the source pixels by how much of each it covers; where it is the smaller of
    the two, it interpolates between the centres of its neighbours.
    """
    edges = np.arange(target + 1) * source / target
    pixels = np.arange(source)
    if target <= source:
        left, right = edges[:-1, None], edges[1:, None]
        weights = np.maximum(0, np.minimum(right, pixels + 1) - np.maximum(left, pixels))
    else:
        centres = np.clip((edges[:-1] + edges[1:]) / 2 - 0.5, 0, source - 1)[:, None]
        weights = np.maximum(0, 1 - np.abs(centres - pixels))
    return scipy.sparse.csr_array((weights / weights.sum(1, keepdims=True)).astype(np.float32))
