//! Posts what happens to an address, as JSON; the answer may decide as the output of a program does.

use std::{path::Path, time::Duration};

use serde_json::Value;
use tokio::time::timeout;

use super::{super::http, Decision, external::decision};
use crate::config::Secret;

/// How much of an answer is read: a prompt that was rewritten, as JSON.
const MAX_ANSWER: usize = 128 * 1024 * 1024;
/// Until the connection stands.
const CONNECT: Duration = Duration::from_secs(10);

/// Where it is posted, and with what.
#[derive(Debug)]
pub(super) struct Post<'a> {
    pub(super) url: Option<&'a str>,
    pub(super) url_file: Option<&'a Path>,
    pub(super) key_file: Option<&'a Path>,
    pub(super) patience: Duration,
}

impl Post<'_> {
    /// Posts it.
    ///
    /// # Errors
    /// Why it decided nothing; without the address, which may be a secret.
    pub(super) async fn decide(&self, body: &Value) -> Result<Decision, String> {
        timeout(self.patience, self.post(body))
            .await
            .map_err(|_| format!("did not answer within {} s", self.patience.as_secs()))?
    }

    async fn post(&self, body: &Value) -> Result<Decision, String> {
        let url = match (self.url, self.url_file) {
            (Some(url), _) => url.to_owned(),
            (None, Some(file)) => read("url_file", file)?.expose().to_owned(),
            (None, None) => return Err("has no address".to_owned()),
        };
        let client = http::client(&url, CONNECT).map_err(|_| "has an address that is none".to_owned())?;
        let mut post = client.post(&url).json(body);
        if let Some(file) = self.key_file {
            let key = http::bearer(&read("key_file", file)?).map_err(|failure| failure.message)?;
            post = post.header(reqwest::header::AUTHORIZATION, key);
        }
        let failed =
            |error: reqwest::Error| format!("was not reached: {}", http::root_of(&error.without_url()));
        let mut response = post.send().await.map_err(failed)?;
        if !response.status().is_success() {
            return Err(format!("answered with HTTP {}", response.status().as_u16()));
        }
        let mut answer = Vec::new();
        while let Some(bytes) = response.chunk().await.map_err(failed)? {
            if answer.len() + bytes.len() > MAX_ANSWER {
                return Err("answered with more than a prompt".to_owned());
            }
            answer.extend_from_slice(&bytes);
        }
        // Most services answer with a word for people, which decides nothing.
        Ok(decision(&answer).unwrap_or(Decision::Go))
    }
}

fn read(key: &'static str, file: &Path) -> Result<Secret, String> {
    Secret::read(key, file).map_err(|error| error.to_string())
}
