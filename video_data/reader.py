"""The process that reads files: one at a time, until the process that started it ends.

It imports nothing of TensorFlow. A file that crashes it, or that it never comes to an end with, costs
that file alone: videos.py starts another.
"""

import multiprocessing.connection
import os
import signal
import stat
import struct
import sys
import threading
import time
import traceback
import zipfile
import zlib

import h5py
import numpy as np

from tools import DISK_FULL, OF_THE_MACHINE
from video_data import arrays, containers, decode, images
from video_data.frames import Broken, Video, convert
from video_data.timing import actions_beside, checked_actions

# What the libraries raise on files that are not what they seem.
UNREADABLE = (ValueError, EOFError, KeyError, SyntaxError, RuntimeError, struct.error, zlib.error,
              zipfile.BadZipFile)


def read(request, sink):
    """Reads the videos of a request into a sink: (a list of Video, {part: why it was left out}).

    sink.frames takes uint8 [t, *form.shape], all videos one after the other; sink.alive hears of
    progress; sink.cut takes back what came after so many frames. Raises Broken.
    """
    if request.pictures:
        blocks = map(images.frame_of, request.pictures)
        beside = actions_beside(request.path)
        return [_written("", blocks, beside, request, sink)], {}
    magic = _beginning(request.path)
    if magic.startswith(arrays.MAGIC):
        with arrays.opened(request.path, magic, sink, request.scratch) as found:
            return _read_arrays(found, magic.startswith(b"\x89HDF"), request, sink)
    beside = actions_beside(request.path)
    if images.is_tiff(magic) or images.is_animation(magic):
        return [_read_pages(request, magic, beside, sink)], {}
    video, kept = decode.decode(
        request.path, request.form, sink, request.keep_partial, request.threads)
    actions, refused = checked_actions(beside, video.length, kept, request.onehot)
    return [video._replace(actions=actions, refused=refused)], {}


def estimate_frames(request):
    """About how many frames a request gives, by headers."""
    magic = _beginning(request.path)
    if not magic.startswith(arrays.MAGIC):
        if images.is_tiff(magic) or images.is_animation(magic):
            return sum(1 for _ in images.pages(request.path))
        return decode.estimate_frames(request.path, request.form.fps)
    count = 0
    with arrays.opened(request.path, magic, None, None) as found:
        for name in arrays.choose(found, request.path, True, request.within, request.axes):
            if not isinstance(found[name], Broken):
                order = arrays.layout(found[name].shape, request.path, request.axes)
                sizes = dict(zip(order, found[name].shape, strict=True))
                count += sizes["T"] * sizes.get("N", 1)
    return count


def _beginning(path):
    """The first bytes of a file. Raises Broken where it is no regular file, or is empty."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise Broken("is no regular file")
    with open(path, "rb") as file:
        magic = file.read(16)
    if not magic:
        raise Broken("is empty")
    return magic


def _written(part, blocks, actions, request, sink):
    """Converts the frames of a video, [t, H, W, C] at a time, and returns its Video."""
    length, sizes = 0, {}
    blocks = iter(blocks)
    for block in blocks:
        block = arrays.to_native(block)
        arrays.check_range(block, blocks)
        sizes[block.shape[1:3]] = None
        sink.frames(convert(block, request.form))
        length += len(block)
    if not length:
        raise Broken("holds no frames")
    notes = ["has pictures of several sizes, each of which fills the square"] if len(sizes) > 1 else []
    actions, refused = checked_actions(actions, length, onehot=request.onehot)
    return Video(part, length, *next(iter(sizes)), None, actions, refused, tuple(notes))


def _read_pages(request, magic, beside, sink):
    """Reads a file of several pictures, which may have times."""
    loss, pictures = containers.look(request.path)
    if loss:
        raise Broken(loss)
    shown, spans, sizes = [], [], []

    def seen(pages):
        for start, end, pixels in pages:
            spans.append((start, end))
            sizes.append(pixels.shape[1:3])
            yield start, end, pixels

    timed = images.is_animation(magic)
    fps = request.form.fps if timed else None
    for index, pixels, times in decode.on_show(seen(images.pages(request.path)), fps):
        pixels = arrays.to_native(pixels)
        arrays.check_range(pixels)
        sink.frames(np.repeat(convert(pixels, request.form), times, 0))
        shown += [index] * times
    if pictures is not None and len(spans) < pictures:
        raise Broken(f"it declares {pictures} pictures, but {len(spans)} can be read")
    kept = (np.array(shown), len(spans)) if fps else None
    actions, refused = checked_actions(beside, len(shown), kept, request.onehot)
    return Video("", len(shown), *sizes[0], images.rate_of(spans), actions, refused)


def _read_arrays(found, several, request, sink):
    """Reads the videos of a file of arrays. Of several, one that cannot be read is left out."""
    videos, left_out = [], {}
    chosen = arrays.choose(found, request.path, several, request.within, request.axes)
    for name in chosen:
        part = f":{name}" if len(chosen) > 1 or request.within else ""
        try:
            if isinstance(found[name], Broken):
                raise found[name]
            for video in _read_array(name, part, found, request, sink):
                videos.append(video)
        except (Broken, OSError, *UNREADABLE) as error:
            if getattr(error, "errno", None) in OF_THE_MACHINE or getattr(error, "again", False):
                raise
            sink.cut(sum(video.length for video in videos))
            left_out[part] = str(error) or type(error).__name__
    if not videos:
        raise Broken(next(iter(left_out.values())))
    return videos, left_out


def _read_array(name, part, found, request, sink):
    """Yields the videos of one array."""
    array = found[name]
    if array.shape is None:
        raise Broken("is empty")
    order = arrays.layout(array.shape, request.path, request.axes)
    arrays.check_type(array.dtype)
    actions = arrays.actions_within(found, name)
    if actions is None:
        actions = actions_beside(request.path)
    if "N" not in order:
        yield _written(part, arrays.blocks(array, order, None), actions, request, sink)
        return
    count = array.shape[order.index("N")]
    each = isinstance(actions, np.ndarray) and actions.shape[:1] == (count,)
    for number in range(count):
        yield _written(f"{part}[{number}]", arrays.blocks(array, order, number),
                       actions[number] if each else actions, request, sink)


# ------------------------------------------------------------------------------------ the process


class _Sink:
    """Sends frames, and once a second that it is alive."""

    def __init__(self, connection):
        self._connection, self._said = connection, time.monotonic()

    def frames(self, frames):
        self._send("frames", np.ascontiguousarray(frames).tobytes())

    def cut(self, count):
        self._send("cut", count)

    def alive(self):
        if time.monotonic() > self._said + 1:
            self._send("alive", None)

    def _send(self, *message):
        self._connection.send(message)
        self._said = time.monotonic()


def answer(request, sink):
    """What the other process is told: a kind, and what belongs to it."""
    try:
        return "done", estimate_frames(request) if request.estimate else read(request, sink)
    except Broken as error:
        return "broken", error
    except (BrokenPipeError, ConnectionError):
        raise
    except MemoryError:
        return "broken", Broken("needs more memory than there is", again=True)
    except OSError as error:
        if error.errno in DISK_FULL:
            return "disk full", error.errno
        if isinstance(error, FileNotFoundError) and os.path.islink(request.path):
            return "broken", Broken("is a link to nothing")
        return "broken", Broken(error.strerror or f"is damaged: {error}", error.errno in OF_THE_MACHINE)
    except UNREADABLE as error:
        return "broken", Broken(f"is damaged: {error or type(error).__name__}")
    except Exception as error:  # Whatever a library does with a file, the others go on.
        place = traceback.extract_tb(error.__traceback__)[-1]
        return "broken", Broken(f"cannot be read: {type(error).__name__}: {error} "
                                f"({os.path.basename(place.filename)}, line {place.lineno})")


def main():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The process that started this one ends it.
    h5py._errors.silence_errors()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    connection = multiprocessing.connection.Connection(int(sys.argv[1]))
    sink = _Sink(connection)
    try:
        while True:
            connection.send(answer(connection.recv(), sink))
    except (EOFError, ConnectionError):
        pass


def _end_with_parent():
    """Ends this process as soon as its standard input is closed, whatever it is at."""
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
