"""Which fields make a good key: found in a sample of events, by what each would remove and what it would mix."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice
from operator import attrgetter
from typing import Any, TypeAlias

from rxcompact.errors import DecodeError
from rxcompact.fields import map_each, members
from rxcompact.format import short

MASKS: Mapping[str, str] = {
    "uuid": r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b",
    "address": r"\b(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?\b|\b(?:[0-9a-fA-F]{1,4}:){3,7}[0-9a-fA-F]{1,4}\b",
    "id": r"\b(?=[0-9a-zA-Z]*\d)(?=[0-9a-zA-Z]*[a-zA-Z])[0-9a-zA-Z]{8,}\b",
    "number": r"\b\d+(?:\.\d+)?",
}
"""What differs in messages that are of one kind, in the order in which it is replaced."""
Column: TypeAlias = Sequence[Any]
SAMPLE, MOST_FIELDS, MOST_KEYS, EXAMPLES = 5000, 10, 3, 3
TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d|\d\d/\w{3}/\d{4}:\d\d")
ID = re.compile(rf"(?:{MASKS['uuid']}|{MASKS['id']})")
EPOCH = (1e9, 5e18)  # seconds to nanoseconds of this century
_mixed = attrgetter("mixed")
MANY, NEARLY_ALL, SAME, NUMBERS = 0.1, 0.9, 0.99, 20  # shares of the sample; different numbers


def mask(text: str, masks: Mapping[str, str] = MASKS) -> str:
    """Return a message with what differs replaced by its name.

    >>> mask("disk of 10.0.0.7:9100 is 93.5% full, request 8f14e45fceea167a")
    'disk of <address> is <number>% full, request <id>'
    """
    for name, pattern in masks.items():
        text = re.sub(pattern, f"<{name}>", text)
    return text


@dataclass(frozen=True, slots=True)
class Example:
    """Events of a sample that would be merged."""

    key: tuple[Any, ...]
    count: int
    differ: Mapping[str, int]
    """Fields in which they differ, and how many values each has."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A key that could be used."""

    fields: tuple[str, ...]
    reduction: float
    """Share of the sample's events that would be duplicates, were it one window."""
    mixed: float
    """Share of events that differ, in a field that is not excluded, from most of those they would be merged with."""
    examples: Sequence[Example] = ()


@dataclass(frozen=True, slots=True, repr=False)
class Suggestion:
    """What `suggest` found; it shows itself."""

    events: int
    candidates: Sequence[Candidate]
    """The best first."""
    excluded: Mapping[str, str]
    """Fields that should not be in a key, and why."""
    masked: Sequence[str]
    """Fields whose messages were compared by `mask`."""

    def __repr__(self) -> str:
        lines = [f"keys for {self.events:,} events: share removed, share that would be mixed up"]
        for row in self.candidates:
            lines.append(f"  {row.reduction:6.1%} {row.mixed:6.1%}  {', '.join(row.fields)}")
            lines += [f"{'':19}{line}" for line in map(_line, row.examples)]
        lines += [f"  not {name}: {why}" for name, why in self.excluded.items()]
        return "\n".join([*lines, *(f"  {name}: compared by rxcompact.suggest.mask" for name in self.masked)])


def _line(example: Example) -> str:
    differ = ", ".join(f"{name} ({many})" for name, many in islice(example.differ.items(), 4))
    return f"{example.count:,} × {short(example.key, 60)}{f' differ in {differ}' if differ else ''}"  # noqa: RUF001


def suggest(
    events: Iterable[Any], *, max_mixed: float = 0.15, masks: Mapping[str, str] = MASKS, sample: int = SAMPLE
) -> Suggestion:
    """Return the fields that make a good key: of those that mix up few different events, what removes most.

    Times, ids, counters and measurements are excluded; numbers, addresses and ids in messages are masked.

    Args:
        events: Dicts, objects or JSON lines; the first ``sample`` of them are looked at.
        max_mixed: The share of events that the best key may mix up with others.
        masks: Regular expressions by the name that replaces what they match.

    Cost:
        About a second for 5,000 events of ten fields.
    """
    found, _ = map_each(members, islice(events, sample), DecodeError)
    rows = [_flat(event) for event in found if isinstance(event, Mapping)]
    columns = {name: [row.get(name) for row in rows] for name in dict.fromkeys(name for row in rows for name in row)}
    excluded = {name: why for name, column in columns.items() if (why := _why_not(column))}
    kept = {name: column for name, column in columns.items() if name not in excluded}
    masked = [name for name, column in kept.items() if _is_message(column)]
    for name, column in list(kept.items()):
        if name in masked:
            kept[name] = [mask(each, masks) if isinstance(each, str) else each for each in column]
        elif _is_id(column):
            excluded[name] = "an id"
        elif not isinstance(next(filter(None, column), None), str) and (same := _same(name, kept)):
            excluded[name] = f"goes with {same}"
        if name in excluded:
            del kept[name]
    fields = sorted(kept, key=lambda name: -len(set(kept[name])))[:MOST_FIELDS]
    fields = [name for name in kept if name in fields]
    found = [_judged(names, kept) for size in range(1, MOST_KEYS + 1) for names in combinations(fields, size)]
    best = min(found, key=_mixed, default=None)
    while best is not None and best.mixed > max_mixed and len(best.fields) < len(fields):
        found += (wider := [_judged((*best.fields, name), kept) for name in fields if name not in best.fields])
        best = min(wider, key=_mixed)

    def rank(each: Candidate) -> tuple[Any, ...]:
        bad = each.mixed > max_mixed
        # of keys that are worth about the same the one with fewer fields
        return bad, -round(each.reduction * (1 - bad * each.mixed), 2), len(each.fields), each.mixed

    chosen: list[Candidate] = []
    for each in sorted(found, key=rank):
        if len(chosen) < MOST_KEYS and not any(set(other.fields) <= set(each.fields) for other in chosen):
            chosen.append(replace(each, examples=_examples(each.fields, kept)))
    return Suggestion(len(rows), chosen, excluded, masked)


def _flat(event: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return members by their paths; lists as JSON, so that they can be compared."""
    flat: dict[str, Any] = {}
    for name, value in event.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = json.dumps(value, default=str) if isinstance(value, list) else value
    return flat


def _why_not(column: Column) -> str:
    """Return why a field should be in no key by its type; nothing if it may be."""
    values = [value for value in column if value is not None]
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    texts = [value for value in values if isinstance(value, str)]
    different, enough = len(set(column)), NEARLY_ALL * len(values)
    if different < 2:  # noqa: PLR2004
        return "the same in all"
    if len(numbers) > enough:
        many = different > MANY * len(column)
        if many and EPOCH[0] < min(numbers) and max(numbers) < EPOCH[1]:
            return "a time"
        measured = any(not float(number).is_integer() for number in numbers)
        return "a counter or a measurement" if measured or different > NUMBERS else ""
    kinds = {"a time": TIME.match, "a list": re.compile(r"\[").match}
    return next((kind for kind, match in kinds.items() if len([*filter(match, texts)]) > enough), "")


def _is_id(column: Column) -> bool:
    texts = [value for value in column if isinstance(value, str)]
    different, size = len(set(texts)), len(column)
    looks = len([*filter(ID.fullmatch, texts)]) > NEARLY_ALL * len(texts)
    return different > NEARLY_ALL * size or (different > MANY * size and looks)


def _is_message(column: Column) -> bool:
    """Return whether masks make few texts of many, in which there are words."""
    texts = {value for value in column if isinstance(value, str)}
    worded = [text for text in texts if " " in text]
    return len(worded) > len(texts) / 2 and len(set(map(mask, texts))) <= len(texts) / 2


def _same(name: str, columns: Mapping[str, Column]) -> str | None:
    """Return another field from which this one follows, and that follows from this one."""
    mine = columns[name]
    others = (other for other, column in columns.items() if other != name and _purity(mine, column) > SAME)
    return next((other for other in others if _purity(columns[other], mine) > SAME), None)


def _purity(keys: Column, values: Column) -> float:
    """Return the share of events whose value is the most frequent one of their key."""
    most: dict[Any, int] = {}
    for (key, _), many in Counter(zip(keys, values, strict=True)).items():
        most[key] = max(most.get(key, 0), many)
    return sum(most.values()) / len(keys)


def _judged(names: Sequence[str], columns: Mapping[str, Column]) -> Candidate:
    keys = list(zip(*(columns[name] for name in names), strict=True))
    everything = list(zip(*columns.values(), strict=True))
    return Candidate(tuple(names), 1 - len(set(keys)) / len(keys), 1 - _purity(keys, everything))


def _examples(names: Sequence[str], columns: Mapping[str, Column]) -> list[Example]:
    keys = list(zip(*(columns[name] for name in names), strict=True))
    found: list[Example] = []
    for key, count in Counter(keys).most_common(EXAMPLES):
        places = [at for at, each in enumerate(keys) if each == key]
        values = {name: len({column[at] for at in places}) for name, column in columns.items()}
        found.append(Example(key, count, {name: many for name, many in values.items() if many > 1}))
    return found
