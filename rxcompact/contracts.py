"""The contracts between a pipeline and its parts; a part need not inherit from any of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from reactivex import Observable
from reactivex.abc import SchedulerBase
from typing_extensions import TypeVar

from rxcompact.acks import PendingAcks
from rxcompact.events import Batch, Compacted, DeadLetter, Window
from rxcompact.signals import StageSignal

R_co = TypeVar("R_co", covariant=True, default=Any)
Overflow: TypeAlias = Literal["drop_oldest", "drop_newest", "error"]


class Demand:
    """What the stages behind a source have capacity for; this one for everything."""

    limit = 1 << 62
    """Distinct events that can be held at all."""

    def capacity(self) -> int:
        """Return how many events may be pushed now, whatever their keys."""
        return self.limit

    def accepts(self, chunk: Sequence[Any], before: set[Any] | None = None) -> bool:
        """Return whether there is capacity for a chunk; duplicates of what is held need none.

        Args:
            before: Keys of the chunks that have to be accepted together with this one; its own are added.
        """
        del before
        return len(chunk) <= self.limit

    async def wait(self) -> int:
        """Wait until there is capacity; return how much."""
        return self.limit

    def hold(self, size: int) -> bool:
        """Count bytes of an unfinished body, until they are subtracted; return False where there is no capacity."""
        del size
        return True

    def used(self) -> Mapping[str, tuple[int, int]]:
        """Return how much is held and how much can be, by the name of the bound."""
        return {}

    def failing(self) -> Mapping[str, Sequence[str]]:
        """Return which services are down, by the stage that calls them."""
        return {}

    def span(self, headers: Mapping[str, str]) -> Any:
        """Return the span context that a message's headers carry, where the run is traced and it is sampled."""
        del headers

    def metrics(self, accept: str = "") -> tuple[bytes, str]:
        """Return the metrics of the run in the format of Prometheus that a request accepts, and its content type.

        Raises:
            ImportError: without the extra ``metrics``.
        """
        del accept
        return b"", "text/plain"


UNBOUNDED = Demand()


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
    """A source that names itself, a file, a URL or a stream, without credentials: for dead letters and metrics."""

    @property
    def name(self) -> str: ...


@runtime_checkable
class LaggingSource(Protocol):
    """A source that knows how many messages wait in front of it, by partition: for metrics."""

    lag: Mapping[str, int]


@runtime_checkable
class ServingSource(Protocol):
    """A source that counts the requests that it answered, by status: for metrics."""

    requests: Mapping[int, int]


@runtime_checkable
class DurableSource(Protocol):
    """A source whose chunks carry acknowledgements."""

    async def release(self) -> None:
        """Return to the broker what was not settled; awaited when nothing more will be."""


@runtime_checkable
class KeyedEnricher(Protocol):
    """An enricher whose answer depends on the key alone: one answer serves all events of a key."""

    async def lookup(self, event: Any, /) -> Any:
        """Return the answer for an event."""

    def merge(self, event: Any, answer: Any, /) -> Any:
        """Return the event with the answer in it."""


@runtime_checkable
class TargetedEnricher(Protocol):
    """An enricher that names the service it calls for an event; each has a circuit breaker of its own."""

    def target(self, event: Any, /) -> str:
        """Return a name: its host and port."""
        ...


@runtime_checkable
class BoundedSink(Protocol):
    """A sink that takes at most ``max_batch`` events at once; None for any number."""

    max_batch: int | None


@runtime_checkable
class TargetedSink(Protocol):
    """A sink that names the service it calls: host and port, for metrics and the circuit breaker."""

    @property
    def target(self) -> str: ...


@runtime_checkable
class Closable(Protocol):
    """A source, enricher or sink that holds something open."""

    async def aclose(self) -> None:
        """Close it; awaited when the pipeline stops, of a source before what is held is drained."""


async def close(part: Any) -> None:
    """Close a part if it can be closed; of a method the object it belongs to."""
    part = getattr(part, "__self__", part)
    if isinstance(part, Closable):
        await part.aclose()


# ── what a pipeline hands down ────────────────────────────────────────────────────────────────────────────────────


class Holder(Protocol):
    """A stage: how many events it holds, and how old the oldest is."""

    stage: str

    def held(self) -> int: ...

    def oldest(self) -> float | None: ...


@dataclass(slots=True)
class CallObserver:
    """What is notified of the calls of stages, where somebody wants to be."""

    started: Callable[[str, int, Iterable[Compacted]], Any] | None = None
    """Called with stage, attempt and events; returns the span of the call."""
    ended: Callable[..., object] | None = None
    """Called with the first fields of `CallEnded`, its error and span instead of the outcome."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageContext:
    """What the operators of a pipeline share."""

    max_age: float
    """Seconds after its birth at which an event expires."""
    max_keys: Callable[[], int]
    """Gives how many distinct events the reducer may hold now."""
    max_quiet: Callable[[], int]
    """Gives how many keys it may know, those counted whose only event has left."""
    overflow: Overflow
    """What becomes of a new key beyond that."""
    raw: bool
    """Whether events are JSON lines, whose bytes are counted."""
    flushes: Observable[Any]
    """On its first item open windows close and waits are cut short."""
    dead_letters: Callable[[DeadLetter], object]
    """Called with each dead letter."""
    signals: Callable[[StageSignal], object]
    """Called with what happens in a stage that makes calls."""
    calls: CallObserver
    """Notified of each call."""
    register: Callable[[Holder], object]
    """Called by each stage with itself, when it is subscribed to."""
    acks: PendingAcks
    """Where the reducer adds what waits for an event that it drops."""
    scheduler: SchedulerBase
    """Of the loop that the pipeline runs on."""
