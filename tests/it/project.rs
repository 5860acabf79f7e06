//! The project's own files, held to what they promise: licences, pinned versions, the container, the commands.

use std::{collections::BTreeSet, path::Path, process::Command};

use crate::support::{read, root};

fn toml(path: &str) -> toml::Table {
    read(path).parse().unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn strings(value: &toml::Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|item| item.as_str().unwrap().to_owned()).collect()
}

/// Whether an SPDX expression can be met with the allowed licences. `/` is the old way to write OR.
fn is_allowed(expression: &str, allowed: &[String]) -> bool {
    fn any(tokens: &mut Vec<String>, allowed: &[String]) -> bool {
        let mut holds = all(tokens, allowed);
        while tokens.last().is_some_and(|token| token == "OR") {
            tokens.pop();
            holds |= all(tokens, allowed);
        }
        holds
    }
    fn all(tokens: &mut Vec<String>, allowed: &[String]) -> bool {
        let mut holds = one(tokens, allowed);
        while tokens.last().is_some_and(|token| token == "AND") {
            tokens.pop();
            holds &= one(tokens, allowed);
        }
        holds
    }
    fn one(tokens: &mut Vec<String>, allowed: &[String]) -> bool {
        let mut name = tokens.pop().unwrap_or_default();
        if name == "(" {
            let holds = any(tokens, allowed);
            assert_eq!(tokens.pop().as_deref(), Some(")"));
            return holds;
        }
        if tokens.last().is_some_and(|token| token == "WITH") {
            tokens.pop();
            name = format!("{name} WITH {}", tokens.pop().unwrap_or_default());
        }
        allowed.contains(&name)
    }
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut tokens: Vec<String> = spaced.split_whitespace().rev().map(str::to_owned).collect();
    any(&mut tokens, allowed) && tokens.is_empty()
}

#[test]
fn licence_expressions_are_understood() {
    let allowed = ["MIT", "Apache-2.0", "Unicode-3.0", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned);
    for good in [
        "MIT",
        "GPL-3.0 OR MIT",
        "GPL-3.0/MIT",
        "(MIT OR GPL-3.0) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
    ] {
        assert!(is_allowed(good, &allowed), "{good}");
    }
    for bad in
        ["", "GPL-3.0", "MIT AND GPL-3.0", "GPL-3.0 WITH LLVM-exception", "(MIT OR Apache-2.0) AND ISC"]
    {
        assert!(!is_allowed(bad, &allowed), "{bad}");
    }
}

#[test]
fn every_dependency_has_an_allowed_licence_and_comes_from_the_registry() {
    // This platform's only: the others' packages need not be on a machine without network.
    let rustc = Command::new("rustc").arg("-vV").current_dir(root()).output().unwrap();
    let rustc = String::from_utf8(rustc.stdout).unwrap();
    let host = rustc.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let cargo = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--locked", "--format-version", "1", "--filter-platform", host])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(cargo.status.success(), "{}", String::from_utf8_lossy(&cargo.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&cargo.stdout).unwrap();
    let used: BTreeSet<&str> = metadata["resolve"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| node["id"].as_str().unwrap())
        .collect();

    let deny = toml("deny.toml");
    let allowed = strings(&deny["licenses"]["allow"]);
    let banned: Vec<&str> =
        deny["bans"]["deny"].as_array().unwrap().iter().map(|ban| ban["crate"].as_str().unwrap()).collect();
    for package in metadata["packages"].as_array().unwrap() {
        if !used.contains(package["id"].as_str().unwrap()) {
            continue;
        }
        let name = package["name"].as_str().unwrap();
        let licence = package["license"].as_str().unwrap_or_default();
        assert!(is_allowed(licence, &allowed), "{name} is under {licence:?}, which deny.toml does not allow");
        assert!(!banned.contains(&name), "deny.toml bans {name}");
        let source = package["source"].as_str();
        assert!(
            name == "godctl" || source.is_some_and(|source| source.starts_with("registry+")),
            "{name}: {source:?}"
        );
    }
}

/// The instructions of a Dockerfile with continued lines joined.
fn instructions(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let joined = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    let instruction = |line: &str| {
        let (name, rest) = line.split_once(' ')?;
        Some((name.to_owned(), rest.split_whitespace().collect::<Vec<_>>().join(" ")))
    };
    joined.lines().filter_map(|line| instruction(line.trim())).collect()
}

/// The packages that a shell line installs with apt-get.
fn apt_packages(command: &str) -> BTreeSet<String> {
    let steps = command.split("&&").filter_map(|step| step.trim().strip_prefix("apt-get install "));
    steps.flat_map(str::split_whitespace).filter(|word| !word.starts_with('-')).map(str::to_owned).collect()
}

#[test]
fn the_container_is_built_from_what_is_here_and_runs_as_nobody() {
    let dockerfile = instructions(&read("Dockerfile"));
    let all = |name: &str| -> Vec<&str> {
        dockerfile.iter().filter(|(found, _)| found == name).map(|(_, rest)| rest.as_str()).collect()
    };

    let known = [
        "FROM",
        "RUN",
        "WORKDIR",
        "ARG",
        "COPY",
        "USER",
        "VOLUME",
        "ENV",
        "EXPOSE",
        "STOPSIGNAL",
        "HEALTHCHECK",
        "ENTRYPOINT",
        "CMD",
    ];
    for (name, _) in &dockerfile {
        assert!(known.contains(&name.as_str()), "{name} is no instruction");
    }

    let toolchain = toml("rust-toolchain.toml")["toolchain"]["channel"].as_str().unwrap().to_owned();
    let stages = all("FROM");
    assert_eq!(stages.len(), 2, "one stage builds, one runs");
    assert!(stages[0].starts_with(&format!("rust:{toolchain}-")), "{} builds with another Rust", stages[0]);
    for stage in &stages {
        let image = stage.split(' ').next().unwrap();
        let tag = image.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        assert!(tag.contains('.') && tag.contains("slim"), "{image}: pin a slim version");
    }

    let ignored: Vec<String> = read(".dockerignore").lines().map(str::to_owned).collect();
    for copy in all("COPY").into_iter().filter(|copy| !copy.starts_with("--from=")) {
        let mut sources: Vec<&str> = copy.split(' ').collect();
        sources.pop();
        for source in sources {
            assert!(root().join(source).exists(), "COPY {source}: no such file");
            let sent = |rule: &String| {
                rule.strip_prefix('!').is_some_and(|rule| Path::new(source).starts_with(rule))
            };
            assert!(ignored.iter().any(sent), "COPY {source}: .dockerignore keeps it back");
        }
    }

    let makefile = read("Makefile");
    let from_make = makefile.lines().find_map(|line| line.strip_prefix("APT_PACKAGES = ")).unwrap();
    let from_make: BTreeSet<String> = from_make.split(' ').map(str::to_owned).collect();
    let installs: Vec<BTreeSet<String>> =
        all("RUN").into_iter().map(apt_packages).filter(|packages| !packages.is_empty()).collect();
    assert_eq!(installs[0], from_make, "the build stage needs what make deps installs");
    assert!(
        installs[1].contains("libasound2") && installs[1].contains("ca-certificates"),
        "{:?}",
        installs[1]
    );
    for command in all("RUN").into_iter().filter(|command| command.contains("apt-get install")) {
        assert!(command.contains("--no-install-recommends") && command.contains("rm -rf /var/lib/apt/lists"));
    }

    let builds: Vec<&str> =
        all("RUN").into_iter().filter(|command| command.contains("cargo build")).collect();
    assert_eq!(builds.len(), 2, "the dependencies first, for the cache");
    for build in builds {
        assert!(build.contains("--locked") && build.contains("--bin godctl"), "{build}");
        assert!(build.contains("--profile dist") && toml("Cargo.toml")["profile"].get("dist").is_some());
    }
    assert!(all("COPY").iter().any(|copy| copy.contains("/build/target/dist/godctl")));

    let user = all("USER");
    assert!(user.len() == 1 && user[0].parse::<u32>().is_ok_and(|uid| uid > 0), "{user:?}: run as nobody");
    assert!(all("HEALTHCHECK")[0].contains(r#"CMD ["godctl", "doctor", "--server"]"#));
    assert_eq!(all("ENTRYPOINT"), [r#"["godctl"]"#]);
    let port = all("EXPOSE")[0];
    assert!(all("ENV")[0].contains(&format!("GODCTL__ASR__LISTEN=0.0.0.0:{port}")));
}

/// Goes through the build stage in a copy of what the container would see: copies what it copies, and runs the shell
/// lines of its cargo steps with `cargo` replaced by that program.
fn run_build_stage(copy: &Path, cargo: &str) {
    let run = |command: &str| {
        let output = Command::new("sh").args(["-ec", command]).current_dir(copy).output().unwrap();
        assert!(output.status.success(), "{command}\n{}", String::from_utf8_lossy(&output.stderr));
    };
    let mut in_build_stage = false;
    for (name, rest) in instructions(&read("Dockerfile")) {
        match name.as_str() {
            "FROM" => in_build_stage = rest.ends_with("AS build"),
            "COPY" if in_build_stage => {
                let (sources, to) = rest.rsplit_once(' ').unwrap();
                for source in sources.split(' ') {
                    let to = if to == "./" { source } else { to };
                    let from = root().join(source);
                    run(&format!("mkdir -p \"$(dirname '{to}')\" && cp -r '{}' '{to}'", from.display()));
                }
            }
            "RUN" if in_build_stage && rest.contains("cargo build") => {
                run(&rest.replace("cargo build", &format!("{cargo} build --offline")));
            }
            _ => {}
        }
    }
}

#[cfg(unix)]
#[test]
fn the_build_steps_of_the_container_see_a_whole_package() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    // Stands in for the build, which takes minutes: notes what it was asked and which sources it saw, and lets cargo
    // itself judge the package as it is at that step.
    let stub = dir.path().join("cargo");
    let script = format!(
        "#!/bin/sh\nset -e\necho \"$*\" >> '{log}'\nwc -l < src/main.rs >> '{log}'\n\
         exec '{cargo}' metadata --no-deps --offline --format-version 1 > /dev/null\n",
        log = dir.path().join("log").display(),
        cargo = env!("CARGO"),
    );
    std::fs::write(&stub, script).unwrap();
    std::fs::set_permissions(&stub, std::fs::Permissions::from_mode(0o755)).unwrap();

    run_build_stage(&copy, stub.to_str().unwrap());
    let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
    let build = "build --offline --locked --profile dist --bin godctl";
    let real = read("src/main.rs").lines().count();
    assert_eq!(log.split_whitespace().collect::<Vec<_>>().join(" "), format!("{build} 1 {build} {real}"));
    for file in ["src/main.rs", "src/lib.rs", "Cargo.lock"] {
        assert_eq!(
            std::fs::read_to_string(copy.join(file)).unwrap(),
            read(file),
            "{file} is not the real one"
        );
    }
}

#[test]
#[ignore = "needs several minutes: builds twice with the container's profile"]
fn the_build_steps_of_the_container_work() {
    let copy = tempfile::tempdir().unwrap();
    run_build_stage(copy.path(), env!("CARGO"));
    let version = Command::new(copy.path().join("target/dist/godctl")).arg("version").output().unwrap();
    assert!(version.status.success());
}

#[test]
fn the_composed_services_are_pinned_and_checked() {
    let text = read("compose.yaml");
    let mut services: Vec<(String, Vec<String>)> = Vec::new();
    let mut section = "";
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty()) {
        assert!(!line.contains('\t'), "YAML knows no tabs: {line}");
        let indent = line.len() - line.trim_start().len();
        assert_eq!(indent % 2, 0, "{line}");
        match indent {
            0 => section = line.trim_end_matches(':'),
            2 if section == "services" => {
                services.push((line.trim().trim_end_matches(':').to_owned(), Vec::new()))
            }
            _ if section == "services" => services.last_mut().unwrap().1.push(line.to_owned()),
            _ => {}
        }
    }
    let names: Vec<&str> = services.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["asr-serve", "rabbitmq", "redis"]);
    for (name, lines) in &services {
        let has = |start: &str| lines.iter().any(|line| line.starts_with(start));
        assert!(has("    healthcheck:") && has("      test: [\"CMD\", "), "{name} has no health check");
        let image = lines.iter().find_map(|line| line.strip_prefix("    image: ")).unwrap();
        let tag = image.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        assert!(tag != "latest" && (tag.contains('.') || tag == "local"), "{name}: pin {image}");
        // Nothing here asks for a password, so nothing here may be reachable from outside.
        let ports = lines.iter().filter(|line| line.starts_with("      - \"") && line.ends_with("\""));
        for port in ports {
            assert!(port.contains("127.0.0.1:"), "{name} is open to the network: {port}");
        }
    }
    let dockerfile = read("Dockerfile");
    assert!(dockerfile.contains("EXPOSE 8000") && text.contains("127.0.0.1:8000:8000"));
}

#[test]
fn versions_are_said_once() {
    let cargo = toml("Cargo.toml");
    let rust = cargo["package"]["rust-version"].as_str().unwrap();
    let channel = toml("rust-toolchain.toml")["toolchain"]["channel"].as_str().unwrap().to_owned();
    assert!(channel.starts_with(rust), "rust-toolchain.toml pins {channel}, Cargo.toml wants {rust}");
    assert_eq!(channel.split('.').count(), 3, "pin a whole version");
    let version = cargo["package"]["version"].as_str().unwrap();
    let changelog = read("CHANGELOG.md");
    assert!(changelog.contains(&format!("## [{version}]")) || changelog.contains("## [Unreleased]"));
}

#[test]
fn the_commands_of_the_readme_exist() {
    let makefile = read("Makefile");
    let targets: BTreeSet<&str> =
        makefile.lines().filter_map(|line| line.split_once(": ")).map(|(target, _)| target).collect();
    for target in ["help", "deps", "demo", "test", "lint", "bench", "doc"] {
        assert!(
            makefile.lines().any(|line| line.starts_with(&format!("{target}:"))),
            "{target}: {targets:?}"
        );
    }
    for document in ["README.md", "CONTRIBUTING.md"] {
        let text = read(document);
        for word in text.split("`make ").skip(1).filter_map(|rest| rest.split('`').next()) {
            assert!(targets.contains(word), "{document} names `make {word}`, which is not in the Makefile");
        }
    }
    let ci = read(".ci/run");
    assert!(ci.contains("\nmake lint\n") && ci.contains("\nmake test\n") && ci.contains("set -euo pipefail"));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_ne!(
            root().join(".ci/run").metadata().unwrap().permissions().mode() & 0o111,
            0,
            ".ci/run must run"
        );
    }
}

#[test]
fn the_files_that_everybody_looks_for_are_there() {
    let expected = [
        ("README.md", "make demo"),
        ("README.md", "make test"),
        ("ARCHITECTURE.md", "shutdown"),
        ("CONTRIBUTING.md", "make lint"),
        ("CHANGELOG.md", "Keep a Changelog"),
        ("LICENSE-MIT", "MIT License"),
        ("LICENSE-APACHE", "Apache License"),
    ];
    for (file, words) in expected {
        assert!(read(file).contains(words), "{file} lacks {words:?}");
    }
}
