"""Reads video of any kind and size as square frames: files, folders of images, arrays.

The name of a file decides whether it is read; its content decides how. reader.py reads it in a process
of its own: PyAV decodes encoded video, Pillow images, NumPy and h5py arrays. All of them crop, resize
and blend alike, so a video gives the same frames in every format.
"""

import concurrent.futures
import contextlib
import itertools
import multiprocessing.connection
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from multiprocessing import reduction

import numpy as np

from tools import cores
from video_data.files import pictures_of
from video_data.frames import Broken, Form, Request, Video  # noqa: F401

STALL = 60  # Seconds without a sign of life, after which a reader is killed.
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
CORES = cores()
READER = [sys.executable, "-m", "video_data.reader"]
ROOT = pathlib.Path(__file__).resolve().parents[1]


class Readers:
    """Processes that read files, one for each thread that asks. Leaving the context ends them."""

    def __init__(self):
        self._idle, self._all, self._lock = [], set(), threading.Lock()
        self._closed = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with self._lock:
            self._closed = True
            for reader in self._all:
                reader.end()
        for reader in list(self._all):
            reader.close()

    def read(self, request):
        """Reads the videos of a request: (their frames, a list of Video, {part left out: why}).

        The frames of all videos, one after the other, are uint8 [frames, *form.shape]. They are mapped
        from a temporary file in request.scratch, since a long video would fill the memory. Each pixel
        is the mean of the area it covers, or interpolated where it covers less than one pixel.
        Raises Broken, also for a file that is damaged in part, unless request.keep_partial.
        """
        with tempfile.TemporaryFile(dir=request.scratch) as file:
            found, left_out = self._ask(request, file)
            frames = sum(video.length for video in found)
            mapped = np.memmap(file, np.uint8, "r", shape=(frames, *request.form.shape))
            return mapped, found, left_out

    def estimate_frames(self, request):
        """About how many frames a request gives, by headers; 0 for a file that cannot be read."""
        try:
            return self._ask(request._replace(estimate=True), None)
        except Broken:
            return 0

    def _ask(self, request, file):
        with self._lock:
            reader = self._idle.pop() if self._idle else _Reader()
            self._all.add(reader)
            if self._closed:
                reader.end()
        try:
            scratch = request.scratch or tempfile.gettempdir()
            return reader.ask(request._replace(  # The process has another working directory.
                path=os.path.abspath(request.path), scratch=os.path.abspath(scratch),
                pictures=tuple(map(os.path.abspath, request.pictures))), file)
        finally:
            with self._lock:
                if reader.alive:
                    self._idle.append(reader)
                else:
                    self._all.discard(reader)


class _Reader:
    """One process of reader.py."""

    def __init__(self):
        ours, theirs = socket.socketpair()
        with theirs:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115
            self._process = subprocess.Popen(
                [*READER, str(theirs.fileno())], cwd=ROOT, stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL, stderr=self._errors, pass_fds=[theirs.fileno()])
        self._connection = multiprocessing.connection.Connection(ours.detach())
        self.alive = True

    def end(self):
        """Ends the process; a thread that waits in `ask` gets an exception."""
        self.alive = False
        self._process.kill()

    def ask(self, request, file):
        """Sends a request, and the file for its frames; returns the result.

        Raises Broken, and OSError where the disk is full.
        """
        try:
            self._connection.send(request)
            if file:
                reduction.send_handle(self._connection, file.fileno(), self._process.pid)
            while True:
                if not self._connection.poll(STALL):
                    raise Broken(f"gave no frame for {STALL} s")
                kind, value = self._connection.recv()
                if kind != "alive":
                    break
        except (EOFError, ConnectionError):
            raise self._death() from None
        except BaseException:
            self.close()
            raise
        if kind == "done":
            return value
        raise value

    def close(self):
        """Ends the process and waits until it is gone."""
        self.end()
        self._process.wait()
        self._process.stdin.close()

    def _death(self):
        """The exception for a process that has ended."""
        code = self._process.wait()
        self.close()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        if -code in CRASHES:
            return Broken(f"crashes the decoder with {signal.Signals(-code).name}")
        if code < 0:
            return Broken("was not read to its end: its reader was ended by signal "
                          f"{-code} ({signal.Signals(-code).name})", again=True)
        return RuntimeError(f"the process that reads videos ended with code {code}: "
                            f"{said[-1] if said else 'it gave no reason'}")


def read(path, form, scratch=None, readers=None, **options):
    """Reads the videos of a file, or of a series of pictures, as Readers.read does.

    readers: the Readers to use; by default new ones. options: further fields of Request.
    Returns (frames, a list of Video). Raises Broken.
    """
    if os.path.isdir(path) and "pictures" not in options:
        options["pictures"] = pictures_of(path)
    request = Request(path, form, scratch=scratch, **options)
    with contextlib.nullcontext(readers) if readers else Readers() as readers:
        frames, found, left_out = readers.read(request)
    for part, why in left_out.items():
        if part.endswith("]"):  # It is one of several videos, so the others would be taken for all.
            raise Broken(why)
    return frames, found


def in_parallel(function, items):
    """Yields (item, function(item)) as they are done, by a thread for each core.

    Exceptions of the function are raised here. At most two items for each core are in work at a time.
    """
    items, running = iter(items), {}
    pool = concurrent.futures.ThreadPoolExecutor(CORES)
    try:
        while True:
            for item in itertools.islice(items, 2 * CORES - len(running)):
                running[pool.submit(function, item)] = item
            if not running:
                return
            done, _ = concurrent.futures.wait(running, return_when="FIRST_COMPLETED")
            for future in done:
                yield running.pop(future), future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)

