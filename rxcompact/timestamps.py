"""Timestamps as events carry them: ISO 8601 in its variants, and epochs in seconds to nanoseconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from reprlib import Repr

from rxcompact.errors import TimeMapperError

# an epoch in a unit lies between that unit's 1e11 and 1e14: seconds up to the year 5138, milliseconds from 1973, …
UNITS = ((1e11, 1), (1e14, 1_000), (1e17, 1_000_000), (1e20, 1_000_000_000))
NANO = 1_000_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
INTEGER = re.compile(r"[+-]?[0-9]{1,25}")
NUMBER = re.compile(r"[+-]?[0-9]+\.[0-9]*")
# more digits than datetime takes, or none after the point
FRACTION = re.compile(r"[.,](\d*)")
# a fraction of a second; `datetime` reads one of an hour or a minute as that, too
SECONDS = re.compile(r"(:?\d\d){3}[.,]\d*[^.,]*$")
# ISO 8601 has these, `datetime` does not
LEAP_SECOND = re.compile(r"([T ]\d\d:?[0-5]\d:?)60", re.IGNORECASE)
MIDNIGHT = re.compile(r"([T ])24(?=:?00(:?00([.,]0+)?)?(?![\d:.,]))", re.IGNORECASE)
NOTHING, SECOND, DAY = timedelta(), timedelta(seconds=1), timedelta(days=1)
SHOWN = 60
_brief = Repr()
_brief.maxstring = _brief.maxother = _brief.maxlong = 2 * SHOWN
_show = _brief.repr


def posix(value: object, timezone: tzinfo = UTC) -> float:
    """Return a timestamp's POSIX seconds, exact to the microsecond.

    Args:
        value: ISO 8601 with 0 to 9 digits of fraction, ``T`` or a space, and any offset or none; or an epoch, a number
            or a string of one, in seconds, milliseconds, microseconds or nanoseconds, by its size.
        timezone: What a timestamp without an offset is in.

    Raises:
        TimeMapperError: when it is no timestamp, or ``0001-01-01T00:00:00Z``, which Go writes for no time.
    """
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return _unusual(value, timezone)
        if ("." in value or "," in value) and not SECONDS.search(value):
            raise not_a_time(value)
        # digits alone are an epoch, though ISO has a basic form of them
        return _epoch(int(value), value) if value.isdecimal() else _seconds(moment, timezone, value)
    if isinstance(value, float | int) and not isinstance(value, bool):
        return _epoch(value, value)
    raise not_a_time(value)


def _unusual(value: str, timezone: tzinfo) -> float:
    text = value.strip()
    if INTEGER.fullmatch(text):
        return _epoch(int(text), value)
    if NUMBER.fullmatch(text):
        return _epoch(float(text), value)
    text, leaps = LEAP_SECOND.subn(r"\g<1>59", text, count=1)
    text, midnights = MIDNIGHT.subn(r"\g<1>00", text, count=1)
    more = SECOND if leaps else DAY if midnights else NOTHING
    if FRACTION.search(text) and not SECONDS.search(text):
        raise not_a_time(value)
    text = FRACTION.sub(lambda found: "." + (found.group(1) + "000000")[:6], text, count=1)
    try:
        return _seconds(datetime.fromisoformat(text.upper()), timezone, value, more)
    except ValueError:
        raise not_a_time(value) from None


def _seconds(moment: datetime, timezone: tzinfo, value: object, more: timedelta = NOTHING) -> float:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone)
    try:
        since = moment - EPOCH + more
    except OverflowError:
        raise not_a_time(value) from None
    if moment.year == 1:
        raise not_a_time(value)
    return since.total_seconds()


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
    text = "an integer of many digits" if isinstance(value, int) and abs(value) > 10**SHOWN else _show(value)
    return TimeMapperError(f"not a timestamp: {text if len(text) <= SHOWN else text[:SHOWN] + '…'}")
