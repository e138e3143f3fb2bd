"""Messages that are acknowledged by committing an offset; which are settled behind it is committed beside it."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any

from rxcompact.brokers.unacked import ACK, UnackedMessages

NEVER = 1e9
METADATA = re.compile(r"rxcompact(?: \d{1,18})+", re.ASCII)


class Ranges:
    """Offsets: all below the ``first`` that is missing, and ranges ``behind`` it, with a gap before each."""

    def __init__(self, first: int) -> None:
        self._found = [(-1, first)]
        self._added: list[tuple[int, int]] = []

    def add(self, start: int, stop: int) -> None:
        self._added.append((start, stop))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        if self._added:  # sorting many once costs less than finding the place of each
            found: list[tuple[int, int]] = []
            for start, stop in sorted([*self._found, *self._added]):
                if not found or start > found[-1][1]:
                    found.append((start, stop))
                elif stop > found[-1][1]:
                    found[-1] = found[-1][0], stop
            self._found, self._added = found, []
        return iter(self._found)

    @property
    def first(self) -> int:
        return next(iter(self))[1]

    @property
    def behind(self) -> list[tuple[int, int]]:
        return list(self)[1:]

    def __contains__(self, offset: int) -> bool:
        found = list(self)
        return offset < found[bisect_left(found, (offset + 1,)) - 1][1]


class Offsets:
    """What is settled of a partition, and what this process has taken of it.

    The first offset that is not settled is committed, with the lengths of ranges that are not and that are by turns in
    the metadata: whoever has the partition next takes what is not settled. An offset of no message is settled with the
    message before it.
    """

    full = False
    """Whether no more should be taken, because of the metadata's length."""
    time = 0
    """Of the latest message that came."""

    def __init__(self, partition: int, committed: int, metadata: str = "") -> None:
        self.partition = partition
        self.committed = committed, metadata
        self.settled, self.taken = Ranges(committed), Ranges(committed)
        runs = map(int, metadata.split()[1:] if METADATA.fullmatch(metadata) else ())
        for start, stop in list(pairwise(accumulate(runs, initial=committed)))[1::2]:
            self.settled.add(start, stop)
            self.taken.add(start, stop)
        self.position = committed
        """Where to fetch from."""
        self._ends: dict[int, int] = {}  # of gaps, by the message before each

    def resume(self, found: Offsets) -> Offsets:
        """Return how to go on with a partition that this process has had before, and that has been found as it is."""
        if found.committed[0] < self.committed[0]:
            return found  # somebody set the position back, to have all of it again
        for of, others in (self.settled, found.settled), (self.taken, self.settled):
            for others_range in others:
                of.add(*others_range)
        self.committed, self.position = found.committed, self.taken.first
        return self

    def take(self, offsets: Sequence[int], position: int) -> list[tuple[int, int]]:
        """Take messages that came, of which the next has this position; return from where to where they are new."""
        before, self.position = self.position, position
        for each, end in pairwise((before - 1, *offsets, position)) if len(offsets) < position - before else ():
            if each in self.taken:
                self.settled.add(each + 1, end)
            elif end > each + 1:
                self._ends[each] = end
        new = [0, len(offsets)] if offsets else []
        if self.taken.behind or before < self.taken.first:
            known = [True, *(offset in self.taken for offset in offsets), True]
            new = [at for at, (one, other) in enumerate(pairwise(known)) if one != other]
        self.taken.add(before, position)
        return list(zip(new[::2], new[1::2], strict=True))

    def skip(self, position: int) -> int:
        """Go on at a position, before which there is nothing more; return how many offsets were not taken."""
        if position <= self.position:
            return 0
        taken = sum(max(0, min(stop, position) - max(start, self.position)) for start, stop in self.taken)
        skipped = position - self.position - taken
        self.taken.add(self.position, position)
        self.settled.add(self.position, position)
        self.position = position
        return skipped

    def settle(self, offsets: Sequence[int]) -> None:
        """Settle messages between which no other was taken."""
        stop = offsets[-1] + 1
        for offset in offsets if self._ends else ():
            stop = self._ends.pop(offset, offset + 1)
        self.settled.add(offsets[0], stop)

    def to_commit(self, limit: int) -> tuple[int, str]:
        """Return an offset and its metadata; of what is settled as much as the limit has characters for."""
        at = self.settled.first
        metadata = "rxcompact"
        for start, stop in self.settled.behind:
            runs = f" {start - at} {stop - start}"
            if len(metadata) + len(runs) > limit:
                break
            metadata, at = metadata + runs, stop
        self.full = len(metadata) > limit * 3 // 4
        return self.settled.first, metadata if at > self.settled.first else ""


class PartitionedMessages(UnackedMessages):
    """Messages of partitions, each by its offset."""

    def __init__(self) -> None:
        super().__init__(0, NEVER)
        self.held = 0
        self.known: dict[Any, Offsets] = {}  # of each partition that this process has, or has had
        self.owned: dict[Any, Offsets] = {}

    def __len__(self) -> int:
        return self.held

    def commit(self, settled: int = 0) -> None:
        """Have offsets committed, as so many messages were settled."""
        self.held -= settled
        self._queue(ACK, [b"commit"])
        self._fewer.set()

    def give_back(self, identities: Sequence[int] | None = None) -> None:
        self.held -= self.held if identities is None else len(identities)
        for offsets in self.known.values():  # whoever begins next takes all that is not settled
            offsets.taken = Ranges(0)
        self._fewer.set()
