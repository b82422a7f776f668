"""pycocotools on two files: prints the seconds of loading and of evaluation, and AP, as one line of JSON.

usage: coco_eval.py --ground-truth INSTANCES --detections RESULTS [--masks]
"""

import argparse
import contextlib
import io
import json
import time

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ground-truth", required=True)
    parser.add_argument("--detections", required=True)
    parser.add_argument("--masks", action="store_true", help="judge masks, too")
    args = parser.parse_args()
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(args.ground_truth)
        found = truth.loadRes(args.detections)
        loaded = time.perf_counter()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        masks = None
        if args.masks:
            # Without boxes, so that areas are those of masks.
            rows = json.load(open(args.detections))
            found = truth.loadRes([{key: value for key, value in row.items() if key != "bbox"} for row in rows])
            masks = COCOeval(truth, found, "segm")
            masks.evaluate()
            masks.accumulate()
            masks.summarize()
        done = time.perf_counter()
    print(json.dumps({
        "bench": "coco_eval",
        "load_seconds": loaded - start,
        "evaluate_seconds": done - loaded,
        "AP": evaluation.stats[0],
        **({"segm_AP": masks.stats[0]} if masks else {}),
    }))


if __name__ == "__main__":
    main()
