"""Evaluates a Clockwork VAE: python3 eval.py --model-dir=logs/minerl/EXPERIMENT --seq-len=500

Predicts the test videos open-loop from their first frames, and writes numbers and pictures. The
analyses of the paper are flags: --ablate-levels, --information; --dream writes one long video.
"""

import quiet  # noqa: F401

# isort: split
import os
import time
import warnings

import numpy as np
import tqdm

import analyses
import data_loader
import metrics
import pictures
import runs
import tools
from cwvae import CWVAE
from predictor import Predictor, even_batches

SHEET_EXAMPLES = 6
FVD_CONVENTION = ("FVD of the 8-bit frames after the context, the first sample of each video; resized "
                  "to 224x224 as by TensorFlow 1, in [-1, 1]; lower is better")
# The flags that each kind of run heeds, beside --model-dir, --data-root, --seed and --out.
HEEDED = {
    "eval": {"open_loop_ctx", "seq_len", "use_obs", "num_examples", "num_samples", "batch_size",
             "no_save_grid", "lpips", "fvd_model"},
    "dream": {"open_loop_ctx", "use_obs", "example"},
    "ablate_levels": {"open_loop_ctx", "seq_len", "num_examples", "num_samples", "batch_size"},
    "information": {"seq_len", "use_obs", "num_examples", "batch_size", "frame_skips"},
}


def conventions(lpips=None):
    """What every figure is, for those who compare it with another paper's.

    lpips: the name of its network, or None where LPIPS is left out.
    """
    known = {
        "psnr": "PSNR in dB of predictions clipped to [0, 1], data range 1, per frame",
        "ssim": "SSIM as in scikit-image (7x7 uniform window, sample covariance, K1 0.01, K2 0.03, "
                "interior pixels) of predictions clipped to [0, 1], data range 1, per frame",
        "psnr_unclipped": "PSNR in dB of unclipped predictions, data range 1, per frame",
        "ssim_range2": "SSIM as above, of unclipped predictions, data range 2: as published for this "
                       "model",
    }
    if lpips:
        known["lpips"] = (f"LPIPS (lpips 0.1, net {lpips}) of 8-bit predictions, grey repeated to "
                          f"colour, per frame; lower is better")
    return known


def parse_flags():
    parser = tools.Parser(description="Evaluates a trained Clockwork VAE by open-loop prediction.")
    parser.add_argument("--model-dir", required=True, metavar="DIR",
                        help="a run directory, its model/, or one of its model_<step>/")
    parser.add_argument("--open-loop-ctx", type=int, metavar="N",
                        help="frames observed before prediction (default: the config's)")
    parser.add_argument("--seq-len", type=int, metavar="N",
                        help="frames of a sequence, context included (default: eval_seq_len; with "
                             "--information seq_len)")
    parser.add_argument("--data-root", metavar="PATH", help="where the data is (default: the config's)")
    parser.add_argument("--use-obs", metavar="V",
                        help="which levels observe the context: true, false, or T/F per level from the "
                             "bottom, such as TTF (default: the config's)")
    parser.add_argument("--num-examples", type=int, metavar="N",
                        help="test videos (default: all of them, 100 at most)")
    parser.add_argument("--num-samples", type=int, default=1, metavar="N",
                        help="predictions of each video (default: 1)")
    parser.add_argument("--lpips", nargs="?", const="alex", choices=("alex", "vgg", "squeeze"),
                        metavar="NET", help="report LPIPS too, by alex (the default), vgg or squeeze")
    parser.add_argument("--fvd-model", metavar="DIR_OR_HANDLE",
                        help="report FVD too, by this I3D network: a SavedModel or a TF-Hub handle")
    parser.add_argument("--no-save-grid", action="store_true", help="write no grids of frames")
    parser.add_argument("--seed", type=int, default=0, help="of the samples (default: 0)")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N",
                        help="sequences predicted at once; decides speed, not results (default: 16)")
    parser.add_argument("--out", metavar="DIR",
                        help="where to write (default: eval_<date_time>/ in the run directory, or "
                             "dream_, ablate_levels_, information_<date_time>/)")
    analysis = parser.add_mutually_exclusive_group()
    analysis.add_argument("--dream", type=int, metavar="N",
                          help="instead: predict N frames of one video, any number, into an mp4")
    analysis.add_argument("--ablate-levels", action="store_true",
                          help="instead: what predictions lose without a level's view of the context")
    analysis.add_argument("--information", action="store_true",
                          help="instead: KL and entropies of each level, by the speed of the video")
    parser.add_argument("--example", type=int, default=0, metavar="I",
                        help="the test video that --dream starts from (default: 0)")
    parser.add_argument("--frame-skips", type=int, nargs="+", default=[1, 2, 4], metavar="N",
                        help="the speeds of --information: every n-th frame (default: 1 2 4)")
    flags = parser.parse_args()
    modes = [mode for mode in HEEDED if getattr(flags, mode, None) not in (None, False)]
    flags.mode = modes[0] if modes else "eval"
    least = {"num_examples": 1, "num_samples": 1, "batch_size": 1, "seq_len": 1, "open_loop_ctx": 1,
             "dream": 1, "example": 0, "frame_skips": 1}
    for name, low in least.items():
        for value in np.atleast_1d(getattr(flags, name)):
            if value is not None and value < low:
                raise tools.UserError(f"{name}: {value} is out of range; nearest: {low}")
    for name in set.union(*HEEDED.values()) - HEEDED[flags.mode]:
        if getattr(flags, name) != parser.get_default(name):
            mode = "an evaluation" if flags.mode == "eval" else f"--{flags.mode.replace('_', '-')}"
            raise tools.UserError(f"{name}: {mode} does not use it; leave it out")
    return flags


def main():
    warnings.formatwarning = lambda message, *_: f"eval.py: warning: {message}\n"
    flags = parse_flags()
    run_dir, _ = runs.find_checkpoint(flags.model_dir)
    config = configure(runs.load_config(os.path.join(run_dir, "config.yml")), flags)
    out = flags.out or os.path.join(run_dir, f"{flags.mode}_{time.strftime('%Y_%m_%d_%H_%M_%S')}")
    data, action_size = open_data(config, flags)
    model = CWVAE(config, action_size)
    checkpoint = runs.restore_model(flags.model_dir, model)
    settings = {
        **{field: getattr(config, field) for field in config.__dataclass_fields__},
        "checkpoint": checkpoint, "eval_seed": flags.seed}
    run = {"eval": evaluate, "dream": analyses.dream, "ablate_levels": analyses.ablate_levels,
           "information": analyses.information}[flags.mode]
    with runs.directory_atomically(out, numbered=not flags.out) as part:
        look_at = run(config, model, data, flags, settings, part)
    print(f"Numbers and pictures are in {part.removesuffix('.part')}: see {look_at} first")


def configure(config, flags):
    """The config of the run, as the flags of the evaluation change it."""
    context = flags.open_loop_ctx or config.open_loop_ctx
    if flags.mode == "dream":
        seq_len = context + flags.dream
    elif flags.mode == "information":
        seq_len = config.eval_seq_len  # what this analysis reads is of another length
    else:
        seq_len = flags.seq_len or config.eval_seq_len
    tools.check_open_loop(context, seq_len, config.strides[-1])
    use_obs = {None: config.use_obs, "true": True, "false": False}.get(flags.use_obs, flags.use_obs)
    return config.replace(open_loop_ctx=context, eval_seq_len=seq_len, use_obs=use_obs,
                          data_root=flags.data_root or config.data_root)


def open_data(config, flags):
    """The test sequences that a run reads, and the width of their actions.

    Raises UserError where there are too few, or too short ones. Decides flags.num_examples where it is
    left open.
    """
    if flags.mode == "dream":
        # Nothing but the context is read, and the actions, where the model needs them.
        data = data_loader.Sequences(
            config, config.eval_seq_len if config.actions else config.open_loop_ctx)
        if flags.example >= len(data):
            raise tools.UserError(f"example: {flags.example} is not one of the {len(data)} test videos; "
                                  f"nearest: {len(data) - 1}")
        return data, data.action_size
    if flags.mode == "information":
        data = analyses.Speeds(config, flags.seq_len or config.seq_len, flags.frame_skips)
    else:
        data = data_loader.Sequences(config, config.eval_seq_len)
    if flags.num_examples is None:
        flags.num_examples = min(100, len(data))
    if flags.num_examples > len(data):
        raise tools.UserError(f"num_examples: {flags.num_examples} is more than the {len(data)} test "
                              f"videos that are long enough; nearest: {len(data)}")
    if flags.fvd_model and flags.num_examples < 2:
        raise tools.UserError("num_examples: 1 video has no FVD; nearest: 2")
    return data, data.action_size


def evaluate(config, model, data, flags, settings, out):
    """Predicts flags.num_examples videos and writes everything that the README names into `out`."""
    lpips = metrics.LPIPS(flags.lpips) if flags.lpips else None
    fvd = metrics.FVD(flags.fvd_model) if flags.fvd_model else None
    predictor = Predictor(config, model, flags.num_samples, flags.seed, lpips)
    batches = even_batches(flags.num_examples, flags.batch_size // flags.num_samples)
    values, features, seconds, sheet = [], [], 0.0, []
    with tqdm.tqdm(total=flags.num_examples, unit="video", dynamic_ncols=True) as bar:
        for first, size in batches:
            batch = data.batch(first, size)
            start = time.perf_counter()
            frames, scores = predictor.predict(batch, first)
            seconds += time.perf_counter() - start
            values.append(scores)
            if fvd:
                features.append([fvd.features(batch["video"][:, config.open_loop_ctx:]),
                                 fvd.features(frames[:, 0])])
            for row, video in enumerate(batch["video"]):
                chosen = choose({name: score[row] for name, score in scores.items()})
                samples = {name: frames[row, i] for name, i in chosen.items()}
                save_example(out, first + row, video, samples, config.open_loop_ctx,
                             grids=not flags.no_save_grid)
                if len(sheet) < SHEET_EXAMPLES:
                    sheet.append({"truth": video, **{
                        name.removesuffix("_sample").replace("_", " "): sample
                        for name, sample in samples.items()}})
            bar.update(size)
    pictures.save_contact_sheet(os.path.join(out, "contact_sheet.png"), sheet, config.open_loop_ctx)
    values = {name: np.concatenate([scores[name] for scores in values]) for name in values[0]}
    report = None
    if fvd:
        truth, predicted = (np.concatenate(side) for side in zip(*features, strict=True))
        report = fvd(truth, predicted, config.eval_seq_len - config.open_loop_ctx) | {
            "fvd_convention": FVD_CONVENTION}
    settings |= {"num_examples": flags.num_examples, "num_samples": flags.num_samples}
    predicted = flags.num_examples * flags.num_samples * (config.eval_seq_len - config.open_loop_ctx)
    save_numbers(out, values, conventions(flags.lpips), settings, predicted / seconds, report)
    return "contact_sheet.png"


def choose(scores):
    """The samples of one video that are kept, by name: their numbers. The random ones come first."""
    samples = len(scores["psnr"])
    chosen = {"random_sample_1": 0}
    if samples > 1:
        chosen["random_sample_2"] = 1
        for metric in ("ssim", "psnr", "lpips"):
            if metric in scores:
                chosen[f"best_{metric}_sample"] = int(metrics.best_sample(metric, scores[metric]))
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


def save_numbers(out, values, convention_of, settings, frames_per_second, fvd=None):
    """Writes metrics.npz, summary.json, and for PSNR, SSIM and LPIPS their curves over time.

    values: of every metric that has a convention, as of Predictor.predict. fvd: as of metrics.FVD.
    """
    context = settings["open_loop_ctx"]
    notes = {f"{name}_convention": text for name, text in convention_of.items()}
    np.savez_compressed(os.path.join(out, "metrics.npz"), **values, open_loop_ctx=context, **notes,
                        **(fvd or {}))
    summary = {}
    for name, convention in convention_of.items():
        curves = curves_of_samples(name, values[name])
        for curve, value in {**curves, **{
                key: values[key] for key in (f"{name}_reconstruction", f"{name}_one_step")}}.items():
            summary[curve] = {**metrics.mean_and_interval(value.mean(1)), "convention": convention}
        if name in ("psnr", "ssim", "lpips"):
            for statistic in ("mean", "std"):
                file = f"{name}_{statistic.replace('std', 'stddev')}.npz"
                np.savez(os.path.join(out, file),
                         **{curve: getattr(value, statistic)(0) for curve, value in curves.items()})
            *_, shown = curves.values()
            samples = values[name].shape[1]
            label = pictures.axis_label(name) + (f", best of {samples}" if samples > 1 else "")
            pictures.save_range_plot(
                os.path.join(out, f"{name}_range.png"), label, shown.mean(0),
                *metrics.bootstrap_interval(shown), context)
    numbers = {"settings": settings, "metrics": summary, "frames_per_second": frames_per_second}
    tools.save_json(os.path.join(out, "summary.json"), numbers | ({"fvd": fvd} if fvd else {}))


def curves_of_samples(name, value):
    """What [N, S, F] values of a metric are reported as: [N, F] curves by name, best of S last."""
    samples = value.shape[1]
    if samples == 1:
        return {name: value[:, 0]}
    best = metrics.best_sample(name, value)
    return {f"{name}_mean_of_{samples}": value.mean(1),
            f"{name}_best_of_{samples}": value[np.arange(len(value)), best]}


if __name__ == "__main__":
    tools.run_script(main)
