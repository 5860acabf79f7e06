//! All hooks of a configuration, in their order.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::{
    super::{Class, Failure, environment::environment, limits::Bucket},
    Around, Decision, Metrics, Occasion, Report, Wish, builtin,
    external::Program,
    webhook::Post,
};
use crate::config::{HookKind, HookMap, HookSettings, When};

/// The hooks of a configuration.
#[derive(Debug, Default)]
pub struct Hooks {
    /// In the order in which they run.
    hooks: Vec<Hook>,
    metrics: Mutex<Metrics>,
}

#[derive(Debug)]
struct Hook {
    name: String,
    settings: HookSettings,
    /// Of one that limits.
    bucket: Mutex<Option<Bucket>>,
}

/// What is said of a turn: before it, or after it with what became of it.
#[derive(Clone, Copy)]
enum Phase<'a> {
    Before,
    After(&'a Report),
}

impl Phase<'_> {
    fn is_of(self, when: When) -> bool {
        match self {
            Self::Before => when != When::After,
            Self::After(_) => when != When::Before,
        }
    }
}

impl Hooks {
    /// Those of a configuration.
    #[must_use]
    pub fn new(settings: &HookMap) -> Self {
        let hook = |(name, settings): (&String, &HookSettings)| Hook {
            name: name.clone(),
            settings: settings.clone(),
            bucket: Mutex::new(None),
        };
        let mut hooks: Vec<_> = settings.iter().map(hook).collect();
        // The map is sorted by name, and this keeps the order of equals.
        hooks.sort_by_key(|hook| hook.settings.priority);
        Self { hooks, metrics: Mutex::default() }
    }

    /// Checks what a message wishes.
    ///
    /// # Errors
    /// [`Class::BadRequest`] for a hook that is not there, or that no message may switch.
    pub fn check(&self, wishes: &[Wish]) -> Result<(), Failure> {
        for Wish { name, .. } in wishes {
            let reason = match self.hooks.iter().find(|hook| hook.name == *name) {
                None => "is not among the hooks of this machine",
                Some(hook) if !hook.settings.optional => "is not for messages to switch (optional)",
                Some(_) => continue,
            };
            return Err(Failure::new(Class::BadRequest, format!("hook '{name}' {reason}")));
        }
        Ok(())
    }

    /// What was counted since this was made.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        self.metrics.lock().clone()
    }

    /// Runs the hooks before a turn. The prompt is then what they have made of it.
    ///
    /// # Errors
    /// Why the turn may not begin: the first hook that says so, or that fails and is required.
    ///
    /// # Cancel safety
    /// Dropping the future stops whatever runs.
    pub async fn before(
        &self,
        occasion: &mut Occasion,
        wishes: &[Wish],
        around: Around<'_>,
    ) -> Result<(), Failure> {
        for hook in self.chosen(wishes, Phase::Before) {
            let decided = tokio::select! {
                biased;
                () = around.stop.cancelled() => Err(Failure::new(Class::Cancelled, "the turn was cancelled")),
                decided = hook.before(occasion, around) => decided,
            };
            match decided {
                Ok(Decision::Go) => {}
                Ok(Decision::Rewrite(prompt)) => occasion.prompt = prompt,
                Ok(Decision::Stop(reason)) => {
                    self.metrics.lock().stopped(&hook.name);
                    let message = format!("hook '{}' stopped it: {reason}", hook.name);
                    return Err(Failure::new(Class::Denied, message));
                }
                Err(failure) => {
                    self.metrics.lock().stopped(&hook.name);
                    return Err(failure);
                }
            }
        }
        Ok(())
    }

    /// Runs the hooks after a turn. Nothing stops here; what went wrong comes back as warnings.
    pub async fn after(
        &self,
        occasion: &Occasion,
        report: &Report,
        wishes: &[Wish],
        around: Around<'_>,
    ) -> Vec<String> {
        let mut warnings = Vec::new();
        for hook in self.chosen(wishes, Phase::After(report)) {
            let ran = match hook.settings.kind {
                HookKind::Metrics => {
                    self.metrics.lock().ended(&occasion.provider, report);
                    self.write_metrics(hook)
                }
                HookKind::Log => {
                    log_after(occasion, report);
                    Ok(())
                }
                HookKind::Command | HookKind::Webhook => {
                    hook.decide(occasion, Phase::After(report), around).await.map(drop)
                }
                HookKind::Auth | HookKind::Validate | HookKind::RateLimit => Ok(()),
            };
            if let Err(reason) = ran {
                warnings.push(format!("hook '{}' {reason}", hook.name));
            }
        }
        warnings
    }

    /// Those that take part: as configured, or as a message wishes of those that it may switch.
    fn chosen(&self, wishes: &[Wish], phase: Phase<'_>) -> impl Iterator<Item = &Hook> {
        self.hooks.iter().filter(move |hook| {
            let wish = wishes.iter().rev().find(|wish| wish.name == hook.name && hook.settings.optional);
            wish.map_or(hook.settings.enabled, |wish| wish.enabled) && phase.is_of(hook.settings.runs())
        })
    }

    fn write_metrics(&self, hook: &Hook) -> Result<(), String> {
        let Some(file) = &hook.settings.file else { return Ok(()) };
        let text = self.metrics.lock().text();
        // Whoever reads it never sees half of it.
        let new = PathBuf::from(format!("{}.new", file.display()));
        std::fs::write(&new, text)
            .and_then(|()| std::fs::rename(&new, file))
            .map_err(|error| format!("cannot write {}: {error}", file.display()))
    }
}

impl Hook {
    async fn before(&self, occasion: &Occasion, around: Around<'_>) -> Result<Decision, Failure> {
        let settings = &self.settings;
        match settings.kind {
            HookKind::Auth => builtin::auth(occasion, around.has_credentials).map(|()| Decision::Go),
            HookKind::Validate => builtin::validate(occasion, settings).map(|()| Decision::Go),
            HookKind::RateLimit => {
                let now = (around.now)();
                let mut bucket = self.bucket.lock();
                let bucket = bucket.get_or_insert_with(|| Bucket::new(now));
                builtin::limit(bucket, settings, now).map(|()| Decision::Go)
            }
            HookKind::Log => {
                info!(
                    provider = %occasion.provider, session = %occasion.session_id, source = occasion.source,
                    prompt_bytes = occasion.prompt.len(), attempt = occasion.attempt, "a turn begins"
                );
                Ok(Decision::Go)
            }
            HookKind::Metrics => Ok(Decision::Go),
            HookKind::Command | HookKind::Webhook => {
                match self.decide(occasion, Phase::Before, around).await {
                    Ok(decision) => Ok(decision),
                    Err(reason) if settings.required => {
                        let message =
                            format!("hook '{}' {reason}; without it no turn begins (required)", self.name);
                        Err(Failure::new(Class::Denied, message))
                    }
                    Err(reason) => {
                        warn!(hook = %self.name, %reason, "a hook failed, and is not required");
                        Ok(Decision::Go)
                    }
                }
            }
        }
    }

    /// Asks a program or an address.
    async fn decide(
        &self,
        occasion: &Occasion,
        phase: Phase<'_>,
        around: Around<'_>,
    ) -> Result<Decision, String> {
        let settings = &self.settings;
        let patience = std::time::Duration::from_secs(settings.timeout_s);
        let body = self.body(occasion, phase);
        if settings.kind == HookKind::Webhook {
            let post = Post {
                url: settings.url.as_deref(),
                url_file: settings.url_file.as_deref(),
                key_file: settings.key_file.as_deref(),
                patience,
            };
            return post.decide(&body).await;
        }
        let environment = environment(&settings.variables, &[], around.variables);
        let program = Program {
            command: &settings.command,
            directory: Path::new(&occasion.directory),
            environment: &environment,
            input: body.to_string().into_bytes(),
            patience,
        };
        program.decide(around.groups).await
    }

    fn body(&self, occasion: &Occasion, phase: Phase<'_>) -> Value {
        match phase {
            Phase::Before => json!({ "phase": "before", "hook": self.name, "command": occasion }),
            Phase::After(report) => {
                json!({ "phase": "after", "hook": self.name, "command": occasion, "result": report })
            }
        }
    }
}

fn log_after(occasion: &Occasion, report: &Report) {
    info!(
        provider = %occasion.provider, session = %occasion.session_id, source = occasion.source,
        success = report.success, class = report.class.unwrap_or("-"), duration_ms = report.execution_time_ms,
        "a turn has ended"
    );
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::agents::{Access, Groups};

    fn hooks(text: &str) -> Hooks {
        Hooks::new(&toml::from_str(text).unwrap())
    }

    fn occasion() -> Occasion {
        Occasion {
            session_id: "s-1".to_owned(),
            provider: "claude".to_owned(),
            prompt: "count".to_owned(),
            directory: std::env::temp_dir().display().to_string(),
            model: None,
            access: Access::Default,
            source: "cli",
            correlation_ids: Vec::new(),
            attempt: 1,
        }
    }

    fn report() -> Report {
        Report {
            success: true,
            output: "two".to_owned(),
            error: None,
            class: None,
            execution_time_ms: 4_200,
            input_tokens: Some(3),
            output_tokens: Some(4),
            cost_usd: None,
        }
    }

    struct Stage {
        variables: BTreeMap<String, String>,
        groups: Groups,
        stop: CancellationToken,
        has_credentials: bool,
    }

    impl Stage {
        fn new() -> Self {
            let variables = [("PATH", "/usr/bin:/bin"), ("A_KEY", "x"), ("B_KEY", "y")];
            Self {
                variables: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
                groups: Groups::default(),
                stop: CancellationToken::new(),
                has_credentials: true,
            }
        }

        fn around(&self) -> Around<'_> {
            Around {
                variables: &self.variables,
                groups: &self.groups,
                has_credentials: self.has_credentials,
                stop: &self.stop,
                now: || Timestamp::UNIX_EPOCH,
            }
        }

        async fn before(&self, hooks: &Hooks, wishes: &[Wish]) -> Result<String, Failure> {
            let mut occasion = occasion();
            hooks.before(&mut occasion, wishes, self.around()).await.map(|()| occasion.prompt)
        }
    }

    fn wish(name: &str, enabled: bool) -> Wish {
        Wish { name: name.to_owned(), enabled }
    }

    #[tokio::test]
    async fn they_run_by_priority_and_each_sees_the_prompt_of_the_one_before() {
        let add = |word: &str| {
            format!(
                "command = ['sh', '-c', \"sed 's/.*\\\"prompt\\\":\\\"\\\\([^\\\"]*\\\\).*/{{\\\"prompt\\\":\\\"\\\\1 {word}\\\"}}/'\"]"
            )
        };
        let text = format!(
            "[a]\nkind = 'command'\npriority = 20\n{}\n[b]\nkind = 'command'\npriority = 10\n{}\n[c]\nkind = 'command'\npriority = 20\n{}",
            add("a"),
            add("b"),
            add("c")
        );
        let prompt = Stage::new().before(&hooks(&text), &[]).await.unwrap();
        assert_eq!(prompt, "count b a c");
    }

    #[tokio::test]
    async fn the_first_that_says_no_stops_the_turn() {
        let stage = Stage::new();
        let dir = tempfile::tempdir().unwrap();
        let note = dir.path().join("ran");
        let text = format!(
            "[guard]\nkind = 'command'\npriority = 1\ncommand = ['sh', '-c', 'echo not on sundays >&2; exit 2']\n\
             [later]\nkind = 'command'\ncommand = ['touch', '{}']",
            note.display()
        );
        let hooks = hooks(&text);
        let failure = stage.before(&hooks, &[]).await.unwrap_err();
        assert_eq!(
            (failure.class, failure.message.as_str()),
            (Class::Denied, "hook 'guard' stopped it: not on sundays")
        );
        assert!(!note.exists(), "nobody after it runs");
        assert!(hooks.metrics().text().contains("turns_stopped_total{hook=\"guard\"} 1"));
    }

    #[tokio::test]
    async fn a_guard_that_cannot_run_guards_unless_it_need_not() {
        let stage = Stage::new();
        for command in ["['no-such-program']", "['false']", "['echo', 'hello']"] {
            let text = format!("[guard]\nkind = 'command'\ncommand = {command}");
            let failure = stage.before(&hooks(&text), &[]).await.unwrap_err();
            assert!(failure.class == Class::Denied && failure.message.contains("required"), "{failure}");
            let text = format!("{text}\nrequired = false");
            assert_eq!(stage.before(&hooks(&text), &[]).await.as_deref(), Ok("count"));
        }
    }

    #[tokio::test]
    async fn the_built_in_ones_do_what_they_say() {
        let mut stage = Stage::new();
        let limit = hooks("[slow]\nkind = 'rate-limit'\nper_minute = 2");
        for _ in 0..2 {
            assert!(stage.before(&limit, &[]).await.is_ok());
        }
        let failure = stage.before(&limit, &[]).await.unwrap_err();
        assert_eq!((failure.class, failure.retry_after.unwrap().as_secs()), (Class::RateLimited, 30));
        let forbid = hooks("[fit]\nkind = 'validate'\nforbid = ['COUNT']");
        assert_eq!(stage.before(&forbid, &[]).await.unwrap_err().class, Class::BadRequest);
        let plain = hooks("[fit]\nkind = 'validate'\nplain = true");
        for (prompt, is_plain) in [
            ("mail me @ noon, a/b", true),
            (" /clear", false),
            ("read @/etc/passwd", false),
            ("\n@notes.md", false),
        ] {
            let mut occasion = Occasion { prompt: prompt.to_owned(), ..occasion() };
            let passed = plain.before(&mut occasion, &[], stage.around()).await;
            assert_eq!(passed.is_ok(), is_plain, "{prompt}: {passed:?}");
        }
        let short = hooks("[fit]\nkind = 'validate'\nmax_prompt_kb = 0");
        assert!(stage.before(&short, &[]).await.unwrap_err().message.contains("5 bytes"));
        let auth = hooks("[who]\nkind = 'auth'");
        assert!(stage.before(&auth, &[]).await.is_ok());
        stage.has_credentials = false;
        assert_eq!(stage.before(&auth, &[]).await.unwrap_err().class, Class::Auth);
    }

    #[tokio::test]
    async fn a_message_switches_only_what_is_there_for_it() {
        let stage = Stage::new();
        let no = "kind = 'command'\ncommand = ['sh', '-c', 'exit 2']";
        let guard = hooks(&format!("[guard]\n{no}"));
        assert!(stage.before(&guard, &[wish("guard", false)]).await.is_err(), "a guard stays");
        let extra = hooks(&format!("[extra]\n{no}\noptional = true\nenabled = false"));
        assert!(stage.before(&extra, &[]).await.is_ok());
        assert!(stage.before(&extra, &[wish("extra", true)]).await.is_err());
        assert_eq!(extra.check(&[wish("extra", true)]), Ok(()));
        assert_eq!(guard.check(&[wish("guard", false)]).unwrap_err().class, Class::BadRequest);
        assert_eq!(guard.check(&[wish("of-my-own", true)]).unwrap_err().class, Class::BadRequest);
    }

    #[tokio::test]
    async fn after_a_turn_they_are_told_what_became_of_it_and_change_nothing() {
        let stage = Stage::new();
        let dir = tempfile::tempdir().unwrap();
        let (told, prom) = (dir.path().join("told"), dir.path().join("m.prom"));
        let text = format!(
            "[tell]\nkind = 'command'\nwhen = 'after'\nvariables = ['A_*']\ncommand = ['sh', '-c', 'cat > {}; env >&2; exit 2']\n\
             [broken]\nkind = 'command'\nwhen = 'after'\ncommand = ['false']\n[count]\nkind = 'metrics'\nfile = '{}'\n[note]\nkind = 'log'",
            told.display(),
            prom.display()
        );
        let warnings = hooks(&text).after(&occasion(), &report(), &[], stage.around()).await;
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].starts_with("hook 'broken' ended with"), "{warnings:?}");
        let told: Value = serde_json::from_str(&std::fs::read_to_string(told).unwrap()).unwrap();
        assert_eq!((&told["phase"], &told["command"]["prompt"]), (&json!("after"), &json!("count")));
        assert_eq!((&told["result"]["success"], &told["result"]["output"]), (&json!(true), &json!("two")));
        let text = std::fs::read_to_string(prom).unwrap();
        assert!(text.contains("godctl_agent_turns_total{provider=\"claude\",outcome=\"ok\"} 1"), "{text}");
        assert!(
            text.contains("le=\"1\"} 0")
                && text.contains("le=\"5\"} 1")
                && text.contains("_sum{provider=\"claude\"} 4.200")
        );
    }

    #[tokio::test]
    async fn a_hook_gets_no_variables_but_those_that_it_may_have() {
        let text = "[see]\nkind = 'command'\nvariables = ['A_*']\ncommand = ['sh', '-c', 'echo $A_KEY$B_KEY >&2; exit 2']";
        let failure = Stage::new().before(&hooks(text), &[]).await.unwrap_err();
        assert!(failure.message.ends_with(": x"), "{failure}");
    }

    #[tokio::test]
    async fn cancelling_stops_a_hook_and_the_turn() {
        let stage = Stage::new();
        let hooks = hooks("[slow]\nkind = 'command'\ncommand = ['sleep', '600']");
        let cancel = async {
            while stage.groups.is_empty() {
                tokio::task::yield_now().await;
            }
            stage.stop.cancel();
        };
        let (decided, ()) = tokio::join!(stage.before(&hooks, &[]), cancel);
        assert_eq!(decided.unwrap_err().class, Class::Cancelled);
        assert!(stage.groups.is_empty());
    }
}
