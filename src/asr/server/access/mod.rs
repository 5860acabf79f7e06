//! Who may talk to the server: `tokens` knows them by their hashes, `credentials` finds what a request presents,
//! `origins` judges web pages, `guard` decides before any route is reached, `quota` counts what each token uses.

mod credentials;
mod guard;
mod origins;
mod quota;
mod tokens;

pub(super) use guard::{Caller, guard};
pub use origins::Origins;
pub(super) use quota::{Quota, Quotas};
pub use tokens::{Limits, NewToken, Token, Tokens, TokensError};

use std::{future::pending, sync::Arc};

use tokio::sync::watch;

/// The tokens that are good now. Cheap to clone; all clones see what [`Access::replace`] puts in.
#[derive(Debug, Clone, Default)]
pub struct Access(Arc<watch::Sender<Arc<Tokens>>>);

impl Access {
    /// These tokens; none at all means that nobody is asked for one.
    #[must_use]
    pub fn new(tokens: Tokens) -> Self {
        Self(Arc::new(watch::Sender::new(Arc::new(tokens))))
    }

    /// From the next request on, these tokens are good instead. Sessions go on, but for those whose token is not among
    /// them any more: they say what they have heard, and close.
    pub fn replace(&self, tokens: Tokens) {
        self.0.send_replace(Arc::new(tokens));
    }

    /// The tokens that are good now.
    #[must_use]
    pub fn current(&self) -> Arc<Tokens> {
        Arc::clone(&self.0.borrow())
    }

    /// Waits until this token is not good. Cancel safe.
    pub(super) async fn revoked(&self, token: &Token) {
        // The other end lives in `self`; without it nothing could be revoked.
        if self.0.subscribe().wait_for(|tokens| !tokens.holds(token)).await.is_err() {
            pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests;
