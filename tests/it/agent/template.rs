//! Programs that the configuration describes.

use super::Desk;

/// A desk with a program of this name and these settings.
fn desk(settings: &str, body: &str) -> Desk {
    let desk = Desk::new();
    desk.agent("mine", body);
    let config = format!("[agents.providers.mine]\nkind = \"command\"\nprogram = \"mine\"\n{settings}");
    desk.home.write(".config/godctl/config.toml", &config);
    desk
}

#[test]
fn a_program_becomes_an_agent_by_a_few_lines_of_configuration() {
    let settings = "parser = \"json-lines\"\narguments = [\"run\", [\"--model\", \"{model}\"], \"--id={session}\"]\n\
                    variables = [\"OPENAI_*\"]\n";
    let desk = desk(
        settings,
        r#"echo '{"kind":"tool_invoked","id":"t","name":"ls","input":{"path":"."}}'
           echo '{"kind":"tool_completed","id":"t","output":"a b"}'
           echo '{"kind":"completed","text":"There are two."}'"#,
    );
    let ran = desk.start(&["mine", "--model", "acme/big", "--prompt=-count /the @files"], b"");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "There are two.\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("ls  ."), "{}", ran.stderr);
    assert_eq!(desk.seen("input"), "-count /the @files");
    let arguments = desk.seen("arguments");
    assert!(arguments.starts_with("run\n--model\nacme/big\n--id="), "{arguments}");
    let variables = desk.seen("variables");
    let has = |name: &str| variables.lines().any(|line| line == name);
    assert!(has("OPENAI_API_KEY") && has("PATH") && !has("ANTHROPIC_API_KEY"), "{variables}");

    let ran = desk.start(&["mine", "-p", "count"], b"");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(desk.seen("arguments").starts_with("run\n--id="), "no model, no flag for one");
}

#[test]
fn plain_text_is_an_answer_if_the_program_ends_well() {
    let good = desk("parser = \"text\"\n", "echo one; echo two");
    let ran = good.start(&["mine", "-p", "count"], b"");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "one\ntwo\n"), "{}", ran.stderr);
    let bad = desk("parser = \"text\"\n", "");
    let path = bad.home.path().join("bin/mine");
    std::fs::write(path, "#!/bin/sh\necho half; echo 'out of paper' >&2; exit 3\n").unwrap();
    let ran = bad.start(&["mine", "-p", "count"], b"");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("exit code 3: out of paper"), "{}", ran.stderr);
}

#[test]
fn nothing_that_is_said_becomes_a_flag_and_nothing_is_promised_that_is_not_kept() {
    let desk = desk("parser = \"text\"\narguments = [\"{model}\"]\n", "echo ran");
    for (args, says) in [
        (&["--model=--danger", "-p", "x"][..], "names of models"),
        (&["--access", "plan", "-p", "x"], "levels of access"),
        (&["--budget-usd", "1", "-p", "x"], "mine has no budget"),
    ] {
        let ran = desk.start(&[&["mine"][..], args].concat(), b"");
        assert_eq!(ran.code, Some(2), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(says), "{args:?}: {}", ran.stderr);
    }
    let config = "agents.providers = { mine = { kind = \"command\", program = \"mine\", parser = \"text\", \
                  arguments = [\"{prompt}\"] } }";
    let ran = desk.home.godctl(&["-c", config, "agent", "providers"]);
    assert_eq!(ran.code, Some(78), "{}", ran.stderr);
    assert!(ran.stderr.contains("there is no {prompt}"), "{}", ran.stderr);
}
