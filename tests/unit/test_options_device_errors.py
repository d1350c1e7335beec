"""Mistakes in -device, -object, -global and -M virtmmio: one line, in QEMU's words."""

from __future__ import annotations

import pytest

from emu.__main__ import main

IMAGE = __file__  # any file that can be read
DRIVE = ("-drive", f"file={IMAGE},if=none,id=d")
CHARDEVS = ("-chardev", "null,id=c", "-chardev", "null,id=c2")
MMIO = ("-M", "virtmmio")
SERIAL = ("-device", "virtio-serial-pci,id=s")
#: Options, and the message that the last of them gets.
ERRORS: list[tuple[list[str], str]] = [
    (["-device", ""], "Parameter 'driver' is missing"),
    (["-device", ",id=a"], "'' is not a valid device model name"),
    (["-device", "foo"], "'foo' is not a valid device model name"),
    (["-device", "spapr-nvram"], "Parameter 'driver' expects a pluggable device type"),
    (["-device", "virtio-mmio"], "Parameter 'driver' expects a pluggable device type"),
    (["-device", "virtio-rng-pci,foo=1"], "Property 'virtio-rng-pci.foo' not found"),
    (["-device", "virtio-rng-pci,vectors=x"], "Parameter 'vectors' expects integer"),
    (["-device", "virtio-rng-pci,vectors=-1"], "Parameter 'vectors' expects uint32_t"),
    (["-device", "virtio-rng-pci,vectors=2049"], "vectors=2049 is not supported"),
    (["-device", "virtio-rng-pci,packed=maybe"], "Parameter 'packed' expects 'on' or 'off'"),
    (["-device", "virtio-rng-pci,iommu_platform=on"], "iommu_platform=on is not supported"),
    (
        ["-device", "virtio-rng-pci,disable-legacy=maybe"],
        "Parameter 'disable-legacy' does not accept value 'maybe'",
    ),
    (
        ["-device", "virtio-rng-pci,disable-legacy=on,disable-modern=on"],
        "device cannot work as neither modern nor legacy mode is enabled",
    ),
    (
        ["-device", "virtio-rng-pci-transitional,disable-modern=on"],
        "Property 'virtio-rng-pci-transitional.disable-modern' not found",
    ),
    (
        ["-device", "virtio-rng-pci,addr=40"],
        "Property 'virtio-rng-pci.addr' doesn't take value '40'",
    ),
    (
        ["-device", "virtio-rng-pci,addr=5.8"],
        "Property 'virtio-rng-pci.addr' doesn't take value '5.8'",
    ),
    (
        ["-device", "virtio-net-pci,mac=foo"],
        "Property 'virtio-net-pci.mac' doesn't take value 'foo'",
    ),
    (["-device", "virtio-rng-pci,id=1a"], "Parameter 'id' expects an identifier"),
    (
        ["-device", "virtio-rng-pci,id=a", "-device", "virtio-balloon-pci,id=a"],
        "Duplicate ID 'a' for device",
    ),
    (["-device", "virtio-rng-pci,bus=pci.1"], "Bus 'pci.1' not found"),
    (["-device", "virtio-rng-pci,bus="], "Bus '' not found"),
    (
        [*("-device", "virtio-rng-device") * 9],
        "No 'virtio-bus' bus found for device 'virtio-rng-device'",
    ),
    (
        ["-device", "virtio-rng-device,bus=virtio-mmio-bus.8"],
        "Bus 'virtio-mmio-bus.8' not found",
    ),
    ([*MMIO, "-device", "virtio-rng"], "No 'PCI' bus found for device 'virtio-rng-pci'"),
    (
        [*MMIO, "-device", "virtio-rng-device,bus=virtio-mmio-bus.32"],
        "Bus 'virtio-mmio-bus.32' not found",
    ),
    (
        [*MMIO, *("-device", "virtio-rng-device,bus=virtio-mmio-bus.3") * 2],
        "Bus 'virtio-mmio-bus.3' is full",
    ),
    (
        [*MMIO, *("-device", "virtio-rng-device") * 33],
        "No 'virtio-bus' bus found for device 'virtio-rng-device'",
    ),
    (
        ["-chardev", "null,id=c", "-device", "virtconsole,chardev=c"],
        "No 'virtio-serial-bus' bus found for device 'virtconsole'",
    ),
    ([*SERIAL, "-device", "virtconsole,bus=s.1"], "Bus 's.1' not found"),
    (
        [*SERIAL, "-device", "virtconsole,bus=pci.0"],
        "Device 'virtconsole' can't go on PCI bus",
    ),
    (
        [*SERIAL, "-device", "virtconsole,chardev=zz"],
        "Property 'virtconsole.chardev' can't find value 'zz'",
    ),
    (
        [*CHARDEVS, *SERIAL, *("-device", "virtserialport,chardev=c") * 2],
        "Property 'virtserialport.chardev' can't take value 'c': Device 'c' is in use",
    ),
    (["-device", "virtio-blk-pci"], "drive property not set"),
    (["-device", "virtio-blk-pci,drive="], "drive property not set"),
    (
        ["-device", "virtio-blk-pci,drive=zz"],
        "Property 'virtio-blk-device.drive' can't find value 'zz'",
    ),
    (
        [*DRIVE, *("-device", "virtio-blk-pci,drive=d") * 2],
        "Drive 'd' is already in use by another device",
    ),
    (
        ["-device", "virtio-net-pci,netdev=zz"],
        "Property 'virtio-net-device.netdev' can't find value 'zz'",
    ),
    (
        ["-netdev", "user,id=n", *("-device", "virtio-net-pci,netdev=n") * 2],
        "Property 'virtio-net-device.netdev' can't take value 'n', it's in use",
    ),
    (["-device", "virtio-rng-pci,rng=zz"], "Device 'zz' not found"),
    (["-device", "virtio-balloon-pci"] * 2, "Only one balloon device is supported"),
    (["-device", "virtio-net-pci,bootindex=1"] * 2, "The bootindex 1 has already been used"),
    (["-device", "spapr-pci-host-bridge"], '"index" for PAPR PHB is mandatory'),
    (["-device", "spapr-pci-host-bridge,index=1"], "only PHB 0 is supported"),
    (
        ["-global", "virtio-rng-pci.foo=1", "-device", "virtio-rng-pci"],
        "can't apply global virtio-rng-pci.foo=1: Property 'virtio-rng-pci.foo' not found",
    ),
    (
        ["-global", "virtio-pci.vectors=5", "-device", "virtio-balloon-pci"],
        "can't apply global virtio-pci.vectors=5: Property 'virtio-balloon-pci.vectors'",
    ),
    (["-device", '{"driver":'], "JSON parse error, "),
    (["-device", '{"id":"a"}'], "Parameter 'driver' is missing"),
    (["-device", '{"driver":"virtio-rng-pci","foo":3}'], "Property 'virtio-rng-pci.foo' not"),
    (
        ["-device", '{"driver":"virtio-rng-pci","vectors":"3"}'],
        "Parameter 'vectors' expects uint32",
    ),
    (
        ["-device", '{"driver":"virtio-rng-pci","packed":"on"}'],
        "Invalid parameter type for 'packed', expected: boolean",
    ),
    (
        ["-blockdev", '{"driver":"file","node-name":"n","filename":"a\\u0000b"}'],
        "JSON parse error, a string has characters that cannot be encoded",
    ),
    (
        ["-device", '{"driver":"virtio-rng-pci","id":"\\ud800"}'],
        "JSON parse error, a string has characters that cannot be encoded",
    ),
    (["-device", '{"a":' * 50_000], "JSON parse error, "),
    (
        ["-netdev", f"user,id=n,bootfile={'f' * 128}"],
        "'bootfile' parameter cannot exceed 127 bytes",
    ),
    (["-netdev", f"tap,id=n,ifname={'i' * 16},script=no"], f"interface name '{'i' * 16}' is too"),
    (["-netdev", "user,id=n,guestfwd=tcp:10.0.2.9:1-cmd:x"], "guestfwd is not supported"),
    (["-netdev", "hubport,id=n,hubid=0"], "netdev type 'hubport' is not supported: there are no"),
    (["-serial", "null"] * 129, "only 128 terminals are supported"),
    (
        [*CHARDEVS[:2], "-device", "spapr-vty,chardev=c,reg=0x71000100"],
        "spapr-vty devices conflict at address 0x71000100",
    ),
    (["-incoming", "tcp:0:65536"], "port 65536 is out of range"),
    (["-incoming", f"tcp:0:{'9' * 5000}"], "port 9999"),
    ([*CHARDEVS, "-serial", "chardev:c", "-mon", "chardev=c"], "chardev 'c' is in use already"),
    (["-global", "foo"], "Invalid parameter 'foo'"),
    (["-global", "driver=a,property=b"], "Parameter 'value' is missing"),
    (
        [*MMIO, "-global", "virtio-mmio.force-legacy=maybe"],
        "Parameter 'force-legacy' expects 'on' or 'off'",
    ),
    (["-object", "foo,id=a"], "Parameter 'qom-type' does not accept value 'foo'"),
    (["-object", "rng-builtin"], "Parameter 'id' is missing"),
    (["-object", "rng-builtin,id=1"], "Parameter 'id' expects an identifier"),
    (["-object", "rng-builtin,id=r,foo=1"], "Invalid parameter 'foo'"),
    (["-object", "rng-builtin,id=r"] * 2, "Duplicate ID 'r' for object"),
    ([*MMIO, "-m", "8"], "RAM size must be between 16 MiB and 16 GiB, not 8 MiB"),
    ([*MMIO, "-serial", "null", "-serial", "pty"], "machine virtmmio has only one console"),
    (["-M", "virtmmio,x-vof=on"], "Property 'virtmmio-machine.x-vof' not found"),
]


@pytest.mark.parametrize(("argv", "message"), ERRORS)
def test_mistake_is_one_line_that_names_the_option(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 1
    out, err = capsys.readouterr()
    assert out == ""
    where = f"{argv[-2]} {argv[-1]}".rstrip()
    assert err.startswith(f"ppc64emu: {where}: {message}")
    assert err.count("\n") == 1
