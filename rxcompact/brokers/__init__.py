"""Beyond one process: events from a broker, which keeps them until they have met their ends.

The pipeline stays as it is; a durable source takes the place of another. What such a source has to do, and what is done
for it, is the ack contract:

- ``stream(demand)`` returns an Observable. It may be subscribed to again, after a restart or a failure, and acks
  that are outstanding then stay valid: unsubscribing ends the pulling and nothing else, the connection stays. A failure
  goes to ``on_error``; the orchestrator tells of it, waits and subscribes anew.
- A chunk is `Chunk`: events, and a `Ack` that is settled, by a call on the loop, when each of them has been
  published, or is a dead letter that was told of. Then the message is acknowledged. A suppressed duplicate meets its
  end with the one that survives. What is abandoned at a stop's deadline is never settled.
- `Intake` makes such chunks of message bodies: it pushes them as there is room (a message larger than all the room in
  parts), keeps the others, and puts small messages together, since an ack costs more than a small message. While
  it holds any (``len(intake)``), or ``demand.capacity()`` is 0, no more are asked for.
- A message that is held for long is kept from being delivered again, by whatever the broker has for it. One that comes
  again all the same while it is held is not pushed again: the broker may be answered where it came last.
- ``aclose()`` is awaited first when the pipeline stops: pull no more, return what was not pushed (``intake.leave()``).
  Acknowledgements go on while the pipeline drains. Then ``release()``: tell the broker what is still to be told, return
  what was not settled, disconnect.
- A true attribute ``raw`` says that events are JSON lines as bytes.

What follows from it is at-least-once: a worker that is killed has published what it has not acknowledged yet, and that
is published again, by whoever gets the message next, merged perhaps with other events. `event_id` recognises it, on two
conditions: the birth has to be in the event (``time_mapper``), and windows have to be cut by it (``lateness``), so that
only events of one bucket are merged (``partial(event_id, timespan=…)``). What is delivered again is older than what
comes with it: a ``lateness`` shorter than the broker's ``ack_wait`` and the time in which a worker is replaced makes
dead letters of it, "late". Windows of arrival know no such thing, but give the same event another id each time.

Brokers: `rxcompact.brokers.jetstream` (extra ``nats``), `rxcompact.brokers.redis` (extra ``redis``).
"""

from rxcompact.brokers.identity import event_id
from rxcompact.brokers.intake import Intake

__all__ = ["Intake", "event_id"]
