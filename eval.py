"""Evaluates a Clockwork VAE: python3 eval.py --model-dir=logs/minerl/EXPERIMENT --seq-len=500

Predicts the test videos open-loop from their first frames, and writes numbers and pictures.
"""

import quiet  # noqa: F401

# isort: split
import json
import os
import time

import numpy as np
import tensorflow as tf
import tqdm

import data_loader
import metrics
import pictures
import tools
from cwvae import CWVAE, fold_in

DECODED_AT_ONCE = 1000  # frames: bounds the memory, whatever the number of samples and their length
SHEET_EXAMPLES = 6

# What every figure is, for those who compare it with another paper's.
CONVENTIONS = {
    "psnr": "PSNR in dB of predictions clipped to [0, 1], data range 1, per frame",
    "ssim": "SSIM as in scikit-image (7x7 uniform window, sample covariance, K1 0.01, K2 0.03, interior "
            "pixels) of predictions clipped to [0, 1], data range 1, per frame",
    "psnr_unclipped": "PSNR in dB of unclipped predictions, data range 1, per frame",
    "ssim_range2": "SSIM as above, of unclipped predictions, data range 2: as published for this model",
}


def parse_flags():
    parser = tools.Parser(description="Evaluates a trained Clockwork VAE by open-loop prediction.")
    parser.add_argument("--model-dir", required=True, metavar="DIR",
                        help="a run directory, its model/, or one of its model_<step>/")
    parser.add_argument("--open-loop-ctx", type=int, metavar="N",
                        help="frames observed before prediction (default: the config's)")
    parser.add_argument("--seq-len", type=int, metavar="N",
                        help="frames of a sequence, context included (default: eval_seq_len)")
    parser.add_argument("--data-root", metavar="PATH", help="where the data is (default: the config's)")
    parser.add_argument("--use-obs", metavar="V",
                        help="which levels observe the context: true, false, or T/F per level from the "
                             "bottom, such as TTF (default: the config's)")
    parser.add_argument("--num-examples", type=int, metavar="N",
                        help="test videos (default: all of them, 100 at most)")
    parser.add_argument("--num-samples", type=int, default=1, metavar="N",
                        help="predictions of each video (default: 1)")
    parser.add_argument("--no-save-grid", action="store_true", help="write no grids of frames")
    parser.add_argument("--seed", type=int, default=0, help="of the samples (default: 0)")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N",
                        help="sequences predicted at once; decides speed, not results (default: 16)")
    parser.add_argument("--out", metavar="DIR",
                        help="where to write (default: eval_<date_time>/ in the run directory)")
    flags = parser.parse_args()
    for name in ("num_examples", "num_samples", "batch_size", "seq_len", "open_loop_ctx"):
        value = getattr(flags, name)
        if value is not None and value < 1:
            raise tools.UserError(f"{name}: {value} is out of range; nearest: 1")
    return flags


def main():
    flags = parse_flags()
    run_dir, checkpoint = tools.find_checkpoint(flags.model_dir)
    config = configure(tools.load_config(os.path.join(run_dir, "config.yml")), flags)
    out = flags.out or os.path.join(run_dir, time.strftime("eval_%Y_%m_%d_%H_%M_%S"))
    data = data_loader.Sequences(config, config.eval_seq_len)
    examples = min(100, len(data)) if flags.num_examples is None else flags.num_examples
    if examples > len(data):
        raise tools.UserError(f"num_examples: {examples} is more than the {len(data)} test videos of at "
                              f"least {config.eval_seq_len} frames; nearest: {len(data)}")
    model = CWVAE(config, data.action_size)
    tools.restore(checkpoint, model=model)
    with tools.directory_atomically(out) as part:
        evaluate(config, model, data, examples, flags, checkpoint, part)
    print(f"Numbers and pictures are in {out}: see contact_sheet.png first")


def configure(config, flags):
    """The config of the run, as the flags of the evaluation change it."""
    context = flags.open_loop_ctx or config.open_loop_ctx
    seq_len = flags.seq_len or config.eval_seq_len
    tools.check_open_loop(context, seq_len, config.strides[-1])
    use_obs = {None: config.use_obs, "true": True, "false": False}.get(flags.use_obs, flags.use_obs)
    return config.replace(open_loop_ctx=context, eval_seq_len=seq_len, use_obs=use_obs,
                          data_root=flags.data_root or config.data_root)


def evaluate(config, model, data, num_examples, flags, checkpoint, out):
    """Predicts num_examples videos and writes everything that the README names into `out`."""
    predictor = Predictor(config, model, flags.num_samples, flags.seed)
    at_once = max(1, flags.batch_size // flags.num_samples)
    values, seconds, sheet = [], 0.0, []
    with tqdm.tqdm(total=num_examples, unit="video", dynamic_ncols=True) as bar:
        for first in range(0, num_examples, at_once):
            batch = data.batch(first, min(at_once, num_examples - first))
            start = time.perf_counter()
            states, scores = predictor.predict(batch, first)
            seconds += time.perf_counter() - start
            values.append(scores)
            for row, video in enumerate(batch["video"]):
                chosen = choose({name: score[row] for name, score in scores.items()})
                samples = {name: predictor.decode(states[row, i]) for name, i in chosen.items()}
                save_example(out, first + row, video, samples, config.open_loop_ctx,
                             grids=not flags.no_save_grid)
                if len(sheet) < SHEET_EXAMPLES:
                    sheet.append({"truth": video, **{
                        name.removesuffix("_sample").replace("_", " "): frames
                        for name, frames in samples.items()}})
            bar.update(len(batch["video"]))
    values = {name: np.concatenate([scores[name] for scores in values]) for name in values[0]}
    settings = {
        **{field: getattr(config, field) for field in config.__dataclass_fields__},
        "checkpoint": checkpoint, "num_examples": num_examples, "num_samples": flags.num_samples,
        "eval_seed": flags.seed}
    pictures.save_contact_sheet(os.path.join(out, "contact_sheet.png"), sheet, config.open_loop_ctx)
    frames = num_examples * flags.num_samples * (config.eval_seq_len - config.open_loop_ctx)
    save_numbers(out, values, settings, frames / seconds)


class Predictor:
    """Predicts videos open-loop, many samples of each from one encoding of its context."""

    def __init__(self, config, model, num_samples, seed):
        self.config, self.model, self.num_samples, self.seed = config, model, num_samples, seed
        compiled = dict(jit_compile=tools.use_xla(config))
        self._observe = tf.function(model.observe_context, **compiled)
        self._ahead = tf.function(model.predict_ahead, **compiled)
        self._decode = tf.function(model.decode, **compiled)
        self._score = tf.function(self._decode_and_score, **compiled)

    def predict(self, batch, first):
        """Predicts a batch of videos, the first of which is number `first` of the test set.

        Returns: the states of level 0 [B, S, F, Z + H] of the F frames after the context, and every
        metric of every frame: [B, S, F], or [B, ctx] for those of the context itself.
        """
        config, samples = self.config, self.num_samples
        video, context = batch["video"], config.open_loop_ctx
        size, frames = len(video), config.eval_seq_len - context
        actions = batch.get("actions")
        seen, unseen = (None, None) if actions is None else (
            actions[:, :context], np.repeat(actions[:, context:], samples, 0))
        seeds = [fold_in([self.seed, 0], first + i) for i in range(size)]  # the same in any batch
        observed = self._observe(video[:, :context], self._noise(seeds, 0, 1, context), seen)
        states = tf.nest.map_structure(lambda x: tf.repeat(x, samples, 0), observed.states)
        ahead, _ = self._ahead(states, frames, self._noise(seeds, 1, samples, frames), unseen)
        ahead = tf.reshape(ahead, [size, samples, frames, -1])
        scores = self._scores(ahead, video[:, context:])
        for name, seen in [("reconstruction", observed.posterior), ("one_step", observed.prior)]:
            for metric, value in self._scores(seen[:, None], video[:, :context]).items():
                scores[f"{metric}_{name}"] = value[:, 0]
        return ahead, scores

    def _noise(self, seeds, purpose, samples, frames):
        noise = [self.model.noise(fold_in(seed, purpose), samples, frames) for seed in seeds]
        return [tf.concat(level, 0) for level in zip(*noise, strict=True)]

    def _scores(self, states, truth):
        """The metrics of states [B, S, F, Z + H] against truth [B, F, 64, 64, C]: each [B, S, F]."""
        chunk = max(1, DECODED_AT_ONCE // (states.shape[0] * states.shape[1]))
        parts = [self._score(states[:, :, i:i + chunk], truth[:, i:i + chunk])
                 for i in range(0, truth.shape[1], chunk)]
        return {name: np.concatenate([part[name] for part in parts], 2) for name in parts[0]}

    def _decode_and_score(self, states, truth):
        truth = tf.cast(truth, tf.float32)[:, None] / 255
        decoded = self.model.decode(states)
        clipped = tf.clip_by_value(decoded, 0.0, 1.0)
        return {
            "psnr": metrics.psnr(truth, clipped), "ssim": metrics.ssim(truth, clipped),
            "psnr_unclipped": metrics.psnr(truth, decoded),
            "ssim_range2": metrics.ssim(truth, decoded, data_range=2.0)}

    def decode(self, states):
        """[F, Z + H] to uint8 [F, 64, 64, C], in pieces."""
        parts = [self._decode(states[i:i + DECODED_AT_ONCE])
                 for i in range(0, states.shape[0], DECODED_AT_ONCE)]
        return pictures.to_uint8(np.concatenate(parts))


def choose(scores):
    """The samples of one video that are kept, by name: their numbers. The random ones come first."""
    samples = len(scores["psnr"])
    chosen = {"random_sample_1": 0}
    if samples > 1:
        chosen["random_sample_2"] = 1
        for metric in ("ssim", "psnr"):
            chosen[f"best_{metric}_sample"] = int(scores[metric].mean(1).argmax())
    return chosen


def save_example(out, number, video, samples, context, grids):
    """Writes one example: videos as npz and PNG grids, a GIF of the first sample beside the truth."""
    folder = os.path.join(out, f"sample{number}")
    files = {f"{folder}_gt/gt_ctx": video[:context], f"{folder}_gt/gt_pred": video[context:],
             **{f"{folder}/{name}": sample for name, sample in samples.items()}}
    for path, frames in files.items():
        os.makedirs(os.path.dirname(path), exist_ok=True)
        np.savez_compressed(f"{path}.npz", frames)
        if grids:
            pictures.save_grid(f"{path}.png", frames)
    pictures.save_gif(f"{folder}/prediction.gif", pictures.prediction_gif_frames(
        video, samples["random_sample_1"], context))


def save_numbers(out, values, settings, frames_per_second):
    """Writes metrics.npz, summary.json, and for PSNR and SSIM their curves over time."""
    context = settings["open_loop_ctx"]
    np.savez_compressed(os.path.join(out, "metrics.npz"), **values, open_loop_ctx=context,
                        **{f"{name}_convention": text for name, text in CONVENTIONS.items()})
    summary = {}
    for name, convention in CONVENTIONS.items():
        curves = curves_of_samples(name, values[name])
        for curve, value in {**curves, **{
                key: values[key] for key in (f"{name}_reconstruction", f"{name}_one_step")}}.items():
            low, high = metrics.bootstrap_interval(value.mean(1))
            summary[curve] = {
                "mean": float(value.mean()), "convention": convention,
                "confidence_95": None if np.isnan(low) else [float(low), float(high)]}
        if name in ("psnr", "ssim"):
            for statistic in ("mean", "std"):
                file = f"{name}_{statistic.replace('std', 'stddev')}.npz"
                np.savez(os.path.join(out, file),
                         **{curve: getattr(value, statistic)(0) for curve, value in curves.items()})
            label, shown = list(curves.items())[-1]
            pictures.save_range_plot(
                os.path.join(out, f"{name}_range.png"), name, shown.mean(0),
                *metrics.bootstrap_interval(shown), context)
    with tools.write_atomically(os.path.join(out, "summary.json")) as file:
        json.dump({"settings": settings, "metrics": summary, "frames_per_second": frames_per_second},
                  file, indent=1)


def curves_of_samples(name, value):
    """What [N, S, F] values of a metric are reported as: [N, F] curves by name, best of S last."""
    samples = value.shape[1]
    if samples == 1:
        return {name: value[:, 0]}
    best = value.mean(2).argmax(1)  # by the mean over time
    return {f"{name}_mean_of_{samples}": value.mean(1),
            f"{name}_best_of_{samples}": value[np.arange(len(value)), best]}


if __name__ == "__main__":
    tools.run_script(main)
