"""The training step, on one device or on many, and which device gets which part of a batch."""

import functools
import json
import os
import sys

import numpy as np
import tensorflow as tf

import kernels
import startup
from cwvae import over_videos
from tools import UserError


def choose_strategy(batch_size, devices=None):
    """The tf.distribute strategy for the devices of this machine.

    - TF_CONFIG is set: this process is one worker of several (MultiWorkerMirroredStrategy).
    - There are several GPUs: as many train as divide batch_size evenly (MirroredStrategy).
    - Otherwise one device trains.

    devices: names of devices to use instead of the GPUs.
    Raises UserError if TF_CONFIG describes no cluster.
    """
    if "TF_CONFIG" in os.environ:
        try:
            given = json.loads(os.environ["TF_CONFIG"])
            cluster, task = given["cluster"], given["task"]
            known = (cluster.keys() <= {"chief", "worker"}
                     and 0 <= task["index"] < len(cluster[task["type"]]))
        except (ValueError, KeyError, TypeError, AttributeError):
            known = False
        if not known:
            raise UserError(
                f"TF_CONFIG: {os.environ['TF_CONFIG']!r} names no cluster and task; expected "
                '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}')
        return tf.distribute.MultiWorkerMirroredStrategy()
    devices = devices or [device.name for device in tf.config.list_logical_devices("GPU")]
    used = max((n for n in range(1, len(devices) + 1) if batch_size % n == 0), default=1)
    if used < len(devices):
        print(f"{used} of {len(devices)} GPUs train: more do not divide batch_size {batch_size}. "
              f"{_nearest_multiple(batch_size, len(devices))} would use all.")
    return tf.distribute.MirroredStrategy(devices[:used]) if used > 1 else tf.distribute.get_strategy()


def _nearest_multiple(number, of):
    return max(1, round(number / of)) * of


def compiles(devices, model):
    """Whether XLA compiles the training step. On several devices their exchange is never compiled.

    TensorFlow differentiates a loop with values that cannot leave a compiled function. So on several
    devices it compiles nothing if a cell has no fast form.
    """
    return startup.use_xla(model.config) and (
        devices.replicas == 1 or all(map(kernels.runs_fast, model.cells)))


def devices_text(devices, model):
    """A line on the training: kind and number of devices, precision, compiled or not."""
    gpus = tf.config.list_physical_devices("GPU")
    kind = ("GPU" if gpus else "CPU") + "s" * (devices.replicas > 1)
    if gpus:
        names = {tf.config.experimental.get_device_details(gpu).get("device_name") for gpu in gpus}
        kind += f" ({', '.join(sorted(map(str, names)))})"
    workers = f" of {devices.num_workers} workers" if devices.num_workers > 1 else ""
    compiled = "compiled by XLA" if compiles(devices, model) else (
        "its loops compiled by XLA" if any(map(kernels.compiles_loops, model.cells)) else "not compiled")
    return f"Trains on {devices.replicas} {kind}{workers}, in {model.config.precision}, {compiled}"


class Devices:
    """The devices that train together, and the part of this worker in it.

    worker: its number, from 0 to num_workers - 1. is_chief: whether this worker logs and saves.
    replicas: how many devices all workers have together.
    """

    def __init__(self, strategy, batch_size):
        resolver = strategy.cluster_resolver
        cluster = resolver.cluster_spec().as_dict() if resolver else {}
        chiefs = len(cluster.get("chief", []))
        self.strategy = strategy
        self.num_workers = chiefs + len(cluster.get("worker", [])) or 1
        # TensorFlow counts a chief before the workers.
        self.worker = resolver.task_id + chiefs * (resolver.task_type == "worker") if cluster else 0
        self.is_chief = self.worker == 0
        self.replicas = strategy.num_replicas_in_sync
        if batch_size % self.replicas:
            near = _nearest_multiple(batch_size, self.replicas)
            raise UserError(f"batch_size: {batch_size} cannot be shared among {self.replicas} devices; "
                            f"nearest: {near}")

    def to_devices(self, batch):
        """Puts each replica's share of this worker's batch onto the replica.

        batch: a dict of arrays [B, ...]. Returns the same with tensors on the devices, where a training
        step can use them at once: a thread may put the next batch there meanwhile.
        """
        if self.replicas == 1:
            devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
            with tf.device(devices[0].name):
                return {name: tf.identity(array) for name, array in batch.items()}
        mine = self.strategy.extended.worker_devices

        def part(array, replica):
            with tf.device(mine[replica % len(mine)]):
                return tf.identity(np.split(array, len(mine))[replica % len(mine)])

        return {name: self.strategy.experimental_distribute_values_from_function(
                    lambda context, array=array: part(array, context.replica_id_in_sync_group))
                for name, array in batch.items()}

    def gather(self, number):
        """Lists a whole number of every worker. All workers must call this at the same step."""
        if self.num_workers == 1:
            return [number]
        mine = np.zeros(self.num_workers)
        mine[self.worker] = number * self.num_workers / self.replicas  # Each of its devices adds it.
        return np.rint(self._sum(tf.constant(mine))).astype(int).tolist()

    @functools.cached_property
    def _sum(self):
        return tf.function(lambda x: self.strategy.reduce(
            tf.distribute.ReduceOp.SUM, self.strategy.run(tf.identity, (x,)), axis=None))

    def check_start(self, step):
        """Raises UserError unless all workers start from the same step."""
        steps = self.gather(step)
        other = next((worker for worker, its in enumerate(steps) if its != steps[0]), None)
        if other is not None:
            raise UserError(
                f"log_root: worker {other} would start from step {steps[other]}, but worker 0 from step "
                f"{steps[0]}; all workers need the same run directory on one file system")

    def training_step(self, model, optimizer):
        """Returns a function of (video, step, actions) that runs `update` on all devices."""
        jit = compiles(self, model)
        if self.replicas == 1:
            return tf.function(functools.partial(update, model, optimizer),
                               jit_compile=jit, autograph=False)
        compile_part = functools.partial(tf.function, jit_compile=jit, autograph=False)
        # `update` sums the gradients over replicas. Keras would sum them once more.
        optimizer._all_reduce_sum_gradients = lambda gradients_and_variables: gradients_and_variables

        @tf.function(autograph=False)
        def step_on_all(video, step, actions):
            metrics = self.strategy.run(
                update, (model, optimizer, video, step, actions), {"compile_part": compile_part})
            # The metrics are the same on every replica.
            return {name: self.strategy.experimental_local_results(value)[0]
                    for name, value in metrics.items()}

        return step_on_all


# ------------------------------------------------------------------------------- the training step


def update(model, optimizer, video, step, actions=None, compile_part=lambda function: function):
    """One training step on video [B, T, S, S, C], or on a replica's part of it.

    Args:
      step: int32 []; with the config's seed it decides every random number.
      compile_part: compiles a function that runs on this replica alone. Replicas exchange numbers only
        outside of such functions.

    Returns: the scalars to log, the same on every replica.
    """
    config, (batch, frames) = model.config, video.shape[:2]
    replicas, number = _replicas()
    noise = model.noise(tf.stack([config.seed, step]), batch * replicas, frames)
    noise = [x[number * batch:(number + 1) * batch] for x in noise]
    with tf.GradientTape() as tape:
        rollout = compile_part(model.rollout)(video, noise, actions=actions)
        # Free nats and KL balance act on averages over all videos, so the replicas exchange these
        # within the tape. The gradient of this exchange is a sum over replicas, too.
        loss, metrics = model.loss(rollout, step, lambda nats: tf.nest.map_structure(
            lambda x: x / replicas, _sum_over_replicas(over_videos(compile_part(nats)))))
        loss /= replicas
    variables = model.trainable_variables
    gradients = _sum_over_replicas(_zeros_for_none(model, tape.gradient(loss, variables)))
    metrics["grad_norm"] = norm = tf.linalg.global_norm(gradients)
    if config.clip_grad_norm_by is not None:
        gradients, _ = tf.clip_by_global_norm(gradients, config.clip_grad_norm_by, norm)
    optimizer.apply(gradients, variables)
    metrics["learning_rate"] = tf.convert_to_tensor(optimizer.learning_rate)
    return metrics


def _zeros_for_none(model, gradients):
    """The gradients, with zeros for the variables that the loss does not depend on. Names these once."""
    variables = model.trainable_variables
    unreached = {id(variable) for gradient, variable in zip(gradients, variables, strict=True)
                 if gradient is None}
    if unreached:
        names = ", ".join(f"{name}/{variable.path}" for name, part in model.parts.items()
                          for variable in part.trainable_variables if id(variable) in unreached)
        _say_once(f"The loss does not depend on {names}: training leaves these variables as they are.")
    return [tf.zeros(variable.shape) if gradient is None else gradient
            for gradient, variable in zip(gradients, variables, strict=True)]


@functools.cache
def _say_once(line):
    print(line, file=sys.stderr)


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
