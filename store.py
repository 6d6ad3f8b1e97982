"""Videos on disk as one flat file of frames, mapped into memory and read by index.

A store is a folder: `header.json`, and for every split a file of rows (frames, or actions), all
videos one after the other. It appears under its name whole, or not at all.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import sys

import numpy as np

from tools import UserError

FORMAT = 1  # Of the files; a store of another format is built anew.


class Store:
    """The videos of one split, as a sequence of arrays [T, *row] that are read when looked at.

    Raises UserError where path holds no whole store of a format that this code reads.
    """

    def __init__(self, path, split):
        header = _read_header(path)
        if header is None:
            raise UserError(f"{path} is not a store of videos")
        self.lengths = np.array(header["splits"][split]["lengths"], np.int64)  # Rows of each video.
        self.names = header["splits"][split]["names"]
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)])
        shape = (int(self._starts[-1]), *header["row_shape"])
        dtype = np.dtype(header["dtype"])
        file = os.path.join(path, f"{split}.rows")
        size, expected = os.path.getsize(file), dtype.itemsize * int(np.prod(shape))
        if size != expected:  # Reading past the end of a mapped file would kill the process.
            raise UserError(f"{file} is damaged: {size} bytes, not {expected}; delete {path}")
        # Nothing can be mapped from an empty file.
        self._rows = np.memmap(file, dtype, "r", shape=shape) if size else np.empty(shape, dtype)

    @property
    def row_shape(self):
        return self._rows.shape[1:]

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, video):
        return self._rows[self._starts[video] : self._starts[video + 1]]


def is_current(path, source):
    """Whether path holds a store that was built from this source (whatever JSON can hold)."""
    header = _read_header(path)
    return header is not None and header["source"] == json.loads(json.dumps(source))


def _read_header(path):
    try:
        with open(os.path.join(path, "header.json")) as file:
            header = json.load(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return header if header["format"] == FORMAT else None


def build(path, source, splits, row_shape, dtype):
    """Writes a store, in place of one that is there. The caller holds the lock.

    source: what the store is made of; JSON that changes when the data does.
    splits: for every split, an iterable of (name, array [T, *row_shape]), held one at a time.
    Raises UserError where the disk is full; then, and whenever it fails, nothing is left behind.
    """
    part, old = f"{path}.part", f"{path}.old"
    for leftover in (part, old):  # Of a process that was killed.
        shutil.rmtree(leftover, ignore_errors=True)
    header = {"format": FORMAT, "source": source, "row_shape": list(row_shape),
              "dtype": np.dtype(dtype).name, "splits": {}}
    try:
        os.makedirs(part)
        for split, videos in splits.items():
            header["splits"][split] = _write_rows(
                os.path.join(part, f"{split}.rows"), videos, tuple(row_shape), dtype)
        with open(os.path.join(part, "header.json"), "w") as file:
            json.dump(header, file)
        if os.path.exists(path):
            os.rename(path, old)
        os.rename(part, path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(f"the disk of {path} is full; free some and start again") from None
        raise
    finally:
        for leftover in (part, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _write_rows(file, videos, row_shape, dtype):
    """Appends the videos to a file; returns their lengths and names."""
    lengths, names = [], []
    with open(file, "wb") as rows:
        for name, video in videos:
            if video.shape[1:] != row_shape or video.dtype != dtype:
                raise ValueError(f"{name}: {video.dtype} {video.shape}, not {dtype} {row_shape}")
            rows.write(np.ascontiguousarray(video).data)
            lengths.append(len(video))
            names.append(name)
        rows.flush()
        os.fsync(rows.fileno())  # The name must not outlive the bytes when the machine goes down.
    return {"lengths": lengths, "names": names}


@contextlib.contextmanager
def lock(path, doing):
    """Holds a lock file: processes that prepare the same data do so one after the other.

    The system frees the lock of a process that dies. doing: what the other process is at, for the
    line that says why this one waits.
    """
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Waiting for another process that is {doing} ({path}).", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def check_space(path, needed, purpose):
    """Says what the disk of a folder is about to hold. Raises UserError where it is too small."""
    free = shutil.disk_usage(path).free
    print(f"{purpose} takes {size_text(needed)} in {path} ({size_text(free)} free).",
          file=sys.stderr)
    if needed > free:
        raise UserError(f"{purpose} takes {size_text(needed)}, but the disk of {path} has "
                        f"{size_text(free)} free")


def size_text(size):
    """A number of bytes as people read it: 7.3 GB."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
