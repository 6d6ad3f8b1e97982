"""The Clockwork VAE: its hierarchy of levels, its loss and its open-loop prediction.

Saxena, Ba, Hafner: Clockwork Variational Autoencoders. NeurIPS 2021, arXiv 2102.09532.
"""

import collections

import tensorflow as tf

import kernels
from cells import CELLS, State, fold_in, shape
from cnns import DECODERS, ENCODERS, name_layers
from config import check_use_obs, nearest, show
from pixels import to_float
from tools import UserError

# A video, float [B, T, S, S, C], and the Level of each level that it was observed with.
Rollout = collections.namedtuple("Rollout", "video levels")

# The observed context. states: the last State of each level. posterior and prior: the states of level 0,
# [B, ctx, Z + H]. Decoded, the posterior's reconstruct frames; the prior's predict them one step ahead.
Context = collections.namedtuple("Context", "states posterior prior")


def over_videos(nats):
    """Averages the results of nats(), nested [B, ...], over the videos of this device."""
    return tf.nest.map_structure(lambda x: tf.reduce_mean(x, 0), nats())


class CWVAE(tf.keras.Model):
    """A Clockwork VAE. Level 0 is at the bottom; level l ticks once every strides[l] frames.

    Args:
      config: a Config.
      action_size: width A of the actions that condition the levels `action_levels`; 0 for none.
    """

    def __init__(self, config, action_size=0):
        super().__init__(name="cwvae")
        del self.loss  # Keras sets an attribute of this name, which would hide our method.
        self.config, self.action_size = config, action_size
        policy = "mixed_bfloat16" if config.precision == "bfloat16" else "float32"
        form = kernels.fast_form if config.fast else lambda kind: kind
        self.encoder = form(named(config, "encoder_type", ENCODERS))(config, policy, name="encoder")
        cell = form(named(config, "cell_type", CELLS))
        sizes = [sum(cell.sizes(config, level)) for level in range(config.levels)]
        self.cells = [
            cell(config, level, context_size=above + action_size * frames,
                 obs_size=self.encoder.embed_size, name=f"level_{level}", dtype=policy)
            for level, (above, frames) in enumerate(
                zip([*sizes[1:], sizes[-1]], self.action_frames, strict=True))]
        name_layers(self, self.cells)
        self.decoder = form(named(config, "decoder_type", DECODERS))(
            config, sizes[0], policy, name="decoder")
        self.state_size = sizes[0]  # of level 0
        self.built = True

    @property
    def parts(self):
        """The trainable parts by name."""
        return {layer.name: layer for layer in [self.encoder, *self.cells, self.decoder]}

    @property
    def action_frames(self):
        """How many actions a tick of each level sees: those that led to its frames, or none."""
        upper = self.config.action_levels == "all"
        return [1, *(stride if upper else 0 for stride in self.config.strides[1:])]

    def initial_states(self, batch_size):
        return [State(tf.zeros([batch_size, cell.stoch_size]), tf.zeros([batch_size, cell.deter_size]))
                for cell in self.cells]

    def noise(self, seed, batch_size, frames):
        """The noise of every level's samples, [B, N_l, ...]: a function of the seed [2] alone."""
        noise = [cell.noise(fold_in(seed, level), batch_size, ticks)
                 for level, (cell, ticks) in enumerate(zip(self.cells, self.ticks(frames), strict=True))]
        return [tf.zeros_like(x) for x in noise] if self.config.cell_mean_only else noise

    def ticks(self, frames):
        """How many ticks each level takes to cover so many frames."""
        return [-(-frames // stride) for stride in self.config.strides]

    def unroll(self, frames, states, noise, embeddings=None, actions=None, observes=None):
        """Runs every level over `frames` frames, top level first.

        Args:
          frames: how many; the first one begins a tick of every level.
          states: a State per level, before the first tick.
          noise: of each level, from self.noise.
          embeddings: of each level, [B, N_l, D]; None if no level observes.
          actions: [B, frames, A], for a model that takes them.
          observes: a bool per level; by default every level observes if there are embeddings.

        Returns: a Level per level.
        """
        observes = observes or [embeddings is not None] * len(self.cells)
        levels, factors = [None] * len(self.cells), self.config.factors
        for level, ticks in reversed(list(enumerate(self.ticks(frames)))):
            reset = tf.zeros([ticks])
            if level == len(self.cells) - 1:
                batch, size = shape(state_vector(states[level]))
                context = tf.zeros([batch, ticks, size])
            else:
                context = tf.repeat(state_vector(levels[level + 1]), factors[level], axis=1)[:, :ticks]
                if self.config.cell_reset_state:
                    reset = tf.cast(tf.range(ticks) % factors[level] == 0, tf.float32)
            if self.action_size and self.action_frames[level]:
                context = tf.concat([context, windows(actions, self.action_frames[level])], -1)
            levels[level] = self.cells[level].scan(
                states[level], context, noise[level], reset,
                embeddings[level] if observes[level] else None)
        return levels

    # ---------------------------------------------------------------------------------- the loss

    def rollout(self, video, noise, states=None, actions=None):
        """Observes a video, or a stretch of a video that begins after the given states.

        Args:
          video: uint8 or float in [0, 1], [B, T, S, S, C].
          noise: of each level, from self.noise.
          states: a State per level, before the first frame; by default the initial ones.
          actions: [B, T, A], for a model that takes them.

        Returns: a Rollout.
        """
        video = to_float(video)
        states = states or self.initial_states(shape(video)[0])
        return Rollout(video, self.unroll(
            video.shape[1], states, noise, self.encoder(video), actions))

    def loss(self, rollout, step, average=over_videos, frames=None):
        """The negative evidence lower bound, (nll + kl) / T, in nats per frame.

        Args:
          rollout: a Rollout.
          step: int32 []; the weight of the KL rises over the first beta_warmup_steps.
          average: calls its argument, which gives nats of each video, nested [B, ...], and returns
            their averages over the videos of all devices. The rest of the loss sees only the averages.
          frames: T, the number of frames; by default that of the rollout.

        Returns: the loss, and a dict of the scalars to log.
        """
        config, frames = self.config, frames or rollout.video.shape[1]
        clips = frames / config.seq_len  # free_nats, and the 1 nat of the balance, are for one clip.
        share = config.kl_grad_post_perc

        def of_each_video():  # nats: terms of the loss [B], and others by level [B, L]
            video, levels = rollout
            pixels = self.decoder.pixels(state_vector(levels[0]))  # p(video | states)
            terms = {"nll_term": -tf.reduce_sum(pixels.log_prob(video), 1)}
            # Add a term of your own in a line here. pixels.mean holds the decoded frames. For example:
            # terms["memory_term"] = 1e-3 * tf.reduce_sum(levels[0].deter ** 2, [1, 2])
            nats = {"avg_kl_prior_posterior": [level.posterior.kl(level.prior) for level in levels],
                    "avg_entropy_prior": [level.prior.entropy() for level in levels],
                    "avg_entropy_posterior": [level.posterior.entropy() for level in levels]}
            if share is not None:
                nats |= {"to_prior": [stopped(level.posterior).kl(level.prior) for level in levels],
                         "to_posterior": [level.posterior.kl(stopped(level.prior)) for level in levels]}
            return terms, {name: tf.stack([tf.reduce_sum(ticks, 1) for ticks in levels], -1)
                           for name, levels in nats.items()}

        terms, nats = average(of_each_video)
        kl = nats["avg_kl_prior_posterior"]  # KL(posterior || prior) of each level, [L]
        if share is not None:  # (1 - a) KL(stop(q) || p) + max(1, a KL(q || stop(p)))
            kl = (1 - share) * nats["to_prior"] + tf.maximum(clips, share * nats["to_posterior"])
        if config.free_nats is not None:
            kl = tf.maximum(0.0, kl - tf.multiply(clips, config.free_nats))
        if config.beta is not None:
            kl *= config.beta
        warmup = tf.minimum(1.0, tf.cast(step + 1, tf.float32) / max(1, config.beta_warmup_steps))
        terms["kl_term"] = warmup * tf.reduce_sum(kl)

        terms = {name: term / frames for name, term in terms.items()}
        loss = tf.add_n(list(terms.values()))
        scalars = {f"{name}__level_{level}": value / frames for name in nats if name.startswith("avg_")
                   for level, value in enumerate(tf.unstack(nats[name]))}
        return loss, {"total_loss": loss, **terms, **scalars}

    # ------------------------------------------------------------------------ open-loop prediction

    def observed(self, use_obs=None):
        """Whether each level observes the context, a tuple of bools. use_obs: as in the config."""
        return check_use_obs(self.config.use_obs if use_obs is None else use_obs, len(self.cells))

    def observe_context(self, video, noise, actions=None, use_obs=None):
        """Observes the frames of the context, [B, ctx, S, S, C]; ctx is a multiple of strides[-1].

        use_obs: which levels observe, as in the config, whose value is the default.

        Returns: a Context.
        """
        video = to_float(video)
        observes = self.observed(use_obs)
        levels = self.unroll(
            video.shape[1], self.initial_states(shape(video)[0]), noise,
            self.encoder(video) if any(observes) else None, actions, observes)
        one_step = levels[0]._replace(stoch=levels[0].prior.sample(noise[0]))
        return Context(list(map(last_state, levels)), state_vector(levels[0]), state_vector(one_step))

    def imagine(self, states, frames, noise, actions=None):
        """Runs the prior alone for so many frames after the given states, top level first.

        states: a State per level, after a whole number of ticks of the top level.

        Returns: the states of level 0, [B, frames, Z + H], and the State of each level after the last
        frame.
        """
        levels = self.unroll(frames, states, noise, actions=actions)
        return state_vector(levels[0]), list(map(last_state, levels))

    def open_loop(self, video, context, seed, actions=None):
        """Reconstructs the first `context` frames of a short video and predicts the others from them.

        Returns: float32, of the shape of video, [B, T, S, S, C].
        """
        batch, frames = shape(video)[:2]
        seen, unseen = (None, None) if actions is None else tf.split(
            actions, [context, frames - context], 1)
        observed = self.observe_context(
            video[:, :context], self.noise(fold_in(seed, 0), batch, context), seen)
        states, _ = self.imagine(
            observed.states, frames - context,
            self.noise(fold_in(seed, 1), batch, frames - context), unseen)
        return self.decoder(tf.concat([observed.posterior, states], 1))


def named(config, key, kinds):
    """The class that a key of the config names. Raises UserError if there is no such class."""
    name = getattr(config, key)
    if name not in kinds:
        raise UserError(f"{key}: {show(name)} is not one of {', '.join(kinds)}; "
                        f"nearest: {nearest(name, kinds)}")
    return kinds[name]


def adam(config):
    """The optimizer of the paper."""
    kind = kernels.FastAdam if config.fast else tf.keras.optimizers.Adam
    return kind(config.lr, epsilon=1e-4)


def parameters_text(model):
    """How many trainable parameters the model and each of its parts have."""
    parts = ", ".join(f"{name} {part.count_params():,}" for name, part in model.parts.items())
    return f"Parameters: {model.count_params():,} ({parts})"


def windows(actions, length):
    """Actions [B, T, A] of each tick of so many frames, zeros after the last one: [B, N, length A]."""
    frames, size = actions.shape[1:]
    ticks = -(-frames // length)
    padded = tf.pad(actions, [[0, 0], [0, ticks * length - frames], [0, 0]])
    return tf.reshape(padded, [shape(actions)[0], ticks, length * size])


def stopped(distribution):
    """The same distribution, but no gradient reaches its parameters."""
    return tf.nest.map_structure(tf.stop_gradient, distribution)


def state_vector(level):
    """[z, h] of every tick of a Level, or of a State: [..., Z + H]."""
    return tf.concat([level.stoch, level.deter], -1)


def last_state(level):
    return State(level.stoch[:, -1], level.deter[:, -1])


def in_chunks(observe, video, actions, states, noise, length):
    """Observes a long video a stretch at a time, and yields a result for each stretch.

    Args:
      observe: maps (video, noise, states, actions) of a stretch to a result and the States after it.
      video: [B, T, ...]; actions: [B, T, A], or None.
      states: a State per level, before the first frame.
      noise: maps the first frame of a stretch and its number of frames to its noise.
      length: frames of a stretch, a multiple of the top level's frames per tick.
    """
    for start in range(0, video.shape[1], length):
        piece = video[:, start:start + length]
        result, states = observe(piece, noise(start, piece.shape[1]), states,
                                 None if actions is None else actions[:, start:start + length])
        yield result
