//! `godctl doctor`: what works on this machine, and how to fix the rest.
//!
//! Each check runs on a named thread of its own and has until [`DEADLINE`]; one that hangs (a dead sound server, a
//! name server that does not answer) is reported as such and left behind, because the process ends right after.
//! Checks look and leave no trace: no directory is made, no model is loaded, no microphone is opened.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    sync::mpsc::sync_channel,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::{
    Context, Exit, Failure, Stdout, bus,
    findings::{Finding, Named, Report, Status},
    probe::{self, Healthy, ProbeError},
};
use crate::{
    asr::weights::{self, BUILTIN},
    config::{ConfigError, Listen, Log, Models},
};

/// How long all checks together may take. They run side by side, so this is also what each may take.
const DEADLINE: Duration = Duration::from_secs(6);

/// What a check may wait for from the network or another program; below [`DEADLINE`], so that it can say so itself.
const PATIENCE: Duration = Duration::from_secs(4);

/// Flags of `godctl doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl doctor                          everything, as a table
  godctl doctor --json | jq '.checks[] | select(.status != \"ok\")'
  godctl doctor --server                 does the server at asr.listen answer? (a container's check)
  godctl doctor --server asr.example:443 another one, over http or https, whichever it speaks

Exits with 0 when nothing essential fails, even where something optional is missing.")]
pub(super) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Only ask a running server for its health; exits with 69 if it does not answer
    #[arg(long, value_name = "HOST:PORT", num_args = 0..=1, conflicts_with = "json")]
    server: Option<Option<Listen>>,
}

type Check = Box<dyn FnOnce() -> Finding + Send>;

pub(super) fn run(args: &Args, context: &Context, problem: Option<ConfigError>) -> anyhow::Result<()> {
    if let Some(address) = &args.server {
        if let Some(error) = problem {
            return Err(error.into());
        }
        let asr = &context.config.asr;
        return server(address.as_ref().unwrap_or(&asr.listen), asr.tls_cert.as_deref());
    }

    let report = examine(context, checks(context, problem))?;
    report.print(args.json, context.terminal.stdout.color, Exit::Failed)
}

/// All checks, in the order they are shown. A new room adds its own here.
fn checks(context: &Context, problem: Option<ConfigError>) -> Vec<(&'static str, Check)> {
    let config = context.config.clone();
    let paths = context.paths.clone();
    let search = context.environment.search_path();
    let runtime_dir = context.environment.get("XDG_RUNTIME_DIR").map(PathBuf::from);
    let proxy = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
    let behind_proxy = proxy.iter().any(|name| context.environment.get(name).is_some());
    let home = context.environment.get("HOME").map(str::to_owned);

    let file = paths.config_file.clone();
    let log = config.log.clone();
    let data_dir = paths.data_dir.clone();
    let (listen, cert) = (config.asr.listen.clone(), config.asr.tls_cert.clone());
    let models = config.models;
    let (event_bus, bus_dir) = (config.bus, paths.data_dir.clone());
    let (store, store_dir) = (config.store, paths.data_dir.clone());

    let mut checks: Vec<(&'static str, Check)> = vec![
        ("configuration", Box::new(move || configuration(file.as_deref(), problem))),
        ("data directory", Box::new(move || writable(&data_dir))),
        ("log file", Box::new(move || log_file(&log))),
        ("built-in model", Box::new(builtin_model)),
        ("models", Box::new(move || installed_models(&paths.models_dir))),
        ("model hub", Box::new(move || hub(&models, behind_proxy))),
        ("processor", Box::new(processor)),
        ("GPU", Box::new(|| gpu(Path::new("/dev")))),
        ("microphone", Box::new(move || microphone(Path::new("/dev/snd"), runtime_dir.as_deref()))),
        ("server address", Box::new(move || address(&listen, cert.as_deref()))),
        ("event bus", Box::new(move || bus::quick(&event_bus, &bus_dir, PATIENCE))),
        ("session store", Box::new(move || super::agent::quick(&store, &store_dir, PATIENCE))),
        ("gateways", Box::new(|| Finding::later("this version joins no rooms"))),
    ];
    let agents = [
        ("claude", "npm install -g @anthropic-ai/claude-code"),
        ("gemini", "npm install -g @google/gemini-cli"),
        ("codex", "npm install -g @openai/codex"),
    ];
    for (program, install) in agents {
        let (search, home) = (search.clone(), home.clone());
        checks.push((program, Box::new(move || agent(program, install, &search, home.as_deref()))));
    }
    checks
}

/// Runs all checks side by side and waits for them until the deadline.
fn examine(context: &Context, checks: Vec<(&'static str, Check)>) -> anyhow::Result<Report> {
    let names: Vec<&'static str> = checks.iter().map(|(name, _)| *name).collect();
    let (sender, findings) = sync_channel(checks.len());
    for (index, (name, check)) in checks.into_iter().enumerate() {
        let sender = sender.clone();
        // Nobody listens any more when the deadline has passed; there is nothing to do about it here.
        let body = move || drop(sender.send((index, check())));
        context.shutdown.thread(name, body).with_context(|| format!("cannot start the check of {name}"))?;
    }
    drop(sender);

    let mut found: Vec<Option<Finding>> = names.iter().map(|_| None).collect();
    let until = Instant::now() + DEADLINE;
    while let Ok((index, finding)) = findings.recv_timeout(until.saturating_duration_since(Instant::now())) {
        if let Some(slot) = found.get_mut(index) {
            *slot = Some(finding);
        }
    }
    let silent = || {
        let detail = format!("the check gave no answer within {} s", DEADLINE.as_secs());
        Finding::new(Status::Warn, detail, "run it again with -vv, and look at what it waits for")
    };
    let named = names.into_iter().zip(found);
    let checks: Vec<Named> =
        named.map(|(name, finding)| Named { name, finding: finding.unwrap_or_else(silent) }).collect();
    Ok(Report::new(checks))
}

fn configuration(file: Option<&Path>, problem: Option<ConfigError>) -> Finding {
    match (problem, file) {
        (Some(error), _) => {
            let reason = format!("{:#}", anyhow::Error::new(error));
            Finding::new(Status::Failed, reason, "correct it; until then every other command ends with 78")
        }
        (None, Some(file)) if file.exists() => Finding::ok(file.display().to_string()),
        (None, _) => Finding::ok("defaults, no file"),
    }
}

/// Whether files can be made in `dir`, or in the nearest directory above it that exists.
fn writable(dir: &Path) -> Finding {
    let Some(existing) = dir.ancestors().find(|dir| dir.exists()) else {
        return Finding::new(Status::Failed, format!("{} has no parent", dir.display()), "set data_dir");
    };
    // Unlinked at once: nothing stays behind, whatever happens.
    match tempfile::tempfile_in(existing) {
        Ok(_) if existing == dir => Finding::ok(dir.display().to_string()),
        Ok(_) => Finding::ok(format!("{} (will be made)", dir.display())),
        Err(error) => {
            let detail = format!("{}: {error}", existing.display());
            Finding::new(Status::Failed, detail, "make it writable, or choose another place with data_dir")
        }
    }
}

fn log_file(log: &Log) -> Finding {
    let Some(path) = &log.file else { return Finding::ok("stderr") };
    match path.parent().map(writable) {
        Some(Finding { status: Status::Ok, .. }) | None => Finding::ok(path.display().to_string()),
        Some(found) => Finding::new(Status::Failed, found.detail, "change log.file"),
    }
}

fn builtin_model() -> Finding {
    let bytes: usize = BUILTIN.iter().map(|file| file.bytes.len()).sum();
    let weights = BUILTIN.iter().find(|file| file.name.ends_with(".safetensors"));
    match weights.map(|file| safetensors::SafeTensors::deserialize(file.bytes)) {
        Some(Ok(tensors)) => {
            let megabytes = bytes as f64 / 1e6;
            Finding::ok(format!("command-en, {} tensors, {megabytes:.1} MB in this binary", tensors.len()))
        }
        Some(Err(error)) => {
            Finding::new(Status::Failed, error.to_string(), "this binary is damaged; build it again")
        }
        None => Finding::new(
            Status::Failed,
            "no weights in this binary",
            "build it again from a complete checkout",
        ),
    }
}

fn installed_models(dir: &Path) -> Finding {
    let models = match weights::installed(dir) {
        Ok(models) => models,
        Err(error) => return Finding::new(Status::Failed, format!("{error:#}"), "set models.dir"),
    };
    if models.is_empty() {
        return Finding::new(
            Status::Missing,
            format!("none in {}; the built-in one knows 450 English words", dir.display()),
            "for dictation: godctl models pull base (see: godctl models list)",
        );
    }
    if let Some(error) = models.iter().find_map(|model| model.check().err()) {
        return Finding::new(Status::Failed, error.to_string(), "pull it again, or: godctl models rm NAME");
    }
    Finding::ok(models.into_iter().map(|model| model.manifest.name).collect::<Vec<_>>().join(", "))
}

fn hub(models: &Models, behind_proxy: bool) -> Finding {
    if models.offline {
        return Finding::ok("not used (models.offline)");
    }
    if behind_proxy {
        return Finding::ok(format!("{} through a proxy, not tried", models.endpoint));
    }
    let started = Instant::now();
    match probe::connect(&probe::authority(&models.endpoint), PATIENCE) {
        Ok(_) => Finding::ok(format!("{} ({} ms)", models.endpoint, started.elapsed().as_millis())),
        Err(error) => Finding::new(
            Status::Missing,
            format!("{}: {error}", models.endpoint),
            "nothing can be downloaded; the built-in model and directories work without it",
        ),
    }
}

fn processor() -> Finding {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    let features = probe::cpu_features();
    let detail =
        format!("{cores} cores, {}", if features.is_empty() { "no vector units known" } else { &features });
    if cfg!(target_arch = "x86_64") && !features.contains("AVX2") {
        return Finding::new(
            Status::Warn,
            detail,
            "without AVX2 expect a third of the usual speed; prefer tiny models",
        );
    }
    Finding::ok(detail)
}

fn gpu(dev: &Path) -> Finding {
    let nvidia = ["nvidiactl", "nvidia0", "dxg"].iter().any(|node| dev.join(node).exists());
    match (nvidia, cfg!(feature = "cuda"), cfg!(feature = "metal")) {
        (_, _, true) => Finding::ok("Apple GPU (metal)"),
        (true, true, _) => Finding::ok("NVIDIA GPU (cuda)"),
        (true, false, _) => Finding::new(
            Status::Warn,
            "an NVIDIA GPU is here, but this binary was built without cuda",
            "cargo build --release --features cuda (needs the CUDA toolkit)",
        ),
        (false, _, _) => {
            Finding::new(Status::Missing, "none found", "not needed; the processor does the work")
        }
    }
}

/// A sound server, or else the kernel's own capture devices (`pcmC0D0c`).
fn microphone(snd: &Path, runtime_dir: Option<&Path>) -> Finding {
    let server = |socket: &str| runtime_dir.is_some_and(|dir| dir.join(socket).exists());
    let entries = std::fs::read_dir(snd).into_iter().flatten().flatten();
    let captures = entries
        .filter(|entry| {
            entry.file_name().to_str().is_some_and(|name| name.starts_with("pcm") && name.ends_with('c'))
        })
        .map(|entry| entry.path())
        .collect::<Vec<_>>();
    let readable = captures.iter().filter(|path| std::fs::File::open(path).is_ok()).count();
    if !cfg!(target_os = "linux") {
        return Finding::ok("the system's default input");
    }
    match (server("pipewire-0"), server("pulse/native"), captures.len()) {
        (true, ..) => Finding::ok("PipeWire"),
        (_, true, _) => Finding::ok("PulseAudio"),
        (.., 0) => Finding::new(
            Status::Missing,
            "no sound server and no capture device",
            "plug one in; recordings work without (audio.input = \"file:PATH\" stands in for a microphone)",
        ),
        (.., count) if readable == 0 => Finding::new(
            Status::Warn,
            format!("{count} capture devices, none of them open to you"),
            "sudo usermod -aG audio $USER, then log in again (or another program is recording)",
        ),
        (.., count) => Finding::ok(format!("{count} ALSA capture devices")),
    }
}

fn address(listen: &Listen, cert: Option<&Path>) -> Finding {
    match std::net::TcpListener::bind(listen.as_str()) {
        Ok(_) => Finding::ok(format!("{listen} is free")),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            match probe::health(listen, cert, PATIENCE) {
                Ok(Healthy { status, secure }) => {
                    let scheme = if secure { "https, " } else { "" };
                    Finding::ok(format!("a server answers on {listen} ({scheme}{status})"))
                }
                Err(ProbeError::Untrusted { why, fix }) => {
                    let detail = format!("the certificate of the server on {listen} is not trusted: {why}");
                    Finding::new(Status::Warn, detail, fix)
                }
                Err(_) => Finding::new(
                    Status::Warn,
                    format!("{listen} is taken by another program"),
                    "stop that program, or choose another port with asr.listen",
                ),
            }
        }
        Err(error) => Finding::new(Status::Warn, format!("{listen}: {error}"), "change asr.listen"),
    }
}

fn agent(program: &str, install: &str, search: &[PathBuf], home: Option<&str>) -> Finding {
    let Some(path) = search.iter().map(|dir| dir.join(program)).find(|path| probe::is_executable(path))
    else {
        return Finding::new(Status::Missing, "not on PATH", install);
    };
    match probe::version_of(&path, search, home, PATIENCE) {
        Ok(version) => Finding::ok(format!("{version} ({})", path.display())),
        Err(error) => {
            let detail = format!("{} --version: {error}", path.display());
            Finding::new(Status::Warn, detail, format!("reinstall it: {install}"))
        }
    }
}

/// `--server`: one question to one server.
fn server(listen: &Listen, cert: Option<&Path>) -> anyhow::Result<()> {
    let started = Instant::now();
    match probe::health(listen, cert, PATIENCE) {
        Ok(Healthy { status, secure }) => {
            let how = match (secure, cert) {
                (true, _) => " over https",
                (false, Some(_)) => " over plain http, although asr.tls_cert is set",
                (false, None) => "",
            };
            let took_ms = started.elapsed().as_millis();
            writeln!(Stdout::lock(), "ok: {listen} answered {status}{how} in {took_ms} ms")?;
            Ok(())
        }
        Err(error) => {
            let error = anyhow::Error::new(error).context(format!("no healthy server on {listen}"));
            Err(Failure::new(Exit::Unavailable, error).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_does_not_exist_is_judged_by_its_parent_and_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let wanted = dir.path().join("a/b");
        assert_eq!(writable(&wanted).status, Status::Ok);
        assert!(!dir.path().join("a").exists());
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(writable(&file.join("below")).status, Status::Failed);
    }

    #[test]
    fn without_installed_models_it_says_how_to_get_one() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(".incomplete")).unwrap();
        let finding = installed_models(dir.path());
        assert_eq!(finding.status, Status::Missing);
        assert!(finding.fix.is_some_and(|fix| fix.contains("models pull")));
    }

    #[test]
    fn the_built_in_model_is_whole() {
        assert_eq!(builtin_model().status, Status::Ok);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn microphones_are_told_from_loudspeakers() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("pcmC0D0p"), "").unwrap();
        assert_eq!(microphone(dir.path(), None).status, Status::Missing);
        std::fs::write(dir.path().join("pcmC0D0c"), "").unwrap();
        assert_eq!(microphone(dir.path(), None), Finding::ok("1 ALSA capture devices"));
        std::fs::write(dir.path().join("pipewire-0"), "").unwrap();
        assert_eq!(microphone(dir.path(), Some(dir.path())), Finding::ok("PipeWire"));
    }

    #[test]
    fn a_port_that_something_else_holds_is_noticed() {
        let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listen: Listen = holder.local_addr().unwrap().to_string().parse().unwrap();
        // Closing the connection at once is how most programs answer what they do not understand.
        let answer = std::thread::Builder::new().spawn(move || {
            // Once for http, once for https.
            drop(holder.accept());
            drop(holder.accept());
        });
        let answer = answer.unwrap();
        assert_eq!(address(&listen, None).status, Status::Warn);
        answer.join().unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn an_agent_tells_its_version_or_is_missing() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let search = [dir.path().to_owned(), PathBuf::from("/bin"), PathBuf::from("/usr/bin")];
        assert_eq!(agent("claude-x", "install it", &search, None).status, Status::Missing);
        let script = dir.path().join("claude-x");
        std::fs::write(&script, "#!/bin/sh\necho '9.8.7 (Test)'\n").unwrap();
        assert_eq!(agent("claude-x", "install it", &search, None).status, Status::Missing, "not executable");
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let found = agent("claude-x", "install it", &search, None);
        assert!(found.status == Status::Ok && found.detail.starts_with("9.8.7 (Test)"), "{found:?}");
    }
}
