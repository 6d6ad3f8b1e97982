"""The logs of a run: metrics.jsonl and TensorBoard's events."""

import errno
import json
import resource

import numpy as np
import pytest
import tensorflow as tf
from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from config import Config
from logger import Logger


def values(folder):
    """The values of all events in a folder, by their tags."""
    return {value.tag: value for file in folder.iterdir()
            for event in tf.compat.v1.train.summary_iterator(str(file)) for value in event.summary.value}


def test_a_resumed_log_drops_what_comes_after_the_checkpoint(tmp_path):
    logger = Logger(tmp_path, 0)
    for step in (10, 20, 30):
        logger.scalars(step, "train", {"total_loss": step})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 40, "spl')  # killed
    Logger(tmp_path, 20).scalars(30, "train", {"total_loss": 31})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["total_loss"]) for line in lines] == [(10, 10), (20, 20), (30, 31)]


@pytest.mark.parametrize("bad", [
    "no json", "[1]", '{"step": "x", "split": "val"}', '{"split": "val"}', "\x00\xff"])
def test_a_bad_line_is_kept_aside_and_the_run_goes_on(bad, tmp_path, capsys):
    logger = Logger(tmp_path, 0)
    logger.scalars(1, "train", {"total_loss": 1})
    path = tmp_path / "metrics.jsonl"
    with path.open("ab") as file:
        file.write(bad.encode("latin1") + b"\n")
    logger.scalars(2, "train", {"total_loss": 2})
    before = path.read_bytes()
    Logger(tmp_path, 2).scalars(3, "train", {"total_loss": 3})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]
    (aside,) = tmp_path.glob("metrics.jsonl.*.damaged")
    assert aside.read_bytes() == before
    said = capsys.readouterr().err
    assert str(aside) in said and "line 2" in said and said.count("\n") == 1


def test_the_least_validation_loss_is_of_what_was_logged(tmp_path):
    logger = Logger(tmp_path, 0)
    assert logger.least_validation_loss(0) == float("inf")
    for step, loss in [(0, float("nan")), (1, 5.0), (2, 8.0), (3, 7.0)]:
        logger.scalars(step, "train", {"total_loss": 0.0})
        logger.scalars(step, "val", {"total_loss": loss})
    assert (logger.least_validation_loss(0), logger.least_validation_loss(1)) == (5, 7)
    assert logger.least_validation_loss(-1) == 5


def test_in_tensorboard_the_loss_comes_first_and_the_run_has_its_name(tmp_path):
    logger = Logger(tmp_path, 0, Config(dataset="mmnist", name="my run", beta=[1, 2, 3]))
    names = {"total_loss", "nll_term", "kl_term", "learning_rate", "grad_norm",
             "avg_kl_prior_posterior__level_0", "avg_entropy_prior__level_1", "another_term"}
    logger.scalars(5, "train", dict.fromkeys(names, 1.5))
    logger.gif(5, "train", np.zeros([3, 8, 8, 1], np.uint8))
    found = values(tmp_path / "train")
    shown = sorted(tag for tag in found if found[tag].metadata.plugin_data.plugin_name == "scalars")
    assert shown == ["loss", "loss/another", "loss/kl", "loss/nll", "per_level/entropy_prior/level_1",
                     "per_level/kl/level_0", "training/grad_norm", "training/learning_rate"]
    assert tf.make_ndarray(found["loss"].tensor) == 1.5
    assert found["open_loop_prediction"].metadata.plugin_data.plugin_name == "images"
    assert tf.make_ndarray(found["open_loop_prediction"].tensor)[2].startswith(b"GIF89a")
    session = HParamsPluginData.FromString(
        found[SESSION_START_INFO_TAG].metadata.plugin_data.content).session_start_info
    assert session.group_name == "my run" and session.hparams["beta"].string_value == "[1.0, 2.0, 3.0]"


def test_a_full_disk_is_noticed_by_the_write_of_metrics(tmp_path):
    logger = Logger(tmp_path, 0)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, old[1]))
    try:
        with pytest.raises(OSError) as error:
            logger.scalars(1, "train", {"total_loss": 1})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert error.value.errno == errno.EFBIG
    assert error.value.filename == str(tmp_path / "metrics.jsonl")
