"""A picture of a tuning (extra ``notebook``)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, PercentFormatter

from rxcompact.render.format import duration

if TYPE_CHECKING:
    from rxcompact.notebook.tuning import Row, Tuning

# of Okabe and Ito, told apart by the colour-blind too
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
MARKERS = ("o", "s", "^", "D")
STYLES = ("-", "--", ":", "-.")
QUIET = "#666666"
TICKS = tuple(unit * step for unit, steps in (
    (0.001, (1, 2, 5, 10, 20, 50, 100, 200, 500)), (1, (1, 2, 5, 10, 20, 30)), (60, (1, 2, 5, 10, 20, 30)),
    (3600, (1, 2, 4, 8, 12, 24)),
) for step in steps)  # fmt: skip
"""Seconds that are said in few words."""


class Picture(Figure):
    """A figure that shows itself in a notebook without pyplot, in an untrusted one too."""

    def _repr_png_(self) -> bytes:
        out = BytesIO()
        # a matplotlib figure's own metadata has the version, by which saved notebooks would differ
        self.savefig(out, format="png", dpi=100, metadata={"Software": None})
        return out.getvalue()


def picture(tuning: Tuning) -> Picture:
    """Return what `Tuning.plot` shows."""
    keys = _values(row.key for row in tuning)
    lost = keys if tuning.outages else []
    figure = Picture(figsize=(5.4 + 3.9 * len(lost), 4.4), layout="constrained", facecolor="white")
    ratios = [5.4 / 3.9] + [1.0] * len(lost)
    first, *others = figure.subplots(1, 1 + len(lost), squeeze=False, width_ratios=ratios)[0]
    _compaction(first, tuning, keys)
    for axes, key in zip(others, lost, strict=True):
        _outages(axes, [row for row in tuning if row.key == key], tuning)
        axes.sharey(others[0])
        axes.set_title(key, loc="left", fontsize=10)
    if others:
        most = max(max(row.expired, *row.in_outage.values()) for row in tuning)
        others[0].set_ylabel("events that become too old")
        others[0].set_ylim(0, max(1, most) * 1.05)
        handles, labels = others[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, title="timespan, max_age", fontsize=8, title_fontsize=8, frameon=False,
            loc="outside right upper",
        )  # fmt: skip
    return figure


def _compaction(axes: Any, tuning: Tuning, keys: Sequence[str]) -> None:
    """Draw a line for each key over the timespans: the median of the latency, and from there to its 99th percentile."""
    lines = {(row.key, row.max_age, row.max_concurrent) for row in tuning}
    ages = _values(row.max_age for row in tuning)
    pools = _values(row.max_concurrent for row in tuning)
    for key, max_age, pool in sorted(lines):
        if max_age != ages[-1]:  # it makes no difference to what is compacted
            continue
        rows = sorted((row for row in _of(tuning, key, max_age, pool) if row.p50 is not None), key=lambda r: r.timespan)
        colour = COLOURS[keys.index(key) % len(COLOURS)]
        label = key if len(pools) == 1 else f"{key}, {pool} at once"
        medians, ratios = [row.p50 for row in rows], [row.ratio for row in rows]
        axes.plot(
            medians,
            ratios,
            STYLES[pools.index(pool) % len(STYLES)],
            marker=MARKERS[pools.index(pool) % len(MARKERS)],
            color=colour,
            label=label,
        )
        axes.hlines(ratios, medians, [row.p99 for row in rows], color=colour, alpha=0.35, linewidth=4)
        if pool == pools[0]:
            for row in rows:
                axes.annotate(
                    duration(row.timespan), (row.p50, row.ratio), xytext=(-6, 5), textcoords="offset points",
                    ha="right", fontsize=8, color=colour,
                )  # fmt: skip
    axes.margins(x=0.08, y=0.2)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    shown = [tick for tick in TICKS if low <= tick <= high]
    if shown:
        axes.set_xticks(shown, map(duration, shown))
        axes.set_xticks([], minor=True)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("added latency: the median, and to the 99th percentile")
    axes.set_ylabel("duplicates removed")
    axes.set_title("Compaction against latency, by timespan", loc="left", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    _plain(axes)


def _outages(axes: Any, rows: Sequence[Row], tuning: Tuning) -> None:
    """Draw a line for each timespan and age over the lengths of outages; none is one of them."""
    spans = _values(row.timespan for row in rows)
    ages = _values(row.max_age for row in rows)
    pool = max(row.max_concurrent for row in rows)
    colours = colormaps["viridis_r"]
    for row in rows:
        if row.max_concurrent == pool:
            axes.plot(
                range(1 + len(tuning.outages)),
                [row.expired, *row.in_outage.values()],
                STYLES[ages.index(row.max_age) % len(STYLES)],
                marker="o",
                markersize=4,
                color=colours(0.15 + 0.85 * spans.index(row.timespan) / max(1, len(spans) - 1)),
                label=f"{duration(row.timespan)}, {duration(row.max_age)}",
            )
    axes.set_xticks(range(1 + len(tuning.outages)), ["none", *map(duration, tuning.outages)])
    axes.set_xlabel("outage of the API")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    _plain(axes)


def _of(tuning: Tuning, key: str, max_age: float, pool: int) -> list[Row]:
    return [row for row in tuning if (row.key, row.max_age, row.max_concurrent) == (key, max_age, pool)]


def _values(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))


def _plain(axes: Any) -> None:
    axes.grid(visible=True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(colors=QUIET, labelsize=8)
