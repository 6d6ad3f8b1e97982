"""The first import of scripts: its messages, and the settings that it overrides."""

import gc
import json
import os
import pathlib
import subprocess
import sys

import pytest

import bench
import startup

ROOT = pathlib.Path(__file__).resolve().parents[1]


def import_startup(first, code=0, then="", **environment):
    """Imports startup in a new process, after some statements. Returns its standard error."""
    process = subprocess.run(
        [sys.executable, "-c", f"{first}\nimport startup\n{then}"], cwd=ROOT, text=True,
        capture_output=True, env=os.environ | environment)
    assert process.returncode == code and not process.stdout, process.stderr
    return process.stderr


@pytest.mark.slow
def test_no_folder_for_temporary_files_is_one_line():
    said = import_startup(
        "import tempfile; tempfile._candidate_tempdir_list = lambda: ['/proc']", code=1)
    assert "no folder for temporary files" in said and "TMPDIR" in said and said.count("\n") == 1


def test_why_an_nvidia_gpu_is_not_used_is_said(monkeypatch):
    log = "\n".join([
        "I0000 00:00:1795501739.905186    6568 port.cc:153] oneDNN custom operations are on.",
        "W0000 00:00:1795501741.373924    6568 gpu_device.cc:2431] Cannot dlopen some GPU libraries.",
        "E0000 00:00:1795501742.009785    6568 cuda_platform.cc:52] failed call to cuInit: UNKNOWN",
        "W0000 00:00:1795501741.373924    6568 gpu_device.cc:2431] Cannot dlopen some GPU libraries."])
    process = subprocess.CompletedProcess([], 0, stderr=log)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: process)
    assert startup._why_no_gpu() == [
        "Cannot dlopen some GPU libraries.", "failed call to cuInit: UNKNOWN"]


@pytest.mark.slow
def test_it_is_said_where_there_is_one():
    if startup.gpus:
        pytest.skip("a GPU is in use here")
    said = import_startup("import glob; glob.glob = lambda pattern: [pattern]")
    assert "an NVIDIA GPU is here, but TensorFlow does not use it:\n  " in said
    assert "cuda" in said.lower() and "oneDNN" not in said
    assert not import_startup("pass")


def test_surroundings_that_the_model_cannot_work_in_are_overridden(tmp_path):
    """As a notebook's child process finds them, and where Keras is set up for something else."""
    (tmp_path / "keras.json").write_text(json.dumps(
        {"floatx": "float64", "image_data_format": "channels_first", "backend": "jax"}))
    then = """
import tensorflow as tf, charts, cells
assert tf.keras.__version__.startswith("3.") and tf.keras.config.backend() == "tensorflow"
assert tf.keras.layers.Dense(3).dtype == tf.keras.config.floatx() == "float32"
assert tf.keras.layers.Conv2D(3, 4).data_format == "channels_last"
import os
assert "MPLBACKEND" not in os.environ and os.environ["TF_USE_LEGACY_KERAS"] == "0"
"""
    backend = "module://matplotlib_inline.backend_inline"
    lines = import_startup(
        "", then=then, KERAS_HOME=str(tmp_path), TF_USE_LEGACY_KERAS="1", KERAS_BACKEND="jax",
        MPLBACKEND=backend).splitlines()
    assert len(lines) == 5 and all("is overridden" in line for line in lines)
    for said, line in zip(["TF_USE_LEGACY_KERAS=1", "KERAS_BACKEND=jax", "floatx float64",
                           "image_data_format channels_first", f"MPLBACKEND={backend}"], lines,
                          strict=True):
        assert said in line


@pytest.mark.slow
def test_a_start_imports_nothing_that_draws():
    then = "import sys, train; assert not {'matplotlib', 'scipy.spatial'} & sys.modules.keys()"
    assert not import_startup("", then=then)


def test_garbage_is_searched_for_after_the_start_but_not_in_what_it_imported():
    assert gc.isenabled() and gc.get_freeze_count() > 100_000


@pytest.mark.slow
def test_a_backend_that_is_there_stays():
    then = """
import charts, os, matplotlib.pyplot
assert charts.matplotlib.rcParams["backend"] == os.environ["MPLBACKEND"]
"""
    assert not import_startup("", then=then, MPLBACKEND="svg")


@pytest.mark.slow
def test_a_keras_that_was_imported_before_is_refused_in_a_line():
    said = import_startup("import tensorflow as tf; tf.keras.config.backend = lambda: 'jax'", code=1)
    assert said.splitlines()[-1].startswith("ImportError: Keras was imported before")


@pytest.mark.slow
def test_calls_that_linux_alone_has_are_not_needed():
    first = "import os; del os.sched_getaffinity; import sys; sys.argv = ['a.py']"
    then = "import train, analyze, plot, bench, data_loader, tools; __import__('eval')\n"
    then += "assert tools.cores() == os.cpu_count()"
    assert not import_startup(first, then=then)


def test_a_measurement_that_linux_alone_allows_is_refused_elsewhere(refusal, monkeypatch):
    monkeypatch.delattr(os, "posix_fadvise")
    assert "run bench.py data on Linux" in refusal(bench.main, "data")


@pytest.mark.slow
def test_runs_sets_tensorflow_up_as_scripts_do():
    assert "KERAS_BACKEND=jax is overridden" in import_startup("import runs", KERAS_BACKEND="jax")
