"""Training clips and evaluation sequences, from any dataset.

A dataset is prepared once, into a store of frames that is mapped into memory (store.py); clips are
then read from it by index, and which clips a step reads is a function of (seed, step) alone.
"""

import concurrent.futures
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

import numpy as np
import tensorflow as tf
from tqdm import tqdm

import store
import videos
from ahead import load_ahead
from tools import UserError

SPLITS = ("train", "test")
# dataset: (TFDS name and module, builder, its config, version)
BUILDERS = {
    "moving_digits": ("moving_digits", "MovingDigits", "full", "1.0.0"),
    "moving_digits_demo": ("moving_digits", "MovingDigits", "demo", "1.0.0"),
    "minerl": ("minerl_navigate", "MinerlNavigate", None, "1.0.0"),
    "mazes": ("gqn_mazes", "GqnMazes", None, "1.0.0"),
    "mmnist": ("moving_mnist_2digit", "MovingMnist2digit", None, "1.0.0"),
}


class Clips:
    """Training clips: every video cut into clips of seq_len frames that do not overlap.

    worker, num_workers: this process's share, for training by several: it reads rows
        worker * B / num_workers onwards of every global batch of B = config.batch_size clips.

    Raises UserError where no video is as long as a clip, or the data does not fit the config.
    """

    def __init__(self, config, worker=0, num_workers=1):
        if config.batch_size % num_workers:
            raise UserError(f"batch_size: {config.batch_size} clips cannot be shared evenly "
                            f"by {num_workers} workers")
        self._videos, self._actions = _open(config, "train")
        self._batch_size, self._seed = config.batch_size, config.seed
        self._seq_len, self._skip = config.seq_len, config.frame_skip
        share = config.batch_size // num_workers
        self._share = slice(worker * share, (worker + 1) * share)
        kept = _kept_frames(self._videos, self._skip)
        if kept.max() < self._seq_len:
            raise UserError(f"seq_len: {self._seq_len} frames are more than the longest training "
                            f"video of {_source(config)} has{_skipping(self._skip)}; "
                            f"nearest: {kept.max()}")
        self._ends = np.cumsum(kept // self._seq_len)  # Clips up to and with each video.
        self._threads = concurrent.futures.ThreadPoolExecutor(_num_threads())

    @property
    def num_clips(self):
        return int(self._ends[-1])

    @property
    def steps_per_epoch(self):
        """Steps until every clip was read once; a fraction where batches do not fit an epoch."""
        return self.num_clips / self._batch_size

    @property
    def action_size(self):
        """Numbers of an action; 0 without actions."""
        return self._actions.rows.shape[1] if self._actions else 0

    def indices(self, step):
        """The clips of a step's global batch, int [B]: a function of (seed, step) alone.

        Steps walk through one shuffled epoch after the other; a batch may hold the end of an epoch
        and the beginning of the next.
        """
        position = step * self._batch_size + np.arange(self._batch_size)
        epochs, places = np.divmod(position, self.num_clips)
        clips = np.empty_like(places)
        for epoch in np.unique(epochs):
            rows = epochs == epoch
            with tf.device("cpu"):
                clips[rows] = tf.random.experimental.index_shuffle(
                    places[rows], np.array([self._seed, epoch], np.uint32), self.num_clips - 1)
        return clips

    def batch(self, step):
        """Reads this worker's share of a step: `video`, uint8 [b, T, 64, 64, C].

        With config.actions also `actions`, float32 [b, T, A].
        """
        places = [self._place(clip) for clip in self.indices(step)[self._share]]
        return _gather(
            self._threads, self._videos, self._actions, places, self._seq_len, self._skip)

    def describe(self, step):
        """Names the clips of this worker's share of a step, for a message."""
        lines = []
        for video, start in map(self._place, self.indices(step)[self._share]):
            last = start + (self._seq_len - 1) * self._skip
            lines.append(f"{self._videos.names[video]} frames {start}-{last}")
        return ", ".join(lines)

    def _place(self, clip):
        """Returns the video of a clip, and the clip's first frame."""
        video = int(np.searchsorted(self._ends, clip, side="right"))
        before = int(self._ends[video - 1]) if video else 0
        return video, (int(clip) - before) * self._seq_len * self._skip


class Sequences:
    """Evaluation sequences: the first seq_len frames of each test video that is long enough.

    Their order is fixed.
    Raises UserError where no video is long enough, or the data does not fit the config.
    """

    def __init__(self, config, seq_len):
        self._videos, self._actions = _open(config, "test")
        self._seq_len, self._skip = seq_len, config.frame_skip
        kept = _kept_frames(self._videos, self._skip)
        self._long_enough = np.flatnonzero(kept >= seq_len)
        if not len(self._long_enough):
            raise UserError(f"sequences of {seq_len} frames are longer than the longest test video "
                            f"of {_source(config)}{_skipping(self._skip)}; nearest: {kept.max()}")
        self._threads = concurrent.futures.ThreadPoolExecutor(_num_threads())

    def __len__(self):
        return len(self._long_enough)

    @property
    def action_size(self):
        """Numbers of an action; 0 without actions."""
        return self._actions.rows.shape[1] if self._actions else 0

    def batch(self, start, size):
        """Reads sequences start to start + size, or to the last: `video`, uint8 [b, T, 64, 64, C].

        With config.actions also `actions`, float32 [b, T, A]. Raises IndexError where there is none.
        """
        places = [(int(video), 0) for video in self._long_enough[start : start + size]]
        if not places:
            raise IndexError(f"sequence {start} of {len(self)}")
        return _gather(
            self._threads, self._videos, self._actions, places, self._seq_len, self._skip)


def prefetch(load, start, stop, depth=2):
    """Yields (step, load(step)) for the steps from start to stop, loading `depth` steps ahead.

    load runs in a thread of its own; what it raises is raised here, at the step it belongs to.
    Closing the generator ends the thread.
    """
    return load_ahead(load, range(start, stop), depth)


def prepare(config):
    """Makes sure that the dataset is on disk, ready to read; quick when it is.

    A dataset that others have prepared here by TFDS is not downloaded again.
    Returns the paths of its stores: frames, and actions or None. Raises UserError where data_root
    cannot be written or is too small, and where there is nothing to prepare from.
    """
    config = config.replace(data_root=os.path.expanduser(config.data_root))
    if config.actions and config.dataset != "minerl":
        raise UserError(f"actions: {config.dataset} has none; only minerl does")
    if config.dataset == "videos":
        return _prepare_videos(config), None
    return _prepare_tfds(config)


# ------------------------------------------------------------------------------------ reading


def _open(config, split):
    """Returns the videos of a split, and their actions or None, each as store.Videos."""
    config = config.replace(data_root=os.path.expanduser(config.data_root))
    if os.path.isfile(config.data_root) or videos.is_video(config.data_root):
        return _open_file(config, split), None
    frames, actions = prepare(config)
    opened = store.read(frames, split)
    channels = opened.rows.shape[-1]
    if channels != config.channels:
        raise UserError(f"channels: {config.channels} does not match {config.dataset}; "
                        f"nearest: {channels}")
    return opened, actions and store.read(actions, split)


def _open_file(config, split):
    """Reads a single file as the test split, in whatever number of channels the config has."""
    path = config.data_root
    if not videos.is_video(path) or not os.path.isfile(path):
        known = ", ".join(videos.ENCODED + videos.ARRAYS)
        raise UserError(f"data_root: {path} is neither a folder nor a video file ({known})")
    if split != "test":
        raise UserError(f"data_root: {path} is a single file; training needs a folder")
    if config.actions:
        raise UserError(f"data_root: {path} has no actions, which the model needs")
    try:
        names, arrays = zip(*videos.read(path, config.channels), strict=True)
    except videos.Broken as error:
        raise UserError(f"data_root: {path}: {error}") from None
    return store.Videos(np.concatenate(arrays), [len(array) for array in arrays], names)


def _gather(threads, frames, actions, places, seq_len, skip):
    """Copies the clips at places (video, first frame) into one batch."""
    span = seq_len * skip
    batch = {"video": np.empty([len(places), seq_len, *frames.rows.shape[1:]], np.uint8)}
    if actions:
        batch["actions"] = np.empty([len(places), seq_len, *actions.rows.shape[1:]], np.float32)

    def copy(row):
        video, start = places[row]
        batch["video"][row] = frames[video][start : start + span : skip]
        if actions:
            batch["actions"][row] = actions[video][start : start + span : skip]

    list(threads.map(copy, range(len(places))))  # The list brings exceptions here.
    return batch


def _kept_frames(opened, skip):
    """Frames that frame_skip leaves of each video, int [videos]."""
    return -(-opened.lengths // skip)


def _source(config):
    """What a message calls the data."""
    named = config.dataset in BUILDERS and os.path.isdir(config.data_root)
    return config.dataset if named else config.data_root


def _skipping(skip):
    return f" with frame_skip {skip}" if skip > 1 else ""


def _num_threads():
    return min(8, os.cpu_count())


# ---------------------------------------------------------------------------------- preparing


def _prepare_tfds(config):
    """Prepares a dataset that has a TFDS builder: the records, then the stores. Returns as prepare."""
    name, _, builder_config, version = BUILDERS[config.dataset]
    records = os.path.join(config.data_root, name, builder_config or "", version)
    frames, actions = f"{records}.frames", f"{records}.actions"
    build = {frames: _frames_of_records}
    if config.actions:
        build[actions] = _actions_of_records

    def missing():
        # The records may be deleted to save space; the stores must then be of the same ones.
        source = _fingerprint(records) or store.source(frames)
        return [path for path in build if source is None or store.source(path) != source]

    if missing():
        with _writing(config, records), store.lock(f"{records}.lock", f"preparing {config.dataset}"):
            if missing():
                builder = _prepare_records(config, records)
                for path in missing():
                    store.build(path, _fingerprint(records), build[path](config, builder, records))
                    _say(f"Prepared {path}.")
    return frames, actions if config.actions else None


def _prepare_records(config, records):
    """Returns the dataset's builder, its records prepared."""
    import tensorflow_datasets as tfds  # Slow to import, and needed only here.
    from tensorflow_datasets.core import shuffle

    logging.getLogger("absl").setLevel("ERROR")
    shuffle.MAX_MEM_BUFFER_SIZE = 2**28  # Bytes it holds in memory before it goes by disk; else 2**30.
    for leftover in glob.glob(os.path.join(os.path.dirname(records), "incomplete.*")):
        shutil.rmtree(leftover)  # Of a process that was killed: we hold the lock.
    module, builder_class, builder_config, _ = BUILDERS[config.dataset]
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
    for split in SPLITS:
        _, first = next(_read_records(builder, split, "video"))
        size += first.nbytes * builder.info.splits[split].num_examples
    store.check_space(config.data_root, size, f"Unpacking {config.dataset} (about)")
    return {split: _with_progress(_read_records(builder, split, "video"), config, split,
                                  builder.info.splits[split].num_examples) for split in SPLITS}


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
        interleave_cycle_length=1, num_parallel_calls_for_decode=_num_threads(), skip_prefetch=True,
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
                                  f"Preparing {config.data_root} (about)")
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
    read_files = load_ahead(read, files, depth=_num_threads(), threads=_num_threads())
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
