"""The run directory, its logs, and interrupts."""

import errno
import fcntl
import os
import pathlib
import socket

import pytest
import tensorflow as tf
import yaml

import runs
from config import Config
from tools import UserError


def claim(config, fingerprint="data"):
    with runs.claim_run_dir(config, fingerprint):
        pass


def checkpoints(run_dir, value=1.0):
    """Checkpoints of a model of one variable."""
    model = tf.Module()
    model.variable = tf.Variable(value, trainable=True)
    return runs.Checkpoints(run_dir, model=model)


def test_a_run_directory_keeps_its_model(tmp_path):
    config = Config(dataset="mmnist", log_root=str(tmp_path))
    claim(config)
    claim(config.replace(save_gifs=False))  # changes the run only
    path = pathlib.Path(config.run_dir) / "config.yml"
    assert yaml.safe_load(path.read_text())["save_gifs"] is False
    checkpoints(config.run_dir).save(0)
    with path.open("a") as file:
        file.write("cell_embed_size: 7\n")
    with pytest.raises(UserError, match="cell_embed_size: 7, not 200"):
        claim(config)


def test_a_run_directory_without_checkpoints_takes_another_model(tmp_path):
    config = Config(dataset="mmnist", log_root=str(tmp_path))
    claim(config.replace(channels=3))  # by mistake: the first step never came
    claim(config)
    assert yaml.safe_load((pathlib.Path(config.run_dir) / "config.yml").read_text())["channels"] == 1


# ------------------------------------------------------------------------------ one at a time


def test_a_run_directory_is_one_trainers(tmp_path):
    config = Config(dataset="mmnist", log_root=str(tmp_path))
    with runs.claim_run_dir(config, "data"):
        with pytest.raises(UserError, match="is being trained by") as error:
            claim(config)
        assert f"process {os.getpid()} on {socket.gethostname()}" in str(error.value)
    claim(config)


def test_where_there_are_no_locks_one_warning_says_so(tmp_path, monkeypatch, capsys):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    claim(Config(dataset="mmnist", log_root=str(tmp_path)))
    assert capsys.readouterr().err.count("cannot be locked") == 1


def test_what_a_killed_trainer_left_is_cleaned(tmp_path):
    config = Config(dataset="mmnist", log_root=str(tmp_path))
    claim(config)
    run = pathlib.Path(config.run_dir)
    whole = {"code.json", "config.yml", "data.json", "lock", "lock.holder", "eval_1.part", "model"}
    for folder in ("model/ckpt-7_temp", "model_5/ckpt-5_temp", "eval_1.part"):
        (run / folder).mkdir(parents=True)
    for file in ("config.yml.12.part", "model/checkpoint.tmp3", "model/checkpoint.7.part"):
        (run / file).touch()
    claim(config)
    assert set(os.listdir(run)) == whole | {"model_5"}
    assert os.listdir(run / "model") == os.listdir(run / "model_5") == []


# ------------------------------------------------------------------------------------ the data


def test_a_run_remembers_its_data(tmp_path):
    config = Config(dataset="mmnist", log_root=str(tmp_path), data_root=str(tmp_path / "a"))
    claim(config, "one")
    claim(config, "two")  # no step was taken on the first
    checkpoints(config.run_dir).save(0)
    claim(config, "two")
    elsewhere = config.replace(data_root=str(tmp_path / "b"))
    claim(elsewhere, "two")
    with pytest.raises(UserError, match="other data") as error:
        claim(config, "one")
    line = str(error.value)
    assert str(tmp_path / "b") in line and "init_from" in line and "log_root" in line and "name" in line


def test_a_run_of_the_authors_adopts_the_data_it_is_next_started_with(tmp_path):
    config = Config(dataset="mmnist", log_root=str(tmp_path))
    claim(config)
    checkpoints(config.run_dir).save(0)
    os.remove(os.path.join(config.run_dir, "data.json"))
    claim(config, "one")
    with pytest.raises(UserError, match="other data"):
        claim(config, "two")


# ---------------------------------------------------------------------------------- checkpoints


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
    checkpoints(tmp_path, 20.0).save_named(20)
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
