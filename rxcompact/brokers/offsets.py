"""Messages that are acknowledged by committing an offset; which are settled behind it is committed beside it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import accumulate, chain, pairwise

from rxcompact.brokers.unacked import ACK, Identity, UnackedMessages

METADATA = re.compile(r"rxcompact(?: \d{1,18})+", re.ASCII)
NEVER = 1e9


class Offsets:
    """What is held of a partition: below ``end`` an offset that is not held is settled, or of no message.

    The first that is held is committed, with the lengths of runs that are held and settled by turns in the metadata:
    whoever has the partition next takes what was held.
    """

    full = False
    """Whether no more should be held, because of the metadata's length."""
    time = 0
    """Of the latest message that came."""

    def __init__(self, committed: int, metadata: str = "") -> None:
        runs = [int(run) for run in metadata.split()[1:]] if METADATA.fullmatch(metadata) else []
        bounds = list(pairwise(accumulate(runs, initial=committed)))
        self.held = dict.fromkeys(offset for bound in bounds[::2] for offset in range(*bound))  # ascending
        self.expected = set(self.held)  # those of them that have to be fetched
        self.end = bounds[-1][1] if bounds else committed
        self.committed = committed, metadata

    def resume(self, before: Offsets) -> None:
        """Go on with what this process held and settled when it had the partition before."""
        if before.committed[0] > self.committed[0]:
            return  # somebody set the position back, to have all of it again
        held = {offset for offset in self.held if offset >= before.end or offset in before.held}
        held |= {offset for offset in before.held if offset >= self.end or offset in self.held}
        self.expected = held - (before.held.keys() - before.expected)
        self.held = dict.fromkeys(sorted(held))
        self.end = max(self.end, before.end)

    @property
    def position(self) -> int:
        """Where to fetch from."""
        return min(self.expected, default=self.end)

    def take(self, offsets: Sequence[int]) -> Sequence[int]:
        """Hold the offsets of messages that came; return those that are neither held already nor settled."""
        if offsets and offsets[0] < self.end:
            offsets = [offset for offset in offsets if offset >= self.end or offset in self.expected]
        self.held.update(dict.fromkeys(offsets))
        self.expected.difference_update(offsets)
        return offsets

    def pass_to(self, position: int) -> int:
        """Expect nothing before a position; return how many offsets were: compacted, aborted or removed."""
        gone = [offset for offset in self.expected if offset < position]
        for offset in gone:
            del self.held[offset]
        self.expected.difference_update(gone)
        skipped = len(gone) + max(0, position - self.end)
        self.end = max(self.end, position)
        return skipped

    def to_commit(self, limit: int) -> tuple[int, str]:
        """Return an offset and its metadata; of what is settled as much as the limit has characters for."""
        committed = start = expected = next(iter(self.held), self.end)
        metadata = "rxcompact"
        for offset in chain(self.held, (self.end,)):
            if offset > expected:
                runs = f" {expected - start} {offset - expected}"
                if len(metadata) + len(runs) > limit:
                    break
                metadata, start = metadata + runs, offset
            expected = offset + 1
        self.full = len(metadata) > limit * 3 // 4
        return committed, metadata if start > committed else ""


class PartitionedMessages(UnackedMessages):
    """Messages of partitions, each by the number of its partition and its offset."""

    def __init__(self) -> None:
        super().__init__(0, NEVER)
        self.known: dict[int, Offsets] = {}  # of each partition that this process has, or has had
        self.owned: dict[int, Offsets] = {}

    def __len__(self) -> int:
        return sum(len(it.held) - len(it.expected) for it in self.known.values())

    def settle(self, identities: Iterable[Identity]) -> None:
        for partition, offset in identities:
            offsets = self.known[partition]
            offsets.held.pop(offset, None)
            if offsets.expected:
                offsets.expected.discard(offset)
        self._queue(ACK, [b"commit"])
        self._fewer.set()

    def give_back(self, identities: Iterable[Identity] | None = None) -> None:
        del identities  # nothing more is fetched: all of it is expected by whoever begins next
        for offsets in self.known.values():
            offsets.expected.update(offsets.held)
        self._fewer.set()
