"""Passive listeners."""

from rxcompact.observers.counters import Counters
from rxcompact.observers.hub import Hub
from rxcompact.observers.log import LogObserver

__all__ = ["Counters", "Hub", "LogObserver"]
