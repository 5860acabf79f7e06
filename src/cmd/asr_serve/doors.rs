//! Who may come in, and where: tokens and certificate from their files, the socket, and the rule that a server which
//! other machines can reach asks for a token.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context as _, anyhow, bail};
use listenfd::ListenFd;
use tokio::net::TcpListener;
use tracing::warn;

use super::super::{Exit, Failure};
use crate::{
    asr::server::{self, Tls, Tokens},
    config::Asr,
};

/// What the token of the configuration is called in logs.
const DEFAULT: &str = "default";

/// The tokens that the configuration names, read now.
///
/// # Errors
/// What is wrong with them, as an error of the configuration; also a file without any.
pub(super) fn tokens(asr: &Asr) -> anyhow::Result<Tokens> {
    let found = tokens_again(asr).and_then(|tokens| match &asr.tokens_file {
        Some(path) if tokens.count() == 0 => {
            let path = path.display();
            bail!("{path} holds no token; make one with: godctl asr-serve token NAME --tokens-file {path}")
        }
        _ => Ok(tokens),
    });
    found.map_err(|error| Failure::new(Exit::Config, error).into())
}

/// The same while the server runs: a file that has lost its last token locks the door.
///
/// # Errors
/// What is wrong with them.
pub(super) fn tokens_again(asr: &Asr) -> anyhow::Result<Tokens> {
    let mut tokens = match &asr.tokens_file {
        Some(path) => parse(path)?.always_asked(),
        None => Tokens::default(),
    };
    if let Some(token) = asr.read_token()? {
        tokens
            .add_secret(DEFAULT, token.expose())
            .context("asr.token and the file that asr.tokens_file names do not go together")?;
    }
    Ok(tokens)
}

/// The tokens of a file.
///
/// # Errors
/// When it can't be read or is no file of tokens.
pub(super) fn parse(path: &Path) -> anyhow::Result<Tokens> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read {}, which asr.tokens_file names", path.display()))?;
    Tokens::parse(&text).with_context(|| path.display().to_string())
}

/// The certificate that the configuration names, read now.
///
/// # Errors
/// What is wrong with it, as an error of the configuration.
pub(super) fn tls(asr: &Asr) -> anyhow::Result<Option<Tls>> {
    let (Some(cert), Some(key)) = (&asr.tls_cert, &asr.tls_key) else { return Ok(None) };
    let loaded = Tls::load(cert, key).context("TLS (asr.tls_cert, asr.tls_key)");
    loaded.map(Some).map_err(|error| Failure::new(Exit::Config, error).into())
}

/// Takes the socket that systemd opened for this process, or else opens one.
///
/// # Errors
/// When the socket can't be had, or strangers could use the server.
pub(super) async fn open(asr: &Asr, has_tokens: bool) -> anyhow::Result<TcpListener> {
    if let Some(inherited) = inherited()? {
        let address = inherited.local_addr().context("the socket that was handed over")?;
        guard(asr, has_tokens, &[address])?;
        return Ok(server::adopt(inherited)?);
    }
    let listen = asr.listen.as_str();
    // Before the port is open. A name that is not known is an error of binding it.
    let addresses: Vec<SocketAddr> =
        tokio::net::lookup_host(listen).await.map(Iterator::collect).unwrap_or_default();
    guard(asr, has_tokens, &addresses)?;
    Ok(server::bind(listen).await?)
}

/// The socket of a `.socket` unit (sd_listen_fds(3)); the library looks whether it is meant for this process.
fn inherited() -> anyhow::Result<Option<std::net::TcpListener>> {
    let mut sockets = ListenFd::from_env();
    match sockets.len() {
        0 => Ok(None),
        1 => {
            let wrong =
                "the socket that was handed over is no TCP socket; want ListenStream=HOST:PORT in the unit";
            sockets.take_tcp_listener(0).context(wrong)
        }
        several => Err(anyhow!("{several} sockets were handed over; want one ListenStream in the unit")),
    }
}

/// Refuses to let other machines in where nobody is asked for a token.
///
/// # Errors
/// As an error of the configuration.
pub(super) fn guard(asr: &Asr, has_tokens: bool, addresses: &[SocketAddr]) -> anyhow::Result<()> {
    let Some(exposed) = addresses.iter().find(|address| !address.ip().is_loopback()) else { return Ok(()) };
    if has_tokens {
        if asr.tls_cert.is_none() {
            warn!(
                address = %exposed,
                "tokens and speech travel in the clear; set asr.tls_cert and asr.tls_key, unless a proxy in front speaks TLS"
            );
        }
        return Ok(());
    }
    if asr.insecure {
        warn!(address = %exposed, "whoever can reach this address can use the server (asr.insecure)");
        return Ok(());
    }
    let error = anyhow!(
        "other machines can reach {exposed}, but no token is asked for; make one with `godctl asr-serve token NAME` \
         (or set asr.token_file), listen on 127.0.0.1, or say --insecure if everybody there may use the server"
    );
    Err(Failure::new(Exit::Config, error).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_others_can_reach_asks_for_a_token() {
        let asr = Asr::default();
        let addresses =
            |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        for local in ["127.0.0.1:0", "127.8.8.8:80", "[::1]:80"] {
            assert!(guard(&asr, false, &addresses(&[local])).is_ok(), "{local}");
        }
        for open in ["0.0.0.0:80", "[::]:80", "192.168.0.7:80", "[2001:db8::1]:80"] {
            let both = addresses(&["127.0.0.1:0", open]);
            let error = guard(&asr, false, &both).unwrap_err();
            assert!(error.to_string().contains("asr-serve token"), "{error}");
            assert!(guard(&asr, true, &both).is_ok());
            assert!(guard(&Asr { insecure: true, ..Asr::default() }, false, &both).is_ok());
        }
    }

    #[test]
    fn tokens_come_from_both_places_and_a_file_without_any_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens.toml");
        std::fs::write(&path, format!("[tokens.a]\nsha256 = \"{}\"\n", "a".repeat(64))).unwrap();
        let asr = |token: Option<&str>, file: bool| Asr {
            token: token.map(|text| crate::config::Secret::new(text.to_owned())),
            tokens_file: file.then(|| path.clone()),
            ..Asr::default()
        };
        assert!(tokens(&asr(None, false)).unwrap().is_empty());
        assert_eq!(tokens(&asr(Some("marker"), false)).unwrap().count(), 1);
        let both = tokens(&asr(Some("marker"), true)).unwrap();
        assert_eq!((both.count(), both.find("marker").unwrap().name.as_str()), (2, "default"));
        std::fs::write(&path, "").unwrap();
        let error = tokens(&asr(None, true)).unwrap_err().to_string();
        assert!(error.contains("holds no token"), "{error}");
        assert!(!tokens_again(&asr(None, true)).unwrap().is_empty(), "a server that runs locks its door");
        std::fs::remove_file(&path).unwrap();
        let error = tokens(&asr(None, true)).unwrap_err().to_string();
        assert!(error.contains("asr.tokens_file"), "{error}");
    }
}
