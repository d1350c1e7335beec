"""The slow model of a split virtqueue (see ``ring_model``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from devices.virtio.records import EVENT_IDX, INDIRECT, MAX_QUEUE_SIZE, NOTIFY_ON_EMPTY, RingError
from tests.support.ring_model import (
    IS_INDIRECT,
    NEXT,
    BadRingError,
    Model,
    Popped,
    Returned,
    passes,
)


class SplitModel(Model):
    """The device side of a split virtqueue."""

    def push(self, used: Sequence[Returned]) -> bool:
        """See :func:`devices.virtio.ring.push`."""
        state = self.state
        used = used[: state.inuse]
        if state.error or not used:
            return False
        try:
            self.check_areas()
        except BadRingError as bad:
            state.error = bad.error
            return False
        slot = state.used_idx
        for entry in used[: state.size]:
            place = state.device + 4 + 8 * (slot % state.size)
            self.put(place, 4, entry.head)
            self.put(place + 4, 4, entry.written)
            slot = slot % state.size + 1
            state.used_idx = (state.used_idx + 1) % 65536
            state.inuse -= 1
        self.put(state.device + 2, 2, state.used_idx)
        return self._interrupt()

    def _interrupt(self) -> bool:
        state = self.state
        old, valid = state.signalled_used, state.signalled_valid
        state.signalled_used, state.signalled_valid = state.used_idx, 1
        if state.flags & NOTIFY_ON_EMPTY and not state.inuse and not self.is_waiting():
            return True
        if not state.flags & EVENT_IDX:
            return not self.get(state.driver, 2) & 1
        event = self.get(state.driver + 4 + 2 * state.size, 2)
        return not valid or passes(event, old, state.used_idx)

    def check_areas(self) -> None:
        """Raise unless the ring can be used at all."""
        super().check_areas()
        state = self.state
        event = 2 if state.flags & EVENT_IDX else 0
        self.in_ram(state.desc, 16 * state.size)
        self.in_ram(state.driver, 4 + 2 * state.size + event)
        self.in_ram(state.device, 4 + 8 * state.size + event)

    def is_waiting(self) -> bool:
        """Whether the driver has made something available."""
        return self.get(self.state.driver + 2, 2) != self.state.last_avail

    def is_available(self) -> bool:
        """The same, but raises when it has made too much available."""
        state = self.state
        available = (self.get(state.driver + 2, 2) - state.last_avail) % 65536
        if available and available + state.inuse > state.size:
            raise BadRingError(RingError.AVAIL_JUMP)
        return available > 0

    def take(self, room: int, alone: bool) -> Popped:
        """Take the next element."""
        state = self.state
        head = self.get(state.driver + 4 + 2 * (state.last_avail % state.size), 2)
        if head >= state.size:
            raise BadRingError(RingError.HEAD_OUT_OF_RANGE)
        element = self.collect(self._buffers(head), room, alone)
        state.last_avail = (state.last_avail + 1) % 65536
        state.inuse += 1
        return Popped(head, 1, element.readable, element.writable)

    def _buffers(self, index: int) -> Iterator[tuple[int, int, int]]:
        table, entries, steps, nested = self.state.desc, self.state.size, 0, False
        while True:
            if steps == min(entries, MAX_QUEUE_SIZE):
                raise BadRingError(RingError.CHAIN_TOO_LONG)
            steps += 1
            place = table + 16 * index
            address, length = self.get(place, 8), self.get(place + 8, 4)
            flags, following = self.get(place + 12, 2), self.get(place + 14, 2)
            if flags & IS_INDIRECT:
                if nested:
                    raise BadRingError(RingError.BAD_INDIRECT)
                if not self.state.flags & INDIRECT:
                    raise BadRingError(RingError.INDIRECT_NOT_NEGOTIATED)
                if flags & NEXT:
                    raise BadRingError(RingError.BAD_INDIRECT)
                self.check_table(address, length)
                table, entries, steps, nested, index = address, length // 16, 0, True, 0
                continue
            yield address, length, flags
            if not flags & NEXT:
                return
            if following >= entries:
                raise BadRingError(RingError.NEXT_OUT_OF_RANGE)
            index = following

    def publish_event(self) -> None:
        """Ask for a notification of the next one."""
        self.put(self.state.device + 4 + 8 * self.state.size, 2, self.state.last_avail)

    def publish_notification(self) -> None:
        """Ask for notifications or not."""
        if not self.state.flags & EVENT_IDX:
            self.put(self.state.device, 2, 0 if self.state.notification else 1)
        elif self.state.notification:
            self.publish_event()
