//! Models from a hub that cuts, corrupts, redirects and limits: what is installed is right, or nothing is.

use std::{path::Path, sync::Arc, time::Duration};

use clap::Parser;
use godctl::{
    asr::weights::{
        HubOptions, ModelFiles, PullEvent, Pulled, RetryPolicy, WeightsError, installed, pull, resolve,
    },
    cmd::models::{Interrupted, ModelsArgs, ModelsContext, PullDisplay, run},
    config::Secret,
};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::fake_hub::{COMMIT, FakeHub, Faults, REPO, SIGNATURE, noise};

const WEIGHTS: &str = "model.safetensors";
const TOKEN: &str = "hf_marker_token";

struct Setup {
    hub: FakeHub,
    options: HubOptions,
    _dir: tempfile::TempDir,
}

impl Setup {
    async fn new() -> Self {
        let hub = FakeHub::start().await;
        let dir = tempfile::tempdir().unwrap();
        let retry = RetryPolicy {
            attempts: 4,
            base: Duration::from_millis(1),
            max: Duration::from_millis(2),
            progress_bytes: 1,
            lock_poll: Duration::from_millis(1),
            seed: 1,
            ..RetryPolicy::default()
        };
        let options = HubOptions {
            endpoint: hub.endpoint(),
            token: Some(Secret::new(TOKEN.to_owned())),
            retry,
            ..HubOptions::new(dir.path().join("models"))
        };
        Self { hub, options, _dir: dir }
    }

    async fn pull(&self) -> (Result<Pulled, WeightsError>, Vec<PullEvent>) {
        self.pull_named("tiny").await
    }

    async fn pull_named(&self, name: &str) -> (Result<Pulled, WeightsError>, Vec<PullEvent>) {
        let mut events = Vec::new();
        let result = pull(name, &self.options, &mut |event| events.push(event)).await;
        (result, events)
    }

    /// Pulls with a fault that must be survived; gives what happened on the way.
    async fn survives(&self, faults: Faults) -> Vec<PullEvent> {
        self.hub.set(faults);
        let (result, events) = self.pull().await;
        result.unwrap();
        self.check();
        events
    }

    /// Pulls with a fault that must not be; nothing may be installed, and no secret shown.
    async fn refuses(&self, faults: Faults) -> WeightsError {
        self.hub.set(faults);
        let error = self.pull().await.0.unwrap_err();
        assert!(installed(&self.options.dir).unwrap().is_empty(), "{error}");
        let mut shown = format!("{error} {error:?} {error:#?} {:?}", self.options);
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(error) = cause {
            shown += &format!(" {error} {error:?}");
            cause = error.source();
        }
        assert!(!shown.contains(TOKEN) && !shown.contains(SIGNATURE), "{shown}");
        error
    }

    /// The installed model is the hub's, byte for byte, with the files that are needed and no others.
    fn check(&self) {
        let ModelFiles::Directory(dir) = resolve(Some("tiny"), &self.options.dir).unwrap().files else {
            panic!("not a directory");
        };
        let mut names: Vec<_> = std::fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        for name in &names {
            if name != "godctl-model.json" {
                assert!(std::fs::read(dir.join(name)).unwrap() == self.hub.file(name), "{name} differs");
            }
        }
        let expected = [
            "config.json",
            "generation_config.json",
            "godctl-model.json",
            WEIGHTS,
            "preprocessor_config.json",
            "tokenizer.json",
        ];
        assert_eq!(names, expected);
        let left: Vec<_> = std::fs::read_dir(self.options.dir.join(".incomplete"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(left, ["openai--whisper-tiny.lock"]);
    }

    fn part(&self) -> std::path::PathBuf {
        self.options.dir.join(format!(".incomplete/openai--whisper-tiny@{COMMIT}/{WEIGHTS}.part"))
    }
}

fn restarts(events: &[PullEvent]) -> usize {
    events.iter().filter(|event| matches!(event, PullEvent::Restarted { .. })).count()
}

fn retries(events: &[PullEvent]) -> Vec<Duration> {
    let wait = |event: &PullEvent| match event {
        PullEvent::Retrying { wait, .. } => Some(*wait),
        _ => None,
    };
    events.iter().filter_map(wait).collect()
}

#[tokio::test]
async fn a_healthy_hub_gives_the_needed_files_at_one_commit() {
    let setup = Setup::new().await;
    let events = setup.survives(Faults::default()).await;
    let total =
        ["config.json", "tokenizer.json", "generation_config.json", "preprocessor_config.json", WEIGHTS]
            .iter()
            .map(|name| setup.hub.file(name).len() as u64)
            .sum();
    assert!(events.contains(&PullEvent::Planned { files: 5, total }), "{events:?}");
    assert!(events.contains(&PullEvent::Progress { done: total }));
    let model = installed(&setup.options.dir).unwrap().remove(0);
    assert!(model.dir.ends_with("openai--whisper-tiny@169d4a4341b3"));
    let manifest = model.manifest;
    assert_eq!(
        (manifest.name.as_str(), manifest.repo.as_str(), manifest.commit.as_str()),
        ("tiny", REPO, COMMIT)
    );
    assert_eq!(manifest.licence.as_deref(), Some("apache-2.0"));
    assert!(manifest.files.iter().all(|file| file.sha256.len() == 64));
    let seen = setup.hub.seen();
    assert!(seen.iter().all(|request| request.token), "the hub itself gets the token");
    assert!(!seen.iter().any(|request| request.path.ends_with(".bin") || request.path.contains("onnx")));

    setup.hub.forget();
    let (again, _) = setup.pull().await;
    assert!(matches!(again.unwrap(), Pulled::Present(_)));
    assert_eq!(setup.hub.seen().len(), 1, "only the listing is asked for again");
}

#[tokio::test]
async fn a_cut_connection_goes_on_where_it_ended() {
    let setup = Setup::new().await;
    let events =
        setup.survives(Faults { cut: vec![100_000, 50_000, 0, 0, 60_000], ..Faults::default() }).await;
    assert_eq!(restarts(&events), 0);
    assert!(retries(&events).len() >= 5, "{events:?}");
    let ranges: Vec<_> = setup
        .hub
        .seen()
        .into_iter()
        .filter(|request| request.path == WEIGHTS)
        .map(|request| request.range)
        .collect();
    assert_eq!(ranges.len(), 6);
    assert_eq!(ranges[0], None);
    assert!(ranges[2].is_some() && ranges[2] == ranges[3] && ranges[3] == ranges[4], "{ranges:?}");
}

#[tokio::test]
async fn a_hub_that_always_cuts_at_once_is_given_up_and_what_came_is_kept() {
    let setup = Setup::new().await;
    let error = setup.refuses(Faults { cut: vec![100_000, 0, 0, 0, 0], ..Faults::default() }).await;
    assert!(error.is_retryable(), "{error}");
    assert!(error.to_string().contains("the same command goes on where this one stopped"), "{error}");
    let kept = std::fs::metadata(setup.part()).unwrap().len();
    assert!(kept > 0);
    setup.hub.forget();
    let events = setup.survives(Faults::default()).await;
    assert_eq!(setup.hub.served(WEIGHTS) as u64, 300_000 - kept);
    assert!(events.contains(&PullEvent::File { name: WEIGHTS.to_owned(), size: 300_000, resumed: kept }));
    assert_eq!(setup.hub.served("tokenizer.json"), 0, "complete files are not fetched again");
}

#[tokio::test]
async fn a_pull_that_is_dropped_is_resumed_by_the_next() {
    let setup = Setup::new().await;
    setup.hub.set(Faults { stall: Some(100_000), redirect: true, ..Faults::default() });
    let enough = Arc::new(tokio::sync::Notify::new());
    let noticed = Arc::clone(&enough);
    let mut progress = move |event| {
        if matches!(event, PullEvent::Progress { done } if done >= 140_000) {
            noticed.notify_one();
        }
    };
    tokio::select! {
        result = pull("tiny", &setup.options, &mut progress) => panic!("{result:?}"),
        () = enough.notified() => {}
    }
    setup.hub.forget();
    setup.survives(Faults { redirect: true, ..Faults::default() }).await;
    let range = setup.hub.seen().into_iter().find(|request| request.other_host).unwrap().range.unwrap();
    let offset: usize = range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap();
    assert!(offset > 50_000, "{range}");
    assert_eq!(setup.hub.served(WEIGHTS), 300_000 - offset);
}

#[tokio::test]
async fn a_server_that_cannot_resume_starts_again_cleanly() {
    let setup = Setup::new().await;
    let events = setup.survives(Faults { cut: vec![100_000], no_range: true, ..Faults::default() }).await;
    assert_eq!(restarts(&events), 1);
}

#[tokio::test]
async fn a_resume_at_the_wrong_byte_is_not_believed() {
    let setup = Setup::new().await;
    let events = setup.survives(Faults { cut: vec![100_000], wrong_range: true, ..Faults::default() }).await;
    assert_eq!(restarts(&events), 1);
}

#[tokio::test]
async fn a_spoilt_part_of_an_earlier_pull_is_noticed() {
    let setup = Setup::new().await;
    for part in [noise(1000, 77), noise(300_000, 78), noise(300_001, 79)] {
        std::fs::create_dir_all(setup.part().parent().unwrap()).unwrap();
        std::fs::write(setup.part(), part).unwrap();
        setup.survives(Faults::default()).await;
        std::fs::remove_dir_all(&setup.options.dir).unwrap();
    }
}

#[tokio::test]
async fn one_corrupt_copy_is_fetched_again_and_a_second_refused() {
    for file in [WEIGHTS, "config.json"] {
        let setup = Setup::new().await;
        let events = setup.survives(Faults { corrupt: Some((file, 1)), ..Faults::default() }).await;
        assert_eq!(restarts(&events), 1, "{file}");

        let setup = Setup::new().await;
        let error = setup.refuses(Faults { corrupt: Some((file, 2)), ..Faults::default() }).await;
        assert!(matches!(&error, WeightsError::Corrupt { file: it, .. } if it == file), "{error}");
        assert!(!setup.part().exists(), "a wrong part is not kept");
    }
}

#[tokio::test]
async fn bodies_of_another_length_are_refused() {
    for faults in
        [Faults { overlong: true, ..Faults::default() }, Faults { short: true, ..Faults::default() }]
    {
        let setup = Setup::new().await;
        let error = setup.refuses(faults).await;
        assert!(matches!(error, WeightsError::Corrupt { .. }), "{error}");
    }
}

#[tokio::test]
async fn the_token_is_not_sent_where_the_hub_redirects_to() {
    let setup = Setup::new().await;
    setup.survives(Faults { redirect: true, expired: 1, ..Faults::default() }).await;
    let (there, here): (Vec<_>, Vec<_>) =
        setup.hub.seen().into_iter().partition(|request| request.other_host);
    assert_eq!(there.len(), 2, "an address that ran out is asked for again");
    assert!(there.iter().all(|request| !request.token) && here.iter().all(|request| request.token));

    let setup = Setup::new().await;
    let error = setup.refuses(Faults { redirect: true, expired: 99, ..Faults::default() }).await;
    assert!(error.is_retryable(), "{error:?}");
    let error = setup.refuses(Faults { redirect_loop: true, ..Faults::default() }).await;
    assert!(error.to_string().contains("redirects"), "{error}");
}

#[tokio::test]
async fn a_hub_that_asks_for_patience_gets_it() {
    let setup = Setup::new().await;
    let events = setup.survives(Faults { busy: 2, retry_after: Some("1"), ..Faults::default() }).await;
    assert_eq!(retries(&events), [Duration::from_secs(1); 2]);

    let setup = Setup::new().await;
    let error = setup.refuses(Faults { busy: 1, retry_after: Some("3600"), ..Faults::default() }).await;
    assert_eq!(error.retry_after(), Some(Duration::from_secs(3600)));
    assert!(error.to_string().ends_with("try again in 3600 s"), "{error}");
    let error = setup.refuses(Faults { busy: 99, ..Faults::default() }).await;
    assert!(matches!(error, WeightsError::Busy { status: 429, .. }), "{error}");
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let mut setup = Setup::new().await;
    let refuse = |status, code| Faults { refuse: Some((status, code)), ..Faults::default() };
    let page = format!("{}/{REPO}", setup.hub.endpoint());
    let error = setup.refuses(refuse(403, "GatedRepo")).await.to_string();
    assert_eq!(
        error,
        format!(
            "the hub refuses access to {REPO}: accept its licence at {page} with the account of HF_TOKEN"
        )
    );
    for (status, code) in [(404, "RepoNotFound"), (401, "RepoNotFound"), (404, "RevisionNotFound"), (404, "")]
    {
        let error = setup.refuses(refuse(status, code)).await;
        assert!(matches!(&error, WeightsError::NotFound { .. }), "{status} {code}: {error}");
    }
    let error = setup.refuses(refuse(401, "")).await;
    assert!(
        matches!(error, WeightsError::Settings(_)) && error.to_string().contains("check HF_TOKEN"),
        "{error}"
    );
    let error = setup.refuses(refuse(500, "")).await;
    assert!(error.is_retryable(), "{error}");
    let error = setup.refuses(refuse(418, "")).await;
    assert!(matches!(error, WeightsError::Protocol { .. }), "{error}");
    setup.options.token = None;
    let error = setup.refuses(refuse(401, "GatedRepo")).await.to_string();
    assert!(error.contains("set HF_TOKEN and accept its licence"), "{error}");
    assert!(setup.hub.seen().last().is_some_and(|request| !request.token));
}

#[tokio::test]
async fn names_that_lead_elsewhere_are_refused() {
    for evil in ["../../evil", "/etc/passwd", "a/../../b", "..\\evil"] {
        let setup = Setup::new().await;
        let error = setup.refuses(Faults { extra_name: Some(evil), ..Faults::default() }).await;
        assert!(matches!(error, WeightsError::Protocol { .. }), "{evil}: {error}");
        assert_eq!(setup.hub.seen().len(), 1, "no file was asked for");
    }
    let setup = Setup::new().await;
    setup.hub.take(WEIGHTS);
    setup.hub.put("model.safetensors.index.json", br#"{"weight_map":{"a":"../evil.safetensors"}}"#.to_vec());
    let error = setup.refuses(Faults::default()).await;
    assert!(matches!(error, WeightsError::Unsupported { .. }), "{error}");
}

#[tokio::test]
async fn a_listing_without_checksums_is_refused() {
    let setup = Setup::new().await;
    let error = setup.refuses(Faults { bare: true, ..Faults::default() }).await;
    assert!(matches!(error, WeightsError::Protocol { .. }), "{error}");
}

#[tokio::test]
async fn sharded_weights_come_with_their_index() {
    let setup = Setup::new().await;
    let weights = setup.hub.take(WEIGHTS);
    let (a, b) = weights.split_at(100_000);
    setup.hub.put("model-00001-of-00002.safetensors", a.to_vec());
    setup.hub.put("model-00002-of-00002.safetensors", b.to_vec());
    let index =
        r#"{"weight_map":{"x":"model-00001-of-00002.safetensors","y":"model-00002-of-00002.safetensors"}}"#;
    setup.hub.put("model.safetensors.index.json", index.into());
    let (result, events) = setup.pull().await;
    let Pulled::Fetched { model, received } = result.unwrap() else { panic!("not fetched") };
    assert_eq!(model.manifest.files.len(), 7);
    assert_eq!(received, model.bytes());
    let total = model.bytes();
    assert!(events.contains(&PullEvent::Planned { files: 7, total }));
    assert_eq!(
        events.iter().rev().find(|event| matches!(event, PullEvent::Progress { .. })),
        Some(&PullEvent::Progress { done: total })
    );

    let setup = Setup::new().await;
    setup.hub.take(WEIGHTS);
    let error = setup.refuses(Faults::default()).await.to_string();
    assert_eq!(
        error,
        format!("{REPO} cannot be used: its weights are only in .bin files; godctl needs {WEIGHTS}")
    );
}

#[tokio::test]
async fn offline_means_no_connection_at_all() {
    let mut setup = Setup::new().await;
    setup.options.offline = true;
    let error = setup.refuses(Faults::default()).await;
    assert!(matches!(error, WeightsError::Offline { .. }), "{error}");
    assert!(!setup.options.dir.exists());
    setup.options.offline = false;
    setup.survives(Faults::default()).await;
    setup.hub.forget();
    setup.options.offline = true;
    assert!(matches!(setup.pull().await.0.unwrap(), Pulled::Present(_)));
    assert!(setup.hub.seen().is_empty());
}

#[tokio::test]
async fn two_pulls_at_once_download_once() {
    let setup = Setup::new().await;
    let ((one, first), (two, second)) = tokio::join!(setup.pull(), setup.pull());
    let outcomes = [one.unwrap(), two.unwrap()];
    assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, Pulled::Present(_))).count(), 1);
    assert!(first.contains(&PullEvent::Waiting) ^ second.contains(&PullEvent::Waiting));
    assert_eq!(setup.hub.served(WEIGHTS), 300_000);
    setup.check();
}

#[tokio::test]
async fn a_damaged_model_is_repaired_and_an_old_one_replaced() {
    let setup = Setup::new().await;
    setup.survives(Faults::default()).await;
    let dir = installed(&setup.options.dir).unwrap().remove(0).dir;
    std::fs::write(dir.join(WEIGHTS), "short").unwrap();
    let error = resolve(Some("tiny"), &setup.options.dir).unwrap_err();
    assert!(matches!(error, WeightsError::Damaged { .. }), "{error}");
    setup.survives(Faults::default()).await;

    setup.hub.set_commit("0123456789abcdef0123456789abcdef01234567");
    setup.hub.put(WEIGHTS, noise(200_000, 9));
    setup.survives(Faults::default()).await;
    assert!(!dir.exists());
    assert_eq!(installed(&setup.options.dir).unwrap().len(), 1);
}

#[tokio::test]
async fn a_revision_of_any_repository_has_its_own_place() {
    let setup = Setup::new().await;
    setup.pull_named("me/mine@refs/pr/1").await.0.unwrap();
    assert_eq!(setup.hub.seen()[0].path, "list me/mine@refs/pr/1");
    setup.pull_named("tiny").await.0.unwrap();
    assert_eq!(installed(&setup.options.dir).unwrap().len(), 2);
    assert_eq!(resolve(Some("me/mine@refs/pr/1"), &setup.options.dir).unwrap().name, "me/mine@refs/pr/1");
    assert!(matches!(resolve(Some("me/mine"), &setup.options.dir), Err(WeightsError::NotInstalled { .. })));
}

#[tokio::test]
async fn a_hub_that_is_not_there_is_unreachable() {
    let mut setup = Setup::new().await;
    // Bound and let go: nobody listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    setup.options.endpoint = format!("http://{free}");
    let error = setup.refuses(Faults::default()).await;
    assert!(error.is_retryable(), "{error:?}");
}

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    models: ModelsArgs,
}

async fn models(options: &HubOptions, line: &str, cancelled: CancellationToken) -> anyhow::Result<String> {
    let args = Cli::try_parse_from(std::iter::once("models").chain(line.split(' '))).unwrap();
    let mut out = Vec::new();
    let context = ModelsContext { hub: options, cancelled, display: PullDisplay::Silent, out: &mut out };
    run(args.models, context).await?;
    Ok(String::from_utf8(out).unwrap())
}

#[tokio::test]
async fn the_subcommands_tell_one_story() {
    let setup = Setup::new().await;
    let run = |line: &'static str| models(&setup.options, line, CancellationToken::new());
    let json = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap();

    assert_eq!(
        run("path tiny").await.unwrap_err().to_string(),
        "model 'tiny' is not installed; run: godctl models pull tiny"
    );
    assert!(run("info tiny").await.unwrap().contains("no; run: godctl models pull tiny"));
    let pulled = json(run("pull tiny --json").await.unwrap());
    assert_eq!((&pulled["status"], &pulled["name"]), (&"installed".into(), &"tiny".into()));
    assert!(run("pull tiny").await.unwrap().contains("up to date"));
    let path = run("path tiny").await.unwrap();
    assert!(Path::new(path.trim()).join("config.json").is_file());
    assert_eq!(json(run("path tiny --json").await.unwrap())["path"], path.trim());
    let list = json(run("list --json").await.unwrap());
    let here: Vec<_> = list.as_array().unwrap().iter().filter(|row| !row["installed"].is_null()).collect();
    assert_eq!(
        (here.len(), &here[0]["name"], &here[0]["installed"]["commit"]),
        (1, &"tiny".into(), &COMMIT.into())
    );
    assert!(run("info tiny").await.unwrap().contains(COMMIT));
    assert!(run("info command-en").await.unwrap().contains("inside the godctl binary"));
    assert!(run("pull command-en").await.unwrap().contains("nothing to download"));
    assert!(run("path command-en").await.unwrap_err().to_string().contains("inside the godctl binary"));
    assert!(run("rm command-en").await.is_err());
    assert!(run("rm tiny").await.unwrap().contains("freed 340 kB"));
    assert!(run("rm tiny").await.is_err());
    assert!(run("pull tny").await.unwrap_err().to_string().contains("did you mean 'tiny'?"));
}

#[tokio::test]
async fn an_interrupted_pull_says_what_is_kept() {
    let setup = Setup::new().await;
    setup.hub.set(Faults { stall: Some(100_000), ..Faults::default() });
    let cancelled = CancellationToken::new();
    let watch = async {
        // The part has what the server gave before it stalled.
        while std::fs::metadata(setup.part()).map_or(0, |part| part.len()) < 90_000 {
            tokio::task::yield_now().await;
        }
        cancelled.cancel();
    };
    let (result, ()) = tokio::join!(models(&setup.options, "pull tiny", cancelled.clone()), watch);
    let interrupted = *result.unwrap_err().downcast_ref::<Interrupted>().unwrap();
    assert!(interrupted.kept > 90_000, "{interrupted}");
    setup.survives(Faults::default()).await;
}

#[tokio::test]
async fn progress_only_goes_back_when_a_file_starts_again() {
    let setup = Setup::new().await;
    let events = Arc::new(Mutex::new(Vec::new()));
    setup.hub.set(Faults { cut: vec![150_000, 100], ..Faults::default() });
    let sink = Arc::clone(&events);
    pull("tiny", &setup.options, &mut move |event| sink.lock().push(event)).await.unwrap();
    let done: Vec<u64> = events
        .lock()
        .iter()
        .filter_map(|event| match event {
            PullEvent::Progress { done } => Some(*done),
            _ => None,
        })
        .collect();
    assert!(done.is_sorted(), "{done:?}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_says_so() {
    let setup = Setup::new().await;
    std::fs::create_dir_all(setup.part().parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/full", setup.part()).unwrap();
    let error = setup.refuses(Faults::default()).await;
    assert!(
        matches!(&error, WeightsError::Disk { .. }) && error.to_string().contains("make room"),
        "{error:?}"
    );
}

/// The binary with nothing of this machine's environment but what the test gives it.
fn godctl(setup: &Setup, line: &str) -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_godctl"));
    let home = setup.options.dir.parent().unwrap();
    command.args(line.split(' ')).env_clear().env("HOME", home);
    command.env("GODCTL__MODELS__DIR", &setup.options.dir);
    command.env("HF_ENDPOINT", &setup.options.endpoint).env("HF_TOKEN", TOKEN);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn the_binary_heeds_the_hubs_variables_and_keeps_its_secrets() {
    let setup = Setup::new().await;
    setup.hub.set(Faults { redirect: true, cut: vec![100_000], busy: 1, ..Faults::default() });
    let output = godctl(&setup, "-vvv models pull tiny").output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(output.status.success() && out.starts_with("installed tiny (340 kB) in "), "{out}{err}");
    assert!(err.contains("downloading 5 files, 340 kB") && err.contains("100 % of 340 kB"), "{err}");
    assert!(err.contains("trying again in"), "{err}");
    assert!(!err.contains(TOKEN) && !err.contains(SIGNATURE), "{err}");
    assert!(setup.hub.seen().iter().any(|request| request.token));
    setup.check();

    let status = |line| godctl(&setup, line).output().unwrap().status.code();
    assert_eq!(status("models path tiny"), Some(0));
    assert_eq!(status("models path base"), Some(1));
    assert_eq!(status("models pull"), Some(2));
    assert_eq!(status("-c models.endpoint=\"https://me:secret@hub\" models pull base"), Some(78));
    let output = godctl(&setup, "models pull base").env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert!(String::from_utf8(output.stderr).unwrap().contains("offline mode is on"));
    setup.hub.set(Faults { busy: 1, retry_after: Some("3600"), ..Faults::default() });
    assert_eq!(status("models pull base"), Some(69), "the hub is a service that is needed");
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_a_pull_and_keeps_what_came() {
    let setup = Setup::new().await;
    setup.hub.set(Faults { stall: Some(100_000), ..Faults::default() });
    let child = godctl(&setup, "models pull tiny").spawn().unwrap();
    while std::fs::metadata(setup.part()).map_or(0, |part| part.len()) < 90_000 {
        tokio::task::yield_now().await;
    }
    let pid = child.id().to_string();
    assert!(
        std::process::Command::new("sh")
            .args(["-c", &format!("kill -INT {pid}")])
            .status()
            .unwrap()
            .success()
    );
    let output = child.wait_with_output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains("error: interrupted; ") && err.contains("run the same command to go on"), "{err}");
    setup.survives(Faults::default()).await;
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 16, failure_persistence: None, ..Default::default() })]

    /// However the connection fails, in whatever order, what is installed is the hub's, byte for byte.
    #[test]
    fn any_cuts_give_the_same_model(
        cut in proptest::collection::vec(0_usize..400_000, 0..6),
        no_range: bool,
        redirect: bool,
        busy in 0_usize..3,
    ) {
        // More tries than there can be failures in a row.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut setup = Setup::new().await;
            setup.options.retry.attempts = 16;
            setup.survives(Faults { cut, no_range, redirect, busy, ..Faults::default() }).await;
        });
    }
}
