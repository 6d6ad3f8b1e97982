"""Training clips and evaluation sequences, from any dataset.

A dataset is prepared once, into a store of frames that is mapped into memory (store.py); clips are
then read from it by index, and which clips a step reads is a function of (seed, step) alone.
"""

import concurrent.futures
import functools
import os

import numpy as np
import tensorflow as tf

from ahead import load_ahead
from datasets import store, videos
from datasets.preparation import BUILDERS, prepare
from tools import UserError


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
        self._config = config
        self._opened = _open(config, "train")
        self._videos, self._actions = self._opened["video"], self._opened.get("actions")
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
        self._threads = concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count()))

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

    @functools.cached_property
    def fingerprint(self):
        """What tells the training data from any other, whichever folder it is in."""
        paths = prepare(self._config)
        return "-".join(store.fingerprint(paths[name], "train") for name in ("video", "actions")
                        if name in paths)

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

        Also what else a batch of Sequences holds.
        """
        places = [self._place(clip) for clip in self.indices(step)[self._share]]
        return _gather(self._threads, self._opened, places, self._seq_len, self._skip)

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

    Their order is fixed. split: `val` for the validation videos, where the dataset has some.

    Raises UserError where no video is long enough, or the data does not fit the config.
    """

    def __init__(self, config, seq_len, split="test"):
        self._opened = _open(config, split)
        self._videos, self._actions = self._opened["video"], self._opened.get("actions")
        self._seq_len, self._skip = seq_len, config.frame_skip
        kept = _kept_frames(self._videos, self._skip)
        self._long_enough = np.flatnonzero(kept >= seq_len)
        if not len(self._long_enough):
            raise UserError(f"sequences of {seq_len} frames are longer than the longest test video "
                            f"of {_source(config)}{_skipping(self._skip)}; nearest: {kept.max()}")
        self._threads = concurrent.futures.ThreadPoolExecutor(min(8, os.cpu_count()))

    def __len__(self):
        return len(self._long_enough)

    @property
    def action_size(self):
        """Numbers of an action; 0 without actions."""
        return self._actions.rows.shape[1] if self._actions else 0

    def batch(self, start, size):
        """Reads sequences start to start + size, or to the last: `video`, uint8 [b, T, 64, 64, C].

        With config.actions also `actions`, float32 [b, T, A]; of a dataset with known factors `label`,
        int64 [b, D], and `position`, float32 [b, T, D, 2]. Raises IndexError where there is none.
        """
        places = [(int(video), 0) for video in self._long_enough[start : start + size]]
        if not places:
            raise IndexError(f"sequence {start} of {len(self)}")
        return _gather(self._threads, self._opened, places, self._seq_len, self._skip)


def prefetch(load, start, stop, depth=2):
    """Yields (step, load(step)) for the steps from start to stop, loading `depth` steps ahead.

    load runs in a thread of its own; what it raises is raised here, at the step it belongs to.
    Closing the generator ends the thread.
    """
    return load_ahead(load, range(start, stop), depth)


def _open(config, split):
    """Returns what there is of a split, as a dict of store.Videos by the name it has in a batch."""
    config = config.replace(data_root=os.path.expanduser(config.data_root))
    root = config.data_root
    if os.path.isfile(root) or videos.is_video(root) and not os.path.isdir(root):
        return {"video": _open_file(config, split)}
    paths = prepare(config)
    if split == "val" and split not in store.splits(paths["video"]):
        split = "test"
    opened = {name: store.read(path, split) for name, path in paths.items()}
    channels = opened["video"].rows.shape[-1]
    if channels != config.channels:
        raise UserError(f"channels: {config.channels} does not match {config.dataset}; "
                        f"nearest: {channels}")
    return opened


def _open_file(config, split):
    """Reads a single file as the test split, in whatever number of channels the config has."""
    path = config.data_root
    if not (videos.is_video(path) and os.path.isfile(path)):
        known = ", ".join(videos.ENCODED + videos.ARRAYS)
        raise UserError(f"data_root: {path} is neither a folder nor a video file ({known})")
    if split == "train":
        raise UserError(f"data_root: {path} is a single file; training needs a folder")
    if config.actions:
        raise UserError(f"data_root: {path} has no actions, which the model needs")
    try:
        names, arrays = zip(*videos.read(path, config.channels), strict=True)
    except videos.Broken as error:
        raise UserError(f"data_root: {path}: {error}") from None
    return store.Videos(np.concatenate(arrays), [len(array) for array in arrays], names)


def _gather(threads, opened, places, seq_len, skip):
    """Copies the clips at places (video, first frame) into one batch."""
    span = seq_len * skip
    batch = {}
    for name, videos_of in opened.items():
        shape = videos_of.rows.shape[1:] if name == "label" else [seq_len, *videos_of.rows.shape[1:]]
        batch[name] = np.empty([len(places), *shape], videos_of.rows.dtype)

    def copy(row):
        video, start = places[row]
        for name, rows in batch.items():
            every = opened[name][video]
            rows[row] = every[0] if name == "label" else every[start : start + span : skip]

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
