"""The memory-mapped store: whole or absent, tied to its source, built by one process at a time."""

import errno
import json
import os
import threading
import time

import numpy as np
import pytest

from tools import UserError
from video_data import store


def arrays(*lengths, channels=1):
    rng = np.random.default_rng(0)
    return [(f"video{index}", rng.integers(0, 255, (length, 4, 4, channels), np.uint8))
            for index, length in enumerate(lengths)]


def build(path, source, only=None, stop=None, **splits):
    """Adds the videos that a store lacks, and commits it. Returns the numbers of those it has added.

    only: the split to add. stop: the video before which it breaks down.
    """
    added, keys = [], {split: [f"{source} {split} {number}" for number in range(len(videos))]
                       for split, videos in splits.items()}
    with store.Writer(path, sum(keys.values(), [])) as writer:
        wanted = [only] if only else list(splits)
        for split in wanted:
            for number, video in enumerate(splits[split]):
                if number == stop:
                    raise ZeroDivisionError
                if keys[split][number] not in writer.pieces:
                    writer.add(keys[split][number], [video])
                    added.append(number)
        writer.commit(source, {split: [(key, 0) for key in keys[split]] for split in wanted},
                      left_out=[split for split in splits if split not in wanted])
    return added


def assert_holds(path, split, videos):
    opened = store.read(path, split)
    assert opened.names == [name for name, _ in videos]
    for index, (_, video) in enumerate(videos):
        np.testing.assert_array_equal(opened[index], video)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "frames")


def test_videos_come_back_as_they_went_in(path):
    videos = arrays(5, 1, 9)
    build(path, "v1", train=videos, test=arrays(2))
    assert_holds(path, "train", videos)
    opened = store.read(path, "train")
    assert len(opened) == 3 and isinstance(opened[0].base, np.memmap)
    np.testing.assert_array_equal(opened.lengths, [5, 1, 9])
    assert len(store.read(path, "test")) == 1 and store.splits(path) == ["train", "test"]

    actions = [("a", np.arange(6, dtype=np.float32).reshape(3, 2))]
    build(path, "v2", train=actions)
    assert_holds(path, "train", actions)


def test_the_source_is_known_and_none_without_a_store(path):
    assert store.source(path) is None
    build(path, "v1", train=arrays(3))
    assert store.source(path) == "v1"


def test_a_store_of_another_format_is_as_good_as_none(path, monkeypatch):
    build(path, "v1", train=arrays(3))
    monkeypatch.setattr(store, "FORMAT", store.FORMAT + 1)
    assert store.source(path) is None and store.damage(path) is None


# ---------------------------------------------------------------------- killed, continued, grown


def test_a_build_that_breaks_down_leaves_what_was_there_and_is_continued(path):
    build(path, "v1", train=arrays(3, 4))
    videos = arrays(2, 5, 1, 7)
    for stop in (2, 3):
        with pytest.raises(ZeroDivisionError):
            build(path, "v2", stop=stop, train=videos)
    with open(os.path.join(path, "rows"), "ab") as file:
        file.write(b"half a row")
    with open(os.path.join(path, "journal"), "a") as file:
        file.write('["v2 train 3", [[4')
    assert build(path, "v2", train=videos) == [3]
    assert build(path, "v2", train=videos) == []  # The piece after the cut line is not lost.
    assert_holds(path, "train", videos)
    assert sorted(os.listdir(path)) == ["header.json", "rows"]


def test_readers_keep_what_they_have_while_a_store_is_replaced(path):
    videos = arrays(30, 40)
    build(path, "v1", train=videos)
    opened = store.read(path, "train")
    build(path, "v2", train=arrays(2))
    for index, (_, video) in enumerate(videos):
        np.testing.assert_array_equal(opened[index], video)


def test_what_the_disk_lost_is_read_again(path):
    videos = arrays(3, 4, 5)
    with pytest.raises(ZeroDivisionError):
        build(path, "v1", stop=2, train=videos)
    with open(os.path.join(path, "rows"), "r+b") as file:  # A power failure may leave zeros.
        file.seek(3 * 16)
        file.write(bytes(4 * 16))
    assert build(path, "v1", train=videos) == [1, 2]
    assert_holds(path, "train", videos)


def test_only_new_pieces_are_appended_in_the_order_of_the_whole(path):
    (_, a), (_, b), (_, c) = arrays(3, 4, 5)
    with store.Writer(path, ["a", "c"]) as writer:
        writer.add("a", [("a", a)], note="first")
        writer.add("c", [("c", c)])
        writer.commit("v1", {"train": [("a", 0), ("c", 0)]})
    with store.Writer(path, ["a", "b", "c"]) as writer:
        assert sorted(writer.pieces) == ["a", "c"] and writer.pieces["a"]["note"] == "first"
        writer.add("b", [("b0", b[:1]), ("b1", b[1:])])
        assert_holds(path, "train", [("a", a), ("c", c)])  # Until it is committed.
        writer.commit("v2", {"train": [("a", 0), ("b", 1)], "test": [("c", 0), ("b", 0)]})
    assert_holds(path, "train", [("a", a), ("b1", b[1:])])
    assert_holds(path, "test", [("c", c), ("b0", b[:1])])
    assert list(store.read_header(path)["pieces"]) == ["a", "b", "c"]
    with store.Writer(path, ["b"]) as writer:  # Most rows are of pieces that are no longer wanted.
        assert not writer.pieces


def test_one_split_alone_then_the_others(path):
    train, test = arrays(3, 4, 5), arrays(2, 6)
    build(path, "v1", only="test", train=train, test=test)
    assert store.splits(path) == ["test"]
    assert store.lacks(path) and store.lacks(path, "train") and not store.lacks(path, "test")
    opened = store.read(path, "test")
    with pytest.raises(ZeroDivisionError):
        build(path, "v1", stop=2, train=train, test=test)
    assert store.splits(path) == ["test"]
    build(path, "v1", train=train, test=test)
    assert not store.lacks(path) and not store.lacks(path, "train")
    assert_holds(path, "train", train)
    assert_holds(path, "test", test)
    for index, (_, video) in enumerate(test):  # A reader that has it open goes on.
        np.testing.assert_array_equal(opened[index], video)


@pytest.mark.parametrize("change", [{"channels": 3}, {}])
def test_videos_of_two_shapes_or_types_are_refused(path, change):
    (name, video), = arrays(2, **change)
    other = (name, video if change else video.astype(np.float32))
    with pytest.raises(ValueError, match="video0 is"):
        build(path, "v1", train=[*arrays(3), other])


# ------------------------------------------------------------------------------------------ damage


def rewrite_header(path, **changes):
    file = os.path.join(path, "header.json")
    with open(file) as opened:
        header = json.load(opened)
    with open(file, "w") as opened:
        json.dump(header | changes, opened)


DAMAGES = {
    "cut": (lambda path: os.truncate(f"{path}/rows", 20), "rows has 20 bytes, not 48"),
    "longer": (lambda path: os.truncate(f"{path}/rows", 50), "rows has 50 bytes, not 48"),
    "gone": (lambda path: os.remove(f"{path}/rows"), "No such file"),
    "other rows": (lambda path: rewrite_header(path, row_shape=[4, 4, 3]), "has 48 bytes, not 144"),
    "no splits": (lambda path: rewrite_header(path, splits=None), "does not fit"),
    "no JSON": (lambda path: os.truncate(f"{path}/header.json", 20), "header.json cannot be read"),
}


@pytest.mark.parametrize("kind", list(DAMAGES))
def test_a_damaged_store_is_never_read_and_named_when_it_is_removed(path, kind, capfd):
    harm, message = DAMAGES[kind]
    build(path, "v1", train=arrays(3))
    harm(path)
    assert store.source(path) is None
    with pytest.raises(UserError, match=f"frames is damaged .*{message}.*; delete it"):
        store.read(path, "train")
    store.recover(path)
    said = capfd.readouterr().err
    assert f"{path} is damaged (" in said and message in said and not os.path.exists(path)


# ------------------------------------------------------------------------------------- fingerprint


def test_a_fingerprint_is_of_names_lengths_and_content(tmp_path):
    sources = map(str, range(9))

    def fingerprint(videos, folder="a"):
        path = str(tmp_path / folder)
        build(path, next(sources), train=videos, test=arrays(2))
        return store.fingerprint(path, "train")

    videos = arrays(3, 4)
    known = fingerprint(videos)
    assert known == fingerprint(videos, "b")
    assert known != store.fingerprint(str(tmp_path / "b"), "test")
    moved = [(f"/moved/{name}", video) for name, video in videos]
    assert known == fingerprint(moved)
    (name, video), last = videos
    other = video.copy()
    other[1, 2, 3] ^= 1
    for changed in ([(name, other), last], [("video9", video), last], [last, (name, video)], [last],
                    [(name, video[:2]), (last[0], np.concatenate([video[2:], last[1]]))]):
        assert fingerprint(changed) != known


# -------------------------------------------------------------------------------- locks and disks


def test_the_second_of_two_waits_and_says_so(tmp_path, capfd):
    path, events, held = str(tmp_path / "lock"), [], threading.Event()

    def first():
        with store.lock(path, "preparing it first"):
            held.set()
            time.sleep(0.3)
            events.append("first")

    thread = threading.Thread(target=first)
    thread.start()
    held.wait()
    with store.lock(path, "preparing it"):
        events.append("second")
    thread.join()
    assert events == ["first", "second"]
    said = capfd.readouterr().err
    assert f"Waiting for another process that is preparing it first, process {os.getpid()} on" in said
    assert not os.path.exists(f"{path}.holder")


def test_a_file_system_without_locks_is_one_warning(tmp_path, monkeypatch, capfd):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    with store.lock(str(tmp_path / "lock"), "preparing it"):
        pass
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "lock cannot be locked (" in said and "only one process" in said


def test_space_is_stated_and_its_want_is_an_error(tmp_path, capfd):
    store.check_space(tmp_path, 5_000, "Unpacking it")
    assert "Unpacking it takes about 5 kB in" in capfd.readouterr().err
    with pytest.raises(UserError, match=r"Unpacking it takes about 1000000000.0 GB, but the disk of"):
        store.check_space(tmp_path, 10**18, "Unpacking it")


@pytest.mark.parametrize("size, text", [
    (0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (7.3e9, "7.3 GB"), (193e6, "193 MB")])
def test_sizes_read_well(size, text):
    assert store.size_text(size) == text
