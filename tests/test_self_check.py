"""The first look at a machine."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

import distribution
import self_check
from config import Config
from tools import UserError


def test_losses_are_compared_with_what_they_fall_by():
    expected = [3000.0, 2500.0, 2000.0]
    agree, text = self_check.comparison([3000.0, 2509.0, 2000.0], expected, 0.01)
    assert agree and "The losses are those" in text and "0.90% of that fall; 1% is allowed" in text
    for losses in ([3000.0, 2511.0, 2000.0], [3000.0, 2500.0, float("nan")]):
        agree, text = self_check.comparison(losses, expected, 0.01)
        assert not agree and "The losses are NOT those" in text


def test_a_second_start_that_differs_is_told():
    assert "exactly the same" in self_check.repetition_text([3.0, 2.0], [3.0, 2.0])
    assert "from step 2 on, by 0.5 there" in self_check.repetition_text([3.0, 2.0, 1], [3.0, 2.5, 0])


def test_squares_move_and_are_the_same_everywhere():
    config = Config(**self_check.SETTINGS)
    clips = self_check.moving_squares(config, 3)
    assert clips.shape == (8, 16, 64, 64, 1) and clips.dtype == np.uint8
    assert set(np.unique(clips)) == {0, 255} and (clips[:, 0] != clips[:, 1]).any()
    np.testing.assert_array_equal(clips, self_check.moving_squares(config, 3))
    assert (clips != self_check.moving_squares(config, 4)).any()


def test_this_machine_has_the_losses_that_are_kept_and_another_model_has_not(
        monkeypatch, capsys, tmp_path):
    with pytest.raises(UserError, match="takes no other flag"):
        self_check.run({"precision": "bfloat16"}, refresh=True)
    monkeypatch.setattr(self_check, "STEPS", 3)
    kept = json.loads(pathlib.Path(self_check.EXPECTED).read_text())
    (tmp_path / "three.json").write_text(json.dumps(kept | {"losses": kept["losses"][:3]}))
    monkeypatch.setattr(self_check, "EXPECTED", str(tmp_path / "three.json"))
    self_check.run({})
    said = capsys.readouterr().out
    assert "Trains on 1 CPU, in float32, not compiled." in said and "ms each" in said
    assert "exactly the same losses" in said and "The losses are those of a CPU" in said
    config = Config(**self_check.SETTINGS | {"lr": 2e-3})
    devices = distribution.Devices(tf.distribute.get_strategy(), config.batch_size)
    losses, *_ = self_check.train(config, devices, lambda: None)
    assert not self_check.comparison(losses, kept["losses"][:3], 0.01)[0]
