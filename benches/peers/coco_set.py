"""Writes COCO instances and results of a synthetic validation set: `instances.json` and `results.json` in a folder.

Counts follow COCO val2017 (5,000 images, 80 classes, about seven objects per image). Half of an image's detections are near
its objects, mostly with the right class; the rest are anywhere. The same seed writes the same files.

With --masks objects have polygons of 16 points and detections run lengths.

usage: coco_set.py OUT [--images 5000] [--detections 50] [--classes 80] [--seed 0] [--masks]
"""

import argparse
import json
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

WIDTH, HEIGHT = 640, 480
MEAN_OBJECTS = 7.3


def random_boxes(rng, count):
    """`[count, 4]` as left, top, width, height; sides of at least 8 pixels, small ones more often."""
    limit = np.array([WIDTH, HEIGHT])
    sides = 8 + rng.beta(1, 4, (count, 2)) * (limit - 8)
    return np.concatenate([rng.random((count, 2)) * (limit - sides), sides], 1)


def near(rng, boxes):
    """The boxes shifted and scaled by about a tenth of their sides, clipped to the image."""
    sides = boxes[:, 2:] * np.exp(0.1 * rng.standard_normal((len(boxes), 2)))
    corner = boxes[:, :2] + 0.1 * boxes[:, 2:] * rng.standard_normal((len(boxes), 2))
    corner = np.clip(corner, 0, np.array([WIDTH, HEIGHT]) - 1)
    sides = np.clip(sides, 1, np.array([WIDTH, HEIGHT]) - corner)
    return np.concatenate([corner, sides], 1)


def image_detections(rng, boxes, labels, count, classes):
    """Boxes, classes and scores of the `count` detections of one image."""
    hits = min(count // 2, 3 * len(boxes))
    source = rng.integers(0, len(boxes), hits) if len(boxes) else np.zeros(0, int)
    found = np.concatenate([near(rng, boxes[source]), random_boxes(rng, count - hits)])
    wrong = rng.integers(1, classes + 1, count)
    right = np.concatenate([np.where(rng.random(hits) < 0.8, labels[source], wrong[:hits]), wrong[hits:]])
    scores = np.concatenate([rng.beta(4, 2, hits), rng.beta(1, 6, count - hits)])
    return found, right, scores


def ellipse(box):
    """The polygon of an ellipse in a box."""
    angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    points = np.stack([0.5 + 0.5 * np.cos(angles), 0.5 + 0.5 * np.sin(angles)], 1)
    return rounded((box[:2] + points * box[2:]).reshape(-1))


def run_lengths(box):
    encoded = coco_mask.merge(coco_mask.frPyObjects([ellipse(box)], HEIGHT, WIDTH))
    return {"size": [HEIGHT, WIDTH], "counts": encoded["counts"].decode()}


def rounded(row):
    return [round(float(value), 2) for value in row]


def generate(images, detections, classes, seed, masks):
    rng = np.random.default_rng(seed)
    truth = {
        "images": [
            {"id": i, "width": WIDTH, "height": HEIGHT, "file_name": f"{i:012}.jpg"} for i in range(1, images + 1)
        ],
        "categories": [{"id": c, "name": f"class {c}"} for c in range(1, classes + 1)],
        "annotations": [],
    }
    results = []
    for image in range(1, images + 1):
        count = rng.poisson(MEAN_OBJECTS)
        boxes, labels = random_boxes(rng, count), rng.integers(1, classes + 1, count)
        for box, label in zip(boxes, labels):
            truth["annotations"].append({
                "id": len(truth["annotations"]) + 1,
                "image_id": image,
                "category_id": int(label),
                "bbox": rounded(box),
                "area": round(float(box[2] * box[3]), 2),
                "iscrowd": int(rng.random() < 0.01),
                **({"segmentation": [ellipse(box)]} if masks else {}),
            })
        for box, label, score in zip(*image_detections(rng, boxes, labels, detections, classes)):
            results.append({
                "image_id": image,
                "category_id": int(label),
                "bbox": rounded(box),
                "score": round(float(score), 5),
                **({"segmentation": run_lengths(box)} if masks else {}),
            })
    return truth, results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=50, help="per image")
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--masks", action="store_true")
    args = parser.parse_args()
    truth, results = generate(args.images, args.detections, args.classes, args.seed, args.masks)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "instances.json").write_text(json.dumps(truth))
    (args.out / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
