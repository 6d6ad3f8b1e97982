"""Makes Moving MNIST (Srivastava et al. 2015) from MNIST: two handwritten digits that bounce.

The digits come from MNIST's four files in data_root, plain or packed by gzip. If none of these is
there, TensorFlow Datasets downloads its `mnist`. Training videos show MNIST's training digits, except
the last 10,000: validation videos show these. Test videos show MNIST's test digits.
"""

import contextlib
import gzip
import hashlib
import itertools
import os
import struct
import zlib

import numpy as np

from tools import UserError
from video_data import store
from video_data.digits import GLYPH, animate, path

VERSION = "1"  # Increased when other videos are made than before.
SPLITS = ("train", "val", "test")
SIZES = {size: {"train": (number, 100), "val": (100, 400), "test": (100, 1000)}
         for size, number in (("full", 2000), ("large", 40000))}
URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"  # where TensorFlow Datasets finds it
SPEEDS = 2, 6  # pixels a frame
PARTS = {"train": "train", "val": "train", "test": "t10k"}  # The files that a split's digits are in.
VALIDATION = 1 / 6  # share of the training digits that are for validation: the last 10,000
TYPES = {"images": 3, "labels": 1}  # The dimensions of the files.


def source(config, prepared):
    """A text that changes with what is made.

    prepared: this text when the stores were made, or None. It still holds if the files are gone.
    """
    found = _files(config.data_root)
    if not found:
        return prepared or f"moving_mnist {VERSION}, MNIST by TensorFlow Datasets"
    digest = hashlib.sha256()
    for key in sorted(found):
        with open(found[key], "rb") as file:
            file.seek(-min(4096, os.path.getsize(found[key])), os.SEEK_END)
            digest.update(file.read())
    return f"moving_mnist {VERSION}, {digest.hexdigest()}"


def make(config, wanted):
    """Makes the wanted videos, a list of (split, index, frames). Yields (split, index, arrays).

    arrays: as `video` returns them.
    """
    mnist = read_mnist(config.data_root, store.home(config))
    for split, index, length in wanted:
        yield split, index, video(split, index, length, *digits_of(mnist, split))


def video(split, index, length, images, labels):
    """Makes a video, which depends on the arguments alone.

    A shorter video is the beginning of the longer one with the same index.
    images: uint8 [N, 28, 28], handwritten digits. labels: int [N], which digits these are.

    Returns a dict: `video` uint8 [length, 64, 64, 1]; `digits` int64 [2], which digits it shows;
        `position` float32 [length, 2, 2]: row and column, 0 to 36, of the upper left pixel of each
        digit's square of 28 x 28 in a frame of 64 x 64.
    """
    rng = np.random.default_rng([SPLITS.index(split), index])
    chosen = rng.integers(len(images), size=2)
    corners = np.stack([path(rng, length, SPEEDS) for _ in chosen], 1)
    return {"video": animate(images[chosen], corners), "digits": np.int64(labels[chosen]),
            "position": np.float32(corners)}


def digits_of(mnist, split):
    """The images and labels that the videos of a split show. mnist: as read_mnist returns it."""
    images, labels = mnist[PARTS[split]]
    kept = round(len(images) * (1 - VALIDATION))
    part = {"train": slice(kept), "val": slice(kept, None), "test": slice(None)}[split]
    return images[part], labels[part]


def read_mnist(data_root, home=None):
    """Reads MNIST: a dict of `train` and `t10k`, each (images uint8 [N, 28, 28], labels uint8 [N]).

    home: the folder to download to; by default data_root.
    Raises UserError where a file is missing or damaged, or where the download fails.
    """
    found = _files(data_root)
    if not found:
        return _download(data_root, home or data_root)
    for part, kind in itertools.product(("train", "t10k"), TYPES):
        if (part, kind) not in found:
            raise UserError(f"data_root: {data_root} has some of MNIST's files but not "
                            f"{part}-{kind}-idx{TYPES[kind]}-ubyte; add it")
    read = {}
    for part in ("train", "t10k"):
        images, labels = (_read_idx(found[part, kind], TYPES[kind]) for kind in TYPES)
        square = images.shape[1:] == (GLYPH,) * 2
        if not (square and len(images) == len(labels) > 0):
            raise UserError(f"{found[part, 'images']} has images {list(images.shape)}, and "
                            f"{found[part, 'labels']} {len(labels)} labels; MNIST has one label for "
                            "each image of 28 x 28")
        read[part] = images, labels
    return read


def _files(data_root):
    """The paths of MNIST's files in data_root by (part, kind), under any of their usual names."""
    found = {}
    for part, kind, ending, separator in itertools.product(
            ("train", "t10k"), TYPES, ("", ".gz"), ("-", ".")):
        name = f"{part}-{kind}{separator}idx{TYPES[kind]}-ubyte{ending}"
        if os.path.isfile(os.path.join(data_root, name)):
            found.setdefault((part, kind), os.path.join(data_root, name))
    return found


def _read_idx(path, dimensions):
    """Reads a file of MNIST's format IDX, uint8 of so many dimensions. Raises UserError for another.

    It begins with two zeros, 8 for bytes, the number of dimensions, and the size of each, big-endian.
    """
    try:
        with gzip.open(path) if path.endswith(".gz") else open(path, "rb") as file:
            content = file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged ({error}); put MNIST's file there again") from None
    start = 4 + 4 * dimensions
    shape = ()
    with contextlib.suppress(struct.error):
        shape = struct.unpack(f">{dimensions}I", content[4:start])
    if content[:4] != bytes([0, 0, 8, dimensions]) or len(content) - start != np.prod(shape):
        raise UserError(f"{path} is no whole IDX file of {dimensions} dimensions; put MNIST's file "
                        "there again")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _download(data_root, home):
    """Reads the `mnist` of TFDS in data_root, or downloads it to home. Returns as read_mnist."""
    import requests  # These two are slow to import, and most starts do without them.
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder("mnist", data_dir=data_root if os.path.isdir(
            os.path.join(data_root, "mnist")) else home)
        if not builder.is_prepared():
            requests.head(URL, timeout=60)  # TFDS would try for minutes.
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except (requests.RequestException, tfds.download.DownloadError) as error:
        raise UserError(f"cannot download MNIST ({error}); try again, or put its four files, "
                        f"train-images-idx3-ubyte.gz and so on, into {data_root}") from None
    read = {}
    for part, split in (("train", "train"), ("t10k", "test")):
        examples = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1, shuffle_files=False))
        read[part] = examples["image"][..., 0], examples["label"].astype(np.uint8)
    return read
