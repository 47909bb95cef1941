"""What only the in-memory carrier does; the rest is in the contract suite."""

from __future__ import annotations

import pytest

from outrelay.lib.errors import Closed, ConfigError, ErrorCode, Refused
from outrelay.lib.identity.uri import Role
from outrelay.lib.transport.memory import BACKLOG, MemoryNetwork
from tests.lib.transport.carriers import AGENT, LOOPBACK, RELAY
from tests.lib.transport.streams import closing


async def test_nobody_answers_at_an_address_without_a_listener() -> None:
    dialer = MemoryNetwork().dialer(AGENT)
    with pytest.raises(Refused, match="nobody answered") as refusal:
        await dialer.dial(("127.0.0.1", 7443), roles={Role.RELAY})
    assert not refusal.value.final


async def test_an_address_has_one_listener_at_a_time() -> None:
    network = MemoryNetwork()
    listener = network.listen(("127.0.0.1", 7443), RELAY)
    with pytest.raises(ConfigError, match="in use"):
        network.listen(("127.0.0.1", 7443), RELAY)
    assert network.listen(LOOPBACK, RELAY).address != network.listen(LOOPBACK, RELAY).address
    await listener.close()
    await listener.close()
    assert network.listen(("127.0.0.1", 7443), RELAY).address == ("127.0.0.1", 7443)


async def test_a_listener_that_accepts_nothing_refuses_when_its_backlog_is_full() -> None:
    network = MemoryNetwork()
    listener, dialer = network.listen(LOOPBACK, RELAY), network.dialer(AGENT)
    for _ in range(BACKLOG):
        await dialer.dial(listener.address, roles={Role.RELAY})
    with pytest.raises(Refused, match="too many"):
        await dialer.dial(listener.address, roles={Role.RELAY})
    await listener.accept()
    await dialer.dial(listener.address, roles={Role.RELAY})


async def test_a_listener_forgets_connections_that_ended() -> None:
    network = MemoryNetwork()
    listener, dialer = network.listen(LOOPBACK, RELAY), network.dialer(AGENT)
    for _ in range(2 * BACKLOG):
        connection = await dialer.dial(listener.address, roles={Role.RELAY})
        await listener.accept()
        connection.close()
    assert len(listener._accepted) == 1


async def test_a_test_chooses_limits_addresses_and_dates() -> None:
    network = MemoryNetwork(max_streams=1)
    listener = network.listen(LOOPBACK, RELAY, expires=2_000_000_000.0)
    dialer = network.dialer(AGENT, host="192.0.2.1", expires=1_900_000_000.0)
    near = await dialer.dial(listener.address, roles={Role.RELAY})
    far = await listener.accept()
    assert (near.peer_expires, far.peer_expires) == (2_000_000_000.0, 1_900_000_000.0)
    assert far.peer_address == dialer.address
    assert far.peer_address[0] == "192.0.2.1"
    stream = await near.open_stream()
    near.close()
    assert (await closing(stream.read())).code is ErrorCode.NONE


async def test_streams_under_way_when_the_connection_ends_are_dropped() -> None:
    network = MemoryNetwork()
    listener = network.listen(LOOPBACK, RELAY)
    near = await network.dialer(AGENT).dial(listener.address, roles={Role.RELAY})
    far = await listener.accept()
    shown, hidden = await near.open_stream(), await near.open_stream()
    await shown.write(b"x")
    near.close()
    hidden.finish()
    assert (await closing(far.accept_stream())).by_peer
    assert isinstance(await far.wait_closed(), Closed)


async def test_a_writer_learns_of_the_loss_though_the_other_direction_is_over() -> None:
    network = MemoryNetwork()
    listener = network.listen(LOOPBACK, RELAY)
    near = await network.dialer(AGENT).dial(listener.address, roles={Role.RELAY})
    far = await listener.accept()
    ours = await near.open_stream()
    await ours.write(b"x")
    theirs = await far.accept_stream()
    theirs.finish()
    assert await ours.read() == b""
    far.sever()
    assert (await closing(ours.wait_finished())).lost
