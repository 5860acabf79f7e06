//! What checks find, and how it is shown: for `godctl doctor` and `godctl bus doctor`. Pure but for the printing.

use std::io::Write as _;

use super::{Exit, Failure, Stdout};

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    /// Works.
    Ok,
    /// Works, but not as well as it could.
    Warn,
    /// Not there; what needs it will say so, the rest works.
    Missing,
    /// Essential, and broken.
    Failed,
    /// This version has no such part.
    Later,
}

impl Status {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Missing => "missing",
            Self::Failed => "failed",
            Self::Later => "later",
        }
    }

    const fn color(self) -> &'static str {
        match self {
            Self::Ok => "\x1b[32m",
            Self::Warn | Self::Missing => "\x1b[33m",
            Self::Failed => "\x1b[31m",
            Self::Later => "\x1b[2m",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(super) struct Finding {
    pub(super) status: Status,
    pub(super) detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) fix: Option<String>,
}

impl Finding {
    pub(super) fn ok(detail: impl Into<String>) -> Self {
        Self { status: Status::Ok, detail: detail.into(), fix: None }
    }

    pub(super) fn new(status: Status, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), fix: Some(fix.into()) }
    }

    pub(super) fn later(detail: &str) -> Self {
        Self { status: Status::Later, detail: detail.to_owned(), fix: None }
    }
}

#[derive(Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct Report {
    ok: bool,
    checks: Vec<Named>,
}

#[derive(Debug, PartialEq, Eq, serde::Serialize)]
pub(super) struct Named {
    pub(super) name: &'static str,
    #[serde(flatten)]
    pub(super) finding: Finding,
}

impl Report {
    /// Of these checks; good if none of them failed.
    pub(super) fn new(checks: Vec<Named>) -> Self {
        Self { ok: checks.iter().all(|check| check.finding.status != Status::Failed), checks }
    }

    /// Writes it to standard output.
    ///
    /// # Errors
    /// When something failed, which ends the process with this code, or nobody reads.
    pub(super) fn print(&self, json: bool, color: bool, exit: Exit) -> anyhow::Result<()> {
        let mut stdout = Stdout::lock();
        match json {
            true => writeln!(stdout, "{}", serde_json::to_string(self)?)?,
            false => write!(stdout, "{}", table(self, color))?,
        }
        if self.ok { Ok(()) } else { Err(Failure::reported(exit).into()) }
    }
}

/// As a table with a verdict below.
fn table(report: &Report, color: bool) -> String {
    let width = report.checks.iter().map(|check| check.name.len()).max().unwrap_or_default();
    let mut text = String::new();
    for Named { name, finding } in &report.checks {
        let word = finding.status.word();
        let word = match color {
            true => format!("{}{word:<7}\x1b[0m", finding.status.color()),
            false => format!("{word:<7}"),
        };
        text.push_str(&format!("{word}  {name:<width$}  {}\n", finding.detail));
        if let Some(fix) = &finding.fix {
            text.push_str(&format!("{:7}  {:width$}  -> {fix}\n", "", ""));
        }
    }
    let count = |status| report.checks.iter().filter(|check| check.finding.status == status).count();
    let verdict = match count(Status::Failed) {
        0 => "nothing essential is broken".to_owned(),
        failed => format!("{failed} essential broken"),
    };
    let (ok, warn, missing) = (count(Status::Ok), count(Status::Warn), count(Status::Missing));
    text.push_str(&format!("\n{verdict}: {ok} ok, {warn} could be better, {missing} missing\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_aligned_columns_and_a_verdict() {
        let checks = vec![
            Named { name: "models", finding: Finding::ok("base.en") },
            Named {
                name: "built-in model",
                finding: Finding::new(Status::Failed, "damaged", "build it again"),
            },
            Named { name: "event bus", finding: Finding::later("none") },
        ];
        let report = Report { ok: false, checks };
        insta::assert_snapshot!(table(&report, false), @r"
        ok       models          base.en
        failed   built-in model  damaged
                                 -> build it again
        later    event bus       none

        1 essential broken: 1 ok, 0 could be better, 0 missing
        ");
        assert!(table(&report, true).contains("\x1b[31mfailed \x1b[0m"));
    }
}
