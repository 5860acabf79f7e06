//! How many streams each token has open.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use super::Token;

/// Counts by the token's name, so that a token keeps its count when the tokens are read again.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Quotas(Arc<Mutex<HashMap<String, usize>>>);

/// One stream of a token, until it is dropped.
#[derive(Debug)]
pub(in super::super) struct Quota {
    quotas: Quotas,
    name: String,
}

impl Quotas {
    /// Counts one stream more.
    ///
    /// # Errors
    /// The limit, when the token has used it up.
    pub(in super::super) fn take(&self, token: &Token, default: Option<usize>) -> Result<Quota, usize> {
        let mut counts = self.0.lock();
        let count = counts.entry(token.name.clone()).or_default();
        match token.limits.sessions.or(default) {
            Some(limit) if *count >= limit => Err(limit),
            _ => {
                *count += 1;
                Ok(Quota { quotas: self.clone(), name: token.name.clone() })
            }
        }
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        let mut counts = self.quotas.0.lock();
        if let Some(count) = counts.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Tokens, *};

    #[test]
    fn each_token_has_its_own_count() {
        let file = format!(
            "[tokens.a]\nsha256 = \"{}\"\nmax_sessions = 2\n[tokens.b]\nsha256 = \"{}\"\n",
            "a".repeat(64),
            "b".repeat(64)
        );
        let tokens = Tokens::parse(&file).unwrap();
        let [a, b] = ["a", "b"].map(|name| tokens.by_name(name).unwrap());
        let quotas = Quotas::default();
        let first = quotas.take(&a, Some(1)).unwrap();
        let _second = quotas.take(&a, Some(1)).unwrap();
        assert_eq!(quotas.take(&a, Some(1)).unwrap_err(), 2, "its own limit, not the default");
        let _other = quotas.take(&b, Some(1)).unwrap();
        assert_eq!(quotas.take(&b, Some(1)).unwrap_err(), 1);
        assert!(quotas.take(&b, None).is_ok(), "no limit");
        drop(first);
        assert!(quotas.take(&a, None).is_ok(), "a stream that has ended makes room");
    }
}
