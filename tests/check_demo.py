"""Fails unless a demo predicts as well as it should: python tests/check_demo.py RUN_DIR --identity 0.95

The bounds that CI gives are below what the worst of the seeds in results/tries.md reached.
"""

import argparse
import glob
import json
import os
import sys

import numpy as np

parser = argparse.ArgumentParser()
parser.add_argument("run", help="the run directory; its newest evaluation counts")
parser.add_argument("--identity", type=float, required=True,
                    help="least share of digits read rightly over the first 16 predicted frames")
parser.add_argument("--psnr", type=float, required=True,
                    help="least dB from the best trivial predictor's PSNR to the model's, at each of "
                         "the first 10 predicted frames")
flags = parser.parse_args()

(*_, newest) = sorted(glob.glob(os.path.join(glob.escape(flags.run), "eval_*")))
with np.load(os.path.join(newest, "metrics.npz")) as scores:
    identity = scores["identity"][..., :16].mean()
    trivial = [scores[f"psnr_{name}"].mean(0)[:10] for name in ("last_frame", "context_mean", "black")]
    margin = (scores["psnr"].mean((0, 1))[:10] - np.max(trivial, 0)).min()
print(json.dumps({"identity": round(float(identity), 3), "psnr_margin": round(float(margin), 2)}))
if identity < flags.identity or margin < flags.psnr:
    sys.exit(f"The demo is worse than it should be: identity {identity:.3f}, not {flags.identity}; PSNR "
             f"{margin:.2f} dB above the best trivial predictor's, not {flags.psnr}.")
