//! One connection: quinn-proto's state machine, what its streams have to send, and its news.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use quinn_proto::{
    Connection, ConnectionHandle, Dir, Endpoint, Event as News, ReadError, Side, StreamEvent,
    StreamId, Transmit, VarInt,
};

use crate::congestion::Rules;
use crate::event::{Event, Kind};
use crate::outgoing::{Fed, Outgoing};

/// Bytes that quinn-proto is given beyond twice what may be on the way: once for that, and once
/// for what has arrived behind a gap. What it has not sent of them is not in `unsent`.
const AHEAD: u64 = 128 * 1024;
/// As much again for streams that have little to say: they do not wait for those with much.
const RESERVE: u64 = 128 * 1024;
/// Bytes that streams with something to send hand over before each has had its turn.
const ROUND: usize = 1024 * 1024;
const TURN_MIN: usize = 2 * 1024;
const TURN_MAX: usize = 64 * 1024;
/// Datagrams, and bytes, that the kernel takes in one UDP_SEGMENT send.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 65_000;

pub struct Link {
    pub quic: Connection,
    pub handle: ConnectionHandle,
    pub deadline: Option<Instant>,
    pub touched: bool,
    number: u64,
    bounds: Bounds,
    /// Both sides have accepted each other; until then news of streams is kept back.
    confirmed: bool,
    kept_back: Vec<StreamEvent>,
    outgoing: HashMap<StreamId, Outgoing>,
    /// Who may have something to hand over, by when it last did: who says little goes first.
    ready: BTreeSet<(u64, StreamId)>,
    turns: u64,
    readable: BTreeSet<StreamId>,
    waits_for_streams: bool,
    /// Streams the peer has opened, and how many of them are known to be done with.
    accepted: u64,
    freed: u64,
    closing: Option<(VarInt, Bytes)>,
}

/// What `Link` needs to know of the engine's bounds.
#[derive(Clone)]
pub struct Bounds {
    pub write_buffer: usize,
    pub streams: u32,
    pub rules: Arc<Rules>,
}

impl Link {
    pub fn new(number: u64, handle: ConnectionHandle, quic: Connection, bounds: Bounds) -> Self {
        Self {
            quic,
            handle,
            bounds,
            deadline: None,
            touched: false,
            number,
            confirmed: false,
            kept_back: Vec::new(),
            outgoing: HashMap::new(),
            ready: BTreeSet::new(),
            turns: 0,
            readable: BTreeSet::new(),
            waits_for_streams: false,
            accepted: 0,
            freed: 0,
            closing: None,
        }
    }

    // News

    /// Passes quinn-proto's news on; true when the connection is over and drained.
    pub fn collect(&mut self, endpoint: &mut Endpoint, out: &mut Vec<Event>) -> bool {
        let mut drained = false;
        while let Some(event) = self.quic.poll_endpoint_events() {
            drained |= event.is_drained();
            if let Some(answer) = endpoint.handle_event(self.handle, event) {
                self.quic.handle_event(answer);
            }
        }
        self.quic.set_send_window(self.room());
        if !self.confirmed && self.is_accepted_by_server() {
            self.confirm(out);
        }
        while let Some(news) = self.quic.poll() {
            self.tell(news, out);
        }
        while let Some(id) = self.readable.pop_first() {
            out.push(Event::stream(Kind::Readable, self.number, id.into(), 0));
        }
        if drained {
            out.push(Event::of(Kind::Drained, self.number));
        }
        drained
    }

    /// A client is connected for quinn-proto before the server has judged its certificate.
    fn is_accepted_by_server(&self) -> bool {
        self.quic.side() == Side::Client && self.quic.stats().frame_rx.handshake_done > 0
    }

    fn confirm(&mut self, out: &mut Vec<Event>) {
        self.confirmed = true;
        out.push(Event::of(Kind::Connected, self.number));
        for news in std::mem::take(&mut self.kept_back) {
            self.tell_of_stream(news, out);
        }
    }

    fn tell(&mut self, news: News, out: &mut Vec<Event>) {
        match news {
            News::Connected if self.quic.side() == Side::Server => self.confirm(out),
            News::ConnectionLost { reason } => out.push(Event::lost(self.number, reason)),
            News::Stream(news) if self.confirmed => self.tell_of_stream(news, out),
            News::Stream(news) => self.kept_back.push(news),
            _ => {}
        }
    }

    fn tell_of_stream(&mut self, news: StreamEvent, out: &mut Vec<Event>) {
        let number = self.number;
        match news {
            StreamEvent::Opened { dir } => {
                while let Some(id) = self.quic.streams().accept(dir) {
                    self.accepted += 1;
                    out.push(Event::stream(Kind::StreamOpened, number, id.into(), 0));
                    self.arrived(id, out); // what came with it is not told again
                }
            }
            StreamEvent::Readable { id } => self.arrived(id, out),
            StreamEvent::Writable { id } => self.line_up(id),
            StreamEvent::Finished { id } => {
                self.outgoing.remove(&id);
                out.push(Event::stream(Kind::Finished, number, id.into(), 0));
            }
            StreamEvent::Stopped { id, error_code } => {
                let code = error_code.into_inner();
                let stopped = Event::stream(Kind::Stopped, number, id.into(), code);
                self.give_up(id, error_code, Some(stopped), out);
            }
            StreamEvent::Available { .. } => {
                if std::mem::take(&mut self.waits_for_streams) {
                    out.push(Event::of(Kind::StreamsAvailable, number));
                }
            }
        }
    }

    fn arrived(&mut self, id: StreamId, out: &mut Vec<Event>) {
        match self.quic.recv_stream(id).received_reset() {
            Ok(None) => {
                self.readable.insert(id);
            }
            Ok(Some(code)) => {
                self.readable.remove(&id);
                out.push(Event::stream(Kind::Reset, self.number, id.into(), code.into_inner()));
            }
            Err(_) => {} // we stopped it, or have told its end
        }
    }

    // Sending

    /// How much quinn-proto may hold.
    fn room(&self) -> u64 {
        2 * self.quic.congestion_state().window() + AHEAD
    }

    /// Builds one batch of datagrams into `buf`.
    pub fn transmit(
        &mut self,
        now: Instant,
        buf: &mut Vec<u8>,
        out: &mut Vec<Event>,
    ) -> Option<Transmit> {
        if let Some((code, reason)) = self.closing.take() {
            self.quic.close(now, code, reason);
            self.bounds.rules.lifted.store(true, Ordering::Relaxed);
            let transmit = self.quic.poll_transmit(now, 1, buf);
            self.bounds.rules.lifted.store(false, Ordering::Relaxed);
            return transmit;
        }
        self.feed(out);
        self.give_streams_back();
        let most = BATCH.min(BATCH_BYTES / usize::from(self.quic.current_mtu()));
        self.quic.poll_transmit(now, most.max(1), buf)
    }

    /// Has the peer told of every stream it may open again. quinn-proto alone would keep an
    /// eighth of them back; a lower limit, taken back at once, makes the rest worth a frame.
    fn give_streams_back(&mut self) {
        let open = self.quic.streams().remote_open_streams(Dir::Bi);
        let freed = self.accepted.saturating_sub(open);
        if freed > self.freed {
            self.freed = freed;
            self.quic.set_max_concurrent_streams(Dir::Bi, 1u32.into());
            self.quic.set_max_concurrent_streams(Dir::Bi, self.bounds.streams.into());
        }
    }

    fn feed(&mut self, out: &mut Vec<Event>) {
        let room = self.room();
        let turn = (ROUND / self.ready.len().max(1)).clamp(TURN_MIN, TURN_MAX);
        while let Some((_, id)) = self.ready.pop_first() {
            let Some(outgoing) = self.outgoing.get_mut(&id) else { continue };
            let before = outgoing.unsent;
            let reserve = if before <= TURN_MIN { RESERVE } else { 0 };
            self.quic.set_send_window(room + reserve);
            let fed = outgoing.feed(&mut self.quic.send_stream(id), turn);
            if outgoing.unsent < before {
                self.turns += 1;
                outgoing.served = self.turns;
            }
            if outgoing.wants_room && outgoing.unsent <= self.bounds.write_buffer / 2 {
                outgoing.wants_room = false;
                out.push(Event::stream(Kind::Writable, self.number, id.into(), 0));
            }
            if fed == Fed::Over || outgoing.is_empty() {
                self.outgoing.remove(&id);
            } else if fed == Fed::More {
                self.line_up(id);
            }
        }
    }

    fn line_up(&mut self, id: StreamId) {
        if let Some(outgoing) = self.outgoing.get(&id) {
            self.ready.insert((outgoing.served, id));
        }
    }

    pub fn write(&mut self, id: StreamId, mut data: Vec<u8>) -> usize {
        let outgoing = self.outgoing.entry(id).or_default();
        let taken = data.len().min(self.bounds.write_buffer - outgoing.unsent);
        outgoing.wants_room |= taken < data.len();
        data.truncate(taken);
        if taken > 0 {
            outgoing.push(data);
        }
        self.line_up(id);
        taken
    }

    pub fn unsent(&self, id: StreamId) -> usize {
        self.outgoing.get(&id).map_or(0, |outgoing| outgoing.unsent)
    }

    pub fn finish(&mut self, id: StreamId) {
        self.outgoing.entry(id).or_default().finish = true;
        self.line_up(id);
    }

    pub fn reset(&mut self, id: StreamId, code: VarInt, out: &mut Vec<Event>) {
        self.give_up(id, code, None, out);
    }

    /// Ends our direction, unless the peer has everything or was told: nothing more is said of it.
    fn give_up(&mut self, id: StreamId, code: VarInt, why: Option<Event>, out: &mut Vec<Event>) {
        self.outgoing.remove(&id);
        if self.quic.send_stream(id).reset(code).is_ok() {
            out.extend(why);
            out.push(Event::stream(Kind::Finished, self.number, id.into(), 0));
        }
    }

    // Receiving

    /// Bytes that have arrived, at most `limit`; `None`: there is no such stream (any more).
    pub fn read(&mut self, id: StreamId, limit: usize, out: &mut Vec<Event>) -> Option<Read> {
        let mut stream = self.quic.recv_stream(id);
        let mut chunks = stream.read(true).ok()?;
        let mut read = Read::default();
        while read.size < limit {
            match chunks.next(limit - read.size) {
                Ok(Some(chunk)) => {
                    read.size += chunk.bytes.len();
                    read.chunks.push(chunk.bytes);
                }
                Ok(None) => {
                    read.fin = true;
                    break;
                }
                Err(ReadError::Blocked) => break,
                Err(ReadError::Reset(code)) => {
                    out.push(Event::stream(Kind::Reset, self.number, id.into(), code.into_inner()));
                    break;
                }
            }
        }
        let _ = chunks.finalize(); // whoever reads flushes
        Some(read)
    }

    pub fn stop(&mut self, id: StreamId, code: VarInt) {
        self.readable.remove(&id);
        let _ = self.quic.recv_stream(id).stop(code); // its end was told before
    }

    // The rest of what the shell asks

    pub fn open(&mut self) -> Option<StreamId> {
        let stream = self.quic.streams().open(Dir::Bi);
        self.waits_for_streams |= stream.is_none();
        stream
    }

    pub fn open_streams(&mut self) -> u64 {
        let streams = self.quic.streams();
        streams.send_streams() as u64 + streams.remote_open_streams(Dir::Bi)
    }

    pub fn close(&mut self, code: VarInt, reason: Bytes) {
        self.closing.get_or_insert((code, reason));
    }
}

/// What one read took.
#[derive(Default)]
pub struct Read {
    pub chunks: Vec<Bytes>,
    pub size: usize,
    pub fin: bool,
}
