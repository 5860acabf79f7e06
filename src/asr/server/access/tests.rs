//! The tokens as they change.

use super::*;

fn tokens(entries: &[(&str, &str)]) -> Tokens {
    let entry =
        |(name, digit): &(&str, &str)| format!("[tokens.{name}]\nsha256 = \"{}\"\n", digit.repeat(64));
    Tokens::parse(&entries.iter().map(entry).collect::<String>()).unwrap()
}

#[tokio::test]
async fn a_token_is_revoked_when_its_text_is_good_no_more_whatever_it_is_called() {
    let access = Access::new(tokens(&[("kiosk", "a"), ("phone", "b")]));
    let kiosk = access.current().by_name("kiosk").unwrap();
    let revoked = access.revoked(&kiosk);
    let mut revoked = std::pin::pin!(revoked);
    for still in [
        tokens(&[("kiosk", "a"), ("phone", "b")]),
        tokens(&[("kiosk", "a")]),
        tokens(&[("renamed", "a"), ("phone", "b")]),
    ] {
        access.replace(still);
        assert!(futures_util::poll!(&mut revoked).is_pending());
    }
    // Its name is somebody else's now.
    access.replace(tokens(&[("kiosk", "c"), ("phone", "b")]));
    revoked.await;
    access.revoked(&kiosk).await;
}
