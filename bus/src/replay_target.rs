//! What events can be handed to again besides consumers.

use std::sync::Arc;

use async_trait::async_trait;

use crate::replay::Replay;
use crate::{Db, Recorded, Tx};

/// What a target took of a page of events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Events of which rows of work were made; they carry the replay's id as their tag.
    pub handed: i64,
    /// Events that are meant and were left out.
    pub skipped: i64,
}

/// Something beside consumers that events can be handed to again: it makes rows of work of its own.
#[async_trait]
pub trait ReplayTarget: Send + Sync + 'static {
    /// Whether there is one of this name.
    ///
    /// # Errors
    /// Those of the database.
    async fn exists(&self, db: &Db, name: &str) -> Result<bool, sqlx::Error>;

    /// Makes rows of work of those of `events` that the replay means. What is under way already is
    /// left out. `tx` is rolled back if the replay has moved meanwhile.
    ///
    /// # Errors
    /// Those of the database.
    async fn hand_over(
        &self,
        tx: &mut Tx,
        replay: &Replay,
        events: &[Arc<Recorded>],
    ) -> Result<Taken, sqlx::Error>;
}
