"""The pytest plugin of ppc64emu; docs/pytest.md says how to use it.

Loaded in every test run where the package is installed, so the emulator (and Numba with it) is
imported by the first test that uses a machine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from emu.pytest_plugin.report import Machines

if TYPE_CHECKING:
    from emu.config import MachineConfig
    from emu.pytest_plugin.factory import MachineFactory, SnapshotFactory
    from emu.pytest_plugin.guest import GuestMachine
    from emu.pytest_plugin.snapshot import SnapshotStore

_MACHINES = pytest.StashKey[Machines]()
_ORDERS = {"be": "be", "le": "le", "big": "be", "little": "le"}
_MARKERS = (
    "ppc64emu(*options, **options): the machine of the `machine` fixture, as options of ppc64emu; "
    "docs/pytest.md",
    "ppc64emu_snapshot(until=..., timeout=60, scope='module'): boot the machine once, up to a "
    "pattern on its console (or a function of it), and restore that state for each test",
    "ppc64emu_matrix(cpus=[...], endians=[...]): run the test with each of these CPUs and guest "
    "byte orders (be, le)",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The plugin's command-line options."""
    group = parser.getgroup("ppc64emu", "guests in ppc64emu")
    group.addoption(
        "--guest-image-dir",
        action="append",
        default=[],
        type=Path,
        metavar="DIR",
        help="collect the guest test images in DIR, each as a test (may be repeated); only they "
        "are collected if no other path is given",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Markers, and the directories of images among the paths to be collected."""
    for line in _MARKERS:
        config.addinivalue_line("markers", line)
    config.stash[_MACHINES] = Machines()
    directories: list[Path] = config.getoption("guest_image_dir")
    if directories:
        from emu.pytest_plugin.images import add_directories

        add_directories(config, directories)


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """A directory of images is a collector of its own."""
    directories: list[Path] = parent.config.getoption("guest_image_dir")
    if not directories:
        return None
    from emu.pytest_plugin.images import collect_directory

    return collect_directory(path, parent, directories)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """The matrix: one test for each CPU and each byte order."""
    marker = metafunc.definition.get_closest_marker("ppc64emu_matrix")
    if marker is None:
        return
    known = {"cpus": "guest_cpu", "endians": "guest_endian"}
    if marker.args or not marker.kwargs or set(marker.kwargs) - set(known):
        raise pytest.UsageError(
            f"{metafunc.definition.nodeid}: ppc64emu_matrix takes cpus=[...] and endians=[...]"
        )
    for keyword, fixture in known.items():
        values = marker.kwargs.get(keyword)
        if values is None:
            continue
        if keyword == "endians":
            values = [_order(metafunc, value) for value in values]
        metafunc.parametrize(fixture, [str(value) for value in values])


def _order(metafunc: pytest.Metafunc, value: object) -> str:
    if value not in _ORDERS:
        raise pytest.UsageError(
            f"{metafunc.definition.nodeid}: unknown byte order {value!r} (known: be, le)"
        )
    return _ORDERS[str(value)]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test begins."""
    item.config.stash[_MACHINES].begin_test()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test's report has the tails of its consoles."""
    report = yield
    if report.failed:
        item.config.stash[_MACHINES].attach(report)
    return report


@pytest.fixture
def guest_cpu() -> str | None:
    """The CPU model of this cell of the matrix; None without `ppc64emu_matrix(cpus=...)`."""
    return None


@pytest.fixture
def guest_endian() -> str | None:
    """The guest's byte order in this cell, "be" or "le"; None without a matrix of them."""
    return None


@pytest.fixture
def machine_factory(
    request: pytest.FixtureRequest, guest_cpu: str | None, guest_endian: str | None
) -> Iterator[MachineFactory]:
    """Makes machines: `machine_factory("-cpu", "power9", kernel="vmlinux")`; closes them."""
    from emu.pytest_plugin.factory import MachineFactory

    factory = MachineFactory(request.config.stash[_MACHINES], _cell(guest_cpu, guest_endian))
    yield factory
    factory.close()


@pytest.fixture(scope="session")
def _snapshot_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SnapshotStore]:
    from emu.pytest_plugin.snapshot import SnapshotStore

    store = SnapshotStore(lambda: tmp_path_factory.mktemp("ppc64emu-snapshots"))
    yield store
    store.close()


@pytest.fixture(scope="session")
def snapshot_factory(
    request: pytest.FixtureRequest, _snapshot_store: SnapshotStore
) -> SnapshotFactory:
    """Boots machines and keeps their state: `snapshot_factory(kernel=..., until="login:")`."""
    from emu.pytest_plugin.factory import SnapshotFactory

    return SnapshotFactory(request.config.stash[_MACHINES], _snapshot_store)


@pytest.fixture
def machine(
    request: pytest.FixtureRequest,
    machine_factory: MachineFactory,
    guest_cpu: str | None,
    guest_endian: str | None,
) -> GuestMachine:
    """The machine that the test's `ppc64emu` markers describe, running.

    With `ppc64emu_snapshot` it starts from the state that such a machine was saved in.
    """
    from emu.chardev.config import ConfigError

    try:
        config = _marked_config(request, _cell(guest_cpu, guest_endian))
        snapshot = request.node.get_closest_marker("ppc64emu_snapshot")
        if snapshot is None:
            return machine_factory(config)
        return machine_factory(_marked_snapshot(request, config, **_bound(snapshot)))
    except ConfigError as error:
        mistake = str(error)
    pytest.fail(f"{request.node.nodeid}: {mistake}", pytrace=False)


def _cell(cpu: str | None, endian: str | None) -> dict[str, str]:
    given = {"cpu": cpu, "endian": endian}
    return {name: value for name, value in given.items() if value is not None}


def _marked_config(request: pytest.FixtureRequest, cell: dict[str, str]) -> MachineConfig:
    """Options of all markers, those of the module first; a configuration stands alone."""
    from emu.chardev.config import ConfigError
    from emu.config import MachineConfig
    from emu.pytest_plugin.recipe import Recipe, option_words, recipe

    markers = list(request.node.iter_markers("ppc64emu"))
    if not markers:
        raise ConfigError("the machine fixture needs @pytest.mark.ppc64emu(OPTIONS)")
    if any(isinstance(argument, MachineConfig) for marker in markers for argument in marker.args):
        return recipe(*markers[0].args, **markers[0].kwargs).build(cell)
    words: list[str] = []
    for marker in reversed(markers):
        words += option_words(marker.args, marker.kwargs)
    return Recipe(tuple(words)).build(cell)


def _bound(marker: pytest.Mark) -> dict[str, Any]:
    """Arguments of `ppc64emu_snapshot` by name; ConfigError for wrong ones."""
    from emu.chardev.config import ConfigError

    def bind(until: Any, *, timeout: float = 60.0, scope: str = "module") -> dict[str, Any]:
        return {"until": until, "timeout": timeout, "scope": scope}

    with contextlib.suppress(TypeError):
        given = bind(*marker.args, **marker.kwargs)
        if given["scope"] in ("module", "session"):
            return given
    raise ConfigError(
        "ppc64emu_snapshot takes until=PATTERN or FUNCTION, timeout=SECONDS and "
        "scope='module' or 'session'"
    )


def _marked_snapshot(
    request: pytest.FixtureRequest,
    config: MachineConfig,
    until: str | Callable[[GuestMachine], object],
    timeout: float,
    scope: str,
) -> Any:
    factory: SnapshotFactory = request.getfixturevalue("snapshot_factory")
    module = request.node.getparent(pytest.Module) if scope == "module" else None
    owner = module.nodeid if module is not None else ""
    snapshot = factory.get(config, until, timeout, owner)
    if module is not None:
        key = factory.key(config, until, owner)
        module.addfinalizer(lambda: factory.drop(key))
    return snapshot
