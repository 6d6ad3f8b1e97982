"""Times the parts of training and evaluation: python3 bench.py train --config configs/mmnist.yml

    bench.py train   encoder, recurrence, decoder and the whole step, forward and with the gradient
    bench.py eval    open-loop prediction with 1, 10 and 100 samples, and the metrics
    bench.py data    the input pipeline alone (bench_data.py)

With --plain, the plain forms (`fast: false`, float32, not compiled) run too. Fast and plain take turns,
and each pair gives a ratio, which stays right when the speed of the machine drifts. train and eval take
every key of the config as a flag, such as --cell-type.
"""

import tools
from flags import Parser, add_config_flags, config_values, whole_number


def parse_flags():
    parser = Parser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True, parser_class=Parser)
    train, evaluation, data = (commands.add_parser(name, help=text) for name, text in [
        ("train", "the parts of a training step, and all of it"),
        ("eval", "open-loop prediction and metrics"), ("data", "the input pipeline")])

    def add_number(command, name, least, default, help, **options):
        command.add_argument(f"--{name.replace('_', '-')}", type=whole_number(name, least),
                             default=default, help=help, **options)

    for command in (train, evaluation, data):
        command.add_argument("--json", metavar="FILE", help="also write the results to this file")
    for command in (train, evaluation):
        command.add_argument("--config", required=True, metavar="FILE", help="a config")
        add_number(command, "runs", 1, 7, "how often to time each part (default: 7)")
        command.add_argument("--plain", action="store_true", help="also time the plain form")
    train.add_argument("--only", choices=["step"], help="time only the whole step")
    train.add_argument("--export-hlo", metavar="DIR",
                       help="also write the compiled step into this folder")
    add_number(evaluation, "samples", 1, [1, 10, 100],
               "predictions of the video (default: 1 10 100)", nargs="+", metavar="N")
    add_number(data, "videos", 2, 40, "how many videos of 500 frames (default: 40)")
    add_number(data, "seconds", 1, 10, "seconds of a measurement (default: 10)")
    add_number(data, "batch_size", 1, 50, "clips of a batch (default: 50)")
    for command in (train, evaluation):
        add_config_flags(command)
    return parser.parse_args()


if __name__ == "__main__":
    # A wrong flag ends the script here, because importing TensorFlow takes seconds.
    tools.run_script(parse_flags)

import startup

# isort: split
import collections
import math
import os
import re
import resource
import statistics
import sys
import unittest.mock

import numpy as np
import tensorflow as tf

import distribution
import kernels
from bench_data import bench_data
from config import load_config
from cwvae import CWVAE, adam, state_vector
from pixels import psnr, ssim, to_float
from predictor import Predictor
from stopwatch import machine, measure, table


def main():
    flags = parse_flags()
    # TensorFlow warns of retracing where one piece of code makes several functions, as ours does.
    tf.get_logger().setLevel("ERROR")
    benchmarks = {"train": bench_train, "eval": bench_eval, "data": bench_data}
    results = benchmarks[flags.command](flags)
    if flags.json:
        try:
            tools.save_json(flags.json, {"machine": machine(), "command": sys.argv[1:], **results})
        except OSError as error:
            raise tools.cannot_write("json", flags.json, error) from None


def configure(flags):
    return load_config(flags.config, config_values(vars(flags)))


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
    flops = 3 * forward_flops(config) * frames  # The backward pass has two products for each.
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
    """Functions without arguments, by the name of the part that they run."""
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

    def unroll():
        levels = model.unroll(frames, model.initial_states(batch), noise, embeddings)
        return tf.add_n([tf.reduce_sum(state_vector(level)) + tf.reduce_sum(
            level.posterior.kl(level.prior)) for level in levels])

    def decode():
        return tf.reduce_sum(model.decoder.pixels(states).log_prob(to_float(video)))

    parts = {}
    for name, function in [("encoder", encode), ("recurrence", unroll), ("decoder", decode)]:
        parts[name] = startup.graph(function, config)
        parts[f"{name}, gradient"] = startup.graph(
            with_gradient(function, model.trainable_variables), config)
    step = tf.Variable(0)  # A constant step would make the noise a constant, drawn once.
    parts["step"] = startup.graph(lambda: distribution.update(model, optimizer, video, step), config)
    return parts


def with_gradient(function, sources):
    """A function that returns function() and the sums of its gradients by the sources that it uses.

    It must return the value too, or TensorFlow would leave out the operations that only the value needs.
    """
    def run():
        with tf.GradientTape() as tape:
            tape.watch([source for source in sources if isinstance(source, tf.Tensor)])
            value = function()
        gradients = tape.gradient(value, sources)
        return [value, *(tf.reduce_sum(gradient) for gradient in gradients if gradient is not None)]

    return run


def forward_flops(config):
    """Floating-point operations of the forward pass for a frame: two for each term of a product."""
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
    """Floating-point operations a second of a large matrix product in the config's precision."""
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
    """Writes the compiled step as it is for a GPU: serialized HLO, and optimized HLO as text."""
    os.makedirs(directory, exist_ok=True)
    name = "step" if config.fast else "plain_step"
    unrolled = kernels.UNROLLED_ON_GPU if config.fast else 1
    with unittest.mock.patch("kernels.UNROLLED", unrolled):
        ir = training_parts(config.replace(jit=True))["step"].experimental_get_compiler_ir()
    with open(os.path.join(directory, f"{name}.hlo"), "wb") as out:
        out.write(ir(stage="hlo_serialized"))
    optimized = ir(stage="optimized_hlo")
    with open(os.path.join(directory, f"{name}.optimized.txt"), "w") as out:
        out.write(optimized)
    print(f"Wrote {name}.hlo and {name}.optimized.txt to {directory}. "
          f"Its loops have {unrolled} tick(s) a round:")
    for rounds, counts in loops(optimized):
        total = sum(counts.values())
        print(f"  {rounds:>4} rounds: {total / unrolled:g} kernels a tick, {total} a round ("
              + ", ".join(f"{count} {kind}" for kind, count in counts.most_common()) + ")")


def loops(hlo):
    """The loops of an optimized HLO module: (rounds, operations of a round that are kernels)."""
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
                rounds = re.search(r'known_trip_count[^0-9]*(\d+)', line)
                operations = [re.search(r" ([a-z][a-z\-]*)\(", body) for body in bodies[found[1]]]
                yield rounds[1] if rounds else "?", collections.Counter(
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
    """The obvious way to evaluate: every sample observes the context anew, and scikit-image scores one
    frame at a time."""
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


if __name__ == "__main__":
    tools.run_script(main)
