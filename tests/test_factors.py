"""Factors in the user's own files: where they are found, and what refuses them."""

import os
import re
import sys
import types

import h5py
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
import twins
from conftest import ROOT

import data_loader
import metrics
from config import Config
from predictor import factors_of
from tools import UserError
from video_data import factors, preparation

FRAMES = 10


def write(path, seed=0, length=FRAMES, **arrays):
    """Writes an .npz file of a grey video with factors. Returns these."""
    rng = np.random.default_rng(seed)
    video = rng.integers(0, 255, [length, 16, 16, 1], np.uint8)
    np.savez(path, video=video, **arrays)
    return arrays


def config_for(root, **settings):
    return Config(**{"dataset": "videos", "data_root": str(root), "seq_len": 4, "eval_seq_len": 8,
                     "batch_size": 2, "levels": 1, "open_loop_ctx": 4, **settings})


@pytest.fixture
def root(tmp_path):
    for folder in ("train", "test"):
        (tmp_path / folder).mkdir()
    write(tmp_path / "train" / "a.npz")
    return tmp_path


def opened(root, **settings):
    return data_loader.Sequences(config_for(root, **settings), 8)


def of_one(seed):
    rng = np.random.default_rng(seed)
    return {"cell": rng.integers(0, 5, [FRAMES, 2]), "heading": rng.uniform(0, 360, FRAMES),
            "region": rng.integers(0, 4, FRAMES).astype(np.uint8), "digit": np.array([3, seed]),
            "position": rng.uniform(0, 36, [FRAMES, 2, 2]).astype(np.float32)}


def test_files_declare_factors_by_the_names_of_arrays(root):
    truth = [write(root / "test" / f"{seed}.npz", seed, **of_one(seed), reward=np.zeros(3))
             for seed in (1, 2)]
    batch = opened(root, frame_skip=1).batch(0, 2)
    assert set(batch) == {"video", *factors.FACTORS}
    for name in ("cell", "heading", "region", "position"):
        np.testing.assert_allclose(batch[name], np.stack([one[name][:8] for one in truth]), rtol=1e-6)
    np.testing.assert_array_equal(batch["digit"], [[[3, seed]] * 8 for seed in (1, 2)])
    skipped = data_loader.Sequences(config_for(root, frame_skip=3), 3).batch(0, 2)
    np.testing.assert_array_equal(skipped["cell"], np.stack([one["cell"][:8:3] for one in truth]))
    assert set(data_loader.Clips(config_for(root)).batch(0)) == {"video"}


def test_factors_of_encoded_video_and_of_a_single_file(root):
    truth = of_one(1)
    twins.encode(twins.movie(0, FRAMES), root / "test" / "b.mp4")
    np.savez(root / "test" / "b.npz", **truth)
    for data_root in (root, root / "test" / "b.mp4"):
        batch = opened(data_root, channels=3).batch(0, 1)
        np.testing.assert_array_equal(batch["cell"][0], truth["cell"][:8])


def test_with_fps_a_factor_is_of_the_frames_that_are_shown(root):
    twins.encode(twins.movie(0, FRAMES), root / "test" / "b.mp4")
    np.savez(root / "test" / "b.npz", cell=np.arange(FRAMES))
    with pytest.raises(UserError, match="frames; it must have a row for each frame that fps shows"):
        data_loader.Sequences(config_for(root, channels=3, fps=5.0), 1, min_frames=1)


def test_factors_in_hdf5_are_in_the_group_of_the_video_or_above(root):
    truth = [of_one(seed)["cell"] for seed in range(3)]
    with h5py.File(root / "test" / "b.h5", "w") as file:
        for number in (0, 1):
            file[f"data/{number}/obs/video"] = np.full([FRAMES, 16, 16, 3], number, np.uint8)
            file[f"data/{number}/cell"] = truth[number]
    with h5py.File(root / "test" / "c.h5", "w") as file:
        file["pixels"] = np.zeros([3, FRAMES, 16, 16, 3], np.uint8)
        file["cell"] = np.stack(truth)
    batch = opened(root, channels=3).batch(0, 5)
    np.testing.assert_array_equal(batch["cell"], np.stack([*truth[:2], *truth])[:, :8])


@pytest.mark.parametrize("arrays, said", [
    ({"cell": np.zeros([9, 2])}, r"test/b\.npz: its cell has the shape \[9, 2\] for 10 frames; it must"),
    ({"heading": np.float32(3)}, r"its heading has the shape \[\] for 10 frames"),
    ({"cell": np.full([10, 2], np.nan)}, "its cell has numbers that are not finite"),
    ({"region": np.array(["a"] * 10)}, "its region is <U1, not finite numbers"),
    ({"cell": np.zeros([10, 3])}, r"a row of its cell is float32 \[3\], but of test/a\.npz int64 \[2\]"),
    ({}, "test/b.npz has no cell, but test/a.npz does; all test videos need it, or none")])
def test_factors_that_do_not_fit_are_one_line(root, arrays, said):
    write(root / "test" / "a.npz", cell=np.zeros([10, 2], int))
    write(root / "test" / "b.npz", **{"cell": np.zeros([10, 2], int)} | arrays if arrays else {})
    with pytest.raises(UserError, match=said):
        opened(root)
    data_loader.Clips(config_for(root))  # Training does without factors.
    data_loader.Sequences(config_for(root), 8, "val")


def test_factors_of_several_videos_need_a_row_for_each(root):
    with h5py.File(root / "test" / "c.h5", "w") as file:
        file["pixels"], file["cell"] = np.zeros([3, FRAMES, 16, 16, 3], np.uint8), np.zeros([FRAMES, 2])
    with pytest.raises(UserError, match=r"cell has the shape \[10, 2\] for 3 videos"):
        opened(root, channels=3)


def test_an_array_that_gave_no_video_does_not_hide_the_factors_of_others(root):
    with h5py.File(root / "test" / "d.h5", "w") as file:
        for demo, length in enumerate([FRAMES, 0, FRAMES]):
            file[f"demo_{demo}/rgb"] = np.zeros([length, 16, 16, 3], np.uint8)
            file[f"demo_{demo}/turns"] = np.zeros([length, 3, 3])
            file[f"demo_{demo}/region"] = np.full(length, demo)
    batch = opened(root, files=["*.npz", "*.h5:*/rgb"]).batch(0, 9)
    assert batch["region"][:, 0].tolist() == [0, 2]
    batch = opened(root).batch(0, 9)  # Rotations are no videos, and no obstacle.
    assert batch["region"][:, 0].tolist() == [0, 2]


def test_names_that_look_like_mistakes_are_told(root, capsys):
    write(root / "test" / "a.npz", cells=np.zeros([10, 2]), postion=np.zeros(10), reward=np.zeros(10))
    assert set(opened(root).batch(0, 1)) == {"video"}
    said = capsys.readouterr().err
    assert "test/a.npz: cells is no factor and is not read; nearest: cell\n" in said
    assert "postion is no factor and is not read; nearest: position" in said and "reward" not in said
    with h5py.File(root / "test" / "a.h5", "w") as file:
        for number in range(3):
            file[f"{number}/video"] = np.zeros([FRAMES, 16, 16, 1], np.uint8)
            file[f"{number}/cells"] = np.zeros(FRAMES)
    opened(root)
    assert capsys.readouterr().err.count("a.h5: cells is no factor") == 1


def test_data_loader_names_the_factors(root):
    write(root / "test" / "a.npz", **of_one(0))
    config = config_for(root)
    lines = list(data_loader.describe(config, data_loader.Clips(config)))
    assert "  factors: cell, heading, region, position, digit" in lines


def test_the_page_on_data_shows_a_folder_with_factors(tmp_path, monkeypatch):
    """The example of docs/data.md runs as printed, and eval.py's metrics use what it declares."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "data.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code, {"np": np, "os": os})
    config = config_for(tmp_path / "my_walks", eval_seq_len=100, open_loop_ctx=50)
    batch = data_loader.evaluation_sequences(config).batch(0, 2)
    rows, columns = batch["cell"][..., 0] * 8, batch["cell"][..., 1] * 8
    video, frame = np.indices(rows.shape)
    assert (batch["video"][video, frame, rows, columns] == 255).all()
    scored = metrics.chosen(factors=factors_of(batch))
    assert {"psnr_revisited", "psnr_new", "ssim_revisited", "ssim_new"} <= {one.name for one in scored}


@pytest.mark.parametrize("features, said", [
    ({"cel": (5, 2)}, "moving_digit declares the factor cell, but its records have no such feature; "
                      "nearest: cel$"),
    ({"cell": (4, 2)}, r"moving_digit test\[0\]: cell has the shape \[4, 2\] for 5 frames; it must")])
def test_a_builder_whose_factors_do_not_fit_is_one_line(features, said, tmp_path, monkeypatch):
    class Squares(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({
                "video": tfds.features.Tensor(shape=(None, 64, 64, 1), dtype=np.uint8),
                **{name: tfds.features.Tensor(shape=(None, 2), dtype=np.int64) for name in features}}))

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples() for split in ("train", "test")}

        def _generate_examples(self):
            arrays = {name: np.zeros(shape, np.int64) for name, shape in features.items()}
            yield 0, {"video": np.zeros([5, 64, 64, 1], np.uint8), **arrays}

    monkeypatch.setitem(sys.modules, "video_data.squares", types.SimpleNamespace(Squares=Squares))
    monkeypatch.setitem(preparation.BUILDERS, "moving_digit",
                        preparation.Recorded("squares", "Squares", factors=("cell",)))
    config = config_for(tmp_path, dataset="moving_digit")
    with pytest.raises(UserError, match=said):
        data_loader.Sequences(config, 5)


@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 1, 1)])
def test_a_cell_is_one_number_or_several(shape):
    cell = np.array([4, 7, 4, 7, 9]).reshape(shape)
    known = metrics.Factors({"cell": cell[None, 2:]}, {"cell": cell[None, :2]})
    ones = tf.ones([1, 1, 3])
    for revisited, expected in ((True, [1, 1, np.nan]), (False, [np.nan, np.nan, 1])):
        found = metrics.in_cells(revisited, ones, known)
        np.testing.assert_array_equal(found[0, 0], expected)
