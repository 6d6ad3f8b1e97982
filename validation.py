"""The scalars that a run logs: means over training steps, and the loss of validation videos."""

import tensorflow as tf

import pictures
import startup
from cells import fold_in
from cwvae import in_chunks, last_state, over_videos

# Validation folds these numbers into its seeds. They differ from the number of any level.
VALIDATION, OPEN_LOOP = 2**30, 2**30 + 1
GIF_EXAMPLES, GIF_PREDICTED = 4, 100
PREFIX = "sum_of_"  # of the names of the variables of Means


class Means(tf.Module):
    """The mean of each scalar over the steps since the last `take`, but the learning rate as it is.

    The sums are variables on the device, and part of a checkpoint that holds this object.
    """

    LAST = ("learning_rate",)

    def add(self, metrics):
        """Adds the scalars of a step: a dict of tensors []."""
        for name in metrics:
            if not hasattr(self, PREFIX + name):
                # TensorFlow restores this variable as soon as it is made, if the checkpoint holds it.
                setattr(self, PREFIX + name, tf.Variable([0.0, 0.0]))  # the sum and the count
        self._add(dict(metrics))

    @tf.function(autograph=False)
    def _add(self, metrics):
        for name, value in metrics.items():
            total = getattr(self, PREFIX + name)
            total.assign(tf.stack([value, 1.0]) + (0.0 if name in self.LAST else total))

    def take(self):
        """Returns the means, a dict of float32, and sets the sums to 0."""
        means = {}
        for key, variable in vars(self).items():
            if isinstance(variable, tf.Variable):
                total, count = variable.numpy()
                if count:
                    means[key.removeprefix(PREFIX)] = total / count
                variable.assign([0.0, 0.0])
        return means


class Validation:
    """Scalars and open-loop GIFs of validation videos.

    Args:
      config: a Config; model: a CWVAE; data: data_loader.Sequences.
      rows: how many sequences the model observes at once, seq_len frames at a time.
    """

    def __init__(self, config, model, data, rows):
        self.config, self.model, self.data = config, model, data
        self.rows = rows
        self.chunk = max(1, config.seq_len // config.strides[-1]) * config.strides[-1]
        self._observe = startup.graph(self._sum_nats, config)
        self._open_loop = startup.graph(model.open_loop, config)

    def scalars(self, step):
        """The scalars of CWVAE.loss, averaged over num_val_batches batches of evaluation sequences.

        If there are fewer sequences, all of them count.
        """
        config, total = self.config, []
        count = min(len(self.data), config.num_val_batches * config.batch_size)
        for first in range(0, count, config.batch_size):
            batch = self.data.batch(first, min(config.batch_size, count - first))
            seed = fold_in([config.seed, step], VALIDATION, first // config.batch_size)
            total += self._nats_of_batch(batch, seed)
        mean = tf.nest.map_structure(lambda *x: tf.add_n(x) / count, *total)
        return self.model.loss(None, step - 1, lambda _: mean, config.eval_seq_len)[1]

    def _nats_of_batch(self, batch, seed):
        """Yields the nats of a batch in pieces: some of its sequences, a chunk of frames at a time."""
        size = len(batch["video"])
        for row in range(0, size, self.rows):
            rows = slice(row, row + self.rows)
            video, actions = (x if x is None else x[rows, :self.config.eval_seq_len]
                              for x in (batch["video"], batch.get("actions")))

            def noise(start, frames, rows=rows):
                return [x[rows] for x in self.model.noise(fold_in(seed, start), size, frames)]

            yield from in_chunks(self._observe, video, actions,
                                 self.model.initial_states(len(video)), noise, self.chunk)

    def _sum_nats(self, video, noise, states, actions):
        rollout = self.model.rollout(video, noise, states, actions)
        nats = tf.nest.map_structure(lambda x: tf.reduce_sum(x, 0), nats_of_videos(self.model, rollout))
        return nats, [last_state(level) for level in rollout.levels]

    def gif(self, batch, step):
        """The frames of a GIF of a few examples: truth above open-loop prediction above error."""
        frames = self.config.open_loop_ctx + GIF_PREDICTED
        video, actions = (
            x if x is None else x[:GIF_EXAMPLES, :frames]
            for x in (batch["video"], batch.get("actions")))
        seed = fold_in([self.config.seed, step], OPEN_LOOP)
        prediction = self._open_loop(video, self.config.open_loop_ctx, seed, actions)
        return pictures.training_gif_frames(video, prediction.numpy())


def nats_of_videos(model, rollout):
    """The nats of each video of a Rollout that CWVAE.loss averages, nested [B, ...]."""
    found = []

    def keep(nats):
        found.append(nats())
        return over_videos(lambda: found[0])

    model.loss(rollout, 0, keep)
    return found[0]
