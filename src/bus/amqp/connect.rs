//! One connection to a broker: name, socket, TLS, login, each under the same deadline and with an error that says what
//! to change. lapin reads and writes on a thread of its own; that thread ends when the connection is closed or its
//! socket is shut down, which [`Wire`] does when it is dropped.

use std::{
    io,
    net::{Shutdown as Direction, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_rs::TokioRuntime;
use lapin::{
    Connection, ConnectionProperties, ErrorKind,
    tcp::{AsyncTcpStream, RustlsConnector, RustlsConnectorConfig},
    uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo},
};
use parking_lot::Mutex;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use super::{super::BusError, errors, uri::Address};

/// How to reach the broker.
#[derive(Debug, Clone)]
pub(super) struct Dial {
    pub(super) address: Address,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) timeout: Duration,
    /// Seconds.
    pub(super) heartbeat: u16,
    /// As the broker shows it.
    pub(super) name: String,
}

/// A connection and a second handle on its socket.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) connection: Connection,
    socket: Socket,
}

/// The way to end a connection whose other end no longer answers.
#[derive(Debug, Clone, Default)]
struct Socket(Arc<Mutex<Option<TcpStream>>>);

impl Socket {
    /// Ends reading and writing, so that lapin's thread ends too, and lets go of the handle.
    fn cut(&self) {
        if let Some(socket) = self.0.lock().take() {
            // An error says that it is closed already.
            drop(socket.shutdown(Direction::Both));
        }
    }
}

impl Wire {
    /// Ends the connection without a word to the broker.
    pub(super) fn cut(&self) {
        self.socket.cut();
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.socket.cut();
    }
}

/// Cuts the socket unless the handshake came to its end: also when the caller was cancelled.
struct Guard<'a>(Option<&'a Socket>);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Some(socket) = self.0 {
            socket.cut();
        }
    }
}

/// Why there is no socket, as it travels through lapin.
#[derive(Debug, Clone, thiserror::Error)]
#[error(transparent)]
struct NoSocket(BusError);

impl Dial {
    /// Connects and logs in.
    ///
    /// # Errors
    /// [`BusError::Unreachable`], [`BusError::Access`] where the broker does not let us in, [`BusError::Invalid`] where
    /// its certificate is not trusted or `bus.ca_file` can't be used.
    pub(super) async fn connect(&self) -> Result<Wire, BusError> {
        let tls = if self.address.tls { Some(connector(self.ca_file.as_deref())?) } else { None };
        let socket = Socket::default();
        let mut guard = Guard(Some(&socket));
        let handshake = self.handshake(tls, &socket);
        let connection = tokio::time::timeout(self.timeout, handshake).await.unwrap_or_else(|_| {
            Err(self.unreachable(format!("no answer within {:.0?} (bus.connect_timeout_s)", self.timeout)))
        })?;
        guard.0 = None;
        drop(guard);
        Ok(Wire { connection, socket })
    }

    async fn handshake(&self, tls: Option<RustlsConnector>, socket: &Socket) -> Result<Connection, BusError> {
        let (dial, kept) = (self.clone(), socket.clone());
        // Runs on lapin's thread, which would go on for as long as the system tries: hence a deadline of its own.
        let open = async move |_: AMQPUri, runtime: TokioRuntime| {
            let opening = async {
                let plain = AsyncTcpStream::connect(&runtime, dial.resolve().await?)
                    .await
                    .map_err(|error| dial.unreachable(errors::io_text(&error)))?;
                if let AsyncTcpStream::Plain(stream) = &plain {
                    *kept.0.lock() = twin(stream.get_ref()).ok();
                }
                match &tls {
                    None => Ok(plain),
                    Some(tls) => plain
                        .into_rustls(tls, &dial.address.host)
                        .await
                        .map_err(|error| dial.distrust(&error)),
                }
            };
            let opened = tokio::time::timeout(dial.timeout, opening).await;
            opened
                .unwrap_or_else(|_| Err(dial.unreachable("no answer".to_owned())))
                .map_err(|error| lapin::Error::from(io::Error::other(NoSocket(error))))
        };
        let runtime =
            lapin::runtime::default_runtime().map_err(|error| self.unreachable(errors::text(&error)))?;
        let properties = ConnectionProperties::default()
            .with_client_property("product".into(), "godctl".into())
            .with_client_property("version".into(), env!("CARGO_PKG_VERSION").into())
            .with_connection_name(self.name.as_str().into());
        Connection::connector(self.uri(), runtime, open, properties)
            .await
            .map_err(|error| self.explain(&error))
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, BusError> {
        let host = (self.address.host.as_str(), self.address.port);
        match tokio::net::lookup_host(host).await {
            Ok(found) => Ok(found.collect()),
            Err(error) => {
                Err(self.unreachable(format!("cannot look up {}: {}", host.0, errors::io_text(&error))))
            }
        }
    }

    /// What a TLS handshake that failed means.
    fn distrust(&self, error: &io::Error) -> BusError {
        use rustls::{CertificateError, Error as Tls};
        let bus = &self.address;
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<Tls>());
        let untrusted =
            |why: &str| BusError::Invalid(format!("the certificate of {bus} is not accepted: {why}"));
        match tls {
            Some(Tls::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            )) => untrusted(&match &self.ca_file {
                Some(path) => {
                    format!("neither {} (bus.ca_file) nor the system knows who signed it", path.display())
                }
                None => "the system does not know who signed it; set bus.ca_file to its authority (PEM)"
                    .to_owned(),
            }),
            Some(Tls::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => untrusted(&format!(
                "it is not for the name {}; write bus.url with a name it is for",
                bus.host
            )),
            Some(Tls::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            )) => untrusted("it has expired (or the clock here is wrong)"),
            Some(Tls::InvalidCertificate(why)) => untrusted(&why.to_string()),
            Some(Tls::InvalidMessage(_)) => BusError::Invalid(format!(
                "{bus} does not speak TLS on this port; write amqp://, or its TLS port"
            )),
            Some(other) => self.unreachable(format!("TLS failed: {other}")),
            None => self.unreachable(format!("TLS failed: {}", errors::io_text(error))),
        }
    }

    fn explain(&self, error: &lapin::Error) -> BusError {
        if let ErrorKind::IOError(io) = error.kind()
            && let Some(NoSocket(error)) = io.get_ref().and_then(|inner| inner.downcast_ref())
        {
            return error.clone();
        }
        errors::of_handshake(&self.address.to_string(), self.address.tls, self.address.port, error)
    }

    fn unreachable(&self, reason: String) -> BusError {
        BusError::Unreachable { bus: self.address.to_string(), reason }
    }

    fn uri(&self) -> AMQPUri {
        AMQPUri {
            scheme: if self.address.tls { AMQPScheme::AMQPS } else { AMQPScheme::AMQP },
            authority: AMQPAuthority {
                userinfo: AMQPUserInfo {
                    username: self.address.username.clone(),
                    password: self.address.password.expose().to_owned(),
                },
                host: self.address.host.clone(),
                port: self.address.port,
            },
            vhost: self.address.vhost.clone(),
            query: AMQPQueryString {
                heartbeat: (self.heartbeat > 0).then_some(self.heartbeat),
                ..AMQPQueryString::default()
            },
        }
    }
}

/// Trusts the system's certificates and those of the file.
fn connector(ca_file: Option<&Path>) -> Result<RustlsConnector, BusError> {
    // An error says that a provider is there already.
    drop(rustls::crypto::ring::default_provider().install_default());
    let mut config = match (RustlsConnectorConfig::new_with_native_certs(), ca_file) {
        (Ok(config), _) => config,
        // A container without certificates is fine for a broker with its own authority.
        (Err(_), Some(_)) => RustlsConnectorConfig::default(),
        (Err(error), None) => {
            return Err(BusError::Invalid(format!(
                "the system has no certificates to trust ({error}); install them, or set bus.ca_file"
            )));
        }
    };
    if let Some(path) = ca_file {
        config.add_parsable_certificates(certificates(path)?);
    }
    config
        .connector_with_no_client_auth()
        .map_err(|error| BusError::Invalid(format!("cannot set up TLS: {error}; check bus.ca_file")))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, BusError> {
    let wrong = |what: String| BusError::Invalid(format!("bus.ca_file {} {what}", path.display()));
    let pem = std::fs::read(path).map_err(|error| wrong(format!("can't be read: {error}")))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if found.is_empty() => {
            Err(wrong("holds no certificate; want PEM (BEGIN CERTIFICATE)".to_owned()))
        }
        Ok(found) => Ok(found),
        Err(error) => Err(wrong(format!("is no PEM: {error}"))),
    }
}

/// Another handle on the same socket.
#[cfg(unix)]
fn twin(stream: &tokio::net::TcpStream) -> io::Result<TcpStream> {
    use std::os::fd::AsFd as _;
    stream.as_fd().try_clone_to_owned().map(TcpStream::from)
}

/// Another handle on the same socket.
#[cfg(windows)]
fn twin(stream: &tokio::net::TcpStream) -> io::Result<TcpStream> {
    use std::os::windows::io::AsSocket as _;
    stream.as_socket().try_clone_to_owned().map(TcpStream::from)
}
