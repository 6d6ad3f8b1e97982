"""Training clips and evaluation sequences, from any dataset.

A dataset is prepared once, into a store of frames that is mapped into memory (store.py); clips are
then read from it by index, and which clips a step reads is a function of (seed, step) alone.
"""

import collections
import concurrent.futures
import hashlib
import importlib
import itertools
import os
import sys

import numpy as np
import tensorflow as tf
from tqdm import tqdm

import store
from tools import UserError

FRAME = (64, 64)
# dataset: (TFDS name and module, class, config, version)
BUILDERS = {
    "moving_digits": ("moving_digits", "MovingDigits", "full", "1.0.0"),
    "moving_digits_demo": ("moving_digits", "MovingDigits", "demo", "1.0.0"),
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
                            f"video of {config.dataset} has{_skipping(self._skip)}; "
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
        return self._actions.row_shape[0] if self._actions else 0

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
                            f"of {config.dataset}{_skipping(self._skip)}; nearest: {kept.max()}")
        self._threads = concurrent.futures.ThreadPoolExecutor(_num_threads())

    def __len__(self):
        return len(self._long_enough)

    @property
    def action_size(self):
        """Numbers of an action; 0 without actions."""
        return self._actions.row_shape[0] if self._actions else 0

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
    steps, ahead = iter(range(start, stop)), collections.deque()
    thread = concurrent.futures.ThreadPoolExecutor(1)
    try:
        for step in itertools.islice(steps, depth):
            ahead.append((step, thread.submit(load, step)))
        while ahead:
            step, loading = ahead.popleft()
            batch = loading.result()
            for later in itertools.islice(steps, 1):
                ahead.append((later, thread.submit(load, later)))
            yield step, batch
    finally:
        thread.shutdown(wait=True, cancel_futures=True)


def prepare(config):
    """Makes sure that the dataset is on disk and ready to read; quick when it is.

    Returns the path of its store. Raises UserError where data_root cannot be written.
    """
    return _prepare_tfds(config)


# ------------------------------------------------------------------------------------ reading


def _open(config, split):
    """Returns the videos of a split, and their actions or None."""
    path = prepare(config)
    videos = store.Store(path, split)
    channels = videos.row_shape[-1]
    if channels != config.channels:
        raise UserError(f"channels: {config.channels} does not match {config.dataset}; "
                        f"nearest: {channels}")
    if config.actions:
        raise UserError(f"actions: {config.dataset} has none; only minerl does")
    return videos, None


def _gather(threads, videos, actions, places, seq_len, skip):
    """Copies the clips at places (video, first frame) into one batch."""
    span = seq_len * skip
    batch = {"video": np.empty([len(places), seq_len, *videos.row_shape], np.uint8)}
    if actions:
        batch["actions"] = np.empty([len(places), seq_len, *actions.row_shape], np.float32)

    def copy(row):
        video, start = places[row]
        batch["video"][row] = videos[video][start : start + span : skip]
        if actions:
            batch["actions"][row] = actions[video][start : start + span : skip]

    list(threads.map(copy, range(len(places))))  # The list brings exceptions here.
    return batch


def _kept_frames(videos, skip):
    """Frames that frame_skip leaves of each video, int [videos]."""
    return -(-videos.lengths // skip)


def _skipping(skip):
    return f" with frame_skip {skip}" if skip > 1 else ""


def _num_threads():
    return min(8, os.cpu_count())


# ---------------------------------------------------------------------------------- preparing


def _prepare_tfds(config):
    """Prepares a dataset that has a TFDS builder; returns the path of its store."""
    name, _, builder_config, version = BUILDERS[config.dataset]
    folder = os.path.join(config.data_root, name, builder_config)
    records, frames = os.path.join(folder, version), os.path.join(folder, f"{version}.frames")
    if store.is_current(frames, _fingerprint(records)):
        return frames
    try:
        os.makedirs(folder, exist_ok=True)
        with store.lock(os.path.join(config.data_root, f".{name}.lock"), f"preparing {name}"):
            if not store.is_current(frames, _fingerprint(records)):
                _build_from_tfds(config, records, frames)
    except PermissionError as error:
        raise UserError(f"data_root: cannot write {error.filename}, and {config.dataset} "
                        f"is not prepared there") from None
    return frames


def _build_from_tfds(config, records, frames):
    import tensorflow_datasets as tfds  # Slow to import, and only needed once.

    name, builder_class, builder_config, _ = BUILDERS[config.dataset]
    module = importlib.import_module(f"datasets.{name}")
    builder = getattr(module, builder_class)(data_dir=config.data_root, config=builder_config)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    only_video = tfds.decode.PartialDecoding({"video": True})

    def videos(split):
        dataset = builder.as_dataset(split, decoders=only_video, shuffle_files=False)
        for index, example in enumerate(tqdm(
                dataset.as_numpy_iterator(), f"Unpacking {config.dataset}, {split}",
                builder.info.splits[split].num_examples, unit=" videos", file=sys.stderr)):
            yield f"{split}[{index}]", example["video"]

    shape = builder.info.features["video"].shape[1:]
    splits = {split: videos(split) for split in ("train", "test")}
    store.build(frames, _fingerprint(records), splits, shape, np.uint8)


def _fingerprint(records):
    """What ties a store to its TFDS records: their sizes, and the checksums that end each file."""
    if not os.path.isdir(records):
        return None
    digest = hashlib.sha256()
    for name in sorted(os.listdir(records)):
        with open(os.path.join(records, name), "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 4096))
            digest.update(f"{name} {size} ".encode() + file.read())
    return digest.hexdigest()
