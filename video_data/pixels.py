"""Reads video that needs no decoder: pictures, arrays, and files of several pictures."""

import contextlib

import numpy as np

from tools import OF_THE_MACHINE
from video_data import arrays, containers, images
from video_data.convert import convert
from video_data.files import MAGIC, TIFF
from video_data.frames import UNREADABLE, Broken, Video
from video_data.timing import actions_beside, checked_actions, on_show


def read(request, magic, sink):
    """Reads the videos of a request as reader.read does. magic: what the file begins with."""
    if request.pictures:
        blocks = map(images.frame_of, request.pictures)
        return [_written("", blocks, actions_beside(request.path), request, sink)], {}
    if magic.startswith(MAGIC):
        with arrays.opened(request.path, magic, sink, request.scratch) as found:
            return _read_arrays(found, magic.startswith(b"\x89HDF"), request, sink)
    return [_read_pages(request, magic, actions_beside(request.path), sink)], {}


def estimate_frames(request, magic):
    """How many frames a request gives, by headers."""
    if not magic.startswith(MAGIC):
        return images.count_pages(request.path)
    count = 0
    with arrays.opened(request.path, magic, None, None) as found:
        for name in arrays.choose(found, True, request.within, request.axes):
            if not isinstance(found[name], Broken):
                order = arrays.layout(found[name].shape, request.path, request.axes)
                sizes = dict(zip(order, found[name].shape, strict=True))
                count += sizes["T"] * sizes.get("N", 1)
    return count


def _written(part, blocks, actions, request, sink):
    """Converts the frames of a video in blocks [t, H, W, C], and returns its Video."""
    length, sizes = 0, {}
    blocks = iter(blocks)
    for block in blocks:
        block = arrays.to_native(block)
        arrays.check_range(block, blocks)
        sizes[block.shape[1:3]] = None
        sink.frames(convert(block, request.form))
        length += len(block)
    if not length:
        raise Broken("holds no frames")
    notes = ["has pictures of several sizes; each is resized to the square"] if len(sizes) > 1 else []
    return Video(part, length, *next(iter(sizes)), None,
                 *checked_actions(actions, length, onehot=request.onehot), tuple(notes))


def _read_pages(request, magic, beside, sink):
    """Reads a file of several pictures, which may have times."""
    loss, pictures = containers.look(request.path)
    if loss:
        raise Broken(loss)
    shown, spans, sizes = [], [], []

    def seen(pages):
        for start, end, pixels in pages:
            spans.append((start, end))
            sizes.append(pixels.shape[1:3])
            yield start, end, pixels

    timed = not magic.startswith(TIFF)
    fps = request.form.fps if timed else None
    for index, pixels, times in on_show(seen(images.pages(request.path)), fps):
        pixels = arrays.to_native(pixels)
        arrays.check_range(pixels)
        sink.frames(np.repeat(convert(pixels, request.form), times, 0))
        shown += [index] * times
    if pictures is not None and len(spans) < pictures:
        raise Broken(f"it declares {pictures} pictures, but {len(spans)} can be read")
    kept = (np.array(shown), len(spans)) if fps else None
    return Video("", len(shown), *sizes[0], images.rate_of(spans),
                 *checked_actions(beside, len(shown), kept, request.onehot))


def _read_arrays(found, several, request, sink):
    """Reads the videos of a file of arrays. It leaves out those of several that cannot be read."""
    videos, left_out = [], {}
    chosen = arrays.choose(found, several, request.within, request.axes)

    @contextlib.contextmanager
    def leaving_out(part):
        try:
            yield
        except (Broken, OSError, *UNREADABLE) as error:
            if getattr(error, "errno", None) in OF_THE_MACHINE or getattr(error, "again", False):
                raise
            sink.cut(sum(video.length for video in videos))
            left_out[part] = str(error) or type(error).__name__

    for name in chosen:
        part, held = f":{name}" if len(chosen) > 1 or request.within else "", []
        with leaving_out(part):
            held = _videos_of(name, part, found, request)
        for part, blocks, actions in held:
            with leaving_out(part):
                videos.append(_written(part, blocks, actions, request, sink))
    if not videos:
        raise Broken(next(iter(left_out.values())))
    return videos, left_out


def _videos_of(name, part, found, request):
    """The videos of one array, a list of (its part of the file, its blocks of frames, its actions)."""
    array = found[name]
    if isinstance(array, Broken):
        raise array
    if array.shape is None:
        raise Broken("is empty")
    order = arrays.layout(array.shape, request.path, request.axes)
    arrays.check_type(array.dtype)
    array[:0]  # This unpacks an array of an .npz file. If it cannot be, no video of it can be read.
    actions = arrays.nearest(found, name)
    if actions is None:
        actions = actions_beside(request.path)
    if "N" not in order:
        return [(part, arrays.blocks(array, order, None), actions)]
    count, length = (array.shape[order.index(letter)] for letter in "NT")
    return [(f"{part}[{number}]", arrays.blocks(array, order, number),
             _of_video(actions, number, count, length)) for number in range(count)]


def _of_video(actions, number, count, length):
    """The actions of one of N videos of T frames, or a Broken.

    [N, T, A] and [N, T] hold those of each video, [T, A] and [T] those of all.
    """
    if not isinstance(actions, np.ndarray):
        return actions
    if actions.shape == (count, length) and count == length:
        return Broken(f"its actions {list(actions.shape)} may be [N, T] or [T, A], since the file holds "
                      f"{count} videos of {length} frames; save them as [N, T, A]")
    each = actions.ndim == 3 or actions.ndim == 2 and count != length
    return actions[number] if each and len(actions) == count else actions
