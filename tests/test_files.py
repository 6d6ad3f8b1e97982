"""Which files below a folder are videos, in which split, and what is said of the others."""

import os

import numpy as np
import pytest
import twins
from PIL import Image

from tools import UserError
from video_data import files
from video_data.frames import Broken


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def images(root, *names, size=16):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (size, size)).save(path)


def names(root, *patterns, **options):
    return [*files.find(str(root), patterns, **options).videos]


# ------------------------------------------------------------------------------------ pictures


def test_a_series_is_a_name_without_its_last_number(tmp_path):
    images(tmp_path, "one/1.png", "one/2.png", "one/10.png", "two/img_1.png", "two/img_2.png",
           "two/flow_x_1.png", "two/flow_x_2.png", "two/cover7.png", "three/a1.png",
           "left/f_1_l.png", "left/f_2_l.png", "left/f_1_r.png", "left/f_2_r.png", "odd/1_of_9.png",
           "odd/2_of_9.png")
    found = files.find(str(tmp_path)).videos
    assert list(found) == ["left/f_*_l.png", "left/f_*_r.png", "odd", "one", "two/flow_x_*.png",
                           "two/img_*.png"]
    assert [os.path.basename(path) for path in found["one"].pictures] == ["1.png", "2.png", "10.png"]
    assert len(found["two/img_*.png"].pictures) == 2 and len(found["odd"].pictures) == 2


def test_images_beside_video_files_are_no_video_and_counted(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4", "notes.txt", "more.txt", "Makefile")
    images(tmp_path, "thumb_1.png", "thumb_2.png", "cover.png")
    listing = files.find(str(tmp_path))
    assert list(listing.videos) == ["a.mp4", "b.mp4"]
    assert listing.unread == {"images beside video files": 2, ".txt": 2, "no ending": 1, ".png": 1}


def test_a_tiff_of_several_pages_is_a_video_and_of_one_a_picture(tmp_path):
    frames = [Image.fromarray(frame) for frame in twins.movie(0, 5)]
    for number in range(2):
        frames[0].save(tmp_path / f"stack{number}.tif", save_all=True, append_images=frames[1:])
        frames[0].save(tmp_path / f"page_{number}.tif")
    frames[0].save(tmp_path / "big.tiff", save_all=True, append_images=frames[1:], big_tiff=True)
    found = files.find(str(tmp_path)).videos
    assert {name: len(file.pictures) for name, file in found.items()} == {
        ".": 2, "big.tiff": 0, "stack0.tif": 0, "stack1.tif": 0}


def test_numbered_arrays_of_a_frame_each_are_a_video_and_others_are_files(tmp_path):
    for number in range(3):
        for folder, shape in (("frames", [20, 20, 3]), ("grey", [20, 20]), ("clips", [5, 20, 20])):
            os.makedirs(tmp_path / folder, exist_ok=True)
            np.save(tmp_path / folder / f"{number}.npy", np.zeros(shape, np.uint8))
    np.save(tmp_path / "frames" / "poses.npy", np.zeros([3, 17, 2]))
    found = files.find(str(tmp_path)).videos
    assert list(found) == ["clips/0.npy", "clips/1.npy", "clips/2.npy", "frames", "frames/poses.npy",
                           "grey"]
    assert len(found["frames"].pictures) == 3


# ----------------------------------------------------------------------------------- which files


def test_actions_beside_a_video_are_no_videos(tmp_path):
    touch(tmp_path, "a.mp4", "a.npz", "b.mp4", "b.actions.npy", "c.npz")
    assert names(tmp_path) == ["a.mp4", "b.mp4", "c.npz"]


def test_patterns_pick_files_leave_out_and_go_on_into_files(tmp_path):
    touch(tmp_path, "a.mp4", "sub/b.mp4", "c.avi", "x_gt/d.mp4", "sub/y_gt/e.mp4", "demo.h5")
    assert names(tmp_path, "*.mp4") == ["a.mp4", "sub/b.mp4", "sub/y_gt/e.mp4", "x_gt/d.mp4"]
    assert names(tmp_path, "!*_gt/*") == ["a.mp4", "c.avi", "demo.h5", "sub/b.mp4"]
    assert names(tmp_path, "*.mp4", "*.avi", "!*_gt/*") == ["a.mp4", "c.avi", "sub/b.mp4"]
    found = files.find(str(tmp_path), ("demo.h5:data/*/rgb", "demo.h5:more", "c.avi")).videos
    assert {name: file.within for name, file in found.items()} == {
        "c.avi": (), "demo.h5": ("data/*/rgb", "more")}
    with pytest.raises(UserError, match=r"files: \*.mkv fits no video in"):
        names(tmp_path, "*.mkv")
    images(tmp_path, "s/left_1.png", "s/left_2.png", "s/right_1.png", "s/right_2.png")
    assert names(tmp_path, "s/left_*") == ["s/left_*.png"]


def test_what_this_project_writes_is_left_out(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4", "logs/videos/run/sample.gif", "logs/videos/run/config.yml",
          "run/config.yml", "run/code.json", "run/train/predicted.gif", "run/eval_1/sample.mp4",
          "eval/summary.json", "eval/metrics.npz", "eval/sample_1.gif", "frames_64x64x3/header.json",
          "frames_64x64x3/rows", "frames_64x64x3.lock")
    listing = files.find(str(tmp_path), not_below=[str(tmp_path / "logs")])
    assert list(listing.videos) == ["a.mp4", "b.mp4"] and not listing.unread
    assert listing.own == ["eval", "logs", "run"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    touch(tmp_path, "closed/a.mp4", "b.mp4", "c.mp4")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    listing = files.find(str(tmp_path))
    assert list(listing.videos) == ["b.mp4", "c.mp4"]
    assert listing.unlisted == {"closed": "Permission denied"}


def test_a_name_is_one_line_whatever_it_holds(tmp_path):
    touch(tmp_path, "a\nb.mp4", "c.mp4")
    assert [files.shown(name) for name in names(tmp_path)] == ["a\\nb.mp4", "c.mp4"]
    assert files.shown(os.fsdecode(b"a\xff")) == "a\\xff"


# ------------------------------------------------------------------------------------------ splits


@pytest.mark.parametrize("folders", [
    {"train": "Train", "test": "Test"}, {"train": "training", "test": "testing", "val": "validation"},
    {"train": "TRAIN", "test": "test", "val": "valid"}])
def test_folders_are_splits_under_the_names_that_they_have(folders, tmp_path):
    for folder in folders.values():
        touch(tmp_path, f"{folder}/a.mp4", f"{folder}/more/b.mp4")
    touch(tmp_path, "outside.mp4")
    assert files.find(str(tmp_path)).split_of == {
        f"{folder}/{name}": split for split, folder in folders.items()
        for name in ("a.mp4", "more/b.mp4")}


def test_val_alone_is_refused_by_its_name(tmp_path):
    touch(tmp_path, "train/a.mp4", "val/b.mp4")
    with pytest.raises(UserError, match=r"has train/ and val/ and no test/; .* rename val/ to test/ if"):
        names(tmp_path)
    touch(tmp_path, "test/c.txt")
    with pytest.raises(UserError, match="no videos .* in .*/test$"):
        names(tmp_path)


def test_lists_are_splits_a_whole_line_each(tmp_path):
    touch(tmp_path, "a b.mp4", "sub/c.mp4", "d.mp4", "e.mp4")
    images(tmp_path, "f/1.png", "f/2.png")
    (tmp_path / "train.txt").write_text("a b.mp4\r\nsub/c.mp4\n\n")
    (tmp_path / "Test.txt").write_text("./d.mp4\nf/")
    listing = files.find(str(tmp_path))
    assert listing.split_of == {"a b.mp4": "train", "sub/c.mp4": "train", "d.mp4": "test", "f": "test"}
    assert list(listing.videos) == ["a b.mp4", "sub/c.mp4", "d.mp4", "f"]
    (tmp_path / "Test.txt").write_text("d.mp4\nsub/c.mp4")
    with pytest.raises(UserError, match="sub/c.mp4 is in the lists of both test and train"):
        names(tmp_path)
    (tmp_path / "Test.txt").write_text("d.mp4\ngone.mp4")
    with pytest.raises(UserError, match="name 1 files that are no videos there .Test.txt: gone.mp4."):
        names(tmp_path)
    os.remove(tmp_path / "Test.txt")
    with pytest.raises(UserError, match="has train.txt, but no test.txt that names videos"):
        names(tmp_path)
    (tmp_path / "train.txt").write_text("These are no names.\n")
    listing = files.find(str(tmp_path))
    assert listing.split_of is None
    assert listing.unread == {"lists of splits that name no video (train.txt: These are no names.)": 1}
    (tmp_path / "train.txt").write_text("a b.mp4\n", encoding="utf-8-sig")  # as Windows writes it
    (tmp_path / "test.txt").write_text("d.mp4\n")
    listing = files.find(str(tmp_path))
    assert listing.split_of == {"a b.mp4": "train", "d.mp4": "test"}
    assert listing.unread == {"videos outside of the splits": 3}


def test_folders_of_splits_may_link_to_what_lies_beside_them(tmp_path):
    touch(tmp_path, "all/a.mp4", "all/walk/b.mp4", "train/c.mp4", "test/d.mp4")
    (tmp_path / "train" / "walk").symlink_to("../all/walk")
    listing = files.find(str(tmp_path))
    assert list(listing.videos) == ["train/c.mp4", "train/walk/b.mp4", "test/d.mp4"]
    assert listing.unread == {"videos outside of the splits": 1}


def test_patterns_pick_arrays_that_have_a_preview_of_the_same_name(tmp_path):
    touch(tmp_path, "1.npz", "1.gif", "2.npz", "2.gif")
    stack = [Image.new("L", (16, 16))] * 2
    stack[0].save(tmp_path / "3.tif", save_all=True, append_images=stack[1:])
    touch(tmp_path, "3.npz")
    assert names(tmp_path) == ["1.gif", "2.gif", "3.tif"]  # whose actions are in the npz files
    arrays = ["1.npz", "2.npz", "3.npz"]
    assert names(tmp_path, "*.npz") == names(tmp_path, "!*.gif", "!*.tif") == arrays


def test_the_folder_of_videos_may_hold_logs_and_caches_itself(tmp_path):
    touch(tmp_path, "a.mp4", "b.mp4")
    assert names(tmp_path, not_below=[str(tmp_path)]) == ["a.mp4", "b.mp4"]


def test_a_folder_of_pictures_is_read_alone_as_in_training(tmp_path):
    images(tmp_path, "one/f_1.png", "one/f_2.png", "one/._f_1.png", "one/._f_2.png", "two/f_1.png",
           "two/f_2.png", "two/depth_1.png", "two/depth_2.png")
    found = files.find(str(tmp_path)).videos
    assert files.pictures_of(str(tmp_path / "one")) == found["one"].pictures
    with pytest.raises(Broken, match=r"holds 2 series of pictures .depth_\*.png, f_\*.png"):
        files.pictures_of(str(tmp_path / "two"))


def test_a_single_file_takes_the_patterns_of_arrays_that_are_for_its_name():
    patterns = ("sub/*.h5:*/rgb", "*.npz:video", "!*_gt/*.h5:depth")
    assert files.single("elsewhere/d0.h5", patterns) == files.File("elsewhere/d0.h5", (), ("*/rgb",))
    assert files.single("a.mp4", patterns).within == ()
