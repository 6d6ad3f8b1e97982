"""No edit of a readable form is ignored: its effect is in the trained gradient, and a line says why."""

import inspect
import re
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from test_cwvae import SEED, build, tiny, video

import cells
import cnns
import ties
from cwvae import CWVAE

# ------------------------------------------------------------------------------------- the table


def test_the_table_is_current():
    assert ties.table() == ties.current_table(), "run tests/test_kernels.py, then python3 kernels.py"


def test_the_table_is_whole():
    """What runs of cells.py and cnns.py, as a plain model is built and observes, is tied or free."""
    reached, files = set(), {cells.__file__: "cells", cnns.__file__: "cnns"}

    def note(frame, event, _):
        code = frame.f_code
        if event == "call" and code.co_filename in files and "<" not in code.co_qualname:
            reached.add(f"{files[code.co_filename]}.{code.co_qualname}")

    config = tiny(fast=False, image_size=32, remat=True)
    noise = CWVAE(config).noise(SEED, 1, 4)
    sys.setprofile(note)
    try:
        model = CWVAE(config)
        rollout = model.rollout(tf.constant(video(config, 1, 4)), noise)
        pixels = model.decoder.pixels(tf.concat([rollout.levels[0].stoch, rollout.levels[0].deter], -1))
        pixels.log_prob(rollout.video)
    finally:
        sys.setprofile(None)
    # What makes layers, whose variables both forms read, and what only a class that is edited calls.
    makes_variables = {"cnns.num_layers", "cnns.initializer", "cnns.name_layers"}
    missing = reached - set(ties.table()) - ties.FREE - makes_variables
    assert not missing and len(reached) > 25
    assert {"cells.RSSMCell.recur", "cells.reshape_end", "cnns.sum_windows"} <= reached


def test_comments_and_docstrings_do_not_count_and_all_else_does():
    text = 'class A:\n    """x"""\n    y = 1\n    def f(self, z=2):\n        """w"""\n        return z#c'
    same = 'class A:\n    y = 1\n\n    def f(self,\n          z=2):\n        return z\n'
    assert ties.digests_of(text) == ties.digests_of(same)
    for old, new, name in [("y = 1", "y = 2", "A"), ("class A", "class A(B)", "A"),
                           ("z=2", "z=3", "A.f"), ("return z", "return -z", "A.f"),
                           ("    def f", "    @g\n    def f", "A.f")]:
        edited = ties.digests_of(same.replace(old, new))
        assert edited.pop(name) != ties.digests_of(same)[name]
        assert edited == {key: value for key, value in ties.digests_of(same).items() if key != name}


def test_the_digests_are_those_of_every_python():
    """They are spelled from the syntax tree, without what only some versions have."""
    assert ties.digests_of("def f(x):\n    return f'{x}_a' + 0.54\n") == {"f": "4e9479d7a0dc6b52"}


# ------------------------------------------------------------------------------------- the edits


def edited(function, old, new):
    """A function with a piece of its source replaced, in its own module."""
    source = textwrap.dedent(inspect.getsource(function))
    assert old in source
    made = {}
    exec(source.replace(old, new), function.__globals__, made)
    return made[function.__name__]


def of_class(owner, name, old, new):
    """An edit of a method, or of a function of a module."""
    function = vars(owner)[name]
    return lambda model, patch: patch.setattr(owner, name, edited(function, old, new))


def of_activation(layer_of, activation):
    return lambda model, patch: patch.setattr(layer_of(model), "activation", activation)


def of_object(part_of, name, function):
    """A method that is replaced on one object."""
    def edit(model, patch):
        part = part_of(model)
        plain = getattr(part, name)
        patch.setitem(vars(part), name, lambda *x, **y: function(plain(*x, **y)))

    return edit


def of_type(part_of, name):
    """A method that is replaced on whatever class an object has."""
    def edit(model, patch):
        kind = type(part_of(model))
        plain = getattr(kind, name)
        patch.setattr(kind, name, lambda *x: plain(*x) * 0.5, raising=False)

    return edit


def of_dtype(layer_of):
    def edit(model, patch):
        layer = layer_of(model)
        patch.setattr(layer, "dtype_policy", tf.keras.DTypePolicy("mixed_bfloat16"))

    return edit


def of_layer(model, patch):
    class Halved(cells.Dense):
        def __call__(self, x):
            return super().__call__(x) / 2

    layer = model.cells[0].prior_hidden
    patch.setattr(layer, "__class__", Halved)


def half(level):
    return level._replace(deter=level.deter / 2)


RSSM, LEVEL = cells.RSSMCell, r"level_\d runs in its plain form: "
EDITS = {
    "a stop at the context": (of_class(RSSM, "tick", "context], -1", "tf.stop_gradient(context)], -1"),
                              LEVEL + "RSSMCell.tick was replaced"),
    "a stop at h": (of_class(RSSM, "tick", "[deter, embedding]", "[tf.stop_gradient(deter), embedding]"),
                    LEVEL + "RSSMCell.tick was replaced"),
    "a stop at the embedding": (
        of_class(RSSM, "tick", "[deter, embedding]", "[deter, tf.stop_gradient(embedding)]"),
        LEVEL + "RSSMCell.tick was replaced"),
    "the noise's scale": (of_class(RSSM, "tick", "sample(noise)", "sample(0.5 * noise)"),
                          LEVEL + "RSSMCell.tick was replaced"),
    "a little more of h": (
        of_class(RSSM, "tick", "self.recur(x, state.deter)",
                 "self.recur(x, state.deter) + 0.03 * tf.tanh(state.deter)"),
        LEVEL + "RSSMCell.tick was replaced"),
    "0.54": (of_class(RSSM, "head", "0.54", "0.5"), LEVEL + "RSSMCell.head was replaced"),
    "the order of z and context": (
        of_class(RSSM, "tick", "[state.stoch, context]", "[context, state.stoch]"),
        LEVEL + "RSSMCell.tick was replaced"),
    "the recurrence": (of_class(RSSM, "recur", "self.gru(x, deter)", "self.gru(x, deter / 2)"),
                       LEVEL + "RSSMCell.recur was replaced"),
    "what is reset": (of_class(cells.Cell, "scan", "(1 - reset)", "(0.5 - reset)"),
                      LEVEL + "Cell.scan was replaced"),
    "a sample": (of_class(cells.Gaussian, "sample", "self.stddev", "self.stddev**2"),
                 LEVEL + "Gaussian.sample was replaced"),
    "the KL": (of_class(cells.Gaussian, "kl", "return ", "return 2 * "), None),
    "the entropy's sign": (of_class(cells.Gaussian, "entropy", "return ", "return -"), "no effect"),
    "the GRU's bias": (of_class(cells.GRUCell, "__call__", "self.bias[0]", "2 * self.bias[0]"),
                       LEVEL + "GRUCell.__call__ was replaced"),
    "a dense layer's bias": (of_class(cells.Dense, "__call__", " + self.bias", ""),
                             "runs in its plain form: Dense.__call__ was replaced"),
    "the product": (of_class(cells, "product", "tf.cast(rows, tf.float32)", "0.9 * rows"),
                    "runs in its plain form: product was replaced"),
    "an activation of a cell": (
        of_activation(lambda model: model.cells[1].posterior_hidden, tf.tanh),
        "level_1 runs in its plain form: the activation of posterior_hidden was replaced"),
    "an activation of the encoder": (
        of_activation(lambda model: model.encoder.convs[1], tf.nn.relu),
        "encoder runs in its plain form: the activation of conv_1 was replaced"),
    "an activation of the decoder's end": (
        of_activation(lambda model: model.decoder.convs[-1], tf.nn.relu),
        "decoder runs in its plain form: the activation of conv_2 was replaced"),
    "a dtype": (of_dtype(lambda model: model.cells[0].posterior_input),
                "level_0 runs in its plain form: the dtype of posterior_input was changed"),
    "a layer of another class": (
        of_layer, "level_0 runs in its plain form: prior_hidden is a Halved, not a Dense"),
    "a tick of one object": (
        of_object(lambda model: model.cells[0], "tick", half),
        "level_0 runs in its plain form: tick was replaced on this object"),
    "a scan of one object": (
        of_object(lambda model: model.cells[0], "scan", half),
        "level_0 runs in its plain form: scan was replaced on this object"),
    "a head of one object": (
        of_object(lambda model: model.cells[1], "head",
                  lambda found: found._replace(mean=found.mean / 2)),
        "level_1 runs in its plain form: head was replaced on this object"),
    "the encoder's sums": (of_class(cnns, "sum_windows", "reduce_sum", "reduce_mean"),
                           "encoder runs in its plain form: sum_windows was replaced"),
    "a stop between convolutions": (
        of_class(cnns.Encoder, "convolve", "conv(frames)", "tf.stop_gradient(conv(frames)) * 2"),
        "encoder runs in its plain form: Encoder.convolve was replaced"),
    "a convolution": (of_class(cnns.Conv, "__call__", "y + self.bias", "y"),
                      "encoder runs in its plain form: Conv.__call__ was replaced"),
    "the likelihood": (of_class(cnns.Pixels, "log_prob", "squared_difference(self.mean, video)",
                                "abs(self.mean - video)"),
                       "decoder runs in its plain form: Pixels.log_prob was replaced"),
    "the likelihood's width": (of_class(cnns.Decoder, "log_normal", "stddev**2)", "stddev**4 + 1)"),
                               "decoder runs in its plain form: Decoder.log_normal was replaced"),
    "the decoder's tanh": (of_class(cnns.Decoder, "decode", "tf.tanh", "tf.sigmoid"),
                           "decoder runs in its plain form: Decoder.decode was replaced"),
    "the decoder's bend": (of_class(cnns.Decoder, "bend", "return x if", "return x / 2 if"),
                           "decoder runs in its plain form: Decoder.bend was replaced"),
    "the call of whatever class decodes": (
        of_type(lambda model: model.decoder, "call"),
        "decoder runs in its plain form: Decoder.call was replaced"),
    "the decode of whatever class decodes": (
        of_type(lambda model: model.decoder, "decode"),
        "decoder runs in its plain form: Decoder.decode was replaced"),
}


@pytest.fixture(scope="module")
def models():
    """A fast model and a plain one of the same weights, a clip, and the gradient of the fast one."""
    config = tiny(image_size=32, cell_reset_state=True)
    fast, plain = (build(config.replace(fast=fast)) for fast in (True, False))
    clip = tf.constant(video(config, 1, 3))
    before = gradient(fast, clip)
    assert distance(before, gradient(plain, clip)) < 3e-4
    return fast, plain, clip, before


def gradient(model, clip):
    with tf.GradientTape() as tape:
        loss, _ = model.loss(model.rollout(clip, model.noise(SEED, 1, clip.shape[1])), 0)
    found = tape.gradient(loss, model.trainable_variables)
    return [np.zeros(v.shape) if g is None else g.numpy()
            for g, v in zip(found, model.trainable_variables, strict=True)]


def distance(ours, theirs):
    """The greatest difference of two gradients, of each variable relative to its greatest entry."""
    return max(np.abs(a - b).max() / max(np.abs(b).max(), 1e-6)
               for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_is_in_the_gradient_and_a_line_says_why(name, models, monkeypatch, capsys):
    edit, says = EDITS[name]
    fast, plain, clip, before = models
    monkeypatch.setattr(ties, "_said", set())
    capsys.readouterr()
    for model in (fast, plain):
        edit(model, monkeypatch)
        ours = gradient(model, clip)
        if model is fast:
            found = ours
    lines = capsys.readouterr().err.splitlines()
    assert distance(found, ours) < 3e-4
    assert (distance(found, before) > 1e-3) == (says != "no effect")
    if says in (None, "no effect"):
        assert not lines
    else:
        assert lines and all(re.search(says, line) for line in lines), lines
        assert len({line.split()[0] for line in lines}) == len(lines)  # one for each part


def test_what_was_edited_and_is_restored_runs_fast_again(models, monkeypatch, capsys):
    fast, plain, clip, before = models
    with monkeypatch.context() as patch:
        EDITS["the recurrence"][0](fast, patch)
        assert distance(gradient(fast, clip), before) > 1e-3
    capsys.readouterr()
    assert ties.hold(fast.cells[0]) and not capsys.readouterr().err
    for model in (fast, plain):
        assert distance(gradient(model, clip), before) < 3e-4


# ----------------------------------------------------------------- edits of files, classes and models


def test_a_subclass_runs_as_it_is_written(monkeypatch, capsys):
    class EditedCell(cells.RSSMCell):
        def tick(self, *inputs):
            return half(super().tick(*inputs))

    monkeypatch.setitem(cells.CELLS, "RSSMCell", EditedCell)
    ours, theirs = build(tiny()), build(tiny(fast=False))
    assert {type(cell) for cell in ours.cells} == {EditedCell}
    assert capsys.readouterr().err == "EditedCell runs as it is written: it has no faster form\n"
    clip = tf.constant(video(tiny(), 1, 6))
    assert distance(gradient(ours, clip), gradient(theirs, clip)) < 3e-4


def test_a_subclass_of_a_fast_form_and_an_added_method_count(monkeypatch):
    model = build(tiny())
    cell, fast = model.cells[0], type(model.cells[0])
    assert ties.difference(cell) is None
    patch = monkeypatch.setattr
    patch(cells.Dense, "describe", lambda self: "dense", raising=False)
    assert ties.difference(cell) is None  # nothing calls it
    patch(cells.Dense, "__getattribute__", lambda self, name: object.__getattribute__(self, name),
          raising=False)
    assert ties.difference(cell) == "Dense.__getattribute__ was added"
    monkeypatch.undo()
    object.__setattr__(cell, "__class__", type("Mine", (fast,), {}))
    assert ties.difference(cell) == "Mine has no fast form"


def cosine(ours, theirs):
    a, b = (np.concatenate([np.ravel(x) for x in values]).astype(np.float64)
            for values in (ours, theirs))
    return a @ b / np.sqrt((a @ a) * (b @ b))


def test_in_bfloat16_a_small_edit_counts_too(monkeypatch, capsys):
    monkeypatch.setattr(ties, "_said", set())
    monkeypatch.setattr(cells.RSSMCell, "tick", edited(
        cells.RSSMCell.tick, "self.recur(x, state.deter)",
        "self.recur(x, state.deter) + 0.03 * tf.tanh(state.deter)"))
    clip = tf.constant(video(tiny(), 1, 6))
    ours, theirs = (gradient(build(tiny(precision="bfloat16", fast=fast)), clip)
                    for fast in (True, False))
    assert capsys.readouterr().err.count("RSSMCell.tick was replaced") == 2
    assert cosine(ours, theirs) > 0.99


def test_a_source_that_cannot_be_read_means_the_plain_form(monkeypatch):
    model = build(tiny())
    ties.loaded_source.cache_clear()
    monkeypatch.setattr(cells, "__file__", "/nowhere/cells.py")
    try:
        assert ties.difference(model.decoder) == "the source of cells.py cannot be read"
        assert ties.difference(model.cells[0]) == "the source of cells.py cannot be read"
    finally:
        ties.loaded_source.cache_clear()


PROGRAM = """
import numpy as np, startup, tensorflow as tf
from config import Config
from cwvae import CWVAE
found = []
for fast in (True, False):
    tf.keras.utils.set_random_seed(0)
    model = CWVAE(Config(
        dataset="moving_digits", levels=2, tmp_abs_factor=2, channels_mult=1/32, seq_len=4,
        image_size=32, cell_stoch_size=3, cell_deter_size=5, cell_embed_size=16, open_loop_ctx=2,
        fast=fast))
    with tf.GradientTape() as tape:
        video = np.random.default_rng(0).random([1, 4, 32, 32, 1]).astype(np.float32)
        loss, _ = model.loss(model.rollout(video, model.noise([0, 0], 1, 4)), 0)
    found.append(tape.gradient(loss, model.cells[1].trainable_variables))
print(max(np.abs(a - b).max() for a, b in zip(*found)))
"""


SCAN = """
    def scan(self, *args):
        level = super().scan(*args)
        return level._replace(deter=0.5 * level.deter)

    def recur(self"""
PRIOR = """
    def prior(self, deter):
        prior = self.head("prior", self.prior_hidden(deter))
        return prior._replace(stddev=3 * prior.stddev)

    def recur(self"""


@pytest.mark.slow
@pytest.mark.parametrize("edits, reason", [
    ({"context], -1)": "tf.stop_gradient(context)], -1)"}, "RSSMCell.tick was edited"),
    ({"\n    def recur(self": SCAN}, "RSSMCell.scan was added"),
    # The fast form must not hide a method that is new.
    ({"\n    def recur(self": PRIOR, 'self.head("prior", self.prior_hidden(deter))\n        if':
      "self.prior(deter)\n        if"}, "RSSMCell.tick was edited")])
def test_an_edited_file_runs_as_it_is_written(edits, reason, tmp_path):
    for file in [*ROOT.glob("*.py"), ROOT / "ties.json"]:
        shutil.copy(file, tmp_path)
    text = (tmp_path / "cells.py").read_text()
    for old, new in edits.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    (tmp_path / "cells.py").write_text(text)
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-4
    assert done.stderr.splitlines() == [
        f"level_{level} runs in its plain form: {reason}" for level in (1, 0)]
