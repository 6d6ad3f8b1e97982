"""Opens one file of video for evaluation, without a store."""

import os
import sys
import tempfile

import numpy as np

from tools import UserError
from video_data import factors, files, folder, store, videos


def open_as(config, split):
    """Opens the file config.data_root as the test split, in the config's form of frames.

    Returns a dict: `video`, a store.Videos, with config.actions `actions`, a store.Videos or a
    folder.OneHot, and the factors in the file. Raises UserError where the file cannot be read, or split
    is `train`.
    """
    path = config.data_root
    if not ((files.is_video(path) or files.is_stack(path)) and os.path.isfile(path)):
        raise UserError(f"data_root: {path} is neither a folder nor a video file "
                        f"({files.kinds()})")
    if split == "train":
        raise UserError(f"data_root: {path} is a single file; training needs a folder")
    file = files.single(path, folder.patterns_of(config))
    try:
        request = folder.request_of(config, file)
        with videos.Readers() as readers:
            frames, found, left_out = readers.read(request._replace(scratch=None))
    except videos.Broken as error:
        raise UserError(f"data_root: {path}: {error}") from None
    except OSError as error:  # Writing failed: an error of reading would be Broken.
        raise OSError(error.errno, error.strerror, tempfile.gettempdir()) from None
    for _, line in folder.lines(path, frames, found, left_out):
        print(line, file=sys.stderr)
    names = [path + video.part for video in found]
    lengths = [video.length for video in found]
    opened = {"video": store.Videos(frames, lengths, names)}
    if config.actions:
        folder.check_actions(
            ((name, None if video.actions is None else video.actions.shape[1], video.refused)
             for name, video in zip(names, found, strict=True)), config.actions == "onehot")
        actions = [video.actions for video in found]
        opened["actions"] = (
            folder.OneHot(actions, lengths, names, config.action_classes or max(
                rows.shape[1] for rows in actions))
            if config.actions == "onehot" else store.Videos(np.concatenate(actions), lengths, names))
    listed = {name: (file, video.part) for name, video in zip(names, found, strict=True)}
    return opened | factors.of_videos(config, listed, opened["video"])
