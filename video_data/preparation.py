"""Prepares a dataset once: turns TFDS records, or a folder of videos, into a store of frames.

Processes that prepare the same data wait for each other. What a killed process has left incomplete is
completed or removed.
"""

import contextlib
import functools
import glob
import hashlib
import importlib
import io
import itertools
import json
import logging
import os
import shutil
import sys
import typing

from tqdm import tqdm

from checks import nearest
from tools import UserError
from video_data import doom_mazes, folder, store, videos
from video_data.convert import resize
from video_data.factors import PER_VIDEO


class Recorded(typing.NamedTuple):
    """A dataset that a TFDS builder writes as records."""

    module: str  # also the name that TFDS gives its folder
    builder: str
    config: str | None = None
    version: str = "1.0.0"
    factors: tuple = ()


class Made(typing.NamedTuple):
    """A dataset that its module makes straight into stores.

    The module has
    SIZES[config]: for each split (how many videos, how many frames each);
    source(config, prepared): a text that changes with what is made; prepared: that of the stores;
    make(config, wanted): yields (split, index, arrays) of the wanted (split, index, frames), in any
        order. arrays: a dict of `video`, of any size, `actions` and the factors.
    """

    module: str
    folder: str
    config: str
    channels: int
    factors: tuple
    actions: bool = False
    notice: str = ""  # shown wherever frames are shown


ONE_DIGIT = ("label", "position")
TWO_DIGITS = ("digits", "position")
MAZES = ("cell", "heading", "region", "wall")
IN_PIXELS = ("position",)  # factors that are in pixels of frames of the usual size

BUILDERS = {
    "moving_digit": Recorded("moving_digit", "MovingDigit", "one", factors=ONE_DIGIT),
    "moving_digit_demo": Recorded("moving_digit", "MovingDigit", "one_demo", factors=ONE_DIGIT),
    "moving_digits_clean": Recorded("moving_digit", "MovingDigit", "two", factors=ONE_DIGIT),
    "moving_digits": Recorded("moving_digits", "MovingDigits", "full"),
    "moving_digits_demo": Recorded("moving_digits", "MovingDigits", "demo"),
    "doom_mazes": Made("doom_engine", "doom_mazes", "full", 3, MAZES, True, doom_mazes.NOTICE),
    "doom_mazes_demo": Made(
        "doom_engine", "doom_mazes", "demo", 3, MAZES, True, doom_mazes.NOTICE),
    # TFDS has a dataset moving_mnist, so the folder has another name.
    "moving_mnist": Made("moving_mnist", "moving_mnist_of_mnist", "full", 1, TWO_DIGITS),
    "moving_mnist_large": Made("moving_mnist", "moving_mnist_of_mnist", "large", 1, TWO_DIGITS),
    "minerl": Recorded("minerl_navigate", "MinerlNavigate"),
    "mazes": Recorded("gqn_mazes", "GqnMazes"),
    "mmnist": Recorded("moving_mnist_2digit", "MovingMnist2digit"),
}
THREADS = min(4, videos.CORES)


def prepare(config, split=None):
    """Makes sure that the dataset is on disk, ready to read. It is quick if nothing is missing.

    A dataset that somebody has prepared in data_root by TFDS is not downloaded again.
    split: the only one to prepare, except with `videos`; by default all.
    Returns the paths of its stores, a dict: `video`, with config.actions `actions`, and the factors
    that the dataset declares. Raises UserError where data_root cannot be written to or is too small,
    and where the data cannot be had.
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
        raise UserError(f"actions: those of {config.dataset} are not one whole number each, which "
                        "onehot needs; nearest: true")
    if config.fps:
        raise UserError(f"fps: {config.dataset} has no time stamps; only videos of your own do")
    return _prepare_made(config, dataset, split) if made else _prepare_tfds(config, dataset, split)


def _prepare_made(config, dataset, split):
    """Prepares a Made dataset. Returns as prepare."""
    if config.channels != dataset.channels:
        raise UserError(f"channels: {config.channels} does not match {config.dataset}; "
                        f"nearest: {dataset.channels}")
    module = importlib.import_module(f"video_data.{dataset.module}")
    root = os.path.join(store.home(config), dataset.folder, dataset.config)
    paths = _paths(config, dataset, root, dataset.actions)
    source = module.source(config, store.source(paths["video"]))
    sizes = module.SIZES[dataset.config]
    keys = {of: [f"{source} {of} {index} {frames}" for index in range(count)]
            for of, (count, frames) in sizes.items()}
    asked = keys if split is None else {split: keys[split]}

    def missing():
        return not all(store.holds(path, asked) for path in paths.values())

    def build():
        _fill(config, paths, source, keys, sizes, split,
              functools.partial(module.make, config), "Making")

    store.prepare_once(config, root, paths.values(), missing, build)
    return {name: path for name, path in paths.items() if name != "actions" or config.actions}


def _fill(config, paths, source, keys, sizes, only, make, doing):
    """Makes the videos that any store at paths lacks, and adds them to each that lacks them.

    keys: for every split a key for each video. sizes: for every split (videos, frames of each).
    only: the split to make; None for all. make: as that of Made, without the config; it may yield more
    than is wanted. doing: what it does, for messages.
    """
    form = videos.Form(config.image_size)
    with contextlib.ExitStack() as opened:
        writers = {name: opened.enter_context(store.Writer(path, itertools.chain(*keys.values())))
                   for name, path in paths.items()}

        def lacking(split, index):
            return [name for name, writer in writers.items() if keys[split][index] not in writer.pieces]

        wanted = [(split, index, frames) for split, (count, frames) in sizes.items()
                  if only in (None, split) for index in range(count) if lacking(split, index)]
        if "video" in paths:
            frame = config.image_size**2 * config.channels
            store.check_space(store.home(config), frame * sum(frames for *_, frames in wanted),
                              f"{doing} {config.dataset}")
        made = opened.enter_context(contextlib.closing(make(wanted)))
        for split, index, arrays in tqdm(made, f"{doing} {config.dataset}", len(wanted),
                                         unit=" videos", file=sys.stderr):
            for name in lacking(split, index):
                value = arrays[name][None] if name in PER_VIDEO else arrays[name]
                if name == "video":
                    value = resize(value, form._replace(channels=value.shape[-1]))
                writers[name].add(keys[split][index], [(f"{split}[{index}]", value)])
        for writer in writers.values():
            whole = [split for split in keys if all(key in writer.pieces for key in keys[split])]
            writer.commit(source, {split: [(key, 0) for key in keys[split]] for split in whole},
                          left_out=[split for split in keys if split not in whole])


def notice(dataset):
    """The notice to show beside frames of a dataset; "" for none."""
    return getattr(BUILDERS.get(dataset), "notice", "")


def _paths(config, dataset, root, actions):
    """The paths of a dataset's stores, which begin with root. actions: whether it has some."""
    usual = config.image_size == videos.Form().size
    names = [name for name in dataset.factors if usual or name not in IN_PIXELS]
    return {"video": f"{root}.frames" + ("" if usual else f"_{config.image_size}")} | {
        name: f"{root}.{name}" for name in (*names, *["actions"] * bool(actions))}


def _prepare_tfds(config, dataset, split):
    """Prepares a Recorded dataset: the records, then the stores. Returns as prepare.

    Records that data_root lacks are written beside the stores.
    """
    within = os.path.join(dataset.module, dataset.config or "", dataset.version)
    home = store.home(config)
    folder = config.data_root if os.path.isdir(os.path.join(config.data_root, within)) else home
    records, prepared = os.path.join(folder, within), os.path.join(home, within)
    paths = _paths(config, dataset, prepared, config.actions)

    def missing():
        # The user may delete the records to save space; the stores must then agree on their source.
        source = _fingerprint(records) or store.source(paths["video"])
        return [name for name, path in paths.items()
                if source is None or store.source(path) != source or store.lacks(path, split)]

    def build():
        builder = _prepare_records(config, folder, records)
        _fill_from_records(config, builder, records, missing(), paths, split)
        _say(f"Prepared {paths['video']}" + (
            f", {split} alone." if store.lacks(paths["video"]) else
            f". You may delete {records} to save space."))

    store.prepare_once(config, prepared, paths.values(), missing, build)
    return paths


def _prepare_records(config, folder, records):
    """Returns the dataset's builder, its records prepared below a folder."""
    import tensorflow_datasets as tfds  # It is slow to import, and most starts do without it.
    from tensorflow_datasets.core import shuffle

    logging.getLogger("absl").setLevel("ERROR")
    shuffle.MAX_MEM_BUFFER_SIZE = 2**28  # Bytes that it sorts in memory; by default 2**30.
    module, builder_class, builder_config = BUILDERS[config.dataset][:3]
    for parent, leftovers in ((os.path.dirname(records), "incomplete.*"),
                              (os.path.join(folder, "downloads", module), "*.tmp.*")):
        for leftover in glob.glob(os.path.join(glob.escape(parent), leftovers)):
            shutil.rmtree(leftover)  # A killed process left it: we hold the lock.
    builder_class = getattr(importlib.import_module(f"video_data.{module}"), builder_class)
    builder = builder_class(data_dir=folder, config=builder_config)
    builder.data_root = config.data_root  # The user may have put an archive there.
    if not os.path.isdir(records):
        _say(f"Preparing {config.dataset} in {records}.")
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS would print that sizes are unknown.
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(
            try_download_gcs=False, register_checksums=hasattr(builder, "URL")))
    return builder


def _fill_from_records(config, builder, records, names, paths, only):
    """Fills the stores of these names from records. only: the split to fill; None for all."""
    for name in names:
        if name == "actions" and "metadata" not in _features(records):
            raise UserError(f"actions: {records} was prepared without metadata; move it away, and the "
                            "next start prepares it again, with metadata")
        if name != "actions" and name not in builder.info.features:
            raise UserError(
                f"dataset: {config.dataset} declares the factor {name}, but its records have no such "
                f"feature; nearest: {nearest(name, builder.info.features)}")
    source, sizes = _fingerprint(records), {}
    for split, info in builder.info.splits.items():
        read = "video" in names and only in (None, split)
        frames = len(next(_examples(builder, split, ["video"]))["video"]) if read else 0
        sizes[split] = info.num_examples, frames
    keys = {split: [f"{source} {split} {index}" for index in range(count)]
            for split, (count, _) in sizes.items()}

    make = functools.partial(_read_records, config, builder, names, paths["video"])
    _fill(config, {name: paths[name] for name in names}, source, keys, sizes, only, make, "Unpacking")


def _read_records(config, builder, names, frames, wanted):
    """Yields (split, index, arrays) of the wanted records, and of those between and behind them.

    names: of the arrays. frames: the store that has the frames if they are not among these.
    """
    kinds = []
    features = ["metadata" if name == "actions" else name for name in names]
    for split, of_split in itertools.groupby(wanted, lambda one: one[0]):
        start = next(of_split)[1]
        lengths = None if "video" in names else store.read(frames, split).lengths
        for index, arrays in enumerate(_examples(builder, split, features, start), start):
            length = len(arrays["video"]) if lengths is None else lengths[index]
            example = f"{config.dataset} {split}[{index}]"
            if "actions" in names:
                arrays["actions"] = _actions_of(arrays["metadata"].decode(), length, example, kinds)
            for name in names:
                if name not in PER_VIDEO and arrays[name].shape[:1] != (length,):
                    raise UserError(
                        f"dataset: {example}: {name} has the shape {list(arrays[name].shape)} for "
                        f"{length} frames; it must have a row for each")
            yield split, index, arrays


def _actions_of(metadata, length, example, kinds):
    """The actions in a record's metadata, float32 [length, A].

    kinds: the names of the numbers, which all records share; empty before the first record.
    """
    from video_data import minerl_navigate

    try:
        names, values = minerl_navigate.read_actions(metadata, length)
    except UserError as error:
        raise UserError(f"actions: {example}: {error}") from None
    if not kinds:
        kinds.extend(names)
        _say(f"The actions of {example.split()[0]}: {', '.join(names)}.")
    if names != kinds:
        raise UserError(f"actions: {example} has {', '.join(names)}; others have {', '.join(kinds)}")
    return values


def _features(records):
    """The names of the features in the records, which may lack some of the builder's."""
    try:
        with open(os.path.join(records, "features.json")) as file:
            return json.load(file)["featuresDict"]["features"]
    except (FileNotFoundError, KeyError):  # Old versions of TFDS wrote no such file, or another.
        return []


def _examples(builder, split, features, start=0):
    """Yields a dict of some features of each record of a split, from `start` on, in order."""
    import tensorflow_datasets as tfds

    # Records that others have prepared hold nothing but videos.
    only = tfds.decode.PartialDecoding(dict.fromkeys(features, True))
    # By default TFDS fills the memory with decoded videos.
    bounded = tfds.ReadConfig(
        interleave_cycle_length=1, num_parallel_calls_for_decode=THREADS, skip_prefetch=True,
        try_autocache=False)
    dataset = builder.as_dataset(
        f"{split}[{start}:]", decoders=only, shuffle_files=False, read_config=bounded)
    return dataset.as_numpy_iterator()


def _fingerprint(records):
    """A digest of TFDS records, which ties a store to them; None where there are no records.

    It takes the size and the end of each file, which holds the checksum of the last record. A copy of
    the records has the same digest.
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
