"""Marble diagrams as text, in the syntax of RxPY's `from_marbles`."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from rxcompact.format import OUTCOMES, duration, instant, short
from rxcompact.render.axis import Axis, axes, symbols, within

if TYPE_CHECKING:
    from rxcompact.observers.recorder import Recording, WindowMark

COLUMNS = 88
GROUP = 4
"""Elements of a group that are listed; of a larger group the number is."""
NAME = 8
"""Distinct events of a window that are listed."""
LEGEND = 12
"""Keys that are listed."""
ENDS = {"stopped": "|", "failed": "#"}


class Element(NamedTuple):
    """Something at an instant that stands for so many; one without a text is shown as the number."""

    at: float
    text: str
    many: int = 1


def marble(recording: Recording) -> str:
    """Return a recording as marble diagrams, one a line.

    ::

        events     -a-b-(a,c)---2b--|    a letter is an event; 2b: two more of b by then
        windows    -----[ab]----[bc]|    a window of these distinct events
        retries    ------e1---------|    the first attempt of enrich for some event failed
        published  -------a------b--|    and so on for each outcome

    Elements that would overlap are a group at the time of the first: ``(a,b)``, or ``9x`` for many.
    """
    letters = symbols(recording)
    upper, lower = axes(recording)
    lanes = [
        ("events", upper, _events(recording, letters)),
        ("windows", upper, _windows(recording, letters, upper == lower)),
    ]
    if recording.totals.get("retries"):
        retries = (Element(mark.at, f"{mark.stage[:1]}{mark.attempt}") for mark in recording.retries)
        lanes.append(("retries", lower, _all(recording, "retries", recording.retries, retries)))
    for outcome in (*OUTCOMES, "rejected"):
        if outcome == "published" or recording.totals.get(outcome):
            ends = [mark for mark in recording.outcomes if mark.outcome == outcome]
            elements = (Element(mark.at, letters.get(mark.key, "?")) for mark in ends)
            lanes.append((outcome, lower, _all(recording, outcome, ends, elements)))
    end = ENDS.get(recording.states[-1].state, "") if recording.states else ""
    lines = [(name, line(axis, elements, end)) for name, axis, elements in lanes]
    for name, axis in (("time", upper),) if upper == lower else (("event time", upper), ("clock", lower)):
        scale = f"a column is {duration(axis.length / COLUMNS)}, the first is at {instant(axis.start)} UTC"
        lines.append((name, scale))
    if letters and recording.are_all("distinct", recording.events):
        keys = ", ".join(f"{letter} = {short(key, 30)}" for key, letter in islice(letters.items(), LEGEND))
        lines.append(("keys", f"{keys}, …" if len(letters) > LEGEND else keys))
    lines.append(("in all", recording.summary))
    return "\n".join(f"{name:<10} {text}" for name, text in lines)


def line(axis: Axis, elements: Iterable[Element], end: str = "") -> str:
    """Return one stream as a marble diagram of `COLUMNS` columns of equal length."""
    groups: list[tuple[int, list[Element]]] = []
    for element in sorted(elements):
        column = int(axis.share(element.at) * COLUMNS + 1e-6)
        # without a hyphen between them two elements would be read as one
        if groups and column <= groups[-1][0] + len(_token(groups[-1][1])):
            groups[-1][1].append(element)
        else:
            groups.append((column, [element]))
    text = ""
    for column, group in groups:
        text = text.ljust(column, "-") + _token(group)
    return text.ljust(COLUMNS, "-") + end


def _token(group: Sequence[Element]) -> str:
    texts = [element.text for element in group]
    if len(group) > GROUP or not all(texts):
        return f"{sum(element.many for element in group)}x"
    return f"({','.join(texts)})" if len(group) > 1 else texts[0]


def _all(recording: Recording, name: str, kept: Sequence[object], elements: Iterable[Element]) -> Iterator[Element]:
    """Yield the elements if all were kept, else the counts over time as whole numbers of the same sum."""
    if recording.are_all(name, kept):
        yield from elements
        return
    total = counted = 0.0
    for start, _, amount in recording.rates["received" if name == "distinct" else name]:
        total += amount
        if round(total - counted):
            yield Element(start, "", round(total - counted))
            counted += round(total - counted)


def _events(recording: Recording, letters: Mapping[Hashable, str]) -> Iterator[Element]:
    elements: list[Element] = []
    for event in recording.events:
        letter, more = letters.get(event.key, "?"), (event.count or 1) - 1
        elements.append(Element(within(event.window, event.first_seen), letter))
        if more:
            elements.append(Element(within(event.window, event.last_seen), f"{more if more > 1 else ''}{letter}", more))
    return _all(recording, "distinct", recording.events, elements)


def _windows(recording: Recording, letters: Mapping[Hashable, str], by_clock: bool) -> Iterator[Element]:
    names: dict[WindowMark, str] = {}
    for event in recording.events:
        names[event.window] = names.get(event.window, "") + letters.get(event.key, "?")
    for window in recording.windows:
        name = names.get(window, "")
        text = name if window.distinct == len(name) <= NAME else f"{window.distinct}"
        yield Element(window.at if by_clock else window.closed, f"[{text}]")
