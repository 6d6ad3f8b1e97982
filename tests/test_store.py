"""The memory-mapped store: whole or absent, tied to its source, built by one process at a time."""

import json
import os
import threading
import time

import numpy as np
import pytest

from datasets import store
from tools import UserError


def arrays(*lengths, channels=1):
    rng = np.random.default_rng(0)
    return [(f"video{index}", rng.integers(0, 255, (length, 4, 4, channels), np.uint8))
            for index, length in enumerate(lengths)]


def test_videos_come_back_as_they_went_in(tmp_path):
    path, videos = str(tmp_path / "frames"), arrays(5, 1, 9)
    actions = [("a", np.arange(6, dtype=np.float32).reshape(3, 2))]
    store.build(path, "v1", {"train": iter(videos), "test": iter(arrays(2))})
    opened = store.read(path, "train")
    assert len(opened) == 3 and opened.names == ["video0", "video1", "video2"]
    np.testing.assert_array_equal(opened.lengths, [5, 1, 9])
    for index, (_, video) in enumerate(videos):
        np.testing.assert_array_equal(opened[index], video)
    assert isinstance(opened.rows, np.memmap) and len(store.read(path, "test")) == 1

    store.build(path, "v2", {"train": actions})
    np.testing.assert_array_equal(store.read(path, "train")[0], actions[0][1])


def test_the_source_is_known_and_none_without_a_store(tmp_path):
    path = str(tmp_path / "frames")
    assert store.source(path) is None
    store.build(path, "v1", {"train": arrays(3)})
    assert store.source(path) == "v1"


def test_a_fingerprint_is_of_names_lengths_and_content(tmp_path):
    def fingerprint(videos, folder="a", source="v1"):
        path = str(tmp_path / folder)
        store.build(path, source, {"train": videos, "test": arrays(2)})
        return store.fingerprint(path, "train")

    videos = arrays(3, 4)
    known = fingerprint(videos)
    assert known == fingerprint(videos, "b", "v2")
    assert known != store.fingerprint(str(tmp_path / "b"), "test")
    moved = [(f"/moved/{name}", video) for name, video in videos]
    assert known == fingerprint(moved)
    (name, video), last = videos
    other = video.copy()
    other[1, 2, 3] ^= 1
    for changed in ([(name, other), last], [("video9", video), last], [last, (name, video)], [last],
                    [(name, video[:2]), (last[0], np.concatenate([video[2:], last[1]]))]):
        assert fingerprint(changed) != known


def test_a_store_without_a_fingerprint_is_given_one(tmp_path, capsys):
    path = str(tmp_path / "frames")
    store.build(path, "v1", {"train": arrays(3, 4)})
    known, header = store.fingerprint(path, "train"), tmp_path / "frames" / "header.json"
    old = json.loads(header.read_text())
    del old["splits"]["train"]["digests"]
    header.write_text(json.dumps(old))
    assert store.fingerprint(path, "train") == known and "Fingerprint of" in capsys.readouterr().err
    assert store.fingerprint(path, "train") == known and not capsys.readouterr().err
    assert sorted(os.listdir(path)) == ["header.json", "train.rows"]


def test_a_store_of_another_format_is_as_good_as_none(tmp_path, monkeypatch):
    path = str(tmp_path / "frames")
    store.build(path, "v1", {"train": arrays(3)})
    monkeypatch.setattr(store, "FORMAT", store.FORMAT + 1)
    assert store.source(path) is None


def test_a_build_that_fails_leaves_what_was_there(tmp_path):
    path = str(tmp_path / "frames")
    store.build(path, "v1", {"train": arrays(3)})

    def failing():
        yield from arrays(2)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.build(path, "v2", {"train": failing()})
    assert os.listdir(tmp_path) == ["frames"] and store.source(path) == "v1"


def test_what_a_killed_process_left_is_cleared_away(tmp_path):
    path = str(tmp_path / "frames")
    os.makedirs(f"{path}.part")
    (tmp_path / "frames.part" / "stray.rows").write_bytes(b"half")
    store.build(path, "v1", {"train": arrays(3)})
    assert os.listdir(tmp_path) == ["frames"]
    assert sorted(os.listdir(path)) == ["header.json", "train.rows"]


@pytest.mark.parametrize("change", [{"channels": 3}, {}])
def test_videos_of_two_shapes_or_types_are_refused(tmp_path, change):
    (name, video), = arrays(2, **change)
    other = (name, video if change else video.astype(np.float32))
    with pytest.raises(ValueError, match="video0 is"):
        store.build(str(tmp_path / "frames"), "v1", {"train": [*arrays(3), other]})


def test_damage_is_found_before_it_is_read(tmp_path):
    path = str(tmp_path / "frames")
    store.build(path, "v1", {"train": arrays(3)})
    with open(os.path.join(path, "train.rows"), "r+b") as file:
        file.truncate(20)
    with pytest.raises(UserError, match="train.rows is damaged: 20 bytes, not 48; delete"):
        store.read(path, "train")
    with open(os.path.join(path, "header.json"), "w") as file:
        file.write('{"format": 1, "sou')
    with pytest.raises(UserError, match="header.json cannot be read; delete"):
        store.source(path)


def test_the_second_of_two_waits_and_says_so(tmp_path, capfd):
    path, events, held = str(tmp_path / "lock"), [], threading.Event()

    def first():
        with store.lock(path, "preparing it"):
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
    assert "Waiting for another process that is preparing it" in capfd.readouterr().err


def test_space_is_stated_and_its_want_is_an_error(tmp_path, capfd):
    store.check_space(tmp_path, 5_000, "Unpacking it")
    assert "Unpacking it takes about 5 kB in" in capfd.readouterr().err
    with pytest.raises(UserError, match=r"Unpacking it takes about 1000000000.0 GB, but the disk of"):
        store.check_space(tmp_path, 10**18, "Unpacking it")


@pytest.mark.parametrize("size, text", [
    (0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (7.3e9, "7.3 GB"), (193e6, "193 MB")])
def test_sizes_read_well(size, text):
    assert store.size_text(size) == text
