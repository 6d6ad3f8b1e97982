"""The analyses: long dreams, what each level stores, how the information is spread."""

import csv
import dataclasses
import io
import json
import types

import imageio.v3 as iio
import numpy as np
import pytest
import tensorflow as tf
from conftest import call

import analyze
import cells
import cwvae
import data_loader
import dreams
import metrics
import runs
import tools
from config import load_config
from predictor import Predictor
from video_data import store


@pytest.fixture(scope="module")
def loaded(run_dir):
    """The config and the model of the tiny run."""
    config = load_config(run_dir / "config.yml")
    model = cwvae.CWVAE(config)
    runs.restore(tf.train.latest_checkpoint(run_dir / "model"), model=model)
    return config, model


@pytest.fixture
def run_analyze(run_dir, tmp_path):
    """Returns a function that runs analyze.py with a command and flags, and returns where it wrote."""

    def run(command, *flags):
        out = tmp_path / "out"
        assert str(out) in call(analyze.main, command, "--model-dir", run_dir, "--out", out, *flags)
        return out

    return run


def summary(out):
    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads((out / "summary.json").read_text(), parse_constant=refuse)


def table(path):
    lines = [line for line in path.read_text().splitlines() if line.startswith("|")]
    rows = list(csv.reader(io.StringIO("\n".join(lines)), delimiter="|"))
    return {tuple(cell.strip() for cell in row[1:2]): row[2:-1] for row in rows}


# ------------------------------------------------------------------------------------------- dreams


def dream(config, model, length, **flags):
    flags = {"frames": length, "seed": 0, "example": 1, **flags}
    batch = data_loader.Sequences(config, config.open_loop_ctx).batch(flags["example"], 1)
    return np.stack(list(dreams.dream_frames(config, model, batch, types.SimpleNamespace(**flags))))


def test_a_dream_is_an_mp4_of_its_context_and_all_its_frames(run_analyze):
    out = run_analyze("dream", "--frames", 203, "--example", 2)  # a chunk and a bit
    video = iio.imread(out / "dream.mp4")
    assert video.shape == (4 + 203, 4 * 64 + 16, 4 * 64 + 16, 3)
    for frames, color in [(video[:4], (0, 114, 178)), (video[4:], (213, 94, 0))]:  # as far as h264 goes
        assert np.abs(frames[:, 1:6].mean((0, 1, 2)) - color).max() < 12
    assert summary(out)["settings"]["example"] == 2


def test_a_shorter_dream_begins_a_longer_one_and_the_seed_decides_both(loaded, monkeypatch):
    monkeypatch.setattr(dreams, "CHUNK", 6)
    long = dream(*loaded, 17)
    assert long.shape[0] == 4 + 17
    np.testing.assert_array_equal(dream(*loaded, 8), long[:12])
    assert (dream(*loaded, 8, seed=1)[4:] != long[4:12]).any()
    assert (dream(*loaded, 8, example=0)[:4] != long[:4]).any()


def test_a_dream_in_chunks_is_one_long_prediction(loaded, monkeypatch):
    config, model = loaded
    config = config.replace(cell_mean_only=True)
    mean = cwvae.CWVAE(config)
    mean.set_weights(model.get_weights())
    monkeypatch.setattr(dreams, "CHUNK", 3)  # made even: a tick of the top level is 2 frames
    frames = dream(config, mean, 11)[4:, 2:-2, 2:-2, :1]
    video = data_loader.Sequences(config, 15).batch(1, 1)["video"]
    want = mean.open_loop(video, 4, tf.constant([0, 0]))[0, 4:]
    np.testing.assert_allclose(frames / 255, np.clip(want, 0, 1), atol=0.6 / 255)


def video_folder(path, lengths):
    """A folder of test videos of these lengths, each of one brightness."""
    for split in ("train", "test"):
        (path / split).mkdir(parents=True)
        for number, length in enumerate(lengths):
            np.save(path / split / f"{number}.npy", np.full([length, 64, 64, 1], 10 * number, np.uint8))
    return str(path)


def test_a_dream_counts_the_videos_that_an_evaluation_counts(loaded, tmp_path):
    config = loaded[0].replace(dataset="videos", data_root=video_folder(tmp_path / "v", [6, 12, 9, 10]))
    flags = types.SimpleNamespace(example=1, frames=40, data_root=None)
    _, data = dreams.open_data(config, flags)
    counted = data_loader.Sequences(config, config.eval_seq_len)
    assert len(data) == len(counted) == 2
    np.testing.assert_array_equal(data.batch(1, 1)["video"], counted.batch(1, 1)["video"])
    assert data.batch(1, 1)["video"].max() == 30
    with pytest.raises(tools.UserError, match="example: 2 is not one of the 2 test videos; nearest: 1"):
        dreams.open_data(config, types.SimpleNamespace(example=2, frames=40, data_root=None))


def test_a_dream_with_actions_is_as_long_as_its_video_has_actions(loaded, monkeypatch):
    lengths = [6, 30, 12]
    numbers = np.concatenate([np.arange(length) for length in lengths])
    opened = {
        "video": store.Videos(np.zeros([48, 64, 64, 1], np.uint8), lengths, "abc"),
        "actions": store.Videos(numbers[:, None].astype(np.float32), lengths, "abc")}
    monkeypatch.setattr(data_loader, "_open", lambda config, split: (opened, split))
    config = loaded[0].replace(actions=True)
    flags = types.SimpleNamespace(example=0, frames=26, data_root=None)
    _, data = dreams.open_data(config, flags)
    assert data.batch(0, 1)["actions"][0, :, 0].tolist() == [0, *range(29)] and len(data) == 2
    for flags.example, flags.frames, says in [(0, 27, "test video 0 has 30; nearest: 26"),
                                              (1, 9, "test video 1 has 12; nearest: 8")]:
        with pytest.raises(tools.UserError, match=says):
            dreams.open_data(config, flags)


# --------------------------------------------------------------------------- what each level stores


def test_every_set_of_top_levels_is_hidden_and_every_level_is_reset():
    def of(*observed):
        model = types.SimpleNamespace(cells=[None] * len(observed), observed=lambda: observed)
        return [item[0] for item in analyze.interventions(model)]

    assert of(True, True, True) == ["full", "hidden_TTF", "hidden_TFF", "hidden_FFF", "reset_level_0",
                                    "reset_level_1", "reset_level_2"]
    assert of(True, True, False)[:3] == ["full", "hidden_TFF", "hidden_FFF"]
    assert of(True) == ["full", "hidden_F", "reset_level_0"]


def test_ablation_of_levels_is_a_figure_and_a_table(run_analyze, loaded, monkeypatch):
    monkeypatch.setitem(metrics.METRICS, "toy", dataclasses.replace(
        metrics.METRICS["psnr"], name="toy", label="Toy", better="lower"))
    config, model = loaded
    out = run_analyze("levels", "--num-examples", 3, "--num-samples", 2)
    arrays = np.load(out / "metrics.npz")
    keys = ["full", "hidden_TF", "hidden_FF", "reset_level_0", "reset_level_1"]
    assert set(arrays.files) == {"open_loop_ctx"} | {
        f"{metric}__{key}" for metric in ("psnr", "ssim", "toy") for key in keys}
    predictor = Predictor(config, model, 2, seed=0)
    data = data_loader.Sequences(config, 10)
    np.testing.assert_allclose(
        arrays["psnr__full"], predictor.predict(data.batch(0, 3), 0)[1]["psnr"].mean(1), rtol=1e-4)
    hidden = Predictor(config.replace(use_obs="TF"), model, 2, seed=0)
    context = hidden.observe(data.batch(0, 3), 0, "TF")
    states = hidden.imagine(context.states, data.batch(0, 3), 0)
    _, scores = hidden.decode(states, data.batch(0, 3), hidden.after_context, 0)
    np.testing.assert_allclose(arrays["ssim__hidden_TF"], scores["ssim"].mean(1), rtol=1e-3, atol=1e-4)
    for row in summary(out)["interventions"]:
        lost = arrays["psnr__full"] - arrays[f"psnr__{row['intervention']}"]
        assert row["psnr_drop"]["mean"] == pytest.approx(lost.mean())
        assert row["toy_drop"]["mean"] == pytest.approx(-row["psnr_drop"]["mean"])
        assert row["psnr_drop_first_2"]["mean"] == pytest.approx(lost[:, :2].mean())
        low, high = row["psnr_drop"]["confidence_95"]
        assert low <= lost.mean() <= high
    assert len(table(out / "levels.md")) == 2 + 4
    assert "Toy rise (dB), first 2 frames" in (out / "levels.md").read_text()
    assert iio.imread(out / "levels.png").ndim == 3 and (out / "levels.pdf").exists()


def test_one_example_and_one_level_have_an_ablation_too(loaded, tmp_path):
    config = loaded[0].replace(levels=1)
    data = data_loader.Sequences(config, config.eval_seq_len)
    flags = types.SimpleNamespace(num_examples=1, num_samples=1, batch_size=4, seed=0)
    analyze.levels(config, cwvae.CWVAE(config), data, flags, {}, str(tmp_path))
    rows = summary(tmp_path)["interventions"]
    assert [row["intervention"] for row in rows] == ["hidden_F", "reset_level_0"]
    assert "[" not in (tmp_path / "levels.md").read_text().split("\n\n")[0]


# ----------------------------------------------------------------- how the information is spread


def test_information_is_that_of_the_loss(run_analyze, loaded, monkeypatch):
    monkeypatch.setattr(analyze, "CHUNK", 6)
    out = run_analyze("information", "--num-examples", 3, "--seq-len", 9, "--frame-skips", 1, 3)
    config, model = loaded
    arrays = np.load(out / "information.npz")
    assert arrays["kl"].shape == (3, 2, 2) and arrays["frame_skips"].tolist() == [1, 3]
    for column, skip in enumerate([1, 3]):
        data = data_loader.Sequences(config.replace(frame_skip=skip), 9)
        seed, states, total = cells.fold_in([0, 0], 1), None, 0
        for number, piece in enumerate([slice(0, 6), slice(6, 9)]):
            video = data.batch(1, 1)["video"][:, piece]
            noise = model.noise(cells.fold_in(seed, 2, number), 1, video.shape[1])
            rollout = model.rollout(tf.constant(video), noise, states)
            states = [cwvae.last_state(level) for level in rollout.levels]
            total += np.array([[np.sum(value(level)) for level in rollout.levels] for value in (
                lambda level: level.posterior.kl(level.prior), lambda level: level.prior.entropy(),
                lambda level: level.posterior.entropy())])
        got = [arrays[name][1, :, column] for name in analyze.QUANTITIES]
        np.testing.assert_allclose(got, total / 9, rtol=1e-3, atol=1e-4)
    rows = summary(out)["information"]
    assert len(rows) == 3 * 2 * 2 and rows[0]["mean"] == pytest.approx(arrays["kl"][:, 0, 0].mean())
    assert iio.imread(out / "information.png").ndim == 3 and (out / "information.pdf").exists()
    assert "frame_skip 3" in (out / "information.md").read_text()


def test_information_uses_what_fits(loaded, tmp_path, capsys):
    root = video_folder(tmp_path / "v", [9, 9, 40, 3])
    config = loaded[0].replace(dataset="videos", data_root=root, seq_len=8)
    flags = types.SimpleNamespace(data_root=None, seq_len=None, num_examples=None, frame_skips=[1, 4])
    _, data = analyze.information_data(config, flags)
    assert flags.seq_len == 3 and flags.num_examples == len(data) == 3
    assert "Sequences have 3 frames, not the config's 8" in capsys.readouterr().out
    slow, fast = (data.batch(0, 3) for data in analyze.at_speeds(config, 3, [1, 4]))
    assert slow["video"].shape == fast["video"].shape == (3, 3, 64, 64, 1)
    np.testing.assert_array_equal(slow["video"][:, 0], fast["video"][:, 0])
    flags = types.SimpleNamespace(data_root=None, seq_len=None, num_examples=None, frame_skips=[1])
    analyze.information_data(config, flags)
    assert flags.seq_len == 8 and not capsys.readouterr().out


def test_information_of_a_diverged_model_is_one_line(loaded, tmp_path):
    config, _ = loaded
    model = cwvae.CWVAE(config)
    model.cells[0].prior_mean.bias.assign(np.nan * model.cells[0].prior_mean.bias)
    flags = types.SimpleNamespace(num_examples=1, batch_size=1, seed=0, seq_len=4, frame_skips=[1])
    with pytest.raises(tools.UserError, match="not finite"):
        analyze.information(config, model, None, flags, {}, str(tmp_path))


# -------------------------------------------------------------------------------------------- flags


@pytest.mark.parametrize("flags, says", [
    ([], "the following arguments are required: ANALYSIS"),
    (["dreams"], "invalid choice: 'dreams'"),
    (["levels"], "the following arguments are required: --model-dir"),
    (["dream", "--model-dir", "{run}", "--frames", "0"], "frames: 0 is out of range; nearest: 1"),
    (["dream", "--model-dir", "{run}", "--example", "1000"], "example: 1000 is not one of the"),
    (["dream", "--model-dir", "{run}", "--num-examples", "9"], "unknown argument --num-examples"),
    (["levels", "--model-dir", "{run}", "--open-loop-ctx", "3"], "3 is not a multiple of 2"),
    (["information", "--model-dir", "{run}", "--frame-skips", "1", "0"], "frame_skips: 0 is out"),
    (["information", "--model-dir", "{run}", "--frame-skips", "x"], "invalid whole number value: 'x'"),
    (["information", "--model-dir", "{run}", "--num-examples", "1", "--seq-len", "100", "--frame-skips",
      "4"], "with frame_skip 4; nearest: 75"),
])
def test_bad_flags_are_one_line(flags, says, run_dir, refusal):
    assert says in refusal(analyze.main, *(flag.format(run=run_dir) for flag in flags))
