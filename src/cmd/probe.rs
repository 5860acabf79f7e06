//! Short questions to the outside world for `godctl doctor`, each with a deadline: sockets, servers, programs, the
//! processor. Blocking; they run on the thread of the check that asks.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use super::probe_tls::Tls;
use crate::config::Listen;

/// How often a child is asked whether it has ended; the standard library can't wait for that with a deadline.
const CHILD_POLL: Duration = Duration::from_millis(10);

/// What is read of an answer: more than any status line or version needs.
const ANSWER_CAP: u64 = 4096;

/// Why a question got no good answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeError {
    /// Nobody there, or it hung up.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It answers, but it isn't well.
    #[error("it answered {0:?}")]
    Unhealthy(String),
    /// It speaks, but not TLS.
    #[error("it does not speak TLS")]
    NotTls,
    /// It speaks TLS, but who it is can't be believed.
    #[error("it speaks TLS, but its certificate is not trusted: {why}; {fix}")]
    Untrusted {
        /// What is wrong with the certificate.
        why: String,
        /// What to do.
        fix: String,
    },
    /// The certificate that the server should have can't be read.
    #[error("cannot read {}, which asr.tls_cert names: {reason}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A program ran but failed.
    #[error("it ended with {0}")]
    Ended(std::process::ExitStatus),
    /// No answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    Late(Duration),
}

/// Connects to the first address of `host:port` that accepts. Looking up the name has no deadline of its own.
pub(super) fn connect(host_port: &str, patience: Duration) -> Result<TcpStream, ProbeError> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in host_port.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, patience) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last.into())
}

/// The `host:port` of an HTTP URL.
pub(super) fn authority(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("https", url));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let authority = rest.get(..end).unwrap_or(rest);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let port = if scheme == "http" { 80 } else { 443 };
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port { host.to_owned() } else { format!("{host}:{port}") }
}

/// How a healthy server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Healthy {
    /// The status line's code and words.
    pub(super) status: String,
    /// Over https.
    pub(super) secure: bool,
}

/// Asks a server for `/health`, in the way that it speaks: `cert` is the certificate that it should have, and where
/// none is configured http is tried first.
pub(super) fn health(
    listen: &Listen,
    cert: Option<&Path>,
    patience: Duration,
) -> Result<Healthy, ProbeError> {
    // A server that listens on every address is asked on this machine's own.
    let address = listen.as_str();
    let address = match address.rsplit_once(':') {
        Some(("0.0.0.0", port)) => format!("127.0.0.1:{port}"),
        Some(("[::]", port)) => format!("[::1]:{port}"),
        _ => address.to_owned(),
    };
    if cert.is_some() {
        return match secure_health(&address, cert, patience) {
            Err(ProbeError::NotTls) => plain_health(&address, patience),
            answer => answer,
        };
    }
    let socket = socket(&address, patience)?;
    let plain = ask(socket, &address, patience);
    match plain {
        // Whoever speaks TLS answers a plain question with an alert, or hangs up.
        Err(ProbeError::Io(ref error)) if !is_late(error) => {}
        Err(ProbeError::Unhealthy(ref line)) if !line.starts_with("HTTP/") => {}
        plain => return plain.map(|status| Healthy { status, secure: false }),
    }
    match secure_health(&address, None, patience) {
        Err(error) if !matches!(error, ProbeError::Untrusted { .. }) => {
            plain.map(|status| Healthy { status, secure: false })
        }
        answer => answer,
    }
}

/// Whether a socket's own time-out has passed; which of the two it is depends on the system.
fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn plain_health(address: &str, patience: Duration) -> Result<Healthy, ProbeError> {
    let status = ask(socket(address, patience)?, address, patience)?;
    Ok(Healthy { status, secure: false })
}

fn secure_health(address: &str, cert: Option<&Path>, patience: Duration) -> Result<Healthy, ProbeError> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let stream = Tls::new(cert)?.secure(socket(address, patience)?, host, patience)?;
    Ok(Healthy { status: ask(stream, address, patience)?, secure: true })
}

fn socket(address: &str, patience: Duration) -> Result<TcpStream, ProbeError> {
    let socket = connect(address, patience)?;
    socket.set_read_timeout(Some(patience))?;
    socket.set_write_timeout(Some(patience))?;
    Ok(socket)
}

/// Asks for `/health` and gives the status line's code and words when the server is well.
fn ask(mut stream: impl Read + Write, address: &str, patience: Duration) -> Result<String, ProbeError> {
    write!(stream, "GET /health HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;

    let mut answer = Vec::new();
    let until = Instant::now() + patience;
    while !answer.contains(&b'\n') {
        if Instant::now() >= until {
            return Err(ProbeError::Late(patience));
        }
        let mut chunk = [0; 512];
        match stream.read(&mut chunk)? {
            0 => break,
            count => answer.extend(chunk.iter().take(count)),
        }
        if answer.len() as u64 > ANSWER_CAP {
            break;
        }
    }
    let line = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
    match line.split_once(' ') {
        Some((http, status)) if http.starts_with("HTTP/") && status.starts_with("200") => {
            Ok(status.to_owned())
        }
        _ => Err(ProbeError::Unhealthy(line)),
    }
}

/// True for a file that this user may be able to run.
pub(super) fn is_executable(path: &Path) -> bool {
    let Ok(metadata) = path.metadata() else { return false };
    #[cfg(unix)]
    let runs = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o111 != 0;
    #[cfg(not(unix))]
    let runs = true;
    metadata.is_file() && runs
}

/// The first line that `program --version` prints. The program sees nothing of our environment but the search path
/// and the home directory.
pub(super) fn version_of(
    program: &Path,
    search: &[PathBuf],
    home: Option<&str>,
    patience: Duration,
) -> Result<String, ProbeError> {
    let path =
        std::env::join_paths(search).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let mut child = Command::new(program)
        .arg("--version")
        .env_clear()
        .env("PATH", path)
        .envs(home.map(|home| ("HOME", home)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;

    let until = Instant::now() + patience;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= until {
            child.kill()?;
            child.wait()?;
            return Err(ProbeError::Late(patience));
        }
        std::thread::sleep(CHILD_POLL);
    };
    if !status.success() {
        return Err(ProbeError::Ended(status));
    }
    let mut text = String::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(ANSWER_CAP).read_to_string(&mut text)?;
    }
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// The vector units that our kernels make use of, for people.
#[cfg(target_arch = "x86_64")]
pub(super) fn cpu_features() -> String {
    let features = [
        ("AVX2", is_x86_feature_detected!("avx2")),
        ("FMA", is_x86_feature_detected!("fma")),
        ("AVX-512", is_x86_feature_detected!("avx512f")),
        ("VNNI", is_x86_feature_detected!("avx512vnni")),
        ("AMX", std::path::Path::new("/proc/cpuinfo").exists() && amx()),
    ];
    features.iter().filter(|(_, here)| *here).map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
}

/// The standard library can't tell this one yet.
#[cfg(target_arch = "x86_64")]
fn amx() -> bool {
    std::fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("amx_tile"))
}

/// The vector units that our kernels make use of, for people.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn cpu_features() -> String {
    if cfg!(target_arch = "aarch64") { "NEON".to_owned() } else { String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    /// A server that gives one answer to one question.
    fn answering(answer: &'static str) -> (Listen, std::thread::JoinHandle<String>) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = listener.local_addr().unwrap().to_string().parse().unwrap();
        let server = std::thread::Builder::new().spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                request.extend(byte);
            }
            stream.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(request).unwrap()
        });
        (listen, server.unwrap())
    }

    #[test]
    fn a_healthy_server_answers_200() {
        let (listen, server) = answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}");
        let healthy = Healthy { status: "200 OK".to_owned(), secure: false };
        assert_eq!(health(&listen, None, SOON).unwrap(), healthy);
        assert!(server.join().unwrap().starts_with("GET /health HTTP/1.1\r\n"));
    }

    #[test]
    fn any_other_answer_is_not_health() {
        for answer in ["HTTP/1.1 503 Service Unavailable\r\n\r\n", "SSH-2.0-OpenSSH\r\n", ""] {
            let (listen, server) = answering(answer);
            let error = health(&listen, None, SOON).unwrap_err();
            assert!(matches!(error, ProbeError::Unhealthy(_)), "{error:?}");
            server.join().unwrap();
        }
    }

    #[test]
    fn nobody_there_is_told_from_unwell() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listen = listener.local_addr().unwrap().to_string().parse().unwrap();
        drop(listener);
        assert!(matches!(health(&listen, None, SOON).unwrap_err(), ProbeError::Io(_)));
    }

    #[test]
    fn the_authority_of_a_url() {
        let cases = [
            ("https://huggingface.co", "huggingface.co:443"),
            ("http://mirror.example/hub?x", "mirror.example:80"),
            ("http://127.0.0.1:9000/", "127.0.0.1:9000"),
            ("https://user:pass@hub.example/", "hub.example:443"),
            ("http://[::1]:80", "[::1]:80"),
        ];
        for (url, expected) in cases {
            assert_eq!(authority(url), expected);
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_program_that_hangs_or_fails_is_given_up() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("program");
        let search = [PathBuf::from("/bin"), PathBuf::from("/usr/bin")];
        let ask = |body: &str, patience| {
            std::fs::write(&script, format!("#!/bin/sh\n{body}\n")).unwrap();
            std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
            version_of(&script, &search, None, patience)
        };
        assert_eq!(ask("echo 1.2.3; echo more", SOON).unwrap(), "1.2.3");
        assert!(matches!(ask("exec sleep 600", Duration::from_millis(50)), Err(ProbeError::Late(_))));
        assert!(matches!(ask("exit 3", SOON), Err(ProbeError::Ended(_))));
        assert_eq!(ask("echo \"$SECRET_OF_OURS-$HOME\"", SOON).unwrap(), "-");
    }
}
