"""A folder of one's own videos: what is found in it, how it is split, and how its store grows."""

import dataclasses
import hashlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import pytest
import twins
import yaml
from PIL import Image
from test_data_loader import config_for, counting, folder_of

import data_loader
from tools import UserError
from video_data import files, folder, store, videos

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

pytestmark = pytest.mark.usefixtures("kept_readers")


def fill(root, lengths, names="{:02d}.npy"):
    os.makedirs(root, exist_ok=True)
    for number, length in enumerate(lengths):
        np.save(os.path.join(root, names.format(number)), counting(number, length))


def splits(root, **settings):
    """The names of each split, as they are prepared."""
    path = folder.prepare(config_for(str(root), **settings))["video"]
    return {split: store.read(path, split).names for split in store.splits(path)}


@pytest.fixture
def readings(monkeypatch):
    """The names of files that are read, as they are."""
    read, seen = videos.Readers.read, []

    def noting(readers, request):
        seen.append(os.path.basename(request.path))
        return read(readers, request)

    monkeypatch.setattr(videos.Readers, "read", noting)
    return seen


# ------------------------------------------------------------------------------------- what is found


def test_a_folder_of_many_kinds_and_sizes(tmp_path, capfd):
    root = tmp_path / "videos"
    root.mkdir()
    sources = {}
    for seed, (name, (height, width)) in enumerate({
            "a.mp4": (48, 80), "b.avi": (64, 64), "h.MP4": (40, 30), "sub/c.gif": (70, 70)}.items()):
        sources[name] = twins.movie(seed, 10 + seed, height, width)
        (root / name).parent.mkdir(exist_ok=True)
        twins.encode(sources[name], root / name)
    sources["g.npy"] = twins.movie(20, 15, 200, 120)
    np.save(root / "g.npy", sources["g.npy"])
    for number in range(2):
        sources[f"i.npz[{number}]"] = twins.movie(21 + number, 15)
    np.savez(root / "i.npz", video=np.stack([sources["i.npz[0]"], sources["i.npz[1]"]]) / 255, other=[1])
    sources["sub/images"] = twins.movie(23, 11)
    (root / "sub" / "images").mkdir()
    for number, frame in enumerate(sources["sub/images"]):
        Image.fromarray(frame).save(root / "sub" / "images" / f"{number}.png")
    sources["k.h5:x"], sources["k.h5:y"] = twins.movie(24, 12), twins.movie(25, 13)
    with h5py.File(root / "k.h5", "w") as file:
        file["x"], file["y"] = sources["k.h5:x"], sources["k.h5:y"]
    (root / "notes.txt").write_text("not a video")
    (root / ".hidden.mp4").write_text("not to be looked at")
    (root / "cover1.png").write_text("one image is no video")

    path = folder.prepare(config_for(str(root), channels=3))["video"]
    assert "free)" in capfd.readouterr().err
    seen = set()
    for split in ("train", "test"):
        opened = store.read(path, split)
        for index, name in enumerate(opened.names):
            np.save(tmp_path / "source.npy", sources[name])
            expected, _ = videos.read(str(tmp_path / "source.npy"), videos.Form())
            assert opened[index].shape == (len(sources[name]), 64, 64, 3), name  # Every frame, once.
            assert np.abs(opened[index].astype(float) - expected).mean() < 7, name
            seen.add(name)
    assert seen == set(sources)


def test_links_are_followed_but_not_in_circles(tmp_path):
    fill(tmp_path / "elsewhere", [6, 7])
    fill(tmp_path / "videos", [8])
    (tmp_path / "videos" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "videos")
    assert [*files.find(str(tmp_path / "videos")).videos] == ["00.npy", "more/00.npy", "more/01.npy"]


@pytest.mark.parametrize("name", ["[a] *", "a b", "é", "~", "%d", "x" * 200])
def test_odd_folders_are_folders(name, tmp_path):
    root = folder_of(tmp_path / name, [12, 12])
    assert data_loader.Clips(config_for(root)).num_clips == 4


def test_names_that_are_no_text_or_two_lines_are_prepared_or_refused_in_one(tmp_path):
    """Two good files, a damaged one and a folder of pictures have each odd name."""
    config = dict(dataclasses.asdict(config_for(str(tmp_path / "data"), seq_len=6)), eval_seq_len=6)
    (tmp_path / "a.yml").write_text(yaml.safe_dump(config))
    odds = b"a\xffb", b"a\nb"
    for (number, split), odd in itertools.product(enumerate(("train", "test")), odds):
        parent = os.fsencode(tmp_path / "data" / split)
        os.makedirs(os.path.join(parent, odd))
        with open(os.path.join(parent, odd + b".mp4"), "wb") as file:
            file.write(twins.encode(twins.movie(number, 6)))
        np.save(os.fsdecode(os.path.join(parent, odd + b".npy")), counting(number, 6))
        for index in range(6):
            Image.fromarray(counting(index, 1)[0, ..., 0]).save(
                os.fsdecode(os.path.join(parent, odd, b"%d.png" % index)))
        if split == "test":
            with open(os.path.join(parent, odd + b"2.mp4"), "wb") as file:
                file.write(b"no video")
    flags = ["--config", tmp_path / "a.yml", "--out", tmp_path / "a.png"]
    said = subprocess.run([sys.executable, "data_loader.py", *map(str, flags)], cwd=ROOT,
                          capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert "2 of 14 files cannot be read" in said.stderr and "Traceback" not in said.stderr
    lines = said.stdout.splitlines()
    assert sum("6 videos" in line for line in lines) == 2
    for name in (odd.decode(errors="backslashreplace").replace("\n", "\\n") for odd in odds):
        assert f"Skipped {tmp_path}/data/test/{name}2.mp4: is no video" in said.stderr
        for ending in (".mp4", ".npy", ""):
            assert any(line.startswith(f"  train/{name}{ending} frames 0-5") for line in lines)


@pytest.mark.parametrize("dataset", ["videos", "moving_digits_demo"])
@pytest.mark.parametrize("root", ["", "x" * 300, "file/data", "~nobody/data"])
def test_odd_paths_are_one_line(root, dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    if dataset == "videos" or not root.startswith("~"):
        with pytest.raises(UserError, match="data_root: "):
            data_loader.Clips(config_for(root, dataset=dataset))
        assert os.listdir(tmp_path) == ["file"]


def test_a_folder_with_nothing_usable_is_one_line(tmp_path):
    config = config_for(str(tmp_path))
    with pytest.raises(UserError, match="needs two videos at least"):
        data_loader.Clips(config)
    (tmp_path / "a.mp4").write_text("no video")
    (tmp_path / "b.mp4").write_text("no video")
    for _ in range(2):
        with pytest.raises(UserError, match=r"none of the 2 files to train on can be read \(a.mp4: "):
            data_loader.Clips(config)
    os.mkdir(tmp_path / "train")
    with pytest.raises(UserError, match="has train/ and no test/; it needs train/"):
        data_loader.Clips(config)
    os.mkdir(tmp_path / "test")
    with pytest.raises(UserError, match="no videos .* in .*train"):
        data_loader.Clips(config)


def test_odd_files_are_named_left_out_and_counted_and_never_block_the_others(tmp_path, capfd):
    root = folder_of(tmp_path, [12, 12])
    train = tmp_path / "videos" / "train"
    whole = twins.encode(twins.movie(0, 60), output_params=["-movflags", "+faststart"])
    (train / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    (train / "text.avi").write_text("not a video")
    (train / "link.mp4").symlink_to(train / "nothing.mp4")
    os.mkfifo(train / "fifo.mp4")
    np.save(train / "range.npy", np.full([3, 64, 64, 1], 7.5))
    np.savez(train / "strings.npz", video=np.array(["a"]))
    for number in range(8):
        (train / f"z{number}.webm").touch()
    opened = data_loader._open(config_for(root), "train")[0]["video"]
    said = capfd.readouterr().err
    assert opened.names == ["train/00.npy", "train/01.npy"]
    skipped = [line.partition("Skipped ")[2] for line in said.splitlines() if "Skipped " in line]
    assert len(skipped) == folder.NAMED
    assert "14 of 18 files cannot be read and are left out. The first 10 are named above." in said
    reasons = "\n".join(folder.describe(store.read_header(f"{root}/frames_64x64x1")))
    for text in ("14 of 18 files cannot be read:", "train/link.mp4: is a link to nothing",
                 "train/fifo.mp4: is no regular file", "train/range.npy: holds floats from 7.5",
                 "train/cut.mp4: a part of it is missing after frame", "train: sizes 64x64 (2)",
                 "test: frames a second unknown (2)"):
        assert text in reasons
    data_loader._open(config_for(root), "test")
    assert capfd.readouterr().err == ""  # They are not tried again.


# ------------------------------------------------------------------------------------------- splits


def test_one_folder_is_split_by_a_hash_that_a_growing_folder_does_not_change(tmp_path):
    fill(tmp_path, [5] * 60)
    before = splits(tmp_path)
    assert 2 <= len(before["test"]) <= 12 and len(before["train"]) == 60 - len(before["test"])
    assert before["train"] == sorted(before["train"])
    fill(tmp_path, [5] * 40, "a{:02d}.npy")
    shutil.rmtree(tmp_path / "frames_64x64x1")
    after = splits(tmp_path)
    for split in before:
        assert set(before[split]) < set(after[split])
    # The hash is a fixed function of the name.
    order = int(hashlib.sha256(b"00.npy").hexdigest()[:15], 16)
    assert ("00.npy" in after["test"]) == (order % 10 == 0)


def test_a_small_folder_has_both_splits_and_keeps_them_as_it_grows(tmp_path):
    fill(tmp_path, [5, 5, 5])
    before = splits(tmp_path)
    assert [len(before[split]) for split in ("train", "test")] == [2, 1]
    fill(tmp_path, [5] * 30, "more{:02d}.npy")
    after = splits(tmp_path)
    assert set(before["train"]) < set(after["train"]) and set(before["test"]) <= set(after["test"])


def test_the_only_good_file_of_a_split_is_not_a_broken_one(tmp_path):
    for number in range(4):
        for bad in range(4):
            root = tmp_path / f"{number}{bad}"
            fill(root, [5] * 4, f"{number}_{{}}.npy")
            (root / f"{number}_{bad}.npy").write_text("broken")
            train, test = map(len, splits(root).values())
            assert train and test and train + test == 3


def test_folders_are_splits_and_val_is_one_where_it_is(tmp_path):
    root = folder_of(tmp_path, [12, 12])
    assert set(splits(root)) == {"train", "test"}
    config = config_for(root)
    np.testing.assert_array_equal(*[
        data_loader.Sequences(config, 12, split).batch(0, 9)["video"] for split in ("test", "val")])
    os.mkdir(f"{root}/val")
    np.save(f"{root}/val/0.npy", counting(77, 13))
    np.save(f"{root}/outside.npy", counting(78, 13))
    seen = splits(root)
    assert seen["val"] == ["val/0.npy"] and seen["test"] == ["test/00.npy", "test/01.npy"]
    seen = data_loader.Sequences(config, 12, "val").batch(0, 9)["video"]
    assert seen.shape[0] == 1 and seen[0, 0, 0, 0, 0] == 77
    assert len(data_loader.Sequences(config, 12)) == 2


# --------------------------------------------------------------------------------- the store that grows


def test_lists_that_come_or_change_take_effect_without_reading_again(tmp_path, readings):
    fill(tmp_path, [12] * 6)
    assert sum(map(len, splits(tmp_path).values())) == len(readings) == 6
    listed = {"train": ["00.npy", "01.npy", "02.npy"], "test": ["03.npy", "04.npy", "05.npy"]}
    for moved in (0, 1):
        listed["test"] += [listed["train"].pop() for _ in range(moved)]
        for split, names in listed.items():
            (tmp_path / f"{split}.txt").write_text("\n".join(names))
        assert splits(tmp_path) == {split: sorted(names) for split, names in listed.items()}
    assert len(readings) == 6


def test_only_the_new_files_of_a_folder_that_grew_are_read(tmp_path, readings, capfd):
    root = folder_of(tmp_path, [12, 12])
    config = config_for(root)
    assert data_loader.Clips(config).num_clips == 4
    assert sorted(readings) == ["00.npy", "00.npy", "01.npy", "01.npy"]
    capfd.readouterr()
    readings.clear()
    data_loader.Clips(config)
    assert capfd.readouterr().err == "" and not readings
    np.save(f"{root}/train/005.npy", counting(5, 60))
    clips = data_loader.Clips(config)
    assert clips.num_clips == 16 and readings == ["005.npy"]
    assert "Preparing 1 files" in capfd.readouterr().err
    # Read in the order of names, whatever came first.
    whole = tmp_path / "whole"
    shutil.copytree(root, whole, ignore=shutil.ignore_patterns("frames_*"))
    again = data_loader.Clips(config_for(str(whole)))
    assert again.fingerprint == clips.fingerprint
    np.testing.assert_array_equal(again.batch(3)["video"], clips.batch(3)["video"])


def test_a_file_that_changed_is_read_again_and_one_that_went_is_gone(tmp_path, readings):
    root = folder_of(tmp_path, [12, 12, 13])
    config = config_for(root, batch_size=1)
    data_loader.Clips(config)
    readings.clear()
    np.save(f"{root}/train/01.npy", counting(9, 14))
    os.remove(f"{root}/train/02.npy")
    clips = data_loader.Clips(config)
    assert readings == ["01.npy"] and clips.num_clips == 4
    assert {int(clips.batch(step)["video"][0, 0, 0, 0, 0]) for step in range(4)} == {0, 9}


def test_forms_of_frames_live_side_by_side(tmp_path):
    root = folder_of(tmp_path, [12], test=(12,), size=100)
    shapes = {}
    for settings in (dict(), dict(image_size=32), dict(image_size=128, fit="pad"), dict(fps=10),
                     dict(channels=3), dict(fit="stretch")):
        config = config_for(root, **settings)
        name = os.path.basename(data_loader.prepare(config)["video"])
        shapes[name] = data_loader.Clips(config).batch(0)["video"].shape[2:]
    assert shapes == {
        "frames_64x64x1": (64, 64, 1), "frames_32x32x1": (32, 32, 1),
        "frames_128x128x1_pad": (128, 128, 1), "frames_64x64x1_10fps": (64, 64, 1),
        "frames_64x64x3": (64, 64, 3), "frames_64x64x1_stretch": (64, 64, 1)}


def test_a_damaged_store_is_named_and_built_again(tmp_path, readings, capfd):
    root = folder_of(tmp_path, [12, 12])
    config = config_for(root)
    before = data_loader.Clips(config).batch(0)["video"]
    os.truncate(f"{root}/frames_64x64x1/rows", 1000)
    capfd.readouterr()
    readings.clear()
    np.testing.assert_array_equal(data_loader.Clips(config).batch(0)["video"], before)
    assert "frames_64x64x1 is damaged (rows has 1000 bytes" in capfd.readouterr().err
    assert len(readings) == 4


def test_damaged_actions_are_built_again(tmp_path, readings, capfd):
    root = folder_of(tmp_path, [12, 12])
    for split in ("train", "test"):
        for number in range(2):
            length = len(np.load(f"{root}/{split}/{number:02d}.npy"))
            np.save(f"{root}/{split}/{number:02d}.actions.npy", np.ones([length, 3]))
    config = config_for(root, actions=True)
    before = data_loader.Clips(config).batch(0)
    os.truncate(f"{root}/frames_64x64x1/actions/rows", 10)
    capfd.readouterr()
    after = data_loader.Clips(config).batch(0)
    np.testing.assert_array_equal(after["actions"], before["actions"])
    np.testing.assert_array_equal(after["video"], before["video"])
    assert "actions is damaged (rows has 10 bytes" in capfd.readouterr().err
    assert os.path.getsize(f"{root}/frames_64x64x1/rows") == 64 * 64 * (12 + 12 + 12 + 30)


def test_temporary_files_do_not_stay(tmp_path):
    root = folder_of(tmp_path, [12, 12])
    data_loader.prepare(config_for(root))
    assert sorted(os.listdir(root)) == ["frames_64x64x1", "frames_64x64x1.lock", "test", "train"]
    assert sorted(os.listdir(f"{root}/frames_64x64x1")) == ["actions", "header.json", "rows"]


def test_the_disk_that_is_needed_is_estimated_for_each_kind_of_file(tmp_path, capfd):
    """An array has few frames for its bytes. It must not change the estimate for films."""
    root = str(tmp_path)
    for number in range(8):
        twins.encode(twins.movie(number, 100), tmp_path / f"{number}.mp4")
    np.save(tmp_path / "a.npy", np.zeros([5, 400, 400, 3], np.uint8))
    (tmp_path / "images").mkdir()
    for number in range(30):
        Image.fromarray(twins.movie(0, 1)[0]).save(tmp_path / "images" / f"{number}.png")
    config = config_for(root, channels=3)
    chosen = [*files.find(root).videos.values()]
    with videos.Readers() as readers:
        folder._check_space(config, chosen, readers)
        size = float(re.search(r"takes about ([\d.]+) MB", capfd.readouterr().err)[1])
        assert 700 < size * 1e6 / (64 * 64 * 3) < 970
        folder._check_space(config.replace(fps=10), chosen[:1], readers)
        size = float(re.search(r"takes about ([\d.]+) kB", capfd.readouterr().err)[1])
        assert size == pytest.approx(50 * 64 * 64 * 3 / 1000, 0.01)  # 100 frames at 20 a second.


def prepared_frames(root):
    journal = os.path.join(root, "frames_64x64x1", "journal")
    return sum(1 for _ in open(journal)) if os.path.exists(journal) else 0


@pytest.mark.slow
def test_a_preparation_that_was_killed_goes_on_where_it_was(tmp_path, readings):
    root = folder_of(tmp_path, [12] * 30)
    program = ("import os, time; from video_data import videos, folder; from config import Config\n"
               "read = videos.Readers.read\n"
               "videos.Readers.read = lambda *a: time.sleep(0.05) or read(*a)\n"
               f"folder.prepare(Config(dataset='videos', data_root={root!r}))")
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while prepared_frames(root) < 8:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = prepared_frames(root)
    clips = data_loader.Clips(config_for(root))
    # The last line of the journal may be cut short.
    assert clips.num_clips == 60 and abs(len(readings) - (32 - done)) <= 1
    whole = tmp_path / "whole"
    shutil.copytree(root, whole, ignore=shutil.ignore_patterns("frames_*"))
    assert data_loader.Clips(config_for(str(whole))).fingerprint == clips.fingerprint


# ------------------------------------------------------------------------------------------ the keys


def test_videos_within_a_file_are_split_by_name_and_number(tmp_path):
    array = np.stack([counting(number, 12)[..., 0] for number in range(40)], 1)
    np.save(tmp_path / "mnist_test_seq.npy", array)  # [T, N, H, W]
    seen = splits(tmp_path)
    assert len(seen["train"]) + len(seen["test"]) == 40 and 1 <= len(seen["test"]) <= 12
    for name in seen["test"]:
        assert int(hashlib.sha256(name.encode()).hexdigest()[:15], 16) % 10 == 0
    batch = data_loader.Sequences(config_for(str(tmp_path)), 12).batch(0, 1)["video"]
    assert batch[0, :, 0, 1, 0].tolist() == list(range(12))
    assert seen["test"][0] == f"mnist_test_seq.npy[{batch[0, 0, 0, 0, 0]}]"


def test_one_array_that_holds_one_video_is_too_few(tmp_path):
    np.save(tmp_path / "a.npy", counting(0, 9))
    with pytest.raises(UserError, match="needs two videos at least"):
        splits(tmp_path)


def test_other_axes_files_and_parts_have_stores_of_their_own(tmp_path, readings):
    root = tmp_path / "videos"
    root.mkdir()
    for number in range(4):
        np.save(root / f"{number}.npy", np.zeros([6, 5, 64, 64], np.uint8))
    assert len(splits(root, axes="NTHW")["train"]) > 15
    assert len(splits(root, axes="TNHW", files="[0-2].npy")["train"]) < 15
    stores = [name for name in os.listdir(root) if name.startswith("frames_") and "." not in name]
    assert len(stores) == 2
    readings.clear()
    splits(root, axes="NTHW")
    assert not readings


def test_what_the_project_writes_into_the_folder_is_never_data(tmp_path):
    root = folder_of(tmp_path, [12, 12])
    config = config_for(root, log_root=f"{root}/train/logs")
    before = data_loader.Clips(config)
    for place in ("train/logs/videos/run/train", "train/run"):
        os.makedirs(f"{root}/{place}")
        np.save(f"{root}/{place}/sample.npy", counting(9, 20))
    for name in ("config.yml", "code.json"):
        open(f"{root}/train/run/{name}", "w").close()
    after = data_loader.Clips(config)
    assert after.fingerprint == before.fingerprint and after.num_clips == 4


def test_prepared_frames_go_where_they_are_wanted(tmp_path):
    root, cache = folder_of(tmp_path, [12, 12]), str(tmp_path / "cache")
    config = config_for(root, cache_root=cache)
    path = data_loader.prepare(config)["video"]
    assert path.startswith(f"{cache}/videos_") and sorted(os.listdir(root)) == ["test", "train"]
    other = folder_of(tmp_path / "more", [12, 12])
    assert data_loader.prepare(config_for(other, cache_root=cache))["video"] != path
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="^cache_root: videos is not prepared in .*file"):
        data_loader.prepare(config_for(root, cache_root=str(tmp_path / "file" / "cache")))


def test_a_part_of_a_damaged_file_is_a_video_where_it_is_wanted(tmp_path, capfd):
    root = folder_of(tmp_path, [12, 12])
    whole = twins.encode(twins.movie(0, 60), output_params=["-movflags", "+faststart"])
    (tmp_path / "videos" / "train" / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    assert len(splits(root)["train"]) == 2
    capfd.readouterr()
    assert "train/cut.mp4" in splits(root, keep_partial=True)["train"]
    assert "train/cut.mp4 is kept in part: " in capfd.readouterr().err


def test_what_failed_for_the_systems_reasons_is_tried_again(tmp_path, monkeypatch, capfd):
    root = folder_of(tmp_path, [12, 12, 12])
    read = videos.Readers.read

    def failing(readers, request):
        if request.path.endswith("train/01.npy"):
            raise videos.Broken("Input/output error", again=True)
        return read(readers, request)

    monkeypatch.setattr(videos.Readers, "read", failing)
    for _ in range(2):
        assert data_loader.Clips(config_for(root)).num_clips == 4
        assert "01.npy: Input/output error. It is tried again at the next" in capfd.readouterr().err
    monkeypatch.undo()
    assert data_loader.Clips(config_for(root)).num_clips == 6
    capfd.readouterr()
    assert data_loader.Clips(config_for(root)).num_clips == 6 and not capfd.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_tried_again(tmp_path, capfd):
    root = folder_of(tmp_path, [12, 12, 12])
    os.chmod(f"{root}/train/01.npy", 0)
    assert data_loader.Clips(config_for(root)).num_clips == 4
    os.chmod(f"{root}/train/01.npy", 0o644)
    assert data_loader.Clips(config_for(root)).num_clips == 6


def test_names_with_a_newline_are_counted_and_shown_on_one_line(tmp_path, capfd):
    fill(tmp_path, [12, 12, 12], "a\n{}.npy")
    (tmp_path / "b\nc.mp4").write_text("no video")
    seen = splits(tmp_path)
    assert len(seen["train"]) + len(seen["test"]) == 3
    assert "b\\nc.mp4: is no video" in capfd.readouterr().err
    reasons = list(folder.describe(store.read_header(f"{tmp_path}/frames_64x64x1")))
    assert "1 of 4 files cannot be read:" in reasons


def test_what_is_not_read_is_counted_in_a_line(tmp_path, capfd):
    fill(tmp_path, [12, 12])
    for name in ("a.txt", "b.txt", "c.MPC"):
        (tmp_path / name).touch()
    splits(tmp_path)
    assert "not read: 2 .txt, 1 .mpc." in capfd.readouterr().err


# ----------------------------------------------------------------------------------- one-hot actions


@pytest.fixture
def discrete(tmp_path):
    """Videos with an action of 0 to 3 to train on, 0 to 2 to test on."""
    root = folder_of(tmp_path, [12, 13], test=(12,))
    for split, count, largest in (("train", 2, 4), ("test", 1, 3)):
        for number in range(count):
            length = len(np.load(f"{root}/{split}/{number:02d}.npy"))
            np.save(f"{root}/{split}/{number:02d}.actions.npy", np.arange(length) % largest)
    return root


def test_one_hot_actions_have_as_many_columns_as_training_knows(discrete):
    config = config_for(discrete, actions="onehot")
    clips = data_loader.Clips(config)
    assert clips.action_size == 4
    batch = clips.read([(0, 2)])["actions"][0]
    np.testing.assert_array_equal(batch, [[0] * 4, *np.eye(4)[[2, 3, 0, 1]]])
    sequences = data_loader.Sequences(config, 12)
    assert sequences.action_size == 4  # Though the test videos know but three.
    np.testing.assert_array_equal(sequences.batch(0, 1)["actions"][0, 1:],
                                  np.eye(4)[np.arange(11) % 3])
    skipped = data_loader.Sequences(config.replace(frame_skip=3), 4).batch(0, 1)["actions"][0]
    np.testing.assert_array_equal(skipped, [[0] * 4, *[[1, 1, 1, 0]] * 3])


def test_an_action_that_training_did_not_know_is_an_error(discrete):
    config = config_for(discrete, actions="onehot")
    assert data_loader.Sequences(config.replace(action_classes=9), 12).action_size == 9
    with pytest.raises(UserError, match="00.npy has the action 2, but training knows .* 0 to 1"):
        data_loader.Sequences(config.replace(action_classes=2), 12)
    np.save(f"{discrete}/test/00.actions.npy", np.arange(12))
    with pytest.raises(UserError, match="test/00.npy has the action 11, but training knows .* 0 to 3"):
        data_loader.Sequences(config, 12)
    np.save(f"{discrete}/test/00.actions.npy", np.arange(12) / 2)
    with pytest.raises(UserError, match="test/00.npy: its actions are not one whole number each"):
        data_loader.Sequences(config, 12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e39])
def test_actions_that_are_not_finite_are_refused(bad, discrete):
    actions = np.zeros([12, 2])
    actions[5, 1] = bad
    for split, number, length in (("train", 0, 12), ("train", 1, 13), ("test", 0, 12)):
        np.save(f"{discrete}/{split}/{number:02d}.actions.npy", np.zeros([length, 2]))
    np.save(f"{discrete}/train/00.actions.npy", actions)
    with pytest.raises(UserError, match=r"train/00.npy: its actions are not finite: .* at frame 5"):
        data_loader.Clips(config_for(discrete, actions=True))
