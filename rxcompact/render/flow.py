"""The flow of events through the stages of a pipeline as a table, and an orchestrator's state above it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from rxcompact.render.table import Cell, table
from rxcompact.render.words import duration, error_name, short

COLUMNS = ("stage", "what", "in", "out", "in flight", "oldest", "set aside", "last error")


class StageNow(NamedTuple):
    """What a stage holds, and what went wrong in it."""

    held: int = 0
    """Distinct events on their way through."""
    oldest: float | None = None
    """Seconds since the birth of the oldest of them."""
    aside: int = 0
    """Dead letters it made."""
    error: BaseException | None = None
    """The last error, of a retry or of a dead letter."""
    waiting: int = 0
    """Calls that failed and wait to be made again."""


class Run(Protocol):
    """What is shown of an orchestrator."""

    @property
    def state(self) -> str: ...
    @property
    def account(self) -> Any: ...
    @property
    def stages(self) -> Mapping[str, StageNow]:
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


def pipeline_html(pipeline: Any, run: Run | None = None) -> str:
    """Return the stages of a pipeline as a table, with live numbers where it was run."""
    return table(COLUMNS, _rows(pipeline, run), title="Pipeline", note=_limits(pipeline))


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
        now = stages.get(name, StageNow())
        taken = {"source": None, "compact": account.received}.get(name, out + now.held + now.aside)
        oldest = None if now.oldest is None else duration(now.oldest)
        rows.append((name, what, taken, out, now.held, oldest, now.aside, error_name(now.error)))
        out = taken or 0
    return rows[::-1]


def _whats(pipeline: Any) -> dict[str, str]:
    reducer, options = pipeline.reducer, pipeline.options
    whats = {"source": _name(pipeline.source), "compact": _name(reducer)}
    if hasattr(reducer, "timespan"):
        key = reducer.key_mapper
        whats["compact"] = f"{_seconds(reducer.timespan)} by {key if isinstance(key, str) else _name(key)}"
    if getattr(pipeline.source, "raw", False):
        whats["decode"] = "JSON"
    if pipeline.enricher is not None:
        whats["enrich"] = f"{_name(pipeline.enricher)}, {options('enrich')['max_concurrent']:,} at once"
    publish = options("publish")
    whats["publish"] = f"{_name(pipeline.sink)}, by {publish['count']:,} or {_seconds(publish['timespan'])}"
    return whats


def _limits(pipeline: Any) -> str:
    return f"max_age {duration(pipeline.max_age)}, max_in_flight {pipeline.max_in_flight:,}"


def _seconds(value: Any) -> str:
    return duration(value.total_seconds() if hasattr(value, "total_seconds") else value)


def _name(part: Any) -> str:
    """Return what a part is called: a function its name, a method its object's class."""
    owner = getattr(part, "__self__", None)
    name = getattr(part, "__name__", None) if owner is None else None
    return short(name or type(part if owner is None else owner).__name__, 40)
