"""The flow of events through the stages of a pipeline as a table, and an orchestrator's state above it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from rxcompact.render.table import Cell, table
from rxcompact.render.words import duration, error_name, short

COLUMNS = ("stage", "what", "in", "out", "in flight", "oldest", "set aside", "last error")


class Run(Protocol):
    """What is shown of an orchestrator."""

    @property
    def state(self) -> str: ...
    @property
    def account(self) -> Any: ...
    @property
    def stages(self) -> Mapping[str, Any]:
        """By name: source, compact, decode, enrich, publish; empty before the first start."""
        ...

    @property
    def uptime(self) -> float:
        """Seconds since the start, or from it until the end."""
        ...

    @property
    def restarts(self) -> int: ...


def pipeline_text(pipeline: Any) -> str:
    """Return the stages of a pipeline in a line."""
    return f"<Pipeline {' → '.join(_whats(pipeline).values())}; {_limits(pipeline)}>"


def pipeline_html(pipeline: Any) -> str:
    """Return the stages of a pipeline as a table."""
    return table(COLUMNS, _rows(pipeline, None), title="Pipeline", note=_limits(pipeline))


def orchestrator_html(pipeline: Any, run: Run) -> str:
    """Return an orchestrator as a table: its state, and the stages of its pipeline."""
    restarts = f", {run.restarts} restart{'s' * (run.restarts != 1)}" if run.restarts else ""
    note = f"{duration(run.uptime)}{restarts}" if run.stages else "not started yet"
    numbers = ", ".join(f"{name.replace('_', ' ')} {number:,}" for name, number in run.account._asdict().items())
    return table(COLUMNS, _rows(pipeline, run), title=f"Orchestrator: {run.state}", note=note, more=numbers)


def _rows(pipeline: Any, run: Run | None) -> list[tuple[Cell, ...]]:
    whats = _whats(pipeline)
    if run is None or not run.stages:
        return [(name, what, None, None, None, None, None, "") for name, what in whats.items()]
    account, stages = run.account, run.stages
    rows: list[tuple[Cell, ...]] = []
    # from the end: what a stage let through is what the next one took
    out = account.published
    for name, what in reversed(whats.items()):
        now = stages[name]
        taken = {"source": None, "compact": account.received}.get(name, out + now.held + now.dead_letters)
        oldest = None if now.oldest is None else duration(now.oldest)
        rows.append((name, what, taken, out, now.held, oldest, now.dead_letters, error_name(now.error)))
        out = taken or 0
    return rows[::-1]


def _whats(pipeline: Any) -> dict[str, str]:
    reducer = pipeline.reducer
    whats = {"source": _name(pipeline.source), "compact": _name(reducer)}
    if hasattr(reducer, "timespan"):
        whats["compact"] = f"{duration(reducer.timespan)} by {reducer.key_names or _name(reducer.key_mapper)}"
    if pipeline.raw:
        whats["decode"] = "JSON"
    for enrich in pipeline.enrichments:
        whats[enrich.stage] = f"{_name(enrich.enricher)}, {enrich.max_concurrent:,} at once"
    publish = pipeline.publication
    whats["publish"] = f"{_name(publish.sink)}, by {publish.count:,} or {duration(publish.timespan)}"
    return whats


def _limits(pipeline: Any) -> str:
    return f"max_age {duration(pipeline.max_age)}, max_in_flight {pipeline.max_in_flight:,}"


def _name(part: Any) -> str:
    """Return what a part is called: a function its name, a method its object's class."""
    owner = getattr(part, "__self__", None)
    name = getattr(part, "__name__", None) if owner is None else None
    return short(name or type(part if owner is None else owner).__name__, 40)
