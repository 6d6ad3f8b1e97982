"""The config: every key with its type, its default and its meaning. It is read from YAML."""

import dataclasses
import hashlib
import itertools
import operator
import os
import re

import yaml

from checks import check_open_loop, check_use_obs, check_value, is_layout, nearest, show
from tools import UserError, write_atomically


def _key(default, help, changes="run", **limits):
    """A config key. `changes` is what a new value changes: "model", "training" or "run".

    limits: `min` and `max` (inclusive; by default those of 32 bits), `above` (exclusive), `choices`.
    """
    return dataclasses.field(
        default=default, metadata=dict(help=help, changes=changes, limits=limits))


NAME_BYTES = 255  # File systems allow so many bytes in the name of a folder.
DATASETS = ("moving_digit", "moving_digit_demo", "moving_digits_clean", "moving_digits",
            "moving_digits_demo", "moving_mnist", "moving_mnist_large", "doom_mazes", "doom_mazes_demo",
            "minerl", "mazes", "mmnist", "videos")


@dataclasses.dataclass(frozen=True)
class Config:
    """Every setting of an experiment. A YAML file or a flag overrides a default."""

    # Data.
    dataset: str = _key(None, "the data to train on", "model", choices=DATASETS)
    data_root: str = _key("data", "folder for the data of datasets, or the folder of your videos")
    log_root: str = _key("logs", "folder that holds the run directories")
    name: str | None = _key(None, "name of the run directory (null: spelled from the main settings)")
    channels: int = _key(1, "1 for grey, 3 for colour", "model", choices=(1, 3))
    image_size: int = _key(64, "side of a frame in pixels", "model", choices=(32, 64, 128, 256))
    fit: str = _key("crop", "how a frame of your videos becomes a square: crop to the middle, pad with "
                            "black, or stretch", "training", choices=("crop", "pad", "stretch"))
    fps: float | None = _key(None, "frames a second to which your videos are resampled, by their "
                                   "time stamps (null: as recorded)", "training", above=0)
    files: str | list[str] | None = _key(
        None, "which of your videos to read: a pattern of paths below data_root, or a list; * is any "
              "text, !*_gt/* leaves out, a.h5:data/*/rgb picks arrays in a file (null: all)",
        "training")
    axes: str | None = _key(
        None, "the axes of your arrays, in the letters N (videos), T (frames), H, W, C (colours), such "
              "as TNHW (null: guessed from their shapes)", "training")
    keep_partial: bool = _key(
        False, "keep the frames of a damaged video before its first damaged frame (false: leave such "
               "videos out)", "training")
    cache_root: str | None = _key(
        None, "folder for prepared data, if nobody may write to data_root (null: data_root)")
    seq_len: int = _key(100, "frames of a training clip", "training", min=1)
    eval_seq_len: int | None = _key(
        None, "frames of a validation and evaluation sequence (null: seq_len)", min=2)
    frame_skip: int = _key(1, "keep every n-th frame of a video", "training", min=1)
    clip_offset: str = _key(
        "fixed", "where clips start: fixed puts one clip after the other; random draws each start "
                 "anew in every epoch", "training", choices=("fixed", "random"))
    actions: bool | str = _key(
        False, "whether the model sees the actions of the data: false, true, or onehot (each value of "
               "a whole-number action becomes a column)", "model",
        choices=("onehot",))
    action_levels: str = _key(
        "bottom", "which levels see the actions: bottom, as published, or all; a tick of an upper "
                  "level sees the actions of all its frames", "model", choices=("bottom", "all"))
    action_classes: int | None = _key(
        None, "how many values onehot actions have (null: 1 + the largest in the training data; the run "
              "keeps this number)", "model", min=1, max=2**16)

    # Model.
    levels: int = _key(3, "levels of the hierarchy", "model", min=1, max=16)
    tmp_abs_factor: int | list[int] = _key(
        6, "ticks of a level during one tick of the level above: a number, or one per pair of levels",
        "model", min=1)
    dec_stddev: float = _key(1.0, "standard deviation of p(frame | states)", "model", min=1e-6, max=1e6)
    enc_dense_layers: int = _key(
        3, "dense layers between the embeddings of two levels", "model", min=0, max=100)
    enc_dense_embed_size: int = _key(
        1000, "width of the dense layers between embeddings", "model", min=1, max=2**16)
    cell_type: str = _key("RSSMCell", "the cell of a level, by its name in cells.CELLS", "model")
    encoder_type: str = _key("Encoder", "the encoder, by its name in cnns.ENCODERS", "model")
    decoder_type: str = _key("Decoder", "the decoder, by its name in cnns.DECODERS", "model")
    cell_stoch_size: int | list[int] = _key(
        20, "units of the stochastic state: a number, or one per level from the bottom", "model",
        min=1, max=2**16)
    cell_stoch_classes: int = _key(
        16, "classes of each unit of a categorical stochastic state", "model", min=2, max=2**16)
    cell_deter_size: int | list[int] = _key(
        200, "units of the deterministic state: a number, or one per level", "model",
        min=1, max=2**16)
    cell_embed_size: int = _key(200, "width of a cell's dense layers", "model", min=1, max=2**16)
    cell_min_stddev: float = _key(0.0001, "least standard deviation of a state", "model", min=0)
    cell_mean_only: bool = _key(
        False, "use means instead of samples, which makes the model deterministic", "model")
    cell_reset_state: bool = _key(
        False, "set the previous stochastic state to 0 whenever the level above ticks", "model")
    channels_mult: float = _key(
        1.0, "scales the filters: 1 is 32 in the first layer", "model", above=0, max=64)
    dec_negative_slope: float = _key(
        1.0, "factor on negative values before the tanh of the decoder: 1 as published; with 0.1 black "
             "backgrounds become clean sooner", "model", min=0, max=1)
    init_gain: float = _key(
        1.0, "factor on the initial weights of encoder and decoder: 1 as published; with 3 the model "
             "learns colours sooner", "training", min=0.01, max=100)

    # Which frames are seen.
    use_obs: bool | str = _key(
        True, "which levels observe the context of open-loop prediction: true, false, or T/F per level "
              "from the bottom (TTF)")
    open_loop_ctx: int = _key(36, "frames observed before open-loop prediction", min=1)

    # Training.
    lr: float = _key(3e-4, "Adam's learning rate", "training", above=0)
    lr_schedule: str = _key(
        "constant", "how lr falls after its warm-up: not at all, or to 0 at the end", "training",
        choices=("constant", "cosine", "linear"))
    lr_warmup_steps: int = _key(0, "steps during which lr rises from 0", "training", min=0)
    batch_size: int = _key(
        50, "clips of a training step, over all devices", "training", min=1, max=2**20)
    num_epochs: int = _key(300, "passes over the training clips", min=1)
    max_steps: int | None = _key(None, "number of training steps (null: from num_epochs)", min=1)
    init_from: str | None = _key(
        None, "the run, or the checkpoint in it, whose weights a new run starts from")
    beta: float | list[float] | None = _key(
        None, "weight of the KL: a number, or one per level from the bottom", "training", min=0)
    beta_warmup_steps: int = _key(
        0, "steps during which the weight of the KL rises from 0", "training", min=0)
    free_nats: float | list[float] | None = _key(
        None, "nats of a level's KL in a training clip that cost nothing: a number, or one per level "
              "from the bottom",
        "training", min=0)
    kl_grad_post_perc: float | None = _key(
        None, "share of the KL's gradient that trains the posterior (null: no balance)", "training",
        min=0, max=1)
    clip_grad_norm_by: float | None = _key(
        10000.0, "largest global norm of the gradient; a larger one is scaled down (null: never)",
        "training", above=0)
    seed: int = _key(
        0, "the seed; with the step it decides every random number", "training", min=0, max=2**31 - 1)
    precision: str = _key("float32", "precision of matrix products and convolutions", "training",
                          choices=("float32", "bfloat16"))
    jit: bool | str = _key("auto", "compile with XLA: true, false, or auto (all on GPU, loops on CPU)",
                           choices=("auto",))
    fast: bool = _key(True, "use faster forms of cell, encoder and decoder (false: the plain forms)")
    remat: bool = _key(False, "save memory: compute the activations of encoder and decoder a second "
                              "time in the backward pass, in chunks of frames")

    # Validation, logs and checkpoints.
    num_val_batches: int = _key(1, "validation batches", min=1)
    save_gifs: bool = _key(True, "log open-loop predictions as GIFs")
    save_scalars_every: int = _key(1000, "steps between logged scalars", min=1)
    save_gifs_every: int = _key(1000, "steps between GIFs", min=1)
    save_model_every: int = _key(1000, "steps between checkpoints", min=1)
    save_named_model_every: int | None = _key(
        None, "steps between checkpoints that stay for good (null: none)", min=1)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = check_value(field, getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        if self.eval_seq_len is None:
            object.__setattr__(self, "eval_seq_len", self.seq_len)
        for key in ("tmp_abs_factor", "beta", "free_nats", "cell_stoch_size", "cell_deter_size"):
            value = getattr(self, key)
            count, each = ((self.levels - 1, "pair of levels") if key == "tmp_abs_factor"
                           else (self.levels, "level"))
            if isinstance(value, list) and len(value) != count:
                raise UserError(f"{key}: {value} has {len(value)} numbers; give one, or {count}, "
                                f"one per {each}")
        if 32 * self.channels_mult != round(32 * self.channels_mult):
            near = max(1, round(32 * self.channels_mult)) / 32
            raise UserError(f"channels_mult: {self.channels_mult} makes {32 * self.channels_mult:g} "
                            f"filters in the first layer, not a whole number; nearest: {near}")
        check_use_obs(self.use_obs, self.levels)
        if self.axes is not None and not is_layout(self.axes):
            raise UserError(f"axes: {show(self.axes)} does not hold T, H and W once each, and N and C "
                            "once at most; nearest: NTHWC")
        if self.name is not None and (
                self.name in (".", "..") or "/" in self.name or len(self.name.encode()) > NAME_BYTES):
            raise UserError(f"name: {show(self.name)} cannot name a folder: give a name of at most "
                            f"{NAME_BYTES} bytes, without a slash")
        stride = self.strides[-1]
        if stride >= self.eval_seq_len and self.open_loop_ctx % stride:
            fits = next(factor for factor in itertools.count(1)
                        if (factor + 1) ** (self.levels - 1) >= self.eval_seq_len)
            raise UserError(
                f"tmp_abs_factor: {self.tmp_abs_factor} makes {stride} frames to one tick of the top of "
                f"{self.levels} levels, but eval_seq_len is {self.eval_seq_len}; nearest: {fits}")
        check_open_loop(self.open_loop_ctx, self.eval_seq_len, self.strides[-1],
                        length_key="eval_seq_len")

    @property
    def factors(self):
        """How often level l ticks during one tick of level l + 1: a list of levels - 1 integers."""
        return _listed(self.tmp_abs_factor, self.levels - 1)

    @property
    def stoch_sizes(self):
        """cell_stoch_size of each level, from the bottom."""
        return _listed(self.cell_stoch_size, self.levels)

    @property
    def deter_sizes(self):
        """cell_deter_size of each level, from the bottom."""
        return _listed(self.cell_deter_size, self.levels)

    @property
    def strides(self):
        """How many frames a tick of each level covers, from the bottom: a list of `levels` integers."""
        return list(itertools.accumulate(self.factors, operator.mul, initial=1))

    def whole_ticks(self, frames):
        """So many frames, rounded up to whole ticks of the top level."""
        return -(-frames // self.strides[-1]) * self.strides[-1]

    @property
    def experiment(self):
        """The experiment's name: `name`, or the main settings and all others that are not defaults."""
        if self.name is not None:
            return self.name
        name = f"{self.dataset}_cwvae_{self.cell_type.lower()}_{self.levels}l"
        for key, short in MAIN_SETTINGS.items():
            value = getattr(self, key)
            name += f"_{short}{_spelled(f'{value:g}' if key == 'channels_mult' else value)}"
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if (field.name not in {*MAIN_SETTINGS, *NOT_SPELLED} and value != field.default
                    and field.metadata["changes"] != "run"):
                name += f"_{field.name.replace('_', '')}{_spelled(value)}"
        if len(name.encode()) > NAME_BYTES:
            digest = hashlib.sha256(name.encode()).hexdigest()[:16]
            kept = name.encode()[:NAME_BYTES - len(digest) - 1].decode(errors="ignore")
            name = f"{kept}_{digest}"
        return name

    @property
    def run_dir(self):
        return os.path.join(os.path.expanduser(self.log_root), self.dataset, self.experiment)

    def replace(self, **changes):
        return dataclasses.replace(self, **changes)

    def save(self, path):
        """Writes the whole config as YAML, atomically."""
        with write_atomically(path) as file:
            yaml.safe_dump(dataclasses.asdict(self), file, sort_keys=False)


# The settings that every name of an experiment spells, and how.
MAIN_SETTINGS = {
    "tmp_abs_factor": "f", "dec_stddev": "decsd", "enc_dense_layers": "enchl",
    "enc_dense_embed_size": "ences", "channels_mult": "edchnlmult", "cell_stoch_size": "ss",
    "cell_deter_size": "ds", "cell_embed_size": "es", "seq_len": "seq", "lr": "lr", "batch_size": "bs"}
# The name begins with the first three of these. The others follow from the data.
NOT_SPELLED = {"dataset", "cell_type", "levels", "channels", "action_classes"}


def _listed(value, count):
    """A value that is one for all, or a list, as a list."""
    return value if isinstance(value, list) else [value] * count


def _spelled(value):
    """A value in a name: the numbers of a list are joined by x."""
    text = "x".join(map(str, value)) if isinstance(value, list) else str(value)
    return re.sub(r"[^\w.+-]+", "-", text)


# Names of keys in configs of the original release. None means that we have no such key.
ORIGINAL_KEYS = {"datadir": "data_root", "logdir": "log_root", "model_dir_prefix": None}


def load_config(path, overrides=None):
    """Reads a YAML file into a Config. It also reads the configs of the original release.

    overrides: values by key, which win over those of the file.
    Raises UserError if anything is wrong with the file or a value.
    """
    values = rename_keys(read_yaml(path)) | (overrides or {})
    known = [field.name for field in dataclasses.fields(Config)]
    for key in values:
        if key not in known:
            raise UserError(f"{path}: unknown key {show(key)}; nearest: {nearest(key, known)}")
    return Config(**values)


def rename_keys(values):
    """The values of a config, of the release or of ours, by our keys. Our names of keys win.

    In the configs of the release a null folder means that a flag must name it, so the key is dropped.
    """
    renamed = {ORIGINAL_KEYS[key]: value for key, value in values.items() if ORIGINAL_KEYS.get(key)}
    renamed |= {key: value for key, value in values.items() if key not in ORIGINAL_KEYS}
    folders = set(ORIGINAL_KEYS.values())
    return {key: value for key, value in renamed.items() if value is not None or key not in folders}


def read_yaml(path):
    """Returns the mapping in a YAML file. Raises UserError if there is none."""
    try:
        with open(os.path.expanduser(path)) as file:
            values = yaml.safe_load(file)
    except OSError as error:
        raise UserError(f"cannot read config {path}: {error.strerror}") from None
    # PyYAML raises ValueError for long integers and impossible dates, RecursionError for deep lists.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        problem = "not text" if isinstance(error, UnicodeDecodeError) else error
        problem = str(getattr(error, "problem", None) or problem).splitlines()[0]
        raise UserError(f"{path} is not valid YAML{where}: {problem}") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(f"{path} is not a config: expected one 'key: value' a line")
    return values
