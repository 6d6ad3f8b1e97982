"""A machine that is not kind: full disks, closed pipes, signals, no memory, two processes at once."""

import contextlib
import errno
import os
import pathlib
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, finish, scalars, script, wait_for_step

import analyze
import data_loader
import eval as evaluation
import plot
import runs
import tools
import train
from config import Config


@contextlib.contextmanager
def full_disk(size):
    """In the context, no file grows beyond so many bytes: EFBIG, which counts as a full disk."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)


@pytest.fixture
def failure(monkeypatch, capsys):
    """A function that runs a script's main in this process: the line by which it ends, of code 1."""
    def run(main, *flags):
        monkeypatch.setattr("sys.argv", [f"{main.__module__}.py", *map(str, flags)])
        with pytest.raises(SystemExit) as stop:
            tools.run_script(main)
        *_, line = capsys.readouterr().err.splitlines()
        assert stop.value.code == 1
        return line

    return run


def copy_of(run_dir, log_root):
    """A copy of a run, where the same config puts it in another log_root."""
    copy = log_root / run_dir.parent.name / run_dir.name
    shutil.copytree(run_dir, copy)
    return copy


# ---------------------------------------------------------------------------------------- disks


@pytest.mark.slow
@pytest.mark.parametrize("size, file", [
    (100, "(config.yml|code.json).*"), (9_000, "metrics.jsonl"), (60_000, "model")])
def test_a_full_disk_is_one_line_and_the_run_goes_on_after_it(
        size, file, run_dir, workplace, tmp_path, failure, monkeypatch):
    copy = copy_of(run_dir, tmp_path)
    before = scalars(copy)
    flags = ["--config", workplace / "tiny.yml", "--log-root", tmp_path, "--max-steps", 30,
             "--save-gifs", "false"]
    with full_disk(size):
        line = failure(train.main, *flags)
    assert line.startswith(f"train.py: error: the disk is full: cannot write {copy}/")
    assert re.fullmatch(rf"{file} \({os.strerror(errno.EFBIG)}\)", line.split(f"{copy.name}/")[1])
    left = [path for path in copy.rglob("*") if re.search(r"\.part$|_temp|tmp", path.name)]
    assert not left
    prefix = runs.find_checkpoint(copy)[1]
    reader = tf.train.load_checkpoint(prefix)
    for name in reader.get_variable_to_shape_map():
        reader.get_tensor(name)
    monkeypatch.setattr("sys.argv", ["train.py", *map(str, flags)])
    train.main()
    assert scalars(copy)[:len(before)] == before and scalars(copy)[-1]["step"] == 30


@pytest.mark.slow
@pytest.mark.parametrize("size", [300, 3_000, 30_000])
def test_a_full_disk_leaves_no_half_evaluation(size, run_dir, tmp_path, failure):
    with full_disk(size):
        line = failure(evaluation.main, "--model-dir", run_dir, "--num-examples", 1, "--out",
                       tmp_path / "out")
    assert f"the disk is full: cannot write {tmp_path / 'out'}" in line
    assert not os.listdir(tmp_path)


@pytest.mark.slow
def test_a_full_disk_leaves_no_half_dream(run_dir, tmp_path, failure):
    with full_disk(20_000):
        line = failure(analyze.main, "dream", "--model-dir", run_dir, "--frames", 2000, "--out",
                       tmp_path / "out")
    assert f"the disk is full: cannot write {tmp_path / 'out'}" in line and not os.listdir(tmp_path)


def test_a_full_disk_leaves_no_half_figure(run_dir, tmp_path, failure):
    with full_disk(2_000):
        line = failure(plot.main, run_dir, "--out", tmp_path / "figure.png")
    assert f"the disk is full: cannot write {tmp_path}/figure" in line
    assert not os.listdir(tmp_path)


@pytest.mark.slow
def test_a_full_disk_stops_a_preparation_which_goes_on_after_it(
        workplace, tmp_path, failure, monkeypatch):
    flags = ["--config", workplace / "tiny.yml", "--log-root", tmp_path / "logs", "--data-root",
             tmp_path / "data", "--max-steps", 1]
    with full_disk(1_000_000):
        line = failure(train.main, *flags)
    assert f"the disk is full: cannot write {tmp_path / 'data'}" in line
    monkeypatch.setattr("sys.argv", ["train.py", *map(str, flags)])
    train.main()


def test_a_full_disk_below_a_single_file_names_the_folder(tmp_path):
    np.save(tmp_path / "clip.npy", np.zeros([20, 100, 100], np.uint8))
    with full_disk(10_000), pytest.raises(OSError) as full:
        data_loader.Sequences(Config(dataset="videos", data_root=str(tmp_path / "clip.npy")), 12)
    assert full.value.errno == errno.EFBIG and full.value.filename == tempfile.gettempdir()


# ------------------------------------------------------------------------------ ends of a process

PROGRAM = """
import sys
import startup
import os, signal, time
import tools

def main():
    {statements}

tools.run_script(main)
"""


def program(statements, shell="{}", **popen):
    """Runs statements as a script's main, within a shell's command line."""
    code = PROGRAM.format(statements=statements)
    command = f"{sys.executable} -c '{code}'"
    return subprocess.run(
        ["bash", "-c", shell.format(command)], cwd=ROOT, text=True, capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, **popen)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_the_process_and_a_shells_loop(name):
    number = getattr(signal, name)
    loop = "for i in 1 2; do {}; status=$?; [ $status -gt 128 ] && exit $status; done"
    ended = program(f"os.kill(os.getpid(), signal.{name}); time.sleep(30)", loop,
                    preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))
    assert ended.returncode in (-number, 128 + number)
    assert ended.stderr.count(f"-c: ended by {name}\n") == 1 and not ended.stdout


@pytest.mark.slow
def test_a_closed_pipe_is_one_line():
    ended = program('for i in range(100000): print("line", i)', "{} | head -1; exit ${{PIPESTATUS[0]}}")
    assert (ended.returncode, ended.stdout) == (1, "line 0\n")
    assert ended.stderr == "-c: error: the program that reads the output has closed it\n"
    ended = program('print("a"); sys.stdout.flush(); time.sleep(1); print("b")',
                    "{} 2>&1 | head -1; exit ${{PIPESTATUS[0]}}")
    assert (ended.returncode, ended.stdout) == (1, "a\n")


@pytest.mark.parametrize("error", [
    MemoryError(), np._core._exceptions._ArrayMemoryError((10**9, 10**9), np.dtype("f4")),
    tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor with shape[9,9]"),
    tf.errors.InternalError(None, None, "RESOURCE_EXHAUSTED: Out of memory while trying to allocate")])
def test_no_memory_names_the_keys_to_lower(error, failure):
    def main():
        raise error

    line = failure(main)
    assert "out of memory; lower batch_size" in line and "seq_len" in line


def test_other_errors_keep_their_traceback(monkeypatch):
    def main():
        raise error

    for error in (tf.errors.InternalError(None, None, "a bug"), OSError("a bug"), ZeroDivisionError()):
        with pytest.raises(type(error)):
            tools.run_script(main)


# --------------------------------------------------------------------------------- two processes


@pytest.mark.slow
def test_two_trainers_and_an_evaluation_in_one_run_directory(workplace, tmp_path):
    flags = ["--config", workplace / "tiny.yml", "--log-root", tmp_path, "--max-steps", 100000,
             "--save-gifs", "false", "--save-model-every", 2, "--save-scalars-every", 100]
    first = script("train.py", *flags)
    run = wait_for_step(first, tmp_path, 100)
    second = script("train.py", *flags)
    output = finish(second, 2)
    assert f"is being trained by process {first.pid} on " in output and "Traceback" not in output
    # While the trainer rotates its checkpoints away.
    finish(script("eval.py", "--model-dir", run, "--num-examples", 1))
    first.send_signal(signal.SIGKILL)
    finish(first, -signal.SIGKILL)
    assert f"from step {_newest_step(run)} to" in finish(
        script("train.py", *flags, "--max-steps", _newest_step(run) + 1))


def _newest_step(run):
    return int(runs.find_checkpoint(pathlib.Path(run))[1].rsplit("-", 1)[1])
