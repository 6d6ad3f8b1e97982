"""Renders the walks of doom_mazes.py by ViZDoom, in processes of their own.

    doom_engine.render([("train", 0, 200), ...], 64, processes=2)

yields frames. As a script, this module is one of the processes. It works in a temporary folder, since
the engine writes files, and imports no TensorFlow. It ends when its parent ends or is killed.
"""

import contextlib
import importlib.util
import json
import os
import queue
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from multiprocessing.connection import Connection, wait

import numpy as np

from tools import UserError, cores
from video_data import doom_mazes
from video_data.convert import convert
from video_data.frames import Form

AT_ONCE = 20  # videos a process renders before it starts a new engine
PATIENCE = 5  # seconds that a process has to end by itself
RESOLUTIONS = ((64, "RES_160X120"), (128, "RES_320X240"), (256, "RES_640X480"))  # by largest frame
EYES = 41  # height of the camera above the floor, in the units of the engine
START = 20  # ticks before the first frame, since the walker cannot turn in the very first ones
NORTH = 90  # the angle at which the engine looks north; its angles grow to the left
INSTALL = "doom_mazes: ViZDoom is missing; install it by: pip install -r requirements-mazes.txt"


# ------------------------------------------------------------------------- in the process of train.py


SIZES = doom_mazes.SIZES


def source(config, prepared):
    """A text that changes with what is made."""
    return f"{config.dataset} {doom_mazes.VERSION}"


def make(config, wanted):
    """Makes the wanted videos, a list of (split, index, frames), in any order, on all cores.

    Yields (split, index, arrays). arrays: `video`, uint8 [T, S, S, 3], and those of doom_mazes.factors.
    """
    print(doom_mazes.NOTICE, file=sys.stderr)
    lengths = {(split, index): length for split, index, length in wanted}
    alike = config.dataset == "doom_mazes_demo"
    with contextlib.closing(render(wanted, config.image_size, cores(), alike)) as frames:
        for split, index, video in frames:
            factors = doom_mazes.factors(split, index, lengths[split, index], alike)
            yield split, index, {"video": video, **factors}


def render(wanted, size, processes, alike=False):
    """Renders walks in several processes, in any order.

    wanted: a list of (split, index, length). size: side of a frame, in pixels. alike: as in
        doom_mazes.maze.
    Yields (split, index, uint8 [length, size, size, 3]). Raises UserError where ViZDoom is missing or
    fails.
    """
    if importlib.util.find_spec("vizdoom") is None:
        raise UserError(INSTALL)
    jobs = [wanted[start : start + AT_ONCE] for start in range(0, len(wanted), AT_ONCE)]
    with contextlib.ExitStack() as opened:
        workers = {}  # By connection: the process behind it, and how many walks it still renders.
        for _ in range(min(processes, len(jobs))):
            worker = opened.enter_context(_worker())
            results = opened.enter_context(
                Connection(os.dup(worker.stdout.fileno()), writable=False))
            workers[results] = worker, _ask(worker, jobs.pop(), size, alike)
        while workers:
            for results in wait(list(workers)):
                worker, left = workers.pop(results)
                yield _received(results)
                if left > 1:
                    workers[results] = worker, left - 1
                elif jobs:
                    workers[results] = worker, _ask(worker, jobs.pop(), size, alike)


@contextlib.contextmanager
def _worker():
    """A subprocess.Popen that renders, and ends with the context."""
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    with (tempfile.TemporaryDirectory(prefix="doom_mazes_", ignore_cleanup_errors=True) as folder,
          subprocess.Popen([sys.executable, "-m", "video_data.doom_engine"], cwd=folder,
                           env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                           start_new_session=True) as worker):
        try:
            yield worker
        finally:
            with contextlib.suppress(BrokenPipeError):
                worker.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(PATIENCE)
            with contextlib.suppress(ProcessLookupError):  # A killed worker leaves its engine running.
                os.killpg(worker.pid, signal.SIGKILL)


def _ask(worker, walks, size, alike):
    """Asks a worker to render walks. Returns how many."""
    with contextlib.suppress(BrokenPipeError):  # If it is gone, _received notices.
        worker.stdin.write(json.dumps([walks, size, alike]).encode() + b"\n")
        worker.stdin.flush()
    return len(walks)


def _received(results):
    """The next result of a worker. Raises UserError if it failed."""
    try:
        result = results.recv()
    except (EOFError, OSError):
        result = "a process that renders ended before its work was done; start again to go on"
    if isinstance(result, str):
        raise UserError(f"doom_mazes: {result}")
    return result


# ----------------------------------------------------------------------- in a process that renders


def _main():
    """Renders what stdin asks for, a job a line, and sends the results to stdout."""
    results = Connection(os.dup(sys.stdout.fileno()), readable=False)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # The engine must not write between results.
    jobs = queue.SimpleQueue()
    threading.Thread(target=_watch, args=(jobs,), daemon=True).start()
    while True:
        walks, size, alike = json.loads(jobs.get())
        try:
            for result in _render(walks, size, alike):
                results.send(result)
        except BrokenPipeError:
            pass  # The process that reads results is gone: _watch ends this one.
        except Exception as error:  # The engine or the disk failed; the other process reports it.
            results.send(f"ViZDoom failed: {' '.join(str(error).split())}")


starting = threading.Lock()  # held while an engine starts


def _watch(jobs):
    """Passes jobs on. When the process that gives them is gone, ends this one and the engine.

    It also removes their working folder and their shared memory, since a killed engine leaves these.
    """
    folder = os.getcwd()
    try:
        for line in sys.stdin.buffer:
            jobs.put(line)
        starting.acquire(timeout=PATIENCE / 2)  # From here on, no engine starts.
        _remove_shared_memory()
        last = time.monotonic() + PATIENCE / 2
        while os.path.exists(folder) and time.monotonic() < last:  # The engine may still write into it.
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.killpg(0, signal.SIGKILL)


def _remove_shared_memory():
    """Removes the files of the memory that this process shares with its engine, on Linux."""
    with contextlib.suppress(OSError), open("/proc/self/maps") as maps:
        for path in {line.split()[-1] for line in maps if "/ViZDoom" in line}:
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)


def _render(walks, size, alike):
    """Yields (split, index, frames) of walks."""
    with open("mazes.wad", "wb") as file:
        file.write(level_file([
            (doom_mazes.maze(split, index, alike), doom_mazes.walk(split, index, 1))
            for split, index, _ in walks]))
    with _engine("mazes.wad", size) as game:
        for number, (split, index, length) in enumerate(walks, 1):
            game.set_doom_map(f"MAP{number:02d}")
            game.new_episode()
            frames = _frames(game, doom_mazes.walk(split, index, length))
            yield split, index, np.concatenate([
                convert(frame[None], Form(size)) for frame in frames])


@contextlib.contextmanager
def _engine(levels, size):
    """A running ViZDoom, without a window, that shows only walls, floors and ceilings."""
    import vizdoom

    game = vizdoom.DoomGame()
    game.set_doom_scenario_path(levels)
    game.set_doom_map("MAP01")
    resolution = next(name for largest, name in RESOLUTIONS if size <= largest)
    game.set_screen_resolution(getattr(vizdoom.ScreenResolution, resolution))
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    for part in ("hud", "crosshair", "weapon", "decals", "particles", "effects_sprites", "messages",
                 "corpses"):
        getattr(game, f"set_render_{part}")(False)
    game.set_window_visible(False)
    game.set_sound_enabled(False)
    game.set_mode(vizdoom.Mode.PLAYER)
    game.set_available_buttons([vizdoom.Button.TURN_LEFT_RIGHT_DELTA])
    game.set_available_game_variables([
        vizdoom.GameVariable.POSITION_X, vizdoom.GameVariable.POSITION_Y, vizdoom.GameVariable.ANGLE,
        vizdoom.GameVariable.CAMERA_POSITION_Z])
    game.set_episode_timeout(0)
    game.set_episode_start_time(START)
    with starting:
        game.init()
    try:
        yield game
    finally:
        game.close()


def _frames(game, walk):
    """Yields the frames of a walk, uint8 [H, W, 3].

    The command `warp` puts the walker to an exact place; one tick later its eyes are at their height.
    Raises RuntimeError where the engine reports another place or angle.
    """
    angle = walk.angle[0]
    for (row, column), heading in zip(walk.place.tolist(), walk.angle.tolist(), strict=True):
        game.send_game_command(f"warp {column} {-row}")
        # The engine rounds down to its units of angle, so a quarter of a unit is added.
        game.set_action([(heading - angle + 0.25) * 90 / doom_mazes.QUARTER])
        game.advance_action(1, False)
        game.set_action([0])
        game.advance_action(1, True)
        state, angle = game.get_state(), heading
        x, y, turned, eyes = state.game_variables
        off = (turned + heading * 90 / doom_mazes.QUARTER - NORTH + 180) % 360 - 180
        if (x, y, eyes) != (column, -row, EYES) or abs(off) > 0.003:
            raise RuntimeError(f"the walker is at {x}, {y}, {turned}, not {column}, {-row}, {heading}")
        yield state.screen_buffer


def level_file(levels):
    """The bytes of a file of up to 99 levels, MAP01 and on, in Doom's format PWAD.

    levels: pairs of a maze and the walk whose first frame is where the walker starts.
    """
    lumps = []
    for number, (maze, walk) in enumerate(levels, 1):
        lumps += [(f"MAP{number:02d}", b""), ("TEXTMAP", level(maze, walk).encode()), ("ENDMAP", b"")]
    content, directory = b"", b""
    for name, lump in lumps:
        directory += struct.pack("<ii8s", 12 + len(content), len(lump), name.encode())
        content += lump
    return struct.pack("<4sii", b"PWAD", len(lumps), 12 + len(content)) + content + directory


def level(maze, walk):
    """A maze as a level of Doom, as text in the format UDMF. Rows of the grid go down, y goes up."""
    vertices, lines, sides, sectors = {}, [], [], {}
    for cell in zip(*maze.open.nonzero(), strict=True):
        sectors[cell] = len(sectors)
    for (row, column), sector in sectors.items():
        corners = [(column, -row), (column + 1, -row), (column + 1, -row - 1), (column, -row - 1)]
        for way, (down, right) in enumerate(doom_mazes.WAYS.tolist()):
            # A line's front is on its right, so the lines go around a cell clockwise.
            ends = [vertices.setdefault(corners[(way + end) % 4], len(vertices)) for end in (0, 1)]
            other = sectors.get((row + down, column + right))
            if other is None:
                texture = doom_mazes.WALLS[maze.walls[doom_mazes.region((row, column))]]
                lines.append(f"v1={ends[0]};v2={ends[1]};sidefront={len(sides)};blocking=true;")
                sides.append(f'sector={sector};texturemiddle="{texture}";')
            elif other > sector:
                lines.append(f"v1={ends[0]};v2={ends[1]};sidefront={len(sides)};"
                             f"sideback={len(sides) + 1};twosided=true;")
                sides += [f"sector={sector};", f"sector={other};"]
    return "".join([
        'namespace="zdoom";',
        _blocks("vertex", (f"x={x * doom_mazes.UNITS};y={y * doom_mazes.UNITS};" for x, y in vertices)),
        _blocks("linedef", lines), _blocks("sidedef", sides),
        _blocks("sector", (_sector(maze, cell) for cell in sectors)), _start(walk)])


def _blocks(kind, contents):
    return "".join(f"{kind}{{{content}}}" for content in contents)


def _sector(maze, cell):
    region = doom_mazes.region(cell)
    floor, ceiling = (doom_mazes.FLATS[flats[region]] for flats in (maze.floors, maze.ceilings))
    return (f'heightfloor=0;heightceiling={doom_mazes.UNITS};texturefloor="{floor}";'
            f'textureceiling="{ceiling}";lightlevel=255;')


def _start(walk):
    (row, column), angle = walk.place[0], NORTH - walk.angle[0] * 90 // doom_mazes.QUARTER
    skills = "".join(f"skill{number}=true;" for number in range(1, 6))
    return f"thing{{x={column};y={-row};angle={angle % 360};type=1;single=true;{skills}}}"


if __name__ == "__main__":
    _main()
