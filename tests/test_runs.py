"""The run directory, its logs, and interrupts."""

import json
import os
import pathlib
import signal

import pytest
import tensorflow as tf
import yaml

import runs
from tools import Config, UserError


def claim(config, fingerprint="data"):
    with runs.claim_run_dir(config, fingerprint):
        pass


def checkpoints(run_dir, value=1.0):
    """Checkpoints of a model of one variable."""
    model = tf.Module()
    model.variable = tf.Variable(value, trainable=True)
    return runs.Checkpoints(run_dir, model=model)


def test_a_directory_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(ZeroDivisionError), runs.directory_atomically(str(tmp_path / "out")) as part:
        (pathlib.Path(part) / "file").touch()
        raise ZeroDivisionError
    assert not os.listdir(tmp_path)
    with runs.directory_atomically(str(tmp_path / "out")) as part:
        assert not (tmp_path / "out").exists()
    assert os.listdir(tmp_path) == ["out"]


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


def test_a_resumed_log_drops_what_comes_after_the_checkpoint(tmp_path):
    logger = runs.Logger(tmp_path, 0)
    for step in (10, 20, 30):
        logger.scalars(step, "train", {"total_loss": step})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "spl')  # killed
    runs.Logger(tmp_path, 20).scalars(30, "train", {"total_loss": 31})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["total_loss"]) for line in lines] == [(10, 10), (20, 20), (30, 31)]


@pytest.fixture
def interruptible():
    """As in a terminal: what runs in the background is born deaf to Ctrl-C."""
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, old)


def test_the_first_interrupt_is_noted_and_the_second_acts(interruptible):
    with runs.Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
