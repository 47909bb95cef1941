"""Events of agents, beside those of streams."""

from __future__ import annotations

from typing import Final

from outrelay.lib.observe.vocabulary.event import Event

# fmt: off
AGENTS: Final = (
    Event("connected", "agent", "info", "relay address carrier",
          "There is a connection to a relay."),
    Event("disconnected", "agent", "warning", "relay reason",
          "The connection to the relay is gone; another one is made."),
    Event("no relay connected", "agent", "warning", "error",
          "No relay can be reached; it is tried again. `outrelay-agent doctor` says why."),
    Event("refused by the relay", "agent", "error", "error hint",
          "A relay does not want this agent; `hint` is what to do."),
    Event("the relay leaves", "agent", "info", "relay reason",
          "The relay is stopping; agent and streams move to another one."),
    Event("the far agent is not at this relay", "agent", "info", "relay",
          "A stream cannot be resumed here; another relay is looked for."),
    Event("no credit for streams, moving to a fresh connection", "agent", "warning", "",
          "The relay allows no more streams on this connection."),
    Event("another network, looking for a better way to a relay", "agent", "info", "",
          "An address of this machine has changed."),
    Event("no better way to a relay", "agent", "debug", "error seconds",
          "QUIC does not get through; it is tried again after so many seconds."),
    Event("quic gets through, new streams take it", "agent", "info", "endpoint",
          "The agent moves from TCP to QUIC."),
    Event("connecting again, a plain relay may have dropped our registration", "agent", "info", "",
          "A relay of another implementation does not say whether it has."),
    Event("connected with the new certificate, streams move to it", "agent", "info", "",
          "The agent's certificate was renewed; nothing is lost by that."),
    Event("not connected with the new certificate", "agent", "warning", "error",
          "The agent goes on with the old connection, and tries again."),
    Event("registered", "agent", "info", "service",
          "The relay knows that this agent provides the service."),
    Event("registration refused", "agent relay", "info warning", "service agent code reason hint",
          "The agent may not provide the service, or offers too many."),
    Event("registration not answered, trying again", "agent", "warning", "service",
          "The relay has not said whether the service is registered."),
    Event("services not deregistered", "agent", "warning", "error",
          "The agent stops, and the relay could not be told."),
    Event("unknown frames are skipped", "agent relay", "info", "relay agent first",
          "The peer is of another version, or of another implementation."),
    Event("no connection accepted", "agent", "error", "service method error hint",
          "An application cannot connect to the agent: it has too many files open, as a rule."),
    Event("nothing to do", "agent", "warning", "hint",
          "The agent neither provides nor uses a service."),
    Event("what leads to a relay is not remembered", "agent", "warning", "file reason",
          "--state-dir cannot be written; the agent finds its way again at each start."),
    Event("what led to a relay before cannot be read", "agent", "info", "file reason",
          "The file in --state-dir is damaged; it is written anew."),
)
# fmt: on
