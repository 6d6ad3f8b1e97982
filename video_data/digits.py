"""Draws ten digits that move over a black canvas, reads them in frames, and compares them."""

import functools
import importlib.util
import itertools
import os

import numpy as np
import scipy.fft
from PIL import Image, ImageDraw, ImageFont

CANVAS = 64  # pixels, of a frame
GLYPH = 28  # pixels, of the square that a digit is drawn in
ROOM = CANVAS - GLYPH  # pixels a digit can move in either direction
DIGITS = 10
FACE, FONT_SIZE = "DejaVuSans-Bold", 36  # Digits 26 pixels high.
READ_AT_ONCE = 16  # frames; their correlations are 14,000 numbers each
READABLE = 0.5  # correlation of a frame with what is read in it
FAINTEST = 0.1  # contrast below which nothing is read, as a share of a digit's


# ---------------------------------------------------------------------------------- drawing, moving


def font_file(face):
    """The path of a font that comes with matplotlib, without its import, which takes long."""
    (folder,) = importlib.util.find_spec("matplotlib").submodule_search_locations
    return os.path.join(folder, "mpl-data", "fonts", "ttf", f"{face}.ttf")


def path(rng, length, speeds=(2, 5)):
    """Returns a digit's row and column (of its upper left corner) in every frame: int [length, 2].

    speeds: the least and the greatest, in pixels a frame.
    """
    start = rng.uniform(0, ROOM, 2)
    angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(*speeds)
    velocity = speed * np.array([np.sin(angle), np.cos(angle)])
    straight = start[:, None] + velocity[:, None] * np.arange(length)
    bounced = ROOM - np.abs(straight % (2 * ROOM) - ROOM)  # Folds the line at both borders.
    return np.rint(bounced).astype(int).T


def animate(images, corners):
    """Draws images that move over a black canvas; where they overlap, the brighter pixel shows.

    images: uint8 [D, 28, 28]. corners: int [T, D, 2], rows and columns. Returns uint8 [T, 64, 64, 1].
    """
    frames = np.zeros([len(corners), CANVAS, CANVAS, 1], np.uint8)
    for frame, places in zip(frames, corners, strict=True):
        for image, (top, left) in zip(images, places, strict=True):
            patch = frame[top : top + GLYPH, left : left + GLYPH, 0]
            np.maximum(patch, image, out=patch)
    return frames


@functools.cache
def glyphs(face=FACE, size=FONT_SIZE):
    """The ten digits, uint8 [10, 28, 28], each in the middle of its square."""
    font = ImageFont.truetype(font_file(face), size)
    drawn = []
    for digit in range(DIGITS):
        left, top, right, bottom = font.getbbox(str(digit))
        image = Image.new("L", (GLYPH, GLYPH))
        corner = (GLYPH - right - left) // 2, (GLYPH - bottom - top) // 2
        ImageDraw.Draw(image).text(corner, str(digit), fill=255, font=font)
        drawn.append(np.asarray(image))
    return np.stack(drawn)


# ------------------------------------------------------------------------------------------ reading


def read_digits(frames, count):
    """Reads which digits each frame shows, and where, by comparing it with their images.

    The first digit is the one whose image has the best normalised correlation with a square of the
    frame. A second digit is looked for in what the first leaves over. Then each is looked for again in
    what the other leaves over.

    frames: uint8 [N, 64, 64, 1].
    count: how many digits to read, 1 or 2.

    Returns (labels, positions). labels: int [N, count], in no particular order; -1 where nothing is
        read, since the correlation is below 0.5 or there is next to no contrast. positions: float
        [N, count, 2], row and column of each digit's corner; NaN where nothing is read.
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

    Where the other digit is bright, nothing else can be seen. The score of an image is the square root
    of the squared error that it removes from what is left over, at its best brightness.
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
    """The products of pictures with images at every place, by their spectra: [N, images, 37, 37]."""
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


# ---------------------------------------------------------------------------------------- comparing


_last_read = None, None  # frames, and their digits: two metrics ask for the same frames


def _read_once(frames, count):
    """read_digits of frames [B, S, F, 64, 64, 1]: [B, S, F, D] and [B, S, F, D, 2]."""
    global _last_read
    if _last_read[0] is not frames:
        leading = frames.shape[:3]
        labels, positions = read_digits(frames.reshape(-1, *frames.shape[3:]), count)
        _last_read = frames, (labels.reshape(*leading, count), positions.reshape(*leading, count, 2))
    return _last_read[1]


def compare_digits(prediction, label, position):
    """Reads the digits in predicted frames, and compares them with the true ones.

    Each true digit is paired with one that was read. Of all ways to pair them, that with the most right
    digits counts; of several, that with the least distance.

    Args:
        prediction: uint8 [B, S, F, 64, 64, 1], or with 1 for F where it is the same for all frames.
        label: int [B, F, D], which digits there are.
        position: float [B, F, D, 2], where they are.

    Returns:
        right: bool [B, S, F, D], whether the true digit is read.
        distance: float [B, S, F, D], from its true place to where it is read, in pixels; where nothing
            is read, the mean distance of a random place.
    """
    count = label.shape[-1]
    labels, positions = _read_once(prediction, count)
    true_labels, true_positions = label[:, None], position[:, None]
    orders = list(itertools.permutations(range(count)))
    distance = np.stack([
        np.linalg.norm(positions[..., order, :] - true_positions, axis=-1) for order in orders])
    distance = np.where(np.isnan(distance), random_distance(true_positions), distance)
    right = np.stack([np.broadcast_to(labels[..., order] == true_labels, distance.shape[1:])
                      for order in orders])
    quality = (right - distance / 1000).sum(-1, keepdims=True)  # No distance reaches 1000.
    best = quality.argmax(0, keepdims=True)
    return tuple(np.take_along_axis(one, best, 0)[0] for one in (right, distance))


def random_distance(positions):
    """The mean distance of positions [..., 2] to all places that a digit can have: [...]."""
    rows, columns = np.moveaxis(np.rint(positions).astype(int).clip(0, ROOM), -1, 0)
    return _random_distances()[rows, columns]


@functools.cache
def _random_distances():
    """The mean distance of every place to all places, [37, 37]."""
    places = np.stack(np.meshgrid(*[np.arange(ROOM + 1)] * 2, indexing="ij"), -1)
    return np.linalg.norm(places - places[:, :, None, None], axis=-1).mean((2, 3))
