"""Video of any kind and size, read as square frames: files, folders of images, arrays.

What a file is called decides whether it is looked at; what it holds decides how it is read. ffmpeg
takes what is encoded, Pillow the images of a folder, NumPy and h5py take arrays. All of them crop,
resize and blend alike, so that a video gives the same frames in whatever form it comes.
"""

import concurrent.futures
import contextlib
import fractions
import functools
import itertools
import math
import os
import re
import select
import shutil
import signal
import stat
import struct
import subprocess
import tempfile
import typing
import zipfile
import zlib

import h5py
import imageio_ffmpeg
import numpy as np
import scipy.sparse
from PIL import Image, ImageOps

from tools import DISK_FULL, cores

ENCODED = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ogv",
           ".3gp", ".gif", ".apng", ".webp")
ARRAYS = (".npy", ".npz", ".h5", ".hdf5")
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
ACTIONS = ".actions.npy"
ARRAY_MAGIC = (b"\x93NUMPY", b"PK\3\4", b"\x89HDF")  # What files of arrays begin with.
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, which ffmpeg takes grey from too.
STALL = 60  # Seconds without a frame after which a decoder is ended.
BLOCK = 2**20  # Pixels that are converted at a time: 13 MB of floats in colour.
# What ffmpeg says where a file ends early or a frame is lost, and exits with 0 nevertheless.
LOSSES = ("File ended prematurely", "LZW decode failed")
TRANSPARENT = re.compile("rgba|bgra|argb|abgr|yuva|gbrap|ya8|ya16|pal8")
CRASHES = (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL)
CORES = cores()
# What the readers raise on files that are not what they seem.
UNREADABLE = (OSError, ValueError, EOFError, KeyError, SyntaxError, RuntimeError, struct.error,
              zlib.error, zipfile.BadZipFile, Image.DecompressionBombError)


class Broken(Exception):
    """A file that holds no video that can be read. Says why."""


class Killed(Exception):
    """ffmpeg was ended from outside: by the user, or for want of memory. It is not the file's fault."""


class Form(typing.NamedTuple):
    """What every frame becomes: size x size pixels of 1 or 3 channels.

    fit: how it becomes a square: `crop` to the one in its middle, `pad` with black, or `stretch`.
    fps: frames a second, by the file's time stamps; None: every frame once. Arrays and images have no
        time stamps, and keep all their frames.
    """

    size: int = 64
    channels: int = 3
    fit: str = "crop"
    fps: float | None = None

    @property
    def shape(self):
        """Of a frame."""
        return (self.size, self.size, self.channels)


class Video(typing.NamedTuple):
    """A video that read found. part: its name within the file, empty where the file is one video.

    length: its frames now. height, width, fps: as they were; fps is None where it is unknown.
    actions: float32 [length, A], or None; `refused` says why where there are some that do not fit.
    """

    part: str
    length: int
    height: int
    width: int
    fps: float | None
    actions: np.ndarray | None
    refused: str | None


def read(path, form, scratch=None, threads=0):
    """Reads the videos of a file, or of a folder of images: (their frames, a list of Video).

    The frames of all, one after the other, are uint8 [frames, *form.shape], and mapped from a file in
    the folder `scratch` that is gone with them: a long video does not fill the memory. Each pixel is
    the mean of the area it covers; where it covers less than one, it is interpolated.
    threads: of ffmpeg; 0 leaves the number to it.
    Raises Broken, also where only a part can be decoded.
    """
    with tempfile.TemporaryFile(dir=scratch) as file:
        try:
            found = _read(path, form, file, scratch, threads)
        except UNREADABLE as error:
            if getattr(error, "errno", None) in DISK_FULL:
                raise
            missing = isinstance(error, FileNotFoundError)
            raise Broken("is a link to nothing" if missing and os.path.islink(path) else
                         getattr(error, "strerror", None) or str(error)) from None
        file.flush()
        frames = sum(video.length for video in found)
        if not frames:
            raise Broken("holds no frames")
        return np.memmap(file, np.uint8, "r", shape=(frames, *form.shape)), found


def _read(path, form, file, scratch, threads):
    """Appends the frames of the videos at path to a file; returns a list of Video."""
    beside = _beside(path)
    if os.path.isdir(path):
        return [_write(_Source("", map(_image, list_images(path)), beside), form, file)]
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise Broken("is no regular file")
    with open(path, "rb") as opened:
        magic = opened.read(16)
    if magic.startswith(ARRAY_MAGIC):
        with _arrays(path, magic, scratch) as arrays:
            several = magic.startswith(b"\x89HDF")
            return [_write(source, form, file) for source in _sources(arrays, several, beside)]
    return [_decode(path, magic, form, file, beside, threads)]


def estimate_frames(path, form):
    """About how many frames a file gives, by its header; 0 where who reads it will say why."""
    try:
        with open(path, "rb") as file:
            magic = file.read(16)
        if magic.startswith(ARRAY_MAGIC):
            with _arrays(path, magic, None) as arrays:
                return sum(math.prod(array.shape[: -3 if array.shape[-1] in (1, 3, 4) else -2])
                           for array in arrays.values() if len(array.shape) >= 3)
        header = [*_ffmpeg(), "-i", f"file:{path}"]
        said = _said(header)
        rate = form.fps or float((re.findall(r"Video: .* ([\d.]+) fps", said) or [0])[0])
        length = re.search(r"Duration: (\d+):(\d+):([\d.]+)", said)
        if rate and length:
            hours, minutes, seconds = map(float, length.groups())
            return round((3600 * hours + 60 * minutes + seconds) * rate)
        said = _said([*header, "-map", "0:V:0", "-c", "copy", "-f", "null", "-"])
        return int((re.findall(r"frame= *(\d+)", said) or [0])[-1])
    except (subprocess.TimeoutExpired, *UNREADABLE):
        return 0


def _said(command):
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=STALL,
                          stderr=subprocess.PIPE, text=True, errors="replace").stderr


def in_parallel(function, items):
    """Yields (item, function(item)) as they are done, by a thread for each core.

    What the function raises is raised here. Few items are begun before their turn to be yielded.
    """
    items, running = iter(items), {}
    with concurrent.futures.ThreadPoolExecutor(CORES) as pool:
        try:
            while True:
                for item in itertools.islice(items, 2 * CORES - len(running)):
                    running[pool.submit(function, item)] = item
                if not running:
                    return
                done, _ = concurrent.futures.wait(running, return_when="FIRST_COMPLETED")
                for future in done:
                    yield running.pop(future), future.result()
        finally:
            for future in running:
                future.cancel()


def is_video(path):
    """Whether the name is one of a video file or an array."""
    path = path.lower()
    return path.endswith(ENCODED + ARRAYS) and not path.endswith(ACTIONS)


def list_images(folder):
    """Returns the images of a folder whose names hold a number, as people number: 2 before 10."""
    names = [name for name in os.listdir(folder)
             if name.lower().endswith(IMAGES) and not name.startswith(".")
             and re.search(r"\d", os.path.splitext(name)[0])]
    paths = [os.path.join(folder, name) for name in sorted(names, key=by_number)]
    return [path for path in paths if is_still(path) or not path.lower().endswith(".webp")]


def by_number(name):
    """A key that sorts text as people number: 2 before 10."""
    parts = re.split(r"(\d+)", name)
    parts[1::2] = map(int, parts[1::2])
    return parts, name


def is_still(path):
    """Whether a file is a WebP of one image: its header tells."""
    if not path.lower().endswith(".webp"):
        return False
    try:
        with open(path, "rb") as file:
            header = file.read(21)
    except OSError:
        return False  # Who reads it will say.
    return not (header[12:16] == b"VP8X" and len(header) > 20 and header[20] & 2)


# ------------------------------------------------------------------------------------ one geometry


def convert(frames, form):
    """Converts [t, H, W, C] to uint8 [t, *form.shape].

    frames: uint8, uint16 (0 to 65535), bool or floats from 0 to 1; C is 1, 3, or 4 with opacity, which
    is blended on black. Raises Broken.
    """
    if frames.dtype == np.uint8 and frames.shape[1:] == form.shape:
        return frames
    _check_type(frames.dtype)
    kind = frames.dtype.kind
    if kind == "f" and not (frames.min() >= 0 and frames.max() <= 1):  # Also where one is nan.
        raise Broken(f"holds floats from {frames.min():g} to {frames.max():g}, not 0 to 1")
    top, left, height, width = _crop(*frames.shape[1:3], form.fit)
    rows, columns = _fitted(height, width, form)
    result = np.zeros([len(frames), *form.shape], np.uint8)  # Black where it is padded.
    to_255 = np.float32(255 / np.iinfo(frames.dtype).max if kind == "u" else 255)
    for frame, converted in zip(frames, result, strict=True):
        frame = frame[top : top + height, left : left + width].astype(np.float32)
        if frame.shape[-1] == 4:
            frame = frame[..., :3] * (frame[..., 3:] * (to_255 / 255))
        frame = _resize(frame, rows, columns) * to_255  # [rows, columns, C]
        if form.channels == 1 and frame.shape[-1] == 3:
            frame = frame @ np.array(LUMA, np.float32)[:, None]
        above, before = (form.size - rows) // 2, (form.size - columns) // 2
        converted[above : above + rows, before : before + columns] = np.rint(np.clip(frame, 0, 255))
    return result


def _resize(frame, rows, columns):
    """Resizes float32 [height, width, C] to [rows, columns, C]."""
    height, width, channels = frame.shape
    x = _weights(height, rows) @ frame.reshape(height, -1)
    x = x.reshape(rows, width, channels).swapaxes(0, 1).reshape(width, -1)
    x = _weights(width, columns) @ x
    return x.reshape(columns, rows, channels).swapaxes(0, 1)


def resize(video, form):
    """Converts a whole video as convert does, some frames at a time."""
    if video.shape[1:] == form.shape:
        return video
    return np.concatenate([convert(block, form) for block in _blocks(video, ())])


def _crop(height, width, fit):
    """What is kept of a frame: (top, left, height, width).

    Top and left are even, so that it lies on whole pixels of video that has one colour for 2 x 2.
    """
    if fit != "crop":
        return 0, 0, height, width
    side = min(height, width)
    return (height - side) // 4 * 2, (width - side) // 4 * 2, side, side


def _fitted(height, width, form):
    """Rows and columns that a frame takes of the result."""
    if form.fit != "pad":
        return form.size, form.size
    return tuple(max(1, int(form.size * side / max(height, width) + 0.5)) for side in (height, width))


def _filters(form, transparent):
    """What convert does, in the words of ffmpeg."""
    pixels = "format=gray" if form.channels == 1 else "format=rgb24"
    fitted = f"{form.size}:{form.size}"
    before, after = [], []
    if transparent:
        before = ["format=gbrap", "premultiply=inplace=1"]
    if form.fit == "crop":
        before += ["crop=min(iw\\,ih):min(iw\\,ih):2*trunc((iw-ow)/4):2*trunc((ih-oh)/4):exact=1"]
    if form.fit == "pad":
        after = [f"pad={fitted}:trunc((ow-iw)/2):trunc((oh-ih)/2)"]
        fitted = ":".join(
            f"max(1\\,trunc({form.size}*{side}/max(iw\\,ih)+0.5))" for side in ("iw", "ih"))
    resize = f"scale={fitted}:flags=area+accurate_rnd+full_chroma_int+full_chroma_inp"
    return [*before, resize, pixels, *after]


@functools.lru_cache(64)
def _weights(source, target):
    """How pixels of a side are weighed: sparse float32 [target, source]; rows sum to one.

    A target pixel averages the source pixels by how much of each it covers; where it is the smaller of
    the two, it interpolates between the centres of its neighbours.
    """
    edges = np.arange(target + 1) * source / target
    pixels = np.arange(source)
    if target <= source:
        left, right = edges[:-1, None], edges[1:, None]
        weights = np.maximum(0, np.minimum(right, pixels + 1) - np.maximum(left, pixels))
    else:
        centres = np.clip((edges[:-1] + edges[1:]) / 2 - 0.5, 0, source - 1)[:, None]
        weights = np.maximum(0, 1 - np.abs(centres - pixels))
    return scipy.sparse.csr_array((weights / weights.sum(1, keepdims=True)).astype(np.float32))


# ----------------------------------------------------------------------------- arrays and images


class _Source(typing.NamedTuple):
    """Frames that Python reads: blocks is an iterator of [t, H, W, C]; actions an array or None."""

    part: str
    blocks: typing.Iterator
    actions: np.ndarray | None


def _write(source, form, file):
    """Converts and appends the frames of a source; returns its Video."""
    length, size = 0, None
    for block in source.blocks:
        size = size or block.shape[1:3]
        file.write(np.ascontiguousarray(convert(block, form)).data)
        length += len(block)
    actions, refused = _checked_actions(source.actions, length)
    return Video(source.part, length, *size, None, actions, refused)


@contextlib.contextmanager
def _arrays(path, magic, scratch):
    """Yields the arrays of a file by name; their slices are read when they are taken."""
    if magic.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            yield {name.removesuffix(".npy"): _Packed(archive, name, scratch)
                   for name in archive.namelist() if name.endswith(".npy")}
    elif magic.startswith(b"\x89HDF"):
        with h5py.File(path, "r", locking="best-effort") as opened:
            found = {}
            opened.visititems(lambda name, item: found.update({name: item}))
            yield {name: item for name, item in found.items() if isinstance(item, h5py.Dataset)}
    else:
        yield {"": np.load(path, mmap_mode="r", allow_pickle=False)}


class _Packed:
    """An array of an .npz file: unpacked into a temporary file by the first slice, not into memory."""

    def __init__(self, archive, name, scratch):
        self._archive, self._name, self._scratch = archive, name, scratch
        with archive.open(name) as file:
            version = np.lib.format.read_magic(file)
            read_header = (np.lib.format.read_array_header_1_0 if version == (1, 0) else
                           np.lib.format.read_array_header_2_0)
            self.shape, self._fortran, self.dtype = read_header(file)
            self._start = file.tell()

    @functools.cached_property
    def _array(self):
        with tempfile.TemporaryFile(dir=self._scratch) as raw:
            with self._archive.open(self._name) as packed:
                shutil.copyfileobj(packed, raw, 2**20)
            raw.flush()
            order = "F" if self._fortran else "C"
            return np.memmap(raw, self.dtype, "r", self._start, self.shape, order)

    def __getitem__(self, index):
        return self._array[index]


def _sources(arrays, several, beside):
    """Yields a _Source for each video of a file's arrays.

    They are those named `video`, else all of three dimensions and more that are not named `actions`:
    one, unless several are allowed. beside: the actions, where the file has none.
    """
    last = {name: name.rpartition("/")[2] for name in arrays}
    large = [name for name in arrays if last[name] != "actions" and len(arrays[name].shape) >= 3]
    chosen = [name for name in large if last[name] == "video"] or large
    if len(arrays) == 1:
        chosen = list(arrays)
    if not chosen or len(chosen) > 1 and not several:
        raise Broken(f"holds {', '.join(arrays) or 'nothing'}; "
                     + ("one of several must be named video" if chosen else "none of them is a video"))
    for name in chosen:
        array, shape = arrays[name], arrays[name].shape
        if not (len(shape) == 3 or len(shape) in (4, 5) and shape[-1] in (1, 3, 4)):
            raise Broken(f"has shape {list(shape)}, not [T, H, W], [T, H, W, C] or [N, T, H, W, C] "
                         "with C 1, 3 or 4")
        if 0 in shape:
            raise Broken(f"is empty: {list(shape)}")
        _check_type(array.dtype)
        within = arrays.get(f"{name.rpartition('/')[0]}/actions".lstrip("/"))
        actions = beside if within is None else within[()]
        part = f":{name}" if len(chosen) > 1 else ""
        if len(shape) < 5:
            yield _Source(part, _blocks(array, ()), actions)
            continue
        each = isinstance(actions, np.ndarray) and actions.shape[:1] == shape[:1]
        for number in range(shape[0]):
            yield _Source(f"{part}[{number}]", _blocks(array, (number,)),
                          actions[number] if each else actions)


def _blocks(array, index):
    """Yields the frames [t, H, W, C] of one video, a few at a time."""
    length, height, width, *channels = array.shape[len(index):]
    step = max(1, BLOCK // (height * width))
    for start in range(0, length, step):
        block = np.asarray(array[(*index, slice(start, start + step))])
        yield block if channels else block[..., None]


def _check_type(dtype):
    if dtype not in (np.uint8, np.uint16) and dtype.kind not in "fb":
        raise Broken(f"holds {dtype}, not uint8, uint16 or floats from 0 to 1")


def _image(path):
    """Reads an image as [1, H, W, C]."""
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            if image.has_transparency_data:
                image = image.convert("RGBA")
            elif not image.mode.startswith(("I", "F")):  # Those are numbers of 16 or 32 bits.
                image = image.convert("L" if image.mode in ("1", "L") else "RGB")
            pixels = np.asarray(image)
        pixels = pixels[None, ..., None] if pixels.ndim == 2 else pixels[None]
        _check_type(pixels.dtype)
        return pixels
    except UNREADABLE as error:
        raise Broken(f"{os.path.basename(path)}: {error}") from None


# ----------------------------------------------------------------------------------------- ffmpeg


def _decode(path, magic, form, file, beside, threads):
    """Appends the frames that ffmpeg decodes; returns their Video. Raises Broken."""
    if _ends_early(path, magic):
        raise Broken("is cut short")
    resample = [] if form.fps is None else [f"fps={form.fps}"]
    if resample and beside is not None:
        resample.insert(0, "showinfo=checksum=0")  # Says when each frame is, for the sake of actions.
    transparent = magic.startswith((b"GIF8", b"\x89PNG"))
    start = file.tell()
    while True:
        log = _run_ffmpeg(path, [*resample, *_filters(form, transparent)], file, threads)
        stream = re.search(r"Stream #0:(\d+)\S* -> #0:0", log)[1]
        about = re.search(rf"Stream #0:{stream}(?!\d).*?: Video: (.*)", log)[1]
        if transparent or not TRANSPARENT.match(about.split(", ")[1]):
            break
        transparent = True
        file.seek(start)
        file.truncate()
    length = (file.tell() - start) // math.prod(form.shape)
    width, height = map(int, re.search(r", (\d+)x(\d+)", about).groups())
    if re.search(r"rotation of -?(90|270)\.", log):
        width, height = height, width
    fps = re.search(r"([\d.]+)(k?) fps", about)
    fps = fps and float(fps[1]) * (1000 if fps[2] else 1)
    frames = _kept_frames(log, form.fps, length) if length and len(resample) > 1 else None
    actions, refused = _checked_actions(beside, length, frames)
    return Video("", length, height, width, fps, actions, refused)


def _ffmpeg():
    """The beginning of its command: it opens local files alone."""
    return [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-protocol_whitelist", "file,pipe"]


def _run_ffmpeg(path, filters, file, threads):
    """Appends the raw frames of a video to a file; returns what ffmpeg said. Raises Broken."""
    # -xerror: a packet that is cut or does not decode ends it, whatever else it complains of.
    # setpts: for equal time stamps would end it too. A pipe: it does not outlive this process.
    command = [
        *_ffmpeg(), "-nostats", "-v", "level+info", "-xerror", "-threads", str(threads),
        "-i", f"file:{path}", "-map", "0:V:0", "-vf", ",".join([*filters, "setpts=N/TB"]),
        "-fps_mode", "passthrough", "-flush_packets", "1", "-f", "rawvideo", "-"]
    with (tempfile.TemporaryFile() as log,
          subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                           bufsize=0) as ffmpeg):
        try:
            waiting = select.poll()
            waiting.register(ffmpeg.stdout, select.POLLIN)
            while True:
                if not waiting.poll(1000 * STALL):
                    raise Broken(f"gave no frame for {STALL} s")
                block = ffmpeg.stdout.read(2**20)
                if not block:
                    break
                file.write(block)
        except BaseException:
            ffmpeg.kill()
            raise
        code = ffmpeg.wait()
        log.seek(0)
        said = log.read().decode(errors="replace")
    if -code in CRASHES:
        raise Broken(f"crashes the decoder with {signal.Signals(-code).name}")
    if code < 0 or "received signal" in said:
        raise Killed(f"ffmpeg was ended by signal {-code} as it read {path}")
    fatal, errors = (re.findall(rf"^.*\[{level}\] (.*)$", said, re.MULTILINE)
                     for level in ("fatal", "error"))
    losses = [line for line in errors if line.startswith(LOSSES)]
    if code or losses:
        complaints = [*losses, *fatal, *errors, f"ffmpeg: code {code}"]
        opening = "Error opening input: "  # Says the least, and comes first.
        complaints.sort(key=lambda line: line.startswith("Error opening"))
        raise Broken(complaints[0].removeprefix(opening))
    return said


def _ends_early(path, magic):
    """Whether a file is cut where ffmpeg does not see it: a GIF without end, half a page of Ogg."""
    if not magic.startswith((b"GIF8", b"OggS")):
        return False
    with open(path, "rb") as file:
        file.seek(max(0, os.path.getsize(path) - 2**17))
        end = file.read()
    if magic.startswith(b"GIF8"):
        return not end.rstrip(b"\0\r\n ").endswith(b";")
    page = end[end.rfind(b"OggS") :]
    segments = page[27 : 27 + page[26]] if len(page) > 26 else b""
    return len(page) < 27 or len(page) < 27 + page[26] + sum(segments)


def _kept_frames(log, fps, length):
    """Which frame of the file each resampled one shows, int [length], and how many there are."""
    base = fractions.Fraction(re.search(r"config in time_base: (\d+/\d+)", log)[1])
    times = [int(time) for time in re.findall(r"\[info\] n: *\d+ pts: *(-?\d+)", log)]
    rate = base * fractions.Fraction(str(fps))
    slots = [int(np.floor(time * rate + fractions.Fraction(1, 2))) for time in times]
    return np.searchsorted(slots, slots[0] + np.arange(length), side="right") - 1, len(slots)


# ---------------------------------------------------------------------------------------- actions


def actions_path(path):
    """The file beside a video that holds its actions, if it is there: clip.actions.npy for clip.mp4."""
    return (path if os.path.isdir(path) else os.path.splitext(path)[0]) + ACTIONS


def _beside(path):
    """Returns the actions in the file beside a video: an array, what is wrong with it, or None."""
    file = actions_path(path)
    try:
        return np.load(file, allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        return Broken(f"{os.path.basename(file)}: {error}")


def _checked_actions(actions, length, frames=None):
    """Returns (float32 [length, A], None), or (None, why not), or (None, None) without actions.

    frames: (the frame of the file that each of the video shows, how many the file has).
    """
    kept, count = frames or (None, length)
    if actions is None:
        return None, None
    if isinstance(actions, Broken):
        return None, str(actions)
    if actions.ndim == 1:
        actions = actions[:, None]
    if actions.ndim != 2 or actions.dtype.kind not in "buif" or not actions.shape[1]:
        return None, f"its actions are {actions.dtype} {list(actions.shape)}, not numbers [T, A]"
    if len(actions) != count:
        return None, f"it has {len(actions)} actions for {count} frames"
    if not np.isfinite(actions).all():
        return None, "its actions are not finite"
    if frames is None:
        return actions.astype(np.float32), None
    sums = np.cumsum(actions, 0, np.float64)
    return np.diff(sums[kept], axis=0, prepend=0).astype(np.float32), None
