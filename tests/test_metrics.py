"""The list of metrics: what is chosen, what is best, and the trivial predictors."""

import re

import numpy as np
from conftest import ROOT

import metrics
import pixels
from video_data import doom_mazes

RNG = np.random.default_rng(0)


def noise(*shape):
    return RNG.random(shape).astype(np.float32)


# ------------------------------------------------------------------------------- trivial predictors


def test_the_trivial_predictors_are_the_last_frame_two_means_and_black():
    context = np.rint(255 * noise(2, 5, 8, 8, 3)).astype(np.uint8)
    mean_frame = noise(8, 8, 3)
    found = metrics.trivial_predictions(context, mean_frame)
    assert set(found) == set(metrics.TRIVIAL)
    np.testing.assert_allclose(found["last_frame"], context[:, -1] / 255, atol=1e-6)
    np.testing.assert_allclose(found["context_mean"], context.mean(1) / 255, atol=1e-6)
    np.testing.assert_allclose(found["mean_frame"], [mean_frame] * 2)
    assert found["black"].shape == (2, 8, 8, 3) and not np.any(found["black"])
    assert set(metrics.trivial_predictions(context)) == set(metrics.TRIVIAL) - {"mean_frame"}


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
    kept, labels = metrics.kept_samples(scored[:1], {"psnr": np.ones([1, 5])}, mean_only=True)
    assert kept == {"random_sample_1": 0} and labels == {0: "prediction from means"}


def test_published_psnr_of_colour_is_the_mean_over_channels_in_dB():
    truth, prediction = noise(1, 1, 2, 16, 16, 3), 2 * noise(1, 2, 2, 16, 16, 3) - 0.5
    prediction[..., 2] = truth[..., 2] + 0.001  # one good channel
    got = metrics.METRICS["psnr_unclipped"].function(truth, prediction, None)
    errors = (truth.astype(np.float64) - prediction.astype(np.float64)) ** 2
    want = (-10 * np.log10(errors.mean((-3, -2)))).mean(-1)
    np.testing.assert_allclose(got, want, rtol=1e-5)
    # So many dB away from what all channels together give.
    assert np.abs(want - pixels.psnr(truth, prediction)).min() > 5


def test_the_page_names_the_convention_of_every_metric():
    text = (ROOT / "docs" / "evaluation.md").read_text()
    for name in metrics.METRICS:
        assert re.search(rf"^\|.*`{name}`.*\|$", text, re.MULTILINE), name


def test_metrics_that_lack_what_they_need_are_left_out():
    def names(**have):
        return [metric.name for metric in metrics.chosen(**have)]

    assert names() == ["psnr", "ssim", "psnr_unclipped", "ssim_range2"]
    assert names(factors=["label"]) == names(factors=["heading", "position"]) == names()
    assert set(names(factors=["cell", "heading"])) - set(names()) == {
        "psnr_revisited", "psnr_new", "ssim_revisited", "ssim_new"}
    assert set(names(factors=["position", "label", "more"])) - set(names()) == {
        "identity", "position_error"}
    assert set(names(factors=["position", "digits"])) - set(names()) == {"digits"}


def test_a_metric_sees_the_factors_that_it_needs_of_its_frames_and_of_the_context():
    def function(truth, prediction, factors):
        assert set(factors.frames) == set(factors.context) == {"cell"}
        seen = (factors.frames["cell"][:, :, None] == factors.context["cell"][:, None]).any(2)
        return np.where(seen, 1.0, np.nan)[:, None]

    revisited = metrics.Metric("revisited", "Revisited", "", "words", function, needs=("cell",))
    factors = metrics.Factors({"cell": np.array([[1, 2, 3]]), "region": None},
                              {"cell": np.array([[3, 1]]), "region": None})
    np.testing.assert_array_equal(revisited.score(None, None, factors), [[[1, np.nan, 1]]])
    assert revisited.best_sample([[[np.nan, np.nan], [np.nan, 1], [2, np.nan]]]).tolist() == [2]
    best = revisited.best([[1, np.nan, np.nan], [2, 3, np.nan]], 0)
    np.testing.assert_array_equal(best, [2, 3, np.nan])


def test_better_is_where_the_paired_interval_is_above_each_other():
    rng = np.random.default_rng(0)
    hard = 5 * rng.normal(size=[20, 1])  # videos differ far more than predictors do
    model = hard + np.array([1.0, 1.0, 0.0]) + 0.1 * rng.normal(size=[20, 3])
    others = [hard + 0.1 * rng.normal(size=[20, 3]), hard + np.array([0, 1.0, 0]) + 0 * model]
    assert metrics.METRICS["psnr"].beats(model, others).tolist() == [True, False, False]
    error = metrics.METRICS["position_error"]
    assert error.beats(-model, [-other for other in others]).tolist() == [True, False, False]
    assert not error.beats(model[:1], [others[0][:1]]).any()  # One video gives no interval.


# ---------------------------------------------------------------------------- mazes and their walls


def mazes_of(truth_walls, cells, context_cells):
    """Factors of one video that walks through cells and sees walls."""
    def factors(walls, cells):
        return {"wall": np.array([walls]), "cell": np.array([[(cell, 0) for cell in cells]])}

    return metrics.Factors(factors(truth_walls, cells), factors([0] * len(context_cells), context_cells))


def wall_frames(*walls):
    """Frames [F, 64, 64, 3] that show walls between a floor and a ceiling; -1 for a grey frame."""
    frames = np.zeros([len(walls), 64, 64, 3], np.uint8)
    for frame, wall in zip(frames, walls, strict=True):
        frame[8:56] = np.rint(doom_mazes.COLOURS[wall])
        frame[:] = 100 if wall < 0 else frame
    return frames


def test_walls_are_right_wrong_or_undefined():
    factors = mazes_of([3, 3, -1, 5, 5], [1, 1, 2, 2, 9], [1, 2])
    predicted = np.stack([wall_frames(3, 4, 3, 5, -1), wall_frames(3, 3, 5, 5, 5)])[None]
    truth = wall_frames(3, 3, 3, 5, 5)[None, None]
    scored = metrics.scores(
        metrics.chosen(factors=["wall", "cell"]), truth, {"8-bit": predicted}, factors)
    assert list(scored) == ["walls", "walls_revisited", "walls_new"]
    np.testing.assert_array_equal(
        scored["walls"], [[[1, 0, np.nan, 1, 0], [1, 1, np.nan, 1, 1]]])
    np.testing.assert_array_equal(
        scored["walls_revisited"], [[[1, 0, np.nan, 1, np.nan], [1, 1, np.nan, 1, np.nan]]])
    np.testing.assert_array_equal(
        scored["walls_new"], [[[np.nan] * 4 + [0], [np.nan] * 4 + [1]]])
    held = metrics.METRICS["walls"].score(truth, wall_frames(5)[None, None], factors)
    np.testing.assert_array_equal(held, [[[0, 0, np.nan, 1, 1]]])  # One frame for all of the time.


def test_revisited_and_new_frames_share_a_metric_between_them():
    factors = mazes_of([0] * 4, [7, 1, 8, 2], [1, 2, 3])
    rng = np.random.default_rng(0)
    truth, predicted = rng.random([1, 1, 4, 16, 16, 3]), rng.random([1, 2, 4, 16, 16, 3])
    scored = metrics.scores(metrics.chosen(factors=["cell"]), np.float32(truth),
                            {"clipped": np.float32(predicted)}, factors)
    scored = {name: values.numpy() for name, values in scored.items()}
    assert set(scored) == {"psnr", "ssim", "psnr_revisited", "psnr_new", "ssim_revisited", "ssim_new"}
    for name in ("psnr", "ssim"):
        old, new = scored[f"{name}_revisited"], scored[f"{name}_new"]
        assert old.shape == new.shape == (1, 2, 4) and old.dtype == np.float32
        np.testing.assert_array_equal(np.isnan(old), [[[True, False, True, False]] * 2])
        np.testing.assert_array_equal(np.where(np.isnan(old), new, old), scored[name])


def test_parts_are_of_what_is_scored_alone(monkeypatch):
    calls = []

    def distance(truth, prediction):
        calls.append(prediction)
        return np.zeros(prediction.shape[:3], np.float32)

    monkeypatch.setattr(metrics, "LPIPS", lambda network: distance)
    scored = metrics.chosen({"lpips": "alex"}, ["cell"])
    names = [metric.name for metric in scored]
    assert "lpips_revisited" in names and "walls_revisited" not in names
    assert "lpips_new" not in [metric.name for metric in metrics.chosen(factors=["cell"])]
    new = scored[names.index("lpips_new")]
    assert new.convention.startswith("LPIPS (lpips 0.1, net alex)") and new.better == "lower"
    assert new.convention.endswith("cells that the context has not shown")
    factors, frames = mazes_of([0, 0], [7, 1], [1]), wall_frames(1, 2)[None, None]
    found = metrics.scores(scored, frames, {"8-bit": frames}, factors)
    assert list(found) == ["lpips", "lpips_revisited", "lpips_new"]
    assert len(calls) == 1  # Its parts do not run the network again.
    kept, _ = metrics.kept_samples(scored, {name: np.zeros([3, 2]) for name in names})
    assert "best_psnr_sample" in kept and not any("revisited" in name for name in kept)
