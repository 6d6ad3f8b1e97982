"""Video whose factors are known: fixed digits that drift over a black canvas and bounce off its borders.

There are ten images, one a digit, all of one face, so that whoever looks at a frame can say which
digits are in it and where: read_digits does. One digit in `moving_digit`, two in `moving_digits_clean`.
"""

import functools

import numpy as np
import scipy.fft
import tensorflow_datasets as tfds
from PIL import Image, ImageDraw, ImageFont

from video_data.moving_digits import CANVAS, GLYPH, font_file, path

DIGITS = 10
FACE, FONT_SIZE = "DejaVuSans-Bold", 36  # Digits 26 pixels high.
SPLITS = ("train", "val", "test")
ROOM = CANVAS - GLYPH  # pixels a digit can move in either direction
READ_AT_ONCE = 16  # frames; their correlations are 14,000 numbers each
READABLE = 0.5  # correlation of a frame with what is read in it
FAINTEST = 0.1  # contrast below which nothing is read, as a share of a digit's


@functools.cache
def glyphs():
    """The ten digits, uint8 [10, 28, 28], each in the middle of its square."""
    font = ImageFont.truetype(font_file(FACE), FONT_SIZE)
    drawn = []
    for digit in range(DIGITS):
        left, top, right, bottom = font.getbbox(str(digit))
        image = Image.new("L", (GLYPH, GLYPH))
        corner = (GLYPH - right - left) // 2, (GLYPH - bottom - top) // 2
        ImageDraw.Draw(image).text(corner, str(digit), fill=255, font=font)
        drawn.append(np.asarray(image))
    return np.stack(drawn)


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


def read_digits(frames, count):
    """Reads which digits are in each frame, and where, by comparing it with their images.

    One digit is that whose image has the best normalised correlation with a square of the frame. Of
    two, the second is looked for in what the first leaves over; then each again beside the other.

    frames: uint8 [N, 64, 64, 1].
    count: how many digits to read, 1 or 2.

    Returns labels, int [N, count], in no particular order; -1 where nothing is read, since the
        correlation is below 0.5 or there is next to no contrast. And positions, float [N, count, 2],
        as in `video`; NaN where nothing is read.
    """
    labels = np.empty([len(frames), count], int)
    positions = np.empty([len(frames), count, 2])
    for start in range(0, len(frames), READ_AT_ONCE):
        part = slice(start, start + READ_AT_ONCE)
        labels[part], positions[part] = _read(np.float32(frames[part, :, :, 0]) / 255, count)
    return labels, positions


def _read(frames, count):
    """read_digits of a few frames, float32 [N, 64, 64] in [0, 1]."""
    found = [_best(_correlations(frames))]
    if count == 2:
        found.append(_best(_fit_beside(frames, _draw(*found[0]))))
        for turn in (0, 1, 0, 1):
            before, found[turn] = found[turn], _best(_fit_beside(frames, _draw(*found[1 - turn])))
            if all(map(np.array_equal, before, found[turn])):
                break
    drawn = [_draw(*one) for one in found]
    labels, corners = (np.stack(part, 1) for part in zip(*found, strict=True))
    for one in range(count):
        other = drawn[1 - one] if count == 2 else 0
        there, read = (_window(picture * (1 - other), corners[:, one])
                       for picture in (frames - other, drawn[one]))
        labels[_agreement(there, read) < READABLE, one] = -1
    return labels, np.where(labels[..., None] < 0, np.nan, corners)


def _correlations(frames):
    """Normalised correlation of every digit at every place: [N, 10, 37, 37]."""
    box = np.ones([1, GLYPH, GLYPH], np.float32)
    mean = _correlate(_spectrum(frames), _spectrum(box)) / GLYPH**2
    power = _correlate(_spectrum(frames**2), _spectrum(box)) / GLYPH**2
    centred = _images() - _images().mean((1, 2), keepdims=True)
    products = _correlate(_spectrum(frames), _spectrum(centred)) / GLYPH**2
    spread = np.sqrt(np.maximum(power - mean**2, 0))
    return products / centred.std((1, 2))[:, None, None] / np.maximum(spread, _faintest())


def _fit_beside(frames, other):
    """How well every digit at every place explains what another digit leaves over: [N, 10, 37, 37].

    Where the other digit is bright, nothing can be seen. Of D, what is left, and V, where one can see,
    with a digit's image I at its best brightness: the square root of the squared error that it saves.
    """
    seen = 1 - other
    left = _correlate(_spectrum((frames - other) * seen), _spectrum(_images()))
    visible = _correlate(_spectrum(seen**2), _spectrum(_images() ** 2))
    return left / np.sqrt(np.maximum(visible, 1))


def _best(scores):
    """The digit and the corner of the best score: int [N], int [N, 2]."""
    label, row, column = np.unravel_index(
        scores.reshape(len(scores), -1).argmax(1), scores.shape[1:])
    return label, np.stack([row, column], 1)


def _agreement(one, other):
    """Normalised correlation of pictures [N, 28, 28]: [N]; 0 where there is next to no contrast."""
    one, other = (x - x.mean((1, 2), keepdims=True) for x in (one, other))
    spread = np.maximum(one.std((1, 2)), _faintest()) * np.maximum(other.std((1, 2)), _faintest())
    return (one * other).mean((1, 2)) / spread


@functools.cache
def _images():
    return np.float32(glyphs()) / 255


def _faintest():
    return FAINTEST * _images().std((1, 2)).mean()


def _spectrum(pictures):
    return scipy.fft.rfft2(pictures, (CANVAS, CANVAS))


def _correlate(pictures, images):
    """Products of pictures with images at every place, from their spectra: [N, images, 37, 37]."""
    product = scipy.fft.irfft2(pictures[:, None] * images.conj(), (CANVAS, CANVAS))
    return product[:, :, : ROOM + 1, : ROOM + 1]


def _draw(labels, corners):
    """Frames of one digit each, [N, 64, 64]."""
    frames = np.zeros([len(labels), CANVAS, CANVAS], np.float32)
    for frame, label, (top, left) in zip(frames, labels, corners, strict=True):
        frame[top : top + GLYPH, left : left + GLYPH] = _images()[label]
    return frames


def _window(frames, corners):
    """The square of each frame at its corner, [N, 28, 28]."""
    squares = np.lib.stride_tricks.sliding_window_view(frames, (GLYPH, GLYPH), (1, 2))
    return squares[np.arange(len(frames)), corners[:, 0], corners[:, 1]]


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
