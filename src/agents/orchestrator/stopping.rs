//! Stops turns that others work on, and closes those that nobody works on any more.
//!
//! Whoever works on a turn looks twice a second whether it is to be stopped (see `saving`), so it can be anywhere that
//! the store can be reached from. Who is dead looks no more: such a turn is closed here.

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    super::{
        session::{Input, SessionId},
        store::{Change, StoreError},
    },
    Holder, Orchestrator, OrderError, WhenBusy,
    identity::kill_leftovers,
    leases::name_of,
};

/// Who works on a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    /// Nobody has its lease.
    Free,
    /// This process, which is not known to be dead.
    By(Holder),
    /// This process, which is certainly gone.
    Dead(Holder),
    /// Somebody who does not say who they are.
    Unknown,
}

impl Hold {
    /// Whether nobody can be working on it.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self, Self::Free | Self::Dead(_))
    }
}

impl Orchestrator {
    /// Who works on a session.
    ///
    /// # Errors
    /// A store in trouble.
    pub async fn hold_on(&self, session: &SessionId) -> Result<Hold, StoreError> {
        let Some(text) = self.store.holder_of(&name_of(session)).await? else { return Ok(Hold::Free) };
        Ok(match Holder::parse(&text) {
            None => Hold::Unknown,
            Some(holder) if holder.is_dead() => Hold::Dead(holder),
            Some(holder) => Hold::By(holder),
        })
    }

    /// Closes the turn of a run that was left open, and kills what is left of it on this system. False if it is closed
    /// already.
    ///
    /// # Errors
    /// [`OrderError::Busy`] if somebody works on the session; a store in trouble.
    pub async fn close_left_open(&self, session: &SessionId, run: Uuid) -> Result<bool, OrderError> {
        let floor = self.store.get(session).await?.map_or(0, |stored| stored.fence);
        let (name, what) = (name_of(session), format!("session {session}"));
        let never = CancellationToken::new();
        let lease = self.take_one((&name, &what), floor, (WhenBusy::Fail, &never), None).await?;
        let closed = async {
            loop {
                let Some(stored) = self.store.get(session).await? else { return Ok(false) };
                let (mut session, expected) = (stored.session, stored.version);
                let Some(open) = session.run.clone().filter(|open| open.id == run) else { return Ok(false) };
                kill_leftovers(&open).await;
                session.step(Input::Orphaned, self.clock.now())?;
                let id = Uuid::now_v7();
                let change = Change { id, session: &session, expected, lease: Some(&lease), turn: None };
                match self.store.update(&change).await {
                    Ok(_) => return Ok(true),
                    // Somebody has set a tag meanwhile.
                    Err(StoreError::Conflict { .. }) => {}
                    Err(error) => return Err(OrderError::Store(error)),
                }
            }
        };
        let closed = closed.await;
        self.release_one(&lease).await;
        closed
    }
}
