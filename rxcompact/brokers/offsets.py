"""Messages that are acknowledged by committing an offset; which are settled behind it is committed beside it."""

from __future__ import annotations

import re
import zlib
from base64 import b85decode, b85encode
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import accumulate, compress, pairwise
from operator import ne
from typing import Any

from rxcompact.brokers.unacked import ACK, UnackedMessages
from rxcompact.reader.text import MIB

NEVER = 1e9
METADATA = re.compile(r"rxcompact(?: \d{1,18})+", re.ASCII)
PACKED = "rxcompact:"  # then the same compressed, where it is long
END = 1 << 62  # beyond all offsets


def metadata_of(runs: Sequence[str], limit: int) -> str:
    """Return runs as the metadata of a commit, packed where they would fill half of the limit."""
    text = "rxcompact" + "".join(runs) if runs else ""
    return text if len(text) <= limit // 2 else PACKED + b85encode(zlib.compress(text.encode(), 9)).decode()


def runs_of(metadata: str) -> Iterable[int]:
    """Return the lengths in the metadata of a commit; of another program's none."""
    if metadata.startswith(PACKED):
        with suppress(ValueError, zlib.error):
            metadata = zlib.decompressobj().decompress(b85decode(metadata.removeprefix(PACKED)), MIB).decode()
    return map(int, metadata.split()[1:] if METADATA.fullmatch(metadata) else ())


class Offsets:
    """What this process has taken of a partition and is not settled, and what was settled ahead of it.

    The first offset that is not settled is committed, with the lengths of ranges that are not and that are by turns in
    the metadata: whoever has the partition next takes what is not settled. An offset of no message is settled with the
    message before it.
    """

    full = False  # so that no more should be taken, because of the metadata's length
    time = 0  # of the latest message that came

    def __init__(self, partition: int, committed: int, metadata: str = "") -> None:
        self.partition, self.committed = partition, (committed, metadata)
        self.position = committed  # where to fetch from
        self._held: dict[int, int] = {}  # up to where the gap behind each message is, in their order
        runs = runs_of(metadata)
        self._settled = [(-1, committed), *list(pairwise(accumulate(runs, initial=committed)))[1::2]]  # by others

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, offset: int) -> bool:
        """Return whether it was settled before this process took it."""
        return offset < self._settled[bisect_left(self._settled, (offset + 1,)) - 1][1]

    def resume(self, found: Offsets) -> Offsets:
        """Return how to go on with a partition that this process has had before, and that has been found as it is."""
        if found.committed[0] < self.committed[0]:
            return found  # somebody set the position back, to have all of it again
        self._held = {each: end for each, end in self._held.items() if each not in found}
        self._settled, self.committed = found._settled, found.committed
        self.position = self._first_missing()
        return self

    def take(self, offsets: Sequence[int], position: int) -> Sequence[int]:
        """Take messages that came, of which the next has this position; return those that are new."""
        before, self.position = self.position, position
        ends = [*offsets, position]
        last = next(reversed(self._held), -1)
        if self._held.get(last) == before:
            self._held[last] = ends[0]
        held = dict(zip(offsets, ends[1:], strict=True))
        if before < self._settled[-1][1]:
            held = {offset: end for offset, end in held.items() if offset not in self}
        self._held.update(held)
        return list(held)

    def skip(self, position: int) -> int:
        """Go on at a position, before which there is nothing more; return how many offsets were not taken."""
        before, self.position = self.position, max(self.position, position)
        settled = (min(stop, self.position) - max(start, before) for start, stop in self._settled)
        return self.position - before - sum(each for each in settled if each > 0)

    def settle(self, offsets: Iterable[int]) -> None:
        """Settle messages."""
        for offset in offsets:
            self._held.pop(offset, None)

    def to_commit(self, limit: int) -> tuple[int, str]:
        """Return an offset and its metadata; of what is settled as much as the limit has characters for."""
        unsettled = self._unsettled()
        runs = [f" {stop - start} {following - stop}" for (start, stop), (following, _) in pairwise(unsettled)]
        metadata = metadata_of(runs, limit)
        self.full = len(metadata) > limit * 3 // 4
        while len(metadata) > limit:
            runs = runs[: len(runs) * limit // len(metadata)]
            metadata = metadata_of(runs, limit)
        return unsettled[0][0], metadata

    def _first_missing(self) -> int:
        return next((stop for start, stop in self._settled if start <= self.position < stop), self.position)

    def _unsettled(self) -> list[tuple[int, int]]:
        at = self._first_missing()
        behind = [each for each in self._settled if each[0] > at]
        starts = [*self._held, at, *(stop for _, stop in behind)]
        stops = [*self._held.values(), *(start for start, _ in behind), END]
        is_end = list(map(ne, stops, starts[1:]))  # in C: there may be many
        return list(zip([starts[0], *compress(starts[1:], is_end)], [*compress(stops, is_end), END], strict=True))


class PartitionedMessages(UnackedMessages):
    """Messages of partitions, each by its offset."""

    def __init__(self) -> None:
        super().__init__(0, NEVER)
        self.known: dict[Any, Offsets] = {}  # of each partition that this process has, or has had
        self.owned: dict[Any, Offsets] = {}

    def __len__(self) -> int:
        return sum(map(len, self.known.values()))

    def settle_in(self, offsets: Offsets, identities: Iterable[int]) -> None:
        """Settle messages of a partition."""
        offsets.settle(identities)
        self.commit()

    def commit(self) -> None:
        """Have offsets committed."""
        self._queue(ACK, [b"commit"])
        self._fewer.set()

    def give_back(self, identities: Sequence[int] | None = None) -> None:
        if identities is None:  # others are not settled, until it is all
            self.known.clear()  # whoever begins next takes all that is not settled
            self._fewer.set()
