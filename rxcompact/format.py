"""Values as short, harmless text."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime
from math import isfinite
from reprlib import Repr
from typing import Any

# what XML 1.0 does not allow, not even escaped
_NOT_XML = "[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"  # compiled when it is used: it takes long
_URL = re.compile(r"\w+://[^\s'\"]+")
_SHORT = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_LONG = ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s"))
_reprs = Repr()
_reprs.maxdict = _reprs.maxlist = _reprs.maxtuple = 8
_reprs.maxstring = _reprs.maxother = 200

OUTCOMES = ("published", "expired", "failed", "dropped", "abandoned")
"""Outcomes, in the order in which displays list them."""


def escape(text: str) -> str:
    """Return text for XML and HTML, in elements and attributes."""
    from html import escape as escape_html  # noqa: PLC0415 - its tables take long to import

    return escape_html(re.sub(_NOT_XML, "\N{REPLACEMENT CHARACTER}", text))


def short(value: Any, length: int = 80) -> str:
    """Return a value on one line, as much of it as fits. Never raises, whatever the value's own ``__repr__`` does."""
    try:
        text: str = value
        if type(value) is not str or not value or not value.isprintable():
            text = " ".join(_reprs.repr(value).split())
            if not text.isprintable():  # neither a terminal nor XML takes everything
                text = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)
    except Exception as error:  # noqa: BLE001 - a display must not fail for what it shows
        text = f"<{type(value).__name__}: its repr raised {type(error).__name__}>"
    return text if len(text) <= length else text[: length - 1] + "…"


def duration(seconds: float) -> str:
    """Return seconds in the units that suit them: three digits, or two whole units.

    >>> [duration(seconds) for seconds in (0, 0.0125, 0.9996, 1.5, 144.6, 3_600, 100_000)]
    ['0 s', '12.5 ms', '1 s', '1.5 s', '2 min 25 s', '1 h', '1 d 4 h']
    """
    if not isfinite(seconds):
        return f"{seconds} s"
    size = abs(float(f"{seconds:.3g}"))
    for long, name, part, part_name in _LONG:
        if size >= long:
            units, parts = divmod(round(abs(seconds) / part), long // part)
            text = f"{units:,} {name} {parts} {part_name}" if parts else f"{units:,} {name}"
            return f"-{text}" if seconds < 0 else text
    unit, name = next((each for each in _SHORT if size >= each[0]), (1.0, "s"))
    return f"{seconds / unit:.3g} {name}"


def instant(seconds: float | None) -> str:
    """Return POSIX seconds as a date and time, UTC.

    >>> instant(1_700_000_000.25)
    '2023-11-14 22:13:20.250'
    """
    if seconds is None:
        return "-"
    try:
        moment = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):  # no date
        return f"{seconds:g}"
    return moment.strftime("%Y-%m-%d %H:%M:%S") + (f".{moment.microsecond // 1000:03}" if moment.microsecond else "")


def redacted(url: str, query: str = "") -> str:
    """Return a URL without user, password and query, even where a password has ``/``, ``?``, ``#`` or ``@`` in it.

    Args:
        query: What stands for the query.

    >>> redacted("http://user:pass/word@host:80/path?token=x"), redacted("user:p?w@host")
    ('http://host:80/path', '***')
    """
    scheme, slashes, rest = url.partition("://")
    if not slashes:
        scheme, rest = "", url
    place, *after = re.split("[?#]", rest, maxsplit=1)
    if "@" in "".join(after):  # of a password, or of a query
        return f"{scheme}{slashes}***"
    return scheme + slashes + place.rpartition("@")[2] + (query if after else "")


def counted(number: int, noun: str) -> str:
    """Return a number of things: "1 event", "2,000 events"."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def error_name(error: BaseException | None) -> str:
    """Return the type of an error, without its message, which may be secret."""
    return "" if error is None else type(error).__name__


def message_of(error: BaseException) -> str:
    """Return the message of an error; nothing where its class raises instead: a report must not fail for it."""
    with suppress(Exception):
        return str(error)
    return ""


def error_text(error: BaseException | None, length: int = 200) -> str:
    """Return what an error is and its message on one line, without credentials and queries of URLs.

    >>> error_text(OSError("cannot reach http://user:password@host/path?token=x"))
    'OSError: cannot reach http://host/path?…'
    """
    if error is None:
        return ""
    message = _URL.sub(lambda found: redacted(found[0], "?…"), message_of(error)[: 10 * length])
    return f"{error_name(error)}: {short(message, length)}" if message else error_name(error)


def service_name(stage: str, target: str) -> str:
    """Return a stage with the service that it calls, where that has a name."""
    return f"{stage} {target}".rstrip()
