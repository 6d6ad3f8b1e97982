"""A trained model for NumPy videos, from runs.load: predict, reconstruct, encode_states, surprise."""

import functools
import os

import numpy as np
import tensorflow as tf

import startup
from cwvae import in_chunks, last_state, state_vector
from pixels import to_uint8
from predictor import DECODED_AT_ONCE, Predictor, noise_of_videos, seeds_of_videos
from video_data import files, folder, videos

OBSERVED_AT_ONCE = 100  # frames, about: bounds the memory of long videos


class VideoModel:
    """A CWVAE with its weights, for NumPy videos.

    One video is [T, S, S, C], several are [B, T, S, S, C], with S and C of the config; uint8, or float
    in [0, 1]. Results have the dtype and the axis B of the video. A model with actions needs `actions`,
    [T, A] or [B, T, A]: row t is the action taken on seeing frame t, so it leads to frame t + 1. The
    same seed gives the same result. A wrong argument raises a ValueError that names the right form.

    config: a Config. model: a cwvae.CWVAE.
    """

    def __init__(self, config, model):
        self.config, self.model = config, model
        self._rollout = startup.graph(model.rollout, config)
        self._decode = startup.graph(model.decoder, config)
        self._surprise = startup.graph(self._nats_of_frames, config)
        # It refers to no VideoModel, so that one that is deleted is gone at once.
        self._predictor = functools.lru_cache(maxsize=8)(lambda context, frames, samples: Predictor(
            config.replace(open_loop_ctx=context, eval_seq_len=context + frames), model, samples, 0))

    def predict(self, video, frames, samples=1, seed=0, actions=None):
        """Continues a video open-loop: [samples, frames, S, S, C], or [B, samples, frames, S, S, C].

        video: observed whole, so its length must be a multiple of the top level's frames per tick. It
          may also be the path of any file, or folder of numbered images, that training can read. Its
          frames are then cropped, resized and skipped as in training, and the first frames are left out
          until the length is such a multiple.
        actions: of the video and of the frames to come, [T + frames, A]. The last row is not used.

        pictures.save_gif("future.gif", future[0], fps=20) writes the first sample as a GIF.
        """
        video = self._read(video)
        videos, single = self._videos(video)
        context, stride = videos.shape[1], self.config.strides[-1]
        if context % stride:
            near = max(stride, round(context / stride) * stride)
            raise ValueError(f"video has {context} frames; predict observes a multiple of {stride}, the "
                             f"frames to one tick of the top level; nearest: {near}")
        for name, value in [("frames", frames), ("samples", samples)]:
            if not isinstance(value, int | np.integer) or value < 1:
                raise ValueError(f"{name} is {value!r}; expected a whole number from 1 on")
        batch = {"video": videos, **self._actions(actions, videos, context + frames, single)}
        predictor = self._predictor(context, frames, samples)
        predictor.seed = seed
        states = predictor.imagine(predictor.observe(batch, 0).states, batch, 0)
        return self._like(video, self._decode_in_pieces(states), single)

    def reconstruct(self, video, actions=None, seed=None):
        """The posterior's reconstruction of the video, in the same shape.

        seed: of the samples; None takes the modes.
        """
        videos, single = self._videos(video)
        states = [state_vector(rollout.levels[0])
                  for rollout in self._rollouts(videos, actions, seed, single)]
        return self._like(video, self._decode_in_pieces(tf.concat(states, 1)), single)

    def encode_states(self, video, actions=None, seed=None):
        """The posterior's states of a video, as features: a list of float32 [N_l, Z + H] per level.

        Level l ticks once every strides[l] frames. seed: of the samples; None takes the modes.
        """
        videos, single = self._videos(video)
        pieces = [[state_vector(level) for level in rollout.levels]
                  for rollout in self._rollouts(videos, actions, seed, single)]
        levels = [np.concatenate(level, 1) for level in zip(*pieces, strict=True)]
        return [level[0] for level in levels] if single else levels

    def surprise(self, video, actions=None, seed=0):
        """Nats of every frame, float32 [T]: its negative log-likelihood plus the KL of the levels.

        The KL of a tick is spread evenly over the frames that it covers. The mean over frames is the
        total_loss of training without beta and free nats.
        """
        videos, single = self._videos(video)
        nats = np.concatenate([self._surprise(rollout) for rollout in self._rollouts(
            videos, actions, seed, single)], 1)
        return nats[0] if single else nats

    # ----------------------------------------------------------------------------------------------

    def _rollouts(self, videos, actions, seed, single):
        """Yields Rollouts of pieces of the videos, one after the other."""
        actions = self._actions(actions, videos, videos.shape[1], single).get("actions")
        seeds = seeds_of_videos(seed or 0, 0, len(videos))

        def noise(start, frames):
            levels = noise_of_videos(self.model, seeds, start, 1, frames)
            return [tf.zeros_like(level) for level in levels] if seed is None else levels

        def observe(*inputs):
            rollout = self._rollout(*inputs)
            return rollout, [last_state(level) for level in rollout.levels]

        return in_chunks(observe, videos, actions, self.model.initial_states(len(videos)), noise,
                         self.config.whole_ticks(OBSERVED_AT_ONCE))

    def _nats_of_frames(self, rollout):
        """[B, T] nats of a Rollout."""
        frames = rollout.video.shape[1]
        nats = -self.model.decoder.pixels(state_vector(rollout.levels[0])).log_prob(rollout.video)
        for level, stride in zip(rollout.levels, self.config.strides, strict=True):
            kl = level.posterior.kl(level.prior)  # [B, N_l]
            covered = [min(stride, frames - start) for start in range(0, frames, stride)]
            nats += tf.repeat(kl / tf.constant(covered, kl.dtype), stride, 1)[:, :frames]
        return nats

    def _decode_in_pieces(self, states):
        """Decodes states [..., T, Z + H], some at a time: float32 [..., T, S, S, C]."""
        flat = tf.reshape(states, [-1, states.shape[-1]])
        frames = np.concatenate([
            tf.clip_by_value(self._decode(flat[start:start + DECODED_AT_ONCE]), 0.0, 1.0)
            for start in range(0, len(flat), DECODED_AT_ONCE)])
        return frames.reshape(*states.shape[:-1], *frames.shape[1:])

    def _read(self, video):
        """The frames at a path, cropped and resized as in training; an array stays as it is."""
        if not isinstance(video, str | os.PathLike):
            return video
        config, path = self.config, os.path.expanduser(os.fspath(video))
        if not os.path.exists(path):
            raise ValueError(f"video: there is nothing at {path}")
        try:
            frames, found = videos.read(
                path, folder.form_of(config), axes=config.axes, keep_partial=config.keep_partial,
                within=files.single(path, folder.patterns_of(config)).within)
        except videos.Broken as error:
            raise ValueError(f"video: {path}: {error}") from None
        if len(found) > 1:
            raise ValueError(f"video: {path} holds {len(found)} videos; give one of them as an array")
        frames, stride = frames[::config.frame_skip], config.strides[-1]
        return frames[len(frames) % stride:] if len(frames) >= stride else frames

    def _videos(self, video):
        """Checks a video. Returns it as [B, T, S, S, C], and whether it is a single one."""
        video, size = np.asarray(video), self.config.image_size
        expected = f"[T, {size}, {size}, {self.config.channels}]"
        if video.ndim not in (4, 5) or video.shape[-3:] != (size, size, self.config.channels):
            raise ValueError(f"video has the shape {list(video.shape)}; expected {expected}, or [B, "
                             f"{expected[1:]}")
        if not video.size:
            raise ValueError(f"video is empty: {list(video.shape)}; expected {expected}")
        if video.dtype != np.uint8 and video.dtype.kind != "f":
            raise ValueError(f"video is {video.dtype}; expected uint8, or float in [0, 1]")
        if video.dtype.kind == "f" and not (video.min() >= 0 and video.max() <= 1):
            raise ValueError(f"video has values from {video.min()} to {video.max()}; expected float in "
                             f"[0, 1], or uint8")
        video = video if video.dtype == np.uint8 else video.astype(np.float32)
        return (video[None], True) if video.ndim == 4 else (video, False)

    def _actions(self, actions, videos, frames, single):
        """The action that led to each frame: {"actions": [B, frames, A]}; {} if the model takes none."""
        size = self.model.action_size
        if not size:
            if actions is not None:
                raise ValueError("actions: the model takes none")
            return {}
        expected = [frames, size] if single else [len(videos), frames, size]
        shape = None if actions is None else list(np.shape(actions))
        if shape != expected:
            raise ValueError(f"actions have the shape {shape}; expected {expected}")
        with np.errstate(over="ignore"):
            actions = np.asarray(actions, np.float32)
        if not np.isfinite(actions).all():
            raise ValueError("actions hold numbers that are not finite in float32; expected finite ones")
        actions = actions[None] if single else actions
        return {"actions": np.concatenate([np.zeros_like(actions[:, :1]), actions[:, :-1]], 1)}

    def _like(self, video, frames, single):
        """Frames in the form and dtype of the given video."""
        frames = frames[0] if single else frames
        dtype = np.asarray(video).dtype
        return to_uint8(frames) if dtype == np.uint8 else frames.astype(dtype)
