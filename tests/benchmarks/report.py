"""What was measured, as a Markdown table and as a plot."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from measuring import Group, machine
from sizes import COMPACT, SINGLE, Curves


@dataclass(frozen=True, slots=True)
class Finding:
    """A target, and how near it is."""

    row: str
    ours: str
    beside: str
    measured: str
    target: str
    met: bool
    ratio: float


def findings(group: Group) -> list[Finding]:
    found: list[Finding] = []
    for target in group.targets:
        ratio, beside = group.ratio(target)
        if not ratio:
            continue
        of = "" if target.of == "cpu" else f" {target.of}"
        found.append(
            Finding(target.row, target.ours, beside, f"{ratio:.2f} ×{of}", str(target), target.met(ratio), ratio)
        )
    return found


def _table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _systems(group: Group) -> str:
    names = [case.name for case in group.cases]
    floor = group.median(names[0])
    rows = [
        (
            case.name,
            f"{case.events:,}",
            _number(group.median(case.name) * 1e9),
            f"{1e-6 / group.median(case.name):.2g}",
            f"{group.median(case.name) / floor:.2f}",
        )
        for case in group.cases
    ]
    return _table(("system", "events", "ns of CPU an event", "million events a CPU second", "× the first"), rows)


def _curve(curve: dict[str, list[tuple[int, float]]], what: str) -> str:
    sizes = sorted({size for points in curve.values() for size, _ in points})
    rows = [
        (name, *(_number(dict(points)[size] * 1e9) if size in dict(points) else "" for size in sizes))
        for name, points in curve.items()
    ]
    return _table((f"ns of CPU an event, by {what}", *(f"{size:,}" for size in sizes)), rows)


def markdown(options: dict[str, Any], groups: list[Group], curves: Curves | None, found: list[Finding]) -> str:
    """The whole report."""
    where = ", ".join(f"{name} {value}" if name != "cores" else f"{value} {name}" for name, value in machine().items())
    shown = ", ".join(f"{name} {value:,}" for name, value in options.items())
    rows = [
        (each.row, each.ours, each.beside, each.measured, each.target, "yes" if each.met else "no") for each in found
    ]
    parts = [
        f"{where}; {shown}. Medians of alternating rounds; a ratio is the median of the rounds' ratios.",
        _table(("row", "ours", "beside", "measured", "target", "met"), rows),
    ]
    for group in groups:
        parts.append(f"### {group.name}\n\n{_systems(group)}")
        parts += group.notes
    if curves is not None:
        parts.append(f"### Cost against size\n\n{_curve(curves.events, 'events')}\n\n{_curve(curves.keys, 'keys')}")
    return "\n\n".join(parts) + "\n"


def write_json(path: Path, found: list[Finding], groups: list[Group]) -> None:
    """For tests: the findings, and the systems that came to the right result."""
    systems = {group.name: [case.name for case in group.cases] for group in groups}
    path.write_text(json.dumps({"findings": [asdict(each) for each in found], "systems": systems}))


def plot(path: Path, curves: Curves) -> None:
    """Cost against events and against keys, ours drawn heavier."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams |= {"svg.hashsalt": "rxcompact", "svg.fonttype": "none"}
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(11, 5), sharey=True, layout="constrained")
    # the floor in black
    colours = dict(zip({**curves.events, **curves.keys}, ("black", *mpl.colormaps["tab20"].colors), strict=False))
    for panel, curve, what in zip(panels, (curves.events, curves.keys), ("events", "keys"), strict=True):
        for name, points in curve.items():
            mine = name in (COMPACT, SINGLE)
            panel.plot(
                *zip(*[(size, cost * 1e9) for size, cost in points], strict=True),
                color=colours[name],
                marker="o",
                markersize=5 if mine else 3,
                linewidth=2.5 if mine else 1,
                linestyle="-" if mine else "--",
                label=name,
            )
        panel.set(xscale="log", yscale="log", xlabel=what)
        panel.grid(visible=True, which="major", alpha=0.3)
    panels[0].set(ylabel="ns of CPU an event", title="10,000 Zipf keys, windows of 50,000 events")
    panels[1].set(title="keys equally often, one window")
    entries = {label: line for panel in panels for line, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=4, fontsize="small")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)
