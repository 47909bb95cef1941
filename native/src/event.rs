//! What the engine tells Python: one flat record an event, its numbers those of the port.

use quinn_proto::ConnectionError;

/// The kinds of the port that arise here (`engine.EventKind`); the others are Python's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Connected = 0,
    StreamOpened = 1,
    Readable = 2,
    Writable = 3,
    Stopped = 4,
    Reset = 5,
    Finished = 6,
    StreamsAvailable = 7,
    Lost = 9,
    Drained = 10,
}

/// Who or what ended a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// The peer's application, or ours: `code` is its own.
    #[default]
    Application = 0,
    /// The peer's QUIC: `code` is a transport error.
    Peer = 1,
    /// Our QUIC: `code` is a transport error.
    Local = 2,
    /// Nothing was heard for too long.
    Silence = 3,
    /// The peer has forgotten the connection.
    Restart = 4,
    /// A bug.
    Fault = 5,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Event {
    pub kind: Kind,
    pub connection: u64,
    /// -1: the event concerns no stream.
    pub stream: i64,
    pub code: u64,
    pub origin: Origin,
    pub reason: String,
}

impl Event {
    pub fn of(kind: Kind, connection: u64) -> Self {
        Self {
            kind,
            connection,
            stream: -1,
            code: 0,
            origin: Origin::default(),
            reason: String::new(),
        }
    }

    pub fn stream(kind: Kind, connection: u64, stream: u64, code: u64) -> Self {
        Self { stream: stream as i64, code, ..Self::of(kind, connection) }
    }

    pub fn lost(connection: u64, cause: ConnectionError) -> Self {
        let (origin, code, reason) = match cause {
            ConnectionError::ApplicationClosed(end) => {
                (Origin::Application, end.error_code.into_inner(), text(&end.reason))
            }
            ConnectionError::ConnectionClosed(end) => {
                (Origin::Peer, end.error_code.into(), text(&end.reason))
            }
            ConnectionError::TransportError(fault) => {
                (Origin::Local, fault.code.into(), fault.reason)
            }
            ConnectionError::TimedOut => (Origin::Silence, 0, String::new()),
            ConnectionError::Reset => (Origin::Restart, 0, String::new()),
            other => (Origin::Fault, 0, other.to_string()),
        };
        Self { code, origin, reason, ..Self::of(Kind::Lost, connection) }
    }

    pub fn fault(connection: u64) -> Self {
        let reason = "a fault in the native QUIC engine".to_owned();
        Self { origin: Origin::Fault, reason, ..Self::of(Kind::Lost, connection) }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
