"""Runs of the original release, written here as its format is known: config, checkpoint, step."""

import dataclasses
import shutil

import numpy as np
import pytest
import tensorflow as tf
import yaml
from conftest import finish, script
from test_cwvae import build, tiny, video

import original
import runs
from config import Config, load_config, rename_keys
from cwvae import CWVAE

# The layers of a cell that count as dense, in order of creation.
CELL = ["prior_input", "prior_hidden", "prior_mean", "prior_stddev",
        "posterior_input", "posterior_hidden", "posterior_mean", "posterior_stddev"]
# Scopes that vary from layer to layer, and try to pass for layers or for slots.
SCOPES = ["", "outer/scope_x/", "dense_7/", "model/gru_cell/gru_cell_1/", "conv2d/kernel/", "bias/step/"]
STEP = 1234


def weights_of(model):
    """The weights by their names in the release, without scopes: spelled out here a second time."""
    parts, config = model.parts, model.config
    encoder, decoder = parts["encoder"], parts["decoder"]
    dense = [getattr(encoder, f"level_{level}_dense_{i}")
             for level in range(1, config.levels) for i in range(config.enc_dense_layers)]
    dense += [getattr(parts[f"level_{level}"], name)
              for level in range(config.levels - 1, -1, -1) for name in CELL]
    dense += [decoder.dense]
    weights = {}
    for kind, layers in {
            "dense": dense,
            "gru_cell": [parts[f"level_{level}"].gru for level in range(config.levels)],
            "conv2d": [getattr(encoder, f"conv_{i}") for i in range(4)],
            "conv2d_transpose": [getattr(decoder, f"conv_{i}") for i in range(4)]}.items():
        for number, layer in enumerate(layers):
            name = kind if number == 0 else f"{kind}_{number}"
            weights[f"{name}/kernel"] = layer.kernel.numpy()
            weights[f"{name}/bias"] = layer.bias.numpy()
            if kind == "gru_cell":
                weights[f"{name}/recurrent_kernel"] = layer.recurrent_kernel.numpy()
    return weights


def scoped(weights):
    """Adds scopes and all else that a Saver writes: the step, and the state of Adam."""
    tensors = {}
    for name, value in weights.items():
        full = SCOPES[len(tensors) % len(SCOPES)] + name
        tensors[full] = value
        for slot in ("Adam", "Adam_1"):
            tensors[f"optimizer/{full}/{slot}"] = np.full_like(value, 9)
    return tensors | {
        "step": np.int32(STEP), "outer/beta1_power": np.float32(0.9), "beta2_power_1": np.float32(0.99)}


def write(prefix, tensors):
    prefix.parent.mkdir(parents=True, exist_ok=True)
    tf.raw_ops.SaveV2(prefix=str(prefix), tensor_names=list(tensors),
                      shape_and_slices=[""] * len(tensors), tensors=list(tensors.values()))
    return str(prefix)


@pytest.mark.parametrize("settings", [
    dict(levels=3),
    dict(levels=3, tmp_abs_factor=[1, 4], enc_dense_layers=1, channels=3),
    dict(levels=2, enc_dense_layers=0),
    dict(levels=1)], ids=str)
def test_a_checkpoint_predicts_what_its_weights_do(tmp_path, settings):
    config = tiny(**settings)
    trained, restored = build(config, seed=1), build(config, seed=2)
    weights = weights_of(trained)
    assert len(weights) == len(trained.trainable_variables)
    clip = tf.constant(video(config))
    expected = trained.open_loop(clip, 4, [0, 1])
    assert not np.allclose(restored.open_loop(clip, 4, [0, 1]), expected)

    assert original.restore(write(tmp_path / "model.ckpt", scoped(weights)), restored) == STEP
    np.testing.assert_array_equal(restored.open_loop(clip, 4, [0, 1]), expected)
    for ours, theirs in zip(restored.trainable_variables, trained.trainable_variables, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_layers_are_numbered_as_they_were_created():
    model = build(tiny(levels=3))  # with three dense layers for each level above the bottom
    top, middle, bottom = model.level_2, model.level_1, model.level_0
    expected = {
        "conv2d": model.encoder.conv_0, "conv2d_3": model.encoder.conv_3,
        "dense": model.encoder.level_1_dense_0, "dense_2": model.encoder.level_1_dense_2,
        "dense_3": model.encoder.level_2_dense_0, "dense_5": model.encoder.level_2_dense_2,
        "dense_6": top.prior_input, "dense_9": top.prior_stddev, "dense_10": top.posterior_input,
        "dense_14": middle.prior_input, "dense_21": middle.posterior_stddev,
        "dense_22": bottom.prior_input, "dense_28": bottom.posterior_mean,
        "dense_30": model.decoder.dense,
        "gru_cell": bottom.gru, "gru_cell_1": middle.gru, "gru_cell_2": top.gru,
        "conv2d_transpose": model.decoder.conv_0, "conv2d_transpose_3": model.decoder.conv_3}
    layers = original.layers(model)
    assert len(layers) == 4 + (2 * 3 + 3 * 8 + 1) + 3 + 4
    for name, layer in expected.items():
        assert layers[name] is layer, name


@pytest.fixture(scope="module")
def model():
    """A model of two levels, for what changes nothing in it."""
    return build(tiny())


def wrong(tensors, case):
    """Spoils a checkpoint of two levels; returns what the complaint must say."""
    if case == "missing":
        del tensors[next(name for name in tensors if name.endswith("dense_3/kernel"))]
        return "dense_3/kernel is missing"
    if case == "no step":
        del tensors["step"]
        return "step is missing"
    if case == "one layer more":
        tensors["outer/dense_20/bias"] = np.zeros(4, np.float32)
        return "no place for outer/dense_20/bias"
    if case == "another kind of layer":
        tensors["outer/lstm_cell/kernel"] = np.zeros([4, 4], np.float32)
        return "no place for outer/lstm_cell/kernel"
    if case == "another kind of variable":
        tensors["outer/batch_normalization/gamma"] = np.zeros(4, np.float32)
        return "no place for outer/batch_normalization/gamma"
    if case == "misshapen":
        name = next(name for name in tensors if name.endswith("gru_cell_1/bias"))
        tensors[name] = tensors[name].reshape(-1)
        return f"{name} has the shape [30], not [2, 15]"
    tensors["a/dense_1/bias"] = tensors["b/dense_1/bias"] = np.zeros(4, np.float32)
    return "dense_1/bias is there twice: a/dense_1/bias and b/dense_1/bias"


@pytest.mark.parametrize("case", [
    "missing", "no step", "one layer more", "another kind of layer", "another kind of variable",
    "misshapen", "twice"])
def test_a_checkpoint_that_does_not_fit_is_one_line_and_assigns_nothing(tmp_path, model, case):
    tensors = {name: value + 1 for name, value in scoped(weights_of(model)).items()}
    message = wrong(tensors, case)
    before = [variable.numpy() for variable in model.trainable_variables]
    with pytest.raises(ValueError) as error:
        original.restore(write(tmp_path / "model.ckpt", tensors), model)
    assert message in str(error.value) and "\n" not in str(error.value)
    for variable, old in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable, old)


def test_another_number_of_levels_does_not_fit(tmp_path, model):
    prefix = write(tmp_path / "model.ckpt", scoped(weights_of(build(tiny(levels=3)))))
    with pytest.raises(ValueError, match="the model has no place for .*dense_2"):
        original.restore(prefix, model)
    prefix = write(tmp_path / "model.ckpt", scoped(weights_of(build(tiny(levels=1)))))
    with pytest.raises(ValueError, match="dense_9/kernel is missing"):
        original.restore(prefix, model)


def test_damaged_files_are_one_of_the_errors_that_tools_knows(tmp_path, model):
    prefix = write(tmp_path / "model.ckpt", scoped(weights_of(model)))
    data = tmp_path / "model.ckpt.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:1000])
    with pytest.raises(IndexError):
        original.restore(prefix, model)
    data.unlink()
    with pytest.raises(tf.errors.OpError):
        original.restore(prefix, model)


# ------------------------------------------------------------------------------------ run directory


def test_keys_of_the_release_become_ours():
    theirs = yaml.safe_load("""
        dataset: mmnist
        datadir: /theirs/data
        logdir: /theirs/logs
        model_dir_prefix: null
        levels: 2
        lr: 3.0e-4
        typo: 1
    """)
    ours = rename_keys(theirs)
    assert ours.pop("typo") == 1  # for load_config to complain of
    assert Config(**ours) == Config(
        dataset="mmnist", data_root="/theirs/data", log_root="/theirs/logs", levels=2, lr=3e-4)


def test_keys_of_ours_stay_and_win():
    ours = dict(dataset="mmnist", data_root="here", levels=2)
    assert rename_keys(ours) == ours
    assert rename_keys(ours | {"datadir": "there"}) == ours
    assert rename_keys({"datadir": "there"} | ours) == ours


def note(directory, path):
    """Writes what TensorFlow notes beside a checkpoint."""
    (directory / "checkpoint").write_text(
        f'model_checkpoint_path: "{path}"\nall_model_checkpoint_paths: "{path}"\n')


def test_a_checkpoint_is_found_wherever_its_run_lies(tmp_path):
    run, copy = tmp_path / "run", tmp_path / "copy"
    assert original.find(str(run / "model")) is None
    prefix = write(run / "model" / "model.ckpt", {"step": np.int32(1)})
    assert original.find(str(run / "model")) == prefix  # with no note at all
    note(run / "model", prefix)
    assert original.find(str(run / "model")) == prefix
    shutil.copytree(run, copy)
    assert original.find(str(copy / "model")) == str(copy / "model" / "model.ckpt")


def test_a_checkpoint_of_ours_beside_it_is_newer(tmp_path):
    prefix = write(tmp_path / "model.ckpt", {"step": np.int32(1)})
    note(tmp_path, "/gone/logs/run/model/model.ckpt")
    assert original.find(str(tmp_path)) == prefix and original.is_release(prefix)
    (tmp_path / "config.yml").write_text("dataset: mmnist")
    directory = tmp_path / "model"
    directory.mkdir()
    for file in list(tmp_path.glob("model.ckpt*")):
        file.rename(directory / file.name)
    assert runs.find_checkpoint(tmp_path)[1] == str(directory / "model.ckpt")
    checkpoints = runs.Checkpoints(tmp_path)
    for step in (2, 4, 6):
        checkpoints.save(step)
        assert runs.find_checkpoint(tmp_path)[1] == str(directory / f"ckpt-{step}")
    assert (directory / "model.ckpt.index").exists() and not (directory / "ckpt-2.index").exists()


def test_the_config_of_the_release_is_kept(tmp_path):
    config, copy = tmp_path / "config.yml", tmp_path / "config.release.yml"
    config.write_text("ours")
    original.keep_config(str(tmp_path))
    assert not copy.exists()
    write(tmp_path / "model" / "model.ckpt", {"step": np.int32(1)})
    config.write_text("theirs")
    original.keep_config(str(tmp_path))
    config.write_text("ours")
    original.keep_config(str(tmp_path))
    assert copy.read_text() == "theirs"


@pytest.mark.slow
def test_scripts_take_a_release_as_one_of_our_runs(run_dir, workplace, tmp_path):
    config = load_config(run_dir / "config.yml")
    model = CWVAE(config)
    runs.restore(tf.train.latest_checkpoint(run_dir / "model"), model=model)
    theirs = tmp_path / "theirs"
    write(theirs / "model" / "model.ckpt", scoped(weights_of(model)))
    values = dataclasses.asdict(config)
    values |= {"datadir": values.pop("data_root"), "logdir": "/gone", "model_dir_prefix": None}
    del values["log_root"], values["remat"], values["init_from"]
    (theirs / "config.yml").write_text(yaml.safe_dump(values))

    clip = video(config, 1, config.open_loop_ctx)[0]
    np.testing.assert_array_equal(*(
        runs.load(folder).predict(clip, frames=4, samples=2) for folder in (theirs, run_dir)))

    flags = ["--num-examples", 2, "--seq-len", 8, "--no-save-grid"]
    for model_dir, out in [(run_dir, "a"), (theirs, "b")]:
        finish(script("eval.py", "--model-dir", model_dir, *flags, "--out", tmp_path / out))
    ours, others = (np.load(tmp_path / out / "metrics.npz") for out in "ab")
    np.testing.assert_array_equal(ours["psnr"], others["psnr"])

    output = finish(script(
        "train.py", "--config", theirs / "config.yml", "--init-from", theirs, "--log-root",
        tmp_path / "logs", "--max-steps", 2))
    assert "from step 0 to" in output and f"Starts from the weights of {theirs}" in output
    assert (theirs / "model" / "model.ckpt.index").exists()


def test_a_release_that_resets_states_is_said_to_differ(tmp_path, capsys):
    for reset in (False, True):
        model = build(tiny(cell_reset_state=reset))
        prefix = write(tmp_path / "model" / "model.ckpt", scoped(weights_of(model)))
        runs.restore(prefix, model=model)
        assert capsys.readouterr().err.count("the original release's alternates") == reset
