"""The contracts between a pipeline and its parts; a part need not inherit from any of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from reactivex import Observable
from reactivex.abc import SchedulerBase
from typing_extensions import TypeVar

from rxcompact.events import Batch, DeadLetter, Window
from rxcompact.signals import RetryScheduled

R_co = TypeVar("R_co", covariant=True, default=Any)
Overflow: TypeAlias = Literal["drop_oldest", "drop_newest", "error"]


class Demand(Protocol):
    """What the stages behind a source have capacity for."""

    @property
    def limit(self) -> int:
        """Distinct events that can be held at all."""
        ...

    def capacity(self) -> int:
        """Return how many events may be pushed now, whatever their keys."""
        ...

    def accepts(self, chunk: Sequence[Any]) -> bool:
        """Return whether there is capacity for a chunk; duplicates of what is held need none."""
        ...

    async def wait(self) -> int:
        """Wait until there is capacity; return how much."""
        ...

    def metrics(self) -> tuple[bytes, str]:
        """Return the metrics of the run in Prometheus' text format, and its content type.

        Raises:
            ImportError: without the extra ``metrics``.
        """
        ...


class Unbounded:
    """Capacity for everything."""

    limit = 1 << 62

    def capacity(self) -> int:
        return self.limit

    def accepts(self, chunk: Sequence[Any]) -> bool:
        return len(chunk) <= self.limit

    async def wait(self) -> int:
        return self.limit

    def metrics(self) -> tuple[bytes, str]:
        return b"", "text/plain"


UNBOUNDED: Demand = Unbounded()


# ── the four parts ────────────────────────────────────────────────────────────────────────────────────────────────


@runtime_checkable
class Source(Protocol):
    """Where events come from."""

    def stream(self, demand: Demand, /) -> Observable[list[Any]]:
        """Return chunks of events; called anew at each start. One that can wait asks ``demand`` when to.

        A `Chunk` may carry the acknowledgement of its message, and collects what intake rejects of it.
        """
        ...


@runtime_checkable
class Reducer(Protocol):
    """What makes windows of distinct events out of chunks of events."""

    def reduce(self, chunks: Observable[list[Any]], context: StageContext, /) -> Observable[Window[Any, Any]]:
        """Return the windows."""
        ...


@runtime_checkable
class Enricher(Protocol[R_co]):
    """What makes an event worth more."""

    async def enrich(self, event: Any, /) -> R_co:
        """Return the enriched event; raising means failure."""
        ...


@runtime_checkable
class Sink(Protocol):
    """Where batches go."""

    async def publish(self, batch: Batch, /) -> Mapping[int, BaseException] | None:
        """Take a batch; raising means that nothing was taken, a mapping has the positions that were not."""
        ...


# ── what a part may be besides ────────────────────────────────────────────────────────────────────────────────────


@runtime_checkable
class RawSource(Protocol):
    """A source whose events are JSON lines, as bytes, when ``raw`` is true: survivors are decoded after compaction."""

    raw: bool


@runtime_checkable
class OneShotSource(Protocol):
    """A source that cannot begin anew when ``restartable`` is false: its first failure fails the run."""

    restartable: bool


@runtime_checkable
class NamedSource(Protocol):
    """A source that names itself, without credentials, for dead letters and metrics."""

    @property
    def name(self) -> str:
        """A file, a URL, a stream."""
        ...


@runtime_checkable
class DurableSource(Protocol):
    """A source whose chunks carry acknowledgements."""

    async def release(self) -> None:
        """Return to the broker what was not settled; awaited when nothing more will be."""
        ...


@runtime_checkable
class KeyedEnricher(Protocol):
    """An enricher whose answer depends on the key alone: one answer serves all events of a key."""

    async def lookup(self, event: Any, /) -> Any:
        """Return the answer for an event."""
        ...

    def merge(self, event: Any, answer: Any, /) -> Any:
        """Return the event with the answer in it."""
        ...


@runtime_checkable
class Closable(Protocol):
    """A source, enricher or sink that holds something open."""

    async def aclose(self) -> None:
        """Close it; awaited when the pipeline stops, of a source before what is held is drained."""
        ...


async def close(part: Any) -> None:
    """Close a part if it can be closed; of a method the object it belongs to."""
    part = getattr(part, "__self__", part)
    if isinstance(part, Closable):
        await part.aclose()


# ── what a pipeline hands down ────────────────────────────────────────────────────────────────────────────────────


class Holder(Protocol):
    """A stage that holds events."""

    stage: str

    def held(self) -> int:
        """Return how many; looking changes nothing."""
        ...

    def oldest(self) -> float | None:
        """Return the age of the oldest event that it holds, seconds."""
        ...

    def waiting(self) -> int:
        """Return how many calls failed and wait to be made again."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StageContext:
    """What the operators of a pipeline share.

    Attributes:
        max_age: Seconds after its birth at which an event expires.
        max_keys: Gives how many distinct events the reducer may hold now.
        overflow: What becomes of a new key beyond that.
        flushes: On its first item open windows close and waits are cut short.
        dead_letters: Called with each dead letter.
        retries: Called with each retry.
        register: Called by each stage with itself, when it is subscribed to.
        scheduler: Of the loop that the pipeline runs on.
    """

    max_age: float
    max_keys: Callable[[], int]
    overflow: Overflow
    flushes: Observable[Any]
    dead_letters: Callable[[DeadLetter], object]
    retries: Callable[[RetryScheduled], object]
    register: Callable[[Holder], object]
    scheduler: SchedulerBase
