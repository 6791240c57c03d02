"""The page of ``gpu.py``: its results as tables."""

from __future__ import annotations

from collections.abc import Sequence

from common import table
from gpu_options import Row
from nullclass.metrics.rates import wilson
from worst_case_records import FOOLED, OUTSIDE, PROVED, WRONG

STEPS_PER_EPOCH = 60_000 / 64


def markdown(content: Row) -> str:
    """Return all parts as tables."""
    parts, about = content["parts"], content["about"]
    sections = ["# On a GPU", f"Written by `benchmarks/gpu.py`. {about.get('machine', '')}"]
    if checks := parts.get("checks"):
        sections += ["## Device against CPU", *check_tables(checks)]
    if training := parts.get("training"):
        sections += ["## Training, all models together", *training_table(training)]
    if items := parts.get("worst-case"):
        sections += ["## Worst case", *worst_case_table(items)]
    if items := parts.get("certified"):
        sections += ["## Certified training", certified_table(items)]
    return "\n\n".join(sections) + "\n"


def check_tables(checks: dict[str, Row]) -> Sequence[str]:
    """Return the number of checks by kind, and those that did not pass."""
    counts: dict[str, list[int]] = {}
    for name, row in checks.items():
        passed = counts.setdefault(name.split()[0], [0, 0])
        passed[row["state"] != "ok"] += 1
    shown = [(name, row["state"], row.get("note", "")) for name, row in checks.items()]
    shown = [line for line in shown if line[1] != "ok" or line[0].startswith(("logits", "bounds"))]
    return (
        table(["kind", "as on the CPU", "not"], [(kind, *num) for kind, num in counts.items()]),
        table(["item", "result", "measured"], shown),
    )


def training_table(training: dict[str, Row]) -> Sequence[str]:
    """Return the throughputs of one and several processes."""
    rates = {k: v["steps_per_second"] for k, v in training.items() if "steps_per_second" in v}
    for row in training.values():
        for num, value in row.get("all", {}).items():
            rates[f"report, {num} processes under MPS"] = value
    lines: list[Sequence[object]] = [
        (name, f"{value:.0f}", f"{60 * value / STEPS_PER_EPOCH:.1f}", f"{64 * value:.0f}")
        for name, value in rates.items()
    ]
    for name, row in training.items():
        if row["state"] != "ok" or "note" in row:
            lines.append((name, row.get("note", row["state"]), "", ""))
    note = (
        "Batches of 64, 60,000 images per epoch, fast recipe, bfloat16, first layer learning. The "
        "report's eight variants in turn; one process trains usm."
    )
    header = ["what trains", "steps / s", "model-epochs / min", "images / s"]
    return note, table(header, lines)


def worst_case_table(items: dict[str, Row]) -> Sequence[str]:
    """Return one line per attack, model and eps, all chunks together, and what has no result."""
    cells: dict[tuple[str, str, str, float], list[Row]] = {}
    for row in items.values():
        if "outcomes" in row:
            key = row["attack"], row["version"], row["model"], row["eps"]
            cells.setdefault(key, []).append(row)
    lines = []
    for (attack, version, model, eps), rows in cells.items():
        letters = "".join(row["outcomes"] for row in rows)
        n, wrong, proved = len(letters), letters.count(WRONG), letters.count(PROVED)
        num_fooled, num_attacked = wrong + letters.count(FOOLED), n - wrong - proved
        passes = [sum(row[key] for row in rows) for key in ("forward", "backward")]
        lines.append(
            (
                version or attack,
                f"{model}, {eps:g}",
                f"{n:,}",
                wrong,
                f"{proved:,}",
                f"{num_fooled:,}",
                _rate(num_fooled, n),
                letters.count(OUTSIDE),
                f"{sum(row['attack_seconds'] for row in rows):.1f}",
                " / ".join(f"{num / max(1, num_attacked):,.0f}" for num in passes),
            )
        )
    header = ["attack", "model, ε", "n", "wrong", "proved", "fooled", "AER", "outside"]
    note = (
        "The first MNIST test images, L∞, seed 0, float32 without TF32. Images fooled, those wrong "
        "when clean among them; AER with a 95 % Wilson interval. Wrong and proved images are not "
        "attacked, and passes are per attacked image."
    )
    left: dict[str, int] = {}
    for row in items.values():
        if row["state"] != "ok":
            left[row["state"]] = left.get(row["state"], 0) + 1
    missing = "; ".join(f"{num} of {len(items)} chunks: {state}" for state, num in left.items())
    page = table([*header, "seconds", "forward / backward passes"], lines)
    return (note, page, missing) if missing else (note, page)


def certified_table(items: dict[str, Row]) -> str:
    """Return the times of the trainings, and what is proved of the models."""
    lines = []
    for name, row in items.items():
        rates = [f"{metric} {100 * rate:.2f} %" for metric, rate in row.get("proved", {}).items()]
        proved = f"ε {row['eps']:g}, n = {row['num_images']:,}: {', '.join(rates)}" if rates else ""
        lines.append((name, row["state"], f"{row.get('seconds', 0):.1f}", proved))
    return table(["item", "state", "seconds", "proved"], lines)


def _rate(hits: int, num: int) -> str:
    """Return a share with its 95 % interval."""
    low, high = wilson(hits, num)
    return f"{100 * hits / num:.1f} % ({100 * low:.1f} – {100 * high:.1f})"
