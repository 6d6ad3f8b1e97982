"""What the pages print runs as printed, page by page, in the environment that a page has made by then.

README.md is one script, in a copy of the repository that its snippets have changed. The other pages'
commands run in this process, which has imported TensorFlow already.
"""

import importlib
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tensorflow as tf
import test_cwvae
from conftest import ROOT, TINY
from test_cwvae import tiny
from test_docs import FENCE, fill_tables
from test_moving_mnist import write_mnist

import cells
import metrics
import tools
from video_data import doom_mazes, moving_mnist
from video_data.moving_digit import MovingDigit
from video_data.moving_digits import MovingDigits

README = ROOT / "README.md"

# Why some commands do not run as printed: each has small data or a part of its work instead.
HOURS = "takes minutes to hours"
MACHINES = "needs several machines"
INSTALLS = "downloads a gigabyte; .ci/run installs on a clean checkout"
DATA = "needs data that a reader has"

# A model so small that it learns something in seconds.
SMALL = ("--channels-mult 0.0625 --enc-dense-embed-size 8 --cell-stoch-size 4 --cell-deter-size 16 "
         "--cell-embed-size 16 --batch-size 2 --lr 3e-3 --max-steps 50 --save-scalars-every 10 "
         "--save-gifs false")
QUICK = SMALL.replace("--max-steps 50", "--max-steps 2")

# Videos and frames of a split, and the small ones in their place.
SMALL_DATA = {(2000, 100): (40, 100), (500, 100): (40, 100), (40000, 100): (40, 100),
              (100, 400): (2, 400), (100, 1000): (4, 1000), (100, 500): (4, 500)}

# A printed command (a regular expression that all of it matches), what runs instead, and the reason.
INSTEAD = [
    (r"(python3 -m venv \.venv) && (\. .*)", r"\2", INSTALLS),
    (r"pip install -r (\S+)", r"test -f \1", INSTALLS),
    (r"make (demo|results)\b(.*)", r"make -n \1\2", HOURS),
    (r"(python3 train\.py --config configs/(?:demo|moving_digits)\.yml .*)", rf"\1 {SMALL}", HOURS),
    (r"(python3 train\.py --config my_videos\.yml .*)", rf"\1 {SMALL}", HOURS),
    (r"(python3 train\.py --config configs/results/.*)", rf"\1 {QUICK}", HOURS),
    (r"(python3 eval\.py .*--num-examples) (10|20|50)\b(.*)", r"\1 2\3 --no-save-grid", HOURS),
    (r"(python3 eval\.py --model-dir=\S+(?: --seq-len \d+ --(?:mean-only|num-samples \d+))?)",
     r"\1 --num-examples 2 --no-save-grid", HOURS),
    (r"(python3 analyze\.py .*)--num-examples (?:[2-6]0|100)(.*)", r"\1--num-examples 4\2", HOURS),
    (r"(python3 analyze\.py information .*)", r"\1 --num-examples 2", HOURS),
    (r"(python3 bench\.py train) --config \S+ (.*)", r"\1 --config tiny.yml --runs 1 \2", HOURS),
    (r"(python3 bench\.py eval) --config \S+ .*", r"\1 --config tiny.yml --runs 1 --samples 1", HOURS),
    (r"python3 bench\.py data", r"python3 bench.py data --videos 2 --seconds 1 --batch-size 2", HOURS),
    (r"(python3 train\.py) --config their_run/config\.yml (.*)", r"\1 --config tiny.yml \2", DATA),
    (r"TF_CONFIG='(?s:.*)' (python3 train\.py --config \S+)", rf"\1 {QUICK} --dataset moving_digits "
     r"--channels 1", MACHINES),
    (r"srun (?s:.*)", "true", MACHINES),
]


def commands(page):
    """The commands in a page's shell blocks, each as one text."""
    for language, block in FENCE.findall(page.read_text()):
        if language != "sh":
            continue
        block = re.sub(r"\\\n\s*", "", block)
        pending = ""
        for line in block.splitlines():
            pending = f"{pending}\n{line}" if pending else line.strip()
            try:
                if shlex.split(pending):
                    yield pending
                pending = ""
            except ValueError:  # a quote is open
                continue
        assert not pending, f"{page.name}: {pending!r} is not a whole command"


def runs_as(command):
    """What runs for a printed command: itself, or what stands for it in INSTEAD."""
    for pattern, replacement, _ in INSTEAD:
        if re.fullmatch(pattern, command):
            return re.sub(pattern, replacement, command)
    return command


def test_every_replacement_is_of_a_printed_command():
    printed = [command for page in fill_tables.pages() for command in commands(page)]
    for pattern, _, reason in INSTEAD:
        assert any(re.fullmatch(pattern, command) for command in printed), f"{pattern} ({reason})"


def test_fenced_blocks_are_in_a_language_that_is_run_or_a_citation():
    for page in fill_tables.pages():
        languages = {language for language, _ in FENCE.findall(page.read_text())}
        assert languages <= {"sh", "python", "bibtex"}, page
        fences = re.findall(r"^ *```", page.read_text(), re.MULTILINE)
        assert len(fences) == 2 * len(FENCE.findall(page.read_text())), page


# ------------------------------------------------------------------------------------- README.md


def snippet(word, page=README):
    """The one Python block of a page that holds a word."""
    (found,) = [block for language, block in FENCE.findall(page.read_text())
                if language == "python" and word in block]
    return found


def losses(run_dir):
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == "train"]


CHANGING = ROOT / "docs" / "changing.md"
# Where a reader puts each snippet: a file to append it to, or a file and the line that it follows.
PLACES = [
    (README, "class SlowRSSMCell", "cells.py", None),
    (README, "memory_term", "cwvae.py", r"( *)# terms\[\"memory_term\"\].*\n"),
    (README, 'METRICS["mae"]', "metrics.py", None),
    (README, "os.makedirs", "make_videos.py", None),
    (CHANGING, "class LSTMCell", "cells.py", None),
    (CHANGING, "smooth_term", "cwvae.py", r"( *)# terms\[\"memory_term\"\].*\n"),
    (CHANGING, "class CentredEncoder", "cnns.py", None),
    (CHANGING, 'METRICS["mae_above"]', "metrics.py", None),
    (CHANGING, "class Squares", "video_data/squares.py", None),
    (CHANGING, 'BUILDERS["squares"]', "video_data/preparation.py", r"THREADS = .*\n"),
    (CHANGING, "DATASETS +=", "config.py", r"DATASETS = \([^)]*\)\n"),
]


def place_snippet(root, page, word, file, after):
    """Puts a snippet where a reader would put it, in a copy of the repository."""
    code, file = snippet(word, page), root / file
    text = file.read_text() if file.exists() else ""
    if after is None:
        file.write_text(f"{text}\n\n{code}" if text else code)
        return
    (line,) = re.finditer(after, text)
    indented = textwrap.indent(code, line[1] if line.re.groups else "")
    file.write_text(text[:line.end()] + indented + text[line.end():])


def test_every_snippet_has_its_place():
    for page in (README, CHANGING):
        blocks = [block for language, block in FENCE.findall(page.read_text()) if language == "python"]
        placed = [snippet(word, page) for of, word, *_ in PLACES if of == page]
        assert sorted(placed) == sorted(blocks)


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A copy of the repository with small data and all snippets, and .venv as its page makes it."""
    place = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns(
        ".*", "__pycache__", "logs", "data", "tests", "*_2???_*"))
    for page, *where in PLACES:
        place_snippet(place, page, *where)
    smaller = [("video_data/moving_digit.py", SMALL_DATA), ("video_data/moving_digits.py", SMALL_DATA),
               ("video_data/squares.py", SMALL_DATA), ("make_videos.py", {"range(500)": "range(40)"})]
    for name, sizes in smaller:
        text = (place / name).read_text()
        for size, small in sizes.items():
            text = text.replace(str(size), str(small))
        assert text != (place / name).read_text(), name
        (place / name).write_text(text)
    programs = place / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "python3"):
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        (programs / name).chmod(0o755)
    (programs / "activate").write_text(f'PATH="{programs}:$PATH"\n')
    run_script(place, "python3 -c 'import os, numpy as np; exec(open(\"make_videos.py\").read())'")
    return place


def run_script(place, *lines):
    """Runs lines of a shell in the copy, where Python is that of the system until .venv is activated."""
    home = {name: os.environ[name] for name in ("HOME", "TMPDIR") if name in os.environ}
    activate = [] if any("activate" in line for line in lines) else [". .venv/bin/activate"]
    done = subprocess.run(
        ["bash", "-c", "\n".join(["set -ex", *activate, *lines])], cwd=place, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**home, "PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stdout[-20000:]


def check_that_it_learned(run_dir, steps=50):
    logged = losses(run_dir)
    assert logged[-1]["step"] == steps and logged[-1]["total_loss"] < logged[0]["total_loss"], run_dir
    for term in ("memory_term", "smooth_term"):
        assert 0 < logged[-1][term] < logged[-1]["total_loss"]


@pytest.mark.slow
def test_the_readme_from_top_to_bottom(clone):
    run_script(clone, *map(runs_as, commands(README)))
    for run in ("moving_digits/my_run", "videos/first", "moving_digit_demo/slow"):
        check_that_it_learned(clone / "logs" / run)
    assert "SlowRSSMCell" in (clone / "logs" / "moving_digit_demo" / "slow" / "config.yml").read_text()
    (summary,) = (clone / "logs" / "moving_digits" / "my_run").glob("eval_*/summary.json")
    assert 0 < json.loads(summary.read_text())["metrics"]["mae"]["mean"] < 1
    assert (clone / "data.png").exists()


@pytest.mark.slow
def test_changes_of_the_model_learn(clone):
    run_script(clone, *map(runs_as, commands(CHANGING)))
    for run in ("moving_digit_demo/lstm", "moving_digit_demo/centred", "squares/squares"):
        check_that_it_learned(clone / "logs" / run)
    (summary,) = (clone / "logs" / "squares" / "squares").glob("eval_*/summary.json")
    assert {"psnr_revisited", "ssim_new"} <= set(json.loads(summary.read_text())["metrics"])


# -------------------------------------------------------------------------------- the other pages


@pytest.fixture(scope="module")
def place(tmp_path_factory, run_dir):
    """A folder in which the pages' commands run, with what a reader has by then."""
    folder = tmp_path_factory.mktemp("pages")
    for path in (ROOT / "configs", ROOT / "results", ROOT / "Makefile", *ROOT.glob("requirements*")):
        (folder / path.name).symlink_to(path)
    shutil.copytree(ROOT / "pretrained", folder / "pretrained")
    write_mnist(folder / "data")
    (folder / "logs" / "moving_digit_demo").mkdir(parents=True)
    shutil.copytree(run_dir, folder / "logs" / "moving_digit_demo" / "first")
    shutil.copytree(run_dir, folder / "their_run")
    (folder / "tiny.yml").write_text(json.dumps(TINY | {"seq_len": 12, "max_steps": 2}))  # is YAML too
    return folder


@pytest.fixture
def small_data(monkeypatch):
    def small(sizes):
        return tuple(SMALL_DATA.get(size, size) for size in sizes)

    for builder in (MovingDigit, MovingDigits):
        monkeypatch.setattr(builder, "SIZES", {
            name: small(sizes) for name, sizes in builder.SIZES.items()})
    for sizes, name in (doom_mazes.SIZES, "full"), (moving_mnist.SIZES, "large"):
        monkeypatch.setitem(sizes, name, {
            split: small([size])[0] for split, size in sizes[name].items()})


@pytest.mark.slow
@pytest.mark.parametrize("page", [
    page for page in fill_tables.pages() if page not in (README, CHANGING)], ids=lambda page: page.name)
def test_the_commands_of_a_page(page, place, small_data, monkeypatch, capsys):
    monkeypatch.chdir(place)
    for command in commands(page):
        said = run(runs_as(command), monkeypatch)
        assert said in (None, 0), f"{command}: {said}\n{capsys.readouterr().out}"


def run(command, monkeypatch):
    """Runs a command; a script of ours in this process. Returns its exit code, None for success."""
    words = shlex.split(command)
    words = [word for pattern in words for word in (sorted(
        str(path) for path in pathlib.Path().glob(pattern)) if "*" in pattern else [pattern])]
    if words[0] != "python3":
        return subprocess.run(words, stdout=subprocess.DEVNULL).returncode
    monkeypatch.setattr("sys.argv", words[1:])
    try:
        tools.run_script(importlib.import_module(words[1].removesuffix(".py")).main)
    except SystemExit as stop:
        return stop.code
    return None


# ------------------------------------------------------------------------------------- snippets


def run_snippet(module, word, page=README):
    """Runs a snippet as if it stood in a module."""
    exec(snippet(word, page), dict(vars(module)))


@pytest.mark.parametrize("page, name", [(README, "SlowRSSMCell"), (CHANGING, "LSTMCell")])
def test_the_states_of_a_cell_stay_bounded(page, name, monkeypatch):
    monkeypatch.setattr(cells, "CELLS", dict(cells.CELLS))
    run_snippet(cells, f"class {name}", page)
    cell = cells.CELLS[name](tiny(cell_deter_size=6), 0, context_size=8, obs_size=32)
    state = cells.State(tf.random.stateless_normal([2, 3], [0, 0]), tf.fill([2, 6], 0.5))
    scan = tf.function(cell.scan, autograph=False)
    ticks = scan(state, 10 * tf.random.stateless_normal([2, 300, 8], [0, 2]),
                 tf.random.stateless_normal([2, 300, 3], [0, 3]), tf.zeros([300]))
    assert np.abs(ticks.deter).max() <= 1


def test_the_slow_cell_is_half_of_what_was(monkeypatch):
    monkeypatch.setattr(cells, "CELLS", dict(cells.CELLS))
    run_snippet(cells, "class SlowRSSMCell")
    slow, plain = (cells.CELLS[name](tiny(), 0, context_size=8, obs_size=32)
                   for name in ("SlowRSSMCell", "RSSMCell"))
    slow.set_weights(plain.get_weights())
    state = cells.State(tf.random.stateless_normal([2, 3], [0, 0]), tf.fill([2, 5], 0.5))
    inputs = tf.random.stateless_normal([2, 8], [0, 1]), tf.zeros([2, 3])
    np.testing.assert_allclose(
        slow.tick(state, *inputs).deter, (plain.tick(state, *inputs).deter + 0.5) / 2, rtol=1e-5)


def test_a_term_is_the_line_of_the_losss_comment():
    assert snippet("memory_term").strip() == test_cwvae.EXAMPLE


def test_a_metric_is_a_record(monkeypatch):
    monkeypatch.setattr(metrics, "METRICS", dict(metrics.METRICS))
    run_snippet(metrics, 'METRICS["mae"]')
    found = metrics.METRICS["mae"].function(tf.zeros([2, 4, 4, 1]), tf.fill([2, 4, 4, 1], 0.25), None)
    np.testing.assert_allclose(found, [0.25, 0.25])


def test_a_metric_may_be_undefined(monkeypatch):
    monkeypatch.setattr(metrics, "METRICS", dict(metrics.METRICS))
    run_snippet(metrics, 'METRICS["mae_above"]', CHANGING)
    position = np.zeros([2, 5, 1, 2], np.float32)
    position[1, 3:, 0, 0] = 30
    factors = metrics.Factors({"position": position, "label": None}, {"position": position})
    found = metrics.METRICS["mae_above"].score(
        tf.zeros([2, 1, 5, 4, 4, 1]), tf.fill([2, 3, 5, 4, 4, 1], 0.25), factors)
    want = np.full([2, 3, 5], 0.25)
    want[1, :, 3:] = np.nan
    np.testing.assert_allclose(found, want)
