"""Published weights: the weights of a CWVAE alone, in half precision, in one file of NumPy arrays.

float16 keeps 11 significant bits of a weight. The file is a sixth as large as a checkpoint with the
optimizer's state, and numpy.load reads it without TensorFlow. A bad file raises a ValueError of one
line, which runs.restore shows to the user.
"""

import os
import re
import zipfile
import zlib

import numpy as np

NAME = re.compile(r"weights-\d+\.npz")


def find(directory):
    """The path of the published weights in a directory, or None."""
    names = sorted(filter(NAME.fullmatch, os.listdir(directory))) if os.path.isdir(directory) else []
    return os.path.join(directory, names[-1]) if names else None


def is_published(path):
    """Whether a path names a file of published weights."""
    return NAME.fullmatch(os.path.basename(path)) is not None


def save(directory, step, model):
    """Makes a directory and writes the weights of a CWVAE as float16 into it.

    Raises ValueError if a weight is beyond float16's range.
    """
    arrays = {}
    for name, variable in variables(model).items():
        with np.errstate(over="ignore"):
            arrays[name] = variable.numpy().astype(np.float16)
        if not np.isfinite(arrays[name]).all():
            raise ValueError(f"{name} has weights beyond {np.finfo(np.float16).max}, float16's greatest")
    os.makedirs(directory, exist_ok=True)
    np.savez_compressed(os.path.join(directory, f"weights-{step}.npz"), **arrays)


def assign(variables, arrays):
    """Assigns arrays to the variables of the same names, or none if they do not all fit.

    Raises ValueError if a variable is missing, has another shape, or has no place in the model.
    """
    for name in [*arrays, *variables]:
        if name not in variables:
            raise ValueError(f"the model has no place for {name}")
        if name not in arrays:
            raise ValueError(f"{name} is missing")
    for name, variable in variables.items():
        if arrays[name].shape != tuple(variable.shape):
            raise ValueError(
                f"{name} has the shape {list(arrays[name].shape)}, not {list(variable.shape)}")
    for name, variable in variables.items():
        variable.assign(arrays[name].astype(np.float32))


def read(path):
    """The arrays of a file of published weights, by their names. Raises OSError if it is damaged."""
    try:
        with np.load(path) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise OSError(f"{path} is damaged: {error}") from None


def variables(model):
    """The trainable variables by part, number and name, such as level_0/000/prior_input/kernel.

    The numbers tell variables apart that have the same name in a part.
    """
    return {f"{part}/{number:03d}/{variable.path}": variable
            for part, layer in model.parts.items()
            for number, variable in enumerate(layer.trainable_variables)}
