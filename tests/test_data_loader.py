"""The loader: which clips a step reads, what is in them, and videos of one's own."""

import contextlib
import errno
import glob
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
import twins
from PIL import Image

import data_loader
from config import Config
from tools import UserError
from video_data import store, videos

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

pytestmark = pytest.mark.usefixtures("kept_readers")


def counting(number, length, channels=1, size=64):
    """A video whose frame t says which video and frame it is: uint8 [length, size, size, channels]."""
    video = np.zeros([length, size, size, channels], np.uint8)
    video[:, 0, 0], video[:, 0, 1] = number, np.arange(length)[:, None]
    return video


def folder_of(tmp_path, lengths, test=(12, 30), **options):
    """Writes a folder of videos with train/ and test/; returns the path."""
    for split, numbers in (("train", lengths), ("test", test)):
        os.makedirs(tmp_path / "videos" / split)
        for number, length in enumerate(numbers):
            np.save(tmp_path / "videos" / split / f"{number:02d}.npy",
                    counting(number, length, **options))
    return str(tmp_path / "videos")


def config_for(root, **settings):
    return Config(**{
        "dataset": "videos", "data_root": root, "seq_len": 5, "eval_seq_len": 12, "batch_size": 4,
        "tmp_abs_factor": 2, "open_loop_ctx": 4, **settings})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder of 27 clips of 5 frames."""
    return folder_of(tmp_path_factory.mktemp("loader"), [4, 23, 5, 60, 52])


def where(batch):
    """The (video, first frame) of each clip of a batch, by what its frames say."""
    return [(int(clip[0, 0, 0, 0]), int(clip[0, 0, 1, 0])) for clip in batch["video"]]


# ---------------------------------------------------------------------------------------- order


def test_an_epoch_reads_every_clip_once_and_clips_do_not_overlap(root):
    clips = data_loader.Clips(config_for(root, batch_size=9))
    assert clips.num_clips == 27 and clips.steps_per_epoch == 3
    seen = [place for step in range(3) for place in where(clips.batch(step))]
    assert sorted(seen) == [(video, 5 * clip) for video, count in ((1, 4), (2, 1), (3, 12), (4, 10))
                            for clip in range(count)]
    batch = clips.batch(0)["video"]
    assert batch.shape == (9, 5, 64, 64, 1) and batch.dtype == np.uint8
    for clip in batch:  # Frames in order, of one video.
        np.testing.assert_array_equal(np.diff(clip[:, 0, 1, 0]), 1)
        assert len(set(clip[:, 0, 0, 0])) == 1


def test_every_epoch_has_an_order_of_its_own(root):
    clips = data_loader.Clips(config_for(root, batch_size=27))
    epochs = [clips.indices(step) for step in range(6)]
    for order in epochs:
        np.testing.assert_array_equal(np.sort(order), np.arange(27))
    assert len({order.tobytes() for order in epochs}) == 6
    # A full shuffle: what is next to each other in one epoch is not in another.
    pairs = [set(zip(order[:-1], order[1:], strict=True)) for order in epochs]
    assert len(pairs[0] & pairs[1]) < 8


def test_the_order_is_a_function_of_seed_and_step(root):
    clips, again = (data_loader.Clips(config_for(root)) for _ in range(2))
    for step in (0, 1000, 3, 10**6):
        np.testing.assert_array_equal(clips.indices(step), again.indices(step))
        np.testing.assert_array_equal(clips.batch(step)["video"], again.batch(step)["video"])
    other = data_loader.Clips(config_for(root, seed=1))
    assert any((clips.indices(step) != other.indices(step)).any() for step in range(3))


def test_batches_straddle_epochs_without_losing_a_clip(root):
    clips = data_loader.Clips(config_for(root, batch_size=4))
    order = np.concatenate([clips.indices(step) for step in range(27)])
    for epoch in order.reshape(4, 27):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(27))


def test_a_batch_may_be_larger_than_an_epoch(root):
    clips = data_loader.Clips(config_for(root, batch_size=60))
    assert clips.batch(0)["video"].shape[0] == 60
    assert np.bincount(clips.indices(0), minlength=27).min() == 2


def test_workers_share_the_global_batch(root):
    config = config_for(root, batch_size=6)
    whole = data_loader.Clips(config).batch(11)["video"]
    shares = [data_loader.Clips(config, worker, 3).batch(11)["video"] for worker in range(3)]
    assert [len(share) for share in shares] == [2, 2, 2]
    np.testing.assert_array_equal(np.concatenate(shares), whole)
    with pytest.raises(UserError, match="batch_size: 6 clips cannot be shared evenly by 4 workers"):
        data_loader.Clips(config, 0, 4)


def test_frame_skip_keeps_every_nth_frame(root):
    clips = data_loader.Clips(config_for(root, frame_skip=3))
    assert clips.num_clips == 1 + 4 + 3  # Of 23, 60 and 52 frames, 8, 20 and 18 are kept.
    for step in range(3):
        for clip in clips.batch(step)["video"]:
            np.testing.assert_array_equal(np.diff(clip[:, 0, 1, 0]), 3)
            assert clip[0, 0, 1, 0] % 15 == 0
    sequences = data_loader.Sequences(config_for(root, frame_skip=3), 10)
    np.testing.assert_array_equal(sequences.batch(0, 1)["video"][0, :, 0, 1, 0], np.arange(0, 30, 3))


def test_a_step_can_be_described(root):
    clips = data_loader.Clips(config_for(root, frame_skip=2))
    for step in range(3):
        text = clips.describe(step)
        for video, start in where(clips.batch(step)):
            assert f"train/{video:02d}.npy frames {start}-{start + 8}" in text


def test_sequences_are_the_beginnings_of_long_enough_videos_in_order(root):
    sequences = data_loader.Sequences(config_for(root), 12)
    assert len(sequences) == 2
    assert where(sequences.batch(0, 2)) == [(0, 0), (1, 0)]
    assert where(sequences.batch(1, 5)) == [(1, 0)]
    assert sequences.batch(0, 1)["video"].shape == (1, 12, 64, 64, 1)
    assert len(data_loader.Sequences(config_for(root), 13)) == 1
    with pytest.raises(IndexError):
        sequences.batch(2, 1)


@pytest.mark.parametrize("change, message", [
    (dict(seq_len=61), "seq_len: 61 frames .* longest training video .*nearest: 60"),
    (dict(seq_len=21, frame_skip=3), "with frame_skip 3; nearest: 20"),
    (dict(actions=True), "actions: train/00.npy: has none; put .* into 00.actions.npy or 00.npz"),
])
def test_settings_that_the_data_cannot_meet_are_one_line(root, change, message):
    with pytest.raises(UserError, match=message):
        data_loader.Clips(config_for(root, **change))


def test_sequences_longer_than_the_data_are_one_line(root):
    with pytest.raises(UserError, match="31 frames are longer than the longest test video.*nearest: 30"):
        data_loader.Sequences(config_for(root), 31)


# ---------------------------------------------------------------------------------- random offsets


@pytest.fixture(scope="module")
def shifted(tmp_path_factory):
    """Videos of 4, 5, 7, 20 and 23 frames."""
    return folder_of(tmp_path_factory.mktemp("shifted"), [4, 5, 7, 20, 23])


def epoch_of(clips, epoch):
    """The clips of an epoch, in the order of videos and frames."""
    steps = range(epoch * 10, epoch * 10 + 10)
    return sorted(place for step in steps for place in where(clips.batch(step)))


def test_random_offsets_are_uniform_over_all_first_frames(shifted):
    clips = data_loader.Clips(config_for(shifted, batch_size=1, clip_offset="random"))
    assert clips.num_clips == 10
    assert clips.num_clips == data_loader.Clips(config_for(shifted, clip_offset="fixed")).num_clips
    epochs, numbers = np.divmod(np.arange(4000), 10)
    firsts = {video: [] for video in range(5)}
    for video, first in clips.places(epochs, numbers):
        firsts[video].append(first)
    assert not firsts[0] and set(firsts[1]) == {0}
    for video, count, places in ((2, 1, 3), (3, 4, 16), (4, 4, 19)):
        times = np.bincount(firsts[video], minlength=places)
        assert len(firsts[video]) == 400 * count and len(times) == places
        expected = 400 * count / places
        # Chi squared: its mean is places - 1, and it lies beyond this once in some million draws.
        assert ((times - expected) ** 2 / expected).sum() < places - 1 + 6 * (2 * places) ** 0.5
    clip_of_epoch = np.array(firsts[3]).reshape(400, 4)
    assert abs(np.corrcoef(clip_of_epoch[:, 0], clip_of_epoch[:, 1])[0, 1]) < 0.2  # Each by itself.


def test_long_clips_start_at_both_ends_no_more_often_than_anywhere(tmp_path):
    root = folder_of(tmp_path, [100])
    clips = data_loader.Clips(config_for(root, seq_len=90, batch_size=1, clip_offset="random"))
    firsts = [first for _, first in clips.places(range(1100), [0] * 1100)]
    assert set(firsts) == set(range(11))
    assert np.mean(np.isin(firsts, [0, 10])) < 0.25  # 2 of 11 places


def test_random_offsets_are_a_function_of_seed_epoch_and_video(shifted):
    config = config_for(shifted, batch_size=4, clip_offset="random")
    clips, again = data_loader.Clips(config), data_loader.Clips(config)
    for step in (0, 1000, 2, 10**6):  # Step 2 straddles epochs.
        np.testing.assert_array_equal(clips.batch(step)["video"], again.batch(step)["video"])
    ones = data_loader.Clips(config.replace(batch_size=1))
    whole = [place for step in range(5) for place in where(clips.batch(step))]
    assert whole == [place for step in range(20) for place in where(ones.batch(step))]
    shares = [data_loader.Clips(config, worker, 2).batch(2)["video"] for worker in range(2)]
    np.testing.assert_array_equal(np.concatenate(shares), clips.batch(2)["video"])
    seeds = [data_loader.Clips(config.replace(seed=seed, batch_size=1)) for seed in range(3)]
    assert len({tuple(epoch_of(one, 0)) for one in seeds}) == 3


def test_random_offsets_with_frame_skip_stay_within_the_video(shifted):
    clips = data_loader.Clips(config_for(
        shifted, batch_size=1, frame_skip=3, seq_len=3, clip_offset="random"))
    firsts = set()
    for step in range(40):
        (clip,) = clips.batch(step)["video"]
        np.testing.assert_array_equal(np.diff(clip[:, 0, 1, 0]), 3)
        firsts.add((clip[0, 0, 0, 0], clip[0, 0, 1, 0]))
        assert f"frames {clip[0, 0, 1, 0]}-{clip[-1, 0, 1, 0]}" in clips.describe(step)
    assert {first % 3 for _, first in firsts} == {0, 1, 2}  # Any frame of the video may be the first.
    assert (2, 0) in firsts and max(first for video, first in firsts if video == 2) == 0


# ---------------------------------------------------------------------------------------- actions


@pytest.fixture(scope="module")
def acting(tmp_path_factory):
    """Videos of which action t is [t, video], in a file beside each."""
    root = folder_of(tmp_path_factory.mktemp("acting"), [23, 12], test=(14,))
    for split, number, length in (("train", 0, 23), ("train", 1, 12), ("test", 0, 14)):
        actions = np.stack([np.arange(length), np.full(length, number)], 1)
        np.save(f"{root}/{split}/{number:02d}.actions.npy", actions)
    return root


def test_actions_of_ones_own_videos_go_with_their_frames(acting):
    config = config_for(acting, actions=True, batch_size=6)
    clips, sequences = data_loader.Clips(config), data_loader.Sequences(config, 12)
    assert clips.num_clips == 6 and clips.action_size == sequences.action_size == 2
    batch = clips.batch(0)
    assert batch["actions"].dtype == np.float32
    assert not batch["actions"][:, 0].any()  # No action led to the first frame.
    np.testing.assert_array_equal(batch["actions"][:, 1:, 0], batch["video"][:, :-1, 0, 1, 0])
    np.testing.assert_array_equal(batch["actions"][:, 1:, 1], batch["video"][:, :-1, 0, 0, 0])
    np.testing.assert_array_equal(sequences.batch(0, 1)["actions"][0, :, 0], [0, *range(11)])
    assert "actions" not in data_loader.Clips(config.replace(actions=False)).batch(0)


@pytest.mark.parametrize("offset", ["fixed", "random"])
def test_an_action_is_the_sum_of_those_that_led_from_the_kept_frame_before(acting, offset):
    config = config_for(acting, actions=True, batch_size=1, frame_skip=3, seq_len=2, clip_offset=offset)
    clips = data_loader.Clips(config)
    for step in range(12):
        batch = clips.batch(step)
        frames = batch["video"][0, :, 0, 1, 0].astype(int)
        expected = [0, *(sum(range(frame - 3, frame)) for frame in frames[1:])]
        np.testing.assert_array_equal(batch["actions"][0, :, 0], expected)
    (sequence,) = data_loader.Sequences(config, 4).batch(0, 1)["actions"]
    np.testing.assert_array_equal(sequence[:, 0], [0, 0 + 1 + 2, 3 + 4 + 5, 6 + 7 + 8])


def test_actions_of_two_widths_or_none_are_one_line_that_names_the_file(acting, tmp_path):
    root = str(tmp_path / "videos")
    shutil.copytree(acting, root, ignore=shutil.ignore_patterns("frames_*"))
    config = config_for(root, actions=True)
    np.save(f"{root}/train/01.actions.npy", np.zeros([12, 3]))
    with pytest.raises(UserError, match="train/01.npy has 3 numbers to an action, but train/00.npy"):
        data_loader.Clips(config)
    np.save(f"{root}/train/01.actions.npy", np.zeros([11, 2]))
    with pytest.raises(UserError, match="actions: train/01.npy: it has 11 actions for 12 frames"):
        data_loader.Sequences(config, 12)
    assert data_loader.Clips(config.replace(actions=False)).num_clips == 6
    os.remove(f"{root}/train/01.actions.npy")
    with pytest.raises(UserError, match="actions: train/01.npy: has none"):
        data_loader.Clips(config)
    np.save(f"{root}/train/01.actions.npy", np.ones([12, 2]))
    assert data_loader.Clips(config).action_size == 2


def test_a_single_file_may_have_actions(tmp_path):
    frames = counting(0, 12)
    np.savez(tmp_path / "clip.npz", video=frames, actions=np.arange(24).reshape(12, 2))
    config = config_for(str(tmp_path / "clip.npz"), actions=True)
    batch = data_loader.Sequences(config, 12).batch(0, 1)
    np.testing.assert_array_equal(batch["actions"][0, 1:], np.arange(22).reshape(11, 2))
    assert not batch["actions"][0, 0].any()


# ------------------------------------------------------------------------------------- prefetch


def test_prefetch_gives_every_step_in_order_and_stays_depth_ahead():
    loaded = []
    for step, value in data_loader.prefetch(lambda step: loaded.append(step) or step**2, 3, 20, depth=4):
        assert value == step**2
        assert len(loaded) <= step - 3 + 1 + 4
    assert loaded == list(range(3, 20))


def test_prefetch_forwards_an_exception_at_its_step():
    seen = []
    with pytest.raises(ZeroDivisionError):
        for step, _ in data_loader.prefetch(lambda step: 1 // (step - 4), 0, 9):
            seen.append(step)
    assert seen == [0, 1, 2, 3]


def test_closing_prefetch_ends_its_thread():
    before = set(threading.enumerate())
    generator = data_loader.prefetch(lambda step: time.sleep(0.01), 0, 10**9)
    next(generator)
    (thread,) = set(threading.enumerate()) - before
    generator.close()
    assert not thread.is_alive()


# ----------------------------------------------------------------------------------- a single file


@pytest.mark.parametrize("dataset, channels", [("mmnist", 1), ("minerl", 3), ("videos", 3)])
def test_a_single_file_is_evaluated_whatever_the_dataset(dataset, channels, tmp_path):
    frames = twins.movie(0, 20, 80, 100)
    twins.encode(frames, tmp_path / "clip.mp4")
    config = config_for(str(tmp_path / "clip.mp4"), dataset=dataset, channels=channels)
    sequences = data_loader.Sequences(config, 12)
    assert len(sequences) == 1
    video = sequences.batch(0, 1)["video"]
    assert video.shape == (1, 12, 64, 64, channels)
    np.save(tmp_path / "clip.npy", frames)
    expected, _ = videos.read(str(tmp_path / "clip.npy"), videos.Form(channels=channels))
    assert np.abs(video[0].astype(float) - expected[:12]).mean() < 6
    assert sorted(os.listdir(tmp_path)) == ["clip.mp4", "clip.npy"]


def test_a_tilde_is_the_home(tmp_path, monkeypatch):
    folder_of(tmp_path, [12])
    monkeypatch.setenv("HOME", str(tmp_path))
    assert data_loader.Clips(config_for("~/videos")).num_clips == 2
    assert len(data_loader.Sequences(config_for("~/videos/test/00.npy"), 12)) == 1


@pytest.mark.parametrize("shape, count", [
    ([20, 64, 64], 1), ([20, 30, 40, 3], 1), ([3, 20, 64, 64, 1], 3)])
def test_a_single_array_is_evaluated(shape, count, tmp_path):
    np.save(tmp_path / "clip.npy", np.zeros(shape, np.uint8))
    sequences = data_loader.Sequences(config_for(str(tmp_path / "clip.npy")), 12)
    assert len(sequences) == count
    assert sequences.batch(0, 9)["video"].shape == (count, 12, 64, 64, 1)


def test_a_single_file_that_cannot_serve_is_one_line(tmp_path):
    (tmp_path / "broken.mp4").write_text("no video")
    (tmp_path / "notes.txt").write_text("no video")
    np.save(tmp_path / "short.npy", np.zeros([5, 64, 64], np.uint8))
    for name, message in {"broken.mp4": "broken.mp4: is no video that", "notes.txt": "nor a video file",
                          "missing.mp4": "neither a folder nor a video file",
                          "short.npy": "test video of .*short.npy; nearest: 5"}.items():
        with pytest.raises(UserError, match=message):
            data_loader.Sequences(config_for(str(tmp_path / name)), 12)
    with pytest.raises(UserError, match="training needs a folder"):
        data_loader.Clips(config_for(str(tmp_path / "short.npy")))
    with pytest.raises(UserError, match="actions: .*short.npy: has none"):
        data_loader.Sequences(
            config_for(str(tmp_path / "short.npy"), dataset="minerl", actions=True), 5)


# ------------------------------------------------------------------------------------ what there is


def test_what_there_is_is_said_and_drawn(tmp_path, monkeypatch, capsys):
    root = folder_of(tmp_path, [4, 23, 60])
    (tmp_path / "videos" / "train" / "bad.mp4").write_text("no video")
    config_for(root, seq_len=10).save(tmp_path / "my.yml")
    monkeypatch.setattr("sys.argv", ["data_loader.py", "--config", str(tmp_path / "my.yml"),
                                     "--out", str(tmp_path / "sheet.png")])
    data_loader.main()
    said = capsys.readouterr().out
    for line in (f"videos: 64x64x1, {root}/frames_64x64x1", "3 videos          87 frames, 4 to 60 a ",
                 "median 23; 2 have 10", "8 training clips of 10 frames, 2.0 steps an epoch",
                 "train: sizes 64x64 (3)", "1 of 6 files cannot be read:", "train/bad.mp4: ",
                 " kB on disk",
                 "train/02.npy frames 50-59"):
        assert line in said, line
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (10 * 64, 8 * 64)
        assert np.asarray(sheet.convert("L"))[-64, 9 * 64 + 1] == 59  # The last frame of the last clip.


# ---------------------------------------------------------------------------- disks and processes


@contextlib.contextmanager
def ordinary_user():
    """Gives up root's right to write anywhere."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shared_folder():
    """A folder that every user can reach; pytest's own are private."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield folder
        subprocess.run(["chmod", "-R", "u+w", folder], check=True)


def test_a_read_only_data_root_that_is_prepared_serves(shared_folder):
    root = os.path.join(shared_folder, "videos")
    os.makedirs(f"{root}/train")
    os.makedirs(f"{root}/test")
    for split in ("train", "test"):
        np.save(f"{root}/{split}/0.npy", counting(0, 12))
    config = config_for(root)
    data_loader.prepare(config)
    subprocess.run(["chmod", "-R", "a-w,a+rX", root], check=True)
    with ordinary_user():
        assert data_loader.Clips(config).batch(0)["video"].shape[0] == 4
        with pytest.raises(UserError, match="data_root: videos is not prepared in .* cannot be: Perm"):
            data_loader.Clips(config.replace(channels=3))


@pytest.mark.parametrize("dataset", ["moving_digits_demo", "mazes"])
def test_an_unwritable_data_root_is_one_line(dataset, shared_folder):
    channels = 1 if dataset == "moving_digits_demo" else 3
    os.chmod(shared_folder, 0o555)
    message = f"data_root: {dataset} is not prepared in .* cannot be: Permission denied"
    with ordinary_user(), pytest.raises(UserError, match=message):
        data_loader.prepare(config_for(f"{shared_folder}/data", dataset=dataset, channels=channels))


def test_evaluation_prepares_what_it_evaluates_and_training_the_rest(tmp_path, capfd):
    config = config_for(str(tmp_path), dataset="moving_digit_demo", eval_seq_len=6)
    first = data_loader.evaluation_sequences(config).batch(0, 2)
    said = capfd.readouterr().err
    assert "one_demo/1.0.0.frames, test alone." in said and "You may delete" not in said
    assert "Unpacking moving_digit_demo takes about 24.6 MB" in said
    frames = tmp_path / "moving_digit" / "one_demo" / "1.0.0.frames"
    assert store.splits(frames) == ["test"]
    assert os.path.getsize(frames / "rows") == 20 * 300 * 64 * 64
    data_loader.evaluation_sequences(config)
    assert capfd.readouterr().err == ""
    data_loader.Clips(config)
    assert "You may delete" in capfd.readouterr().err
    assert store.splits(frames) == ["train", "val", "test"]
    again = data_loader.evaluation_sequences(config).batch(0, 2)
    for name in ("video", "label", "position"):
        np.testing.assert_array_equal(again[name], first[name])


def test_a_disk_that_fills_up_is_one_line_and_loses_nothing(tmp_path, monkeypatch, capfd):
    root = folder_of(tmp_path, [12, 12])

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(OSError) as error:
        data_loader.Clips(config_for(root))
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(root))
    assert store.source(f"{root}/frames_64x64x1") is None
    monkeypatch.undo()
    capfd.readouterr()
    assert data_loader.Clips(config_for(root)).num_clips == 4
    assert "Preparing" not in capfd.readouterr().err  # All files had been read.


def test_a_disk_that_fills_up_below_tfds_is_one_line(tmp_path):
    cause = tf.errors.ResourceExhaustedError(None, None, "No space left on device")
    writing = store.writing(config_for(str(tmp_path)), str(tmp_path / "records"))
    with pytest.raises(OSError) as error, writing:
        raise RuntimeError("Failed to finalize writing of split test") from cause
    assert (error.value.errno, error.value.filename) == (errno.ENOSPC, str(tmp_path))


def test_a_file_that_may_not_be_read_is_no_matter_of_cache_root(shared_folder):
    config = config_for(f"{shared_folder}/data", cache_root=f"{shared_folder}/cache")
    file = os.path.join(shared_folder, "images")
    with open(file, "w"):
        os.chmod(file, 0)
    with (ordinary_user(), pytest.raises(UserError, match="^data_root: .*: Permission denied: .*images"),
          store.writing(config, file), open(file)):
        pass


def test_a_data_root_below_a_file_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="data_root: .*cannot be: Not a directory"):
        data_loader.prepare(config_for(str(tmp_path / "file" / "data"), dataset="moving_digits_demo"))


def test_channels_that_the_data_does_not_have_are_one_line(tmp_path):
    twins.archive("mmnist", tmp_path / "moving_mnist_2digit.zip")
    config = config_for(str(tmp_path), dataset="mmnist", channels=3)
    with pytest.raises(UserError, match="channels: 3 does not match mmnist; nearest: 1"):
        data_loader.Clips(config)


def preparing(root, dataset, channels, first="pass"):
    """Starts a process that prepares a dataset, after the statements in `first`."""
    program = ("import os, time, data_loader; from video_data import videos; from config import Config\n"
               f"{first}\n"
               f"data_loader.prepare(Config(dataset={dataset!r}, data_root={root!r}, "
               f"channels={channels}))")
    return subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.slow
def test_a_preparation_that_was_killed_is_completed_by_the_next(tmp_path):
    """Killed twice: as the records are written, and as the store is."""
    twins.archive("mazes", tmp_path / "gqn_mazes.zip")
    config = config_for(str(tmp_path), dataset="mazes", channels=3, seq_len=12)
    folder = tmp_path / "gqn_mazes"
    slow_decoding = ("read = videos.Readers.read; "
                     "videos.Readers.read = lambda *_: time.sleep(1) or read(*_)")
    for slow, half_written in ((slow_decoding, "incomplete.*"),
                               ("os.fsync = lambda _: time.sleep(99)", "1.0.0.frames/rows")):
        process = preparing(str(tmp_path), "mazes", 3, slow)
        deadline = time.monotonic() + 60
        while not glob.glob(str(folder / half_written)):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not os.path.exists(folder / "1.0.0.frames" / "header.json")
    assert data_loader.Clips(config).num_clips == 3
    assert sorted(os.listdir(folder)) == ["1.0.0", "1.0.0.frames", "1.0.0.lock"]
    assert sorted(os.listdir(folder / "1.0.0.frames")) == ["header.json", "rows"]


@pytest.mark.slow
def test_two_processes_prepare_once(tmp_path):
    twins.archive("mmnist", tmp_path / "moving_mnist_2digit.zip", train=5)
    both = [preparing(str(tmp_path), "mmnist", 1) for _ in range(2)]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sum("Prepared" in text for text in said) == 1
    assert sum("Waiting for another process that is preparing mmnist" in text for text in said) == 1
    shutil.rmtree(tmp_path / "moving_mnist_2digit" / "1.0.0")  # The stores are enough.
    config = config_for(str(tmp_path), dataset="mmnist")
    assert data_loader.Clips(config).num_clips == 10


def test_the_mean_frame_is_that_of_all_training_frames_or_of_some_spread_evenly(tmp_path):
    for split, lengths in [("train", [6, 20, 9]), ("test", [9])]:
        (tmp_path / split).mkdir()
        for number, length in enumerate(lengths):
            frames = np.zeros([length, 64, 64], np.uint8) + np.uint8(
                10 * number + np.arange(length))[:, None, None]
            frames[:, 0] = 255
            np.save(tmp_path / split / f"{number}.npy", frames)
    config = Config(dataset="videos", data_root=str(tmp_path), seq_len=6, batch_size=1, open_loop_ctx=4,
                    tmp_abs_factor=1)
    clips = data_loader.Clips(config)
    brightness = np.concatenate(
        [10 * number + np.arange(length) for number, length in enumerate([6, 20, 9])]) / 255
    mean = clips.mean_frame()
    assert mean.shape == (64, 64, 1) and mean.dtype == np.float32
    np.testing.assert_allclose(mean[0], 1)
    np.testing.assert_allclose(mean[1:], brightness.mean(), rtol=1e-5)
    few = clips.mean_frame(at_most=3)
    np.testing.assert_allclose(few[1:], brightness[[0, 17, 34]].mean(), rtol=1e-5)
