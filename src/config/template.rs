//! `agents.providers` of the kind `command`: any program, by its arguments with holes in them and the way that it prints.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Programs that run their arguments as code.
const SHELLS: [&str; 8] = ["sh", "bash", "dash", "zsh", "ksh", "fish", "pwsh", "cmd"];

/// A program that gets the prompt on its standard input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandSettings {
    /// The program; a bare name is looked for on the search path.
    pub program: PathBuf,
    /// How what it prints is read.
    pub parser: Parser,
    /// What it is started with for a new conversation.
    #[serde(default)]
    pub arguments: Vec<Argument>,
    /// What it is started with to go on with one; none means that it cannot.
    #[serde(default)]
    pub resume_arguments: Vec<Argument>,
    /// The model where a prompt names none.
    #[serde(default)]
    pub model: Option<String>,
    /// Names of our variables that it gets beside those that every program gets; `*` at the end stands for any rest.
    #[serde(default)]
    pub variables: Vec<String>,
    /// The signal that asks it to stop.
    #[serde(default)]
    pub stop: StopSignal,
}

/// A program that speaks the Agent Client Protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcpSettings {
    /// The program; a bare name is looked for on the search path.
    pub program: PathBuf,
    /// What it is started with. Sessions are opened over the protocol.
    #[serde(default)]
    pub arguments: Vec<Argument>,
    /// The model where a prompt names none.
    #[serde(default)]
    pub model: Option<String>,
    /// Names of our variables that it gets beside those that every program gets; `*` at the end stands for any rest.
    #[serde(default)]
    pub variables: Vec<String>,
}

/// How a program prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Parser {
    /// As Claude Code does with `--output-format stream-json`.
    Claude,
    /// As Gemini CLI does with `-o stream-json`.
    Gemini,
    /// As `codex exec --json` does.
    Codex,
    /// As Antigravity CLI does with `--output-format=stream-json`.
    Agy,
    /// All of it is the answer, and the exit code says whether it is one.
    Text,
    /// An object a line in godctl's own words: see `godctl::agents::providers::json_lines`.
    JsonLines,
}

/// The signal that asks a program to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StopSignal {
    /// SIGINT.
    Interrupt,
    /// SIGTERM.
    #[default]
    Terminate,
}

/// An argument, or several that belong together. Where a hole has nothing to be filled with, all of it is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Argument {
    /// Such as `--model={model}`.
    One(String),
    /// Such as `["--model", "{model}"]`.
    Together(Vec<String>),
}

impl Argument {
    /// Its parts, one argument each.
    #[must_use]
    pub fn templates(&self) -> &[String] {
        match self {
            Self::One(template) => std::slice::from_ref(template),
            Self::Together(templates) => templates,
        }
    }
}

/// What a hole is filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hole {
    /// `{model}`: the model, if one is named.
    Model,
    /// `{directory}`: where it works; it is started there as well.
    Directory,
    /// `{session}`: the id of the conversation.
    Session,
}

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// As it stands.
    Text(String),
    /// To be filled.
    Hole(Hole),
}

/// Takes a template apart. `{{` and `}}` stand for one bracket.
///
/// # Errors
/// What is wrong with it.
pub fn pieces(template: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = template;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, bracket) = rest.split_at(at);
        text.push_str(before);
        if let Some(after) = bracket.strip_prefix("{{").or_else(|| bracket.strip_prefix("}}")) {
            text.extend(bracket.chars().next());
            rest = after;
            continue;
        }
        let hole = bracket.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let Some((name, after)) = hole else {
            return Err(format!("'{template}' has a bracket by itself; write {{{{ or }}}} for one"));
        };
        let hole = match name {
            "model" => Hole::Model,
            "directory" => Hole::Directory,
            "session" => Hole::Session,
            other => {
                return Err(format!(
                    "'{template}': there is no {{{other}}}; there are model, directory, session"
                ));
            }
        };
        if !text.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut text)));
        }
        pieces.push(Piece::Hole(hole));
        rest = after;
    }
    text.push_str(rest);
    if !text.is_empty() || pieces.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
}

impl CommandSettings {
    /// Whether these arguments have such a hole. Templates that cannot be taken apart have none.
    #[must_use]
    pub fn has(arguments: &[Argument], hole: Hole) -> bool {
        let templates = arguments.iter().flat_map(Argument::templates);
        templates
            .flat_map(|template| pieces(template).unwrap_or_default())
            .any(|piece| piece == Piece::Hole(hole))
    }

    /// What [`super::Config::validate`] checks about one.
    pub(super) fn check(&self) -> Result<(), String> {
        check(&self.program, &[&self.arguments, &self.resume_arguments], &self.variables)?;
        if !self.resume_arguments.is_empty() && !Self::has(&self.resume_arguments, Hole::Session) {
            return Err(
                "resume_arguments: {session} must stand somewhere, or it would go on in any".to_owned()
            );
        }
        Ok(())
    }
}

impl AcpSettings {
    /// What [`super::Config::validate`] checks about one.
    pub(super) fn check(&self) -> Result<(), String> {
        check(&self.program, &[&self.arguments], &self.variables)
    }
}

fn check(program: &Path, arguments: &[&Vec<Argument>], variables: &[String]) -> Result<(), String> {
    if program.as_os_str().is_empty() {
        return Err("program: name one".to_owned());
    }
    if program.starts_with("~") {
        return Err("program: only a shell expands ~; write the directory out".to_owned());
    }
    for template in arguments.iter().copied().flatten().flat_map(Argument::templates) {
        pieces(template).map_err(|reason| format!("arguments: {reason}"))?;
    }
    let name = program.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
    if SHELLS.contains(&name) && arguments.iter().any(|all| CommandSettings::has(all, Hole::Directory)) {
        return Err(
            "arguments: a shell would run the name of the directory as code; write \"$PWD\"".to_owned()
        );
    }
    match variables.iter().find(|name| !is_variable(name)) {
        Some(name) => Err(format!("variables: '{name}' is no name of a variable; a '*' may end one")),
        None => Ok(()),
    }
}

fn is_variable(name: &str) -> bool {
    let name = name.strip_suffix('*').unwrap_or(name);
    // A star by itself would pass everything on, all keys among it.
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<CommandSettings, String> {
        toml::from_str(text).map_err(|error| error.message().to_owned())
    }

    fn refusal(more: &str) -> String {
        read(&format!("program = 'x'\nparser = 'text'\n{more}")).unwrap().check().unwrap_err()
    }

    #[test]
    fn templates_are_taken_apart() {
        let text = |text: &str| Piece::Text(text.to_owned());
        assert_eq!(pieces("--m={model}/x").unwrap(), [text("--m="), Piece::Hole(Hole::Model), text("/x")]);
        assert_eq!(pieces("{directory}{session}").unwrap().len(), 2);
        assert_eq!(pieces("{{\"a\": 1}}").unwrap(), [text("{\"a\": 1}")]);
        assert_eq!(pieces("").unwrap(), [text("")], "an empty argument is one");
        for (bad, says) in
            [("{prompt}", "there is no {prompt}"), ("{model", "by itself"), ("a}", "by itself")]
        {
            assert!(pieces(bad).unwrap_err().contains(says), "{bad}");
        }
    }

    #[test]
    fn what_cannot_run_or_would_run_too_much_is_refused() {
        let good = "program = 'aider'\nparser = 'json-lines'\narguments = ['run', ['-m', '{model}']]\n\
                    resume_arguments = ['--resume={session}']\nvariables = ['AIDER_*']\nstop = 'interrupt'";
        let good = read(good).unwrap();
        assert_eq!(good.check(), Ok(()));
        assert_eq!(read(&toml::to_string(&good).unwrap()).unwrap(), good);
        assert!(refusal("arguments = ['{prompt}']").contains("there is no {prompt}"));
        assert!(refusal("resume_arguments = ['--last']").contains("{session}"));
        assert!(refusal("variables = ['*']").contains("no name of a variable"));
        let shell =
            read("program = '/bin/bash'\nparser = 'text'\narguments = ['-c', 'ls {directory}']").unwrap();
        assert!(shell.check().unwrap_err().contains("$PWD"));
        assert!(read("program = 'x'\nparser = 'xml'").unwrap_err().contains("json-lines"));
        assert!(read("parser = 'text'").unwrap_err().contains("program"));
    }
}
