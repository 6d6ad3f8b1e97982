"""Which code a run was started with."""

import json
import shutil
import subprocess

import pytest

import provenance
import tools
from tools import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the model's files, which git does not know."""
    copy = tmp_path / "code"
    copy.mkdir()
    for name in provenance.MODEL:
        shutil.copy(f"{provenance.ROOT}/{name}", copy)
    monkeypatch.setattr(provenance, "ROOT", str(copy))
    return copy


def git(folder, *command):
    flags = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    return subprocess.run(["git", "-C", folder, *flags, *command], text=True, capture_output=True,
                          check=True).stdout.strip()


def commit(folder):
    git(folder, "add", ".")
    git(folder, "commit", "-m", "all")
    return git(folder, "rev-parse", "HEAD")


def test_the_commit_and_whether_files_differ_from_it(folder):
    entry = provenance.entry()
    assert (entry["commit"], entry["differs"]) == (None, None)
    git(folder, "init")
    assert provenance.entry()["commit"] is None  # nothing is committed
    made = commit(folder)
    (folder / "my.yml").touch()
    assert (provenance.entry()["commit"], provenance.entry()["differs"]) == (made, False)
    (folder / "cells.py").write_text("other")
    assert (provenance.entry()["commit"], provenance.entry()["differs"]) == (made, True)
    versions = provenance.entry()["versions"]
    assert versions["tensorflow"].count(".") == 2 and versions["project"] == tools.__version__


def test_a_repository_above_ours_is_not_ours(folder, tmp_path):
    git(tmp_path, "init")
    commit(tmp_path)
    assert provenance.entry()["commit"] is None


def test_without_git_the_model_has_its_digest(folder, monkeypatch):
    monkeypatch.setenv("PATH", "")
    entry = provenance.entry()
    assert entry["commit"] is None and set(entry["model"]) == set(provenance.MODEL)
    (folder / "kernels.py").write_text("other")
    changed = provenance.entry()["model"]
    assert [name for name in changed if changed[name] != entry["model"][name]] == ["kernels.py"]


def test_a_run_that_goes_on_with_another_model_says_so(folder, tmp_path, capsys):
    def start(goes_on):
        provenance.note_start(str(tmp_path), goes_on)
        return capsys.readouterr().out

    assert not start(False) and not start(True)
    (folder / "cells.py").write_text("other")
    assert not start(False)  # no step was taken
    (folder / "cnns.py").write_text("other")
    said = start(True)
    assert "other code of the model: cnns.py changed" in said and said.count("\n") == 1
    assert not start(True)
    starts = json.loads((tmp_path / "code.json").read_text())
    assert len(starts) == 5 and starts[0]["model"] != starts[2]["model"] != starts[3]["model"]
    (tmp_path / "code.json").write_text("[1]")
    with pytest.raises(UserError, match="code.json cannot be read"):
        start(True)
