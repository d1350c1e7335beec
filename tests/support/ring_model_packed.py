"""The slow model of a packed virtqueue (see ``ring_model``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from devices.virtio.records import EVENT_IDX, INDIRECT, MAX_QUEUE_SIZE, RingError
from tests.support.ring_model import (
    AVAIL,
    DESC,
    DISABLE,
    ENABLE,
    IS_INDIRECT,
    NEXT,
    USED,
    WRITE,
    BadRingError,
    Model,
    Popped,
    Returned,
    passes,
)


class PackedModel(Model):
    """The device side of a packed virtqueue."""

    def push(self, used: Sequence[Returned]) -> bool:
        """See :func:`devices.virtio.ring.push`."""
        state = self.state
        if state.error:
            return False
        try:
            self.check_areas()
        except BadRingError as bad:
            state.error = bad.error
            return False
        left = min(state.inuse, state.size)
        wrapped = pushed = False
        for entry in used:
            if not 0 < entry.descriptors <= left:
                break
            left -= entry.descriptors
            place = state.desc + 16 * state.used_idx
            self.put(place + 8, 4, entry.written)
            self.put(place + 12, 2, entry.head)
            flags = AVAIL | USED if state.used_wrap else 0
            self.put(place + 14, 2, flags | (WRITE if entry.written else 0))
            for _ in range(entry.descriptors):
                wrapped |= self._step_used()
            pushed = True
        return pushed and self._interrupt(wrapped)

    def _step_used(self) -> bool:
        state = self.state
        state.inuse -= 1
        state.used_idx += 1
        if state.used_idx < state.size:
            return False
        state.used_idx = 0
        state.used_wrap ^= 1
        return True

    def _interrupt(self, wrapped: bool) -> bool:
        state = self.state
        old, valid = state.signalled_used, state.signalled_valid
        state.signalled_used, state.signalled_valid = state.used_idx, 1
        position, flags = self.get(state.driver, 2), self.get(state.driver + 2, 2) & 3
        if flags == DISABLE:
            return False
        if flags != DESC or not state.flags & EVENT_IDX:
            return True
        # Positions of the lap before this one are negative.
        event = position & 0x7FFF
        if position >> 15 != state.used_wrap:
            event -= state.size
        if wrapped:
            old -= state.size
        return not valid or passes(event, old, state.used_idx)

    def check_areas(self) -> None:
        """Raise unless the ring can be used at all."""
        super().check_areas()
        state = self.state
        if state.last_avail >= state.size or state.used_idx >= state.size:
            raise BadRingError(RingError.RING_OUTSIDE_RAM)
        self.in_ram(state.desc, 16 * state.size)
        self.in_ram(state.driver, 4)
        self.in_ram(state.device, 4)

    def is_waiting(self) -> bool:
        """Whether the driver has made something available."""
        flags = self.get(self.state.desc + 16 * self.state.last_avail + 14, 2)
        if self.state.avail_wrap:
            return bool(flags & AVAIL) and not flags & USED
        return not flags & AVAIL and bool(flags & USED)

    def take(self, room: int, alone: bool) -> Popped:
        """Take the next element."""
        state = self.state
        self._walked = 0
        element = self.collect(self._buffers(), room, alone)
        if state.inuse + self._walked > state.size:
            raise BadRingError(RingError.AVAIL_JUMP)
        state.inuse += self._walked
        for _ in range(self._walked):
            state.last_avail += 1
            if state.last_avail == state.size:
                state.last_avail = 0
                state.avail_wrap ^= 1
        return Popped(self._id, self._walked, element.readable, element.writable)

    def _buffers(self) -> Iterator[tuple[int, int, int]]:
        state = self.state
        while self._walked < state.size:
            place = state.desc + 16 * ((state.last_avail + self._walked) % state.size)
            address, length = self.get(place, 8), self.get(place + 8, 4)
            self._id, flags = self.get(place + 12, 2), self.get(place + 14, 2)
            self._walked += 1
            if flags & IS_INDIRECT:
                if not state.flags & INDIRECT:
                    raise BadRingError(RingError.INDIRECT_NOT_NEGOTIATED)
                if self._walked > 1 or flags & NEXT:
                    raise BadRingError(RingError.BAD_INDIRECT)
                yield from self._table(address, length)
                return
            yield address, length, flags
            if not flags & NEXT:
                return
        raise BadRingError(RingError.CHAIN_TOO_LONG)

    def _table(self, table: int, length: int) -> Iterator[tuple[int, int, int]]:
        self.check_table(table, length)
        if length // 16 > MAX_QUEUE_SIZE:
            raise BadRingError(RingError.CHAIN_TOO_LONG)
        for place in range(table, table + length, 16):
            yield self.get(place, 8), self.get(place + 8, 4), self.get(place + 14, 2)

    def publish_event(self) -> None:
        """Ask for a notification of the next one."""
        state = self.state
        self.put(state.device, 2, state.last_avail | state.avail_wrap << 15)
        self.put(state.device + 2, 2, DESC)

    def publish_notification(self) -> None:
        """Ask for notifications or not."""
        if not self.state.notification:
            self.put(self.state.device + 2, 2, DISABLE)
        elif self.state.flags & EVENT_IDX:
            self.publish_event()
        else:
            self.put(self.state.device + 2, 2, ENABLE)
