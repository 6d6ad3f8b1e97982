"""Reads the files of runs and evaluations, and tells which of them compare."""

import dataclasses
import glob
import json
import os
import re
import zipfile

import numpy as np

from config import Config, read_yaml
from intervals import defined_mean
from metrics import METRICS, trivial_of
from tools import UserError

# The settings that an evaluation may change.
EVALUATION_KEYS = ("open_loop_ctx", "eval_seq_len", "use_obs", "num_examples", "num_samples")
NAME = re.compile(r"eval_(\d{4}_\d\d_\d\d_\d\d_\d\d_\d\d)(?:_(\d+))?$")


@dataclasses.dataclass
class Result:
    """The contents of a run or an evaluation.

    path: the folder, as the user gave it.
    settings: of the run and of the evaluation, flat.
    training: the lines of metrics.jsonl; [] for an evaluation alone.
    scores: metric -> [N, S, T] for N examples, S samples, T predicted frames; {} without evaluation.
    context: the number of frames observed before those.
    trivial: metric -> trivial predictor -> [N, T].
    conventions: metric -> its exact definition, in words.
    fvd: the FVD in summary.json, or None.
    evaluation: the folder of the evaluation, or None.
    """

    path: str
    settings: dict
    training: list
    scores: dict
    context: int | None
    trivial: dict = dataclasses.field(default_factory=dict)
    conventions: dict = dataclasses.field(default_factory=dict)
    fvd: dict | None = None
    evaluation: str | None = None

    def over_samples(self, name, best):
        """A metric of every example: [N, T]. The mean over samples, or the best sample.

        The best sample of an example is the one with the best mean over time.
        """
        scores = self.scores[name]
        if not best:
            return defined_mean(scores, 1)
        return scores[np.arange(len(scores)), METRICS[name].best_sample(scores)]


@dataclasses.dataclass
class Curve:
    """One curve of a figure: a result, or several that differ in the seed of training alone."""

    results: list

    def __getattr__(self, name):
        return getattr(self.results[0], name)

    def of(self, name, best=False):
        """A metric of every run and example: [R, N, T]."""
        return np.stack([result.over_samples(name, best) for result in self.results])


def read_result(path):
    """Reads a run directory or an evaluation. Raises UserError if it is neither."""
    if not os.path.isdir(path):
        raise UserError(f"{path}: no such directory")
    if is_evaluation(path):
        return read_evaluation(path)
    config = os.path.join(path, "config.yml")
    if not os.path.exists(config):
        raise UserError(f"{path} is neither a run directory (no config.yml) nor an evaluation "
                        f"(no summary.json)")
    defaults = {field.name: field.default for field in dataclasses.fields(Config)}
    run = Result(path, {**defaults, **read_yaml(config)}, read_training(path), {}, None)
    newest = newest_evaluation(path)
    if newest:
        found = read_evaluation(newest)
        return dataclasses.replace(
            found, path=path, settings={**run.settings, **found.settings}, training=run.training)
    if not run.training:
        raise UserError(f"{path} has nothing to show yet: no metrics.jsonl and no evaluation")
    return run


def is_evaluation(path):
    """Whether a folder holds a whole evaluation. The name of an unfinished one ends in .part."""
    return os.path.exists(os.path.join(path, "summary.json")) and not path.endswith(".part")


def newest_evaluation(run_dir):
    """The newest whole evaluation in a run directory, or None.

    Names tell the time, and the number among evaluations of the same second. An evaluation that was
    named by hand counts only if no name tells a time.
    """
    def age(path):
        name = NAME.match(os.path.basename(path))
        return (name[1], int(name[2] or 1), path) if name else ("", 0, path)

    found = filter(is_evaluation, glob.glob(os.path.join(glob.escape(run_dir), "eval_*")))
    return max(found, key=age, default=None)


def read_evaluation(path):
    """Reads an evaluation. Raises UserError if it is incomplete."""
    summary, arrays = os.path.join(path, "summary.json"), os.path.join(path, "metrics.npz")
    try:
        with open(summary) as file:
            numbers = json.load(file)
        settings, fvd = numbers["settings"], numbers.get("fvd")
        with np.load(arrays) as file:
            scores = {name: np.asarray(file[name], np.float64) for name in METRICS if name in file}
            conventions = {name: str(file[f"{name}_convention"])
                           for name in scores if f"{name}_convention" in file}
            trivial = {name: {predictor: np.asarray(values, np.float64)
                              for predictor, values in trivial_of(name, file).items()}
                       for name in scores}
            context = int(file["open_loop_ctx"])
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a whole evaluation: {error}") from None
    for name, values in scores.items():
        if values.ndim != 3 or not values.size:
            raise UserError(f"{arrays}: {name} has the shape {list(values.shape)}; "
                            f"expected [examples, samples, frames]")
        if np.isinf(values).any():
            raise UserError(f"{arrays}: {name} has values that are infinite")
    if not scores:
        raise UserError(f"{arrays} has none of the metrics {', '.join(METRICS)}")
    return Result(path, settings, [], scores, context, trivial, conventions, fvd, path)


def read_training(run_dir):
    """Returns the lines of metrics.jsonl as dicts; [] if there is no such file."""
    path = os.path.join(run_dir, "metrics.jsonl")
    if not os.path.exists(path):
        return []
    with open(path) as file:
        # The last line of a run in progress may be cut short.
        lines = [line for line in file if line.endswith("\n")]
    training = []
    for number, line in enumerate(lines, 1):
        try:
            training.append(json.loads(line))
        except ValueError:
            raise UserError(f"{path}: line {number} is not JSON") from None
    return training


# ---------------------------------------------------------------------------------- what compares


def compared_keys():
    """The settings that can make results differ."""
    keys = [field.name for field in dataclasses.fields(Config) if field.metadata["changes"] != "run"]
    return keys + [key for key in EVALUATION_KEYS if key not in keys]


def group_seeds(results):
    """Makes a Curve of all results that differ in the seed alone, and a Curve of each other result."""
    curves, found = [], {}
    for result in results:
        same = {key: result.settings.get(key) for key in (*compared_keys(), "max_steps", "num_epochs")
                if key != "seed"}
        shapes = {name: scores.shape for name, scores in result.scores.items()}
        key = json.dumps([same, data_of(result), result.conventions, shapes, bool(result.training)])
        others = found.get(key)
        # A second result of the same seed adds no draw, so it becomes a curve of its own.
        seed = result.settings.get("seed")
        if others and all(seed != other.settings.get("seed") for other in others.results):
            others.results.append(result)
        else:
            curves.append(Curve([result]))
            found.setdefault(key, curves[-1])
    return curves


def data_of(result):
    """A value that differs between the test data of two results."""
    settings = result.settings
    if "data_digest" in settings:  # Only an evaluation has it.
        return settings["data_digest"]
    root = settings.get("data_root") if settings.get("dataset") == "videos" else None
    return settings.get("dataset"), root, settings.get("frame_skip")


def conditions(curves, name):
    """What must be equal for curves to compare: (data, context, convention of the metric).

    Returns: a dict by the index of the curve, of the curves that have the metric.
    """
    having = {index: curve for index, curve in enumerate(curves) if name in curve.scores}
    digests = all("data_digest" in curve.settings for curve in having.values())
    return {index: (data_of(curve) if digests else curve.settings.get("dataset"), curve.context,
                    curve.conventions.get(name)) for index, curve in having.items()}


def comparable(curves, name):
    """Groups the curves that have a metric by their conditions: a list of lists of indices."""
    found = {}
    for index, condition in conditions(curves, name).items():
        found.setdefault(condition, []).append(index)
    return list(found.values())


# ------------------------------------------------------------------------------------------- labels


def label_by_difference(curves):
    """Labels curves by the settings in which they differ, or else by their paths."""
    # A run without evaluation lacks the settings of one. This is no difference.
    differing = [
        key for key in compared_keys()
        if all(key in curve.settings for curve in curves)
        and not (key == "seed" and any(len(curve.results) > 1 for curve in curves))
        and any(curve.settings[key] != curves[0].settings[key] for curve in curves)]
    labels = [", ".join(f"{key} {spelled(curve.settings[key])}" for key in differing
                        if key != "tmp_abs_factor" or curve.settings["levels"] > 1)
              for curve in curves]
    if len(set(labels)) < len(labels) or not differing and len(curves) == 1:
        labels = [os.path.basename(os.path.abspath(curve.path)) for curve in curves]
    if len(set(labels)) < len(labels):
        labels = [os.path.normpath(curve.path) for curve in curves]
    return [label + (f" ({len(curve.results)} seeds)" if len(curve.results) > 1 else "")
            for label, curve in zip(labels, curves, strict=True)]


def spelled(value):
    """A setting as the YAML file spells it."""
    return json.dumps(value).strip('"')
