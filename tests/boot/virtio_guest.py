"""Linux guests with virtio devices, at their shells; and what tests need of the host beside them.

Debian's guest has busybox, the small ones a first process with a few commands of its own. A
`VirtioGuest` has the same verbs for both.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from devices.virtio.balloon import VirtioBalloon
from emu.chardev.memory import MemoryChardev
from emu.config import MemoryConfig
from emu.machine import Machine
from emu.options import parse_command_line
from tests.boot.guests import BOOT_SECONDS, READY, Guest, trouble_in

MIB = 1 << 20
COMMAND_SECONDS = 120.0
#: Properties of a PCI device by the interfaces it has.
INTERFACES = {
    "legacy": ",disable-modern=on",
    "transitional": "",
    "modern": ",disable-legacy=on",
}
#: The feature bit of modern drivers (virtio 1.2, section 6).
VERSION_1 = 32

_ROUTER, _OWN_ADDRESS = "10.0.2.2", "10.0.2.15"


def block_options(image: Path, interface: str = "") -> list[str]:
    """Options for a raw disk with the PCI properties `interface` (an item of INTERFACES)."""
    return [
        *("-drive", f"file={image},if=none,id=disk,format=raw"),
        *("-device", f"virtio-blk-pci,drive=disk{interface}"),
    ]


def network_options(netdev: str, interface: str = "", mac: str = "") -> list[str]:
    """Options for a network card; `netdev` is the type and its properties without the id."""
    kind, _, rest = netdev.partition(",")
    address = f",mac={mac}" if mac else ""
    return [
        *("-netdev", f"{kind},id=net{',' if rest else ''}{rest}"),
        *("-device", f"virtio-net-pci,netdev=net{address}{interface}"),
    ]


def other_options(interface: str = "") -> list[str]:
    """Options for a random number generator, a balloon, a console port and a serial port."""
    return [
        *("-device", f"virtio-rng-pci{interface}"),
        *("-device", f"virtio-balloon-pci,id=balloon{interface}"),
        *("-device", f"virtio-serial-pci,id=serial{interface}"),
        *("-chardev", "ringbuf,id=hvc,size=4M", "-device", "virtconsole,chardev=hvc"),
        *("-chardev", "ringbuf,id=port,size=4M"),
        *("-device", "virtserialport,chardev=port,name=org.test"),
    ]


class VirtioGuest:
    """A guest at its shell; a context manager, which closes the machine.

    Raises AssertionError, with the command and what it printed, when a command fails.
    """

    def __init__(
        self, guest: Guest, options: Sequence[str], cpu: str = "power8", append: str = ""
    ) -> None:
        self.guest = guest
        self.debian = guest.name == "le"
        arguments = [*guest.arguments(append, cpu), "-nodefaults", "-serial", "null", *options]
        config = parse_command_line(arguments)
        config = replace(config, serial=(MemoryConfig(id="serial0"),))
        self.machine = Machine(config)
        self._console = self.machine.console
        self._commands = 0

    def __enter__(self) -> Self:
        try:
            self.machine.start()
            self.wait_ready()
        except BaseException:
            self.machine.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.machine.close()

    @property
    def log(self) -> str:
        """All the console has shown."""
        return self._console.text

    def wait_ready(self) -> None:
        """Wait for the shell's prompt after a boot."""
        self._console.wait_for(READY, timeout=BOOT_SECONDS)
        self._console.wait_for("# ", timeout=BOOT_SECONDS)
        if not self.debian:
            self._console.send("stty -echo\n")
            self._console.wait_for("# ", timeout=COMMAND_SECONDS)

    def type(self, command: str) -> None:
        """Start a command whose end is to be seen by `finish`."""
        self._commands += 1
        number = self._commands
        # Debian's shell edits lines and so shows them: they must not look like the output.
        begin = f"echo beg''in{number}" if self.debian else f"echo begin{number}"
        status = f"echo end{number}=$?" if self.debian else f"echo end{number}=0"
        self._console.send(f"{begin}; {command}; {status}\n")
        self._console.wait_for(f"begin{number}\r\n", timeout=COMMAND_SECONDS)

    def finish(self, seconds: float = COMMAND_SECONDS) -> str:
        """Wait for the end of the command and return what it printed, with plain newlines."""
        pattern = re.compile(rb"(?m:^)end%d=(\d+)\r\n" % self._commands)
        match = self._console.wait_for(pattern, timeout=seconds)
        self._console.wait_for("# ", timeout=COMMAND_SECONDS)
        text = match.string[: match.start()].decode("utf-8", "replace").replace("\r", "")
        failed = match[1] != b"0" or re.search(r"^\w+: status \d+$", text, re.MULTILINE)
        assert not failed, f"in the guest, command {self._commands} failed:\n{text}"
        return text

    def run(self, command: str, seconds: float = COMMAND_SECONDS) -> str:
        """Run a shell command to its end; what it printed, with plain newlines."""
        self.type(command)
        return self.finish(seconds)

    def wait_for(self, text: str, seconds: float = COMMAND_SECONDS) -> None:
        """Wait until the running command prints a text."""
        self._console.wait_for(text, timeout=seconds)

    def power_off(self) -> None:
        """Power off from inside; the machine must end well."""
        self._console.send("poweroff -f\n" if self.debian else "poweroff\n")
        assert self.machine.wait(BOOT_SECONDS) == 0

    def reboot(self) -> None:
        """Reboot from inside, and wait for the shell."""
        resets = self.machine.resets
        self._console.send("reboot -f\n" if self.debian else "reboot\n")
        self.wait_ready()
        assert self.machine.resets == resets + 1

    def trouble(self) -> list[str]:
        """The lines of the kernel's log and of the console that tell of a fault."""
        return trouble_in(self.run("dmesg") + self.log)

    # Files and devices

    def sha256(self, path: str, seconds: float = COMMAND_SECONDS) -> str:
        """Checksum of a file or of a whole disk, in hexadecimal."""
        name = "sha256sum" if self.debian else "sha256"
        digest = re.search(r"^([0-9a-f]{64}) ", self.run(f"{name} {path}", seconds), re.MULTILINE)
        assert digest, f"no checksum of {path}"
        return digest[1]

    def make_data(self, path: str, size: int, seed: int, seconds: float = COMMAND_SECONDS) -> None:
        """Write a file of `pattern` or, in Debian's guest, of random numbers; with fsync."""
        if self.debian:
            block = min(size, MIB)
            dd = f"dd if=/dev/urandom of={path} bs={block} count={size // block} conv=fsync"
            self.run(dd, seconds)
        else:
            assert f"wrote {size}\n" in self.run(f"write {path} {size} {seed}", seconds)

    def copy(self, source: str, target: str) -> None:
        """Copy a file or disk to another or to a stream."""
        self.run(f"cat {source} > {target}" if self.debian else f"copy {source} {target} 65536 -1")

    def verify(self, path: str, size: int, seed: int, seconds: float = COMMAND_SECONDS) -> None:
        """Read so many bytes of a file or stream: they must be those of `pattern`."""
        if self.debian:
            # busybox's head takes byte by byte, its dd a block as soon as there is any of it.
            whole = f"dd if={path} bs=64k count={size >> 16}"
            reader = f"head -c {size} {path}" if "vport" in path or size % 65536 else whole
            text = self.run(f"{reader} | sha256sum", seconds)
            assert hashlib.sha256(pattern(size, seed)).hexdigest() in text, text
        else:
            assert f"verified {size}\n" in self.run(f"verify {path} {size} {seed}", seconds)

    def drop_caches(self) -> None:
        """Make the kernel forget what it knows of disks."""
        self.run("sync; echo 3 > /proc/sys/vm/drop_caches")

    def mount(self, device: str = "/dev/vda", where: str = "/mnt") -> None:
        """Mount an ext4 file system."""
        self.run(f"mount -t ext4 {device} {where}")

    def features(self, device: int) -> str:
        """Feature bits of virtio device number `device` that driver and device agreed on."""
        return self.run(f"cat /sys/bus/virtio/devices/virtio{device}/features").strip()

    def memory(self, field: str = "MemTotal") -> int:
        """A line of /proc/meminfo, in bytes."""
        match = re.search(rf"^{field}: +(\d+) kB$", self.run("cat /proc/meminfo"), re.MULTILINE)
        assert match, f"no {field} in /proc/meminfo"
        return int(match[1]) << 10

    def resident_memory(self) -> int:
        """Bytes of the guest's memory that are memory of the host now."""
        ram = self.machine.board.partition.ram
        return _resident_bytes(ram.address, ram.size)

    def touch_memory(self, size: int) -> None:
        """Use so many bytes of memory, whole MiB, and free them again."""
        count = size // MIB
        if self.debian:
            self.run(f"dd if=/dev/zero of=/tmp/fill bs={MIB} count={count}")
        else:
            self.run(f"copy /dev/zero /tmp/fill {MIB} {count}")
        self.run("rm /tmp/fill")

    def random_numbers(self) -> str:
        """Checksum of 1 KiB of /dev/hwrng, with our device behind it."""
        current = "/sys/class/misc/hw_random/rng_current"
        if not self.debian:  # its kernel prefers the generator of the PAPR platform
            self.run(f"echo virtio_rng.0 > {current}")
        assert "virtio_rng" in self.run(f"cat {current}")
        if self.debian:
            self.run("dd if=/dev/hwrng of=/tmp/random bs=64 count=16")
            assert "1024" in self.run("wc -c /tmp/random")
        else:
            assert "copied 1024" in self.run("copy /dev/hwrng /tmp/random 64 16")
        return self.sha256("/tmp/random")

    # Network

    def get_address(self) -> None:
        """Ask for an address by DHCP; a small guest does so when its kernel starts (ip=dhcp)."""
        if self.debian:
            # busybox's udhcpc leaves it to a script to use what it got.
            script = '[ "$1" != bound ] || ip address add $ip/24 dev $interface'
            self.run(f"echo '{script}' > /tmp/dhcp; chmod +x /tmp/dhcp")
            self.run("ip link set eth0 up; udhcpc -i eth0 -n -q -s /tmp/dhcp")
            assert _OWN_ADDRESS in self.run("ip address show eth0")
        else:
            assert f"my address is {_OWN_ADDRESS}" in self.run("dmesg")

    def set_address(self, address: str = _OWN_ADDRESS) -> None:
        """Switch the network card on with a fixed address, 24 bits of it the network's."""
        if self.debian:
            self.run(f"ip address add {address}/24 dev eth0; ip link set eth0 up")
        else:
            self.run(f"address eth0 {address}")

    def ping(self, address: str = _ROUTER, count: int = 3) -> None:
        """Send echo requests; each must be answered."""
        if self.debian:
            text = self.run(f"ping -c {count} -i 0.2 {address}")
            assert f"{count} packets received" in text, text
        else:
            text = self.run(f"ping {address} {count}")
            assert f"{count} of {count} answered" in text, text

    def send(
        self, port: int, path: str, address: str = _ROUTER, seconds: float = COMMAND_SECONDS
    ) -> None:
        """Send a file over TCP."""
        if self.debian:
            self.run(f"nc {address} {port} < {path}", seconds)
        else:
            self.run(f"send {address} {port} {path}", seconds)

    def start_receiving(self, port: int, path: str) -> None:
        """Listen for one TCP connection, whose data goes to a file; `finish` waits for its end."""
        if self.debian:
            listens = f"grep -q ':{port:04X} .* 0A ' /proc/net/tcp /proc/net/tcp6"
            self.type(
                f"nc -l -p {port} > {path} & "
                f"until {listens}; do sleep 0.1; done; echo listen''ing on {port}; wait $!"
            )
        else:
            self.type(f"receive {port} {path}")
        self.wait_for(f"listening on {port}")

    # The host's side of devices

    def chardev(self, label: str) -> MemoryChardev:
        """The host's side of a port."""
        for chardev in self.machine.chardevs:
            if chardev.label == label and isinstance(chardev, MemoryChardev):
                return chardev
        raise KeyError(label)

    @property
    def balloon(self) -> VirtioBalloon:
        """The balloon."""
        device = self.machine._devices.by_name["balloon"]
        assert isinstance(device, VirtioBalloon)
        return device

    def set_memory(self, size: int) -> None:
        """Have the balloon leave the guest so many bytes, and wait until it has."""
        self.balloon.set_target(size)
        wait_until(lambda: self.balloon.actual == size, f"a guest with {size} bytes of memory")


def pattern(size: int, seed: int) -> bytes:
    """What the small guests' `write FILE SIZE SEED` writes: mixed numbers, low bytes first."""
    index = np.arange((size + 7) // 8, dtype=np.uint64)
    with np.errstate(over="ignore"):
        words = _mix(index + np.uint64((seed * 0x9E3779B97F4A7C15 + 1) % (1 << 64)))
    return words.astype("<u8").tobytes()[:size]


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def take(chardev: MemoryChardev, size: int, seconds: float = 60.0) -> bytes:
    """Wait for so many bytes that nobody has read yet; all there are, maybe more."""
    data = bytearray()
    deadline = time.monotonic() + seconds
    while len(data) < size:
        assert time.monotonic() < deadline, f"{len(data)} of {size} bytes in {seconds:g} s"
        time.sleep(0.01)
        data += chardev.read()
    return bytes(data)


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Poll until a condition holds; AssertionError with `what` when the time is over."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)


def _resident_bytes(address: int, size: int) -> int:
    """How much of a mapping of this process takes memory of the host now."""
    pages = (ctypes.c_ubyte * (size // mmap.PAGESIZE))()
    mincore = ctypes.CDLL(None, use_errno=True).mincore
    mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)
    if mincore(address, size, pages):
        raise OSError(ctypes.get_errno(), "mincore")
    return sum(page & 1 for page in pages) * mmap.PAGESIZE
