"""Walks through mazes: what they are, what the engine shows, what is stored, and how all of it ends."""

import argparse
import dataclasses
import glob
import hashlib
import itertools
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import scipy.ndimage

import data_loader
import eval as evaluation
import metrics
import plot
import runs
from config import Config
from cwvae import CWVAE
from tools import UserError
from video_data import doom_engine, doom_mazes, store

ROOT = pathlib.Path(__file__).resolve().parents[1]
SMALL = {"train": (4, 24), "val": (2, 30), "test": (3, 40)}


# ----------------------------------------------------------------------------- mazes and walks


def reached(passages, start):
    """The open cells that can be reached from one."""
    found, border = {start}, [start]
    while border:
        row, column = border.pop()
        for way in ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)):
            if passages[way] and way not in found:
                found.add(way)
                border.append(way)
    return found


def test_a_maze_is_whole_with_loops_and_without_dead_ends():
    for index in range(200):
        maze = doom_mazes.maze("train", index)
        cells = set(zip(*np.nonzero(maze.open), strict=True))
        assert cells == reached(maze.open, (1, 1)) and maze.open[1::2, 1::2].all()
        assert not maze.open[[0, -1]].any() and not maze.open[:, [0, -1]].any()
        assert not maze.open[::2, ::2].any()
        # A tree of 16 rooms has 15 passages; each one more is a loop.
        assert 1 <= maze.open.sum() - 16 - 15 <= 9
        beside = [maze.open[1:-1, :-2], maze.open[1:-1, 2:], maze.open[:-2, 1:-1], maze.open[2:, 1:-1]]
        assert (sum(map(np.int64, beside))[maze.open[1:-1, 1:-1]] >= 2).all()
        assert len(set(maze.walls)) == 4 and len({*maze.floors, *maze.ceilings}) == 8
        assert set(maze.walls) <= set(range(len(doom_mazes.WALLS)))


def test_regions_that_are_alike_change_nothing_else():
    for index in range(20):
        maze, alike = (doom_mazes.maze("train", index, alike) for alike in (False, True))
        np.testing.assert_array_equal(maze.open, alike.open)
        for name in ("walls", "floors", "ceilings"):
            assert getattr(alike, name).tolist() == [getattr(maze, name)[0]] * 4
        one, other = (doom_mazes.factors("train", index, 60, alike) for alike in (False, True))
        assert (other.pop("wall") == maze.walls[0]).all() and one.pop("wall").min() == -1
        for name, values in one.items():
            np.testing.assert_array_equal(other[name], values)


def test_a_video_is_a_function_of_split_and_index_alone():
    one = doom_mazes.factors("train", 3, 50)
    for name, values in doom_mazes.factors("train", 3, 20).items():
        np.testing.assert_array_equal(values, one[name][:20])
    for other in (("val", 3), ("test", 3), ("train", 4)):
        assert (doom_mazes.maze(*other).open != doom_mazes.maze("train", 3).open).any()
        assert (doom_mazes.factors(*other, 50)["heading"] != one["heading"]).any()


def test_the_regions_are_the_quarters_of_the_grid():
    cells = np.stack(np.meshgrid(*[np.arange(9)] * 2, indexing="ij"), -1)
    assert doom_mazes.region(cells)[::4, ::4].tolist() == [[0, 0, 1], [0, 0, 1], [2, 2, 3]]


def test_an_action_leads_from_its_frame_to_the_next():
    for index in range(20):
        walk, factors = doom_mazes.walk("val", index, 81), doom_mazes.factors("val", index, 80)
        place, heading = walk.place[0] / 128, factors["heading"][0]
        for turn, step in factors["actions"]:
            heading = heading + turn * 22.5
            way = np.radians(heading)
            place = place + step / 6 * np.array([-np.cos(way), np.sin(way)])
        np.testing.assert_allclose(place, walk.place[80] / 128, atol=1e-4)
        assert abs((heading - walk.angle[80] * 90 / 2**14 + 180) % 360 - 180) < 1e-3
        assert factors["actions"].dtype == np.float32 and np.abs(factors["actions"]).max() < 1.5
        assert not factors["actions"].all(1).any()  # It turns on the spot.


def test_a_walker_stays_in_open_cells_and_keeps_to_its_pace():
    steps, turns, backs = [], [], 0
    for index in range(40):
        factors = doom_mazes.factors("train", index, 200)
        passages, cell = doom_mazes.maze("train", index).open, factors["cell"]
        assert passages[cell[:, 0], cell[:, 1]].all()
        assert np.abs(np.diff(cell, axis=0)).sum(1).max() <= 1
        np.testing.assert_array_equal(factors["region"], doom_mazes.region(cell))
        assert ((factors["heading"] >= 0) & (factors["heading"] < 360)).all()
        actions = factors["actions"]
        steps += [actions[actions[:, 1] > 0, 1].mean()]
        turns += [np.abs(actions[actions[:, 0] != 0, 0]).mean()] if actions[:, 0].any() else []
        cells = [one for one, other in zip(cell[1:], cell, strict=False) if (one != other).any()]
        backs += sum((one == other).all() for one, other in zip(cells[2:], cells, strict=False))
    assert abs(np.mean(steps) - 1) < 0.05 and abs(np.mean(turns) - 1) < 0.05
    assert 0 < backs < 40 * 200 / 6 * 0.08


def test_the_wall_of_a_frame_is_what_rays_hit():
    """Against rays that go on by small steps until they are in a wall."""
    one, all_rays = 0, (np.arange(128) + 0.5 - 64) / 64 * 0.75
    for index in range(6):
        maze, walk = doom_mazes.maze("test", index), doom_mazes.walk("test", index, 60)
        walls = doom_mazes.factors("test", index, 60)["wall"]
        frames = zip(walk.place / 128, walk.angle * 90 / 2**14, walls, strict=True)
        for place, angle, wall in itertools.islice(frames, 0, None, 8):
            seen = set()
            for ray in np.radians(angle) + np.arctan(all_rays):
                distance = np.arange(0, 13, 0.002)[:, None]
                way = place + distance * np.array([-np.cos(ray), np.sin(ray)])
                cells = way.astype(int)
                first = np.argmin(maze.open[cells[:, 0].clip(0, 8), cells[:, 1].clip(0, 8)])
                seen.add(int(maze.walls[doom_mazes.region(cells[first - 1])]))
            assert (wall == -1) if len(seen) > 1 else seen == {wall}
            one += wall >= 0
    assert one > 15


# ----------------------------------------------------------------------------------- the engine

needs_engine = pytest.mark.skipif(
    doom_engine.importlib.util.find_spec("vizdoom") is None,
    reason="ViZDoom is not there: pip install -r requirements-mazes.txt")


def digest(videos):
    return hashlib.sha256(b"".join(videos[key].tobytes() for key in sorted(videos))).hexdigest()[:16]


def rendered(wanted, size=64, processes=1):
    return {(split, index): video
            for split, index, video in doom_engine.render(wanted, size, processes)}


@needs_engine
def test_the_pixels_are_the_same_on_every_run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    wanted = [("train", 0, 30), ("test", 7, 12), ("val", 1, 20)]
    once = rendered(wanted)
    monkeypatch.setattr(doom_engine, "AT_ONCE", 1)
    again = rendered([("val", 1, 12), ("test", 7, 12), ("train", 0, 30)], processes=3)
    for (split, index), video in once.items():
        assert video.shape[1:] == (64, 64, 3) and video.dtype == np.uint8
        np.testing.assert_array_equal(again[split, index], video[: len(again[split, index])])
    assert digest(once) == "a84e18b4c18e8cb3"
    assert os.listdir(tmp_path) == []  # The engine writes where it runs, and that is elsewhere.


@needs_engine
def test_sizes_show_the_same():
    wanted = [("train", 5, 6)]
    small, usual, large = (next(iter(rendered(wanted, size).values())) for size in (32, 64, 128))
    halved = usual.reshape(6, 32, 2, 32, 2, 3).astype(float).mean((2, 4))
    assert np.abs(small - halved).max() <= 1
    assert large.shape == (6, 128, 128, 3)
    finer = large.reshape(6, 64, 2, 64, 2, 3).astype(float).mean((2, 4))
    assert np.abs(finer - usual).mean() < 6


@pytest.fixture
def small(monkeypatch, tmp_path):
    monkeypatch.setitem(doom_mazes.SIZES, "full", SMALL)
    return Config(dataset="doom_mazes", data_root=str(tmp_path / "data"), channels=3, actions=True,
                  seq_len=12, eval_seq_len=40, batch_size=4, open_loop_ctx=4, tmp_abs_factor=2)


@needs_engine
def test_clips_and_sequences_hold_frames_actions_and_factors(small, capfd):
    clips, sequences = data_loader.Clips(small), data_loader.Sequences(small, 40)
    said = capfd.readouterr().err
    assert "BSD 3-clause" in said and "Making doom_mazes" in said
    assert clips.num_clips == 8 and len(sequences) == 3 and clips.action_size == 2
    batch = sequences.batch(0, 3)
    for index in range(3):
        expected = doom_mazes.factors("test", index, 40)
        np.testing.assert_array_equal(batch["actions"][index, 1:], expected.pop("actions")[:-1])
        for name, values in expected.items():
            np.testing.assert_array_equal(batch[name][index], values)
            assert batch[name].dtype == values.dtype
    np.testing.assert_array_equal(batch["video"][1], rendered([("test", 1, 40)])["test", 1])
    assert batch["video"][0].std((1, 2)).min() > 1
    assert len(data_loader.Sequences(small, 30, "val")) == 2
    assert "label" not in batch and "position" not in batch

    larger = data_loader.Clips(small.replace(image_size=128)).batch(0)
    assert larger["video"].shape == (4, 12, 128, 128, 3) and larger["cell"].shape == (4, 12, 2)
    assert "actions" not in data_loader.Clips(small.replace(actions=False)).batch(0)


@needs_engine
def test_regions_of_the_demo_look_alike(small, monkeypatch):
    monkeypatch.setitem(doom_mazes.SIZES, "demo", SMALL)
    batch = data_loader.Sequences(small.replace(dataset="doom_mazes_demo"), 40).batch(0, 3)
    for index in range(3):
        walls = doom_mazes.factors("test", index, 40, alike=True)["wall"]
        np.testing.assert_array_equal(batch["wall"][index], walls)
        np.testing.assert_array_equal(doom_mazes.read_walls(batch["video"][index]), walls)
    (video,) = doom_engine.render([("test", 2, 40)], 64, 1, alike=True)
    np.testing.assert_array_equal(video[-1], batch["video"][2])


@needs_engine
def test_an_evaluation_makes_the_test_videos_alone(small):
    data_loader.Sequences(small, 40)
    paths = data_loader.prepare(small, "test")
    assert {tuple(store.splits(path)) for path in paths.values()} == {("test",)}
    kept = store.read(paths["video"], "test")[2].copy()
    assert data_loader.Clips(small).num_clips == 8
    assert store.splits(paths["video"]) == ["train", "val", "test"]
    np.testing.assert_array_equal(store.read(paths["video"], "test")[2], kept)


@needs_engine
def test_a_store_grows_and_shrinks_with_the_sizes(small, monkeypatch):
    for videos, frames, clips in ((4, 24, 8), (6, 24, 12), (3, 24, 6), (3, 36, 9)):
        monkeypatch.setitem(doom_mazes.SIZES, "full", SMALL | {"train": (videos, frames)})
        assert data_loader.Clips(small).num_clips == clips


def test_without_vizdoom_one_line_says_how_to_get_it(small, monkeypatch):
    monkeypatch.setattr(doom_engine.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="install it by: pip install -r requirements-mazes.txt"):
        data_loader.Clips(small)


@needs_engine
def test_what_the_engine_fails_at_is_one_line(monkeypatch):
    monkeypatch.setattr(doom_mazes, "SPLITS", ("train",))
    with pytest.raises(UserError, match="doom_mazes: ViZDoom failed: .*not in tuple"):
        list(doom_engine.render([("no split", 0, 5)], 64, 1))


def children(pid):
    """The processes that a process has started, and those of these."""
    found = []
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        for child in pathlib.Path(path).read_text().split():
            found += [int(child), *children(child)]
    return found


def left_of(pids):
    """Those processes that still run after a while."""
    deadline = time.time() + 10
    while left := [pid for pid in pids if os.path.exists(f"/proc/{pid}") and
                   ") Z " not in pathlib.Path(f"/proc/{pid}/stat").read_text()]:
        if time.time() > deadline:
            break
        time.sleep(0.05)
    return left


def left_behind(pids):
    """Files that outlive processes: the memory that they share, and the folders that they work in."""
    maps = "".join(pathlib.Path(f"/proc/{pid}/maps").read_text() for pid in pids)
    memory = {line.split()[-1] for line in maps.splitlines() if "/ViZDoom" in line}
    return memory | {os.readlink(f"/proc/{pid}/cwd") for pid in pids}


def starts_making(folder):
    """Starts a process that makes the demo's mazes; returns it as soon as there are some."""
    code = ("import tools; from config import Config; from video_data import preparation\n"
            "config = Config(dataset='doom_mazes_demo', channels=3)\n"
            "tools.run_script(lambda: preparation.prepare(config))")
    process = subprocess.Popen([sys.executable, "-c", code], cwd=folder, stderr=subprocess.DEVNULL,
                               env=os.environ | {"PYTHONPATH": str(ROOT)})
    journal = folder / "data" / "doom_mazes" / "demo.frames" / "journal"
    deadline = time.time() + 60
    while not (journal.exists() and journal.read_text().count("\n") > 3):
        assert time.time() < deadline and process.poll() is None
        time.sleep(0.02)
    return process


@pytest.mark.slow
@needs_engine
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_whatever_ends_the_preparation_ends_the_engines_and_nothing_is_left(number, tmp_path):
    process = starts_making(tmp_path)
    processes = children(process.pid)
    assert any("vizdoom" in os.readlink(f"/proc/{pid}/exe") for pid in processes)
    files = left_behind(processes)
    assert any("ViZDoom" in file for file in files) and any("doom_mazes_" in file for file in files)
    process.send_signal(number)
    assert process.wait(20) == -number
    assert left_of(processes) == []
    assert not any(map(os.path.exists, files)) and os.listdir(tmp_path) == ["data"]


@needs_engine
def test_a_preparation_that_was_stopped_goes_on(small, monkeypatch):
    """It keeps what was made, and ends with the same videos as one that was not stopped."""
    asked = []
    make = doom_engine.make

    def stopped(config, wanted):
        asked.append(list(wanted))
        for number, made in enumerate(make(config, wanted)):
            if len(asked) == 1 and number == 3:
                raise KeyboardInterrupt
            yield made

    monkeypatch.setattr(doom_engine, "make", stopped)
    with pytest.raises(KeyboardInterrupt):
        data_loader.Clips(small)
    assert not glob.glob(f"{small.data_root}/*/*/header.json")
    clips = data_loader.Clips(small)
    assert [len(wanted) for wanted in asked] == [9, 6]
    paths = data_loader.prepare(small)
    for split, (count, length) in SMALL.items():
        frames = rendered([(split, index, length) for index in range(count)])
        for index, video in enumerate(store.read(paths["video"], split)):
            np.testing.assert_array_equal(video, frames[split, index])
            np.testing.assert_array_equal(store.read(paths["cell"], split)[index],
                                          doom_mazes.factors(split, index, length)["cell"])
    assert clips.num_clips == 8


@needs_engine
def test_a_process_that_is_killed_as_it_renders_is_one_line(monkeypatch):
    started = []
    popen = subprocess.Popen

    def remembered(*args, **kwargs):
        started.append(popen(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(doom_engine.subprocess, "Popen", remembered)
    frames = doom_engine.render([("train", index, 100) for index in range(60)], 64, 1)
    next(frames)
    engines = children(started[0].pid)
    os.kill(started[0].pid, signal.SIGKILL)
    with pytest.raises(UserError, match="a process that renders ended before .*start again"):
        list(frames)
    assert left_of([started[0].pid, *engines]) == []


# ------------------------------------------------------------------------- which wall is seen


@pytest.fixture(scope="module")
def walks():
    """Frames that truly show one wall, and which: of training and of test videos."""
    def one_wall(split, count, length):
        if doom_engine.importlib.util.find_spec("vizdoom") is None:
            pytest.skip("ViZDoom is not there")
        videos = rendered([(split, index, length) for index in range(count)], processes=2)
        frames = np.concatenate([videos[split, index][::3] for index in range(count)])
        walls = np.concatenate([doom_mazes.factors(split, index, length)["wall"][::3]
                                for index in range(count)])
        return frames[walls >= 0], walls[walls >= 0]

    return {"train": one_wall("train", 60, 80), "test": one_wall("test", 40, 120)}


@needs_engine
def test_walls_are_read_as_the_rays_say(walks):
    """This also says that rays and engine agree: where a frame shows one wall, and which."""
    frames, walls = walks["test"]
    assert len(frames) > 800 and len(set(walls)) == 16
    right = doom_mazes.read_walls(frames) == walls
    assert right.mean() > 0.98 and min(right[walls == wall].mean() for wall in range(16)) > 0.9
    shuffled = np.random.default_rng(0).permutation(walls)
    assert abs((doom_mazes.read_walls(frames) == shuffled).mean() - 1 / 16) < 0.03


@needs_engine
def test_walls_of_blurred_frames_are_read_too(walks):
    frames, walls = walks["test"]
    blurred = scipy.ndimage.gaussian_filter(frames.astype(np.float32), (0, 2, 2, 0)).astype(np.uint8)
    assert (doom_mazes.read_walls(blurred) == walls).mean() > 0.95


@needs_engine
def test_the_colours_of_walls_are_those_of_training_frames(walks):
    colours, spread = doom_mazes.learn_walls(*walks["train"])
    np.testing.assert_allclose(colours, doom_mazes.COLOURS, atol=3)
    np.testing.assert_allclose(spread, doom_mazes.SPREAD, atol=2)


def test_nothing_is_read_on_grey():
    levels = np.arange(0, 256, 5, np.uint8)[:, None, None, None]
    frames = np.broadcast_to(levels, (len(levels), 64, 64, 3))
    assert (doom_mazes.read_walls(frames) == -1).all()
    noise = np.random.default_rng(0).integers(-1, 2, [20, 64, 64, 3])
    assert (doom_mazes.read_walls((120 + noise).astype(np.uint8)) == -1).all()
    assert doom_mazes.read_walls(np.zeros([0, 64, 64, 3], np.uint8)).shape == (0,)


def test_sizes_are_read_alike():
    for wall, colour in enumerate(doom_mazes.COLOURS):
        for size in (32, 64, 128):
            frame = np.zeros([1, size, size, 3], np.uint8)
            frame[:, size // 4 : size // 4 * 3] = np.rint(colour)
            assert doom_mazes.read_walls(frame) == [wall]


# ------------------------------------------------------------------------------- an evaluation


@needs_engine
@pytest.mark.slow
def test_an_evaluation_says_what_is_remembered_of_mazes(small, tmp_path, capsys, monkeypatch):
    """Every measure stands in the summary, the curves, the report and the plot, beside trivial ones."""
    config = small.replace(levels=2, channels_mult=1 / 32, cell_stoch_size=3, cell_deter_size=5,
                           cell_embed_size=4, enc_dense_embed_size=6, open_loop_ctx=20)
    data = data_loader.evaluation_sequences(config)
    flags = argparse.Namespace(lpips=None, fvd_model=None, num_samples=2, seed=0, num_examples=3,
                               batch_size=6, no_save_grid=True, model_dir="none")
    monkeypatch.setattr(runs, "find_checkpoint", lambda model_dir: (str(tmp_path), "none"))
    settings = dataclasses.asdict(config) | {"checkpoint": "none", "eval_seed": 0, "num_examples": 3,
                                             "num_samples": 2, "data_digest": ""}
    out = tmp_path / "eval_1"
    out.mkdir()
    table = evaluation.evaluate(config, CWVAE(config, data.action_size), data, flags, settings, str(out))
    summary, arrays = json.loads((out / "summary.json").read_text()), np.load(out / "metrics.npz")
    names = ["psnr", "ssim", "walls"]
    for name in [*names, *(f"{name}_{part}" for name in names for part in ("revisited", "new"))]:
        assert {f"{name}_mean_of_2", f"{name}_black", f"{name}_last_frame"} < set(summary["metrics"])
        assert name in summary["better_than_trivial"] and metrics.METRICS[name].label in table
        assert (out / f"{name}_range.png").exists() and (out / f"{name}_mean.npz").exists()
        assert metrics.METRICS[name].label in (out / "report.html").read_text()
    for index in range(3):
        truth = doom_mazes.factors("test", index, 40)
        shown = {tuple(cell) for cell in truth["cell"][:20]}
        revisited = np.array([tuple(cell) in shown for cell in truth["cell"][20:]])
        for sample in range(2):
            np.testing.assert_array_equal(~np.isnan(arrays["psnr_revisited"][index, sample]), revisited)
            np.testing.assert_array_equal(np.isnan(arrays["psnr_new"][index, sample]), revisited)
            np.testing.assert_array_equal(
                np.isnan(arrays["walls"][index, sample]), truth["wall"][20:] < 0)
        last = doom_mazes.read_walls(data.batch(index, 1)["video"][0, 19:20])
        one = truth["wall"][20:] >= 0
        np.testing.assert_array_equal(
            arrays["walls_last_frame"][index][one], (truth["wall"][20:] == last)[one])
        assert not arrays["walls_black"][index][one].any()
    assert doom_mazes.NOTICE in table and doom_mazes.NOTICE in (out / "report.html").read_text()
    assert sorted(name for name in os.listdir(out / "sample0") if name.startswith("best")) == [
        "best_psnr_sample.npz", "best_ssim_sample.npz", "best_walls_sample.npz"]
    monkeypatch.setattr("sys.argv", ["plot.py", str(out), "--out", str(tmp_path / "plot.png")])
    plot.main()
    assert "Walls, revisited" in capsys.readouterr().out and (tmp_path / "plot.png").exists()
