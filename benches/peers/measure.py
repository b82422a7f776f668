"""Shared by the PyTorch scripts: options, timing, memory, and the line of JSON that each prints."""

import argparse
import json
import resource
import statistics
import sys
import time

import torch

LAYOUTS = {"default": torch.contiguous_format, "channels_last": torch.channels_last}


def options(description, **defaults):
    """Parses `--NAME VALUE` for every default, and `--steps`, `--threads` and `--layout`; sets seed and threads."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, value in {"steps": 4, "threads": 2, **defaults}.items():
        parser.add_argument(f"--{name}", type=type(value), default=value, help=f"default {value}")
    parser.add_argument("--layout", choices=LAYOUTS, default="default", help="memory format of the network")
    args = parser.parse_args()
    args.format = LAYOUTS[args.layout]
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    return args


def median_seconds(steps, step):
    """Median time of `steps` calls after one warm-up call."""
    step()
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def peak_gib():
    """Peak memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20


def report(bench, args, **figures):
    line = {"bench": bench, "layout": args.layout, "threads": args.threads, "torch": torch.__version__}
    print(json.dumps({**line, **figures, "peak_gib": peak_gib()}))
