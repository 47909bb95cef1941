"""Events of controllers, beside those of streams."""

from __future__ import annotations

from typing import Final

from outrelay.lib.observe.vocabulary.event import Event

# fmt: off
CONTROLLERS: Final = (
    Event("relay attached", "controller", "info", "relay",
          "A relay takes commands: it answers `fleet streams` and `stream kill`."),
    Event("relay detached", "controller", "info", "relay", "A relay no longer takes commands."),
    Event("relay drains", "controller", "info", "relay by reason",
          "An operator has sent a relay's agents elsewhere: `fleet drain`."),
    Event("relays died", "controller", "warning", "relays",
          "Their heartbeats have not come; what is registered at them is not offered."),
    Event("relays returned", "controller", "warning", "relays", "Their heartbeats come again."),
    Event("services deregistered", "controller", "info", "count agent relay",
          "An agent has left, or its relay says so."),
    Event("policy added", "controller", "info", "tenant id decision by",
          "An operator added a rule."),
    Event("policy removed", "controller", "info", "tenant id by", "An operator removed a rule."),
    Event("policies replaced", "controller", "info", "tenant rules revision by",
          "An operator has given a tenant a whole set of rules."),
    Event("expired policies removed", "controller", "info", "count", "Their time was over."),
    Event("call refused", "controller", "debug warning", "method address code reason",
          "A caller may not do that (warning), or asked for what there is not (debug)."),
    Event("call failed", "controller", "error", "method", "A fault of the controller's own."),
    Event("database failed", "controller", "warning", "method error",
          "The database did not do what a call needed."),
    Event("upkeep failed", "controller", "warning", "error",
          "Old rows are removed later; it is tried again."),
    Event("writes given up", "controller", "warning", "pending",
          "The controller stops; what was not committed has been told to nobody as done."),
    Event("schema migrated", "controller", "info", "database version",
          "The database has the form of this version; older controllers cannot use it."),
    Event("plaintext listener: whoever reaches it is relay and operator of every tenant",
          "controller", "warning", "address", "--listen-plaintext is set."),
    Event("admin socket cannot accept", "controller", "warning", "reason",
          "Too many files are open, as a rule."),
    Event("caller of the admin socket refused", "controller", "warning", "uid",
          "Only the controller's user and root get in."),
)
# fmt: on
