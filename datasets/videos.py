"""Video files of any size and format, read as 64x64 frames."""

import errno
import os
import re
import subprocess
import tempfile
import zipfile
import zlib

import imageio_ffmpeg
import numpy as np
import tensorflow as tf

from tools import UserError

SIZE = 64
ENCODED = (".mp4", ".avi", ".mov", ".webm", ".mkv", ".gif")
ARRAYS = (".npy", ".npz")
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, which ffmpeg takes grey from too.


class Broken(Exception):
    """A file that holds no video that can be read. Says why."""


def is_video(path):
    """Whether the name is one of a video file or an array."""
    return path.lower().endswith(ENCODED + ARRAYS)


def read(path, channels, scratch=None):
    """Reads the videos of a file: a list of (name, uint8 [T, 64, 64, channels]).

    An array may hold several videos; any other file is one. Frames are cropped to the square in
    their middle, and each pixel is the mean of the area it covers.
    scratch: the folder for temporary files, which back the arrays, so that a long video does not
        fill the memory. They are gone with the arrays.
    Raises Broken.
    """
    if not path.lower().endswith(ARRAYS):
        return [(path, decode(path, channels, scratch))]
    array = _load(path)
    frames = _from_array(array.reshape(-1, *array.shape[-3:]), channels, scratch)
    if array.ndim == 4:
        return [(path, frames)]
    several = frames.reshape(*array.shape[:2], *frames.shape[1:])
    return [(f"{path}[{index}]", video) for index, video in enumerate(several)]


def decode(path, channels, scratch=None):
    """Decodes a video file with the ffmpeg that imageio brings: uint8 [T, 64, 64, channels].

    Every frame of the file comes out once, whatever its time stamp. scratch: as for read.
    Raises Broken, also where only a part of the file can be decoded.
    """
    pixels = "gray" if channels == 1 else "rgb24"
    square = "crop='min(iw,ih)':'min(iw,ih)'"
    resize = f"scale={SIZE}:{SIZE}:flags=area+accurate_rnd+full_chroma_int+full_chroma_inp"
    with tempfile.TemporaryFile(dir=scratch) as raw:
        ffmpeg = subprocess.run(
            [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", f"file:{path}", "-map", "0:v:0",
             "-fps_mode", "passthrough", "-vf", f"{square},{resize},format={pixels}",
             "-f", "rawvideo", "-"],
            stdin=subprocess.DEVNULL, stdout=raw, stderr=subprocess.PIPE)  # fmt: skip
        complaint = ffmpeg.stderr.decode(errors="replace").strip()
        if ffmpeg.returncode < 0:  # Killed, for want of memory or by the user: not the file's fault.
            raise RuntimeError(f"ffmpeg was ended by signal {-ffmpeg.returncode} as it read {path}")
        if os.strerror(errno.ENOSPC) in complaint:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), scratch)
        if ffmpeg.returncode or complaint:  # A truncated file may end in a complaint and code 0.
            first = complaint.splitlines()[0] if complaint else f"ffmpeg: code {ffmpeg.returncode}"
            raise Broken(re.sub(r"^\[.*?\] ", "", first))
        return _mapped(raw, channels)


def _load(path):
    """Returns the array of a .npy or .npz file, as [T, H, W], [T, H, W, C] or [N, T, H, W, C]."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if path.lower().endswith(".npz"):
            keys = list(array)
            key = "video" if "video" in keys else keys[0]
            if len(keys) > 1 and key != "video":
                raise Broken(f"holds {', '.join(keys)}; one of several must be named video")
            array = array[key]
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise Broken(str(error)) from None
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim not in (4, 5) or array.shape[-1] not in (1, 3, 4):
        raise Broken(f"has shape {list(array.shape)}, not [T, H, W], [T, H, W, C] or [N, T, H, W, C] "
                     "with C 1, 3 or 4")
    if not array.size:
        raise Broken(f"is empty: {list(array.shape)}")
    if array.dtype != np.uint8 and array.dtype.kind not in "fb":
        raise Broken(f"holds {array.dtype}, not uint8 or floats from 0 to 1")
    return array


def _from_array(video, channels, scratch):
    """Converts [T, H, W, C] to uint8 [T, 64, 64, channels]. Raises Broken."""
    if video.dtype == np.uint8 and video.shape[1:] == (SIZE, SIZE, channels):
        return video
    height, width = video.shape[1:3]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    chunk = max(1, 2**22 // (height * width))  # Frames at a time: 50 MB of floats.
    with tempfile.TemporaryFile(dir=scratch) as raw:
        for start in range(0, len(video), chunk):
            frames = video[start : start + chunk, top : top + side, left : left + side]
            raw.write(_convert(frames, channels).tobytes())
        return _mapped(raw, channels)


def _convert(frames, channels):
    """Converts [t, side, side, C] in uint8 or from 0 to 1, to uint8 [t, 64, 64, channels]."""
    scale = 1 if frames.dtype == np.uint8 else 255
    frames = frames.astype(np.float32)
    if not (frames.min() >= 0 and frames.max() * scale <= 255):  # Also where one is nan.
        raise Broken(f"holds floats from {frames.min():g} to {frames.max():g}, not 0 to 1")
    if frames.shape[-1] == 4:
        frames = frames[..., :3]  # Without the opacity.
    with tf.device("cpu"):
        frames = tf.image.resize(frames * scale, (SIZE, SIZE), "area").numpy()
    if frames.shape[-1] == 3 and channels == 1:
        frames = frames @ np.array(LUMA, np.float32)[:, None]
    return np.rint(np.broadcast_to(frames, (*frames.shape[:3], channels))).astype(np.uint8)


def _mapped(raw, channels):
    """Maps a temporary file of frames; the system removes it with the array. Raises Broken."""
    raw.flush()
    frames = os.fstat(raw.fileno()).st_size // (SIZE * SIZE * channels)
    if not frames:
        raise Broken("holds no frames")
    return np.memmap(raw, np.uint8, "r", shape=(frames, SIZE, SIZE, channels))


def estimate_frames(files, sample=10):
    """About how many frames the files hold, by some of them."""
    sizes = [os.path.getsize(file) for file in files]
    some = range(0, len(files), -(-len(files) // sample))
    frames = sum(_count_frames(files[index]) for index in some)
    return frames * sum(sizes) // max(1, sum(sizes[index] for index in some))


def _count_frames(file):
    try:
        if file.lower().endswith(ARRAYS):
            return int(np.prod(_load(file).shape[:-3]))
        return imageio_ffmpeg.count_frames_and_secs(file)[0]
    except (Broken, RuntimeError):
        return 0  # Whoever reads it will say.


def list_splits(root):
    """Returns the video files of a folder, sorted by name: {"train": [path], "test": [path]}.

    They are those in its train/ and test/, at any depth; without these, every tenth is for testing.
    Raises UserError where there are too few.
    """
    if not os.path.isdir(root):
        raise UserError(f"data_root: there is no folder {root}")
    given = [split for split in ("train", "test") if os.path.isdir(os.path.join(root, split))]
    if len(given) == 1:
        raise UserError(f"data_root: {root} has {given[0]}/ and no other split; it needs train/ and "
                        "test/, or neither")
    if given:
        splits = {split: _list_files(os.path.join(root, split)) for split in given}
    else:
        files = _list_files(root)
        test = files[9::10] or files[-1:]
        splits = {"train": [path for path in files if path not in set(test)], "test": test}
    for split, files in splits.items():
        if not files:
            raise UserError(
                f"data_root: no videos ({', '.join(ENCODED + ARRAYS)}) in {os.path.join(root, split)}"
                if given else f"data_root: {root} needs two videos at least, one to train on and one "
                f"to test on ({', '.join(ENCODED + ARRAYS)})")
    return splits


def _list_files(folder):
    found = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [os.path.join(parent, name) for name in files
                  if is_video(name) and not name.startswith(".")]
    return sorted(found)
