import re
import sys
import types
import urllib.error

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from conftest import ROOT
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import metrics
from tools import UserError
from video_data import moving_digit

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
    got = metrics.ssim(truth, prediction, data_range).numpy()
    assert got == pytest.approx(skimage_ssim(truth, prediction, data_range), abs=1e-5)


@pytest.mark.parametrize("pair", [name for name in HARD_PAIRS if name not in ("equal", "black")])
def test_psnr_equals_scikit_image(pair):
    truth, prediction = HARD_PAIRS[pair]
    for data_range in (1.0, 2.0):
        want = peak_signal_noise_ratio(
            truth.astype(np.float64), prediction.astype(np.float64), data_range=data_range)
        assert metrics.psnr(truth, prediction, data_range).numpy() == pytest.approx(want, abs=1e-5)


def test_equal_frames_have_ssim_1_and_psnr_100_so_that_means_stay_finite():
    frames = np.concatenate([noise(4, 64, 64, 1), np.zeros([1, 64, 64, 1], np.float32)])
    assert (metrics.ssim(frames, frames).numpy() == 1).all()
    assert metrics.psnr(frames, frames).numpy() == pytest.approx(100)


def test_the_cut_off_of_psnr_spares_8_bit_frames_that_differ_in_one_pixel():
    truth = np.zeros([64, 64, 1], np.float32)
    prediction = truth.copy()
    prediction[3, 4] = 1 / 255
    assert metrics.psnr(truth, prediction).numpy() < 90


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim])
def test_one_truth_is_compared_with_many_samples(metric):
    truth, samples = noise(2, 1, 3, 16, 16, 3), noise(2, 4, 3, 16, 16, 3)
    got = metric(truth, samples).numpy()
    assert got.shape == (2, 4, 3) and got.dtype == np.float32
    for s in range(4):
        np.testing.assert_allclose(got[:, s], metric(truth[:, 0], samples[:, s]), atol=1e-6)


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim])
@pytest.mark.parametrize("jit", [False, True])
def test_works_inside_a_graph_of_unknown_lengths(metric, jit):
    spec = tf.TensorSpec([None, None, None, None, 1])
    graph = tf.function(metric, input_signature=[spec, spec], jit_compile=jit)
    for shape in [(2, 3, 12, 16, 1), (1, 2, 16, 10, 1)]:
        truth, prediction = noise(*shape), noise(*shape)
        np.testing.assert_allclose(
            graph(truth, prediction), metric(truth, prediction), atol=1e-6)


def test_interval_is_scipys_percentile_bootstrap():
    values = RNG.normal(size=[20, 3])
    low, high = metrics.bootstrap_interval(values)
    want = scipy.stats.bootstrap((values,), np.mean, n_resamples=2000, method="percentile",
                                 rng=np.random.default_rng(0)).confidence_interval
    np.testing.assert_allclose(low, want.low)
    np.testing.assert_allclose(high, want.high)


def test_interval_covers_the_true_mean_about_as_often_as_it_says():
    values = RNG.normal(size=[40, 500])
    low, high = metrics.bootstrap_interval(values, confidence=0.9)
    assert 0.85 < np.mean((low < 0) & (high > 0)) < 0.94


def test_interval_of_equal_values_is_a_point_and_of_one_example_unknown():
    low, high = metrics.bootstrap_interval(np.full([5, 2], 3.0))
    np.testing.assert_allclose([low, high], 3)
    low, high = metrics.bootstrap_interval(np.ones([1, 4]))
    assert low.shape == high.shape == (4,) and np.isnan([low, high]).all()
    assert np.isnan(metrics.bootstrap_interval([1.0])).all()


def test_interval_of_one_series_is_two_numbers_and_repeatable():
    values = RNG.normal(size=10)
    low, high = metrics.bootstrap_interval(values)
    assert low < values.mean() < high
    assert metrics.bootstrap_interval(values) == (low, high)
    assert metrics.bootstrap_interval(values, seed=1) != (low, high)


def test_interval_refuses_values_that_are_not_finite():
    with pytest.raises(ValueError, match="finite"):
        metrics.bootstrap_interval([1.0, np.nan])


def test_interval_of_one_run_is_that_of_its_examples():
    values = RNG.normal(size=[1, 20, 3])
    np.testing.assert_array_equal(
        metrics.bootstrap_interval_of_runs(values), metrics.bootstrap_interval(values[0]))


def test_interval_of_runs_is_that_of_a_plain_bootstrap_over_runs_and_examples():
    values = RNG.normal(size=[4, 30]) + RNG.normal(size=[4, 1])
    rng = np.random.default_rng(1)
    means = [values[rng.integers(4, size=4)][:, rng.integers(30, size=30)].mean() for _ in range(4000)]
    low, high = metrics.bootstrap_interval_of_runs(values)
    np.testing.assert_allclose([low, high], np.quantile(means, [0.025, 0.975]), atol=0.1)
    # Examples alone would claim to know far more: the runs differ by more than the examples.
    assert high - low > 2 * np.subtract(*metrics.bootstrap_interval(values.mean(0))[::-1])


def test_a_mean_with_its_interval_is_valid_json():
    found = metrics.mean_and_interval(np.array([1.0, 2.0, 4.0]))
    assert found["mean"] == pytest.approx(7 / 3)
    assert found["confidence_95"] == list(metrics.bootstrap_interval([1.0, 2.0, 4.0]))
    assert metrics.mean_and_interval(np.array([1.0])) == {"mean": 1.0, "confidence_95": None}


def test_a_cell_of_a_table_has_no_minus_before_a_zero():
    assert metrics.cell({"mean": -0.001, "confidence_95": [-0.2, 0.004]}, 2) == "0.00 [-0.20, 0.00]"
    assert metrics.cell({"mean": 1.26, "confidence_95": None}, 1) == "1.3"


# ------------------------------------------------------------------------------- trivial predictors


def test_the_trivial_predictors_are_the_last_frame_the_mean_and_black():
    context = np.rint(255 * noise(2, 5, 8, 8, 3)).astype(np.uint8)
    last, mean, black = np.moveaxis(metrics.trivial_predictions(context), 1, 0)
    np.testing.assert_allclose(last[:, 0], context[:, -1] / 255, atol=1e-6)
    np.testing.assert_allclose(mean[:, 0], context.mean(1) / 255, atol=1e-6)
    assert black.shape == (2, 1, 8, 8, 3) and not black.any()


def test_spans_of_frames_are_said_in_words():
    better = np.array([True, True, False, True, False, False, True, True, True])
    assert metrics.spans(better) == [(0, 1), (3, 3), (6, 8)]
    assert metrics.spans(np.zeros(4, bool)) == [] and metrics.spans(np.ones(4, bool)) == [(0, 3)]
    assert metrics.spans_text([[37, 60]], 36, 464) == (
        "the model is better than every trivial predictor from frame 37 to 60: "
        "24 of the frames 37 to 500")
    assert "from frame 5, 7 to 8, 10 and 2 more spans: 6 of" in metrics.spans_text(
        [[5, 5], [7, 8], [10, 10], [12, 12], [14, 14]], 4, 12)
    assert metrics.spans_text([], 36, 4).startswith("the model is at no frame better")


# -------------------------------------------------------------------- what is in a frame, and where


def batch_of_digits(count, videos=10, frames=6):
    """Truth [B, 1, F, 64, 64, 1] and its factors."""
    made = [moving_digit.video("test", index, frames, count) for index in range(videos)]
    batch = {name: np.stack([one[name] for one in made]) for name in made[0]}
    return batch.pop("video")[:, None], batch


def digit_scores(prediction, factors):
    return [metrics.METRICS[name].function(None, prediction, factors)
            for name in ("identity", "position_error")]


@pytest.mark.parametrize("count", [1, 2])
def test_the_true_digits_are_read_in_true_frames_in_whatever_order(count):
    truth, factors = batch_of_digits(count)
    for turn in (1, -1):
        turned = {"label": factors["label"][:, ::turn], "position": factors["position"][:, :, ::turn]}
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
    first, second = factors["label"][0]
    other = next(digit for digit in range(10) if digit not in (first, second))
    identity, _ = digit_scores(truth, factors | {"label": np.array([[first, other]])})
    assert identity.item() == 0.5
    far = factors["position"] + [[[[3, 4], [0, 0]]]]
    _, error = digit_scores(truth, factors | {"position": far})
    assert error.item() == pytest.approx(2.5, abs=0.1)  # 5 pixels for the first, none for the second


# ------------------------------------------------------------------------------------- the metrics


def test_the_best_sample_is_by_the_mean_over_time_and_the_lowest_lpips():
    values = np.array([[[1.0, 2.0], [9.0, 0.0], [0.0, 0.1]], [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]])
    assert metrics.METRICS["psnr"].best_sample(values).tolist() == [1, 2]
    assert metrics.METRICS["lpips"].best_sample(values).tolist() == [2, 0]


def test_the_samples_that_are_kept_are_two_and_the_best_by_each_metric():
    scores = {"psnr": np.array([[1, 2.0], [9, 0], [2, 2]]), "ssim": np.array([[3, 0.0], [0, 1], [1, 4]]),
              "ssim_range2": np.array([[3, 0.0], [0, 1], [1, 4]])}
    scored = [metrics.METRICS[name] for name in scores]
    kept, labels = metrics.kept_samples(scored, scores)
    assert kept == {
        "random_sample_1": 0, "random_sample_2": 1, "best_ssim_sample": 2, "best_psnr_sample": 1}
    assert labels == {0: "sample 1", 1: "sample 2: best PSNR", 2: "sample 3: best SSIM"}
    kept, labels = metrics.kept_samples(scored[:1], {"psnr": np.ones([1, 5])})
    assert kept == {"random_sample_1": 0} and labels == {0: "sample 1"}


def test_published_psnr_of_colour_is_the_mean_over_channels_in_dB():
    truth, prediction = noise(1, 1, 2, 16, 16, 3), 2 * noise(1, 2, 2, 16, 16, 3) - 0.5
    prediction[..., 2] = truth[..., 2] + 0.001  # one good channel
    got = metrics.METRICS["psnr_unclipped"].function(truth, prediction, None)
    errors = (truth.astype(np.float64) - prediction.astype(np.float64)) ** 2
    want = (-10 * np.log10(errors.mean((-3, -2)))).mean(-1)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    # So many dB away from what all channels together give.
    assert np.abs(want - metrics.psnr(truth, prediction)).min() > 5


def test_the_readme_names_the_convention_of_every_metric():
    text = (ROOT / "README.md").read_text()
    for name in metrics.METRICS:
        assert re.search(rf"^\|.*`{name}`.*\|$", text, re.MULTILINE), name


def test_metrics_that_lack_what_they_need_are_left_out(fake_lpips):
    def names(**have):
        return [metric.name for metric in metrics.chosen(**have)]

    assert names() == ["psnr", "ssim", "psnr_unclipped", "ssim_range2"]
    assert set(names(factors=True)) - set(names()) == {
        metric.name for metric in metrics.METRICS.values() if metric.needs_factors}
    (lpips,) = (metric for metric in metrics.chosen({"lpips": "vgg"}) if metric.name == "lpips")
    assert fake_lpips == [{"net": "vgg", "pnet_rand": False}] and "net vgg" in lpips.convention


# -------------------------------------------------------------------------------------------- LPIPS


class FakeTensor(np.ndarray):
    """What LPIPS uses of a PyTorch tensor."""

    def to(self, device):
        return self

    def cpu(self):
        return self

    def numpy(self):
        return np.asarray(self)


@pytest.fixture
def fake_lpips(monkeypatch):
    """Stands in for lpips and torch; records what reaches the network, answers the mean distance."""
    calls = []

    class Model:
        def __init__(self, net, pnet_rand, verbose):
            calls.append({"net": net, "pnet_rand": pnet_rand})

        def eval(self):
            return self

        def to(self, device):
            return self

        def __call__(self, truth, prediction):
            calls.append((truth, prediction))
            return np.abs(truth - prediction).mean((1, 2, 3), keepdims=True).view(FakeTensor)

    class Inference:
        def __enter__(self):
            pass

        def __exit__(self, *_):
            pass

    torch = types.SimpleNamespace(
        inference_mode=Inference, from_numpy=lambda x: x.view(FakeTensor),
        cuda=types.SimpleNamespace(is_available=lambda: False))
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=Model))
    return calls


@pytest.mark.parametrize("channels", [1, 3])
def test_lpips_gives_the_network_colour_frames_from_minus_1_to_1(fake_lpips, channels):
    truth, samples = noise(2, 1, 3, 8, 8, channels), noise(2, 4, 3, 8, 8, channels)
    distances = metrics.LPIPS(batch_size=5)(truth, samples)
    assert distances.shape == (2, 4, 3) and distances.dtype == np.float32
    np.testing.assert_allclose(
        distances, 2 * np.abs(truth - samples).mean((-3, -2, -1)), rtol=1e-5)
    batches = fake_lpips[1:]
    assert [len(x) for x, _ in batches] == [5, 5, 5, 5, 4]
    first = batches[0][0][0]
    assert first.shape == (3, 8, 8) and first.min() < -0.9 and first.max() > 0.9
    np.testing.assert_allclose(
        first, np.broadcast_to(2 * truth[0, 0, 0].transpose(2, 0, 1) - 1, (3, 8, 8)))


def test_lpips_takes_8_bit_frames(fake_lpips):
    truth, prediction = (np.rint(255 * noise(2, 8, 8, 1)).astype(np.uint8) for _ in range(2))
    np.testing.assert_allclose(metrics.LPIPS()(truth, prediction), metrics.LPIPS()(
        (truth / 255).astype(np.float32), (prediction / 255).astype(np.float32)), rtol=1e-5)


def test_lpips_backbone_is_pretrained_unless_told_otherwise(fake_lpips):
    metrics.LPIPS()
    metrics.LPIPS(net="vgg", pretrained=False)
    assert fake_lpips == [
        {"net": "alex", "pnet_rand": False}, {"net": "vgg", "pnet_rand": True}]


def test_lpips_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(UserError, match="pip install .*lpips"):
        metrics.LPIPS()


def test_lpips_with_packages_that_do_not_fit_is_one_line(monkeypatch, tmp_path):
    (tmp_path / "lpips.py").write_text("raise RuntimeError('operator nms does not exist\\nand more')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lpips", raising=False)
    with pytest.raises(UserError, match="cannot load its packages: operator nms does not exist$"):
        metrics.LPIPS()


def test_lpips_without_a_network_says_what_it_could_not_download(fake_lpips, monkeypatch):
    def offline(**_):
        raise urllib.error.URLError("offline")

    monkeypatch.setattr(sys.modules["lpips"], "LPIPS", offline)
    with pytest.raises(UserError, match="weights of 'alex'.*offline"):
        metrics.LPIPS()


def test_real_lpips_is_zero_for_equal_frames_and_above_for_others():
    pytest.importorskip("lpips", exc_type=ImportError)
    model = metrics.LPIPS(pretrained=False, batch_size=2)
    truth, prediction = noise(2, 1, 2, 64, 64, 1), noise(2, 2, 2, 64, 64, 1)
    assert (model(truth, truth) == 0).all()
    distances = model(truth, prediction)
    assert distances.shape == (2, 2, 2) and (distances > 0).all()


# ---------------------------------------------------------------------------------------------- FVD


def frechet_of_gaussians(features_a, features_b):
    """The closed form, by the eigenvalues of the product of the covariances."""
    cov_a, cov_b = np.cov(features_a.T), np.cov(features_b.T)
    roots = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).astype(complex)).real.sum()
    means = features_a.mean(0) - features_b.mean(0)
    return means @ means + np.trace(cov_a) + np.trace(cov_b) - 2 * roots


def test_frechet_distance_is_the_closed_form_of_gaussians():
    a, b = RNG.normal(size=[50, 6]), 0.5 + RNG.normal(size=[70, 6]) @ RNG.normal(size=[6, 6])
    assert metrics.frechet_distance(a, b) == pytest.approx(frechet_of_gaussians(a, b), rel=1e-9)


def test_frechet_distance_of_diagonal_gaussians_nears_its_known_value():
    a = RNG.normal(size=[20000, 2]) * [1, 2]
    b = RNG.normal(size=[20000, 2]) * [3, 1] + [1, 0]
    # Diagonal covariances commute: |mean|^2 + sum of (stddev_a - stddev_b)^2.
    assert metrics.frechet_distance(a, b) == pytest.approx(1 + 2**2 + 1**2, rel=0.05)


@pytest.mark.parametrize("videos", [2, 10, 300])
def test_frechet_distance_is_symmetric_and_zero_on_equal_sets(videos):
    a, b = 1000 * RNG.normal(size=[videos, 40]), 1000 * RNG.normal(size=[videos + 3, 40])
    assert metrics.frechet_distance(a, b) == pytest.approx(metrics.frechet_distance(b, a))
    scale = np.trace(np.cov(a.T))
    assert metrics.frechet_distance(a, a) < 1e-12 * scale
    assert metrics.frechet_distance(a, RNG.permutation(a)) < 1e-12 * scale


def test_frechet_distance_holds_for_fewer_videos_than_features():
    a, b = RNG.normal(size=[8, 400]), RNG.normal(size=[5, 400]) + 1
    # In a basis of the 13 features' span the covariances fit the closed form's eigenvalues.
    basis = np.linalg.qr(np.concatenate([a, b]).T)[0]
    want = frechet_of_gaussians(a @ basis, b @ basis)
    assert metrics.frechet_distance(a, b) == pytest.approx(want, rel=1e-6)
    assert metrics.frechet_distance(a, a + 3) == pytest.approx(400 * 3**2)


def test_frechet_distance_of_one_video_is_an_error():
    with pytest.raises(UserError, match="at least 2 videos"):
        metrics.frechet_distance(np.ones([1, 4]), np.ones([5, 4]))


class MeanColour(tf.Module):
    """A video network small enough for a test: the mean over each quarter of a frame."""

    def __init__(self):
        super().__init__()
        self.scale = tf.Variable(2.0)

    @tf.function(input_signature=[tf.TensorSpec([None, None, 224, 224, 3])])
    def __call__(self, videos):
        quarters = tf.reshape(videos, [tf.shape(videos)[0], -1, 2, 112, 2, 112, 3])
        return {"features": self.scale * tf.reduce_mean(quarters, [1, 3, 5])}


@pytest.fixture(scope="module")
def video_model(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("fvd") / "model")
    model = MeanColour()
    tf.saved_model.save(model, path, signatures=model.__call__)
    return path


@pytest.mark.parametrize("channels", [1, 3])
def test_fvd_gives_the_network_large_colour_videos_from_minus_1_to_1(video_model, channels):
    videos = np.zeros([3, 2, 64, 64, channels], np.float32)
    videos[1] = 1
    videos[2] = 0.25
    features = metrics.FVD(video_model, max_frames=5).features(videos)
    assert features.shape == (3, 12) and features.dtype == np.float64
    np.testing.assert_allclose(features, [[-2] * 12, [2] * 12, [-1] * 12])


def test_fvd_reports_what_it_was_computed_from_and_warns_below_256_videos(video_model):
    fvd = metrics.FVD(video_model)
    a, b = fvd.features(noise(4, 2, 64, 64, 1)), fvd.features(noise(6, 2, 64, 64, 1))
    with pytest.warns(UserWarning, match="4 videos.* 256"):
        report = fvd(a, b, num_frames=2)
    assert report == {"fvd": metrics.frechet_distance(a, b), "fvd_num_videos": 4,
                      "fvd_num_frames": 2, "fvd_model": video_model}


def test_fvd_does_not_warn_at_256_videos(video_model, recwarn):
    features = RNG.normal(size=[256, 3])
    metrics.FVD(video_model)(features, features, num_frames=16)
    assert not recwarn.list


def test_fvd_of_a_folder_without_a_model_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no SavedModel"):
        metrics.FVD(tmp_path)
    with pytest.raises(UserError, match="no SavedModel"):
        metrics.FVD(tmp_path / "absent")


def test_fvd_of_8_bit_videos_is_that_of_their_fractions(video_model):
    videos = np.rint(255 * noise(3, 2, 64, 64, 1)).astype(np.uint8)
    fvd = metrics.FVD(video_model)
    np.testing.assert_allclose(
        fvd.features(videos), fvd.features((videos / 255).astype(np.float32)), atol=1e-5)


def test_fvd_of_videos_that_the_network_refuses_is_one_line(tmp_path):
    class Picky(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, None, 224, 224, 3])])
        def __call__(self, videos):
            with tf.control_dependencies([tf.debugging.assert_greater(tf.shape(videos)[1], 8)]):
                return {"features": tf.reduce_mean(videos, [1, 2, 3])}

    model = Picky()
    tf.saved_model.save(model, str(tmp_path), signatures=model.__call__)
    with pytest.raises(UserError, match="does not take videos of 2 frames") as error:
        metrics.FVD(tmp_path).features(noise(3, 2, 64, 64, 1))
    assert "\n" not in str(error.value)


def test_fvd_of_a_handle_without_tensorflow_hub_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_hub", None)
    with pytest.raises(UserError, match="pip install tensorflow-hub"):
        metrics.FVD("https://tfhub.dev/deepmind/i3d-kinetics-400/1")


def test_fvd_of_a_handle_that_cannot_be_reached_is_one_line(monkeypatch):
    def offline(handle):
        raise urllib.error.URLError("offline")

    monkeypatch.setitem(sys.modules, "tensorflow_hub", types.SimpleNamespace(resolve=offline))
    with pytest.raises(UserError, match="cannot download it: .*offline"):
        metrics.FVD("https://tfhub.dev/deepmind/i3d-kinetics-400/1")


def test_fvd_of_a_model_without_a_signature_is_one_line(tmp_path):
    tf.saved_model.save(tf.Module(), tmp_path / "model")
    with pytest.raises(UserError, match="no signature"):
        metrics.FVD(tmp_path / "model")
