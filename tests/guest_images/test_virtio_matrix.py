"""The endian matrix of virtio, driven by bare-metal images (tests/guest).

A cell is a transport, a kind of device, a device type and an order of guests: big-endian,
little-endian, or one after the other with nothing but a device reset between. One run of the
emulator serves ten cells.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.guest_images.runner import DEVICES, ON_QEMU, Result, run_image, run_with_devices
from tests.support.guest_images import missing_compilers

pytestmark = pytest.mark.skipif(
    bool(missing_compilers()), reason=f"not installed: {', '.join(missing_compilers())}"
)

#: The interfaces a driver can use of each kind. virtio-mmio has no transitional devices.
INTERFACES = {
    "legacy": ("legacy",),
    "transitional": ("legacy", "modern"),
    "modern": ("modern",),
}
KINDS = {"pci": ("legacy", "transitional", "modern"), "mmio": ("legacy", "modern")}
VARIANTS = ("plain", "event", "indirect", "both", "cross")
ATTACKS = (
    "index-out-of-range",
    "loop",
    "next-out-of-range",
    "outside-memory",
    "index-jump",
    "odd-indirect",
    "nested-indirect",
)
#: Where each cell's phases are found: the order of the run, and how many of its phases count.
ORDERS = {"be": ("be,le", 1), "be-le": ("be,le", 2), "le": ("le,be", 1), "le-be": ("le,be", 2)}
TRANSLATIONS = [("power8", "off"), ("power8", "hash"), ("power9", "hash"), ("power9", "radix")]

TARGETS = [
    pytest.param(
        transport,
        kind,
        id=f"{transport}-{kind}",
        marks=pytest.mark.skipif(
            ON_QEMU and transport == "mmio", reason="QEMU has no ppc64 machine with virtio-mmio"
        ),
    )
    for transport, kinds in KINDS.items()
    for kind in kinds
]

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """`run_with_devices`, each run made once."""
    with tempfile.TemporaryDirectory(prefix="guest-images-") as home:

        @functools.cache
        def once(transport: str, kind: str, *machine: str, **parameters: str) -> Result:
            directory = Path(tempfile.mkdtemp(dir=home))
            return run_with_devices(directory, transport, kind, *machine, **parameters)

        yield once


def expected(phases: int, order: str, device: str, transport: str, kind: str) -> set[object]:
    """The cells of a device that the image must report, of the first so many phases."""
    return {
        (str(phase), order.split(",")[phase], device, transport, kind, interface, variant)
        for phase in range(phases)
        for interface in INTERFACES[kind]
        for variant in VARIANTS
    }


def check(result: Result, wanted: set[object], *words: str) -> None:
    """All wanted lines are there and no failure with these words."""
    assert not result.failures(*words), "\n".join(result.failures(*words))
    missing = wanted - set(result.passed)
    assert not missing, f"not reported: {missing}\n{result.output[-2000:]}"


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("transport", "kind"), TARGETS)
def test_device_follows_the_order_of_the_guest_that_resets_it(
    run: Run, transport: str, kind: str, device: str, order: str
) -> None:
    sequence, phases = ORDERS[order]
    mmu = "hash" if transport == "pci" else "off"
    result = run(transport, kind, test="matrix", order=sequence, mmu=mmu)
    wanted = expected(phases, sequence, device, transport, kind)
    for phase in range(phases):
        check(result, wanted, str(phase), device)


@pytest.mark.parametrize(("transport", "kind"), TARGETS)
def test_image_ends_with_all_checks_passed(run: Run, transport: str, kind: str) -> None:
    mmu = "hash" if transport == "pci" else "off"
    result = run(transport, kind, test="matrix", order="be,le", mmu=mmu)
    assert result.done, result.output[-2000:]
    assert "DONE: passed" in result.output, "\n".join(result.failed)
    assert result.status == 0
    cells = [expected(2, "be,le", device, transport, kind) for device in DEVICES]
    assert set(result.passed) == set().union(*cells)


@pytest.mark.parametrize(("cpu", "mmu"), TRANSLATIONS)
def test_mmio_is_the_same_by_hypercall_and_through_each_translation(
    run: Run, cpu: str, mmu: str
) -> None:
    order = "be,le,be"
    result = run("pci", "transitional", "-cpu", cpu, test="matrix", order=order, mmu=mmu)
    for device in DEVICES:
        check(result, expected(3, order, device, "pci", "transitional"), device)
    assert "DONE: passed" in result.output


@pytest.mark.parametrize(("transport", "kind"), TARGETS)
def test_malformed_rings_do_no_harm_and_a_reset_cures_them(
    run: Run, transport: str, kind: str
) -> None:
    result = run(transport, kind, test="hostile", order="be,le")
    wanted = {
        (str(phase), order, device, transport, kind, interface, attack)
        for phase, order in enumerate(("be", "le"))
        for device in DEVICES
        for interface in INTERFACES[kind]
        for attack in ATTACKS
    }
    check(result, {*wanted})
    assert "DONE: passed" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("order", ["be", "le"])
def test_exceptions_are_reported_in_either_order(tmp_path: Path, order: str) -> None:
    result = run_image(tmp_path, test="trap", order=order)
    assert f"EXCEPTION: {order} vector=700 " in result.output
    assert not result.done


def test_a_missing_test_is_a_failure(tmp_path: Path) -> None:
    result = run_image(tmp_path, test="nonsense", order="be,le")
    assert len(result.failed) == 2
    assert "DONE: failed" in result.output


def test_library_in_both_orders(tmp_path: Path) -> None:
    result = run_image(tmp_path, test="hello", order="be,le,le,be")
    assert [words[:2] for words in result.passed] == [
        ("0", "be"),
        ("1", "le"),
        ("2", "le"),
        ("3", "be"),
    ]
