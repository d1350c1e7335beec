"""State declared once: fields of a component, from which saving, loading and description follow.

    RTC_STATE = Description(
        "spapr/rtc", 1, (i64("ns_offset"), u32("alarm", path="record.alarm")),
    )

A component gives ``Description`` objects; ``save`` and ``load`` walk them.  All integers are
big-endian in the stream.  Loading changes nothing but the fields: what depends on several of
them, on guest memory or on byte order is checked afterwards (``check``), and what touches other
components comes last of all (``resume``); both are the caller's three phases.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from emu.migration.stream import MigrationError, StreamReader, StreamWriter

SUBSECTION = 0x05


@dataclass(frozen=True)
class Field:
    """One value, an array of values, bytes, or structures.

    ``kind`` is QEMU's type name; ``size`` is in bytes, of one element; ``count`` is None for a
    single value.  ``path`` leads from the component to the value: attributes separated by dots,
    or items of numpy records.
    """

    name: str
    kind: str
    size: int
    path: str
    count: int | None = None
    signed: bool = False
    struct: Description | None = None
    getter: Callable[[Any], Any] | None = None
    setter: Callable[[Any, Any], None] | None = None

    def get(self, component: Any) -> Any:
        """The value in a component."""
        if self.getter is not None:
            return self.getter(component)
        return _walk(component, self.path.split("."))

    def set(self, component: Any, value: Any) -> None:
        """Store the value."""
        if self.setter is not None:
            self.setter(component, value)
            return
        *parents, last = self.path.split(".")
        target = _walk(component, parents)
        if hasattr(target, "dtype"):
            target[last] = value
        else:
            current = getattr(target, last)
            setattr(target, last, type(current)(value) if current is not None else value)

    def save(self, writer: StreamWriter, component: Any) -> None:
        """Write the value."""
        value = self.get(component)
        if self.struct is not None:
            items = [value] if self.count is None else value
            for item in items:
                self.struct.save(writer, item)
        elif self.kind == "blob":
            data = bytes(value)
            if len(data) > self.size:
                raise MigrationError(f"{self.name}: {len(data)} bytes, {self.size} at most")
            writer.u32(len(data))
            writer.write(data)
        elif self.kind == "buffer":
            data = bytes(value)
            if len(data) != self.size:
                raise MigrationError(f"{self.name}: {len(data)} bytes instead of {self.size}")
            writer.write(data)
        else:
            values = [value] if self.count is None else value
            for item in values:
                writer.write(int(item).to_bytes(self.size, "big", signed=self.signed))

    def load(self, reader: StreamReader, component: Any) -> None:
        """Read the value into the component."""
        if self.struct is not None:
            value = self.get(component)
            for item in [value] if self.count is None else value:
                self.struct.load(reader, item, self.struct.version)
            return
        if self.kind == "blob":
            length = reader.u32()
            if length > self.size:
                raise MigrationError(f"{self.name}: {length} bytes, {self.size} at most")
            self.set(component, reader.read(length))
            return
        if self.kind == "buffer":
            self.set(component, reader.read(self.size))
            return
        count = 1 if self.count is None else self.count
        data = reader.read(self.size * count)
        values = [
            int.from_bytes(data[at : at + self.size], "big", signed=self.signed)
            for at in range(0, len(data), self.size)
        ]
        self.set(component, values[0] if self.count is None else values)

    def describe(self, component: Any) -> list[dict[str, Any]]:
        """What the stream's description says of it; one entry an element of a structure array."""
        if self.kind == "blob":
            size = len(bytes(self.get(component)))
            return [
                {"name": f"{self.name}_size", "type": "uint32", "size": 4},
                {"name": self.name, "type": "buffer", "size": size},
            ]
        entry: dict[str, Any] = {"name": self.name, "type": self.kind, "size": self.total}
        if self.struct is not None:
            value = self.get(component)
            sample = value if self.count is None else value[0]
            entry["struct"] = self.struct.describe(sample)
        elif self.count is not None:
            entry["array_len"] = self.count
            entry["size"] = self.size
        if self.struct is not None and self.count is not None:
            entry["size"] = self.struct.size
            return [{**entry, "index": index} for index in range(self.count)]
        return [entry]

    @property
    def total(self) -> int:
        """Bytes in the stream."""
        size = self.size if self.struct is None else self.struct.size
        return size * (1 if self.count is None else self.count)


def _walk(target: Any, names: Sequence[str]) -> Any:
    for name in names:
        target = target[name] if hasattr(target, "dtype") else getattr(target, name)
    return target


@dataclass(frozen=True)
class Description:
    """The state of one kind of component.

    ``minimum`` is the oldest version that can be loaded; a field list that depends on the version
    is given by ``fields_of``.  ``needed`` decides whether a subsection is sent.
    """

    name: str
    version: int
    fields: tuple[Field, ...]
    minimum: int | None = None
    subsections: tuple[Description, ...] = ()
    needed: Callable[[Any], bool] | None = None

    @property
    def size(self) -> int:
        """Bytes of the fields, without subsections."""
        return sum(field.total for field in self.fields)

    def save(self, writer: StreamWriter, component: Any) -> None:
        """Fields, then the subsections that are needed."""
        self.save_fields(writer, component)
        for subsection in self.subsections:
            if subsection.needed is None or subsection.needed(component):
                writer.u8(SUBSECTION)
                writer.text(subsection.name)
                writer.u32(subsection.version)
                subsection.save(writer, component)

    def save_fields(self, writer: StreamWriter, component: Any) -> None:
        """Fields alone."""
        for field in self.fields:
            field.save(writer, component)

    def load(self, reader: StreamReader, component: Any, version: int) -> None:
        """Read fields and subsections of a version; :class:`MigrationError` names what is wrong."""
        oldest = self.version if self.minimum is None else self.minimum
        if not oldest <= version <= self.version:
            raise MigrationError(
                f"{self.name}: version {version} is not supported (known: {oldest} to"
                f" {self.version})"
            )
        self.load_fields(reader, component)
        self._load_subsections(reader, component)

    def load_fields(self, reader: StreamReader, component: Any) -> None:
        """Fields alone."""
        for field in self.fields:
            try:
                field.load(reader, component)
            except (ValueError, OverflowError, TypeError) as error:
                raise MigrationError(f"{self.name}: {field.name}: {error}") from error

    def _load_subsections(self, reader: StreamReader, component: Any) -> None:
        if not self.subsections:
            return
        known = {subsection.name: subsection for subsection in self.subsections}
        seen: set[str] = set()
        while reader.peek(1) == bytes((SUBSECTION,)):
            head = reader.peek(2)
            if len(head) < 2:
                break
            name = reader.peek(2 + head[1])[2:].decode("ascii", "replace")
            if not name.startswith(f"{self.name}/"):
                return  # another component's, or no subsection at all
            reader.u8()
            reader.text()
            subsection = known.get(name)
            if subsection is None or name in seen:
                raise MigrationError(f"{self.name}: unknown subsection '{name}'")
            seen.add(name)
            subsection.load(reader, component, reader.u32())

    def describe(self, component: Any) -> dict[str, Any]:
        """``vmsd_name``, ``version``, ``fields``, ``subsections`` as the stream describes them."""
        description = self.describe_struct(component)
        sent = [
            subsection.describe(component)
            for subsection in self.subsections
            if subsection.needed is None or subsection.needed(component)
        ]
        if sent:
            description["subsections"] = sent
        return description

    def describe_struct(self, component: Any) -> dict[str, Any]:
        """The same without subsections."""
        return {
            "vmsd_name": self.name,
            "version": self.version,
            "fields": [entry for field in self.fields for entry in field.describe(component)],
        }


def _integer(kind: str, size: int, signed: bool = False) -> Callable[..., Field]:
    def make(
        name: str,
        path: str | None = None,
        count: int | None = None,
        getter: Callable[[Any], Any] | None = None,
        setter: Callable[[Any, Any], None] | None = None,
    ) -> Field:
        return Field(name, kind, size, path or name, count, signed, getter=getter, setter=setter)

    make.__doc__ = f"A field of {8 * size} bits."
    return make


u8 = _integer("uint8", 1)
u16 = _integer("uint16", 2)
u32 = _integer("uint32", 4)
u64 = _integer("uint64", 8)
i32 = _integer("int32", 4, signed=True)
i64 = _integer("int64", 8, signed=True)
flag = _integer("bool", 1)


def raw(
    name: str,
    size: int,
    path: str | None = None,
    getter: Callable[[Any], Any] | None = None,
    setter: Callable[[Any, Any], None] | None = None,
) -> Field:
    """A field of bytes."""
    return Field(name, "buffer", size, path or name, getter=getter, setter=setter)


def blob(
    name: str,
    limit: int,
    path: str | None = None,
    getter: Callable[[Any], Any] | None = None,
    setter: Callable[[Any, Any], None] | None = None,
) -> Field:
    """A field of up to ``limit`` bytes behind their number (32 bits)."""
    return Field(name, "blob", limit, path or name, getter=getter, setter=setter)


def structure(
    name: str,
    description: Description,
    path: str | None = None,
    count: int | None = None,
    getter: Callable[[Any], Any] | None = None,
) -> Field:
    """A structure, or an array of them: the value is the component, or their list."""
    return Field(name, "struct", 0, path or name, count, struct=description, getter=getter)
