"""Preparing a dataset: from TFDS records or a folder of videos to a store of frames, once.

Processes that prepare the same data wait for each other, and what a killed one has left behind is
never used.
"""

import contextlib
import functools
import glob
import hashlib
import importlib
import io
import json
import logging
import math
import os
import shutil
import sys
import typing

from tqdm import tqdm

from tools import UserError
from video_data import doom_mazes, folder, store, videos


class Recorded(typing.NamedTuple):
    """A dataset that a TFDS builder writes as records."""

    module: str  # also the name that TFDS gives its folder
    builder: str
    config: str | None = None
    version: str = "1.0.0"
    factors: tuple = ()


class Made(typing.NamedTuple):
    """A dataset that is made on the spot, into stores at once.

    Its module has SIZES[config], for each split how many videos of how many frames; source(config,
    prepared), a text that changes with what is made, from that of the stores; and make(config, wanted),
    which yields (split, index, arrays) of the wanted (split, index, frames), in any order. arrays: by
    name `video`, `actions`, factors.
    """

    module: str
    folder: str
    config: str
    channels: int
    factors: tuple
    actions: bool = False
    notice: str = ""  # what to say wherever frames are shown


ONE_DIGIT = ("label", "position")
MAZES = ("cell", "heading", "region", "wall")
PER_VIDEO = ("label", "digit")  # factors that hold for a whole video

BUILDERS = {
    "moving_digit": Recorded("moving_digit", "MovingDigit", "one", factors=ONE_DIGIT),
    "moving_digit_demo": Recorded("moving_digit", "MovingDigit", "one_demo", factors=ONE_DIGIT),
    "moving_digits_clean": Recorded("moving_digit", "MovingDigit", "two", factors=ONE_DIGIT),
    "moving_digits": Recorded("moving_digits", "MovingDigits", "full"),
    "moving_digits_demo": Recorded("moving_digits", "MovingDigits", "demo"),
    "doom_mazes": Made("doom_engine", "doom_mazes", "full", 3, MAZES, True, doom_mazes.NOTICE),
    "doom_mazes_demo": Made(
        "doom_engine", "doom_mazes", "demo", 3, MAZES, True, doom_mazes.NOTICE),
    # In a folder that no dataset of TFDS has.
    "moving_mnist": Made("moving_mnist", "moving_mnist_of_mnist", "full", 1, ("digit", "position")),
    "minerl": Recorded("minerl_navigate", "MinerlNavigate"),
    "mazes": Recorded("gqn_mazes", "GqnMazes"),
    "mmnist": Recorded("moving_mnist_2digit", "MovingMnist2digit"),
}
THREADS = min(4, videos.CORES)


def prepare(config, split=None):
    """Makes sure that the dataset is on disk, ready to read; quick when it is.

    A dataset that others have prepared here by TFDS is not downloaded again.
    split: the one to unpack of a dataset that has a TFDS builder; by default all.
    Returns the paths of its stores, a dict: `video`, with config.actions `actions`, and the factors
    that the dataset declares. Raises UserError where data_root cannot be written or is too small, and
    where there is nothing to prepare from.
    """
    config = config.replace(data_root=os.path.expanduser(config.data_root))
    if config.dataset == "videos":
        return folder.prepare(config)
    dataset = BUILDERS[config.dataset]
    made = isinstance(dataset, Made)
    if config.actions and not (made and dataset.actions or config.dataset == "minerl"):
        raise UserError(f"actions: {config.dataset} has none; only minerl, doom_mazes and videos of "
                        "your own do")
    if config.actions == "onehot":
        raise UserError(f"actions: those of {config.dataset} are not one whole number each, as onehot "
                        "takes them; nearest: true")
    if config.fps:
        raise UserError(f"fps: {config.dataset} has no time stamps; only videos of your own do")
    return _prepare_made(config, dataset, split) if made else _prepare_tfds(config, dataset, split)


def _prepare_made(config, dataset, split):
    """Makes a dataset that needs no records, straight into stores. Returns as prepare."""
    if config.channels != dataset.channels:
        raise UserError(f"channels: {config.channels} does not match {config.dataset}; "
                        f"nearest: {dataset.channels}")
    module = importlib.import_module(f"video_data.{dataset.module}")
    root = os.path.join(store.home(config), dataset.folder, dataset.config)
    paths = {"video": f"{root}.frames{_size_suffix(config)}"}
    source = module.source(config, store.source(paths["video"]))
    paths |= {name: f"{root}.{name}" for name in (*["actions"] * dataset.actions, *dataset.factors)}

    def missing():
        return any(store.source(path) != source or store.lacks(path, split) for path in paths.values())

    def build():
        _make(config, module, module.SIZES[dataset.config], source, paths, split)

    store.prepare_once(config, root, paths.values(), missing, build)
    return {name: path for name, path in paths.items() if name != "actions" or config.actions}


def _make(config, module, sizes, source, paths, only):
    """Makes what is missing of the stores at paths, all of them together.

    sizes: for every split, videos and frames. only: the split to make; None for all.
    """
    keys = {(split, index): f"{source} {split} {index} {frames}"
            for split, (count, frames) in sizes.items() for index in range(count)}
    with contextlib.ExitStack() as opened:
        writers = {name: opened.enter_context(store.Writer(path, keys.values()))
                   for name, path in paths.items()}

        def lacking(video):
            return [name for name, writer in writers.items() if keys[video] not in writer.pieces]

        wanted = [(split, index, sizes[split][1]) for split, index in filter(lacking, keys)
                  if only in (None, split)]
        frame = config.image_size**2 * config.channels
        store.check_space(store.home(config), frame * sum(frames for *_, frames in wanted),
                          f"Making {config.dataset}")
        videos_made = opened.enter_context(contextlib.closing(module.make(config, wanted)))
        for split, index, arrays in tqdm(videos_made, f"Making {config.dataset}", len(wanted),
                                         unit=" videos", file=sys.stderr):
            for name in lacking((split, index)):
                value = arrays[name][None] if name in PER_VIDEO else arrays[name]
                writers[name].add(keys[split, index], [(f"{split}[{index}]", value)])
        for writer in writers.values():
            whole = [split for split, (count, _) in sizes.items()
                     if all(keys[split, index] in writer.pieces for index in range(count))]
            writer.commit(source, {split: [(keys[split, index], 0) for index in range(sizes[split][0])]
                                   for split in whole},
                          left_out=[split for split in sizes if split not in whole])


def notice(dataset):
    """What to say wherever frames of a dataset are shown; "" for nothing."""
    return getattr(BUILDERS.get(dataset), "notice", "")


def _size_suffix(config):
    """What the name of a store of frames ends with, of another size than is usual."""
    return "" if config.image_size == videos.Form().size else f"_{config.image_size}"


def _prepare_tfds(config, dataset, split):
    """Prepares a dataset that has a TFDS builder: the records, then the stores. Returns as prepare.

    The records are those in data_root, or else go where the stores do.
    """
    within = os.path.join(dataset.module, dataset.config or "", dataset.version)
    home = store.home(config)
    folder = config.data_root if os.path.isdir(os.path.join(config.data_root, within)) else home
    records, prepared = os.path.join(folder, within), os.path.join(home, within)
    size = _size_suffix(config)
    paths = {"video": f"{prepared}.frames{size}"}
    if not size:  # Positions are in pixels of the frames as they were made.
        paths |= {factor: f"{prepared}.{factor}" for factor in dataset.factors}
    if config.actions:
        paths["actions"] = f"{prepared}.actions"

    def missing():
        # The records may be deleted to save space; the stores must then be of the same ones.
        source = _fingerprint(records) or store.source(paths["video"])
        return [name for name, path in paths.items()
                if source is None or store.source(path) != source or store.lacks(path, split)]

    def build():
        builder = _prepare_records(config, folder, records)
        for name in missing():
            if name == "video":
                splits = _frames_of_records(config, builder, split)
            elif name == "actions":
                splits = _actions_of_records(config, builder, records, paths["video"])
            else:
                splits = _factors_of_records(builder, name)
            store.build(paths[name], _fingerprint(records), splits, split)
        _say(f"Prepared {paths['video']}" + (
            f", {split} alone." if store.lacks(paths["video"]) else
            f". Only to save space, {records} may be deleted."))

    store.prepare_once(config, prepared, paths.values(), missing, build)
    return paths


def _prepare_records(config, folder, records):
    """Returns the dataset's builder, its records prepared below a folder."""
    import tensorflow_datasets as tfds  # Slow to import, and needed only here.
    from tensorflow_datasets.core import shuffle

    logging.getLogger("absl").setLevel("ERROR")
    shuffle.MAX_MEM_BUFFER_SIZE = 2**28  # Bytes it holds in memory before it goes by disk; else 2**30.
    module, builder_class, builder_config = BUILDERS[config.dataset][:3]
    for parent, leftovers in ((os.path.dirname(records), "incomplete.*"),
                              (os.path.join(folder, "downloads", module), "*.tmp.*")):
        for leftover in glob.glob(os.path.join(glob.escape(parent), leftovers)):
            shutil.rmtree(leftover)  # Of a process that was killed: we hold the lock.
    builder_class = getattr(importlib.import_module(f"video_data.{module}"), builder_class)
    builder = builder_class(data_dir=folder, config=builder_config)
    builder.data_root = config.data_root  # Where its user may have put an archive.
    if not os.path.isdir(records):
        _say(f"Preparing {config.dataset} in {records}.")
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS says that it knows no sizes.
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(
            try_download_gcs=False, register_checksums=hasattr(builder, "URL")))
    return builder


def _frames_of_records(config, builder, only):
    """Decodes the records: for each split how many, and (name, uint8 [T, S, S, C]) one by one.

    only: the split whose space is checked; None for all.
    """
    size, form = config.image_size, None
    needed = 0
    for split in [only] if only else builder.info.splits:
        _, first = next(_read_records(builder, split, "video"))
        form = videos.Form(size, first.shape[-1])
        needed += len(first) * math.prod(form.shape) * builder.info.splits[split].num_examples
    store.check_space(store.home(config), needed, f"Unpacking {config.dataset}")

    def frames(split, start):
        count = builder.info.splits[split].num_examples
        records = _read_records(builder, split, "video", start)
        for name, video in tqdm(records, f"Unpacking {config.dataset}, {split}", count, initial=start,
                                unit=" videos", file=sys.stderr):
            yield name, videos.resize(video, form)

    return _by_split(builder, frames)


def _by_split(builder, read):
    """What store.build reads: for each split, how many videos, and read(split, start)."""
    return {split: (info.num_examples, functools.partial(read, split))
            for split, info in builder.info.splits.items()}


def _factors_of_records(builder, name):
    """Reads one factor: (name, array [T, ...]) one by one; T is 1 where it is one of PER_VIDEO."""
    def values(split, start):
        for example, value in _read_records(builder, split, name, start):
            yield example, value[None] if name in PER_VIDEO else value

    return _by_split(builder, values)


def _actions_of_records(config, builder, records, frames):
    """Reads actions from the records' metadata: (name, float32 [T, A]) one by one.

    frames: the path of the store of frames, which knows how many each video has.
    """
    from video_data import minerl_navigate

    if "metadata" not in _features(records):
        raise UserError(f"actions: {records} was prepared without metadata; move it away, and it is "
                        "prepared again, with them")
    expected = []

    def actions(split, start):
        lengths = store.read(frames, split).lengths[start:]
        for (name, metadata), length in zip(
                _read_records(builder, split, "metadata", start), lengths, strict=True):
            try:
                names, values = minerl_navigate.read_actions(metadata.decode(), length)
            except UserError as error:
                raise UserError(f"actions: {config.dataset} {name}: {error}") from None
            if not expected:
                expected.extend(names)
                _say(f"The actions of {config.dataset}: {', '.join(names)}.")
            if names != expected:
                raise UserError(f"actions: {config.dataset} {name} has {', '.join(names)}; others "
                                f"have {', '.join(expected)}")
            yield name, values

    return _by_split(builder, actions)


def _features(records):
    """Names of the features on disk, which may be fewer than the builder's."""
    try:
        with open(os.path.join(records, "features.json")) as file:
            return json.load(file)["featuresDict"]["features"]
    except (FileNotFoundError, KeyError):  # Of versions of TFDS before there were any metadata.
        return []


def _read_records(builder, split, feature, start=0):
    """Yields (name, value) of one feature of each record from `start` on, in their order."""
    import tensorflow_datasets as tfds

    # Partial, since records that others have prepared hold nothing but videos.
    only = tfds.decode.PartialDecoding({feature: True})
    # Left to itself, it fills the memory with decoded videos.
    bounded = tfds.ReadConfig(
        interleave_cycle_length=1, num_parallel_calls_for_decode=THREADS, skip_prefetch=True,
        try_autocache=False)
    dataset = builder.as_dataset(
        f"{split}[{start}:]", decoders=only, shuffle_files=False, read_config=bounded)
    for index, example in enumerate(dataset.as_numpy_iterator(), start):
        yield f"{split}[{index}]", example[feature]


def _fingerprint(records):
    """What ties a store to its TFDS records; None where there are no records.

    The files' sizes and ends, where the checksum of the last record is. A copy has the same.
    """
    if not os.path.isdir(records):
        return None
    digest = hashlib.sha256()
    for name in sorted(os.listdir(records)):
        if not name.endswith(".json") and "tfrecord" not in name:
            continue
        with open(os.path.join(records, name), "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 4096))
            digest.update(f"{name} {size} ".encode() + file.read())
    return digest.hexdigest()


def _say(line):
    tqdm.write(line, file=sys.stderr)
