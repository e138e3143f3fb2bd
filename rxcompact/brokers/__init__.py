"""Beyond one process: events from a broker, which keeps them until they are settled.

The pipeline stays as it is; a durable source takes the place of another. `BrokerSource` is all of one but what a broker
adds: how to bind to it, to fetch messages, to send replies, to disconnect.

- It may be subscribed to again, after a restart or a failure, and acknowledgements that are outstanding stay valid:
  unsubscribing ends the fetching and nothing else. A failure goes to ``on_error``; the orchestrator reports it, waits
  and subscribes again.
- It pushes `Chunk`: the events of small messages together, those of a large one in parts, as there is capacity. While
  some wait for it no more are fetched. Their `Ack` is settled when each of them is published or a dead letter that was
  delivered, a duplicate with the event that survives; what is abandoned at a stop's deadline never is.
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

Brokers: `rxcompact.brokers.jetstream` (extra ``nats``), `rxcompact.brokers.redis` (extra ``redis``),
`rxcompact.brokers.kafka` (extra ``kafka``).
"""

from rxcompact.brokers.source import BrokerSource
from rxcompact.brokers.unacked import UnackedMessages
from rxcompact.sinks.encoding import event_id

__all__ = ["BrokerSource", "UnackedMessages", "event_id"]
