"""Generic node names of PCI functions, by class code (IEEE 1275 PCI binding 2.1, 2.5)."""

from __future__ import annotations

#: Base class: names of its subclasses in order, and what any other subclass is called.
_NAMES: dict[int, tuple[tuple[str, ...], str]] = {
    0x00: ((), "legacy-device"),
    0x01: (("scsi", "ide", "fdc", "ipi", "raid", "ata", "sata", "sas", "nvme"), "mass-storage"),
    0x02: (("ethernet", "token-ring", "fddi", "atm", "isdn"), "network"),
    0x03: (("vga", "xga", "3d-controller"), "display"),
    0x04: (("video", "sound", "telephony"), "multimedia-device"),
    0x05: (("memory", "flash"), "memory-controller"),
    0x06: (("host", "isa", "eisa", "mca", "pci", "pcmcia", "nubus", "cardbus"), "unknown-bridge"),
    0x07: (("serial", "parallel", "multiport-serial", "modem"), "communication-controller"),
    0x08: (("interrupt-controller", "dma-controller", "timer", "rtc"), "system-peripheral"),
    0x09: (("keyboard", "pen", "mouse", "scanner", "gameport"), "input-controller"),
    0x0A: ((), "docking-station"),
    0x0B: ((), "cpu"),
    0x0C: (("firewire", "access-bus", "ssa", "usb", "fibre-channel", "smb"), "serial-bus"),
    0x0D: ((), "wireless-controller"),
    0x0E: ((), "intelligent-io"),
    0x0F: ((), "satellite-device"),
    0x10: ((), "encryption"),
    0x11: ((), "data-processing-controller"),
}


def function_name(class_code: int) -> str:
    """The name for a class code of 24 bits; "pci" for a class without one."""
    names, other = _NAMES.get(class_code >> 16, ((), "pci"))
    subclass = class_code >> 8 & 0xFF
    return names[subclass] if subclass < len(names) else other
