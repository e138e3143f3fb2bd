"""The plain way to split an input into events, byte by byte: the definition that `Reader` is tested against."""

from __future__ import annotations

from collections.abc import Iterator

SPACE = b" \t\r\n"
DIGITS = b"0123456789"
LITERALS = (b"true", b"false", b"null")


class CutShortError(Exception):
    """The text ends in the middle of a value."""


class MalformedError(Exception):
    """It is not JSON, from a position on."""

    def __init__(self, position: int) -> None:
        self.position = position


class RefusedError(Exception):
    """The input is an array, and malformed."""


def skip(text: bytes, at: int, space: bytes = SPACE) -> int:
    while at < len(text) and text[at] in space:
        at += 1
    return at


def skip_marks(text: bytes, at: int) -> int:
    """Return the position behind white space of a line, byte order marks of joined files and separators of records."""
    while True:
        at = skip(text, at, b" \t\r\x1e")
        if not text.startswith(b"\xef\xbb\xbf", at):
            return at
        at += 3


def expect(text: bytes, at: int, wanted: bytes) -> int:
    """Return the position behind one of these bytes."""
    if at >= len(text):
        raise CutShortError
    if text[at] not in wanted:
        raise MalformedError(at)
    return at + 1


def end_of_string(text: bytes, at: int) -> int:
    at = expect(text, at, b'"')
    while True:
        if at >= len(text):
            raise CutShortError
        if text[at] < 0x20:
            raise MalformedError(at)
        if text[at] == ord('"'):
            return at + 1
        if text[at] == ord("\\"):
            at = expect(text, at + 1, b'"\\/bfnrtu')
            if text[at - 1] == ord("u"):
                for _ in range(4):
                    at = expect(text, at, b"0123456789abcdefABCDEF")
        else:
            at += 1


def end_of_number(text: bytes, at: int) -> int:
    at += text[at : at + 1] == b"-"
    first = at
    at = skip(text, at, DIGITS)
    if at == first or (text[first] == ord("0") and at > first + 1):
        raise MalformedError(at)
    if text[at : at + 1] == b".":
        fraction = at + 1
        at = skip(text, fraction, DIGITS)
        if at == fraction:
            raise MalformedError(at)
    if text[at : at + 1] in (b"e", b"E"):
        exponent = at + 1
        exponent += text[exponent : exponent + 1] in (b"+", b"-")
        at = skip(text, exponent, DIGITS)
        if at == exponent:
            raise MalformedError(at)
    return at


def end_of_value(text: bytes, at: int) -> int:
    """Return where a value ends, by RFC 8259; whatever the encoding of strings and the size of numbers."""
    at = skip(text, at)
    if at >= len(text):
        raise CutShortError
    if text[at] == ord('"'):
        return end_of_string(text, at)
    if text[at] in b"-0123456789":
        return end_of_number(text, at)
    if text[at] not in b"{[":
        for literal in LITERALS:
            if text.startswith(literal, at):
                return at + len(literal)
            if literal.startswith(text[at:]):
                raise CutShortError
        raise MalformedError(at)
    object_, close = text[at] == ord("{"), b"}" if text[at] == ord("{") else b"]"
    at = skip(text, at + 1)
    if text[at : at + 1] == close:
        return at + 1
    while True:
        if object_:
            at = expect(text, skip(text, end_of_string(text, skip(text, at))), b":")
        at = expect(text, skip(text, end_of_value(text, at)), b"," + close)
        if text[at - 1] == close[0]:
            return at


def end_of_element(text: bytes, at: int) -> int | None:
    """Return where an element of an array ends, by its brackets and strings alone; None where that does not show."""
    if text[at : at + 1] not in (b'"', b"{", b"["):
        end = at
        while end < len(text) and text[end] not in b' \t\r\n\x0b\x0c,:"{}[]':
            end += 1
        if end == at:
            raise MalformedError(at)
        return end
    depth = 0
    while at < len(text):
        if text[at] == ord('"'):
            at += 1
            while text[at : at + 1] != b'"':
                if at >= len(text) or text[at] == ord("\n"):
                    return None
                if text[at] == ord("\\") and text[at + 1 : at + 2] != b"\n":
                    at += 1
                at += 1
        elif text[at] in b"{[":
            depth += 1
        elif text[at] in b"}]":
            depth -= 1
        at += 1
        if depth == 0:
            return at
    return None


def elements(text: bytes, at: int) -> Iterator[tuple[bytes, int]]:
    """Yield the elements of an array, and where each ends; at last nothing, and where the array ends."""
    at = skip(text, at + 1)
    if text[at : at + 1] == b"]":
        yield b"", at + 1
        return
    while True:
        if at >= len(text):
            raise MalformedError(len(text))
        end = end_of_element(text, at)
        after = len(text) if end is None else skip(text, end)
        if end is None or after == len(text):  # the input ends here
            try:
                end_of_value(text, at)
            except CutShortError:
                pass
            raise MalformedError(len(text))
        yield text[at:end], after
        if text[after] not in b",]":
            raise MalformedError(after)
        if text[after] == ord("]"):
            yield b"", after + 1
            return
        at = skip(text, after + 1)


def split_input(text: bytes) -> list[bytes]:
    """Return the events of an input, malformed ones included.

    Raises:
        RefusedError: when it is an array and malformed.
    """
    text = text.removeprefix(b"\xef\xbb\xbf")
    found: list[bytes] = []
    at = alone = 0
    array = begun = False  # the input began with an array, whose line is not over; it began
    while at < len(text):
        line = at
        newline = text.find(b"\n", line)
        eol = len(text) if newline < 0 else newline
        here: list[bytes] = []
        damage = None
        while True:
            at = skip_marks(text, at)
            if at == len(text) or text[at] == ord("\n"):
                found += here
                array = array and not (begun or here)
                begun = begun or bool(here)
                at += 1
                break
            if text[at] == ord("[") and line >= alone:
                found += here
                array = not here and (array or not begun)
                here, begun = [], True
                try:
                    for element, end in elements(text, at):
                        if element:
                            found.append(element)
                        at = end
                except MalformedError as error:
                    if array:
                        raise RefusedError from None
                    # the rest of the line; those up to the damage are read alone
                    alone = max(alone, error.position)
                    newline = text.find(b"\n", at)
                    stop = len(text) if newline < 0 else newline
                    found.append(b"\0")
                    at = stop
                line = at
                newline = text.find(b"\n", line)
                eol = len(text) if newline < 0 else newline
                continue
            try:
                limit = eol if line < alone else len(text)
                end = end_of_value(text[:limit], at)
            except MalformedError as error:
                damage = error.position
            except CutShortError:
                damage = limit
            if damage is not None:
                break
            if end > eol:  # it goes on in other lines, up to the end of its last one
                newline = text.find(b"\n", end)
                eol = len(text) if newline < 0 else newline
            value = text[at:end]
            here += [element for element, _ in elements(value, 0) if element] if value[:1] == b"[" else [value]
            at = end
        if damage is not None:
            if array:
                raise RefusedError
            begun = True
            newline = text.find(b"\n", line)
            stop = len(text) if newline < 0 else newline
            piece = text[line:stop].strip(SPACE)
            found.append(b"\0" if piece.startswith(b"[") else piece)
            alone = max(alone, damage)
            at = stop + 1
    return found
