"""Events that several programs have: of processes, and of connections as such."""

from __future__ import annotations

from typing import Final

from outrelay.lib.observe.vocabulary.event import ALL, Event

# fmt: off
PROCESSES: Final = (
    Event("listening", ALL, "info", "address carrier listener service method",
          "Others can connect to this address."),
    Event("packet engine chosen", "agent relay", "info", "engine",
          "What builds the packets of QUIC (--quic-engine)."),
    Event("ready", ALL, "info", "relay_id endpoint", "The program does its work from now on."),
    Event("stopping", ALL, "info", "signal", "The program was asked to stop."),
    Event("stopping at once", ALL, "warning", "signal", "It was asked twice."),
    Event("draining", "agent relay", "info", "streams seconds",
          "Running streams have so many seconds to finish, or to move."),
    Event("streams cut off", "agent relay", "warning", "streams hint",
          "They had not finished; --drain gives them more time."),
    Event("stopped", ALL, "info", "", "The program has ended as it was asked to."),
    Event("failed", ALL, "error", "error", "The program cannot go on; `error` is what to change."),
    Event("crashed", ALL, "error", "error",
          "A fault of our own ended the program; please report it."),
    Event("task failed", ALL, "error", "task",
          "A fault of our own ended a part; please report it."),
    Event("log level changed", ALL, "warning", "to before by",
          "From now on what is at least of the level `to` is logged."),
    Event("debug listener on a network", ALL, "warning", "address hint",
          "--debug-listen is not a loopback address: keep others away from it."),
    Event("debug request failed", ALL, "error", "path",
          "A fault of our own kept a question from being answered; please report it."),
    Event("metrics not dumped", ALL, "warning", "file error hint",
          "The file of --metrics-dump cannot be written; told once, until it can."),
    Event("metrics are dumped again", ALL, "info", "file", "The file can be written again."),
    Event("certificate renewed", ALL, "info", "identity ends",
          "The files of --cert and --key hold a new certificate, which is used from now on."),
    Event("certificate unchanged", ALL, "info", "file",
          "SIGHUP came, and the file of --cert holds what it held before."),
    Event("new certificate not used", ALL, "warning", "error hint",
          "The files of --cert and --key hold something that cannot be used."),
    Event("no more connections can be accepted now", "relay", "error", "reason",
          "Too many files are open, as a rule; it is tried again."),
    Event("connection ended by a fault in the QUIC engine", "agent relay", "warning", "error",
          "A peer sent what the engine cannot take; please report it."),
    Event("the kernel takes no datagram batches", "agent relay", "info", "error",
          "Datagrams are sent one by one, which costs more."),
    Event("datagram not sent", "agent relay", "debug", "error",
          "As if it were lost: the network has no way to its address now."),
)
# fmt: on
