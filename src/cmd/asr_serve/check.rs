//! `godctl asr-serve --check`: would the server start, and with what? Loads the model, tokens and certificate as the
//! server would, tries the port, and ends.

use std::{net::SocketAddr, time::Duration};

use super::{
    super::{
        Context, Exit, Failure, Threads, engine,
        findings::{Finding, Named, Report, Status},
        probe::{self, ProbeError},
    },
    doors,
};
use crate::{asr::server, config::Asr};

/// How long a server that has the port may take to say who it is.
const PATIENCE: Duration = Duration::from_secs(2);

/// Prints what it finds, and fails with the code that the server would end with.
pub(super) fn run(context: &Context, json: bool) -> anyhow::Result<()> {
    let asr = &context.config.asr;
    let (model, port) =
        context.block_on(Threads::PerCore, async { Ok((model(context).await, port(asr).await)) })?;
    let tokens = doors::tokens(asr);
    let has_tokens = tokens.as_ref().is_ok_and(|tokens| !tokens.is_empty());
    let (tokens, certificate) = (tokens_found(asr, tokens), certificate(asr));
    let door = door(asr, has_tokens || tokens.status == Status::Failed, &port.addresses);

    let failed = |finding: &Finding| finding.status == Status::Failed;
    let exit = match [&tokens, &certificate, &door].into_iter().any(failed) {
        true => Exit::Config,
        false => Exit::Failed,
    };
    let named = [
        ("model", model),
        ("tokens", tokens),
        ("certificate", certificate),
        ("address", port.finding),
        ("exposure", door),
    ];
    let named = named.into_iter().map(|(name, finding)| Named { name, finding }).collect();
    Report::new(named).print(json, context.terminal.stdout.color, exit)
}

fn broken(error: &anyhow::Error, fix: &str) -> Finding {
    let detail = match error.downcast_ref::<Failure>() {
        Some(failure) => failure.to_string(),
        None => format!("{error:#}"),
    };
    Finding::new(Status::Failed, detail, fix)
}

async fn model(context: &Context) -> Finding {
    let fix = "choose a model that is installed (godctl models list) with asr.model";
    let Context { config, paths, shutdown, .. } = context;
    let started = std::time::Instant::now();
    let engine = match engine::start(config, paths, shutdown) {
        Ok(engine) => engine,
        Err(error) => return broken(&error, fix),
    };
    match engine.ready().await {
        Ok(info) => {
            let millions = info.parameters / 1_000_000;
            let took = started.elapsed().as_millis();
            Finding::ok(format!("{} ({millions} M weights, {}), loaded in {took} ms", info.name, info.device))
        }
        Err(error) => broken(&error.into(), fix),
    }
}

fn tokens_found(asr: &Asr, tokens: anyhow::Result<server::Tokens>) -> Finding {
    match tokens {
        Err(error) => broken(&error, "correct the file, or make a token: godctl asr-serve token NAME"),
        Ok(tokens) if tokens.is_empty() => Finding::ok("none: nobody is asked for one"),
        Ok(tokens) => {
            let from = asr.tokens_file.as_ref().map(|path| format!(" ({})", path.display()));
            Finding::ok(format!("{}{}", tokens.count(), from.unwrap_or_default()))
        }
    }
}

fn certificate(asr: &Asr) -> Finding {
    match doors::tls(asr) {
        Err(error) => broken(&error, "set asr.tls_cert and asr.tls_key to a chain and its key in PEM"),
        Ok(None) => Finding::ok("none: plain http and ws"),
        Ok(Some(tls)) => match tls.validity() {
            Some(validity) => match validity.problem(jiff::Timestamp::now()) {
                Some(problem) => {
                    Finding::new(Status::Failed, problem, "renew it; clients refuse it as it is")
                }
                None => Finding::ok(format!("good until {}", validity.until)),
            },
            None => Finding::ok("readable, and the key belongs to it"),
        },
    }
}

/// What was found about the address.
struct Port {
    finding: Finding,
    addresses: Vec<SocketAddr>,
}

async fn port(asr: &Asr) -> Port {
    let listen = &asr.listen;
    let addresses: Vec<SocketAddr> =
        tokio::net::lookup_host(listen.as_str()).await.map(Iterator::collect).unwrap_or_default();
    let finding = match server::bind(listen.as_str()).await {
        Ok(_) => Finding::ok(format!("{listen} is free")),
        Err(server::ServerError::InUse { .. }) => {
            match probe::health(listen, asr.tls_cert.as_deref(), PATIENCE) {
                Ok(_) | Err(ProbeError::Untrusted { .. }) => {
                    let detail = format!("{listen} is taken: a server answers there");
                    Finding::new(Status::Failed, detail, "stop that server first, or choose another port")
                }
                Err(_) => {
                    let detail = format!("{listen} is taken by another program");
                    Finding::new(Status::Failed, detail, "stop that program, or choose another port")
                }
            }
        }
        Err(error) => broken(&error.into(), "change asr.listen"),
    };
    Port { finding, addresses }
}

fn door(asr: &Asr, has_tokens: bool, addresses: &[SocketAddr]) -> Finding {
    if let Err(error) = doors::guard(asr, has_tokens, addresses) {
        return broken(&error, "godctl asr-serve token NAME, or asr.insecure = true");
    }
    match addresses.iter().find(|address| !address.ip().is_loopback()) {
        None => Finding::ok("this machine only"),
        Some(_) if !has_tokens => Finding::new(
            Status::Warn,
            "everybody, without a token (asr.insecure)",
            "godctl asr-serve token NAME",
        ),
        Some(_) if asr.tls_cert.is_none() => {
            let fix = "set asr.tls_cert and asr.tls_key, unless a proxy in front speaks TLS";
            Finding::new(Status::Warn, "other machines, in the clear", fix)
        }
        Some(_) => Finding::ok("other machines, with a token, over TLS"),
    }
}
