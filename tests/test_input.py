"""Odd values for every key of the config and every flag of every script: one clear line, or they run."""

import dataclasses
import json
import os

import pytest
import yaml

import analyze
import bench
import dreams
import eval as evaluation
import plot
import tools
import train
from config import Config, load_config
from flags import Parser, parse_train_flags
from tools import UserError

ODD = ["", " ", "null", "true", "0", "-1", "3", "0.5", "nan", "1e400", "1e-320", "9" * 400, "2024-13-01",
       "2024_01_01", "@logs", "[", "[0, -1, 2]", "{a: 1}", "&a [*a]", "TTF", "é\n1", "../..", "x" * 300,
       "a[1]* b", "~/nowhere"]


def check(line):
    line = line.removesuffix("\n")
    assert 5 < len(line) < 1000 and "\n" not in line and "Traceback" not in line, line


@pytest.mark.parametrize("key", [field.name for field in dataclasses.fields(Config)])
def test_a_key_takes_odd_values_or_says_what_is_wrong(key, tmp_path):
    path = tmp_path / "a.yml"
    path.write_text("dataset: mmnist")
    refused = 0
    for value in ODD:
        in_a_file = tmp_path / "b.yml"
        text = f"{key}: {value}"
        in_a_file.write_text(text if key == "dataset" else f"dataset: mmnist\n{text}")
        for given in (["--config", str(in_a_file)], ["--config", str(path), f"--{key}={value}"]):
            try:
                config = load_config(*parse_train_flags(given))
            except UserError as error:
                refused += 1
                line = " ".join(str(error).splitlines())  # as run_script prints it
                check(line)
                assert key in line or "not valid YAML" in line or "is not a config" in line, line
            else:
                assert len(os.path.basename(config.run_dir).encode()) <= 255
                config.save(tmp_path / "saved.yml")
                assert load_config(tmp_path / "saved.yml") == config
    assert refused >= 5


def flags_of(main, monkeypatch):
    """The flags of a script, each with the words that must stand before it: [(words, flag), ...]."""
    parsers = []
    monkeypatch.setattr(Parser, "parse_args", lambda self, *_: parsers.append(self) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main()
    monkeypatch.undo()
    (parser,) = parsers
    commands = parser._subparsers._group_actions[0].choices if parser._subparsers else {"": parser}
    return [([word] * bool(word), action.option_strings[0] if action.option_strings else None)
            for word, command in commands.items()
            for action in command._actions if action.dest != "help"]


@pytest.mark.parametrize(
    "script", [evaluation, analyze, plot, bench], ids=lambda script: script.__name__)
def test_a_flag_takes_odd_values_or_says_what_is_wrong(
        script, run_dir, workplace, tmp_path, monkeypatch, capsys):
    """What takes long is left out: a value that is taken ends there."""
    needed = {evaluation: ["--model-dir", run_dir], analyze: ["--model-dir", run_dir],
              plot: ["--out", tmp_path / "a.png", run_dir],
              bench: ["--config", workplace / "tiny.yml"]}[script]
    refused, tried = 0, 0
    flags = flags_of(script.main, monkeypatch)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for words, flag in flags:
        if words == ["eval"] and (["train"], flag) in flags:  # The same keys of the config.
            continue
        for value in ODD:
            if flag == "--data-root" and os.path.exists(os.path.expanduser(value)):
                continue
            for module, name in [(evaluation, "evaluate"), (analyze, "levels"), (analyze, "information"),
                                 (dreams, "analyze"), (plot, "save_comparison")]:
                monkeypatch.setattr(module, name, lambda *_: "a.png")
            for name in ("bench_train", "bench_eval"):
                monkeypatch.setattr(bench, name, lambda flags: bench.configure(flags) and {})
            monkeypatch.setattr(bench, "bench_data", lambda flags: {})
            for module in (evaluation, analyze):
                monkeypatch.setattr(module, "CWVAE", lambda *_: None)
                monkeypatch.setattr(module.runs, "restore_model", lambda *_: "ckpt-1")
            given = ([] if "data" in words else needed) + ([f"{flag}={value}"] if flag else [value])
            monkeypatch.setattr("sys.argv", [f"{script.__name__}.py", *words, *map(str, given)])
            tried += 1
            try:
                tools.run_script(script.main)
            except SystemExit as stop:
                error = capsys.readouterr().err
                assert stop.code == 2, (given, error)
                check(error)
                refused += 1
    assert refused > tried / 4


@pytest.mark.parametrize("content", ["", "{}", "[1]", "no json", '{"settings": 3}', "\x00"])
def test_plot_is_given_anything_else(content, refusal, tmp_path):
    folder = tmp_path / "eval_1"
    folder.mkdir()
    for names in (["config.yml"], ["config.yml", "metrics.jsonl"], ["summary.json"],
                  ["summary.json", "metrics.npz"]):
        for name in names:
            (folder / name).write_text(content)
        check(refusal(plot.main, folder, "--out", tmp_path / "a.png"))
    check(refusal(plot.main, folder / "summary.json", "--out", tmp_path / "a.png"))
    (folder / "summary.json").write_text(json.dumps({"settings": {}, "metrics": {}}))
    check(refusal(plot.main, folder, "--out", tmp_path / "a.png"))


@pytest.mark.parametrize("path", ["a b", "a*?b", "ä{1,2}", "~/here", "link"])
def test_paths_of_any_kind_hold_data_runs_and_configs(path, workplace, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "target").mkdir()
    os.symlink(tmp_path / "target", "link")
    real = os.path.expanduser(path)
    os.makedirs(real, exist_ok=True)
    os.symlink(workplace / "data" / "moving_digits", os.path.join(real, "moving_digits"))
    config = yaml.safe_load((workplace / "tiny.yml").read_text()) | dict(data_root=path, log_root=path)
    with open(os.path.join(real, "a.yml"), "w") as file:
        yaml.safe_dump(config, file)
    monkeypatch.setattr(train, "run", lambda *given: given[-1](given[2].num_clips))
    monkeypatch.setattr("sys.argv", ["train.py", "--config", f"{path}/a.yml"])
    train.main()
    assert "480" in capsys.readouterr().out
    (run,) = os.listdir(os.path.join(real, "moving_digits_demo"))
    assert "lock" in os.listdir(os.path.join(real, "moving_digits_demo", run))


@pytest.mark.parametrize("flags, says", [
    (["--log-root", "a[1]"], "name a path without [, since TensorFlow reads no other: a[1]"),
    (["--log-root", "x" * 300], "File name too long"),
    (["--data-root", "x" * 300], "File name too long"),
    (["--log-root", ""], "log_root: '' is empty"), (["--data-root", ""], "data_root: '' is empty"),
    (["--config", ""], "cannot read config"), (["--config", "x" * 300], "File name too long")])
def test_a_path_that_cannot_be_is_one_line(flags, says, refusal, workplace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert says in refusal(train.main, "--config", workplace / "tiny.yml", *flags)
