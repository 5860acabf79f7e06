//! From the configuration to the parts that run: each a command line of godctl with a name. Pure.

use std::ffi::OsString;

use anyhow::{anyhow, bail};

use crate::{
    cmd::{Exit, Failure, cli},
    config,
};

/// The subcommands that run until they are told to stop and say when they are ready; only these can be supervised.
const SERVICES: &[&[&str]] = &[&["asr-serve"], &["bus", "bridge"], &["bus", "work"], &["bus", "tail"]];

/// One part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// Unique: the subcommand, and a number behind it if there are several of them.
    pub(super) name: String,
    /// Its command line without the program and without the global flags.
    pub(super) words: Vec<String>,
}

impl Part {
    /// The command line as a person would type it.
    pub(super) fn shown(&self) -> String {
        shown(&self.words)
    }
}

/// Words as a person would type them into a shell.
pub(super) fn shown(words: &[String]) -> String {
    // Only a NUL byte can't be quoted, and those are refused with the other control characters.
    let quoted = words.iter().map(|word| shlex::try_quote(word).unwrap_or_default());
    quoted.collect::<Vec<_>>().join(" ")
}

/// The parts that run, in their order: all that are configured, or those named in `only`.
///
/// # Errors
/// A command line that is no service, with the configuration's exit code; a name that no part has.
pub(super) fn plan(up: &config::Up, passed_on: &[OsString], only: &[String]) -> anyhow::Result<Vec<Part>> {
    let mut parts: Vec<Part> = Vec::new();
    for (index, line) in up.parts.iter().enumerate() {
        let wrong = |reason: &str| {
            Failure::new(Exit::Config, anyhow!("up.parts: command line {} ({line}): {reason}", index + 1))
        };
        let words = line.words().map_err(wrong)?;
        let whole: Vec<OsString> =
            passed_on.iter().cloned().chain(words.iter().map(OsString::from)).collect();
        let names = cli::subcommand_of(&whole).map_err(|error| wrong(&in_one_line(&error)))?;
        if !SERVICES.iter().any(|service| names == *service) {
            let services: Vec<String> = SERVICES.iter().map(|service| service.join(" ")).collect();
            let reason =
                format!("is no service that could be kept running; those are: {}", services.join(", "));
            return Err(wrong(&reason).into());
        }
        parts.push(Part { name: unique(&names.join("-"), &parts), words });
    }
    if parts.is_empty() {
        let error =
            anyhow!("there is nothing to run; list command lines in up.parts, such as [\"asr-serve\"]");
        return Err(Failure::new(Exit::Config, error).into());
    }
    if only.is_empty() {
        return Ok(parts);
    }
    let known = parts.iter().map(|part| part.name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(unknown) = only.iter().find(|name| parts.iter().all(|part| part.name != **name)) {
        bail!(Failure::new(
            Exit::Usage,
            anyhow!("--parts: no part is called '{unknown}'; there are: {known}")
        ));
    }
    parts.retain(|part| only.contains(&part.name));
    Ok(parts)
}

fn unique(name: &str, taken: &[Part]) -> String {
    let is_free = |name: &String| taken.iter().all(|part| part.name != *name);
    let numbered = (2..).map(|number: u32| format!("{name}-{number}"));
    std::iter::once(name.to_owned()).chain(numbered).find(is_free).unwrap_or_default()
}

/// What clap says over several lines, without the usage at its end.
fn in_one_line(error: &clap::Error) -> String {
    use clap::error::ErrorKind::{DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion};
    match error.kind() {
        DisplayHelp | DisplayVersion => "only shows a text and ends".to_owned(),
        DisplayHelpOnMissingArgumentOrSubcommand => "lacks a subcommand".to_owned(),
        _ => {
            let text = error.to_string();
            let lines = text
                .lines()
                .map(str::trim)
                .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
            let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
            lines.join("; ").trim_start_matches("error: ").to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up(lines: &[&str]) -> config::Up {
        config::Up { parts: lines.iter().map(|line| (*line).into()).collect(), ..config::Up::default() }
    }

    fn refusal(lines: &[&str]) -> String {
        plan(&up(lines), &[], &[]).unwrap_err().to_string()
    }

    #[test]
    fn parts_are_named_after_their_subcommand() {
        let up = up(&["asr-serve", "asr-serve --listen '[::1]:9000' -v", "-c asr.threads=2 asr-serve"]);
        let passed_on = ["-v".into(), "-c".into(), "asr.threads=1".into()];
        let parts = plan(&up, &passed_on, &[]).unwrap();
        let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
        assert_eq!(names, ["asr-serve", "asr-serve-2", "asr-serve-3"]);
        assert_eq!(parts[1].shown(), "asr-serve --listen '[::1]:9000' -v");
        let some = plan(&up, &[], &["asr-serve-3".to_owned(), "asr-serve".to_owned()]).unwrap();
        assert_eq!(some, [parts[0].clone(), parts[2].clone()], "in the order of the configuration");
        let error = plan(&up, &[], &["dash".to_owned()]).unwrap_err().to_string();
        assert_eq!(
            error,
            "--parts: no part is called 'dash'; there are: asr-serve, asr-serve-2, asr-serve-3"
        );
    }

    #[test]
    fn what_cannot_be_supervised_is_refused_with_the_way_out() {
        insta::assert_snapshot!(
            [
                &["asr-serv"][..],
                &["asr-serve", "doctor --json"],
                &["asr-serve --port 80"],
                &["asr-serve --help"],
                &["bus"],
                &["up"],
                &["asr-serve --listen nowhere"],
                &[],
            ]
            .map(refusal)
            .join("\n")
        );
    }
}
