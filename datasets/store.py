"""Videos on disk as one flat file of frames, mapped into memory and read by index.

A store is a folder: `header.json`, and for every split a file of rows (frames, or actions), all
videos one after the other. It appears under its name whole, or not at all.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import math
import os
import shutil
import sys

import numpy as np
from tqdm import tqdm

from tools import UserError, write_atomically

FORMAT = 1  # Of the files; a store of another format is built anew.


class Videos:
    """Videos in one array of rows, as a sequence of arrays [T, *row].

    rows: [rows of all videos, *row]. lengths: rows of each video. names: what to call each in messages.
    """

    def __init__(self, rows, lengths, names):
        self.rows, self.lengths, self.names = rows, np.array(lengths, np.int64), names
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)])

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, video):
        return self.rows[self._starts[video] : self._starts[video + 1]]


def read(path, split):
    """Maps a split of a store into memory; returns its Videos, whose frames are read when used.

    Raises UserError where the store is damaged.
    """
    header = _read_header(path)
    lengths, names = header["splits"][split]["lengths"], header["splits"][split]["names"]
    shape, dtype = (sum(lengths), *header["row_shape"]), np.dtype(header["dtype"])
    file = os.path.join(path, f"{split}.rows")
    size, expected = os.path.getsize(file), dtype.itemsize * math.prod(shape)
    if size != expected:  # Reading past the end of a mapped file would kill the process.
        raise UserError(f"{file} is damaged: {size} bytes, not {expected}; delete {path}")
    return Videos(np.memmap(file, dtype, "r", shape=shape), lengths, names)


def splits(path):
    """Returns the names of the splits of the store at path."""
    return list(_read_header(path)["splits"])


def source(path):
    """Returns what the store at path was built from, as given to build; None without a store."""
    header = _read_header(path)
    return header and header["source"]


def fingerprint(path, split):
    """What tells the data of a split from any other: a digest of names, lengths and content.

    Of names only the last part counts, so that data may be moved. A store from before there were
    fingerprints is read once for it.
    """
    header = _read_header(path)
    videos = header["splits"][split]
    if "digests" not in videos:
        videos["digests"] = [_digest(video) for video in tqdm(
            read(path, split), f"Fingerprint of {path}, {split}", unit=" videos", file=sys.stderr)]
        # Another's store, which we may not write, is read again next time.
        with contextlib.suppress(OSError), write_atomically(os.path.join(path, "header.json")) as file:
            json.dump(header, file)
    names = [os.path.basename(name) for name in videos["names"]]
    known = [header["dtype"], header["row_shape"], names, videos["lengths"], videos["digests"]]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def _digest(video):
    return hashlib.blake2b(np.ascontiguousarray(video).data, digest_size=16).hexdigest()


def _read_header(path):
    try:
        with open(os.path.join(path, "header.json")) as file:
            header = json.load(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        raise UserError(f"{path} is damaged: its header.json cannot be read; delete {path}") from None
    return header if header["format"] == FORMAT else None


def build(path, source, splits):
    """Writes a store, in place of one that is there. The caller holds the lock.

    source: what the store is made of, in words that change when the data does.
    splits: for every split, an iterable of (name, array [T, *row]), at least one. One array is held
        at a time; all have the type and row shape of the first.
    Whenever it fails, it leaves nothing behind.
    """
    part, old = f"{path}.part", f"{path}.old"
    clean = functools.partial(shutil.rmtree, ignore_errors=True)
    clean(part)  # Of a process that was killed.
    header = {"format": FORMAT, "source": source, "row_shape": None, "dtype": None, "splits": {}}
    try:
        os.makedirs(part)
        for split, videos in splits.items():
            with open(os.path.join(part, f"{split}.rows"), "wb") as file:
                header["splits"][split] = _write_rows(file, videos, header)
        with open(os.path.join(part, "header.json"), "w") as file:
            json.dump(header, file)
            _flush(file)
        if os.path.exists(path):
            os.rename(path, old)
        os.rename(part, path)
    finally:
        clean(part)
        clean(old)


def _write_rows(file, videos, header):
    """Appends the videos to a file; returns their lengths, names and digests."""
    lengths, names, digests = [], [], []
    for name, video in videos:
        if header["row_shape"] is None:
            header["row_shape"], header["dtype"] = list(video.shape[1:]), video.dtype.name
        if list(video.shape[1:]) != header["row_shape"] or video.dtype.name != header["dtype"]:
            raise ValueError(f"{name} is {video.dtype.name} {list(video.shape)}, not "
                             f"{header['dtype']} [T, *{header['row_shape']}]")
        file.write(np.ascontiguousarray(video).data)
        lengths.append(len(video))
        names.append(name)
        digests.append(_digest(video))
    _flush(file)
    return {"lengths": lengths, "names": names, "digests": digests}


def _flush(file):
    """Puts a file on the disk: its name must not outlive its bytes when the machine goes down."""
    file.flush()
    os.fsync(file.fileno())


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
    print(f"{purpose} takes about {size_text(needed)} in {path} ({size_text(free)} free).",
          file=sys.stderr)
    if needed > free:
        raise UserError(f"{purpose} takes about {size_text(needed)}, but the disk of {path} has "
                        f"{size_text(free)} free")


def size_text(size):
    """A number of bytes as people read it: 7.3 GB."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
