"""Keeps videos on disk as one flat file of rows, which is mapped into memory and read by index.

A store is a folder. Its file `rows` holds all videos (frames, or actions) one after the other, and
`header.json` says where each video lies and in which split. Rows are only ever appended, and the header
is replaced as a whole, so a reader never sees half of a change. A writer notes in `journal` what it has
appended: after a kill, the next writer goes on from there.
"""

import contextlib
import glob
import hashlib
import json
import math
import os
import shutil
import sys

import numpy as np

from tools import CANNOT_WRITE, DISK_FULL, UserError, hold, machine_errno, write_atomically

FORMAT = 3  # A store of another format is built anew.


class Videos:
    """Videos in one array of rows, as a sequence of arrays [T, *shape].

    rows: [rows of all videos, *row]. lengths: rows of each video. names: of the videos, for messages.
    starts: the first row of each video; None: they follow one another.
    view: the shape of an element of a video, if that is several rows; None: one row.
    """

    def __init__(self, rows, lengths, names, starts=None, view=None):
        self._rows, self._counts, self.names = rows, np.array(lengths, np.int64), names
        self._starts = np.cumsum(self._counts) - self._counts if starts is None else starts
        self.shape, self.dtype = tuple(view or rows.shape[1:]), rows.dtype
        self.lengths = self._counts // math.prod(view or [1])

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, video):
        start = self._starts[video]
        return self._rows[start : start + self._counts[video]].reshape(-1, *self.shape)


def read(path, split):
    """Maps a split of a store into memory and returns its Videos. Frames are read when they are used.

    Raises UserError where the store is damaged.
    """
    header = read_header(path)
    if header is None:  # A read past the end of a mapped file would kill the process.
        raise UserError(f"{path} is damaged ({damage(path)}); delete it")
    videos = header["splits"][split]
    rows = np.memmap(os.path.join(path, "rows"), header["dtype"], "r",
                     shape=(header["rows"], *header["row_shape"]))
    return Videos(rows, videos["lengths"], videos["names"], videos["starts"], header["view"])


def read_header(path):
    """Returns the header of a store; None where the store is missing or damaged."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, ValueError):
        with open(os.path.join(path, "header.json")) as file:
            header = json.load(file)
        if _misfit(path, header) is None and header["format"] == FORMAT:
            return header
    return None


def damage(path):
    """Says how a store is damaged; None where it is whole, or there is none."""
    try:
        with open(os.path.join(path, "header.json")) as file:
            return _misfit(path, json.load(file))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        return "header.json cannot be read"


def _misfit(path, header):
    """Says how a header does not fit the files beside it; None where it does."""
    try:
        if header["format"] != FORMAT:  # Not damaged, but of another version.
            return None
        for videos in header["splits"].values():
            if not len(videos["starts"]) == len(videos["lengths"]) == len(videos["names"]):
                return "header.json contradicts itself"
        size = os.path.getsize(os.path.join(path, "rows"))
        expected = header["rows"] * _row_bytes(header["row_shape"], header["dtype"])
        # A process that goes on with the store appends to the rows.
        if size < expected or size > expected and not os.path.exists(os.path.join(path, "journal")):
            return f"rows has {size} bytes, not {expected}"
    except (KeyError, TypeError, AttributeError, OSError) as error:
        return f"header.json does not fit: {error}"
    return None


def _row_bytes(shape, dtype):
    return 0 if shape is None else np.dtype(dtype).itemsize * math.prod(shape)


def splits(path):
    """Returns the names of the splits of the store at path."""
    return list(read_header(path)["splits"])


def holds(path, keys):
    """Whether there is a whole store at path, and its splits consist of these pieces.

    keys: for each split that is asked for, the keys of its pieces, each of one video.
    """
    header = read_header(path)
    return header is not None and all(
        split in header["splits"] and len(header["splits"][split]["names"]) == len(wanted)
        and header["pieces"].keys() >= set(wanted) for split, wanted in keys.items())


def lacks(path, split=None):
    """Whether the store at path was built without a split of its data; by default, without any one."""
    left_out = read_header(path).get("left_out", [])
    return split in left_out if split else bool(left_out)


def source(path):
    """Returns the source that was given to commit; None where the store is missing or damaged."""
    header = read_header(path)
    return header and header["source"]


def fingerprint(path, split):
    """A digest of the names, lengths and content of a split, which differs for any other data.

    Only the last part of a name counts, so that data may be moved.
    """
    header = read_header(path)
    videos = header["splits"][split]
    names = [os.path.basename(name) for name in videos["names"]]
    known = [header["dtype"], header["row_shape"], names, videos["lengths"], videos["digests"]]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()


def _digest(video):
    return hashlib.blake2b(np.ascontiguousarray(video).data, digest_size=16).hexdigest()


def recover(path):
    """Removes a damaged store, and says so. The caller holds the lock."""
    harm = damage(path)
    if harm:
        print(f"{path} is damaged ({harm}) and is prepared anew.", file=sys.stderr)
        shutil.rmtree(path)


class Writer:
    """Builds a store of pieces, and goes on where a killed process stopped.

    A piece is one file or record, and holds any number of videos. Its key is a text that changes
    whenever the piece does. The writer keeps those of the wanted pieces that the store has already.
    All rows have the type and shape of the first. The caller holds the lock.

    pieces: the pieces in the store: for each key `names`, `starts`, `lengths`, `digests` and a `note`.
    """

    def __init__(self, path, wanted):
        self._path, self._wanted = path, list(wanted)
        os.makedirs(path, exist_ok=True)
        for leftover in glob.glob(os.path.join(glob.escape(path), "header.json.*.part")):
            os.remove(leftover)  # A process was killed as it wrote the header.
        header = read_header(path)
        if header is None:
            self._remove("header.json")
            header = {"pieces": {}, "rows": 0, "row_shape": None, "dtype": None}
        self.pieces, end = header["pieces"], header["rows"]
        self._row = [header["row_shape"], header["dtype"]]
        for key, piece in self._journaled():
            self.pieces[key] = piece
            end = max([end, *np.add(piece["starts"], piece["lengths"])])
        self.pieces = {key: self.pieces[key] for key in self._wanted if key in self.pieces}
        if 2 * sum(sum(piece["lengths"]) for piece in self.pieces.values()) < end:
            self.pieces, self._row, end = {}, [None, None], 0  # Most rows are of files that are gone.
            self._remove("header.json")
            self._remove("journal")
        if not end:
            self._remove("rows")  # Cutting them would kill a process that has mapped them.
        self._rows, self._journal = self._open("rows", "ab"), self._open("journal", "a")
        self._rows.truncate(int(end) * _row_bytes(*self._row))
        self._rows.seek(0, os.SEEK_END)
        self._journal.write("\n")  # Ends a line that was cut short.

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._rows.close()
        self._journal.close()

    def _open(self, name, mode):
        return open(os.path.join(self._path, name), mode)

    def _remove(self, name):
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(self._path, name))

    def _journaled(self):
        """Yields the whole pieces (key, piece) that a killed process has added."""
        with (contextlib.suppress(FileNotFoundError),
              self._open("journal", "r") as journal, self._open("rows", "rb") as file):
            for line in journal:
                try:
                    key, row, piece = json.loads(line)
                except ValueError:  # The process was killed as it wrote this line.
                    continue
                if self._row[0] is None:
                    self._row = row
                size, videos = _row_bytes(*self._row), piece["digests"]
                if videos:
                    count = os.path.getsize(file.name) // size
                    rows = np.memmap(file, np.uint8, "r", shape=(count, size))
                # After a power failure the disk may lack the last rows.
                if all(_digest(rows[start : start + length]) == digest for start, length, digest in zip(
                        piece["starts"], piece["lengths"], videos, strict=True)):
                    yield key, piece

    def add(self, key, videos, note=None):
        """Appends a piece. videos: a list of (name, array [T, *row]). note: kept with the piece."""
        piece = {"names": [], "starts": [], "lengths": [], "digests": [], "note": note}
        for name, video in videos:
            row = [list(video.shape[1:]), video.dtype.name]
            self._row = row if self._row[0] is None else self._row
            if row != self._row:
                raise ValueError(f"{name} is {video.dtype.name} {list(video.shape)}, not "
                                 f"{self._row[1]} [T, *{self._row[0]}]")
            piece["names"].append(name)
            piece["starts"].append(self._rows.tell() // _row_bytes(*row))
            piece["lengths"].append(len(video))
            piece["digests"].append(_digest(video))
            self._rows.write(np.ascontiguousarray(video).data)
        self._rows.flush()
        self._journal.write(json.dumps([key, self._row, piece]) + "\n")
        self._journal.flush()
        self.pieces[key] = piece

    def commit(self, source, splits, view=None, left_out=()):
        """Writes the header, which makes a store of the pieces.

        source: a text that changes with the data that the pieces were made from.
        splits: for every split its videos in order: (key of a piece, index of the video in the piece).
        view: the shape of an element of a video, if that is several rows; None: one row.
        left_out: names of further splits, which are not in the store yet.
        """
        header = {"format": FORMAT, "source": source,
                  "row_shape": self._row[0], "dtype": self._row[1],
                  "rows": self._rows.tell() // max(1, _row_bytes(*self._row)), "view": view,
                  "left_out": list(left_out),
                  "splits": {},
                  "pieces": {key: self.pieces[key] for key in self._wanted if key in self.pieces}}
        for split, of_split in splits.items():
            header["splits"][split] = {
                field: [self.pieces[key][field][index] for key, index in of_split]
                for field in ("names", "starts", "lengths", "digests")}
        _flush(self._rows)
        with write_atomically(os.path.join(self._path, "header.json")) as file:
            json.dump(header, file)
            _flush(file)
        self._remove("journal")


def _flush(file):
    """Writes a file through to the disk, so that after a power failure it is whole."""
    file.flush()
    os.fsync(file.fileno())


def home(config):
    """The folder of a config's stores: data_root, or a folder for that data_root in cache_root."""
    if not config.cache_root:
        return config.data_root
    root = os.path.realpath(config.data_root)
    digest = hashlib.sha256(os.fsencode(root)).hexdigest()[:8]
    return os.path.join(os.path.expanduser(config.cache_root), f"{os.path.basename(root)}_{digest}")


def prepare_once(config, path, paths, missing, build):
    """Calls build if missing() is true. Other processes that prepare the same data wait meanwhile.

    path: gives the lock its name. paths: of the stores; damaged ones are removed first.
    """
    with writing(config, path):
        if missing():
            with lock(f"{path}.lock", f"preparing {config.dataset} of {config.data_root}"):
                for one in paths:
                    recover(one)
                if missing():
                    build()


@contextlib.contextmanager
def writing(config, path):
    """Makes the folder of a path. In the context, errors of writing become a UserError.

    A full disk stays an OSError, and names the folder.
    """
    key = "cache_root" if config.cache_root else "data_root"
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        yield
    except Exception as error:
        if machine_errno(error) in DISK_FULL:
            raise OSError(machine_errno(error), "disk full", getattr(config, key)) from None
        reason = error.__cause__ or error  # TFDS wraps errors of writing.
        number = getattr(reason, "errno", None)
        if number in CANNOT_WRITE:
            read = os.access(reason.filename or "", os.R_OK,
                             effective_ids=os.access in os.supports_effective_ids)
            if os.path.isfile(reason.filename or "") and not read:
                raise UserError(f"data_root: {config.dataset} cannot be prepared: {reason.strerror}: "
                                f"{reason.filename}") from None
            raise UserError(
                f"{key}: {config.dataset} is not prepared in {getattr(config, key)!r}, and cannot be: "
                f"{reason.strerror}: {reason.filename}; cache_root (--cache-root) can name another "
                "folder for prepared data") from None
        raise


def lock(path, doing):
    """Holds a lock file, so that processes prepare the same data one after the other.

    doing: says what the process does, to a process that waits.
    """
    return hold(path, f"{doing}, ", lambda holder: print(
        f"Waiting for another process that is {holder or doing} ({path}).", file=sys.stderr))


def check_space(path, needed, purpose):
    """Says how much disk a purpose takes in a folder. Raises UserError if too little is free."""
    free = shutil.disk_usage(path).free
    print(f"{purpose} takes about {size_text(needed)} in {path} ({size_text(free)} free).",
          file=sys.stderr)
    if needed > free:
        raise UserError(f"{purpose} takes about {size_text(needed)}, but the disk of {path} has "
                        f"{size_text(free)} free")


def size_text(size):
    """A number of bytes in words: 7.3 GB."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
