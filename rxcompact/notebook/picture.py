"""The plot of a tuning (extra ``notebook``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, PercentFormatter

from rxcompact.format import duration
from rxcompact.render.marble import ROUND

# of Okabe and Ito, distinct to the colour-blind too
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
MARKERS = ("o", "s", "^", "D")
STYLES = ("-", "--", ":", "-.")
QUIET = "#666666"
TICKS = (*(unit * step for unit in (0.001, 0.01, 0.1) for step in (1, 2, 5)), *ROUND)  # round numbers of seconds


class Picture(Figure):
    """A figure that shows itself in a notebook without pyplot, in an untrusted one too."""

    def _repr_png_(self) -> bytes:
        out = BytesIO()
        # a matplotlib figure's own metadata has the version, by which saved notebooks would differ
        self.savefig(out, format="png", dpi=100, metadata={"Software": None})
        return out.getvalue()


def picture(rows: Sequence[Any], outages: Mapping[float, Any]) -> Picture:
    """Return what `Tuning.plot` shows."""
    keys = _unique(row.key for row in rows)
    ratios = [5.4 / 3.9] + [1.0] * len(keys) * bool(outages)
    figure = Picture(figsize=(3.9 * sum(ratios), 4.4), layout="constrained", facecolor="white")
    first, *others = figure.subplots(1, len(ratios), squeeze=False, width_ratios=ratios)[0]
    _plot_compaction(first, rows, keys)
    for axes, key in zip(others, keys, strict=False):
        _plot_outages(axes, [row for row in rows if row.key == key], outages)
        axes.sharey(others[0])
        axes.set_title(key, loc="left", fontsize=10)
    if others:
        most = max(max(row.expired, *row.in_outage.values()) for row in rows)
        others[0].set_ylabel("events that expire")
        others[0].set_ylim(0, max(1, most) * 1.05)
        lines = others[0].get_legend_handles_labels()
        style: Any = {"fontsize": 8, "title_fontsize": 8, "frameon": False, "loc": "outside right upper"}
        figure.legend(*lines, title="timespan, max_age", **style)
    for axes in (first, *others):
        axes.grid(visible=True, color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(QUIET)
        axes.tick_params(colors=QUIET, labelsize=8)
    return figure


def _plot_compaction(axes: Any, rows: Sequence[Any], keys: Sequence[str]) -> None:
    """Draw a line for each key over the timespans: the median of the latency, and from there to its 99th percentile."""
    longest = max(row.max_age for row in rows)  # it makes no difference to what is compacted
    pools = _unique(row.max_concurrent for row in rows)
    for key, pool in sorted({(row.key, row.max_concurrent) for row in rows}):
        choice = (key, longest, pool)
        line = [row for row in rows if (row.key, row.max_age, row.max_concurrent) == choice and row.p50 is not None]
        line.sort(key=lambda row: row.timespan)
        style, colour = pools.index(pool) % len(STYLES), COLOURS[keys.index(key) % len(COLOURS)]
        medians, ratios = [row.p50 for row in line], [row.ratio for row in line]
        label = key if len(pools) == 1 else f"{key}, {pool} at once"
        axes.plot(medians, ratios, STYLES[style], marker=MARKERS[style], color=colour, label=label)
        ends = [row.p50 if row.p99 is None else row.p99 for row in line]
        axes.hlines(ratios, medians, ends, color=colour, alpha=0.35, linewidth=4)
        note = {"xytext": (-6, 5), "textcoords": "offset points", "ha": "right", "fontsize": 8, "color": colour}
        for row in line if pool == pools[0] else ():
            axes.annotate(duration(row.timespan), (row.p50, row.ratio), **note)
    axes.margins(x=0.08)
    axes.set_ylim(-0.05, 1.1)
    axes.set_yticks([each / 5 for each in range(6)])
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    if shown := [tick for tick in TICKS if low <= tick <= high]:
        axes.set_xticks(shown, map(duration, shown))
        axes.set_xticks([], minor=True)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("added latency: the median, and to the 99th percentile")
    axes.set_ylabel("duplicates removed")
    axes.set_title("Compaction against latency, by timespan", loc="left", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="upper left")


def _plot_outages(axes: Any, rows: Sequence[Any], outages: Mapping[float, Any]) -> None:
    """Draw a line for each timespan and age over the lengths of outages, from none on."""
    spans, ages = _unique(row.timespan for row in rows), _unique(row.max_age for row in rows)
    pool = max(row.max_concurrent for row in rows)
    for row in (row for row in rows if row.max_concurrent == pool):
        colour = colormaps["viridis_r"](0.15 + 0.85 * spans.index(row.timespan) / max(1, len(spans) - 1))
        style = {"linestyle": STYLES[ages.index(row.max_age) % len(STYLES)], "marker": "o", "markersize": 4}
        label = f"{duration(row.timespan)}, {duration(row.max_age)}"
        expired = [row.expired, *row.in_outage.values()]
        axes.plot(range(len(expired)), expired, color=colour, label=label, **style)
    axes.set_xticks(range(1 + len(outages)), ["none", *map(duration, outages)])
    axes.set_xlabel("outage of the API")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _unique(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))
