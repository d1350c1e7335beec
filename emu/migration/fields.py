"""State declared once: fields of a component, from which saving, loading and description follow.

    RTC_STATE = Description(
        "spapr/rtc", 1, (i64("ns_offset"), u32("alarm", path="record.alarm")),
    )

A component gives ``Description`` objects; ``save`` and ``load`` walk them.  All integers are
big-endian in the stream.  Loading has two steps: :meth:`Description.read` takes a component's state
from the stream and touches nothing, :meth:`State.apply` gives it to the component, on the thread
that owns it.  That changes nothing but the fields: what depends on several of them, on guest
memory or on byte order is checked afterwards (``check``), and what touches other components comes
last of all (``resume``); both are the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from struct import error as PackError  # noqa: N812
from struct import pack, unpack
from typing import Any

from emu.migration.stream import MigrationError, StreamReader, StreamWriter

SUBSECTION = 0x05


@dataclass(frozen=True)
class Field:
    """One value, an array of values, bytes, or structures.

    ``kind`` is QEMU's type name; ``size`` is in bytes, of one element; ``count`` is None for a
    single value.  ``path`` leads from the component to the value: attributes separated by dots,
    or items of numpy records.  ``expected`` is a value that both machines must have.
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
    expected: int | None = None

    def get(self, component: Any) -> Any:
        """The value in a component."""
        if self.expected is not None:
            return self.expected
        if self.getter is not None:
            return self.getter(component)
        return _walk(component, self.path.split("."))

    def set(self, component: Any, value: Any) -> None:
        """Store the value."""
        if self.expected is not None:
            return
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
            try:
                writer.write(pack(self._format(len(values)), *map(int, values)))
            except PackError as error:
                raise OverflowError(f"{self.name}: {error}") from error

    def read(self, reader: StreamReader) -> Any:
        """Read the value, for :meth:`put`; :class:`MigrationError` if it can be no such value."""
        if self.struct is not None:
            struct = self.struct
            number = 1 if self.count is None else self.count
            states = [struct.read(reader, struct.version) for _ in range(number)]
            return states[0] if self.count is None else states
        if self.kind == "blob":
            length = reader.u32()
            if length > self.size:
                raise MigrationError(f"{self.name}: {length} bytes, {self.size} at most")
            return reader.read(length)
        if self.kind == "buffer":
            return reader.read(self.size)
        number = 1 if self.count is None else self.count
        values = list(unpack(self._format(number), reader.read(self.size * number)))
        if self.kind == "bool" and any(value > 1 for value in values):
            raise MigrationError(f"{self.name}: {max(values)} is neither 0 nor 1")
        if self.expected is not None and values[0] != self.expected:
            raise MigrationError(
                f"{self.name}: {values[0]} at the source, {self.expected} at this machine"
            )
        return values[0] if self.count is None else values

    def _format(self, number: int) -> str:
        code = "BHxIxxxQ"[self.size - 1]
        return f">{number}{code.lower() if self.signed else code}"

    def put(self, component: Any, value: Any) -> None:
        """Give the component what :meth:`read` returned."""
        if self.struct is None:
            self.set(component, value)
        elif self.count is None:
            value.apply(self.get(component))
        else:
            for item, state in zip(self.get(component), value, strict=True):
                state.apply(item)

    def describe(self, component: Any) -> list[dict[str, Any]]:
        """What the stream's description says of it; one entry an element of a structure array."""
        if self.kind == "blob":
            size = len(bytes(self.get(component)))
            return [
                {"name": f"{self.name}_size", "type": "uint32", "size": 4},
                {"name": self.name, "type": "buffer", "size": size},
            ]
        entry: dict[str, Any] = {"name": self.name, "type": self.kind, "size": self.size}
        if self.struct is None:
            return [entry if self.count is None else {**entry, "array_len": self.count}]
        items = [self.get(component)] if self.count is None else self.get(component)
        entries = [
            {**entry, "size": self.struct.size_in(item), "struct": self.struct.describe(item)}
            for item in items
        ]
        if self.count is None:
            return entries
        return [{**entry, "index": index} for index, entry in enumerate(entries)]

    def size_in(self, component: Any) -> int:
        """Bytes the value takes in the stream now."""
        if self.kind == "blob":
            return 4 + len(bytes(self.get(component)))
        if self.struct is None:
            return self.size * (1 if self.count is None else self.count)
        items = [self.get(component)] if self.count is None else self.get(component)
        return sum(self.struct.size_in(item) for item in items)


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

    def size_in(self, component: Any) -> int:
        """Bytes of the fields, without subsections."""
        return sum(field.size_in(component) for field in self.fields)

    def save(self, writer: StreamWriter, component: Any) -> None:
        """Fields, then the subsections that are needed."""
        for field in self.fields:
            field.save(writer, component)
        for subsection in self.subsections:
            if subsection.needed is None or subsection.needed(component):
                writer.u8(SUBSECTION)
                writer.text(subsection.name)
                writer.u32(subsection.version)
                subsection.save(writer, component)

    def load(self, reader: StreamReader, component: Any, version: int) -> None:
        """:meth:`read` into a component at once."""
        self.read(reader, version).apply(component)

    def read(self, reader: StreamReader, version: int) -> State:
        """Read fields and subsections of a version; :class:`MigrationError` names what is wrong."""
        oldest = self.version if self.minimum is None else self.minimum
        if not oldest <= version <= self.version:
            raise MigrationError(
                f"{self.name}: version {version} is not supported (known: {oldest} to"
                f" {self.version})"
            )
        values = tuple(field.read(reader) for field in self.fields)
        return State(self, values, self._read_subsections(reader))

    def _read_subsections(self, reader: StreamReader) -> tuple[State, ...]:
        known = {subsection.name: subsection for subsection in self.subsections}
        found: dict[str, State] = {}
        while known and reader.peek(1) == bytes((SUBSECTION,)):
            head = reader.peek(2)
            if len(head) < 2:
                break
            name = reader.peek(2 + head[1])[2:].decode("ascii", "replace")
            if not name.startswith(f"{self.name}/"):
                break  # another component's, or no subsection at all
            reader.u8()
            reader.text()
            subsection = known.get(name)
            if subsection is None:
                raise MigrationError(f"{self.name}: unknown subsection '{name}'")
            if name in found:
                raise MigrationError(f"{self.name}: subsection '{name}' comes twice")
            found[name] = subsection.read(reader, reader.u32())
        for subsection in self.subsections:
            if subsection.needed is None and subsection.name not in found:
                raise MigrationError(f"{self.name}: subsection '{subsection.name}' is missing")
        return tuple(found.values())

    def describe(self, component: Any) -> dict[str, Any]:
        """``vmsd_name``, ``version``, ``fields``, ``subsections`` as the stream describes them."""
        description: dict[str, Any] = {
            "vmsd_name": self.name,
            "version": self.version,
            "fields": [entry for field in self.fields for entry in field.describe(component)],
        }
        sent = [
            subsection.describe(component)
            for subsection in self.subsections
            if subsection.needed is None or subsection.needed(component)
        ]
        if sent:
            description["subsections"] = sent
        return description


@dataclass(frozen=True)
class State:
    """What a stream has for one component: values of its description's fields, and subsections."""

    description: Description
    values: tuple[Any, ...]
    subsections: tuple[State, ...]

    def apply(self, component: Any) -> None:
        """Give it to the component; :class:`MigrationError` names a value it does not take."""
        for field, value in zip(self.description.fields, self.values, strict=True):
            try:
                field.put(component, value)
            except (ValueError, OverflowError, TypeError) as error:
                raise MigrationError(f"{self.description.name}: {field.name}: {error}") from error
        for subsection in self.subsections:
            subsection.apply(component)


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


def same(name: str, value: int) -> Field:
    """A field of 32 bits that both machines must have: what they are built of."""
    return Field(name, "uint32 equal", 4, name, expected=value)


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
