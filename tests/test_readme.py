"""What the README says of changing the model: every snippet runs, and does what is said of it."""

import pathlib
import re

import numpy as np
import tensorflow as tf
from test_cwvae import averages, build, tiny, video

import cells
import cwvae
import metrics

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text()
SECTION = README.split("## Change the model")[1].split("\n## ")[0]


def run_snippet(word, module):
    """Runs the snippet that holds a word in the namespace of a module."""
    (snippet,) = [code for code in re.findall(r"```python\n(.*?)```", SECTION, re.S) if word in code]
    exec(snippet, vars(module))


def test_a_cell_is_its_tick(monkeypatch):
    monkeypatch.setattr(cells, "ResidualRSSMCell", None, raising=False)
    monkeypatch.setitem(cells.CELLS, "ResidualRSSMCell", None)
    run_snippet("class ResidualRSSMCell", cells)
    residual, plain = (cells.CELLS[name](tiny(), 0, context_size=8, obs_size=32)
                       for name in ("ResidualRSSMCell", "RSSMCell"))
    residual.set_weights(plain.get_weights())
    state = cells.State(tf.ones([1, 3]), tf.ones([1, 5]))
    inputs = state, tf.ones([1, 8]), tf.zeros([1, 3])
    np.testing.assert_allclose(residual.tick(*inputs).deter, plain.tick(*inputs).deter + 1, rtol=1e-5)


def test_a_term_is_part_of_the_loss(monkeypatch):
    monkeypatch.setattr(cwvae, "TERMS", list(cwvae.TERMS))
    monkeypatch.setattr(cwvae, "memory", None, raising=False)
    run_snippet("memory_term", cwvae)
    model = build(tiny())
    nats = averages(model, video(model.config))
    loss, scalars = model.objective(nats, 8, tf.constant(0))
    np.testing.assert_allclose(scalars["memory_term"], 1e-3 * nats["memory_term"] / 8, rtol=1e-5)
    np.testing.assert_allclose(loss, sum(scalars[f"{name}_term"] for name in ("nll", "kl", "memory")))


def test_a_metric_is_a_record(monkeypatch):
    monkeypatch.setitem(metrics.METRICS, "mae", None)
    run_snippet("METRICS", metrics)
    found = metrics.METRICS["mae"].function(tf.zeros([2, 4, 4, 1]), tf.fill([2, 4, 4, 1], 0.25), None)
    np.testing.assert_allclose(found, [0.25, 0.25])


def test_every_file_that_it_names_is_there():
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (pathlib.Path(__file__).parents[1] / path).exists(), path
    for name in re.findall(r"`([a-z_]+\.py)`", README):
        assert (pathlib.Path(__file__).parents[1] / name).exists(), name
