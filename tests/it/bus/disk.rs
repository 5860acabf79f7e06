//! A disk that is really full: a file system of a few megabytes of the test's own.

use crate::support::{Home, Ran};

/// Fills the file system around the bus, publishes until that fails, makes room, and publishes again. Prints how many
/// were reported as published, and then what is on the bus.
const SCRIPT: &str = r#"
mount -t tmpfs -o size=3m tmpfs "$DISK"
bus="sqlite:$DISK/bus.sqlite3"
payload="{\"text\": \"$(head -c 3000 /dev/zero | tr '\0' x)\"}"
godctl bus publish disk.first.said "$payload" --bus "$bus" >/dev/null || exit 90
# Somebody who stays keeps the log from being folded in and cut after each publish.
godctl bus tail --json --bind 'nothing.#' --bus "$bus" >/dev/null &
# Room for a few more.
head -c 2400000 /dev/zero >"$DISK/filler" 2>/dev/null
done=1 code=0
while [ $code = 0 ]; do
    godctl bus publish disk.full.said "$payload" --bus "$bus" >/dev/null 2>"$HOME/why"
    code=$?
    [ $code != 0 ] || done=$((done + 1))
    [ $done -lt 500 ] || exit 91
done
rm "$DISK/filler"
godctl bus publish disk.again.said "$payload" --bus "$bus" >/dev/null || exit 92
done=$((done + 1))
kill $! 2>/dev/null
echo "$code $done $(godctl bus export - --bus "$bus" | grep -c '"disk\.')"
cat "$HOME/why"
"#;

#[test]
fn a_full_disk_refuses_cleanly_and_loses_nothing_that_was_accepted() {
    let home = Home::new();
    let unshared = |script: &str| -> Ran {
        let disk = home.path().join("disk");
        std::fs::create_dir_all(&disk).unwrap();
        let mut command = home.command("unshare");
        command.args(["--mount", "--map-root-user", "sh", "-c", script]).env("DISK", disk);
        match command.output() {
            Ok(output) => output.into(),
            Err(error) => Ran { code: None, stdout: String::new(), stderr: error.to_string() },
        }
    };
    let able = unshared("mount -t tmpfs -o size=1m tmpfs \"$DISK\"");
    if able.code != Some(0) {
        println!("ignored, needs leave to mount a file system in a namespace of its own: {}", able.stderr);
        return;
    }
    let ran = unshared(SCRIPT);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let (counts, why) = ran.stdout.split_once('\n').unwrap();
    let [code, reported, kept]: [u32; 3] =
        counts.split(' ').map(|count| count.parse().unwrap()).collect::<Vec<_>>().try_into().unwrap();
    assert_eq!(code, 1, "{ran:?}");
    assert!(reported > 3, "there was room for some: {ran:?}");
    assert_eq!(reported, kept, "what was reported is there, and nothing else: {ran:?}");
    assert!(why.contains("full"), "it does not say why: {why}");
}
