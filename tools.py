"""Tools of all scripts: they end scripts on errors and write files. They do not import TensorFlow."""

import contextlib
import errno
import glob
import itertools
import json
import os
import shutil
import signal
import socket
import sys

import filelock

__version__ = "1.0"  # of this project

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Errors that mean: this folder cannot be made or written to.
CANNOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG,
                errno.ENOENT)
# These errors come from the machine and not from the code, so one line helps more than a traceback.
OF_THE_MACHINE = (*DISK_FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENAMETOOLONG,
                  errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EMFILE, errno.ENFILE, errno.ESTALE)


class UserError(Exception):
    """Bad input. A script prints the one line of its message and exits with code 2."""


class Stopped(BaseException):
    """A signal that asks the process to end."""

    def __init__(self, number):
        super().__init__(number)
        self.number = number


def run_script(main):
    """Runs a script's main function. An error of the user or the machine becomes one line on stderr.

    Exit codes: 2 for bad input; 1 for a full disk, no memory, a closed pipe and the like. After a
    signal the process ends by that signal, so that a shell's loop over runs ends too.
    """
    with contextlib.suppress(AttributeError):  # Tests replace sys.stdout by streams without the method.
        # A file name may hold bytes that are no text. They are printed as escapes.
        sys.stdout.reconfigure(errors="backslashreplace")
    handlers = {number: signal.signal(number, _stop) for number in (signal.SIGTERM, signal.SIGHUP)
                if signal.getsignal(number) != signal.SIG_IGN}
    try:
        main()
        sys.stdout.flush()
    except UserError as error:
        _exit(2, error)
    except MemoryError:
        _exit(1, OUT_OF_MEMORY)
    except OSError as error:
        _exit_for(error)
    except _tensorflow_error() as error:
        # XLA calls a lack of memory an internal error.
        if type(error).__name__ != "ResourceExhaustedError" and not (
                type(error).__name__ == "InternalError" and "out of memory" in str(error).lower()):
            raise
        _exit(1, OUT_OF_MEMORY)
    except (KeyboardInterrupt, Stopped) as stop:
        number = getattr(stop, "number", signal.SIGINT)
        with contextlib.suppress(OSError):
            print(f"{_script()}: ended by {signal.Signals(number).name}", file=sys.stderr, flush=True)
            sys.stdout.flush()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _exit_for(error):
    """Ends the script with one line on an error of the operating system; raises an error of our own."""
    if error.errno == errno.EPIPE:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _exit(1, "the program that reads the output has closed it")
    if error.errno not in OF_THE_MACHINE:
        raise error
    full = "the disk is full: cannot write " if error.errno in DISK_FULL else ""
    _exit(1, f"{full}{error.filename or 'a file'} ({os.strerror(error.errno)})")


OUT_OF_MEMORY = ("out of memory; lower batch_size (--batch-size) or seq_len (--seq-len); for training, "
                 "remat: true saves memory too")


def _stop(number, _):
    raise Stopped(number)


class Interrupts:
    """Notes the first Ctrl-C, SIGTERM or SIGHUP between enter and exit. A second one acts as usual.

    number: of the signal; 0 before any came. A signal that the process ignores (nohup) stays ignored.
    """

    def __enter__(self):
        self.number = 0
        self._old = {number: signal.signal(number, self._note)
                     for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
                     if signal.getsignal(number) != signal.SIG_IGN}
        return self

    def _note(self, number, _):
        self.number = number
        self.__exit__()

    def __exit__(self, *_):
        for number, handler in self._old.items():
            signal.signal(number, handler)


def _tensorflow_error():
    """The class of TensorFlow's errors, in a tuple that is empty before TensorFlow is imported."""
    tensorflow = sys.modules.get("tensorflow")
    return (tensorflow.errors.OpError,) if tensorflow else ()


def cores():
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):  # on Linux alone
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _script():
    return os.path.basename(sys.argv[0])


def _exit(code, problem):
    with contextlib.suppress(OSError):
        print(f"{_script()}: error: {' '.join(str(problem).splitlines())}", file=sys.stderr)
    sys.exit(code)


# ----------------------------------------------------------------------------------------- files


@contextlib.contextmanager
def writing(path):
    """Makes the operating system's errors in the context name the path, and TensorFlow's OSErrors."""
    try:
        yield
    except (OSError, *_tensorflow_error()) as error:
        number = machine_errno(error)
        if number is None or getattr(error, "filename", None):
            raise
        raise OSError(number, os.strerror(number), str(path)) from None


def machine_errno(error):
    """The number in OF_THE_MACHINE of the error behind another error, or None."""
    while error:
        if isinstance(error, OSError) and error.errno in OF_THE_MACHINE:
            return error.errno
        if isinstance(error, _tensorflow_error()):
            for number in OF_THE_MACHINE:
                if os.strerror(number) in str(error):
                    return number
        error = error.__cause__
    return None


def cannot_write(key, path, error):
    """The exception to raise for an OSError that writing a path has raised.

    It is a UserError that names the key, or an OSError if the disk is full.
    """
    if error.errno in DISK_FULL:
        return OSError(error.errno, os.strerror(error.errno), error.filename or str(path))
    return UserError(f"{key}: cannot write to {path}: {error.strerror}")


@contextlib.contextmanager
def write_atomically(path, mode="w"):
    """Opens a file for writing. It appears under its name when it is whole, or not at all."""
    part = f"{path}.{os.getpid()}.part"
    try:
        with writing(path):
            with open(part, mode) as file:
                yield file
            os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(part)
        raise


def save_json(path, value):
    """Writes strictly valid JSON, atomically. Numbers that are not finite are an error."""
    with write_atomically(path) as file:
        json.dump(value, file, indent=1, allow_nan=False)


# ------------------------------------------------------------------------------- directories, locks


@contextlib.contextmanager
def directory_atomically(path, numbered=False):
    """Yields `<path>.part`, a directory to fill. At the end it becomes `path`; an error removes it.

    No other process fills the same directory, and nothing that exists is overwritten.
    numbered: whether to write to `<path>_2`, `<path>_3`, ... if the path exists.
    Raises UserError if the path exists or cannot be written.
    """
    path = os.path.abspath(os.path.expanduser(path))
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        _remove_abandoned_parts(os.path.dirname(path))
        final = _free_name(path) if numbered else path
        while os.path.exists(final) or not (held := _make_part(final)):
            if not numbered:
                reason = "exists already" if os.path.exists(final) else "is being written by another"
                raise UserError(f"out: {path} {reason}; name another directory")
            final = _free_name(path)
    except OSError as error:
        raise cannot_write("out", path, error) from None
    part = f"{final}.part"
    with held:
        try:
            with writing(final):
                yield part
                with contextlib.suppress(FileNotFoundError):
                    os.remove(os.path.join(part, ".lock"))
                if os.path.exists(final):
                    final = _free_name(path)
                    print(f"{path} appeared meanwhile, so these results are in {final}", file=sys.stderr)
                os.rename(part, final)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise


def _free_name(path):
    """The first of path, path_2, path_3, ... that does not exist."""
    names = itertools.chain([path], (f"{path}_{number}" for number in itertools.count(2)))
    return next(name for name in names
                if not os.path.exists(name) and not os.path.exists(f"{name}.part"))


def _make_part(final):
    """Makes `<final>.part`. Returns its lock, which is held; None if the directory exists."""
    part = f"{final}.part"
    try:
        os.mkdir(part)
    except FileExistsError:
        return None
    path = os.path.join(part, ".lock")
    try:
        held = _lock(f"{path}.new")
        os.rename(f"{path}.new", path)  # The file is locked from the moment that others can see it.
    except OSError as error:
        if error.errno in OF_THE_MACHINE:
            raise
        held = contextlib.nullcontext()  # Without this file nobody takes the part for abandoned.
        with contextlib.suppress(FileNotFoundError):
            os.remove(f"{path}.new")
    return held


def _remove_abandoned_parts(folder):
    """Removes the parts of killed processes in a folder. Nobody holds their locks."""
    for path in glob.glob(os.path.join(glob.escape(folder), "*.part", ".lock")):
        with contextlib.suppress(OSError), _lock(path):
            shutil.rmtree(os.path.dirname(path), ignore_errors=True)


def _lock(path):
    """Locks a file. The lock ends with the context that this returns, or with the process.

    Raises an OSError if another process holds the lock, or if the file system has no locks.
    """
    return filelock.FileLock(path, fallback_to_soft=False).acquire(timeout=0)


@contextlib.contextmanager
def hold(path, doing, taken):
    """Holds the lock of a file in the context, and names this process in a file beside it.

    The system frees the lock of a process that dies. A file system without locks gives one warning.

    doing: what stands before the number of this process in that file.
    taken: called if another process holds the lock, with the text of that file, "" if it has none yet.
        This raises an exception, or the lock is waited for.
    """
    held, beside = filelock.FileLock(path, fallback_to_soft=False), f"{path}.holder"
    try:
        try:
            held.acquire(timeout=0)
        except filelock.Timeout:
            holder = ""
            with contextlib.suppress(OSError), open(beside) as file:
                holder = file.read().strip()
            taken(holder)
            held.acquire()
    except (OSError, NotImplementedError) as error:
        if getattr(error, "errno", None) in CANNOT_WRITE or machine_errno(error) in DISK_FULL:
            raise
        print(f"Warning: {path} cannot be locked ({error}): make sure that only one process uses it.",
              file=sys.stderr)
        yield
        return
    try:
        with open(beside, "w") as file:
            file.write(f"{doing}process {os.getpid()} on {socket.gethostname()}\n")
        yield
    finally:
        with contextlib.suppress(OSError):
            os.remove(beside)
        held.release()
