"""What all scripts share: how errors end them, and how files are written. TensorFlow is not imported."""

import contextlib
import errno
import json
import os
import signal
import sys

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Of the machine, not of the program: these are no reason for a traceback.
OF_THE_MACHINE = (*DISK_FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENAMETOOLONG,
                  errno.ELOOP, errno.ENOTDIR, errno.EISDIR, errno.EMFILE, errno.ENFILE, errno.ESTALE)


class UserError(Exception):
    """Bad input. Scripts print its one line and exit with code 2."""


class Stopped(BaseException):
    """A signal that asks the process to end."""

    def __init__(self, number):
        super().__init__(number)
        self.number = number


def run_script(main):
    """Runs a script's main function. What the program is not to blame for becomes one line on stderr.

    Exit codes: 2 for bad input; 1 for a full disk, no memory, a closed pipe and the like. After a
    signal the process ends by that signal, so that a shell's loop over runs ends too.
    """
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
        if error.errno == errno.EPIPE:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            _exit(1, "what read the output has closed it")
        if error.errno not in OF_THE_MACHINE:
            raise
        full = "the disk is full: cannot write " if error.errno in DISK_FULL else ""
        _exit(1, f"{full}{error.filename or 'a file'} ({os.strerror(error.errno)})")
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


OUT_OF_MEMORY = ("out of memory; lower batch_size (--batch-size) or seq_len (--seq-len); for training, "
                 "remat: true saves memory too")


def _stop(number, _):
    raise Stopped(number)


def _tensorflow_error():
    """The class of TensorFlow's errors, in a tuple that is empty before TensorFlow is imported."""
    tensorflow = sys.modules.get("tensorflow")
    return (tensorflow.errors.OpError,) if tensorflow else ()


def _script():
    return os.path.basename(sys.argv[0])


def _exit(code, problem):
    with contextlib.suppress(OSError):
        print(f"{_script()}: error: {' '.join(str(problem).splitlines())}", file=sys.stderr)
    sys.exit(code)


# ----------------------------------------------------------------------------------------- files


@contextlib.contextmanager
def writing(path):
    """In the context, an error by the operating system names the path, and TensorFlow's are OSErrors."""
    try:
        yield
    except (OSError, *_tensorflow_error()) as error:
        number = machine_errno(error)
        if number is None or getattr(error, "filename", None):
            raise
        raise OSError(number, os.strerror(number), str(path)) from None


def machine_errno(error):
    """The number of the operating system's error behind another one, or None: see OF_THE_MACHINE."""
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
    """What to raise for an OSError as a path is written: a full disk is no fault of a key's value."""
    if error.errno in DISK_FULL:
        return OSError(error.errno, os.strerror(error.errno), error.filename or str(path))
    return UserError(f"{key}: cannot write to {path}: {error.strerror}")


@contextlib.contextmanager
def write_atomically(path, mode="w"):
    """Opens a file that appears under its name whole, or not at all."""
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
    """Writes strictly valid JSON, atomically: numbers that are not finite are an error."""
    with write_atomically(path) as file:
        json.dump(value, file, indent=1, allow_nan=False)
