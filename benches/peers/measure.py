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
        if value is False:
            parser.add_argument(f"--{name}", action="store_true")
        else:
            parser.add_argument(f"--{name}", type=type(value), default=value, help=f"default {value}")
    parser.add_argument("--layout", choices=LAYOUTS, default="default", help="memory format of the network")
    parser.add_argument("--device", default="cpu", help="cpu or cuda:N")
    parser.add_argument(
        "--precision", choices=["f32", "tf32", "bf16"], default="f32", help="of products; bf16 is autocast"
    )
    parser.add_argument("--compile", action="store_true", help="run the network through torch.compile")
    args = parser.parse_args()
    args.format = LAYOUTS[args.layout]
    args.cast = torch.autocast(args.device.split(":")[0], torch.bfloat16, enabled=args.precision == "bf16")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.precision != "f32"
    torch.backends.cudnn.benchmark = True
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    return args


def median_seconds(steps, step):
    """Median time of `steps` calls after one warm-up call, or three on a GPU."""
    seconds = []
    warm_up = 3 if torch.cuda.is_initialized() else 1
    for _ in range(warm_up + steps):
        start = time.perf_counter()
        step()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[warm_up:])


def peak_gib():
    """Peak memory of this process so far: of the GPU where it uses one."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_reserved() / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20


def report(bench, args, **figures):
    line = {"bench": bench, "layout": args.layout, "threads": args.threads, "torch": torch.__version__}
    line |= {"device": args.device, "precision": args.precision, "compile": args.compile}
    print(json.dumps({**line, **figures, "peak_gib": peak_gib()}))
