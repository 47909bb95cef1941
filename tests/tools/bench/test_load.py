"""The load moves what it says, and notices when a byte is not what it was."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from outrelay.tools.bench import load
from outrelay.tools.bench.load import Address, Operation, PayloadDamagedError

MIB = 1 << 20


def serving(serve_one: Callable[[socket.socket], None]) -> Iterator[Address]:
    """A server, one thread for each connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=serve_one, args=(connection,)).start()

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def backend() -> Iterator[Address]:
    yield from serving(load._serve_one)


@pytest.fixture
def damaging() -> Iterator[Address]:
    """A backend that sends the wrong bytes, and says it got the wrong ones."""

    def serve(connection: socket.socket) -> None:
        with connection:
            header = load._receive_exactly(connection, load._HEADER.size)
            operation, _, size, _ = load._HEADER.unpack(header)
            if operation == Operation.UP:
                load._receive_exactly(connection, size)
                connection.sendall(load._RECEIPT.pack(0, 1, 0, b"wrong"))
            elif operation == Operation.ECHO:
                connection.sendall(bytes(len(load._receive_exactly(connection, 64))))
            elif operation == Operation.DROP:
                load._drop(connection)
                connection.sendall(load._COUNT.pack(7))
            else:
                connection.sendall(bytes(size))

    yield from serving(serve)


@pytest.fixture
def truncating() -> Iterator[Address]:
    """A backend that ends too early."""

    def serve(connection: socket.socket) -> None:
        with connection:
            connection.recv(100)
            connection.sendall(b"x")

    yield from serving(serve)


@pytest.mark.parametrize("operation", [Operation.UP, Operation.DOWN])
@pytest.mark.parametrize(("streams", "size"), [(1, 3 * MIB + 1), (4, MIB // 2)])
def test_bulk(backend: Address, operation: Operation, streams: int, size: int) -> None:
    assert load.bulk(backend, operation, streams, size) > 0


@pytest.mark.parametrize("operation", [Operation.UP, Operation.DOWN])
def test_damage_is_noticed(damaging: Address, operation: Operation) -> None:
    with pytest.raises(PayloadDamagedError, match="stream 0"):
        load.bulk(damaging, operation, 1, 1000)


def test_an_early_end_is_noticed(truncating: Address) -> None:
    with pytest.raises(PayloadDamagedError, match="ended early"):
        load.bulk(truncating, Operation.DOWN, 1, 1000)


def test_opens_and_pings(backend: Address) -> None:
    assert all(seconds > 0 for seconds in load.opens(backend, 3))
    assert len(load.pings(backend, 5)) == 5
    assert len(load.pings_beside(backend, 5)) == 5


def test_pings_that_are_damaged_are_noticed(damaging: Address) -> None:
    with pytest.raises(PayloadDamagedError, match="something else"):
        load.pings(damaging, 1)


def test_an_upload_that_is_cut_short_beside_pings_is_noticed(damaging: Address) -> None:
    damage = pytest.raises(PayloadDamagedError, match="beside pings 7 arrived")
    with damage, load._uploading(damaging):
        pass


def test_streams_carry_different_bytes() -> None:
    assert load._digest(0, 100) != load._digest(1, 100)


@pytest.mark.parametrize(
    ("operation", "values"), [("up", 1), ("open", 3), ("echo", 3), ("beside", 3)]
)
def test_as_a_program(
    backend: Address, capsys: pytest.CaptureFixture[str], operation: str, values: int
) -> None:
    load.main([operation, str(backend[1]), "1", "3"])
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["values"]) == values
    assert answer["cpu_seconds"] > 0


@pytest.mark.parametrize(("lead", "before"), [(0.0, 1), (3600.0, 100)])
def test_the_clock_runs_after_the_lead_or_from_the_middle(lead: float, before: int) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        for size in (1, 99, 100, 200):
            theirs.send(bytes(size))
        times, _ = load._receive_payload(ours, 400, lead)
    assert times.before == before
    assert times.first <= times.last
