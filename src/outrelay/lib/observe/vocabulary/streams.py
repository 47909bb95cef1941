"""Events of streams: each has the ``stream_id`` where there is one."""

from __future__ import annotations

from typing import Final

from outrelay.lib.observe.vocabulary.event import Event

# fmt: off
STREAMS: Final = (
    Event("opening stream", "agent", "debug", "stream_id service method",
          "An application has connected; its agent asks the relay for a stream."),
    Event("asking a provider", "relay", "debug", "stream_id provider",
          "Policy allows the stream; a provider is asked to serve it."),
    Event("backend connected", "agent", "debug", "stream_id target",
          "The provider's agent has a connection to its backend and accepts the stream."),
    Event("stream opened", "agent relay", "info",
          "stream_id side service method peer consumer provider carrier",
          "The stream is spliced: bytes pass from now on."),
    Event("stream resumed", "agent relay", "info",
          "stream_id side pause consumer provider service",
          "A stream that had lost a connection goes on; nothing is lost of it."),
    Event("stream ended", "agent relay", "info",
          "stream_id side service method peer reason why bytes_up bytes_down seconds",
          "Both directions are over; `reason` is `finished` where both ended as they should."),
    Event("stream revoked", "relay", "info", "stream_id consumer service reason",
          "The stream is ended by policy, or by an operator."),
    Event("stream killed", "controller", "info", "stream_id tenant by",
          "An operator had the stream ended."),
    Event("stream to kill not found", "controller", "info", "stream_id tenant by",
          "An operator wanted the stream ended, but no relay carries it."),
    Event("stalled stream cut off", "relay", "warning", "stream_id not_read_by seconds hint",
          "An agent does not read, and too many streams wait for somebody who reads."),
    Event("stream refused", "relay", "info", "stream_id consumer service code reason",
          "The consumer does not get the stream; `code` and `reason` are what it is told."),
    Event("stream dropped", "relay", "info", "stream_id consumer service reason",
          "A stream ended before it had begun."),
    Event("half of a stream dropped", "relay", "info", "stream_id agent service reason",
          "An agent wanted to resume a stream, and the other one did not."),
    Event("open refused", "agent", "warning", "stream_id service method code reason hint",
          "There is no stream for an application, which is closed; `hint` is what to do."),
    Event("open given up", "agent", "info", "stream_id service method reason",
          "An application did not wait for its stream."),
    Event("backend failed", "agent", "warning", "stream_id service target reason",
          "The provider's agent cannot reach its backend."),
    Event("incoming stream refused", "agent", "warning", "stream_id service peer code reason",
          "The provider's agent does not serve the stream."),
    Event("incoming stream dropped", "agent", "warning", "reason",
          "A relay opened a stream and did not say what for."),
    Event("refusal not delivered", "agent", "info", "stream_id error",
          "The relay was gone before it could be told that the stream is refused."),
    Event("stream given up", "agent", "warning", "stream_id service reason",
          "The provider had accepted the stream, but it was never spliced."),
    Event("stream lost before it was ready", "agent", "info", "stream_id error",
          "A stream was lost so late that its consumer may come back, which is waited for."),
    Event("provider rests", "relay", "warning", "stream_id provider session service seconds reason",
          "A provider failed; for so many seconds others are asked before it."),
    Event("end said again", "agent", "info", "stream_id side",
          "The far agent had missed the end of a stream, and has it now."),
    Event("end not said again", "agent", "info", "stream_id side reason",
          "The far agent had missed the end of a stream, and cannot be told."),
)
# fmt: on
