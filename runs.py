"""Finds, reads and writes the checkpoints of a run directory, and loads trained models."""

import startup  # noqa: F401

# isort: split
import collections
import glob
import os
import re
import shutil
import sys
import zipfile

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

import original
import published
from config import load_config
from cwvae import CWVAE
from flags import CHECKPOINTS
from tools import UserError, directory_atomically, write_atomically, writing
from video_model import VideoModel

MEAN_FRAME = "mean_frame.npz"
DAMAGE = (OSError, IndexError, RuntimeError, tf.errors.OpError)  # what TensorFlow raises on damage


class Damaged(UserError):
    """A checkpoint whose files cannot be read. error: what reading them has raised."""

    def __init__(self, prefix, error):
        super().__init__(f"checkpoint {prefix} is damaged: {str(error).splitlines()[0]}")


# ----------------------------------------------------------------------------------- checkpoints


def find_checkpoint(model_dir):
    """Returns (run directory, checkpoint prefix).

    model_dir: a run directory, its model/, model_best/ or model_<step>/, or a checkpoint such as
        model/ckpt-20.
    Raises UserError if there is none.
    """
    path = os.path.abspath(os.path.expanduser(model_dir))
    directory = os.path.dirname(path) if _is_there(path) else path
    if not os.path.isdir(directory):
        raise UserError(f"model-dir: {model_dir} is no directory; give {CHECKPOINTS}")
    run_dir = next((folder for folder in (directory, os.path.dirname(directory))
                    if os.path.exists(os.path.join(folder, "config.yml"))), None)
    if run_dir is None:
        raise UserError(f"model-dir: no config.yml in {directory} or the directory above it; "
                        f"give {CHECKPOINTS}")
    if directory == run_dir:
        directory = os.path.join(run_dir, "model")
    prefixes = [path] if _is_there(path) else _prefixes(directory)
    if not prefixes:
        raise UserError(f"model-dir: no checkpoint in {directory}")
    if "[" in directory:
        raise UserError(f"model-dir: rename the path, since TensorFlow reads none with a [: {directory}")
    return run_dir, prefixes[0]


def load(model_dir):
    """Loads a trained model for NumPy videos, a VideoModel. model_dir: see find_checkpoint.

    Raises UserError if there is no checkpoint, or if it is damaged or of another architecture.
    """
    run_dir, prefix = find_checkpoint(model_dir)
    config = load_config(os.path.join(run_dir, "config.yml"))
    model = CWVAE(config, action_size(config, prefix))
    restore_model(model_dir, model)
    return VideoModel(config, model)


def keep_mean_frame(run_dir, clips):
    """Writes the mean of the training frames into a run directory that has none yet.

    eval.py scores it as one of the trivial predictions. clips: a data_loader.Clips.
    """
    path = os.path.join(run_dir, MEAN_FRAME)
    if not os.path.exists(path):
        with write_atomically(path, "wb") as file:
            np.savez_compressed(file, mean_frame=clips.mean_frame())


def read_mean_frame(run_dir):
    """The mean of a run's training frames, float32 [S, S, C], or None if the run does not have it."""
    path = os.path.join(run_dir, MEAN_FRAME)
    if not os.path.exists(path):
        return None
    try:
        with np.load(path) as file:
            return file["mean_frame"]
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read ({error}); delete it, and the evaluation goes without "
                        f"the mean frame of the training data") from None


def publish(model_dir, out):
    """Writes a run's config and the weights of its checkpoint into a new folder `out`, to pass on.

    Everything that loads a run also loads this folder. The weights are float16, and the optimizer's
    state is left out, so it takes a sixth of the space. Training cannot resume from it, but init_from
    takes it. Raises UserError as load does, and if `out` exists or cannot be written.
    """
    run_dir, prefix = find_checkpoint(model_dir)
    loaded = load(prefix)  # Training may save another checkpoint meanwhile.
    with directory_atomically(out) as part:
        loaded.config.save(os.path.join(part, "config.yml"))
        published.save(os.path.join(part, "model"), step_of(prefix), loaded.model)
        mean_frame = os.path.join(run_dir, MEAN_FRAME)
        if os.path.exists(mean_frame):
            shutil.copy(mean_frame, part)


def action_size(config, prefix):
    """The width of the actions that a checkpoint's model takes; 0 without actions.

    With actions of width A, the kernel of level 0 that sees the context has A more rows.
    """
    if not config.actions:
        return 0
    model = CWVAE(config)
    level = model.cells[0].name
    if published.is_published(prefix):
        own = [(path, variable.shape) for path, variable in published.variables(model).items()]
        saved = [(path, array.shape) for path, array in published.read(prefix).items()]
    else:
        own = [(f"{level}/{variable.path}", variable.shape)
               for variable in model.cells[0].trainable_variables]
        saved = _saved_shapes(prefix).items()
    own, saved = _kernel_rows(own, level), _kernel_rows(saved, level)
    # If no layer has more rows, the checkpoint holds another architecture. `restore` says so.
    return max([0, *(saved[layer] - rows for layer, rows in own.items())])


def _kernel_rows(shapes, part):
    """The rows of the kernels of each layer of a part, a Counter. shapes: pairs (path, shape)."""
    rows = collections.Counter()
    for path, shape in shapes:
        if len(shape) == 2 and path.startswith(f"{part}/"):
            rows[os.path.dirname(path)] += shape[0]
    return rows


def restore_model(model_dir, model):
    """Restores a model from the checkpoint that find_checkpoint finds. Returns the prefix.

    If training has deleted the checkpoint meanwhile, this looks for another. Raises UserError as
    restore does.
    """
    while True:
        _, prefix = find_checkpoint(model_dir)
        try:
            restore(prefix, model=model)
            return prefix
        except Damaged as error:
            if not _is_there(prefix):
                continue
            before = [other for other in _prefixes(os.path.dirname(prefix))
                      if step_of(other) < step_of(prefix)]
            raise UserError(f"{error}" + (
                f"; the one before it: --model-dir={before[0]}" if before else "")) from None


def _prefixes(directory):
    """The prefixes of the checkpoints in a directory, the newest first.

    A directory without ours may hold a checkpoint of the release, or published weights.
    """
    names = os.listdir(directory) if os.path.isdir(directory) else []
    ours = [os.path.join(directory, name.removesuffix(".index")) for name in names
            if re.fullmatch(r"ckpt-\d+\.index", name)]
    other = original.find(directory) or published.find(directory)
    return sorted(ours, key=step_of, reverse=True) or ([other] if other else [])


def _is_there(prefix):
    """Whether a path is the prefix of a checkpoint, or a file of published weights."""
    return os.path.exists(f"{prefix}.index") or (
        published.is_published(prefix) and os.path.isfile(prefix))


def step_of(prefix):
    """The training step in the name of a checkpoint. That of the release has none, and counts as 0."""
    step = re.search(r"-(\d+)(\.npz)?$", prefix)
    return int(step[1]) if step else 0


def resumable(run_dir):
    """The prefixes that training may resume from: first those in model/, the newest before others."""
    others = glob.glob(os.path.join(glob.escape(run_dir), "model_*"))
    kept = [prefix for directory in others for prefix in _prefixes(directory)]
    return _prefixes(os.path.join(run_dir, "model")) + sorted(kept, key=step_of, reverse=True)


def restore(prefix, config_of="its config.yml", **objects):
    """Restores objects from a checkpoint. `model` is one of them, and all of it must be there.

    config_of: what the model is of, for messages.
    Raises Damaged if the files are damaged, UserError if they hold another architecture.
    """
    other = f"checkpoint {prefix} holds another architecture than {config_of}"
    try:
        if original.is_release(prefix):
            step = original.restore(prefix, objects["model"])
            if objects["model"].config.cell_reset_state:
                print(f"{prefix}: cell_reset_state zeroes the previous stochastic state as the level "
                      f"above ticks; the original release's alternates with every tick, so predictions "
                      f"differ.", file=sys.stderr)
            if "step" in objects:
                objects["step"].assign(step)
            return
        if published.is_published(prefix):
            if objects.keys() != {"model"}:
                raise UserError(f"{prefix} holds weights alone, so training cannot resume from it; a "
                                f"new run can start from them: init_from")
            published.assign(published.variables(objects["model"]), published.read(prefix))
            return
        saved, wanted = (collections.Counter(map(tuple, shapes)) for shapes in (
            _saved_shapes(prefix).values(), (x.shape for x in objects["model"].trainable_variables)))
        if saved.total() != wanted.total():
            raise UserError(f"{other}: {saved.total()} variables, not {wanted.total()}")
        if saved != wanted:  # TensorFlow would also print a warning for each variable.
            one, not_one = (list(min(shapes)) for shapes in (saved - wanted, wanted - saved))
            raise UserError(f"{other}: a variable of shape {one}, not {not_one}")
        status = tf.train.Checkpoint(**objects).read(prefix)
        status.assert_existing_objects_matched().expect_partial()
    except (AssertionError, ValueError) as error:
        raise UserError(f"{other}: {str(error).strip().splitlines()[0]}") from None
    except DAMAGE as error:
        raise Damaged(prefix, error) from None


def _saved_shapes(prefix):
    """The shapes of a checkpoint's variables of the model, by path, such as level_0/prior_input/kernel.

    An optimizer may have renamed the variables, so the paths are those of the objects.
    """
    try:
        reader = tf.train.load_checkpoint(prefix)
        shapes = reader.get_variable_to_shape_map()
        nodes = trackable_object_graph_pb2.TrackableObjectGraph.FromString(
            reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")).nodes
    except DAMAGE as error:
        raise Damaged(prefix, error) from None
    found, seen = {}, set()
    ahead = [("", child) for child in nodes[0].children if child.local_name == "model"]
    for path, reference in ahead:  # This goes on to what it adds to the list, so short paths come first.
        if reference.node_id not in seen:
            seen.add(reference.node_id)
            node = nodes[reference.node_id]
            for variable in node.attributes:
                found[path] = shapes[variable.checkpoint_key]
            ahead += [(os.path.join(path, child.local_name), child) for child in node.children]
    return found


class Checkpoints:
    """The checkpoints of a run: the two newest in model/, the one with the least validation loss in
    model_best/, and those that stay for good in model_<step>/.
    """

    def __init__(self, run_dir, **objects):
        self._run_dir = run_dir
        self._step = tf.Variable(0, dtype=tf.int64)
        self._objects = {**objects, "step": self._step}
        self._checkpoint = tf.train.Checkpoint(**self._objects)

    def restore(self, init_from=None, say=print):
        """Restores the newest checkpoint that is not damaged. Returns its step.

        A run without checkpoints starts at step 0, with the weights of init_from if that is given.
        Raises UserError if all checkpoints are damaged, or if they are gone from a run that had some.
        """
        damaged = None
        for prefix in resumable(self._run_dir):
            try:
                restore(prefix, **self._objects)
            except Damaged as error:
                say(f"{error}. Looking for one before it.")
                damaged = damaged or error
            else:
                unused = f"; init_from: {init_from} is not used" if init_from else ""
                say(f"Goes on from checkpoint {prefix}{unused}")
                return self.step
        if damaged:
            raise UserError(f"{damaged}; no other is whole. To start anew, choose another name or "
                            f"log_root")
        metrics = os.path.join(self._run_dir, "metrics.jsonl")
        if os.path.exists(metrics) and os.path.getsize(metrics):
            raise UserError(f"{metrics} belongs to a run, but there is no checkpoint. To start at step "
                            f"0, move that file away, or choose another name or log_root")
        if init_from:
            prefix = find_checkpoint(init_from)[1]
            restore(prefix, "the config of this run", model=self._objects["model"])
            say(f"Starts from the weights of {prefix}")
        return 0

    @property
    def step(self):
        return int(self._step.numpy())

    def save(self, step, folder="model"):
        """Writes a checkpoint into a folder of the run. Of its checkpoints up to this step, it keeps the
        newest two in model/, and the newest one in any other folder.

        It also removes checkpoints of later steps, because the run has gone back to before them.
        """
        directory = os.path.join(self._run_dir, folder)
        self._step.assign(step)
        prefix = os.path.join(directory, f"ckpt-{step}")
        with writing(directory):
            os.makedirs(directory, exist_ok=True)
            try:
                self._checkpoint.write(prefix)
            except BaseException:
                shutil.rmtree(f"{prefix}_temp", ignore_errors=True)
                raise
            with write_atomically(os.path.join(directory, "checkpoint")) as file:
                # TensorFlow's own tools read this file. Our code does not.
                file.write(f'model_checkpoint_path: "ckpt-{step}"\n')
        saved = _prefixes(directory)
        kept = [prefix for prefix in saved if step_of(prefix) <= step][:2 if folder == "model" else 1]
        for prefix in set(saved) - set(kept):
            # The index goes first, since a checkpoint with an index counts as whole.
            for path in [f"{prefix}.index", *glob.glob(f"{glob.escape(prefix)}.data-*")]:
                os.remove(path)
