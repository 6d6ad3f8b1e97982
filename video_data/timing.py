"""Chooses the frames that a rate shows, and the actions that belong to them."""

import fractions
import math
import os
import zipfile

import numpy as np

from video_data.frames import Broken

ACTIONS = ".actions.npy"
KEYS = ("actions", "action")  # The names of actions in an .npz or HDF5 file.
CLASSES = 4096  # The most values that one-hot actions may have.
LONGEST_GAP = 600  # Seconds for which one frame may be repeated.
HALF = fractions.Fraction(1, 2)


def on_show(frames, fps):
    """Yields (index, frame, how many times it is shown).

    frames: (start, end, frame) in the order of their times, in seconds as fractions.
    fps: None shows every frame once. Else each is shown from its start, rounded to the nearest frame
        of that rate, until the start of the next; the last until its end.
    Raises Broken where times are missing, or too far apart.
    """
    if fps is None:
        for index, (_, _, frame) in enumerate(frames):
            yield index, frame, 1
        return
    fps = fractions.Fraction(str(fps))
    index = held = last = until = before = None
    for index, (start, end, frame) in enumerate(frames):
        if start is None:
            raise Broken("has no time stamps, which fps needs")
        slot = math.floor(start * fps + HALF)
        if held:
            if slot - until > LONGEST_GAP * fps:
                raise Broken(f"has {float((slot - until) / fps):.0f} s between two of its frames, which "
                             "fps would fill with one picture")
            if slot > until:
                yield *held, slot - until
        # Some files give their last frame a duration of 0.
        last = end if before is None else max(end, 2 * start - before)
        until, before = max(slot, until) if held else slot, start
        held = (index, frame)
    if held:
        times = min(math.floor(last * fps + HALF) - until, math.ceil(LONGEST_GAP * fps))
        if times > 0 or not index:
            yield *held, max(times, 1)


# ---------------------------------------------------------------------------------------- actions


def actions_path(path):
    """The file beside a video that holds its actions: clip.actions.npy for clip.mp4 or folder clip."""
    return (path if os.path.isdir(path) else os.path.splitext(path)[0]) + ACTIONS


def npz_beside(path):
    """The .npz file beside an encoded video that may hold its actions."""
    return os.path.splitext(path)[0] + ".npz"


def actions_beside(path):
    """Returns the actions in a file beside a video: an array, a Broken that says why not, or None."""
    beside = actions_path(path)
    try:
        if os.path.exists(beside):
            return np.load(beside, allow_pickle=False)
        beside = npz_beside(path)
        if beside == path or os.path.isdir(path) or not os.path.exists(beside):
            return None
        with np.load(beside, allow_pickle=False) as arrays:
            return next((arrays[key] for key in KEYS if key in arrays), None)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, TypeError, AttributeError) as error:
        return Broken(f"{os.path.basename(beside)}: {error}")


def checked_actions(actions, length, kept=None, onehot=False):
    """Returns (float32 [length, A], None), or (None, why not), or (None, None) without actions.

    kept: with fps (for each frame, the number of the file's frame that it shows; frames of the file).
        An action is then the sum of the rows up to the next frame shown.
    onehot: whether a column of whole numbers becomes one-hot rows.
    """
    if actions is None:
        return None, None
    if isinstance(actions, Broken):
        return None, str(actions)
    frames, count = kept or (None, length)
    actions = actions[:, None] if actions.ndim == 1 else actions
    if actions.ndim != 2 or actions.dtype.kind not in "buif" or not actions.shape[1]:
        return None, f"its actions are {actions.dtype} {list(actions.shape)}, not numbers [T, A]"
    if len(actions) != count:
        return None, f"it has {len(actions)} actions for {count} frames"
    with np.errstate(over="ignore"):
        finite = np.isfinite(actions.astype(np.float32)).all(1)
    if not finite.all():
        row = int(np.argmin(finite))
        return None, f"its actions are not finite: {actions[row].tolist()} at frame {row}"
    if onehot:
        numbers = actions[:, 0]
        if actions.shape[1] > 1 or not (np.equal(np.round(numbers), numbers)
                                        & (numbers >= 0) & (numbers < CLASSES)).all():
            return None, (f"its actions are not one whole number each, from 0 to {CLASSES - 1}, "
                          "which onehot needs")
        numbers = numbers.astype(int)
        actions = np.eye(numbers.max() + 1, dtype=np.float32)[numbers]
    if frames is None:
        return actions.astype(np.float32), None
    sums = np.concatenate([np.zeros([1, actions.shape[1]]), np.cumsum(actions, 0, np.float64)])
    return np.diff(sums[[*frames, count]], axis=0).astype(np.float32), None
