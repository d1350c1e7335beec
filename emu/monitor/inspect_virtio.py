"""Virtio devices in the monitors: QEMU's ``x-query-virtio`` family and ``info virtio``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from devices.virtio.constants import Feature, Status, VirtioId
from emu.events import RunState
from emu.monitor.registry import COMMANDS, Arguments, QmpError, command

if TYPE_CHECKING:
    from devices.virtio.device import VirtioDevice
    from devices.virtio.queue import VirtQueue
    from emu.machine import Machine

_NAMES = {
    VirtioId.NET: "virtio-net",
    VirtioId.BLOCK: "virtio-blk",
    VirtioId.CONSOLE: "virtio-serial",
    VirtioId.RNG: "virtio-rng",
    VirtioId.BALLOON: "virtio-balloon",
    VirtioId.SCSI: "virtio-scsi",
    VirtioId.NINE_P: "virtio-9p",
}
_LEGACY_ALIGN = 4096
#: Names of feature bits of one kind of device (virtio 1.2, 5.3.3 and 5.5.3)
_CONSOLE_FEATURES = {0: "VIRTIO_CONSOLE_F_SIZE", 1: "VIRTIO_CONSOLE_F_MULTIPORT"}
_CONSOLE_FEATURES[2] = "VIRTIO_CONSOLE_F_EMERG_WRITE"
_BALLOON_FEATURES = {
    0: "VIRTIO_BALLOON_F_MUST_TELL_HOST",
    1: "VIRTIO_BALLOON_F_STATS_VQ",
    2: "VIRTIO_BALLOON_F_DEFLATE_ON_OOM",
    3: "VIRTIO_BALLOON_F_FREE_PAGE_HINT",
    4: "VIRTIO_BALLOON_F_PAGE_POISON",
    5: "VIRTIO_BALLOON_F_REPORTING",
}


def _paths(machine: Machine) -> dict[str, tuple[str, VirtioDevice]]:
    """Each device's name and itself, by the path that QEMU's object tree gives it."""
    given = {device.id for device in machine.config.devices}
    given |= {planned.id for planned in machine.config.planned_devices()}
    result: dict[str, tuple[str, VirtioDevice]] = {}
    unnamed = 0
    for name, device in machine.devices.items():
        if name in given:
            path = f"/machine/peripheral/{name}/virtio-backend"
        else:
            path = f"/machine/peripheral-anon/device[{unnamed}]/virtio-backend"
            unnamed += 1
        result[path] = (name, device)
    return result


def _find(machine: Machine, path: str) -> tuple[str, VirtioDevice]:
    """A device by its path, with or without the last part, or by its name."""
    paths = _paths(machine)
    for full in (path, f"{path}/virtio-backend"):
        if full in paths:
            return full, paths[full][1]
    for full, (name, device) in paths.items():
        if name == path:
            return full, device
    raise QmpError(f"Path {path} is not a VirtIODevice", "DeviceNotFound")


def _queue(device: VirtioDevice, index: int) -> VirtQueue:
    if not 0 <= index < len(device.queues):
        raise QmpError(f"Invalid virtqueue number {index}")
    return device.queues[index]


def _feature_names(device: VirtioDevice) -> Mapping[int, str]:
    if device.DEVICE_ID is VirtioId.NET:
        from devices.virtio.net_options import NetFeature

        return {feature.value: f"VIRTIO_NET_F_{feature.name}" for feature in NetFeature}
    if device.DEVICE_ID is VirtioId.BLOCK:
        from devices.virtio.block_options import BlockFeature

        return {feature.value: f"VIRTIO_BLK_F_{feature.name}" for feature in BlockFeature}
    if device.DEVICE_ID is VirtioId.CONSOLE:
        return _CONSOLE_FEATURES
    return _BALLOON_FEATURES if device.DEVICE_ID is VirtioId.BALLOON else {}


def _feature_name(feature: Feature) -> str:
    ring = feature in (Feature.RING_INDIRECT_DESC, Feature.RING_EVENT_IDX)
    return f"VIRTIO_RING_F_{feature.name[5:]}" if ring else f"VIRTIO_F_{feature.name}"


def _features(device: VirtioDevice, bits: int) -> dict[str, Any]:
    """The names of feature bits; those without are in ``unknown-dev-features``."""
    transports = {feature.value: _feature_name(feature) for feature in Feature}
    own = _feature_names(device)
    result: dict[str, Any] = {
        "transports": [name for bit, name in transports.items() if bits >> bit & 1],
        "dev-features": [name for bit, name in own.items() if bits >> bit & 1],
    }
    known = sum(1 << bit for bit in {*transports, *own})
    if bits & ~known:
        result["unknown-dev-features"] = bits & ~known
    return result


def _status(device: VirtioDevice) -> dict[str, Any]:
    value = int(device.status)
    names = {status.value: f"VIRTIO_CONFIG_S_{status.name}" for status in Status}
    result: dict[str, Any] = {"statuses": [name for bit, name in names.items() if value & bit]}
    if value & ~sum(names):
        result["unknown-statuses"] = value & ~sum(names)
    return result


@command("x-query-virtio")
def _query_virtio(machine: Machine, _arguments: Arguments) -> list[dict[str, str]]:
    return [
        {"path": path, "name": _NAMES[device.DEVICE_ID]}
        for path, (_, device) in _paths(machine).items()
    ]


@command("x-query-virtio-status", path=str)
def _query_status(machine: Machine, arguments: Arguments) -> dict[str, Any]:
    _, device = _find(machine, arguments["path"])
    result: dict[str, Any] = machine.on_vcpu(lambda: _device_status(machine, device))
    return result


def _device_status(machine: Machine, device: VirtioDevice) -> dict[str, Any]:
    transport: Any = device.transport
    queues = getattr(transport, "queues", None)
    selected = getattr(transport, "queue_sel", getattr(queues, "selected", 0))
    offered = device.offered_features(True) | device.offered_features(False)
    started = bool(device.status & Status.DRIVER_OK) and not device.broken
    return {
        "name": _NAMES[device.DEVICE_ID],
        "device-id": int(device.DEVICE_ID),
        "device-endian": device.endian.order,
        "guest-features": _features(device, device.features),
        "host-features": _features(device, offered),
        "backend-features": _features(device, 0),
        "num-vqs": len(device.queues),
        "status": _status(device),
        "isr": int(getattr(transport, "isr", 0)),
        "queue-sel": int(selected),
        "vm-running": machine.state.state is RunState.RUNNING,
        "broken": device.broken,
        "disabled": False,
        "use-started": True,
        "started": started,
        "start-on-kick": False,
        "disable-legacy-check": False,
        "bus-name": _NAMES[device.DEVICE_ID] + "-bus",
        "use-guest-notifier-mask": False,
        "vhost-started": False,
    }


@command("x-query-virtio-queue-status", path=str, queue=int)
def _query_queue_status(machine: Machine, arguments: Arguments) -> dict[str, Any]:
    _, device = _find(machine, arguments["path"])
    queue = _queue(device, arguments["queue"])
    result: dict[str, Any] = machine.on_vcpu(lambda: _queue_status(device, queue))
    return result


def _queue_status(device: VirtioDevice, queue: VirtQueue) -> dict[str, Any]:
    record = queue.record
    return {
        "name": _NAMES[device.DEVICE_ID],
        "queue-index": queue.index,
        "inuse": int(record["inuse"]),
        "vring-num": queue.size,
        "vring-num-default": queue.max_size,
        "vring-align": 0 if device.modern else _LEGACY_ALIGN,
        "vring-desc": int(record["desc"]),
        "vring-avail": int(record["driver"]),
        "vring-used": int(record["device"]),
        "last-avail-idx": int(record["last_avail"]),
        "shadow-avail-idx": int(record["last_avail"]),
        "used-idx": int(record["used_idx"]),
        "signalled-used": int(record["signalled_used"]),
        "signalled-used-valid": bool(record["signalled_valid"]),
    }


@command("x-query-virtio-queue-element", path=str, queue=int, index_opt=int)
def _query_queue_element(machine: Machine, arguments: Arguments) -> dict[str, Any]:
    from emu.monitor.inspect_virtqueue import queue_element

    _, device = _find(machine, arguments["path"])
    queue = _queue(device, arguments["queue"])
    index = arguments.get("index")
    if index is not None and not 0 <= index < 1 << 16:
        raise QmpError("Parameter 'index' expects a 16-bit number")
    dma = machine.board.dma
    element: dict[str, Any] = machine.on_vcpu(lambda: queue_element(dma, queue, index))
    return {"name": _NAMES[device.DEVICE_ID], **element}


def _ask(machine: Machine, name: str, **arguments: Any) -> Any:
    return COMMANDS[name].handler(machine, arguments)


def info_virtio(machine: Machine, words: list[str]) -> str:
    """``info virtio``: the devices' paths."""
    if words:
        raise ValueError("info virtio: extraneous characters at the end of line")
    devices = _ask(machine, "x-query-virtio")
    return (
        "\n".join(f"{entry['path']} [{entry['name']}]" for entry in devices) or "No VirtIO devices"
    )


def info_status(machine: Machine, words: list[str]) -> str:
    """``info virtio-status path``."""
    if len(words) != 1:
        raise ValueError("info virtio-status: expected a path")
    path, _ = _find(machine, words[0])
    status = _ask(machine, "x-query-virtio-status", path=path)
    lines = [f"{path}:", f"  device_name:  {status['name']} (id {status['device-id']})"]
    lines += [
        f"  {name.replace('-', '_')}:  {_text(status[name])}"
        for name in ("device-endian", "num-vqs", "queue-sel", "isr", "broken", "started")
    ]
    lines.append(f"  status:  {_list(status['status'], 'statuses')}")
    for name in ("guest-features", "host-features"):
        features = status[name]
        lines.append(f"  {name}:")
        lines += [f"    {word}" for word in features["transports"] + features["dev-features"]]
        if "unknown-dev-features" in features:
            lines.append(f"    unknown {features['unknown-dev-features']:#x}")
    return "\n".join(lines)


def _list(value: dict[str, Any], key: str) -> str:
    return ", ".join(value[key]) or "none"


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def info_queue_status(machine: Machine, words: list[str]) -> str:
    """``info virtio-queue-status path queue``."""
    path, queue = _path_and_queue(words, "info virtio-queue-status", 2)
    status = _ask(machine, "x-query-virtio-queue-status", path=path, queue=queue)
    lines = [f"{path}:"]
    for name, value in status.items():
        hexadecimal = name in ("vring-desc", "vring-avail", "vring-used")
        lines.append(
            f"  {name.replace('-', '_')}: {value:#018x}"
            if hexadecimal
            else f"  {name.replace('-', '_')}: {_text(value)}"
        )
    return "\n".join(lines)


def info_queue_element(machine: Machine, words: list[str]) -> str:
    """``info virtio-queue-element path queue [index]``."""
    path, queue = _path_and_queue(words[:2], "info virtio-queue-element", 2)
    given: dict[str, Any] = {"path": path, "queue": queue}
    if len(words) > 2:
        if len(words) > 3 or not words[2].isdigit() or int(words[2]) >> 16:
            raise ValueError("info virtio-queue-element: the index is a 16-bit number")
        given["index"] = int(words[2])
    element = _ask(machine, "x-query-virtio-queue-element", **given)
    lines = [f"{path}:", f"  device_name: {element['name']}", f"  index:   {element['index']}"]
    lines.append("  desc:")
    for desc in element["descs"]:
        flags = ", ".join(desc["flags"])
        lines.append(
            f"    addr {desc['addr']:#x} len {desc['len']}" + (f" ({flags})" if flags else "")
        )
    avail, used = element["avail"], element["used"]
    lines.append(f"  avail: flags {avail['flags']} idx {avail['idx']} ring {avail['ring']}")
    lines.append(f"  used: flags {used['flags']} idx {used['idx']}")
    return "\n".join(lines)


def _path_and_queue(words: list[str], name: str, count: int) -> tuple[str, int]:
    if len(words) != count or not words[1].isdigit():
        raise ValueError(f"{name}: expected a path and a queue's number")
    return words[0], int(words[1])
