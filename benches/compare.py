#!/usr/bin/env python3
"""Measures scrl beside PyTorch, torchvision and pycocotools on this machine's CPU and prints a Markdown table.

Both sides do the same work on data of the same shape, in turns: a round runs scrl, then PyTorch in each memory layout;
the median of the rounds counts, and of PyTorch the layout whose median is better. PyTorch runs eagerly with its own
default settings. A ratio above 1 says how many times faster, or smaller, scrl is.

Set up, in the root of the repository:

    cargo build --release
    python3 -m venv venv
    venv/bin/pip install torch==2.15.0 torchvision==0.29.2 --index-url https://download.pytorch.org/whl/cpu
    venv/bin/pip install numpy==2.4.6 pillow==13.0.0 pycocotools==2.0.11
    venv/bin/python benches/compare.py

Let nothing else run meanwhile. `--only scrl-step` takes one row (it may be repeated), `--quick` is a trial of minutes
on tiny sizes whose figures say nothing. The augmentation reads `--photos DIR`, or pictures that scrl draws.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
LAYOUTS = ["channels_last", "default"]


@dataclasses.dataclass
class Figure:
    """What a row reads off the JSON of both sides."""

    work: str
    unit: str
    key: str
    higher_is_better: bool = False
    scale: float = 1.0


@dataclasses.dataclass
class Row:
    """A piece of work: the arguments of `scrl` and of a script in `peers`."""

    name: str
    ours: list
    peer: list
    figures: list
    layouts: list = dataclasses.field(default_factory=lambda: LAYOUTS)
    data: str = ""


def rows(args):
    """Every row, at its full or its quick size."""
    quick = args.quick
    steps = ["--steps", str(1 if quick else args.steps)]
    network = ["--arch", "resnet18", "--batch", "2", "--size", "64"] if quick else ["--arch", "resnet50", "--batch", "8"]
    net = "ResNet-18, batch 2, 64 px" if quick else "ResNet-50, batch 8, 224 px"
    images = ["--arch", "resnet18", "--height", "96", "--width", "128"] if quick else ["--arch", "resnet50"]
    detector = f"Faster R-CNN {'R18' if quick else 'R50'}-FPN, batch 2, {'128×96' if quick else '640×480'}"
    roi = ["--channels", "16"] if quick else []
    photos = ["--images", "20" if quick else "400"]
    rate = lambda work, key, unit: Figure(work, unit, key, higher_is_better=True)
    return [
        Row(
            "scrl-step",
            ["bench", "pretrain", *network, *steps],
            ["scrl_step.py", *network, *steps],
            [
                rate(f"SCRL training step, {net}", "pairs_per_second", "pairs/s"),
                Figure("… its peak memory", "GiB", "peak_gib"),
            ],
        ),
        Row(
            "forward",
            ["bench", "forward", *network, *steps],
            ["forward.py", *network, *steps],
            [rate(f"Forward pass, {net}", "images_per_second", "images/s")],
        ),
        Row(
            "detector",
            ["bench", "detector", *images, *steps],
            ["detector_step.py", *images, *steps],
            [
                rate(f"{detector}: training", "train_images_per_second", "images/s"),
                rate("… detection", "infer_images_per_second", "images/s"),
                Figure("… peak memory", "GiB", "peak_gib"),
            ],
        ),
        Row(
            "augment",
            ["bench", "augment", *photos],
            ["augment.py", *photos],
            [rate("Decode and two views, one thread", "images_per_second", "images/s")],
            layouts=["default"],
            data="photos",
        ),
        Row(
            "roi-align",
            ["bench", "roi-align", *roi, *steps],
            ["roi_align.py", *roi, *steps],
            [
                Figure("RoIAlign 7×7 of 512 boxes, forward", "ms", "forward_seconds", scale=1e3),
                Figure("… forward and backward", "ms", "forward_backward_seconds", scale=1e3),
            ],
        ),
        Row(
            "coco-eval",
            ["evaluate"],
            ["coco_eval.py"],
            [Figure(f"COCO evaluation, {100 if quick else 5000} images × 50 detections, 80 classes", "s", "seconds")],
            layouts=["pycocotools"],
            data="coco",
        ),
    ]


def run(command, threads):
    """The last line of JSON that a command prints, with its wall time."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "RAYON_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        sys.exit(f"`{' '.join(command)}` failed:\n{done.stderr}")
    text = done.stdout.strip()
    line = text if text.startswith("{\n") else text.splitlines()[-1]
    return {**json.loads(line), "seconds": seconds}


class Data:
    """What rows read from disk; made when a row first needs it."""

    def __init__(self, args, folder):
        self.args, self.folder = args, Path(folder)

    def photos(self):
        if self.args.photos:
            return ["--data", str(self.args.photos)]
        scenes = self.folder / "scenes"
        if not scenes.exists():
            count = 20 if self.args.quick else 400
            sizes = {"width": 500, "height": 375, "train": 2, "val": 2, "unlabelled": count, "class_images": 1}
            settings = [word for key, value in sizes.items() for word in ("--set", f"{key}={value}")]
            command = [self.args.scrl, "synth", "--out", str(scenes), *settings]
            subprocess.run(command, check=True, capture_output=True)
        return ["--data", str(scenes / "unlabelled")]

    def coco(self):
        files = self.folder / "coco"
        if not files.exists():
            images = ["--images", "100"] if self.args.quick else []
            subprocess.run([sys.executable, str(HERE / "peers/coco_set.py"), str(files), *images], check=True)
        return ["--ground-truth", str(files / "instances.json"), "--detections", str(files / "results.json")]


def measure(row, args, data):
    """Runs both sides in turns: JSON lines of ours, and of PyTorch by layout."""
    files = getattr(data, row.data)() if row.data else []
    threads = ["--threads", str(args.threads)]
    own_threads = threads if row.name not in ("augment", "coco-eval") else []
    peer_threads = threads if row.name != "coco-eval" else []
    ours, theirs = [], {layout: [] for layout in row.layouts}
    for number in range(args.rounds):
        print(f"{row.name}: round {number + 1} of {args.rounds}", file=sys.stderr)
        ours.append(run([args.scrl, *row.ours, *own_threads, *files], args.threads))
        for layout, lines in theirs.items():
            choice = ["--layout", layout] if layout in LAYOUTS else []
            command = [args.python, str(HERE / "peers" / row.peer[0]), *row.peer[1:]]
            lines.append(run([*command, *peer_threads, *choice, *files], args.threads))
    if row.name == "coco-eval":
        check_same_ap(ours[0], theirs["pycocotools"][0])
    return ours, theirs


def check_same_ap(ours, theirs):
    if abs(ours["AP"] - theirs["AP"]) > 1e-9:
        sys.exit(f"the COCO evaluations disagree: AP {ours['AP']} here, {theirs['AP']} by pycocotools")


def summarise(figure, ours, theirs):
    """Medians, PyTorch's better layout, and how many times better ours is."""
    values = lambda lines: [line[figure.key] * figure.scale for line in lines]
    medians = {layout: statistics.median(values(lines)) for layout, lines in theirs.items()}
    best = (max if figure.higher_is_better else min)(medians, key=medians.get)
    own, other = statistics.median(values(ours)), medians[best]
    return {
        "work": figure.work,
        "unit": figure.unit,
        "ours": own,
        "theirs": other,
        "layout": best,
        "ratio": own / other if figure.higher_is_better else other / own,
        "rounds": {"ours": values(ours), **{layout: values(lines) for layout, lines in theirs.items()}},
    }


def show(value):
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine(args):
    """Where and with what the figures were taken."""
    command = [args.scrl, "--version"]
    version = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    packages = {name: importlib.metadata.version(name) for name in ("torch", "torchvision", "pillow", "pycocotools")}
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": args.threads,
        "rounds": args.rounds,
        "scrl": version,
        **packages,
    }


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="ROW", help="one row; may be repeated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="timed steps of a run, after one to warm up")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="a trial on tiny sizes, one round")
    parser.add_argument("--photos", type=Path, help="folder of images for the augmentation")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write every figure to this file")
    parser.add_argument("--scrl", default=str(HERE.parent / "target/release/scrl"), help="the binary")
    parser.add_argument("--python", default=sys.executable, help="the Python that has PyTorch")
    args = parser.parse_args()
    args.rounds = 1 if args.quick else args.rounds
    if not Path(args.scrl).is_file():
        parser.error(f"{args.scrl} does not exist; run `cargo build --release` first")
    if min(args.rounds, args.steps, args.threads) < 1:
        parser.error("--rounds, --steps and --threads must be at least 1")
    known = [row.name for row in rows(args)]
    unknown = [name for name in args.only or [] if name not in known]
    if unknown:
        parser.error(f"no row is called {unknown[0]}; there are {', '.join(known)}")
    return args


def main():
    args = parse()
    facts = machine(args)
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    if args.quick:
        print("\nA trial on tiny sizes: these figures say nothing.")
    print("\n| work | unit | scrl | PyTorch's best | its layout | ratio |\n|---|---|---|---|---|---|")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        data = Data(args, folder)
        for row in rows(args):
            if args.only and row.name not in args.only:
                continue
            ours, theirs = measure(row, args, data)
            for figure in row.figures:
                result = summarise(figure, ours, theirs)
                results.append({"row": row.name, **result})
                cells = [result["work"], result["unit"], show(result["ours"]), show(result["theirs"]), result["layout"]]
                print(f"| {' | '.join(cells)} | {result['ratio']:.2f} |", flush=True)
    if args.json:
        args.json.write_text(json.dumps({"machine": facts, "rows": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
