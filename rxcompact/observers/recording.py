"""What a `Recorder` recorded: marks, each with its instant, and how they are shown, saved and analysed."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from rxcompact.errors import ArgumentError
from rxcompact.format import escape

if TYPE_CHECKING:
    from pandas import DataFrame

Amount: TypeAlias = tuple[float, float, float]
"""From when, until when, how much."""
Span: TypeAlias = tuple[float, float]
"""From when, until when."""


class WindowMark(NamedTuple):
    """A window closed."""

    at: float
    """When it was recorded, POSIX seconds; this may be long after ``closed``, which may be event time."""
    opened: float
    closed: float
    trigger: str
    received: int
    distinct: int


class EventMark(NamedTuple):
    """A distinct event of a window, and how often it was received."""

    window: WindowMark
    key: Hashable
    # the field's word, though tuples have a method of that name
    count: int | None  # type: ignore[assignment]  # pyright: ignore[reportIncompatibleMethodOverride]
    first_seen: float | None
    last_seen: float | None


class RetryMark(NamedTuple):
    """A call failed and will be made again."""

    at: float
    stage: str
    attempt: int
    wait: float
    error: str


class OutcomeMark(NamedTuple):
    """A distinct event was settled, or an event was rejected at intake."""

    at: float
    outcome: str
    key: Hashable
    """None where it never had one."""
    stage: str
    reason: str
    attempts: int
    age: float | None


class StateMark(NamedTuple):
    """The orchestrator changed its state, or a source or an observer failed."""

    at: float
    state: str
    detail: str = ""


@dataclass(frozen=True, slots=True, repr=False)
class Recording:
    """What a `Recorder` has recorded so far: a marble diagram, as a picture where there can be one, else as text.

    It holds keys, but no events, and types of errors, but not their messages. Marks are in the order in which they were
    made; not all are kept, but ``totals`` and ``rates`` count them all.
    """

    clock: Span = (0.0, 0.0)
    """When the first and the last of all marks were made, POSIX seconds."""
    opened: Span = (0.0, 0.0)
    """When the first window opened, and the last one closed."""
    windows: Sequence[WindowMark] = ()
    events: Sequence[EventMark] = ()
    retries: Sequence[RetryMark] = ()
    outcomes: Sequence[OutcomeMark] = ()
    states: Sequence[StateMark] = ()
    totals: Mapping[str, int] = field(default_factory=dict[str, int])
    """How many were "windows", "received", "distinct", "retries", and of each outcome."""
    rates: Mapping[str, Sequence[Amount]] = field(default_factory=dict[str, Sequence[Amount]])
    """When they were, by the same names."""

    def of_outcome(self, outcome: str) -> list[OutcomeMark]:
        """Return the marks of an outcome."""
        return [mark for mark in self.outcomes if mark.outcome == outcome]

    def are_all(self, name: str, kept: Sequence[object]) -> bool:
        """Return whether as many were kept as there were."""
        return self.totals.get(name, 0) <= len(kept)

    def __repr__(self) -> str:
        from rxcompact.render.marble import marble  # noqa: PLC0415 - pictures are for those who look

        return marble(self)

    def svg(self) -> str:
        """Return it as a picture."""
        from rxcompact.render.marble_svg import marble_svg  # noqa: PLC0415 - as above

        return marble_svg(self)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        # an image, since a notebook that is not trusted strips SVG but shows images
        image = b64encode(self.svg().encode()).decode()
        summary = ", ".join(f"{name} {number:,}" for name, number in self.totals.items() if number)
        alt = escape(f"marble diagram: {summary or 'nothing yet'}")
        html = f'<img alt="{alt}" src="data:image/svg+xml;base64,{image}" style="max-width:100%">'
        return {"text/plain": repr(self), "text/html": html}

    def save(self, path: str | Path) -> Path:
        """Write it to a file, as a picture or as text, by the name's ending: .svg or .txt.

        Raises:
            ArgumentError: for another ending.
            OSError: when it cannot be written.
        """
        path = Path(path)
        forms: dict[str, Callable[[], str]] = {".svg": self.svg, ".txt": lambda: f"{self!r}\n"}
        if path.suffix not in forms:
            raise ArgumentError("path", str(path), f"a name that ends in {' or '.join(forms)}")
        path.write_text(forms[path.suffix](), encoding="utf-8")
        return path

    def to_pandas(self) -> DataFrame:
        """Return a table of its marks in their order: "kind", "at", and each kind's own columns.

        Instants are of pandas' UTC datetimes; keys are as they were.

        Raises:
            ImportError: without pandas.
        """
        import pandas as pd  # noqa: PLC0415 - an extra

        rows: list[dict[str, Any]] = [mark._asdict() | {"kind": "event", "at": mark.window.at} for mark in self.events]
        kinds: dict[str, Sequence[Any]] = {
            "window": self.windows, "retry": self.retries, "outcome": self.outcomes, "state": self.states,
        }  # fmt: skip
        rows += [mark._asdict() | {"kind": kind} for kind, marks in kinds.items() for mark in marks]
        columns = dict.fromkeys(["kind", "at", *(column for row in rows for column in row if column != "window")])
        table = pd.DataFrame(rows, columns=list(columns)).sort_values("at", kind="stable", ignore_index=True)
        for column in {"at", "first_seen", "last_seen", "opened", "closed"} & set(columns):
            table[column] = pd.to_datetime(table[column].astype(float), unit="s", utc=True)
        return table
