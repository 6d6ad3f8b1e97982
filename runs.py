"""The run directory: its config, checkpoints and logs."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal

import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

import pictures
import release
from tools import Config, UserError, load_config, write_atomically


@contextlib.contextmanager
def directory_atomically(path):
    """Yields a directory to fill, which appears under `path` when all is written, or not at all.

    Raises UserError where path exists or cannot be written.
    """
    if os.path.exists(path):
        raise UserError(f"out: {path} exists already; name another directory")
    part = f"{path.rstrip('/')}.{os.getpid()}.part"
    try:
        os.makedirs(part)
    except OSError as error:
        raise UserError(f"out: cannot write to {path}: {error.strerror}") from None
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        shutil.rmtree(part)
        raise


def claim_run_dir(config):
    """Makes the run directory and writes its config.yml; checkpoints in it must be of the same model.

    Raises UserError where it cannot be written, or a key that changes the model differs.
    """
    path = os.path.join(config.run_dir, "config.yml")
    if os.path.exists(path) and os.path.isdir(os.path.join(config.run_dir, "model")):
        old = load_config(path)
        for field in dataclasses.fields(Config):
            before, now = getattr(old, field.name), getattr(config, field.name)
            if field.metadata["changes"] == "model" and before != now:
                raise UserError(
                    f"{config.run_dir} holds a run with {field.name}: {before}, not {now}; "
                    f"set it back, or choose another log_root")
    try:
        os.makedirs(config.run_dir, exist_ok=True)
        release.keep_config(config.run_dir)
        config.save(path)
    except OSError as error:
        raise UserError(f"log_root: cannot write to {config.run_dir}: {error.strerror}") from None


def find_checkpoint(model_dir):
    """Returns (run directory, checkpoint prefix) of model/, model_<step>/ or a run directory.

    Raises UserError where there is none.
    """
    if not os.path.isdir(model_dir):
        raise UserError(f"model-dir: {model_dir} is no directory; give a run directory, "
                        f"its model/ or a model_<step>/")
    model_dir = os.path.abspath(model_dir)
    has_config = os.path.exists(os.path.join(model_dir, "config.yml"))
    run_dir = model_dir if has_config else os.path.dirname(model_dir)
    if not os.path.exists(os.path.join(run_dir, "config.yml")):
        raise UserError(f"model-dir: no config.yml in {model_dir} or the directory above it; "
                        f"give a run directory, its model/ or a model_<step>/")
    directory = os.path.join(run_dir, "model") if has_config else model_dir
    prefix = release.find(directory) or tf.train.latest_checkpoint(directory)
    if prefix is None:
        raise UserError(f"model-dir: no checkpoint in {directory}")
    return run_dir, prefix


def restore(prefix, **objects):
    """Restores the objects from a checkpoint; `model` is one of them, and is restored whole.

    Raises UserError where the file is damaged or holds another architecture.
    """
    other = f"checkpoint {prefix} holds another architecture than its config.yml"
    try:
        if release.is_release(prefix):
            step = release.restore(prefix, objects["model"])
            if "step" in objects:
                objects["step"].assign(step)
            return
        saved = _count_saved(prefix, "model")
        expected = len(objects["model"].trainable_variables)
        if saved != expected:
            raise UserError(f"{other}: {saved} variables, not {expected}")
        status = tf.train.Checkpoint(**objects).restore(prefix)
        status.assert_existing_objects_matched().expect_partial()
    except (AssertionError, ValueError) as error:
        raise UserError(f"{other}: {str(error).strip().splitlines()[0]}") from None
    except (IndexError, RuntimeError, tf.errors.OpError) as error:  # as TensorFlow's reader has it
        raise UserError(f"checkpoint {prefix} is damaged: {str(error).splitlines()[0]}") from None


def _count_saved(prefix, name):
    """How many variables a checkpoint holds of the object that was saved under a name."""
    graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(
        tf.train.load_checkpoint(prefix).get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
    ahead = [child.node_id for child in graph.nodes[0].children if child.local_name == name]
    seen = set()
    while ahead:
        node = ahead.pop()
        if node not in seen:
            seen.add(node)
            ahead += [child.node_id for child in graph.nodes[node].children]
    return sum(len(graph.nodes[node].attributes) for node in seen)


class Checkpoints:
    """The checkpoints of a run: the newest in model/, those kept for good in model_<step>/."""

    def __init__(self, run_dir, **objects):
        self.directory = os.path.join(run_dir, "model")
        self._run_dir = run_dir
        self._step = tf.Variable(0, dtype=tf.int64)
        self._objects = {**objects, "step": self._step}
        self._checkpoint = tf.train.Checkpoint(**self._objects)
        self._newest = tf.train.CheckpointManager(self._checkpoint, self.directory, max_to_keep=2)

    def restore(self, init_from=None):
        """Goes back to the newest checkpoint, or that of another run. Returns its step, or 0."""
        prefix = release.find(self.directory) or self._newest.latest_checkpoint
        if init_from and not prefix:
            prefix = find_checkpoint(init_from)[1]
        if prefix:
            restore(prefix, **self._objects)
        return self.step

    @property
    def step(self):
        return int(self._step.numpy())

    def save(self, step):
        self._step.assign(step)
        self._newest.save(step)

    def save_named(self, step):
        self._step.assign(step)
        directory = os.path.join(self._run_dir, f"model_{step}")
        tf.train.CheckpointManager(self._checkpoint, directory, max_to_keep=1).save(step)


class Logger:
    """Writes scalars to metrics.jsonl and TensorBoard, GIFs to TensorBoard.

    step: the last step that a resumed run keeps; what an earlier one wrote after it is dropped.
    """

    def __init__(self, run_dir, step):
        self._path = os.path.join(run_dir, "metrics.jsonl")
        if os.path.exists(self._path):
            with open(self._path) as file:
                # The last line of a killed run may be cut short.
                lines = [line for line in file
                         if line.endswith("\n") and json.loads(line)["step"] <= step]
            with write_atomically(self._path) as file:
                file.writelines(lines)
        self._writers = {
            split: tf.summary.create_file_writer(os.path.join(run_dir, split))
            for split in ("train", "val")}

    def scalars(self, step, split, values):
        values = {name: float(value) for name, value in values.items()}
        with open(self._path, "a") as file:
            file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        with self._writers[split].as_default(step):
            for name, value in values.items():
                tf.summary.scalar(name, value)
        self._writers[split].flush()

    def gif(self, step, split, frames):
        with self._writers[split].as_default(step):
            pictures.gif_summary("open_loop_prediction", frames)
        self._writers[split].flush()


class Interrupts:
    """Between enter and exit, the first Ctrl-C or SIGTERM is noted; a second one acts as usual."""

    def __enter__(self):
        self.name = None
        self._old = {number: signal.signal(number, self._note)
                     for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def _note(self, number, _):
        self.name = signal.Signals(number).name
        self.__exit__()

    def __exit__(self, *_):
        for number, handler in self._old.items():
            signal.signal(number, handler)
