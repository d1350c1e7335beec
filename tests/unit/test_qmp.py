"""QMP as its clients see it: framing, negotiation, errors, events."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.config import MachineConfig, MonitorConfig, SocketConfig
from emu.machine import Machine
from emu.monitor.json_stream import JsonError, JsonStream

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.lists(st.dictionaries(st.text(), values), max_size=5), st.data())
def test_values_are_found_however_the_stream_is_cut(sent: list[Any], data: st.DataObject) -> None:
    stream = b"".join(json.dumps(value).encode() for value in sent)
    parser, found = JsonStream(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += parser.feed(stream[:size])
        stream = stream[size:]
    assert found == sent


@given(st.binary(max_size=300))
def test_garbage_never_raises_and_parsing_goes_on(garbage: bytes) -> None:
    parser = JsonStream()
    parser.feed(garbage)
    parser.feed(b"\"'}]\n\n")
    assert JsonStream().feed(b'{"a": 1}') == [{"a": 1}]


def test_syntax_error_is_reported_once() -> None:
    found = JsonStream().feed(b'{"a": }{"b": 2}')
    assert isinstance(found[0], JsonError)
    assert found[1:] == [{"b": 2}]


class Client:
    """A QMP client that knows lines only."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(10)
        self._socket.connect(str(path))
        self._file = self._socket.makefile("rb")
        self.events: list[str] = []
        self.greeting = self.receive()

    def receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._file.readline())
        return message

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def ask(self, name: str, **arguments: Any) -> dict[str, Any]:
        """The reply to a command; events before it are kept."""
        request: dict[str, Any] = {"execute": name, "id": 7}
        if arguments:
            request["arguments"] = arguments
        self.send(json.dumps(request).encode())
        while "event" in (reply := self.receive()):
            self.events.append(reply["event"])
        assert reply.pop("id") == 7
        return reply

    def await_event(self, name: str) -> None:
        while name not in self.events:
            self.events.append(self.receive().get("event", ""))

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "qmp"


@pytest.fixture
def machine(path: Path, tmp_path: Path) -> Iterator[Machine]:
    image = tmp_path / "spin.bin"
    image.write_bytes(bytes(0x100) + bytes.fromhex("48000000"))  # b .
    chardev = SocketConfig(id="qmp", path=str(path), server=True, wait=False)
    config = MachineConfig(
        ram_size=256 << 20,
        bios=image,
        start_paused=True,
        monitors=(MonitorConfig(chardev),),
        name="spin",
    )
    with Machine(config) as machine:
        machine.start()
        yield machine


@pytest.fixture
def client(machine: Machine, path: Path) -> Iterator[Client]:
    client = Client(path)
    assert client.ask("qmp_capabilities") == {"return": {}}
    yield client
    client.close()


def test_greeting_has_version_and_capabilities(client: Client) -> None:
    assert client.greeting["QMP"]["version"]["qemu"]["major"] == 7
    assert client.greeting["QMP"]["capabilities"] == []


def test_nothing_works_before_negotiation(machine: Machine, path: Path) -> None:
    client = Client(path)
    assert client.ask("query-status")["error"]["class"] == "CommandNotFound"
    client.close()


def test_status_follows_cont_and_stop(client: Client) -> None:
    assert client.ask("query-status")["return"]["status"] == "prelaunch"
    assert client.ask("cont") == {"return": {}}
    assert client.ask("query-status")["return"] == {
        "running": True,
        "singlestep": False,
        "status": "running",
    }
    assert client.ask("stop") == {"return": {}}
    assert client.ask("query-status")["return"]["status"] == "paused"
    client.await_event("STOP")
    assert client.events == ["RESUME", "STOP"]


def test_system_reset_raises_the_event(client: Client) -> None:
    client.ask("cont")
    client.ask("system_reset")
    client.await_event("RESET")


@pytest.mark.parametrize(
    ("request_text", "kind", "text"),
    [
        (b'{"execute": "nonsense"}', "CommandNotFound", "nonsense"),
        (b'{"execute": 3}', "GenericError", "execute"),
        (b"[1, 2]", "GenericError", "object"),
        (b'{"execute": "stop", "more": 1}', "GenericError", "more"),
        (b'{"execute": "migrate"}', "GenericError", "'uri' is missing"),
        (b'{"execute": "migrate", "arguments": {"uri": 5}}', "GenericError", "expected: string"),
        (b'{"execute": "stop", "arguments": {"x": 5}}', "GenericError", "'x' is unexpected"),
        (b'{"execute": "migrate", "arguments": {"uri": "x:"}}', "GenericError", "protocol"),
        (b'{"execute": }', "GenericError", "JSON"),
        (b"\xff\xfe\n", "GenericError", "JSON"),
    ],
)
def test_mistakes_are_answered(client: Client, request_text: bytes, kind: str, text: str) -> None:
    client.send(request_text)
    error = client.receive()["error"]
    assert error["class"] == kind
    assert text in error["desc"]
    assert client.ask("query-name") == {"return": {"name": "spin"}}


def test_every_command_is_listed(client: Client) -> None:
    names = {entry["name"] for entry in client.ask("query-commands")["return"]}
    assert {"stop", "cont", "quit", "migrate", "query-migrate", "qmp_capabilities"} <= names


def test_quit_answers_then_ends(client: Client, machine: Machine) -> None:
    assert client.ask("quit") == {"return": {}}
    assert machine.wait(10) == 0
    client.await_event("SHUTDOWN")


def test_a_second_client_starts_anew(client: Client, path: Path) -> None:
    client.close()
    time.sleep(0.1)
    second = Client(path)
    assert second.ask("query-status")["error"]["class"] == "CommandNotFound"
    assert second.ask("qmp_capabilities") == {"return": {}}
    second.close()
