"""Finds the arrays of a file that are videos, and the meaning of each of their axes."""

import contextlib
import fnmatch
import functools
import os
import tempfile
import zipfile

import h5py
import numpy as np

from video_data.frames import Broken
from video_data.timing import KEYS

TIME_FIRST = "mnist_test_seq.npy"  # The usual file of Moving MNIST: [20, 10000, 64, 64].
COLOURS = (1, 3, 4)
BLOCK = 2**20  # Pixels converted at a time: 13 MB of floats in colour.
FACTORS = ("cell", "heading", "region", "position", "digit")  # names of factors (factors.py)
ROUNDING = 1e-3  # How far above 1 floats may lie by rounding.


@contextlib.contextmanager
def opened(path, magic, sink, scratch):
    """Yields a dict of the arrays in a file. A slice of one is read when it is taken.

    A Broken stands in the place of an array that cannot be opened.
    """
    if magic.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            yield {name.removesuffix(".npy"): _Packed(archive, name, sink, scratch)
                   for name in archive.namelist() if name.endswith(".npy")}
    elif magic.startswith(b"\x89HDF"):
        with h5py.File(path, "r", locking="best-effort") as file:
            yield dict(_datasets(file["/"], "", set()))
    else:
        try:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            words = {"mmap length": "is cut short: it has fewer numbers than its header declares",
                     "Python objects": "holds Python objects, not numbers"}
            raise Broken(next((said for part, said in words.items() if part in str(error)),
                              f"is damaged: {error}")) from None
        yield {"": array}


def _datasets(group, prefix, seen):
    """Yields (name, dataset) of an HDF5 file. It follows links, but visits each group once."""
    info = h5py.h5o.get_info(group.id)
    if (info.fileno, info.addr) in seen:
        return
    seen.add((info.fileno, info.addr))
    for name in group:
        try:
            item = group[name]
        except (KeyError, OSError, RuntimeError, ValueError) as error:
            link = group.get(name, getlink=True)
            to = f"{getattr(link, 'filename', '')}:{link.path}" if hasattr(link, "path") else error
            yield prefix + name, Broken(f"{prefix}{name} is a link to nothing ({to})"
                                        if hasattr(link, "path") else f"{prefix}{name}: {error}")
            continue
        if isinstance(item, h5py.Dataset):
            yield prefix + name, item
        elif isinstance(item, h5py.Group):
            yield from _datasets(item, f"{prefix}{name}/", seen)


class _Packed:
    """An array of an .npz file. The first slice unpacks it into a temporary file, not into memory."""

    def __init__(self, archive, name, sink, scratch):
        self._archive, self._name, self._sink, self._scratch = archive, name, sink, scratch
        with archive.open(name) as file:
            version = np.lib.format.read_magic(file)
            read_header = (np.lib.format.read_array_header_1_0 if version == (1, 0) else
                           np.lib.format.read_array_header_2_0)
            self.shape, self._fortran, self.dtype = read_header(file)
            self._start = file.tell()

    @property
    def ndim(self):
        return len(self.shape)

    @functools.cached_property
    def _array(self):
        if self.dtype.hasobject:
            raise Broken("holds Python objects, not numbers")
        with tempfile.TemporaryFile(dir=self._scratch) as raw:
            with self._archive.open(self._name) as packed:
                while block := packed.read(2**22):
                    raw.write(block)
                    self._sink.alive()
            raw.flush()
            order = "F" if self._fortran else "C"
            if not self.shape:
                raw.seek(self._start)
                return np.fromfile(raw, self.dtype, 1).reshape(())
            return np.memmap(raw, self.dtype, "r", self._start, self.shape, order)

    def __getitem__(self, index):
        return self._array[index]


# ------------------------------------------------------------------------------- which are videos


def choose(arrays, several, within=(), axes=None):
    """Names the arrays that are videos. Raises Broken where there are none, or too many.

    With `within`, these are the arrays that match one of its patterns. Without, they are those named
    `video`; or else all that have three dimensions or more (or, with `axes`, as many as it has letters)
    and are neither actions nor factors. several: whether the file may hold more than one video.
    """
    last = {name: name.rpartition("/")[2] for name in arrays}
    if within:
        chosen = [name for name in arrays if any(matches(name, one) for one in within)]
        if not chosen:
            raise Broken(f"holds {_listed(arrays)}; files: {', '.join(within)} matches none of them")
        return chosen
    if len(arrays) == 1 and last[next(iter(arrays))] not in (*KEYS, *FACTORS):
        return list(arrays)
    large = [name for name, array in arrays.items() if last[name] not in (*KEYS, *FACTORS)
             and (isinstance(array, Broken) or (
                 array.ndim == len(axes) if axes else array.ndim >= 3))]
    doubled = {name for name in large if name.replace("next_obs/", "obs/") != name
               and name.replace("next_obs/", "obs/") in arrays}
    large = [name for name in large if name not in doubled]
    chosen = [name for name in large if last[name] == "video"] or large
    if not chosen or len(chosen) > 1 and not several:
        raise Broken(f"holds {_listed(arrays)}; "
                     + ("one of several must be named video" if chosen else "none of them is a video"))
    return chosen


def matches(name, pattern):
    """Whether a path matches a pattern of as many parts."""
    parts, patterns = name.split("/"), pattern.split("/")
    return len(parts) == len(patterns) and all(map(fnmatch.fnmatchcase, parts, patterns))


def _listed(arrays, most=10):
    if not arrays:
        return "nothing"
    return ", ".join([*arrays][:most]) + (f" and {len(arrays) - most} others" * (len(arrays) > most))


def nearest(arrays, name, keys=KEYS):
    """The array of one of the keys in the group of a video, or else in the nearest group above.

    None where there is none. By default the keys are those of actions.
    """
    parts = name.split("/")[:-1]
    for depth in range(len(parts), -1, -1):
        for key in keys:
            found = arrays.get("/".join([*parts[:depth], key]))
            if found is not None and not isinstance(found, Broken):
                return found[()]
    return None


def layout(shape, path, axes=None):
    """Names the axes of an array by the letters N (videos), T (frames), H, W and C (colours).

    Without `axes`, the shape decides. Raises Broken where it fits no video, or fits several readings.
    """
    told = f"has the shape {list(shape)}"
    if 0 in shape:
        raise Broken(f"is empty: it {told}")
    if axes:
        if len(axes) != len(shape):
            raise Broken(f"{told}, but axes is {axes}")
        if "C" in axes and shape[axes.index("C")] not in COLOURS:
            raise Broken(f"{told}; axes {axes} makes that {shape[axes.index('C')]} colours, not 1, 3 "
                         "or 4")
        return axes
    if len(shape) == 2 or len(shape) == 3 and _fits(shape, "HWC"):
        raise Broken(f"{told}: that is one frame, or no video at all")
    if len(shape) == 4 and os.path.basename(path) == TIME_FIRST:
        return "TNHW"
    readings = {3: ["THW"], 4: ["THWC", "TCHW"], 5: ["NTHWC", "NTCHW", "NCTHW"]}.get(len(shape), [])
    found = [reading for reading in readings if _fits(shape, reading)]
    if len(shape) == 4 and (not found or found == ["TCHW"] and shape[0] in (3, 4)):
        first, second = shape[:2]
        if shape[0] == 1:
            return "NTHW"
        if min(shape[2:]) > 4:
            also = [f"CTHW: one video of {second} frames in colour"] if first in (3, 4) else []
            found = found and [f"TCHW: one video of {first} frames in colour"]
            raise Broken(f"{told}; set axes to one of: " + ", ".join(
                [f"NTHW: {first} videos of {second} frames", f"TNHW: {second} videos of {first} frames",
                 *found, *also]))
    if len(found) != 1:
        raise Broken(f"{told}, " + (
            f"which may be {' or '.join(found)}: set axes to one of them" if found else
            "not [T, H, W], [T, H, W, C] or [N, T, H, W, C] with C 1, 3 or 4; set axes if they are in "
            "another order"))
    return found[0]


def _fits(shape, reading):
    """Whether a reading has 1, 3 or 4 colours, and pictures of more than 4 x 4 pixels."""
    sizes = dict(zip(reading, shape, strict=True))
    return sizes.get("C", 1) in COLOURS and min(sizes["H"], sizes["W"]) > 4


# ------------------------------------------------------------------------------------ their frames


def blocks(array, order, number):
    """Yields the frames of one video of an array in blocks [t, H, W, C].

    order: as layout returns it. number: which video, where the array holds several.
    """
    sizes = dict(zip(order, array.shape, strict=True))
    left = [letter for letter in order if letter != "N"]
    turned = [left.index(letter) for letter in "THWC" if letter in left]
    step = max(1, BLOCK // (sizes["H"] * sizes["W"]))
    for start in range(0, sizes["T"], step):
        index = {"N": number, "T": slice(start, start + step)}
        taken = np.asarray(array[tuple(index.get(letter, slice(None)) for letter in order)])
        taken = taken.transpose(turned)
        yield taken if "C" in sizes else taken[..., None]


def check_type(dtype):
    """Raises Broken unless numbers of a type can be pixels. The order of their bytes does not matter."""
    if dtype.newbyteorder("=") not in (np.uint8, np.uint16) and dtype.kind not in "fb":
        raise Broken(f"holds {dtype}, not uint8, uint16 or floats from 0 to 1")


def check_range(block, rest=()):
    """Raises Broken where floats are not from 0 to 1. rest: further blocks, whose range it names too."""
    if block.dtype.kind != "f" or block.min() >= 0 and block.max() <= 1:  # A nan makes this false.
        return
    low = high = block.flat[0]
    for one in (block, *rest):
        low, high = np.minimum(low, one.min()), np.maximum(high, one.max())
    low, high = float(low), float(high)
    said = f"holds floats from {low:.9g} to {high:.9g}"
    if not np.isfinite([low, high]).all():
        raise Broken(f"{said}: some of its numbers are not finite")
    if low >= 0 and high <= 1 + ROUNDING:
        advice = "a little more than 1; numpy.clip(video, 0, 1) mends it"
    elif low >= -1 and high <= 1:
        advice = "but 0 must be black and 1 white; save (video + 1) / 2"
    elif low >= 0 and high <= 255:
        advice = "but 1 must be white; save video / 255, or video.astype(numpy.uint8)"
    else:
        advice = "but 0 must be black and 1 white"
    raise Broken(f"{said}, {advice}")


def to_native(block):
    """Puts the bytes of each number into the order of this machine."""
    return block.astype(block.dtype.newbyteorder("="), copy=False)
