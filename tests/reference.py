"""A Clockwork VAE in plain NumPy: the formulas of the paper, one tick and one frame at a time.

Deterministic: means stand for samples. Reads the weights of a cwvae.CWVAE; slow, float64, and as
dumb as possible: it is what the fast code is compared with.
"""

import math

import numpy as np


def dense(layer, x):
    kernel, bias = (np.asarray(w, np.float64) for w in layer.get_weights())
    return x @ kernel + bias


def relu(x):
    return np.maximum(x, 0)


def leaky_relu(x):
    return np.where(x > 0, x, 0.2 * x)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softplus(x):
    return np.logaddexp(0, x)


def conv(layer, image):
    """[H, W, C] to [H', W', F]: stride 2, no padding."""
    kernel, bias = (np.asarray(w, np.float64) for w in layer.get_weights())
    size = kernel.shape[0]
    height, width = ((n - size) // 2 + 1 for n in image.shape[:2])
    out = np.zeros([height, width, kernel.shape[3]])
    for i in range(height):
        for j in range(width):
            out[i, j] = np.einsum("hwc,hwcf->f", image[2 * i:2 * i + size, 2 * j:2 * j + size], kernel)
    return out + bias


def conv_transpose(layer, image):
    """[H, W, C] to [2 (H - 1) + k, ..., F]: each pixel adds its own copy of the kernel."""
    kernel, bias = (np.asarray(w, np.float64) for w in layer.get_weights())  # [k, k, F, C]
    size = kernel.shape[0]
    height, width = (2 * (n - 1) + size for n in image.shape[:2])
    out = np.zeros([height, width, kernel.shape[2]])
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            out[2 * i:2 * i + size, 2 * j:2 * j + size] += np.einsum("c,hwfc->hwf", image[i, j], kernel)
    return out + bias


def gru(layer, x, h):
    kernel, recurrent_kernel, (bias, recurrent_bias) = (
        np.asarray(w, np.float64) for w in layer.get_weights())
    x_z, x_r, x_n = np.split(x @ kernel + bias, 3)
    h_z, h_r, h_n = np.split(h @ recurrent_kernel + recurrent_bias, 3)
    z, r = sigmoid(x_z + h_z), sigmoid(x_r + h_r)
    return z * h + (1 - z) * np.tanh(x_n + r * h_n)


def encode(model, frame):
    """[64, 64, C] to h_l of every level."""
    for layer in model.encoder.convs:
        frame = leaky_relu(conv(layer, frame))
    levels = [frame.reshape(-1)]
    for stack in model.encoder.denses:
        h = levels[-1]
        for i, layer in enumerate(stack):
            h = dense(layer, h)
            if i < len(stack) - 1:
                h = relu(h)
        levels.append(h)
    return levels


def decode(model, state):
    """[Z + H] to [64, 64, C]."""
    image = dense(model.decoder.dense, state)[None, None]
    for layer in model.decoder.convs[:-1]:
        image = leaky_relu(conv_transpose(layer, image))
    image = conv_transpose(model.decoder.convs[-1], image)
    return np.tanh(np.where(image < 0, model.config.dec_negative_slope * image, image))


def distribution(cell, kind, y):
    """(mean, stddev) of a Gaussian; (log of the probabilities,) of one-hot variables."""
    if hasattr(cell, f"{kind}_logits"):
        logits = dense(getattr(cell, f"{kind}_logits"), y).reshape(-1, cell.config.cell_stoch_classes)
        return (logits - np.log(np.exp(logits).sum(-1, keepdims=True)),)
    mean = dense(getattr(cell, f"{kind}_mean"), y)
    stddev = softplus(dense(getattr(cell, f"{kind}_stddev"), y + 0.54)) + cell.config.cell_min_stddev
    return mean, stddev


def mode(distribution):
    if len(distribution) == 2:
        return distribution[0]
    (log_probs,) = distribution
    return np.eye(log_probs.shape[-1])[log_probs.argmax(-1)].reshape(-1)


def tick(cell, z, h, context, embedding):
    """One tick. Returns z, h, the prior and the posterior (the prior, where embedding is None)."""
    h = gru(cell.gru, relu(dense(cell.prior_input, np.concatenate([z, context]))), h)
    prior = distribution(cell, "prior", relu(dense(cell.prior_hidden, h)))
    posterior = prior
    if embedding is not None:
        y = relu(dense(cell.posterior_input, np.concatenate([h, embedding])))
        posterior = distribution(cell, "posterior", relu(dense(cell.posterior_hidden, y)))
    return mode(posterior), h, prior, posterior


def kl_nats(q, p):
    if len(q) == 1:
        return np.sum(np.exp(q[0]) * (q[0] - p[0]))
    (q_mean, q_stddev), (p_mean, p_stddev) = q, p
    return np.sum(np.log(p_stddev / q_stddev) + (q_stddev**2 + (q_mean - p_mean)**2) / (2 * p_stddev**2)
                  - 0.5)


def entropy_nats(distribution):
    if len(distribution) == 1:
        return -np.sum(np.exp(distribution[0]) * distribution[0])
    return np.sum(0.5 * np.log(2 * math.pi * math.e * distribution[1]**2))


def unroll(model, embeddings, observed, frames, actions=None, states=None):
    """Runs all levels of one video.

    Returns per level a list of (z, h, prior, posterior), a tick each.
    """
    config = model.config
    levels = [None] * config.levels
    for level in reversed(range(config.levels)):
        cell, stride = model.cells[level], config.strides[level]
        z, h = states[level] if states else map(np.zeros, cell.sizes(config, level))
        levels[level] = []
        for t in range(math.ceil(frames / stride)):
            context = np.zeros(sum(cell.sizes(config, level)))
            if level < config.levels - 1:
                factor = config.factors[level]
                context = np.concatenate(levels[level + 1][t // factor][:2])
                if config.cell_reset_state and t % factor == 0:
                    z = np.zeros_like(z)
            if actions is not None and (level == 0 or config.action_levels == "all"):
                seen = np.zeros([stride, actions.shape[-1]])
                for frame in range(t * stride, min(frames, (t + 1) * stride)):
                    seen[frame - t * stride] = actions[frame]
                context = np.concatenate([context, seen.ravel()])
            embedding = None
            if observed[level]:
                embedding = sum(embeddings[t * stride:(t + 1) * stride][i][level]
                                for i in range(len(embeddings[t * stride:(t + 1) * stride])))
            z, h, prior, posterior = tick(cell, z, h, context, embedding)
            levels[level].append((z, h, prior, posterior))
    return levels


def loss(model, videos, actions=None):
    """The negative ELBO in nats per frame, and its parts, averaged over videos (beta 1)."""
    config = model.config
    frames = len(videos[0])
    nll, kl = 0.0, np.zeros(config.levels)
    entropy_prior, entropy_posterior = np.zeros(config.levels), np.zeros(config.levels)
    for i, video in enumerate(videos):
        embeddings = [encode(model, frame) for frame in video]
        levels = unroll(model, embeddings, [True] * config.levels, frames,
                        None if actions is None else actions[i])
        for frame, (z, h, _, _) in zip(video, levels[0], strict=True):
            error = (frame - decode(model, np.concatenate([z, h]))) / config.dec_stddev
            nll += np.sum(0.5 * error**2 + math.log(config.dec_stddev) + 0.5 * math.log(2 * math.pi))
        for level, ticks in enumerate(levels):
            for _, _, prior, posterior in ticks:
                kl[level] += kl_nats(posterior, prior)
                entropy_prior[level] += entropy_nats(prior)
                entropy_posterior[level] += entropy_nats(posterior)
    count = len(videos) * frames
    return {"total_loss": (nll + kl.sum()) / count, "nll_term": nll / count, "kl_term": kl.sum() / count,
            "kl": kl / count, "entropy_prior": entropy_prior / count,
            "entropy_posterior": entropy_posterior / count}


def open_loop(model, video, context, observed, actions=None):
    """Reconstructs the first frames of one video and predicts the others from them."""
    frames = len(video)
    embeddings = [encode(model, frame) for frame in video[:context]]
    seen = unroll(model, embeddings, observed, context, None if actions is None else actions[:context])
    unseen = unroll(
        model, None, [False] * model.config.levels, frames - context,
        None if actions is None else actions[context:], [ticks[-1][:2] for ticks in seen])
    return np.stack([decode(model, np.concatenate([z, h])) for z, h, _, _ in seen[0] + unseen[0]])
