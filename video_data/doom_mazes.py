"""Makes mazes, and walks through them, which are seen in colour and in three dimensions.

ViZDoom (Kempka et al. 2016) renders them without a display, with the textures of Freedoom. These are
under the BSD 3-clause licence: show NOTICE wherever you show such frames.

A maze is 4 x 4 rooms in a grid of 9 x 9 cells, with loops and no dead ends. Each quarter of it is
a region with a wall, a floor and a ceiling of its own. In the demo's mazes all regions look alike, so
one need only remember three textures. A walker stands in the middle of a cell, turns to an open cell
beside it, goes there, and picks the next: rarely the one that it came from.

This module needs only NumPy; doom_engine.py renders the frames.
"""

import typing

import numpy as np

NOTICE = "Textures: Freedoom, copyright its contributors, BSD 3-clause licence (freedoom.github.io)."
VERSION = "1"  # Increased when other videos are made than before.
SPLITS = ("train", "val", "test")
SIZES = {  # (videos, frames) of each split.
    "full": {"train": (1000, 200), "val": (50, 300), "test": (100, 500)},
    "demo": {"train": (400, 100), "val": (20, 150), "test": (20, 200)},
}
ROOMS = 4  # in each direction
GRID = 2 * ROOMS + 1
UNITS = 128  # side of a cell, and height of a wall, in the units of the engine
QUARTER = 1 << 14  # a quarter turn in the engine's whole numbers
CELL_FRAMES, QUARTER_FRAMES = 6, 4  # frames to cross a cell, and for a quarter turn; one more or less
LOOPS = 0.2  # probability that a room gets one more passage than it needs
BACK = 0.05  # probability to go back although another way is open
HALF_VIEW = 0.75  # tangent of half the angle of view
RAYS = 128  # rays that find the walls that a frame shows
WAYS = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])  # north, east, south, west: row and column

# Textures of Freedoom that do not move, for walls that can be told apart by colour.
WALLS = ("COMPBLUE", "REDWALL", "SKIN2", "BIGWALL", "GRAY1", "STONE2", "TANROCK2", "MARBLE1", "BRICK7",
         "BRICK11", "ASHWALL2", "PANRED", "STARG1", "SILVER2", "MODWALL3", "SKSNAKE1")
# Their colours (red, green, blue, to 255) in the rows EYES of frames that show one wall, and the
# covariance around these: learn_walls computed them from every fifth frame of the training videos.
COLOURS = np.array([
    (0.0, 0.0, 67.0), (109.3, 16.7, 16.7), (145.6, 44.2, 44.2), (177.9, 114.8, 69.8),
    (120.4, 120.4, 120.4), (58.2, 58.2, 58.2), (132.7, 108.5, 87.1), (70.8, 75.3, 49.3),
    (92.5, 68.0, 40.5), (59.2, 25.3, 15.8), (21.6, 21.6, 21.6), (104.7, 47.6, 23.3),
    (106.1, 110.1, 82.3), (62.7, 62.7, 108.1), (41.3, 41.3, 41.3), (121.2, 80.5, 47.5)])
SPREAD = np.array([(6.18, 3.44, 2.74), (3.44, 4.10, 2.76), (2.74, 2.76, 6.74)])
EYES = 30 / 64, 33 / 64  # rows that show wall in every column, as shares of a frame's height
FAINTEST = 2.0  # standard deviation of a frame's colours, to 255, below which nothing is read in it
FLATS = ("FLOOR4_8", "FLAT8", "FLOOR0_7", "GRASS1", "FLAT14", "FLAT10", "FLOOR0_1", "CEIL5_1",
         "FLAT5_3", "FLOOR5_1")


class Maze(typing.NamedTuple):
    """open: bool [9, 9], the cells that are no wall. walls, floors, ceilings: int [4], by region."""

    open: np.ndarray
    walls: np.ndarray
    floors: np.ndarray
    ceilings: np.ndarray


class Walk(typing.NamedTuple):
    """The place and the angle of the walker at each frame, in the engine's whole numbers.

    place: int [T, 2], row and column in units, 128 to a cell.
    angle: int [T], to the right from north, 65,536 to a full turn; it may exceed a full turn.
    """

    place: np.ndarray
    angle: np.ndarray


def maze(split, index, alike=False):
    """The maze of a video, which depends on the arguments alone. alike: all regions look alike."""
    rng = np.random.default_rng([SPLITS.index(split), index, 0])
    passages = np.zeros([GRID, GRID], bool)
    passages[1::2, 1::2] = True
    _carve(rng, passages)
    for room in rng.permutation(ROOMS**2):  # More passages make loops, and open dead ends.
        place = 2 * np.array(divmod(room, ROOMS)) + 1
        closed = [way for way in WAYS if _inside(place + 2 * way) and not passages[*(place + way)]]
        if len(_open_ways(passages, place)) == 1 or closed and rng.random() < LOOPS:
            passages[*(place + closed[rng.integers(len(closed))])] = True
    walls, flats = rng.permutation(len(WALLS))[:4], rng.permutation(len(FLATS))
    textures = walls, flats[:4], flats[4:8]
    return Maze(passages, *(some[:1].repeat(4) for some in textures) if alike else textures)


def _carve(rng, passages):
    """Opens passages that join all rooms in a random tree, by a walk that turns back at dead ends."""
    path = [2 * rng.integers(ROOMS, size=2) + 1]
    seen = {tuple(path[0])}
    while path:
        ways = [way for way in WAYS
                if _inside(path[-1] + 2 * way) and tuple(path[-1] + 2 * way) not in seen]
        if not ways:
            path.pop()
            continue
        way = ways[rng.integers(len(ways))]
        passages[*(path[-1] + way)] = True
        path.append(path[-1] + 2 * way)
        seen.add(tuple(path[-1]))


def _inside(place):
    return bool(((place > 0) & (place < GRID - 1)).all())


def _open_ways(passages, place):
    """The directions (0 north, 1 east, 2 south, 3 west) in which the cell beside a place is open."""
    return [way for way, step in enumerate(WAYS) if passages[*(place + step)]]


def region(cell):
    """The region of cells, int [..., 2]: 0 to 3, int [...]."""
    lower, right = np.moveaxis(np.asarray(cell) > ROOMS, -1, 0)
    return 2 * lower + right


def walk(split, index, length):
    """The walk through the maze of (split, index), a Walk of `length` frames.

    A shorter walk is the beginning of the longer one.
    """
    passages = maze(split, index).open
    rng = np.random.default_rng([SPLITS.index(split), index, 1])
    cells = np.argwhere(passages)
    cell = cells[rng.integers(len(cells))]
    way = int(rng.choice(_open_ways(passages, cell)))
    states = [np.array([*cell * UNITS + UNITS // 2, way * QUARTER])]
    while len(states) < length:
        step = WAYS[way]
        states += _evenly(states[-1], [*step * UNITS, 0], CELL_FRAMES + rng.integers(-1, 2))
        cell = cell + step
        turns = _next_turn(rng, _open_ways(passages, cell), way)
        frames = abs(turns) * (QUARTER_FRAMES + rng.integers(-1, 2))
        states += _evenly(states[-1], [0, 0, turns * QUARTER], frames)
        way = (way + turns) % 4
    states = np.stack(states[:length])
    return Walk(states[:, :2], states[:, 2])


def _evenly(state, change, frames):
    """The row, column and angle at each of the next frames, over which they change evenly."""
    shares = np.arange(1, frames + 1)[:, None]
    return [*state + np.rint(shares * change / max(1, frames)).astype(int)]


def _next_turn(rng, ways, way):
    """Quarter turns to the right, -2 to 2, to a random open way; back if no other is open."""
    others = [other for other in ways if other != (way + 2) % 4]
    if not others or len(ways) > 1 and rng.random() < BACK:
        return int(rng.choice([-2, 2]))
    return (int(rng.choice(others)) - way + 1) % 4 - 1


def factors(split, index, length, alike=False):
    """The actions and the factors of a video, a dict. alike: as in maze.

    `actions` float32 [T, 2]: how far the walker turns to the right, in 22.5 degrees, and how far it
        goes, in sixths of a cell. Row t is the action taken on seeing frame t.
    `cell` int64 [T, 2]: row and column of the cell where it stands.
    `heading` float32 [T]: degrees to the right from north, 0 to 360.
    `region` int64 [T]: the region of that cell, 0 to 3.
    `wall` int64 [T]: which of WALLS the frame shows; -1 where it shows more than one.
    """
    place, angle = walk(split, index, length + 1)
    heading = angle * (90 / QUARTER)
    gone = np.linalg.norm(np.diff(place, axis=0), axis=1) / UNITS * CELL_FRAMES
    turned = np.diff(angle) / QUARTER * QUARTER_FRAMES
    cell = place[:length] // UNITS
    return {
        "actions": np.stack([turned, gone], 1).astype(np.float32),
        "cell": cell,
        "heading": np.float32(heading[:length] % 360),
        "region": region(cell),
        "wall": one_wall(maze(split, index, alike), place[:length] / UNITS, heading[:length]),
    }


def one_wall(shown, places, headings):
    """The index in WALLS of the wall that each frame shows, int [T]; -1 where it shows several.

    places: float [T, 2], row and column in cells. headings: float [T], degrees to the right from north.
    """
    seen = shown.walls[region(_cast(shown.open, places, headings))]
    return np.where((seen == seen[:, :1]).all(1), seen[:, 0], -1)


def _cast(passages, places, headings):
    """Casts rays through the width of a frame. Returns the cells in front of the walls: [T, RAYS, 2].

    A ray crosses lines between cells. The first crossing that leads into a wall counts.
    """
    across = HALF_VIEW * (np.arange(RAYS) + 0.5 - RAYS / 2) / (RAYS / 2)
    angles = np.radians(headings)[:, None] + np.arctan(across)
    rays = np.stack([-np.cos(angles), np.sin(angles)], -1)
    rays = np.where(np.abs(rays) < 1e-9, 1e-9, rays)
    nearest = np.full(angles.shape, np.inf)
    found = np.zeros([*angles.shape, 2], int)
    for axis in (0, 1):
        for line in range(1, GRID):
            distance = (line - places[:, None, axis]) / rays[..., axis]
            crossing = places[:, None] + distance[..., None] * rays
            forward = rays[..., axis] > 0
            cells = np.floor(crossing.clip(0, GRID - 1)).astype(int)
            before, behind = cells.copy(), cells
            before[..., axis] = line - forward
            behind[..., axis] = line - ~forward
            hits = ((distance > 0) & (distance < nearest) & passages[*np.moveaxis(before, -1, 0)]
                    & ~passages[*np.moveaxis(behind, -1, 0)])
            nearest = np.where(hits, distance, nearest)
            found = np.where(hits[..., None], before, found)
    return found


def read_walls(frames):
    """Reads which wall frames show, by their colour at the height of the eyes: index in WALLS, int [N].

    It is the wall of the nearest colour, by the distance of a linear discriminant (Fisher 1936). It is
    -1 where there is next to no contrast. frames: uint8 [N, S, S, 3].
    """
    apart = _eye_colours(frames)[:, None] - COLOURS
    distance = np.einsum("nkc,cd,nkd->nk", apart, np.linalg.inv(SPREAD), apart)
    contrast = frames.std((1, 2)).mean(-1)
    return np.where(contrast < FAINTEST, -1, distance.argmin(1))


def learn_walls(frames, walls):
    """Computes COLOURS, the mean colour of each wall, and SPREAD, the covariance around these.

    frames: uint8 [N, S, S, 3], each with one wall in view. walls: int [N], its index in WALLS.
    """
    colours = _eye_colours(frames)
    means = np.stack([colours[walls == wall].mean(0) for wall in range(len(WALLS))])
    return means, np.cov(colours - means[walls], rowvar=False, bias=True)


def _eye_colours(frames):
    """The mean colour at the height of the eyes, [N, 3]."""
    top, bottom = (int(share * frames.shape[1]) for share in EYES)
    return frames[:, top:bottom].mean((1, 2))
