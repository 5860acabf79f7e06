//! The TLS half of [`super::probe`]: a handshake with a deadline, and which certificates are believed. Blocking; runs on
//! the thread of the check that asks.

use std::{
    io,
    net::TcpStream,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error as TlsError,
    RootCertStore, SignatureScheme, StreamOwned,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{self, CryptoProvider},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};

use super::probe::ProbeError;
use crate::asr::server::Validity;

/// Asks over TLS, and believes the certificate that the server was given (whatever name it is for: on its own machine
/// a server is asked by its address) and those that the system trusts for the name asked for.
#[derive(Debug)]
pub(super) struct Tls {
    own: Option<PathBuf>,
    verifier: Arc<Verifier>,
    provider: Arc<CryptoProvider>,
}

impl Tls {
    /// With the first certificate of this file (PEM), which is `asr.tls_cert`.
    ///
    /// # Errors
    /// [`ProbeError::Certificate`] when it can't be read.
    pub(super) fn new(own: Option<&Path>) -> Result<Self, ProbeError> {
        let provider = Arc::new(crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        // What the system has and rustls can't read does not matter here.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let system = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let verifier = Verifier {
            own: own.map(read).transpose()?,
            // An error says that the system trusts nobody, as in a bare container.
            system: system.build().ok(),
            provider: Arc::clone(&provider),
        };
        Ok(Self { own: own.map(Path::to_owned), verifier: Arc::new(verifier), provider })
    }

    /// Shakes hands with a server that is called `host` here.
    ///
    /// # Errors
    /// [`ProbeError::NotTls`] when it speaks something else, [`ProbeError::Untrusted`] when it speaks TLS but shows a
    /// certificate that is not believed.
    pub(super) fn secure(
        &self,
        mut socket: TcpStream,
        host: &str,
        patience: Duration,
    ) -> Result<StreamOwned<ClientConnection, TcpStream>, ProbeError> {
        let broken = |error: TlsError| ProbeError::Io(io::Error::other(error));
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| ProbeError::Io(io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_safe_default_protocol_versions()
            .map_err(broken)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&self.verifier) as Arc<dyn ServerCertVerifier>)
            .with_no_client_auth();
        let mut tls = ClientConnection::new(Arc::new(config), name).map_err(broken)?;
        let until = Instant::now() + patience;
        while tls.is_handshaking() {
            if Instant::now() >= until {
                return Err(ProbeError::Late(patience));
            }
            while tls.wants_write() {
                tls.write_tls(&mut socket)?;
            }
            if tls.is_handshaking() && tls.read_tls(&mut socket)? == 0 {
                return Err(ProbeError::NotTls);
            }
            if let Err(error) = tls.process_new_packets() {
                // Tells the server why; it may have gone already.
                drop(tls.write_tls(&mut socket));
                return Err(self.explain(error, host));
            }
        }
        Ok(StreamOwned::new(tls, socket))
    }

    fn explain(&self, error: TlsError, host: &str) -> ProbeError {
        let why = match error {
            TlsError::InvalidMessage(_) => return ProbeError::NotTls,
            TlsError::InvalidCertificate(why) => why,
            other => return ProbeError::Io(io::Error::other(other)),
        };
        let expired = matches!(why, CertificateError::Expired | CertificateError::ExpiredContext { .. });
        let (why, fix) = match (&self.own, why) {
            _ if expired => (
                "it is not valid at this time (or the clock here is wrong)".to_owned(),
                "renew it, then send the server SIGHUP".to_owned(),
            ),
            (Some(own), _) => (
                format!("it is not the one in {}, and the system does not trust it for {host}", own.display()),
                "if that file is newer, send the server SIGHUP; if it is another server, ask by a name that its \
                 certificate is for"
                    .to_owned(),
            ),
            (
                None,
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            ) => (
                format!("it is not for the name {host}"),
                "ask by a name that it is for, or set asr.tls_cert and asr.tls_key as the server has them".to_owned(),
            ),
            (None, CertificateError::UnknownIssuer) => (
                "the system does not know who signed it".to_owned(),
                "set asr.tls_cert and asr.tls_key as the server has them, or have the system trust its authority"
                    .to_owned(),
            ),
            (None, other) => (other.to_string(), "give the server another certificate".to_owned()),
        };
        ProbeError::Untrusted { why, fix }
    }
}

fn read(path: &Path) -> Result<CertificateDer<'static>, ProbeError> {
    CertificateDer::from_pem_file(path).map_err(|error| ProbeError::Certificate {
        path: path.to_owned(),
        reason: match error {
            rustls::pki_types::pem::Error::Io(error) => error.to_string(),
            _ => "it holds no certificate in PEM".to_owned(),
        },
    })
}

/// Which certificates are believed.
#[derive(Debug)]
struct Verifier {
    own: Option<CertificateDer<'static>>,
    system: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        if self.own.as_ref().is_some_and(|own| own.as_ref() == shown.as_ref()) {
            // Only whoever has its key gets through the handshake, so this is the server that was meant. Whether its
            // clients would believe it is another question.
            let problem = Validity::of(shown).and_then(|validity| validity.problem(Timestamp::now()));
            return match problem {
                Some(_) => Err(CertificateError::Expired.into()),
                None => Ok(ServerCertVerified::assertion()),
            };
        }
        match &self.system {
            Some(system) => system.verify_server_cert(shown, chain, name, ocsp, now),
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        crypto::verify_tls12_signature(
            message,
            cert,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        crypto::verify_tls13_signature(
            message,
            cert,
            signed,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
