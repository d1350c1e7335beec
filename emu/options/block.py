"""-drive and -blockdev: disk images."""

from __future__ import annotations

from devices.block.config import CACHE_MODES, FORMATS
from emu.config import ConfigError, DriveConfig
from emu.options.builder import ConfigBuilder
from emu.options.drives import DriveUse
from emu.options.files import readable_file
from emu.options.syntax import (
    check_identifier,
    parse_bool,
    parse_keyvals,
    parse_number,
    parse_pairs,
)
from emu.options.table import option

_GROUP = "Storage"
_INTERFACES = ("none", "virtio")
_QEMU_INTERFACES = ("ide", "scsi", "floppy", "pflash", "mtd", "sd", "xen")
#: On/off parameters that change nothing here, with the value that must not be asked for.
_IGNORED_BOOLS = ("auto-read-only", "cache.no-flush", "cache.writeback", "force-share")
_IGNORED = {
    "aio": ("threads", "native", "io_uring"),
    "detect-zeroes": ("off", "on", "unmap"),
    "copy-on-read": ("off",),
}
_ERROR_ACTIONS = ("report", "ignore", "enospc", "stop", "auto")


@option(
    "drive",
    argument="file=path[,if=none|virtio][,format=raw|qcow2][,id=id][,prop=...]",
    help="disk image, for -device virtio-blk-pci,drive=ID (if=none) or with a disk of its own "
    "(if=virtio, the default). Also: readonly=on|off, cache=, snapshot=, media=disk|cdrom, "
    "index=, serial=, werror=report, rerror=report",
    group=_GROUP,
)
def drive(build: ConfigBuilder, text: str) -> None:
    """-drive: an image, and with if=virtio its disk."""
    given = parse_keyvals(text)
    interface = given.pop("if", "virtio")
    if interface not in _INTERFACES:
        if interface in _QEMU_INTERFACES:
            raise ConfigError(f"if={interface} is not supported (use if=virtio or if=none)")
        raise ConfigError(f"unsupported bus type '{interface}'")
    index = _index(given, build.drives.free_index(interface))
    label = check_identifier(given.pop("id")) if "id" in given else f"{interface}{index}"
    options = _disk_options(given, interface)
    config = _drive_config(label, given)
    build.drives.add(config, DriveUse(interface, index, options=options), build.where)


def _index(given: dict[str, str], free: int) -> int:
    if parse_number("bus", given.pop("bus", "0")) != 0:
        raise ConfigError("only bus=0 is supported")
    unit = given.pop("unit", None)
    index = given.pop("index", None)
    if unit is not None and index is not None:
        raise ConfigError("index cannot be used with bus and unit")
    asked = unit if index is None else index
    return free if asked is None else parse_number("index", asked)


def _disk_options(given: dict[str, str], interface: str) -> dict[str, str]:
    """Take what belongs to the disk and not to its image."""
    options: dict[str, str] = {}
    for key, word in (("werror", "write"), ("rerror", "read")):
        action = given.pop(key, "auto")
        if action not in _ERROR_ACTIONS:
            raise ConfigError(f"'{action}' invalid {word} error action")
        if action not in ("report", "auto"):
            raise ConfigError(f"{key}={action} is not supported (only {key}=report is)")
    serial = given.pop("serial", None)
    if serial is not None:
        if interface != "virtio":
            raise ConfigError("serial= belongs to the -device of a drive with if=none")
        options["serial"] = serial
    return options


def _drive_config(label: str, given: dict[str, str]) -> DriveConfig:
    """The image that the rest of a -drive describes."""
    media = given.pop("media", "disk")
    if media not in ("disk", "cdrom"):
        raise ConfigError(f"'{media}' invalid media")
    read_only = media == "cdrom"
    for key in ("readonly", "read-only"):
        if key in given:
            read_only = parse_bool(key, given.pop(key)) or media == "cdrom"
    cache = given.pop("cache", None)
    if cache is not None and cache not in CACHE_MODES:
        raise ConfigError("invalid cache option")
    if "cache.direct" in given and cache is None:
        cache = "none" if parse_bool("cache.direct", given["cache.direct"]) else "writeback"
    given.pop("cache.direct", None)
    snapshot = parse_bool("snapshot", given.pop("snapshot", "off"))
    form = given.pop("format", given.pop("driver", None))
    if form is not None and form not in FORMATS:
        raise ConfigError(f"Unknown driver '{form}'")
    file = _file(given)
    discard, locking = given.pop("discard", "ignore"), given.pop("locking", "auto")
    _check_ignored(given)
    for key in given:
        raise ConfigError(f"Block format '{form or 'raw'}' does not support the option '{key}'")
    return DriveConfig(
        id=label,
        file=readable_file(file),
        format=form,
        read_only=read_only,
        cache=cache or "writeback",
        snapshot=snapshot,
        discard=discard,
        locking=locking,
    )


def _file(given: dict[str, str]) -> str:
    """Take the image's name."""
    protocol = given.pop("file.driver", "file")
    if protocol not in ("file", "host_device"):
        raise ConfigError(f"Unknown protocol '{protocol}'")
    file = given.pop("file", None)
    named = given.pop("file.filename", None)
    if "file.locking" in given:
        given["locking"] = given.pop("file.locking")
    name = file if named is None else named
    if not name:
        raise ConfigError("Device needs media, but drive is empty")
    return name.removeprefix("file:")


def _check_ignored(given: dict[str, str]) -> None:
    """Take parameters without effect, if their values are right."""
    for key in _IGNORED_BOOLS:
        if key in given:
            parse_bool(key, given.pop(key))
    for key, words in _IGNORED.items():
        if key in given and given[key] not in words:
            raise ConfigError(f"Parameter '{key}' does not accept value '{given[key]}'")
        given.pop(key, None)


@option(
    "blockdev",
    argument="driver=raw|qcow2|file,node-name=name[,prop=value...]",
    help="disk image as a node, for -device virtio-blk-pci,drive=NAME: filename=PATH of driver "
    "file; file=NODE, or file.driver=file,file.filename=PATH of the others; read-only=on|off, "
    "cache.direct=on|off. Also in JSON",
    group=_GROUP,
)
def blockdev(build: ConfigBuilder, text: str) -> None:
    """-blockdev: a format node with its file, or on another node; or a file."""
    given = dict(parse_pairs(text))
    driver = given.pop("driver", None)
    if driver is None:
        raise ConfigError("Parameter 'driver' is missing")
    if driver not in (*FORMATS, "file", "host_device"):
        raise ConfigError(f"Parameter 'driver' does not accept value '{driver}'")
    on_file = driver in ("file", "host_device")
    file = _node_file(build, given, on_file=on_file)
    name = given.pop("node-name", None)
    if name is None:
        raise ConfigError("'node-name' must be specified for the root node")
    try:
        check_identifier(name)
    except ConfigError:
        raise ConfigError(f"Invalid node-name: '{name}'") from None
    build.drives.add_node(_node(name, file, "raw" if on_file else driver, given), build.where)


def _node(name: str, file: DriveConfig | str, form: str, given: dict[str, str]) -> DriveConfig:
    below = file if isinstance(file, DriveConfig) else None
    read_only = parse_bool("read-only", given.pop("read-only", "off"))
    direct = parse_bool("cache.direct", given.pop("cache.direct", "off"))
    discard = given.pop("discard", below.discard if below is not None else "ignore")
    locking = given.pop("locking", below.locking if below is not None else "auto")
    _check_ignored(given)
    for key in given:
        raise ConfigError(f"Parameter '{key}' is unexpected")
    return DriveConfig(
        id=name,
        file=below.file if below is not None else readable_file(str(file)),
        format=form,
        read_only=read_only or (below is not None and below.read_only),
        cache="none" if direct or (below is not None and below.cache == "none") else "writeback",
        discard=discard,
        locking=locking,
    )


def _node_file(build: ConfigBuilder, given: dict[str, str], *, on_file: bool) -> DriveConfig | str:
    """Take the file's name, or the node that is named instead."""
    if on_file:
        if "filename" not in given:
            raise ConfigError("Parameter 'filename' is missing")
        return given.pop("filename")
    if "file" in given:
        return build.drives.node(given.pop("file"))
    if "file.driver" not in given and "file.filename" not in given:
        raise ConfigError("Parameter 'file' is missing")
    protocol = given.pop("file.driver", "file")
    if protocol not in ("file", "host_device"):
        raise ConfigError(f"Parameter 'file.driver' does not accept value '{protocol}'")
    if "file.filename" not in given:
        raise ConfigError("Parameter 'file.filename' is missing")
    _check_below(given)
    return given.pop("file.filename")


def _check_below(given: dict[str, str]) -> None:
    """Take the file's own parameters; what makes it read-only or direct counts for all."""
    below = {key: value for key, value in given.items() if key.startswith("file.")}
    below.pop("file.filename", None)
    below.pop("file.node-name", None)
    if "file.locking" in below:
        given["locking"] = below.pop("file.locking")
    below.pop("file.discard", None)  # the format's counts
    for key in ("read-only", "cache.direct"):
        if parse_bool(f"file.{key}", below.pop(f"file.{key}", "off")):
            given[key] = "on"
    _check_ignored(rest := {key.removeprefix("file."): value for key, value in below.items()})
    for key in rest:
        raise ConfigError(f"Parameter 'file.{key}' is unexpected")
    for key in [key for key in given if key.startswith("file.") and key != "file.filename"]:
        del given[key]
