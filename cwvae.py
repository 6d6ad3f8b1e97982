"""The Clockwork VAE: the hierarchy of levels, its loss, its open-loop prediction.

Saxena, Ba, Hafner: Clockwork Variational Autoencoders. NeurIPS 2021, arXiv 2102.09532.
"""

import collections
import math

import tensorflow as tf
import tensorflow_probability as tfp

from cells import RSSMCell, State
from cnns import Decoder, Encoder, name_layers
from tools import check_use_obs

tfd = tfp.distributions

# The parts of the negative ELBO of some frames. nll, and per level kl, kl_prior, kl_posterior (the
# same number; the gradient reaches both distributions, the prior, the posterior) and the entropies:
# nats summed over frames or ticks and units, averaged over videos.
Terms = collections.namedtuple(
    "Terms", "nll kl kl_prior kl_posterior entropy_prior entropy_posterior")

# The observed context. states: the last State of each level; posterior and prior: states of level 0
# [B, ctx, Z + H] whose decodings are its reconstruction and its prediction one step ahead.
Context = collections.namedtuple("Context", "states posterior prior")


class CWVAE(tf.keras.Model):
    """A Clockwork VAE. Level 0 is at the bottom; level l ticks once every strides[l] frames.

    Args:
      config: a tools.Config.
      action_size: width A of the actions that condition level 0; 0 for none.
    """

    def __init__(self, config, action_size=0):
        policy = "mixed_bfloat16" if config.precision == "bfloat16" else "float32"
        super().__init__(name="cwvae", dtype=policy)
        self.config = config
        self.action_size = action_size
        self.state_size = config.cell_stoch_size + config.cell_deter_size
        self.encoder = Encoder(
            config.strides, config.channels, config.channels_mult, config.enc_dense_layers,
            config.enc_dense_embed_size, config.remat, name="encoder", dtype=policy)
        self.cells = [
            RSSMCell(
                config.cell_stoch_size, config.cell_deter_size, config.cell_embed_size,
                context_size=self.state_size + (action_size if level == 0 else 0),
                obs_size=self.encoder.embed_size, min_stddev=config.cell_min_stddev,
                mean_only=config.cell_mean_only, name=f"level_{level}", dtype=policy)
            for level in range(config.levels)]
        name_layers(self, self.cells)
        self.decoder = Decoder(
            self.state_size, config.channels, config.channels_mult, config.remat, name="decoder",
            dtype=policy)
        self.built = True

    @property
    def parts(self):
        """The trainable parts by name."""
        return {layer.name: layer for layer in [self.encoder, *self.cells, self.decoder]}

    def initial_states(self, batch_size):
        return [cell.initial_state(batch_size) for cell in self.cells]

    def noise(self, seed, batch_size, frames):
        """Standard normal noise for every level, [B, N_l, Z]: a pure function of the seed [2]."""
        return [
            tf.random.stateless_normal(
                [batch_size, ticks, self.config.cell_stoch_size],
                fold_in(seed, level), alg="philox")
            for level, ticks in enumerate(self.ticks(frames))]

    def ticks(self, frames):
        """Ticks of each level that cover so many frames."""
        return [-(-frames // stride) for stride in self.config.strides]

    def unroll(self, frames, states, noise, embeddings=None, actions=None, use_obs=None):
        """Runs every level over `frames` frames, top level first.

        Args:
          frames: how many; the first one begins a tick of every level.
          states: a State per level, before the first tick.
          noise: per level, [B, N_l, Z].
          embeddings: per level, [B, N_l, D]; None where no level observes.
          actions: [B, frames, A], for a model that takes them.
          use_obs: per level, whether it observes; by default all do that have embeddings.

        Returns: a Level per level.
        """
        use_obs = use_obs or (embeddings is not None,) * len(self.cells)
        levels = [None] * len(self.cells)
        for level, ticks in reversed(list(enumerate(self.ticks(frames)))):
            cell = self.cells[level]
            keep = tf.ones([ticks])
            if level == len(self.cells) - 1:
                context_input = tf.zeros_like(noise[level][..., :1])
            else:
                factor = self.config.factors[level]
                above = cell.context_input(state_vector(levels[level + 1]))
                context_input = tf.repeat(above, factor, axis=1)[:, :ticks]
                if self.config.cell_reset_state:
                    keep = tf.cast(tf.range(ticks) % factor > 0, tf.float32)
            if level == 0 and self.action_size:
                context_input += cell.context_input(actions, first=self.state_size)
            if use_obs[level]:
                levels[level] = cell.observe(
                    states[level], context_input, embeddings[level], noise[level], keep)
            else:
                levels[level] = cell.imagine(states[level], context_input, noise[level], keep)
        return levels

    def encode(self, video):
        """Per level, the embeddings [B, N_l, D] of float video in [0, 1], [B, T, 64, 64, C]."""
        return self.encoder(video)

    def decode(self, states):
        """The mean frames of p(frame | states of level 0): [..., Z + H] to [..., 64, 64, C]."""
        return self.decoder(states)

    # ---------------------------------------------------------------------------------- the loss

    def terms(self, video, noise, states=None, actions=None):
        """The parts of the negative ELBO of a video, or of the stretch of one that follows states.

        Args:
          video: uint8 or float in [0, 1], [B, T, 64, 64, C].
          noise: per level, [B, N_l, Z].
          states: a State per level, before the first frame; by default the initial ones.
          actions: [B, T, A], for a model that takes them.

        Returns: Terms, and the levels' States after the last frame.
        """
        video = to_float(video)
        frames = video.shape[1]
        states = states or self.initial_states(tf.shape(video)[0])
        levels = self.unroll(frames, states, noise, self.encode(video), actions, self.observed())
        decoded = self.decode(state_vector(levels[0]))
        kl, kl_prior, kl_posterior, entropy_prior, entropy_posterior = [], [], [], [], []
        for level in levels:
            prior = tfd.Normal(*level.prior)
            posterior = tfd.Normal(*(level.posterior or level.prior))
            kl.append(_nats(posterior.kl_divergence(prior)))
            kl_prior.append(_nats(_stopped(posterior).kl_divergence(prior)))
            kl_posterior.append(_nats(posterior.kl_divergence(_stopped(prior))))
            entropy_prior.append(_nats(prior.entropy()))
            entropy_posterior.append(_nats(posterior.entropy()))
        # The log-density of Normal(decoded, dec_stddev), whose constant is taken out of the sum.
        squares = tf.math.squared_difference(decoded, video) / (2 * self.config.dec_stddev**2)
        constant = math.log(self.config.dec_stddev * math.sqrt(2 * math.pi))
        nll = _nats(squares) + constant * math.prod(video.shape[1:]) / _replicas()[0]
        return (
            Terms(nll, kl, kl_prior, kl_posterior, entropy_prior, entropy_posterior),
            [last_state(level) for level in levels])

    def objective(self, terms, frames):
        """The loss of so many frames from their Terms, in nats per frame.

        Returns: the loss, and a dict of the scalars that are logged.
        """
        config = self.config
        beta = config.beta if isinstance(config.beta, list) else [config.beta] * config.levels
        losses = []
        for level, weight in enumerate(beta):
            loss = terms.kl[level]
            if config.kl_grad_post_perc is not None:
                share = config.kl_grad_post_perc
                loss = ((1 - share) * terms.kl_prior[level]
                        + tf.maximum(1.0, share * terms.kl_posterior[level]))
            if config.free_nats is not None:
                loss = tf.maximum(0.0, loss - config.free_nats)
            losses.append(loss if weight is None else weight * loss)
        kl = tf.add_n(losses)
        loss = (terms.nll + kl) / frames
        metrics = {"total_loss": loss, "nll_term": terms.nll / frames, "kl_term": kl / frames}
        for level in range(config.levels):
            for name, value in [
                    ("kl_prior_posterior", terms.kl), ("entropy_prior", terms.entropy_prior),
                    ("entropy_posterior", terms.entropy_posterior)]:
                metrics[f"avg_{name}__level_{level}"] = value[level] / frames
        return loss, metrics

    def observed(self, use_obs=None):
        """Per level, whether it observes: by the config, or by another value of its use_obs."""
        return check_use_obs(self.config.use_obs if use_obs is None else use_obs, len(self.cells))

    @property
    def couples_videos(self):
        """Whether the loss is more than an average over videos, so that replicas must agree on it."""
        return self.config.free_nats is not None or self.config.kl_grad_post_perc is not None

    def gradients(self, video, noise, actions=None):
        """The gradient of the loss by every trainable variable, and the Terms.

        Within a replica of several, both are its own videos' parts of them: they sum to the whole.
        """
        with tf.GradientTape() as tape:
            terms, _ = self.terms(video, noise, actions=actions)
        whole = _sum_over_replicas(terms) if self.couples_videos else terms
        with tf.GradientTape() as outer:
            outer.watch(whole)
            loss, _ = self.objective(whole, video.shape[1])
        # By the chain rule: of the loss by its terms, and of the terms by the variables.
        weights = tf.nest.flatten(outer.gradient(loss, whole))
        used = [(term, weight) for term, weight in zip(
            tf.nest.flatten(terms), weights, strict=True) if weight is not None]
        found = tape.gradient(
            [term for term, _ in used], self.trainable_variables,
            output_gradients=[weight for _, weight in used])
        # A level that does not observe has no use for its posterior, and no gradient for it.
        return [
            tf.zeros(variable.shape) if gradient is None else gradient
            for gradient, variable in zip(found, self.trainable_variables, strict=True)], terms

    def update(self, optimizer, video, seed, actions=None, gradients=None):
        """One training step on video [B, T, 64, 64, C], or on a replica's part of it.

        gradients: a compiled form of self.gradients to use.

        Returns: the scalars that are logged, the same on every replica.
        """
        batch, frames = video.shape[:2]
        replicas, number = _replicas()
        noise = [tf.slice(x, [number * batch, 0, 0], [batch, *x.shape[1:]])
                 for x in self.noise(seed, batch * replicas, frames)]
        found, terms = (gradients or self.gradients)(video, noise, actions)
        # In one exchange: two at once may meet in different orders on different devices.
        found, terms = _sum_over_replicas((found, terms))
        metrics = self.objective(terms, frames)[1]
        metrics["grad_norm"] = norm = tf.linalg.global_norm(found)
        if self.config.clip_grad_norm_by is not None:
            found, _ = tf.clip_by_global_norm(found, self.config.clip_grad_norm_by, norm)
        # Keras's optimizers sum over replicas too, what is the same on all of them already.
        optimizer.apply([gradient / replicas for gradient in found], self.trainable_variables)
        metrics["learning_rate"] = tf.convert_to_tensor(optimizer.learning_rate)
        return metrics

    # ------------------------------------------------------------------------ open-loop prediction

    def observe_context(self, video, noise, actions=None, use_obs=None):
        """Observes the frames of the context, [B, ctx, 64, 64, C]; ctx is a multiple of strides[-1].

        use_obs: which levels observe, as in the config; by default as the config says.

        Returns: a Context.
        """
        video = to_float(video)
        frames = video.shape[1]
        observed = self.observed(use_obs)
        embeddings = self.encode(video) if any(observed) else None
        levels = self.unroll(
            frames, self.initial_states(tf.shape(video)[0]), noise, embeddings, actions, observed)
        mean, stddev = levels[0].prior
        ahead = mean if self.config.cell_mean_only else mean + stddev * noise[0]
        return Context(
            [last_state(level) for level in levels], state_vector(levels[0]),
            tf.concat([ahead, levels[0].deter], -1))

    def predict_ahead(self, states, frames, noise, actions=None):
        """Runs the prior alone for so many frames after states, top level first.

        states: a State per level, after a whole number of ticks of the top level.

        Returns: the states of level 0, [B, frames, Z + H], to be decoded in any number of pieces, and
        the State of each level after the last frame.
        """
        levels = self.unroll(frames, states, noise, actions=actions)
        return state_vector(levels[0]), [last_state(level) for level in levels]

    def open_loop(self, video, context, seed, actions=None):
        """Reconstructs the first `context` frames of a short video and predicts the others from them.

        Returns: float32, of the shape of video, [B, T, 64, 64, C].
        """
        batch, frames = tf.shape(video)[0], video.shape[1]
        seen, unseen = (None, None) if actions is None else tf.split(
            actions, [context, frames - context], 1)
        observed = self.observe_context(
            video[:, :context], self.noise(fold_in(seed, 0), batch, context), seen)
        states, _ = self.predict_ahead(
            observed.states, frames - context,
            self.noise(fold_in(seed, 1), batch, frames - context), unseen)
        return self.decode(tf.concat([observed.posterior, states], 1))


def fold_in(seed, *numbers):
    """A seed [2] made of another one and some numbers; statistically independent of both."""
    for number in numbers:
        seed = tf.random.experimental.stateless_fold_in(seed, number)
    return seed


def to_float(video):
    """uint8 video to float32 in [0, 1]; float video as it is."""
    return tf.cast(video, tf.float32) / 255 if video.dtype == tf.uint8 else video


def state_vector(level):
    """[z, h] of every tick of a Level, or of a State: [..., Z + H]."""
    return tf.concat([level.stoch, level.deter], -1)


def last_state(level):
    return State(level.stoch[:, -1], level.deter[:, -1])


def _stopped(normal):
    return tfd.Normal(tf.stop_gradient(normal.loc), tf.stop_gradient(normal.scale))


def _nats(x):
    """Sums [B, ...] over all but the videos, and averages over the videos: a replica's part of it."""
    return tf.reduce_mean(tf.reduce_sum(x, list(range(1, x.shape.rank)))) / _replicas()[0]


def _replicas():
    """How many replicas there are, and the number of this one."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return 1, 0
    return context.num_replicas_in_sync, context.replica_id_in_sync_group


def _sum_over_replicas(parts):
    if _replicas()[0] == 1:
        return parts
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, parts)

