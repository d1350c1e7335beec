"""A virtio-pci function's section in a state stream."""

from __future__ import annotations

from devices.virtio.constants import Isr
from devices.virtio.pci import VirtioPciFunction
from devices.virtio.state import device_description
from emu.migration.fields import (
    Description,
    Field,
    flag,
    raw,
    same,
    structure,
    u8,
    u16,
    u32,
    u64,
)
from emu.migration.sections import Component
from emu.migration.stream import MigrationError

_SETUP = Description("virtio-pci/queue", 1, (u64("desc"), u64("driver"), u64("device")))


def _set_isr(function: VirtioPciFunction, value: int) -> None:
    function.isr = Isr(value & (Isr.QUEUE | Isr.CONFIG))


def _set_config(function: VirtioPciFunction, data: bytes) -> None:
    fixed = bytes(byte & ~mask & 0xFF for byte, mask in zip(data, function.write_mask, strict=True))
    here = bytes(
        byte & ~mask & 0xFF for byte, mask in zip(function.config, function.write_mask, strict=True)
    )
    # The status register has bits of the device's own (interrupt).
    if fixed[:6] + fixed[8:] != here[:6] + here[8:]:
        raise ValueError("another function, or one with other capabilities")
    function.config[:] = data


def _msix_fields(function: VirtioPciFunction) -> tuple[Field, ...]:
    msix = function.msix
    if msix is None:
        return ()

    def put(name: str) -> Field:
        target = getattr(msix, name)

        def store(_function: VirtioPciFunction, data: bytes) -> None:
            target[:] = data

        return raw(f"msix_{name}", len(target), getter=lambda f: target, setter=store)

    return put("table"), put("pending")


def _modern_fields(function: VirtioPciFunction) -> tuple[Field, ...]:
    if function.modern is None:
        return ()
    names = ("device_feature_select", "driver_feature_select")
    return (
        *(u32(name, f"modern.{name}") for name in names),
        u64("driver_features", "modern.driver_features"),
        structure("queue_setup", _SETUP, "modern.areas", count=len(function.device.queues)),
    )


def pci_component(function: VirtioPciFunction, bus: str) -> Component:
    """The section of a function on a bus whose host bridge is called ``bus``, as QEMU names it."""
    device = function.device
    kind = device.DEVICE_ID.name.lower()
    description = Description(
        f"virtio-{kind}-pci",
        2,
        (
            same("num_queues", len(device.queues)),
            same("num_vectors", function.msix.vectors if function.msix else 0),
            same("modern_interface", int(function.modern is not None)),
            raw("config", len(function.config), setter=_set_config),
            *_msix_fields(function),
            u16("config_vector"),
            u8("isr", setter=_set_isr),
            u16("queue_sel"),
            u16("queue_vectors", count=len(device.queues)),
            flag("intx_level"),
            *_modern_fields(function),
            structure("virtio", device_description(device), "device"),
        ),
    )

    def check() -> None:
        for vector in (function.config_vector, *function.queue_vectors):
            if function.valid_vector(vector) != vector:
                raise MigrationError(f"{function.name}: MSI-X vector {vector} is not there")
        device.check_loaded()

    slot = f"{function.devfn >> 3:02x}.{function.devfn & 7:x}"
    return Component(
        f"{bus}:{slot}/virtio-{kind}", description, function, check=check, resume=device.resume
    )
