#!/usr/bin/env python3
"""Puts a benchmark's table into a Markdown file, between the lines `<!-- demo -->` and `<!-- /demo -->`.

    python3 benches/readme_table.py runs/demo README.md

Reads `results.json` and the sentences at the head of `report.md`; needs Python alone.
"""

import json
import pathlib
import sys

METRICS = {"AP": "AP", "AP50": "AP50", "AP75": "AP75", "VOC07_mAP": "VOC07 mAP"}
BEGIN, END = "<!-- demo -->\n", "<!-- /demo -->\n"


def table(results: dict) -> list[str]:
    """A row an init and share of labels, in the order of the report: mean ± standard deviation over seeds, percent."""
    images = {(r["init"], r["label_fraction"]): r["train_images"] for r in results["transfer"]}
    cells: dict[tuple, dict] = {}
    for summary in results["summary"]:
        key = (summary["label_fraction"], summary["init"])
        cells.setdefault(key, {})[summary["metric"]] = summary
    head = ["init", "labels", "images", "seeds", *METRICS.values()]
    rows = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    best = {
        (fraction, metric): max(c[metric]["mean"] for (f, _), c in cells.items() if f == fraction and metric in c)
        for fraction, _ in cells
        for metric in METRICS
    }
    for (fraction, init), metrics in sorted(cells.items(), key=lambda item: item[0][0]):
        row = [init, f"{100 * fraction:g} %", str(images[init, fraction]), str(metrics["AP"]["count"])]
        for metric in METRICS:
            mean, std = metrics[metric]["mean"], metrics[metric]["std"]
            text = f"{100 * mean:.1f}" + (f" ± {100 * std:.1f}" if std is not None else "")
            row.append(f"**{text}**" if mean == best[fraction, metric] else text)
        rows.append("| " + " | ".join(row) + " |")
    return rows


def sentences(report: str) -> list[str]:
    """The list at the head of the report: what the paired differences say."""
    return [line for line in report.split("## ")[0].splitlines() if line.startswith("- ")]


def main() -> None:
    run, target = map(pathlib.Path, sys.argv[1:])
    results = json.loads((run / "results.json").read_text())
    text = target.read_text()
    if BEGIN not in text or END not in text:
        sys.exit(f"{target} lacks the lines {BEGIN.strip()} and {END.strip()}")
    lines = [*table(results), "", *sentences((run / "report.md").read_text())]
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    target.write_text(before + BEGIN + "\n" + "\n".join(lines) + "\n\n" + END + after)


if __name__ == "__main__":
    main()
