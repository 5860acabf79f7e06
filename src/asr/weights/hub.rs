//! The client of a Hugging Face hub: what a repository holds, and the bytes of its files.
//!
//! Redirects are followed by hand, so that the token goes to the hub's own origin and to no other, and no error
//! ever shows the address of a redirect (those carry signatures).

use std::{error::Error, time::Duration};

use reqwest::{
    Certificate, Client, Response, StatusCode, Url,
    header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderValue, LOCATION, RANGE, RETRY_AFTER},
    redirect::Policy,
};
use serde::Deserialize;

use super::{
    HubOptions,
    error::WeightsError,
    name::{HubModel, is_inside},
};

const USER_AGENT: &str = concat!("godctl/", env!("CARGO_PKG_VERSION"));
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// The longest silence in the middle of a body.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_REDIRECTS: usize = 8;
/// The largest listing accepted; a repository of ten thousand files needs about 2 MB.
const MAX_LISTING_BYTES: usize = 16 << 20;

/// How a file's content is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Checksum {
    /// Of a large file: SHA-256 of its content, in lower-case hex.
    Sha256(String),
    /// Of a small file: its name as a git blob, SHA-1 over `blob <length>\0` and the content.
    GitBlob(String),
}

/// One file of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteFile {
    pub(super) name: String,
    pub(super) size: u64,
    pub(super) checksum: Checksum,
}

/// A repository at one commit.
#[derive(Debug, Clone)]
pub(super) struct Listing {
    pub(super) repo: String,
    pub(super) commit: String,
    pub(super) licence: Option<String>,
    files: Vec<Sibling>,
}

#[derive(Debug, Deserialize)]
struct Answer {
    sha: String,
    siblings: Vec<Sibling>,
    #[serde(default, rename = "cardData")]
    card: Option<serde_json::Value>,
    #[serde(default)]
    tags: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
struct Sibling {
    #[serde(rename = "rfilename")]
    name: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Debug, Clone, Deserialize)]
struct Lfs {
    sha256: String,
    size: u64,
}

/// A hub, reachable or not.
pub(super) struct Hub {
    client: Client,
    endpoint: Url,
    authorization: Option<HeaderValue>,
}

impl Hub {
    /// # Errors
    /// [`WeightsError::Settings`] when the endpoint or the token cannot be used.
    pub(super) fn new(options: &HubOptions) -> Result<Self, WeightsError> {
        let endpoint = parse_endpoint(&options.endpoint)?;
        let authorization = options
            .token
            .as_ref()
            .map(|token| token.expose().trim())
            .filter(|token| !token.is_empty())
            .map(|token| {
                let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| {
                    WeightsError::Settings(
                        "the hub token holds characters that no token has; check HF_TOKEN".to_owned(),
                    )
                })?;
                value.set_sensitive(true);
                Ok(value)
            })
            .transpose()?;
        Ok(Self { client: client(&endpoint)?, endpoint, authorization })
    }

    /// What the repository holds at the model's revision.
    ///
    /// # Errors
    /// Any of the network's and the hub's variants of [`WeightsError`].
    pub(super) async fn list(&self, model: &HubModel) -> Result<Listing, WeightsError> {
        let mut url = self.url(&["api", "models"], &model.repo)?;
        self.push(&mut url, &["revision", &model.revision])?;
        url.set_query(Some("blobs=true"));
        let mut response = self.get(url, 0, &model.repo).await?;
        self.refuse(&response, &model.repo, &format!("{} at revision {}", model.repo, model.revision))?;
        let mut body = Vec::new();
        while let Some(chunk) =
            response.chunk().await.map_err(|e| unreachable("reading the model's file list", e))?
        {
            if body.len() + chunk.len() > MAX_LISTING_BYTES {
                return Err(self.protocol("the file list does not end"));
            }
            body.extend_from_slice(&chunk);
        }
        let answer: Answer = serde_json::from_slice(&body).map_err(|error| {
            self.protocol(&format!("the file list of {} cannot be read: {error}", model.repo))
        })?;
        self.listing(model, answer)
    }

    fn listing(&self, model: &HubModel, answer: Answer) -> Result<Listing, WeightsError> {
        // The commit becomes part of a directory's name.
        if !(7..=64).contains(&answer.sha.len()) || !answer.sha.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(self.protocol("the commit is not a commit"));
        }
        if let Some(evil) = answer.siblings.iter().find(|file| !is_inside(&file.name)) {
            return Err(
                self.protocol(&format!("a file is called {:?}, outside of its repository", evil.name))
            );
        }
        let licence =
            answer.card.as_ref().and_then(|card| card.get("license")).and_then(|licence| match licence {
                serde_json::Value::String(one) => Some(one.clone()),
                serde_json::Value::Array(many) => {
                    let names: Vec<_> = many.iter().filter_map(serde_json::Value::as_str).collect();
                    (!names.is_empty()).then(|| names.join(", "))
                }
                serde_json::Value::Null
                | serde_json::Value::Bool(_)
                | serde_json::Value::Number(_)
                | serde_json::Value::Object(_) => None,
            });
        let tagged = || answer.tags.iter().find_map(|tag| tag.strip_prefix("license:")).map(str::to_owned);
        Ok(Listing {
            repo: model.repo.clone(),
            commit: answer.sha.to_ascii_lowercase(),
            licence: licence.or_else(tagged),
            files: answer.siblings,
        })
    }

    /// Asks for a file's content from byte `offset` on. The status is 200 or 206.
    ///
    /// # Errors
    /// Any of the network's and the hub's variants of [`WeightsError`].
    pub(super) async fn open(
        &self,
        listing: &Listing,
        file: &str,
        offset: u64,
    ) -> Result<Response, WeightsError> {
        let mut url = self.url(&[], &listing.repo)?;
        self.push(&mut url, &["resolve", &listing.commit, file])?;
        let response = self.get(url, offset, file).await?;
        if response.status() != StatusCode::RANGE_NOT_SATISFIABLE {
            self.refuse(&response, &listing.repo, &format!("{file} of {}", listing.repo))?;
        }
        Ok(response)
    }

    /// The page where a person reads and accepts a model's terms.
    fn page(&self, repo: &str) -> String {
        format!("{}/{repo}", self.shown())
    }

    /// The endpoint as errors show it.
    fn shown(&self) -> &str {
        self.endpoint.as_str().trim_end_matches('/')
    }

    fn protocol(&self, reason: &str) -> WeightsError {
        WeightsError::Protocol { endpoint: self.shown().to_owned(), reason: reason.to_owned() }
    }

    fn url(&self, before: &[&str], repo: &str) -> Result<Url, WeightsError> {
        let mut url = self.endpoint.clone();
        self.push(&mut url, before)?;
        self.push(&mut url, &repo.split('/').collect::<Vec<_>>())?;
        Ok(url)
    }

    /// Appends path segments; a slash inside one is escaped, which is how the hub wants `refs/pr/1`.
    fn push(&self, url: &mut Url, segments: &[&str]) -> Result<(), WeightsError> {
        url.path_segments_mut()
            .map_err(|()| WeightsError::Settings(format!("{} cannot be a hub's address", self.shown())))?
            .pop_if_empty()
            .extend(segments);
        Ok(())
    }

    async fn get(&self, mut url: Url, offset: u64, what: &str) -> Result<Response, WeightsError> {
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.client.get(url.clone()).header(ACCEPT_ENCODING, "identity");
            if let Some(authorization) = self.authorization.as_ref().filter(|_| self.is_ours(&url)) {
                request = request.header(AUTHORIZATION, authorization.clone());
            }
            if offset > 0 {
                request = request.header(RANGE, format!("bytes={offset}-"));
            }
            let response = request.send().await.map_err(|e| unreachable(&format!("asking for {what}"), e))?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            url = self.follow(&url, &response)?;
        }
        Err(self.protocol(&format!("more than {MAX_REDIRECTS} redirects")))
    }

    fn follow(&self, from: &Url, response: &Response) -> Result<Url, WeightsError> {
        let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
        next_hop(from, location.unwrap_or_default()).map_err(|reason| self.protocol(reason))
    }

    fn is_ours(&self, url: &Url) -> bool {
        url.origin() == self.endpoint.origin()
    }

    /// Turns every status but success into the error that says what to do.
    fn refuse(&self, response: &Response, repo: &str, what: &str) -> Result<(), WeightsError> {
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let endpoint = self.shown().to_owned();
        let code =
            response.headers().get("x-error-code").and_then(|code| code.to_str().ok()).unwrap_or_default();
        Err(match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                WeightsError::Busy { endpoint, status: status.as_u16(), retry_after: retry_after(response) }
            }
            // Another host has no say in access: its signed address ran out, and asking the hub again gives a new one.
            _ if status.is_server_error() || !self.is_ours(response.url()) => {
                unreachable(&format!("asking for {what}"), format!("the server answered {status}"))
            }
            // For whoever is not logged in, the hub answers 401 to what does not exist.
            _ if ["RepoNotFound", "RevisionNotFound", "EntryNotFound"].contains(&code) => {
                WeightsError::NotFound { what: what.to_owned(), endpoint }
            }
            // Not even public models are given to a token that is not one.
            StatusCode::UNAUTHORIZED if self.authorization.is_some() && code != "GatedRepo" => {
                WeightsError::Settings(format!(
                    "{endpoint} does not accept the token; check HF_TOKEN (models.token), it may have expired"
                ))
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => WeightsError::AccessDenied {
                repo: repo.to_owned(),
                page: self.page(repo),
                token_sent: self.authorization.is_some(),
            },
            StatusCode::NOT_FOUND => WeightsError::NotFound { what: what.to_owned(), endpoint },
            _ => self.protocol(&format!("it answered {status} to the request for {what}")),
        })
    }

    /// The metadata of one file of a listing, if it is there.
    ///
    /// # Errors
    /// [`WeightsError::Protocol`] when the hub gives no size or no checksum.
    pub(super) fn file(&self, listing: &Listing, name: &str) -> Result<Option<RemoteFile>, WeightsError> {
        let Some(sibling) = listing.files.iter().find(|file| file.name == name) else {
            return Ok(None);
        };
        let is_hex = |text: &str, length| text.len() == length && text.bytes().all(|b| b.is_ascii_hexdigit());
        let checked = match (&sibling.lfs, &sibling.blob, sibling.size) {
            (Some(lfs), _, _) if is_hex(&lfs.sha256, 64) => {
                Some((lfs.size, Checksum::Sha256(lfs.sha256.to_ascii_lowercase())))
            }
            (None, Some(blob), Some(size)) if is_hex(blob, 40) => {
                Some((size, Checksum::GitBlob(blob.to_ascii_lowercase())))
            }
            _ => None,
        };
        let (size, checksum) = checked
            .ok_or_else(|| self.protocol(&format!("{name} is listed without its size and checksum")))?;
        Ok(Some(RemoteFile { name: name.to_owned(), size, checksum }))
    }
}

impl Listing {
    /// True when some file's name ends so.
    pub(super) fn has_suffix(&self, suffix: &str) -> bool {
        self.files.iter().any(|file| file.name.ends_with(suffix))
    }
}

fn parse_endpoint(endpoint: &str) -> Result<Url, WeightsError> {
    // The text itself is not shown before it is known to hold no password.
    let url = Url::parse(endpoint.trim()).map_err(|error| {
        WeightsError::Settings(format!(
            "models.endpoint (HF_ENDPOINT) is not an address: {error}; e.g. https://huggingface.co"
        ))
    })?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(WeightsError::Settings(
            "models.endpoint (HF_ENDPOINT) holds a user name or password; put the token into HF_TOKEN"
                .to_owned(),
        ));
    }
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(WeightsError::Settings(format!(
            "models.endpoint (HF_ENDPOINT) must be http or https, not {url}"
        )));
    }
    Ok(url)
}

fn client(endpoint: &Url) -> Result<Client, WeightsError> {
    // A second call finds the provider installed, which is what is wanted.
    drop(rustls::crypto::ring::default_provider().install_default());
    let builder = || {
        let builder = Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .redirect(Policy::none());
        // A mirror on this machine is not reached through a proxy.
        let local = matches!(endpoint.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        if local { builder.no_proxy() } else { builder }
    };
    builder()
        .build()
        .or_else(|error| {
            // A machine without root certificates can still use a plain-text mirror.
            if endpoint.scheme() == "http" {
                builder().tls_certs_only(std::iter::empty::<Certificate>()).build()
            } else {
                Err(error)
            }
        })
        .map_err(|error| {
            let reason = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            WeightsError::Settings(format!(
                "cannot set up TLS: {reason}; is the package ca-certificates installed?"
            ))
        })
}

/// Where a redirect leads; relative addresses are as good as absolute ones.
fn next_hop(from: &Url, location: &str) -> Result<Url, &'static str> {
    let to = from.join(location).ok().filter(|_| !location.is_empty()).ok_or("a redirect leads nowhere")?;
    match (from.scheme(), to.scheme()) {
        (_, "https") | ("http", "http") => Ok(to),
        _ => Err("a redirect leads to an unprotected address"),
    }
}

/// Wraps a failure of the transport, without the address.
pub(super) fn unreachable(doing: &str, source: impl Into<Failure>) -> WeightsError {
    WeightsError::Unreachable { doing: doing.to_owned(), source: source.into().0 }
}

/// A failure of the transport.
pub(super) struct Failure(Box<dyn Error + Send + Sync>);

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        Self(Box::new(error.without_url()))
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

/// Seconds; the other form, a date, is rare and read as no wish at all.
fn retry_after(response: &Response) -> Option<Duration> {
    response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    fn hub(endpoint: &str) -> Result<Hub, WeightsError> {
        Hub::new(&HubOptions { endpoint: endpoint.to_owned(), ..HubOptions::new("/nowhere") })
    }

    #[test]
    fn endpoints_are_checked_and_passwords_not_repeated() {
        for bad in ["huggingface.co", "ftp://hub", "data:,x", "https://", "https://me:marker@hub"] {
            let error = hub(bad).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("HF_ENDPOINT") && !error.contains("marker"), "{bad}: {error}");
        }
        let token = Some(Secret::new("hf_marker\u{7f}x".to_owned()));
        let options = HubOptions { token, ..HubOptions::new("/nowhere") };
        let error = Hub::new(&options).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("HF_TOKEN") && !error.contains("marker"), "{error}");
    }

    #[test]
    fn redirects_stay_protected_and_only_the_hub_itself_gets_the_token() {
        let hub = hub("https://hub.example/mirror").unwrap();
        let from = Url::parse("https://hub.example/mirror/a/b/resolve/0/w").unwrap();
        let ours = |location| next_hop(&from, location).map(|to| hub.is_ours(&to));
        assert_eq!(ours("/api/resolve-cache/models/a/b/w"), Ok(true));
        assert_eq!(ours("https://hub.example:443/x"), Ok(true));
        for foreign in
            ["https://cdn.example/w", "https://hub.example.evil/w", "https://hub.example:444/w", "//evil/w"]
        {
            assert_eq!(ours(foreign), Ok(false), "{foreign}");
        }
        for refused in ["http://hub.example/w", "ftp://hub.example/w", "file:///etc/passwd", "", "https://"] {
            assert!(ours(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn addresses_keep_the_endpoints_path_and_escape_revisions() {
        let hub = hub("http://127.0.0.1:1/mirror/").unwrap();
        let mut url = hub.url(&["api", "models"], "openai/whisper-tiny").unwrap();
        hub.push(&mut url, &["revision", "refs/pr/1"]).unwrap();
        assert_eq!(
            url.as_str(),
            "http://127.0.0.1:1/mirror/api/models/openai/whisper-tiny/revision/refs%2Fpr%2F1"
        );
    }

    #[test]
    fn listings_are_read_as_the_hub_writes_them() {
        let hub = hub("http://127.0.0.1:1").unwrap();
        let model = HubModel { repo: "a/b".to_owned(), revision: "main".to_owned(), entry: None };
        let answer = |json: &str| hub.listing(&model, serde_json::from_str(json).unwrap());
        let listing = answer(
            r#"{"_id":"x","id":"a/b","sha":"169D4A4341B33BC18D8881C4B69C2E104E1CC0AF","gated":false,"tags":["license:mit"],
                "siblings":[{"rfilename":"config.json","size":3,"blobId":"0123456789012345678901234567890123456789"},
                {"rfilename":"w","size":5,"blobId":"f","lfs":{"sha256":"00000000000000000000000000000000000000000000000000000000000000AB","size":5,"pointerSize":1}},
                {"rfilename":"bare"}]}"#,
        )
        .unwrap();
        assert_eq!(listing.commit, "169d4a4341b33bc18d8881c4b69c2e104e1cc0af");
        assert_eq!(listing.licence.as_deref(), Some("mit"));
        let weights = hub.file(&listing, "w").unwrap().unwrap();
        assert!(matches!(weights.checksum, Checksum::Sha256(sum) if sum.ends_with("ab")));
        assert!(hub.file(&listing, "absent").unwrap().is_none());
        assert!(matches!(hub.file(&listing, "bare"), Err(WeightsError::Protocol { .. })));
        for evil in
            [r#"{"sha":"../../x","siblings":[]}"#, r#"{"sha":"0000000","siblings":[{"rfilename":"../x"}]}"#]
        {
            assert!(matches!(answer(evil), Err(WeightsError::Protocol { .. })), "{evil}");
        }
    }
}
