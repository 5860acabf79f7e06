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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::{
        Router,
        extract::{Path as Route, State},
        http::{HeaderMap, StatusCode},
        routing::post,
    };
    use parking_lot::Mutex;
    use serde_json::json;

    use super::*;

    type Seen = Arc<Mutex<Vec<(Option<String>, Value)>>>;

    /// Answers as the last part of the address says, and notes what it was told.
    async fn answer(
        State(seen): State<Seen>,
        Route(what): Route<String>,
        headers: HeaderMap,
        body: String,
    ) -> (StatusCode, String) {
        let key = headers.get("authorization").map(|key| key.to_str().unwrap().to_owned());
        seen.lock().push((key, serde_json::from_str(&body).unwrap()));
        match what.as_str() {
            "abort" => (StatusCode::OK, json!({"abort": true, "message": "not today"}).to_string()),
            "prompt" => (StatusCode::OK, json!({"prompt": "something else"}).to_string()),
            "broken" => (StatusCode::INTERNAL_SERVER_ERROR, "secret detail".to_owned()),
            "never" => std::future::pending().await,
            _ => (StatusCode::OK, "thanks".to_owned()),
        }
    }

    async fn server() -> (String, Seen) {
        let seen = Seen::default();
        let app = Router::new().route("/hook/{what}", post(answer)).with_state(Arc::clone(&seen));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        #[allow(clippy::disallowed_methods, reason = "ends with the runtime of the test")]
        tokio::spawn(async move { axum::serve(listener, app).await });
        (format!("http://{address}/hook/"), seen)
    }

    fn at(url: &str) -> Post<'_> {
        Post { url: Some(url), url_file: None, key_file: None, patience: Duration::from_secs(60) }
    }

    #[tokio::test]
    async fn the_answer_of_a_service_decides_and_a_word_for_people_does_not() {
        let (url, seen) = server().await;
        let body = json!({"phase": "before", "prompt": "count"});
        let decide = async |what: &str| at(&format!("{url}{what}")).decide(&body).await;
        assert_eq!(decide("fine").await, Ok(Decision::Go));
        assert_eq!(decide("prompt").await, Ok(Decision::Rewrite("something else".to_owned())));
        assert_eq!(decide("abort").await, Ok(Decision::Stop("not today".to_owned())));
        assert_eq!(decide("broken").await, Err("answered with HTTP 500".to_owned()));
        assert!(seen.lock().iter().all(|(key, told)| key.is_none() && *told == body));
    }

    #[tokio::test]
    async fn an_address_and_a_key_come_from_files_and_are_not_told() {
        let (url, seen) = server().await;
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (place, key) = (file("url", &format!("{url}fine\n")), file("key", "marker-of-a-key\n"));
        let post = Post { url: None, url_file: Some(&place), key_file: Some(&key), ..at("") };
        assert_eq!(post.decide(&json!({})).await, Ok(Decision::Go));
        assert_eq!(seen.lock()[0].0.as_deref(), Some("Bearer marker-of-a-key"));
        let nobody = file("nobody", "http://127.0.0.1:9/marker-of-an-address");
        let lost =
            Post { url: None, url_file: Some(&nobody), ..at("") }.decide(&json!({})).await.unwrap_err();
        assert!(lost.starts_with("was not reached") && !lost.contains("marker"), "{lost}");
    }

    #[tokio::test]
    async fn a_service_that_does_not_answer_is_cut() {
        let (url, _) = server().await;
        let slow = Post { patience: Duration::from_millis(100), ..at(&format!("{url}never")) }
            .decide(&json!({}))
            .await;
        assert_eq!(slow, Err("did not answer within 0 s".to_owned()));
    }
}
