"""The QMP commands for the machine as a whole (names and fields as in QEMU's QAPI schema)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emu import __version__
from emu.events import RunState
from emu.monitor.registry import COMMANDS, Arguments, QmpError, command

if TYPE_CHECKING:
    from emu.machine import Machine

#: The QEMU release whose conventions are followed; clients look at it.
QEMU_VERSION = {"major": 7, "minor": 2, "micro": 0}
_WAIT = 10.0


def version() -> dict[str, Any]:
    """What the greeting and query-version say."""
    return {"qemu": QEMU_VERSION, "package": f"ppc64emu-{__version__}"}


@command("query-version")
def _query_version(_machine: Machine, _arguments: Arguments) -> dict[str, Any]:
    return version()


@command("query-commands")
def _query_commands(_machine: Machine, _arguments: Arguments) -> list[dict[str, str]]:
    return [{"name": name} for name in sorted([*COMMANDS, "qmp_capabilities"])]


@command("query-status")
def _query_status(machine: Machine, _arguments: Arguments) -> dict[str, Any]:
    state = machine.state.state
    return {"running": state is RunState.RUNNING, "singlestep": False, "status": state.value}


@command("query-name")
def _query_name(machine: Machine, _arguments: Arguments) -> dict[str, Any]:
    return {"name": machine.config.name} if machine.config.name else {}


@command("query-uuid")
def _query_uuid(machine: Machine, _arguments: Arguments) -> dict[str, Any]:
    return {"UUID": str(machine.config.uuid or "00000000-0000-0000-0000-000000000000")}


@command("query-cpus-fast")
def _query_cpus_fast(machine: Machine, _arguments: Arguments) -> list[dict[str, Any]]:
    return [
        {
            "cpu-index": vcpu.index,
            "qom-path": f"/machine/unattached/device[{vcpu.index}]",
            "thread-id": machine.thread_id,
            "target": "ppc64",
            "props": {"core-id": vcpu.index},
        }
        for vcpu in machine.board.vcpus
    ]


@command("stop")
def _stop(machine: Machine, _arguments: Arguments) -> dict[str, Any]:
    machine.stop()
    if machine.state.state is RunState.RUNNING:
        machine.state.wait_for(
            *(state for state in RunState if state is not RunState.RUNNING), timeout=_WAIT
        )
    return {}


@command("cont")
def _cont(machine: Machine, _arguments: Arguments) -> dict[str, Any]:
    if machine.state.state in (RunState.GUEST_PANICKED, RunState.SHUTDOWN, RunState.INTERNAL_ERROR):
        raise QmpError("Resetting the Virtual Machine is required")
    machine.cont()
    if machine.state.state is RunState.INMIGRATE:
        return {}  # it runs when it has come in
    machine.state.wait_for(
        RunState.RUNNING, RunState.SHUTDOWN, RunState.GUEST_PANICKED, timeout=_WAIT
    )
    return {}


@command("quit")
def _quit(machine: Machine, _arguments: Arguments) -> dict[str, Any]:
    machine.loop.call_later(0.05, machine.quit)  # the answer goes first
    return {}


@command("system_reset")
def _system_reset(machine: Machine, _arguments: Arguments) -> dict[str, Any]:
    machine.reset()
    return {}


@command("system_powerdown")
def _system_powerdown(machine: Machine, _arguments: Arguments) -> dict[str, Any]:
    machine.powerdown()
    return {}


@command("migrate", uri=str, blk_opt=bool, inc_opt=bool, detach_opt=bool, resume_opt=bool)
def _migrate(machine: Machine, arguments: Arguments) -> dict[str, Any]:
    for name in ("blk", "inc"):
        if arguments.get(name):
            raise QmpError(f"Parameter '{name}' is not supported")
    if arguments.get("resume"):
        machine.migration.resume(arguments["uri"])
    else:
        machine.migration.migrate(arguments["uri"])
    return {}


@command("migrate-start-postcopy")
def _migrate_start_postcopy(machine: Machine, _arguments: Arguments) -> dict[str, Any]:
    machine.migration.start_postcopy()
    return {}


@command("migrate-recover", uri=str)
def _migrate_recover(machine: Machine, arguments: Arguments) -> dict[str, Any]:
    machine.migration.recover(arguments["uri"])
    return {}


@command("migrate-pause")
def _migrate_pause(machine: Machine, _arguments: Arguments) -> dict[str, Any]:
    machine.migration.pause()
    return {}


@command("migrate_cancel")
def _migrate_cancel(machine: Machine, _arguments: Arguments) -> dict[str, Any]:
    machine.migration.cancel()
    return {}


@command("migrate-incoming", uri=str)
def _migrate_incoming(machine: Machine, arguments: Arguments) -> dict[str, Any]:
    machine.migration.listen(arguments["uri"])
    return {}


@command("query-migrate")
def _query_migrate(machine: Machine, _arguments: Arguments) -> dict[str, Any]:
    return machine.migration.query()


@command(
    "migrate-set-parameters",
    max_bandwidth_opt=int,
    max_postcopy_bandwidth_opt=int,
    downtime_limit_opt=int,
    multifd_compression_opt=str,
    multifd_zlib_level_opt=int,
    multifd_zstd_level_opt=int,
    cpu_throttle_initial_opt=int,
    cpu_throttle_increment_opt=int,
    max_cpu_throttle_opt=int,
)
def _migrate_set_parameters(machine: Machine, arguments: Arguments) -> dict[str, Any]:
    machine.migration.parameters.update(arguments)
    return {}


@command("query-migrate-parameters")
def _query_migrate_parameters(machine: Machine, _arguments: Arguments) -> dict[str, Any]:
    return dict(machine.migration.parameters.as_dict())


@command("migrate-set-capabilities", capabilities=list)
def _migrate_set_capabilities(machine: Machine, arguments: Arguments) -> dict[str, Any]:
    known = machine.migration.capabilities
    wanted: dict[str, bool] = {}
    for entry in arguments["capabilities"]:
        name = entry.get("capability") if isinstance(entry, dict) else None
        state = entry.get("state") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not isinstance(state, bool):
            raise QmpError("Invalid parameter 'capabilities'")
        if name not in known and state:
            raise QmpError(f"migration capability '{name}' is not supported")
        wanted[name] = state
    known.update({name: state for name, state in wanted.items() if name in known})
    return {}


@command("query-migrate-capabilities")
def _query_migrate_capabilities(machine: Machine, _arguments: Arguments) -> list[dict[str, Any]]:
    capabilities = machine.migration.capabilities
    return [{"capability": name, "state": state} for name, state in capabilities.items()]
