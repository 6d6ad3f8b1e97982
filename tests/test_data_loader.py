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

import imageio.v2 as imageio
import numpy as np
import pytest
import tensorflow as tf
import twins

import data_loader
from ahead import load_ahead
from datasets import preparation, store, videos
from tools import Config, UserError

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


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
    (dict(actions=True), "actions: videos has none"),
])
def test_settings_that_the_data_cannot_meet_are_one_line(root, change, message):
    with pytest.raises(UserError, match=message):
        data_loader.Clips(config_for(root, **change))


def test_sequences_longer_than_the_data_are_one_line(root):
    with pytest.raises(UserError, match="31 frames are longer than the longest test video.*nearest: 30"):
        data_loader.Sequences(config_for(root), 31)


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
    before = threading.active_count()
    generator = data_loader.prefetch(lambda step: time.sleep(0.01), 0, 10**9)
    next(generator)
    assert threading.active_count() == before + 1
    generator.close()
    assert threading.active_count() == before


def test_loading_ahead_uses_its_threads_and_keeps_the_order():
    barrier = threading.Barrier(3, timeout=10)

    def load(item):
        barrier.wait()  # Passes when three load at the same time.
        return item

    assert [item for item, _ in load_ahead(load, "abcdef", depth=3, threads=3)] == list("abcdef")


# ------------------------------------------------------------------------------ videos of one's own


def test_a_folder_of_many_formats_and_sizes(tmp_path, capfd):
    root = tmp_path / "videos"
    root.mkdir()
    formats = {
        "a.mp4": (48, 80, {}), "b.avi": (64, 64, {}), "c.mov": (100, 64, {}),
        "d.webm": (90, 160, {"codec": "libvpx-vp9"}), "e.mkv": (65, 131, {"pixelformat": "yuv444p"}),
        "f.gif": (70, 70, {}), "h.MP4": (40, 30, {})}
    sources = {}
    for seed, (name, (height, width, options)) in enumerate(formats.items()):
        sources[name] = twins.movie(seed, 10 + seed, height, width)
        twins.encode(sources[name], root / name, **options)
    sources["g.npy"] = twins.movie(20, 15, 200, 120)
    np.save(root / "g.npy", sources["g.npy"])
    np.savez(root / "i.npz", video=twins.movie(21, 15, 64, 64)[None] / 255, other=[1])
    sources["i.npz[0]"] = twins.movie(21, 15, 64, 64)
    (root / "notes.txt").write_text("not a video")

    config = config_for(str(root), channels=3, seq_len=10)
    opened = data_loader._open(config, "train")["video"]
    test = data_loader._open(config, "test")["video"]
    assert len(opened) == 8 and test.names == [str(root / "i.npz[0]")]
    assert "free)" in capfd.readouterr().err
    for split in (opened, test):
        for index, name in enumerate(split.names):
            source = sources[os.path.basename(name)]
            assert split[index].shape == (len(source), 64, 64, 3), name  # Every frame, once.
            expected = area_resized(source)
            assert np.abs(split[index].astype(float) - expected).mean() < 6, name


def area_resized(frames):
    """Each pixel the mean of the area it covers, of the square in the middle, by enlarging first."""
    height, width = frames.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = frames[:, top : top + side, left : left + side].astype(float)
    for axis in (1, 2):
        covers = np.repeat(np.eye(side), 64, axis=1).reshape(side, 64, side).sum(2).T / side
        square = np.moveaxis(np.tensordot(covers, square, (1, axis)), 0, axis)
    return square


def test_every_frame_comes_once_whatever_its_duration(tmp_path):
    frames = twins.movie(0, 9)
    imageio.mimsave(tmp_path / "a.gif", frames, duration=[20, 500, 20, 300, 20, 20, 1000, 20, 40])
    assert len(videos.decode(str(tmp_path / "a.gif"), 3)) == 9


def test_area_resizing_is_exact_for_arrays(tmp_path):
    frames = np.random.default_rng(0).integers(0, 255, (3, 100, 130, 3), np.uint8)
    np.save(tmp_path / "a.npy", frames)
    (_, read), = videos.read(str(tmp_path / "a.npy"), 3)
    assert np.abs(read - area_resized(frames)).max() <= 0.501


@pytest.mark.parametrize("kept, channels", [(1, 3), (3, 1), (4, 3), (4, 1)])
def test_channels_are_converted(tmp_path, kept, channels):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (4, 64, 64, kept), np.uint8)
    np.save(tmp_path / "a.npy", frames)
    (_, read), = videos.read(str(tmp_path / "a.npy"), channels)
    colour = np.repeat(frames, 3, axis=-1) if kept == 1 else frames[..., :3]
    expected = colour if channels == 3 else colour @ np.array([[0.299], [0.587], [0.114]])
    assert read.dtype == np.uint8 and np.abs(read - expected).max() <= 0.501


def test_grey_is_the_same_from_a_file_as_from_an_array(tmp_path):
    frames = twins.movie(0, 8)
    np.save(tmp_path / "a.npy", frames)
    twins.encode(frames, tmp_path / "a.mp4", output_params=["-qp", "0", "-pix_fmt", "yuv444p"])
    (_, array), = videos.read(str(tmp_path / "a.npy"), 1)
    (_, file), = videos.read(str(tmp_path / "a.mp4"), 1)
    assert np.abs(array.astype(int) - file).max() <= 2


def test_one_folder_is_split_by_name(tmp_path):
    for number in range(25):
        (tmp_path / f"{number:02d}.mp4").touch()
    splits = videos.list_splits(str(tmp_path))
    assert [os.path.basename(path) for path in splits["test"]] == ["09.mp4", "19.mp4"]
    assert len(splits["train"]) == 23 and splits["train"] == sorted(splits["train"])
    for number in range(2, 25):
        os.remove(tmp_path / f"{number:02d}.mp4")
    splits = videos.list_splits(str(tmp_path))
    assert [len(splits[split]) for split in ("train", "test")] == [1, 1]


def test_broken_files_are_named_skipped_and_counted(tmp_path, capfd):
    root = folder_of(tmp_path, [12, 12])
    train = tmp_path / "videos" / "train"
    whole = twins.encode(twins.movie(0, 60), output_params=["-movflags", "+faststart"])
    (train / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    (train / "text.avi").write_text("not a video")
    (train / "empty.webm").touch()
    np.save(train / "shape.npy", np.zeros([3, 4], np.uint8))
    np.save(train / "range.npy", np.full([3, 64, 64, 1], 7.5))
    np.save(train / "ints.npy", np.zeros([3, 64, 64, 1], np.int64))
    np.savez(train / "keys.npz", a=[1], b=[2])
    (train / "cut.npz").write_bytes(b"PK\3\4")
    opened = data_loader._open(config_for(root), "train")["video"]
    said = capfd.readouterr().err
    assert len(opened) == 2
    for name, reason in {"cut.mp4": "", "text.avi": "", "empty.webm": "", "cut.npz": "",
                         "shape.npy": "has shape [3, 4]", "range.npy": "holds floats from 7.5 to 7.5",
                         "ints.npy": "holds int64", "keys.npz": "holds a, b"}.items():
        assert any(f"Skipped {train / name}: {reason}" in line
                   for line in said.splitlines()), name
    assert "8 of 10 files to train on do not decode" in said


def test_a_folder_with_nothing_usable_is_one_line(tmp_path):
    config = config_for(str(tmp_path))
    with pytest.raises(UserError, match="there is no folder"):
        data_loader.Clips(config_for(str(tmp_path / "none")))
    with pytest.raises(UserError, match="needs two videos at least"):
        data_loader.Clips(config)
    (tmp_path / "a.mp4").write_text("no video")
    (tmp_path / "b.mp4").write_text("no video")
    with pytest.raises(UserError, match="none of the 1 files to train on decodes"):
        data_loader.Clips(config)
    assert sorted(name for name in os.listdir(tmp_path) if "lock" not in name) == ["a.mp4", "b.mp4"]
    os.mkdir(tmp_path / "train")
    with pytest.raises(UserError, match="has train/ and no other split"):
        data_loader.Clips(config)
    os.mkdir(tmp_path / "test")
    with pytest.raises(UserError, match="no videos .* in .*train"):
        data_loader.Clips(config)


def test_a_killed_ffmpeg_is_not_the_files_fault(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(twins.encode(twins.movie(0, 5)))
    killed = tmp_path / "ffmpeg"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr(videos.imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(killed))
    with pytest.raises(RuntimeError, match="ended by signal 9"):
        videos.decode(str(tmp_path / "a.mp4"), 1)


def test_no_program_on_the_path_is_needed(tmp_path, monkeypatch):
    (tmp_path / "a.mp4").write_bytes(twins.encode(twins.movie(0, 5)))
    monkeypatch.setenv("PATH", "")
    assert videos.decode(str(tmp_path / "a.mp4"), 3).shape == (5, 64, 64, 3)


def test_a_changed_folder_is_prepared_anew(tmp_path, capfd):
    root = folder_of(tmp_path, [12, 12])
    config = config_for(root)
    assert data_loader.Clips(config).num_clips == 4
    capfd.readouterr()
    data_loader.Clips(config)
    assert capfd.readouterr().err == ""
    np.save(tmp_path / "videos" / "train" / "02.npy", counting(2, 60))
    assert data_loader.Clips(config).num_clips == 16


def test_temporary_files_do_not_stay(tmp_path):
    root = folder_of(tmp_path, [12, 12])
    data_loader.prepare(config_for(root))
    assert sorted(os.listdir(root)) == ["frames_64x64x1", "frames_64x64x1.lock", "test", "train"]


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
    expected = area_resized(frames[:12])
    expected = expected if channels == 3 else expected @ np.array([[0.299], [0.587], [0.114]])
    assert np.abs(video[0] - expected).mean() < 6
    assert os.listdir(tmp_path) == ["clip.mp4"]


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
    for name, message in {"broken.mp4": "broken.mp4: .*(moov|Invalid)", "notes.txt": "nor a video file",
                          "missing.mp4": "neither a folder nor a video file",
                          "short.npy": "test video of .*short.npy; nearest: 5"}.items():
        with pytest.raises(UserError, match=message):
            data_loader.Sequences(config_for(str(tmp_path / name)), 12)
    with pytest.raises(UserError, match="training needs a folder"):
        data_loader.Clips(config_for(str(tmp_path / "short.npy")))
    with pytest.raises(UserError, match="has no actions"):
        data_loader.Sequences(
            config_for(str(tmp_path / "short.npy"), dataset="minerl", actions=True), 5)


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


def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    root = folder_of(tmp_path, [12, 12])

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(UserError, match="data_root: the disk of .*videos is full"):
        data_loader.Clips(config_for(root))
    assert sorted(os.listdir(root)) == ["frames_64x64x1.lock", "test", "train"]


def test_a_disk_that_fills_up_below_tfds_is_one_line(tmp_path):
    cause = tf.errors.ResourceExhaustedError(None, None, "No space left on device")
    writing = preparation._writing(config_for(str(tmp_path)), str(tmp_path / "records"))
    with pytest.raises(UserError, match="the disk of .* is full"), writing:
        raise RuntimeError("Failed to finalize writing of split test") from cause


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
    program = ("import os, time, data_loader; from datasets import videos; from tools import Config\n"
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
    slow_decoding = "decode = videos.decode; videos.decode = lambda *_: time.sleep(1) or decode(*_)"
    for slow, half_written in ((slow_decoding, "incomplete.*"),
                               ("os.fsync = lambda _: time.sleep(99)", "1.0.0.frames.part/train.rows")):
        process = preparing(str(tmp_path), "mazes", 3, slow)
        deadline = time.monotonic() + 60
        while not glob.glob(str(folder / half_written)):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not os.path.exists(folder / "1.0.0.frames")
    assert data_loader.Clips(config).num_clips == 3
    assert sorted(os.listdir(folder)) == ["1.0.0", "1.0.0.frames", "1.0.0.lock"]


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
