"""The linear probe: a case with a known answer, shuffled labels, and end to end."""

import json

import numpy as np
import pytest
from conftest import ROOT

import analyze
import probe
import tools
from video_data import moving_digit

RNG = np.random.default_rng(0)
VIDEOS, FRAMES = 60, 20
PARTS = probe.thirds(VIDEOS, 0)


def features_of(label, place):
    """Features that hold a class and a place linearly, among others that hold nothing."""
    hidden = np.concatenate([np.eye(4)[label], place[..., None], RNG.normal(size=[*label.shape, 3])], -1)
    return hidden @ RNG.normal(size=[8, 12])


@pytest.fixture(scope="module")
def case():
    label = np.repeat(RNG.integers(4, size=[VIDEOS, 1]), FRAMES, 1)
    place = 10 * RNG.random([VIDEOS, FRAMES])
    return features_of(label, place), label, place


def test_what_is_there_linearly_is_read_off_held_out_videos(case):
    features, label, place = case
    assert (probe.score(features, label, *PARTS) == 1).all()
    assert probe.score(features, place, *PARTS).min() > 0.999
    assert probe.chance(label, *PARTS[::2]) < 0.5 and probe.chance(place, *PARTS[::2]) == 0


def test_half_the_variance_explained_is_half(case):
    features, _, place = case
    noisy = place + place.std() * RNG.normal(size=place.shape)
    assert probe.score(features, noisy, *PARTS).mean() == pytest.approx(0.5, abs=0.08)


def test_shuffled_labels_score_chance(case):
    features, label, place = case
    shuffled = RNG.permutation(label)
    assert abs(probe.score(features, shuffled, *PARTS).mean() - 0.25) < 0.2
    assert probe.score(features, RNG.permuted(place, axis=None), *PARTS).mean() < 0.1


def test_unknown_classes_are_left_out(case):
    features, label, _ = case
    holes = label.copy()
    holes[PARTS[2][0]] = -1
    holes[:, ::2] = -1
    found = probe.score(features, holes, *PARTS)
    assert np.isnan(found[0]) and (found[1:] == 1).all()


def test_factors_become_columns():
    found = probe.columns({"label": np.ones([2, 3, 1], int), "position": np.zeros([2, 3, 1, 2]),
                           "region": np.ones([2, 3], int), "heading": np.full([2, 3], 90.0)})
    assert list(found) == ["label", "position 1", "position 2", "region", "heading, sine",
                           "heading, cosine"]
    assert found["label"].dtype.kind == "i" and found["region"].shape == (2, 3)
    np.testing.assert_allclose(found["heading, cosine"], 0, atol=1e-12)


def test_the_parts_share_no_video():
    parts = probe.thirds(7, seed=1)
    assert sorted(np.concatenate(parts)) == list(range(7)) and min(map(len, parts)) >= 1


def test_pixels_are_averaged_in_blocks():
    video = np.zeros([1, 2, 64, 64, 1], np.uint8)
    video[0, 1, :4, :4] = 255
    pooled = probe.pooled_pixels(video)
    assert pooled.shape == (1, 2, 256) and pooled[0, 1, 0] == 1 and pooled.sum() == 1


def run_probe(monkeypatch, out, *flags):
    monkeypatch.setattr("sys.argv", ["analyze.py", "probe", "--out", str(out), *map(str, flags)])
    analyze.main()


def test_a_trained_model_holds_which_digit_it_is_and_where(tmp_path, monkeypatch):
    monkeypatch.setitem(moving_digit.MovingDigit.SIZES, "one", (1, (1, 40), (1, 40), (40, 40)))
    run_probe(monkeypatch, tmp_path / "out", "--data-root", tmp_path, "--seq-len", 40,
              "--model-dir", ROOT / "pretrained" / "moving_digit_levels_2")
    found = json.loads((tmp_path / "out" / "summary.json").read_text())
    label, row, column = found["probe"]
    assert [label["factor"], row["factor"], column["factor"]] == ["label", "position 1", "position 2"]
    assert label["level 1"]["mean"] > label["chance"] + 0.3 and found["settings"]["tested_videos"] == 20
    assert row["level 0"]["mean"] > 0.7 and column["level 0"]["mean"] > 0.7
    assert (tmp_path / "out" / "probe.png").exists() and (tmp_path / "out" / "probe.pdf").exists()
    assert "| label" in (tmp_path / "out" / "probe.md").read_text()
    with pytest.raises(tools.UserError, match="3 of 40 test videos are too few .* it needs 4"):
        run_probe(monkeypatch, tmp_path / "few", "--data-root", tmp_path, "--seq-len", 40,
                  "--num-examples", 3, "--model-dir", ROOT / "pretrained" / "moving_digit_levels_2")


def test_data_without_factors_is_refused(run_dir, tmp_path, monkeypatch):
    with pytest.raises(tools.UserError, match="moving_digits_demo declares no factors"):
        run_probe(monkeypatch, tmp_path / "out", "--model-dir", run_dir)
    assert not (tmp_path / "out").exists()
