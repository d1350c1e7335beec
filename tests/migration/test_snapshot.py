"""savevm and loadvm: a guest goes back in time, in the process it is in."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.config import ConfigError
from emu.machine import Machine
from emu.migration.stream import MigrationError
from emu.monitor.hmp import execute
from emu.options import parse_command_line
from emu.snapshots import directory, list_snapshots, load, path_of, save
from tests.boot.guests import BE, BOOT_SECONDS, LE_SMALL, READY, Guest, boot, trouble_in

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture
def still(tmp_path: Path) -> Iterator[Machine]:
    """A machine that has never run, without a disk."""
    with _machine(tmp_path) as machine:
        yield machine


def _machine(folder: Path, *options: str) -> Machine:
    image = folder / "spin.bin"
    image.write_bytes(bytes(0x100) + bytes.fromhex("48000000"))  # b .
    argv = ["-m", "256M", "-nodefaults", "-bios", str(image), "-S", *options]
    machine = Machine(parse_command_line(argv))
    machine.start()
    return machine


@pytest.mark.boot
@pytest.mark.parametrize(("guest", "cpu"), [(LE_SMALL, "power9"), (BE, "power8")])
def test_guest_goes_back_to_what_it_was(tmp_path: Path, guest: Guest, cpu: str) -> None:
    """More than once, and it goes on working."""
    if guest.missing:
        pytest.skip(guest.missing)
    with boot(guest, cpu) as machine:
        console = machine.console
        console.wait_for(READY, timeout=BOOT_SECONDS)
        console.wait_for("# ", timeout=BOOT_SECONDS)

        def run(command: str) -> str:
            console.send(f"{command}\n")
            return console.wait_for(re.compile(rb"(?s)\n.*?guest# "))[0].decode()

        run("write /tmp/kept 1000000 5")
        assert execute(machine, f"savevm {tmp_path}/here") == ""
        for _ in range(2):
            run("write /tmp/kept 1000000 6")
            assert "verified" in run("verify /tmp/kept 1000000 6")
            assert execute(machine, f"loadvm {tmp_path}/here") == ""
            assert "verified" in run("verify /tmp/kept 1000000 5")
        assert trouble_in(console.text) == []


def test_memory_and_devices_are_restored(still: Machine) -> None:
    """What was zeros then is zeros again, and the other way round."""
    dma = still.board.dma
    dma.write(0x100000, b"then" * 1024)
    save(still, "first")
    dma.write(0x100000, bytes(4096))
    dma.write(0x300000, b"now")
    load(still, "first")
    assert dma.read(0x100000, 4096) == b"then" * 1024
    assert dma.read(0x300000, 3) == bytes(3)


def test_names_are_files_of_one_directory(still: Machine) -> None:
    assert "no snapshots" in execute(still, "info snapshots")
    save(still, "b")
    save(still, "a")
    assert [snapshot.name for snapshot in list_snapshots()] == ["b", "a"]
    assert path_of("a").parent == directory()
    assert re.search(r"\na +\d", execute(still, "info snapshots"))
    assert execute(still, "delvm b") == ""
    assert [snapshot.name for snapshot in list_snapshots()] == ["a"]
    assert "cannot remove" in execute(still, "delvm b")
    assert "saved as vm-20" in execute(still, "savevm")


@pytest.mark.parametrize("name", ["..", ".hidden", "a b", "", "x" * 200])
def test_names_that_are_none(still: Machine, name: str) -> None:
    with pytest.raises(MigrationError, match="no name"):
        save(still, name)


def test_option_with_a_name_that_is_none() -> None:
    with pytest.raises(ConfigError, match="'a b' is no name"):
        parse_command_line(["-loadvm", "a b"])


def test_file_that_is_not_there_changes_nothing(still: Machine) -> None:
    still.board.dma.write(0x100000, b"kept")
    for name in ("nothing", "/nowhere/file"):
        assert "No such file" in execute(still, f"loadvm {name}")
    assert "No such file" in execute(still, "savevm /nowhere/file")
    assert still.board.dma.read(0x100000, 4) == b"kept"


def test_damaged_file_leaves_a_stopped_machine(still: Machine, tmp_path: Path) -> None:
    """Every byte of memory counts."""
    still.board.dma.write(0x100000, b"then" * 1024)
    save(still, f"{tmp_path}/saved")
    data = bytearray((tmp_path / "saved").read_bytes())
    data[data.index(b"thenthen") + 2000] ^= 1
    (tmp_path / "saved").write_bytes(data)
    assert "corrupt" in execute(still, f"loadvm {tmp_path}/saved")
    assert still.state.state.value == "paused"
    (tmp_path / "saved").write_bytes(data[:5000])
    assert "ends after" in execute(still, f"loadvm {tmp_path}/saved")
    assert execute(still, "system_reset") == ""


def test_failed_save_leaves_the_file_before_it(still: Machine, tmp_path: Path) -> None:
    save(still, f"{tmp_path}/saved")
    before = (tmp_path / "saved").read_bytes()
    components = still.board.components
    still.board.components = lambda: 1 / 0  # type: ignore[method-assign,assignment,return-value]
    assert "Error" in execute(still, f"savevm {tmp_path}/saved")
    still.board.components = components  # type: ignore[method-assign]
    assert (tmp_path / "saved").read_bytes() == before
    assert len(list(tmp_path.glob("saved*"))) == 1


def test_writable_disk_is_refused(tmp_path: Path) -> None:
    """What is on it would not go back with the guest."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    drive = f"file={disk},if=none,id=d,format=raw"
    device = ("-device", "virtio-blk-pci,drive=d,id=disk0")
    with _machine(tmp_path, "-drive", drive, *device) as machine:
        assert "'disk0' is writable" in execute(machine, "savevm x")
        assert "'disk0' is writable" in execute(machine, f"loadvm {disk}")
    with _machine(tmp_path, "-drive", f"{drive},readonly=on", *device) as machine:
        assert execute(machine, "savevm x") == ""


@pytest.mark.parametrize(("option", "prefix"), [(["-incoming"], "file:"), (["-loadvm"], "")])
def test_new_machine_goes_on_with_a_saved_guest(
    still: Machine, tmp_path: Path, option: list[str], prefix: str
) -> None:
    still.board.dma.write(0x100000, b"then")
    save(still, f"{tmp_path}/saved")
    with _machine(tmp_path, *option, f"{prefix}{tmp_path}/saved") as other:
        other.state.wait_for(
            *(s for s in type(other.state.state) if s.value == "paused"), timeout=60
        )
        assert other.board.dma.read(0x100000, 4) == b"then"
