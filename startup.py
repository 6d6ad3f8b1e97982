"""Imports TensorFlow without what it says of itself at every start. Scripts import this first.

GPU memory is taken as it is needed, so that others fit beside us; and where an NVIDIA GPU cannot be
used, TensorFlow's reason is said.
"""

import contextlib
import glob
import os
import re
import subprocess
import sys
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
NVIDIA = "/proc/driver/nvidia/gpus/*"  # One for each GPU that the driver knows.


@contextlib.contextmanager
def _only_problems():
    """Drops information from standard error, which C++ writes to under Python's feet."""
    try:
        file = tempfile.TemporaryFile()  # noqa: SIM115
    except OSError as error:
        sys.exit(f"{os.path.basename(sys.argv[0])}: error: no folder for temporary files "
                 f"({error.strerror}); set TMPDIR to one that can be written")
    sys.stderr.flush()
    kept = os.dup(2)
    with file:
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


def _why_no_gpu():
    """What a TensorFlow that is not silenced says of GPUs and CUDA, as lines."""
    said = subprocess.run(
        [sys.executable, "-c", "import tensorflow as tf; tf.config.list_physical_devices('GPU')"],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0"}, stderr=subprocess.PIPE, text=True).stderr
    found = re.findall(r"^[IWEF]\d+ .*?\] (.*(?:cuda|gpu|cuinit|dlopen|driver).*)$", said, re.M | re.I)
    return list(dict.fromkeys(found))


with _only_problems():
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")  # looks for a GPU, and says so
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)

if not gpus and glob.glob(NVIDIA) and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"):
    print("Warning: an NVIDIA GPU is here, but TensorFlow does not use it:", *_why_no_gpu(),
          "(.venv/bin/pip install -r requirements-gpu.txt installs what it needs)", sep="\n  ",
          file=sys.stderr)


def use_xla(config):
    """Whether to compile: where `jit` is auto, on a GPU. XLA's convolutions are slow on a CPU."""
    return bool(gpus) if config.jit == "auto" else config.jit
