"""A pipeline from flat options, for tests that care about few of them."""

from __future__ import annotations

from typing import Any

from rxcompact import Orchestrator, Pipeline
from rxcompact import operators as rxo

COMPACT = (
    "per_key",
    "gap",
    "leading",
    "trailing",
    "count",
    "keep",
    "fields",
    "time_mapper",
    "lateness",
    "idle",
    "tolerance",
)
ENRICH = ("max_concurrent", "timeout", "ordered", "cache", "merge", "batch", "wait", "retry", "rate")
PUBLISH = {f"batch_{name}": name for name in ("count", "timespan", "timeout", "ordered", "rate")}
SHARED = ("wait", "retry")


def simple_pipeline(
    source: Any,
    *,
    sink: Any,
    max_age: Any,
    timespan: Any = None,
    key_mapper: Any = None,
    reducer: Any = None,
    enricher: Any = None,
    max_in_flight: int = 100_000,
    max_bytes: int = 256 << 20,
    overflow: Any = "drop_oldest",
    **options: Any,
) -> Pipeline:
    """Return source → compact → enrich, where there is an enricher → publish."""

    def of(names: Any) -> dict[str, Any]:
        return {name: options[name] for name in names if name in options}

    unknown = options.keys() - {*COMPACT, *ENRICH, *PUBLISH}
    assert not unknown, unknown
    operators = [rxo.compact(timespan, key_mapper=key_mapper, **of(COMPACT)) if reducer is None else reducer]
    if enricher is not None:
        operators.append(rxo.enrich(enricher, **of(ENRICH)))
    publish = {name: options[flat] for flat, name in PUBLISH.items() if flat in options}
    operators.append(rxo.publish(sink, **publish, **of(SHARED)))
    bounds = {"max_in_flight": max_in_flight, "max_bytes": max_bytes}
    return Pipeline(source, *operators, max_age=max_age, overflow=overflow, **bounds)


def held(orchestrator: Orchestrator) -> dict[str, int]:
    """Return how many events each stage holds."""
    return {stage: now.held for stage, now in orchestrator.stages.items()}
