//! Which dead letters were sent again.

use super::Database;
use super::error::fault_of;
use crate::timestamp;
use dropgate_shared::fault::Fault;
use sqlx::{MySql, QueryBuilder};
use std::collections::HashSet;
use time::PrimitiveDateTime;

/// A dead letter: partition, offset, and when it was given up, to the ms.
pub type LetterKey = (i32, i64, PrimitiveDateTime);

impl Database {
    /// Those of `letters` that were sent again before.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn replayed(&self, letters: &[LetterKey]) -> Result<HashSet<LetterKey>, Fault> {
        if letters.is_empty() {
            return Ok(HashSet::new());
        }
        let mut sql = QueryBuilder::<MySql>::new(
            "SELECT partition_id, record_offset, dead_at FROM dead_letter_replays \
             WHERE (partition_id, record_offset, dead_at) IN ",
        );
        sql.push_tuples(letters, |mut tuple, (partition, offset, dead_at)| {
            tuple.push_bind(*partition).push_bind(*offset).push_bind(*dead_at);
        });
        let found: Vec<LetterKey> =
            sql.build_query_as().persistent(false).fetch_all(&self.pool).await.map_err(|error| fault_of(&error))?;
        Ok(found.into_iter().collect())
    }

    /// Remembers that `letters` were sent again. Those that were remembered before keep their date.
    ///
    /// # Errors
    /// [`Fault`]; to remember again is right.
    pub async fn remember_replayed(&self, letters: &[LetterKey]) -> Result<(), Fault> {
        if letters.is_empty() {
            return Ok(());
        }
        let now = timestamp::now();
        let mut sql = QueryBuilder::<MySql>::new(
            "INSERT INTO dead_letter_replays (partition_id, record_offset, dead_at, replayed_at) ",
        );
        sql.push_values(letters, |mut tuple, (partition, offset, dead_at)| {
            tuple.push_bind(*partition).push_bind(*offset).push_bind(*dead_at).push_bind(now);
        });
        sql.push(" ON DUPLICATE KEY UPDATE dead_letter_replays.replayed_at = dead_letter_replays.replayed_at");
        sql.build().persistent(false).execute(&self.pool).await.map_err(|error| fault_of(&error))?;
        Ok(())
    }
}
