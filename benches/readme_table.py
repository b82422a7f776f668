#!/usr/bin/env python3
"""Inserts a benchmark's table into a Markdown file, between the lines `<!-- NAME -->` and `<!-- /NAME -->`.

    python3 benches/readme_table.py runs/demo README.md [NAME] [--data DATASET] [--small METRIC]

NAME defaults to `demo`. `--data` keeps one data set of a plan that has several. `--small AP` writes one row per share of labels,
with that metric of every initialisation and the differences, instead of one row per initialisation with all metrics and the
sentences. Reads `results.json` and, without `--small`, the sentences at the top of `report.md`; needs only Python's standard
library.
"""

import argparse
import json
import pathlib

METRICS = {"AP": "AP", "AP50": "AP50", "AP75": "AP75", "VOC07_mAP": "VOC07 mAP"}
# Of detectors that give masks.
MASK_METRICS = {"segm_AP": "mask AP", "segm_AP50": "mask AP50", "segm_AP75": "mask AP75"}


def spread(text: str, deviation: float | None) -> str:
    """A figure with its ±, in percent; one seed has none."""
    return text if deviation is None else f"{text} ± {100 * deviation:.1f}"


def table(results: dict) -> list[str]:
    """One row per data set, label fraction and initialisation, in the report's order: mean ± standard deviation, percent.

    The data set has a column if there are several.
    """
    images = {(r["dataset"], r["label_fraction"], r["init"]): r["train_images"] for r in results["transfer"]}
    cells: dict[tuple, dict] = {}
    for summary in results["summary"]:
        key = (summary["dataset"], summary["label_fraction"], summary["init"])
        cells.setdefault(key, {})[summary["metric"]] = summary
    datasets = list(dict.fromkeys(dataset for dataset, _, _ in cells))
    several = len(datasets) > 1
    masks = any("segm_AP" in metrics for metrics in cells.values())
    shown = {**METRICS, **MASK_METRICS} if masks else METRICS
    head = ["data"] * several + ["init", "labels", "images", "seeds", *shown.values()]
    rows = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for key, metrics in sorted(cells.items(), key=lambda item: (datasets.index(item[0][0]), item[0][1])):
        dataset, fraction, init = key
        row = [dataset] * several + [init, f"{100 * fraction:g} %", str(images[key]), str(metrics["AP"]["count"])]
        for metric in shown:
            if metric not in metrics:
                row.append("–")
                continue
            row.append(spread(f"{100 * metrics[metric]['mean']:.1f}", metrics[metric]["std"]))
        rows.append("| " + " | ".join(row) + " |")
    return rows


def small_table(results: dict, metric: str) -> list[str]:
    """One row per share of labels: one metric's mean ± standard deviation of every initialisation, then the mean difference ±
    half of its 95 % interval from every initialisation that the subject is compared with, starred where it is separable; percent.
    """
    images = {r["label_fraction"]: r["train_images"] for r in results["transfer"]}
    means = {(s["label_fraction"], s["init"]): s for s in results["summary"] if s["metric"] == metric}
    differences = {(d["label_fraction"], d["baseline"]): d for d in results["differences"] if d["metric"] == metric}
    inits = list(dict.fromkeys(init for _, init in means))
    baselines = list(dict.fromkeys(baseline for _, baseline in differences))
    subject = results["differences"][0]["subject"] if differences else ""
    head = ["labels", "images", *inits, *(f"{subject} − {baseline}" for baseline in baselines)]
    if not means:
        raise SystemExit(f"no summary of `{metric}`; the run has {', '.join(sorted({s['metric'] for s in results['summary']}))}")
    rows = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for fraction in sorted({fraction for fraction, _ in means}):
        row = [f"{100 * fraction:g} %", str(images[fraction])]
        for init in inits:
            summary = means.get((fraction, init))
            row.append(spread(f"{100 * summary['mean']:.1f}", summary["std"]) if summary else "–")
        for baseline in baselines:
            difference = differences.get((fraction, baseline))
            if difference is None:
                row.append("–")
                continue
            text = spread(f"{100 * difference['mean']:+.1f}".replace("-", "−"), difference["half_width"])
            row.append(text + " *" * bool(difference["separable"]))
        rows.append("| " + " | ".join(row) + " |")
    return rows


def only(results: dict, dataset: str) -> dict:
    """The results of one data set."""
    parts = ("transfer", "summary", "differences")
    return {**results, **{part: [r for r in results[part] if r["dataset"] == dataset] for part in parts}}


def sentences(report: str, dataset: str | None) -> list[str]:
    """The list at the top of the report: what the paired differences say; of one data set, without its name."""
    lines = [line for line in report.split("## ")[0].splitlines() if line.startswith("- ")]
    prefix = f"- {dataset}: "
    return [f"- {line.removeprefix(prefix)}" for line in lines if line.startswith(prefix)] if dataset else lines


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path, help="folder of a benchmark")
    parser.add_argument("target", type=pathlib.Path, help="Markdown file to change")
    parser.add_argument("name", nargs="?", default="demo", help="name in the marker comments")
    parser.add_argument("--data", metavar="DATASET", help="keep only this data set")
    parser.add_argument("--small", metavar="METRIC", help="one row per share of labels with this metric, such as AP or segm_AP")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    begin, end = f"<!-- {args.name} -->\n", f"<!-- /{args.name} -->\n"
    results = json.loads((args.run / "results.json").read_text())
    if args.data is not None:
        names = sorted({r["dataset"] for r in results["transfer"]})
        if args.data not in names:
            raise SystemExit(f"{args.run} has no data set `{args.data}`; it has {', '.join(names)}")
        results = only(results, args.data)
    text = args.target.read_text()
    if begin not in text or end not in text:
        raise SystemExit(f"{args.target} lacks the lines {begin.strip()} and {end.strip()}")
    if args.small is None:
        lines = [*table(results), "", *sentences((args.run / "report.md").read_text(), args.data)]
    else:
        lines = small_table(results, args.small)
    before, rest = text.split(begin)
    after = rest.split(end)[1]
    args.target.write_text(before + begin + "\n" + "\n".join(lines) + "\n\n" + end + after)


if __name__ == "__main__":
    main()
