"""Prepares a folder of the user's own videos: a store of their frames, which grows with the folder."""

import collections
import contextlib
import hashlib
import math
import os
import sys

import numpy as np
from tqdm import tqdm

from tools import UserError
from video_data import files, store, videos
from video_data.files import SPLITS, kinds, shown
from video_data.timing import ACTIONS, actions_path, npz_beside

READER = 4  # Increased when files become other frames than before: then all are read again.
NAMED = 10  # How many messages of a kind are shown.


def prepare(config):
    """Makes sure that the folder's frames are in a store, and reads only files that it lacks.

    Returns the paths of stores, a dict: `video`, and with config.actions `actions`.
    Raises UserError where there are too few videos, or where actions do not fit.
    """
    listing, path = listing_of(config), store_path(config)
    keys = {name: f"{name}\n{_stamp(file, config)}" for name, file in listing.videos.items()}
    current = _source(listing, keys)
    paths = {"video": path} | ({"actions": _actions_path(config)} if config.actions else {})

    def is_current():
        return all(store.source(path) == current for path in paths.values())

    def build():
        for line in files.describe(listing):
            _say(f"{config.data_root}: {line}.")
        _build(config, listing, keys)
        _say(f"Prepared {path}.")

    store.prepare_once(config, path, [path, _actions_path(config)], lambda: not is_current(), build)
    if config.actions:
        _check_actions(path, _actions_path(config), config.actions == "onehot")
    return paths


def listing_of(config):
    """The files.Listing of a config's folder. Raises UserError if it cannot hold two videos."""
    root, patterns = config.data_root, patterns_of(config)
    if not os.path.isdir(root):
        raise UserError(f"data_root: there is no folder {root!r}")
    own = [os.path.expanduser(path) for path in (config.log_root, config.cache_root) if path]
    listing = files.find(root, patterns, own)
    arrays = [name for name in listing.videos if name.lower().endswith(files.ARRAYS)]
    if len(listing.videos) < 2 and not arrays:
        raise _too_few(root)
    return listing


def patterns_of(config):
    """The patterns of the key `files`, a tuple."""
    patterns = config.files or ()
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def _too_few(root):
    return UserError(f"data_root: {root} needs two videos at least, one to train on and one to test on "
                     f"({kinds()})")


def form_of(config):
    """The videos.Form of a config's frames."""
    return videos.Form(config.image_size, config.channels, config.fit, config.fps)


def request_of(config, file, threads=0):
    """The videos.Request of a files.File."""
    return videos.Request(
        file.path, form_of(config), file.pictures, file.within, config.axes, config.keep_partial,
        config.actions == "onehot", os.path.dirname(store_path(config)), threads)


def store_path(config):
    """The path of a folder's store. Every form of frames and choice of files has its own."""
    form = form_of(config)
    name = f"frames_{form.size}x{form.size}x{form.channels}"
    if form.fit != "crop":
        name += f"_{form.fit}"
    if form.fps:
        name += f"_{form.fps:g}fps"
    chosen = [config.files, config.axes, config.keep_partial]
    if any(chosen):
        name += f"_{_digest(repr(chosen))[:8]}"
    return os.path.join(store.home(config), name)


def _actions_path(config):
    return os.path.join(store_path(config), "onehot" if config.actions == "onehot" else "actions")


def _stamp(file, config):
    """A text that changes with a file, its pictures, its actions, and the way it is read."""
    digest = hashlib.sha256(f"{READER} {config.axes} {config.keep_partial} {file.within}\n".encode())
    for path in (*(file.pictures or [file.path]), actions_path(file.path), npz_beside(file.path)):
        with contextlib.suppress(OSError):  # Reading it gives the reason.
            status = os.stat(path)
            name = os.path.basename(path)
            digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode(errors="replace"))
    return digest.hexdigest()


def _source(listing, keys, without=()):
    """A digest of the files with these keys, but for some, and of the splits that the user gives."""
    split_of = listing.split_of or {}
    return _digest("\n".join(f"{split_of.get(name, '')} {key}" for name, key in keys.items()
                             if name not in without))


def _digest(text):
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _say(line):
    tqdm.write(line, file=sys.stderr)


# ------------------------------------------------------------------------------------------ splits


def _known_splits(path):
    """The split of each video that the store at path has."""
    header = store.read_header(path) or {"splits": {}}
    return {name: split for split, found in header["splits"].items() for name in found["names"]}


def _split(names, known):
    """The split of each video by name: its split in the store, or else by a hash of its name.

    The hash puts one video in ten into the test split, whatever other videos there are. A split that
    would be empty gets the video of the least hash: a new one, if there is any.
    """
    def order(name):
        return int(_digest(name.replace(os.sep, "/"))[:15], 16)

    chosen = {name: known.get(name) or ("train" if order(name) % 10 else "test") for name in names}
    for split in ("test", "train"):
        if split not in chosen.values() and len(names) > 1:
            new = [name for name in names if name not in known]
            chosen[min(new or names, key=order)] = split
    return chosen


def _split_pieces(listing, keys, frames, known):
    """The videos of each split: lists of (key of a piece, index of the video in the piece)."""
    found = [(name, keys[name], index, video) for name in keys if keys[name] in frames.pieces
             for index, video in enumerate(frames.pieces[keys[name]]["names"])]
    if listing.split_of is None:
        split_of = _split([video for *_, video in found], known)
    else:
        split_of = {video: listing.split_of[name] for name, *_, video in found}
    pieces = {split: [] for split in SPLITS}
    for _, key, index, video in found:
        pieces[split_of[video]].append((key, index))
    return pieces if pieces["val"] else {split: pieces[split] for split in ("train", "test")}


# ---------------------------------------------------------------------------------------- the store


def _build(config, listing, keys):
    """Adds the files that the stores lack, and commits both stores. keys: the key of each file."""
    path, beside = store_path(config), _actions_path(config)
    known = _known_splits(path)
    with store.Writer(path, keys.values()) as frames, store.Writer(beside, keys.values()) as actions:
        failed = _read_missing(config, listing, keys, frames, actions)
        pieces = _split_pieces(listing, keys, frames, known)
        for split in ("train", "test"):
            if not pieces[split]:
                raise _nothing_to(split, config.data_root, listing, keys, frames, failed)
        # A file that the system failed to read is left out here, so the next start tries it again.
        source = _source(listing, keys, failed)
        given = {split: [(key, actions.pieces[key]["names"].index(name)) for key, index in of_split
                         if (name := frames.pieces[key]["names"][index]) in actions.pieces[key]["names"]]
                 for split, of_split in pieces.items()}
        # The store holds single numbers, since actions of different files may differ in width.
        widths = {width for piece in actions.pieces.values() for width in piece["note"]["widths"]}
        uniform = len(widths) == 1 and None not in widths and config.actions != "onehot"
        actions.commit(source, given, view=[*widths] if uniform else None)
        frames.commit(source, pieces)


def _nothing_to(split, root, listing, keys, frames, failed):
    """The UserError for a split without any video."""
    of_split = [name for name in keys if (listing.split_of or {}).get(name, split) == split]
    if sum(len(piece["names"]) for piece in frames.pieces.values()) and listing.split_of is None:
        return _too_few(root)
    first = of_split[0]
    why = failed.get(first) or frames.pieces[keys[first]]["note"]["skipped"]
    return UserError(f"data_root: none of the {len(of_split)} files to {split} on can be read "
                     f"({shown(first)}: {why})")


def _read_missing(config, listing, keys, frames, actions):
    """Adds the files that the stores lack, and names those that cannot be read.

    Returns {name: why} for files that the system failed to read: another try may succeed.
    """
    missing = [name for name, key in keys.items()
               if key not in frames.pieces or key not in actions.pieces]
    if not missing:
        return {}
    root, failed, said, count = config.data_root, {}, collections.Counter(), 0
    with videos.Readers() as readers:
        _check_space(config, [listing.videos[name] for name in missing], readers)
        threads = 0 if len(missing) < videos.CORES else 1

        def read(name):
            try:
                return readers.read(request_of(config, listing.videos[name], threads))
            except videos.Broken as error:
                return None, error, {}

        with tqdm(desc=f"Preparing {root}", initial=len(keys) - len(missing), total=len(keys),
                  unit=" files", dynamic_ncols=True) as bar:
            for name, (rows, found, left_out) in videos.in_parallel(read, missing):
                if rows is None and found.again:
                    failed[name] = str(found)
                else:
                    note = _note(rows, found, left_out)
                    _add(frames, actions, keys[name], name, [] if rows is None else found, rows, note)
                for kind, line in lines(os.path.join(root, name), rows, found, left_out):
                    said[kind] += 1
                    if said[kind] <= NAMED:
                        bar.write(line, file=sys.stderr)
                count += 0 if rows is None else len(rows)
                bar.set_postfix_str(f"{count:,} frames")
                bar.update()
    if said["skipped"]:
        _say(f"{said['skipped']} of {len(keys)} files cannot be read and are left out." + (
            f" The first {NAMED} are named above. data_loader.py names them all."
            if said["skipped"] > NAMED else ""))
    return failed


def _note(rows, found, left_out):
    """The note on a file in the store."""
    if rows is None:
        return {"skipped": str(found)}
    notes = list(dict.fromkeys(note for video in found for note in video.notes))
    return {"size": [found[0].height, found[0].width], "fps": found[0].fps, "notes": notes,
            "left_out": left_out}


def lines(path, rows, found, left_out):
    """Yields (kind, line) for each message on a file."""
    if rows is None:
        yield "skipped", f"Skipped {shown(path)}: {found}." + (
            " It is tried again at the next start." if found.again else "")
        return
    for part, why in left_out.items():
        yield "part", f"Left out {shown(path + part)}: {why}."
    for note in dict.fromkeys(note for video in found for note in video.notes):
        yield "note", f"{shown(path)} {note}."


def _add(frames, actions, key, name, found, rows, note):
    """Adds the videos of one file to each store that lacks them."""
    if key not in frames.pieces:
        ends = np.cumsum([video.length for video in found])
        frames.add(key, [(name + video.part, rows[end - video.length : end])
                         for video, end in zip(found, ends, strict=True)], note)
    if key not in actions.pieces:
        given = [video for video in found if video.actions is not None]
        actions.add(key, [(name + video.part, video.actions.ravel()) for video in given], {
            "widths": [None if video.actions is None else video.actions.shape[1] for video in found],
            "refused": next((video.refused for video in found if video.refused), None)})


def _check_space(config, chosen, readers, sample=5):
    """Says how much disk the frames take, by the frames of some files and the sizes of all."""
    sizes = {}  # By kind, the size of every file that is no series of pictures.
    for file in chosen:
        if not file.pictures:
            with contextlib.suppress(OSError):
                kind = os.path.splitext(file.path)[1].lower()
                sizes.setdefault(kind, {})[file] = os.path.getsize(file.path)
    needed = sum(len(file.pictures) for file in chosen)
    for found in sizes.values():
        some = [*found][:: -(-len(found) // sample)]
        counts = videos.in_parallel(
            lambda file: readers.estimate_frames(request_of(config, file)), some)
        seen = max(1, sum(found[file] for file in some))
        needed += sum(count for _, count in counts) * sum(found.values()) // seen
    store.check_space(os.path.dirname(store_path(config)), needed * math.prod(form_of(config).shape),
                      f"Preparing {len(chosen)} files of {config.data_root}")


# ---------------------------------------------------------------------------------------- actions


def _check_actions(path, beside, onehot):
    """Raises UserError unless every video of a store has actions, all of one width or all one-hot."""
    frames, actions = store.read_header(path), store.read_header(beside)
    notes = {key: actions["pieces"][key]["note"] for key in frames["pieces"]}
    check_actions(
        ((name, width, notes[key]["refused"]) for key, piece in frames["pieces"].items()
         for name, width in zip(piece["names"], notes[key]["widths"], strict=True)),
        onehot)


def check_actions(found, onehot=False):
    """Raises UserError unless all videos have actions, of one width if they are not one-hot.

    found: for each video (name, width of its actions or None, why there are none).
    """
    first = None
    for name, width, refused in found:
        first = first or (name, width)
        if width is None:
            beside = os.path.basename(actions_path(name))
            stem = beside.removesuffix(ACTIONS)
            raise UserError(f"actions: {shown(name)}: " + (
                refused or f"has none; put them, [T, A], into its .npz or HDF5 file as `actions`, or "
                           f"beside it into {beside} or {stem}.npz"))
        if width != first[1] and not onehot:
            raise UserError(f"actions: {shown(name)} has {width} numbers to an action, but "
                            f"{shown(first[0])} has {first[1]}")


class OneHot:
    """One-hot actions of videos, as a sequence of float32 [T, classes].

    actions: for each video [T * A] or [T, A], where A is 1 + its own largest action. lengths: T of each.
    Raises UserError where an action is none of the classes.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, actions, lengths, names, classes):
        self._actions, self.lengths, self.names = actions, np.array(lengths), names
        self.shape = (classes,)
        for index, name in enumerate(names):
            width = actions[index].size // lengths[index]
            if width > classes:
                raise UserError(f"actions: {shown(name)} has the action {width - 1}, but training knows "
                                f"only 0 to {classes - 1}")

    def __len__(self):
        return len(self.names)

    def __getitem__(self, video):
        found = self._actions[video].reshape(self.lengths[video], -1)
        return np.pad(found, [(0, 0), (0, self.shape[0] - found.shape[1])])


def open_one_hot(paths, split, classes=None):
    """The OneHot of a split. classes: by default 1 + the largest action of the training data."""
    frames, actions = (store.read(paths[name], split) for name in ("video", "actions"))
    if classes is None:
        lengths = store.read(paths["video"], "train").lengths
        of_training = store.read(paths["actions"], "train").lengths
        classes = int((of_training // lengths).max())
    return OneHot(actions, frames.lengths, frames.names, classes)


# ---------------------------------------------------------------------------------------- in words


def describe(header):
    """Yields lines on the files of a store: their sizes and rates, and which were left out and why."""
    notes = {key.rpartition("\n")[0]: piece["note"] for key, piece in header["pieces"].items()
             if piece["note"]}
    key_of = {video: key for key, piece in header["pieces"].items() for video in piece["names"]}
    for split, found in header["splits"].items():
        of_split = [header["pieces"][key]["note"]
                    for key in dict.fromkeys(key_of[name] for name in found["names"])]
        if any(of_split):
            yield f"{split}: sizes " + _counted("{1}x{0}".format(*note["size"]) for note in of_split)
            yield f"{split}: frames a second " + _counted(
                "unknown" if note["fps"] is None else f"{note['fps']:g}" for note in of_split)
    for name, note in notes.items():
        yield from (f"{shown(name)} {text}" for text in note.get("notes", ()))
        yield from (f"{shown(name + part)} is left out: {why}"
                    for part, why in note.get("left_out", {}).items())
    skipped = {name: note["skipped"] for name, note in notes.items() if "skipped" in note}
    if skipped:
        yield f"{len(skipped)} of {len(notes)} files cannot be read:"
        yield from (f"  {shown(name)}: {why}" for name, why in skipped.items())


def _counted(words):
    """Each word with its count, the most frequent first."""
    counts = collections.Counter(words).most_common()
    return ", ".join(f"{word} ({count})" for word, count in counts[:NAMED]) + (
        f" and {len(counts) - NAMED} others" if len(counts) > NAMED else "")
