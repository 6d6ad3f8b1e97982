"""Keeps what XLA compiles for a CPU: the next process that needs it starts sooner.

TensorFlow can read and write such files. But a file that is cut, or a folder that is gone, ends the
program. So each process reads and writes in a folder of its own. This has links to the files that
former processes have left, and what is new in it is kept when the process ends.
"""

import atexit
import contextlib
import hashlib
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile

from tools import write_atomically

FLAG = "--tf_xla_persistent_cache_directory"
LEAST_FREE = 2**28  # bytes that the disks must have left
MOST = 500  # files, some 100 MB


@contextlib.contextmanager
def kept():
    """Has XLA keep what it compiles. TensorFlow is imported, and asked for its devices, in the context.

    The files are in the user's cache folder, for each version of TensorFlow and each kind of processor.
    Where TF_XLA_FLAGS names a folder already, TensorFlow uses that one.
    """
    flags = os.environ.get("TF_XLA_FLAGS")
    own = None if FLAG in (flags or "") else _own_folder()
    if own is None:
        yield
        return
    os.environ["TF_XLA_FLAGS"] = f"{flags or ''} {FLAG}={own}".strip()
    yield
    # TensorFlow has read its flags. A process that this one starts gets a folder of its own.
    del os.environ["TF_XLA_FLAGS"]
    if flags is not None:
        os.environ["TF_XLA_FLAGS"] = flags


def _own_folder():
    """Makes the folder of this process. Returns None, and says why, where that cannot be."""
    try:
        shared = os.path.join(_cache_folder(), _machine())
        os.makedirs(shared, exist_ok=True)
        own = tempfile.mkdtemp(prefix="clockwork_vae_xla_")
        atexit.register(_end, own, shared)
        for path in _whole(shared):
            os.symlink(path, os.path.join(own, os.path.basename(path).partition("_")[2]))
        for folder in (own, shared):
            if shutil.disk_usage(folder).free < LEAST_FREE:
                raise OSError(0, "its disk is almost full", folder)
    except OSError as error:
        _say(error)
        return None
    return own


def _say(error):
    print(f"XLA will compile everything anew at the next start: {error.filename}: {error.strerror}",
          file=sys.stderr)


def _cache_folder():
    user = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(user, "clockwork_vae")


def _machine():
    """A name for the version of TensorFlow and the kind of processor."""
    processor = [platform.machine(), platform.processor()]
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            processor += sorted({x for x in file if x.startswith(("flags", "Features", "model"))})
    text = "\n".join([importlib.metadata.version("tensorflow"), *processor])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _whole(shared):
    """The newest of the shared files, whose names tell their sizes. The others are removed."""
    entries = [entry for entry in os.scandir(shared) if not entry.name.endswith(".part")]
    entries.sort(key=lambda entry: entry.stat().st_mtime, reverse=True)
    whole = [entry.path for entry in entries[:MOST]
             if entry.name.partition("_")[0] == str(entry.stat().st_size)]
    for path in {entry.path for entry in entries} - set(whole):
        os.remove(path)
    return whole


def _end(own, shared):
    """Keeps the files that are new, and removes the own folder."""
    try:
        for entry in os.scandir(own):
            if entry.name.endswith(".pb") and not entry.is_symlink():
                path = os.path.join(shared, f"{entry.stat().st_size}_{entry.name}")
                with open(entry.path, "rb") as new, write_atomically(path, "wb") as file:
                    shutil.copyfileobj(new, file)
    except OSError as error:
        _say(error)
    finally:
        shutil.rmtree(own, ignore_errors=True)
