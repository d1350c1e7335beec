"""The event loop and the run state."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.events import EventLoop, MachineState, RunState

TIMEOUT = 20.0


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    loop = EventLoop()
    loop.start()
    yield loop
    loop.stop()


def sync(loop: EventLoop) -> None:
    """Return when the loop has done all that was asked before."""
    done = threading.Event()
    assert loop.call_soon_threadsafe(done.set)
    assert done.wait(TIMEOUT)


def test_posted_calls_run_in_order_on_the_loop_thread(loop: EventLoop) -> None:
    seen: list[tuple[int, bool]] = []
    for number in range(100):
        loop.call_soon_threadsafe(lambda n: seen.append((n, loop.in_loop())), number)
    sync(loop)
    assert seen == [(n, True) for n in range(100)]
    assert not loop.in_loop()


def test_reader_until_removed(loop: EventLoop) -> None:
    read_fd, write_fd = os.pipe()
    got: list[bytes] = []
    ready = threading.Semaphore(0)

    def readable() -> None:
        got.append(os.read(read_fd, 1))
        ready.release()

    loop.add_reader(read_fd, readable)
    os.write(write_fd, b"ab")
    assert ready.acquire(timeout=TIMEOUT)
    assert ready.acquire(timeout=TIMEOUT)
    loop.remove_reader(read_fd)
    sync(loop)
    os.write(write_fd, b"c")
    sync(loop)
    sync(loop)
    assert got == [b"a", b"b"]
    os.close(read_fd)
    os.close(write_fd)


def test_writer(loop: EventLoop) -> None:
    read_fd, write_fd = os.pipe()
    done = threading.Event()

    def writable() -> None:
        loop.remove_writer(write_fd)
        done.set()

    loop.add_writer(write_fd, writable)
    assert done.wait(TIMEOUT)
    loop.close_fd(read_fd)
    loop.close_fd(write_fd)
    sync(loop)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(write_fd)


def test_callback_removed_by_an_earlier_one_is_not_called(loop: EventLoop) -> None:
    pipes = [os.pipe(), os.pipe()]
    calls: list[int] = []

    def on(index: int) -> None:
        calls.append(index)
        for read_fd, _ in pipes:
            loop.remove_reader(read_fd)

    def setup() -> None:  # on the loop's thread, so that both become ready in one round
        for index, (read_fd, write_fd) in enumerate(pipes):
            os.write(write_fd, b"x")
            loop.add_reader(read_fd, lambda index=index: on(index))  # type: ignore[misc]

    loop.call_soon_threadsafe(setup)
    sync(loop)
    sync(loop)
    sync(loop)
    assert len(calls) == 1
    for pair in pipes:
        for fd in pair:
            os.close(fd)


def test_regular_file_is_always_readable(loop: EventLoop, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"data")
    fd = os.open(path, os.O_RDONLY)
    done = threading.Event()

    def readable() -> None:
        loop.remove_reader(fd)
        done.set()

    loop.add_reader(fd, readable)
    assert done.wait(TIMEOUT)
    os.close(fd)


def test_timers_fire_in_order_and_can_be_cancelled(loop: EventLoop) -> None:
    fired: list[str] = []
    done = threading.Event()
    now = loop.time()
    loop.call_at(now + 0.04, done.set)
    loop.call_at(now + 0.02, lambda: fired.append("second"))
    loop.call_at(now + 0.01, lambda: fired.append("first"))
    loop.call_at(now + 0.015, lambda: fired.append("never")).cancel()
    assert done.wait(TIMEOUT)
    assert loop.time() >= now + 0.04
    assert fired == ["first", "second"]


def test_exception_in_a_callback_does_not_end_the_loop(
    loop: EventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    loop.call_soon_threadsafe(lambda: 1 // 0)
    sync(loop)
    assert "ZeroDivisionError" in caplog.text


def test_stop_runs_what_was_posted_and_refuses_the_rest() -> None:
    loop = EventLoop()
    loop.start()
    seen: list[int] = []
    gate = threading.Event()
    loop.call_soon_threadsafe(gate.wait, TIMEOUT)
    loop.call_soon_threadsafe(seen.append, 1)
    stopper = threading.Thread(target=loop.stop)
    stopper.start()
    gate.set()
    stopper.join(TIMEOUT)
    assert seen == [1]
    assert not loop.call_soon_threadsafe(seen.append, 2)
    loop.stop()
    assert seen == [1]


def test_stop_from_the_loop_and_without_start() -> None:
    loop = EventLoop()
    loop.start()
    loop.call_soon_threadsafe(loop.stop)
    loop.stop()
    EventLoop().stop()


def test_state_waits_and_tells() -> None:
    state = MachineState()
    assert state.state is RunState.PRELAUNCH
    seen: list[tuple[RunState, RunState]] = []
    unsubscribe = state.subscribe(lambda old, new: seen.append((old, new)))
    waiter_saw: list[RunState | None] = []
    waiter = threading.Thread(
        target=lambda: waiter_saw.append(
            state.wait_for(RunState.SHUTDOWN, RunState.PAUSED, timeout=TIMEOUT)
        )
    )
    waiter.start()
    assert state.set(RunState.RUNNING)
    assert not state.set(RunState.RUNNING)
    assert not state.set(RunState.PAUSED, only_from=RunState.PRELAUNCH)
    assert state.set(RunState.PAUSED, only_from=RunState.RUNNING)
    waiter.join(TIMEOUT)
    assert waiter_saw == [RunState.PAUSED]
    unsubscribe()
    state.set(RunState.RUNNING)
    assert seen == [
        (RunState.PRELAUNCH, RunState.RUNNING),
        (RunState.RUNNING, RunState.PAUSED),
    ]
    assert state.wait_for(RunState.SHUTDOWN, timeout=0.01) is None


def test_observer_may_change_the_state_and_order_is_kept() -> None:
    state = MachineState()
    seen: list[RunState] = []

    def first(old: RunState, new: RunState) -> None:
        if new is RunState.GUEST_PANICKED:
            state.set(RunState.PAUSED)

    state.subscribe(first)
    state.subscribe(lambda old, new: seen.append(new))
    state.set(RunState.GUEST_PANICKED)
    assert seen == [RunState.GUEST_PANICKED, RunState.PAUSED]


def test_state_names_are_those_of_qmp() -> None:
    assert RunState("finish-migrate") is RunState.FINISH_MIGRATE
    assert RunState("guest-panicked") is RunState.GUEST_PANICKED
