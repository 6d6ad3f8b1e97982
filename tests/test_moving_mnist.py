"""Moving MNIST of MNIST: which digits are read, what is made of them, and files that are wrong."""

import gzip
import os
import struct

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds

import data_loader
import metrics
from config import Config
from predictor import factors_of
from tools import UserError
from video_data import moving_mnist

RNG = np.random.default_rng(0)
# Six and four digits; each image is told by its first pixel.
TRAIN = RNG.integers(1, 256, [6, 28, 28], np.uint8), np.array([5, 0, 4, 1, 9, 2], np.uint8)
TEST = RNG.integers(1, 256, [4, 28, 28], np.uint8), np.array([7, 2, 1, 0], np.uint8)
SMALL = {"train": (4, 20), "val": (2, 24), "test": (3, 30)}


def write_idx(path, array, packed=False):
    """Writes a file as MNIST's."""
    content = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
    with gzip.open(path, "wb") if packed else open(path, "wb") as file:
        file.write(content)


def write_mnist(folder, ending="", separator="-", train=TRAIN, test=TEST):
    folder.mkdir(exist_ok=True)
    for part, (images, labels) in {"train": train, "t10k": test}.items():
        write_idx(folder / f"{part}-images{separator}idx3-ubyte{ending}", images, bool(ending))
        write_idx(folder / f"{part}-labels{separator}idx1-ubyte{ending}", labels, bool(ending))


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setitem(moving_mnist.SIZES, "full", SMALL)
    return Config(dataset="moving_mnist", data_root=str(tmp_path / "data"), seq_len=10, eval_seq_len=30,
                  batch_size=4, open_loop_ctx=4, tmp_abs_factor=2)


@pytest.mark.parametrize(("ending", "separator"), [("", "-"), (".gz", "-"), ("", ".")])
def test_the_four_files_are_read(ending, separator, tmp_path):
    write_mnist(tmp_path, ending, separator)
    read = moving_mnist.read_mnist(str(tmp_path))
    for part, expected in (("train", TRAIN), ("t10k", TEST)):
        for found, array in zip(read[part], expected, strict=True):
            np.testing.assert_array_equal(found, array)


def test_splits_share_no_digit():
    mnist = {"train": (np.arange(60000), np.arange(60000)), "t10k": (np.arange(10000), np.arange(10000))}
    splits = {split: moving_mnist.digits_of(mnist, split)[0] for split in moving_mnist.SPLITS}
    assert [len(images) for images in splits.values()] == [50000, 10000, 10000]
    assert splits["train"].max() < splits["val"].min() == 50000  # The test digits are other files'.


def test_videos_show_their_digits_where_they_say():
    image_of = dict(zip(TRAIN[1].tolist(), TRAIN[0], strict=True))
    for index in range(20):
        made = moving_mnist.video("train", index, 50, *TRAIN)
        assert made["video"].shape == (50, 64, 64, 1) and made["video"].dtype == np.uint8
        assert made["digits"].shape == (2,) and made["position"].shape == (50, 2, 2)
        expected = np.zeros([50, 64, 64], np.uint8)
        for frame, places in zip(expected, made["position"].astype(int), strict=True):
            for digit, (top, left) in zip(made["digits"].tolist(), places, strict=True):
                patch = frame[top : top + 28, left : left + 28]
                np.maximum(patch, image_of[digit], out=patch)
        np.testing.assert_array_equal(made["video"][..., 0], expected)


def test_digits_move_by_two_to_six_pixels_and_bounce():
    speeds = []
    for index in range(200):
        made = moving_mnist.video("test", index, 40, *TEST)
        position = made["position"]
        assert position.min() >= 0 and position.max() <= 36
        steps = np.abs(np.diff(position, axis=0))
        assert steps.max() <= 7  # 6 and what rounding adds.
        # Between borders a digit moves on evenly; its largest steps are those without a bounce.
        speeds += list(np.hypot(*np.moveaxis(np.quantile(steps, 0.6, axis=0), -1, 0)))
    assert min(speeds) > 1.5 and max(speeds) < 7 and 3.5 < np.mean(speeds) < 4.5


def test_a_video_is_a_function_of_split_and_index_alone():
    one = moving_mnist.video("train", 3, 40, *TRAIN)
    for name, values in moving_mnist.video("train", 3, 15, *TRAIN).items():
        np.testing.assert_array_equal(values, one[name][: len(values)])
    for other in (("train", 4), ("val", 3), ("test", 3)):
        assert (moving_mnist.video(*other, 40, *TRAIN)["position"] != one["position"]).any()


def test_batches_hold_videos_of_the_files_with_what_is_known_of_them(config, tmp_path):
    write_mnist(tmp_path / "data")
    clips, sequences = data_loader.Clips(config), data_loader.Sequences(config, 30)
    assert clips.num_clips == 8 and len(sequences) == 3
    batch = sequences.batch(0, 3)
    for index in range(3):
        made = moving_mnist.video("test", index, 30, *TEST)
        np.testing.assert_array_equal(batch["video"][index], made["video"])
        np.testing.assert_array_equal(batch["position"][index], made["position"])
        np.testing.assert_array_equal(batch["digits"][index], np.tile(made["digits"], (30, 1)))
    # Its digits are not of the ten images that `identity` knows.
    assert "identity" not in [metric.name for metric in metrics.chosen(factors=factors_of(batch))]
    val = data_loader.Sequences(config, 24, "val").batch(0, 1)["video"][0]
    np.testing.assert_array_equal(
        val, moving_mnist.video("val", 0, 24, TRAIN[0][5:], TRAIN[1][5:])["video"])
    small = data_loader.Sequences(config.replace(image_size=32), 30).batch(0, 1)
    assert small["video"].shape[2:] == (32, 32, 1) and "position" not in small
    # Digits of another size are not read.
    assert "digits" not in [metric.name for metric in metrics.chosen(factors=factors_of(small))]


def test_the_large_dataset_differs_in_the_number_of_training_videos_alone(config, monkeypatch, tmp_path):
    write_mnist(tmp_path / "data")
    monkeypatch.setitem(moving_mnist.SIZES, "large", SMALL | {"train": (6, 20)})
    larger = config.replace(dataset="moving_mnist_large")
    assert data_loader.Clips(larger).num_clips == 12
    for split, frames in (("val", 24), ("test", 30)):
        videos = [data_loader.Sequences(one, frames, split).batch(0, 2)["video"]
                  for one in (config, larger)]
        np.testing.assert_array_equal(*videos)


def test_stores_outlive_their_files_but_not_other_files(config, tmp_path):
    write_mnist(tmp_path / "data")
    before = data_loader.Clips(config).batch(0)["video"]
    for name in os.listdir(tmp_path / "data"):
        if name.endswith("ubyte"):
            os.remove(tmp_path / "data" / name)
    np.testing.assert_array_equal(data_loader.Clips(config).batch(0)["video"], before)
    write_mnist(tmp_path / "data")
    write_idx(tmp_path / "data" / "train-images-idx3-ubyte", 255 - TRAIN[0])
    assert (data_loader.Clips(config).batch(0)["video"] != before).any()


def test_what_is_made_goes_to_cache_root(config, tmp_path):
    write_mnist(tmp_path / "data")
    before = sorted(os.listdir(tmp_path / "data"))
    cached = config.replace(cache_root=str(tmp_path / "cache"))
    batch = data_loader.Clips(cached).batch(0)
    assert sorted(os.listdir(tmp_path / "data")) == before
    np.testing.assert_array_equal(batch["video"], data_loader.Clips(config).batch(0)["video"])


def test_a_missing_file_is_named(config, tmp_path):
    write_mnist(tmp_path / "data")
    os.remove(tmp_path / "data" / "t10k-labels-idx1-ubyte")
    with pytest.raises(UserError, match="some of MNIST's files but not t10k-labels-idx1-ubyte"):
        data_loader.Clips(config)


@pytest.mark.parametrize("damage", ["cut", "other type", "packed", "other size", "empty"])
def test_a_wrong_file_is_named(damage, config, tmp_path):
    write_mnist(tmp_path / "data", ".gz" if damage == "packed" else "")
    path = tmp_path / "data" / "train-images-idx3-ubyte"
    words = "is no whole IDX file of 3 dimensions"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "other type":
        write_idx(path, TRAIN[1])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "other size":
        write_idx(path, TRAIN[0][:, :20])
        words = r"has images \[6, 20, 28\]"
    else:
        path = tmp_path / "data" / "train-images-idx3-ubyte.gz"
        path.write_bytes(path.read_bytes()[:-300])
        words = "is damaged"
    with pytest.raises(UserError, match=words):
        data_loader.Clips(config)
    assert not (tmp_path / "data" / "moving_mnist_of_mnist" / "full.frames" / "header.json").exists()


class _Mnist:
    """Stands in for TensorFlow Datasets' builder of MNIST."""

    def __init__(self, name, data_dir):
        assert name == "mnist"

    def is_prepared(self):
        return True

    def download_and_prepare(self, download_config):
        pass

    def as_dataset(self, split, batch_size, shuffle_files):
        images, labels = {"train": TRAIN, "test": TEST}[split]
        return {"image": images[..., None], "label": labels.astype(np.int64)}


def test_without_files_mnist_is_that_of_tensorflow_datasets(config, monkeypatch):
    monkeypatch.setattr(tfds, "builder", _Mnist)
    monkeypatch.setattr(tfds, "as_numpy", lambda dataset: dataset)
    made = moving_mnist.video("test", 2, 30, *TEST)["video"]
    np.testing.assert_array_equal(data_loader.Sequences(config, 30).batch(2, 1)["video"][0], made)


@pytest.mark.parametrize("begun", [False, True])
def test_a_download_that_fails_is_one_line(begun, config, monkeypatch):
    def fails(*_, **__):
        raise requests.ConnectionError("no route to host")

    monkeypatch.setattr(tfds, "builder", _Mnist)
    monkeypatch.setattr(_Mnist, "is_prepared", lambda self: False)
    # TFDS tries for minutes, so it is not asked where nothing answers.
    asked = []
    monkeypatch.setattr(requests, "head", (lambda *_, **__: None) if begun else fails)
    monkeypatch.setattr(_Mnist, "download_and_prepare",
                        fails if begun else lambda *_, **__: asked.append(1))
    with pytest.raises(UserError, match="cannot download MNIST .*no route.*put its four files"):
        data_loader.Clips(config)
    assert not asked


def test_other_channels_are_refused_before_anything_is_made(config, tmp_path):
    write_mnist(tmp_path / "data")
    with pytest.raises(UserError, match="channels: 3 does not match moving_mnist; nearest: 1"):
        data_loader.Clips(config.replace(channels=3))
    assert not (tmp_path / "data" / "moving_mnist_of_mnist").exists()
    with pytest.raises(UserError, match="actions: moving_mnist has none"):
        data_loader.Clips(config.replace(actions=True))
