"""Makes video whose factors are known: digits that move over a black canvas and bounce off its borders.

Every digit has one fixed image, so digits.read_digits can tell which digits a frame shows, and where.
`moving_digit` has one digit, `moving_digits_clean` two.
"""

import numpy as np
import tensorflow_datasets as tfds

from video_data.digits import CANVAS, DIGITS, animate, glyphs, path

SPLITS = ("train", "val", "test")


def video(split, index, length, count=1):
    """Makes a video of `count` digits, which depends on the arguments alone.

    A shorter video is the beginning of the longer one with the same index. Any ten videos in a row
    have ten different first digits, and any hundred have all pairs.

    Returns a dict: `video` uint8 [length, 64, 64, 1]; `label` int64 [count], which digits it shows;
        `position` float32 [length, count, 2]: row and column, 0 to 36, of the upper left pixel of each
        digit's square of 28 x 28.
    """
    rng = np.random.default_rng([SPLITS.index(split), index])
    labels = np.array([index % DIGITS, (3 * index + index // DIGITS) % DIGITS])[:count]
    corners = np.stack([path(rng, length) for _ in labels], 1)
    return {"video": animate(glyphs()[labels], corners), "label": labels,
            "position": np.float32(corners)}


class MovingDigit(tfds.core.GeneratorBasedBuilder):
    """TFDS builder: `video`, `label` and `position` as in `video`, in the splits train, val and test."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name="one", description="One digit."),
        tfds.core.BuilderConfig(name="one_demo", description="One digit; small, for a first run."),
        tfds.core.BuilderConfig(name="two", description="Two digits."),
    ]
    SIZES = {  # Digits; then (videos, frames) of train, val and test.
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
        # TFDS must not shuffle, or the first ten test videos would not show all ten digits.
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
