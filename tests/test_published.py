"""Published weights: float16, without TensorFlow's formats, and read wherever a run is."""

import shutil

import numpy as np
import pytest
import yaml
from conftest import call

import eval as evaluation
import published
import runs
from config import Config, load_config
from cwvae import CWVAE
from tools import UserError


@pytest.fixture(scope="module")
def folder(run_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("published") / "model_to_pass_on"
    runs.publish(str(run_dir), str(out))
    return out


def test_it_is_the_model_in_half_precision_and_a_sixth_as_large(run_dir, folder):
    before, after = runs.load(str(run_dir)), runs.load(str(folder))
    assert after.config == before.config
    assert [path.name for path in (folder / "model").iterdir()] == ["weights-24.npz"]
    for old, new in zip(before.model.trainable_variables, after.model.trainable_variables, strict=True):
        np.testing.assert_array_equal(new, old.numpy().astype(np.float16))
    size = sum(path.stat().st_size for path in (run_dir / "model").glob("ckpt-24.*"))
    assert (folder / "model" / "weights-24.npz").stat().st_size < size / 4


def test_an_evaluation_of_it_gives_the_numbers_of_float32(run_dir, folder, tmp_path):
    for model_dir, name in ((run_dir, "before"), (folder / "model" / "weights-24.npz", "after")):
        call(evaluation.main, "--model-dir", model_dir, "--num-examples", 4, "--no-save-grid", "--out",
             tmp_path / name)
    with np.load(tmp_path / "before/metrics.npz") as old, np.load(tmp_path / "after/metrics.npz") as new:
        assert abs(old["psnr"].mean() - new["psnr"].mean()) < 0.02
        assert (old["psnr"] != new["psnr"]).any()


def test_a_new_run_starts_from_it_and_none_goes_on(folder, tmp_path):
    model = CWVAE(load_config(folder / "config.yml"))
    assert runs.Checkpoints(tmp_path / "new", model=model).restore(str(folder)) == 0
    with pytest.raises(UserError, match="weights alone.*init_from"):
        runs.Checkpoints(folder, model=model).restore()
    with pytest.raises(UserError, match="exists already"):
        runs.publish(str(folder), str(folder))


def test_the_width_of_actions_is_known_from_it(folder, tmp_path):
    values = yaml.safe_load((folder / "config.yml").read_text()) | dict(dataset="minerl", actions=True)
    published.save(tmp_path / "model", 7, CWVAE(Config(**values), 5))
    (tmp_path / "config.yml").write_text(yaml.safe_dump(values))
    assert runs.load(str(tmp_path)).model.action_size == 5


def test_what_does_not_fit_or_is_damaged_is_one_line(folder, tmp_path):
    model = CWVAE(load_config(folder / "config.yml"))
    before = [variable.numpy() for variable in model.trainable_variables]
    path = tmp_path / "model" / "weights-24.npz"
    for change, problem in (
            (lambda a: a.pop("decoder/000/dense/kernel"), "decoder/000/dense/kernel is missing"),
            (lambda a: a.update(new=np.zeros(3)), "the model has no place for new"),
            (lambda a: a.update({"decoder/001/dense/bias": np.zeros(3)}), r"has the shape \[3\], not")):
        arrays = published.read(folder / "model" / path.name)
        change(arrays)
        path.parent.mkdir(exist_ok=True)
        np.savez(path, **arrays)
        with pytest.raises(UserError, match=problem):
            runs.restore(str(path), model=model)
    shutil.copy(folder / "model" / path.name, path)
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(runs.Damaged, match="is damaged"):
        runs.restore(str(path), model=model)
    for old, variable in zip(before, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(variable, old)


def test_weights_beyond_float16_are_refused(folder, tmp_path):
    model = CWVAE(load_config(folder / "config.yml"))
    model.decoder.dense.bias.assign(np.full(model.decoder.dense.bias.shape, 1e5, np.float32))
    with pytest.raises(ValueError, match="decoder/001/dense/bias has weights beyond"):
        published.save(tmp_path, 1, model)
