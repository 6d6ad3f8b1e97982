"""A model for NumPy videos: the same numbers as evaluation and training have, and errors that help."""

import gc
import pathlib
import re
import weakref

import numpy as np
import pytest
import tensorflow as tf
import yaml
from PIL import Image, ImageSequence

import pictures
import runs
import video_model
from cells import fold_in
from config import Config, load_config
from cwvae import CWVAE, adam, state_vector
from predictor import Predictor, noise_of_videos
from video_data import videos

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def model(run_dir):
    return runs.load(str(run_dir))


@pytest.fixture
def video():
    return np.random.default_rng(0).integers(0, 256, [3, 11, 64, 64, 1], np.uint8)


def test_the_printed_lines_run(run_dir, monkeypatch, tmp_path, video):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "evaluation.md").read_text()
    (lines,) = re.findall(r"## From Python\n\n```python\n(.*?)```", page, re.DOTALL)
    names = {"video": video[0, :4]}
    exec(lines.replace("logs/minerl/EXPERIMENT", str(run_dir)), names)
    assert names["future"].shape == (4, 200, 64, 64, 1) and names["future"].dtype == np.uint8
    assert [level.shape for level in names["states"]] == [(4, 8), (2, 8)]
    assert names["nats"].shape == (4,) and names["again"].shape == (4, 64, 64, 1)
    assert sorted(path.name for path in (tmp_path / "my_model").iterdir()) == [
        "config.yml", "mean_frame.npz", "model"]


def test_it_predicts_as_an_evaluation_does(model, video):
    config = model.config.replace(open_loop_ctx=6, eval_seq_len=11)
    expected, _ = Predictor(config, model.model, 2, seed=7).predict({"video": video}, 0)
    np.testing.assert_array_equal(model.predict(video[:, :6], 5, samples=2, seed=7), expected)
    np.testing.assert_array_equal(model.predict(video[0, :6], 5, samples=2, seed=7), expected[0])
    other = model.predict(video[:, :6], 5, samples=2, seed=8)
    assert not np.array_equal(other, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_what_comes_back_is_of_the_kind_that_was_given(dtype, model, video):
    given = (video[0, :4] / 255).astype(dtype)
    for result in (model.predict(given, 2)[0], model.reconstruct(given)):
        assert result.dtype == dtype and result.min() >= 0 and result.max() <= 1
    np.testing.assert_allclose(
        model.predict(given, 2) * 255, model.predict(video[0, :4], 2), atol=1)


def test_long_videos_are_observed_in_pieces_of_the_same_numbers(model, video, monkeypatch):
    whole = model.reconstruct(video), *model.encode_states(video), model.surprise(video, seed=None)
    monkeypatch.setattr(video_model, "OBSERVED_AT_ONCE", 3)
    pieces = model.reconstruct(video), *model.encode_states(video), model.surprise(video, seed=None)
    for a, b in zip(whole, pieces, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 if a.dtype != np.uint8 else 1)


def test_surprise_is_the_loss_of_training(model, video):
    seeds = [fold_in([5, 0], number) for number in range(3)]
    noise = noise_of_videos(model.model, seeds, 0, 1, 11)
    loss, _ = model.model.loss(model.model.rollout(video, noise), 0)
    surprise = model.surprise(video, seed=5)
    assert surprise.shape == (3, 11)
    np.testing.assert_allclose(surprise.mean(), loss, rtol=1e-5)


def test_states_are_the_posteriors_modes(model, video):
    noise = [tf.zeros_like(x) for x in model.model.noise([0, 0], 3, 11)]
    levels = model.model.rollout(video, noise).levels
    for found, level in zip(model.encode_states(video), levels, strict=True):
        np.testing.assert_allclose(found, state_vector(level), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrong, says", [
    (np.zeros([64, 64, 1], np.uint8), r"shape \[64, 64, 1\]; expected \[T, 64, 64, 1\], or \[B, T, 64"),
    (np.zeros([4, 32, 32, 1], np.uint8), "expected"), (np.zeros([4, 64, 64, 3], np.uint8), "expected"),
    (np.zeros([0, 64, 64, 1], np.uint8), "is empty"),
    (np.zeros([0, 4, 64, 64, 1], np.uint8), "is empty"),
    (np.zeros([4, 64, 64, 1], np.int64), "video is int64; expected uint8, or float"),
    (np.full([4, 64, 64, 1], 255.0), "values from 255.0 to 255.0"),
    (np.full([4, 64, 64, 1], np.nan), "values from nan"), ([], "shape"), (None, "shape"),
    (np.full([4, 64, 64, 1], "a"), "expected uint8")])
def test_a_wrong_video_is_a_value_error(wrong, says, model):
    for method in (model.reconstruct, model.encode_states, model.surprise,
                   lambda video: model.predict(video, 2)):
        with pytest.raises(ValueError, match=says):
            method(wrong)


def test_other_wrong_arguments_are_value_errors(model, video):
    with pytest.raises(ValueError, match="has 5 frames; .* a multiple of 2, .* nearest: 4"):
        model.predict(video[0, :5], 2)
    for frames in (0, -1, 2.5, None):
        with pytest.raises(ValueError, match="frames is .* a whole number"):
            model.predict(video[0, :4], frames)
    with pytest.raises(ValueError, match="samples is 0"):
        model.predict(video[0, :4], 2, samples=0)
    with pytest.raises(ValueError, match="the model takes none"):
        model.surprise(video[0], actions=np.zeros([11, 2]))


def test_actions_are_found_in_the_checkpoint_and_asked_for(run_dir, tmp_path, video):
    values = yaml.safe_load((run_dir / "config.yml").read_text()) | dict(dataset="minerl", actions=True)
    (tmp_path / "config.yml").write_text(yaml.safe_dump(values))
    config = load_config(tmp_path / "config.yml")
    model = CWVAE(config, action_size=3)
    optimizer = adam(config)  # Training saves it too, and then variables have other names.
    optimizer.build(model.trainable_variables)
    runs.Checkpoints(tmp_path, model=model, optimizer=optimizer).save(5)
    model = runs.load(tmp_path)
    assert model.model.action_size == 3
    actions = np.random.default_rng(1).normal(size=[6, 3])
    future = model.predict(video[0, :4], 2, actions=actions)
    assert future.shape == (1, 2, 64, 64, 1)
    both = model.predict(video[:2, :4], 2, actions=np.stack([actions, -actions]))
    np.testing.assert_array_equal(both[0], future)
    with pytest.raises(ValueError, match=r"shape None; expected \[6, 3\]"):
        model.predict(video[0, :4], 2)
    with pytest.raises(ValueError, match=r"shape \[4, 3\]; expected \[6, 3\]"):
        model.predict(video[0, :4], 2, actions=actions[:4])
    assert model.surprise(video[0, :6], actions=actions).shape == (6,)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e39])
def test_actions_that_are_no_numbers_are_refused(bad, run_dir, tmp_path, video):
    values = yaml.safe_load((run_dir / "config.yml").read_text()) | dict(dataset="minerl", actions=True)
    model = video_model.VideoModel(Config(**values), CWVAE(Config(**values), 3))
    with pytest.raises(ValueError, match="not finite"):
        model.predict(video[0, :4], 2, actions=np.full([6, 3], bad))


def test_a_path_is_read_as_training_reads_it(model, run_dir, tmp_path):
    """Cropped and resized; the last frames are observed, as many as fill ticks of the top level."""
    film = np.random.default_rng(0).integers(0, 256, [7, 80, 128, 3], np.uint8)
    np.save(tmp_path / "film.npy", film)
    seen, _ = videos.read(str(tmp_path / "film.npy"), videos.Form(64, 1))
    assert seen.shape == (7, 64, 64, 1)
    (tmp_path / "images").mkdir()
    for number, frame in enumerate(film):
        Image.fromarray(frame).save(tmp_path / "images" / f"{number}.png")
    future = model.predict(tmp_path / "film.npy", 3, samples=2)
    np.testing.assert_array_equal(future, model.predict(np.array(seen[1:]), 3, samples=2))
    skipping = runs.VideoModel(model.config.replace(frame_skip=2), model.model)
    np.testing.assert_array_equal(
        skipping.predict(str(tmp_path / "film.npy"), 3), skipping.predict(np.array(seen[::2]), 3))
    np.testing.assert_array_equal(future, model.predict(tmp_path / "images", 3, samples=2))
    for wrong in ("nowhere.mp4", __file__):
        with pytest.raises(ValueError, match=f"^video: .*{wrong}"):
            model.predict(wrong, 3)


def test_the_docstrings_line_writes_a_gif(model, video, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (line,) = re.findall(r"pictures\.save_gif\(.*?\)", video_model.VideoModel.predict.__doc__)
    future = model.predict(video[0, :4], 5)
    exec(line, {"pictures": pictures, "future": future})
    with Image.open(tmp_path / "future.gif") as image:
        frames = [frame.info["duration"] for frame in ImageSequence.Iterator(image)]
        assert image.size == (64, 64) and sum(frames) == 5 * 50  # Equal frames are stored once.


def test_a_model_that_is_deleted_is_gone(model, video):
    loaded = runs.VideoModel(model.config, model.model)
    loaded.predict(video[0, :4], 2)
    gone = weakref.ref(loaded)
    del loaded
    gc.collect()
    assert gone() is None
