//! The page at `/` in a real browser whose microphone plays a recording, and the parts of it that need no browser.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::Path,
    process::{Command, Stdio},
};

use crate::{
    support::{Home, Ran, Running, root},
    tools,
};

/// What demo1.wav says.
const FIRST: &str = "hey tonny start a new claude session";
/// What demo4.wav says.
const SECOND: &str = "open the dashboard in a new tab";

/// A server with the built-in model, and its address.
pub(crate) fn serve(home: &Home, args: &[&str]) -> (Running, String) {
    let mut command = home.command("godctl");
    command.args(["-q", "asr-serve", "--listen", "127.0.0.1:0", "--no-publish"]);
    if !args.contains(&"--model") {
        command.args(["--model", "command-en"]);
    }
    let mut server = Running(command.args(args).stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.split("http://").nth(1).and_then(|rest| rest.split_whitespace().next());
    (server, address.unwrap_or_else(|| panic!("no address in {line:?}")).to_owned())
}

/// Runs one of our scripts in Node.
pub(crate) fn script(name: &str, args: &[(&str, &Path)]) -> Option<Ran> {
    let modules = tools::node_modules()?;
    let mut command = Command::new("node");
    command.arg(root().join("tests/sdk").join(name)).arg("--node_modules").arg(modules);
    for (name, value) in args {
        command.arg(format!("--{name}")).arg(value);
    }
    Some(command.stdin(Stdio::null()).output().unwrap().into())
}

/// The JSON that a script ends with.
pub(crate) fn seen(ran: &Ran) -> serde_json::Value {
    let last = ran.stdout.lines().last().unwrap_or_default();
    let seen: serde_json::Value =
        serde_json::from_str(last).unwrap_or_else(|_| panic!("{}\n{}", ran.stdout, ran.stderr));
    assert!(seen["failed"].is_null(), "{}", seen["failed"].as_str().unwrap_or_default());
    seen
}

pub(crate) fn recording(name: &str) -> std::path::PathBuf {
    root().join("assets/demo").join(name)
}

#[test]
fn the_page_writes_down_what_the_microphone_hears() {
    let Some(chromium) = tools::chromium() else { return };
    let home = Home::new();
    let (_server, address) = serve(&home, &["-c", "asr.token=marker-token"]);
    let url = format!("http://{address}");
    let args = [
        ("token", Path::new("marker-token")),
        ("url", Path::new(&url)),
        ("chromium", &chromium),
        ("recording", &recording("demo1.wav")),
        ("file", &recording("demo4.wav")),
    ];
    let Some(ran) = script("page.mjs", &args) else { return };
    let seen = seen(&ran);
    assert_eq!(seen["troubles"], serde_json::json!([]), "the console is quiet");
    assert_eq!(seen["microphone"], serde_json::json!([FIRST]));
    assert_eq!(seen["file"], serde_json::json!([SECOND]));
    assert!(seen["final_while_live"].as_str().unwrap().contains(FIRST));
    assert!(seen["delay"].as_str().unwrap().ends_with(" s"), "{}", seen["delay"]);
    assert_eq!(seen["title"], "godctl · live transcription");
    assert_eq!(seen["speakers"], serde_json::json!(["Speaker 1", "Speaker 2"]));
    assert_eq!(seen["detected"], "Detected: Arabic");

    let files = &seen["downloads"];
    let both = format!("{FIRST}\n{SECOND}\n");
    assert_eq!(files["txt"], both);
    assert_eq!(seen["copied"], both);
    let (srt, vtt) = (files["srt"].as_str().unwrap(), files["vtt"].as_str().unwrap());
    assert!(srt.starts_with("1\n00:00:0") && srt.contains(&format!("\n{FIRST}\n\n2\n")), "{srt}");
    assert!(vtt.starts_with("WEBVTT\n\n00:00:0") && vtt.contains(SECOND), "{vtt}");
    let json: serde_json::Value = serde_json::from_str(files["json"].as_str().unwrap()).unwrap();
    assert_eq!((&json["lines"][0]["text"], &json["model"]), (&FIRST.into(), &"command-en".into()));
    assert_eq!(json["lines"][0]["words"].as_array().unwrap().len(), 7);
    // The file came after the microphone, also on the clock.
    assert!(json["lines"][1]["start"].as_f64() > json["lines"][0]["end"].as_f64(), "{json}");
}

/// One request on a connection of its own: the status, the headers in lower case, the body.
fn get(address: &str, path: &str, headers: &[&str]) -> (u16, String, String) {
    let mut socket = std::net::TcpStream::connect(address).unwrap();
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    write!(socket, "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{headers}\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split_whitespace().nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), body.to_owned())
}

/// The value of a header.
fn header<'a>(head: &'a str, name: &str) -> &'a str {
    let line = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    line.unwrap_or_else(|| panic!("no {name} in {head}"))
}

const HTML: &str = "accept: text/html,application/xhtml+xml;q=0.9,*/*;q=0.8";

#[test]
fn a_browser_gets_the_page_and_a_program_the_list_of_routes() {
    let home = Home::new();
    let (_server, address) = serve(&home, &[]);
    let (status, head, page) = get(&address, "/", &[HTML]);
    assert_eq!((status, page.as_str()), (200, crate::support::read("assets/page/index.html").as_str()));
    assert_eq!(header(&head, "content-type"), "text/html; charset=utf-8");
    let policy = header(&head, "content-security-policy");
    assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(header(&head, "x-content-type-options"), "nosniff");
    assert_eq!(header(&head, "referrer-policy"), "no-referrer");
    assert!(!head.contains("set-cookie"), "nobody asked for a token");
    let tag = format!("if-none-match: {}", header(&head, "etag"));
    assert_eq!(get(&address, "/", &[HTML, &tag]).0, 304);
    for accept in ["accept: */*", "accept: text/plain", "x-none: 1"] {
        let (status, head, text) = get(&address, "/", &[accept]);
        assert!(status == 200 && text.contains("/asr") && header(&head, "vary").contains("accept"), "{head}");
    }
    // What the page names is there, and nothing else.
    for path in page.split("\"page/").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert_eq!(get(&address, &format!("/page/{path}"), &[]).0, 200, "{path}");
    }
    let (_, head, code) = get(&address, "/page/lib/session.js", &[]);
    assert!(header(&head, "content-type").starts_with("text/javascript") && code.contains("class Session"));
    for path in ["/page/", "/page/nothing.js", "/page/../Cargo.toml", "/page/%2e%2e/index.html"] {
        assert_eq!(get(&address, path, &[]).0, 404, "{path}");
    }
}

#[test]
fn behind_a_token_the_page_comes_with_a_pass_for_its_files_alone() {
    let home = Home::new();
    let (_server, address) = serve(&home, &["-c", "asr.token=marker-token"]);
    assert_eq!(get(&address, "/", &[HTML]).0, 401);
    assert_eq!(get(&address, "/page/app.js", &[]).0, 401);
    let (status, head, page) = get(&address, "/?token=marker-token", &[HTML]);
    assert!(status == 200 && page.contains("page/app.js") && !page.contains("marker-token"));
    let cookie = header(&head, "set-cookie");
    assert!(
        cookie.contains("httponly") && cookie.contains("samesite=strict") && !cookie.contains("marker-token")
    );
    let pass = format!("cookie: other=1; {}", cookie.split(';').next().unwrap());
    for (path, accept, expected) in [
        ("/page/app.js", "accept: */*", 200),
        ("/page/lib/capture-worklet.js", "accept: */*", 200),
        ("/", HTML, 200),
        ("/", "accept: */*", 401),
        ("/ready", HTML, 401),
        ("/metrics", HTML, 401),
    ] {
        assert_eq!(get(&address, path, &[accept, &pass]).0, expected, "{path}");
    }
    assert_eq!(get(&address, "/page/app.js", &["cookie: godctl-page=0"]).0, 401);
}

#[test]
fn the_parts_of_the_page_that_need_no_browser() {
    let Some(ran) = script("units.mjs", &[]) else { return };
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), ""), "{}", ran.stderr);
}

#[test]
fn the_page_loads_nothing_from_elsewhere_and_has_nothing_inline() {
    let page = crate::support::read("assets/page/index.html");
    for forbidden in ["<style", " style=", "onclick", "javascript:", "//cdn", "https://"] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    let scripts = page.matches("<script").count();
    assert_eq!((scripts, page.matches("<script type=\"module\" src=").count()), (1, 1));
    let all = [crate::support::files("assets/page", ".js"), crate::support::files("assets/extension", ".js")];
    for path in all.concat() {
        let code = std::fs::read_to_string(&path).unwrap();
        for forbidden in
            ["innerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "https://"]
        {
            assert!(!code.contains(forbidden), "{} uses {forbidden}", path.display());
        }
    }
}
