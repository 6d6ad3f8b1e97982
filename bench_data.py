"""How fast the loader is: clips from a warm and a cold page cache, and from TFDS records.

    python3 bench_data.py [--videos 40] [--batch-size 50] [--seconds 10]

The data are videos in the shape of MineRL's: 500 frames, 64x64x3. Each measurement is a process of
its own, so that its memory can be told.
"""

import quiet  # noqa: F401

# isort: split
import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
import tensorflow as tf

import data_loader
from datasets import store
from tools import Config

LENGTH = 500


def bench_data(num_videos=40, batch_size=50, seconds=10):
    """Prints a table of all measurements; returns it as a list of dicts."""
    with tempfile.TemporaryDirectory(prefix="bench_data_") as root:
        config = Config(dataset="minerl", data_root=root, channels=3, batch_size=batch_size)
        print(f"Preparing {num_videos} videos of {LENGTH} frames in {root}.", file=sys.stderr)
        write_records(root, num_videos)
        data_loader.prepare(config)
        results = []
        print(f"Batches of {batch_size} clips of {config.seq_len} frames, {os.cpu_count()} cores")
        print(f"{'':<28}{'frames/s':>10}{'batches/s':>11}{'memory':>11}{'mapped':>11}{'from disk':>11}")
        for name in MEASUREMENTS:
            child = [sys.executable, os.path.abspath(__file__), "--measure", name, "--root", root,
                     "--batch-size", str(batch_size), "--seconds", str(seconds)]
            result = json.loads(subprocess.run(child, stdout=subprocess.PIPE, check=True).stdout)
            results.append({"name": name, **result})
            sizes = [f"{store.size_text(result[key]):>11}" for key in ("memory", "mapped", "disk")]
            print(f"{name:<28}{result['frames_per_s']:>10,.0f}"
                  f"{result['frames_per_s'] / batch_size / config.seq_len:>11.1f}{''.join(sizes)}")
        return results


def write_records(root, num_videos):
    """Prepares TFDS records as users of earlier implementations have them: a PNG for every frame."""
    import tensorflow_datasets as tfds

    class Landscapes(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name, VERSION = "minerl_navigate", tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(
                {"video": tfds.features.Video(shape=(None, 64, 64, 3))}))

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(num_videos), "test": self._generate_examples(1)}

        def _generate_examples(self, count):
            for number in range(count):
                yield number, {"video": landscape(number)}

    with contextlib.redirect_stdout(sys.stderr):
        Landscapes(data_dir=root).download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False))


def landscape(seed):
    """A walk past smooth hills with some noise, so that PNGs are as large as those of a game."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (1, 12, (LENGTH + 64) // 5, 3)).astype(np.float32)
    wide = tf.image.resize(coarse, (64, LENGTH + 64), "bicubic").numpy()[0]
    frames = np.stack([wide[:, start : start + 64] for start in range(LENGTH)])
    frames += rng.normal(0, 4, frames.shape).astype(np.float32)
    return np.clip(frames, 0, 255).astype(np.uint8)


def warm(config, seconds):
    """Frames and seconds of clips, read from files that are in the page cache."""
    clips = data_loader.Clips(config)
    for step in range(round(clips.steps_per_epoch)):
        clips.batch(step)
    return timed(data_loader.prefetch(clips.batch, 0, 10**9), config, seconds)


def cold(config, seconds):
    """As warm, of files that come from the disk: the page cache is emptied before each epoch."""
    rows = os.path.join(data_loader.prepare(config)["video"], "rows")
    frames = spent = 0
    while spent < seconds:
        with open(rows, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        clips = data_loader.Clips(config)  # Maps the file after it is gone from the cache.
        steps = round(clips.steps_per_epoch)
        epoch = timed(data_loader.prefetch(clips.batch, 0, steps), config, np.inf)
        frames, spent = frames + epoch[0], spent + epoch[1]
        del clips
    return frames, spent


def records(config, seconds):
    """Frames and seconds of decoding the PNGs of TFDS records, cut into clips and batched by tf.data."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(os.path.join(config.data_root, "minerl_navigate", "1.0.0"))
    dataset = builder.as_dataset("train", shuffle_files=True).repeat()
    dataset = dataset.map(lambda example: example["video"], tf.data.AUTOTUNE)
    dataset = dataset.flat_map(lambda video: tf.data.Dataset.from_tensor_slices(
        tf.reshape(video, [-1, config.seq_len, 64, 64, 3])))
    dataset = dataset.batch(config.batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    return timed(((None, {"video": batch}) for batch in dataset.as_numpy_iterator()), config, seconds)


MEASUREMENTS = {"clips, warm page cache": warm, "clips, cold page cache": cold,
                "TFDS records": records}


def timed(batches, config, seconds):
    """Reads batches for some seconds, or to their end; returns (frames, seconds)."""
    start, frames = time.perf_counter(), 0
    for _, batch in batches:
        frames += len(batch["video"]) * config.seq_len
        if time.perf_counter() - start >= seconds:
            break
    return frames, time.perf_counter() - start


def memory():
    """Bytes of this process: VmHWM, at most so far, and RssFile, of mapped files now."""
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return {name: int(fields[name].split()[0]) * 1024 for name in ("VmHWM", "RssFile")}


def measure(name, config, seconds):
    """Runs one measurement; returns frames/s, and bytes: of memory and of it mapped, and from disk."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_inblock
    frames, spent = MEASUREMENTS[name](config, seconds)
    used = memory()
    return {"frames_per_s": frames / spent, "memory": used["VmHWM"], "mapped": used["RssFile"],
            "disk": 512 * (resource.getrusage(resource.RUSAGE_SELF).ru_inblock - before)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=int, default=40, help="videos in the data (default: 40)")
    parser.add_argument("--batch-size", type=int, default=50, help="clips of a batch (default: 50)")
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement (default: 10)")
    parser.add_argument("--measure", choices=MEASUREMENTS, help=argparse.SUPPRESS)
    parser.add_argument("--root", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.measure:
        config = Config(
            dataset="minerl", data_root=flags.root, channels=3, batch_size=flags.batch_size)
        print(json.dumps(measure(flags.measure, config, flags.seconds)))
    else:
        bench_data(flags.videos, flags.batch_size, flags.seconds)


if __name__ == "__main__":
    main()
