"""Reads runs of the original release, which the authors' TensorFlow 1 code wrote.

Such a run has the same files as ours. Some keys of its config.yml have other names. A TensorFlow 1
Saver wrote its checkpoints: they name a variable by the number of its layer, not by the object that
owns it. A checkpoint that does not fit raises a ValueError of one line, which runs.restore shows.
"""

import os
import shutil

import tensorflow as tf

import published

NAME = "model.ckpt"
WEIGHTS = ("kernel", "recurrent_kernel", "bias")


# ------------------------------------------------------------------------------------ run directory


def find(directory):
    """The prefix of the release's checkpoint in a directory, or None."""
    prefix = os.path.join(directory, NAME)
    return prefix if os.path.exists(f"{prefix}.index") else None


def is_release(prefix):
    """Whether a checkpoint has the name of the release's checkpoints, which ours never have."""
    return os.path.basename(prefix) == NAME


def keep_config(run_dir):
    """Copies the config.yml of a run of the release, because ours is about to replace it."""
    path = os.path.join(run_dir, "config.yml")
    copy = os.path.join(run_dir, "config.release.yml")
    if find(os.path.join(run_dir, "model")) and os.path.exists(path) and not os.path.exists(copy):
        shutil.copyfile(path, copy)


# --------------------------------------------------------------------------------------- checkpoint


def restore(prefix, model):
    """Assigns every variable of a CWVAE from a checkpoint of the release. Returns its step.

    It does not read the state of the optimizer. It assigns nothing if any variable does not fit.

    Raises:
      ValueError: a variable is missing, has another shape, or is one that the model has no place for.
      tf.errors.OpError, IndexError: the files are damaged.
    """
    reader = tf.train.load_checkpoint(prefix)
    names = _names(reader.get_variable_to_shape_map())
    arrays = {name: reader.get_tensor(name) for name in names.values()}
    step = arrays.pop(names.get("step"), None)
    if step is None or step.shape:
        raise ValueError("step is missing, or is no number")
    variables = {f"{layer}/{variable.name}": variable
                 for layer, ours in layers(model).items() for variable in ours.trainable_variables}
    # Messages then use the names that the file has.
    published.assign({names.get(key, key): variable for key, variable in variables.items()}, arrays)
    return int(step)


def layers(model):
    """The layers of a CWVAE by their names in the release, which number each kind of layer.

    The release made dense layers from the top level down, and GRU cells from the bottom up.
    """
    dense = [layer for stack in model.encoder.denses for layer in stack]
    for cell in reversed(model.cells):
        dense += [
            cell.prior_input, cell.prior_hidden, cell.prior_mean, cell.prior_stddev,
            cell.posterior_input, cell.posterior_hidden, cell.posterior_mean, cell.posterior_stddev]
    dense.append(model.decoder.dense)
    kinds = {
        "conv2d": model.encoder.convs, "dense": dense, "gru_cell": [cell.gru for cell in model.cells],
        "conv2d_transpose": model.decoder.convs}
    return {
        f"{kind}_{number}" if number else kind: layer
        for kind, numbered in kinds.items() for number, layer in enumerate(numbered)}


def _names(shapes):
    """The names in a checkpoint by their last parts, such as "dense_3/kernel" or "step".

    shapes: the shape of each variable, by its name. Those of the optimizer are left out.
    """
    names = {}
    for name in sorted(shapes):
        *scopes, last = name.split("/")
        if last == "step":
            key = last
        elif last in WEIGHTS:
            key = "/".join([*scopes[-1:], last])
        elif shapes[name] == [] or any(scope in WEIGHTS for scope in scopes):
            # This belongs to the optimizer. It is a number such as beta1_power, or the slot of a
            # variable, such as dense_3/kernel/Adam. Any other name could be a layer that we lack.
            continue
        else:
            key = name
        if key in names:
            raise ValueError(f"{key} is there twice: {names[key]} and {name}")
        names[key] = name
    return names
