"""A folder of one's own videos: which files are videos, in which split, and their store of frames."""

import collections
import contextlib
import hashlib
import math
import os
import re
import sys

import numpy as np
from tqdm import tqdm

from tools import UserError
from video_data import store, videos

SPLITS = ("train", "test", "val")
NAMED = 10  # How many of the files that cannot be read are named.
OLD_ENDINGS = (".mp4", ".avi", ".mov", ".webm", ".mkv", ".gif", ".npy", ".npz")  # Of stores of format 1.


def prepare(config):
    """Makes sure that the folder's frames are in a store; returns the paths of stores by name.

    `video`, and with config.actions `actions`. Of a folder that grew, only what is new is read.
    Raises UserError where there are too few videos, or where actions do not fit.
    """
    root, path = config.data_root, store_path(config)
    given, names = _list(root)
    keys = {name: f"{name}\n{_stamp(os.path.join(root, name))}" for name in names}
    current = {_digest("\n".join(keys.values()))}
    if not config.actions:  # Of which a store of format 1 has none.
        current |= _old_sources(root, given, names)
    paths = {"video": path} | ({"actions": _actions_path(path)} if config.actions else {})

    def is_current():
        return all(store.source(path) in current for path in paths.values())

    if not is_current():
        with store.writing(config, path), store.lock(f"{path}.lock", f"preparing {root}"):
            for one in (path, _actions_path(path)):
                store.recover(one)
            if not is_current():
                _build(config, given, keys)
                tqdm.write(f"Prepared {path}.", file=sys.stderr)
    if config.actions:
        _check_actions(path)
    return paths


def form_of(config):
    """The videos.Form of a config's frames."""
    return videos.Form(config.image_size, config.channels, config.fit, config.fps)


def store_path(config):
    """Where the store of a folder is. There is one for every form of frames."""
    form = form_of(config)
    name = f"frames_{form.size}x{form.size}x{form.channels}"
    if form.fit != "crop":
        name += f"_{form.fit}"
    if form.fps:
        name += f"_{form.fps:g}fps"
    return os.path.join(config.data_root, name)


# ---------------------------------------------------------------------------------- files and splits


def _list(root):
    """Returns (whether there is a folder for each split, names of videos relative to root).

    Raises UserError where there are too few.
    """
    if not os.path.isdir(root):
        raise UserError(f"data_root: there is no folder {root!r}")
    given = [split for split in ("train", "test") if os.path.isdir(os.path.join(root, split))]
    if len(given) == 1:
        raise UserError(f"data_root: {root} has {given[0]}/ and no other split; it needs train/ and "
                        "test/, or neither")
    if not given:
        names = list_videos(root)
        if len(names) < 2:
            raise UserError(f"data_root: {root} needs two videos at least, one to train on and one to "
                            f"test on ({kinds()})")
        return False, names
    found = []
    for split in SPLITS:
        folder = os.path.join(root, split)
        names = list_videos(folder) if os.path.isdir(folder) else []
        if not names and split in given:
            raise UserError(f"data_root: no videos ({kinds()}) in {folder}")
        found += [os.path.normpath(os.path.join(split, name)) for name in names]
    return True, found


def kinds():
    """What counts as a video, in words."""
    return f"{', '.join(videos.ENCODED + videos.ARRAYS)}, or folders of numbered images"


def list_videos(folder):
    """Returns the videos below a folder, sorted as people number: paths relative to it.

    They are files, and folders of two numbered images or more. Links are followed.
    """
    found, seen = [], set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        status = os.stat(parent)
        if (status.st_dev, status.st_ino) in seen:  # A link to a folder above it.
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [os.path.join(parent, name) for name in files
                 if videos.is_video(name) and not name.startswith(".")]
        found += [path for path in paths if not videos.is_still(path)]
        if len(videos.list_images(parent)) > 1:
            found.append(parent)
    return sorted((os.path.relpath(path, folder) for path in found), key=videos.by_number)


def _stamp(path):
    """A text that changes when a file, the images of a folder, or the actions beside it do."""
    files = [*(videos.list_images(path) if os.path.isdir(path) else [path]), videos.actions_path(path)]
    digest = hashlib.sha256()
    for file in files:
        with contextlib.suppress(OSError):  # Who reads it will say.
            status = os.stat(file)
            name = os.path.basename(file)
            digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode(errors="replace"))
    return digest.hexdigest()


def _old_sources(root, given, names):
    """The source that version 9ff3a85 gave this store, as a set; empty where it saw other files."""
    files = sorted(os.path.join(root, name) for name in names)
    if given:
        split = [[file for file in files if os.path.relpath(file, root).startswith(folder)]
                 for folder in ("train" + os.sep, "test" + os.sep)]
    else:
        test = files[9::10] or files[-1:]
        split = [[file for file in files if file not in set(test)], test]
    known = [name for name in names if name.lower().endswith(OLD_ENDINGS)]
    if len(names) > min(len(known), sum(map(len, split))):
        return set()
    text = ""
    for file in sum(split, []):
        with contextlib.suppress(OSError):
            status = os.stat(file)
            text += f"{os.path.relpath(file, root)} {status.st_size} {status.st_mtime_ns}\n"
    return {_digest(text)}


def _digest(text):
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _known_splits(path):
    """The split of each file that the store at path has read."""
    header = store.read_header(path) or {"splits": {}, "pieces": {}}
    split_of = {name: split for split, found in header["splits"].items() for name in found["names"]}
    if "pieces" in header:
        return {key.partition("\n")[0]: split_of[piece["names"][0]]
                for key, piece in header["pieces"].items() if piece["names"]}
    known = {}  # Format 1 has whole paths, of a folder that may have been moved: by their ends.
    for name, split in split_of.items():
        parts = re.sub(r"\[\d+\]$", "", name).split(os.sep)
        known |= {os.sep.join(parts[first:]): split for first in range(len(parts))}
    return known


def _split(names, given, known):
    """Returns the names of each split. By its folder, where there are such folders.

    Else a file is where the store has had it; else it is by a hash of its name, one of ten to test on,
    so that it stays there whatever comes to it. Where a split were empty, it gets the file of the least
    hash: a new one, if there is any.
    """
    def order(name):
        return int(_digest(name.replace(os.sep, "/"))[:15], 16)

    if given:
        chosen = {name: name.split(os.sep)[0] for name in names}
    else:
        chosen = {name: known.get(name) or ("train" if order(name) % 10 else "test") for name in names}
        for split in ("test", "train"):
            if split not in chosen.values() and len(names) > 1:
                new = [name for name in names if name not in known]
                chosen[min(new or names, key=order)] = split
    return {split: [name for name in names if chosen[name] == split] for split in SPLITS
            if split in chosen.values() or split != "val"}


# ---------------------------------------------------------------------------------------- the store


def _actions_path(path):
    return os.path.join(path, "actions")


def _build(config, given, keys):
    """Reads the files that the store lacks, and makes it one of all. keys: a text for each file."""
    path = store_path(config)
    known = _known_splits(path)
    with (store.Writer(path, keys.values()) as frames,
          store.Writer(_actions_path(path), keys.values()) as actions):
        _read_missing(config, keys, frames, actions)
        splits = _split([name for name in keys if frames.pieces[keys[name]]["names"]], given, known)
        for split, names in splits.items():
            if not names:
                of_split = [name for name in keys if not given or name.split(os.sep)[0] == split]
                first = of_split[0]
                raise UserError(
                    f"data_root: none of the {len(of_split)} files to {split} on can be read "
                    f"({first}: {frames.pieces[keys[first]]['note']['skipped']})")
        pieces = {split: [keys[name] for name in names] for split, names in splits.items()}
        source = _digest("\n".join(keys.values()))
        # Numbers one after the other, for files may have actions of different widths.
        widths = {width for piece in actions.pieces.values() for width in piece["note"]["widths"]}
        actions.commit(source, pieces, view=None if len(widths) > 1 or None in widths else [*widths])
        frames.commit(source, pieces)


def _read_missing(config, keys, frames, actions):
    """Adds the files that the stores lack, and says which cannot be read."""
    root, form = config.data_root, form_of(config)
    missing = [name for name, key in keys.items()
               if key not in frames.pieces or key not in actions.pieces]
    if not missing:
        return
    needed = _estimate_frames([os.path.join(root, name) for name in missing], form)
    store.check_space(root, needed * math.prod(form.shape), f"Preparing {len(missing)} files of {root}")
    threads = 0 if len(missing) < videos.CORES else 1

    def read(name):
        try:
            return videos.read(os.path.join(root, name), form, root, threads)
        except videos.Broken as error:
            return None, error

    skipped = count = 0
    with tqdm(desc=f"Preparing {root}", initial=len(keys) - len(missing), total=len(keys),
              unit=" files", dynamic_ncols=True) as bar:
        for name, (rows, found) in videos.in_parallel(read, missing):
            if rows is None:
                skipped += 1
                if skipped <= NAMED:
                    bar.write(f"Skipped {os.path.join(root, name)}: {found}.", file=sys.stderr)
                _add(frames, actions, keys[name], name, [], None, {"skipped": str(found)})
            else:
                note = {"size": [found[0].height, found[0].width], "fps": found[0].fps}
                _add(frames, actions, keys[name], name, found, rows, note)
                count += len(rows)
            bar.set_postfix_str(f"{count:,} frames")
            bar.update()
    if skipped:
        tqdm.write(f"{skipped} of {len(keys)} files cannot be read and are left out"
                   f"{'' if skipped <= NAMED else f'; the first {NAMED} are named above'}. "
                   f"python3 data_loader.py names them all.", file=sys.stderr)


def _add(frames, actions, key, name, found, rows, note):
    """Adds what was found in one file to both stores, unless it is there."""
    if key not in frames.pieces:
        ends = np.cumsum([video.length for video in found])
        frames.add(key, [(name + video.part, rows[end - video.length : end])
                         for video, end in zip(found, ends, strict=True)], note)
    if key not in actions.pieces:
        given = [video for video in found if video.actions is not None]
        actions.add(key, [(name + video.part, video.actions.ravel()) for video in given], {
            "widths": [None if video.actions is None else video.actions.shape[1] for video in found],
            "refused": next((video.refused for video in found if video.refused), None)})


def _check_actions(path):
    """Raises UserError unless every video of the store at path has actions, all of one width."""
    frames, actions = store.read_header(path), store.read_header(_actions_path(path))
    notes = {key: actions["pieces"][key]["note"] for key in frames["pieces"]}
    check_actions(
        (name, width, notes[key]["refused"]) for key, piece in frames["pieces"].items()
        for name, width in zip(piece["names"], notes[key]["widths"], strict=True))


def check_actions(found):
    """Raises UserError unless all actions are of one width.

    found: for each video its name, how many numbers an action has or None, and why there is none.
    """
    first = None
    for name, width, refused in found:
        first = first or (name, width)
        if width is None:
            beside = os.path.basename(videos.actions_path(name))
            raise UserError(f"actions: {name}: " + (
                refused or f"has none; they are [T, A], as `actions` beside `video` in an .npz file, or "
                           f"in {beside} beside the video"))
        if width != first[1]:
            raise UserError(f"actions: {name} has {width} numbers to an action, but {first[0]} "
                            f"has {first[1]}")


def _estimate_frames(paths, form, sample=5):
    """About how many frames the files give: of each kind, by some of them and the sizes of all."""
    images = sum(len(videos.list_images(path)) for path in paths if os.path.isdir(path))
    sizes = {}  # By kind, of every file.
    for path in filter(os.path.isfile, paths):
        sizes.setdefault(os.path.splitext(path)[1].lower(), {})[path] = os.path.getsize(path)
    some = {path: kind for kind, files in sizes.items()
            for path in [*files][:: -(-len(files) // sample)]}
    frames, seen = collections.Counter(), collections.Counter()
    for path, count in videos.in_parallel(lambda path: videos.estimate_frames(path, form), some):
        frames[some[path]] += count
        seen[some[path]] += sizes[some[path]][path]
    return images + sum(frames[kind] * sum(files.values()) // max(1, seen[kind])
                        for kind, files in sizes.items())


def describe(header):
    """Yields lines on a store's files: the sizes and rates they had; which were left out, and why."""
    notes = {key.partition("\n")[0]: piece["note"] for key, piece in header.get("pieces", {}).items()}
    read = [note for note in notes.values() if note and "size" in note]
    if read:
        yield "sizes: " + _counted("{1}x{0}".format(*note["size"]) for note in read)
        yield "frames a second: " + _counted(
            "unknown" if note["fps"] is None else f"{note['fps']:g}" for note in read)
    skipped = {name: note["skipped"] for name, note in notes.items() if note and "skipped" in note}
    if skipped:
        yield f"{len(skipped)} of {len(notes)} files cannot be read:"
        yield from (f"  {name}: {why}" for name, why in skipped.items())


def _counted(words):
    """The words with how often there is each, the most frequent first."""
    counts = collections.Counter(words).most_common()
    return ", ".join(f"{word} ({count})" for word, count in counts[:NAMED]) + (
        f" and {len(counts) - NAMED} others" if len(counts) > NAMED else "")
