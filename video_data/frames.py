"""What every video becomes, whatever it was read from: square frames of one size, as uint8."""

import struct
import typing
import zipfile
import zlib

import numpy as np

# What libraries raise on files that are not what they seem.
UNREADABLE = (ValueError, EOFError, KeyError, SyntaxError, RuntimeError, struct.error, zlib.error,
              zipfile.BadZipFile)


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
