"""Config, flags and the run directory."""

import datetime
import errno
import fcntl
import os
import pathlib
import signal

import pytest
import yaml

import tools
from config import Config, check_use_obs, load_config
from flags import parse_train_flags
from tools import UserError

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yml")), ids=lambda path: path.stem)
def test_every_config_in_the_repository_is_valid(path):
    assert load_config(path).dataset


def test_the_papers_settings():
    def settings(name):
        config = load_config(CONFIGS / f"{name}.yml")
        return (config.channels, config.seq_len, config.eval_seq_len, config.levels, config.strides,
                config.dec_stddev, config.cell_stoch_size, config.cell_deter_size,
                config.cell_embed_size, config.lr, config.batch_size, config.num_epochs,
                config.save_named_model_every, config.open_loop_ctx)

    assert settings("mmnist") == (
        1, 100, 1000, 3, [1, 6, 36], 1.0, 20, 200, 200, 3e-4, 50, 300, 5000, 36)
    assert settings("mazes") == (
        3, 100, 300, 3, [1, 6, 36], 0.1, 20, 200, 200, 3e-4, 50, 100, 5000, 36)
    assert settings("minerl") == (
        3, 100, 500, 3, [1, 6, 36], 0.4, 100, 800, 800, 1e-4, 50, 600, 5000, 36)


def test_the_experiments_name_spells_the_main_settings():
    assert load_config(CONFIGS / "mmnist.yml").experiment == (
        "mmnist_cwvae_rssmcell_3l_f6_decsd1.0_enchl3_ences1000_edchnlmult1_ss20_ds200_es200_seq100"
        "_lr0.0003_bs50")
    config = Config(dataset="mmnist")
    for change in [dict(seed=1), dict(tmp_abs_factor=[6, 4], open_loop_ctx=24), dict(beta=0.5),
                   dict(precision="bfloat16"), dict(cell_reset_state=True), dict(free_nats=3)]:
        assert config.replace(**change).experiment != config.experiment
    assert config.replace(log_root="elsewhere").experiment == config.experiment


def test_a_name_names_the_run_directory():
    config = Config(dataset="mmnist", log_root="~/logs", name="[ä] 1*")
    assert config.run_dir == os.path.join(os.path.expanduser("~"), "logs", "mmnist", "[ä] 1*")


def test_a_name_that_is_spelled_is_cut_to_what_a_folder_may_have():
    def name(last):
        return Config(dataset="mmnist", levels=16, tmp_abs_factor=[1] * 15, eval_seq_len=999,
                      beta=[1.2345678] * 15 + [last]).experiment

    assert len(name(1.0)) == len(name(2.0)) == 255 and name(1.0) != name(2.0)
    assert len(Config(dataset="videos", files="ж" * 99).experiment.encode()) in (254, 255)


@pytest.mark.parametrize("letter", ["\u202f", "\xa0", "\u200d", "\ue000", "\udcff", "é"])
def test_paths_may_hold_any_letter_that_is_no_control_character(letter, tmp_path):
    """Such as the narrow spaces in names of screen recordings, and bytes that are no UTF-8."""
    config = Config(dataset="mmnist", log_root=f"a{letter}b", data_root=f"{letter}c")
    config.save(tmp_path / "config.yml")
    assert load_config(tmp_path / "config.yml") == config


def test_use_obs_is_read_in_small_letters_too():
    assert check_use_obs("ttf", 3) == check_use_obs("TTF", 3) == (True, True, False)
    assert Config(dataset="mmnist", use_obs="tft").use_obs == "tft"


def test_a_folder_that_the_authors_leave_to_a_flag_counts_as_not_given(tmp_path):
    """As in their configs/minerl.yml."""
    (tmp_path / "a.yml").write_text("dataset: minerl\nchannels: 3\ndatadir: null\nlogdir: null")
    flags = ["--config", str(tmp_path / "a.yml"), "--data-root", "here"]
    config = load_config(*parse_train_flags(flags))
    assert (config.data_root, config.log_root) == ("here", "logs")


def test_strides_are_products_of_factors():
    assert Config(dataset="mmnist").strides == [1, 6, 36]
    assert Config(dataset="mmnist", tmp_abs_factor=[4, 3], open_loop_ctx=12).strides == [1, 4, 12]
    assert Config(dataset="mmnist", levels=1).strides == [1]


@pytest.mark.parametrize("values, says", [
    (dict(levels=2.5), "levels: 2.5 is not a whole number"),
    (dict(levels=True), "levels: True is not a whole number"),
    (dict(lr="fast"), "lr: 'fast' is not a number"),
    (dict(lr=0), "lr: 0.0 must be above 0"),
    (dict(lr=float("nan")), "lr: nan is not a number"),
    (dict(tmp_abs_factor=[6]), "has 1 numbers; give one, or 2, one per pair of levels"),
    (dict(tmp_abs_factor=[6, 0]), "tmp_abs_factor: 0 is out of range; nearest: 1"),
    (dict(beta=[1, 2]), "give one, or 3"),
    (dict(free_nats=[20, 0]), "give one, or 3"),
    (dict(use_obs="TXF"), "3 letters T or F"),
    (dict(use_obs="TF"), "3 letters T or F"),
    (dict(open_loop_ctx=40), "not a multiple of 36, the frames to one tick of the top"),
    (dict(open_loop_ctx=40), "nearest: 36"),
    (dict(open_loop_ctx=10), "nearest: 36"),
    (dict(open_loop_ctx=108), "nearest: 72"),
    (dict(precision="float16"), "nearest: bfloat16"),
    (dict(jit="yes"), "'yes' is not one of auto"),
    (dict(kl_grad_post_perc=1.5), "nearest: 1"),
    (dict(channels_mult=0.3), "nearest: 0.3125"),
    (dict(dataset=None), "dataset: missing"),
    (dict(tmp_abs_factor=900), "tmp_abs_factor: 900 makes 810000 frames"),
    (dict(tmp_abs_factor=900), "eval_seq_len is 100; nearest: 9"),
    (dict(tmp_abs_factor=9, levels=4, eval_seq_len=65), "eval_seq_len is 65; nearest: 4"),
    (dict(eval_seq_len=20), "eval_seq_len must be above 36"),
    (dict(name="a/b"), "name: 'a/b' cannot name a folder"),
    (dict(name=".."), "cannot name a folder"),
    (dict(name="ä" * 128), "at most 255 bytes"),
    (dict(data_root=""), "data_root: '' is empty"),
    (dict(log_root="a\nb"), "log_root: 'a\\nb' is empty or holds a control character"),
    (dict(name="a\x7f"), "holds a control character"),
    (dict(log_root=20240101), "put text that looks like a number or a yes in quotes"),
    (dict(log_root=datetime.date(2024, 1, 1)), "log_root: datetime.date(2024, 1, 1) is not a word"),
    (dict(batch_size=10**400), "batch_size: 1000000000000000000000000000000000000000...0000"),
    (dict(lr=10**400), "lr: 1000"),
    (dict(batch_size=16**5000), "batch_size: an integer of thousands of digits"),
    (dict(lr_schedule="step"), "lr_schedule: 'step' is not one of constant, cosine, linear"),
    (dict(lr_warmup_steps=-1), "lr_warmup_steps: -1 is out of range; nearest: 0"),
    (dict(beta_warmup_steps=-1), "beta_warmup_steps: -1 is out of range; nearest: 0"),
])
def test_a_bad_value_is_one_line_that_names_key_value_and_a_good_one(values, says):
    with pytest.raises(UserError) as error:
        Config(**{"dataset": "mmnist", **values})
    assert says in str(error.value) and "\n" not in str(error.value)


def test_numbers_are_read_as_people_write_them(tmp_path):
    (tmp_path / "a.yml").write_text(
        "dataset: mmnist\nlr: 3e-4\nbeta: [1, 0.5, 2]\nuse_obs: TTF\njit: true")
    config = load_config(tmp_path / "a.yml")
    assert (config.lr, config.beta, config.use_obs, config.jit) == (3e-4, [1.0, 0.5, 2.0], "TTF", True)


def test_flags_win_over_the_file_in_either_spelling(tmp_path):
    (tmp_path / "a.yml").write_text("dataset: mmnist\nbatch_size: 4\nmax_steps: 9")
    config = load_config(*parse_train_flags([
        "--config", str(tmp_path / "a.yml"), "--batch-size", "8", "--lr=1e-3", "--save_gifs", "false",
        "--max_steps", "null", "--tmp-abs-factor", "[6, 4]", "--open_loop_ctx", "24",
        "--cell-mean-only", "--data-root", "2024"]))
    assert (config.batch_size, config.lr, config.save_gifs, config.max_steps) == (8, 1e-3, False, None)
    assert (config.tmp_abs_factor, config.cell_mean_only, config.data_root) == ([6, 4], True, "2024")


def test_text_is_taken_as_it_stands(tmp_path):
    (tmp_path / "a.yml").write_text("dataset: mmnist")

    def given(*flags):
        flags = ["--config", str(tmp_path / "a.yml"), *flags]
        return load_config(*parse_train_flags(flags))

    config = given(
        "--log-root", "2024_01_01", "--data-root", "@logs", "--name", "1e3", "--init-from", "- [")
    assert (config.log_root, config.data_root) == ("2024_01_01", "@logs")
    assert (config.name, config.init_from) == ("1e3", "- [")
    config = given("--name", "null", "--jit", "true", "--use-obs", "false")
    assert (config.name, config.jit, config.use_obs) == (None, True, False)


@pytest.mark.parametrize("text, says", [
    ("lr: 2024-13-01", "month must be in 1..12"), ("lr: " + "9" * 5000, "not valid YAML"),
    ("lr: " + "9" * 400, "lr: 9999"), ("lr: " + "[" * 3000, "not valid YAML"),
    ("a: b: c", "not valid YAML"),
    ("lr: 0x" + "f" * 5000, "lr: an integer of thousands of digits"), ("\x00", "not valid YAML")])
def test_a_file_that_cannot_be_read_is_one_line(text, says, tmp_path):
    (tmp_path / "a.yml").write_text(text)
    with pytest.raises(UserError) as error:
        load_config(tmp_path / "a.yml", {"dataset": "mmnist"})
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_saved_config_loads_as_itself(tmp_path):
    config = Config(dataset="mmnist", beta=[1, 2, 3], use_obs="TTF", max_steps=7, lr=1e-5)
    config.save(tmp_path / "config.yml")
    assert load_config(tmp_path / "config.yml") == config
    assert set(yaml.safe_load((tmp_path / "config.yml").read_text())) == set(Config.__dataclass_fields__)


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), tools.write_atomically(path) as file:
        file.write("new")
        raise ZeroDivisionError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_a_directory_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(ZeroDivisionError), tools.directory_atomically(str(tmp_path / "out")) as part:
        (pathlib.Path(part) / "file").touch()
        raise ZeroDivisionError
    assert not os.listdir(tmp_path)
    with tools.directory_atomically(str(tmp_path / "out")) as part:
        assert not (tmp_path / "out").exists()
    assert os.listdir(tmp_path) == ["out"]


@pytest.fixture
def interruptible():
    """As in a terminal: what runs in the background is born deaf to Ctrl-C."""
    old = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, old)


def test_the_first_interrupt_is_noted_and_the_second_acts(interruptible):
    with tools.Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_ignored_signals_stay_ignored(interruptible):
    """As nohup and shells without job control want it."""
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with tools.Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupts.number == 0
    finally:
        signal.signal(signal.SIGHUP, old)


def test_results_are_never_deleted_or_mixed(tmp_path, capsys):
    path = str(tmp_path / "eval")
    with tools.directory_atomically(path) as first:
        (pathlib.Path(first) / "first").touch()
        with pytest.raises(UserError, match="is being written"), tools.directory_atomically(path):
            pass
        with tools.directory_atomically(path, numbered=True) as second:
            assert second == f"{path}_2.part"
            (pathlib.Path(second) / "second").touch()
        os.mkdir(path)
        (tmp_path / "eval" / "theirs").touch()
    assert {entry: os.listdir(tmp_path / entry) for entry in sorted(os.listdir(tmp_path))} == {
        "eval": ["theirs"], "eval_2": ["second"], "eval_3": ["first"]}
    assert f"{path}_3" in capsys.readouterr().err
    with pytest.raises(UserError, match="exists already"), tools.directory_atomically(path):
        pass


def test_what_a_killed_evaluation_left_is_cleaned_and_what_lives_stays(tmp_path):
    left = tmp_path / "eval_1.part"
    left.mkdir()
    (left / ".lock").touch()
    (tmp_path / "film.part").mkdir()  # not ours
    with (tools.directory_atomically(str(tmp_path / "eval_2")),
          tools.directory_atomically(str(tmp_path / "eval_3"))):
        assert sorted(os.listdir(tmp_path)) == ["eval_2.part", "eval_3.part", "film.part"]


def test_a_directory_appears_where_there_are_no_locks_too(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with tools.directory_atomically(str(tmp_path / "out")) as part:
        (pathlib.Path(part) / "file").touch()
    assert os.listdir(tmp_path / "out") == ["file"]


def test_a_file_name_that_is_no_text_is_printed(monkeypatch):
    with open(os.devnull, "w", encoding="utf-8", errors="strict") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        tools.run_script(lambda: print("caf\udce9.mp4"))
