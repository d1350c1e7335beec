"""Host sides that cannot be opened: one line that names the option, and nothing is left behind."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from devices.block.locking import lock_image
from emu.__main__ import load_machine, main
from emu.machine import Machine
from tests.support.asm import assemble, b

MIB = 1 << 20
SECONDS = 20.0
NOBODY = 65534
_PR_SET_DUMPABLE = 4  # linux/prctl.h
BLOCK = ("-device", "virtio-blk-pci,drive=d")
NET = ("-device", "virtio-net-pci,netdev=n")
SERIAL = ("-device", "virtio-serial-pci")
PORT = ("-device", "virtserialport,chardev=c")
LONG = "x" * 120


class Folder:
    """Files that a command line may name, and ports of the host; `{name}` in a case is its path."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.names = {"dir": path, "gone": path / "gone", "long": path / LONG}
        self._sockets: list[socket.socket] = []
        self._file("disk", bytes(MIB))
        self._file("bios", bytes(0x100) + assemble(b(0)))
        self._file("odd", b"x" * 1000)
        self._file("qcow2", b"QFI\xfb" + bytes(1000))
        self._file("vmdk", b"KDMV" + bytes(1020))
        self._file("bare", b"")
        os.mkfifo(path / "fifo")
        self.names["fifo"] = path / "fifo"
        self.names["unix"] = path / "unix"
        unix = socket.socket(socket.AF_UNIX)
        unix.bind(os.fspath(path / "unix"))
        tcp = socket.create_server(("127.0.0.1", 0))
        closed = socket.socket()
        closed.bind(("127.0.0.1", 0))  # and does not listen
        self._sockets += [unix, tcp, closed]
        self.values = {name: os.fspath(place) for name, place in self.names.items()}
        self.values |= {"port": str(tcp.getsockname()[1]), "closed": str(closed.getsockname()[1])}

    def _file(self, name: str, content: bytes) -> None:
        self.names[name] = self.path / name
        self.names[name].write_bytes(content)

    def fill(self, text: str) -> str:
        """Put paths and ports into a case."""
        for name, value in self.values.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    def state(self) -> dict[str, tuple[int, int, bytes]]:
        """Mode, time of the last change and content of everything there."""
        found = {}
        for place in sorted(self.path.iterdir()):
            status = place.stat()
            content = place.read_bytes() if place.is_file() else b""
            found[place.name] = (status.st_mode, status.st_mtime_ns, content)
        return found

    def close(self) -> None:
        """Close the sockets."""
        for sock in self._sockets:
            sock.close()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    made = Folder(tmp_path)
    yield made
    made.close()


def open_files() -> set[str]:
    """Numbers of the descriptors of this process, with what they are."""
    gc.collect()  # an image is mapped until nobody refers to it
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{number} {os.readlink(f'/proc/self/fd/{number}')}")
        except FileNotFoundError:  # that of the directory itself
            continue
    return found


@pytest.fixture(scope="module", autouse=True)
def _little_garbage() -> Iterator[None]:
    """What is there before the tests need not be looked at in each of them."""
    load_machine()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first start says that it compiles: none of these is one."""
    monkeypatch.setattr("emu.__main__.is_cold", lambda: False)


Refused = Callable[..., str]


@pytest.fixture
def refused(
    folder: Folder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Refused:
    """Run the command; the one line it says, after a check of what is left behind."""

    def start(machine: Machine) -> None:
        machine._open_monitors()
        raise AssertionError("the machine was built")

    monkeypatch.setattr(Machine, "start", start)

    def run(*options: str) -> str:
        words = [folder.fill(word) for word in options]
        if "-bios" not in words and "-kernel" not in words:
            words = ["-bios", folder.values["bios"], *words]
        files, threads, before = open_files(), set(threading.enumerate()), folder.state()
        status = main(["-m", "256", "-nodefaults", *words])
        out, err = capsys.readouterr()
        assert (status, out) == (1, "")
        assert err.startswith("ppc64emu: ")
        assert err.endswith("\n")
        assert err.count("\n") == 1, err
        assert folder.state() == before
        deadline = time.monotonic() + SECONDS
        while set(threading.enumerate()) > threads:  # their last breath
            assert time.monotonic() < deadline, threading.enumerate()
            time.sleep(0.001)
        assert open_files() == files
        return err.removeprefix("ppc64emu: ").rstrip()

    return run


def drive(file: str, properties: str = "") -> list[str]:
    return ["-drive", f"if=none,id=d,file={file}{properties}", *BLOCK]


def netdev(text: str) -> list[str]:
    return ["-netdev", f"{text},id=n", *NET]


def chardev(text: str) -> list[str]:
    return ["-chardev", f"{text},id=c", *SERIAL, *PORT]


def block(properties: str) -> list[str]:
    place = f"virtio-blk-pci,drive=d,{properties}"
    return ["-device", place, "-drive", "if=none,id=d,format=raw,file={disk}"]


#: Options, of which the first is to blame, and a part of the message.
CASES: dict[str, tuple[list[str], str]] = {
    "drive is a fifo": (drive("{fifo}"), "requires '{fifo}' to be a regular file or block device"),
    "drive is a character device": (
        drive("/dev/zero"),
        "requires '/dev/zero' to be a regular file or block device",
    ),
    "drive is a socket": (drive("{unix}"), "could not open '{unix}': No such device or address"),
    "drive has part of a sector": (drive("{odd}"), "image size 1000 is not a multiple of 512"),
    "broken qcow2": (drive("{qcow2}", ",format=qcow2"), "Unsupported qcow2 version 0"),
    "raw as qcow2": (drive("{disk}", ",format=qcow2"), "Image is not in qcow2 format"),
    "qcow2 without a format": (drive("{qcow2}"), "it looks like a qcow2 image; say format=qcow2"),
    "vmdk without a format": (drive("{vmdk}"), "it looks like a vmdk image"),
    "node of a fifo": (
        ["-blockdev", "driver=file,node-name=d,filename={fifo}", *BLOCK],
        "to be a regular file or block device",
    ),
    "odd block size": (block("logical_block_size=1000"), "must be a power of 2 between 512"),
    "block larger than the physical one": (
        block("logical_block_size=4096,physical_block_size=512"),
        "logical_block_size > physical_block_size not supported",
    ),
    "no queues": (block("num-queues=0"), "num-queues property must be larger than 0"),
    "too many queues": (block("num-queues=1025"), "num-queues property must be at most 1024"),
    "odd queue size": (block("queue-size=3"), "invalid queue-size property (3)"),
    "port of the host is taken": (
        netdev("user,hostfwd=tcp:127.0.0.1:{port}-:22"),
        "Could not set up host forwarding rule 'tcp:127.0.0.1:{port}-:22'",
    ),
    "no TFTP directory": (netdev("user,tftp={gone}"), "could not serve '{gone}' by TFTP"),
    "listening at a taken port": (
        netdev("socket,listen=127.0.0.1:{port}"),
        "can't bind 'tcp:127.0.0.1:{port}' to socket: Address already in use",
    ),
    "nobody listens": (
        netdev("socket,connect=127.0.0.1:{closed}"),
        "Failed to connect to 'tcp:127.0.0.1:{closed}': Connection refused",
    ),
    "not a host name": (netdev("socket,connect=a..b:1"), "address resolution failed for a..b:1"),
    "no such descriptor": (
        netdev("socket,fd=2000000000"),
        "Can't use file descriptor 2000000000: Bad file",
    ),
    "descriptor that is no socket": (netdev("socket,fd=0"), "Can't use file descriptor 0"),
    "no such unix socket": (
        netdev("stream,addr.type=unix,addr.path={gone}"),
        "Failed to connect to 'unix:{gone}': No such file or directory",
    ),
    "a file in the way of a socket": (
        netdev("stream,server=on,addr.type=unix,addr.path={disk}"),
        "can't bind 'unix:{disk}' to socket: Address already in use",
    ),
    "descriptor that is no tap": (netdev("tap,fd=0"), "Can't use file descriptor 0"),
    "console file in no directory": (
        chardev("file,path={gone}/log"),
        "could not open '{gone}/log': No such file or directory",
    ),
    "console file is a directory": (chardev("file,path={dir}"), "Is a directory"),
    "console socket with a long path": (
        chardev("socket,path={long},server=on,wait=off"),
        "failed to listen on 'unix:{long}': AF_UNIX path too long",
    ),
    "console client with a long path": (
        chardev("socket,path={long}"),
        "failed to connect to 'unix:{long}': AF_UNIX path too long",
    ),
    "nobody at a console socket": (
        chardev("socket,host=127.0.0.1,port={closed}"),
        "failed to connect to 'tcp:127.0.0.1:{closed}': Connection refused",
    ),
    "console of no host": (
        chardev("socket,host=a..b,port=1"),
        "failed to connect to 'tcp:a..b:1': Name or service not known",
    ),
    "serial file is a directory": (["-serial", "file:{dir}"], "could not open '{dir}'"),
    "serial port at a taken port": (
        ["-serial", "tcp:127.0.0.1:{port},server=on,wait=off"],
        "failed to listen on 'tcp:127.0.0.1:{port}': Address already in use",
    ),
    "QMP socket with a long path": (
        ["-qmp", "unix:{long},server=on,wait=off"],
        "failed to listen on 'unix:{long}': AF_UNIX path too long",
    ),
    "monitor in no directory": (
        ["-monitor", "unix:{gone}/m,server=on,wait=off"],
        "failed to listen on 'unix:{gone}/m': No such file or directory",
    ),
    "port number too high": (
        ["-device", "virtserialport,nr=31", *SERIAL],
        "out-of-range port id specified, max. allowed: 30",
    ),
    "port 0 is for a console": (
        ["-device", "virtserialport,nr=0", *SERIAL],
        "port number 0 on virtio-serial devices reserved for virtconsole",
    ),
    "too many ports": (
        ["-device", "virtserialport", "-device", "virtio-serial-pci,max_ports=1"],
        "maximum port limit for this device reached",
    ),
    "bus without a free slot": (
        ["-device", "virtio-rng-pci", *["-device", "virtio-rng-pci"] * 32],
        "PCI: no slot/function available for virtio-rng-pci",
    ),
    "slot taken": (
        ["-device", "virtio-balloon-pci,addr=3", "-device", "virtio-rng-pci,addr=3"],
        "PCI: slot 3 function 0 not available for virtio-balloon-pci",
    ),
    "function of a single-function device": (
        ["-device", "virtio-balloon-pci,addr=3.1", "-device", "virtio-rng-pci,addr=3.0"],
        "PCI: single function device can't be populated in function 3.1",
    ),
    "no file of random numbers": (
        ["-object", "rng-random,id=r,filename={gone}", "-device", "virtio-rng-pci,rng=r"],
        "could not open '{gone}': No such file or directory",
    ),
    "directory of random numbers": (
        ["-object", "rng-random,id=r,filename={dir}", "-device", "virtio-rng-pci,rng=r"],
        "could not open '{dir}': Is a directory",
    ),
    "kernel is a fifo": (["-kernel", "{fifo}"], "{fifo}: not a regular file"),
    "kernel is no ELF file": (["-kernel", "{disk}"], "{disk}: not an ELF file"),
    "empty firmware": (["-bios", "{bare}"], "{bare}: the file is empty"),
}


@pytest.mark.parametrize("name", CASES)
def test_mistake_is_one_line_that_names_the_option(
    name: str, folder: Folder, refused: Refused
) -> None:
    options, message = CASES[name]
    first = options.index("-device") + 2 if options[0] == "-device" else len(options)
    rest, culprit = options[first:], options[:first]
    # what a device refers to has to come first on the command line
    line = refused(*rest, *culprit)
    assert line.startswith(folder.fill(f"{culprit[0]} {culprit[1]}: "))
    assert folder.fill(message) in line


def test_image_that_another_process_uses(folder: Folder, refused: Refused) -> None:
    fd = os.open(folder.names["disk"], os.O_RDWR)
    try:
        lock_image(fd, "disk", read_only=False)
        line = refused(*drive("{disk}", ",format=raw"))
    finally:
        os.close(fd)
    path = folder.values["disk"]
    assert f"lock: is another process using the image '{path}'?" in line


def test_image_that_two_disks_write(folder: Folder, refused: Refused) -> None:
    line = refused(*["-drive", "if=virtio,format=raw,file={disk}"] * 2)
    assert "Failed to get" in line


@pytest.fixture
def unprivileged() -> Iterator[Callable[[], None]]:
    """A function that gives up root's rights for the rest of the test, if it has them."""
    user = os.geteuid()

    def drop() -> None:
        if user == 0:
            os.seteuid(NOBODY)
            # after a change of user /proc/self is root's, unless the process says this
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)

    yield drop
    os.seteuid(user)


@pytest.fixture
def public_folder() -> Iterator[Folder]:
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        made = Folder(path)
        path.chmod(0o755)
        yield made
        made.close()


@pytest.mark.parametrize(
    ("options", "mode", "what"),
    [
        (drive("{disk}", ",format=raw"), 0o444, "Permission denied"),
        (drive("{disk}", ",format=raw,readonly=on"), 0o000, "Permission denied"),
        (chardev("file,path={disk}"), 0o444, "Permission denied"),
        (chardev("file,path={dir}/new"), 0o644, "Permission denied"),
        (chardev("socket,path={dir}/new,server=on,wait=off"), 0o644, "Permission denied"),
        (netdev("tap,ifname=ppc64emu0,script=no,downscript=no"), 0o644, "could not "),
        (["-kernel", "{disk}"], 0o000, "Permission denied"),
    ],
    ids=["write", "read", "log", "new log", "socket", "tap", "kernel"],
)
def test_no_permission(
    options: list[str],
    mode: int,
    what: str,
    public_folder: Folder,
    unprivileged: Callable[[], None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(_machine: Machine) -> None:
        raise AssertionError("the machine was built")

    monkeypatch.setattr(Machine, "start", start)
    base = ["-m", "256", "-nodefaults"]
    if "-kernel" not in options:
        base += ["-bios", public_folder.values["bios"]]
    # Everything is imported before the rights go: the program's files may be private.
    with contextlib.suppress(AssertionError):  # root may have a tap
        main([*base, *[word.format_map(_Elsewhere(public_folder)) for word in options]])
    capsys.readouterr()
    public_folder.names["disk"].chmod(mode)
    before = public_folder.state() if mode else None
    unprivileged()
    words = [public_folder.fill(word) for word in options]
    assert main([*base, *words]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"ppc64emu: {words[0]} {words[1]}: ")
    assert what in err
    assert err.count("\n") == 1
    assert before is None or public_folder.state() == before


class _Elsewhere(dict[str, str]):
    """Every name stands for a path that cannot be."""

    def __init__(self, folder: Folder) -> None:
        self._gone = f"{folder.values['disk']}/none"

    def __missing__(self, name: str) -> str:
        return self._gone
