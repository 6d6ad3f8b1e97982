"""MineRL Navigate (Guss et al. 2019): a player on the way to a goal in a landscape of Minecraft."""

import json
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from tools import UserError
from video_data.mp4_archive import Mp4Archive


class MinerlNavigate(Mp4Archive):
    """961 videos to train on and 225 to test on, of 500 frames, in colour.

    Feature `metadata`: the JSON that lies beside each video, as text; empty where there is none.
    """

    URL = "https://archive.org/download/minerl_navigate/minerl_navigate.zip"
    CHANNELS = 3
    EXPANSION = 3  # The archive of 5 GB becomes 593,000 frames, raw and as PNGs.

    def _features(self):
        return {**super()._features(), "metadata": tfds.features.Text()}

    def _metadata(self, archive, name):
        beside = str(pathlib.PurePosixPath(name).with_suffix(".json"))
        present = beside in archive.NameToInfo
        return {"metadata": archive.read(beside).decode() if present else ""}


def read_actions(metadata, length):
    """Finds the actions in a video's metadata: (names of the numbers, float32 [length, A]).

    The format is not documented. A key that contains "action" may hold a list with an entry for
    each frame, or a mapping from kinds of action to such lists. In a list of mappings, one for each
    frame, it may hold the entry of that frame. Several such keys may each hold a list. An entry is
    a number, true or false, a word (0 for "none", else 1), or a list or mapping of these. The
    action of a frame is the one that the player takes on seeing it. A missing action of the last
    frame becomes zeros; an action after it is dropped.

    Raises UserError that says what was found, if it has another format.
    """
    if not metadata:
        raise UserError("there is no metadata")
    try:
        data = json.loads(metadata)
    except json.JSONDecodeError as error:
        raise UserError(f"the metadata is not JSON ({error})") from None
    actions = _find_actions(data)
    if not isinstance(actions, (dict, list)):
        raise UserError(f"found no actions in {_outline(data)}")
    columns = {}  # By name, a number's value in each frame.
    for kind, entries in actions.items() if isinstance(actions, dict) else [("action", actions)]:
        entries = _as_list(entries)
        if not isinstance(entries, list) or abs(len(entries) - length) > 1:
            raise UserError(f"found no action for each of {length} frames in {_outline(actions)}")
        entries = [_flatten(entry, kind) for entry in entries[:length]]
        if any(entry.keys() != entries[0].keys() for entry in entries):
            raise UserError(f"found actions that differ between frames in {_outline(actions)}")
        for name in entries[0]:
            columns[name] = [entry[name] for entry in entries] + [0] * (length - len(entries))
    names = sorted(columns)
    return names, np.array([columns[name] for name in names], np.float32).T


def _find_actions(data):
    """Returns the value of "action": a list or a mapping; a list of values by frame; or None."""
    data = _as_list(data)
    if isinstance(data, list):
        found = [_find_actions(frame) for frame in data if isinstance(frame, dict)]
        if found and found[-1] is None:  # The last frame may have none.
            found.pop()
        complete = len(found) >= len(data) - 1 and None not in found
        return found if found and complete else None
    if not isinstance(data, dict):
        return None
    named = {key: _as_list(value) for key, value in data.items() if "action" in key.lower()}
    large = {key: value for key, value in named.items() if isinstance(value, (dict, list))}
    named = large or named  # A number beside lists may be their length.
    if named:
        return named if len(named) > 1 else next(iter(named.values()))
    below = [_find_actions(value) for value in data.values()]
    return next((found for found in below if found is not None), None)


def _as_list(data):
    """Turns a mapping from frame numbers into a list; returns anything else as it is."""
    if isinstance(data, dict) and data and all(key.isdigit() for key in data):
        return [data[key] for key in sorted(data, key=int)]
    return data


def _flatten(entry, name):
    """Returns the numbers of an action by their names. Raises UserError for any other value."""
    if isinstance(entry, str):
        return {name: float(entry != "none")}
    if isinstance(entry, (bool, int, float)):
        return {name: float(entry)}
    if isinstance(entry, list):
        entry = {str(index): value for index, value in enumerate(entry)}
    if not isinstance(entry, dict):
        raise UserError(f"found {entry!r} as action {name}")
    numbers = {}
    for key, value in entry.items():
        numbers.update(_flatten(value, f"{name}.{key}" if name else key))
    return numbers


def _outline(data):
    """Describes JSON in a few words."""
    if isinstance(data, dict):
        keys = ", ".join(list(data)[:10]) + (", ..." if len(data) > 10 else "")
        return f"a mapping of {keys}"
    if isinstance(data, list):
        return f"a list of {len(data)}" + (f", the first {_outline(data[0])}" if data else "")
    return repr(data)[:50]
