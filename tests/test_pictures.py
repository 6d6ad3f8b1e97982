import io

import imageio.v3 as imageio
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import pictures
from logger import Logger
from pixels import to_uint8

RNG = np.random.default_rng(0)


def video(*shape):
    return RNG.random(shape).astype(np.float32)


def read_gif(data):
    """The frames of a GIF as RGB, [T, H, W, 3], and the opened image."""
    image = Image.open(io.BytesIO(data))
    frames = []
    for index in range(image.n_frames):
        image.seek(index)
        frames.append(np.array(image.convert("RGB")))
    return np.stack(frames), image


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_holds_every_frame_in_reading_order_and_pads_the_last_row(tmp_path, channels):
    frames = video(7, 4, 5, channels)
    pictures.save_grid(tmp_path / "grid.png", frames, columns=3)
    grid = imageio.imread(tmp_path / "grid.png").reshape(3 * 4, 3 * 5, channels)
    for index in range(9):
        row, column = divmod(index, 3)
        cell = grid[4 * row : 4 * row + 4, 5 * column : 5 * column + 5]
        np.testing.assert_array_equal(
            cell, to_uint8(frames[index]) if index < 7 else np.zeros_like(cell))


def test_grid_of_few_frames_is_one_row_without_padding(tmp_path):
    pictures.save_grid(tmp_path / "grid.png", video(3, 4, 5, 1))
    assert imageio.imread(tmp_path / "grid.png").shape == (4, 15)


def test_grey_gif_keeps_all_256_greys_loops_and_keeps_time(tmp_path):
    frames = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    frames = np.concatenate([frames, frames[:, ::-1], frames[:, :, ::-1]])
    pictures.save_gif(tmp_path / "a.gif", frames, fps=20)
    got, image = read_gif((tmp_path / "a.gif").read_bytes())
    np.testing.assert_array_equal(got, np.broadcast_to(frames, (3, 16, 16, 3)))
    assert image.info["loop"] == 0 and image.info["duration"] == 50


def test_a_colour_gif_has_one_palette_that_is_near_and_has_the_borders_colours():
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 255, 32)
    truth = np.zeros([40, 32, 32, 3])
    truth[..., 0], truth[..., 1] = ramp, ramp[:, None]
    truth[..., 2] = 100 + rng.integers(0, 8, [40, 32, 32])
    truth = truth.astype(np.uint8)
    frames = pictures.prediction_gif_frames(truth, truth[10:, ::-1], context=10)
    gif = pictures.encode_gif(frames)
    got, image = read_gif(gif)
    error = np.abs(got.astype(int) - frames)
    assert error.mean() < 5 and error.max() < 40
    borders = [list(pictures.CONTEXT_RGB)] * 10 + [list(pictures.PREDICTED_RGB)] * 30
    assert got[:, 0, 0].tolist() == borders
    assert got[:, 1, 1].tolist() == borders
    # A frame with a palette of its own has the highest bit set in the last byte of its description.
    local = [flags for place in range(len(gif) - 9) if gif[place:place + 5] == b",\0\0\0\0"
             and (flags := gif[place + 9]) & 0x80]
    assert len(local) <= 1 and image.n_frames == 40  # Pillow may give the first one its own.


def test_few_colours_stay_as_they_are():
    frames = np.zeros([3, 16, 16, 3], np.uint8)
    frames[0, :8], frames[1, 4:], frames[2] = (255, 0, 0), (20, 200, 40), (250, 250, 250)
    got, _ = read_gif(pictures.encode_gif(frames))
    assert np.abs(got.astype(int) - frames).max() <= 1


def test_gif_of_a_grey_video_within_coloured_borders_keeps_254_greys_and_the_colours():
    greys = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    frames = pictures.prediction_gif_frames(np.concatenate([greys] * 2), greys[:, ::-1], context=1)
    got, _ = read_gif(pictures.encode_gif(frames))
    assert np.abs(got.astype(int) - frames).max() <= 1
    assert got[:, 0, 0].tolist() == [list(pictures.CONTEXT_RGB), list(pictures.PREDICTED_RGB)]


def test_gif_of_one_frame_and_of_equal_frames_can_be_written():
    assert len(read_gif(pictures.encode_gif(video(1, 8, 8, 1)))[0]) == 1
    _, image = read_gif(pictures.encode_gif(np.zeros([5, 8, 8, 3])))
    # Equal frames are stored once, and shown for as long as all of them.
    assert image.n_frames * image.info["duration"] == 5 * 80


@pytest.mark.parametrize("channels", [1, 3])
def test_tensorboard_reads_a_gif_back_as_an_image(tmp_path, channels):
    frames = to_uint8(video(3, 6, 8, channels))
    logger = Logger(tmp_path, 0)
    logger.gif(7, "val", frames)
    logger.gif(8, "val", frames[:1])

    events = EventAccumulator(str(tmp_path / "val"), size_guidance={"tensors": 0})
    events.Reload()
    metadata = events.SummaryMetadata("open_loop_prediction")
    assert metadata.plugin_data.plugin_name == "images"
    first, second = events.Tensors("open_loop_prediction")
    assert (first.step, second.step) == (7, 8)
    width, height, data = tf.make_ndarray(first.tensor_proto)
    assert (width, height) == (b"8", b"6")
    assert data == pictures.encode_gif(frames) and data[:6] == b"GIF89a"


def test_training_gif_shows_truth_prediction_and_error_of_every_example():
    truth, prediction = video(2, 3, 4, 5, 1), video(2, 3, 4, 5, 1)
    frames = pictures.training_gif_frames(truth, prediction)
    assert frames.shape == (3, 3 * 4 + 2 * 2, 2 * 5 + 2, 1) and frames.dtype == np.uint8
    for example in range(2):
        column = frames[:, :, 7 * example : 7 * example + 5]
        t, p = to_uint8(truth[example]), to_uint8(prediction[example])
        np.testing.assert_array_equal(column[:, :4], t)
        np.testing.assert_array_equal(column[:, 6:10], p)
        np.testing.assert_array_equal(column[:, 12:], np.abs(t.astype(int) - p))
        assert (column[:, 4:6] == pictures.GAP).all()
    assert (frames[:, :, 5:7] == pictures.GAP).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_prediction_gif_marks_the_context_and_shows_it_on_both_sides(channels):
    truth, prediction = video(5, 4, 4, channels), video(3, 4, 4, channels)
    frames = pictures.prediction_gif_frames(truth, prediction, context=2)
    assert frames.shape == (5, 14, 14 + 6 + 14, 3)
    left, right = frames[:, :, :14], frames[:, :, 20:]
    seen = np.concatenate([truth[:2], prediction])
    for side, shown in [(left, truth), (right, seen)]:
        np.testing.assert_array_equal(
            side[:, 3:-3:2, 3:-3:2], np.broadcast_to(to_uint8(shown), (5, 4, 4, 3)))
        np.testing.assert_array_equal(side[:, 3:-3:2], side[:, 4:-3:2])
        assert (side[:2, 0] == pictures.CONTEXT_RGB).all()
        assert (side[2:, 0] == pictures.PREDICTED_RGB).all()


def test_prediction_gif_refuses_a_prediction_of_another_length():
    with pytest.raises(ValueError, match="dimension 0"):
        pictures.prediction_gif_frames(video(5, 4, 4, 1), video(4, 4, 4, 1), context=2)
