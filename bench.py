"""Times the parts of training and evaluation: python3 bench.py train --config configs/mmnist.yml

    bench.py train   encoder, recurrence, decoder and the whole step, forward and with the gradient
    bench.py layers  each convolution in the form that is used, beside TensorFlow's own
    bench.py eval    open-loop prediction with 1, 10 and 100 samples, and the metrics
    bench.py data    the input pipeline alone

With --plain, the straightforward implementation of the tests runs beside it, alternating, and the
ratio of the two is taken pair by pair: it holds where a machine's speed drifts.
"""

import quiet  # noqa: F401

# isort: split
import collections
import importlib
import json
import os
import platform
import re
import resource
import statistics
import sys
import time

import numpy as np
import tensorflow as tf
import tqdm

import metrics
import tools
from cnns import (
    ENCODER_FORMS,
    SLOPE,
    conv_transpose,
    dense_conv_transpose,
    two_conv_transposes,
)
from cwvae import CWVAE, state_vector, to_float
from predictor import Predictor


def main():
    parser = tools.Parser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True, parser_class=tools.Parser)
    for name, text in [("train", "the parts of a training step, and the whole"),
                       ("layers", "the convolutions, one by one, beside TensorFlow's own"),
                       ("eval", "open-loop prediction and metrics"), ("data", "the input pipeline")]:
        command = commands.add_parser(name, help=text)
        command.add_argument("--json", metavar="FILE", help="write the results there too")
        if name == "data":
            command.add_argument("--videos", type=int, default=40, help="of 500 frames (default: 40)")
            command.add_argument("--seconds", type=float, default=10, help="a measurement (default: 10)")
            command.add_argument("--batch-size", type=int, default=50, help="clips (default: 50)")
            continue
        command.add_argument("--config", required=True, metavar="FILE", help="a config")
        command.add_argument("--runs", type=int, default=7, help="timed runs of each (default: 7)")
        command.add_argument("--precision", help="float32 or bfloat16 (default: the config's)")
        command.add_argument("--jit", help="auto, true or false (default: the config's)")
        if name == "eval":
            command.add_argument("--samples", type=int, nargs="+", default=[1, 10, 100], metavar="N",
                                 help="predictions of the video (default: 1 10 100)")
        if name in ("train", "eval"):
            command.add_argument("--plain", action="store_true", help="time the plain form too")
        if name in ("train", "layers"):
            command.add_argument("--batch-size", type=int, help="clips (default: the config's)")
        if name == "train":
            command.add_argument("--remat", action="store_true", help="as the config's key")
            command.add_argument("--only", choices=["step"], help="time the whole step alone")
            command.add_argument("--export-hlo", metavar="DIR", help="write the compiled step there")
    flags = parser.parse_args()
    # To TensorFlow the functions that one piece of code makes are one function, traced again and again.
    tf.get_logger().setLevel("ERROR")
    benchmarks = {
        "train": bench_train, "layers": bench_layers, "eval": bench_eval, "data": bench_data}
    results = benchmarks[flags.command](flags)
    if flags.json:
        with tools.write_atomically(flags.json) as file:
            json.dump({"machine": machine(), "command": sys.argv[1:], **results}, file, indent=1)


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
    overrides = {name: getattr(flags, name) for name in ("batch_size", "precision")
                 if getattr(flags, name, None) is not None}
    if flags.jit:
        overrides["jit"] = {"true": True, "false": False}.get(flags.jit, flags.jit)
    if getattr(flags, "remat", False):
        overrides["remat"] = True
    return tools.load_config(flags.config, overrides)


def compiled(function, config):
    return tf.function(function, jit_compile=tools.use_xla(config), autograph=False)


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
    functions = training_parts(config, CWVAE)
    if flags.plain:
        plain = config.replace(precision="float32", jit=False, remat=False)
        functions |= {f"plain {name}": function for name, function in training_parts(
            plain, of_tests("plain").PlainCWVAE).items()}
    if flags.only:
        functions = {name: function for name, function in functions.items() if "step" in name}
    if flags.export_hlo:
        export(config, flags.export_hlo)
        if flags.plain:
            export(plain, flags.export_hlo, plain=True)
    seconds, first = measure(functions, flags.runs)
    frames = config.batch_size * config.seq_len
    peak = matmul_peak(config)
    flops = 3 * forward_flops(config) * frames  # backward: each product once for either factor
    step = statistics.median(seconds["step"])
    rows = table(seconds, frames)
    print(f"First step, tracing and compilation included: {first['step']:.1f} s")
    print(f"Peak memory of this process: {memory() / 2**30:.2f} GiB")
    print(f"Model: {flops / 1e9:.1f} GFLOP a step, {flops / step / 1e9:.0f} GFLOP/s, "
          f"{flops / step / peak:.0%} of the {peak / 1e9:.0f} GFLOP/s of a large {config.precision} "
          f"matrix product")
    if not flags.only:
        share = statistics.median(seconds["recurrence, gradient"]) / step
        print(f"The recurrence is {share:.1%} of the step.")
    return {"parts": rows, "first_step_s": first["step"], "peak_memory_bytes": memory(),
            "flops_per_step": flops, "matmul_flops_per_s": peak}


def training_parts(config, make):
    """Functions of no arguments, by the name of the part they run."""
    model = make(config)
    optimizer = tf.keras.optimizers.Adam(config.lr, epsilon=1e-4)
    optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(0)
    batch, frames = config.batch_size, config.seq_len
    video = tf.constant(rng.integers(
        0, 256, [batch, frames, 64, 64, config.channels], dtype=np.uint8))
    noise = model.noise([0, 0], batch, frames)
    embeddings = [tf.constant(rng.normal(size=[batch, ticks, model.encoder.embed_size]), tf.float32)
                  for ticks in model.ticks(frames)]
    states = tf.constant(rng.normal(size=[batch, frames, model.state_size]), tf.float32)

    def encode():
        return tf.add_n([tf.reduce_sum(e) for e in model.encode(to_float(video))])

    def unroll(states=None):
        levels = model.unroll(frames, model.initial_states(batch), noise, embeddings)
        return tf.add_n([tf.reduce_sum(state_vector(level)) + tf.reduce_sum(level.prior.mean)
                         + tf.reduce_sum(level.posterior.stddev) for level in levels])

    def decode():
        return tf.reduce_sum(tf.math.squared_difference(model.decode(states), to_float(video)))

    parts = {}
    for name, function in [("encoder", encode), ("recurrence", unroll), ("decoder", decode)]:
        parts[name] = compiled(function, config)
        parts[f"{name}, gradient"] = compiled(
            with_gradient(function, model.trainable_variables), config)
    parts["step"] = compiled(
        lambda: model.update(optimizer, video, tf.constant([0, 0])), config)
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
    print(machine())
    print(f"{'':<32}{'median ms':>10}{'min':>10}{'max':>10}{'a second':>10}{'frames/s':>10}{'':>9}")
    rows = []
    for name, values in seconds.items():
        row = {"name": name, "seconds": values, "median_s": statistics.median(values),
               "frames_per_s": frames / statistics.median(values)}
        ratio = ""
        if f"plain {name}" in seconds:
            pairs = zip(seconds[f"plain {name}"], values, strict=True)
            row["speedup_over_plain"] = statistics.median(plain / fast for plain, fast in pairs)
            ratio = f"{row['speedup_over_plain']:>8.2f}x"
        times = [row["median_s"], min(values), max(values)]
        print(f"{name:<32}" + "".join(f"{1e3 * time:>10.1f}" for time in times)
              + f"{1 / row['median_s']:>10.2f}{row['frames_per_s']:>10.0f}{ratio}")
        rows.append(row)
    return rows


def forward_flops(config):
    """Floating-point operations of the forward pass a frame: two for each product's term."""
    f, c = round(32 * config.channels_mult), config.channels
    products = sum(size**2 * 16 * before * after for size, before, after in [
        (31, c, f), (14, f, 2 * f), (6, 2 * f, 4 * f), (2, 4 * f, 8 * f)])
    z, h, e = config.cell_stoch_size, config.cell_deter_size, config.cell_embed_size
    products += (z + h) * 32 * f + sum(size**2 * k**2 * before * after for size, k, before, after in [
        (1, 5, 32 * f, 4 * f), (5, 5, 4 * f, 2 * f), (13, 6, 2 * f, f), (30, 6, f, c)])
    if config.enc_dense_layers:
        sizes = [32 * f, *[config.enc_dense_embed_size] * (config.enc_dense_layers - 1), 32 * f]
        products += (config.levels - 1) * sum(a * b for a, b in zip(sizes, sizes[1:], strict=False))
    tick = (2 * z + h) * e + 3 * e * h + 3 * h * h + 2 * (h * e + 2 * e * z) + 32 * f * e + e * e
    products += sum(tick / stride for stride in config.strides)
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


def export(config, directory, plain=False):
    """Writes the compiled training step: serialized HLO, and optimized HLO as text."""
    os.makedirs(directory, exist_ok=True)
    name, make = ("plain_step", of_tests("plain").PlainCWVAE) if plain else ("step", CWVAE)
    step = training_parts(config.replace(jit=True), make)["step"]
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


# ---------------------------------------------------------------------------------------- layers


def bench_layers(flags):
    config = configure(flags)
    frames = config.batch_size * config.seq_len
    print(f"{frames} frames, {config.precision}. Plain: Keras's layers, of the same weights, in float32")
    seconds, _ = measure(layer_parts(config, CWVAE(config), frames), flags.runs)
    return {"parts": table(seconds, frames)}


def layer_parts(config, model, frames):
    """Functions of no arguments, by the names of the layers that they run."""
    def leaky(layer):
        return lambda x: tf.nn.leaky_relu(layer(x), SLOPE)

    encoder, (first, second, third, last) = model.encoder.convs, model.decoder.convs
    dense = model.decoder.dense
    layers = [  # name, shape of a frame's input, layers, the form that is used, the plain one
        *((f"encoder conv_{i}", [size, size, layer.kernel.shape[2]], [layer], form, leaky(layer))
          for i, (size, layer, form) in enumerate(
              zip([62, 30, 14, 6], encoder, ENCODER_FORMS, strict=True))),
        ("decoder dense, conv_0", [model.state_size], [dense, first], dense_conv_transpose,
         lambda x: first(dense(x)[:, None, None])),
        ("decoder conv_1", [5, 5, second.kernel.shape[3]], [second], conv_transpose, leaky(second)),
        ("decoder conv_2, conv_3", [13, 13, third.kernel.shape[3]], [third, last],
         two_conv_transposes, lambda x: last(leaky(third)(x)))]
    parts = {}
    for name, shape, used, form, plain in layers:
        x = tf.cast(tf.random.normal([frames, *shape]), model.compute_dtype)
        weights = [weight for layer in used for weight in (layer.kernel, layer.bias)]
        # The gradient of the video itself is not wanted.
        sources = weights if name == "encoder conv_0" else [x, *weights]

        def ours(x, form=form, weights=weights):
            return form(x, *(tf.cast(weight, x.dtype) for weight in weights))

        for prefix, function in [("", ours), ("plain ", plain)]:
            def forward(x=x, function=function):
                return tf.reduce_sum(tf.cast(function(x), tf.float32))

            parts[f"{prefix}{name}"] = compiled(forward, config)
            parts[f"{prefix}{name}, gradient"] = compiled(with_gradient(forward, sources), config)
    return parts


def of_tests(module):
    """A module of the tests, where the plain implementations are."""
    tests = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tests")
    if tests not in sys.path:
        sys.path.append(tests)
    return importlib.import_module(module)


# ------------------------------------------------------------------------------------------ eval


def bench_eval(flags):
    config = configure(flags)
    model = CWVAE(config)
    frames = config.eval_seq_len - config.open_loop_ctx
    video = np.random.default_rng(0).integers(
        0, 256, [1, config.eval_seq_len, 64, 64, config.channels], dtype=np.uint8)
    print(f"One video of {config.eval_seq_len} frames, {config.open_loop_ctx} observed: "
          f"encoding, prediction, decoding, PSNR and SSIM")
    rows = []
    for samples in flags.samples:
        predictor = Predictor(config, model, samples, seed=0)
        functions = {f"{samples} sample(s)": lambda p=predictor: p.predict({"video": video}, 0)[1]}
        if flags.plain:
            functions[f"plain {samples} sample(s)"] = plain_evaluation(predictor, model, video[0])
        seconds, first = measure(functions, flags.runs)
        rows += table(seconds, frames * samples)
        print(f"First call, compilation included: {first[f'{samples} sample(s)']:.1f} s")
    truth, decoded = (tf.random.uniform([1, 1, 1000, 64, 64, config.channels]) for _ in range(2))
    seconds, _ = measure({"PSNR of 1000 frames": lambda: metrics.psnr(truth, decoded),
                          "SSIM of 1000 frames": lambda: metrics.ssim(truth, decoded)}, flags.runs)
    rows += table(seconds, 1000)
    return {"parts": rows, "peak_memory_bytes": memory()}


def plain_evaluation(predictor, model, video):
    plain = of_tests("plain_eval")
    evaluation = plain.PlainEvaluation(model, model.config.open_loop_ctx)
    noise = plain.noise_of(predictor, 0)
    return lambda: evaluation(video, noise)


# ------------------------------------------------------------------------------------------ data


def bench_data(flags):
    import bench_data
    return {"measurements": bench_data.bench_data(flags.videos, flags.batch_size, flags.seconds)}


if __name__ == "__main__":
    tools.run_script(main)
