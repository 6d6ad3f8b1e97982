"""The logs of a run: metrics.jsonl, and TensorBoard's scalars and GIFs."""

import dataclasses
import json
import math
import os
import shutil
import socket
import sys
import time

import tensorflow as tf
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.custom_scalar import summary as custom_scalars
from tensorboard.plugins.custom_scalar.layout_pb2 import (
    Category,
    Chart,
    Layout,
    MultilineChartContent,
)
from tensorboard.plugins.hparams import api as hparams
from tensorboard.plugins.scalar.summary_v2 import scalar_pb

import pictures
from tools import write_atomically, writing


class Logger:
    """Writes scalars to metrics.jsonl and TensorBoard, GIFs to TensorBoard.

    step: the last step that a resumed run keeps; what an earlier one wrote after it is dropped.
    config: shown in TensorBoard's HParams.
    """

    def __init__(self, run_dir, step, config=None):
        self._path = os.path.join(run_dir, "metrics.jsonl")
        self._keep_until(step)
        self._events = {}
        for split in ("train", "val"):
            directory = os.path.join(run_dir, split)
            os.makedirs(directory, exist_ok=True)
            name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
            path = os.path.join(directory, name)
            self._events[split] = path, tf.io.TFRecordWriter(path)
            self._event(split, file_version="brain.Event:2")
        shown = [custom_scalars.pb(LEVEL_CHARTS)]
        if config:
            shown.append(hparams.hparams_pb({
                key: value if isinstance(value, bool | int | float | str) else json.dumps(value)
                for key, value in dataclasses.asdict(config).items()}))
        for summary in shown:  # TensorFlow's and TensorBoard's classes of the same message
            self._event("train", summary=Summary.FromString(summary.SerializeToString()))

    def _keep_until(self, step):
        """Drops the lines after a step, and sets a file with others than ours aside."""
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
        summary = Summary()
        for name, value in values.items():
            summary.MergeFrom(scalar_pb(tag(name), value))
        self._event(split, step=step, summary=summary)

    def gif(self, step, split, frames):
        self._event(split, step=step, summary=pictures.gif_summary("open_loop_prediction", frames))

    def least_validation_loss(self, after):
        """The least total_loss of validation that was logged after a step; infinity where none was."""
        if not os.path.exists(self._path):
            return math.inf
        with open(self._path) as file:
            lines = map(json.loads, file)
            return min((line.get("total_loss", math.inf) for line in lines
                        if line["split"] == "val" and line["step"] > after), default=math.inf)

    def _event(self, split, **contents):
        path, writer = self._events[split]
        with writing(path):  # TensorFlow's own summary writers hide a full disk.
            writer.write(Event(wall_time=time.time(), **contents).SerializeToString())
            writer.flush()


def tag(name):
    """A scalar's name in TensorBoard, such as kl/level_0 for avg_kl_prior_posterior__level_0."""
    quantity, *level = name.removeprefix("avg_").split("__")
    return "/".join([quantity.replace("kl_prior_posterior", "kl"), *level])


# A chart with a line per level, under Custom Scalars.
LEVEL_CHARTS = Layout(category=[Category(title="levels", chart=[
    Chart(title=f"{name} (nats per frame)", multiline=MultilineChartContent(tag=[f"{name}/level_\\d+"]))
    for name in ("kl", "entropy_prior", "entropy_posterior")])])


def _step_of_line(line):
    """The step of a line of metrics.jsonl; None where it is none of ours."""
    try:
        values = json.loads(line)
        return values["step"] if isinstance(values["step"], int) and "split" in values else None
    except (ValueError, TypeError, KeyError):
        return None
