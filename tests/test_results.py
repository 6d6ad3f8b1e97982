"""The models whose results the pages compare, and the command that trains them."""

import dataclasses
import re
import subprocess

import pytest
from conftest import ROOT

from cwvae import CWVAE
from runs import load_config


def test_the_models_that_are_compared_differ_in_levels_factors_and_lr_alone():
    configs = [dataclasses.asdict(load_config(ROOT / "configs" / "results" / f"levels_{levels}.yml"))
               for levels in (1, 2, 3)]
    assert [config.pop("levels") for config in configs] == [1, 2, 3]
    assert [config.pop("tmp_abs_factor") for config in configs[1:]] == [4, [4, 2]]
    del configs[0]["tmp_abs_factor"]  # Of one level it says nothing.
    assert [config.pop("lr") for config in configs] == [4e-3, 2e-3, 2e-3]
    assert configs[0] == configs[1] == configs[2]


def test_the_models_of_mazes_differ_in_levels_factors_and_sizes_alone():
    one, two, three = (load_config(ROOT / "configs" / "results" / f"mazes_levels_{levels}.yml",
                                   {"fast": False}) for levels in (1, 2, 3))
    assert two.replace(levels=3, tmp_abs_factor=[4, 2]) == three
    assert one.replace(levels=3, tmp_abs_factor=[4, 2], cell_deter_size=three.cell_deter_size,
                       cell_stoch_size=three.cell_stoch_size) == three
    assert one.cell_stoch_size == 3 * three.cell_stoch_size
    sizes = [CWVAE(config).count_params() for config in (one, three)]
    assert abs(sizes[0] / sizes[1] - 1) < 0.02
    small = load_config(ROOT / "configs" / "mazes_small.yml", {"fast": False})
    assert small == three


def test_the_models_with_a_busy_level_differ_in_levels_factors_and_sizes_alone():
    one, three = (load_config(ROOT / "configs" / "results" / f"busy_levels_{levels}.yml",
                              {"fast": False}) for levels in (1, 3))
    assert one.replace(levels=3, tmp_abs_factor=[4, 2], cell_deter_size=three.cell_deter_size,
                       cell_stoch_size=three.cell_stoch_size) == three
    assert one.cell_stoch_size == 3 * three.cell_stoch_size
    sizes = [CWVAE(config).count_params() for config in (one, three)]
    assert abs(sizes[0] / sizes[1] - 1) < 0.02


def test_the_large_level_has_as_many_units_and_parameters_as_three_levels():
    one, three = (load_config(ROOT / "configs" / "results" / f"levels_{name}.yml", {"fast": False})
                  for name in ("1_matched", 3))
    assert [one.cell_deter_size, one.cell_stoch_size] == [
        3 * three.cell_deter_size, 3 * three.cell_stoch_size]
    sizes = [CWVAE(config).count_params() for config in (one, three)]
    assert abs(sizes[0] / sizes[1] - 1) < 0.02
    differ = {key for key, value in dataclasses.asdict(one).items()
              if value != dataclasses.asdict(three)[key]}
    assert differ == {"levels", "tmp_abs_factor", "cell_deter_size", "cell_stoch_size",
                      "cell_embed_size"}


@pytest.mark.parametrize("kind, configs, runs, length", [
    ("digits", "levels", "here/moving_digit", "--seq-len 1000"),
    ("busy", "busy_levels", "here/moving_digit", "--seq-len 1000"),
    ("mazes", "mazes_levels", "here/doom_mazes", "--seq-len 500 --mean-only")])
def test_make_results_runs_the_seeds_and_levels_that_are_asked_for(kind, configs, runs, length):
    said = subprocess.run(
        ["make", "-n", "--no-print-directory", "results", f"SET={kind}", "SEEDS=2", "LEVELS=1 3",
         "LOGS=here"],
        cwd=ROOT, text=True, capture_output=True, check=True).stdout
    shell = said[said.index("for seed"):].replace(".venv/bin/python", "echo")
    lines = subprocess.run(["bash", "-c", shell], text=True, capture_output=True,
                           check=True).stdout.splitlines()
    trained = [re.findall(r"\w+_\d.yml|--seed \d|--name \S+", line)
               for line in lines if line.startswith("train.py")]
    assert trained == [
        [f"{configs}_{levels}.yml", f"--seed {seed}", f"--name {configs}_{levels}_seed_{seed}"]
        for seed in range(2) for levels in (1, 3)]
    evaluated = [line for line in lines if line.startswith("eval.py")]
    assert len(evaluated) == 4 and all(length in line for line in evaluated)
    assert lines[-1].startswith(f"plot.py {runs}/{configs}_")


@pytest.mark.parametrize("kind, levels", [
    ("digits", "1 1_matched 2 3"), ("busy", "1 3"), ("mazes", "1 2 3")])
def test_make_results_compares_the_models_of_a_set(kind, levels):
    said = subprocess.run(["make", "-n", "results", f"SET={kind}"], cwd=ROOT, text=True,
                          capture_output=True, check=True).stdout
    assert f"for levels in {levels}; do" in said
    prefix = "levels_" if kind == "digits" else f"{kind}_levels_"
    for level in levels.split():
        assert (ROOT / "configs" / "results" / f"{prefix}{level}.yml").exists()


def test_make_results_names_the_sets():
    done = subprocess.run(["make", "-n", "results", "SET=digit"], cwd=ROOT, text=True,
                          capture_output=True)
    assert done.returncode == 2 and "SET is digits, busy or mazes, not digit" in done.stderr
