"""Preparing a dataset: from TFDS records or a folder of videos to a store of frames, once.

Processes that prepare the same data wait for each other, and what a killed one has left behind is
never used.
"""

import contextlib
import errno
import glob
import hashlib
import importlib
import io
import json
import logging
import os
import shutil
import sys

import tensorflow as tf
from tqdm import tqdm

from ahead import load_ahead
from datasets import store, videos
from tools import UserError

SPLITS = ("train", "test")
# dataset: (TFDS name and module, builder, its config, version, the factors that it records)
BUILDERS = {
    "moving_digit": ("moving_digit", "MovingDigit", "one", "1.0.0", ("label", "position")),
    "moving_digit_demo": ("moving_digit", "MovingDigit", "one_demo", "1.0.0", ("label", "position")),
    "moving_digits_clean": ("moving_digit", "MovingDigit", "two", "1.0.0", ("label", "position")),
    "moving_digits": ("moving_digits", "MovingDigits", "full", "1.0.0", ()),
    "moving_digits_demo": ("moving_digits", "MovingDigits", "demo", "1.0.0", ()),
    "camera_moves": ("camera_moves", "CameraMoves", None, "1.0.0", ()),
    "minerl": ("minerl_navigate", "MinerlNavigate", None, "1.0.0", ()),
    "mazes": ("gqn_mazes", "GqnMazes", None, "1.0.0", ()),
    "mmnist": ("moving_mnist_2digit", "MovingMnist2digit", None, "1.0.0", ()),
}
THREADS = min(4, os.cpu_count())


def prepare(config):
    """Makes sure that the dataset is on disk, ready to read; quick when it is.

    A dataset that others have prepared here by TFDS is not downloaded again.
    Returns the paths of its stores, a dict: `video`, with config.actions `actions`, and of a dataset
    that records factors `label` and `position`. Raises UserError where data_root cannot be written or
    is too small, and where there is nothing to prepare from.
    """
    config = config.replace(data_root=os.path.expanduser(config.data_root))
    if config.actions and config.dataset != "minerl":
        raise UserError(f"actions: {config.dataset} has none; only minerl does")
    if config.dataset == "videos":
        return {"video": _prepare_videos(config)}
    return _prepare_tfds(config)


def _prepare_tfds(config):
    """Prepares a dataset that has a TFDS builder: the records, then the stores. Returns as prepare."""
    name, _, builder_config, version, factors = BUILDERS[config.dataset]
    records = os.path.join(config.data_root, name, builder_config or "", version)
    paths = {"video": f"{records}.frames", **{factor: f"{records}.{factor}" for factor in factors}}
    if config.actions:
        paths["actions"] = f"{records}.actions"
    build = {"video": _frames_of_records, "actions": _actions_of_records}

    def missing():
        # The records may be deleted to save space; the stores must then be of the same ones.
        source = _fingerprint(records) or store.source(paths["video"])
        return [name for name, path in paths.items() if source is None or store.source(path) != source]

    if missing():
        with _writing(config, records), store.lock(f"{records}.lock", f"preparing {config.dataset}"):
            if missing():
                builder = _prepare_records(config, records)
                for name in missing():
                    splits = (build[name](config, builder, records) if name in build else
                              _factors_of_records(builder, name))
                    store.build(paths[name], _fingerprint(records), splits)
                _say(f"Prepared {paths['video']}. Only to save space, {records} may be deleted.")
    return paths


def _prepare_records(config, records):
    """Returns the dataset's builder, its records prepared."""
    import tensorflow_datasets as tfds  # Slow to import, and needed only here.
    from tensorflow_datasets.core import shuffle

    logging.getLogger("absl").setLevel("ERROR")
    shuffle.MAX_MEM_BUFFER_SIZE = 2**28  # Bytes it holds in memory before it goes by disk; else 2**30.
    module, builder_class, builder_config, *_ = BUILDERS[config.dataset]
    for leftovers in (os.path.join(os.path.dirname(records), "incomplete.*"),
                      os.path.join(config.data_root, "downloads", module, "*.tmp.*")):
        for leftover in glob.glob(leftovers):
            shutil.rmtree(leftover)  # Of a process that was killed: we hold the lock.
    builder_class = getattr(importlib.import_module(f"datasets.{module}"), builder_class)
    builder = builder_class(data_dir=config.data_root, config=builder_config)
    if not os.path.isdir(records):
        _say(f"Preparing {config.dataset} in {records}.")
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS says that it knows no sizes.
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(
            try_download_gcs=False, register_checksums=hasattr(builder, "URL")))
    return builder


def _frames_of_records(config, builder, records):
    """Decodes the records: for each split (name, uint8 [T, 64, 64, C]) one by one."""
    size = 0
    for split in builder.info.splits:
        _, first = next(_read_records(builder, split, "video"))
        size += first.nbytes * builder.info.splits[split].num_examples
    store.check_space(config.data_root, size, f"Unpacking {config.dataset}")
    return {split: _with_progress(_read_records(builder, split, "video"), config, split,
                                  builder.info.splits[split].num_examples)
            for split in builder.info.splits}


def _factors_of_records(builder, name):
    """Reads one factor: for each split (name, array [T, ...]) one by one; T is 1 of a whole video's."""
    def values(split):
        for example, value in _read_records(builder, split, name):
            yield example, value if name == "position" else value[None]

    return {split: values(split) for split in builder.info.splits}


def _actions_of_records(config, builder, records):
    """Reads actions from the records' metadata: for each split (name, float32 [T, A]) one by one."""
    from datasets import minerl_navigate

    if "metadata" not in _features(records):
        raise UserError(f"actions: {records} was prepared without metadata; move it away, and it is "
                        "prepared again, with them")
    expected = []

    def actions(split):
        lengths = store.read(f"{records}.frames", split).lengths
        for (name, metadata), length in zip(
                _read_records(builder, split, "metadata"), lengths, strict=True):
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

    return {split: actions(split) for split in SPLITS}


def _features(records):
    """Names of the features on disk, which may be fewer than the builder's."""
    try:
        with open(os.path.join(records, "features.json")) as file:
            return json.load(file)["featuresDict"]["features"]
    except (FileNotFoundError, KeyError):  # Of versions of TFDS before there were any metadata.
        return []


def _read_records(builder, split, feature):
    """Yields (name, value) of one feature of each record, in the order of the records."""
    import tensorflow_datasets as tfds

    # Partial, since records that others have prepared hold nothing but videos.
    only = tfds.decode.PartialDecoding({feature: True})
    # Left to itself, it fills the memory with decoded videos.
    bounded = tfds.ReadConfig(
        interleave_cycle_length=1, num_parallel_calls_for_decode=THREADS, skip_prefetch=True,
        try_autocache=False)
    dataset = builder.as_dataset(split, decoders=only, shuffle_files=False, read_config=bounded)
    for index, example in enumerate(dataset.as_numpy_iterator()):
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


def _prepare_videos(config):
    """Prepares a folder of videos; returns the path of its store."""
    files = videos.list_splits(config.data_root)
    path = os.path.join(config.data_root, f"frames_{videos.SIZE}x{videos.SIZE}x{config.channels}")
    digest = hashlib.sha256()
    for file in files["train"] + files["test"]:
        status = os.stat(file)
        name = os.path.relpath(file, config.data_root)
        digest.update(f"{name} {status.st_size} {status.st_mtime_ns}\n".encode())
    source = digest.hexdigest()
    if store.source(path) != source:
        with _writing(config, path), store.lock(f"{path}.lock", f"preparing {config.data_root}"):
            if store.source(path) != source:
                frames = videos.estimate_frames(files["train"] + files["test"])
                store.check_space(config.data_root, frames * videos.SIZE**2 * config.channels,
                                  f"Preparing {config.data_root}")
                store.build(path, source, {
                    split: _read_videos(config, split, files[split]) for split in SPLITS})
                _say(f"Prepared {path}.")
    return path


def _read_videos(config, split, files):
    """Yields (name, uint8 [T, 64, 64, C]) of each video; reports files that do not decode."""
    def read(file):
        try:
            return videos.read(file, config.channels, scratch=config.data_root)
        except videos.Broken as error:
            return error

    skipped = 0
    read_files = load_ahead(read, files, depth=THREADS, threads=THREADS)
    for file, found in _with_progress(read_files, config, split, len(files)):
        if isinstance(found, videos.Broken):
            _say(f"Skipped {file}: {found}.")
            skipped += 1
        else:
            yield from found
    if skipped == len(files):
        raise UserError(f"data_root: none of the {skipped} files to {split} on decodes")
    if skipped:
        _say(f"{skipped} of {len(files)} files to {split} on do not decode and were skipped.")


def _with_progress(items, config, split, total):
    yield from tqdm(
        items, f"Unpacking {config.dataset}, {split}", total, unit=" videos", file=sys.stderr)


def _say(line):
    tqdm.write(line, file=sys.stderr)


@contextlib.contextmanager
def _writing(config, path):
    """Makes the folder of a path; in the context, what hinders writing is a UserError."""
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        yield
    except Exception as error:
        reason = error.__cause__ or error  # TFDS wraps what goes wrong as it writes.
        number = getattr(reason, "errno", None)
        if number == errno.ENOSPC or isinstance(reason, tf.errors.ResourceExhaustedError):
            raise UserError(f"data_root: the disk of {config.data_root} is full; free some space and "
                            "start again") from None
        if number in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            raise UserError(f"data_root: {config.dataset} is not prepared in {config.data_root}, and "
                            f"cannot be: {reason.strerror}: {reason.filename}") from None
        raise
