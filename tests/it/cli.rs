//! The command line from outside: help, exit codes, completions, pipes and colours.

use std::process::Stdio;

use crate::support::Home;

/// All commands as their arguments, found by reading the help like a user does.
fn commands(home: &Home) -> Vec<Vec<String>> {
    fn walk(home: &Home, path: &[String], found: &mut Vec<Vec<String>>) {
        found.push(path.to_vec());
        let mut args: Vec<&str> = path.iter().map(String::as_str).collect();
        args.push("--help");
        let help = home.godctl(&args).stdout;
        let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
        let listed = listed.take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
        for name in listed.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help") {
            let path: Vec<String> = path.iter().cloned().chain([name.to_owned()]).collect();
            walk(home, &path, found);
        }
    }
    let mut found = Vec::new();
    walk(home, &[], &mut found);
    found
}

#[test]
fn every_command_has_help_that_is_kept_as_a_snapshot() {
    let home = Home::new();
    let commands = commands(&home);
    assert!(commands.iter().any(|path| *path == ["config", "show"]), "{commands:?}");
    for path in commands {
        let mut args: Vec<&str> = path.iter().map(String::as_str).collect();
        args.push("--help");
        let ran = home.godctl(&args);
        assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""), "{path:?}");
        let longest = ran.stdout.lines().map(|line| line.chars().count()).max().unwrap_or_default();
        assert!(longest <= 120, "{path:?}: a line of {longest} characters");
        insta::assert_snapshot!(format!("help_{}", path.join("_")), ran.stdout);
    }
}

#[test]
fn the_exit_code_tells_what_kind_of_thing_went_wrong() {
    let home = Home::new();
    let broken = home.write("broken.toml", "[asr\n");
    let broken = broken.to_str().unwrap();
    let cases: &[(&[&str], i32)] = &[
        (&["version"], 0),
        (&["--version"], 0),
        (&["--help"], 0),
        (&[], 2),
        (&["--no-such-flag"], 2),
        (&["no-such-command"], 2),
        (&["completions", "no-such-shell"], 2),
        (&["--color", "sometimes", "version"], 2),
        (&["-v", "-q", "config", "check"], 2),
        (&["config", "check"], 0),
        (&["config", "check", "--config", broken], 78),
        (&["config", "check", "--config", "/no/such/file.toml"], 78),
        (&["config", "check", "-c", "asr.hop_ms=0"], 78),
        (&["config", "check", "-c", "asr.hop_ms"], 78),
        (&["doctor", "--config", broken], 1),
        // A broken configuration is no reason to keep what explains it from the user.
        (&["config", "example", "--config", broken], 0),
        (&["version", "--config", broken], 0),
        (&["completions", "bash", "--config", broken], 0),
        // Port 9 is discard; nobody listens there.
        (&["doctor", "--server", "127.0.0.1:9"], 69),
    ];
    for (args, code) in cases {
        let ran = home.godctl(args);
        assert_eq!(ran.code, Some(*code), "{args:?}: {ran:?}");
        // Without a command there is help instead of an error.
        let expected = usize::from(!ran.stderr.is_empty() && !args.is_empty());
        assert_eq!(ran.stderr.matches("error: ").count(), expected, "errors are printed once: {ran:?}");
    }
}

#[test]
fn completions_exist_for_every_shell() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ran = home.godctl(&["completions", shell]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        for word in ["doctor", "completions", "origin"] {
            assert!(ran.stdout.contains(word), "{shell} lacks {word}");
        }
    }
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let home = Home::new();
    let cases: &[&[&str]] = &[
        &["config", "example"],
        &["config", "show"],
        &["config", "check"],
        &["completions", "zsh"],
        &["version"],
        &["doctor"],
        &["--help"],
    ];
    for args in cases {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = home.command("godctl");
        let output = command.args(*args).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), stderr.as_ref()), (Some(0), ""), "{args:?}");
    }
}

#[test]
fn colour_codes_stay_out_of_pipes_unless_wanted() {
    let home = Home::new();
    let colored = |args: &[&str], vars: &[(&str, &str)]| {
        let output = home.command("godctl").args(args).envs(vars.iter().copied()).output().unwrap();
        output.stdout.contains(&0x1b) || output.stderr.contains(&0x1b)
    };
    let offline = ["-c", "models.offline=true", "doctor"];
    assert!(!colored(&offline, &[]));
    assert!(!colored(&["--help"], &[]));
    assert!(!colored(&["no-such-command"], &[]));
    let always = [&["--color", "always"][..], &offline].concat();
    assert!(colored(&always, &[]));
    assert!(colored(&offline, &[("GODCTL__LOG__COLOR", "always")]));
    assert!(colored(&always, &[("NO_COLOR", "1")]), "a flag wins over NO_COLOR");
    let never = [&["--color", "never"][..], &offline].concat();
    assert!(!colored(&never, &[("GODCTL__LOG__COLOR", "always")]));
}

#[test]
fn doctor_reports_every_part_as_json_and_leaves_no_trace() {
    let home = Home::new();
    let ran = home.godctl(&["doctor", "--json", "-c", "models.offline=true"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["ok"], true);
    let checks = report["checks"].as_array().unwrap();
    for name in ["configuration", "built-in model", "models", "microphone", "GPU", "event bus", "claude"] {
        let check = checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name}"));
        let status = check["status"].as_str().unwrap();
        assert!(["ok", "warn", "missing", "failed", "later"].contains(&status), "{check}");
        assert_eq!(check["fix"].is_string(), !["ok", "later"].contains(&status), "{check}");
    }
    assert_eq!(home.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_log_file_takes_the_place_of_stderr() {
    let home = Home::new();
    let log = home.path().join("godctl.log");
    let ran = home.godctl(&["-c", &format!("log.file={}", log.display()), "doctor"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(log.exists());
    let ran = home.godctl(&["-c", "log.file=/no/such/directory/log", "doctor"]);
    assert!(ran.code == Some(1) && ran.stderr.contains("log.file"), "{ran:?}");
}
