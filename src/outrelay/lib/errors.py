"""Every exception OutRelay raises on purpose.

    OutRelayError
    ├── ConfigError            a flag, file or certificate the operator must change
    │   └── IdentityError      a certificate, key, trust bundle or URI
    ├── ProtocolError
    │   ├── LocalProtocolError   our own code broke the protocol's rules
    │   └── RemoteProtocolError  the peer did
    ├── TransportError
    │   ├── Closed             the connection is gone (by us, by the peer, or lost)
    │   ├── Reset              one direction of one stream was ended with a code
    │   └── Refused            a connection could not be made
    ├── StreamRejected         the stream was refused before it began
    ├── ResumeError            a stream that lost its connection cannot go on
    ├── ControlError           a call to the controller failed
    └── StoreError             the controller's database

An error carries fields; its text is built from them in ``__str__``, in one line that
says what happened and, where somebody can do something about it, what to do. Errors of
third-party libraries are translated once, where the library is imported, with ``from``.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class ErrorCode(IntEnum):
    """Codes of streams and connections that end. Source: protocol.md section 1."""

    NONE = 0
    """Ended as it should."""
    CANCELLED = 1
    """The application aborted, or stopped reading."""
    LEG_LOST = 2
    """The other agent's connection is gone; the stream can be resumed."""
    DENIED = 3
    """Policy denies it, or an operator ended it."""
    DRAIN = 4
    """Whoever sent it is stopping."""
    REPLACED = 5
    """A newer connection of the same agent took its place; do not dial again."""
    PROTOCOL = 6
    """The peer broke a rule of the protocol."""
    LIMIT = 7
    """A bound was reached."""
    INTERNAL = 8
    """The sender failed; its log says why."""
    EXPIRED = 9
    """Not resumed in time."""
    NOT_RESUMABLE = 10
    """It cannot be resumed: one side cannot, or lacks the bytes."""

    @classmethod
    def of(cls, code: int) -> ErrorCode:
        """The code a peer sent; one that is not ours counts as CANCELLED."""
        try:
            return cls(code)
        except ValueError:
            return cls.CANCELLED


class RejectCode(IntEnum):
    """Why a stream or a registration was refused. Source: protocol.md section 3."""

    MALFORMED = 400
    """The request was not understood."""
    DENIED = 403
    """No rule allows it, or one denies it."""
    NOT_FOUND = 404
    """No connected agent of the tenant exposes a service of that name."""
    ID_IN_USE = 409
    """The stream's id is taken."""
    LIMIT = 429
    """A bound of the agent or of its tenant was reached."""
    UNREACHABLE = 502
    """The provider's backend refused the connection, or no relay is connected."""
    REJECTED = 503
    """The provider takes no streams now."""
    TIMEOUT = 504
    """The provider or its backend did not answer in time."""


class Why(StrEnum):
    """Why a stream did not outlive its connection, in the words that logs have."""

    WINDOW = "window over"
    """No relay, or not the other agent, came back within `--resume-deadline`."""
    PEER = "peer without resume/2"
    """The other agent cannot resume streams."""
    RELAY = "relay without resume/2"
    """The relay cannot."""
    POLICY = "policy denies"
    """The rules changed meanwhile."""
    REFUSED = "relay refuses"
    """The half that an agent offered was malformed, or the id belongs to others."""
    STOPPED = "agent stopped"
    """One of the agents was stopped, and `--drain` was over."""
    GONE = "bytes gone"
    """The other side lacks bytes that are not kept any more."""


class OutRelayError(Exception):
    """The root: catch it to catch everything OutRelay raises on purpose."""


class ConfigError(OutRelayError):
    """Configuration an operator must change; processes exit with 78.

    Args:
        subject: The flag, file or variable at fault.
        fault: What is wrong with it.
        fix: What to do about it; may be empty.
    """

    def __init__(self, subject: str, fault: str, fix: str = "") -> None:
        super().__init__(subject, fault, fix)
        self.subject = subject
        self.fault = fault
        self.fix = fix

    def __str__(self) -> str:
        text = f"{self.subject}: {self.fault}"
        return f"{text}; {self.fix}" if self.fix else text


class IdentityError(ConfigError):
    """A certificate, key, trust bundle or identity URI that cannot be used."""


class ProtocolError(OutRelayError):
    """A rule of the wire protocol was broken."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


class LocalProtocolError(ProtocolError):
    """Our own code asked for something the protocol does not allow."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something the protocol does not allow.

    Args:
        reason: What it was.
        code: The code to end the stream or connection with.
    """

    def __init__(self, reason: str, code: ErrorCode = ErrorCode.PROTOCOL) -> None:
        super().__init__(reason)
        self.code = code


class TransportError(OutRelayError):
    """Something below the streams failed."""


class Closed(TransportError):
    """The connection is gone: nothing more can be read from it or written to it.

    Args:
        code: The code it was closed with; NONE where there was none (a lost path).
        reason: Text for people.
        by_peer: True when the peer closed it, False when we did or nobody did.
        lost: True when it ended without a close: idle timeout, dead path.
    """

    def __init__(
        self,
        code: ErrorCode = ErrorCode.NONE,
        reason: str = "",
        *,
        by_peer: bool = False,
        lost: bool = False,
    ) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
        self.by_peer = by_peer
        self.lost = lost

    def __str__(self) -> str:
        who = "connection lost" if self.lost else "closed by peer" if self.by_peer else "closed"
        text = f"{who} ({self.code.name})" if self.code else who
        return f"{text}: {self.reason}" if self.reason else text


class Reset(TransportError):
    """One direction of a stream ended early.

    Raised by a read when the peer reset its sending direction, by a write when the peer
    stopped reading or we reset the stream ourselves.
    """

    def __init__(self, code: ErrorCode) -> None:
        super().__init__(code)
        self.code = code

    def __str__(self) -> str:
        return f"stream reset ({self.code.name})"


class Refused(TransportError):
    """A connection could not be made: nobody answered, or the handshake failed.

    Args:
        peer: Address that was dialled, or that dialled us.
        reason: What went wrong, for people.
        final: True when trying again cannot help (a certificate is wrong).
        cause: The same in a word, for those who count; empty where nobody does.
    """

    def __init__(self, peer: str, reason: str, *, final: bool = False, cause: str = "") -> None:
        super().__init__(peer, reason)
        self.peer = peer
        self.reason = reason
        self.final = final
        self.cause = cause

    def __str__(self) -> str:
        return f"{self.peer}: {self.reason}"


class StreamRejected(OutRelayError):
    """A stream was refused before it began. Source: protocol.md section 3, reject codes."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.code} {self.reason}"


class ResumeError(OutRelayError):
    """A stream that lost its connection cannot go on.

    Args:
        why: In a word.
        reason: The same for people.
        code: The code to end the stream with.
    """

    def __init__(self, why: Why, reason: str, code: ErrorCode = ErrorCode.NOT_RESUMABLE) -> None:
        super().__init__(why, reason, code)
        self.why = why
        self.reason = reason
        self.code = code

    def __str__(self) -> str:
        return self.reason


class ControlError(OutRelayError):
    """A call to the controller failed; the controller raises it to refuse one.

    Args:
        status: Name of the gRPC status code: ``UNAVAILABLE``, ``PERMISSION_DENIED``, ...
        reason: What went wrong and what to do about it, for people.
        controller: Where the caller looked for the controller; empty inside of it.
    """

    def __init__(self, status: str, reason: str, *, controller: str = "") -> None:
        super().__init__(status, reason, controller)
        self.status = status
        self.reason = reason
        self.controller = controller

    def __str__(self) -> str:
        return f"controller {self.controller}: {self.reason}" if self.controller else self.reason


class StoreError(OutRelayError):
    """The controller's database cannot be used.

    Args:
        subject: The file.
        fault: What is wrong with it.
        fix: What to do about it; may be empty.
    """

    def __init__(self, subject: str, fault: str, fix: str = "") -> None:
        super().__init__(subject, fault, fix)
        self.subject = subject
        self.fault = fault
        self.fix = fix

    @property
    def reason(self) -> str:
        """What is wrong and what to do, without the file."""
        return f"{self.fault}; {self.fix}" if self.fix else self.fault

    def __str__(self) -> str:
        return f"{self.subject}: {self.reason}"
