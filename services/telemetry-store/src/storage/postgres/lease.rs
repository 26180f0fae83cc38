//! Leave to do what only one replica may do at a time: a row with an end, because a lock would be held
//! by a connection, and some of the work cannot be done in a transaction.

use std::time::Duration;

use sqlx::PgPool;
use tokio::time::timeout;

use crate::error::{Error, Result};

/// How long one step of the work may take. A server that is gone without a word ends it too.
const STEP: Duration = Duration::from_mins(10);
/// How long it is held without being renewed: longer than a step.
const HELD: &str = "15 minutes";

const TAKE: &str = "
    INSERT INTO leases (name, holder, held_until) VALUES ($1, $2, now() + $3::text::interval)
    ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until
    WHERE leases.holder = excluded.holder OR leases.held_until < now()";

const GIVE_BACK: &str = "DELETE FROM leases WHERE name = $1 AND holder = $2";

/// A lease that is held.
#[derive(Debug)]
pub(super) struct Lease<'a> {
    pool: &'a PgPool,
    name: &'static str,
    holder: &'a str,
}

impl<'a> Lease<'a> {
    /// Takes it, unless another process holds it.
    pub(super) async fn take(
        pool: &'a PgPool,
        name: &'static str,
        holder: &'a str,
    ) -> Result<Option<Self>> {
        let lease = Self { pool, name, holder };
        Ok(lease.renew().await?.then_some(lease))
    }

    /// Does a piece of the work, and then holds it for as long again.
    pub(super) async fn step<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let late = |_| Error::Unavailable("housekeeping takes too long".into());
        let done = timeout(STEP, work).await.map_err(late)??;
        if !self.renew().await? {
            return Err(Error::Unavailable("another replica does the housekeeping".into()));
        }
        Ok(done)
    }

    /// Lets another process have it.
    pub(super) async fn give_back(self) -> Result<()> {
        let give_back = sqlx::query(GIVE_BACK).bind(self.name).bind(self.holder);
        give_back.execute(self.pool).await?;
        Ok(())
    }

    async fn renew(&self) -> Result<bool> {
        let take = sqlx::query(TAKE).bind(self.name).bind(self.holder).bind(HELD);
        let taken = async { Ok(take.execute(self.pool).await?.rows_affected() > 0) };
        super::answered(taken).await
    }
}
