//! All connections of one socket: which one a datagram is for, when each wants to be woken, and
//! what they send.
//!
//! Connections have numbers of the engine's own, never used twice; quinn-proto's handles are.
//! A panic inside quinn-proto or rustls ends the connection it happened in and goes no further.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::BytesMut;
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Endpoint, EndpointEvent, Incoming,
    ServerConfig, TransportConfig,
};

use crate::event::{Event, Kind};
use crate::link::{Bounds, Link};
use crate::tls::{Configs, Judge};

/// Whether somebody may begin a handshake; `Admit` says under which number.
pub enum Verdict {
    Admit(u64),
    /// It must prove its address first.
    Retry,
    Ignore,
}

/// Datagrams for one address: all of `segment` bytes, the last may be shorter.
pub struct Batch {
    pub to: SocketAddr,
    pub data: Vec<u8>,
    pub segment: usize,
}

pub struct Engine {
    endpoint: Endpoint,
    configs: Configs,
    transport: Arc<TransportConfig>,
    judge: Arc<Judge>,
    bounds: Bounds,
    links: HashMap<u64, Link>,
    numbers: HashMap<ConnectionHandle, u64>,
    touched: Vec<u64>,
    timers: BTreeSet<(Instant, u64)>,
    events: Vec<Event>,
    answers: Vec<Batch>,
}

impl Engine {
    pub fn new(
        endpoint: Endpoint,
        configs: Configs,
        transport: Arc<TransportConfig>,
        judge: Arc<Judge>,
        bounds: Bounds,
    ) -> Self {
        Self {
            endpoint,
            configs,
            transport,
            judge,
            bounds,
            links: HashMap::new(),
            numbers: HashMap::new(),
            touched: Vec::new(),
            timers: BTreeSet::new(),
            events: Vec::new(),
            answers: Vec::new(),
        }
    }

    /// Shows other certificates, and believes other CAs, from the next handshake on.
    pub fn exchange(&mut self, configs: Configs, server: Option<ServerConfig>) {
        self.endpoint.set_server_config(server.map(Arc::new));
        self.configs = configs;
    }

    // Datagrams in

    /// Takes one datagram; false when it came to nothing.
    pub fn receive(
        &mut self,
        now: Instant,
        from: SocketAddr,
        data: BytesMut,
        gate: impl FnOnce(SocketAddr, bool) -> Verdict,
    ) -> bool {
        let mut buf = Vec::new();
        let endpoint = &mut self.endpoint;
        let event = guarded(|| endpoint.handle(now, from, None, None, data, &mut buf));
        match event.flatten() {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(&number) = self.numbers.get(&handle) {
                    self.judge.current.store(number, Ordering::Relaxed);
                    self.on(number, |link, _| link.quic.handle_event(event));
                }
                true
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                match gate(from, incoming.remote_address_validated()) {
                    Verdict::Admit(number) => self.accept(number, incoming, now),
                    Verdict::Retry => {
                        if self.endpoint.retry(incoming, &mut buf).is_ok() {
                            self.answer(from, buf);
                        }
                        true
                    }
                    Verdict::Ignore => {
                        self.endpoint.ignore(incoming);
                        true
                    }
                }
            }
            Some(DatagramEvent::Response(_)) => {
                self.answer(from, buf);
                false
            }
            None => false,
        }
    }

    fn accept(&mut self, number: u64, incoming: Incoming, now: Instant) -> bool {
        let from = incoming.remote_address();
        let mut buf = Vec::new();
        self.judge.current.store(number, Ordering::Relaxed);
        let endpoint = &mut self.endpoint;
        let accepted = guarded(|| endpoint.accept(incoming, now, &mut buf, None).map_err(Box::new));
        let begun = match accepted {
            Some(Ok((handle, quic))) => {
                self.insert(number, handle, quic);
                return true;
            }
            Some(Err(fault)) if fault.response.is_some() => {
                self.answer(from, buf);
                self.events.push(Event::lost(number, fault.cause));
                true
            }
            _ => false, // it was no first packet of anybody
        };
        self.events.push(Event::of(Kind::Drained, number));
        begun
    }

    fn insert(&mut self, number: u64, handle: ConnectionHandle, quic: Connection) {
        self.links.insert(number, Link::new(number, handle, quic, self.bounds.clone()));
        self.numbers.insert(handle, number);
        self.touch(number);
    }

    fn answer(&mut self, to: SocketAddr, data: Vec<u8>) {
        let segment = data.len();
        self.answers.push(Batch { to, data, segment });
    }

    // Datagrams out

    /// At most one batch of each connection; to be asked until there is none.
    pub fn transmits(&mut self, now: Instant) -> Vec<Batch> {
        let mut batches = std::mem::take(&mut self.answers);
        for number in std::mem::take(&mut self.touched) {
            let mut data = Vec::new();
            if let Some(link) = self.links.get_mut(&number) {
                link.touched = false;
            }
            let transmit =
                self.on_untouched(number, |link, events| link.transmit(now, &mut data, events));
            if let Some(transmit) = transmit.flatten() {
                let segment = transmit.segment_size.unwrap_or(transmit.size);
                batches.push(Batch { to: transmit.destination, data, segment });
                self.touch(number);
            }
            self.collect(number);
        }
        batches
    }

    // Time

    pub fn next_deadline(&mut self) -> Option<Instant> {
        self.collect_all();
        self.timers.first().map(|&(at, _)| at)
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(at, number)) = self.timers.first()
            && at <= now
        {
            self.timers.pop_first();
            self.on(number, |link, _| {
                link.deadline = None;
                link.quic.handle_timeout(now);
            });
        }
    }

    // Events

    pub fn events(&mut self) -> Vec<Event> {
        self.collect_all();
        std::mem::take(&mut self.events)
    }

    fn collect_all(&mut self) {
        for number in self.touched.clone() {
            self.collect(number);
        }
    }

    fn collect(&mut self, number: u64) {
        let Self { links, endpoint, events, timers, .. } = self;
        let Some(link) = links.get_mut(&number) else { return };
        let Some(drained) = guarded(|| link.collect(endpoint, events)) else {
            return self.broken(number);
        };
        let next = if drained { None } else { link.quic.poll_timeout() };
        if next != link.deadline {
            if let Some(at) = link.deadline {
                timers.remove(&(at, number));
            }
            timers.extend(next.map(|at| (at, number)));
            link.deadline = next;
        }
        if drained {
            self.remove(number);
        }
    }

    // Connections

    pub fn connect(
        &mut self,
        number: u64,
        to: SocketAddr,
        server_name: &str,
        now: Instant,
    ) -> Result<(), String> {
        let mut config = ClientConfig::new(self.configs.client.clone());
        config.transport_config(self.transport.clone());
        let endpoint = &mut self.endpoint;
        match guarded(|| endpoint.connect(now, config, to, server_name)) {
            Some(Ok((handle, quic))) => {
                self.insert(number, handle, quic);
                Ok(())
            }
            Some(Err(fault)) => Err(fault.to_string()),
            None => Err("a fault in the native QUIC engine".to_owned()),
        }
    }

    /// Does something to a connection, which may then have something to send. `None`: there is
    /// no such connection, or what was done has ended it.
    pub fn on<R>(
        &mut self,
        number: u64,
        act: impl FnOnce(&mut Link, &mut Vec<Event>) -> R,
    ) -> Option<R> {
        self.touch(number);
        self.on_untouched(number, act)
    }

    fn on_untouched<R>(
        &mut self,
        number: u64,
        act: impl FnOnce(&mut Link, &mut Vec<Event>) -> R,
    ) -> Option<R> {
        let link = self.links.get_mut(&number)?;
        let events = &mut self.events;
        let result = guarded(|| act(link, events));
        if result.is_none() {
            self.broken(number);
        }
        result
    }

    pub fn link(&self, number: u64) -> Option<&Link> {
        self.links.get(&number)
    }

    fn touch(&mut self, number: u64) {
        if let Some(link) = self.links.get_mut(&number)
            && !link.touched
        {
            link.touched = true;
            self.touched.push(number);
        }
    }

    fn broken(&mut self, number: u64) {
        if let Some(link) = self.links.get(&number) {
            let handle = link.handle;
            let endpoint = &mut self.endpoint;
            guarded(|| endpoint.handle_event(handle, EndpointEvent::drained()));
            self.events.push(Event::fault(number));
            self.events.push(Event::of(Kind::Drained, number));
            self.remove(number);
        }
    }

    fn remove(&mut self, number: u64) {
        if let Some(link) = self.links.remove(&number) {
            self.numbers.remove(&link.handle);
            if let Some(at) = link.deadline {
                self.timers.remove(&(at, number));
            }
        }
    }
}

/// The result, or `None` when it panicked; Rust has said so on stderr.
fn guarded<R>(act: impl FnOnce() -> R) -> Option<R> {
    catch_unwind(AssertUnwindSafe(act)).ok()
}
