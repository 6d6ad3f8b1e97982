"""The command lines of the scripts."""

import subprocess
import sys

import pytest
from conftest import ROOT

import eval as evaluation
import metrics
from flags import num_examples, parse_self_check_flags
from tools import UserError

SCRIPTS = {
    "train.py": ["--config", "configs/demo.yml"], "eval.py": ["--model-dir", "."],
    "analyze.py": ["levels", "--model-dir", "."], "plot.py": [".", "--out", "a.png"],
    "bench.py": ["train", "--config", "configs/demo.yml"],
    "data_loader.py": ["--config", "configs/demo.yml"]}


@pytest.mark.parametrize("script, flags", [
    *((script, [*flags, "--misspelt"]) for script, flags in SCRIPTS.items()),
    *((script, ["--help"]) for script in SCRIPTS),
    ("train.py", ["--config", "configs/demo.yml", "--levels", "two"]),
    ("train.py", ["--config", "nowhere.yml"]), ("train.py", ["--self-check", "--precision", "float16"])])
def test_flags_are_read_before_tensorflow_is_imported(script, flags):
    process = subprocess.run(
        [sys.executable, "-X", "importtime", script, *flags], cwd=ROOT, text=True, capture_output=True)
    imported, said = [], []
    for line in process.stderr.splitlines():
        (imported if line.startswith("import time:") else said).append(line)
    imported = {line.split("|")[-1].strip().split(".")[0] for line in imported}
    assert "argparse" in imported and "tensorflow" not in imported
    if flags == ["--help"]:
        assert process.returncode == 0 and not said and process.stdout.startswith(f"usage: {script}")
    else:
        assert process.returncode == 2
        (line,) = said
        assert line.startswith(f"{script}: error: ")


def test_a_metric_that_needs_a_network_has_a_flag_for_it():
    assert {name: metric.networks for name, metric in metrics.METRICS.items() if metric.networks} == {
        "lpips": evaluation.LPIPS}


def test_all_videos_are_used_where_there_are_fewer_than_wanted(capsys):
    assert [num_examples(*pair) for pair in [(None, 7), (None, 200), (7, 7), (150, 200)]] == [
        7, 100, 7, 150]
    assert not capsys.readouterr().out
    assert num_examples(100, 7) == 7
    assert "100 is more than the 7 test videos" in capsys.readouterr().out


def test_self_check_takes_what_it_needs_and_no_config():
    assert parse_self_check_flags(["--config", "a.yml"]) is None
    assert parse_self_check_flags(["--self-check"]) == {"changes": {}, "refresh": False}
    assert parse_self_check_flags(["--self-check=refresh"]) == {"changes": {}, "refresh": True}
    assert parse_self_check_flags(["--jit", "true", "--self-check", "--precision", "bfloat16"]) == {
        "changes": {"jit": True, "precision": "bfloat16"}, "refresh": False}
    with pytest.raises(UserError, match="unknown argument --config"):
        parse_self_check_flags(["--self-check", "--config", "a.yml"])
