//! TLS, and its certificates as they change.

use std::{path::Path, process::Command, sync::Arc, time::Duration};

use godctl::asr::server::{ServerOptions, Tls};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Server, certificate, certificate_of, request, upgrade};
use crate::{
    fake::spoken,
    support::{Home, Ran},
};

/// A connection that believes this certificate only.
async fn dial(address: &str, trusted: &rcgen::Certificate) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = TcpStream::connect(address).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), socket).await
}

fn load(dir: &Path) -> Tls {
    Tls::load(&dir.join("cert.pem"), &dir.join("key.pem")).unwrap()
}

#[tokio::test]
async fn certificates_are_replaced_under_running_sessions() {
    let dir = tempfile::tempdir().unwrap();
    let first = certificate(dir.path());
    let tls = load(dir.path());
    let options = ServerOptions {
        tls: Some(tls.clone()),
        header_timeout: Duration::from_millis(500),
        ..ServerOptions::default()
    };
    let server = Server::start(4, options).await;
    let ask = "GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    assert_eq!(request(dial(&server.address, &first).await.unwrap(), ask).await.status, 200);
    // Who does not speak TLS gets no further than that, and who says nothing is not waited for.
    let plain = TcpStream::connect(&server.address).await.unwrap();
    let silent = TcpStream::connect(&server.address).await.unwrap();
    for (mut socket, bytes) in [(plain, ask), (silent, "")] {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        socket.write_all(bytes.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        drop(super::soon(socket.read_to_end(&mut answer)).await);
        assert!(!String::from_utf8_lossy(&answer).contains("HTTP"), "{answer:?}");
    }

    let url = format!("wss://localhost:{}/asr", server.address.rsplit(':').next().unwrap());
    let mut running =
        Box::pin(upgrade(dial(&server.address, &first).await.unwrap(), &url, &[])).await.unwrap();
    running.audio(&spoken(&[10])).await;

    let second = certificate(dir.path());
    tls.reload().unwrap();
    assert!(dial(&server.address, &first).await.is_err(), "the old one is not shown any more");
    let mut new = Box::pin(upgrade(dial(&server.address, &second).await.unwrap(), &url, &[])).await.unwrap();
    new.audio(&spoken(&[20])).await;
    running.audio(&spoken(&[30])).await;
    assert_eq!((running.finish().await, new.finish().await), ("w10 w30".to_owned(), "w20".to_owned()));

    // What can't be used is refused, and the last good one stays.
    std::fs::write(dir.path().join("cert.pem"), "rubbish").unwrap();
    let error = tls.reload().unwrap_err().to_string();
    assert!(error.contains("cert.pem") && error.contains("no certificate"), "{error}");
    assert!(dial(&server.address, &second).await.is_ok());
    server.stop().await.unwrap();
}

#[test]
fn bad_certificates_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let error = || Tls::load(&cert, &key).unwrap_err().to_string();
    assert!(error().starts_with("cannot read ") && error().contains("cert.pem"), "{}", error());
    certificate(dir.path());
    let good = std::fs::read(&key).unwrap();
    std::fs::write(&key, "marker-91be").unwrap();
    assert!(error().contains("key.pem holds no private key"), "{}", error());
    std::fs::write(&key, &good).unwrap();
    assert!(Tls::load(&cert, &key).is_ok());
    // A key of another certificate.
    let other = rcgen::KeyPair::generate().unwrap();
    std::fs::write(&key, other.serialize_pem()).unwrap();
    assert!(error().contains("cannot be used together"), "{}", error());
    std::fs::write(&cert, std::fs::read(&key).unwrap()).unwrap();
    assert!(error().contains("no certificate"), "a key is no certificate: {}", error());

    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2001, 1, 1);
    params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    certificate_of(&params, dir.path());
    let validity = load(dir.path()).validity().unwrap();
    assert_eq!(validity.until.to_string(), "2002-01-01T00:00:00Z");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doctor_asks_a_server_in_the_way_that_it_speaks() {
    let home = Home::new();
    let dir = home.path();
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    certificate(dir);
    let tls = load(dir);
    let options = ServerOptions { tls: Some(tls.clone()), ..ServerOptions::default() };
    let secure = Server::start(1, options).await;
    let plain = Server::start(1, ServerOptions::default()).await;
    let settings =
        [("cert", &cert), ("key", &key)].map(|(name, path)| format!("asr.tls_{name}={}", path.display()));
    let own = ["-c", settings[0].as_str(), "-c", settings[1].as_str()];
    let ask = |address: &str, args: &[&str], adapt: &dyn Fn(&mut Command)| {
        let mut command = home.command("godctl");
        command.args(["doctor", "--server", address]).args(args);
        adapt(&mut command);
        Ran::from(command.output().unwrap())
    };
    let fine = |ran: Ran, words: &str| {
        assert!(ran.code == Some(0) && ran.stdout.contains(words), "{words}: {ran:?}");
    };
    let broken = |ran: Ran, words: &[&str]| {
        assert_eq!(ran.code, Some(69), "{ran:?}");
        assert!(words.iter().all(|words| ran.stderr.contains(words)), "{words:?}: {ran:?}");
    };
    let as_is = |_: &mut Command| {};
    fine(ask(&plain.address, &[], &as_is), "200 OK in ");
    fine(ask(&plain.address, &own, &as_is), "200 OK over plain http, although asr.tls_cert is set");
    // Its own certificate is known, although it is not for this address.
    fine(ask(&secure.address, &own, &as_is), "200 OK over https");
    // Without the settings the system has to know it, and for this name.
    let port = secure.address.rsplit(':').next().unwrap();
    let named = format!("localhost:{port}");
    let trusts = |command: &mut Command| {
        command.env("SSL_CERT_FILE", &cert);
    };
    broken(ask(&named, &[], &as_is), &["speaks TLS", "not trusted", "who signed it", "set asr.tls_cert"]);
    fine(ask(&named, &[], &trusts), "200 OK over https");
    broken(ask(&secure.address, &[], &trusts), &["not for the name 127.0.0.1", "ask by a name"]);
    // The file was renewed, and the server not told.
    certificate(dir);
    broken(ask(&secure.address, &own, &as_is), &["is not the one in", "cert.pem", "SIGHUP"]);
    tls.reload().unwrap();
    fine(ask(&secure.address, &own, &as_is), "200 OK over https");
    // The table of all checks says the same.
    let listen = format!("asr.listen={}", secure.address);
    let table = home.godctl(&[&["doctor", "-c", "models.offline=true", "-c", &listen][..], &own].concat());
    assert!(
        table.stdout.contains("a server answers") && table.stdout.contains("(https, 200 OK)"),
        "{table:?}"
    );
    let table = home.godctl(&["doctor", "-c", "models.offline=true", "-c", &listen]);
    assert!(table.stdout.contains("is not trusted"), "{table:?}");

    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    (params.not_before, params.not_after) =
        (rcgen::date_time_ymd(2001, 1, 1), rcgen::date_time_ymd(2002, 1, 1));
    certificate_of(&params, dir);
    tls.reload().unwrap();
    broken(ask(&secure.address, &own, &as_is), &["not valid at this time", "renew it"]);
    std::fs::remove_file(&cert).unwrap();
    broken(ask(&secure.address, &own, &as_is), &["cannot read", "cert.pem", "asr.tls_cert"]);
    plain.stop().await.unwrap();
    secure.stop().await.unwrap();
}
