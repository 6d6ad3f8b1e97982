"""Turns arrays of any size and type into square frames, as decode.py does with encoded video."""

import functools

import numpy as np
import scipy.sparse

from video_data.frames import crop, fitted

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601; ffmpeg makes grey by the same weights.


def convert(frames, form):
    """Converts [t, H, W, C] to uint8 [t, *form.shape].

    frames: uint8, uint16 (0 to 65535), bool or floats from 0 to 1; C is 1, 3 or 4. The fourth is
    opacity: such frames are blended on black.
    """
    if frames.dtype == np.uint8 and frames.shape[1:] == form.shape:
        return frames
    top, left, height, width = crop(*frames.shape[1:3], 1, form.fit)
    rows, columns = fitted(height, width, 1, form)
    result = np.zeros([len(frames), *form.shape], np.uint8)  # The padding stays black.
    to_255 = np.float32(255 / np.iinfo(frames.dtype).max if frames.dtype.kind == "u" else 255)
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


def resize(video, form, step=64):
    """Converts a whole video as convert does, `step` frames at a time."""
    if video.shape[1:] == form.shape:
        return video
    return np.concatenate([convert(video[start : start + step], form)
                           for start in range(0, len(video), step)])


def _resize(frame, rows, columns):
    """Resizes float32 [height, width, C] to [rows, columns, C]."""
    height, width, channels = frame.shape
    x = _weights(height, rows) @ frame.reshape(height, -1)
    x = x.reshape(rows, width, channels).swapaxes(0, 1).reshape(width, -1)
    x = _weights(width, columns) @ x
    return x.reshape(columns, rows, channels).swapaxes(0, 1)


@functools.lru_cache(64)
def _weights(source, target):
    """Weights of source pixels in each target pixel of a side: sparse float32 [target, source].

    A target pixel that is larger than a source pixel averages what it covers. A smaller one
    interpolates between the centres of its neighbours. Each row sums to one.
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
