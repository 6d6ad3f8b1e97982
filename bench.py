"""Times the parts of training and evaluation: python3 bench.py train --config configs/mmnist.yml

    bench.py train   encoder, recurrence, decoder and the whole step, forward and with the gradient
    bench.py eval    open-loop prediction with 1, 10 and 100 samples, and the metrics
    bench.py data    the input pipeline alone

With --plain, the plain forms (`fast: false`, float32, not compiled) run in turn with it, and the ratio
of the two is taken pair by pair, so that it holds where a machine's speed drifts. train and eval take
every key of the config as a flag, such as --cell-type.
"""

import argparse

import tools
from flags import Parser, add_config_flags, config_values, whole_number


def parse_flags():
    parser = Parser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    for name, text in [("train", "the parts of a training step, and the whole"),
                       ("eval", "open-loop prediction and metrics"), ("data", "the input pipeline")]:
        command = commands.add_parser(name, help=text)
        command.add_argument("--json", metavar="FILE", help="write the results there too")
        if name == "data":
            command.add_argument("--videos", type=whole_number("videos", 2), default=40,
                                 help="of 500 frames (default: 40)")
            command.add_argument("--seconds", type=whole_number("seconds", 1), default=10,
                                 help="a measurement (default: 10)")
            command.add_argument("--batch-size", type=whole_number("batch_size", 1), default=50,
                                 help="clips (default: 50)")
            command.add_argument("--measure", help=argparse.SUPPRESS)
            command.add_argument("--root", help=argparse.SUPPRESS)
            continue
        command.add_argument("--config", required=True, metavar="FILE", help="a config")
        command.add_argument("--runs", type=whole_number("runs", 1), default=7,
                             help="timed runs of each (default: 7)")
        if name == "eval":
            command.add_argument("--samples", type=whole_number("samples", 1), nargs="+",
                                 default=[1, 10, 100], metavar="N",
                                 help="predictions of the video (default: 1 10 100)")
        command.add_argument("--plain", action="store_true", help="time the plain form too")
        if name == "train":
            command.add_argument("--only", choices=["step"], help="time the whole step alone")
            command.add_argument("--export-hlo", metavar="DIR", help="write the compiled step there")
        add_config_flags(command)
    return parser.parse_args()


if __name__ == "__main__":
    # Importing TensorFlow takes seconds: a wrong flag is told before.
    tools.run_script(parse_flags)

import startup

# isort: split
import collections
import contextlib
import io
import json
import math
import os
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import imageio_ffmpeg
import numpy as np
import tensorflow as tf
import tqdm

import data_loader
import distribution
import tables
from config import Config, load_config
from cwvae import CWVAE, adam, state_vector
from pixels import psnr, ssim, to_float
from predictor import Predictor
from video_data import store, videos


def main():
    flags = parse_flags()
    # To TensorFlow the functions that one piece of code makes are one function, traced again and again.
    tf.get_logger().setLevel("ERROR")
    benchmarks = {"train": bench_train, "eval": bench_eval, "data": bench_data}
    results = benchmarks[flags.command](flags)
    if flags.json:
        try:
            with tools.write_atomically(flags.json) as file:
                json.dump({"machine": machine(), "command": sys.argv[1:], **results}, file, indent=1)
        except OSError as error:
            raise tools.cannot_write("json", flags.json, error) from None


def machine():
    """What this ran on."""
    gpus = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
            for gpu in tf.config.list_physical_devices("GPU")]
    processor = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
        processor = names[0] if names else processor
    return f"{processor}, {os.cpu_count()} cores, TensorFlow {tf.__version__}" + "".join(
        f", {gpu}" for gpu in gpus)


def configure(flags):
    return load_config(flags.config, config_values(vars(flags)))


def compiled(function, config):
    return tf.function(function, jit_compile=startup.use_xla(config), autograph=False)


def measure(functions, runs):
    """Calls functions by name, alternating. Returns seconds by name, [runs], and of first calls."""
    seconds, first = {name: [] for name in functions}, {}
    for name, function in functions.items():
        first[name] = call(function)
        call(function)
    for _ in tqdm.trange(runs, unit="round", leave=False):
        for name, function in functions.items():
            seconds[name].append(call(function))
    return seconds, first


def call(function):
    """The seconds that a function takes until its results are there."""
    start = time.perf_counter()
    for tensor in map(tf.convert_to_tensor, tf.nest.flatten(function())):
        tensor.numpy()
    return time.perf_counter() - start


# ----------------------------------------------------------------------------------------- train


def bench_train(flags):
    config = configure(flags)
    functions = training_parts(config)
    if flags.plain:
        functions |= {f"plain {name}": function
                      for name, function in training_parts(plain_form(config)).items()}
    if flags.only:
        functions = {name: function for name, function in functions.items() if "step" in name}
    if flags.export_hlo:
        export(config, flags.export_hlo)
        if flags.plain:
            export(config.replace(fast=False), flags.export_hlo)
    seconds, first = measure(functions, flags.runs)
    frames = config.batch_size * config.seq_len
    peak = matmul_peak(config)
    parameters = CWVAE(config.replace(fast=False)).count_params()
    flops = 3 * forward_flops(config) * frames  # backward: each product once for either factor
    step = statistics.median(seconds["step"])
    rows = table(seconds, frames)
    print(f"First step, tracing and compilation included: {first['step']:.1f} s")
    print(f"Peak memory of this process: {memory() / 2**30:.2f} GiB")
    print(f"Model: {parameters:,} parameters, {flops / 1e9:.1f} GFLOP a step, "
          f"{flops / step / 1e9:.0f} GFLOP/s, {flops / step / peak:.0%} of the {peak / 1e9:.0f} GFLOP/s "
          f"of a large {config.precision} matrix product")
    if not flags.only:
        share = statistics.median(seconds["recurrence, gradient"]) / step
        print(f"The recurrence is {share:.1%} of the step.")
    return {"parts": rows, "parameters": parameters, "first_step_s": first["step"],
            "peak_memory_bytes": memory(),
            "flops_per_step": flops, "matmul_flops_per_s": peak}


def plain_form(config):
    return config.replace(fast=False, precision="float32", jit=False, remat=False)


def training_parts(config):
    """Functions of no arguments, by the name of the part they run."""
    model = CWVAE(config)
    optimizer = adam(config)
    optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(0)
    batch, frames = config.batch_size, config.seq_len
    video = tf.constant(rng.integers(
        0, 256, [batch, frames, config.image_size, config.image_size, config.channels], dtype=np.uint8))
    noise = model.noise([0, 0], batch, frames)
    embeddings = [tf.constant(rng.normal(size=[batch, ticks, model.encoder.embed_size]), tf.float32)
                  for ticks in model.ticks(frames)]
    states = tf.constant(rng.normal(size=[batch, frames, model.state_size]), tf.float32)

    def encode():
        return tf.add_n([tf.reduce_sum(e) for e in model.encoder(to_float(video))])

    def unroll(states=None):
        levels = model.unroll(frames, model.initial_states(batch), noise, embeddings)
        return tf.add_n([tf.reduce_sum(state_vector(level)) + tf.reduce_sum(
            level.posterior.kl(level.prior)) for level in levels])

    def decode():
        return tf.reduce_sum(model.decoder.pixels(states).log_prob(to_float(video)))

    parts = {}
    for name, function in [("encoder", encode), ("recurrence", unroll), ("decoder", decode)]:
        parts[name] = compiled(function, config)
        parts[f"{name}, gradient"] = compiled(
            with_gradient(function, model.trainable_variables), config)
    step = tf.Variable(0)  # Of a constant one the noise would be a constant of the program, drawn once.
    parts["step"] = compiled(lambda: distribution.update(model, optimizer, video, step), config)
    return parts


def with_gradient(function, sources):
    """A function that returns function() and the sum of its gradient by each source that it uses.

    The value is returned too, or what only it needs would not run.
    """
    def run():
        with tf.GradientTape() as tape:
            tape.watch([source for source in sources if isinstance(source, tf.Tensor)])
            value = function()
        gradients = tape.gradient(value, sources)
        return [value, *(tf.reduce_sum(gradient) for gradient in gradients if gradient is not None)]

    return run


def table(seconds, frames):
    """Prints a line a part. Returns the same as a list of dicts."""
    rows, lines = [], [["", "median ms", "min", "max", "a second", "frames/s", "over plain"]]
    for name, values in seconds.items():
        row = {"name": name, "seconds": values, "median_s": statistics.median(values),
               "frames_per_s": frames / statistics.median(values)}
        ratio = ""
        if f"plain {name}" in seconds:
            pairs = zip(seconds[f"plain {name}"], values, strict=True)
            row["speedup_over_plain"] = statistics.median(plain / fast for plain, fast in pairs)
            ratio = f"{row['speedup_over_plain']:.2f}x"
        times = [row["median_s"], min(values), max(values)]
        lines.append([name, *(f"{1e3 * time:.1f}" for time in times), f"{1 / row['median_s']:.2f}",
                      f"{row['frames_per_s']:.0f}", ratio])
        rows.append(row)
    print(f"{machine()}\n{tables.markdown(lines)}")
    return rows


def forward_flops(config):
    """Floating-point operations of the forward pass a frame: two for each product's term."""
    model = CWVAE(config.replace(fast=False))
    products, size = 0, config.image_size
    for layer in model.encoder.convs:
        size = (size - 4) // 2 + 1
        products += size**2 * math.prod(layer.kernel.shape)
    products += sum(math.prod(layer.kernel.shape) for stack in model.encoder.denses for layer in stack)
    products += math.prod(model.decoder.dense.kernel.shape)
    size = 1
    for layer in model.decoder.convs:
        products += size**2 * math.prod(layer.kernel.shape)
        size = 2 * (size - 1) + layer.kernel.shape[0]
    for cell, stride in zip(model.cells, config.strides, strict=True):
        kernels = (v for v in cell.trainable_variables if v.name.endswith("kernel"))
        products += sum(math.prod(kernel.shape) for kernel in kernels) / stride
    return 2 * products


def matmul_peak(config):
    """Operations a second of a large matrix product in the config's precision."""
    size = 8192 if tf.config.list_physical_devices("GPU") else 2048
    dtype = tf.bfloat16 if config.precision == "bfloat16" else tf.float32
    a = tf.cast(tf.random.normal([size, size]), dtype)
    product = tf.function(lambda: tf.reduce_sum(tf.matmul(a, a)))
    seconds, _ = measure({"product": product}, 5)
    return 2 * size**3 / min(seconds["product"])


def memory():
    """The most memory used so far, in bytes: the GPU's where there is one."""
    if tf.config.list_physical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def export(config, directory):
    """Writes the compiled training step: serialized HLO, and optimized HLO as text."""
    os.makedirs(directory, exist_ok=True)
    name = "step" if config.fast else "plain_step"
    step = training_parts(config.replace(jit=True))["step"]
    ir = step.experimental_get_compiler_ir()
    with open(os.path.join(directory, f"{name}.hlo"), "wb") as out:
        out.write(ir(stage="hlo_serialized"))
    optimized = ir(stage="optimized_hlo")
    with open(os.path.join(directory, f"{name}.optimized.txt"), "w") as out:
        out.write(optimized)
    print(f"Wrote {name}.hlo and {name}.optimized.txt to {directory}. A tick of its loops runs:")
    for ticks, counts in loops(optimized):
        print(f"  {ticks:>4} ticks: {sum(counts.values())} kernels ("
              + ", ".join(f"{count} {kind}" for kind, count in counts.most_common()) + ")")


def loops(hlo):
    """The loops of an optimized HLO module: (ticks, operations of the body that are kernels)."""
    bodies, name = {}, None
    for line in hlo.splitlines():
        if not line.startswith(" "):
            name = line.split()[0].lstrip("%") if line.endswith("{") else None
            bodies[name] = []
        elif name:
            bodies[name].append(line)
    free = {"parameter", "get-tuple-element", "tuple", "constant", "bitcast"}
    for lines in list(bodies.values()):
        for line in lines:
            found = re.search(r"\bwhile\(.*body=%?([\w.\-]+)", line)
            if found:
                ticks = re.search(r'known_trip_count[^0-9]*(\d+)', line)
                operations = [re.search(r" ([a-z][a-z\-]*)\(", body) for body in bodies[found[1]]]
                yield ticks[1] if ticks else "?", collections.Counter(
                    found[1] for found in operations if found and found[1] not in free)


# ------------------------------------------------------------------------------------------ eval


def bench_eval(flags):
    config = configure(flags)
    frames = config.eval_seq_len - config.open_loop_ctx
    video = np.random.default_rng(0).integers(
        0, 256, [1, config.eval_seq_len, config.image_size, config.image_size, config.channels],
        dtype=np.uint8)
    print(f"One video of {config.eval_seq_len} frames, {config.open_loop_ctx} observed: "
          f"encoding, prediction, decoding, PSNR and SSIM")
    model, plain_model = CWVAE(config), CWVAE(plain_form(config)) if flags.plain else None
    rows = []
    for samples in flags.samples:
        predictor = Predictor(config, model, samples, seed=0)
        functions = {f"{samples} sample(s)": lambda p=predictor: p.predict({"video": video}, 0)[1]}
        if flags.plain:
            functions[f"plain {samples} sample(s)"] = plain_evaluation(plain_model, video, samples)
        seconds, first = measure(functions, flags.runs)
        rows += table(seconds, frames * samples)
        print(f"First call, compilation included: {first[f'{samples} sample(s)']:.1f} s")
    truth, decoded = (tf.random.uniform([1, 1, 1000, *video.shape[2:]]) for _ in range(2))
    compiled = {f"{metric.__name__.upper()} of 1000 frames": tf.function(metric, jit_compile=True)
                for metric in (psnr, ssim)}
    seconds, _ = measure({name: lambda function=function: function(truth, decoded)
                          for name, function in compiled.items()}, flags.runs)
    rows += table(seconds, 1000)
    return {"parts": rows, "peak_memory_bytes": memory()}


def plain_evaluation(model, video, samples):
    """The same as one would first write it: every sample observes the context anew, and scikit-image
    scores one frame at a time."""
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity  # of requirements-dev.txt

    context = model.config.open_loop_ctx
    predict = tf.function(
        lambda seed: model.open_loop(tf.constant(video), context, seed)[0, context:], autograph=False)

    def evaluate():
        truth, scores = video[0, context:] / 255, []
        for sample in range(samples):
            predicted = np.clip(predict(tf.constant([0, sample])), 0, 1).astype(np.float64)
            scores += [(peak_signal_noise_ratio(*pair, data_range=1),
                        structural_similarity(*pair, data_range=1, channel_axis=-1))
                       for pair in zip(truth, predicted, strict=True)]
        return np.array(scores)

    return evaluate


# ------------------------------------------------------------------------------------------ data


LENGTH = 500  # frames of a video in the shape of MineRL's


def bench_data(flags):
    """How fast the loader is: clips from a warm and a cold page cache, and from TFDS records.

    Each measurement is a process of its own, so that its memory can be told.
    """
    if not hasattr(os, "posix_fadvise"):
        raise tools.UserError("bench.py data empties the page cache, by a call that Linux alone has")
    num_videos, batch_size, seconds = flags.videos, flags.batch_size, flags.seconds
    if flags.measure:
        config = Config(dataset="minerl", data_root=flags.root, channels=3, batch_size=batch_size)
        print(json.dumps(measure_loader(flags.measure, config, seconds)))
        return {}
    with tempfile.TemporaryDirectory(prefix="bench_data_") as root:
        config = Config(dataset="minerl", data_root=root, channels=3, batch_size=batch_size)
        print(f"Preparing {num_videos} videos of {LENGTH} frames in {root}.", file=sys.stderr)
        write_records(root, num_videos)
        data_loader.prepare(config)
        results = []
        print(f"Batches of {batch_size} clips of {config.seq_len} frames, {os.cpu_count()} cores")
        print(f"{'':<28}{'frames/s':>10}{'batches/s':>11}{'memory':>11}{'mapped':>11}{'from disk':>11}")
        for name in MEASUREMENTS:
            child = [sys.executable, os.path.abspath(__file__), "data", "--measure", name,
                     "--root", root, "--batch-size", str(batch_size), "--seconds", str(seconds)]
            result = json.loads(subprocess.run(child, stdout=subprocess.PIPE, check=True).stdout)
            results.append({"name": name, **result})
            sizes = [f"{store.size_text(result[key]):>11}" for key in ("memory", "mapped", "disk")]
            print(f"{name:<28}{result['frames_per_s']:>10,.0f}"
                  f"{result['frames_per_s'] / batch_size / config.seq_len:>11.1f}{''.join(sizes)}")
        return {"measurements": results, "preparation": preparation(root, rounds=min(seconds, 7))}


def preparation(root, rounds, length=250):
    """How fast a folder of video files is prepared, beside ffmpeg alone in as many processes."""
    config = Config(dataset="videos", data_root=os.path.join(root, "videos"), channels=3)
    os.mkdir(config.data_root)
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y"]
    files = [os.path.join(config.data_root, f"{number}.mp4") for number in range(8 * videos.CORES)]
    for number, file in enumerate(files):
        scene = f"testsrc2=s=320x240:r=25:d={length / 25},rotate=t*{number + 1}/9"
        subprocess.run([*ffmpeg, "-f", "lavfi", "-i", scene, "-pix_fmt", "yuv420p", file], check=True)

    def prepare():
        shutil.rmtree(os.path.join(config.data_root, "frames_64x64x3"), ignore_errors=True)
        with contextlib.redirect_stderr(io.StringIO()):
            data_loader.prepare(config)
        return length

    def decode(file):
        square = "crop=min(iw\\,ih):min(iw\\,ih),scale=64:64:flags=area,format=rgb24"
        subprocess.run([*ffmpeg, "-threads", "1", "-i", file, "-vf", square, "-f", "rawvideo",
                        os.devnull], check=True)

    def alone():
        return len(list(videos.in_parallel(decode, files)))

    seconds, _ = measure({"preparing": prepare, "plain preparing": alone}, rounds)
    return table(seconds, length * len(files))


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


def process_memory():
    """Bytes of this process: VmHWM, at most so far, and RssFile, of mapped files now."""
    with open("/proc/self/status") as file:
        fields = dict(line.split(":", 1) for line in file)
    return {name: int(fields[name].split()[0]) * 1024 for name in ("VmHWM", "RssFile")}


def measure_loader(name, config, seconds):
    """Runs one measurement; returns frames/s, and bytes: of memory and of it mapped, and from disk."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_inblock
    frames, spent = MEASUREMENTS[name](config, seconds)
    used = process_memory()
    return {"frames_per_s": frames / spent, "memory": used["VmHWM"], "mapped": used["RssFile"],
            "disk": 512 * (resource.getrusage(resource.RUSAGE_SELF).ru_inblock - before)}


if __name__ == "__main__":
    tools.run_script(main)
