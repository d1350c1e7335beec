"""The virtio part of a state stream: what every device has, in QEMU's order where QEMU has it.

A device's latched byte order is the subsection "virtio/device_endian", sent when it is not the
platform's; no other byte of the section depends on it.  It comes behind the fields, so nothing that
depends on byte order is looked at before :meth:`VirtioDevice.check_loaded`, when everything of the
machine is there.

No request is on its way in a stream: :meth:`VirtioDevice.quiesce` completes what the host is at
and gives the rest back to the queues, where the destination finds it again.
"""

from __future__ import annotations

from typing import Any

from devices.virtio.constants import Status
from devices.virtio.device import VirtioDevice
from emu.memory.endian import GuestEndian
from emu.migration.fields import Description, Field, blob, flag, same, structure, u8, u16, u32, u64

_MAX_CONFIG = 4096

VIRTQUEUE = Description(
    "virtqueue_state",
    1,
    (
        u32("num", "record.size"),
        u64("desc", "record.desc"),
        u16("last_avail_idx", "record.last_avail"),
    ),
)
_AREAS = Description(
    "virtqueue_areas", 1, (u64("avail", "record.driver"), u64("used", "record.device"))
)
_RING = Description(
    "virtqueue_ring",
    1,
    (
        flag("enabled", "record.enabled"),
        u32("inuse", "record.inuse"),
        u16("used_idx", "record.used_idx"),
        u16("signalled_used", "record.signalled_used"),
        flag("signalled_used_valid", "record.signalled_valid"),
        flag("notification", "record.notification"),
        flag("last_avail_wrap_counter", "record.avail_wrap"),
        flag("used_wrap_counter", "record.used_wrap"),
    ),
)


def _set_endian(device: VirtioDevice, value: int) -> None:
    device.latched_endian = GuestEndian(value)


def _set_status(device: VirtioDevice, value: int) -> None:
    device.status = Status(value)


def _set_low_features(device: VirtioDevice, value: int) -> None:
    device.features = value
    # Loading starts here: the order is the platform's unless the subsection says otherwise.
    device.latched_endian = GuestEndian.BIG


def _set_high_features(device: VirtioDevice, value: int) -> None:
    device.features |= value << 32


def _config(device: VirtioDevice) -> bytes:
    return device.config_space(GuestEndian.BIG)


def _ignore(_device: VirtioDevice, _value: Any) -> None:
    """The configuration space is made anew from the device's own fields at each read."""


def core_fields(device: VirtioDevice) -> tuple[Field, ...]:
    """Status, features, configuration space and queues of a device, and its own fields."""
    count = len(device.queues)
    own = Description(f"virtio-{device.DEVICE_ID.name.lower()}-device", 1, device.STATE)
    return (
        same("num_queues", count),
        u8("status", setter=_set_status),
        u32("guest_features", getter=lambda d: d.features & 0xFFFFFFFF, setter=_set_low_features),
        u32("config_generation"),
        blob("config", _MAX_CONFIG, getter=_config, setter=_ignore),
        structure("queues", VIRTQUEUE, count=count),
        *((structure("device", own, getter=lambda d: d),) if device.STATE else ()),
    )


def core_subsections(device: VirtioDevice) -> tuple[Description, ...]:
    """Subsections of a device; each is sent when it says something."""
    count = len(device.queues)
    return (
        Description(
            "virtio/device_endian",
            1,
            (u8("device_endian", getter=lambda d: d.latched_endian, setter=_set_endian),),
            needed=lambda d: d.latched_endian is not GuestEndian.BIG,
        ),
        Description(
            "virtio/64bit_features",
            1,
            (u32("features_high", getter=lambda d: d.features >> 32, setter=_set_high_features),),
            needed=lambda d: d.features >> 32 != 0,
        ),
        Description("virtio/virtqueues", 1, (structure("queues", _AREAS, count=count),)),
        Description("virtio/rings", 1, (structure("queues", _RING, count=count),)),
        Description("virtio/broken", 1, (flag("broken"),), needed=lambda d: d.broken),
    )


def device_description(device: VirtioDevice) -> Description:
    """All of a device's state, transport apart."""
    return Description("virtio", 2, core_fields(device), subsections=core_subsections(device))
