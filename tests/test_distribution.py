"""Training on two devices, and as two processes, equals training on one."""

import json
import os
import re
import shutil
import signal
import socket
import types

import numpy as np
import pytest
import tensorflow as tf
from conftest import finish, scalars, script, wait_for_step

import distribution
from tools import UserError


@pytest.mark.slow
def test_two_replicas_take_the_step_of_one():
    output = finish(script("tests/replicas.py"))
    assert output.count('"optimizer"') == 3
    on_two = [line.rsplit(", ", 1)[1]
              for line in output.splitlines() if line.startswith("Trains on 2 CPUs")]
    assert on_two == ["not compiled", "compiled by XLA", "not compiled"]  # as asked, as asked, and not


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def workers(*flags):
    """Two worker processes of train.py on loopback."""
    hosts = [f"127.0.0.1:{port}" for port in free_ports(2)]
    return [start_worker({"worker": hosts}, "worker", index, *flags) for index in range(2)]


def start_worker(cluster, kind, index, *flags):
    return script("train.py", *flags, env={**os.environ, "TF_CONFIG": json.dumps(
        {"cluster": cluster, "task": {"type": kind, "index": index}})})


@pytest.mark.slow
def test_two_workers_stop_together_resume_and_log_what_one_does(run_dir, workplace, tmp_path):
    flags = ["--config", workplace / "tiny.yml", "--log-root", tmp_path, "--save-gifs", "false"]
    chief, other = workers(*flags)
    run = wait_for_step(chief, tmp_path, 4)
    other.send_signal(signal.SIGTERM)
    output = finish(chief, -signal.SIGTERM)
    finish(other, -signal.SIGTERM)
    (step,) = re.findall(r"SIGTERM: saved step (\d+)", output)
    assert tf.train.latest_checkpoint(run / "model").endswith(f"ckpt-{step}")

    chief, other = workers(*flags)
    assert "Trained for 24 steps" in finish(chief)
    assert "Trained" not in finish(other)
    ours, theirs = scalars(run_dir), scalars(run)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            if name != "split":
                np.testing.assert_allclose(a[name], b[name], rtol=2e-3, atol=1e-4, err_msg=name)

    chief, other = workers(*flags, "--max-steps", 5000)
    wait_for_step(chief, tmp_path, 26)
    other.kill()
    other.communicate()
    output = finish(chief, 1)
    assert "a worker was lost" in output and "Traceback" not in output


@pytest.mark.slow
def test_workers_that_would_start_from_different_steps_are_refused(run_dir, workplace, tmp_path):
    """A chief job is one worker, the first, and not a second chief beside worker 0."""
    shutil.copytree(run_dir, tmp_path / "b" / run_dir.parent.name / run_dir.name)
    first, second = (f"127.0.0.1:{port}" for port in free_ports(2))
    processes = [
        start_worker({"chief": [first], "worker": [second]}, kind, 0, "--config",
                     workplace / "tiny.yml", "--log-root", tmp_path / log_root, "--max-steps", 30)
        for kind, log_root in [("chief", "a"), ("worker", "b")]]
    for process in processes:
        output = finish(process, 2)
        assert "worker 1 would start from step 24, but worker 0 from step 0" in output
        assert "Traceback" not in output
    assert len(list(tmp_path.glob("a/*/*/config.yml"))) == 1


@pytest.mark.parametrize("devices, used, fits", [
    (2, 2, None), (3, 2, 51), (4, 2, 48), (6, 5, 48), (7, 5, 49), (8, 5, 48), (1, 1, None)])
def test_as_many_devices_train_as_share_the_batch(devices, used, fits, monkeypatch, capsys):
    monkeypatch.setattr(tf.distribute, "MirroredStrategy", lambda names: names)
    names = [f"GPU:{number}" for number in range(devices)]
    chosen = distribution.choose_strategy(50, names)
    assert chosen == names[:used] if used > 1 else chosen is tf.distribute.get_strategy()
    said = capsys.readouterr().out
    assert (f"{used} of {devices} GPUs train" in said and f"{fits} would use all" in said) == bool(fits)
    assert not fits or fits % devices == 0


def test_a_chief_is_counted_before_the_workers(monkeypatch):
    cluster = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
    for kind, index, number in [("chief", 0, 0), ("worker", 0, 1), ("worker", 1, 2)]:
        monkeypatch.setenv(
            "TF_CONFIG", json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}}))
        strategy = types.SimpleNamespace(
            cluster_resolver=tf.distribute.cluster_resolver.TFConfigClusterResolver(),
            num_replicas_in_sync=3)
        devices = distribution.Devices(strategy, 6)
        assert (devices.worker, devices.num_workers, devices.is_chief) == (number, 3, number == 0)


@pytest.mark.parametrize("given", [
    "{}", "[", "3", '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
    '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": -1}}',
    '{"cluster": {"worker": ["a:1"]}, "task": {"type": "chief", "index": 0}}',
    '{"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "worker", "index": 0}}'])
def test_a_bad_cluster_is_one_line(given, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", given)
    with pytest.raises(UserError, match="names no cluster and task"):
        distribution.choose_strategy(50)


def test_a_batch_that_cannot_be_shared_is_one_line(monkeypatch):
    strategy = tf.distribute.get_strategy()
    monkeypatch.setattr(type(strategy), "num_replicas_in_sync", 4)
    with pytest.raises(UserError, match="batch_size: 50 cannot be shared among 4 devices; nearest: 48"):
        distribution.Devices(strategy, 50)
