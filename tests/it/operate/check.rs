//! What is said before anything is served: `--check`, `token`, and refusing to let strangers in.

use std::net::TcpListener;

use serde_json::Value;

use super::{certificate, certificate_of};
use crate::support::{Home, Ran};

fn check(home: &Home, args: &[&str]) -> (Ran, Value) {
    let all = [&["asr-serve", "--check", "--json"][..], args].concat();
    let ran = home.godctl(&all);
    let report = serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    (ran, report)
}

fn status<'a>(report: &'a Value, name: &str) -> &'a str {
    let checks = report["checks"].as_array().unwrap();
    let check =
        checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("{name}: {report}"));
    check["status"].as_str().unwrap()
}

#[test]
fn an_address_that_others_can_reach_needs_a_token_or_a_word() {
    let home = Home::new();
    let ran = home.godctl(&["asr-serve", "--listen", "0.0.0.0:0"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(78), ""), "{ran:?}");
    assert!(ran.stderr.contains("asr-serve token") && ran.stderr.contains("--insecure"), "{ran:?}");
    let ran = home.godctl(&["asr-serve", "--listen", "[::]:0", "-c", "asr.tls_cert=a"]);
    assert_eq!(ran.code, Some(78), "{ran:?}");
    let listen = ["--listen", "0.0.0.0:0"];
    let cases: [(&[&str], i32, &str); 4] = [
        (&[], 78, "failed"),
        (&["--insecure"], 0, "warn"),
        (&["-c", "asr.token=marker-91be"], 0, "warn"),
        (&["--listen", "127.0.0.1:0"], 0, "ok"),
    ];
    for (args, code, exposure) in cases {
        let args = if args.contains(&"--listen") { args.to_vec() } else { [&listen[..], args].concat() };
        let (ran, report) = check(&home, &args);
        assert_eq!((ran.code, status(&report, "exposure")), (Some(code), exposure), "{args:?} {ran:?}");
        assert!(!format!("{ran:?}").contains("marker-91be"));
    }
}

#[test]
fn a_check_tries_everything_that_a_start_needs() {
    let home = Home::new();
    let listen = ["--listen", "127.0.0.1:0"];
    let ran = home.godctl(&["asr-serve", "--check", "--listen", "127.0.0.1:0"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for words in [
        "ok       model",
        "command-en",
        "ok       tokens",
        "127.0.0.1:0 is free",
        "nothing essential is broken",
    ] {
        assert!(ran.stdout.contains(words), "{words}: {}", ran.stdout);
    }
    assert_eq!(home.leftovers(), Vec::<std::path::PathBuf>::new(), "it leaves no trace");

    let (ran, report) = check(&home, &[&listen[..], &["--model", "/no/such/model"]].concat());
    assert_eq!((ran.code, status(&report, "model")), (Some(1), "failed"), "{ran:?}");
    assert_eq!((&report["ok"], status(&report, "tokens")), (&false.into(), "ok"));

    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (ran, report) = check(&home, &["--listen", &address]);
    assert_eq!((ran.code, status(&report, "address")), (Some(1), "failed"), "{ran:?}");

    let tokens = home.write("tokens.toml", "[tokens.kiosk]\nsha256 = \"marker-91be\"\n");
    let args = [&listen[..], &["--tokens-file", tokens.to_str().unwrap()]].concat();
    let (ran, report) = check(&home, &args);
    assert_eq!((ran.code, status(&report, "tokens")), (Some(78), "failed"), "{ran:?}");
    assert!(ran.stdout.contains("tokens.kiosk.sha256 is no SHA-256") && !ran.stdout.contains("marker-91be"));
    // The server itself says the same.
    let ran = home.godctl(&[&["asr-serve"][..], &args].concat());
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(78), ""), "{ran:?}");

    let dir = home.path().join("tls");
    std::fs::create_dir(&dir).unwrap();
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    let args =
        [&listen[..], &["--tls-cert", cert.to_str().unwrap(), "--tls-key", key.to_str().unwrap()]].concat();
    let (ran, report) = check(&home, &args);
    assert_eq!((ran.code, status(&report, "certificate")), (Some(78), "failed"), "{ran:?}");
    certificate(&dir);
    let (ran, report) = check(&home, &args);
    assert_eq!((ran.code, status(&report, "certificate")), (Some(0), "ok"), "{ran:?}");
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    (params.not_before, params.not_after) =
        (rcgen::date_time_ymd(2001, 1, 1), rcgen::date_time_ymd(2002, 1, 1));
    certificate_of(&params, &dir);
    let (ran, report) = check(&home, &args);
    assert_eq!((ran.code, status(&report, "certificate")), (Some(78), "failed"), "{ran:?}");
    assert!(ran.stdout.contains("expired at 2002-01-01"), "{ran:?}");
    assert_eq!(home.godctl(&["asr-serve", "--json"]).code, Some(2), "--json belongs to --check");
}

#[test]
fn a_token_is_shown_once_and_kept_as_a_hash() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Home::new();
    let path = home.path().join("tokens.toml");
    let file = path.to_str().unwrap();
    let ran = home.godctl(&["asr-serve", "token", "kiosk", "--max-sessions", "2", "--tokens-file", file]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let token = ran.stdout.trim();
    assert!(token.starts_with("godctl_") && token.len() > 40 && ran.stdout.lines().count() == 1, "{ran:?}");
    let stored = std::fs::read_to_string(&path).unwrap();
    assert!(
        stored.starts_with("[tokens.kiosk]\nsha256 = \"") && stored.contains("max_sessions = 2"),
        "{stored}"
    );
    assert!(!stored.contains(token) && !ran.stderr.contains(token), "{stored} {ran:?}");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    let setting = format!("asr.tokens_file={file}");
    let again = home.godctl(&["-c", &setting, "asr-serve", "token", "phone"]);
    assert_eq!(again.code, Some(0), "{again:?}");
    assert_ne!(again.stdout, ran.stdout);
    assert_eq!(std::fs::read_to_string(&path).unwrap().matches("[tokens.").count(), 2);
    let twice = home.godctl(&["asr-serve", "token", "kiosk", "--tokens-file", file]);
    assert!(twice.code == Some(1) && twice.stderr.contains("kiosk already"), "{twice:?}");
    let bad = home.godctl(&["asr-serve", "token", "a b", "--tokens-file", file]);
    assert_eq!(bad.code, Some(1), "{bad:?}");

    let loose = home.godctl(&["asr-serve", "token", "guest"]);
    assert_eq!(loose.code, Some(0), "{loose:?}");
    let entry = loose.stdout.split_once("[tokens.guest]").unwrap().1;
    assert!(entry.starts_with("\nsha256 = \""), "{loose:?}");
}
