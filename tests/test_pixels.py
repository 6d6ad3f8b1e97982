"""PSNR and SSIM against scikit-image, and pixels as whole numbers and fractions."""

import numpy as np
import pytest
import tensorflow as tf
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import pixels

RNG = np.random.default_rng(0)


def noise(*shape):
    return RNG.random(shape).astype(np.float32)


def half(first, second):
    """A frame of one brightness left, of another right: flat but for one edge."""
    frame = np.full((64, 64, 1), first, np.float32)
    frame[:, 32:] = second
    return frame


def skimage_ssim(truth, prediction, data_range=1.0):
    return structural_similarity(truth.astype(np.float64), prediction.astype(np.float64),
                                 data_range=data_range, channel_axis=-1)


HARD_PAIRS = {
    "noise": (noise(64, 64, 1), noise(64, 64, 1)),
    "colour": (noise(64, 64, 3), noise(64, 64, 3)),
    "oblong": (noise(40, 64, 3), noise(40, 64, 3)),
    "smallest": (noise(7, 7, 1), noise(7, 7, 1)),
    "equal": (noise(64, 64, 1),) * 2,
    "black": (half(0, 0), half(0, 0)),
    "constant": (half(0.3, 0.3), half(0.9, 0.9)),
    "black and white": (half(0, 0), half(1, 1)),
    "edges": (half(0.1, 0.7), half(0.3, 0.9).transpose(1, 0, 2)),
    "nearly equal": (half(0.9, 0.2), half(0.9, 0.2) + 1e-4 * noise(64, 64, 1)),
    "unclipped": (noise(64, 64, 1), 2 * noise(64, 64, 1) - 0.5),
}


@pytest.mark.parametrize("data_range", [1.0, 2.0])
@pytest.mark.parametrize("pair", HARD_PAIRS)
def test_ssim_equals_scikit_image(pair, data_range):
    truth, prediction = HARD_PAIRS[pair]
    got = pixels.ssim(truth, prediction, data_range).numpy()
    assert got == pytest.approx(skimage_ssim(truth, prediction, data_range), abs=1e-5)


@pytest.mark.parametrize("pair", [name for name in HARD_PAIRS if name not in ("equal", "black")])
def test_psnr_equals_scikit_image(pair):
    truth, prediction = HARD_PAIRS[pair]
    for data_range in (1.0, 2.0):
        want = peak_signal_noise_ratio(
            truth.astype(np.float64), prediction.astype(np.float64), data_range=data_range)
        assert pixels.psnr(truth, prediction, data_range).numpy() == pytest.approx(want, abs=1e-5)


def test_equal_frames_have_ssim_1_and_psnr_100_so_that_means_stay_finite():
    frames = np.concatenate([noise(4, 64, 64, 1), np.zeros([1, 64, 64, 1], np.float32)])
    assert (pixels.ssim(frames, frames).numpy() == 1).all()
    assert pixels.psnr(frames, frames).numpy() == pytest.approx(100)


def test_the_cut_off_of_psnr_spares_8_bit_frames_that_differ_in_one_pixel():
    truth = np.zeros([64, 64, 1], np.float32)
    prediction = truth.copy()
    prediction[3, 4] = 1 / 255
    assert pixels.psnr(truth, prediction).numpy() < 90


@pytest.mark.parametrize("metric", [pixels.psnr, pixels.ssim])
def test_one_truth_is_compared_with_many_samples(metric):
    truth, samples = noise(2, 1, 3, 16, 16, 3), noise(2, 4, 3, 16, 16, 3)
    got = metric(truth, samples).numpy()
    assert got.shape == (2, 4, 3) and got.dtype == np.float32
    for s in range(4):
        np.testing.assert_allclose(got[:, s], metric(truth[:, 0], samples[:, s]), atol=1e-6)


@pytest.mark.parametrize("metric", [pixels.psnr, pixels.ssim])
@pytest.mark.parametrize("jit", [False, True])
def test_works_inside_a_graph_of_unknown_lengths(metric, jit):
    spec = tf.TensorSpec([None, None, None, None, 1])
    graph = tf.function(metric, input_signature=[spec, spec], jit_compile=jit)
    for shape in [(2, 3, 12, 16, 1), (1, 2, 16, 10, 1)]:
        truth, prediction = noise(*shape), noise(*shape)
        np.testing.assert_allclose(
            graph(truth, prediction), metric(truth, prediction), atol=1e-6)


def test_whole_numbers_become_fractions_and_back():
    whole = np.arange(256, dtype=np.uint8)
    fractions = pixels.to_float(whole)
    np.testing.assert_allclose(fractions, whole / 255)
    np.testing.assert_array_equal(pixels.to_uint8(fractions), whole)
    assert pixels.to_uint8(whole) is whole and pixels.to_float(fractions) is fractions
    np.testing.assert_array_equal(pixels.to_uint8(np.float32([-0.5, 0.5 / 255 + 1e-4, 3])), [0, 1, 255])
