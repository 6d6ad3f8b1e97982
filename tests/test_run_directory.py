"""Claiming a run directory: one process, one model, one set of data."""

import errno
import fcntl
import os
import pathlib
import socket

import pytest
import yaml
from test_runs import checkpoints

import run_directory
from config import Config
from tools import UserError


def claim(config, fingerprint="data", **total):
    with run_directory.claim_run_dir(config, fingerprint, **total):
        pass


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


def test_a_finished_run_stays_as_it_is(tmp_path, capsys):
    config = Config(dataset="mmnist", log_root=str(tmp_path))
    claim(config)
    checkpoints(config.run_dir).save(4)
    run = pathlib.Path(config.run_dir)
    before = {path.name: path.read_bytes() for path in run.glob("*.*")}
    claim(config.replace(name=config.experiment, lr=0.5, seed=7), total=4)
    assert "lr" not in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in run.glob("*.*")} == before
    claim(config.replace(name=config.experiment, lr=0.5, seed=7), total=5)
    assert yaml.safe_load((run / "config.yml").read_text())["lr"] == 0.5


def test_a_start_that_failed_leaves_no_mean_frame(tmp_path):
    config = Config(dataset="mmnist", log_root=str(tmp_path))
    claim(config)
    mean_frame = pathlib.Path(config.run_dir) / "mean_frame.npz"
    mean_frame.write_bytes(b"of the data of that start")
    claim(config)
    assert not mean_frame.exists()
    checkpoints(config.run_dir).save(0)
    mean_frame.write_bytes(b"of this run")
    claim(config)
    assert mean_frame.read_bytes() == b"of this run"


def test_a_run_directory_is_one_trainers(tmp_path):
    config = Config(dataset="mmnist", log_root=str(tmp_path))
    with run_directory.claim_run_dir(config, "data"):
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
    whole = {"code.json", "config.yml", "data.json", "lock", "eval_1.part", "model"}
    for folder in ("model/ckpt-7_temp", "model_5/ckpt-5_temp", "eval_1.part"):
        (run / folder).mkdir(parents=True)
    for file in ("config.yml.12.part", "model/checkpoint.7.part"):
        (run / file).touch()
    claim(config)
    assert set(os.listdir(run)) == whole | {"model_5"}
    assert os.listdir(run / "model") == os.listdir(run / "model_5") == []


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
