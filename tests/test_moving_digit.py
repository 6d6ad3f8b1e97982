"""Video with known factors: what it shows, what batches carry, and how well frames are read."""

import itertools

import numpy as np
import pytest

import data_loader
from config import Config
from video_data import digits, moving_digit, moving_digits


def test_a_video_depends_on_its_arguments_alone():
    one = moving_digit.video("train", 3, 40)
    for name, shape, dtype in [("video", (40, 64, 64, 1), "uint8"), ("label", (1,), "int64"),
                               ("position", (40, 1, 2), "float32")]:
        assert one[name].shape == shape and one[name].dtype == dtype
        np.testing.assert_array_equal(one[name], moving_digit.video("train", 3, 40)[name])
    np.testing.assert_array_equal(one["video"][:15], moving_digit.video("train", 3, 15)["video"])
    others = [moving_digit.video(*other) for other in [
        ("val", 3, 40), ("test", 3, 40), ("train", 4, 40)]]
    assert all((one["position"] != other["position"]).any() for other in others)


@pytest.mark.parametrize("count", [1, 2])
def test_digits_are_drawn_where_the_factors_say(count):
    video = moving_digit.video("test", 7, 30, count)
    expected = np.zeros([30, 64, 64], np.uint8)
    for frame, places in zip(expected, video["position"].astype(int), strict=True):
        for label, (top, left) in zip(video["label"], places, strict=True):
            alone = np.zeros_like(frame)
            alone[top : top + 28, left : left + 28] = digits.glyphs()[label]
            frame[:] = np.maximum(frame, alone)
    np.testing.assert_array_equal(video["video"][..., 0], expected)


def test_labels_are_balanced():
    labels = np.array([moving_digit.video("test", index, 1, 2)["label"] for index in range(100)])
    assert len(np.unique(labels, axis=0)) == 100  # Every pair once.
    assert all(len(set(labels[start : start + 10, 0])) == 10 for start in range(0, 100, 10))


def test_glyphs_are_whole_and_different():
    glyphs = digits.glyphs().astype(float)
    assert not glyphs[:, [0, -1]].any() and not glyphs[:, :, [0, -1]].any()
    for one, other in itertools.combinations(glyphs, 2):
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] < 0.9


# -------------------------------------------------------------------------------- batches


def test_factors_reach_batches(tmp_path, monkeypatch):
    monkeypatch.setitem(
        moving_digit.MovingDigit.SIZES, "two", (2, (4, 20), (3, 30), (12, 40)))
    config = Config(dataset="moving_digits_clean", data_root=str(tmp_path), seq_len=10,
                    eval_seq_len=15, frame_skip=2, batch_size=3, open_loop_ctx=6, tmp_abs_factor=1)
    for split, number in [("val", 3), ("test", 12)]:
        sequences = data_loader.Sequences(config, 15, split)
        assert len(sequences) == number
        batch = sequences.batch(0, 20)
        for index in range(number):  # In this order: the first ten have all ten digits.
            expected = moving_digit.video(split, index, 30, 2)
            np.testing.assert_array_equal(batch["video"][index], expected["video"][::2])
            np.testing.assert_array_equal(batch["label"][index], [expected["label"]] * 15)
            np.testing.assert_array_equal(batch["position"][index], expected["position"][::2])
    assert batch["label"].dtype == np.int64 and batch["position"].dtype == np.float32
    clips = data_loader.Clips(config)
    assert clips.num_clips == 4 and clips.batch(0)["position"].shape == (3, 10, 2, 2)
    assert clips.batch(0)["label"].shape == (3, 10, 2)


def test_frames_of_another_size_have_no_factors_in_pixels(tmp_path, monkeypatch):
    monkeypatch.setitem(
        moving_digit.MovingDigit.SIZES, "one_demo", (1, (1, 10), (1, 10), (2, 10)))
    config = Config(dataset="moving_digit_demo", data_root=str(tmp_path), seq_len=10, image_size=32,
                    open_loop_ctx=6, tmp_abs_factor=1)
    batch = data_loader.Sequences(config, 10).batch(0, 2)
    assert list(batch) == ["video", "label"] and batch["video"].shape == (2, 10, 32, 32, 1)


def test_validation_uses_the_test_videos_where_there_are_no_others(tmp_path, monkeypatch):
    monkeypatch.setitem(moving_digits.MovingDigits.SIZES, "demo", ((2, 20), (2, 20)))
    config = Config(dataset="moving_digits_demo", data_root=str(tmp_path), seq_len=20,
                    open_loop_ctx=6, tmp_abs_factor=1)
    val, test = (data_loader.Sequences(config, 20, split).batch(0, 2) for split in ("val", "test"))
    np.testing.assert_array_equal(val["video"], test["video"])
    assert list(val) == ["video"]


# --------------------------------------------------------------------------------- reading


def read(count, videos=20, frames=30):
    """Frames of several videos, what they show [N, count], [N, count, 2], and what is read."""
    made = [moving_digit.video("test", index, frames, count) for index in range(videos)]
    labels = np.repeat([video["label"] for video in made], frames, 0)
    positions = np.concatenate([video["position"] for video in made])
    return labels, positions, *digits.read_digits(
        np.concatenate([video["video"] for video in made]), count)


def right(labels, found):
    """Devices of the digits that were found, in any order."""
    return np.mean(np.sort(labels, 1) == np.sort(found, 1))


@pytest.mark.parametrize("count, least", [(1, 0.99), (2, 0.97)])
def test_true_frames_are_read(count, least):
    labels, positions, found, places = read(count)
    assert found.dtype.kind == "i" and found.shape == labels.shape and places.shape == positions.shape
    assert right(labels, found) >= least
    distances = np.linalg.norm(positions[:, :, None] - places[:, None], axis=-1)  # [N, true, read]
    same = labels[:, :, None] == found[:, None]
    nearest = np.where(same, distances, np.inf).min(2)
    assert (nearest <= 0.5).mean() >= least


def test_shuffled_labels_score_chance():
    labels, _, found, _ = read(1, videos=100, frames=3)
    shuffled = np.random.default_rng(0).permutation(labels)
    assert 0.02 < right(shuffled, found) < 0.2


@pytest.mark.parametrize("count", [1, 2])
def test_nothing_is_read_where_nothing_is(count):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, [40, 64, 64, 1], np.uint8)
    faint = moving_digit.video("test", 0, 1)["video"] // 64
    for frames in [noise, noise // 50, np.zeros_like(noise), np.full_like(noise, 255), faint]:
        labels, positions = digits.read_digits(frames, count)
        assert (labels == -1).all() and np.isnan(positions).all()


def test_blurred_and_dim_digits_are_read():
    video = moving_digit.video("test", 4, 20)
    frames = video["video"] // 2
    frames = (frames // 2 + np.roll(frames, 1, 1) // 2)
    labels, positions = digits.read_digits(frames, 1)
    assert (labels == video["label"]).all()
    assert np.abs(positions - video["position"]).max() <= 1


def test_one_digit_of_two_is_one_and_nothing():
    video = moving_digit.video("test", 4, 20)
    labels, positions = digits.read_digits(video["video"], 2)
    assert ((labels == 4).sum(1) == 1).all() and ((labels == -1).sum(1) == 1).all()
    np.testing.assert_array_equal(positions[labels == 4], video["position"][:, 0])


def test_no_frames_are_no_digits():
    labels, positions = digits.read_digits(np.zeros([0, 64, 64, 1], np.uint8), 2)
    assert labels.shape == (0, 2) and positions.shape == (0, 2, 2)
