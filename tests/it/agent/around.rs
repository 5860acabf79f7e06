//! What surrounds a turn: hooks before and after it, and a worktree of its own.

use std::{fs, path::Path, process::Command};

use serde_json::Value;

use super::{CLAUDE, Desk};

fn git(at: &Path, arguments: &[&str]) -> String {
    let who = ["-c", "user.name=T", "-c", "user.email=t@example.org"];
    let output = Command::new("git").arg("-C").arg(at).args(who).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A repository with one file.
fn repository(desk: &Desk) -> std::path::PathBuf {
    let at = desk.home.path().join("work");
    desk.home.write("work/a.txt", "one\n");
    git(&at, &["init", "--quiet", "-b", "main"]);
    git(&at, &["add", "."]);
    git(&at, &["commit", "--quiet", "-m", "begin"]);
    at
}

#[test]
fn an_agent_with_a_worktree_leaves_the_users_tree_alone_and_its_work_is_told() {
    let desk = Desk::new();
    let work = repository(&desk);
    let commits = "echo two > a.txt; git -c user.name=A -c user.email=a@example.org commit -qam 'Count to two'\n\
                   echo new > b.txt";
    desk.agent("claude", &format!("{commits}\n{CLAUDE}"));
    let at = work.to_str().unwrap();
    let ran = desk.start(&["claude", "-p", "count", "--cwd", at, "--worktree", "--json"], b"");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let events: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ended = &events.last().unwrap()["payload"];
    let workspace = &ended["workspace"];
    assert_eq!(workspace["files_changed"], serde_json::json!(["a.txt", "b.txt"]));
    assert_eq!(workspace["commits"].as_array().unwrap().len(), 1, "{workspace}");
    let tree = Path::new(workspace["path"].as_str().unwrap());
    assert_eq!(desk.seen("directory").trim_end(), tree.to_str().unwrap());
    assert_eq!(fs::read_to_string(tree.join("a.txt")).unwrap(), "two\n");
    assert_eq!(fs::read_to_string(work.join("a.txt")).unwrap(), "one\n");
    assert_eq!(git(&work, &["status", "--porcelain"]), "");
    let branch = workspace["branch"].as_str().unwrap();
    assert_eq!(git(&work, &["log", "-1", "--format=%s", branch]), "Count to two\n");
    let file = desk.home.write("events.jsonl", &ran.stdout);
    let checked = desk.home.godctl(&["bus", "validate", file.to_str().unwrap()]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
}

#[test]
fn a_worktree_in_which_nothing_was_done_is_gone_afterwards() {
    let desk = Desk::new();
    let work = repository(&desk);
    desk.agent("claude", CLAUDE);
    let ran = desk.start(&["claude", "-p", "count", "--cwd", work.to_str().unwrap(), "--worktree"], b"");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("the worktree is removed"), "{}", ran.stderr);
    assert_eq!(git(&work, &["worktree", "list"]).lines().count(), 1);
    assert_eq!(git(&work, &["branch", "--format=%(refname:short)"]), "main\n");
    let outside = desk.home.path().to_str().unwrap();
    let ran = desk.start(&["claude", "-p", "count", "--cwd", outside, "--worktree"], b"");
    assert_eq!(ran.code, Some(2), "{}", ran.stderr);
    assert!(ran.stderr.contains("no git repository"), "{}", ran.stderr);
    let ran = desk.start(&["echo", "-p", "count", "--worktree"], b"");
    assert!(ran.code == Some(2) && ran.stderr.contains("--worktree"), "{}", ran.stderr);
}

#[test]
fn hooks_of_the_configuration_stop_and_change_turns_and_hear_of_their_end() {
    let desk = Desk::new();
    desk.agent("claude", CLAUDE);
    let told = desk.home.path().join("told");
    let config = format!(
        "[agents.hooks.short]\nkind = \"validate\"\nmax_prompt_kb = 1\npriority = 20\n\
         [agents.hooks.polite]\nkind = \"command\"\ncommand = [\"echo\", '{{\"prompt\": \"please count\"}}']\n\
         [agents.hooks.tell]\nkind = \"command\"\nwhen = \"after\"\ncommand = [\"sh\", \"-c\", 'cat > {}']\n",
        told.display()
    );
    let file = desk.home.write(".config/godctl/config.toml", &config);
    let ran = desk.start(&["claude", "-p", "count"], b"");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "There are two.\n"), "{}", ran.stderr);
    assert_eq!(desk.seen("input"), "please count");
    let told: Value = serde_json::from_str(&fs::read_to_string(told).unwrap()).unwrap();
    assert_eq!(told["result"]["output"], "There are two.");
    let ran = desk.start(&["claude", "-p", &"x".repeat(2_000)], b"");
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("1 KB is the most"), "{}", ran.stderr);

    fs::remove_dir_all(desk.home.path().join("seen")).unwrap();
    fs::create_dir(desk.home.path().join("seen")).unwrap();
    let guard = "[agents.hooks.guard]\nkind = \"command\"\ncommand = [\"sh\", \"-c\", \"echo not on sundays >&2; exit 2\"]\n";
    fs::write(file, guard).unwrap();
    let ran = desk.start(&["claude", "-p", "count", "--json"], b"");
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("hook 'guard' stopped it: not on sundays"), "{}", ran.stderr);
    assert!(ran.stdout.contains("\"class\":\"denied\""), "{}", ran.stdout);
    assert!(!desk.home.path().join("seen/input").exists(), "the agent was never started");
}

/// Agents keep their conversations by directory, so a session that has a worktree goes on in it.
#[test]
fn a_session_goes_on_in_its_worktree() {
    let desk = Desk::new();
    let work = repository(&desk);
    desk.agent("claude", &format!("echo new > b.txt\n{CLAUDE}"));
    let at = work.to_str().unwrap();
    let begin = ["claude", "-p", "count", "--cwd", at, "--session-id", "apart", "--worktree"];
    let ran = desk.start(&begin, b"");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let tree = desk.seen("directory");
    let ran = desk.start(&["claude", "-p", "go on", "--session-id", "apart"], b"");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(desk.seen("directory"), tree);
    assert_ne!(tree.trim_end(), at);

    let ran = desk.start(&["claude", "-p", "count", "--cwd", at, "--session-id", "here"], b"");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let ran = desk.start(&["claude", "-p", "go on", "--session-id", "here", "--worktree"], b"");
    assert!(ran.code == Some(2) && ran.stderr.contains("leave --worktree out"), "{}", ran.stderr);
}
