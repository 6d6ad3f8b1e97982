"""Trains a Clockwork VAE: python3 train.py --config configs/minerl.yml

The same command goes on from the newest checkpoint.
"""

import tools
from config import load_config, read_yaml
from flags import parse_self_check_flags, parse_train_flags


def read_config():
    """The config of the command line, and the keys that the file or a flag sets."""
    path, flags = parse_train_flags()
    return load_config(path, flags), read_yaml(path).keys() | flags.keys()


if __name__ == "__main__":
    # A wrong flag ends the script here, because importing TensorFlow takes seconds.
    tools.run_script(lambda: parse_self_check_flags() or read_config())

import startup

# isort: split
import contextlib
import math
import signal
import sys
import time

import numpy as np
import tensorflow as tf
import tqdm

import data_loader
import distribution
import run_directory
import runs
import self_check
from cwvae import CWVAE, adam, parameters_text
from logger import Logger
from validation import GIF_EXAMPLES, Means, Validation

FEW_CLIPS = 100
SHORTEST_INTERVAL = 50  # steps between two validations of a short run
SIGNALS_EVERY = 10  # steps after which several workers tell each other of signals


def main():
    if check := parse_self_check_flags():
        self_check.run(**check)
        return
    config, given = read_config()
    strategy = distribution.choose_strategy(config.batch_size)
    devices = distribution.Devices(strategy, config.batch_size)
    clips = data_loader.Clips(config, devices.worker, devices.num_workers)
    if config.actions == "onehot":
        config = config.replace(action_classes=clips.action_size)
    validation_data = data_loader.Sequences(config, config.eval_seq_len, "val")
    total = config.max_steps or max(1, config.num_epochs * clips.num_clips // config.batch_size)
    if devices.is_chief:
        config = with_intervals_for(total, config, given, print)
        with run_directory.claim_run_dir(config, clips.fingerprint, total):
            runs.keep_mean_frame(config.run_dir, clips)
            run(config, devices, clips, validation_data, total, print)
    else:
        run(config, devices, clips, validation_data, total, lambda *_: None)


def run(config, devices, clips, validation_data, total, say):
    """Trains to step `total` as the config says. Raises tools.Stopped after a signal."""
    say(f"Run directory: {config.run_dir}")
    tf.keras.utils.set_random_seed(config.seed)
    with devices.strategy.scope():
        model = CWVAE(config, clips.action_size)
        optimizer = adam(config)
        optimizer.build(model.trainable_variables)
        means = Means()
        checkpoints = runs.Checkpoints(
            config.run_dir, model=model, optimizer=optimizer, means=means)
        start = checkpoints.restore(config.init_from, say)
    devices.check_start(start)
    say(parameters_text(model))
    if start >= total:
        say(f"Trained for {start} steps already; raise num_epochs or max_steps to go on.")
        return
    say(f"{clips.num_clips:,} clips; from step {start} to {total}. {seen_text(config, clips, total)}")
    say(distribution.devices_text(devices, model))
    if validation_data.split != "val":
        say("The data has no split val: validation uses the test videos, as the authors' code does, and "
            "no checkpoint is called the best.")
    validation = Validation(config, model, validation_data, config.batch_size // devices.replicas)
    try:
        stopped = train(
            config, devices, clips, validation, model, optimizer, means, checkpoints, start, total)
    except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError) as error:
        if devices.num_workers == 1:
            raise
        sys.exit(f"train.py: a worker was lost ({error.message.splitlines()[0]}). "
                 f"Start all of them again: they go on from the last checkpoint.")
    if stopped:
        say(f"{signal.Signals(stopped).name}: saved step {checkpoints.step} in {config.run_dir}/model. "
            f"The same command goes on from there.")
        raise tools.Stopped(stopped)
    say(f"Trained for {total} steps. To evaluate: python3 eval.py --model-dir={config.run_dir}")


def seen_text(config, clips, total):
    """A sentence on how often training shows each clip, and a warning if there are few clips."""
    times = total * config.batch_size / clips.num_clips
    few = (f" {clips.num_clips} clips are few: the model will know them by heart; {FEW_CLIPS} or more "
           f"are better.") if clips.num_clips < FEW_CLIPS else ""
    return f"Each clip is seen {times:,.{0 if times >= 2 else 1}f} times.{few}"


def with_intervals_for(total, config, given, say):
    """The config with intervals that fit a short run: a tenth of its steps, but no less than 50.

    given: the keys that the user set. They keep their values.
    """
    longest = max(SHORTEST_INTERVAL, -(-total // 10))
    shorter = {key: longest for key in ("save_scalars_every", "save_gifs_every", "save_model_every")
               if key not in given and getattr(config, key) > longest}
    if shorter:
        say(f"{', '.join(shorter)}: every {longest} steps, since the run has {total}.")
    return config.replace(**shorter)


def learning_rate(config, step, total):
    """The learning rate of the step after `step` of `total`, from the config and these numbers alone."""
    warmup = config.lr_warmup_steps
    done = (step - warmup) / max(1, total - warmup)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.lr_schedule == "cosine":
        return config.lr * (1 + math.cos(math.pi * done)) / 2
    return config.lr * (1 - done if config.lr_schedule == "linear" else 1)


def train(config, devices, clips, validation, model, optimizer, means, checkpoints, start, total):
    """Trains from step `start` to `total`. Returns the number of the signal that stopped it, or 0."""
    update, compiles = devices.training_step(model, optimizer), distribution.compiles(devices, model)
    before = None  # The metrics of the step before are checked while a GPU computes this step.

    def load(step):
        """The batch of a step, and what the step takes of it, on the devices."""
        batch = clips.batch(step)
        return batch, devices.to_devices(
            {name: batch[name] for name in ("video", "actions") if name in batch})

    with (tools.Interrupts() as interrupts, Progress(config, start, total, devices.is_chief) as progress,
          contextlib.closing(data_loader.prefetch(load, start, total)) as batches):
        if devices.is_chief:
            records = Records(config, validation, means, checkpoints, start, total, progress)
        for index, (batch, on_devices) in batches:
            optimizer.learning_rate = learning_rate(config, index, total)
            with progress.first("training step", compiles):
                metrics = update(on_devices["video"], tf.constant(index), on_devices.get("actions"))
            means.add(metrics)
            stop_unless_finite(before, index - 1, clips)
            before, step = metrics, index + 1
            # All workers stop at the same step, or the others would wait for one that has stopped.
            asks = devices.num_workers == 1 or step % SIGNALS_EVERY == 0
            stops = max(devices.gather(interrupts.number)) if asks else 0
            due = what_is_due(config, step, total, stops)
            if due - {"gifs"}:
                stop_unless_finite(metrics, index, clips)
            if devices.is_chief:
                records.write(due, step, batch)
            progress.advance(metrics)
            if stops:
                return stops
    return 0


def what_is_due(config, step, total, stops):
    """Which records to write after a step: a set of "scalars", "gifs", "model" and "named model"."""
    every = {"scalars": config.save_scalars_every, "model": config.save_model_every,
             "named model": config.save_named_model_every,
             "gifs": config.save_gifs_every if config.save_gifs else None}
    due = {what for what, steps in every.items() if steps and step % steps == 0}
    if step == total:
        due |= {"scalars", "model"} | ({"gifs"} if config.save_gifs else set())
    return due | ({"model"} if stops else set())


class Records:
    """Writes the scalars, GIFs and checkpoints of a run. Only the chief has one."""

    def __init__(self, config, validation, means, checkpoints, start, total, progress):
        if not start:
            checkpoints.save(0)  # A run that has logged metrics always has a checkpoint.
        self._config, self._validation, self._checkpoints = config, validation, checkpoints
        self._means = means
        self._logger = Logger(config.run_dir, start, config)
        self._unused, self._progress = UnusedLevels(total), progress

    def write(self, due, step, batch):
        """due: the result of what_is_due. batch: the batch of the step."""
        if "scalars" in due:
            self._scalars(step)
        if "gifs" in due:
            self._gifs(step, batch)
        if "model" in due:
            self._checkpoints.save(step)
        if "named model" in due:
            self._checkpoints.save(step, f"model_{step}")

    def _scalars(self, step):
        metrics = self._means.take()
        with self._progress.first("validation", startup.use_xla(self._config)):
            scalars = self._validation.scalars(step)
        scalars |= {"learning_rate": metrics["learning_rate"]}
        # Losses compare only after the warm-up of beta, when the KL counts in full.
        warm = self._config.beta_warmup_steps
        best = self._validation.data.split == "val" and step > warm and (
            scalars["total_loss"] < self._logger.least_validation_loss(warm))
        self._logger.scalars(step, "train", metrics)
        self._logger.scalars(step, "val", scalars)
        self._unused.look(step, metrics, self._progress.say)
        if best:
            self._checkpoints.save(step, "model_best")

    def _gifs(self, step, batch):
        shown = {"val": self._validation.data.batch(0, GIF_EXAMPLES)}
        if self._config.seq_len > self._config.open_loop_ctx:
            shown["train"] = batch
        for split, videos in shown.items():
            with self._progress.first(f"GIF of {split} videos", startup.use_xla(self._config)):
                frames = self._validation.gif(videos, step)
            self._logger.gif(step, split, frames)


def stop_unless_finite(metrics, index, clips):
    """Ends the run if a step's loss or gradient is not finite, before anything is saved."""
    if metrics is None or np.isfinite(metrics["total_loss"] + metrics["grad_norm"]):
        return
    sys.exit(
        f"train.py: the loss of step {index + 1} is {float(metrics['total_loss'])} and its gradient's "
        f"norm {float(metrics['grad_norm'])}. Clips: {clips.describe(index)}. The newest checkpoint "
        f"is from before. A lower lr or clip_grad_norm_by may help.")


class UnusedLevels:
    """Names each level whose KL stays near 0 after a tenth of the run, once."""

    NATS = 0.01  # a frame

    def __init__(self, total):
        self._first, self._low, self._said = -(-total // 10), set(), set()

    def look(self, step, scalars, say):
        """Takes the training scalars of a logged step. say: prints a line."""
        if step < self._first:
            return
        low = {name for name, value in scalars.items()
               if name.startswith("avg_kl_prior_posterior") and value < self.NATS}
        for name in sorted(self._low & low - self._said):
            say(f"{name.split('__')[1]} is unused: its KL stays below {self.NATS} nats a frame. "
                f"free_nats, or a smaller beta, may help.")
        self._said |= self._low & low
        self._low = low


class Progress(tqdm.tqdm):
    """A progress bar with the loss, steps and frames a second, and the time left."""

    def __init__(self, config, start, total, shown):
        super().__init__(initial=start, total=total, unit="step", dynamic_ncols=True, disable=not shown)
        self._frames = config.batch_size * config.seq_len  # a step
        self._shown, self._known = time.monotonic(), set()

    def say(self, line):
        if not self.disable:
            self.write(line)

    @contextlib.contextmanager
    def first(self, what, compiles):
        """Announces the first call of a function, which prepares it, and then says how long it took."""
        if what in self._known:
            yield
            return
        self._known.add(what)
        self.say(f"{'Compiling' if compiles else 'Preparing'} the first {what}"
                 f"{', which may take minutes' * compiles}.")
        start = time.monotonic()
        yield
        self.say(f"The first {what} took {time.monotonic() - start:.1f} s.")

    def advance(self, metrics):
        if self.disable:
            return
        first = self.n == self.initial
        self.update()
        now = time.monotonic()
        # Reading the loss waits for the device, so this does not happen at every step.
        if first or now > self._shown + 0.5 or self.n == self.total:
            loss = float(metrics["total_loss"])
            rate = self.format_dict["rate"] or 0
            self.set_postfix_str(f"loss {loss:.4g}, {rate * self._frames:.0f} frames/s")
            self._shown = now


if __name__ == "__main__":
    tools.run_script(main)
