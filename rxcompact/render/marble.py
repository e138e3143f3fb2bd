"""Marble diagrams as text, in the syntax of RxPY's `from_marbles`."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from rxcompact.render.axis import Axis, axes, symbols, within
from rxcompact.render.marks import OUTCOMES, Marks, WindowMark
from rxcompact.render.words import duration, instant, short

COLUMNS = 88
GROUP = 4
"""Elements of a group that are told one by one; of more only the number is."""
NAME = 8
"""Distinct events of a window that are told one by one."""
LEGEND = 12
"""Keys that are told."""
ENDS = {"stopped": "|", "failed": "#"}


class Element(NamedTuple):
    """Something at an instant, which stands for so many; without a text for a number alone."""

    at: float
    text: str
    many: int = 1


def marble(marks: Marks) -> str:
    """Return a recording as marble diagrams, a line for each thing there is to see.

    ::

        events     -a-b-(a,c)---2b--|    a letter is an event; 2b: b came twice more until then
        windows    -----[ab]----[bc]|    an element is a window, of these distinct events
        retries    ------e1---------|    the first attempt of enrich for some event failed
        published  -------a------b--|    and so on for each outcome

    What is closer together than its text is long is a group, at the time of its first: ``(a,b)``, or ``9x`` for many.
    """
    letters = symbols(marks)
    upper, lower = axes(marks)
    lanes = [("events", upper, _events(marks, letters)), ("windows", upper, _windows(marks, letters, upper == lower))]
    if marks.totals.get("retries"):
        retries = (Element(mark.at, f"{mark.stage[:1]}{mark.attempt}") for mark in marks.retries)
        lanes.append(("retries", lower, _all(marks, "retries", marks.retries, retries)))
    for outcome in OUTCOMES:
        if outcome == "published" or marks.totals.get(outcome):
            ends = marks.ends(outcome)
            elements = (Element(mark.at, letters.get(mark.key, "?")) for mark in ends)
            lanes.append((outcome, lower, _all(marks, outcome, ends, elements)))
    end = ENDS.get(marks.states[-1].state, "") if marks.states else ""
    lines = [f"{name:<10} {line(axis, elements, end)}" for name, axis, elements in lanes]
    scales = {"time": upper} if upper == lower else {"event time": upper, "clock": lower}
    lines += [f"{name:<10} {_scale(axis)}" for name, axis in scales.items()]
    numbers = ", ".join(f"{name} {number:,}" for name, number in marks.totals.items() if number)
    return "\n".join([*lines, *_legend(marks, letters), f"{'in all':<10} {numbers or 'nothing yet'}"])


def line(axis: Axis, elements: Iterable[Element], end: str = "") -> str:
    """Return one stream as a marble; its columns are of equal length, and as many as there is room for."""
    text, start, group = "", 0, list[Element]()
    for element in sorted(elements):
        column = int(axis.share(element.at) * COLUMNS + 1e-6)
        # without a hyphen between them two elements would be read as one
        if group and column <= start + len(_token(group)):
            group.append(element)
            continue
        text += _token(group)
        text += "-" * (column - len(text))
        start, group = column, [element]
    text += _token(group)
    return text + "-" * (COLUMNS - len(text)) + end


def _token(group: Sequence[Element]) -> str:
    if len(group) > GROUP or not all(element.text for element in group):
        return f"{sum(element.many for element in group)}x"
    return (
        f"({','.join(element.text for element in group)})" if len(group) > 1 else "".join(each.text for each in group)
    )


def _all(marks: Marks, name: str, kept: Sequence[object], elements: Iterable[Element]) -> Iterable[Element]:
    """Return the elements, if they are all there were, else the numbers."""
    if marks.are_all(name, kept):
        return elements
    return [Element(start, "", round(amount)) for start, _, amount in marks.rates[name] if amount >= 1]


def _events(marks: Marks, letters: Mapping[Hashable, str]) -> Iterable[Element]:
    if not marks.are_all("distinct", marks.events):
        return [Element(window.opened, "", window.received) for window in marks.windows]
    elements: list[Element] = []
    for event in marks.events:
        letter, more = letters.get(event.key, "?"), (event.count or 1) - 1
        elements.append(Element(within(event.window, event.first_seen), letter))
        if more:
            elements.append(Element(within(event.window, event.last_seen), f"{more if more > 1 else ''}{letter}", more))
    return elements


def _windows(marks: Marks, letters: Mapping[Hashable, str], by_clock: bool) -> Iterable[Element]:
    names: dict[WindowMark, str] = {}
    for event in marks.events:
        names[event.window] = names.get(event.window, "") + letters.get(event.key, "?")
    for window in marks.windows:
        name = names.get(window, "")
        text = name if window.distinct == len(name) <= NAME else f"{window.distinct}"
        yield Element(window.at if by_clock else window.closed, f"[{text}]")


def _scale(axis: Axis) -> str:
    return f"a column is {duration(axis.length / COLUMNS)}, the first is at {instant(axis.start)} UTC"


def _legend(marks: Marks, letters: Mapping[Hashable, str]) -> list[str]:
    if not letters or not marks.are_all("distinct", marks.events):
        return []
    told = ", ".join(f"{letter} = {short(key, 30)}" for key, letter in islice(letters.items(), LEGEND))
    return [f"{'keys':<10} {told}{', …' if len(letters) > LEGEND else ''}"]
