"""One open-loop video of any length, as mp4: analyze.py dream."""

import os

import av
import numpy as np
import tensorflow as tf
import tqdm

import data_loader
import pictures
import startup
import tools
from cells import fold_in
from flags import evaluated_config
from pixels import to_uint8
from predictor import not_finite

CHUNK = 200  # frames imagined at a time, about: bounds the memory
FPS, SCALE, BORDER = 25, 4, 2


def open_data(config, flags):
    """The config with the changes of the flags, and the test videos, counted as in an evaluation."""
    config = evaluated_config(config, flags)
    counted = data_loader.evaluation_sequences(config)
    if flags.example >= len(counted):
        raise tools.UserError(f"example: {flags.example} is not one of the {len(counted)} test videos; "
                              f"nearest: {len(counted) - 1}")
    if not config.actions:
        return config, counted
    frames, there = config.open_loop_ctx + flags.frames, counted.lengths[flags.example]
    if there < frames:
        raise tools.UserError(
            f"frames: {flags.frames} need the actions of a video of {frames} frames, but test video "
            f"{flags.example} has {there}; nearest: {there - config.open_loop_ctx}")
    return config, data_loader.Sequences(
        config, frames, min_frames=(config.eval_seq_len - 1) * config.frame_skip + 1)


def analyze(config, model, data, flags, settings, out):
    """Streams the context of one example and flags.frames predicted frames into dream.mp4.

    Memory does not grow with the length. A shorter dream is the beginning of a longer one, except with
    action_levels: all, where the last tick of an upper level may see fewer actions.
    """
    frames = dream_frames(config, model, data.batch(flags.example, 1), flags)
    with open(os.path.join(out, "dream.mp4"), "wb") as file, av.open(file, "w", format="mp4") as film:
        side = SCALE * (config.image_size + 2 * BORDER)
        stream = film.add_stream("libx264", FPS, pix_fmt="yuv420p", height=side, width=side,
                                 options={"preset": "veryfast"})
        for frame in frames:
            frame = frame.repeat(SCALE, 0).repeat(SCALE, 1)
            film.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        film.mux(stream.encode(None))
    tools.save_json(os.path.join(out, "summary.json"), {
        "settings": settings | {"example": flags.example, "frames": flags.frames}, "fps": FPS})
    return "dream.mp4"


def dream_frames(config, model, batch, flags):
    """Yields the frames of a dream in colour: the context, then flags.frames predicted frames."""
    context, chunk = config.open_loop_ctx, config.whole_ticks(CHUNK)
    video, actions = batch["video"][:, :context], batch.get("actions")
    seed = fold_in([flags.seed, 0], flags.example)

    def imagine(states, noise, actions):
        latents, states = model.imagine(states, chunk, noise, actions)
        frames = model.decoder(latents)[0]
        finite = tf.reduce_all(tf.math.is_finite(frames))
        return states, to_uint8(frames), finite

    imagine = startup.graph(imagine, config)
    yield from pictures.bordered(video[0], context, scale=1, border=BORDER)
    states = model.observe_context(
        video, model.noise(fold_in(seed, 0), 1, context),
        None if actions is None else actions[:, :context]).states
    with tqdm.tqdm(total=flags.frames, unit="frame", dynamic_ncols=True) as bar:
        for number, start in enumerate(range(0, flags.frames, chunk)):
            if actions is not None:
                following = actions[:, context + start:][:, :chunk]
                missing = chunk - following.shape[1]  # These lead to frames that are cut off below.
                following = np.pad(following, [(0, 0), (0, missing), (0, 0)])
            states, frames, finite = imagine(
                states, model.noise(fold_in(seed, 1, number), 1, chunk),
                None if actions is None else following)
            if not finite:
                raise not_finite(f"frames {start + 1} to {start + chunk} of the dream")
            frames = frames[:flags.frames - start].numpy()
            yield from pictures.bordered(frames, 0, scale=1, border=BORDER)
            bar.update(len(frames))
