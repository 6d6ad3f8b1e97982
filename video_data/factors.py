"""The factors in the user's own files: known facts about each frame beside its pixels.

A file of arrays, or the .npz file beside an encoded video, holds a factor under its name in FACTORS.
Only evaluations read them, straight from the files.
"""

import difflib
import os
import re
import sys

import numpy as np

from tools import UserError
from video_data import arrays, folder, store
from video_data.arrays import FACTORS
from video_data.files import MAGIC, shown
from video_data.frames import UNREADABLE, Broken
from video_data.timing import npz_beside

PER_VIDEO = ("label", "digit", "digits")  # factors that hold for a whole video
ALIKE = 0.8  # Names more alike than this are spelling mistakes, by difflib's ratio.


def of_folder(config, path, found):
    """The factors of the videos `found` of the store at path, as of_videos returns them."""
    files, listed = folder.listing_of(config).videos, {}
    for key, piece in store.read_header(path)["pieces"].items():
        name = key.rpartition("\n")[0]
        listed |= {video: (files[name], video[len(name):]) for video in piece["names"]}
    return of_videos(config, listed, found)


def of_videos(config, listed, found):
    """The factors of videos, a dict of store.Videos. A factor of a whole video has one row.

    listed: {video: (its files.File, its part of the file)}. found: the store.Videos of their frames.
    Raises UserError where only some videos have a factor, or it does not fit the frames.
    """
    read, cached = {}, {}
    for name, length in zip(found.names, found.lengths, strict=True):
        file, part = listed[name]
        if file.path not in cached:
            cached = {file.path: _of_file(file, config.axes)}  # The videos of a file follow each other.
        for factor, values in _of_part(cached[file.path], part).items():
            read.setdefault(factor, {})[name] = _checked(factor, values, name, length, config.fps)
    for factor, values in read.items():
        _check_all(factor, values, found.names)
    return {factor: store.Videos(np.concatenate([*values.values()]), list(map(len, values.values())),
                                 found.names)
            for factor, values in read.items()}


def _of_file(file, axes):
    """The factors in a file: {the name of an array that is a video: {factor: (values, videos)}}.

    videos: how many videos the array holds; None for one that holds a single video.
    """
    path = file.path
    try:
        magic = b"" if file.pictures else _beginning(path)
        if magic.startswith(MAGIC) and not magic.startswith(b"\x93NUMPY"):
            with arrays.opened(path, magic, _Patient, None) as found:
                chosen = arrays.choose(found, magic.startswith(b"\x89HDF"), file.within, axes)
                groups = {name.rpartition("/")[0] for name in chosen}
                _name_alike(sorted({name.rpartition("/")[2] for name in found
                                    if name.rpartition("/")[0] in groups}), path)
                orders = {name: _order(found[name], path, axes) for name in chosen}
                return {name: _of_array(found, name, order) for name, order in orders.items() if order}
        path = npz_beside(path)
        if file.pictures or path == file.path or not os.path.exists(path):
            return {}
        with np.load(path, allow_pickle=False) as found:
            _name_alike(found, path)
            return {"": {name: (found[name], None) for name in FACTORS if name in found}}
    except (OSError, TypeError, AttributeError, Broken, *UNREADABLE) as error:
        raise UserError(f"data_root: {shown(path)}: {error}") from None


class _Patient:
    """Stands for the sink of a reader, which wants signs of life."""

    alive = staticmethod(lambda: None)


def _beginning(path):
    with open(path, "rb") as file:
        return file.read(16)


def _order(array, path, axes):
    """The axes of an array, as arrays.layout returns them; None for one that is no video."""
    if isinstance(array, Broken) or array.shape is None:
        return None
    try:
        return arrays.layout(array.shape, path, axes)
    except Broken:
        return None  # Preparing has said why.


def _of_array(found, name, order):
    """The factors of an array, {factor: (values, videos)}. found: the arrays in its file."""
    count = found[name].shape[order.index("N")] if "N" in order else None
    near = {factor: arrays.nearest(found, name, [factor]) for factor in FACTORS}
    return {factor: (values, count) for factor, values in near.items() if values is not None}


def _name_alike(names, path):
    """Names the nearest factor to each array whose name looks like a spelling mistake."""
    for name in names:
        near = difflib.get_close_matches(name, FACTORS, 1, ALIKE)
        if near and name not in FACTORS:
            print(f"{shown(path)}: {name} is no factor and is not read; nearest: {near[0]}",
                  file=sys.stderr)


def _of_part(of_file, part):
    """The factors of one video of a file. part: `:array`, `[number]`, both or nothing."""
    array, number = re.fullmatch(r"(?::(.*?))?(?:\[(\d+)\])?", part, re.DOTALL).groups()
    found = of_file.get(array) if array is not None else next(iter(of_file.values()), None)
    values = {}
    for factor, (every, count) in (found or {}).items():
        if count is not None and every.shape[:1] != (count,):
            raise UserError(f"data_root: {factor} has the shape {list(every.shape)} for {count} videos; "
                            f"it must have a row for each of them")
        values[factor] = every if count is None else every[int(number)]
    return values


def _checked(factor, values, name, length, fps=None):
    """A factor as an array [length, ...], or [1, ...] for a whole video. Raises UserError."""
    values = np.asarray(values)
    said = f"data_root: {shown(name)}: its {factor}"
    if values.dtype.kind not in "buif" or not np.isfinite(values).all():
        raise UserError(f"{said} is {values.dtype}, not finite numbers"
                        if values.dtype.kind not in "f" else f"{said} has numbers that are not finite")
    if factor in PER_VIDEO:
        values = values[None]
    elif values.shape[:1] != (length,):
        raise UserError(f"{said} has the shape {list(values.shape)} for {length} frames; it must have "
                        f"a row for each frame{' that fps shows' if fps else ', or another name'}")
    return values.astype(np.float32 if values.dtype.kind == "f" else np.int64)


def _check_all(factor, values, names):
    """Raises UserError unless all videos have a factor, in one shape. values: {name: array}."""
    first = next(iter(values))
    for name in names:
        if name not in values:
            raise UserError(f"data_root: {shown(name)} has no {factor}, but {shown(first)} does; all "
                            "test videos need it, or none")
        shape, expected = values[name].shape[1:], values[first].shape[1:]
        if shape != expected or values[name].dtype != values[first].dtype:
            raise UserError(f"data_root: {shown(name)}: a row of its {factor} is {values[name].dtype} "
                            f"{list(shape)}, but of {shown(first)} {values[first].dtype} "
                            f"{list(expected)}")
