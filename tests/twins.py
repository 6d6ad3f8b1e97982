"""Small twins of the published archives, of exactly their layout, and a server for them."""

import contextlib
import functools
import http.server
import io
import json
import threading
import zipfile

import imageio.v2 as imageio
import numpy as np

LAYOUTS = {  # dataset: (archive, channels, folder of the train split, of the test split)
    "minerl": ("minerl_navigate.zip", 3, "minerl_navigate/train", "minerl_navigate/test"),
    "mazes": ("gqn_mazes.zip", 3, "train", "test"),
    "mmnist": ("moving_mnist_2digit.zip", 1, "train-seq100", "test-seq1000"),
}


def movie(seed, length, height=64, width=64):
    """A bright square that moves over a smooth background: uint8 [length, height, width, 3]."""
    rng = np.random.default_rng(seed)
    frames = np.empty([length, height, width, 3], np.uint8)
    frames[:] = np.linspace(20, 120, width)[:, None] + rng.integers(0, 60, 3)
    row, column = rng.integers(0, height // 2), rng.integers(0, width // 2)
    color = rng.integers(180, 255, 3)
    for index, frame in enumerate(frames):
        top, left = (row + index) % (height - 12), (column + 2 * index) % (width - 12)
        frame[top : top + 12, left : left + 12] = color
    return frames


def encode(frames, path=None, **options):
    """Encodes frames into a file, by its extension, or to the bytes of an mp4."""
    if str(path).endswith(".gif"):
        return imageio.mimsave(path, frames, duration=50)
    with io.BytesIO() as memory:
        with imageio.get_writer(
                path or memory, format="FFMPEG" if path else "mp4", fps=20, macro_block_size=1,
                **options) as writer:
            for frame in frames:
                writer.append_data(frame)
        return memory.getvalue()


def archive(dataset, path, train=3, test=2, length=12, damaged=(), reverse=False, metadata=True):
    """Writes the twin of a dataset's archive; returns {split: the frames of its videos, by name}.

    Its test videos are twice as long. damaged: numbers of train videos to cut short.
    reverse: stores the files in another order. metadata: whether a JSON is beside a minerl video.
    """
    _, channels, *folders = LAYOUTS[dataset]
    files, frames = {}, {"train": {}, "test": {}}
    for split, folder, count in zip(("train", "test"), folders, (train, test), strict=True):
        for number in range(count):
            test, name = split == "test", f"{folder}/video_{number:03d}"
            video, files[f"{name}.mp4"] = _video(number, test, length * (1 + test), channels)
            frames[split][f"{name}.mp4"] = video
            if split == "train" and number in damaged:
                files[f"{name}.mp4"] = files[f"{name}.mp4"][:-400]
            if dataset == "minerl" and metadata:
                files[f"{name}.json"] = json.dumps({
                    "angle": [0.5] * len(video),
                    "actions": {"forward": [1] * len(video),
                                "camera": [[number, t] for t in range(len(video))]}}).encode()
    with zipfile.ZipFile(path, "w") as opened:
        for name in sorted(files, reverse=reverse):
            opened.writestr(name, files[name])
    return frames


@functools.cache
def _video(number, test, length, channels):
    """A video of an archive, and its mp4."""
    video = movie([number, test], length)
    if channels == 1:
        video[:] = video[..., :1]
    return video, encode(video, output_params=["-movflags", "+faststart"])


@contextlib.contextmanager
def serve(folder, asked=None):
    """Serves a folder by HTTP on this machine; yields its URL. asked: a list to note requests in."""
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *message):
            if asked is not None:
                asked.append(message)

    handler = functools.partial(Handler, directory=folder)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
