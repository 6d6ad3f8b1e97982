"""The command lines of the scripts: a flag for every config key, and the flags of evaluations."""

import argparse
import dataclasses
import os
import sys

import yaml

from checks import check_open_loop, kinds_of, nearest, show
from config import Config
from tools import UserError


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that reports an error in one line."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message):
        flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            flag = unknown.split()[0]
            message = f"unknown argument {flag}; nearest: {nearest(flag, flags)}"
        raise UserError(message)


def parse_train_flags(argv=None):
    """Reads train.py's command line: --config FILE, and a flag for every key.

    Returns the file and the values given, by key, as load_config takes them.
    """
    path, values, _ = parse_config_flags(Parser(
        description="Trains a Clockwork VAE. The same command goes on from the newest checkpoint.",
        epilog=f"{EPILOG} train.py --self-check [--precision bfloat16] [--jit true] instead trains a "
               "small model for 20 steps, without data, and compares the losses with those of a CPU."),
        argv)
    return path, values


EPILOG = "A flag wins over the file. Write null for no value, and [6, 4] for a list."


def parse_config_flags(parser, argv=None):
    """Adds --config and a flag for every key to a parser, and reads a command line.

    Returns the file, the values given by key, and the parser's other flags, a dict.
    """
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML file of an experiment")
    add_config_flags(parser)
    given = vars(parser.parse_args(argv))
    values = config_values(given)
    return given["config"], values, {
        name: value for name, value in given.items() if name not in ("config", *values)}


def add_config_flags(parser):
    """Adds a flag for every key of the config to a parser. config_values reads them."""
    for field in dataclasses.fields(Config):
        flags = dict.fromkeys([f"--{field.name.replace('_', '-')}", f"--{field.name}"])
        text = field.metadata["help"].replace("%", "%%")
        choices = field.metadata["limits"].get("choices")
        if choices and field.default not in ("auto", False):
            text += f"; one of {', '.join(map(str, choices))}"
        default = "null" if field.default is None else str(field.default)
        parser.add_argument(
            *flags, dest=field.name, metavar="V", default=argparse.SUPPRESS,
            help=f"{text} (default: {default.lower() if isinstance(field.default, bool) else default})",
            **(dict(nargs="?", const="true") if isinstance(field.default, bool) else {}))


def config_values(given):
    """The values of config keys among parsed flags, a dict for load_config."""
    keys = [field.name for field in dataclasses.fields(Config)]
    return {key: _parse_flag(key, text) for key, text in given.items() if key in keys}


def parse_self_check_flags(argv=None):
    """Reads train.py's command line if it has --self-check.

    Returns the arguments of self_check.run; None without --self-check.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not any(word.startswith("--self-check") for word in argv):
        return None
    parser = Parser(description="Trains 20 steps of a small model; compares the losses with a CPU's.")
    parser.add_argument("--self-check", nargs="?", const="compare", choices=("compare", "refresh"),
                        required=True, metavar="refresh",
                        help="refresh: write this CPU's losses into self_check.json")
    for key in ("precision", "jit"):
        help = Config.__dataclass_fields__[key].metadata["help"]
        parser.add_argument(f"--{key}", metavar="V", default=argparse.SUPPRESS, help=help)
    given = vars(parser.parse_args(argv))
    refresh = given.pop("self_check") == "refresh"
    changes = {key: _parse_flag(key, text) for key, text in given.items()}
    Config(dataset="mmnist", **changes)  # This raises a UserError for a wrong value.
    return {"changes": changes, "refresh": refresh}


def _parse_flag(key, text):
    """The value of a flag. A key of text takes it as it is, any other key as YAML reads it."""
    kinds = kinds_of(Config.__dataclass_fields__[key])
    if str in kinds and not (list[str] in kinds and text.startswith("[") and text.endswith("]")):
        word = {"true": True, "false": False, "null": None}.get(text, text)
        return word if type(word) in kinds else text
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UserError(f"{key}: cannot read {show(text)}") from None


# ------------------------------------------------------------------- flags of eval.py and analyze.py

CHECKPOINTS = "a run directory, its model/, model_best/ or model_<step>/, or a checkpoint"
EVALUATION_FLAGS = {
    "model_dir": dict(required=True, metavar="DIR", help=CHECKPOINTS),
    "data_root": dict(
        type=lambda text: existing("data_root", text), metavar="PATH",
        help="where the data is (default: the config's)"),
    "out": dict(metavar="DIR", help="folder to write (default: in the run directory, by date and time)"),
    "seed": dict(min=0, default=0, help="seed of the samples (default: 0)"),
    "open_loop_ctx": dict(min=1, help="frames observed before prediction (default: the config's)"),
    "seq_len": dict(min=1, help="frames of a sequence, context included (default: eval_seq_len)"),
    "use_obs": dict(
        metavar="V", help="which levels observe the context: true, false, or T/F per level from the "
                          "bottom, such as TTF (default: the config's)"),
    "num_examples": dict(min=1, help="test videos; all if there are fewer (default: 100)"),
    "num_samples": dict(min=1, default=1, help="predictions of each video (default: 1)"),
    "batch_size": dict(
        min=1, default=16, help="sequences predicted at once; changes only the speed (default: 16)"),
    "mean_only": dict(
        action="store_true", help="predict without noise, by the mean of every distribution"),
}


def add_evaluation_flags(parser, *names, **helps):
    """Adds the first four of EVALUATION_FLAGS and the named ones to a parser.

    helps: other help texts, by the name of the flag.
    """
    for name in ("model_dir", "data_root", "out", "seed", *names):
        options = dict(EVALUATION_FLAGS[name])
        options["help"] = helps.get(name, options["help"])
        if "min" in options:
            options |= dict(type=whole_number(name, options.pop("min")), metavar="N")
        parser.add_argument(f"--{name.replace('_', '-')}", **options)


def existing(name, path):
    """Returns the path of a flag. Raises UserError if it does not exist."""
    if not os.path.exists(os.path.expanduser(path)):
        raise UserError(f"{name}: there is nothing at {path}")
    return path


def whole_number(name, least):
    """The type of a flag for whole numbers of at least `least`."""
    def convert(text):
        value = int(text)
        if not least <= value < 2**31:
            near = least if value < least else 2**31 - 1
            raise UserError(f"{name}: {text} is out of range; nearest: {near}")
        return value

    convert.__name__ = "whole number"  # argparse uses this name in its errors.
    return convert


def evaluated_config(config, flags):
    """The config of a run with the changes of an evaluation's flags.

    Raises UserError if the context or use_obs does not fit the model, or if the flags ask for several
    predictions without noise.
    """
    mean_only = config.cell_mean_only or getattr(flags, "mean_only", False)
    if mean_only and getattr(flags, "num_samples", 1) > 1:
        raise UserError(f"num_samples: {flags.num_samples} predictions without noise "
                        f"({'cell_mean_only' if config.cell_mean_only else '--mean-only'}) are all the "
                        f"same; nearest: 1")
    context = getattr(flags, "open_loop_ctx", None) or config.open_loop_ctx
    seq_len = getattr(flags, "seq_len", None) or config.eval_seq_len
    use_obs = getattr(flags, "use_obs", None) or config.use_obs
    use_obs = {"true": True, "false": False}.get(use_obs, use_obs)
    check_open_loop(context, seq_len, config.strides[-1])
    return config.replace(open_loop_ctx=context, eval_seq_len=seq_len, use_obs=use_obs,
                          cell_mean_only=mean_only,
                          data_root=flags.data_root or config.data_root)


def num_examples(wanted, available):
    """How many test videos to use: as many as wanted, by default 100, but at most all of them."""
    if wanted and wanted > available:
        print(f"num_examples: {wanted} is more than the {available} test videos that are long enough; "
              f"all of them are used.")
    return min(wanted or 100, available)
