"""Distances by networks that others have trained: LPIPS between frames, FVD between sets of videos.

LPIPS needs PyTorch, and FVD needs a downloaded network. Both are optional, so this module imports their
packages only for an evaluation that asks for them.
"""

import os
import urllib.error
import warnings

import numpy as np
import tensorflow as tf

from pixels import to_float
from tools import UserError


class LPIPS:
    """Learned perceptual distance between frames (Zhang et al. 2018), by the `lpips` package.

    Equal frames have distance 0; lower is better. PyTorch uses its GPU if it finds one.

    Args:
        net: the backbone: "alex" (the one of video prediction papers), "vgg" or "squeeze".
        pretrained: False leaves the backbone at random weights, for tests without a download.
        batch_size: frames compared at a time.
    """

    def __init__(self, net="alex", pretrained=True, batch_size=256):
        try:
            import lpips
            import torch
        except ImportError as error:
            raise UserError(
                f"LPIPS needs the package {error.name!r}: pip install torch torchvision --index-url "
                "https://download.pytorch.org/whl/cpu; pip install lpips") from None
        except RuntimeError as error:  # versions of torch and torchvision that do not fit
            raise UserError(f"LPIPS cannot load its packages: {str(error).splitlines()[0]}") from None
        try:
            model = lpips.LPIPS(net=net, pnet_rand=not pretrained, verbose=False)
        except urllib.error.URLError as error:
            raise UserError(f"LPIPS cannot download the weights of {net!r}: {error}") from None
        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = model.eval().to(self._device)
        self._batch_size = batch_size

    def __call__(self, truth, prediction):
        """The distance of every frame, float32 [...].

        truth, prediction: [..., H, W, C], uint8 or float in [0, 1], C 1 or 3. They broadcast.
        """
        truth, prediction = np.broadcast_arrays(truth, prediction)
        leading, frame = truth.shape[:-3], truth.shape[-3:]
        truth, prediction = truth.reshape(-1, *frame), prediction.reshape(-1, *frame)
        distances = []
        with self._torch.inference_mode():
            for i in range(0, len(truth), self._batch_size):
                batch = slice(i, i + self._batch_size)
                distance = self._model(self._images(truth[batch]), self._images(prediction[batch]))
                distances.append(distance.cpu().numpy().reshape(-1))
        return np.concatenate(distances).astype(np.float32).reshape(leading)

    def _images(self, frames):
        """[N, H, W, C] -> [N, 3, H, W] in [-1, 1], as the backbone expects."""
        images = np.moveaxis(2 * np.asarray(to_float(frames)) - 1, -1, 1)
        images = np.repeat(images, 3 // images.shape[1], axis=1)
        return self._torch.from_numpy(np.ascontiguousarray(images)).to(self._device)


class FVD:
    """Fréchet video distance (Unterthiner et al. 2018): of the features of two sets of videos.

    Args:
        model: a network from videos [N, T, 224, 224, 3] in [-1, 1] to features [N, D]: the folder
            of a SavedModel, or a TF-Hub handle such as
            https://tfhub.dev/deepmind/i3d-kinetics-400/1, the network of the paper.
        max_frames: frames in the network at a time, but at least one video.
    """

    MIN_VIDEOS = 256
    SIZE = 224

    def __init__(self, model, max_frames=256):
        # A signature does not keep the variables of its SavedModel alive: hold both.
        self._saved_model = _load_saved_model(model)
        self._signature = _only_signature(self._saved_model, model)
        self._name = model
        self._max_frames = max_frames

    def features(self, videos):
        """The features of videos, float64 [N, D].

        videos: [N, T, H, W, C], uint8 or float in [0, 1], C 1 or 3.
        Raises UserError if the network does not take videos of T frames.
        """
        features = []
        batch_size = max(1, self._max_frames // videos.shape[1])
        for i in range(0, len(videos), batch_size):
            try:
                (output,) = self._signature(self._prepare(videos[i : i + batch_size])).values()
            except (tf.errors.InvalidArgumentError, ValueError) as error:
                raise UserError(f"FVD model {self._name} does not take videos of {videos.shape[1]} "
                                f"frames: {str(error).splitlines()[0]}") from None
            features.append(np.asarray(output, np.float64).reshape(output.shape[0], -1))
        return np.concatenate(features)

    def __call__(self, features_a, features_b, num_frames):
        """The distance, as a dict for summary.json: fvd, fvd_num_videos, fvd_num_frames, fvd_model.

        It warns if there are few videos.

        features_a, features_b: [N, D], of the true and of the predicted videos.
        num_frames: frames of each video.
        """
        num_videos = min(len(features_a), len(features_b))
        if num_videos < self.MIN_VIDEOS:
            warnings.warn(
                f"FVD of {num_videos} videos is biased upwards; use {self.MIN_VIDEOS} or more",
                stacklevel=2)
        return {
            "fvd": frechet_distance(features_a, features_b), "fvd_num_videos": num_videos,
            "fvd_num_frames": num_frames, "fvd_model": str(self._name)}

    def _prepare(self, videos):
        """[N, T, H, W, C] -> [N, T, 224, 224, 3] in [-1, 1]."""
        videos = tf.convert_to_tensor(to_float(np.asarray(videos)))
        n, t, h, w, c = videos.shape
        # Published figures come from TensorFlow 1's resize. tf.image.resize samples at other points.
        frames = tf.compat.v1.image.resize_bilinear(
            tf.reshape(videos, [n * t, h, w, c]), [self.SIZE, self.SIZE])
        frames = tf.repeat(frames, 3 // c, axis=-1)
        return 2 * tf.reshape(frames, [n, t, self.SIZE, self.SIZE, 3]) - 1


def _load_saved_model(model):
    """Loads a SavedModel from a folder, or from a TF-Hub handle."""
    path = str(model)
    if "://" in path:
        try:
            import tensorflow_hub
        except ImportError:
            raise UserError(
                f"FVD model {model} needs TensorFlow Hub: pip install tensorflow-hub") from None
        try:
            path = tensorflow_hub.resolve(path)
        except OSError as error:
            raise UserError(f"FVD model {model}: cannot download it: {error}") from None
    if not tf.saved_model.contains_saved_model(path):
        raise UserError(f"FVD model {model}: no SavedModel in that folder")
    # A module of TensorFlow 1's Hub holds a second graph for training; this one has no tags.
    is_hub_module = os.path.exists(os.path.join(path, "tfhub_module.pb"))
    return tf.saved_model.load(path, tags=[] if is_hub_module else None)


def _only_signature(saved_model, name):
    """The signature of a SavedModel that maps one tensor to one tensor."""
    for key in ("default", "serving_default"):  # of TensorFlow 1's Hub, of TensorFlow 2
        if key in saved_model.signatures:
            signature = saved_model.signatures[key]
            inputs, outputs = signature.structured_input_signature[1], signature.structured_outputs
            if len(inputs) == len(outputs) == 1:
                return signature
            raise UserError(f"FVD model {name} must map one tensor to one tensor; its signature "
                            f"{key!r} maps {sorted(inputs)} to {sorted(outputs)}")
    raise UserError(f"FVD model {name} has no signature 'default' or 'serving_default'")


def frechet_distance(features_a, features_b):
    """Fréchet distance of the Gaussians fitted to two sets of features.

    |mean_a - mean_b|^2 + tr(cov_a + cov_b - 2 (cov_a cov_b)^(1/2))  (Dowson & Landau 1982),
    with sample covariances. Let A and B be the centred features over sqrt(N - 1). Then cov_a = A^T A and
    cov_b = B^T B. The eigenvalues of cov_a cov_b are the squared singular values of A B^T, so the trace
    of its root is the sum of these singular values. No covariance has to be regular, so there may be
    fewer videos than features.

    features_a, features_b: [N, D] and [M, D], N and M at least 2.
    """
    mean_a, a = _centred(features_a)
    mean_b, b = _centred(features_b)
    root_trace = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    distance = ((mean_a - mean_b) ** 2).sum() + (a**2).sum() + (b**2).sum() - 2 * root_trace
    return float(max(distance, 0.0))


def _centred(features):
    """Returns the mean [D], and a matrix [min(N, D), D] whose square is the covariance."""
    features = np.asarray(features, np.float64)
    if features.ndim != 2 or len(features) < 2:
        raise UserError(f"a Fréchet distance needs features [N, D] of at least 2 videos; "
                        f"got {list(features.shape)}")
    mean = features.mean(0)
    centred = (features - mean) / np.sqrt(len(features) - 1)
    if len(centred) > centred.shape[1]:
        centred = np.linalg.qr(centred, mode="r")  # same square, fewer rows
    return mean, centred
