"""Evaluation end to end: what it leaves behind, that its numbers are those of its pictures."""

import dataclasses
import json
import os
import shutil
import types

import imageio.v3 as iio
import numpy as np
import pytest
import tensorflow as tf
from conftest import call
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import comparison
import cwvae
import data_loader
import eval as evaluation
import evaluations
import metrics
import networks
import plot
import report
import runs
import tools
from config import load_config
from flags import evaluated_config
from predictor import Predictor, with_progress
from video_data import digits, moving_digit


@pytest.fixture(scope="module")
def eval_dir(run_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("eval") / "out"
    output = call(evaluation.main, "--model-dir", run_dir, "--num-examples", 3, "--num-samples", 4,
                  "--batch-size", 4, "--seq-len", 11, "--out", out)
    assert str(out) in output.splitlines()[-1]
    return out


def test_it_leaves_what_the_readme_names(eval_dir):
    summary = json.loads((eval_dir / "summary.json").read_text())
    assert summary["settings"]["num_samples"] == 4 and summary["settings"]["eval_seq_len"] == 11
    assert summary["frames_per_second"] > 0
    for name, figure in summary["metrics"].items():
        low, high = figure["confidence_95"]
        assert low <= figure["mean"] <= high and figure["convention"], name
    arrays = np.load(eval_dir / "metrics.npz")
    for name in ("psnr", "ssim", "psnr_unclipped", "ssim_range2"):
        assert arrays[name].shape == (3, 4, 7)
        assert arrays[f"{name}_reconstruction"].shape == (3, 4)
    for name in ("ssim", "psnr"):
        for statistic in ("mean", "stddev"):
            curve = np.load(eval_dir / f"{name}_{statistic}.npz")
            assert curve[f"{name}_best_of_4"].shape == (7,)
            assert curve[f"{name}_last_frame"].shape == (7,)
            np.testing.assert_array_equal(curve["arr_0"], curve[f"{name}_best_of_4"])
        assert iio.imread(eval_dir / f"{name}_range.png").ndim == 3
    for i in range(3):
        for name in ("random_sample_1", "random_sample_2", "best_ssim_sample", "best_psnr_sample"):
            video = np.load(eval_dir / f"sample{i}" / f"{name}.npz")["arr_0"]
            assert video.shape == (7, 64, 64, 1) and video.dtype == np.uint8
            assert (eval_dir / f"sample{i}" / f"{name}.png").exists()
        context = np.load(eval_dir / f"sample{i}_gt" / "gt_ctx.npz")["arr_0"]
        truth = np.load(eval_dir / f"sample{i}_gt" / "gt_pred.npz")["arr_0"]
        assert context.shape == (4, 64, 64, 1) and truth.shape == (7, 64, 64, 1)
        assert iio.imread(eval_dir / f"sample{i}" / "prediction.gif", index=None).ndim == 4
    assert (eval_dir / "contact_sheet.png").exists() and (eval_dir / "report.html").exists()
    assert not [path for path in eval_dir.parent.iterdir() if path.name.endswith(".part")]


def test_the_numbers_are_those_of_the_saved_frames(eval_dir):
    arrays = np.load(eval_dir / "metrics.npz")
    for i in range(3):
        truth = np.load(eval_dir / f"sample{i}_gt" / "gt_pred.npz")["arr_0"] / 255
        for name, sample in [("random_sample_1", 0), ("random_sample_2", 1),
                             ("best_ssim_sample", arrays["ssim"][i].mean(1).argmax()),
                             ("best_psnr_sample", arrays["psnr"][i].mean(1).argmax())]:
            video = np.load(eval_dir / f"sample{i}" / f"{name}.npz")["arr_0"] / 255
            for t in range(7):
                # As far as 8 bits go.
                np.testing.assert_allclose(
                    arrays["psnr"][i, sample, t],
                    peak_signal_noise_ratio(truth[t], video[t], data_range=1), atol=0.05)
                # Rounding shows more here: this model's frames are nearly flat.
                np.testing.assert_allclose(
                    arrays["ssim"][i, sample, t], structural_similarity(
                        truth[t, ..., 0], video[t, ..., 0], data_range=1), atol=0.05)


@pytest.fixture(scope="module")
def make_predictor(run_dir):
    """Returns a function from changes of the config to a Predictor of two samples."""

    def make(**changes):
        config = load_config(run_dir / "config.yml").replace(eval_seq_len=11, **changes)
        model = cwvae.CWVAE(config)
        runs.restore(tf.train.latest_checkpoint(run_dir / "model"), model=model)
        return Predictor(config, model, num_samples=2, seed=0)

    return make


@pytest.fixture(scope="module")
def predictor(make_predictor):
    return make_predictor()


@pytest.fixture(scope="module")
def data(predictor):
    return data_loader.Sequences(predictor.config, 11)


def test_a_prediction_does_not_depend_on_its_batch(predictor, data):
    together, scores = predictor.predict(data.batch(0, 2), 0)
    alone, score = predictor.predict(data.batch(1, 1), 1)
    np.testing.assert_allclose(together[1].astype(int), alone[0], atol=1)  # of 255
    np.testing.assert_allclose(scores["psnr"][1], score["psnr"][0], rtol=1e-4)


def test_samples_share_their_context_and_differ_after_it(predictor, make_predictor, data):
    batch = data.batch(0, 1)
    states = predictor.imagine(predictor.observe(batch, 0).states, batch, 0)
    assert np.abs(states[0, 0] - states[0, 1]).max() > 1e-3
    mean = make_predictor(cell_mean_only=True)
    states = mean.imagine(mean.observe(batch, 0).states, batch, 0)
    np.testing.assert_allclose(states[0, 0], states[0, 1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        mean.model.decoder(states[0, 0]),
        mean.model.open_loop(tf.constant(batch["video"]), 4, tf.constant([0, 0]))[0, 4:],
        rtol=1e-4, atol=1e-5)


def test_the_scores_are_those_of_the_plain_model_frame_by_frame(make_predictor, data):
    """Those of a compiled prediction."""
    predictor, batch = make_predictor(jit="auto"), data.batch(1, 1)
    _, scores = predictor.predict(batch, 1)
    model = cwvae.CWVAE(predictor.config.replace(fast=False, jit=False))
    model.set_weights(predictor.model.get_weights())
    plain = Predictor(model.config, model, predictor.num_samples, predictor.seed)
    decoded = model.decoder(plain.imagine(plain.observe(batch, 1).states, batch, 1))[0]
    for sample, frames in enumerate(np.clip(decoded, 0, 1).astype(np.float64)):
        for t, pair in enumerate(zip(batch["video"][0, 4:] / 255, frames, strict=True)):
            np.testing.assert_allclose(
                [scores["psnr"][0, sample, t], scores["ssim"][0, sample, t]],
                [peak_signal_noise_ratio(*pair, data_range=1),
                 structural_similarity(*pair, data_range=1, channel_axis=-1)], rtol=1e-3, atol=1e-4)


def test_a_model_that_diverged_is_one_line(predictor, data):
    bias = predictor.model.decoder.dense.bias
    before = bias.numpy()
    bias.assign(np.nan * before)
    with pytest.raises(tools.UserError, match="test video 2 are not finite: the model has diverged"):
        predictor.predict(data.batch(2, 1), 2)
    bias.assign(before)


def test_undefined_frames_are_left_out_and_counted(tmp_path):
    psnr, rng = metrics.METRICS["psnr"], np.random.default_rng(0)
    values = {"psnr": 20 + rng.normal(size=[6, 1, 5])}
    values |= {f"psnr_{name}": 10 + rng.normal(size=[6, 5]) for name in metrics.TRIVIAL}
    values |= {f"psnr_{name}": 20 + rng.normal(size=[6, 4]) for name in ("reconstruction", "one_step")}
    for name in ("psnr", *(f"psnr_{predictor}" for predictor in metrics.TRIVIAL)):
        values[name][0], values[name][..., 3] = np.nan, np.nan
    settings = {"dataset": "videos", "open_loop_ctx": 4, "eval_seq_len": 9, "num_examples": 6,
                "num_samples": 1}
    numbers = evaluation.save_numbers(str(tmp_path), values, [psnr], settings, None)
    found = numbers["metrics"]["psnr"]
    assert (found["videos"], found["frames"]) == (5, 20)
    assert found["mean"] == pytest.approx(values["psnr"][1:][..., [0, 1, 2, 4]].mean())
    assert numbers["better_than_trivial"]["psnr"] == [[5, 7], [9, 9]]  # Nothing is known of frame 8.
    assert "defined in 20 of the 30 predicted frames, in 5 of the 6 videos" in report.table_text(numbers)
    curve = np.load(tmp_path / "psnr_mean.npz")["arr_0"]
    np.testing.assert_array_equal(np.isnan(curve), [False, False, False, True, False])


def test_jit_false_compiles_nothing(make_predictor, data, monkeypatch):
    asked, function = [], tf.function

    def spy(body, **named):
        asked.append(named.get("jit_compile"))
        return function(body, **named)

    monkeypatch.setattr(tf, "function", spy)
    made = {jit: make_predictor(jit=jit) for jit in ("auto", False)}
    assert asked and any(asked)
    asked.clear()
    Predictor(made[False].config, made[False].model, 1, 0).observe(data.batch(0, 1), 0)
    assert len(asked) >= 4 and not any(asked)


def test_the_speed_is_measured_without_compilation():
    seconds = {2: [9.0, 0.5, 1.5], 3: [9.0], 4: [9.0, 2.0]}  # The first of each size compiles.
    assert evaluation.frames_per_second(seconds, 7) == (2 + 2 + 4) * 7 / 4
    assert evaluation.frames_per_second({2: [9.0]}, 7) is None


def test_batches_are_even():
    assert list(with_progress(24, 16)) == [(0, 12), (12, 12)]
    assert list(with_progress(7, 3)) == [(0, 2), (2, 2), (4, 3)]
    assert list(with_progress(2, 0)) == [(0, 1), (1, 1)]  # more samples than fit a batch


TOY = metrics.Metric(
    "mae", "Error", "grey levels", "mean absolute error", better="lower",
    function=lambda truth, prediction, factors: 255 * tf.reduce_mean(
        tf.abs(truth - prediction), [-3, -2, -1]))


def stub_lpips(truth, prediction, factors=None):
    """Stands in for LPIPS, whose package and weights the tests do without."""
    return np.abs(truth / 255 - prediction / 255).mean((-3, -2, -1)).astype(np.float32)


class MeanColour(tf.Module):
    """A video network small enough for a test: the mean over each quarter of a frame."""

    @tf.function(input_signature=[tf.TensorSpec([None, None, 224, 224, 3])])
    def __call__(self, videos):
        quarters = tf.reshape(videos, [tf.shape(videos)[0], -1, 2, 112, 2, 112, 3])
        return {"features": tf.reduce_mean(quarters, [1, 3, 5])}


@pytest.fixture(scope="module")
def every_metric(run_dir, tmp_path_factory):
    """An evaluation with all that there is: LPIPS, FVD, factors, and the toy metric of the tests.

    Returns its directory, and what was printed, plot.py's table included.
    """
    folder = tmp_path_factory.mktemp("every_metric")
    out = folder / "out"
    model = MeanColour()
    tf.saved_model.save(model, str(folder / "i3d"), signatures=model.__call__)
    shutil.copytree(run_dir / "model", folder / "run" / "model")
    config = load_config(run_dir / "config.yml")
    # All that XLA compiles of an evaluation by default is compiled here.
    config = config.replace(dataset="moving_digit_demo", data_root=str(folder), jit="auto")
    config.save(folder / "run" / "config.yml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(moving_digit.MovingDigit.SIZES, "one_demo", (1, (1, 12), (1, 12), (3, 12)))
        patch.setitem(metrics.METRICS, "lpips", dataclasses.replace(
            metrics.METRICS["lpips"], function=lambda network: stub_lpips))
        patch.setitem(metrics.METRICS, "mae", TOY)
        with pytest.warns(UserWarning, match="FVD of 3 videos is biased"):
            printed = call(
                evaluation.main, "--model-dir", folder / "run", "--num-samples", 3, "--lpips",
                "--fvd-model", folder / "i3d", "--no-save-grid", "--out", out)
        printed += call(plot.main, out, "--out", folder / "plot.png")
    return out, printed


@pytest.fixture(scope="module")
def perceptual_dir(every_metric):
    return every_metric[0]


def test_lpips_is_of_the_saved_frames_and_its_best_is_the_lowest(perceptual_dir):
    arrays = np.load(perceptual_dir / "metrics.npz")
    assert arrays["lpips"].shape == (3, 3, 6) and arrays["lpips_one_step"].shape == (3, 4)
    best = arrays["lpips"].mean(2).argmin(1)
    for i in range(3):
        truth = np.load(perceptual_dir / f"sample{i}_gt" / "gt_pred.npz")["arr_0"]
        frames = np.load(perceptual_dir / f"sample{i}" / "best_lpips_sample.npz")["arr_0"]
        np.testing.assert_allclose(
            arrays["lpips"][i, best[i]], stub_lpips(truth, frames), rtol=1e-5)
    summary = json.loads((perceptual_dir / "summary.json").read_text())["metrics"]
    assert "net alex" in summary["lpips_best_of_3"]["convention"]
    assert summary["lpips_best_of_3"]["mean"] <= summary["lpips_mean_of_3"]["mean"]
    assert (perceptual_dir / "lpips_range.png").exists() and (perceptual_dir / "lpips_mean.npz").exists()


def test_fvd_is_of_the_first_samples_and_says_of_how_many(perceptual_dir):
    videos = [np.stack([np.load(perceptual_dir / name.format(i))["arr_0"] for i in range(3)])
              for name in ("sample{}_gt/gt_pred.npz", "sample{}/random_sample_1.npz")]
    features = [np.asarray(networks.FVD(str(perceptual_dir.parent / "i3d")).features(x)) for x in videos]
    report = json.loads((perceptual_dir / "summary.json").read_text())["fvd"]
    assert report["fvd"] == pytest.approx(networks.frechet_distance(*features))
    assert (report["fvd_num_videos"], report["fvd_num_frames"]) == (3, 6) and report["fvd_convention"]
    assert np.load(perceptual_dir / "metrics.npz")["fvd"] == report["fvd"]
    curves = evaluations.group_seeds([evaluations.read_result(str(perceptual_dir))])
    rows = dict(comparison.table_rows(curves))
    assert rows["FVD ↓ (videos, frames of each)"].endswith("(3, 6)")


def test_curves_name_the_number_of_samples():
    value = np.array([[[1.0, 1.0], [2.0, 4.0]], [[5.0, 5.0], [0.0, 1.0]]])
    psnr = metrics.METRICS["psnr"]
    curves = evaluation.sample_curves(psnr, value)
    np.testing.assert_array_equal(curves["psnr_mean_of_2"], [[1.5, 2.5], [2.5, 3.0]])
    np.testing.assert_array_equal(curves["psnr_best_of_2"], [[2.0, 4.0], [5.0, 5.0]])
    assert list(evaluation.sample_curves(psnr, value[:, :1])) == ["psnr"]


def test_each_metric_stands_beside_the_trivial_predictors(eval_dir, run_dir):
    summary = json.loads((eval_dir / "summary.json").read_text())
    arrays = np.load(eval_dir / "metrics.npz")
    assert "95 % interval" in summary["better_than_trivial_rule"]
    mean_frame = np.load(run_dir / "mean_frame.npz")["mean_frame"].astype(float)
    assert mean_frame.shape == (64, 64, 1) and 0.03 < mean_frame.mean() < 0.3
    for i in range(3):
        context = np.load(eval_dir / f"sample{i}_gt" / "gt_ctx.npz")["arr_0"] / 255
        truth = np.load(eval_dir / f"sample{i}_gt" / "gt_pred.npz")["arr_0"] / 255
        for name, frame in [("last_frame", context[-1]), ("context_mean", context.mean(0)),
                            ("mean_frame", mean_frame), ("black", 0 * context[0])]:
            psnr = [peak_signal_noise_ratio(true, frame, data_range=1) for true in truth]
            np.testing.assert_allclose(arrays[f"psnr_{name}"][i], psnr, rtol=1e-4)
            ssim = [structural_similarity(true[..., 0], frame[..., 0], data_range=1) for true in truth]
            np.testing.assert_allclose(arrays[f"ssim_{name}"][i], ssim, atol=1e-4)
    for name in ("psnr", "ssim"):
        trivial = [arrays[f"{name}_{predictor}"] for predictor in metrics.TRIVIAL]
        for predictor, values in zip(metrics.TRIVIAL, trivial, strict=True):
            assert summary["metrics"][f"{name}_{predictor}"]["mean"] == pytest.approx(values.mean())
        ahead = [metrics.METRICS[name].difference(arrays[name].mean(1)[None], values[None])[0] > 0
                 for values in trivial]
        better = np.flatnonzero(np.all(ahead, 0)) + 5  # The first predicted frame is number 5.
        found = [frame for first, last in summary["better_than_trivial"][name]
                 for frame in range(first, last + 1)]
        assert found == better.tolist()


def test_a_toy_metric_of_one_entry_is_everywhere(every_metric):
    out, printed = every_metric
    arrays = np.load(out / "metrics.npz")
    assert arrays["mae"].shape == (3, 3, 6) and arrays["mae_convention"] == TOY.convention
    best = arrays["mae"].mean(2).argmin(1)
    for i in range(3):  # the best sample is the one with the least error, as far as 8 bits go
        truth = np.load(out / f"sample{i}_gt" / "gt_pred.npz")["arr_0"].astype(float)
        frames = np.load(out / f"sample{i}" / "best_mae_sample.npz")["arr_0"]
        np.testing.assert_allclose(
            arrays["mae"][i, best[i]], np.abs(truth - frames).mean((1, 2, 3)), atol=0.5)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["metrics"]["mae_best_of_3"]["mean"] <= summary["metrics"]["mae_mean_of_3"]["mean"]
    assert {"mae_reconstruction", "mae_black"} < set(summary["metrics"])
    assert "mae" in summary["better_than_trivial"]
    assert {"mae_range.png", "mae_mean.npz", "mae_stddev.npz"} < {path.name for path in out.iterdir()}
    page = (out / "report.html").read_text()
    assert "Error (grey levels) ↓" in page and "worst Error first" in page
    table, comparison = printed.split("Numbers and pictures")
    assert "Error (grey levels) ↓" in table and "| Error (grey levels) ↓, best of 3 " in comparison


def test_data_with_factors_is_read_for_identity_and_position(every_metric):
    out, printed = every_metric
    assert "Identity ↑" in printed and "| Position error (pixels) ↓, black " in printed
    arrays = np.load(out / "metrics.npz")
    truth = [moving_digit.video("test", index, 10) for index in range(3)]
    position = np.stack([video["position"] for video in truth])[:, 4:]
    assert arrays["identity"].shape == arrays["position_error"].shape == (3, 3, 6)
    # The last frame held shows the right digit, where it was last.
    np.testing.assert_array_equal(arrays["identity_last_frame"], 1)
    last = np.stack([video["position"][3:4] for video in truth])
    np.testing.assert_allclose(
        arrays["position_error_last_frame"], np.linalg.norm(position - last, axis=-1)[..., 0], atol=0.6)
    np.testing.assert_array_equal(arrays["identity_black"], 0)
    np.testing.assert_allclose(
        arrays["position_error_black"], digits.random_distance(position)[..., 0], rtol=1e-5)
    summary = json.loads((out / "summary.json").read_text())
    assert {"identity_mean_of_3", "position_error_best_of_3"} < set(summary["metrics"])
    assert {"identity_range.png", "position_error_mean.npz"} < {path.name for path in out.iterdir()}
    assert (out / "sample1" / "best_identity_sample.npz").exists()


@pytest.mark.parametrize("where", [".", "model", "model_20"])
def test_a_model_dir_is_a_run_or_one_of_its_checkpoints(run_dir, where):
    found, prefix = runs.find_checkpoint(str(run_dir / where))
    assert os.path.samefile(found, run_dir)
    assert os.path.basename(prefix) == ("ckpt-20" if where == "model_20" else "ckpt-24")


def test_one_sample_one_example_no_grids_other_levels(run_dir, tmp_path):
    out = tmp_path / "out"
    call(evaluation.main, "--model-dir", run_dir / "model", "--num-examples", 1, "--use-obs", "TF",
         "--no-save-grid", "--out", out)
    assert sorted(path.name for path in (out / "sample0").iterdir()) == [
        "prediction.gif", "random_sample_1.npz"]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["settings"]["use_obs"] == "TF"
    assert summary["metrics"]["psnr"]["confidence_95"] is None


@pytest.mark.parametrize("flags, says", [
    (["--open-loop-ctx", "3"], "open_loop_ctx: 3 is not a multiple of 2"),
    (["--seq-len", "4"], "leaves nothing to predict"),
    (["--seq-len", "301"], "301"),
    (["--use-obs", "TTF"], "use_obs: 'TTF'"),
    (["--num-samples", "0"], "num_samples: 0 is out of range"),
    (["--mean-only", "--num-samples", "2"], "2 predictions without noise (--mean-only)"),
    (["--samples", "3"], "unknown argument --samples; nearest: --num-samples"),
    (["--model-dir", "/nowhere"], "/nowhere is no directory"),
    (["--model-dir", "{empty}"], "no config.yml in"),
    (["--model-dir", "{other}"], "holds another architecture"),
    (["--model-dir", "{without}"], "no checkpoint in"),
    (["--out", "{empty}"], "exists already"),
    (["--lpips"], "LPIPS needs the package"),
    (["--lpips", "big"], "invalid choice: 'big'"),
    (["--num-examples", "2", "--fvd-model", "{empty}"], "no SavedModel in that folder"),
    (["--fvd-model", "{empty}"], "num_examples: 1 video has no FVD"),
    (["--seed", str(2**40)], "seed: 1099511627776 is out of range; nearest: 2147483647"),
])
def test_bad_flags_are_one_line(flags, says, run_dir, refusal, tmp_path):
    config = (run_dir / "config.yml").read_text()
    for name in ("empty", "other", "without"):
        os.makedirs(tmp_path / name)
    shutil.copytree(run_dir / "model", tmp_path / "other" / "model")
    (tmp_path / "other" / "config.yml").write_text(config.replace("levels: 2", "levels: 1"))
    (tmp_path / "without" / "config.yml").write_text(config)
    places = {name: tmp_path / name for name in ("empty", "other", "without")}
    flags = [flag.format(**places) for flag in flags]
    assert says in refusal(
        evaluation.main, "--model-dir", run_dir, "--num-examples", "1", *flags)


@pytest.mark.parametrize("frames, says", [
    (8, "nearest: 8, that is --seq-len 8 --open-loop-ctx 4"),
    (4, "nearest: 4, that is --seq-len 4 --open-loop-ctx 2"),
    (2, "but no context fits: a tick of the top level takes 2 frames"),
])
def test_a_clip_that_is_too_short_is_told_what_to_pass(frames, says, run_dir, refusal, tmp_path):
    np.save(tmp_path / "clip.npy", np.zeros([frames, 64, 64], np.uint8))
    assert says in refusal(
        evaluation.main, "--model-dir", run_dir, "--data-root", tmp_path / "clip.npy")


def test_flags_change_the_config_of_the_run(run_dir):
    config = load_config(run_dir / "config.yml")
    flags = types.SimpleNamespace(
        open_loop_ctx=6, seq_len=9, use_obs="false", data_root="elsewhere", mean_only=True,
        num_samples=1)
    changed = evaluated_config(config, flags)
    assert changed.cell_mean_only
    assert (changed.open_loop_ctx, changed.eval_seq_len, changed.use_obs, changed.data_root) == (
        6, 9, False, "elsewhere")
    flags.num_samples = 2
    for means, said in ((False, "--mean-only"), (True, "cell_mean_only")):
        with pytest.raises(tools.UserError, match=rf"without noise \({said}\) are all the same"):
            evaluated_config(config.replace(cell_mean_only=means), flags)


def test_predictions_without_noise_are_one(make_predictor, data):
    frames, _ = make_predictor(cell_mean_only=True).predict(data.batch(0, 2), 0)
    np.testing.assert_array_equal(frames[:, 0], frames[:, 1])


def test_a_data_root_that_is_not_there_is_one_line_and_is_not_made(run_dir, refusal, tmp_path):
    missing = tmp_path / "missing"
    assert f"data_root: there is nothing at {missing}" in refusal(
        evaluation.main, "--model-dir", run_dir, "--data-root", missing)
    assert not missing.exists()


def test_the_digest_of_test_data_sees_the_first_context_and_which_videos_there_are():
    def digest(pixel, *names):
        frames = np.full([1, 6, 4, 4, 1], pixel, np.uint8)
        data = types.SimpleNamespace(batch=lambda *_: {"video": frames}, names=names)
        return evaluation.digest(data, 4)

    assert digest(1, "a", "b") == digest(1, "a", "b")
    assert len({digest(1, "a", "b"), digest(2, "a", "b"), digest(1, "a"), digest(1, "a", "0b")}) == 4
