"""An unknown Unicorn library is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import unicorn

from emu.cpu import layout
from emu.cpu.binding import JumpSlots
from emu.cpu.errors import UnicornError
from emu.cpu.external import UNICORN_LIBRARY
from emu.cpu.probe import check_layout, symbol_address

PROBED = [
    "UC_CPU",
    "UC_MEMORY_MAPPING",
    "CS_ENV_PTR",
    "CS_ENV",
    "CS_UC",
    "CS_CLASS",
    "CPU_CLASS",
    "CPU_OPCODES",
    "CS_ICOUNT_DECR_PTR",
    "CS_TLB",
    "CLASS_CPU_EXEC_INTERRUPT",
    "CLASS_DO_UNALIGNED_ACCESS",
    "CLASS_HANDLE_MMU_FAULT",
    "ENV_GPR",
    "ENV_LR",
    "ENV_CTR",
    "ENV_CRF",
    "ENV_XER",
    "ENV_NIP",
    "ENV_MSR",
    "ENV_SPR",
    "ENV_SPR_CB",
    "ENV_VSR",
    "ENV_FPSCR",
    "ENV_PENDING_INTERRUPTS",
    "ENV_UC",
]


@pytest.fixture
def instance() -> unicorn.Uc:
    mode = unicorn.UC_MODE_PPC64 | unicorn.UC_MODE_BIG_ENDIAN
    uc = unicorn.Uc(unicorn.UC_ARCH_PPC, mode)
    uc.mem_map(0, 65536)
    return uc


def test_a_missing_linkage_slot_is_refused_by_name() -> None:
    slots = JumpSlots(UNICORN_LIBRARY)
    with pytest.raises(UnicornError, match=r"libunicorn.*no linkage slot for no_such_function"):
        slots.bind("no_such_function", 0)


def test_a_library_that_is_not_loaded_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "libunicorn.so.2"
    copy.write_bytes(UNICORN_LIBRARY.read_bytes())
    with pytest.raises(UnicornError, match="not mapped"):
        JumpSlots(copy)


def test_a_missing_export_is_refused_by_name() -> None:
    with pytest.raises(UnicornError, match="does not export no_such_function"):
        symbol_address("no_such_function")


def test_the_known_layout_is_accepted(instance: unicorn.Uc) -> None:
    handle, cs, env = check_layout(instance)
    assert handle == instance._uch.value
    assert env == cs + layout.CS_ENV


@pytest.mark.parametrize("name", PROBED)
@pytest.mark.parametrize("shift", [-8, 8])
def test_another_layout_is_refused(
    instance: unicorn.Uc, monkeypatch: pytest.MonkeyPatch, name: str, shift: int
) -> None:
    monkeypatch.setattr(layout, name, getattr(layout, name) + shift)
    with pytest.raises(UnicornError, match=r"unknown layout \(.+\).*unicorn 2\.1\.4"):
        check_layout(instance)
