"""csp on the same work. It reads the types of its nodes when they are defined, so annotations must be real here."""

# ruff: noqa: RET503

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import csp
from csp import ts
from measuring import WINDOW, Spent, clocked, key_of

START = datetime(2020, 1, 1)
STEP = timedelta(microseconds=1)


@csp.node
def first_of_chunks(chunk: ts[object], close: object, per_window: int) -> ts[int]:
    with csp.state():
        s_first: dict = {}
        s_chunks = 0

    if csp.ticked(chunk):
        setdefault = s_first.setdefault
        for event in chunk:
            setdefault(key_of(event), event)
        s_chunks += 1
        if s_chunks == per_window:
            closed = close(s_first.values())
            s_first = {}
            s_chunks = 0
            return closed


@csp.node
def first_of_events(event: ts[object], close: object, per_window: int) -> ts[int]:
    with csp.state():
        s_first: dict = {}
        s_events = 0

    if csp.ticked(event):
        s_first.setdefault(key_of(event), event)
        s_events += 1
        if s_events == per_window:
            closed = close(s_first.values())
            s_first = {}
            s_events = 0
            return closed


def _run(node: Any, items: list[Any], close: Callable[[Any], int], per_window: int) -> Spent:
    data = [(START + number * STEP, item) for number, item in enumerate(items)]

    @csp.graph
    def graph() -> ts[int]:
        return node(csp.curve(object, data), close, per_window)

    def run() -> int:
        with csp.memoize(False):  # it would walk through all the data to see if it knows it
            found = csp.run(graph, starttime=START, endtime=START + len(items) * STEP)
        return sum(closed for _, closed in found[0])

    return clocked(run)


def run_chunks(close: Callable[[Any], int], chunks: list[Any]) -> Spent:
    return _run(first_of_chunks, chunks, close, WINDOW // len(chunks[0]))


def run_events(close: Callable[[Any], int], events: list[Any], window: int = WINDOW) -> Spent:
    return _run(first_of_events, events, close, window)
