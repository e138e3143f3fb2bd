"""Timestamps as events carry them: ISO 8601 in its variants, epochs in seconds to nanoseconds, dates of logs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from itertools import repeat
from math import hypot, isfinite
from operator import itemgetter, sub
from typing import Any

import msgspec

from rxcompact.errors import ArgumentError, TimeMapperError
from rxcompact.format import short
from rxcompact.keys import plain

LONGEST = 64
"""Characters of a timestamp. What is longer is not looked at."""
SECONDS = 1e11
# an epoch in a unit lies between that unit's 1e11 and 1e14: seconds up to the year 5138, milliseconds from 1973, …
UNITS = ((SECONDS, 1), (1e14, 1_000), (1e17, 1_000_000), (1e20, 1_000_000_000))
NANO = 1_000_000_000
DAY = 86_400.0
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NAIVE_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - to subtract from others that have no zone, which is fast
YEAR_TWO = -62_104_060_800.0
SHOWN = 60  # characters of what is no time

NUMBER = re.compile(r"[+-]?[0-9]*+\.?[0-9]*+")
COMPACT = re.compile(r"(?:19[7-9]\d|2\d{3})\d{4}(?:\d{6})?", re.ASCII)
"""Digits that are a day, or a day and a time, since 1970 where they can be, and an epoch otherwise."""
_TIME = r"(?P<hour>\d\d):?(?P<minute>\d\d)(?::?(?P<second>\d\d)(?:[.,](?P<fraction>\d*))?)?"
_ZONE = r"(?: ?(?P<offset>[+-]\d\d(?::?\d\d){0,2})(?: [A-Za-z]{1,5})?| ?(?P<zone>[A-Za-z]{1,5}))?"
_WEEKDAY, _MONTH = r"(?:[A-Za-z]{3,9},? )?", r"(?P<month>[A-Za-z]{3})[a-z]*"
FORMS = (  # compiled where they are used: it takes long
    # ISO 8601, 2026-11-28 10:00:00.123 UTC (PostgreSQL), 2026/11/28 10:00:00 (nginx, Go)
    rf"(?P<year>\d{{4}})([-/]?)(?P<month>\d\d)\2(?P<day>\d\d)(?:[Tt _]{_TIME}{_ZONE})?",
    # 28/Nov/2026:10:00:00 +0100 (web servers), Sat, 28 Nov 2026 10:00:00 GMT (RFC 9110), Saturday, 28-Nov-26 …
    rf"{_WEEKDAY}(?P<day>\d\d?)[ /-]{_MONTH}[ /-](?P<year>\d{{4}}|\d\d)[ :]{_TIME}{_ZONE}",
    # Sat Nov 28 10:00:00 2026 (asctime; with UTC behind it osquery), Sat Nov 28 10:00:00 UTC 2026 (date)
    rf"{_WEEKDAY}{_MONTH} +(?P<day>\d\d?) {_TIME}{_ZONE} (?P<year>\d{{4}})(?: UTC)?",
    # Nov 28 2026 10:00:00 (Cisco), Saturday, November 28, 2026 10:00:00 GMT
    rf"{_WEEKDAY}{_MONTH} +(?P<day>\d\d?),? (?P<year>\d{{4}}),? {_TIME}{_ZONE}",
)
NAMED_ZONE = re.compile(r"([Zz]|[+-]\d\d:?\d\d)\[[\w/+-]+\]", re.ASCII)
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
# those of RFC 5322; other names of zones mean one thing here and another there
ZONES = {"Z": 0, "UT": 0, "UTC": 0, "GMT": 0, "EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7}  # fmt: skip  # noqa: E501
CENTURY = 69  # of years of two digits, the first that is one of 1900 (RFC 5322)

_read_iso = datetime.fromisoformat
_colons = itemgetter(slice(13, 17, 3))  # before minutes and seconds
WITH_SECONDS = len("2026-11-28T10:00:00")


def posix(value: object, timezone: tzinfo = UTC, format: str | None = None) -> float:  # noqa: A002 - of strptime
    """Return a timestamp's POSIX seconds, exact to the microsecond.

    Args:
        value: A text of at most 64 characters: ISO 8601 with any number of digits of fraction, ``T`` or a space, and
            any offset or none; a date of PostgreSQL, web servers, RFC 5322, RFC 9110 or asctime; eight digits for a
            day. Or an epoch, a number or the text of one, in seconds, milliseconds, microseconds or nanoseconds, by its
            size. Or a `datetime`, a `date`, or a stamp of numpy or pandas.
        timezone: The zone of a timestamp without an offset.
        format: That of a text, as for `datetime.strptime`.

    Raises:
        TimeMapperError: when it is no timestamp, or ``0001-01-01T00:00:00Z``, which Go writes for no time.
    """
    simple: Any = value if type(value) in (str, float, int) else plain(value)  # not a boolean
    try:
        if type(simple) is str:
            return _text(simple, timezone, format)
        if type(simple) in (float, int, Decimal):
            return _epoch(float(simple) if type(simple) is Decimal else simple)
        if hasattr(simple, "to_pydatetime"):  # a stamp of nanoseconds
            simple = simple.to_pydatetime(warn=False)
        if isinstance(simple, datetime):
            return _instant(simple, timezone)
        if isinstance(simple, date):
            return _instant(datetime(simple.year, simple.month, simple.day), timezone)  # noqa: DTZ001 - has it next
    except (ValueError, OverflowError):
        raise _not_a_time(value, f" of the format {format}" if format else "") from None
    raise _not_a_time(value)


def posix_of_usual(values: Sequence[Any], timezone: tzinfo) -> list[float]:
    """Return what `posix` returns for each of these values, in a fraction of the time.

    Raises whatever, unless they are all numbers of seconds, or all ISO 8601 with seconds.
    """
    try:
        times = msgspec.convert(values, list[float])  # no boolean, and no text
    except msgspec.ValidationError:
        if set(map(type, values)) != {str}:
            raise
        return _iso_of_usual(values, timezone)
    # no value is farther from 0 than all together are, which is a look in C
    if hypot(*times) < SECONDS or (min(times) > -SECONDS and max(times) < SECONDS and isfinite(sum(times))):
        return times
    raise ValueError("not of seconds")


def _iso_of_usual(values: Sequence[str], timezone: tzinfo) -> list[float]:
    lengths = set(map(len, values))
    length, text = min(lengths), "".join(values)
    # where all are as long they are looked at together, in a third of the time
    colons = text[13::length] + text[16::length] if len(lengths) == 1 else "".join(map(_colons, values))
    if colons.strip(":") or length < WITH_SECONDS or max(lengths) > LONGEST:
        raise ValueError("without seconds, or too long")
    moments = list(map(_read_iso, values))
    epoch = NAIVE_EPOCH if timezone is UTC and moments[0].tzinfo is None else EPOCH
    # raises where only one of both has a zone
    times = list(map(timedelta.total_seconds, map(sub, moments, repeat(epoch))))
    if min(times) > YEAR_TWO:
        return times
    raise ValueError("too early")


def check_format(format: str) -> None:  # noqa: A002
    """Raise ArgumentError for a format of `datetime.strptime` that cannot give an instant."""
    if type(format) is not str or not {"%Y", "%y", "%c", "%x", "%G"} & set(re.findall("%.", format)):
        raise ArgumentError("format", format, 'one of strptime with a year, such as "%d.%m.%Y %H:%M:%S"')
    try:
        datetime.strptime(datetime(2026, 11, 28, tzinfo=UTC).strftime(format), format)  # noqa: DTZ007 - is tried only
    except (ValueError, re.error) as error:
        raise ArgumentError("format", format, f"one that strptime takes ({error})") from None


def _text(value: str, timezone: tzinfo, format: str | None) -> float:  # noqa: A002
    if len(value) > LONGEST:
        raise _not_a_time(value, f" of at most {LONGEST} characters")
    if format is not None:
        return _instant(datetime.strptime(value.strip(), format), timezone)  # noqa: DTZ007 - has it next
    if value[13:14] == ":" == value[16:17]:  # with seconds, as most are
        with suppress(ValueError):
            return _instant(_read_iso(value), timezone)
    text = value.strip()
    if text[-1:] == "]":  # [28/Nov/2026:10:00:00 +0100] (Apache), 2026-11-28T10:00:00+01:00[Europe/Vienna] (RFC 9557)
        text = text[1:-1] if text[0] == "[" else NAMED_ZONE.sub(r"\1", text)
    if NUMBER.fullmatch(text):
        if COMPACT.fullmatch(text):
            with suppress(ValueError):
                return _instant(_read_iso(f"{text[:8]}T{text[8:] or '0000'}"), timezone)
        return _epoch(float(text) if "." in text else int(text))
    for form in FORMS:
        if found := re.fullmatch(form, text, re.ASCII):
            return _written(found, timezone)
    if set(text) & set(".,"):
        raise ValueError("`datetime` reads a fraction of an hour as one of a second")
    return _instant(_read_iso(text.upper()), timezone)


def _written(found: re.Match[str], timezone: tzinfo) -> float:
    offset, zone, month = found["offset"], found["zone"], found["month"].lower()
    if zone:
        if zone.upper() not in ZONES:
            raise _not_a_time(found.string, f": no zone {zone} is known")
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
    return _instant(moment, timezone) + leap + DAY * midnight


def _instant(moment: datetime, timezone: tzinfo) -> float:
    if moment.year == 1:
        raise ValueError("Go's no time")
    return ((moment if moment.tzinfo else moment.replace(tzinfo=timezone)) - EPOCH).total_seconds()


def _epoch(number: float) -> float:
    for limit, unit in UNITS:
        if -limit < number < limit:
            if unit == NANO:
                # cut to the microsecond, as nine digits of ISO are; a float is not exact enough for that
                number = (number // 1_000 if isinstance(number, int) else round(number / 1_000)) * 1_000
            return number / unit
    raise ValueError("out of range")


def _not_a_time(value: object, more: str = "") -> TimeMapperError:
    text = repr(value[:SHOWN]) if isinstance(value, str) else short(value)
    return TimeMapperError(f"not a timestamp{more}: {text if len(text) <= SHOWN else text[:SHOWN] + '…'}")
