//! A whole model: lock, list, choose the files, fetch each, install by one rename.
//!
//! Runs on the caller's task. Dropping the future stops it; what was received stays for the next pull.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::Deserialize;

use super::{
    HubOptions, PullEvent, PullProgress,
    backoff::{Backoff, RetryPolicy},
    download::{Download, retry_or_give_up},
    error::WeightsError,
    hub::{Hub, Listing, RemoteFile},
    manifest::ManifestFile,
    name::{HubModel, ModelName, is_file_name},
    store::{self, Installed, Lock},
};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// The largest index read; that of a model with ten thousand tensors has 1 MB.
const MAX_INDEX_BYTES: u64 = 16 << 20;
/// Without these a directory is no model.
const REQUIRED: [&str; 2] = ["config.json", "tokenizer.json"];
const OPTIONAL: [&str; 2] = ["generation_config.json", "preprocessor_config.json"];

impl HubOptions {
    /// The public hub, without a token, keeping models in `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            endpoint: "https://huggingface.co".to_owned(),
            token: None,
            offline: false,
            dir: dir.into(),
            retry: RetryPolicy::default(),
        }
    }
}

/// What a pull came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pulled {
    /// The model is inside the binary: nothing to do.
    BuiltIn,
    /// The hub's newest commit was here already.
    Present(Installed),
    /// Downloaded, checked and installed.
    Fetched {
        /// The model.
        model: Installed,
        /// Bytes that came over the network, those of failed tries too.
        received: u64,
    },
}

/// Brings a model into the data directory, or finds it there. Several processes may pull the same model: one does,
/// the others wait for it.
///
/// # Errors
/// Any variant of [`WeightsError`]; the ones of the network only after the retries of [`HubOptions::retry`].
///
/// # Cancel safety
/// Dropping the future keeps what was received; the next pull goes on from there.
pub async fn pull(
    typed: &str,
    options: &HubOptions,
    progress: &mut dyn PullProgress,
) -> Result<Pulled, WeightsError> {
    let model = match ModelName::parse(typed)? {
        ModelName::BuiltIn => return Ok(Pulled::BuiltIn),
        ModelName::Directory(_) => {
            return Err(WeightsError::BadName {
                name: typed.to_owned(),
                reason: "is a directory, not a model on the hub; use it as it is: --model DIRECTORY"
                    .to_owned(),
            });
        }
        ModelName::Hub(model) => model,
    };
    if options.offline {
        return match store::find(&options.dir, &model)? {
            Some(installed) if installed.check().is_ok() => Ok(Pulled::Present(installed)),
            _ => Err(WeightsError::Offline { name: model.name() }),
        };
    }
    let hub = Hub::new(options)?;
    let _lock = lock(options, &model, progress).await?;
    let listing = list(&hub, &model, options, progress).await?;
    if let Some(installed) = store::find(&options.dir, &model)?
        && installed.manifest.commit == listing.commit
        && installed.check().is_ok()
    {
        return Ok(Pulled::Present(installed));
    }

    let staging = store::staging_dir(&options.dir, &model, &listing.commit)?;
    let mut download =
        Download { hub: &hub, listing: &listing, policy: &options.retry, progress, done: 0, received: 0 };
    let plan = plan(&mut download, &staging).await?;
    download.done = 0;
    let total = plan.iter().map(|file| file.size).sum();
    download.progress.on(PullEvent::Planned { files: plan.len(), total });
    let mut files = Vec::with_capacity(plan.len());
    for file in plan {
        let complete = download.fetch(&file, &staging).await?;
        files.push(ManifestFile { name: file.name, size: file.size, sha256: complete.sha256 });
    }
    download.progress.on(PullEvent::Installing);
    let received = download.received;
    let licence = listing.licence.clone();
    let complete = store::Complete {
        model: &model,
        commit: &listing.commit,
        licence,
        files,
        staging: &staging,
        now: SystemTime::now(),
    };
    Ok(Pulled::Fetched { model: store::install(&options.dir, complete)?, received })
}

/// Waits for the exclusive right to change this model.
async fn lock(
    options: &HubOptions,
    model: &HubModel,
    progress: &mut dyn PullProgress,
) -> Result<Lock, WeightsError> {
    let slug = model.slug();
    let mut told = false;
    loop {
        if let Some(lock) = store::try_lock(&options.dir, &slug)? {
            return Ok(lock);
        }
        if !told {
            progress.on(PullEvent::Waiting);
            told = true;
        }
        // The system's own waiting call would need a thread that cannot be stopped.
        tokio::time::sleep(options.retry.lock_poll).await;
    }
}

async fn list(
    hub: &Hub,
    model: &HubModel,
    options: &HubOptions,
    progress: &mut dyn PullProgress,
) -> Result<Listing, WeightsError> {
    let mut backoff = Backoff::new(&options.retry);
    loop {
        match hub.list(model).await {
            Ok(listing) => return Ok(listing),
            Err(error) => retry_or_give_up(error, &mut backoff, progress).await?,
        }
    }
}

/// The files to fetch, the weights last: what is wrong with a model shows before its gigabytes come.
async fn plan(download: &mut Download<'_>, staging: &Path) -> Result<Vec<RemoteFile>, WeightsError> {
    let (hub, listing) = (download.hub, download.listing);
    let unsupported = |reason: String| WeightsError::Unsupported { repo: listing.repo.clone(), reason };
    let mut plan = Vec::new();
    for name in REQUIRED {
        let file = hub.file(listing, name)?;
        plan.push(file.ok_or_else(|| unsupported(format!("it has no {name}; is it a Whisper model?")))?);
    }
    for name in OPTIONAL {
        plan.extend(hub.file(listing, name)?);
    }
    if let Some(weights) = hub.file(listing, SINGLE)? {
        plan.push(weights);
        return Ok(plan);
    }
    let Some(index) = hub.file(listing, INDEX)? else {
        let other = [".bin", ".pt", ".h5", ".msgpack", ".onnx", ".gguf"]
            .into_iter()
            .find(|end| listing.has_suffix(end));
        return Err(unsupported(match other {
            Some(end) => format!("its weights are only in {end} files; godctl needs {SINGLE}"),
            None => format!("it has no {SINGLE}"),
        }));
    };
    if index.size > MAX_INDEX_BYTES {
        return Err(unsupported(format!("{INDEX} is too large to be one")));
    }
    download.fetch(&index, staging).await?;
    let path = staging.join(INDEX);
    let text = tokio::fs::read(&path).await.map_err(WeightsError::disk("read", &path))?;
    plan.push(index);
    for shard in shards(&text).map_err(|reason| unsupported(format!("{INDEX}: {reason}")))? {
        let file = hub.file(listing, &shard)?;
        plan.push(file.ok_or_else(|| unsupported(format!("{INDEX} names {shard}, which it has not")))?);
    }
    Ok(plan)
}

/// The files that an index names, each once, in order.
fn shards(index: &[u8]) -> Result<Vec<String>, String> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    let index: Index = serde_json::from_slice(index).map_err(|error| format!("cannot be read: {error}"))?;
    let mut names: Vec<String> = index.weight_map.into_values().collect();
    names.sort_unstable();
    names.dedup();
    match names.iter().find(|name| !is_file_name(name) || !name.ends_with(".safetensors")) {
        Some(evil) => Err(format!("names {evil:?}, which is no file beside it")),
        None if names.is_empty() => Err("names no files".to_owned()),
        None => Ok(names),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_gives_its_shards_once_and_nothing_outside() {
        let index = br#"{"metadata":{},"weight_map":{"a":"model-2.safetensors","b":"model-1.safetensors","c":"model-2.safetensors"}}"#;
        assert_eq!(shards(index).unwrap(), ["model-1.safetensors", "model-2.safetensors"]);
        for evil in
            ["../model.safetensors", "/x.safetensors", "a/b.safetensors", "config.json", ".safetensors"]
        {
            let index = format!(r#"{{"weight_map":{{"a":"{evil}"}}}}"#);
            assert!(shards(index.as_bytes()).is_err(), "{evil}");
        }
        assert!(shards(br#"{"weight_map":{}}"#).is_err());
        assert!(shards(b"[]").is_err());
    }
}
