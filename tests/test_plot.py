import csv
import json
import os
import sys

import imageio.v3 as imageio
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import charts
import comparison
import evaluations
import intervals
import pictures
import plot
from charts import Figure
from config import Config, load_config
from tools import UserError

TERMS = ["Loss (nats per frame)", "Negative log-likelihood\n(nats per frame)", "KL (nats per frame)"]


@pytest.fixture
def make_run(tmp_path):
    """Returns a function that writes a run directory as train.py and eval.py leave it behind."""

    def make(name, evaluated=True, trained=True, **settings):
        run = tmp_path / name
        run.mkdir()
        config = Config(dataset="moving_digits", log_root=str(tmp_path), eval_seq_len=44, **settings)
        config.save(run / "config.yml")
        if trained:
            lines = [{"step": step, "split": split, "total_loss": 100 / step, "nll_term": 90 / step,
                      "kl_term": 10 / step} for step in (1, 50, 100) for split in ("train", "val")]
            (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        if evaluated:
            make_evaluation(run / "eval_2026_01_02_03_04_05", config, seed=config.seed)
        return run

    return make


def make_evaluation(path, config, examples=4, samples=3, frames=8, seed=0, convention="words",
                    arrays=None, **settings):
    path.mkdir()
    noise = np.random.default_rng(seed).normal(size=[examples, samples, frames])
    np.savez(
        path / "metrics.npz", **(arrays or {}), psnr=20 + noise, ssim=0.5 + 0.1 * noise,
        lpips=0.3 + 0.01 * noise, ssim_range2=0.6 + 0.1 * noise, psnr_unclipped=19 + noise,
        psnr_convention=convention, psnr_reconstruction=noise[:, 0], open_loop_ctx=36)
    settings = {**{key: getattr(config, key) for key in config.__dataclass_fields__},
                "num_examples": examples, "num_samples": samples, **settings}
    (path / "summary.json").write_text(json.dumps({"settings": settings, "metrics": {}}))


def curves_of(*paths):
    return evaluations.group_seeds([evaluations.read_result(str(path)) for path in paths])


@pytest.fixture
def figures(monkeypatch):
    """The figures saved in a test."""
    saved, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *a, **k: (saved.append(figure), save(figure, *a, **k)))
    return saved


def run_plot(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["plot.py", *map(str, arguments)])
    plot.main()


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def table_of(path):
    """The first Markdown table of a file as a dict: row name -> cells."""
    first = path.read_text().split("\n\n")[0]
    lines = [line for line in first.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in rows}


def test_two_runs_give_a_figure_and_a_table_labelled_by_what_differs(
        make_run, tmp_path, monkeypatch, figures, capsys):
    runs = [make_run("a", levels=1), make_run("b", levels=2, lr=0.001)]
    run_plot(monkeypatch, *runs, "--out", tmp_path / "compared.png")
    assert imageio.imread(tmp_path / "compared.png").std() > 0
    assert legend(figures[0]) == ["levels 1, lr 0.0003", "levels 2, lr 0.001"]
    panels = [axes.get_ylabel() for part in figures[0].subfigs for axes in part.axes]
    assert panels == ["PSNR (dB) ↑", "SSIM ↑", "LPIPS ↓", *TERMS]
    rows = table_of(tmp_path / "compared.md")
    assert rows[""] == legend(figures[0])
    assert rows["Examples"] == ["4", "4"] and rows["Frames of context"] == ["36", "36"]
    assert rows["Steps trained"] == ["100", "100"]
    assert (tmp_path / "compared.md").read_text() in capsys.readouterr().out
    with open(tmp_path / "compared.csv", newline="") as file:
        written = {name: cells for name, *cells in csv.reader(file)}
    shown = {name: cells for name, cells in rows.items() if not name.startswith("--")}
    assert written | shown == written
    (extra, *_) = set(written) - set(shown)
    assert extra.endswith(f", better than {rows[''][0]} by") and written[extra][0] == ""


def test_table_holds_the_mean_and_the_best_sample_by_each_metric_with_intervals(
        make_run, tmp_path, monkeypatch):
    run = make_run("a")
    run_plot(monkeypatch, run, "--out", tmp_path / "a.png")
    rows = table_of(tmp_path / "a.md")
    with np.load(run / "eval_2026_01_02_03_04_05" / "metrics.npz") as file:
        psnr, lpips = file["psnr"].mean(2), file["lpips"].mean(2)  # [N, S]
    for name, values, decimals in [
            ("PSNR (dB) ↑, mean", psnr.mean(1), 2), ("PSNR (dB) ↑, best of 3", psnr.max(1), 2),
            ("LPIPS ↓, mean", lpips.mean(1), 3), ("LPIPS ↓, best of 3", lpips.min(1), 3)]:
        low, high = intervals.interval(values[None])
        want = [f"{x:.{decimals}f}" for x in (values.mean(), low, high)]
        assert rows[name] == ["{} [{}, {}]".format(*want)]
    assert {"SSIM, unclipped, range 2 ↑, mean", "PSNR, unclipped (dB) ↑, best of 3"} <= set(rows)


def test_table_holds_the_means_over_spans_of_predicted_frames(make_run, tmp_path, monkeypatch, refusal):
    run = make_run("a")
    run_plot(monkeypatch, run, "--out", tmp_path / "a.png", "--spans", "1-2", "8-8", "7-9")
    rows = table_of(tmp_path / "a.md")
    with np.load(run / "eval_2026_01_02_03_04_05" / "metrics.npz") as file:
        psnr = file["psnr"].mean(1)  # [N, F]
    for name, values in [("+1 to +2", psnr[:, :2].mean(1)), ("+8 to +8", psnr[:, 7])]:
        assert rows[f"PSNR (dB) ↑, frames {name}"][0].startswith(f"{values.mean():.2f} [")
    assert rows["PSNR (dB) ↑, frames +7 to +9"] == [""]  # There are 8.
    for odd in ("0-3", "3-2", "5", "a-b"):
        assert "spans" in refusal(plot.main, run, "--out", tmp_path / "a.png", "--spans", odd)


def test_curves_are_the_mean_over_samples_or_the_best_sample_from_the_first_predicted_frame(
        make_run, tmp_path, monkeypatch, figures):
    run = make_run("a")
    for flags in [], ["--best"]:
        run_plot(monkeypatch, run, "--out", tmp_path / "a.png", *flags)
    with np.load(run / "eval_2026_01_02_03_04_05" / "metrics.npz") as file:
        psnr = file["psnr"]
    best = psnr[np.arange(4), psnr.mean(2).argmax(1)]
    mean_axes, best_axes = (figure.subfigs[0].axes[0] for figure in figures)
    assert mean_axes.lines[0].get_xdata().tolist() == list(range(37, 45))
    np.testing.assert_allclose(mean_axes.lines[0].get_ydata(), psnr.mean((0, 1)))
    np.testing.assert_allclose(best_axes.lines[0].get_ydata(), best.mean(0))
    assert best_axes.get_ylabel() == "PSNR (dB) ↑, best of 3"


def test_labels_can_be_given(make_run, tmp_path, monkeypatch, figures):
    runs = [make_run("a", levels=1), make_run("b", levels=2)]
    run_plot(monkeypatch, *runs, "--labels", "RSSM", "ours", "--out", tmp_path / "a.svg")
    assert legend(figures[0]) == ["RSSM", "ours"]


# -------------------------------------------------------------------------------- seeds, what compares


def test_runs_that_differ_in_the_seed_alone_are_one_curve_with_their_interval(
        make_run, tmp_path, monkeypatch, figures):
    runs = [make_run(f"{levels}{seed}", levels=levels, seed=seed)
            for levels in (1, 2) for seed in (0, 1, 2)]
    run_plot(monkeypatch, *runs, "--out", tmp_path / "a.png")
    assert legend(figures[0]) == ["levels 1 (3 seeds)", "levels 2 (3 seeds)"]
    axes = figures[0].subfigs[0].axes[0]
    assert len(axes.lines) == 2
    psnr = np.stack([np.load(run / "eval_2026_01_02_03_04_05" / "metrics.npz")["psnr"].mean(1)
                     for run in runs[:3]])  # [R, N, T]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), psnr.mean((0, 1)))
    rows = table_of(tmp_path / "a.md")
    assert rows["Seeds"] == ["3", "3"] and rows["Steps trained"] == ["100", "100"]
    low, high = intervals.interval(psnr.mean(2))
    assert rows["PSNR (dB) ↑, mean"][0] == f"{psnr.mean():.2f} [{low:.2f}, {high:.2f}]"
    losses = figures[0].subfigs[1].axes[0]
    assert len(losses.lines) == 4 and losses.lines[1].get_xdata().tolist() == [1, 50, 100]


def test_two_evaluations_of_one_seed_are_no_two_seeds(make_run):
    run = make_run("a")
    config = load_config(run / "config.yml")
    make_evaluation(run / "eval_b", config)
    curves = curves_of(run / "eval_2026_01_02_03_04_05", run / "eval_b", make_run("b", seed=1))
    assert [len(curve.results) for curve in curves] == [1, 1, 1]  # the run has training curves as well


@pytest.mark.parametrize("settings, title, together", [
    (dict(data_digest="other"), "moving_digits, context 36", "not comparable: other data"),
    (dict(convention="more words"), "moving_digits, context 36", "not comparable: other convention"),
])
def test_what_does_not_compare_is_drawn_apart_unless_asked_and_then_it_is_said(
        make_run, tmp_path, monkeypatch, figures, settings, title, together):
    run = make_run("a", evaluated=False)
    config = load_config(run / "config.yml")
    make_evaluation(tmp_path / "eval_a", config, data_digest="one")
    make_evaluation(tmp_path / "eval_b", config, **{"data_digest": "one", **settings})
    for flags in [], ["--together"]:
        run_plot(monkeypatch, tmp_path / "eval_a", tmp_path / "eval_b", "--labels", "a", "b", *flags,
                 "--out", tmp_path / "a.png")
    apart, joined = figures
    panels = [axes for part in apart.subfigs for axes in part.axes if "PSNR" in axes.get_ylabel()]
    assert [len(axes.lines) for axes in panels] == [1, 1]
    assert [axes.get_title() for axes in panels] == [title] * 2
    (panel,) = [axes for part in joined.subfigs for axes in part.axes if "PSNR" in axes.get_ylabel()]
    assert len(panel.lines) == 2 and panel.get_title() == together


def test_evaluations_after_other_contexts_are_drawn_apart(make_run, tmp_path):
    config = load_config(make_run("a") / "config.yml")
    curves = []
    for context in (36, 72):
        make_evaluation(tmp_path / f"eval_{context}", config, open_loop_ctx=context)
        result = evaluations.read_result(str(tmp_path / f"eval_{context}"))
        curves.append(evaluations.Curve([result]))
        result.context = context
    assert evaluations.comparable(curves, "psnr") == [[0], [1]]
    assert plot.metric_rows(curves, together=False)[0] == [("psnr", [0]), ("ssim", [0]), ("lpips", [0])]
    assert plot.metric_rows(curves, together=True)[0][0] == ("psnr", [0, 1])
    assert plot.differences(curves, "psnr") == "other context"


def test_trivial_predictors_have_rows_in_the_table_and_one_line(
        make_run, tmp_path, monkeypatch, figures):
    config = load_config(make_run("a") / "config.yml")
    trivial = {f"psnr_{name}": np.full([4, 8], value) + np.arange(8)
               for name, value in [("last_frame", 12.0), ("context_mean", 15.0), ("black", 10.0)]}
    trivial["psnr_last_frame"][:, 0] = 99
    for name in "ab":
        make_evaluation(tmp_path / f"eval_{name}", config, arrays=trivial)
    run_plot(monkeypatch, tmp_path / "eval_a", tmp_path / "eval_b", "--out", tmp_path / "a.png")
    axes = figures[0].subfigs[0].axes[0]
    (line,) = (line for line in axes.lines if line.get_label() == "best trivial predictor")
    assert line.get_ydata().tolist() == [99, *range(16, 23)]
    assert "best trivial predictor" in legend(figures[0])
    rows = table_of(tmp_path / "a.md")
    assert rows["PSNR (dB) ↑, mean of the context"] == ["18.50 [18.50, 18.50]"] * 2
    assert "SSIM ↑, black" not in rows


def test_results_that_differ_in_nothing_are_labelled_by_their_paths(make_run):
    runs = [make_run("a"), make_run("b")]
    assert evaluations.label_by_difference(curves_of(*runs)) == ["a", "b"]
    paths = [run / "eval_2026_01_02_03_04_05" for run in runs]
    assert evaluations.label_by_difference(curves_of(*paths)) == list(map(str, paths))


def test_two_evaluations_of_a_run_are_labelled_by_how_they_were_made(make_run, tmp_path):
    run = make_run("a")
    config = load_config(run / "config.yml")
    make_evaluation(run / "eval_b", config, use_obs="TTF", num_samples=5, samples=5)
    results = curves_of(run / "eval_2026_01_02_03_04_05", run / "eval_b")
    assert evaluations.label_by_difference(results) == [
        "use_obs true, num_samples 3", "use_obs TTF, num_samples 5"]
    assert not results[0].training


def test_settings_that_do_not_change_results_are_no_label(make_run):
    runs = [make_run("a", levels=1, save_model_every=5), make_run("b", levels=2, save_model_every=7)]
    assert evaluations.label_by_difference(curves_of(*runs)) == ["levels 1", "levels 2"]


def test_a_run_shows_its_newest_evaluation_that_is_whole(make_run):
    run = make_run("a")
    config = load_config(run / "config.yml")
    make_evaluation(run / "eval_2026_01_10_00_00_00", config, examples=7)
    (run / "eval_2026_02_01_00_00_00.part").mkdir()
    result = evaluations.read_result(str(run))
    assert result.scores["psnr"].shape == (7, 3, 8) and result.training


def test_a_term_of_ones_own_is_drawn_with_the_others(make_run, tmp_path, monkeypatch, figures):
    runs = [make_run(name, evaluated=False) for name in "ab"]
    lines = [{"step": step, "split": split, "total_loss": 1.0, "nll_term": 1.0, "kl_term": 1.0,
              "memory_term": step} for step in (200, 300) for split in ("train", "val")]
    with open(runs[0] / "metrics.jsonl", "a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in lines))
    run_plot(monkeypatch, *runs, "--out", tmp_path / "a.png")
    panels = [axes for part in figures[0].subfigs for axes in part.axes]
    assert [axes.get_ylabel() for axes in panels] == [*TERMS, "Memory (nats per frame)"]
    assert panels[-1].lines[1].get_ydata().tolist() == [200, 300]


@pytest.mark.parametrize("names, newest", [
    (["2026_01_02_03_04_05", "2026_01_02_03_04_05_2", "2026_01_02_03_04_05_11"],
     "2026_01_02_03_04_05_11"),
    (["results", "2026_01_02_03_04_05"], "2026_01_02_03_04_05"),
    (["2026_01_02_03_04_05", "2026_02_01_00_00_00.part"], "2026_01_02_03_04_05"),
    (["results"], "results"),
    (["2026_02_01_00_00_00.part"], None),
])
def test_the_newest_evaluation_is_by_its_time_and_number_and_whole(tmp_path, names, newest):
    for name in names:
        (tmp_path / f"eval_{name}").mkdir()
        (tmp_path / f"eval_{name}" / "summary.json").write_text("{}")  # A part may have one already.
    (tmp_path / "eval_2026_09_09_09_09_09").mkdir()  # This one has nothing in it.
    found = evaluations.newest_evaluation(str(tmp_path))
    assert found == (newest and str(tmp_path / f"eval_{newest}"))


def test_two_models_differ_where_the_interval_of_their_paired_difference_excludes_0(
        make_run, tmp_path, monkeypatch):
    config = load_config(make_run("a", evaluated=False) / "config.yml")
    rng = np.random.default_rng(0)
    hard = 5 * rng.normal(size=[4, 1, 1])
    for name, gain in [("a", 0), ("b", 3), ("c", 0)]:
        make_evaluation(tmp_path / f"eval_{name}", config, data_digest="one")
        with np.load(tmp_path / f"eval_{name}" / "metrics.npz") as file:
            arrays = dict(file)
        arrays["psnr"] = 20 + hard + gain + rng.normal(size=[4, 3, 8])
        arrays["lpips"] = arrays["lpips"] * np.nan  # undefined throughout
        np.savez(tmp_path / f"eval_{name}" / "metrics.npz", **arrays)
    run_plot(monkeypatch, *(tmp_path / f"eval_{name}" for name in "abc"), "--labels", *"abc",
             "--out", tmp_path / "a.png", "--spans", "1-2")
    text = (tmp_path / "a.md").read_text()
    assert "How much better each is than a, on the same videos." in text
    rows = {row[0]: row[1:] for row in comparison.difference_rows(
        curves_of(*(tmp_path / f"eval_{name}" for name in "abc")), list("abc"), [(1, 2), (3, 9)])}
    better, equal = rows["PSNR (dB) ↑, mean"]
    assert better.endswith(", differs") and 2 < float(better.split()[0]) < 4
    assert not equal.endswith("differs") and rows["LPIPS ↓, mean"] == ["undefined"] * 2
    assert "PSNR (dB) ↑, frames +1 to +2" in rows
    assert "PSNR (dB) ↑, frames +3 to +9" not in rows  # There are only eight.


def test_runs_of_other_lengths_are_no_seeds_of_each_other(make_run):
    assert len(curves_of(make_run("a"), make_run("b", seed=1))) == 1
    assert len(curves_of(make_run("c"), make_run("d", seed=1, max_steps=150))) == 2


def test_each_seeds_mean_stands_beside_the_interval(make_run):
    runs = [make_run(str(seed), seed=seed) for seed in (0, 1)]
    rows = {row[0]: row[1:] for row in comparison.table_rows(curves_of(*runs))}
    means = [np.load(run / "eval_2026_01_02_03_04_05" / "metrics.npz")["psnr"].mean() for run in runs]
    assert rows["PSNR (dB) ↑, mean of each seed"] == [", ".join(f"{mean:.2f}" for mean in means)]


def test_runs_without_evaluation_show_their_training_alone(make_run, tmp_path, monkeypatch, figures):
    run_plot(monkeypatch, make_run("a", evaluated=False), "--out", tmp_path / "a.png")
    panels = [axes.get_ylabel() for part in figures[0].subfigs for axes in part.axes]
    assert panels == TERMS
    assert "interval" not in (tmp_path / "a.md").read_text()


def test_results_of_different_kinds_share_a_figure(make_run, tmp_path, monkeypatch, figures):
    runs = [make_run("a", levels=1, evaluated=False), make_run("b", levels=2, trained=False)]
    config = load_config(runs[1] / "config.yml")
    make_evaluation(tmp_path / "eval_c", config, samples=1, examples=1, levels=3)
    run_plot(monkeypatch, *runs, tmp_path / "eval_c", "--out", tmp_path / "a.png")
    assert legend(figures[0]) == ["levels 1", "levels 2", "levels 3"]
    rows = table_of(tmp_path / "a.md")
    assert rows["Samples of each"] == ["", "3", "1"]
    assert rows["Steps trained"] == ["100", "", ""]
    first, second, third = rows["PSNR (dB) ↑, mean"]
    assert not first and "[" in second and third and "[" not in third  # one example: no interval
    assert rows["PSNR (dB) ↑, best of 3"][2] == ""


def test_the_line_that_a_running_training_is_writing_is_left_out(make_run):
    run = make_run("a", evaluated=False)
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"step": 150, "sp')
    assert evaluations.read_result(str(run)).training[-1]["step"] == 100


def test_every_curve_looks_unlike_every_other_by_more_than_colour():
    looks = [charts.look(index) for index in range(28)]
    assert len({(look["color"], look["linestyle"]) for look in looks}) == 28
    assert len({look["marker"] for look in looks[:8]}) == 8


def test_markers_of_two_curves_do_not_fall_on_one_another():
    marked = [set(range(100)[plot.marked(100, index, 4)]) for index in range(4)]
    assert all(len(points) == 5 for points in marked) and len(set.union(*marked)) == 20
    assert list(range(3)[plot.marked(3, 1, 2)]) == [0, 1, 2]


def damaged(run, file, content):
    path = run / file
    path.write_text(content) if content is not None else path.unlink()


@pytest.mark.parametrize("file, content, words", [
    ("metrics.jsonl", "{]\n", "metrics.jsonl: line 1 is not JSON"),
    ("config.yml", "a: [", "config.yml is not valid YAML"),
    ("eval_2026_01_02_03_04_05/metrics.npz", None, "cannot read .*metrics.npz"),
    ("eval_2026_01_02_03_04_05/metrics.npz", "words", "is not a whole evaluation"),
    ("eval_2026_01_02_03_04_05/summary.json", "{", "is not a whole evaluation"),
    ("eval_2026_01_02_03_04_05/summary.json", "{}", "is not a whole evaluation: 'settings'"),
])
def test_damaged_files_are_one_line_that_names_them(make_run, file, content, words):
    run = make_run("a")
    damaged(run, file, content)
    with pytest.raises(UserError, match=words) as error:
        evaluations.read_result(str(run))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("arrays, words", [
    ({"psnr": np.ones([2, 3])}, r"psnr has the shape \[2, 3\]"),
    ({"psnr": np.full([2, 1, 3], np.inf)}, "psnr has values that are infinite"),
    ({}, "none of the metrics psnr"),
])
def test_arrays_of_another_kind_are_one_line(tmp_path, arrays, words):
    np.savez(tmp_path / "metrics.npz", open_loop_ctx=36, **arrays)
    (tmp_path / "summary.json").write_text('{"settings": {}}')
    with pytest.raises(UserError, match=words):
        evaluations.read_result(str(tmp_path))


def test_bad_arguments_are_one_line(make_run, tmp_path, monkeypatch):
    run, out = make_run("a"), tmp_path / "a.png"
    empty = make_run("empty", evaluated=False, trained=False)
    for arguments, words in [
            ([tmp_path / "absent", "--out", out], "no such directory"),
            ([tmp_path, "--out", out], "neither a run directory .* nor an evaluation"),
            ([empty, "--out", out], "nothing to show yet"),
            ([run, "--out", "a.docx"], "a.docx must end in one of .*png"),
            ([run, "--out", "figure"], "figure must end in one of"),
            ([run, "--labels", "x", "y", "--out", out], "2 are given for 1"),
            ([run], "--out"),
            ([run, "--out", tmp_path / "absent" / "a.png"], "cannot write .*a.png: No such file")]:
        with pytest.raises(UserError, match=words):
            run_plot(monkeypatch, *arguments)
    assert not os.path.exists(out)


def test_the_table_holds_each_seeds_kl_of_each_level_at_the_end(make_run):
    runs = [make_run(f"{levels}_{seed}", levels=levels, seed=seed, evaluated=False)
            for levels in (1, 2) for seed in (0, 1)]
    for run in runs:
        levels, seed = map(int, run.name.split("_"))
        with open(run / "metrics.jsonl", "a") as file:
            for step, split, kl in [(150, "val", 9), (200, "val", 3 + seed), (200, "train", 8)]:
                names = [f"avg_kl_prior_posterior__level_{level}" for level in range(levels)]
                file.write(json.dumps({"step": step, "split": split, **dict.fromkeys(names, kl)}) + "\n")
    curves = curves_of(*runs)
    assert evaluations.label_by_difference(curves) == ["levels 1 (2 seeds)", "levels 2 (2 seeds)"]
    rows = [row for row in comparison.table_rows(curves) if row[0].startswith("KL")]
    assert rows == [["KL of level 0 in validation (nats per frame)", "3.00, 4.00", "3.00, 4.00"],
                    ["KL of level 1 in validation (nats per frame)", "", "3.00, 4.00"]]


def test_one_level_is_not_labelled_by_a_factor(make_run):
    runs = [make_run("a", levels=1, open_loop_ctx=32),
            make_run("b", levels=3, open_loop_ctx=32, tmp_abs_factor=4)]
    assert evaluations.label_by_difference(curves_of(*runs)) == [
        "levels 1", "levels 3, tmp_abs_factor 4"]


@pytest.fixture
def with_videos(make_run):
    """Makes a run with saved videos. Returns it, the truth and the predictions, [2, 8, 64, 64, 1]."""
    def make(name, **settings):
        run = make_run(name, **settings)
        truth, predicted = (
            np.random.default_rng(seed).integers(0, 256, (2, 8, 64, 64, 1), np.uint8)
            for seed in (settings.get("frame_skip", 1), 10 + settings["levels"]))
        (evaluation,) = run.glob("eval_*")
        for example in range(2):
            for folder, file, videos in [(f"sample{example}", "random_sample_1", predicted),
                                         (f"sample{example}_gt", "gt_pred", truth)]:
                (evaluation / folder).mkdir()
                np.savez(evaluation / folder / f"{file}.npz", videos[example])
        return run, truth, predicted
    return make


def test_an_animation_has_a_block_for_each_set_of_videos(with_videos, tmp_path, monkeypatch):
    made = [with_videos(f"levels_{levels}", levels=levels, frame_skip=skip)
            for levels, skip in ((3, 1), (1, 1), (2, 2))]
    flags = [*(run for run, *_ in made), "--out", tmp_path / "figure.png", "--examples", 0, 1]
    run_plot(monkeypatch, *flags, "--animation", tmp_path / "blocks.gif")
    with Image.open(tmp_path / "blocks.gif") as gif:
        gif.seek(3)
        shown = np.asarray(gif.convert("L"))
    rows = [made[0][1], made[0][2], made[1][2], made[2][1], made[2][2]]  # two truths, three predictions
    assert shown.shape[0] == 5 * 66 - 2
    for row, videos in enumerate(rows):
        np.testing.assert_array_equal(shown[66 * row:66 * row + 64, -64:], videos[1, 3, :, :, 0])
    run_plot(monkeypatch, *flags, "--animation", tmp_path / "blocks.webp")
    with Image.open(tmp_path / "blocks.webp") as webp:
        assert webp.n_frames == 8 and webp.size == shown.shape[::-1]
        webp.seek(3)
        lossy = np.asarray(webp.convert("L"))
    assert np.corrcoef(lossy.ravel(), shown.ravel())[0, 1] > 0.9
    monkeypatch.setattr(pictures, "WEBP_PIXELS", 100)
    with pytest.raises(UserError, match=r"animation: \d+ x 328 pixels are too many for a .webp"):
        run_plot(monkeypatch, *flags, "--animation", tmp_path / "large.webp")


def test_an_animation_shows_the_truth_above_what_each_predicts(
        with_videos, make_run, tmp_path, monkeypatch):
    made = [with_videos(f"levels_{levels}", levels=levels) for levels in (3, 1)]
    runs, truth, predicted = [run for run, *_ in made], made[0][1], [made[0][2], made[1][2]]
    out = tmp_path / "comparison.gif"
    flags = ["--out", tmp_path / "figure.png", "--animation", out]
    run_plot(monkeypatch, *runs, *flags, "--examples", 1, 0, "--frames", 5)
    with Image.open(out) as gif:
        assert gif.n_frames == 5
        gif.seek(3)
        shown = np.asarray(gif.convert("L"))
    margin = shown.shape[1] - 2 * 64 - 2
    for row, videos in enumerate([truth, *predicted]):
        for column, example in enumerate([1, 0]):
            left = margin + 66 * column
            np.testing.assert_array_equal(
                shown[66 * row : 66 * row + 64, left : left + 64], videos[example, 3, :, :, 0])
    with pytest.raises(UserError, match="examples: .*sample7.* does not exist"):
        run_plot(monkeypatch, *runs, *flags, "--examples", 7)
    with pytest.raises(UserError, match="animation: .* has no evaluation"):
        run_plot(monkeypatch, make_run("bare", levels=2, evaluated=False), *flags)
    with pytest.raises(UserError, match="animation: .* must end in .gif or .webp"):
        run_plot(monkeypatch, *runs, "--out", tmp_path / "figure.png", "--animation", tmp_path / "a.mp4")
    with pytest.raises(UserError, match="frames: 0 is out of range; nearest: 1"):
        run_plot(monkeypatch, *runs, *flags, "--frames", 0)


@pytest.mark.parametrize("kept, names, labels, spans", [
    ("levels_matched", ("levels_1_matched", "levels_1", "levels_2", "levels_3"),
     ["levels: 1, 150 units", "levels: 1, 50 units", "levels: 2", "levels: 3"],
     [(1, 16), (97, 104), (201, 208), (297, 304), (953, 960)]),
    ("mazes_levels", ("mazes_levels_1", "mazes_levels_2", "mazes_levels_3"),
     ["one level of 610 units", "two levels", "three levels"],
     [(1, 8), (9, 16), (17, 32), (33, 64), (65, 436)])])
def test_tables_at_equal_size_follow_from_the_scores_that_are_kept(kept, names, labels, spans):
    results = ROOT / "results"
    curves = evaluations.group_seeds([
        evaluations.read_result(str(run)) for name in names
        for run in sorted((results / kept).glob(f"{name}_seed_*"))])
    with open(results / f"{kept}.csv", newline="") as file:
        assert list(csv.reader(file)) == list(comparison.all_rows(curves, labels, spans))
