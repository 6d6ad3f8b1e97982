"""Arrays in files: which of them are videos, what their axes are, and where their actions lie."""

import os
import zipfile
import zlib

import h5py
import numpy as np
import pytest
import twins

from video_data import arrays, reader, videos

READERS = videos.Readers()


def read(path, **options):
    """All that is read of a file: (frames, videos, what was left out)."""
    options.setdefault("form", videos.Form(channels=1))
    return READERS.read(videos.Request(str(path), **options))


class Sink:
    """Takes frames, and forgets them."""

    def frames(self, frames):
        pass

    def alive(self):
        pass

    def cut(self, count):
        pass


def numbered(videos_count, frames, *last):
    """Grey video whose pixels say which video and frame they are of: uint8 [N, T, 64, 64]."""
    array = np.zeros([videos_count, frames, 64, 64, *last], np.uint8)
    array[:] = (10 * np.arange(videos_count)[:, None] + np.arange(frames)).reshape(
        videos_count, frames, *[1] * (2 + len(last)))
    return array


@pytest.mark.parametrize("shape, expected", [
    ([9, 64, 64], "THW"), ([3, 64, 64], "THW"), ([9, 64, 64, 3], "THWC"), ([9, 3, 64, 64], "TCHW"),
    ([9, 1, 64, 64], "TCHW"), ([4, 64, 64, 3], "THWC"), ([1, 9, 64, 64], "NTHW"),
    ([2, 9, 64, 64, 3], "NTHWC"), ([2, 9, 3, 64, 64], "NTCHW"), ([2, 3, 9, 64, 64], "NCTHW"),
    ([3, 9, 64, 64, 3], "NTHWC"), ([20, 1, 64, 64, 1], "NTHWC")])
def test_axes_are_by_the_shape_where_one_reading_has_colours(shape, expected):
    assert arrays.layout(shape, "a.npy") == expected


@pytest.mark.parametrize("shape, reason", [
    ([20, 10, 64, 64], r"set axes to one of: NTHW: 20 videos of 10 frames, TNHW: 10 videos of 20"),
    ([3, 9, 64, 64], "NTHW: 3 videos of 9 frames, TNHW: 9 videos of 3 frames, CTHW: one video of 9"),
    ([3, 3, 64, 64], "TCHW: one video of 3 frames in colour, CTHW"),
    ([2, 3, 3, 64, 64], "which may be NTCHW or NCTHW: set axes"), ([64, 64], "one frame"),
    ([64, 64, 3], "one frame"), ([5], "not .T, H, W."), ([2, 3, 4, 5, 6, 7], "not .T, H, W."),
    ([100, 30, 2], "not .T, H, W."), ([0, 64, 64], "is empty")])
def test_what_is_no_video_or_not_clear_is_said(shape, reason):
    with pytest.raises(videos.Broken, match=reason):
        arrays.layout(shape, "a.npy")


@pytest.mark.parametrize("axes", ["NTHW", "TNHW", "NTHWC", "NCTHW", "TNHWC", "HWTN", "CNTWH", "THWN"])
def test_the_axes_of_the_config_are_taken(axes, tmp_path):
    array = numbered(3, 5, 1)  # N, T, H, W, C
    array[:, :, 0, 0], array[:, :, 0, 1] = 200, 100  # So that H and W differ.
    order = ["NTHWC".index(letter) for letter in axes]
    turned = array.transpose([*order, *(set(range(5)) - set(order))])
    np.save(tmp_path / "a.npy", turned if "C" in axes else turned[..., 0])
    frames, found, _ = read(tmp_path / "a.npy", axes=axes)
    np.testing.assert_array_equal(frames, array.reshape(-1, 64, 64, 1))
    assert [(video.part, video.length) for video in found] == [("[0]", 5), ("[1]", 5), ("[2]", 5)]
    with pytest.raises(videos.Broken, match="but axes is THW"):
        read(tmp_path / "a.npy", axes="THW")


def test_the_moving_mnist_that_people_have(tmp_path):
    array = numbered(30, 20)
    np.save(tmp_path / "mnist_test_seq.npy", array.swapaxes(0, 1))
    frames, found, _ = read(tmp_path / "mnist_test_seq.npy")
    np.testing.assert_array_equal(frames[..., 0].reshape(array.shape), array)
    assert len(found) == 30 and found[7].part == "[7]"
    os.rename(tmp_path / "mnist_test_seq.npy", tmp_path / "other.npy")
    with pytest.raises(videos.Broken, match="TNHW: 30 videos of 20 frames"):
        read(tmp_path / "other.npy")


@pytest.mark.parametrize("dtype", [">u2", ">f4", "<f8", "?", "u1"])
def test_numbers_in_either_order_of_bytes(dtype, tmp_path):
    frames = (np.arange(5) % 2)[:, None, None] * np.ones([1, 64, 64])
    scale = {">u2": 65535, "u1": 255}.get(dtype, 1)
    np.save(tmp_path / "a.npy", (frames * scale).astype(dtype))
    np.testing.assert_array_equal(read(tmp_path / "a.npy")[0][:, 0, 0, 0], [0, 255, 0, 255, 0])


@pytest.mark.parametrize("low, high, words", [
    (0, 1.00001, r"holds floats from 0 to 1\.0000\d+, a little more than 1; numpy.clip"),
    (-1, 1, r"from -1 to 1, but 0 must be black and 1 white; save \(video \+ 1\) / 2"),
    (0, 255, "from 0 to 255, but 1 must be white; save video / 255"),
    (-3, 9, "from -3 to 9, but 0 must be black and 1 white"), (0, np.inf, "are not finite")])
def test_floats_of_another_range_are_named_with_what_to_do(low, high, words, tmp_path):
    video = np.full([400, 64, 64], 0.5, np.float32)
    video[0, 0, 0], video[-1, 5, 5] = low, high
    video[1, 0, 0] = 1.000005 if low == 0 else -0.5  # The largest comes blocks later.
    np.save(tmp_path / "a.npy", video)
    with pytest.raises(videos.Broken, match=words):
        read(tmp_path / "a.npy")


# ------------------------------------------------------------------------------------------ HDF5


@pytest.fixture
def robomimic(tmp_path):
    """A file of demonstrations: two cameras, each again one frame later, actions beside them."""
    path = tmp_path / "demo.hdf5"
    with h5py.File(path, "w") as file:
        for number in range(3):
            demo = file.create_group(f"data/demo_{number}")
            for group in ("obs", "next_obs"):
                for camera in ("agentview_rgb", "eye_in_hand_rgb"):
                    demo[f"{group}/{camera}"] = twins.movie(number, 6 + number)
                demo[f"{group}/joint_pos"] = np.zeros([6 + number, 7])
            demo["actions"] = np.full([6 + number, 2], number)
            demo["states"] = np.zeros([6 + number, 30])
    return path


def test_demonstrations_are_read_once_with_the_actions_above(robomimic):
    form = videos.Form()
    frames, found, left_out = read(robomimic, form=form)
    assert [video.part for video in found] == [
        f":data/demo_{number}/obs/{camera}" for number in range(3)
        for camera in ("agentview_rgb", "eye_in_hand_rgb")]
    frames, found, left_out = read(robomimic, form=form, within=("data/*/obs/agent*",))
    assert [video.length for video in found] == [6, 7, 8] and not left_out
    np.testing.assert_array_equal(frames[6:13], twins.movie(1, 7))
    assert [video.actions[0, 0] for video in found] == [0, 1, 2]
    with pytest.raises(videos.Broken, match="holds data/demo_0/actions, .* files: data/x matches none"):
        read(robomimic, within=("data/x",))


def test_what_is_wrong_in_a_file_is_named_and_its_other_videos_are_read(tmp_path):
    one = twins.movie(0, 6)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["there"] = one
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["good"] = one
        file["none"] = np.zeros([0, 64, 64, 3], np.uint8)
        file.create_dataset("nothing", dtype="u1", data=h5py.Empty("u1"))
        file["range"] = np.full([300, 64, 64], np.linspace(0, 2, 300)[:, None, None])
        file["last"] = one[::-1]
        file["linked"] = h5py.ExternalLink("other.h5", "/there")
        file["broken"] = h5py.ExternalLink("gone.h5", "/there")
        file["soft"] = h5py.SoftLink("/nowhere")
        file["circle/back"] = h5py.SoftLink("/")
    frames, found, left_out = read(tmp_path / "a.h5", form=videos.Form())
    assert sorted(video.part for video in found) == [":good", ":last", ":linked"]
    for video, start in zip(found, np.cumsum([0, 6, 6]), strict=True):
        expected = one[::-1] if video.part == ":last" else one
        np.testing.assert_array_equal(frames[start : start + 6], expected)
    assert "is empty" in left_out[":none"] and "from 0 to 2" in left_out[":range"]
    assert "is a link to nothing (gone.h5:/there)" in left_out[":broken"]
    assert "is a link to nothing (:/nowhere)" in left_out[":soft"]


# --------------------------------------------------------------------------------------- actions


def test_actions_are_where_people_keep_them(tmp_path):
    frames, actions = twins.movie(0, 6), np.arange(12.0).reshape(6, 2)
    np.savez(tmp_path / "a.npz", video=frames, action=actions)
    twins.encode(frames, tmp_path / "b.mp4")
    np.savez(tmp_path / "b.npz", action=actions, reward=np.zeros(6))
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["episode/pixels/front"], file["episode/action"] = frames, actions
        file["label"] = np.zeros(6)
    for name in ("a.npz", "b.mp4", "c.h5"):
        _, (video,), _ = read(tmp_path / name, form=videos.Form())
        np.testing.assert_array_equal(video.actions, actions)


@pytest.mark.parametrize("videos_in_file", [3, 6])
@pytest.mark.parametrize("shape, each", [
    ("T", False), ("TA", False), ("NT", True), ("NTA", True), ("NT1", True)])
def test_actions_of_several_videos_are_those_of_each_or_of_all(videos_in_file, shape, each, tmp_path):
    sizes = {"N": videos_in_file, "T": 6, "A": 2, "1": 1}
    shape = [sizes[letter] for letter in shape]
    actions = np.arange(np.prod(shape), dtype=float).reshape(shape)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["video"], file["actions"] = np.zeros([videos_in_file, 6, 16, 16, 3], np.uint8), actions
    _, found, _ = read(tmp_path / "a.h5", form=videos.Form())
    if shape == [6, 6]:
        assert all(video.refused == "its actions [6, 6] may be [N, T] or [T, A], since the file holds 6 "
                   "videos of 6 frames; save them as [N, T, A]" for video in found)
        return
    for number, video in enumerate(found):
        expected = actions[number] if each else actions
        np.testing.assert_array_equal(video.actions, expected.reshape(6, -1), str(video.refused))


def test_actions_of_other_numbers_of_videos_or_frames_are_refused(tmp_path):
    for shape, said in [([4, 6, 2], "are float64 [4, 6, 2], not numbers [T, A]"),
                        ([3, 5, 2], "it has 5 actions for 6 frames"),
                        ([3, 5], "it has 5 actions for 6 frames")]:
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file["video"], file["actions"] = np.zeros([3, 6, 16, 16, 3], np.uint8), np.zeros(shape)
        _, found, _ = read(tmp_path / "a.h5", form=videos.Form())
        assert len(found) == 3 and all(said in video.refused for video in found)


@pytest.mark.parametrize("actions, refused", [
    ([0, 2, 1, 0, 2, 2], None), ([[0], [2], [1], [0], [2], [2]], None),
    ([0, 1, 2, 3, 4, 0.5], "not one whole number each"), ([0, 1, 2, 3, 4, -1], "not one whole number"),
    (np.zeros([6, 2]), "not one whole number each"), ([0, 1, 2, 3, 4, 10**6], "from 0 to 4095"),
    ([0, 1, 2, 3, 4, np.nan], "not finite"), ([0, 1, 2, 3, 4, 1e39], r"finite: \[1e\+39\] at frame 5")])
def test_whole_numbers_become_one_hot(actions, refused, tmp_path):
    np.savez(tmp_path / "a.npz", video=twins.movie(0, 6), actions=actions)
    _, (video,), _ = read(tmp_path / "a.npz", form=videos.Form(), onehot=True)
    if refused:
        assert video.actions is None
        with pytest.raises(ValueError, match=refused):
            raise ValueError(video.refused)
    else:
        np.testing.assert_array_equal(video.actions, np.eye(3)[[0, 2, 1, 0, 2, 2]])


def test_a_bad_video_of_an_array_is_left_out_alone(tmp_path):
    array = numbered(4, 5).astype(np.float32) / 255
    array[1, 3, 2, 2] = np.nan
    np.save(tmp_path / "a.npy", array)
    frames, found, left_out = read(tmp_path / "a.npy", axes="NTHW")
    assert [video.part for video in found] == ["[0]", "[2]", "[3]"]
    assert list(left_out) == ["[1]"] and "not finite" in left_out["[1]"]
    np.testing.assert_array_equal(frames.reshape(3, 5, 64, 64), numbered(4, 5)[[0, 2, 3]])


def test_a_lone_factor_is_no_video(tmp_path):
    np.savez(tmp_path / "a.npz", position=np.zeros([12, 8, 8]))
    with pytest.raises(videos.Broken, match="none of them is a video"):
        read(tmp_path / "a.npz")


def test_an_array_that_cannot_be_unpacked_is_tried_once(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", video=numbered(40, 5))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "a.npz").write_bytes(content)
    opened, unpacked = zipfile.ZipFile.open, []

    def noting(archive, name, *args, **options):
        unpacked.append(name)
        return opened(archive, name, *args, **options)

    monkeypatch.setattr(zipfile.ZipFile, "open", noting)
    request = videos.Request(str(tmp_path / "a.npz"), videos.Form(channels=1), axes="NTHW")
    with pytest.raises((videos.Broken, zipfile.BadZipFile, zlib.error)):
        reader.read(request, Sink())
    assert len(unpacked) <= 2  # its header, and all of it


def test_from_python_a_bad_video_of_several_is_refused(tmp_path):
    array = numbered(2, 5).astype(np.float32) / 255
    array[0, 3] = np.nan
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(videos.Broken, match="not finite"):
        videos.read(tmp_path / "a.npy", videos.Form(channels=1), axes="NTHW")
