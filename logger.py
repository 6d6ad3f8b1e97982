"""The logs of a run: metrics.jsonl, and TensorBoard's scalars and GIFs."""

import contextlib
import dataclasses
import json
import math
import os
import shutil
import sys
import time

import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import summary as custom_scalars
from tensorboard.plugins.hparams import api as hparams

import pictures
from tools import write_atomically, writing


class Logger:
    """Writes scalars to metrics.jsonl and TensorBoard, GIFs to TensorBoard.

    step: the step that the run goes on from. Lines of later steps are dropped.
    config: for TensorBoard's HParams.
    """

    def __init__(self, run_dir, step, config=None):
        self._run_dir, self._path = run_dir, os.path.join(run_dir, "metrics.jsonl")
        self._keep_until(step)
        self._writers = {split: tf.summary.create_file_writer(os.path.join(run_dir, split))
                         for split in ("train", "val")}
        shown = [custom_scalars.pb(LEVEL_CHARTS)]
        if config:
            shown.append(hparams.hparams_pb({
                key: value if isinstance(value, bool | int | float | str) else json.dumps(value)
                for key, value in dataclasses.asdict(config).items() if value is not None},
                trial_id=config.experiment))
        for summary in shown:
            self._write("train", summary, step=0)

    def _keep_until(self, step):
        """Drops the lines after a step. If the file has lines that are not ours, a copy of it stays."""
        if not os.path.exists(self._path):
            return
        with open(self._path, errors="replace") as file:
            *lines, cut = file.read().split("\n")  # The last line of a killed run may be cut short.
        steps = [_step_of_line(line) for line in lines]
        if None in steps:
            aside = f"{self._path}.{time.strftime('%Y_%m_%d_%H_%M_%S')}.damaged"
            shutil.copyfile(self._path, aside)
            print(f"{self._path} has a line that is not ours: line {steps.index(None) + 1}. The file is "
                  f"kept as {aside}; the run goes on with its other lines.", file=sys.stderr)
        with write_atomically(self._path) as file:
            file.writelines(f"{line}\n" for line, at in zip(lines, steps, strict=True)
                            if at is not None and at <= step)

    def scalars(self, step, split, values):
        values = {name: float(value) for name, value in values.items()}
        with writing(self._path), open(self._path, "a") as file:
            file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        with self._events(split, step):
            for name, value in values.items():
                tf.summary.scalar(tag(name), value)

    def gif(self, step, split, frames):
        self._write(split, pictures.gif_summary("open_loop_prediction", frames), step)

    def _write(self, split, summary, step):
        """Writes a Summary, of TensorFlow's class or of TensorBoard's."""
        with self._events(split, step):
            tf.summary.experimental.write_raw_pb(summary.SerializeToString())

    @contextlib.contextmanager
    def _events(self, split, step):
        """In the context, summaries of a step go into TensorBoard's file of a split."""
        with self._writers[split].as_default(step):
            yield
        with writing(os.path.join(self._run_dir, split)):
            self._writers[split].flush()

    def least_validation_loss(self, after):
        """The least total_loss of validation that was logged after a step, or infinity."""
        if not os.path.exists(self._path):
            return math.inf
        with open(self._path) as file:
            lines = map(json.loads, file)
            losses = [line["total_loss"] for line in lines if line["split"] == "val"
                      and line["step"] > after and math.isfinite(line.get("total_loss", math.inf))]
            return min(losses, default=math.inf)


def tag(name):
    """A scalar's name in TensorBoard, which sorts by the alphabet. The loss and its terms come first.

    total_loss becomes "loss", nll_term "loss/nll", avg_kl_prior_posterior__level_0
    "per_level/kl/level_0", and any other scalar such as learning_rate "training/learning_rate".
    """
    if name == "total_loss":
        return "loss"
    if name.endswith("_term"):
        return f"loss/{name.removesuffix('_term')}"
    quantity, *level = name.removeprefix("avg_").split("__")
    if not level:
        return f"training/{quantity}"
    return "/".join(["per_level", quantity.replace("kl_prior_posterior", "kl"), *level])


# A chart with a line per level, under Custom Scalars.
LEVEL_CHARTS = layout_pb2.Layout(category=[layout_pb2.Category(title="levels", chart=[
    layout_pb2.Chart(title=f"{name} (nats per frame)",
                     multiline=layout_pb2.MultilineChartContent(tag=[f"per_level/{name}/level_\\d+"]))
    for name in ("kl", "entropy_prior", "entropy_posterior")])])


def _step_of_line(line):
    """The step of a line of metrics.jsonl; None if the line is not ours."""
    try:
        values = json.loads(line)
        return values["step"] if isinstance(values["step"], int) and "split" in values else None
    except (ValueError, TypeError, KeyError):
        return None
