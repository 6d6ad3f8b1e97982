"""What is in a frame and where: the metrics of digits, on true frames, shuffled labels and nothing."""

import numpy as np
import pytest

import metrics
from video_data import moving_digit


def batch_of_digits(count, videos=10, frames=6):
    """Truth [B, 1, F, 64, 64, 1] and its factors."""
    made = [moving_digit.video("test", index, frames, count) for index in range(videos)]
    batch = {name: np.stack([one[name] for one in made]) for name in made[0]}
    batch["label"] = np.repeat(batch["label"][:, None], frames, 1)  # [B, F, D], as batches have it
    return batch.pop("video")[:, None], batch


def digit_scores(prediction, factors):
    known = metrics.Factors(factors | {"another": None}, factors | {"another": None})
    return [metrics.METRICS[name].score(None, prediction, known)
            for name in ("identity", "position_error")]


@pytest.mark.parametrize("count", [1, 2])
def test_the_true_digits_are_read_in_true_frames_in_whatever_order(count):
    truth, factors = batch_of_digits(count)
    for turn in (1, -1):
        turned = {"label": factors["label"][..., ::turn], "position": factors["position"][:, :, ::turn]}
        identity, error = digit_scores(truth, turned)
        assert identity.shape == error.shape == (10, 1, 6)
        assert identity.mean() >= 0.97 and error.mean() < 1


def test_of_shuffled_labels_identity_is_chance_and_the_position_stays_right():
    truth, factors = batch_of_digits(1, videos=20)
    shuffled = factors | {"label": np.random.default_rng(0).permutation(factors["label"])}
    identity, error = digit_scores(truth, shuffled)
    assert identity.mean() < 0.3 and error.max() < 1


def test_where_nothing_is_read_identity_is_0_and_the_error_that_of_a_random_place():
    _, factors = batch_of_digits(1, videos=2)
    identity, error = digit_scores(np.zeros([2, 1, 1, 64, 64, 1], np.uint8), factors)  # at all times
    assert identity.shape == error.shape == (2, 1, 6) and not identity.any()
    places = np.array([(row, column) for row in range(37) for column in range(37)])
    want = np.linalg.norm(places - factors["position"][1, 3, 0], axis=1).mean()
    assert error[1, 0, 3] == pytest.approx(want)


def test_of_two_digits_one_wrong_is_half_and_the_nearest_pairing_counts():
    truth, factors = batch_of_digits(2, videos=1, frames=1)
    first, second = factors["label"][0, 0]
    other = next(digit for digit in range(10) if digit not in (first, second))
    identity, _ = digit_scores(truth, factors | {"label": np.array([[[first, other]]])})
    assert identity.item() == 0.5
    far = factors["position"] + [[[[3, 4], [0, 0]]]]
    _, error = digit_scores(truth, factors | {"position": far})
    assert error.item() == pytest.approx(2.5, abs=0.1)  # 5 pixels for the first, none for the second
