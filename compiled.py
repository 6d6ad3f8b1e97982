"""Keeps what XLA compiles for a CPU: the next process that needs it starts sooner.

TensorFlow reads and writes such files, all in one folder of the user. It moves each file into place
when the file is whole, so processes share the folder. But a file that a power failure has cut, or
one that cannot be written, ends the program. So the start looks for both.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile

from tools import writing

FLAG = "--tf_xla_persistent_cache_directory"
LEAST_FREE = 2**28  # bytes that the disk must have left
MOST = 500  # files, some 100 MB
_locks = []  # They stay open until the process ends.


@contextlib.contextmanager
def kept():
    """Has XLA keep what it compiles. TensorFlow is imported, and asked for its devices, in the context.

    The files are in the user's cache folder, for each version of TensorFlow and each kind of processor.
    Where TF_XLA_FLAGS names a folder already, TensorFlow uses that one.
    """
    flags = os.environ.get("TF_XLA_FLAGS")
    folder = None if FLAG in (flags or "") else _folder()
    if folder is None:
        yield
        return
    os.environ["TF_XLA_FLAGS"] = f"{flags or ''} {FLAG}={folder}".strip()
    yield
    # TensorFlow has read its flags. A process that this one starts looks at the folder itself.
    del os.environ["TF_XLA_FLAGS"]
    if flags is not None:
        os.environ["TF_XLA_FLAGS"] = flags


def _folder():
    """Makes the folder. Returns None, and says why, where TensorFlow could not write to it."""
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = os.path.join(caches, "clockwork_vae", "xla", _machine())
    try:
        os.makedirs(folder, exist_ok=True)
        with writing(folder), tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            file.write(bytes(2**20))  # A user's quota shows only in writing.
        if shutil.disk_usage(folder).free < LEAST_FREE:
            raise OSError(0, "its disk is almost full", folder)
        tidy(folder)
    except OSError as error:
        print(f"XLA will compile everything anew at the next start: {error.filename}: {error.strerror}",
              file=sys.stderr)
        return None
    return folder


def _machine():
    """A name for the version of TensorFlow and the kind of processor."""
    processor = [platform.machine(), platform.processor()]
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            processor += sorted({x for x in file if x.startswith(("flags", "Features", "model"))})
    text = "\n".join([importlib.metadata.version("tensorflow"), *processor])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def tidy(folder):
    """Removes files that are not whole. If no other process uses the folder, also those beyond MOST.

    Until this process ends, no other one removes a whole file: TensorFlow may be about to read it.
    """
    lock = open(os.path.join(folder, "lock"), "ab")  # noqa: SIM115
    _locks.append(lock)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alone = True
    except BlockingIOError:
        fcntl.flock(lock, fcntl.LOCK_SH)
        alone = False
    whole = []
    for entry in os.scandir(folder):
        with contextlib.suppress(FileNotFoundError):  # Another process has removed the same file.
            if entry.name.endswith(".pb") and _is_whole(entry.path):
                whole.append((entry.stat().st_mtime, entry.path))
            elif entry.name.endswith(".pb") or alone and entry.name.endswith(".tmp"):
                os.remove(entry.path)
    for _, path in sorted(whole)[:-MOST] if alone else ():
        os.remove(path)
    fcntl.flock(lock, fcntl.LOCK_SH)


def _is_whole(path):
    """Whether a file ends where its last field does, as Protocol Buffers tell the lengths of fields."""
    end, size = 0, os.path.getsize(path)
    with open(path, "rb") as file:
        while end < size:
            file.seek(end)
            kind, *head = file.read(6)
            if kind & 7 != 2:  # the kind of a field that begins with its length
                return False
            length = 0
            for place, byte in enumerate(head):  # seven bits of the length in each
                length |= (byte & 127) << 7 * place
                if byte < 128:
                    break
            else:
                return False
            end += 2 + place + length
    return end == size > 0
