"""pycocotools on two files: prints the seconds of loading and of evaluation, and AP, as one line of JSON.

usage: coco_eval.py --ground-truth INSTANCES --detections RESULTS
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
        done = time.perf_counter()
    print(json.dumps({
        "bench": "coco_eval",
        "load_seconds": loaded - start,
        "evaluate_seconds": done - loaded,
        "AP": evaluation.stats[0],
    }))


if __name__ == "__main__":
    main()
