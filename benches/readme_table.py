#!/usr/bin/env python3
"""Puts a benchmark's table into a Markdown file, between the lines `<!-- NAME -->` and `<!-- /NAME -->`.

    python3 benches/readme_table.py runs/demo README.md [NAME]

NAME is `demo` if none is given. Reads `results.json` and the sentences at the head of `report.md`; needs Python alone.
"""

import json
import pathlib
import sys

METRICS = {"AP": "AP", "AP50": "AP50", "AP75": "AP75", "VOC07_mAP": "VOC07 mAP"}


def table(results: dict) -> list[str]:
    """A row a data set, share of labels and init, in the order of the report: mean ± standard deviation over seeds, percent.

    The highest mean of a data set and share is bold. The data set has a column where there are several.
    """
    images = {(r["dataset"], r["label_fraction"], r["init"]): r["train_images"] for r in results["transfer"]}
    cells: dict[tuple, dict] = {}
    for summary in results["summary"]:
        key = (summary["dataset"], summary["label_fraction"], summary["init"])
        cells.setdefault(key, {})[summary["metric"]] = summary
    datasets = list(dict.fromkeys(dataset for dataset, _, _ in cells))
    several = len(datasets) > 1
    head = ["data"] * several + ["init", "labels", "images", "seeds", *METRICS.values()]
    rows = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    best: dict[tuple, float] = {}
    for (dataset, fraction, _), metrics in cells.items():
        for metric in METRICS:
            key = (dataset, fraction, metric)
            best[key] = max(best.get(key, 0.0), metrics[metric]["mean"])
    for key, metrics in sorted(cells.items(), key=lambda item: (datasets.index(item[0][0]), item[0][1])):
        dataset, fraction, init = key
        row = [dataset] * several + [init, f"{100 * fraction:g} %", str(images[key]), str(metrics["AP"]["count"])]
        for metric in METRICS:
            mean, std = metrics[metric]["mean"], metrics[metric]["std"]
            text = f"{100 * mean:.1f}" + (f" ± {100 * std:.1f}" if std is not None else "")
            row.append(f"**{text}**" if mean == best[dataset, fraction, metric] else text)
        rows.append("| " + " | ".join(row) + " |")
    return rows


def sentences(report: str) -> list[str]:
    """The list at the head of the report: what the paired differences say."""
    return [line for line in report.split("## ")[0].splitlines() if line.startswith("- ")]


def main() -> None:
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    run, target = map(pathlib.Path, sys.argv[1:3])
    name = sys.argv[3] if len(sys.argv) == 4 else "demo"
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    results = json.loads((run / "results.json").read_text())
    text = target.read_text()
    if begin not in text or end not in text:
        sys.exit(f"{target} lacks the lines {begin.strip()} and {end.strip()}")
    lines = [*table(results), "", *sentences((run / "report.md").read_text())]
    before, rest = text.split(begin)
    after = rest.split(end)[1]
    target.write_text(before + begin + "\n" + "\n".join(lines) + "\n\n" + end + after)


if __name__ == "__main__":
    main()
