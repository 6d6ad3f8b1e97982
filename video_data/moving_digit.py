"""Video whose factors are known: fixed digits that drift over a black canvas and bounce off its borders.

There are ten images, one a digit, all of one face, so that whoever looks at a frame can say which
digits are in it and where: digits.read_digits does. `moving_digit` has one digit,
`moving_digits_clean` two.
"""

import numpy as np
import tensorflow_datasets as tfds

from video_data.digits import CANVAS, DIGITS, GLYPH, glyphs, path

SPLITS = ("train", "val", "test")


def video(split, index, length, count=1):
    """Makes a video of `count` digits: a function of the arguments alone.

    A shorter video is the beginning of the longer one with the same index. Any ten videos in a row
    have ten different first digits, and any hundred all pairs.

    Returns a dict: `video` uint8 [length, 64, 64, 1], `label` int64 [count], which digits, and
        `position` float32 [length, count, 2], where: row and column of the upper left pixel of a
        digit's square of 28 x 28, 0 to 36.
    """
    rng = np.random.default_rng([SPLITS.index(split), index])
    labels = np.array([index % DIGITS, (3 * index + index // DIGITS) % DIGITS])[:count]
    frames = np.zeros([length, CANVAS, CANVAS, 1], np.uint8)
    corners = np.stack([path(rng, length).T for _ in labels], 1)
    for frame, places in zip(frames, corners, strict=True):
        for label, (top, left) in zip(labels, places, strict=True):
            patch = frame[top : top + GLYPH, left : left + GLYPH, 0]
            np.maximum(patch, glyphs()[label], out=patch)
    return {"video": frames, "label": labels, "position": corners.astype(np.float32)}


class MovingDigit(tfds.core.GeneratorBasedBuilder):
    """TFDS builder: `video`, `label` and `position` as in `video`, in the splits train, val and test."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name="one", description="One digit."),
        tfds.core.BuilderConfig(name="one_demo", description="One digit; small, for a first run."),
        tfds.core.BuilderConfig(name="two", description="Two digits."),
    ]
    SIZES = {  # Digits, then videos and frames of train, val and test.
        "one": (1, (2000, 100), (100, 400), (100, 1000)),
        "one_demo": (1, (500, 100), (20, 200), (20, 300)),
        "two": (2, (2000, 100), (100, 400), (100, 1000)),
    }

    def _info(self):
        count = self.SIZES[self.builder_config.name][0]
        features = tfds.features.FeaturesDict({
            "video": tfds.features.Tensor(
                shape=(None, CANVAS, CANVAS, 1), dtype=np.uint8, encoding="zlib"),
            "label": tfds.features.Tensor(shape=(count,), dtype=np.int64),
            "position": tfds.features.Tensor(shape=(None, count, 2), dtype=np.float32),
        })
        # Unshuffled, so that the first ten test videos show all ten digits.
        return tfds.core.DatasetInfo(
            builder=self, description=__doc__, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        count, *sizes = self.SIZES[self.builder_config.name]
        return {
            split: self._generate_examples(split, *size, count)
            for split, size in zip(SPLITS, sizes, strict=True)}

    def _generate_examples(self, split, num_videos, length, count):
        for index in range(num_videos):
            yield index, video(split, index, length, count)
