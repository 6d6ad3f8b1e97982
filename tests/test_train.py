"""Training end to end: what a run leaves behind, and that it resumes exactly."""

import os
import shutil
import signal
import types

import numpy as np
import pytest
import tensorflow as tf
from conftest import call, finish, scalars, script, wait_for_step
from tensorboard.plugins.hparams.metadata import SESSION_START_INFO_TAG as HPARAMS

import analyze
import distribution
import eval as evaluation
import runs
import tools
import train
from config import Config, load_config
from cwvae import CWVAE
from flags import parse_train_flags
from validation import Validation


def test_a_run_leaves_what_the_readme_names(run_dir):
    lines = scalars(run_dir)
    steps = list(range(2, 25, 2))
    assert [line["step"] for line in lines if line["split"] == "train"] == steps
    assert [line["step"] for line in lines if line["split"] == "val"] == steps
    names = {"total_loss", "nll_term", "kl_term", "learning_rate"} | {
        f"avg_{name}__level_{level}" for level in (0, 1)
        for name in ("kl_prior_posterior", "entropy_prior", "entropy_posterior")}
    for line in lines:
        assert set(line) == names | {"step", "split"} | ({"grad_norm"} & set(line))
        assert ("grad_norm" in line) == (line["split"] == "train")
        np.testing.assert_allclose(
            line["total_loss"], line["nll_term"] + line["kl_term"], rtol=1e-5)
    assert (run_dir / "model" / "checkpoint").exists()
    assert (run_dir / "model_20" / "checkpoint").exists()
    assert all((run_dir / name).exists() for name in ("code.json", "config.yml", "data.json", "lock"))
    assert run_dir.name.startswith("moving_digits_demo_cwvae_rssmcell_2l_f2_")
    for split in ("train", "val"):
        tags = [value.tag for file in (run_dir / split).iterdir()
                for event in tf.compat.v1.train.summary_iterator(str(file))
                for value in event.summary.value]
        assert tags.count("open_loop_prediction") == 2
        for name in ("loss", "loss/nll", "per_level/kl/level_0", "per_level/entropy_posterior/level_1"):
            assert tags.count(name) == 12
        assert min(tag for tag in tags if not tag.startswith(("_", "custom"))) == "loss"
        assert (HPARAMS in tags) == ("custom_scalars__config__" in tags) == (split == "train")


def test_training_lowers_the_loss(run_dir):
    losses = [line["total_loss"] for line in scalars(run_dir) if line["split"] == "val"]
    assert losses[-1] < losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGHUP])
def test_a_stopped_run_goes_on_exactly(number, run_dir, workplace, tmp_path):
    command = ["train.py", "--config", workplace / "tiny.yml", "--log_root", tmp_path]
    # As in a terminal: what runs in the background is born deaf to some signals.
    process = script(*command, preexec_fn=lambda: [
        signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGHUP)])
    stopped = wait_for_step(process, tmp_path, 6)
    process.send_signal(number)
    output = finish(process, -number)
    before = len(scalars(stopped))
    assert before < len(scalars(run_dir)), "the run ended before the signal came"
    if number != signal.SIGKILL:
        assert f"{number.name}: saved step" in output
    output = finish(script(*command))
    assert "from step 0" not in output
    assert (stopped / "metrics.jsonl").read_bytes() == (run_dir / "metrics.jsonl").read_bytes()


def test_a_finished_run_says_so(run_dir, workplace):
    assert "Trained for 24 steps already" in call(train.main, "--config", workplace / "tiny.yml")


@pytest.mark.parametrize("flags, says", [
    (["--levles", "3"], "unknown argument --levles; nearest: --levels"),
    (["--levels", "two"], "levels: 'two' is not a whole number"),
    (["--levels", "0"], "levels: 0 is out of range; nearest: 1"),
    (["--open-loop-ctx", "5"], "open_loop_ctx: 5 is not a multiple of 2"),
    (["--use-obs", "TTT"], "use_obs: 'TTT' is not true, false, or 2 letters"),
    (["--eval-seq-len", "5000"], "5000"),
    (["--channels", "3"], "channels"),
    (["--cell-stoch-size", "4"], "cell_stoch_size: 3, not 4"),
    (["--log-root", "/proc/nowhere"], "log_root: cannot write to /proc/nowhere"),
    (["--dataset", "mnist"], "dataset: 'mnist' is not one of"),
])
def test_bad_flags_are_one_line(flags, says, run_dir, workplace, refusal, tmp_path):
    if flags[0] == "--cell-stoch-size":
        # A run directory that was moved to where another config's would be.
        other = load_config(
            workplace / "tiny.yml", {"cell_stoch_size": 4, "log_root": str(tmp_path)})
        os.makedirs(os.path.dirname(other.run_dir))
        os.symlink(run_dir, other.run_dir)
        flags = [*flags, "--log-root", tmp_path]
    assert says in refusal(train.main, "--config", workplace / "tiny.yml", *flags)


def test_bad_files_are_one_line(refusal, tmp_path):
    for name, text, says in [
            ("missing.yml", None, "cannot read config"), ("key.yml", "levls: 3", "nearest: levels"),
            ("list.yml", "- 1", "is not a config"), ("yaml.yml", "levels: [", "is not valid YAML"),
            ("none.yml", "levels: 3", "dataset: missing")]:
        if text:
            (tmp_path / name).write_text(text)
        assert says in refusal(train.main, "--config", tmp_path / name)


def test_a_truncated_checkpoint_is_one_line(run_dir, workplace, refusal, tmp_path):
    copy = tmp_path / run_dir.parent.name / run_dir.name
    os.makedirs(copy / "model")
    for file in [run_dir / "config.yml", *(run_dir / "model").iterdir()]:
        data = file.read_bytes()
        if ".data-" in file.name:
            data = data[:len(data) // 2]
        (copy / file.relative_to(run_dir)).write_bytes(data)
    assert "is damaged" in refusal(
        train.main, "--config", workplace / "tiny.yml", "--log-root", tmp_path)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run(workplace, tmp_path):
    with pytest.raises(SystemExit, match="^train.py: the loss of step .* Clips: "):
        call(train.main, "--config", workplace / "tiny.yml", "--log-root", tmp_path, "--lr", "1e30",
             "--clip-grad-norm-by", "null", "--save-model-every", 1)
    (run,) = (tmp_path / "moving_digits_demo").iterdir()
    newest = tf.train.latest_checkpoint(run / "model")
    values = [tf.train.load_variable(newest, name) for name, _ in tf.train.list_variables(newest)
              if name.endswith("VARIABLE_VALUE")]
    assert all(np.isfinite(value).all() for value in values)


def test_help_lists_every_key_with_its_default(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_train_flags(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    for key, field in Config.__dataclass_fields__.items():
        assert f"--{key.replace('_', '-')}" in text and field.metadata["help"] in text
    assert "(default: 0.0003)" in text and "(default: null)" in text


def test_the_learning_rate_is_a_function_of_the_step():
    config = Config(dataset="mmnist", lr=0.1)
    assert train.learning_rate(config, 0, 100) == train.learning_rate(config, 99, 100) == 0.1
    warm = config.replace(lr_warmup_steps=4)
    rates = [train.learning_rate(warm, step, 100) for step in range(6)]
    np.testing.assert_allclose(rates, [0.025, 0.05, 0.075, 0.1, 0.1, 0.1])
    for schedule, half in [("linear", 0.05), ("cosine", 0.05)]:
        falling = warm.replace(lr_schedule=schedule)
        rates = [train.learning_rate(falling, step, 104) for step in range(104)]
        np.testing.assert_allclose(rates[:4], [0.025, 0.05, 0.075, 0.1])
        assert rates[4] == 0.1 and np.isclose(rates[54], half) and 0 < rates[103] < 0.002
        assert all(a > b for a, b in zip(rates[4:], rates[5:], strict=False))
    quarter = train.learning_rate(config.replace(lr_schedule="cosine"), 25, 100)
    np.testing.assert_allclose(quarter, 0.05 * (1 + np.sqrt(0.5)))
    assert train.learning_rate(config.replace(lr_schedule="cosine", lr_warmup_steps=9), 4, 5) < 0.1


def test_a_level_that_stays_unused_is_said_once():
    unused, said = train.UnusedLevels(total=100), []
    for step, kls in [(5, (0, 0)), (10, (5, 0.009)), (20, (0.001, 0.009)), (30, (0.2, 0.001)),
                      (40, (0.001, 0.2)), (50, (0.001, 0.001)), (60, (0, 0))]:
        unused.look(step, {f"avg_kl_prior_posterior__level_{level}": kl for level, kl in enumerate(kls)},
                    lambda line: said.append((step, line)))  # noqa: B023
    assert [(step, line.split()[0]) for step, line in said] == [(20, "level_1"), (50, "level_0")]
    assert all("free_nats" in line and "beta" in line for _, line in said)


def folder_of_videos(root, *splits):
    for split in splits:
        (root / split).mkdir(parents=True)
        rng = np.random.default_rng([ord(letter) for letter in f"{root.name}{split}"])
        np.save(root / split / "clip.npy", rng.integers(0, 256, [12, 64, 64, 1], np.uint8))


def test_the_best_checkpoint_is_that_of_the_least_loss_on_val(workplace, tmp_path, monkeypatch, capsys):
    folder_of_videos(tmp_path / "data", "train", "val", "test")
    monkeypatch.setattr("sys.argv", ["train.py", *map(str, [
        "--config", workplace / "tiny.yml", "--dataset", "videos", "--data-root", tmp_path / "data",
        "--log-root", tmp_path / "logs", "--name", "best", "--max-steps", 3, "--save-scalars-every", 1,
        "--save-gifs", "false"])])
    train.main()
    assert "no checkpoint is called the best" not in capsys.readouterr().out
    run = tmp_path / "logs" / "videos" / "best"
    lines = [line for line in scalars(run) if line["split"] == "val"]
    best = min(lines, key=lambda line: line["total_loss"])["step"]
    assert runs.find_checkpoint(run / "model_best")[1] == str(run / "model_best" / f"ckpt-{best}")


def test_intervals_fit_a_short_run_but_those_that_were_given():
    config, said = Config(dataset="mmnist"), []

    def intervals(total, *given):
        changed = train.with_intervals_for(total, config, given, said.append)
        return changed.save_scalars_every, changed.save_gifs_every, changed.save_model_every

    assert intervals(20) == (50, 50, 50) and intervals(501) == (51, 51, 51)
    assert intervals(9_999) == (1000, 1000, 1000)
    assert "save_scalars_every, save_gifs_every, save_model_every: every 51 steps" in said[1]
    assert intervals(600, "save_gifs_every", "lr") == (60, 1000, 60) and len(said) == 3
    assert intervals(600, "save_gifs_every", "save_scalars_every", "save_model_every") == (
        1000, 1000, 1000) and len(said) == 3


def test_the_start_says_how_often_clips_are_seen_and_that_few_are_few():
    config = Config(dataset="mmnist", batch_size=16)

    def said(clips, total):
        return train.seen_text(config, types.SimpleNamespace(num_clips=clips), total)

    assert said(2, 20_000) == (
        "Each clip is seen 160,000 times. 2 clips are few: the model will know them by heart; 100 or "
        "more are better.")
    assert said(100, 20_000) == "Each clip is seen 3,200 times."
    assert said(64_000, 1000) == "Each clip is seen 0.2 times."


def test_what_is_due_after_a_step():
    config = Config(dataset="mmnist", save_scalars_every=2, save_gifs_every=4, save_model_every=3)

    def due(step, stops=0, **changes):
        return train.what_is_due(config.replace(**changes), step, 13, stops)

    assert [due(step) for step in (1, 2, 3, 4)] == [
        set(), {"scalars"}, {"model"}, {"scalars", "gifs"}]
    assert due(13) == {"scalars", "gifs", "model"} and due(1, stops=15) == {"model"}
    assert due(13, save_gifs=False, save_named_model_every=13) == {"scalars", "model", "named model"}


def test_the_keys_of_the_file_and_of_flags_are_those_given(tmp_path, monkeypatch):
    (tmp_path / "a.yml").write_text("dataset: mmnist\nsave_gifs_every: 9")
    monkeypatch.setattr("sys.argv", ["train.py", "--config", str(tmp_path / "a.yml"), "--lr", "1"])
    config, given = train.read_config()
    assert config.lr == 1 and given == {"dataset", "save_gifs_every", "lr"}


def test_a_short_run_logs_on_its_way_and_at_its_end(run_dir, workplace, tmp_path, monkeypatch, capsys):
    """The learning rate is the config's. Without a split val no checkpoint is the best."""
    monkeypatch.setattr("sys.argv", [
        "train.py", "--config", str(workplace / "tiny.yml"), "--log-root", str(tmp_path),
        "--name", "short", "--max-steps", "11", "--save-scalars-every", "2",
        "--save-model-every", "1000", "--save-gifs", "false", "--lr-schedule", "linear",
        "--lr", "1.1e-3", "--init-from", str(run_dir)])
    train.main()
    said = capsys.readouterr().out
    assert "no split val" in said and "no checkpoint is called the best" in said
    assert said.index("Preparing the first validation.") < said.index("The first validation took")
    assert "Trains on 1 CPU, in float32, not compiled" in said
    assert f"Starts from the weights of {run_dir}" in said
    run = tmp_path / "moving_digits_demo" / "short"
    lines = [line for line in scalars(run) if line["split"] == "train"]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 11]
    assert not (run / "model_best").exists() and not (run_dir / "model_best").exists()
    np.testing.assert_allclose([line["learning_rate"] for line in lines],
                               [1.1e-3 * (12 - line["step"]) / 11 for line in lines], rtol=1e-6)
    assert runs.find_checkpoint(run)[1].endswith("ckpt-11")
    assert scalars(run_dir)[0]["total_loss"] > lines[0]["total_loss"], "the weights were not taken"


class FiveVideos:
    """Stands in for data_loader.Sequences."""

    def __init__(self):
        self.video = np.random.default_rng(0).integers(0, 256, [5, 10, 64, 64, 1], dtype=np.uint8)

    def __len__(self):
        return len(self.video)

    def batch(self, start, size):
        return {"video": self.video[start:start + size]}


def test_other_data_is_not_trained_on_in_the_same_run(workplace, tmp_path, monkeypatch):
    """The folder has the same name wherever the data is: the data itself is remembered."""
    def run(config, *_):
        model = tf.Module()
        model.variable = tf.Variable(0.0)
        runs.Checkpoints(config.run_dir, model=model).save(0)

    monkeypatch.setattr(train, "run", run)
    for root in ("a", "b"):
        folder_of_videos(tmp_path / root, "train", "test")
    flags = ["--config", workplace / "tiny.yml", "--dataset", "videos", "--log-root", tmp_path / "logs",
             "--data-root"]
    shutil.copytree(tmp_path / "a", tmp_path / "moved")

    def start(root):
        monkeypatch.setattr("sys.argv", ["train.py", *map(str, flags), str(tmp_path / root)])
        train.main()

    start("a")
    start("moved")
    with pytest.raises(tools.UserError, match=f"other data .*was in {tmp_path / 'moved'}.*init_from"):
        start("b")


@pytest.mark.slow
def test_a_compiled_run_says_that_it_compiles(workplace, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", [
        "train.py", "--config", str(workplace / "tiny.yml"), "--log-root", str(tmp_path), "--jit",
        "true", "--max-steps", "1", "--save-gifs", "false", "--precision", "bfloat16"])
    train.main()
    said = capsys.readouterr().out
    assert "Trains on 1 CPU, in bfloat16, compiled by XLA" in said
    assert said.index("Compiling the first training step") < said.index("The first training step took")


def test_validation_does_not_depend_on_its_pieces_and_weighs_by_videos(workplace):
    config = load_config(workplace / "tiny.yml")
    model = CWVAE(config.replace(cell_mean_only=True))
    values = []
    # Frames at a time, videos at a time, of a batch, batches (more than there are).
    for seq_len, rows, batch_size, batches in [
            (10, 5, 5, 1), (2, 5, 5, 1), (8, 2, 5, 1), (8, 1, 2, 9), (10, 3, 3, 2)]:
        changed = config.replace(seq_len=seq_len, batch_size=batch_size, num_val_batches=batches)
        values.append(Validation(changed, model, FiveVideos(), rows).scalars(1))
    for other in values[1:]:
        for name in values[0]:
            np.testing.assert_allclose(values[0][name], other[name], rtol=1e-4)


@pytest.mark.slow
def test_noise_is_the_same_compiled_and_not(workplace):
    found = []
    for jit in (False, True):
        config = load_config(workplace / "tiny.yml", {"jit": jit, "num_val_batches": 3})
        tf.keras.utils.set_random_seed(0)
        model = CWVAE(config)
        optimizer = tf.keras.optimizers.SGD(1e-5)
        optimizer.build(model.trainable_variables)
        step = distribution.Devices(tf.distribute.get_strategy(), 2).training_step(model, optimizer)
        validation = Validation(config, model, FiveVideos(), 2)
        batch = FiveVideos().batch(0, 2)
        found.append([step(batch["video"], tf.constant(7), None), validation.scalars(1),
                      validation._open_loop(batch["video"], 4, tf.constant([0, 1]), None)])
    for a, b in zip(*map(tf.nest.flatten, found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_another_cell_trains_compiled_in_bfloat16(workplace, tmp_path):
    output = call(
        train.main, "--config", workplace / "tiny.yml", "--cell-type", "CategoricalRSSMCell", "--jit",
        "true", "--precision", "bfloat16", "--save-gifs", "false", "--max-steps", 4, "--log-root",
        tmp_path)
    assert "in bfloat16, compiled by XLA" in output


@pytest.mark.slow
def test_another_cell_trains_resumes_evaluates_and_is_analysed(workplace, tmp_path):
    flags = ["--config", workplace / "tiny.yml", "--cell-type", "CategoricalRSSMCell",
             "--cell-stoch-classes", 3, "--save-gifs", "false", "--log-root", tmp_path]
    for name, steps in [("whole", [8]), ("pieces", [4, 8])]:
        for total in steps:
            call(train.main, *flags, "--name", name, "--max-steps", total)
    whole, pieces = (tmp_path / "moving_digits_demo" / name for name in ("whole", "pieces"))
    assert scalars(whole)[-2:] == scalars(pieces)[-2:]
    model = ["--model-dir", pieces, "--out"]
    call(evaluation.main, *model, tmp_path / "eval", "--num-examples", 2)
    call(analyze.main, "levels", *model, tmp_path / "levels", "--num-examples", 2)
    call(analyze.main, "information", *model, tmp_path / "information", "--num-examples", 2)
    call(analyze.main, "dream", *model, tmp_path / "dream", "--frames", 9)
    entropy = scalars(pieces)[-1]["avg_entropy_prior__level_0"]
    assert 0 < entropy <= 3 * np.log(3) + 1e-3  # of three variables of three classes
