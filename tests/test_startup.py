"""What the scripts' first import says, and what not."""

import pathlib
import subprocess
import sys

import pytest

import startup

ROOT = pathlib.Path(__file__).resolve().parents[1]


def import_startup(first, code=0):
    """Imports startup in a new process, after some statements. Returns its standard error."""
    process = subprocess.run([sys.executable, "-c", f"{first}\nimport startup"], cwd=ROOT, text=True,
                             capture_output=True)
    assert process.returncode == code and not process.stdout
    return process.stderr


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
