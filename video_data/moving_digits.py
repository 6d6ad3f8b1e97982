"""Makes videos of two digits that move over a black canvas and bounce off its borders.

They are like Moving MNIST (Srivastava et al. 2015), but fonts draw the digits in place of MNIST's
handwriting, so nothing is downloaded.
"""

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image, ImageDraw, ImageFont

from video_data.digits import CANVAS, GLYPH, animate, font_file, path

# The faces of matplotlib's own fonts that have upright decimal digits.
FACES = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique",
    "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique",
    "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic",
    "STIXGeneral", "STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta",
    "cmb10", "cmr10", "cmss10", "cmti10", "cmtt10",
)  # fmt: skip
SPLITS = ("train", "test")
FONT_SIZE = 160  # In a large font, the width of the stroke takes fine steps.
SUPERSAMPLING = 4


def video(split, index, length):
    """Makes a video, uint8 [length, 64, 64, 1], which depends on the arguments alone.

    A shorter video is the beginning of the longer one with the same index.
    """
    rng = np.random.default_rng([SPLITS.index(split), index])
    digits, corners = zip(*[(glyph(rng), path(rng, length)) for _ in range(2)], strict=True)
    return animate(digits, np.stack(corners, 1))


def glyph(rng):
    """Draws a random digit in a random face, distorted as handwriting is: uint8 [28, 28]."""
    face = rng.choice(FACES)
    text = str(rng.integers(10))
    stroke = int(rng.integers(2, 8))
    font = ImageFont.truetype(font_file(face), FONT_SIZE)
    box = font.getbbox(text, stroke_width=stroke)
    size = box[2] - box[0], box[3] - box[1]
    drawn = Image.new("L", size)
    ImageDraw.Draw(drawn).text(
        (-box[0], -box[1]), text, fill=255, font=font, stroke_width=stroke)

    angle, shear = rng.uniform(-0.25, 0.25), rng.uniform(-0.2, 0.2)
    stretch = rng.uniform(0.85, 1.15)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    distort = turn @ np.array([[stretch, shear], [0, 1]])
    extent = np.abs(distort) @ size  # Width and height of the distorted box.
    distort *= rng.uniform(0.7, 0.93) * GLYPH * SUPERSAMPLING / max(extent)

    inverse = np.linalg.inv(distort)  # PIL takes the map from output to input pixels.
    shift = np.array(size) / 2 - inverse @ np.full(2, GLYPH * SUPERSAMPLING / 2)
    large = drawn.transform(
        (GLYPH * SUPERSAMPLING,) * 2, Image.Transform.AFFINE,
        (*inverse[0], shift[0], *inverse[1], shift[1]), Image.Resampling.BILINEAR)
    return np.asarray(large.reduce(SUPERSAMPLING))


class MovingDigits(tfds.core.GeneratorBasedBuilder):
    """TFDS builder: `video` uint8 [T, 64, 64, 1], in the splits train and test."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name="full", description="For experiments."),
        tfds.core.BuilderConfig(name="demo", description="Small, for a first run."),
    ]
    SIZES = {  # (videos, frames) of train and test.
        "full": ((2000, 100), (100, 1000)),
        "demo": ((400, 100), (24, 300)),
    }

    def _info(self):
        # A video that is compressed as a whole takes 2 % of its raw size, and no PNGs are made.
        feature = tfds.features.Tensor(
            shape=(None, CANVAS, CANVAS, 1), dtype=np.uint8, encoding="zlib")
        features = tfds.features.FeaturesDict({"video": feature})
        return tfds.core.DatasetInfo(builder=self, description=__doc__, features=features)

    def _split_generators(self, dl_manager):
        sizes = self.SIZES[self.builder_config.name]
        return {
            split: self._generate_examples(split, *size)
            for split, size in zip(SPLITS, sizes, strict=True)}

    def _generate_examples(self, split, num_videos, length):
        for index in range(num_videos):
            yield index, {"video": video(split, index, length)}
