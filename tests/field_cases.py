#!/usr/bin/env python3
"""Runs a folder of inputs that people reported and judges what `scrl` makes of them.

    python3 tests/field_cases.py CASES [--scrl target/release/scrl] [--ids 01 02 ...]

Each case is a folder with a `case.json`: `command` (with {scrl}, {dir} and {out}), `expect` in words and, where figures are to be
compared, `truth` for pycocotools. What is demanded of each is in RULES below. Needs pycocotools for the cases with `truth`.
Exits with 1 if a case fails.
"""

import argparse
import contextlib
import io
import json
import pathlib
import re
import subprocess
import sys
import tempfile

# Of each case: the exit codes that its command prints as `rc=N`, patterns that the output must have, and some that it must not.
RULES = {
    "01": {"rc": [0, 0]},
    "02": {"rc": [0, 0]},
    "03": {"rc": [0] * 6},
    "07": {},
    "08": {"rc": [1, 0, 0], "has": [r"annotations belong to image \d+"]},
    "11": {"rc": [0, 0, 0, 0], "has": [r"left out boxes"], "lacks": [r"line \d+ column"]},
    "12": {"rc": [0, 0, 0]},
    "14": {"rc": [0, 0], "has": [r"several categories have the name"]},
    "15": {"rc": [0, 0], "has": [r"classes without any object: 1", r"have no object in the training images"]},
    "18": {"rc": [0], "has": [r"matched by name"]},
    "19": {"rc": [0]},
    "21": {"rc": [1, 0], "has": [r"EXIF", r"findings?"], "lacks": [r"loss"]},
    "22": {"rc": [0, 0], "lacks": [r": images without boxes"]},
    "24": {"rc": [0] * 7},
    "28": {"rc": [1], "has": [r"result number \d+ of image \d+: `score`"]},
    "31": {"rc": [0, 0], "lacks": [r"left out"]},
    "38": {"rc": [0, 0], "has": [r"trainval: 4 images|trainval: \d images, \d readable"]},
    "41": {"rc": [0, 0], "has": [r"comp4_det_test_car%2Fvan\.txt"], "lacks": [r"found/comp4_det_test_car/van"]},
    "42": {"rc": [0, 0], "has": [r"1 \.avif, 1 \.gif", r"12 images"]},
    "47": {"rc": [1, 1, 0], "has": [r"60000 x 60000"], "lacks": [r"panick|abort|Killed"]},
    "54": {"rc": [1, 1], "has": [r"not finite at iteration \d+", r"NaN or infinite|the loss became"]},
    "55": {"rc": [0, 2, 2, 0], "has": [r"`batch_size` was 2 and is 4", r"`iterations` was 4 and is 8", r"--prolong"]},
    "67": {"rc": [0, 0]},
    "69": {"words": [("link", 1), ("pointer", 1), ("empty", 1), ("folder", 0)], "has": [r"git lfs pull", r"a link to", r"is empty"]},
    "70": {"has": [r"100 tensors in torchvision's layout"]},
    "71": {"rc": [0, 0]},
    "74": {"rc": [130] * 10, "count": (r"rc=130 1 interrupted after step \d+", 10)},
    "77": {"has": [r"1 added \(`new\.jpg`\)", r"2 gone"]},
}


def average_precision(truth: pathlib.Path, found: pathlib.Path) -> float:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        evaluation = COCOeval(coco, coco.loadRes(str(found)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0])


def compare_figures(case: dict, folder: pathlib.Path, out: pathlib.Path) -> list[str]:
    """What differs from pycocotools, or from the number that the case names."""
    truth = case.get("truth")
    if truth is None:
        return []
    if truth["kind"] == "constant":
        expected = truth["AP"]
    else:
        place = lambda name: out / name[4:] if name.startswith("OUT/") else folder / name
        expected = average_precision(place(truth["gt"]), place(truth["dt"]))
    failures = []
    for name in truth["metrics"].split():
        metrics = json.loads((out / name).read_text())
        if abs(metrics["AP"] - expected) > 1e-4:
            failures.append(f"{name}: AP {metrics['AP']:.4f}, expected {expected:.4f}")
    return failures


def judge(folder: pathlib.Path, scrl: pathlib.Path) -> list[str]:
    case = json.loads((folder / "case.json").read_text())
    rules = RULES.get(folder.name.split("_")[0])
    if rules is None:
        return ["there is no rule for it"]
    with tempfile.TemporaryDirectory() as temporary:
        out = pathlib.Path(temporary)
        command = case["command"].replace("{scrl}", str(scrl)).replace("{dir}", str(folder)).replace("{out}", str(out))
        result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, errors="replace", timeout=600)
        text = result.stdout + result.stderr
        failures = [f"there is no `{pattern}`" for pattern in rules.get("has", []) if not re.search(pattern, text)]
        failures += [f"there is `{pattern}`" for pattern in rules.get("lacks", []) if re.search(pattern, text)]
        codes = [int(code) for code in re.findall(r"rc=(\d+)", result.stdout)]
        if "rc" in rules and codes != rules["rc"]:
            failures.append(f"exit codes {codes}, expected {rules['rc']}")
        for word, code in rules.get("words", []):
            if f"{word} rc={code}" not in result.stdout:
                failures.append(f"`{word}` did not end with {code}")
        if "count" in rules:
            pattern, count = rules["count"]
            found = len(re.findall(pattern, result.stdout))
            if found != count:
                failures.append(f"`{pattern}` {found} times, expected {count}")
        if folder.name.startswith("67"):
            figures = [json.loads((out / name).read_text())["AP"] for name in ("metrics.json", "metrics-run.json")]
            if abs(figures[0] - figures[1]) > 1e-4:
                failures.append(f"AP {figures[0]} from the file, {figures[1]} from the run")
        if not failures:
            try:
                failures = compare_figures(case, folder, out)
            except FileNotFoundError as error:
                failures = [f"no figures: {error}"]
    if failures:
        failures.append("it printed:\n" + "\n".join(text.splitlines()[-15:]))
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", type=pathlib.Path, help="folder of cases")
    parser.add_argument("--ids", nargs="*", help="numbers of cases; all by default")
    parser.add_argument("--scrl", type=pathlib.Path, default=pathlib.Path("target/release/scrl"))
    args = parser.parse_args()
    folders = sorted(path.parent for path in args.cases.resolve().glob("*/case.json"))
    folders = [folder for folder in folders if not args.ids or folder.name.split("_")[0] in args.ids]
    if not folders:
        raise SystemExit(f"{args.cases} has no such case")
    failed = 0
    for folder in folders:
        failures = judge(folder, args.scrl.resolve())
        failed += bool(failures)
        print(f"{folder.name}: {'FAILED' if failures else 'passed'}", flush=True)
        for failure in failures:
            print(f"    {failure}")
    print(f"{len(folders) - failed} of {len(folders)} passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
