"""A process that reads files, one at a time, until the process that started it ends.

If a file crashes this process, or makes it hang, only that file is lost: videos.py starts another
process. This one imports no TensorFlow.
"""

import math
import multiprocessing.connection
import os
import signal
import stat
import sys
import threading
import time
import traceback
from multiprocessing import reduction

import numpy as np

from tools import DISK_FULL, OF_THE_MACHINE
from video_data import decode
from video_data.files import MAGIC, TIFF
from video_data.frames import UNREADABLE, Broken


def read(request, sink):
    """Reads the videos of a request into a sink: (a list of Video, {part: why it was left out}).

    sink: `frames` takes uint8 [..., *form.shape], all videos one after the other; `alive` is called at
    each sign of progress; `cut` removes all frames after the first n. Raises Broken.
    """
    magic = b"" if request.pictures else _beginning(request.path)
    if not _is_encoded(request, magic):
        # Without this import, a process that reads only encoded video starts in half the time.
        from video_data import pixels

        return pixels.read(request, magic, sink)
    return [decode.decode(request, sink)], {}


def estimate_frames(request):
    """About how many frames a request gives, by headers."""
    magic = _beginning(request.path)
    if not _is_encoded(request, magic):
        from video_data import pixels

        return pixels.estimate_frames(request, magic)
    return decode.estimate_frames(request.path, request.form.fps)


def _is_encoded(request, magic):
    """Whether the decoder reads the file, and not pixels.py (pictures, arrays, TIFF and WebP)."""
    return not (request.pictures or magic.startswith((*MAGIC, *TIFF))
                or magic[:4] == b"RIFF" and magic[8:12] == b"WEBP")


def _beginning(path):
    """The first bytes of a file. Raises Broken if it is empty, or no regular file."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise Broken("is no regular file")
    with open(path, "rb") as file:
        magic = file.read(16)
    if not magic:
        raise Broken("is empty")
    return magic


# ------------------------------------------------------------------------------------ the process


class _Sink:
    """Writes frames to a file, and tells the other process once a second that this one still works."""

    def __init__(self, connection, file, frame_bytes):
        self._connection, self._said = connection, time.monotonic()
        self._file, self._frame_bytes = file, frame_bytes

    def frames(self, frames):
        self._file.write(np.ascontiguousarray(frames))
        self.alive()

    def cut(self, count):
        self._file.truncate(count * self._frame_bytes)
        self._file.seek(0, os.SEEK_END)

    def alive(self):
        if time.monotonic() > self._said + 1:
            self._connection.send(("alive", None))
            self._said = time.monotonic()


def answer(request, connection):
    """Answers a request: (kind, value). Frames go to the file that follows the request."""
    try:
        if request.estimate:
            return "done", estimate_frames(request)
        with open(reduction.recv_handle(connection), "wb", 2**20) as file:
            return "done", read(request, _Sink(connection, file, math.prod(request.form.shape)))
    except Broken as error:
        return "broken", error
    except ConnectionError:
        raise
    except MemoryError:
        return "broken", Broken("needs more memory than there is", again=True)
    except OSError as error:
        if error.errno in DISK_FULL:
            return "disk full", OSError(error.errno, os.strerror(error.errno))
        if isinstance(error, FileNotFoundError) and os.path.islink(request.path):
            return "broken", Broken("is a link to nothing")
        return "broken", Broken(error.strerror or f"is damaged: {error}", error.errno in OF_THE_MACHINE)
    except UNREADABLE as error:
        return "broken", Broken(f"is damaged: {error or type(error).__name__}")
    except Exception as error:  # A library may raise anything on a file; the others go on.
        place = traceback.extract_tb(error.__traceback__)[-1]
        return "broken", Broken(f"cannot be read: {type(error).__name__}: {error} "
                                f"({os.path.basename(place.filename)}, line {place.lineno})")


def main():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The process that started this one ends it.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    connection = multiprocessing.connection.Connection(int(sys.argv[1]))
    try:
        while True:
            connection.send(answer(connection.recv(), connection))
    except (EOFError, ConnectionError):
        pass


def _end_with_parent():
    """Ends this process as soon as its standard input is closed, even in the middle of a file."""
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
