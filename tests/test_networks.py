"""LPIPS and FVD: what reaches their networks, and what is computed from what comes back."""

import sys
import types
import urllib.error

import numpy as np
import pytest
import tensorflow as tf

import metrics
import networks
from tools import UserError

RNG = np.random.default_rng(0)


def noise(*shape):
    return RNG.random(shape).astype(np.float32)


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
    distances = networks.LPIPS(batch_size=5)(truth, samples)
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
    np.testing.assert_allclose(networks.LPIPS()(truth, prediction), networks.LPIPS()(
        (truth / 255).astype(np.float32), (prediction / 255).astype(np.float32)), rtol=1e-5)


def test_lpips_backbone_is_pretrained_unless_told_otherwise(fake_lpips):
    networks.LPIPS()
    networks.LPIPS(net="vgg", pretrained=False)
    assert fake_lpips == [
        {"net": "alex", "pnet_rand": False}, {"net": "vgg", "pnet_rand": True}]


def test_lpips_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lpips", None)
    with pytest.raises(UserError, match="pip install .*lpips"):
        networks.LPIPS()


def test_lpips_with_packages_that_do_not_fit_is_one_line(monkeypatch, tmp_path):
    (tmp_path / "lpips.py").write_text("raise RuntimeError('operator nms does not exist\\nand more')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lpips", raising=False)
    with pytest.raises(UserError, match="cannot load its packages: operator nms does not exist$"):
        networks.LPIPS()


def test_lpips_without_a_network_says_what_it_could_not_download(fake_lpips, monkeypatch):
    def offline(**_):
        raise urllib.error.URLError("offline")

    monkeypatch.setattr(sys.modules["lpips"], "LPIPS", offline)
    with pytest.raises(UserError, match="weights of 'alex'.*offline"):
        networks.LPIPS()


def test_real_lpips_is_zero_for_equal_frames_and_above_for_others():
    pytest.importorskip("lpips", exc_type=ImportError)
    model = networks.LPIPS(pretrained=False, batch_size=2)
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
    assert networks.frechet_distance(a, b) == pytest.approx(frechet_of_gaussians(a, b), rel=1e-9)


def test_frechet_distance_of_diagonal_gaussians_nears_its_known_value():
    a = RNG.normal(size=[20000, 2]) * [1, 2]
    b = RNG.normal(size=[20000, 2]) * [3, 1] + [1, 0]
    # Diagonal covariances commute: |mean|^2 + sum of (stddev_a - stddev_b)^2.
    assert networks.frechet_distance(a, b) == pytest.approx(1 + 2**2 + 1**2, rel=0.05)


@pytest.mark.parametrize("videos", [2, 10, 300])
def test_frechet_distance_is_symmetric_and_zero_on_equal_sets(videos):
    a, b = 1000 * RNG.normal(size=[videos, 40]), 1000 * RNG.normal(size=[videos + 3, 40])
    assert networks.frechet_distance(a, b) == pytest.approx(networks.frechet_distance(b, a))
    scale = np.trace(np.cov(a.T))
    assert networks.frechet_distance(a, a) < 1e-12 * scale
    assert networks.frechet_distance(a, RNG.permutation(a)) < 1e-12 * scale


def test_frechet_distance_holds_for_fewer_videos_than_features():
    a, b = RNG.normal(size=[8, 400]), RNG.normal(size=[5, 400]) + 1
    # In a basis of the 13 features' span the covariances fit the closed form's eigenvalues.
    basis = np.linalg.qr(np.concatenate([a, b]).T)[0]
    want = frechet_of_gaussians(a @ basis, b @ basis)
    assert networks.frechet_distance(a, b) == pytest.approx(want, rel=1e-6)
    assert networks.frechet_distance(a, a + 3) == pytest.approx(400 * 3**2)


def test_frechet_distance_of_one_video_is_an_error():
    with pytest.raises(UserError, match="at least 2 videos"):
        networks.frechet_distance(np.ones([1, 4]), np.ones([5, 4]))


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
    features = networks.FVD(video_model, max_frames=5).features(videos)
    assert features.shape == (3, 12) and features.dtype == np.float64
    np.testing.assert_allclose(features, [[-2] * 12, [2] * 12, [-1] * 12])


def test_fvd_reports_what_it_was_computed_from_and_warns_below_256_videos(video_model):
    fvd = networks.FVD(video_model)
    a, b = fvd.features(noise(4, 2, 64, 64, 1)), fvd.features(noise(6, 2, 64, 64, 1))
    with pytest.warns(UserWarning, match="4 videos.* 256"):
        report = fvd(a, b, num_frames=2)
    assert report == {"fvd": networks.frechet_distance(a, b), "fvd_num_videos": 4,
                      "fvd_num_frames": 2, "fvd_model": video_model}


def test_fvd_does_not_warn_at_256_videos(video_model, recwarn):
    features = RNG.normal(size=[256, 3])
    networks.FVD(video_model)(features, features, num_frames=16)
    assert not recwarn.list


def test_fvd_of_a_folder_without_a_model_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no SavedModel"):
        networks.FVD(tmp_path)
    with pytest.raises(UserError, match="no SavedModel"):
        networks.FVD(tmp_path / "absent")


def test_fvd_of_8_bit_videos_is_that_of_their_fractions(video_model):
    videos = np.rint(255 * noise(3, 2, 64, 64, 1)).astype(np.uint8)
    fvd = networks.FVD(video_model)
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
        networks.FVD(tmp_path).features(noise(3, 2, 64, 64, 1))
    assert "\n" not in str(error.value)


def test_fvd_of_a_handle_without_tensorflow_hub_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_hub", None)
    with pytest.raises(UserError, match="pip install tensorflow-hub"):
        networks.FVD("https://tfhub.dev/deepmind/i3d-kinetics-400/1")


def test_fvd_of_a_handle_that_cannot_be_reached_is_one_line(monkeypatch):
    def offline(handle):
        raise urllib.error.URLError("offline")

    monkeypatch.setitem(sys.modules, "tensorflow_hub", types.SimpleNamespace(resolve=offline))
    with pytest.raises(UserError, match="cannot download it: .*offline"):
        networks.FVD("https://tfhub.dev/deepmind/i3d-kinetics-400/1")


def test_fvd_of_a_model_without_a_signature_is_one_line(tmp_path):
    tf.saved_model.save(tf.Module(), tmp_path / "model")
    with pytest.raises(UserError, match="no signature"):
        networks.FVD(tmp_path / "model")


# ---------------------------------------------------------------------------- as one of the metrics


def test_the_network_that_is_chosen_is_named_in_the_convention(fake_lpips):
    (lpips,) = (metric for metric in metrics.chosen({"lpips": "vgg"}) if metric.name == "lpips")
    assert fake_lpips == [{"net": "vgg", "pnet_rand": False}] and "net vgg" in lpips.convention
