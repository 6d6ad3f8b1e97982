"""Records the code of a run: code.json in its run directory has an entry for each start."""

import hashlib
import json
import os
import pathlib
import platform
import subprocess
import time
from importlib import metadata

from tools import UserError, __version__, save_json

ROOT = os.path.dirname(os.path.abspath(__file__))
MODEL = ("cells.py", "cnns.py", "cwvae.py", "kernels.py", "conv_kernels.py", "distribution.py")
PACKAGES = ("tensorflow", "keras", "numpy")


def note_start(run_dir, goes_on):
    """Adds an entry to a run's code.json.

    goes_on: whether the run has taken steps before. Then a line names the files of the model that have
    changed since the start before.
    Raises UserError if code.json is not ours.
    """
    path = os.path.join(run_dir, "code.json")
    starts, now = _read(path), entry()
    if goes_on and starts:
        before = starts[-1]["model"]
        differ = [name for name in MODEL if now["model"][name] != before.get(name)]
        if differ:
            print(f"The run goes on with other code of the model: {', '.join(differ)} changed since "
                  f"its last start (code.json).")
    save_json(path, [*starts, now])


def entry():
    """The entry of this start, a dict for JSON.

    commit: null without git. differs: whether tracked files differ from the commit; null without git.
    model: the beginning of the SHA-256 of each file of the model.
    """
    commit = differs = None
    if _git("rev-parse", "--show-prefix") == "":  # It is empty if we are at the top of a repository.
        commit = _git("rev-parse", "HEAD")
        differs = commit and bool(_git("status", "--porcelain", "--untracked-files=no"))
    return {
        "time": time.strftime("%Y-%m-%d %H:%M:%S %z"), "commit": commit, "differs": differs,
        "versions": {"project": __version__, "python": platform.python_version(),
                     **{name: metadata.version(name) for name in PACKAGES}},
        "model": {
            name: hashlib.sha256(pathlib.Path(ROOT, name).read_bytes()).hexdigest()[:16]
            for name in MODEL}}


def _git(*command):
    """The output of a git command in the folder of this file; None if it fails."""
    try:
        process = subprocess.run(["git", "-C", ROOT, *command], text=True, capture_output=True)
    except OSError:  # git is not installed.
        return None
    return process.stdout.strip() if process.returncode == 0 else None


def _read(path):
    """The entries of a code.json; [] if there is no such file."""
    try:
        with open(path) as file:
            starts = json.load(file)
        if all(isinstance(start["model"], dict) for start in starts):
            return starts
    except FileNotFoundError:
        return []
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError(f"{path} cannot be read; move it away, and this start begins a new one")
