"""Reads which two handwritten digits a frame of moving_mnist shows, by a small network.

Its weights are in handwriting.npz. They were made by

    python3 -m video_data.handwriting FOLDER_OF_MNIST

from MNIST's training digits but the last 10,000, at random places, sharp and blurred.
"""

import argparse
import functools
import itertools
import os

import numpy as np
import tensorflow as tf
from tqdm import tqdm

import tools
from pixels import to_float
from video_data.digits import DIGITS, ROOM, animate

WEIGHTS = os.path.join(os.path.dirname(__file__), "handwriting.npz")
PAIRS = np.array(list(itertools.combinations_with_replacement(range(DIGITS), 2)))  # in no order
FAINTEST = 64  # If no pixel of a frame is as bright, nothing is read.
READ_AT_ONCE = 500  # frames
BLURS = 0, 1.5  # least and greatest blur that it learns to read, in pixels
BRIGHTNESS = 0.4, 1.0
STEPS, BATCH, LEARNING_RATE = 5000, 128, 2e-3


def read(frames):
    """Which two digits each frame shows: int [N, 2], the smaller first; -1 where nothing is read.

    frames: uint8 [N, 64, 64, 1].
    """
    parts = [_network()(to_float(frames[start : start + READ_AT_ONCE]))
             for start in range(0, len(frames), READ_AT_ONCE)]
    pairs = PAIRS[np.concatenate(parts).argmax(-1)]
    return np.where(frames.max((1, 2)) < FAINTEST, -1, pairs)


def share_right(read_pairs, digits):
    """The share of two digits that were read: float32 [...], of 0, 0.5 and 1.

    read_pairs: int [..., 2], as read returns them. digits: int [..., 2], the true ones, in any order.
    """
    straight, crossed = read_pairs == digits, read_pairs == digits[..., ::-1]
    return np.maximum(straight.mean(-1), crossed.mean(-1)).astype(np.float32)


def build():
    """The network: frames [N, 64, 64, 1] in [0, 1] to the logits of each of PAIRS, [N, 55]."""
    layers = tf.keras.layers
    convolutions = [layers.Conv2D(filters, 3, strides, "same", activation="relu")
                    for filters, strides in ((16, 2), (32, 2), (64, 1), (64, 2), (96, 1))]
    return tf.keras.Sequential([
        layers.Input([64, 64, 1]), *convolutions, layers.MaxPooling2D(2), layers.Flatten(),
        layers.Dense(96, activation="relu"), layers.Dense(len(PAIRS))])


@functools.cache
def _network():
    network = build()
    with np.load(WEIGHTS) as file:
        network.set_weights([file[f"{number:02d}"].astype(np.float32)
                             for number in range(len(file.files))])
    return tf.function(network, jit_compile=False, autograph=False,
                       input_signature=[tf.TensorSpec([None, 64, 64, 1])])


# ------------------------------------------------------------------------------- making the weights


def draw(rng, images, labels, count):
    """Draws digits at random places, half blurred: float32 [N, 64, 64, 1], and their pairs, int [N]."""
    import scipy.ndimage  # Only learning needs it.

    chosen = rng.integers(len(images), size=(count, 2))
    corners = rng.integers(0, ROOM + 1, [count, 1, 2, 2])
    frames = np.concatenate([animate(images[of], at) for of, at in zip(chosen, corners, strict=True)])
    frames = frames * (rng.uniform(*BRIGHTNESS, [count, 1, 1, 1]) / 255)
    for number in range(0, count, 2):  # Every other frame stays sharp.
        frames[number] = scipy.ndimage.gaussian_filter(frames[number], (rng.uniform(*BLURS),) * 2 + (0,))
    pairs = np.sort(labels[chosen], 1)
    return frames.astype(np.float32), (pairs[:, None] == PAIRS).all(-1).argmax(-1)


def train(images, labels):
    """Trains the network on digits, uint8 [N, 28, 28], and what they are, int [N]."""
    rng = np.random.default_rng(0)
    tf.keras.utils.set_random_seed(0)
    network = build()
    schedule = tf.keras.optimizers.schedules.CosineDecay(LEARNING_RATE, STEPS)
    network.compile(tf.keras.optimizers.Adam(schedule),
                    tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    for _ in tqdm(range(STEPS), "Learning to read"):
        network.train_on_batch(*draw(rng, images, labels, BATCH))
    return network


def main(folder):
    from video_data import moving_mnist  # Only learning needs it.

    mnist = moving_mnist.read_mnist(folder)
    weights = train(*moving_mnist.digits_of(mnist, "train")).get_weights()
    np.savez_compressed(WEIGHTS, **{f"{number:02d}": array.astype(np.float16)
                                    for number, array in enumerate(weights)})
    for split in ("val", "test"):
        images, labels = moving_mnist.digits_of(mnist, split)
        made = [moving_mnist.video(split, index, 100, images, labels) for index in range(100)]
        scores = [share_right(read(video["video"]), video["digits"]) for video in made]
        print(f"It reads {np.mean(scores):.3f} of the digits in 10,000 frames of {split}.")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Makes the weights of the reader of digits.")
    parser.add_argument("folder", help="where MNIST's four files are")
    tools.run_script(lambda: main(parser.parse_args().folder))
