"""The paper's datasets end to end: from an archive's twin to numbers, by the scripts."""

import json

import pytest
import twins
import yaml
from conftest import TINY, finish, script


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["minerl", "mazes", "mmnist"])
def test_from_archive_to_numbers(dataset, tmp_path):
    name, channels = {"minerl": ("minerl_navigate", 3), "mazes": ("gqn_mazes", 3),
                      "mmnist": ("moving_mnist_2digit", 1)}[dataset]
    data = tmp_path / "data"
    data.mkdir()
    twins.archive(dataset, data / f"{name}.zip")
    config = TINY | dict(
        dataset=dataset, channels=channels, data_root=str(data), log_root=str(tmp_path / "logs"),
        actions=dataset == "minerl", max_steps=2, save_gifs=False)
    (tmp_path / "a.yml").write_text(yaml.safe_dump(config))
    assert "Trained for 2 steps" in finish(script("train.py", "--config", tmp_path / "a.yml"))
    (run,) = (tmp_path / "logs" / dataset).iterdir()
    finish(script("eval.py", "--model-dir", run, "--seq-len", 16, "--no-save-grid",
                  "--out", tmp_path / "out"))
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["settings"]["num_examples"] == 2 and 0 < summary["metrics"]["psnr"]["mean"] < 100
