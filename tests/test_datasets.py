"""The TFDS builders: moving digits, and the three archives by their twins."""

import glob
import hashlib
import json
import os
import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds
import twins

import data_loader
from config import Config
from tools import UserError
from video_data import gqn_mazes, minerl_navigate, moving_digits, moving_mnist_2digit, store

BUILDERS = {"minerl": minerl_navigate.MinerlNavigate, "mazes": gqn_mazes.GqnMazes,
            "mmnist": moving_mnist_2digit.MovingMnist2digit}
NAMES = {"minerl": "minerl_navigate", "mazes": "gqn_mazes", "mmnist": "moving_mnist_2digit"}

pytestmark = pytest.mark.usefixtures("kept_readers")


# ------------------------------------------------------------------------------ moving digits


def test_a_video_depends_on_split_and_index_alone():
    video = moving_digits.video("train", 3, 40)
    assert video.shape == (40, 64, 64, 1) and video.dtype == np.uint8
    np.testing.assert_array_equal(video, moving_digits.video("train", 3, 40))
    np.testing.assert_array_equal(video[:15], moving_digits.video("train", 3, 15))
    assert (video != moving_digits.video("test", 3, 40)).any()
    assert (video != moving_digits.video("train", 4, 40)).any()


def test_no_two_digits_are_the_same_image():
    digits = [moving_digits.glyph(np.random.default_rng([split, index]))
              for split in range(2) for index in range(150)]
    assert len({digit.tobytes() for digit in digits}) == len(digits)


def test_digits_are_whole_and_bright():
    for index in range(100):
        digit = moving_digits.glyph(np.random.default_rng(index))
        assert digit.shape == (28, 28) and digit.max() > 200
        border = np.concatenate([digit[0], digit[-1], digit[:, 0], digit[:, -1]])
        assert not border.any(), index
        rows, columns = np.nonzero(digit > 100)
        assert 14 <= max(np.ptp(rows), np.ptp(columns)) <= 27


@pytest.mark.parametrize("face", moving_digits.FACES)
def test_every_face_draws_ten_different_digits(face, monkeypatch):
    monkeypatch.setattr(moving_digits, "FACES", (face,))
    drawn = {}
    for seed in range(100):
        rng = np.random.default_rng(seed)
        rng.choice(1)
        number = rng.integers(10)  # The second draw of a glyph.
        drawn[number] = moving_digits.glyph(np.random.default_rng(seed)).astype(float)
    assert len(drawn) == 10
    for one in range(10):
        for other in range(one):
            assert np.abs(drawn[one] - drawn[other]).mean() > 5, (one, other)


def test_digits_keep_their_velocity_and_bounce_off_the_borders():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        position, (angle, speed) = rng.uniform(0, 36, 2), rng.uniform([0, 2], [2 * np.pi, 5])
        velocity = speed * np.array([np.sin(angle), np.cos(angle)])
        edges = moving_digits.path(np.random.default_rng(seed), 1000)
        assert edges.min() == 0 and edges.max() == 36
        for edge in edges:
            assert np.abs(edge - position).max() <= 0.5 + 1e-9  # Whole pixels.
            position += velocity
            for axis in range(2):
                if not 0 <= position[axis] <= 36:  # Back by as much as it went past the border.
                    position[axis] = (72 if position[axis] > 36 else 0) - position[axis]
                    velocity[axis] *= -1


def test_digits_overlap_by_maximum():
    rng = np.random.default_rng([0, 5])
    expected = np.zeros([30, 64, 64], np.uint8)
    for _ in range(2):
        digit = moving_digits.glyph(rng)
        for index, (top, left) in enumerate(moving_digits.path(rng, 30)):
            alone = np.zeros([64, 64], np.uint8)
            alone[top : top + 28, left : left + 28] = digit
            expected[index] = np.where(alone > expected[index], alone, expected[index])
    np.testing.assert_array_equal(moving_digits.video("train", 5, 30)[..., 0], expected)


def test_the_builder_writes_its_videos(tmp_path, monkeypatch):
    monkeypatch.setitem(moving_digits.MovingDigits.SIZES, "demo", ((5, 20), (2, 40)))
    config = Config(dataset="moving_digits_demo", data_root=str(tmp_path), seq_len=20,
                    eval_seq_len=40, batch_size=5)
    seen = data_loader.Clips(config).batch(0)["video"]
    expected = {moving_digits.video("train", index, 20).tobytes() for index in range(5)}
    assert {video.tobytes() for video in seen} == expected
    seen = data_loader.Sequences(config, 40).batch(0, 2)["video"]
    expected = {moving_digits.video("test", index, 40).tobytes() for index in range(2)}
    assert {video.tobytes() for video in seen} == expected


# ----------------------------------------------------------------------------------- archives


@pytest.fixture
def hosted(tmp_path, monkeypatch):
    """A folder that is served by HTTP in place of the archives' hosts."""
    folder = tmp_path / "host"
    folder.mkdir()
    with twins.serve(folder) as url:
        for dataset, builder in BUILDERS.items():
            monkeypatch.setattr(builder, "URL", f"{url}/{twins.LAYOUTS[dataset][0]}")
        yield folder


def config_for(dataset, tmp_path, **settings):
    settings = {"seq_len": 12, "eval_seq_len": 24, "batch_size": 3, "tmp_abs_factor": 2,
                "open_loop_ctx": 4, "channels": twins.LAYOUTS.get(dataset, (None, 1))[1], **settings}
    return Config(dataset=dataset, data_root=str(tmp_path / "data"), **settings)


def assert_same_videos(found, expected, channels):
    """Checks that each expected video was found, in any order; encoding may change it a little."""
    found = list(found)
    assert len(found) == len(expected)
    for video in expected:
        video = video[..., :channels].astype(float)
        errors = [np.abs(video - other).mean() for other in found]
        assert min(errors) < 6, errors
        found.pop(int(np.argmin(errors)))


@pytest.mark.parametrize("dataset", list(twins.LAYOUTS))
def test_an_archive_is_downloaded_recorded_decoded_and_read(dataset, hosted, tmp_path, capfd):
    name, channels, *_ = twins.LAYOUTS[dataset]
    frames = twins.archive(dataset, hosted / name)
    config = config_for(dataset, tmp_path)
    clips, sequences = data_loader.Clips(config), data_loader.Sequences(config, 24)
    assert clips.num_clips == 3 and len(sequences) == 2
    assert_same_videos(clips.batch(0)["video"], frames["train"].values(), channels)
    assert_same_videos(sequences.batch(0, 2)["video"], frames["test"].values(), channels)

    said = capfd.readouterr().err
    assert "Downloading" in said and "Preparing" in said and "free)" in said
    records = (tmp_path / "data" / "downloads" / f"{NAMES[dataset]}.checksums.tsv").read_text()
    assert hashlib.sha256((hosted / name).read_bytes()).hexdigest() in records
    info = tfds.builder_from_directory(tmp_path / "data" / NAMES[dataset] / "1.0.0").info
    assert isinstance(info.features["video"], tfds.features.Video)
    assert info.splits["train"].num_examples == 3 and str(info.version) == "1.0.0"

    shutil.rmtree(hosted)  # Nothing is downloaded, or even asked for, again.
    again = data_loader.Clips(config)
    np.testing.assert_array_equal(again.batch(7)["video"], clips.batch(7)["video"])
    assert capfd.readouterr().err == ""


def test_sizes_of_frames_live_side_by_side(tmp_path):
    (tmp_path / "data").mkdir()
    twins.archive("mazes", tmp_path / "data" / "gqn_mazes.zip")
    seen = {size: data_loader.Clips(config_for("mazes", tmp_path, image_size=size)).batch(0)["video"]
            for size in (64, 32, 128)}
    assert {size: video.shape for size, video in seen.items()} == {
        size: (3, 12, size, size, 3) for size in seen}
    means = seen[64].reshape(3, 12, 32, 2, 32, 2, 3).astype(float).mean((3, 5))
    assert np.abs(seen[32] - means).max() <= 0.5
    assert sorted(os.listdir(tmp_path / "data" / "gqn_mazes")) == [
        "1.0.0", "1.0.0.frames", "1.0.0.frames_128", "1.0.0.frames_32", "1.0.0.lock"]


@pytest.mark.parametrize("prepared", [False, True])
def test_what_is_prepared_goes_to_cache_root(prepared, tmp_path):
    """From an archive, and from records that others have prepared."""
    (tmp_path / "data").mkdir()
    twins.archive("minerl", tmp_path / "data" / "minerl_navigate.zip")
    config = config_for("minerl", tmp_path, actions=True, image_size=32)
    if prepared:
        data_loader.prepare(config)
        for path in glob.glob(f"{tmp_path}/data/minerl_navigate/1.0.0.*"):
            os.remove(path) if os.path.isfile(path) else shutil.rmtree(path)
    before = sorted(os.walk(tmp_path / "data"))
    cached = config.replace(cache_root=str(tmp_path / "cache"))
    paths = data_loader.prepare(cached)
    assert sorted(os.walk(tmp_path / "data")) == before
    assert all(path.startswith(f"{tmp_path}/cache/data_") for path in paths.values())
    assert bool(glob.glob(f"{tmp_path}/cache/data_*/minerl_navigate/1.0.0")) != prepared
    own, others = data_loader.Clips(cached).batch(0), data_loader.Clips(config).batch(0)
    for name, value in own.items():
        np.testing.assert_array_equal(value, others[name])


def test_a_cache_root_that_cannot_be_is_one_line_that_names_it(tmp_path):
    (tmp_path / "file").touch()
    config = config_for("moving_digit_demo", tmp_path, cache_root=str(tmp_path / "file"))
    with pytest.raises(UserError, match="^cache_root: moving_digit_demo is not prepared in .*file"):
        data_loader.prepare(config)


def test_fps_is_for_videos_of_ones_own(tmp_path):
    with pytest.raises(UserError, match="fps: mazes has no time stamps"):
        data_loader.prepare(config_for("mazes", tmp_path, fps=10))


def test_the_order_does_not_depend_on_the_order_of_files(hosted, tmp_path):
    batches = []
    for reverse in (False, True):
        twins.archive("mazes", hosted / "gqn_mazes.zip", reverse=reverse)
        config = config_for("mazes", tmp_path / str(reverse))
        batches.append(data_loader.Clips(config).batch(0)["video"])
    np.testing.assert_array_equal(*batches)


def test_an_archive_that_was_put_there_by_hand_is_not_downloaded(tmp_path):
    (tmp_path / "data").mkdir()
    twins.archive("mazes", tmp_path / "data" / "gqn_mazes.zip")
    assert data_loader.Clips(config_for("mazes", tmp_path)).num_clips == 3


def test_a_host_that_is_not_there_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(gqn_mazes.GqnMazes, "URL", "http://127.0.0.1:9/gqn_mazes.zip")
    with pytest.raises(UserError, match="cannot download .*or put the file at .*gqn_mazes.zip"):
        data_loader.prepare(config_for("mazes", tmp_path))


def test_a_missing_archive_is_one_line(hosted, tmp_path):
    with pytest.raises(UserError, match="cannot download .*404"):
        data_loader.prepare(config_for("mazes", tmp_path))


def test_a_download_that_breaks_off_is_one_line_and_leaves_nothing_for_good(
        hosted, tmp_path, monkeypatch):
    twins.archive("mazes", hosted / "gqn_mazes.zip")
    config, leftovers = config_for("mazes", tmp_path), tmp_path / "data" / "downloads" / "gqn_mazes"
    with monkeypatch.context() as context:
        def half(self, source, out):
            out.write(source.read(1000))

        context.setattr(twins.http.server.SimpleHTTPRequestHandler, "copyfile", half)
        with pytest.raises(UserError, match="cannot download .*try again"):
            data_loader.prepare(config)
    assert glob.glob(f"{leftovers}/*")
    assert data_loader.Clips(config).num_clips == 3
    assert not glob.glob(f"{leftovers}/*.tmp.*")


@pytest.mark.parametrize("damage", ["cut", "flipped", "no zip"])
def test_a_damaged_archive_is_named_and_a_good_one_repairs_it(damage, hosted, tmp_path):
    archive = hosted / "gqn_mazes.zip"
    twins.archive("mazes", archive)
    good = archive.read_bytes()
    middle = len(good) // 3
    archive.write_bytes({"cut": good[:middle], "no zip": b"<html>Sorry</html>",
                         "flipped": good[:middle] + b"damage" + good[middle + 6 :]}[damage])
    config = config_for("mazes", tmp_path)
    downloaded = str(tmp_path / "data" / "gqn_mazes.zip")
    with pytest.raises(UserError, match=f"{downloaded} is damaged .*delete it and start again"):
        data_loader.prepare(config)
    assert not os.path.exists(tmp_path / "data" / "gqn_mazes" / "1.0.0")
    os.remove(downloaded)
    archive.write_bytes(good)
    assert data_loader.Clips(config).num_clips == 3


def test_an_archive_of_something_else_is_named(hosted, tmp_path):
    twins.archive("mmnist", hosted / "gqn_mazes.zip")
    with pytest.raises(UserError, match="is not gqn_mazes: it has no folder train"):
        data_loader.prepare(config_for("mazes", tmp_path))


def test_a_truncated_video_is_named_skipped_and_counted(hosted, tmp_path, capfd):
    twins.archive("minerl", hosted / "minerl_navigate.zip", damaged=[1])
    clips = data_loader.Clips(config_for("minerl", tmp_path))
    said = capfd.readouterr().err
    assert clips.num_clips == 2
    assert "Skipped minerl_navigate/train/video_001.mp4: " in said
    assert "1 of 3 videos of minerl_navigate do not decode" in said


def test_a_disk_that_is_too_small_stops_it_before_it_starts(hosted, tmp_path, monkeypatch):
    twins.archive("mazes", hosted / "gqn_mazes.zip")
    config, usage = config_for("mazes", tmp_path), shutil.disk_usage("/")
    for free, what in ((1000, "Downloading"), (1_000_000, "Preparing gqn_mazes")):
        small = usage._replace(free=free)
        monkeypatch.setattr(store.shutil, "disk_usage", lambda _, small=small: small)
        with pytest.raises(UserError, match=f"{what}.* takes .* but the disk of .* has"):
            data_loader.prepare(config)
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path / "data")) == ["downloads", "gqn_mazes", "gqn_mazes.zip"]
    assert os.listdir(tmp_path / "data" / "gqn_mazes") == ["1.0.0.lock"]


# ----------------------------------------------------------------------- earlier users' data


class _Earlier(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Records with the plain Video feature alone, as earlier users have prepared them."""

    VERSION = tfds.core.Version("1.0.0")
    name = "minerl_navigate"

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(
            {"video": tfds.features.Video(shape=(None, 64, 64, 3))}))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(3, 12), "test": self._generate_examples(2, 24)}

    def _generate_examples(self, count, length):
        for number in range(count):
            yield f"{number}", {"video": twins.movie([number, length], length)}


@pytest.fixture
def earlier(tmp_path, monkeypatch):
    """A data root of theirs; the archive's host cannot be reached."""
    builder = _Earlier(data_dir=str(tmp_path / "data"))
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    monkeypatch.setattr(minerl_navigate.MinerlNavigate, "URL", "http://127.0.0.1:9/x.zip")
    return tmp_path


def test_what_earlier_users_have_prepared_is_read_without_downloading(earlier):
    config = config_for("minerl", earlier)
    seen = data_loader.Clips(config).batch(0)["video"]
    assert {video.tobytes() for video in seen} == {
        twins.movie([number, 12], 12).tobytes() for number in range(3)}
    assert len(data_loader.Sequences(config, 24)) == 2


def test_earlier_data_has_no_actions_and_the_message_says_how_to_get_them(earlier):
    with pytest.raises(UserError, match="actions: .*1.0.0 was prepared without metadata; move it away"):
        data_loader.Clips(config_for("minerl", earlier, actions=True))


# ------------------------------------------------------------------------------------ actions


def test_actions_belong_to_their_frames(hosted, tmp_path, capfd):
    frames = twins.archive("minerl", hosted / "minerl_navigate.zip")
    config = config_for("minerl", tmp_path, seq_len=6, actions=True, batch_size=6)
    clips, sequences = data_loader.Clips(config), data_loader.Sequences(config, 24)
    assert "camera.0, camera.1, forward" in capfd.readouterr().err
    assert clips.action_size == sequences.action_size == 3

    batch = clips.batch(0)
    assert batch["actions"].shape == (6, 6, 3) and batch["actions"].dtype == np.float32
    videos = list(frames["train"].values())
    for video, actions in zip(batch["video"], batch["actions"], strict=True):
        number, start = int(actions[1, 0]), int(actions[1, 1])  # Row 1 led from the first frame on.
        np.testing.assert_array_equal(actions[1:, 1], np.arange(start, start + 5))
        assert not actions[0].any()
        truth = videos[number][start : start + 6]
        assert np.abs(truth.astype(float) - video).mean() < 6
    batch = sequences.batch(1, 1)
    np.testing.assert_array_equal(batch["actions"][0, :, 1], [0, *range(23)])

    skipping = data_loader.Clips(config.replace(frame_skip=2))
    np.testing.assert_array_equal(
        skipping.batch(0)["actions"][0, :, 1], [0, 0 + 1, 2 + 3, 4 + 5, 6 + 7, 8 + 9])


def test_frames_without_actions_do_not_need_the_metadata(hosted, tmp_path):
    twins.archive("minerl", hosted / "minerl_navigate.zip", metadata=False)
    config = config_for("minerl", tmp_path)
    assert "actions" not in data_loader.Clips(config).batch(0)
    with pytest.raises(UserError, match=r"actions: minerl train\[0\]: there is no metadata"):
        data_loader.Clips(config.replace(actions=True))


def test_records_that_were_deleted_to_save_space_are_not_missed(hosted, tmp_path):
    twins.archive("minerl", hosted / "minerl_navigate.zip")
    config = config_for("minerl", tmp_path, actions=True)
    before = data_loader.Clips(config).batch(0)
    shutil.rmtree(tmp_path / "data" / "minerl_navigate" / "1.0.0")
    shutil.rmtree(hosted)
    os.remove(tmp_path / "data" / "minerl_navigate.zip")
    np.testing.assert_array_equal(data_loader.Clips(config).batch(0)["actions"], before["actions"])


def test_other_actions_than_the_frames_records_are_built_anew_with_the_frames(earlier, monkeypatch):
    config = config_for("minerl", earlier)
    data_loader.prepare(config)
    shutil.rmtree(earlier / "data" / "minerl_navigate" / "1.0.0")
    frames = twins.archive("minerl", earlier / "data" / "x.zip")
    batch = data_loader.Clips(config.replace(actions=True)).batch(0)
    for video, actions in zip(batch["video"], batch["actions"], strict=True):
        truth = list(frames["train"].values())[int(actions[1, 0])]
        assert np.abs(truth.astype(float) - video).mean() < 6


FORMS = {
    "a list a frame": {"actions": [[t, 1] for t in range(4)]},
    "kinds of lists": {"actions": {"x": [0, 1, 2, 3], "y": [True] * 4}},
    "an entry in each frame": [{"action": {"x": t, "y": 1}, "angle": 0.1} for t in range(4)],
    "a number in each frame": [{"action": t} for t in range(4)],
    "by frame number": {str(t): {"Action": {"x": t}} for t in (3, 1, 0, 2)},
    "several keys": {"action$x": [0, 1, 2, 3], "action$y": [[0, 0]] * 4, "reward": [0] * 4},
    "below another key": {"meta": 1, "log": {"actions": {"x": [0, 1, 2, 3]}}},
    "beside a count": {"num_actions": 4, "actions": [0, 1, 2, 3]},
    "none for the last frame": {"actions": [0, 1, 2]},
    "one after the last frame": {"actions": [0, 1, 2, 3, 4]},
    "none in the last frame": [{"action": {"x": t}} for t in range(3)] + [{"angle": 1}],
}


@pytest.mark.parametrize("form", list(FORMS))
def test_actions_are_found_in_many_forms(form):
    names, actions = minerl_navigate.read_actions(json.dumps(FORMS[form]), 4)
    assert actions.shape == (4, len(names)) and actions.dtype == np.float32
    last = 0 if form.startswith("none") else 3
    np.testing.assert_array_equal(actions[:, 0], [0, 1, 2, last])


def test_words_are_actions_unless_they_are_none():
    names, actions = minerl_navigate.read_actions(
        json.dumps({"actions": {"place": ["none", "dirt", "none"]}}), 3)
    assert names == ["place"]
    np.testing.assert_array_equal(actions, [[0], [1], [0]])


@pytest.mark.parametrize("metadata, message", [
    ("", "there is no metadata"),
    ("{", "not JSON"),
    ('{"angle": [1, 2]}', "found no actions in a mapping of angle"),
    ('{"num_actions": 3}', "found no actions in a mapping of num_actions"),
    ('{"actions": [1, 2]}', "no action for each of 4 frames in a list of 2, the first 1"),
    ('{"actions": [1, [2], 3, 4]}', "differ between frames"),
    ('{"actions": [null, 1, 2, 3]}', "found None as action"),
])
def test_metadata_without_actions_says_what_was_found(metadata, message):
    with pytest.raises(UserError, match=message):
        minerl_navigate.read_actions(metadata, 4)
