"""One device or many: which strategy to train with, and what part of a batch is whose."""

import json
import os

import numpy as np
import tensorflow as tf

from tools import UserError


def choose_strategy():
    """The strategy for the devices there are.

    With TF_CONFIG set, one worker of several (MultiWorkerMirroredStrategy); with several GPUs, all of
    them (MirroredStrategy); otherwise the one device. Raises UserError where TF_CONFIG is no cluster.
    """
    if "TF_CONFIG" in os.environ:
        try:
            cluster = json.loads(os.environ["TF_CONFIG"])
            cluster["cluster"]["worker"][cluster["task"]["index"]]
        except (ValueError, KeyError, IndexError, TypeError):
            raise UserError(
                f"TF_CONFIG: {os.environ['TF_CONFIG']!r} names no cluster and task; expected "
                '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
            ) from None
        return tf.distribute.MultiWorkerMirroredStrategy()
    if len(tf.config.list_logical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return tf.distribute.get_strategy()


class Share:
    """This worker's part in training.

    worker, num_workers: its number among how many. is_chief: whether it logs and saves.
    """

    def __init__(self, strategy, batch_size):
        resolver = strategy.cluster_resolver
        cluster = resolver.cluster_spec().as_dict().get("worker") if resolver else None
        self.strategy = strategy
        self.num_workers = len(cluster) if cluster else 1
        self.worker = resolver.task_id if cluster else 0
        self.is_chief = self.worker == 0
        self.replicas = strategy.num_replicas_in_sync
        self._sum = None
        if batch_size % self.replicas:
            near = max(1, round(batch_size / self.replicas)) * self.replicas
            raise UserError(f"batch_size: {batch_size} cannot be shared among {self.replicas} devices; "
                            f"nearest: {near}")

    def to_devices(self, array):
        """A worker's part of a batch, by replica. None stays None."""
        if array is None or self.replicas == 1:
            return array
        local = self.replicas // self.num_workers
        parts = np.split(array, local)
        return self.strategy.experimental_distribute_values_from_function(
            lambda context: tf.constant(parts[context.replica_id_in_sync_group % local]))

    def any(self, flag):
        """Whether a flag is set on any worker; all workers must ask at the same step."""
        if self.num_workers == 1:
            return flag
        if self._sum is None:
            self._sum = tf.function(lambda x: self.strategy.reduce(
                tf.distribute.ReduceOp.SUM, self.strategy.run(tf.identity, (x,)), axis=None))
        return float(self._sum(tf.constant(float(flag)))) > 0

    def training_step(self, model, optimizer, jit):
        """A function of video, seed and actions that updates the model on all devices.

        jit: whether to compile it: whole on one device; on several, the gradient, unless free nats or
            KL balance make replicas exchange their KL within.
        """
        if self.replicas == 1:
            return tf.function(
                lambda video, seed, actions: model.update(optimizer, video, seed, actions),
                jit_compile=jit, autograph=False)
        # Replicas cannot exchange anything within a compiled function.
        gradients = None if model.couples_videos else tf.function(
            model.gradients, jit_compile=jit, autograph=False)

        @tf.function(autograph=False)
        def step(video, seed, actions):
            metrics = self.strategy.run(
                model.update, (optimizer, video, seed, actions), {"gradients": gradients})
            # The same on every replica.
            return {name: self.strategy.experimental_local_results(value)[0]
                    for name, value in metrics.items()}

        return step
