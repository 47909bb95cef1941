//! One connection: quinn-proto's state machine, and its news as flat records.
//!
//! A panic inside quinn-proto or rustls ends the connection it happened in and goes no further:
//! what was asked of it comes to nothing, and `poll` tells its end.

use std::collections::BTreeSet;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

use bytes::Bytes;
use pyo3::{exceptions::PyKeyError, prelude::*, pybacked::PyBackedBytes, types::PyBytes};
use quinn_proto::{
    Connection, ConnectionError, ConnectionHandle, Dir, EndpointEvent, Event, ReadError,
    StreamEvent, VarInt, WriteError,
};

use crate::clock::{instant, seconds};
use crate::endpoint::{NativeEndpoint, UNCONGESTED};

// outrelay_native.pyi says what each part is
type News = (&'static str, u64, u64);
pub type End = (&'static str, u64, String);
type Polled = (Vec<News>, Option<End>, Option<f64>, bool);
type Batch<'py> = (String, u16, Bound<'py, PyBytes>, usize, u8);
type Read<'py> = (Bound<'py, PyBytes>, bool, Option<u64>);

#[pyclass]
pub struct NativeConnection {
    #[pyo3(get)]
    pub number: u64,
    pub handle: ConnectionHandle,
    pub quic: Connection,
    pub broken: bool,
}

#[pymethods]
impl NativeConnection {
    /// What has happened since the last time.
    fn poll(&mut self, endpoint: &mut NativeEndpoint) -> Polled {
        let mut news = Vec::new();
        let (mut end, deadline, mut gone) = self.guarded(|link| {
            while let Some(event) = link.quic.poll_endpoint_events() {
                if let Some(answer) = endpoint.quic.handle_event(link.handle, event) {
                    link.quic.handle_event(answer);
                }
            }
            (link.tell(&mut news), link.quic.poll_timeout().map(seconds), link.quic.is_drained())
        });
        if self.broken {
            guarded(|| endpoint.quic.handle_event(self.handle, EndpointEvent::drained()));
            (end, gone) = (Some(fault()), true);
        }
        if gone {
            endpoint.connections.remove(&self.handle);
        }
        (news, end, deadline, gone)
    }

    /// Whether the server has accepted us: for quinn-proto we are connected before it has judged.
    fn is_accepted(&self) -> bool {
        self.quic.stats().frame_rx.handshake_done > 0
    }

    /// What it has to send, at most so many datagrams.
    fn transmit<'py>(&mut self, py: Python<'py>, now: f64, most: usize) -> Option<Batch<'py>> {
        let (now, mut data) = (instant(now), Vec::new());
        let transmit = self.guarded(|link| link.quic.poll_transmit(now, most, &mut data))?;
        let segment = transmit.segment_size.unwrap_or(transmit.size);
        let ecn = transmit.ecn.map_or(0, |codepoint| codepoint as u8);
        let to = transmit.destination;
        Some((to.ip().to_string(), to.port(), PyBytes::new(py, &data), segment, ecn))
    }

    fn expire(&mut self, now: f64) {
        self.guarded(|link| link.quic.handle_timeout(instant(now)))
    }

    /// Whatever is on the way, the close goes out: quinn-proto alone would hold it back behind
    /// data that will never be sent, and the peer would hear of the end by its silence.
    fn close(&mut self, code: u64, reason: &[u8], now: f64) {
        self.guarded(|link| {
            link.quic.close(instant(now), integer(code), Bytes::copy_from_slice(reason));
            UNCONGESTED.store(true, Ordering::Relaxed);
            link.quic.path_changed(instant(now)); // makes new congestion control
            UNCONGESTED.store(false, Ordering::Relaxed);
        })
    }

    fn ping(&mut self) {
        self.guarded(|link| link.quic.ping())
    }

    /// Changes the keys now; they change by themselves long before they wear out.
    fn update_keys(&mut self) {
        self.guarded(|link| link.quic.force_key_update())
    }

    /// Host and port of the peer, and the size of datagrams that reach it.
    fn path(&self) -> (String, u16, u16) {
        let peer = self.quic.remote_address();
        (peer.ip().to_string(), peer.port(), self.quic.current_mtu())
    }

    /// Bounds what was taken of all streams and not acknowledged: twice what may be on the way,
    /// once for that and once for what has arrived behind a gap, and what is taken `ahead`.
    fn let_hold(&mut self, ahead: u64, most: u64) {
        let window = self.quic.congestion_state().window();
        self.quic.set_send_window((2 * window + ahead).min(most));
    }

    fn open_stream(&mut self) -> Option<u64> {
        self.guarded(|link| link.quic.streams().open(Dir::Bi).map(u64::from))
    }

    /// Lets the peer have so many streams open. quinn-proto keeps an eighth of those back that
    /// have ended; a lower limit makes every one of them worth a frame.
    fn allow_streams(&mut self, count: u64) -> (u64, usize, bool) {
        self.guarded(|link| {
            link.quic.set_max_concurrent_streams(Dir::Bi, integer(1));
            link.quic.set_max_concurrent_streams(Dir::Bi, integer(count));
            let is_asked = link.quic.stats().frame_rx.streams_blocked_bidi > 0;
            let streams = link.quic.streams();
            (streams.remote_open_streams(Dir::Bi), streams.send_streams(), is_asked)
        })
    }

    /// How many bytes were taken: when it is not all of them, news follow as soon as there is a
    /// point in trying again. `None`: the stream takes nothing ever again.
    fn write(&mut self, stream: u64, data: PyBackedBytes, priority: i32) -> Option<usize> {
        let size = data.len();
        self.guarded(|link| {
            link.quic.send_stream(integer(stream).into()).set_priority(priority).ok()?;
            let mut rest = [Bytes::from_owner(data)];
            while !rest[0].is_empty() {
                match link.quic.send_stream(integer(stream).into()).write_chunks(&mut rest) {
                    Ok(_) => {} // until it is blocked: only that brings news
                    Err(WriteError::Blocked) => break,
                    Err(_) => return None,
                }
            }
            Some(size - rest[0].len())
        })
    }

    fn finish(&mut self, stream: u64) {
        self.guarded(|link| link.quic.send_stream(integer(stream).into()).finish().ok());
    }

    /// Ends our direction; false: the peer has everything, or was told.
    fn reset(&mut self, stream: u64, code: u64) -> bool {
        self.guarded(|link| {
            link.quic.send_stream(integer(stream).into()).reset(integer(code)).is_ok()
        })
    }

    fn stop_sending(&mut self, stream: u64, code: u64) {
        self.guarded(|link| link.quic.recv_stream(integer(stream).into()).stop(integer(code)).ok());
    }

    fn read<'py>(&mut self, py: Python<'py>, stream: u64, limit: usize) -> PyResult<Read<'py>> {
        let (mut chunks, mut size, mut is_last, mut reset) = (Vec::new(), 0, false, None);
        let known = self.guarded(|link| {
            let mut stream = link.quic.recv_stream(integer(stream).into());
            let mut arrived = stream.read(true).ok()?;
            while size < limit && !is_last && reset.is_none() {
                match arrived.next(limit - size) {
                    Ok(Some(chunk)) => {
                        size += chunk.bytes.len();
                        chunks.push(chunk.bytes);
                    }
                    Ok(None) => is_last = true,
                    Err(ReadError::Blocked) => break,
                    Err(ReadError::Reset(code)) => reset = Some(code.into()),
                }
            }
            let _ = arrived.finalize(); // whoever reads sends afterwards
            Some(())
        });
        if known.is_none() && !self.broken {
            return Err(PyKeyError::new_err(stream));
        }
        let joined = PyBytes::new_with(py, size, |mut bytes| {
            Ok(chunks.iter().try_for_each(|chunk| bytes.write_all(chunk))?)
        })?;
        Ok((joined, is_last, reset))
    }
}

impl NativeConnection {
    pub fn guarded<R: Default>(&mut self, act: impl FnOnce(&mut Self) -> R) -> R {
        let result = if self.broken { None } else { guarded(|| act(self)) };
        self.broken = result.is_none();
        result.unwrap_or_default()
    }

    fn tell(&mut self, news: &mut Vec<News>) -> Option<End> {
        let (mut end, mut readable) = (None, BTreeSet::new()); // it is said of every packet
        while let Some(event) = self.quic.poll() {
            match event {
                Event::Connected => news.push(("connected", 0, 0)),
                Event::ConnectionLost { reason } => end = Some(end_of(reason)),
                Event::Stream(StreamEvent::Opened { dir }) => {
                    while let Some(id) = self.quic.streams().accept(dir) {
                        news.push(("opened", id.into(), 0));
                        readable.insert(id); // what came with it is not told on its own
                    }
                }
                Event::Stream(StreamEvent::Readable { id }) => readable.extend([id]),
                Event::Stream(event) => news.push(match event {
                    StreamEvent::Writable { id } => ("writable", id.into(), 0),
                    StreamEvent::Finished { id } => ("finished", id.into(), 0),
                    StreamEvent::Stopped { id, error_code: e } => ("stopped", id.into(), e.into()),
                    _ => ("available", 0, 0),
                }),
                _ => {}
            }
        }
        for id in readable {
            match self.quic.recv_stream(id).received_reset() {
                Ok(None) => news.push(("readable", id.into(), 0)),
                Ok(Some(code)) => news.push(("reset", id.into(), code.into())),
                Err(_) => {} // we stopped it, or have told its end
            }
        }
        end
    }
}

pub fn end_of(cause: ConnectionError) -> End {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    use ConnectionError::*;
    match cause {
        ApplicationClosed(end) => ("application", end.error_code.into(), text(&end.reason)),
        ConnectionClosed(end) => ("peer", end.error_code.into(), text(&end.reason)),
        TransportError(fault) => ("local", fault.code.into(), fault.reason),
        TimedOut => ("silence", 0, String::new()),
        Reset => ("restart", 0, String::new()),
        other => ("fault", 0, other.to_string()),
    }
}

pub fn fault() -> End {
    ("fault", 0, "a fault in the native QUIC engine".to_owned())
}

/// The result, or `None` when it panicked; Rust has said so on stderr.
pub fn guarded<R>(act: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(act)).ok()
}

/// A number that is too large is as unknown as the largest there is.
fn integer(number: u64) -> VarInt {
    VarInt::from_u64(number).unwrap_or(VarInt::MAX)
}
