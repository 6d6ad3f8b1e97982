"""Camera moves over photographs."""

import numpy as np
import pytest

import data_loader
from datasets import camera_moves
from tools import Config


def test_a_video_depends_on_split_and_index_alone():
    video = camera_moves.video("train", 3, 40)
    assert video.shape == (40, 64, 64, 3) and video.dtype == np.uint8
    np.testing.assert_array_equal(video, camera_moves.video("train", 3, 40))
    np.testing.assert_array_equal(video[:15], camera_moves.video("train", 3, 15))
    for other in [("train", 9, 40), ("val", 3, 40), ("test", 3, 40)]:
        assert (video != camera_moves.video(*other)).any()


def test_no_photograph_is_in_two_splits():
    photographs = sum(camera_moves.PHOTOGRAPHS.values(), [])
    assert len(set(photographs)) == len(photographs)


def test_photographs_to_train_on_come_in_other_colours_and_grey_ones_in_colour():
    photographs = camera_moves.PHOTOGRAPHS["train"]
    for name in ("astronaut.png", "camera.png"):
        (index,) = [i for i, path in enumerate(photographs) if path.endswith(name)]
        means = [camera_moves.video("train", index + i * len(photographs), 20).mean((0, 1, 2))
                 for i in range(6)]
        assert len({tuple(np.argsort(mean)) for mean in means}) > 1  # of red, green and blue
        assert min(np.ptp(mean) for mean in means) > 1


@pytest.mark.parametrize("split", list(camera_moves.PHOTOGRAPHS))
def test_the_camera_leaves_and_comes_back_to_where_it_was(split):
    for index in range(6):
        video = camera_moves.video(split, index, 80).astype(float)
        distance = np.abs(video - video[0]).mean((1, 2, 3))  # From the first view.
        periods = [period for period in range(16, 32) if distance[period] == 0]
        assert len(periods) == 1
        period = periods[0]
        np.testing.assert_array_equal(video[period:], video[: 80 - period])
        assert distance[period // 2] > 4


def test_the_builder_writes_its_videos(tmp_path, monkeypatch):
    monkeypatch.setattr(
        camera_moves.CameraMoves, "SIZES", {"train": (3, 20), "val": (2, 24), "test": (3, 30)})
    config = Config(dataset="camera_moves", data_root=str(tmp_path), channels=3, seq_len=20,
                    eval_seq_len=24, open_loop_ctx=6, tmp_abs_factor=1, batch_size=3)
    for split in ("val", "test"):
        for index, video in enumerate(data_loader.Sequences(config, 24, split).batch(0, 9)["video"]):
            np.testing.assert_array_equal(video, camera_moves.video(split, index, 24))
    seen = {video.tobytes() for video in data_loader.Clips(config).batch(0)["video"]}
    assert seen == {camera_moves.video("train", index, 20).tobytes() for index in range(3)}
