"""Timestamps as events carry them: ISO 8601 in its variants, and epochs in seconds to nanoseconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime, tzinfo

from rxcompact.errors import TimeMapperError

# an epoch in a unit lies between that unit's 1e11 and 1e14: seconds up to the year 5138, milliseconds from 1973, …
UNITS = ((1e11, 1.0), (1e14, 1e3), (1e17, 1e6), (1e20, 1e9))
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICRO = 1_000_000
NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")
# more digits than datetime takes, or none after the point
FRACTION = re.compile(r"[.,](\d*)")
LEAP_SECOND = re.compile(r"(T?\d\d:?\d\d:?)60")
SHOWN = 60


def posix(value: object, timezone: tzinfo = UTC) -> float:
    """Return a timestamp's POSIX seconds, exact to the microsecond.

    Args:
        value: ISO 8601 with 0 to 9 digits of fraction, ``T`` or a space, and any offset or none; or an epoch, a number
            or a string of one, in seconds, milliseconds, microseconds or nanoseconds, told apart by its size.
        timezone: What a timestamp without an offset is in.

    Raises:
        TimeMapperError: when it is none. ``0001-01-01T00:00:00Z``, which Go writes for no time, is none.
    """
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return _unusual(value, timezone)
        # digits alone are an epoch, though ISO has a basic form of them
        return _epoch(float(value), value) if value.isdecimal() else _seconds(moment, timezone, value)
    if isinstance(value, float | int) and not isinstance(value, bool):
        return _epoch(value, value)
    raise _error(value)


def _unusual(value: str, timezone: tzinfo) -> float:
    text = value.strip()
    if NUMBER.fullmatch(text):
        return _epoch(float(text), value)
    leap = LEAP_SECOND.search(text)
    if leap:
        text = text.replace(leap.group(), leap.group(1) + "59", 1)
    text = FRACTION.sub(lambda found: "." + (found.group(1) + "000000")[:6], text, count=1)
    try:
        return _seconds(datetime.fromisoformat(text.upper()), timezone, value) + (1.0 if leap else 0.0)
    except ValueError:
        raise _error(value) from None


def _seconds(moment: datetime, timezone: tzinfo, value: object) -> float:
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone)
    try:
        since = moment - EPOCH
    except OverflowError:
        raise _error(value) from None
    if moment.year == 1:
        raise _error(value)
    return since.total_seconds()


def _epoch(number: float, value: object) -> float:
    for limit, unit in UNITS:
        if -limit < number < limit:
            return round(number * (MICRO / unit)) / MICRO if unit > MICRO else number / unit
    raise _error(value)


def _error(value: object) -> TimeMapperError:
    # repr of a huge integer raises
    text = "an integer of many digits" if isinstance(value, int) and abs(value) > 10**SHOWN else repr(value)
    return TimeMapperError(f"not a timestamp: {text if len(text) <= SHOWN else text[:SHOWN] + '…'}")
