"""The weights in the repository: small, and they predict what docs/results.md says of them."""

import importlib.util
import json

import numpy as np
import pytest
from conftest import ROOT, call
from test_moving_mnist import write_mnist

import data_loader
import eval as evaluation
import metrics
import runs
from config import load_config
from cwvae import CWVAE
from predictor import Predictor, factors_of
from video_data import digits, doom_mazes, moving_mnist, store
from video_data.moving_digit import MovingDigit

MODELS = sorted((ROOT / "pretrained").iterdir())
DIGITS = [path for path in MODELS if path.name.startswith("moving_digit_")]
MAZES, MNIST = ROOT / "pretrained" / "doom_mazes_levels_3", ROOT / "pretrained" / "moving_mnist"


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


def test_there_is_one_of_each_number_of_levels_and_they_are_small():
    assert [MAZES, *DIGITS, MNIST] == MODELS
    levels = {"1": 1, "1_matched": 1, "2": 2, "3": 3}
    assert [path.name for path in DIGITS] == [f"moving_digit_levels_{name}" for name in levels]
    assert [load_config(path / "config.yml").levels for path in DIGITS] == [*levels.values()]
    for models, largest in ([MAZES, *DIGITS], 12e6), ([MNIST], 26e6):
        files = [file for path in models for file in path.rglob("*") if "eval_" not in str(file)]
        assert sum(file.stat().st_size for file in files) < largest


@pytest.fixture(autouse=True)
def few_videos(monkeypatch):
    monkeypatch.setitem(MovingDigit.SIZES, "one", (1, (1, 48), (1, 48), (10, 48)))
    lengths = {split: (4, length) for split, (_, length) in doom_mazes.SIZES["full"].items()}
    monkeypatch.setitem(doom_mazes.SIZES, "full", lengths)
    monkeypatch.setitem(
        moving_mnist.SIZES, "large", {"train": (4, 100), "val": (4, 100), "test": (10, 72)})


def scores_of(path, videos, **changes):
    """The scores of a model's first predictions, and of the trivial predictors."""
    config = load_config(path / "config.yml").replace(jit=False, **changes)
    data = data_loader.evaluation_sequences(config)
    model = CWVAE(config, data.action_size)
    runs.restore_model(str(path), model)
    batch = data.batch(0, videos)
    predictor = Predictor(config, model, 1, 0, metrics.chosen(factors=factors_of(batch)))
    return predictor.predict(batch, 0)[1], predictor.trivial(batch)


@pytest.mark.parametrize("path", DIGITS, ids=lambda path: path.name)
def test_they_predict_which_digit_it_is(path, data_root):
    scores, trivial = scores_of(path, 10, data_root=str(data_root), eval_seq_len=48)
    assert scores["identity"].mean() >= 0.9
    assert scores["psnr"].mean() > trivial["psnr_black"].mean() + 3


def test_printed_digits_are_predicted_by_the_model_of_handwritten_ones(tmp_path):
    printed = np.tile(digits.glyphs(), (6, 1, 1)), np.tile(np.arange(10, dtype=np.uint8), 6)
    write_mnist(tmp_path / "mnist", train=printed, test=printed)
    scores, trivial = scores_of(MNIST, 10, data_root=str(tmp_path / "mnist"), eval_seq_len=72)
    best = max(values[:, :8].mean() for values in metrics.trivial_of("psnr", trivial).values())
    assert scores["psnr"][:, 0, :8].mean() > best + 1


def test_evaluation_from_a_clean_clone(tmp_path):
    out = tmp_path / "evaluation"
    assert "Identity" in call(
        evaluation.main, "--model-dir", DIGITS[-1], "--data-root", tmp_path, "--num-examples", 10,
        "--seq-len", 48, "--no-save-grid", "--out", out)
    with np.load(out / "metrics.npz") as scores:
        assert scores["identity"].mean() >= 0.9
    assert store.splits(tmp_path / "moving_digit" / "one" / "1.0.0.frames") == ["test"]


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.name)
def test_training_starts_from_them(path, tmp_path, capsys):
    config = load_config(path / "config.yml")
    model = CWVAE(config, 2 if config.actions else 0)
    assert runs.Checkpoints(tmp_path, model=model).restore(str(path)) == 0
    assert "Starts from the weights of" in capsys.readouterr().out


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.name)
def test_their_results_are_of_the_same_config(path):
    results = json.loads((path / "results.json").read_text())
    config = load_config(path / "config.yml")
    for key in ("levels", "dec_stddev", "beta_warmup_steps", "free_nats", "seed", "max_steps"):
        assert results["settings"][key] == getattr(config, key)
    assert results["settings"]["eval_seq_len"] == (264 if path == MAZES else 1000)


@pytest.mark.skipif(importlib.util.find_spec("vizdoom") is None,
                    reason="ViZDoom is not there: pip install -r requirements-mazes.txt")
def test_walks_through_mazes_from_a_clean_clone(tmp_path):
    scores, trivial = scores_of(
        MAZES, 4, data_root=str(tmp_path), eval_seq_len=96, cell_mean_only=True)
    best = max(values[:, :8].mean() for values in metrics.trivial_of("psnr", trivial).values())
    assert scores["psnr"][:, 0, :8].mean() > best + 1
