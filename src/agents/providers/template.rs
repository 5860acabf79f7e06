//! Any program, as the configuration describes it: arguments with holes, the prompt on standard input, and the name of
//! the way that it prints.

use super::{
    super::{
        Abilities, Access, Class, Failure, Farewell, Input, Launch, Place, Provider, Reader, Spawn, Thread,
        Turn,
    },
    agy, claude, codex, gemini, json_lines, plain,
};
use crate::config::{Argument, CommandSettings, Hole, Parser, Piece, StopSignal, pieces};

/// Longest name of a model.
const MAX_MODEL: usize = 200;

/// A program from the configuration.
#[derive(Debug, Clone)]
pub struct Template {
    name: String,
    settings: CommandSettings,
}

impl Template {
    /// The program of this name.
    #[must_use]
    pub fn new(name: &str, settings: &CommandSettings) -> Self {
        Self { name: name.to_owned(), settings: settings.clone() }
    }
}

fn refuse<T>(name: &str, message: &str) -> Result<T, Failure> {
    Err(Failure::new(Class::BadRequest, format!("{name} {message}")))
}

/// The arguments for a turn of the program of this name. Where a hole has nothing to be filled with, the argument is left
/// out, and those that belong to it.
///
/// # Errors
/// [`Class::BadRequest`] for a value that would be taken for a flag or for code.
pub(super) fn fill(
    name: &str,
    arguments: &[Argument],
    model: Option<&str>,
    turn: &Turn,
) -> Result<Vec<String>, Failure> {
    let filler = Filler { name, model: turn.model.as_deref().or(model), turn };
    let mut all = Vec::new();
    for argument in arguments {
        let filled: Result<Option<Vec<_>>, _> =
            argument.templates().iter().map(|template| filler.argument(template)).collect();
        all.extend(filled?.into_iter().flatten());
    }
    Ok(all)
}

struct Filler<'a> {
    name: &'a str,
    model: Option<&'a str>,
    turn: &'a Turn,
}

impl Filler<'_> {
    fn argument(&self, template: &str) -> Result<Option<String>, Failure> {
        let pieces = pieces(template).map_err(|reason| Failure::new(Class::BadRequest, reason))?;
        let mut argument = String::new();
        for piece in &pieces {
            let value = match piece {
                Piece::Text(text) => Some(text.as_str()),
                Piece::Hole(Hole::Model) => self.model()?,
                Piece::Hole(Hole::Directory) => match self.turn.directory.to_str() {
                    None => return refuse(self.name, "takes only directories whose names are UTF-8"),
                    directory => directory,
                },
                Piece::Hole(Hole::Session) => match &self.turn.thread {
                    Thread::New(id) => id.as_ref().map(|id| id.as_str()),
                    Thread::Resume(id) => Some(id.as_str()),
                },
            };
            let Some(value) = value else { return Ok(None) };
            argument.push_str(value);
        }
        if argument.starts_with('-') && matches!(pieces.first(), Some(Piece::Hole(_))) {
            return refuse(self.name, &format!("would take '{argument}' for a flag; write another value"));
        }
        Ok(Some(argument))
    }

    /// The model, if it is a name that no program and no shell takes for something else.
    fn model(&self) -> Result<Option<&str>, Failure> {
        let Some(model) = self.model else { return Ok(None) };
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"._-:/@+".contains(&b);
        if !(1..=MAX_MODEL).contains(&model.len()) || model.starts_with('-') || !model.bytes().all(is_plain) {
            return refuse(
                self.name,
                "takes names of models of letters, digits and ._-:/@+, and no '-' first",
            );
        }
        Ok(Some(model))
    }
}

impl Provider for Template {
    fn name(&self) -> &str {
        &self.name
    }

    fn abilities(&self) -> Abilities {
        let CommandSettings { parser, arguments, resume_arguments, .. } = &self.settings;
        Abilities {
            resume: !resume_arguments.is_empty(),
            chooses_id: CommandSettings::has(arguments, Hole::Session),
            deltas: *parser != Parser::Codex,
            thinking: matches!(parser, Parser::Claude | Parser::Codex | Parser::JsonLines),
            cost: matches!(parser, Parser::Claude | Parser::JsonLines),
            // Nobody knows what it does; it is treated as if it could do anything.
            tools: true,
            ..Abilities::default()
        }
    }

    fn place(&self) -> Place<'_> {
        Place::Program(&self.settings.program)
    }

    fn launch(&self, turn: &Turn) -> Result<Launch, Failure> {
        if turn.access != Access::Default {
            return refuse(&self.name, "has no levels of access; leave --access out, its own settings hold");
        }
        let CommandSettings { program, arguments, resume_arguments, variables, stop, model, .. } =
            &self.settings;
        let arguments = match &turn.thread {
            Thread::New(_) => arguments,
            Thread::Resume(_) if resume_arguments.is_empty() => {
                return refuse(&self.name, "cannot go on with a conversation: it has no resume_arguments");
            }
            Thread::Resume(_) => resume_arguments,
        };
        Ok(Launch::Process(Spawn {
            program: program.clone(),
            setting: format!("program of agents.providers.{}", self.name),
            arguments: fill(&self.name, arguments, model.as_deref(), turn)?,
            environment: Vec::new(),
            passes: variables.clone(),
            input: Input::Whole(turn.prompt.clone().into_bytes()),
            farewell: match stop {
                StopSignal::Interrupt => Farewell::Interrupt,
                StopSignal::Terminate => Farewell::Terminate,
            },
        }))
    }

    fn reader(&self, turn: &Turn) -> Box<dyn Reader> {
        // A program that was not told our id has one of its own.
        let is_told = self.abilities().chooses_id || matches!(turn.thread, Thread::Resume(_));
        let thread = if is_told { turn.thread.clone() } else { Thread::New(None) };
        let turn = Turn { thread, ..Turn::new("", &turn.directory) };
        match self.settings.parser {
            Parser::Claude => claude::reader(&turn),
            Parser::Gemini => gemini::reader(&turn),
            Parser::Codex => codex::reader(&turn),
            Parser::Agy => agy::reader(&turn),
            Parser::Text => plain::reader(&turn),
            Parser::JsonLines => json_lines::reader(&turn),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            super::NativeId,
            testkit::{code, process, read},
        },
        *,
    };

    fn template(settings: &str) -> Template {
        Template::new("mine", &toml::from_str(&format!("program = 'mine'\n{settings}")).unwrap())
    }

    fn turn() -> Turn {
        Turn::new("count", "/w")
    }

    fn resumed() -> Turn {
        Turn { thread: Thread::Resume(NativeId::parse("s-1").unwrap()), ..turn() }
    }

    const MINE: &str = "parser = 'json-lines'\narguments = ['run', ['-m', '{model}'], '--in={directory}']\n\
                        resume_arguments = ['resume', '{session}']\nvariables = ['MINE_*']";

    #[test]
    fn holes_are_filled_and_what_has_nothing_to_be_filled_with_is_left_out() {
        let mine = template(MINE);
        let spawn = process(&mine, &turn());
        assert_eq!(
            (spawn.arguments.join(" "), spawn.input),
            ("run --in=/w".to_owned(), Input::Whole(b"count".to_vec()))
        );
        assert_eq!(spawn.passes, ["MINE_*"]);
        let with = Turn { model: Some("acme/big:7b".to_owned()), ..turn() };
        assert_eq!(process(&mine, &with).arguments.join(" "), "run -m acme/big:7b --in=/w");
        assert_eq!(process(&mine, &resumed()).arguments, ["resume", "s-1"]);
        let abilities = mine.abilities();
        assert!(abilities.resume && !abilities.chooses_id && !abilities.needs_history);
    }

    #[test]
    fn no_value_becomes_a_flag_or_code() {
        let mine = template("parser = 'text'\narguments = ['{model}']");
        for model in ["--dangerous", "", "a b", "$(id)", "a;b", "`x`", "a\nb", &"x".repeat(MAX_MODEL + 1)] {
            let failure = mine.launch(&Turn { model: Some(model.to_owned()), ..turn() }).unwrap_err();
            assert_eq!(failure.class, Class::BadRequest, "{model}");
        }
        // A directory with a strange name, where no path begins with a slash.
        let there = template("parser = 'text'\narguments = ['{directory}']");
        let failure = there.launch(&Turn::new("", "--version")).unwrap_err();
        assert!(failure.message.contains("for a flag"), "{failure}");
    }

    #[test]
    fn what_it_cannot_be_told_is_refused() {
        let mine = template("parser = 'text'");
        let plan = Turn { access: Access::Plan, ..turn() };
        assert!(mine.launch(&plan).unwrap_err().message.contains("levels of access"));
        assert!(mine.launch(&resumed()).unwrap_err().message.contains("resume_arguments"));
    }

    #[test]
    fn each_parser_reads_what_its_name_says() {
        let done = |id| Turn { thread: Thread::New(Some(NativeId::parse(id).unwrap())), ..turn() };
        let cases = [
            ("claude", r#"{"type":"result","subtype":"success","is_error":false,"result":"two"}"#),
            (
                "gemini",
                "{\"type\":\"message\",\"role\":\"assistant\",\"content\":\"two\"}\n{\"type\":\"result\",\"status\":\"success\"}",
            ),
            (
                "codex",
                "{\"type\":\"item.completed\",\"item\":{\"type\":\"agent_message\",\"text\":\"two\"}}\n{\"type\":\"turn.completed\"}",
            ),
            ("agy", r#"{"event":"result","result":{"status":"SUCCESS","response":"two"}}"#),
            ("text", "two"),
            ("json-lines", r#"{"kind":"completed","text":"two"}"#),
        ];
        for (parser, lines) in cases {
            let mine = template(&format!("parser = '{parser}'"));
            let (_, outcome, _) = read(&mine, &done("ours"), lines, &code(0));
            assert_eq!((outcome.text.as_str(), outcome.verdict), ("two", Ok(())), "{parser}");
        }
    }

    #[test]
    fn only_who_was_told_an_id_must_keep_to_it() {
        let line = r#"{"kind":"started","session_id":"theirs"}"#;
        let turn = Turn { thread: Thread::New(Some(NativeId::parse("ours").unwrap())), ..turn() };
        let untold = template("parser = 'json-lines'");
        let (outputs, ..) = read(&untold, &turn, line, &code(0));
        assert_eq!(outputs.len(), 1, "it has an id of its own");
        let told = template("parser = 'json-lines'\narguments = ['{session}']");
        let (_, outcome, _) = read(&told, &turn, line, &code(0));
        assert_eq!(outcome.verdict.unwrap_err().class, Class::SessionMismatch);
    }
}
