"""Checkpoints: which one is found, and what is restored from it."""

import gc
import pathlib

import pytest
import tensorflow as tf

import cells
import runs
from config import Config
from cwvae import CWVAE
from tools import UserError


def checkpoints(run_dir, value=1.0):
    """Checkpoints of a model of one variable."""
    model = tf.Module()
    model.variable = tf.Variable(value, trainable=True)
    return runs.Checkpoints(run_dir, model=model)


def variable(run_dir, **restore):
    """The value of the model's variable after restoring, and the step."""
    restored = checkpoints(run_dir, value=0.0)
    step = restored.restore(**restore)
    return float(restored._objects["model"].variable), step


def saved(run_dir, *steps):
    """A run whose model's variable is the step, saved at these steps."""
    (pathlib.Path(run_dir) / "config.yml").write_text("dataset: mmnist")
    ours = checkpoints(run_dir)
    for step in steps:
        ours._objects["model"].variable.assign(float(step))
        ours.save(step)
    return pathlib.Path(run_dir) / "model"


def cut(path):
    path.write_bytes(path.read_bytes()[:10])


@pytest.mark.parametrize(
    "note", ["", 'model_checkpoint_path: "ck', 'model_checkpoint_path: "ckpt-3"', None])
def test_a_run_goes_on_from_the_newest_checkpoint_whatever_is_noted(note, tmp_path, capsys):
    model = saved(tmp_path, 3, 5, 10)
    assert not (model / "ckpt-3.index").exists()  # two are kept
    (model / "checkpoint").unlink() if note is None else (model / "checkpoint").write_text(note)
    assert variable(tmp_path) == (10, 10)
    assert f"Goes on from checkpoint {model / 'ckpt-10'}" in capsys.readouterr().out
    assert runs.find_checkpoint(tmp_path) == (str(tmp_path), str(model / "ckpt-10"))


@pytest.mark.parametrize("ending", ["index", "data-00000-of-00001"])
def test_a_run_goes_on_from_the_newest_that_is_whole(ending, tmp_path, capsys):
    model = saved(tmp_path, 5, 10)
    cut(model / f"ckpt-10.{ending}")
    assert variable(tmp_path) == (5, 5)
    assert "ckpt-10 is damaged" in capsys.readouterr().out
    cut(model / f"ckpt-5.{ending}")
    with pytest.raises(UserError, match="no other is whole"):
        variable(tmp_path)
    checkpoints(tmp_path, 20.0).save(20, "model_20")
    assert variable(tmp_path) == (20, 20)
    checkpoints(tmp_path, 7.0).save(7)  # The damaged one is later: no longer true.
    assert variable(tmp_path) == (7, 7)


def test_a_run_starts_at_step_0_only_where_there_was_none(tmp_path):
    assert variable(tmp_path) == (0, 0)
    (tmp_path / "metrics.jsonl").write_text('{"step": 9, "split": "train"}\n')
    with pytest.raises(UserError, match="there is no checkpoint"):
        variable(tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text()


def test_init_from_takes_weights_alone(tmp_path, capsys):
    (tmp_path / "old").mkdir()
    saved(tmp_path / "old", 10)
    new = tmp_path / "new"
    new.mkdir()
    model = tf.Module()
    model.variable = tf.Variable(0.0)
    optimizer = tf.keras.optimizers.Adam(0.5)
    optimizer.build([model.variable])  # which the old run has not saved
    ours = runs.Checkpoints(new, model=model, optimizer=optimizer)
    assert ours.restore(str(tmp_path / "old")) == 0 and ours.step == 0
    assert float(model.variable) == 10 and float(optimizer.learning_rate) == 0.5
    assert "Starts from the weights of" in capsys.readouterr().out
    ours.save(3)
    assert ours.restore(str(tmp_path / "old")) == 3
    assert f"init_from: {tmp_path / 'old'} is not used" in capsys.readouterr().out


def test_an_evaluation_looks_again_where_its_checkpoint_is_gone(tmp_path, monkeypatch):
    saved(tmp_path, 5, 10)
    restore, ours = runs.restore, checkpoints(tmp_path, 30.0)

    def meanwhile(prefix, **objects):
        if prefix.endswith("ckpt-10"):
            ours.save(20)
            ours.save(30)  # and the first two are gone
        restore(prefix, **objects)

    monkeypatch.setattr(runs, "restore", meanwhile)
    model = tf.Module()
    model.variable = tf.Variable(0.0)
    assert runs.restore_model(str(tmp_path), model).endswith("ckpt-30") and float(model.variable) == 30


def test_a_damaged_checkpoint_of_a_model_with_actions_is_one_line(tmp_path):
    folder = saved(tmp_path, 5)
    cut(folder / "ckpt-5.index")
    config = Config(dataset="minerl", channels=3, actions=True, channels_mult=1 / 32, levels=1)
    with pytest.raises(runs.Damaged, match="ckpt-5 is damaged"):
        runs.action_size(config, str(folder / "ckpt-5"))


@pytest.mark.parametrize("published", [False, True])
def test_the_width_of_actions_is_found_whichever_layer_sees_the_context(
        published, tmp_path, monkeypatch):
    class Late(cells.RSSMCell):
        def make_layers(self, context_size, obs_size):
            self.first = self.dense("first", self.stoch_size, 7)
            super().make_layers(context_size, obs_size)

    monkeypatch.setitem(cells.CELLS, "Late", Late)
    for kind in ("RSSMCell", "Late"):
        config = Config(dataset="minerl", channels=3, actions=True, channels_mult=1 / 32, levels=2,
                        action_levels="all", cell_deter_size=5, cell_type=kind, open_loop_ctx=6)
        model, folder = CWVAE(config, 4), tmp_path / kind
        folder.mkdir()
        if published:
            runs.published.save(str(folder), 3, model)
        else:
            tf.train.Checkpoint(model=model).write(str(folder / "ckpt-3"))
        (prefix,) = runs._prefixes(str(folder))
        assert runs.action_size(config, prefix) == 4


def test_another_shape_is_one_line_that_says_whose_config_differs(tmp_path, caplog):
    saved(tmp_path, 5)
    model = tf.Module()
    model.variable = tf.Variable([0.0, 0.0])
    with pytest.raises(UserError, match=r"its config.yml: a variable of shape \[\], not \[2\]"):
        runs.restore_model(str(tmp_path), model)
    with pytest.raises(UserError, match=r"than the config of this run: a variable"):
        runs.Checkpoints(tmp_path / "new", model=model).restore(str(tmp_path))
    gc.collect()
    assert not caplog.records  # TensorFlow warns of every variable of what is not restored.


def test_a_damaged_checkpoint_names_the_one_before_it(tmp_path):
    folder = saved(tmp_path, 5, 10)
    cut(folder / "ckpt-10.data-00000-of-00001")
    model = tf.Module()
    model.variable = tf.Variable(0.0)
    with pytest.raises(UserError, match="is damaged") as error:
        runs.restore_model(str(tmp_path), model)
    flag = str(error.value).split("--model-dir=")[1]
    assert flag == str(folder / "ckpt-5")
    assert runs.restore_model(flag, model) == flag and float(model.variable) == 5
