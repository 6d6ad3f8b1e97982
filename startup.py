"""Imports TensorFlow and sets it up for the model. Scripts, and runs.py, import this first.

- It hides the messages that TensorFlow prints at every start.
- It overrides settings of Keras that the model cannot work with, and says so.
- TensorFlow takes GPU memory as it needs it, which leaves room for other processes.
- If TensorFlow does not use an NVIDIA GPU of this machine, it prints TensorFlow's reason.
"""

import contextlib
import gc
import glob
import os
import re
import subprocess
import sys
import tempfile

import compiled

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
NVIDIA = "/proc/driver/nvidia/gpus/*"  # One for each GPU that the driver knows.


@contextlib.contextmanager
def _only_problems():
    """Drops messages of information that TensorFlow's C++ code writes to standard error."""
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


def _say(line):
    print(line, file=sys.stderr)


def _override_environment():
    """Sets the variables that tell TensorFlow which Keras to use. Its import reads them."""
    for name, ours, needs in [("TF_USE_LEGACY_KERAS", "0", "Keras 3"),
                              ("KERAS_BACKEND", "tensorflow", "Keras on TensorFlow")]:
        theirs = os.environ.get(name, "")
        if theirs.lower() not in ("", "false", ours):
            _say(f"{name}={theirs} is overridden: the model needs {needs}.")
        os.environ[name] = ours


def _override_keras_settings():
    """Undoes the settings of a keras.json in the user's folder.

    Raises ImportError if another Keras than Keras 3 on TensorFlow was imported before.
    """
    keras = tf.keras
    if not getattr(keras, "__version__", "").startswith("3.") or keras.config.backend() != "tensorflow":
        raise ImportError("Keras was imported before, and not as Keras 3 on TensorFlow, which the model "
                          "needs. Start Python anew, and import startup first.")
    for name, ours in [("floatx", "float32"), ("image_data_format", "channels_last")]:
        theirs = getattr(keras.config, name)()
        if theirs != ours:
            _say(f"Keras's {name} {theirs}, from keras.json, is overridden: the model needs {ours}.")
            getattr(keras.config, f"set_{name}")(ours)
    keras.config.set_dtype_policy("float32")


@contextlib.contextmanager
def _without_matplotlib():
    """Keeps Keras from importing matplotlib, which takes half a second and is not needed to train.

    Then keras.visualization cannot draw in this process. Import matplotlib before, if it is to.
    """
    if "matplotlib" in sys.modules:
        yield
        return
    sys.modules["matplotlib"] = None  # Its import fails, and Keras does without.
    try:
        yield
    finally:
        del sys.modules["matplotlib"]


@contextlib.contextmanager
def _no_garbage_collection():
    """Switches garbage collection off: it takes a quarter of TensorFlow's import and finds nothing.

    Later collections skip the imported objects, which stay for good.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def _why_no_gpu():
    """The lines on GPUs and CUDA that TensorFlow prints if nothing silences it."""
    said = subprocess.run(
        [sys.executable, "-c", "import tensorflow as tf; tf.config.list_physical_devices('GPU')"],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0"}, stderr=subprocess.PIPE, text=True).stderr
    found = re.findall(r"^[IWEF]\d+ .*?\] (.*(?:cuda|gpu|cuinit|dlopen|driver).*)$", said, re.M | re.I)
    return list(dict.fromkeys(found))


_override_environment()
with (_only_problems(), _without_matplotlib(), _no_garbage_collection(),
      contextlib.nullcontext() if glob.glob(NVIDIA) else compiled.kept()):
    import tensorflow as tf

    _override_keras_settings()
    gpus = tf.config.list_physical_devices("GPU")  # TensorFlow prints messages as it looks for one.
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)

if not gpus and glob.glob(NVIDIA) and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"):
    print("Warning: an NVIDIA GPU is here, but TensorFlow does not use it:", *_why_no_gpu(),
          "(.venv/bin/pip install -r requirements-gpu.txt installs what it needs)", sep="\n  ",
          file=sys.stderr)


def use_xla(config):
    """Whether XLA compiles: `jit: auto` only on a GPU, since XLA's convolutions are slow on a CPU."""
    return bool(gpus) if config.jit == "auto" else config.jit


def graph(function, config):
    """A tf.function, which XLA compiles if use_xla says so.

    AutoGraph would rewrite the Python code of all that a function calls. That takes seconds, and is not
    needed, because no `if` or `for` of ours depends on the value of a tensor.
    """
    return tf.function(function, jit_compile=use_xla(config), autograph=False)
