"""Camera moves in colour: over a photograph, away and back to where the camera was, again and again.

The photographs ship inside scikit-image and matplotlib, so nothing is downloaded. No photograph is in
two splits: what is behind the border of a test video's first frames was never seen. There are few of
them, so those to train on are turned, mirrored and their colours exchanged; grey ones are coloured.
"""

import functools
import os

import matplotlib
import numpy as np
import skimage
import tensorflow_datasets as tfds
from PIL import Image, ImageOps

SIZE = 64
_SKIMAGE = os.path.join(os.path.dirname(skimage.__file__), "data")
_MATPLOTLIB = os.path.join(matplotlib.get_data_path(), "sample_data")
PHOTOGRAPHS = {
    "train": [
        *(os.path.join(_SKIMAGE, name) for name in (
            "astronaut.png", "motorcycle_left.png", "hubble_deep_field.jpg", "ihc.png", "retina.jpg",
            "camera.png", "coins.png", "moon.png", "brick.png", "gravel.png", "grass.png",
            "clock_motion.png")),
        os.path.join(_MATPLOTLIB, "grace_hopper.jpg")],
    "val": [os.path.join(_SKIMAGE, "rocket.jpg")],
    "test": [os.path.join(_SKIMAGE, name) for name in ("chelsea.png", "coffee.png")],
}
PERIOD = 16, 32  # frames from a view to the far end and back: the least, and one more than the most
VIEW = 0.3, 0.6  # the side of what the camera sees, as a share of the photograph's shorter side


def video(split, index, length):
    """Makes a video, uint8 [length, 64, 64, 3]: a function of the split and the index alone.

    A shorter video is the beginning of the longer one with the same index. The camera starts at one
    view, glides to another (pan and zoom), back, and so on, at rest at both ends.
    """
    rng = np.random.default_rng([list(PHOTOGRAPHS).index(split), index])
    photographs = PHOTOGRAPHS[split]
    photograph = _open(photographs[index % len(photographs)])
    if split == "train":
        photograph = _varied(photograph, rng)
    if rng.integers(2):
        photograph = photograph.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    sides = min(photograph.size) * rng.uniform(*VIEW, 2)
    # Of both views, the side and the upper left corner.
    views = np.stack([sides, *((size - sides) * rng.uniform(0, 1, 2) for size in photograph.size)], 1)
    away = (1 - np.cos(2 * np.pi * np.arange(length) / rng.integers(*PERIOD))) / 2
    path = views[0] + away[:, None] * (views[1] - views[0])
    return np.stack([
        np.asarray(photograph.resize(
            (SIZE, SIZE), Image.Resampling.BILINEAR, (left, top, left + side, top + side)))
        for side, left, top in path])


@functools.cache
def _open(path):
    with Image.open(path) as image:
        return image.convert("L" if image.mode == "L" else "RGB")


def _varied(photograph, rng):
    """The same photograph turned by a multiple of 90 degrees and in other colours."""
    if photograph.mode == "L":
        dark, light = rng.integers(0, 128, 3), rng.integers(128, 256, 3)
        photograph = ImageOps.colorize(photograph, tuple(dark.tolist()), tuple(light.tolist()))
    photograph = photograph.rotate(90 * rng.integers(4), expand=True)
    bands = photograph.split()
    return Image.merge("RGB", [bands[i] for i in rng.permutation(3)])


class CameraMoves(tfds.core.GeneratorBasedBuilder):
    """TFDS builder: `video` uint8 [T, 64, 64, 3], in the splits train, val and test."""

    VERSION = tfds.core.Version("1.1.0")
    SIZES = {"train": (1200, 100), "val": (20, 200), "test": (60, 300)}  # Videos and frames.

    def _info(self):
        feature = tfds.features.Tensor(
            shape=(None, SIZE, SIZE, 3), dtype=np.uint8, encoding="zlib")
        return tfds.core.DatasetInfo(
            builder=self, description=__doc__, features=tfds.features.FeaturesDict({"video": feature}),
            disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split, *size) for split, size in self.SIZES.items()}

    def _generate_examples(self, split, num_videos, length):
        for index in range(num_videos):
            yield index, {"video": video(split, index, length)}
