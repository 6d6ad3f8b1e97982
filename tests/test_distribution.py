"""Training on two devices, and as two processes, equals training on one."""

import json
import os
import re
import signal
import socket

import numpy as np
import pytest
import tensorflow as tf
from conftest import finish, scalars, script, wait_for_step

import distribution
from tools import UserError


def test_two_replicas_take_the_step_of_one():
    output = finish(script("tests/replicas.py"))
    assert output.count('"optimizer"') == 3


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
    return [script("train.py", *flags, env={**os.environ, "TF_CONFIG": json.dumps(
        {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": i}})}) for i in range(2)]


def test_two_workers_log_what_one_does_and_resume(run_dir, workplace, tmp_path):
    flags = ["--config", workplace / "tiny.yml", "--log-root", tmp_path]
    for steps in (12, 24):
        chief, other = workers(*flags, "--max-steps", steps)
        assert f"Trained for {steps} steps" in finish(chief)
        assert "Trained" not in finish(other)
    (run,) = (tmp_path / "moving_digits_demo").iterdir()
    ours, theirs = scalars(run_dir), scalars(run)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            if name != "split":
                np.testing.assert_allclose(a[name], b[name], rtol=2e-3, atol=1e-4, err_msg=name)


def test_a_lost_worker_ends_the_others_with_a_line(workplace, tmp_path):
    chief, other = workers(
        "--config", workplace / "tiny.yml", "--log-root", tmp_path, "--max-steps", 5000)
    wait_for_step(chief, tmp_path, 4)
    other.kill()
    other.communicate()
    output = finish(chief, 1)
    assert "a worker was lost" in output and "Traceback" not in output


def test_a_signal_to_one_worker_stops_all_at_one_step(workplace, tmp_path):
    chief, other = workers(
        "--config", workplace / "tiny.yml", "--log-root", tmp_path, "--max-steps", 5000)
    run = wait_for_step(chief, tmp_path, 4)
    other.send_signal(signal.SIGTERM)
    output = finish(chief)
    finish(other)
    (step,) = re.findall(r"Another worker's signal: saved step (\d+)", output)
    assert tf.train.latest_checkpoint(run / "model").endswith(f"ckpt-{step}")


def test_a_bad_cluster_or_batch_is_one_line(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{}")
    with pytest.raises(UserError, match="names no cluster and task"):
        distribution.choose_strategy()
    strategy = tf.distribute.get_strategy()
    monkeypatch.setattr(type(strategy), "num_replicas_in_sync", 4)
    with pytest.raises(UserError, match="batch_size: 50 cannot be shared among 4 devices; nearest: 48"):
        distribution.Share(strategy, 50)
