"""Finds the videos below a folder, and the split of each."""

import collections
import fnmatch
import os
import re
import struct
import typing

import numpy as np

from tools import UserError
from video_data.frames import Broken
from video_data.timing import ACTIONS, npz_beside

ENCODED = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv",
           ".3gp", ".mts", ".m2ts", ".ts", ".vob", ".asf", ".y4m", ".mxf", ".gif", ".apng", ".webp")
ARRAYS = (".npy", ".npz", ".h5", ".hdf5")
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
SPLITS = ("train", "test", "val")
SPLIT_NAMES = {"train": "train", "training": "train", "test": "test", "testing": "test", "val": "val",
               "valid": "val", "validation": "val"}
MAGIC = (b"\x93NUMPY", b"PK\3\4", b"PK\5\6", b"\x89HDF")  # The first bytes of files of arrays.
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # The first bytes of TIFF files.
LIST = ".txt"  # train.txt holds the names of the files to train on.
# A folder with all files of one of these sets was written by this project.
OWN = ({"config.yml", "code.json"}, {"config.yml", "data.json"}, {"config.yml", "metrics.jsonl"},
       {"summary.json", "metrics.npz"}, {"header.json", "rows"}, {"journal", "rows"})


class File(typing.NamedTuple):
    """One file, or one series of pictures. path: of the file, or the name of the series.

    pictures: the files of the series, in order. within: patterns of the arrays that are wanted.
    """

    path: str
    pictures: tuple = ()
    within: tuple = ()


class Listing(typing.NamedTuple):
    """The content of a folder.

    videos: {name relative to the folder: File}, in the order of by_number.
    split_of: {name: split}, or None where a hash of each name decides.
    unread: how many files are not read, by their ending or by a few words.
    own: folders that this project has written. unlisted: {folder: why it cannot be listed}.
    """

    videos: dict
    split_of: dict | None
    unread: collections.Counter
    own: list
    unlisted: dict


def describe(listing, most=10):
    """Yields lines on the content of a folder that is not read."""
    if listing.unread:
        yield "not read: " + ", ".join(
            f"{count} {ending}" for ending, count in listing.unread.most_common(most))
    if listing.own:
        yield f"left out, since this project wrote them: {', '.join(map(shown, listing.own[:most]))}"
    for folder, why in listing.unlisted.items():
        yield f"{shown(folder)} cannot be listed: {why}"


def kinds():
    """The kinds of video that can be read, in words."""
    return f"{', '.join(ENCODED + ARRAYS)}, TIFF files of several pages, or folders of numbered images"


def is_video(path):
    """Whether a path has the ending of a video file or an array, and is not a file of actions."""
    path = path.lower()
    return path.endswith(ENCODED + ARRAYS) and not path.endswith(ACTIONS)


def shown(name):
    """A name as a message shows it: on one line, whatever characters it has."""
    text = os.fsencode(name).decode(errors="backslashreplace")
    return text.replace("\n", "\\n").replace("\r", "\\r")


def by_number(name):
    """A key that sorts the numbers in names by their value: a2 before a10."""
    parts = re.split(r"(\d+)", name)
    parts[1::2] = map(int, parts[1::2])
    return parts, name


# ------------------------------------------------------------------------------------- one folder


def pictures_of(folder):
    """The pictures of a folder that is one video, in their order. Raises Broken if it holds several."""
    series = _series(folder, sorted(name for name in os.listdir(folder) if not name.startswith(".")))
    if len(series) > 1:
        raise Broken(f"holds {len(series)} series of pictures ({', '.join(map(shown, series))}); "
                     "give a folder of one")
    return next(iter(series.values()), ())


def _series(folder, names):
    """The series of numbered pictures in a folder: {name of the series: paths, in order}.

    The files of a series differ in the last number of their names alone, so there may be several. If
    no two names do, all numbered images are one series.
    """
    numbered = [name for name in names if re.search(r"\d", os.path.splitext(name)[0])
                and _may_be_picture(os.path.join(folder, name))]
    numbered.sort(key=by_number)
    found = {}
    for name in numbered:
        stem, ending = os.path.splitext(name)
        found.setdefault(re.sub(r"\d+(?=\D*$)", "*", stem) + ending, []).append(name)
    found = {pattern: same for pattern, same in found.items() if len(same) > 1 and not (
        same[0].lower().endswith(".npy") and not _is_array_of_a_frame(os.path.join(folder, same[0])))}
    images = [name for name in numbered if not name.lower().endswith(".npy")]
    if not found and len(images) > 1:
        found = {"*": images}
    return {pattern: tuple(os.path.join(folder, name) for name in same)
            for pattern, same in found.items()}


def _may_be_picture(path):
    """Whether a file may hold one picture, as far as its name and the header of an image tell."""
    lower = path.lower()
    if lower.endswith(".npy"):
        return not lower.endswith(ACTIONS)
    return lower.endswith(IMAGES) and not is_stack(path) and (
        not lower.endswith(".webp") or is_still(path))


def _is_array_of_a_frame(path):
    try:
        shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
    except (OSError, ValueError, EOFError):
        return False  # Reading it gives the reason.
    return min(shape, default=0) > 0 and (len(shape) == 2 and min(shape) > 4 or len(shape) == 3 and (
        shape[-1] in (1, 3, 4) and min(shape[:2]) > 4))


def is_still(path):
    """Whether a file is a WebP of one image, by its header."""
    if not path.lower().endswith(".webp"):
        return False
    try:
        with open(path, "rb") as file:
            header = file.read(21)
    except OSError:
        return False  # Reading it gives the reason.
    return not (header[12:16] == b"VP8X" and len(header) > 20 and header[20] & 2)


def is_stack(path):
    """Whether a file is a TIFF of several pages: its first page then states the place of the next."""
    if not path.lower().endswith((".tif", ".tiff")):
        return False
    try:
        with open(path, "rb") as file:
            magic = file.read(16)
            if magic[:4] not in TIFF:
                return False
            order, large = ("<" if magic[:1] == b"I" else ">"), magic[2:4].strip(b"\0") == b"+"
            place = struct.unpack(f"{order}Q", magic[8:16])[0] if large else (
                struct.unpack(f"{order}I", magic[4:8])[0])
            count, entry, link = ("Q", 20, "Q") if large else ("H", 12, "I")
            file.seek(place)
            entries = struct.unpack(order + count, file.read(struct.calcsize(count)))[0]
            file.seek(entries * entry, os.SEEK_CUR)
            return struct.unpack(order + link, file.read(struct.calcsize(link)))[0] != 0
    except (OSError, struct.error, OverflowError, ValueError):
        return False  # Reading it gives the reason.


# ------------------------------------------------------------------------------- a folder of folders


def find(root, patterns=(), not_below=()):
    """Lists the videos below a folder. It follows links, but visits each folder once.

    patterns: of paths relative to the folder, where * stands for any text. Patterns that begin with !
        leave videos out. Of the others, if there are any, one must fit. The text behind the colon in
        `demo.h5:data/*/rgb` picks arrays in a file.
    not_below: folders that are left out.
    Raises UserError where no pattern fits a video, or where the splits are not clear.
    """
    listing = Listing({}, None, collections.Counter(), [], {})
    not_below = {os.path.realpath(folder) for folder in not_below}
    seen, other = set(), []

    def cannot_be_listed(error):
        listing.unlisted[os.path.relpath(error.filename, root)] = error.strerror

    for parent, folders, names in os.walk(root, followlinks=True, onerror=cannot_be_listed):
        status = os.stat(parent)
        own = any(files <= {*names, *folders} for files in OWN)
        # The user may name a folder that this project wrote, or log_root, as data_root.
        written = parent != root and (own or os.path.realpath(parent) in not_below)
        if written and "rows" not in names:  # Prepared frames need no mention.
            listing.own.append(os.path.relpath(parent, root))
        if (status.st_dev, status.st_ino) in seen or written:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        # The folders of splits come first, since they may link to what lies beside them.
        first = SPLIT_NAMES if parent == root else ()
        folders[:] = [name for _, name in sorted(
            (name.lower() not in first, name) for name in folders if not name.startswith("."))]
        other += _of_folder(root, parent, sorted(names), patterns, listing)
    ordered = dict(sorted(listing.videos.items(), key=lambda item: by_number(item[0])))
    split_of = _split_by_list(root, ordered, listing) or _split_by_folder(root, ordered)
    listing.unread.update(os.path.splitext(name)[1].lower() or "no ending" for name in other)
    if not ordered and patterns:
        raise UserError(f"files: {', '.join(patterns)} fits no video in {root}")
    if split_of is not None:
        if outside := len(ordered.keys() - split_of.keys()):
            listing.unread["videos outside of the splits"] += outside
        ordered = {name: file for split in SPLITS for name, file in ordered.items()
                   if split_of.get(name) == split}
    return listing._replace(videos=ordered, split_of=split_of)


def _of_folder(root, parent, names, patterns, listing):
    """Adds the videos of one folder to a listing; returns the names of the files that are not read."""
    names = [name for name in names if not name.startswith(".")]
    stacks = {name for name in names if is_stack(os.path.join(parent, name))}
    series = _series(parent, names)
    pictures = {os.path.basename(path) for paths in series.values() for path in paths}
    found = [name for name in names if name not in pictures and (
        name in stacks or is_video(name) and not is_still(os.path.join(parent, name)))]
    relative = {name: os.path.relpath(os.path.join(parent, name), root) for name in found}
    wanted = {name: _wanted(path, patterns) for name, path in relative.items()}
    encoded = [name for name in found if name.lower().endswith(ENCODED) and wanted[name][0]]
    stacks = [name for name in stacks if wanted.get(name, (False,))[0]]
    beside = {os.path.basename(npz_beside(name)) for name in (*encoded, *stacks)}  # They hold actions.
    found = [name for name in found if name not in beside]
    other = [name for name in names if name not in pictures and name not in found
             and name not in beside and not name.lower().endswith(ACTIONS)
             and not (parent == root and (_split_of_list(name) or name.startswith("frames_")))]
    if encoded and series:
        listing.unread["images beside video files"] += len(pictures)
        series = {}
    for name in found:
        fits, within = wanted[name]
        if fits:
            listing.videos[relative[name]] = File(os.path.join(parent, name), (), within)
    for pattern, paths in series.items():
        paths = tuple(path for path in paths if _wanted(os.path.relpath(path, root), patterns)[0])
        if len(paths) > 1:
            called = parent if len(series) == 1 else os.path.join(parent, pattern)
            listing.videos[os.path.relpath(called, root)] = File(called, paths)
    return other


def _wanted(path, patterns):
    """Returns (whether a path relative to the root is listed, the patterns of arrays within it)."""
    path = path.replace(os.sep, "/")
    positive = [pattern for pattern in patterns if not pattern.startswith("!")]
    if any(fnmatch.fnmatchcase(path, pattern[1:]) for pattern in patterns if pattern.startswith("!")):
        return False, ()
    if not positive:
        return True, ()
    whole, within = False, []
    for pattern in positive:
        outer, colon, inner = pattern.partition(":")
        inside = colon and outer.lower().endswith(ARRAYS)
        fits = fnmatch.fnmatchcase(path, outer if inside else pattern)
        whole |= fits
        if fits and inside:
            within.append(inner)
    return whole, tuple(within)


def single(path, patterns):
    """The File at a path, with those of the patterns of arrays that are for files of its name."""
    name = os.path.basename(path)
    return File(path, (), _wanted(name, [
        os.path.basename(outer) + colon + inner for outer, colon, inner in (
            pattern.partition(":") for pattern in patterns if not pattern.startswith("!"))])[1])


# ------------------------------------------------------------------------------------------ splits


def _split_of_list(name):
    stem, ending = os.path.splitext(name.lower())
    return SPLIT_NAMES.get(stem) if ending == LIST else None


def _split_by_list(root, videos, listing):
    """The split of each video by train.txt, test.txt and val.txt, which hold one name a line.

    None where no line names a video; the listing then says so. Raises UserError where only some lines
    do, where the lists of two splits name the same video, or where there is none to train or test on.
    """
    lists = {name: _split_of_list(name) for name in os.listdir(root) if _split_of_list(name)}
    split_of, missing = {}, []
    for file, split in sorted(lists.items()):
        with open(os.path.join(root, file), encoding="utf-8-sig", errors="surrogateescape") as opened:
            for line in filter(None, opened.read().split("\n")):
                name = os.path.normpath(line.rstrip("\r"))
                if name not in videos:
                    missing.append(f"{file}: {shown(name)}")
                elif split_of.setdefault(name, split) != split:
                    raise UserError(f"data_root: {shown(name)} is in the lists of both {split_of[name]} "
                                    f"and {split}")
    if not split_of:
        if missing:
            listing.unread[f"lists of splits that name no video ({missing[0]})"] += len(lists)
        return None
    if missing:
        raise UserError(f"data_root: the lists in {root} name {len(missing)} files that are no videos "
                        f"there ({missing[0]})")
    for split in ("train", "test"):
        if split not in split_of.values():
            raise UserError(f"data_root: {root} has {', '.join(sorted(lists))}, but no {split}{LIST} "
                            "that names videos")
    return split_of


def _split_by_folder(root, videos):
    """The split of each video by the folder in the root that holds it; None without such folders.

    Raises UserError where train/ or test/ is missing or holds no video.
    """
    folders = {name: SPLIT_NAMES[name.lower()] for name in sorted(os.listdir(root))
               if name.lower() in SPLIT_NAMES and os.path.isdir(os.path.join(root, name))}
    if not folders:
        return None
    lacking = [split for split in ("train", "test") if split not in folders.values()]
    if lacking:
        there = " and ".join(f"{name}/" for name in folders)
        also = ("; rename val/ to test/ if its videos are to test on"
                if "val" in folders.values() and lacking == ["test"] else "")
        raise UserError(f"data_root: {root} has {there} and no {' or '.join(lacking)}/; it needs train/ "
                        f"and test/, or neither{also}")
    split_of = {name: folders[first] for name in videos
                if (first := name.split(os.sep)[0]) in folders}
    for split in ("train", "test"):
        if split not in split_of.values():
            folder = next(name for name, of in folders.items() if of == split)
            raise UserError(f"data_root: no videos ({kinds()}) in {os.path.join(root, folder)}")
    return split_of
