"""Timestamps as events carry them: ISO 8601 in its variants, epochs in seconds to nanoseconds, dates of logs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import partial
from itertools import repeat
from math import isfinite
from operator import itemgetter, sub
from reprlib import Repr
from typing import Any

from rxcompact.errors import ArgumentError, TimeMapperError
from rxcompact.keys import plain

LONGEST = 64
"""Characters of a timestamp. What is longer is not looked at."""
SECONDS = 1e11
"""An epoch below is in seconds, up to the year 5138."""
# an epoch in a unit lies between that unit's 1e11 and 1e14: seconds up to the year 5138, milliseconds from 1973, …
UNITS = ((SECONDS, 1), (1e14, 1_000), (1e17, 1_000_000), (1e20, 1_000_000_000))
NANO = 1_000_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NAIVE_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - to subtract from others that have no zone, which is fast
YEAR_TWO = -62_104_060_800.0
NOTHING = timedelta()
SHOWN = 60  # characters of what is no time

NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?|[0-9.]*")
COMPACT = re.compile(r"(?:19[7-9]\d|2\d{3})\d{4}(?:\d{6})?", re.ASCII)
"""Digits that are a day, or a day and a time, since 1970 where they can be, and an epoch otherwise."""
_TIME = r"(?P<hour>\d\d):?(?P<minute>\d\d)(?::?(?P<second>\d\d)(?:[.,](?P<fraction>\d*))?)?"
_ZONE = r"(?: ?(?P<offset>[+-]\d\d(?::?\d\d){0,2})(?: [A-Za-z]{1,5})?| ?(?P<zone>[A-Za-z]{1,5}))?"
_WEEKDAY, _MONTH = r"(?:[A-Za-z]{3,9},? )?", r"(?P<month>[A-Za-z]{3})[a-z]*"
FORMS = [
    re.compile(pattern, re.ASCII)
    for pattern in (
        # ISO 8601, 2026-11-28 10:00:00.123 UTC (PostgreSQL), 2026/11/28 10:00:00 (nginx, Go)
        rf"(?P<year>\d{{4}})([-/]?)(?P<month>\d\d)\2(?P<day>\d\d)(?:[Tt _]{_TIME}{_ZONE})?",
        # 28/Nov/2026:10:00:00 +0100 (web servers), Sat, 28 Nov 2026 10:00:00 GMT (RFC 9110), Saturday, 28-Nov-26 …
        rf"{_WEEKDAY}(?P<day>\d\d?)[ /-]{_MONTH}[ /-](?P<year>\d{{4}}|\d\d)[ :]{_TIME}{_ZONE}",
        # Sat Nov 28 10:00:00 2026 (asctime), Sat Nov 28 10:00:00 UTC 2026 (date)
        rf"{_WEEKDAY}{_MONTH} +(?P<day>\d\d?) {_TIME}{_ZONE} (?P<year>\d{{4}})",
    )
]
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
# those of RFC 5322; other names of zones mean one thing here and another there
ZONES = {"Z": 0, "UT": 0, "UTC": 0, "GMT": 0, "EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7}  # fmt: skip  # noqa: E501
CENTURY = 69
"""Of years of two digits, the first that is one of 1900 (RFC 5322)."""

_read_iso = datetime.fromisoformat
_hour_colon, _minute_colon = itemgetter(13), itemgetter(16)
_brief = Repr()
_brief.maxstring = _brief.maxother = _brief.maxlong = 2 * SHOWN


def posix(value: object, timezone: tzinfo = UTC) -> float:
    """Return a timestamp's POSIX seconds, exact to the microsecond.

    Args:
        value: A text of at most 64 characters: ISO 8601 with any number of digits of fraction, ``T`` or a space, and
            any offset or none; a date of PostgreSQL, web servers, RFC 5322, RFC 9110 or asctime; eight digits for a
            day. Or an epoch, a number or the text of one, in seconds, milliseconds, microseconds or nanoseconds, by its
            size. Or a `datetime`, a `date`, or a stamp of numpy or pandas.
        timezone: The zone of a timestamp without an offset.

    Raises:
        TimeMapperError: when it is no timestamp, or ``0001-01-01T00:00:00Z``, which Go writes for no time.
    """
    kind = type(value)
    if kind is str:
        return _text(value, timezone)  # type: ignore[arg-type]
    if kind is float or kind is int:
        return _epoch(value, value)  # type: ignore[arg-type]
    simple: Any = plain(value)
    if hasattr(simple, "to_pydatetime"):  # a stamp of nanoseconds
        simple = simple.to_pydatetime(warn=False)
    if isinstance(simple, datetime):
        return _seconds(simple, NOTHING, timezone, value)
    if isinstance(simple, date):
        return _seconds(datetime(simple.year, simple.month, simple.day), NOTHING, timezone, value)  # noqa: DTZ001 - has it next
    if type(simple) in (str, float, int):
        return posix(simple, timezone)
    raise not_a_time(value)


def posix_of_usual(values: Sequence[Any], kinds: set[type], timezone: tzinfo) -> Sequence[float]:
    """Return what `posix` returns for each of these values, of these types, in a fraction of the time.

    Raises whatever, unless they are all numbers of seconds, or all ISO 8601 with seconds.
    """
    if kinds == {str} and set(map(_hour_colon, values)) == set(map(_minute_colon, values)) == {":"}:
        moments = list(map(_read_iso, values))
        epoch = NAIVE_EPOCH if timezone is UTC and moments[0].tzinfo is None else EPOCH
        # raises where only one of both has a zone
        times = list(map(timedelta.total_seconds, map(sub, moments, repeat(epoch))))
        if min(times) > YEAR_TWO and max(map(len, values)) <= LONGEST:
            return times
    elif kinds <= {float, int} and min(values) > -SECONDS and max(values) < SECONDS and isfinite(sum(values)):
        return values if kinds == {float} else list(map(float, values))
    raise ValueError("unusual")


def parser(timezone: tzinfo = UTC, format: str | None = None) -> Callable[[object], float]:  # noqa: A002
    """Return a `posix` for texts of this format, where one is given.

    Args:
        timezone: The zone of a timestamp without an offset.
        format: As for `datetime.strptime`: ``"%d.%m.%Y %H:%M:%S"``.

    Raises:
        ArgumentError: for a format that cannot give an instant.
    """
    if format is None:
        return partial(posix, timezone=timezone)
    if type(format) is not str or not {"%Y", "%y", "%c", "%x", "%G"} & set(re.findall("%.", format)):
        raise ArgumentError("format", format, 'one of strptime with a year, such as "%d.%m.%Y %H:%M:%S"')
    try:
        datetime.strptime(datetime(2026, 11, 28, tzinfo=UTC).strftime(format), format)  # noqa: DTZ007 - is tried only
    except (ValueError, re.error) as error:
        raise ArgumentError("format", format, f"one that strptime takes ({error})") from None

    def parse(value: object) -> float:
        if not isinstance(value, str):
            return posix(value, timezone)
        if len(value) > LONGEST:
            raise not_a_time(value)
        try:
            return _seconds(datetime.strptime(value.strip(), format), NOTHING, timezone, value)  # noqa: DTZ007 - has it next
        except ValueError:
            raise TimeMapperError(f"{not_a_time(value)} of the format {format}") from None

    return parse


def _text(value: str, timezone: tzinfo) -> float:
    if len(value) > LONGEST:
        raise TimeMapperError(f"not a timestamp: a text of {len(value)} characters, {value[:20]!r}…")
    if len(value) > 16 and value[13] == ":" == value[16]:  # noqa: PLR2004 - with seconds, as most are
        with suppress(ValueError):
            return _seconds(_read_iso(value), NOTHING, timezone, value)
    text = value.strip()
    if NUMBER.fullmatch(text):
        if COMPACT.fullmatch(text):
            with suppress(ValueError):
                return _seconds(_read_iso(f"{text[:8]}T{text[8:] or '0000'}"), NOTHING, timezone, value)
        with suppress(ValueError):
            return _epoch(float(text) if "." in text else int(text), value)
        raise not_a_time(value)
    found = next(filter(None, (form.fullmatch(text) for form in FORMS)), None)
    with suppress(ValueError):
        if found is not None:
            return _seconds(*_written(found, value), timezone, value)
        if not set(text) & set(".,"):  # `datetime` reads a fraction of an hour as one of a second
            return _seconds(_read_iso(text.upper()), NOTHING, timezone, value)
    raise not_a_time(value)


def _written(found: re.Match[str], value: object) -> tuple[datetime, timedelta]:
    """Return a moment, and how much later ISO 8601 has it: a leap second, or 24:00."""
    offset, zone, month = found["offset"], found["zone"], found["month"].lower()
    if zone:
        if zone.upper() not in ZONES:
            raise TimeMapperError(f"{not_a_time(value)}: no zone {zone} is known")
        offset = f"{ZONES[zone.upper()]:+03}:00"
    year, hour, minute, second = (int(found[name] or 0) for name in ("year", "hour", "minute", "second"))
    if len(found["year"]) == len("26"):
        year += 1900 if year >= CENTURY else 2000
    micro = int(f"{found['fraction'] or ''}000000"[:6])
    leap = second == 60  # noqa: PLR2004
    midnight = hour == 24 and not (minute or second or micro)  # noqa: PLR2004
    day, month = int(found["day"]), MONTHS.index(month) + 1 if month in MONTHS else int(month)
    zone = _read_iso(f"2000-01-01T00:00{offset}").tzinfo if offset else None
    moment = datetime(year, month, day, 0 if midnight else hour, minute, second - leap, micro, zone)
    return moment, timedelta(days=midnight, seconds=leap)


def _seconds(moment: datetime, more: timedelta, timezone: tzinfo, value: object) -> float:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone)
    if moment.year > 1:
        with suppress(OverflowError):
            return (moment - EPOCH + more if more else moment - EPOCH).total_seconds()
    raise not_a_time(value)


def _epoch(number: float, value: object) -> float:
    for limit, unit in UNITS:
        if -limit < number < limit:
            if unit == NANO:
                # cut to the microsecond, as nine digits of ISO are; a float is not exact enough for that
                number = (number // 1_000 if isinstance(number, int) else round(number / 1_000)) * 1_000
            return number / unit
    raise not_a_time(value)


def not_a_time(value: object) -> TimeMapperError:
    """Return the error for a value that is no time; the message shows at most 60 characters of it."""
    # repr of a huge integer raises, and that of a deep list recurses
    text = "an integer of many digits" if isinstance(value, int) and abs(value) > 10**SHOWN else _brief.repr(value)
    return TimeMapperError(f"not a timestamp: {text if len(text) <= SHOWN else text[:SHOWN] + '…'}")
