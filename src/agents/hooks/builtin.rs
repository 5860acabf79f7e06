//! The hooks that need nothing but what they are given. Pure; time is passed in.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    super::{
        Class, Failure,
        limits::bucket::{Bucket, Rate},
    },
    Occasion,
};
use crate::config::HookSettings;

/// How long a turn waits that comes too soon, if none ever would be let through.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// # Errors
/// [`Class::Auth`] if there is nothing to log in with.
pub(super) fn auth(occasion: &Occasion, has_credentials: bool) -> Result<(), Failure> {
    if has_credentials {
        return Ok(());
    }
    let message = format!(
        "there is nothing that {} could log in with; log in first, or set its key",
        occasion.provider
    );
    Err(Failure::new(Class::Auth, message))
}

/// # Errors
/// [`Class::BadRequest`] for a prompt that is too long, or holds what it must not.
pub(super) fn validate(occasion: &Occasion, settings: &HookSettings) -> Result<(), Failure> {
    let refuse = |message: String| Err(Failure::new(Class::BadRequest, message));
    if occasion.prompt.trim().is_empty() {
        return refuse("the prompt is empty".to_owned());
    }
    let bytes = u64::try_from(occasion.prompt.len()).unwrap_or(u64::MAX);
    if let Some(limit) = settings.max_prompt_kb.filter(|limit| bytes > limit.saturating_mul(1_024)) {
        return refuse(format!("the prompt has {bytes} bytes, and {limit} KB is the most"));
    }
    if settings.plain && occasion.prompt.trim_start().starts_with('/') {
        return refuse(
            "the prompt begins with a command of the agent (/), which is forbidden here".to_owned(),
        );
    }
    let is_file = |word: &str| word.strip_prefix('@').is_some_and(|name| !name.is_empty());
    if settings.plain && occasion.prompt.split_whitespace().any(is_file) {
        return refuse(
            "the prompt names a file for the agent to read (@), which is forbidden here".to_owned(),
        );
    }
    let prompt = occasion.prompt.to_lowercase();
    match settings.forbid.iter().find(|text| prompt.contains(&text.to_lowercase())) {
        Some(text) => refuse(format!("the prompt holds '{text}', which is forbidden here")),
        None => Ok(()),
    }
}

/// # Errors
/// [`Class::RateLimited`], with the time until it may begin.
pub(super) fn limit(bucket: &mut Bucket, settings: &HookSettings, now: Timestamp) -> Result<(), Failure> {
    let rate = Rate {
        per_minute: settings.per_minute.unwrap_or(0),
        burst: settings.burst.or(settings.per_minute).unwrap_or(1),
    };
    bucket.take(rate, now).map_err(|wait| {
        let wait = wait.min(NEVER);
        let mut failure = Failure::new(
            Class::RateLimited,
            format!(
                "no more than {} turns a minute; the next may begin in {} s",
                rate.per_minute,
                wait.as_secs() + 1
            ),
        );
        failure.retry_after = Some(wait);
        failure
    })
}
