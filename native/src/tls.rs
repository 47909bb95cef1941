//! Mutual TLS 1.3: rustls proves that the peer holds the key of a certificate that one of our
//! CAs vouches for, for this use and now; the judge, in Python, says whether it is somebody we
//! want (identity, role, server name). Both must agree, while the handshake can still be refused.
//!
//! No tickets, no early data: every connection proves everything.

use std::error::Error as Fault;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use quinn_proto::TransportConfig;
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
    OtherError, RootCertStore, ServerConfig, SignatureScheme, version,
};

/// The connection whose datagram is being handled: peers are verified while it is.
pub static JUDGED: AtomicU64 = AtomicU64::new(0);

/// Whom we trust and how we prove who we are, in both roles; bytes are DER.
#[derive(FromPyObject)]
pub struct Identity {
    chain: Vec<Vec<u8>>,
    key: Vec<u8>,
    authorities: Vec<Vec<u8>>,
    alpn: String,
    listens: bool,
    /// `judge(connection, chain)` is what is wrong with a peer, or nothing.
    judge: Py<PyAny>,
}

type Configs = (quinn_proto::ClientConfig, Option<Arc<quinn_proto::ServerConfig>>);

impl Identity {
    pub fn configs(self, transport: &Arc<TransportConfig>) -> Result<Configs, Box<dyn Fault>> {
        let mut provider = ring::default_provider();
        // the fastest first, where the processor helps: that is nearly everywhere
        let first = CipherSuite::TLS13_AES_128_GCM_SHA256;
        provider.cipher_suites.sort_by_key(|each| each.suite() != first);
        let provider = Arc::new(provider);

        let mut roots = RootCertStore::empty();
        for authority in self.authorities {
            roots.add(CertificateDer::from(authority))?;
        }
        let roots = Arc::new(roots);
        let clients = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
        let clients = clients.build()?;
        let verifier = Arc::new(Verifier { roots, clients, judge: self.judge });

        let chain = self.chain.into_iter().map(CertificateDer::from).collect();
        let key = CertifiedKey::from_der(chain, PrivateKeyDer::try_from(self.key)?, &provider)?;
        let ours = Arc::new(SingleCertAndKey::from(key));
        let alpn = vec![self.alpn.into_bytes()];

        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_client_cert_resolver(ours.clone());
        client.alpn_protocols = alpn.clone();
        client.resumption = Resumption::disabled();

        let mut server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(ours);
        server.alpn_protocols = alpn;
        server.send_tls13_tickets = 0;

        let client = Arc::new(QuicClientConfig::try_from(client)?);
        let mut client = quinn_proto::ClientConfig::new(client);
        client.transport_config(transport.clone());
        let server = Arc::new(QuicServerConfig::try_from(server)?);
        let mut server = quinn_proto::ServerConfig::with_crypto(server);
        server.transport_config(transport.clone());
        Ok((client, self.listens.then(|| Arc::new(server))))
    }
}

/// Verifies peers in either role.
#[derive(Debug)]
struct Verifier {
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
    judge: Py<PyAny>,
}

impl Verifier {
    fn judge(&self, leaf: &[u8], others: &[CertificateDer<'_>]) -> Result<(), Error> {
        let connection = JUDGED.load(Ordering::Relaxed);
        let verdict = Python::attach(|py| {
            let mut chain = vec![PyBytes::new(py, leaf)];
            chain.extend(others.iter().map(|each| PyBytes::new(py, each)));
            self.judge.call1(py, (connection, chain))?.extract::<String>(py)
        });
        let fault = verdict.unwrap_or_else(|_| "cannot be judged".to_owned());
        if fault.is_empty() {
            return Ok(());
        }
        let fault = Box::<dyn Fault + Send + Sync>::from(fault);
        Err(CertificateError::Other(OtherError(fault.into())).into())
    }
}

type Signed = Result<HandshakeSignatureValid, Error>;
type Signature = DigitallySignedStruct;

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>, // the judge's
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(leaf, others)?;
        let leaf = ParsedCertificate::try_from(leaf)?;
        let all = ring::default_provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&leaf, &self.roots, others, now, all)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(&self, text: &[u8], leaf: &CertificateDer, by: &Signature) -> Signed {
        self.clients.verify_tls12_signature(text, leaf, by)
    }

    fn verify_tls13_signature(&self, text: &[u8], leaf: &CertificateDer, by: &Signature) -> Signed {
        self.clients.verify_tls13_signature(text, leaf, by)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.clients.supported_verify_schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[] // the handshake is no larger for them, and nobody chooses by them
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(leaf, others)?;
        self.clients.verify_client_cert(leaf, others, now)
    }

    fn verify_tls12_signature(&self, text: &[u8], leaf: &CertificateDer, by: &Signature) -> Signed {
        self.clients.verify_tls12_signature(text, leaf, by)
    }

    fn verify_tls13_signature(&self, text: &[u8], leaf: &CertificateDer, by: &Signature) -> Signed {
        self.clients.verify_tls13_signature(text, leaf, by)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.clients.supported_verify_schemes()
    }
}
