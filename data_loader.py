"""Training clips and evaluation sequences, from any dataset.

A dataset is prepared once, into a store of frames that is mapped into memory (store.py); clips are
then read from it by index, and which clips a step reads is a function of (seed, step) alone.

    python3 data_loader.py --config my_videos.yml

says what there is, without training, and draws what the model would see.
"""

import tools
from config import load_config
from flags import EPILOG, Parser, parse_config_flags


def read_config():
    """The config that the command line asks for, and the file to draw into."""
    parser = Parser(description="Describes a config's data, and draws clips as the model sees them.",
                    epilog=EPILOG)
    parser.add_argument("--out", default="data.png", metavar="FILE",
                        help="picture to write: one training clip in each row (default: data.png)")
    path, values, flags = parse_config_flags(parser)
    return load_config(path, values), flags["out"]


if __name__ == "__main__":
    # A wrong flag ends the script here, because importing TensorFlow takes seconds.
    tools.run_script(read_config)

import startup  # noqa: F401

# isort: split
import collections
import concurrent.futures
import functools
import os
import sys

import numpy as np
import tensorflow as tf
from tqdm import tqdm

import pictures
from tools import UserError
from video_data import factors, files, folder, single_file, store, videos
from video_data.preparation import BUILDERS, notice, prepare

NAMED = 3  # How many of the videos that are too short are named.
THREADS = min(8, videos.CORES)


class Clips:
    """Training clips: every video cut into clips of seq_len frames.

    An epoch has as many clips of a video as fit into it one after the other. Where clip_offset is
    random, each of them starts at any frame that leaves room for it, drawn anew in every epoch.
    worker, num_workers: this process's share, for training by several: it reads rows
        worker * B / num_workers onwards of every global batch of B = config.batch_size clips.

    Raises UserError where no video is as long as a clip, or the data does not fit the config.

    Attributes:
      action_size: numbers of an action; 0 without actions.
    """

    def __init__(self, config, worker=0, num_workers=1):
        if config.batch_size % num_workers:
            raise UserError(f"batch_size: {config.batch_size} clips cannot be shared evenly "
                            f"by {num_workers} workers")
        self._config = config
        self._opened, _ = _open(config, "train")
        self.action_size = _action_size(self._opened)
        self._videos = self._opened["video"]
        share = config.batch_size // num_workers
        self._share = slice(worker * share, (worker + 1) * share)
        self._kept = _kept_frames(self._videos, config.frame_skip)
        if self._kept.max() < config.seq_len:
            raise UserError(f"seq_len: {config.seq_len} frames are more than the longest training "
                            f"video of {_source(config)} has{_skipping(config.frame_skip)}; "
                            f"nearest: {self._kept.max()}")
        _say_too_short("seq_len", config.seq_len, "training", self._videos, self._kept)
        self._ends = np.cumsum(self._kept // config.seq_len)  # Clips up to and with each video.
        self._threads = concurrent.futures.ThreadPoolExecutor(THREADS)

    @property
    def num_clips(self):
        return int(self._ends[-1])

    @property
    def steps_per_epoch(self):
        """Steps until every clip was read once; a fraction where batches do not fit an epoch."""
        return self.num_clips / self._config.batch_size

    @functools.cached_property
    def fingerprint(self):
        """A digest of the training data, the same in whichever folder it lies."""
        paths = prepare(self._config)
        return "-".join(store.fingerprint(paths[name], "train") for name in ("video", "actions")
                        if name in paths)

    def mean_frame(self, at_most=10_000):
        """The mean of the training frames, float32 [S, S, C] in [0, 1].

        at_most: how many frames count; where there are more, they are spread evenly over all videos.
        """
        last = np.cumsum(self._videos.lengths)
        rows = np.unique(np.linspace(0, last[-1] - 1, min(at_most, last[-1])).astype(np.int64))
        total = np.zeros(self._videos.shape, np.int64)
        for video, frames in tqdm(enumerate(np.split(rows, np.searchsorted(rows, last[:-1]))),
                                  "Mean of the training frames", len(last), unit=" videos", delay=1,
                                  file=sys.stderr):
            first = last[video] - self._videos.lengths[video]
            total += self._videos[video][frames - first].sum(0, dtype=np.int64)
        return (total / (255 * len(rows))).astype(np.float32)

    def indices(self, step):
        """The clips of a step's global batch, int [B]: a function of (seed, step) alone.

        Steps walk through one shuffled epoch after the other; a batch may hold the end of an epoch
        and the beginning of the next.
        """
        epochs, places = self._position(step)
        clips = np.empty_like(places)
        for epoch in np.unique(epochs):
            rows = epochs == epoch
            with tf.device("cpu"):
                clips[rows] = tf.random.experimental.index_shuffle(
                    places[rows], np.array([self._config.seed, epoch], np.uint32), self.num_clips - 1)
        return clips

    def batch(self, step):
        """Reads this worker's share of a step: what a batch of Sequences holds."""
        return self.read(self._share_of(step))

    def read(self, places):
        """Reads the clips at places, a list of (video, first frame), as batch does."""
        length, skip = self._config.seq_len, self._config.frame_skip
        return _gather(self._threads, self._opened, places, length, skip)

    def describe(self, step):
        """Names the clips of this worker's share of a step, for a message."""
        return ", ".join(self.names(self._share_of(step)))

    def names(self, places):
        """What to call the clips at places."""
        span = (self._config.seq_len - 1) * self._config.frame_skip
        return [f"{self._videos.names[video]} frames {start}-{start + span}" for video, start in places]

    def _position(self, step):
        """Where a step is: for each clip of its global batch the epoch, and the place in it."""
        return np.divmod(step * self._config.batch_size + np.arange(self._config.batch_size),
                         self.num_clips)

    def _share_of(self, step):
        """The places of this worker's share of a step."""
        epochs, _ = self._position(step)
        return self.places(epochs[self._share], self.indices(step)[self._share])

    def places(self, epochs, clips):
        """Where clips are in their epochs: a list of (video, first frame)."""
        config, found = self._config, []
        span = (config.seq_len - 1) * config.frame_skip
        for epoch, clip in zip(epochs, clips, strict=True):
            video = int(np.searchsorted(self._ends, clip, side="right"))
            if config.clip_offset == "random":
                rng = np.random.default_rng([config.seed, epoch, clip])
                first = int(rng.integers(self._videos.lengths[video] - span))
            else:
                before = self._ends[video] - self._kept[video] // config.seq_len
                first = int(clip - before) * config.seq_len * config.frame_skip
            found.append((video, first))
        return found


def evaluation_sequences(config):
    """The Sequences of an evaluation. Raises UserError that says which flags fit shorter videos."""
    def fitting(longest):
        stride = config.strides[-1]
        context = min(config.open_loop_ctx, (longest - 1) // stride * stride)
        return f", that is --seq-len {longest} --open-loop-ctx {context}" if context else (
            f", but no context fits: a tick of the top level takes {stride} frames")

    return Sequences(config, config.eval_seq_len, advice=fitting)


class Sequences:
    """Evaluation sequences: the first seq_len frames of each long enough test video, in a fixed order.

    split: `val` for the validation videos, where the dataset has some.
    min_frames: of a video, before frame_skip, to count; by default what seq_len takes.
    advice: gives the end of the message where no video is long enough, from the frames of the longest.

    Raises UserError where no video is long enough, or the data does not fit the config.

    Attributes:
      split: the one that is read; `test` where `val` was wanted and the dataset has none.
      action_size: numbers of an action; 0 without actions.
    """

    def __init__(self, config, seq_len, split="test", min_frames=None, advice=lambda longest: ""):
        self._opened, self.split = _open(config, split)
        self.action_size = _action_size(self._opened)
        self._seq_len, self._skip = seq_len, config.frame_skip
        opened = self._opened["video"]
        kept = _kept_frames(opened, self._skip)
        self._long_enough = np.flatnonzero(
            kept >= seq_len if min_frames is None else opened.lengths >= min_frames)
        self.lengths = kept[self._long_enough]
        if not len(self._long_enough):
            raise UserError(f"sequences of {seq_len} frames are longer than the longest test video "
                            f"of {_source(config)}{_skipping(self._skip)}; nearest: {kept.max()}"
                            + advice(kept.max()))
        if min_frames is None:
            _say_too_short("a sequence of", seq_len, "test", opened, kept)
        self._threads = concurrent.futures.ThreadPoolExecutor(THREADS)

    def __len__(self):
        return len(self._long_enough)

    @property
    def names(self):
        """The names of the videos that are long enough, in their order."""
        return [self._opened["video"].names[video] for video in self._long_enough]

    def batch(self, start, size):
        """Reads sequences start to start + size, or to the last: `video`, uint8 [b, T, S, S, C].

        With config.actions also `actions`, float32 [b, T, A]: the action that led to each frame, zeros
        for the first one, and where frames are skipped the sum of those since the kept frame before.
        Of a dataset with known factors also these, each [b, T, ...]: one of a whole video is repeated.
        Raises IndexError where there is none.
        """
        places = [(int(video), 0) for video in self._long_enough[start : start + size]]
        if not places:
            raise IndexError(f"sequence {start} of {len(self)}")
        if (shortest := self.lengths[start : start + size].min()) < self._seq_len:
            raise UserError(f"test video {start} has {shortest} frames, not {self._seq_len}")
        return _gather(self._threads, self._opened, places, self._seq_len, self._skip)


def prefetch(load, start, stop, depth=2):
    """Yields (step, load(step)) for the steps from start to stop, loading `depth` steps ahead.

    load runs in a thread of its own; what it raises is raised here, at the step it belongs to.
    Closing the generator ends the thread.
    """
    loading = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        try:
            for step in range(start, stop):
                for later in range(step + len(loading), min(step + depth + 1, stop)):
                    loading.append(thread.submit(load, later))
                yield step, loading.popleft().result()
        finally:
            thread.shutdown(cancel_futures=True)


def _open(config, split):
    """Returns what there is of a split, as a dict of store.Videos by the name it has in a batch.

    Returns the split too: `test` where `val` was wanted and the dataset has none.
    Training prepares all splits, so that the records may be deleted; evaluation its own alone.
    """
    config = config.replace(data_root=os.path.expanduser(config.data_root))
    root = config.data_root
    if os.path.isfile(root) or files.is_video(root) and not os.path.isdir(root):
        return single_file.open_as(config, split), "test"
    paths = prepare(config, split if split == "test" else None)
    there = "test" if split == "val" and split not in store.splits(paths["video"]) else split
    opened = {name: store.read(path, there) for name, path in paths.items()}
    if split == "test" and config.dataset == "videos":
        opened |= factors.of_folder(config, paths["video"], opened["video"])
    if config.actions == "onehot":
        opened["actions"] = folder.open_one_hot(paths, there, config.action_classes)
    found = opened["video"].shape[-1]
    if found != config.channels:
        raise UserError(f"channels: {config.channels} does not match {config.dataset}; nearest: {found}")
    return opened, there


def _action_size(opened):
    return opened["actions"].shape[0] if "actions" in opened else 0


def _gather(threads, opened, places, seq_len, skip):
    """Copies the clips at places (video, first frame) into one batch."""
    batch = {}
    for name, source in opened.items():
        batch[name] = np.empty([len(places), seq_len, *source.shape], source.dtype)

    def copy(row):
        video, start = places[row]
        stop = start + (seq_len - 1) * skip + 1
        for name, rows in batch.items():
            every = opened[name][video]
            if name == "actions":
                rows[row] = _leading_actions(every, start, stop, skip)
            elif len(every) == 1:  # One row holds for all frames of the video.
                rows[row] = every
            else:
                rows[row] = every[start:stop:skip]

    list(threads.map(copy, range(len(places))))  # The list brings exceptions here.
    return batch


def _leading_actions(actions, start, stop, skip):
    """The actions that led to every skip-th frame from start to stop: [T, A], zeros for the first one.

    actions: [frames, A]; row t is the action that was taken on seeing frame t, so it leads to frame
        t + 1. Where frames are skipped, the actions between two kept frames are added up.
    """
    between = actions[start : stop - 1]
    sums = between.reshape(-1, skip, between.shape[1]).sum(1)
    return np.concatenate([np.zeros_like(actions[:1]), sums])


def _kept_frames(opened, skip):
    """Frames that frame_skip leaves of each video, int [videos]."""
    return -(-opened.lengths // skip)


def _say_too_short(key, seq_len, split, opened, kept):
    """Names videos that are left out since they are shorter than seq_len."""
    short = np.flatnonzero(kept < seq_len)
    if len(short):
        first = ", ".join(f"{files.shown(opened.names[video])} ({kept[video]} frames)"
                          for video in short[:NAMED])
        print(f"Left out {len(short)} of {len(kept)} {split} videos, shorter than {key} {seq_len}: "
              f"{first}{', ...' if len(short) > NAMED else ''}. {kept.min()} would keep all.",
              file=sys.stderr)


def _source(config):
    """What a message calls the data."""
    return config.dataset if config.dataset in BUILDERS and os.path.isdir(config.data_root) else (
        config.data_root)


def _skipping(skip):
    return f" with frame_skip {skip}" if skip > 1 else ""


# ------------------------------------------------------------------------------------ what there is


SHEET_CLIPS, SHEET_FRAMES = 12, 16


def main():
    config, out = read_config()
    clips = Clips(config)
    print("\n".join(describe(config, clips)))
    print(f"Rows of {out}:", *map(files.shown, save_sheet(config, clips, out)), sep="\n  ")


def describe(config, clips):
    """Yields lines on the data of a config: what each split holds, and what was left out, and why."""
    config = config.replace(data_root=os.path.expanduser(config.data_root))
    paths = prepare(config)
    header = store.read_header(paths["video"])
    yield f"{config.dataset}: {'x'.join(map(str, header['row_shape']))}, {paths['video']}"
    for split in header["splits"]:
        opened = store.read(paths["video"], split)
        length = config.seq_len if split == "train" else config.eval_seq_len
        kept = _kept_frames(opened, config.frame_skip)
        yield (f"  {split + ':':<7}{len(opened):>7,} videos{kept.sum():>12,} frames, {kept.min():,} to "
               f"{kept.max():,} a video, median {np.median(kept):,.0f}; {np.sum(kept >= length):,} have "
               f"{length}")
    yield (f"  {clips.num_clips:,} training clips of {config.seq_len} frames, "
           f"{clips.steps_per_epoch:.1f} steps an epoch")
    if "actions" in paths:
        yield f"  {clips.action_size} numbers to an action{', one-hot' * (config.actions == 'onehot')}"
    known = [name for name in _open(config, "test")[0] if name not in ("video", "actions")]
    yield f"  factors: {', '.join(known) or 'none'}"
    if config.dataset == "videos":
        lines = [*folder.describe(header), *files.describe(folder.listing_of(config))]
        yield from (f"  {line}" for line in lines)
    size = sum(os.path.getsize(os.path.join(parent, name))
               for path in paths.values() for parent, _, names in os.walk(path) for name in names)
    yield f"  {store.size_text(size)} on disk"
    if notice(config.dataset):
        yield f"  {notice(config.dataset)}"


def save_sheet(config, clips, path):
    """Draws training clips, evenly spaced over the data, a clip a row. Returns the name of each."""
    chosen = np.linspace(0, clips.num_clips - 1, min(SHEET_CLIPS, clips.num_clips)).astype(int)
    shown = np.linspace(0, config.seq_len - 1, min(SHEET_FRAMES, config.seq_len)).astype(int)
    places = clips.places(np.zeros_like(chosen), chosen)
    frames = clips.read(places)["video"][:, shown]
    pictures.save_grid(path, frames.reshape(-1, *frames.shape[2:]), len(shown))
    return clips.names(places)


if __name__ == "__main__":
    tools.run_script(main)
