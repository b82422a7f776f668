#!/usr/bin/env python3
"""Runs steps of every full-size recipe on this machine: ResNet-50 and -101 at 224 pixels, detectors at 800 × 1333.

    cargo build --release
    venv/bin/pip install torch torchvision
    venv/bin/python benches/full_size.py [--work DIR] [--only NAME ...]

Images are drawn by `scrl synth`. The weights that detectors start from are random files in the layouts of the official SCRL and BYOL
checkpoints and of torchvision, so the whole path of a person with the real files is walked but for their values. Batches are those that
fit a small machine (32 pairs, 2 images; everything else is the recipe's). Prints a Markdown table: seconds of a step, images per
second, peak memory of the process.
"""

import argparse
import json
import os
import pathlib
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
SCRL = ROOT / "target/release/scrl"
PRETRAIN = ["scrl_200", "scrl_1000", "byol_200", "byol_1000", "supervised_90", "scrl_r101_200"]
TRANSFER = {
    "coco_1x": "scrl", "coco_2x": "byol", "coco_mask_1x": "torchvision", "retinanet_1x": "scrl", "voc": "torchvision",
}
BATCH = {"scrl_r101_200": 16}
STEPS = 3


def official(path: pathlib.Path, layout: str) -> pathlib.Path:
    """A random ResNet-50 in the layout of a published checkpoint."""
    import torch
    import torchvision

    torch.manual_seed(0)
    state = torchvision.models.resnet50(weights=None).state_dict()
    if layout == "torchvision":
        content = state
    else:
        # The official code keeps the children of torchvision's ResNet in a Sequential; heads stand beside it.
        number = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
        encoder = {}
        for key, value in state.items():
            child, rest = key.split(".", 1)
            if child in number:
                encoder[f"encoder.{number[child]}.{rest}"] = value
        heads = {"projector.0.weight": torch.zeros(4096, 2048), "projector.3.weight": torch.zeros(256, 4096)}
        content = {"online_network_state_dict": {**encoder, **heads}, "target_network_state_dict": {**encoder, **heads}}
    torch.save(content, path)
    return path


def synth(folder: pathlib.Path, width: int, height: int, train: int, unlabelled: int) -> None:
    """Scenes as COCO data, class folders and unlabelled images."""
    if folder.exists():
        return
    sets = [f"width={width}", f"height={height}", f"train={train}", "val=2", f"unlabelled={unlabelled}", "class_images=12"]
    run([SCRL, "synth", "--out", folder, *[part for s in sets for part in ("--set", s)]])


def devkit(coco: pathlib.Path, folder: pathlib.Path) -> None:
    """The scenes of a COCO folder as a VOC devkit."""
    if folder.exists():
        return
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    for split, name in (("train", "trainval"), ("val", "test")):
        (path,) = coco.glob(f"annotations/*{split}*.json")
        data = json.loads(path.read_text())
        names = {c["id"]: c["name"] for c in data["categories"]}
        ids = []
        for image in data["images"]:
            (source,) = coco.glob(f"{split}*/{image['file_name']}")
            stem = f"{split}{image['id']}"
            (folder / f"JPEGImages/{stem}{source.suffix}").symlink_to(source.resolve())
            objects = ""
            for a in (a for a in data["annotations"] if a["image_id"] == image["id"]):
                x, y, w, h = a["bbox"]
                objects += (
                    f"<object><name>{names[a['category_id']]}</name><difficult>0</difficult><bndbox><xmin>{x + 1:.0f}</xmin>"
                    f"<ymin>{y + 1:.0f}</ymin><xmax>{x + w:.0f}</xmax><ymax>{y + h:.0f}</ymax></bndbox></object>"
                )
            size = f"<size><width>{image['width']}</width><height>{image['height']}</height></size>"
            xml = f"<annotation><filename>{stem}{source.suffix}</filename>{size}{objects}</annotation>"
            (folder / f"Annotations/{stem}.xml").write_text(xml)
            ids.append(stem)
        (folder / f"ImageSets/Main/{name}.txt").write_text("\n".join(ids) + "\n")


def run(command: list) -> float:
    """Runs to the end and gives the process's peak memory in GiB."""
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"{' '.join(map(str, command))}: exit code {os.waitstatus_to_exitcode(status)}")
    return usage.ru_maxrss / 2**20


def speed(folder: pathlib.Path) -> float:
    """Images per second of the last logged step."""
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [event["images_per_second"] for event in events if event["kind"] == "train"][-1]


def measure(name: str, work: pathlib.Path) -> tuple[int, float, float]:
    """Batch, images per second and peak memory of a recipe."""
    out = work / "runs" / name
    if name in PRETRAIN:
        batch = BATCH.get(name, 32)
        images = work / "photos" / ("classes" if name.startswith("supervised") else "unlabelled")
        sets = [f"schedule.batch_size={batch}", "schedule.epochs=1", "schedule.warmup_epochs=0.5", "log.interval=1"]
        command = [SCRL, "--quiet", "pretrain", "--config", ROOT / f"configs/pretrain/{name}.toml", "--data", images]
    else:
        batch, data = 2, work / ("VOC2007" if name == "voc" else "large")
        weights = work / f"{TRANSFER[name]}.pth"
        sets = [f"iterations={STEPS}", f"batch_size={batch}", "solver.milestones=[2]", "solver.warmup_iterations=1", "log_every=1"]
        command = [SCRL, "--quiet", "transfer", "--config", ROOT / f"configs/transfer/{name}.toml", "--data", data, "--init", weights]
    memory = run([*command, "--out", out, "--overwrite", *[part for s in sets for part in ("--set", s)]])
    return batch, speed(out), memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path, help="folder for images and runs; default: a temporary one")
    parser.add_argument("--only", nargs="*", default=[*PRETRAIN, *TRANSFER], help="recipes")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or pathlib.Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        synth(work / "photos", 500, 375, 2, 32 * STEPS)
        synth(work / "large", 1333, 800, 2 * STEPS, 1)
        devkit(work / "large", work / "VOC2007")
        for layout in sorted(set(TRANSFER.values())):
            official(work / f"{layout}.pth", layout)
        print("| recipe | starts from | batch | seconds a step | images/s | peak memory, GiB |\n|---|---|---|---|---|---|")
        for name in args.only:
            batch, rate, memory = measure(name, work)
            start = TRANSFER.get(name, "random weights")
            print(f"| `{name}` | {start} | {batch} | {batch / rate:.1f} | {rate:.2f} | {memory:.1f} |", flush=True)


if __name__ == "__main__":
    main()
