"""The Clockwork VAE: the hierarchy of levels, its loss, its open-loop prediction.

Saxena, Ba, Hafner: Clockwork Variational Autoencoders. NeurIPS 2021, arXiv 2102.09532.
"""

import collections

import tensorflow as tf

import kernels
from cells import CELLS, State, fold_in
from cnns import Decoder, Encoder, name_layers
from config import check_use_obs, nearest, show
from pixels import to_float
from tools import UserError

# A video, float [B, T, S, S, C], and the Level of each level that it was observed with.
Rollout = collections.namedtuple("Rollout", "video levels")

# The observed context. states: the last State of each level; posterior and prior: states of level 0
# [B, ctx, Z + H] whose decodings are its reconstruction and its prediction one step ahead.
Context = collections.namedtuple("Context", "states posterior prior")


class CWVAE(tf.keras.Model):
    """A Clockwork VAE. Level 0 is at the bottom; level l ticks once every strides[l] frames.

    Args:
      config: a Config.
      action_size: width A of the actions that condition level 0; 0 for none.
    """

    def __init__(self, config, action_size=0):
        super().__init__(name="cwvae")
        self.config, self.action_size = config, action_size
        policy = "mixed_bfloat16" if config.precision == "bfloat16" else "float32"
        form = kernels.fast_form if config.fast else lambda kind: kind
        self.encoder = form(Encoder)(config, policy, name="encoder")
        if config.cell_type not in CELLS:
            raise UserError(f"cell_type: {show(config.cell_type)} is not one of {', '.join(CELLS)}; "
                            f"nearest: {nearest(config.cell_type, CELLS)}")
        cell = form(CELLS[config.cell_type])
        sizes = [sum(cell.sizes(config, level)) for level in range(config.levels)]
        self.cells = [
            cell(config, level, context_size=above + (action_size if level == 0 else 0),
                 obs_size=self.encoder.embed_size, name=f"level_{level}", dtype=policy)
            for level, above in enumerate([*sizes[1:], sizes[-1]])]
        name_layers(self, self.cells)
        self.decoder = form(Decoder)(config, sizes[0], policy, name="decoder")
        self.state_size = sizes[0]  # of level 0
        self.built = True
        kernels.check(self.parts.values())

    @property
    def parts(self):
        """The trainable parts by name."""
        return {layer.name: layer for layer in [self.encoder, *self.cells, self.decoder]}

    def initial_states(self, batch_size):
        return [State(*(tf.zeros([batch_size, size]) for size in cell.sizes(self.config, level)))
                for level, cell in enumerate(self.cells)]

    def noise(self, seed, batch_size, frames):
        """What the samples of every level are made from, [B, N_l, ...]: a function of the seed [2]."""
        noise = [cell.noise(fold_in(seed, level), batch_size, ticks)
                 for level, (cell, ticks) in enumerate(zip(self.cells, self.ticks(frames), strict=True))]
        return [tf.zeros_like(x) for x in noise] if self.config.cell_mean_only else noise

    def ticks(self, frames):
        """Ticks of each level that cover so many frames."""
        return [-(-frames // stride) for stride in self.config.strides]

    def unroll(self, frames, states, noise, embeddings=None, actions=None, observes=None):
        """Runs every level over `frames` frames, top level first.

        Args:
          frames: how many; the first one begins a tick of every level.
          states: a State per level, before the first tick.
          noise: per level, as of self.noise.
          embeddings: per level, [B, N_l, D]; None where no level observes.
          actions: [B, frames, A], for a model that takes them.
          observes: a bool per level; by default all do where there are embeddings.

        Returns: a Level per level.
        """
        observes = observes or [embeddings is not None] * len(self.cells)
        levels = [None] * len(self.cells)
        for level, ticks in reversed(list(enumerate(self.ticks(frames)))):
            reset = tf.zeros([ticks])
            if level == len(self.cells) - 1:
                context = tf.repeat(tf.zeros_like(state_vector(states[level]))[:, None], ticks, 1)
            else:
                factor = self.config.factors[level]
                context = tf.repeat(state_vector(levels[level + 1]), factor, axis=1)[:, :ticks]
                if self.config.cell_reset_state:
                    reset = tf.cast(tf.range(ticks) % factor == 0, tf.float32)
            if level == 0 and self.action_size:
                context = tf.concat([context, actions], -1)
            levels[level] = self.cells[level].scan(
                states[level], context, noise[level], reset,
                embeddings[level] if observes[level] else None)
        return levels

    # ---------------------------------------------------------------------------------- the loss

    def rollout(self, video, noise, states=None, actions=None):
        """Observes a video, or the stretch of one that follows states.

        Args:
          video: uint8 or float in [0, 1], [B, T, S, S, C].
          noise: per level, as of self.noise.
          states: a State per level, before the first frame; by default the initial ones.
          actions: [B, T, A], for a model that takes them.

        Returns: a Rollout.
        """
        video = to_float(video)
        states = states or self.initial_states(tf.shape(video)[0])
        return Rollout(video, self.unroll(
            video.shape[1], states, noise, self.encoder(video), actions))

    def nats(self, rollout):
        """What the loss and the logs are made from: a dict of nats summed over frames, [B, ...]."""
        return {term.name: term.nats(self, rollout) for term in TERMS} | {
            name: tf.stack([tf.reduce_sum(value(level), 1) for level in rollout.levels], -1)
            for name, value in SCALARS.items()}

    def objective(self, nats, frames, step):
        """The loss of so many frames at a step, from the averages over videos of self.nats.

        Returns: the loss in nats per frame, and a dict of the scalars that are logged.
        """
        terms = {term.name: term.weight(self.config, step) * term.total(self.config, nats[term.name])
                 / frames for term in TERMS}
        scalars = {f"{name}__level_{level}": value / frames
                   for name in SCALARS for level, value in enumerate(tf.unstack(nats[name]))}
        loss = tf.add_n(list(terms.values()))
        return loss, {"total_loss": loss, **terms, **scalars}

    def update(self, optimizer, video, step, actions=None, nats=None):
        """One training step on video [B, T, S, S, C], or on a replica's part of it.

        Args:
          step: int32 []; with config.seed it decides every random number.
          nats: a compiled form of (video, noise, actions) -> self.nats(self.rollout(...)) to use.

        Returns: the scalars that are logged, the same on every replica.
        """
        batch, frames = video.shape[:2]
        replicas, number = num_replicas()
        noise = [x[number * batch:(number + 1) * batch] for x in self.noise(
            tf.stack([self.config.seed, step]), batch * replicas, frames)]
        nats = nats or (lambda video, noise, actions: self.nats(
            self.rollout(video, noise, actions=actions)))
        with tf.GradientTape() as tape:
            # Free nats and KL balance act on averages over all videos, so replicas exchange these
            # within the tape. The gradient of the exchange is a sum over replicas again.
            averages = tf.nest.map_structure(
                lambda x: tf.reduce_mean(x, 0) / replicas, nats(video, noise, actions))
            loss, metrics = self.objective(sum_over_replicas(averages), frames, step)
            loss /= replicas
        variables = self.trainable_variables
        gradients = sum_over_replicas(tape.gradient(
            loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO))
        metrics["grad_norm"] = norm = tf.linalg.global_norm(gradients)
        if self.config.clip_grad_norm_by is not None:
            gradients, _ = tf.clip_by_global_norm(gradients, self.config.clip_grad_norm_by, norm)
        # Keras's optimizers sum over replicas too, what is the same on all of them already.
        optimizer.apply([gradient / replicas for gradient in gradients], variables)
        metrics["learning_rate"] = tf.convert_to_tensor(optimizer.learning_rate)
        return metrics

    # ------------------------------------------------------------------------ open-loop prediction

    def observed(self, use_obs=None):
        """Per level, whether it observes the context: by the config, or by another use_obs."""
        return check_use_obs(self.config.use_obs if use_obs is None else use_obs, len(self.cells))

    def observe_context(self, video, noise, actions=None, use_obs=None):
        """Observes the frames of the context, [B, ctx, S, S, C]; ctx is a multiple of strides[-1].

        use_obs: which levels observe, as in the config; by default as the config says.

        Returns: a Context.
        """
        video = to_float(video)
        observes = self.observed(use_obs)
        levels = self.unroll(
            video.shape[1], self.initial_states(tf.shape(video)[0]), noise,
            self.encoder(video) if any(observes) else None, actions, observes)
        one_step = levels[0]._replace(stoch=levels[0].prior.sample(noise[0]))
        return Context(list(map(last_state, levels)), state_vector(levels[0]), state_vector(one_step))

    def imagine(self, states, frames, noise, actions=None):
        """Runs the prior alone for so many frames after states, top level first.

        states: a State per level, after a whole number of ticks of the top level.

        Returns: the states of level 0, [B, frames, Z + H], to be decoded in any number of pieces, and
        the State of each level after the last frame.
        """
        levels = self.unroll(frames, states, noise, actions=actions)
        return state_vector(levels[0]), list(map(last_state, levels))

    def open_loop(self, video, context, seed, actions=None):
        """Reconstructs the first `context` frames of a short video and predicts the others from them.

        Returns: float32, of the shape of video, [B, T, S, S, C].
        """
        batch, frames = tf.shape(video)[0], video.shape[1]
        seen, unseen = (None, None) if actions is None else tf.split(
            actions, [context, frames - context], 1)
        observed = self.observe_context(
            video[:, :context], self.noise(fold_in(seed, 0), batch, context), seen)
        states, _ = self.imagine(
            observed.states, frames - context,
            self.noise(fold_in(seed, 1), batch, frames - context), unseen)
        return self.decoder(tf.concat([observed.posterior, states], 1))


# ------------------------------------------------------------------------- the terms of the loss


def nll(model, rollout):
    """Minus the log-density of all pixels of each video: [B]."""
    log_prob = model.decoder.log_prob(state_vector(rollout.levels[0]), rollout.video)
    return -tf.reduce_sum(log_prob, 1)


def kl(model, rollout):
    """KL(posterior || prior) of each video and level: [B, 1, L].

    Where its gradient is balanced, twice: as it reaches the prior alone, and the posterior: [B, 2, L].
    """
    def nats(posterior, prior):
        return tf.reduce_sum(posterior.kl(prior), 1)

    stop = tf.stop_gradient
    per_level = [
        [nats(level.posterior, level.prior)] if model.config.kl_grad_post_perc is None else [
            nats(tf.nest.map_structure(stop, level.posterior), level.prior),
            nats(level.posterior, tf.nest.map_structure(stop, level.prior))]
        for level in rollout.levels]
    return tf.transpose(tf.stack(per_level), [2, 1, 0])


def total_kl(config, nats):
    """The KL of all levels from its averages over videos, [1 or 2, L]: balanced, beyond free nats."""
    levels = nats[0]
    if config.kl_grad_post_perc is not None:
        share = config.kl_grad_post_perc
        levels = (1 - share) * nats[0] + tf.maximum(1.0, share * nats[1])
    if config.free_nats is not None:
        levels = tf.maximum(0.0, levels - config.free_nats)
    return tf.reduce_sum(levels if config.beta is None else config.beta * levels)


def kl_weight(config, step):
    """Rises from 0 to 1 over the first beta_warmup_steps."""
    return tf.minimum(1.0, tf.cast(step + 1, tf.float32) / max(1, config.beta_warmup_steps))


# A term: the name it is logged by; nats(model, rollout), summed over frames, [B, ...]; what becomes of
# their averages over videos, total(config, nats [...]); and weight(config, step).
Term = collections.namedtuple(
    "Term", "name nats total weight", defaults=[lambda config, nats: nats, lambda config, step: 1.0])

TERMS = [
    Term("nll_term", nll),
    Term("kl_term", kl, total_kl, kl_weight),
]

# What else is logged, of each level: nats of its ticks, [B, N].
SCALARS = {
    "avg_kl_prior_posterior": lambda level: level.posterior.kl(level.prior),
    "avg_entropy_prior": lambda level: level.prior.entropy(),
    "avg_entropy_posterior": lambda level: level.posterior.entropy(),
}


def adam(config):
    """The optimizer of the paper."""
    kind = kernels.FastAdam if config.fast else tf.keras.optimizers.Adam
    return kind(config.lr, epsilon=1e-4)


def parameters_text(model):
    """The trainable parameters, of all and of each part."""
    parts = ", ".join(f"{name} {part.count_params():,}" for name, part in model.parts.items())
    return f"Parameters: {model.count_params():,} ({parts})"


def state_vector(level):
    """[z, h] of every tick of a Level, or of a State: [..., Z + H]."""
    return tf.concat([level.stoch, level.deter], -1)


def last_state(level):
    return State(level.stoch[:, -1], level.deter[:, -1])


def num_replicas():
    """How many replicas there are, and the number of this one."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return 1, 0
    return context.num_replicas_in_sync, context.replica_id_in_sync_group


def sum_over_replicas(parts):
    if num_replicas()[0] == 1:
        return parts
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, parts)
