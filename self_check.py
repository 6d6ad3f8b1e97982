"""Trains a small model for 20 steps, and reports on it: python3 train.py --self-check

This is a first look at a machine. It prints which device trains, how fast, whether the losses equal
those of a CPU, and whether a second start gives the same losses. It needs no data.
"""

import json
import os
import statistics
import sys
import time

import numpy as np
import tensorflow as tf
import tqdm

import distribution
from config import Config
from cwvae import CWVAE, adam
from tools import UserError, save_json

STEPS = 20
# With dec_stddev 0.1 the loss falls by thousands of nats, which makes differences visible.
SETTINGS = dict(
    dataset="videos", tmp_abs_factor=2, channels_mult=0.25, cell_stoch_size=8, cell_deter_size=32,
    cell_embed_size=32, enc_dense_layers=1, enc_dense_embed_size=64, seq_len=16, open_loop_ctx=8,
    batch_size=8, lr=1e-3, dec_stddev=0.1)
# The largest allowed difference of a loss, as a share of the fall of the loss over all steps.
TOLERANCE = {"float32": 0.01, "bfloat16": 0.05}
EXPECTED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "self_check.json")


def run(changes, refresh=False):
    """Trains twice and prints the report.

    changes: values of the config by key, such as precision and jit.
    refresh: whether to write the losses into self_check.json instead of comparing them with it.
    Raises UserError for a refresh with other flags or on a GPU. Exits with code 1 if the losses do not
    agree.
    """
    config = Config(**SETTINGS | changes)
    if refresh and (changes or tf.config.list_physical_devices("GPU")):
        raise UserError("self_check: refresh writes the losses of a CPU and takes no other flag; "
                        "CUDA_VISIBLE_DEVICES=-1 hides a GPU")
    strategy = distribution.choose_strategy(config.batch_size)
    devices = distribution.Devices(strategy, config.batch_size)
    with tqdm.tqdm(total=2 * STEPS, unit="step", dynamic_ncols=True) as bar:
        losses, seconds, trains = train(config, devices, bar.update)
        again, *_ = train(config, devices, bar.update)
    print(f"TensorFlow {tf.__version__}. {trains}.")
    print(f"The first step took {seconds[0]:.1f} s, preparation included; the others take "
          f"{1000 * statistics.median(seconds[1:]):.1f} ms each (median), for {config.batch_size} clips "
          f"of {config.seq_len} frames.")
    print(repetition_text(losses, again))
    if refresh:
        save_json(EXPECTED, {"tensorflow": tf.__version__, "losses": losses})
        print(f"Wrote {EXPECTED}.")
        return
    with open(EXPECTED) as file:
        expected = json.load(file)["losses"]
    agree, text = comparison(losses, expected, TOLERANCE[config.precision])
    print(text)
    if not agree:
        sys.exit(1)


def train(config, devices, advance):
    """Trains from step 0. Returns the loss and the seconds of each step, and a text on the devices."""
    tf.keras.utils.set_random_seed(config.seed)
    with devices.strategy.scope():
        model, optimizer = CWVAE(config), adam(config)
        optimizer.build(model.trainable_variables)
    update, losses, seconds = devices.training_step(model, optimizer), [], []
    for step in range(STEPS):
        video = devices.to_devices({"video": moving_squares(config, step)})["video"]
        start = time.perf_counter()
        losses.append(float(update(video, tf.constant(step), None)["total_loss"]))
        seconds.append(time.perf_counter() - start)
        advance()
    return losses, seconds, distribution.devices_text(devices, model)


def moving_squares(config, step):
    """The clips of a step, each a bright square that moves over the frame: uint8 [B, T, S, S, C]."""
    rng = np.random.default_rng(step)
    size = config.image_size
    clips = np.zeros([config.batch_size, config.seq_len, size, size, config.channels], np.uint8)
    for clip in clips:
        place, speed = rng.integers(size, size=2), rng.integers(-3, 4, size=2)
        for time_step, frame in enumerate(clip):
            y, x = (place + time_step * speed) % (3 * size // 4)
            frame[y:y + size // 4, x:x + size // 4] = 255
    return clips


def repetition_text(losses, again):
    """Whether two starts gave the same losses, in a sentence."""
    if losses == again:
        return "A second start gives exactly the same losses."
    step = next(step for step, pair in enumerate(zip(losses, again, strict=True)) if len(set(pair)) > 1)
    return (f"A second start gives other losses from step {step + 1} on, by "
            f"{again[step] - losses[step]:.2g} there: training does not repeat exactly on this device.")


def comparison(losses, expected, tolerance):
    """Whether the losses agree with the expected ones, and a sentence on it."""
    fall = expected[0] - expected[-1]
    worst = float(np.max(np.abs(np.subtract(losses, expected)))) / fall
    agree = bool(worst <= tolerance)  # A loss that is NaN does not agree.
    return agree, (
        f"The losses are {'' if agree else 'NOT '}those of a CPU in float32: they go from "
        f"{losses[0]:.1f} to {losses[-1]:.1f} nats a frame, there from {expected[0]:.1f} to "
        f"{expected[-1]:.1f}. The greatest difference is {worst:.2%} of that fall; "
        f"{tolerance:.0%} is allowed.")
