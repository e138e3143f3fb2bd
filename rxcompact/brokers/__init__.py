"""Beyond one process: events from a broker, which keeps them until they are settled.

The pipeline stays as it is; a durable source takes the place of another. Such a source follows the acknowledgement
contract (`Source`, `DurableSource`, `Closable`, `RawSource` of `rxcompact.contracts`):

- ``stream(demand)`` returns an Observable. It may be subscribed to again, after a restart or a failure, and
  acknowledgements that are outstanding stay valid: unsubscribing ends the fetching and nothing else. A failure goes to
  ``on_error``; the orchestrator reports it, waits and subscribes again.
- It emits `Chunk`: events, and an `Ack` that is settled, by a call on the loop, when each of them is published or a
  dead letter that was delivered. Then the message is acknowledged. A duplicate is settled with the event that survives.
  What is abandoned at a stop's deadline never is.
- `Intake` makes chunks of message bodies: it pushes them as there is capacity (a large message in parts), keeps the
  others, and puts small messages together. While it holds any, or ``demand.capacity()`` is 0, no more are fetched.
- `UnackedMessages` queues an acknowledgement for each message that is settled. For one that is held for long an "in
  progress" is sent, so that it is not delivered again. One that is delivered again all the same is not pushed again.
- ``aclose()`` is awaited first when the pipeline stops: it ends the fetching, and gives back what was not pushed.
  Acknowledgements go on while the pipeline drains. Then ``release()`` sends the replies that are left, gives back what
  was not settled, and disconnects.

The result is at-least-once: a worker that is killed has published what it has not acknowledged yet, and whoever gets
the message next publishes it again, merged perhaps with other events. `event_id` recognises it, on two conditions: the
birth is in the event (``time_mapper``), and windows are cut by it (``lateness``), so that only events of one bucket are
merged (``partial(event_id, timespan=…)``). What is delivered again is older than what comes with it: with a
``lateness`` shorter than the broker's ``ack_wait`` and the time in which a worker is replaced it is rejected as late.
Windows of arrival reject nothing, but give the same event another id each time.

Brokers: `rxcompact.brokers.jetstream` (extra ``nats``), `rxcompact.brokers.redis` (extra ``redis``).
"""

from rxcompact.brokers.identity import event_id
from rxcompact.brokers.intake import Intake
from rxcompact.brokers.unacked import UnackedMessages

__all__ = ["Intake", "UnackedMessages", "event_id"]
