"""The types that all readers of video share: requests, videos, and the form of their frames."""

import struct
import typing
import zipfile
import zlib

import numpy as np

# What libraries raise on damaged files, and on files of another format.
UNREADABLE = (ValueError, EOFError, KeyError, SyntaxError, RuntimeError, struct.error, zlib.error,
              zipfile.BadZipFile)


class Broken(Exception):
    """A file holds no video that can be read. Its text says why.

    again: whether the fault is the system's, so that another try may succeed.
    """

    def __init__(self, reason, again=False):
        super().__init__(reason, again)
        self.reason, self.again = reason, again

    def __str__(self):
        return self.reason


class Form(typing.NamedTuple):
    """The form of every frame: size x size pixels of 1 or 3 channels, uint8.

    fit: how a frame becomes a square: `crop` to its middle, `pad` with black, or `stretch`.
    fps: frames a second, by the file's time stamps; None: every frame once. Arrays and images have no
        time stamps, and keep all their frames.
    """

    size: int = 64
    channels: int = 3
    fit: str = "crop"
    fps: float | None = None

    @property
    def shape(self):
        """The shape of a frame, (size, size, channels)."""
        return (self.size, self.size, self.channels)


class Video(typing.NamedTuple):
    """A video in a file. part: its name within the file, empty where it is the only one.

    length: how many frames were read. height, width, fps: those of the file; fps is None if unknown.
    actions: float32 [length, A], or None. refused: why the actions were not taken, or None.
    notes: sentences, without their subject, that tell the user what is unusual about the video.
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
    """Which file to read, and how.

    path: of the file, or the name of a series of pictures. pictures: their paths, in order.
    within: patterns of the names of arrays in the file; () for all.
    axes, keep_partial: as in the config.
    onehot: whether whole-number actions become one-hot. scratch: a folder for temporary files.
    threads: how many the decoder uses; 0 lets it choose. estimate: whether only to count the frames.
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
    """The part of a frame that is kept: (top, left, height, width), in its own pixels.

    aspect: the width of a pixel over its height. Top and left are even, since many videos store one
    colour for 2 x 2 pixels.
    """
    if fit != "crop":
        return 0, 0, height, width
    rows = min(height, max(1, round(width * aspect)))
    columns = min(width, max(1, round(height / aspect)))
    return (height - rows) // 4 * 2, (width - columns) // 4 * 2, rows, columns


def fitted(height, width, aspect, form):
    """How many rows and columns of the square a frame fills."""
    if form.fit != "pad":
        return form.size, form.size
    sides = (height, width * aspect)
    return tuple(max(1, int(form.size * side / max(sides) + 0.5)) for side in sides)
