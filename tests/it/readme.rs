//! The README's examples are run: each `$ command` of a ```console block, and the output below it is compared.
//!
//! `...` alone on a line stands for any lines, `[..]` for anything within one. `? 78` right below a command says how
//! it ends (0 otherwise). Standard error counts as output, after standard output. Commands run in the project's
//! directory with a home of their own, through `sh`.

use crate::support::{Home, Ran, read};

#[derive(Debug, PartialEq, Eq)]
struct Example {
    line: usize,
    command: String,
    code: i32,
    output: Vec<String>,
}

fn examples(text: &str) -> Vec<Example> {
    let mut found: Vec<Example> = Vec::new();
    let mut inside = false;
    for (index, line) in text.lines().enumerate() {
        match line {
            "```console" => inside = true,
            "```" => inside = false,
            _ if !inside => {}
            _ => match (line.strip_prefix("$ "), line.strip_prefix("? "), found.last_mut()) {
                (Some(command), ..) => {
                    let command = command.to_owned();
                    found.push(Example { line: index + 1, command, code: 0, output: Vec::new() });
                }
                (_, Some(code), Some(last)) if last.output.is_empty() => last.code = code.parse().unwrap(),
                (.., Some(last)) => last.output.push(line.to_owned()),
                (.., None) => panic!("line {}: output without a command", index + 1),
            },
        }
    }
    for example in &mut found {
        while example.output.last().is_some_and(|line| line.trim().is_empty()) {
            example.output.pop();
        }
    }
    found
}

/// Whether lines match a pattern with `...` lines.
fn matches(pattern: &[String], lines: &[&str]) -> bool {
    match pattern.split_first() {
        None => lines.is_empty(),
        Some((first, rest)) if first == "..." => (0..=lines.len()).any(|skip| matches(rest, &lines[skip..])),
        Some((first, rest)) => {
            lines.split_first().is_some_and(|(line, lines)| line_matches(first, line) && matches(rest, lines))
        }
    }
}

/// Whether a line matches a pattern with `[..]` gaps; space at the end does not count.
fn line_matches(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.trim_end().split("[..]");
    let Some(mut rest) = line.trim_end().strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some((_, after)) = rest.split_once(part) else { return false };
        rest = after;
    }
    rest.ends_with(last)
}

fn verdict(example: &Example, ran: &Ran) -> Result<(), String> {
    let all = format!("{}{}", ran.stdout, ran.stderr);
    let lines: Vec<&str> = all.trim_end().lines().collect();
    if ran.code == Some(example.code) && matches(&example.output, &lines) {
        return Ok(());
    }
    let Example { line, command, code, output } = example;
    let expected = output.join("\n");
    Err(format!(
        "README.md:{line}: $ {command}\n-- ends with {code} and prints:\n{expected}\n-- but:\n{:?}\n{all}",
        ran.code
    ))
}

#[test]
fn every_example_of_the_readme_does_what_it_says() {
    let examples = examples(&read("README.md"));
    assert!(examples.len() >= 5, "{examples:?}");
    let home = Home::new();
    let run = |example: &Example| {
        let ran: Ran = home.command("sh").args(["-c", &example.command]).output().unwrap().into();
        verdict(example, &ran)
    };
    let broken: Vec<String> = examples.iter().filter_map(|example| run(example).err()).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n\n"));
}

#[test]
fn blocks_are_read_as_written() {
    let text = "# Title\n```sh\n$ not run\n```\n```console\n$ one\n1\n...\n\n$ two\n? 78\nerror: [..]\n```\n";
    let example = |line, command: &str, code, output: &[&str]| Example {
        line,
        command: command.to_owned(),
        code,
        output: output.iter().map(|line| (*line).to_owned()).collect(),
    };
    assert_eq!(
        examples(text),
        [example(6, "one", 0, &["1", "..."]), example(10, "two", 78, &["error: [..]"])]
    );
}

#[test]
fn output_is_compared_with_gaps() {
    let fits = |pattern: &str, output: &str| {
        let pattern: Vec<String> = pattern.lines().map(str::to_owned).collect();
        matches(&pattern, &output.lines().collect::<Vec<_>>())
    };
    assert!(
        fits("a\n...\nd", "a\nb\nc\nd")
            && fits("a\n...", "a")
            && fits("...", "")
            && fits("a [..] c", "a b c")
    );
    assert!(fits("took [..] ms, [..]!", "took 12 ms, fine!"));
    assert!(!fits("a\n...\nd", "a\nb") && !fits("a", "a\nb") && !fits("a", "") && !fits("a [..] c", "a b d"));
    let example = Example { line: 1, command: "x".to_owned(), code: 0, output: Vec::new() };
    let ran = |code| Ran { code: Some(code), stdout: String::new(), stderr: String::new() };
    assert!(verdict(&example, &ran(0)).is_ok() && verdict(&example, &ran(1)).is_err());
}
