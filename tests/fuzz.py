"""Damages files of 20 kinds at random and reads them: python3 tests/fuzz.py [COUNT [SEED [ENDING ...]]]

A damaged file is read whole, or something is said of it: why it is left out, or what it lacks. Nothing
else is allowed: no other error, no process that hangs.
"""

import collections
import pathlib
import subprocess
import sys
import tempfile
import time

import h5py
import imageio_ffmpeg
import numpy as np
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from video_data import videos  # noqa: E402

LENGTH = 20  # Frames of each file.
ENCODED = {"mp4": [], "mov": ["-c:v", "mjpeg"], "m4v": ["-c:v", "mpeg4"], "mkv": ["-c:v", "ffv1"],
           "avi": ["-c:v", "mpeg4"], "webm": ["-c:v", "libvpx-vp9"], "mpg": [], "wmv": ["-c:v", "wmv2"],
           "flv": [], "ogv": ["-c:v", "libtheora"], "3gp": ["-c:v", "mpeg4"],
           "ts": ["-c:v", "libx264"], "y4m": ["-pix_fmt", "yuv420p"], "gif": [],
           "apng": ["-f", "apng"], "webp": ["-c:v", "libwebp_anim"]}


def make(folder):
    """Writes a file of every kind; returns {ending: path}."""
    frames = np.random.default_rng(0).integers(0, 255, (LENGTH, 12, 16, 3), np.uint8)
    frames = frames.repeat(6, 1).repeat(6, 2)
    paths = {ending: folder / f"whole.{ending}" for ending in (*ENCODED, "npy", "npz", "h5", "tif")}
    for ending, options in ENCODED.items():
        subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-f", "rawvideo",
                        "-pix_fmt", "rgb24", "-s", "96x72", "-r", "25", "-i", "-", *options,
                        str(paths[ending])], input=frames.tobytes(), check=True)
    np.save(paths["npy"], frames)
    np.savez_compressed(paths["npz"], video=frames)
    with h5py.File(paths["h5"], "w") as file:
        file.create_dataset("video", data=frames, compression="gzip", fletcher32=True)
    first, *others = map(Image.fromarray, frames)
    first.save(paths["tif"], save_all=True, append_images=others, compression="tiff_deflate")
    return paths


def damage(rng, whole):
    """Returns damaged bytes, and what was done."""
    kind = rng.choice(["flip", "cut", "zeros", "hole", "head"])
    data = bytearray(whole)
    place = int(rng.integers(len(data)))
    if kind == "flip":
        for index in rng.integers(0, len(data), 1 + int(rng.integers(20))):
            data[index] ^= int(rng.integers(1, 256))
    elif kind == "cut":
        del data[place:]
    elif kind == "zeros":
        stop = min(len(data), place + int(rng.integers(1, 2000)))
        data[place:stop] = bytes(stop - place)
    elif kind == "hole":
        del data[place : place + int(rng.integers(1, 2000))]
    else:
        data[: int(rng.integers(1, 64))] = rng.bytes(8)
    return bytes(data), f"{kind} at {place} of {len(whole)}"


def try_one(readers, path, form):
    """Reads a file; returns what came of it: "whole", "said" or a complaint, and the words."""
    start = time.monotonic()
    try:
        frames, found, left_out = readers.read(videos.Request(str(path), form))
        said = [note for video in found for note in video.notes] + list(left_out.values())
        outcome = "whole" if len(frames) == LENGTH and not said else "said" if said else "half-read"
        words = f"{len(frames)} frames; {said}"
    except videos.Broken as error:
        outcome, words = "said", str(error)
        if words.startswith("cannot be read: ") or not words.strip():
            outcome = "unforeseen"
    except Exception as error:
        outcome, words = "raised", repr(error)
    if time.monotonic() - start > 50:
        outcome = "slow"
    return outcome, words


def run(count, seed, endings=()):
    """Tries so many damages; returns a list of (outcome, what was done, words).

    endings: of the files that are damaged; by default all 20.
    """
    rng, results = np.random.default_rng(seed), []
    with tempfile.TemporaryDirectory() as folder, videos.Readers() as readers:
        paths = make(pathlib.Path(folder))
        endings = list(endings or paths)
        wholes = {ending: path.read_bytes() for ending, path in paths.items()}
        for number in range(count):
            kind = endings[number % len(endings)]
            data, done = damage(rng, wholes[kind])
            ending = kind if rng.random() < 0.9 else str(rng.choice(list(paths)))
            path = pathlib.Path(folder, f"damaged.{ending}")
            path.write_bytes(data)
            form = videos.Form(fps=[None, 10.0][number % 7 == 0])
            if form.fps:
                form = form._replace(fps=25.0)
            outcome, words = try_one(readers, path, form)
            results.append((outcome, f"{kind} as .{ending}: {done}", words))
    return results


def main():
    count, seed = (int(word) for word in (sys.argv[1:] + ["500", "0"][len(sys.argv) - 1 :])[:2])
    results = run(count, seed, sys.argv[3:])
    for outcome, done, words in results:
        if outcome not in ("whole", "said"):
            print(f"{outcome}: {done}: {words}")
    print(dict(collections.Counter(outcome for outcome, *_ in results)))


if __name__ == "__main__":
    main()
