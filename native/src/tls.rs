//! Mutual TLS 1.3: rustls proves that the peer holds the key of a certificate that one of our
//! CAs vouches for, for this use and now; the judge, in Python, says whether it is somebody we
//! want (identity, role, server name). Both must agree, while the handshake can still be refused.
//!
//! No tickets, no early data: every connection proves everything.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use quinn_proto::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, DistinguishedName, Error,
    OtherError, RootCertStore, ServerConfig, SignatureScheme, version,
};

/// Python's verdict about peers: `judge(connection, chain)` is what is wrong, or nothing.
pub struct Judge {
    verdict: Py<PyAny>,
    /// Whose datagram is being handled: verification happens while it is.
    pub current: AtomicU64,
}

impl Judge {
    pub fn new(verdict: Py<PyAny>) -> Self {
        Self { verdict, current: AtomicU64::new(0) }
    }

    fn accepts(&self, leaf: &[u8], others: &[CertificateDer<'_>]) -> Result<(), Error> {
        let connection = self.current.load(Ordering::Relaxed);
        let fault = Python::attach(|py| {
            let mut chain = vec![PyBytes::new(py, leaf)];
            chain.extend(others.iter().map(|each| PyBytes::new(py, each)));
            self.verdict.bind(py).call1((connection, chain))?.extract::<String>()
        });
        let fault = fault.unwrap_or_else(|_| "cannot be judged".to_owned());
        if fault.is_empty() {
            return Ok(());
        }
        let fault: Box<dyn std::error::Error + Send + Sync> = fault.into();
        Err(CertificateError::Other(OtherError(fault.into())).into())
    }
}

/// Whom we trust and how we prove who we are, for both roles.
pub struct Identity {
    pub chain: Vec<Vec<u8>>,
    pub key: Vec<u8>,
    pub authorities: Vec<Vec<u8>>,
    pub alpn: String,
}

pub struct Configs {
    pub client: Arc<QuicClientConfig>,
    pub server: Arc<QuicServerConfig>,
}

impl Configs {
    pub fn new(identity: Identity, judge: Arc<Judge>) -> Result<Self, Error> {
        let provider = Arc::new(provider());
        let verifier = Arc::new(Verifier::new(identity.authorities, judge, provider.clone())?);
        let chain = identity.chain.into_iter().map(CertificateDer::from).collect();
        let key = PrivateKeyDer::try_from(identity.key)
            .map_err(|fault| Error::General(format!("private key: {fault}")))?;
        let ours = Arc::new(SingleCertAndKey::from(CertifiedKey::from_der(chain, key, &provider)?));
        let alpn = vec![identity.alpn.into_bytes()];

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

        let unsuitable = |fault: quinn_proto::crypto::rustls::NoInitialCipherSuite| {
            Error::General(fault.to_string())
        };
        Ok(Self {
            client: Arc::new(client.try_into().map_err(unsuitable)?),
            server: Arc::new(server.try_into().map_err(unsuitable)?),
        })
    }
}

/// AES-128 first: the fastest where the processor helps, which is nearly everywhere.
fn provider() -> CryptoProvider {
    let mut provider = rustls::crypto::ring::default_provider();
    let first = CipherSuite::TLS13_AES_128_GCM_SHA256;
    provider.cipher_suites.sort_by_key(|each| each.suite() != first);
    provider
}

/// Verifies peers in either role.
struct Verifier {
    authorities: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
    algorithms: WebPkiSupportedAlgorithms,
    judge: Arc<Judge>,
}

impl Verifier {
    fn new(
        authorities: Vec<Vec<u8>>,
        judge: Arc<Judge>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        let mut store = RootCertStore::empty();
        for authority in authorities {
            store.add(CertificateDer::from(authority))?;
        }
        let authorities = Arc::new(store);
        let algorithms = provider.signature_verification_algorithms;
        let clients = WebPkiClientVerifier::builder_with_provider(authorities.clone(), provider)
            .build()
            .map_err(|fault| Error::General(fault.to_string()))?;
        Ok(Self { authorities, clients, algorithms, judge })
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier")
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>, // the judge's
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge.accepts(leaf, others)?;
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(leaf)?,
            &self.authorities,
            others,
            now,
            self.algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
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
        self.judge.accepts(leaf, others)?;
        self.clients.verify_client_cert(leaf, others, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, leaf, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
