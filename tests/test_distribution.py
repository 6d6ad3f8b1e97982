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
    return [script("train.py", *flags, env={**os.environ, "TF_CONFIG": json.dumps(
        {"cluster": {"worker": hosts}, "task": {"type": "worker", "index": i}})}) for i in range(2)]


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


def test_a_bad_cluster_or_batch_is_one_line(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{}")
    with pytest.raises(UserError, match="names no cluster and task"):
        distribution.choose_strategy(50)
    strategy = tf.distribute.get_strategy()
    monkeypatch.setattr(type(strategy), "num_replicas_in_sync", 4)
    with pytest.raises(UserError, match="batch_size: 50 cannot be shared among 4 devices; nearest: 48"):
        distribution.Share(strategy, 50)
