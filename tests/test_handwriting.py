"""The reader of handwritten digits, on printed ones, since MNIST is not at hand in tests."""

import numpy as np
import pytest

import metrics
from video_data import digits, handwriting, moving_mnist

# A type face with thin strokes.
PRINTED = np.tile(digits.glyphs("STIXGeneral", 26), (6, 1, 1)), np.tile(np.arange(10), 6)


@pytest.fixture(scope="module")
def videos():
    """30 videos of 10 frames, and the digits that they show."""
    made = [moving_mnist.video("test", index, 10, *PRINTED) for index in range(30)]
    return np.stack([video["video"] for video in made]), np.stack([video["digits"] for video in made])


def score(prediction, pairs, frames=10):
    factors = metrics.Factors({"digits": np.repeat(pairs[:, None], frames, 1), "position": None}, {})
    factors.context.update(factors.frames)
    return metrics.METRICS["digits"].score(None, prediction[:, None], factors)


def test_most_printed_digits_are_read_and_shuffled_ones_are_chance(videos):
    frames, pairs = videos
    right = score(frames, pairs)
    assert right.shape == (30, 1, 10) and set(np.unique(right)) <= {0, 0.5, 1}
    assert right.mean() > 0.85
    assert score(frames, np.roll(pairs, 7, 0)).mean() < 0.35


def test_the_order_of_the_digits_does_not_count(videos):
    frames, pairs = videos
    np.testing.assert_array_equal(score(frames, pairs), score(frames, pairs[:, ::-1]))
    read = np.array([[2, 3], [3, 3], [-1, -1], [3, 5]])
    np.testing.assert_array_equal(handwriting.share_right(read, np.array([3, 2])), [1, 0.5, 0, 0.5])
    assert handwriting.share_right(np.array([3, 3]), np.array([3, 3])) == 1


def test_a_prediction_for_all_times_is_read_once(videos):
    frames, pairs = videos
    np.testing.assert_array_equal(
        score(frames[:, :1], pairs), score(np.repeat(frames[:, :1], 10, 1), pairs))


def test_nothing_is_read_where_nothing_is_bright(videos):
    frames, pairs = videos
    assert not score(np.zeros_like(frames), pairs).any()
    many = np.full([handwriting.READ_AT_ONCE + 1, 64, 64, 1], handwriting.FAINTEST - 1, np.uint8)
    np.testing.assert_array_equal(handwriting.read(many), np.full([len(many), 2], -1))


def test_sharp_frames_such_as_it_learned_from_are_read():
    frames, pairs = handwriting.draw(np.random.default_rng(0), *PRINTED, 40)
    assert frames.shape == (40, 64, 64, 1) and frames.dtype == np.float32
    assert frames.min() >= 0 and 0.2 < frames.max() <= 1
    sharp = np.uint8(255 * frames[1::2] / frames[1::2].max((1, 2, 3), keepdims=True))
    assert (handwriting.read(sharp) == handwriting.PAIRS[pairs[1::2]]).mean() > 0.5
