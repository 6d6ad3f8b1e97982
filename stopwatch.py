"""Times functions that take turns, and prints how long they took."""

import os
import platform
import statistics
import time

import tensorflow as tf
import tqdm

import tables


def machine():
    """The processor, its cores, the version of TensorFlow and the GPUs."""
    gpus = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU")
            for gpu in tf.config.list_physical_devices("GPU")]
    processor = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            names = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
        processor = names[0] if names else processor
    return f"{processor}, {os.cpu_count()} cores, TensorFlow {tf.__version__}" + "".join(
        f", {gpu}" for gpu in gpus)


def measure(functions, runs):
    """Calls functions in turns. Returns by name the seconds of `runs` calls, and of first calls."""
    seconds, first = {name: [] for name in functions}, {}
    for name, function in functions.items():
        first[name] = call(function)
        call(function)
    for _ in tqdm.trange(runs, unit="round", leave=False):
        for name, function in functions.items():
            seconds[name].append(call(function))
    return seconds, first


def call(function):
    """The seconds until a function's results are there."""
    start = time.perf_counter()
    for tensor in map(tf.convert_to_tensor, tf.nest.flatten(function())):
        tensor.numpy()
    return time.perf_counter() - start


def table(seconds, frames):
    """Prints a row for each function, which computes so many frames. Returns the rows as dicts."""
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
