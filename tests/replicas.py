"""Steps on one device and on two, on logical CPU devices. Run by test_distribution.py."""

import contextlib
import json
import pathlib
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import startup  # noqa: E402, F401

# isort: split
import numpy as np
import tensorflow as tf

import data_loader
import distribution
from config import Config
from cwvae import CWVAE, adam


def run(strategy, settings, optimizer_name, video, steps=2):
    """Returns the metrics of every step, and the variables and what they were before."""
    config = Config(
        dataset="moving_digits", levels=2, tmp_abs_factor=2, channels_mult=1 / 32, cell_stoch_size=3,
        cell_deter_size=5, cell_embed_size=16, enc_dense_embed_size=6, seq_len=6, open_loop_ctx=4,
        batch_size=4, **settings)
    devices = distribution.Devices(strategy, config.batch_size)
    tf.keras.utils.set_random_seed(0)
    with strategy.scope():
        model = CWVAE(config)
        optimizer = (tf.keras.optimizers.SGD(1e-3) if optimizer_name == "sgd"
                     else adam(config.replace(lr=1e-2)))
        optimizer.build(model.trainable_variables)
    before = [v.numpy() for v in model.trainable_variables]
    print(distribution.devices_text(devices, model))
    step = devices.training_step(model, optimizer)
    metrics = [
        {name: float(value) for name, value in step(
            devices.to_devices({"video": video})["video"], tf.constant(i), None).items()}
        for i in range(steps)]
    return metrics, [v.numpy() for v in model.trainable_variables], before


def the_next_batch_is_on_the_devices_before_it_is_wanted(strategy, video):
    devices, placed = distribution.Devices(strategy, len(video)), [threading.Event() for _ in range(3)]

    def load(step):
        batch = devices.to_devices({"video": video + step})
        placed[step].set()
        return batch

    with contextlib.closing(data_loader.prefetch(load, 0, 3)) as batches:
        next(batches)
        assert all(event.wait(60) for event in placed)  # Both, while the first step runs.
        for step, batch in batches:
            parts = strategy.experimental_local_results(batch["video"])
            np.testing.assert_array_equal(np.concatenate([x.numpy() for x in parts]), video + step)
            numbers = [int(x.device.rsplit(":", 1)[1]) for x in parts]
            assert numbers == list(range(devices.replicas)), numbers


def main():
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 3)
    video = np.random.default_rng(0).integers(0, 256, [4, 6, 64, 64, 1], dtype=np.uint8)
    mirrored = distribution.choose_strategy(4, ["CPU:0", "CPU:1", "CPU:2"])
    assert mirrored.num_replicas_in_sync == 2
    for strategy in (tf.distribute.get_strategy(), mirrored):
        the_next_batch_is_on_the_devices_before_it_is_wanted(strategy, video)
    coupled = dict(clip_grad_norm_by=None, kl_grad_post_perc=0.8, free_nats=0.5)
    for optimizer, settings, jit in [
            ("adam", dict(clip_grad_norm_by=1.0), False), ("sgd", coupled, True),
            ("sgd", coupled | dict(cell_type="CategoricalRSSMCell", cell_stoch_classes=3), True)]:
        one, ours, before = run(tf.distribute.get_strategy(), settings, optimizer, video)
        two, theirs, _ = run(mirrored, settings | dict(jit=jit), optimizer, video)
        for a, b in zip(one, two, strict=True):
            for name in a:
                np.testing.assert_allclose(a[name], b[name], rtol=1e-4, atol=1e-5, err_msg=name)
        moved = [a - b for a, b in zip(ours, before, strict=True)]
        also = [a - b for a, b in zip(theirs, before, strict=True)]
        distance = tf.linalg.global_norm([a - b for a, b in zip(moved, also, strict=True)])
        assert float(distance / tf.linalg.global_norm(moved)) < 1e-3, (settings, optimizer)
        print(json.dumps(
            {"settings": settings, "optimizer": optimizer, "jit": jit, "loss": one[-1]["total_loss"]}))


if __name__ == "__main__":
    main()
