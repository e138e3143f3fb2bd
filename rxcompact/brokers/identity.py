"""What makes a distinct event recognisable when it is published twice."""

from __future__ import annotations

from rxcompact.clock import Seconds, seconds
from rxcompact.events import Batch, Compacted


def event_id(compacted: Compacted, timespan: Seconds | None = None) -> str:
    """Return what is the same in every process for the same key and birth, whatever else was merged with it.

    A message that is delivered again, to a worker that knows nothing of the first time, may be merged with others. Its
    id is the same where births are in the events (``time_mapper``); by arrival every delivery has another.

    Args:
        compacted: The event.
        timespan: Of two births in the same bucket of this many seconds, aligned to the epoch, make one.
    """
    born = compacted.first_seen
    if timespan is not None and born is not None:
        born = born // seconds("timespan", timespan)
    return Batch((Compacted(compacted.key, None, None, born),)).idempotency_key
