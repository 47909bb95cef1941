//! outrelay_native: quinn-proto and rustls as a sans-IO engine for Python.
//!
//! The Python side (`outrelay.lib.transport.quic.engine_native`) owns policy: who may begin a
//! handshake, who is accepted, what ends mean. Here are packets, streams, timers and TLS.
//!
//!   lib.rs       the class Python sees
//!   engine.rs    all connections of one socket
//!   link.rs      one connection
//!   outgoing.rs  what one stream has to send
//!   tls.rs       mutual TLS
//!   event.rs     what Python is told
//!   congestion.rs  how much may be on the way
//!   clock.rs     Python's seconds
#![forbid(unsafe_code)]

mod clock;
mod congestion;
mod engine;
mod event;
mod link;
mod outgoing;
mod tls;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyKeyError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use quinn_proto::{
    EndpointConfig, IdleTimeout, MtuDiscoveryConfig, RandomConnectionIdGenerator, ServerConfig,
    StreamId, TransportConfig, VarInt,
};

use crate::clock::Clock;
use crate::congestion::{Factory, Rules};
use crate::engine::{Batch, Engine, Verdict};
use crate::event::Event;
use crate::link::{Bounds, Link};
use crate::tls::{Configs, Identity, Judge};

const VERSION_1: u32 = 1;
const CID_LENGTH: usize = 8;
/// Seconds between stateless resets, at least: a datagram of anybody asks for one.
const RESET_INTERVAL: Duration = Duration::from_millis(5);

/// Assumed until it is measured: lost first packets are sent again after a third of a second.
const INITIAL_RTT: Duration = Duration::from_millis(100);

/// The bounds of the port (`engine.EngineOptions` and the constants beside it).
#[derive(FromPyObject)]
struct Limits {
    idle_timeout: f64,
    stream_window: u32,
    streams: u32,
    write_buffer: usize,
    flight_max: u64,
    datagram_first: u16,
    datagram_last: u16,
}

#[pyclass]
struct NativeEndpoint {
    clock: Clock,
    engine: Engine,
    judge: Arc<Judge>,
    transport: Arc<TransportConfig>,
    /// Python's answer to who may begin: `gate(host, port, proven)`.
    gate: Py<PyAny>,
    listens: bool,
}

type Bundle = (Vec<Vec<u8>>, Vec<u8>, Vec<Vec<u8>>, String);
type Told = (u8, u64, i64, u64, u8, String);
type Outbound<'py> = (String, u16, Bound<'py, PyBytes>, usize);

#[pymethods]
impl NativeEndpoint {
    /// `identity`: DER chain, PKCS #8 key, DER CAs, ALPN. `listens`: whether anybody may dial.
    #[new]
    fn new(
        identity: Bundle,
        reset_key: &[u8],
        listens: bool,
        limits: Limits,
        judge: Py<PyAny>,
        gate: Py<PyAny>,
    ) -> PyResult<Self> {
        let judge = Arc::new(Judge::new(judge));
        let rules = Rules::new(limits.flight_max);
        let transport = Arc::new(transport(&limits, rules.clone())?);
        let configs = configs(identity, &judge)?;
        let server = listens.then(|| Arc::new(server(&configs, &transport)));
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, reset_key);
        let mut config = EndpointConfig::new(Arc::new(key));
        config
            .supported_versions(vec![VERSION_1])
            .min_reset_interval(RESET_INTERVAL)
            .cid_generator(|| Box::new(RandomConnectionIdGenerator::new(CID_LENGTH)))
            .max_udp_payload_size(limits.datagram_last.max(1472))
            .map_err(invalid)?;
        let endpoint = quinn_proto::Endpoint::new(Arc::new(config), server, true, None);
        let bounds = Bounds { write_buffer: limits.write_buffer, streams: limits.streams, rules };
        let engine = Engine::new(endpoint, configs, transport.clone(), judge.clone(), bounds);
        Ok(Self { clock: Clock::new(), engine, judge, transport, gate, listens })
    }

    /// Other credentials for the handshakes to come.
    fn exchange(&mut self, identity: Bundle) -> PyResult<()> {
        let configs = configs(identity, &self.judge)?;
        let server = self.listens.then(|| server(&configs, &self.transport));
        self.engine.exchange(configs, server);
        Ok(())
    }

    /// Takes datagrams of `segment` bytes; returns where those begin that came to nothing.
    fn receive(
        &mut self,
        py: Python<'_>,
        data: PyBuffer<u8>,
        segment: usize,
        host: &str,
        port: u16,
        now: f64,
    ) -> PyResult<Vec<usize>> {
        let now = self.clock.instant(now);
        let from = address(host, port)?;
        let data = data.to_vec(py)?;
        let mut lost = Vec::new();
        for (number, one) in data.chunks(segment.max(1)).enumerate() {
            let gate = |from: SocketAddr, proven| admit(self.gate.bind(py), from, proven);
            // each its own memory: what is kept of one must not keep the whole batch
            if !self.engine.receive(now, from, BytesMut::from(one), gate) {
                lost.push(number * segment);
            }
        }
        Ok(lost)
    }

    /// `[(host, port, datagrams, segment size)]`
    fn transmits<'py>(&mut self, py: Python<'py>, now: f64) -> Vec<Outbound<'py>> {
        let batches = self.engine.transmits(self.clock.instant(now));
        let packed = |Batch { to, data, segment }: Batch| {
            (to.ip().to_string(), to.port(), PyBytes::new(py, &data), segment)
        };
        batches.into_iter().map(packed).collect()
    }

    fn next_deadline(&mut self) -> Option<f64> {
        self.engine.next_deadline().map(|at| self.clock.seconds(at))
    }

    fn handle_timeout(&mut self, now: f64) {
        self.engine.handle_timeout(self.clock.instant(now));
    }

    /// `[(kind, connection, stream or -1, code, origin, reason)]`
    fn events(&mut self) -> Vec<Told> {
        let told =
            |e: Event| (e.kind as u8, e.connection, e.stream, e.code, e.origin as u8, e.reason);
        self.engine.events().into_iter().map(told).collect()
    }

    fn connect(
        &mut self,
        connection: u64,
        host: &str,
        port: u16,
        server_name: &str,
        now: f64,
    ) -> PyResult<()> {
        let now = self.clock.instant(now);
        self.engine.connect(connection, address(host, port)?, server_name, now).map_err(invalid)
    }

    fn open_stream(&mut self, connection: u64) -> PyResult<Option<u64>> {
        self.on(connection, |link, _| link.open().map(u64::from))
    }

    /// Bytes taken of `data`.
    fn write(
        &mut self,
        py: Python<'_>,
        connection: u64,
        stream: u64,
        data: PyBuffer<u8>,
    ) -> PyResult<usize> {
        let (stream, data) = (id(stream)?, data.to_vec(py)?);
        self.on(connection, |link, _| link.write(stream, data))
    }

    /// Bytes, and whether they are the last.
    fn read<'py>(
        &mut self,
        py: Python<'py>,
        connection: u64,
        stream: u64,
        limit: usize,
    ) -> PyResult<(Bound<'py, PyBytes>, bool)> {
        let stream = id(stream)?;
        let read = self.on(connection, |link, events| Some(link.read(stream, limit, events)))?;
        let Some(read) = read.unwrap_or_else(|| Some(Default::default())) else {
            return Err(PyKeyError::new_err(u64::from(stream)));
        };
        let mut at = 0;
        let data = PyBytes::new_with(py, read.size, |bytes| {
            for chunk in &read.chunks {
                bytes[at..at + chunk.len()].copy_from_slice(chunk);
                at += chunk.len();
            }
            Ok(())
        })?;
        Ok((data, read.fin))
    }

    fn unsent(&self, connection: u64, stream: u64) -> PyResult<usize> {
        let stream = id(stream)?;
        Ok(self.engine.link(connection).map_or(0, |link| link.unsent(stream)))
    }

    fn finish(&mut self, connection: u64, stream: u64) -> PyResult<()> {
        let stream = id(stream)?;
        self.on(connection, |link, _| link.finish(stream))
    }

    fn reset(&mut self, connection: u64, stream: u64, code: u64) -> PyResult<()> {
        let (stream, code) = (id(stream)?, integer(code)?);
        self.on(connection, |link, events| link.reset(stream, code, events))
    }

    fn stop_sending(&mut self, connection: u64, stream: u64, code: u64) -> PyResult<()> {
        let (stream, code) = (id(stream)?, integer(code)?);
        self.on(connection, |link, _| link.stop(stream, code))
    }

    fn ping(&mut self, connection: u64) -> PyResult<()> {
        self.on(connection, |link, _| link.quic.ping())
    }

    /// Takes effect with the next `transmits`; an unknown connection is closed already.
    fn close(&mut self, connection: u64, code: u64, reason: &[u8]) -> PyResult<()> {
        let (code, reason) = (integer(code)?, Bytes::copy_from_slice(reason));
        self.engine.on(connection, |link, _| link.close(code, reason));
        Ok(())
    }

    /// Changes the keys now; they change by themselves long before they wear out.
    fn update_keys(&mut self, connection: u64) -> PyResult<()> {
        self.on(connection, |link, _| link.quic.force_key_update())
    }

    fn address(&self, connection: u64) -> PyResult<(String, u16)> {
        let address = self.known(connection)?.quic.remote_address();
        Ok((address.ip().to_string(), address.port()))
    }

    /// Of both sides, for tests: what is remembered.
    fn open_streams(&mut self, connection: u64) -> PyResult<u64> {
        self.on(connection, |link, _| link.open_streams())
    }

    fn datagram_size(&self, connection: u64) -> PyResult<u16> {
        Ok(self.known(connection)?.quic.current_mtu())
    }
}

impl NativeEndpoint {
    fn known(&self, connection: u64) -> PyResult<&Link> {
        self.engine.link(connection).ok_or_else(|| PyKeyError::new_err(connection))
    }

    /// What a connection that breaks answers is nothing; its end is told as an event.
    fn on<R: Default>(
        &mut self,
        connection: u64,
        act: impl FnOnce(&mut Link, &mut Vec<Event>) -> R,
    ) -> PyResult<R> {
        self.known(connection)?;
        Ok(self.engine.on(connection, act).unwrap_or_default())
    }
}

fn transport(limits: &Limits, rules: Arc<Rules>) -> PyResult<TransportConfig> {
    let mut search = MtuDiscoveryConfig::default();
    search.upper_bound(limits.datagram_last);
    let idle = Duration::from_secs_f64(limits.idle_timeout);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(limits.streams.into())
        .max_concurrent_uni_streams(0u32.into())
        .stream_receive_window(limits.stream_window.into())
        .receive_window(VarInt::MAX) // the streams' windows are the bound: none blocks another
        .datagram_receive_buffer_size(None)
        .congestion_controller_factory(Arc::new(Factory(rules)))
        .initial_rtt(INITIAL_RTT)
        .initial_mtu(limits.datagram_first)
        .mtu_discovery_config(Some(search))
        .max_idle_timeout(Some(IdleTimeout::try_from(idle).map_err(invalid)?));
    Ok(transport)
}

fn configs((chain, key, authorities, alpn): Bundle, judge: &Arc<Judge>) -> PyResult<Configs> {
    Configs::new(Identity { chain, key, authorities, alpn }, judge.clone()).map_err(invalid)
}

fn server(configs: &Configs, transport: &Arc<TransportConfig>) -> ServerConfig {
    let mut server = ServerConfig::with_crypto(configs.server.clone());
    server.transport_config(transport.clone());
    server
}

fn admit(gate: &Bound<'_, PyAny>, from: SocketAddr, proven: bool) -> Verdict {
    let answer = gate.call1((from.ip().to_string(), from.port(), proven));
    match answer.and_then(|number| number.extract::<i64>()) {
        Ok(number @ 1..) => Verdict::Admit(number as u64),
        Ok(0) => Verdict::Retry,
        _ => Verdict::Ignore,
    }
}

fn address(host: &str, port: u16) -> PyResult<SocketAddr> {
    Ok(SocketAddr::new(host.parse::<IpAddr>().map_err(invalid)?, port))
}

fn id(stream: u64) -> PyResult<StreamId> {
    Ok(StreamId::from(integer(stream)?))
}

fn integer(number: u64) -> PyResult<VarInt> {
    VarInt::from_u64(number).map_err(invalid)
}

fn invalid(fault: impl ToString) -> PyErr {
    PyValueError::new_err(fault.to_string())
}

#[pymodule]
mod outrelay_native {
    #[pymodule_export]
    use super::NativeEndpoint;

    /// Of the class above; Python refuses an extension with another one.
    #[pymodule_export]
    const INTERFACE: u32 = 1;

    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const __version__: &str = env!("CARGO_PKG_VERSION");
}
