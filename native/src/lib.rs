//! outrelay_native: quinn-proto and rustls as a sans-IO engine for Python.
//!
//! Python decides (`outrelay.lib.transport.quic.engine_native` and the modules beside it): who may
//! begin a handshake, who is accepted, which stream may send how much, what ends mean. Here are
//! packets, streams, timers and TLS, and little is remembered that Python can remember.
//!
//!   endpoint.rs    all connections of one socket, and their bounds
//!   connection.rs  one connection
//!   tls.rs         mutual TLS
//!   clock.rs       Python's seconds
#![forbid(unsafe_code)]

mod clock;
mod connection;
mod endpoint;
mod tls;

#[pyo3::pymodule]
mod outrelay_native {
    #[pymodule_export]
    use super::connection::NativeConnection;
    #[pymodule_export]
    use super::endpoint::NativeEndpoint;

    /// Of the classes above; Python refuses an extension with another one.
    #[pymodule_export]
    const INTERFACE: u32 = 3;
}
