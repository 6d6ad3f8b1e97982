"""Claims a run directory for training: one process, one config, one set of data."""

import contextlib
import dataclasses
import functools
import glob
import json
import math
import os
import shutil

import original
import provenance
import runs
import tools
from config import Config, load_config
from tools import UserError, cannot_write, save_json


@contextlib.contextmanager
def claim_run_dir(config, fingerprint, total=math.inf):
    """Makes the run directory, writes its config.yml, data.json and code.json, and locks it in the
    context, so that no other process trains in it. Where the newest checkpoint is of step `total`, the
    run is finished, and its files stay as they are.

    fingerprint: of the training data.
    Raises UserError if the directory cannot be written, if another process trains in it, or if it holds
    a run of another model or other data.
    """
    run_dir = config.run_dir
    if "[" in run_dir:
        raise UserError(f"log_root: name a path without [, since TensorFlow reads no other: {run_dir}")
    with contextlib.ExitStack() as stack:
        try:
            os.makedirs(run_dir, exist_ok=True)
            stack.enter_context(tools.hold(
                os.path.join(run_dir, "lock"), "", functools.partial(_refuse, run_dir)))
            saved = runs.resumable(run_dir)
            trains = not saved or runs.step_of(saved[0]) < total
            if saved:
                _check_config(config, print if trains else lambda line: None)
                _check_data(config, fingerprint)
            if trains:
                _note_start(config, fingerprint, bool(saved))
        except OSError as error:
            raise cannot_write("log_root", run_dir, error) from None
        yield


def _note_start(config, fingerprint, goes_on):
    """Writes what a start leaves in the run directory, and removes what earlier ones have left."""
    run_dir = config.run_dir
    provenance.note_start(run_dir, goes_on)
    _remove_leftovers(run_dir)
    if not goes_on:  # A start that failed may have had other data.
        with contextlib.suppress(FileNotFoundError):
            os.remove(os.path.join(run_dir, runs.MEAN_FRAME))
    original.keep_config(run_dir)
    config.save(os.path.join(run_dir, "config.yml"))
    data_root = os.path.abspath(os.path.expanduser(config.data_root))
    save_json(os.path.join(run_dir, "data.json"), {"fingerprint": fingerprint, "data_root": data_root})


def _refuse(run_dir, holder):
    raise UserError(f"{run_dir} is being trained by {holder or 'another process'}; end that first, or "
                    f"choose another name or log_root")


def _check_config(config, say):
    """Raises UserError if a key differs that changes the model. Says which other keys differ."""
    path = os.path.join(config.run_dir, "config.yml")
    if not os.path.exists(path):
        return
    old = load_config(path)
    for field in dataclasses.fields(Config):
        before, now = getattr(old, field.name), getattr(config, field.name)
        if before != now and field.metadata["changes"] == "model":
            raise UserError(
                f"{config.run_dir} holds a run with {field.name}: {before}, not {now}; "
                f"set it back, or choose another name or log_root")
        if before != now and field.metadata["changes"] == "training":
            say(f"From here on {field.name} is {now}; it was {before}.")


def _check_data(config, fingerprint):
    """Raises UserError if the run in the run directory was trained on other data."""
    path = os.path.join(config.run_dir, "data.json")
    if not os.path.exists(path):  # The authors' runs have none.
        return
    try:
        with open(path) as file:
            old = json.load(file)
        same, where = old["fingerprint"] == fingerprint, old["data_root"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} cannot be read; if you delete it, the run goes on with the data of "
                        f"data_root") from None
    if not same:
        raise UserError(
            f"data_root: {config.data_root} holds other data than {config.run_dir} was trained on (that "
            f"was in {where}); for a new run choose a name or another log_root, and init_from: "
            f"{config.run_dir} to start from its weights")


def _remove_leftovers(run_dir):
    """Removes half-written files of processes that were killed. The caller holds the lock."""
    for pattern in ("*.part", "model*/*.part", "model*/*_temp*"):
        for path in glob.glob(os.path.join(glob.escape(run_dir), pattern)):
            if os.path.isfile(path):
                os.remove(path)
            elif not path.endswith(".part"):  # These folders belong to evaluations that may still run.
                shutil.rmtree(path)
