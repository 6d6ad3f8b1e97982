"""Reads pictures: files of one picture each, and files of several (TIFF, WebP)."""

import fractions
import os
import struct

import numpy as np
from PIL import Image, ImageOps

from video_data.arrays import check_type
from video_data.frames import Broken

# What Pillow and NumPy raise on damaged files, and on files of another format.
DAMAGED = (ValueError, TypeError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError)


def frame_of(path):
    """Reads a file of one picture, an image or an array, as [1, H, W, C]. Raises Broken."""
    name = os.path.basename(path)
    try:
        if path.lower().endswith(".npy"):
            pixels = np.load(path, allow_pickle=False)
            if pixels.ndim not in (2, 3) or pixels.ndim == 3 and pixels.shape[-1] not in (1, 3, 4):
                raise Broken(f"has the shape {list(pixels.shape)}, not that of one frame")
            pixels = pixels[None, ..., None] if pixels.ndim == 2 else pixels[None]
            check_type(pixels.dtype)
            return pixels
        with Image.open(path) as image:
            return _pixels(ImageOps.exif_transpose(image))
    except Broken as error:
        raise Broken(f"{name} {error}") from None
    except OSError as error:
        if error.errno:
            raise
        raise Broken(f"{name}: {error}") from None
    except DAMAGED as error:
        raise Broken(f"{name}: {error}") from None


def _pixels(image):
    """The pixels of a Pillow image, as [1, H, W, C]."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
    elif not image.mode.startswith(("I", "F")):  # Pixels of 16 or 32 bits stay as they are.
        image = image.convert("L" if image.mode in ("1", "L") else "RGB")
    pixels = np.asarray(image)
    pixels = pixels[None, ..., None] if pixels.ndim == 2 else pixels[None]
    check_type(pixels.dtype)
    return pixels


def pages(path):
    """Yields (start, end, pixels [1, H, W, C]) of each picture in a file of several.

    start, end: in seconds, or None without times. Raises Broken where a picture cannot be read.
    """
    start = fractions.Fraction(0)
    try:
        with Image.open(path) as image:
            for number in range(image.n_frames):
                image.seek(number)
                pixels = _pixels(image)
                lasts = image.info.get("duration")
                end = None if lasts is None else start + fractions.Fraction(round(lasts), 1000)
                yield (None if end is None else start), end, pixels
                start = end or start
    except DAMAGED as error:
        raise Broken(f"is damaged: {error}") from None


def count_pages(path):
    """How many pictures a file holds."""
    with Image.open(path) as image:
        return image.n_frames


def rate_of(spans):
    """Frames a second of (start, end) pairs, if all last equally long; else None."""
    lengths = {None if end is None else end - start for start, end in spans}
    (length,) = lengths if len(lengths) == 1 else (None,)
    return float(1 / length) if length else None
