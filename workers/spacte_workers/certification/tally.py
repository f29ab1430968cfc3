"""The votes of one phase of one image: cut into shards, taken back, counted where complete.

No shard crosses a boundary, so the counts up to a boundary are known exactly once every noise before it is drawn,
whatever the sizes of the shards and the order in which they come back.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from operator import add

from spacte_workers.shards import NoiseSource, Phase, Shard, Votes


class Tally:
    """Noises 0..boundaries[-1]-1 of one phase. Everything takes constant time for each shard and boundary.

    Args:
        source, phase: what determines the noises besides their index.
        boundaries: strictly ascending sample counts; the last is all there is to draw.
        num_classes: length of every count vector.
        with_logits: so many of the first noises, a boundary or none, are wanted with the logits of each row.
        again: see `Shard`.
    """

    def __init__(
        self,
        source: NoiseSource,
        phase: Phase,
        boundaries: Sequence[int],
        num_classes: int,
        *,
        with_logits: int = 0,
        again: bool = False,
    ) -> None:
        self.phase, self.again = phase, again
        self.boundaries = tuple(boundaries)
        self.drawn = 0
        """Noises whose votes are in, whether or not those before them are."""
        self.complete = 0
        """How many boundaries have been reached without a gap."""
        self._source, self._source_with_logits = source, replace(source, output="logits") if with_logits else source
        self._with_logits = with_logits
        self._num_classes = num_classes
        self._cursor = 0
        self._cursor_segment = 0
        self._in_flight: dict[int, tuple[int, int]] = {}  # start -> stop, segment
        self._lost: deque[tuple[int, int, int]] = deque()  # start, stop, segment
        # A segment is what lies between two boundaries. Counts are kept no longer than they are needed.
        self._open: dict[int, tuple[int, tuple[int, ...]]] = {}  # segment -> noises drawn, votes
        self._prefix: dict[int, tuple[int, ...]] = {}  # boundary -> votes of all before it

    def available(self, limit: int) -> int:
        """How many noises below `limit` could be handed out now."""
        return max(0, min(limit, self.boundaries[-1]) - self._cursor) + sum(
            stop - start for start, stop, _ in self._lost
        )

    @property
    def left(self) -> int:
        """How many noises have not been handed out yet."""
        return self.available(self.boundaries[-1])

    @property
    def finished(self) -> bool:
        """Whether everything has been drawn."""
        return self.complete == len(self.boundaries)

    def counts_at(self, boundary: int) -> tuple[int, ...]:
        """Votes per class over exactly the noises before boundary number `boundary`, a complete one."""
        return self._prefix[boundary]

    def forget(self, boundary: int) -> None:
        """Free the counts before boundary number `boundary`; nobody may ask for them again."""
        for earlier in [b for b in self._prefix if b < boundary]:
            del self._prefix[earlier]

    def votes_so_far(self) -> list[int]:
        """Votes per class over everything drawn: for showing progress, never for a decision."""
        counts = [self._prefix[self.complete - 1]] if self.complete else []
        counts += [votes for _, votes in self._open.values()]
        return [sum(column) for column in zip(*counts, strict=True)] or [0] * self._num_classes

    def next_shards(self, max_size: int, limit: int) -> list[Shard]:
        """Noises below `limit` to draw, lost ones first: as many shards as there are, of at most `max_size` noises."""
        shards: list[Shard] = []
        while max_size > 0 and (shard := self._next_shard(max_size, limit)) is not None:
            shards.append(shard)
            max_size -= shard.stop - shard.start
        return shards

    def _next_shard(self, max_size: int, limit: int) -> Shard | None:
        if self._lost:
            start, stop, segment = self._lost.popleft()
            if stop - start > max_size:
                self._lost.appendleft((start + max_size, stop, segment))
                stop = start + max_size
        else:
            start, segment = self._cursor, self._cursor_segment
            stop = min(start + max_size, limit)
            if start >= min(stop, self.boundaries[-1]):
                return None
            boundary = self.boundaries[segment]
            if stop >= boundary:
                stop = boundary
                self._cursor_segment += 1
            self._cursor = stop
        self._in_flight[start] = stop, segment
        source = self._source_with_logits if stop <= self._with_logits else self._source
        return Shard(source, self.phase, start, stop, self.again)

    def give(self, shard: Shard, votes: Votes) -> bool:
        """Take the votes of a shard; False where it is not awaited, as one that was drawn twice."""
        stop, segment = self._in_flight.get(shard.start, (0, 0))
        if stop != shard.stop:
            return False
        counts = votes.counts
        if len(counts) != self._num_classes or sum(counts) + votes.invalid != shard.size:
            got = f"{counts} and {votes.invalid} invalid"
            raise ValueError(f"{shard.size} noises over {self._num_classes} classes came back as {got}")
        del self._in_flight[shard.start]
        self.drawn += shard.size
        drawn, before = self._open.get(segment, (0, (0,) * self._num_classes))
        self._open[segment] = drawn + shard.size, tuple(map(add, before, counts))
        if segment == self.complete:
            self._extend_prefix()
        return True

    def lost(self, shard: Shard) -> None:
        """Put a shard whose sampler is gone back into the queue."""
        stop, segment = self._in_flight.get(shard.start, (0, 0))
        if stop == shard.stop:
            del self._in_flight[shard.start]
            self._lost.append((shard.start, stop, segment))

    def _extend_prefix(self) -> None:
        k = self.complete
        while k in self._open:
            drawn, votes = self._open[k]
            size = self.boundaries[k] - (self.boundaries[k - 1] if k else 0)
            if drawn < size:
                break
            del self._open[k]
            self._prefix[k] = tuple(map(add, self._prefix[k - 1], votes)) if k else votes
            k += 1
        self.complete = k
