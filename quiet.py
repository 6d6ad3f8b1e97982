"""Imports TensorFlow without what it says of itself at every start. Scripts import this first."""

import contextlib
import os
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@contextlib.contextmanager
def _only_problems():
    """Drops information from standard error, which C++ writes to under Python's feet."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            for line in file.read().decode(errors="replace").splitlines(keepends=True):
                if not line.startswith(("I0000 ", "WARNING: All log messages before absl")):
                    sys.stderr.write(line)


with _only_problems():
    import tensorflow as tf

    tf.config.list_physical_devices()  # looks for a GPU, and says so
