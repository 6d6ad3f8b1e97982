"""Times the input pipeline, and the preparation of video files: python3 bench.py data

Clips start at random frames. They come from a warm and from a cold page cache, in frames of two sizes,
copied by two threads and by four, and beside them from TFDS records. Each measurement is a process of
its own, which runs this file, because only a process can tell its memory.
"""

import startup  # noqa: F401

# isort: split
import contextlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time

import av
import numpy as np
import tensorflow as tf

import data_loader
import stopwatch
import tools
from config import Config
from video_data import store, videos

LENGTH = 500  # frames of a video in the shape of MineRL's


def bench_data(flags):
    """Measures how fast the loader is, and how fast video files are prepared. Prints a line for each."""
    if not hasattr(os, "posix_fadvise"):
        raise tools.UserError("run bench.py data on Linux: only there can it empty the page cache")
    num_videos, batch_size, seconds = flags.videos, flags.batch_size, flags.seconds
    with tempfile.TemporaryDirectory(prefix="bench_data_") as root:
        print(f"Preparing {num_videos} videos of {LENGTH} frames in {root}.", file=sys.stderr)
        write_records(root, num_videos)
        for size in SIZES:
            config = loader_config(root, batch_size, size)
            data_loader.prepare(config)
        results = []
        print(f"Batches of {batch_size} clips of {config.seq_len} frames, {os.cpu_count()} cores")
        print(f"{'':<32}{'frames/s':>10}{'MB/s':>8}{'ms/batch':>10}{'CPU ms/batch':>14}"
              f"{'memory':>11}{'mapped':>11}{'from disk':>11}")
        for name in MEASUREMENTS:
            child = [sys.executable, __file__, name, root, str(batch_size), str(seconds)]
            result = json.loads(subprocess.run(child, stdout=subprocess.PIPE, check=True).stdout)
            results.append({"name": name, **result})
            sizes = [f"{store.size_text(result[key]):>11}" for key in ("memory", "mapped", "disk")]
            print(f"{name:<32}{result['frames_per_s']:>10,.0f}{result['mb_per_s']:>8,.0f}"
                  f"{result['ms_per_batch']:>10,.1f}{result['cpu_ms_per_batch']:>14,.1f}{''.join(sizes)}")
        return {"measurements": results, "preparation": preparation(
            root, min(num_videos, 20 * videos.CORES), rounds=min(seconds, 7))}


def loader_config(root, batch_size, size):
    return Config(dataset="minerl", data_root=root, channels=3, batch_size=batch_size, image_size=size,
                  clip_offset="random")


def preparation(root, count, rounds):
    """How fast a folder of video files is prepared, beside PyAV alone in as many processes."""
    length = 300
    config = Config(dataset="videos", data_root=os.path.join(root, "videos"), channels=3)
    os.mkdir(config.data_root)
    files = [os.path.join(config.data_root, f"{number}.mp4") for number in range(count)]
    for number, file in enumerate(files):
        write_video(file, number + 1, length)

    def prepare():
        shutil.rmtree(os.path.join(config.data_root, "frames_64x64x3"), ignore_errors=True)
        with contextlib.redirect_stderr(io.StringIO()):
            data_loader.prepare(config)
        return length

    def alone():
        processes = [subprocess.Popen([sys.executable, "-c", ALONE, *files[first :: videos.CORES]])
                     for first in range(videos.CORES)]
        if sum(process.wait() for process in processes):
            raise RuntimeError("PyAV cannot decode the videos of this benchmark")
        return length

    seconds, _ = stopwatch.measure({"preparing": prepare, "plain preparing": alone}, rounds)
    return stopwatch.table(seconds, length * len(files))


# Decodes the files that it is given, crops and scales each frame, and keeps nothing.
ALONE = """
import sys
import av

for path in sys.argv[1:]:
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        graph = av.filter.Graph()
        graph.threads = 1
        side = min(stream.width, stream.height)
        graph.link_nodes(
            graph.add_buffer(template=stream), graph.add("crop", f"{side}:{side}"),
            graph.add("scale", "64:64:flags=area+accurate_rnd+full_chroma_int+full_chroma_inp"),
            graph.add("format", "rgb24"), graph.add("buffersink")).configure()
        for frame in container.decode(stream):
            graph.push(frame)
            graph.pull().to_ndarray()
"""


def write_video(path, speed, length):
    """Writes ffmpeg's test picture, which turns, as H.264 of 640x360: `length` frames, 25 a second."""
    graph = av.filter.Graph()
    graph.link_nodes(
        graph.add("testsrc2", f"size=640x360:rate=25:duration={length / 25}"),
        graph.add("rotate", f"t*{speed}/9"), graph.add("format", "yuv420p"),
        graph.add("buffersink")).configure()
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", 25, width=640, height=360, pix_fmt="yuv420p")
        for _ in range(length):
            container.mux(stream.encode(graph.pull()))
        container.mux(stream.encode(None))


def write_records(root, num_videos):
    """Prepares TFDS records in the form of earlier implementations: a PNG for every frame."""
    import tensorflow_datasets as tfds

    def dataset(count):
        def examples():
            for number in range(count):
                yield {"video": landscape(number)}

        signature = {"video": tf.TensorSpec([LENGTH, 64, 64, 3], tf.uint8)}
        return tf.data.Dataset.from_generator(examples, output_signature=signature)

    with contextlib.redirect_stdout(sys.stderr):
        tfds.dataset_builders.store_as_tfds_dataset(
            "minerl_navigate", "1.0.0", data_dir=root,
            features=tfds.features.FeaturesDict(
                {"video": tfds.features.Video(shape=(None, 64, 64, 3))}),
            split_datasets={"train": dataset(num_videos), "test": dataset(1)})


def landscape(seed):
    """A walk past smooth hills with some noise, so that PNGs are as large as those of a game."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (1, 12, (LENGTH + 64) // 5, 3)).astype(np.float32)
    wide = tf.image.resize(coarse, (64, LENGTH + 64), "bicubic").numpy()[0]
    frames = np.stack([wide[:, start : start + 64] for start in range(LENGTH)])
    frames += rng.normal(0, 4, frames.shape).astype(np.float32)
    return np.clip(frames, 0, 255).astype(np.uint8)


def warm(config, seconds):
    """Clips that are read from files in the page cache."""
    clips = data_loader.Clips(config)
    for step in range(round(clips.steps_per_epoch)):
        clips.batch(step)
    return timed(data_loader.prefetch(clips.batch, 0, 10**9), config, seconds)


def cold(config, seconds):
    """Like warm, but from the disk: each epoch begins with an empty page cache."""
    rows = os.path.join(data_loader.prepare(config)["video"], "rows")
    total = np.zeros(3)
    while total[1] < seconds:
        with open(rows, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        clips = data_loader.Clips(config)  # It maps the file, which has left the cache.
        steps = round(clips.steps_per_epoch)
        total += timed(data_loader.prefetch(clips.batch, 0, steps), config, np.inf)
        del clips
    return total


def records(config, seconds):
    """Clips that tf.data decodes from the PNGs of TFDS records, cuts and batches."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(os.path.join(config.data_root, "minerl_navigate", "1.0.0"))
    uncached = tfds.ReadConfig(try_autocache=False)  # TFDS would keep a small dataset's decoded videos.
    dataset = builder.as_dataset("train", shuffle_files=True, read_config=uncached).repeat()
    dataset = dataset.map(lambda example: example["video"], tf.data.AUTOTUNE)
    dataset = dataset.flat_map(lambda video: tf.data.Dataset.from_tensor_slices(
        tf.reshape(video, [-1, config.seq_len, 64, 64, 3])))
    dataset = dataset.batch(config.batch_size, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
    return timed(((None, {"video": batch}) for batch in dataset.as_numpy_iterator()), config, seconds)


SIZES = (64, 128)
# For each measurement a function, the size of the frames, and how many threads copy clips. The function
# reads batches as its docstring says, and returns what `timed` does.
MEASUREMENTS = {
    **{f"warm, {size} x {size}, {threads} threads": (warm, size, threads)
       for size in SIZES for threads in (2, 4)},
    **{f"cold, {size} x {size}": (cold, size, data_loader.THREADS) for size in SIZES},
    "TFDS records, 64 x 64": (records, 64, data_loader.THREADS)}


def timed(batches, config, seconds):
    """Reads batches for some seconds, or to their end. Returns frames, seconds and CPU seconds."""
    start, used, frames = time.perf_counter(), time.process_time(), 0
    for _, batch in batches:
        frames += len(batch["video"]) * config.seq_len
        if time.perf_counter() - start >= seconds:
            break
    return frames, time.perf_counter() - start, time.process_time() - used


def measure_loader(name, root, batch_size, seconds):
    """Runs one measurement. Returns speeds, and bytes: memory used, of it mapped, from disk."""
    function, size, data_loader.THREADS = MEASUREMENTS[name]
    config = loader_config(root, int(batch_size), size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_inblock
    frames, spent, used = function(config, int(seconds))
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    most, mapped = (int(fields[field].split()[0]) * 1024 for field in ("VmHWM", "RssFile"))
    batches = frames / config.batch_size / config.seq_len
    return {"frames_per_s": frames / spent, "mb_per_s": frames * size**2 * 3 / spent / 1e6,
            "ms_per_batch": 1000 * spent / batches, "cpu_ms_per_batch": 1000 * used / batches,
            "memory": most, "mapped": mapped,
            "disk": 512 * (resource.getrusage(resource.RUSAGE_SELF).ru_inblock - before)}


if __name__ == "__main__":
    print(json.dumps(measure_loader(*sys.argv[1:])))
