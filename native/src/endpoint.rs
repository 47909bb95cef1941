//! All connections of one socket, and their bounds.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use quinn_proto::congestion::{Controller, ControllerFactory, CubicConfig};
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, EcnCodepoint, Endpoint,
    EndpointConfig, IdleTimeout, Incoming, MtuDiscoveryConfig, RandomConnectionIdGenerator,
    TransportConfig, VarInt,
};

use crate::clock::instant;
use crate::connection::{NativeConnection, end_of, fault, guarded};
use crate::tls::{Identity, JUDGED};

const CID_LENGTH: usize = 8;
/// Between stateless resets, at least: a datagram of anybody asks for one.
const RESET_INTERVAL: Duration = Duration::from_millis(5);
/// Assumed until it is measured: lost first packets are sent again after a third of a second.
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// The bounds of the port (`engine.EngineOptions` and the constants beside it).
#[derive(FromPyObject)]
struct Limits {
    idle_timeout: f64,
    stream_window: u32,
    streams: u32,
    datagram_first: u16,
    datagram_last: u16,
    reset_key: Vec<u8>,
}

#[pyclass]
pub struct NativeEndpoint {
    pub quic: Endpoint,
    pub connections: HashMap<ConnectionHandle, Py<NativeConnection>>,
    client: ClientConfig,
    transport: Arc<TransportConfig>,
    /// Python's: it is asked who may begin, and told what came to nothing.
    peers: Py<PyAny>,
}

type Begun = PyResult<Py<NativeConnection>>;
type Address<'a> = (&'a str, u16);

#[pymethods]
impl NativeEndpoint {
    #[new]
    fn new(identity: Identity, limits: Limits, peers: Py<PyAny>) -> PyResult<Self> {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &limits.reset_key);
        let mut config = EndpointConfig::new(Arc::new(key));
        config
            .supported_versions(vec![1])
            .min_reset_interval(RESET_INTERVAL)
            .cid_generator(|| Box::new(RandomConnectionIdGenerator::new(CID_LENGTH)))
            .max_udp_payload_size(limits.datagram_last.max(1472))
            .map_err(invalid)?;
        let transport = Arc::new(limits.transport()?);
        let (client, server) = identity.configs(&transport).map_err(invalid)?;
        let quic = Endpoint::new(Arc::new(config), server, true, None);
        Ok(Self { quic, connections: HashMap::new(), client, transport, peers })
    }

    /// Shows other certificates, and believes other CAs, from the next handshake on.
    fn exchange(&mut self, identity: Identity) -> PyResult<()> {
        let (client, server) = identity.configs(&self.transport).map_err(invalid)?;
        self.client = client;
        self.quic.set_server_config(server);
        Ok(())
    }

    fn connect(&mut self, py: Python, number: u64, to: Address, name: &str, now: f64) -> Begun {
        let (to, client) = (address(to)?, self.client.clone());
        let begun = guarded(|| self.quic.connect(instant(now), client, to, name));
        self.insert(py, number, begun.ok_or_else(|| invalid(fault().2))?.map_err(invalid)?)
    }

    /// Takes datagrams of `segment` bytes that came with one ECN codepoint; returns the
    /// connections that may have news, or something to send.
    fn receive(
        &mut self,
        py: Python,
        data: &[u8],
        segment: usize,
        from: Address,
        ecn: u8,
        now: f64,
    ) -> PyResult<Vec<Py<NativeConnection>>> {
        let (from, ecn, now) = (address(from)?, EcnCodepoint::from_bits(ecn), instant(now));
        let mut touched = Vec::new();
        for one in data.chunks(segment.max(1)) {
            // each its own memory: what is kept of one must not keep the whole batch
            let (data, mut answer) = (BytesMut::from(one), Vec::new());
            let event = guarded(|| self.quic.handle(now, from, None, ecn, data, &mut answer));
            let connection = match event.flatten() {
                Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                    self.connections.get(&handle).map(|connection| {
                        let mut link = connection.borrow_mut(py);
                        JUDGED.store(link.number, Ordering::Relaxed);
                        link.guarded(|link| link.quic.handle_event(event));
                        connection.clone_ref(py)
                    })
                }
                Some(DatagramEvent::NewConnection(incoming)) => {
                    self.begin(py, incoming, now, &mut answer)?
                }
                Some(DatagramEvent::Response(_)) | None => {
                    self.peers.call_method1(py, "wasted", (PyBytes::new(py, one),))?;
                    None
                }
            };
            touched.extend(connection);
            if !answer.is_empty() {
                self.peers.call_method1(py, "answer", (PyBytes::new(py, &answer),))?;
            }
        }
        touched.dedup_by(|one, other| one.is(other));
        Ok(touched)
    }
}

impl NativeEndpoint {
    /// Somebody wants to begin: asks whether it may, and under which number.
    fn begin(
        &mut self,
        py: Python,
        incoming: Incoming,
        now: Instant,
        answer: &mut Vec<u8>,
    ) -> PyResult<Option<Py<NativeConnection>>> {
        let asked = (incoming.remote_address_validated(),);
        let verdict = self.peers.call_method1(py, "admit", asked)?.extract::<Option<u64>>(py)?;
        let Some(number @ 1..) = verdict else {
            match verdict {
                Some(_) => drop(self.quic.retry(incoming, answer)),
                None => self.quic.ignore(incoming),
            }
            return Ok(None);
        };
        JUDGED.store(number, Ordering::Relaxed);
        let made = guarded(|| self.quic.accept(incoming, now, answer, None).map_err(Box::new));
        let end = match made {
            Some(Ok(made)) => return self.insert(py, number, made).map(Some),
            Some(Err(fault)) if fault.response.is_none() => None, // it was no first packet
            Some(Err(fault)) => Some(end_of(fault.cause)),
            None => Some(fault()),
        };
        self.peers.call_method1(py, "failed", (number, end))?;
        Ok(None)
    }

    fn insert(&mut self, py: Python, number: u64, made: (ConnectionHandle, Connection)) -> Begun {
        let (handle, quic) = made;
        let connection = Py::new(py, NativeConnection { number, handle, quic, broken: false })?;
        self.connections.insert(handle, connection.clone_ref(py));
        Ok(connection)
    }
}

impl Limits {
    fn transport(&self) -> PyResult<TransportConfig> {
        let mut search = MtuDiscoveryConfig::default();
        search.upper_bound(self.datagram_last);
        let idle = Duration::from_secs_f64(self.idle_timeout);
        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_bidi_streams(self.streams.into())
            .max_concurrent_uni_streams(0u32.into())
            .stream_receive_window(self.stream_window.into())
            .receive_window(VarInt::MAX) // the streams' windows are the bound: none blocks another
            .datagram_receive_buffer_size(None)
            .congestion_controller_factory(Arc::new(Congestion))
            .initial_rtt(INITIAL_RTT)
            .initial_mtu(self.datagram_first)
            .mtu_discovery_config(Some(search))
            .max_idle_timeout(Some(IdleTimeout::try_from(idle).map_err(invalid)?));
        Ok(transport)
    }
}

/// Cubic, or while `UNCONGESTED` is set, what holds nothing back.
struct Congestion;

pub static UNCONGESTED: AtomicBool = AtomicBool::new(false);

impl ControllerFactory for Congestion {
    fn build(self: Arc<Self>, now: Instant, mtu: u16) -> Box<dyn Controller> {
        let mut cubic = CubicConfig::default();
        if UNCONGESTED.load(Ordering::Relaxed) {
            cubic.initial_window(1 << 50);
        }
        Arc::new(cubic).build(now, mtu)
    }
}

fn address((host, port): Address) -> PyResult<SocketAddr> {
    Ok(SocketAddr::new(host.parse::<IpAddr>().map_err(invalid)?, port))
}

fn invalid(fault: impl ToString) -> PyErr {
    PyValueError::new_err(fault.to_string())
}
