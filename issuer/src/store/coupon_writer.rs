//! The persist transaction: a batch of admissions becomes coupons, or refusals.
//!
//! Optimistic: one plain multi-row INSERT. If it succeeds every row is new. If a constraint refuses it,
//! `resolve` looks which rows there are and places the rest. Never INSERT IGNORE or ON
//! DUPLICATE: they would hide what we must know.

use super::mysql::Database;
use super::mysql::error::Trouble;
use crate::backoff::random;
use crate::consume::decode::Admission;
use crate::consume::ports::{Cause, Ledger, Outcome, UNKNOWN_CAMPAIGN};
use crate::timestamp;
use dropgate_shared::code::CodeSecret;
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::ids::CampaignId;
use sqlx::mysql::MySqlConnection;
use sqlx::{Connection, MySql, QueryBuilder};
use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a batch may take before the connection counts as dead. Far below `max.poll.interval.ms`.
const DEADLINE: Duration = Duration::from_secs(30);
/// How often a batch is tried again at once when others write the same rows.
const TRIES: u32 = 12;
/// After this time a batch goes back to the loop, whatever is still to be tried: what is written until
/// then is found when it comes again (I6), and the loop can tell, wait, or stop.
const ALL_TRIES: Duration = Duration::from_secs(60);
/// 7 binds a row: well below 65,535 a statement, and the statement well below `max_allowed_packet`.
const MAX_ROWS: usize = 2_000;

/// Writes coupons.
pub struct Coupons {
    database: Database,
    secret: CodeSecret,
    /// Rows of a full batch: the one statement worth keeping prepared.
    full_batch: usize,
    known: Mutex<HashMap<CampaignId, Known>>,
}

/// What is remembered of a campaign. Only ever behind the truth in ways that a constraint shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    /// The newest allotment: the greatest capacity that was granted.
    pub(super) allotment: u32,
    /// All slots above this one were taken. The service deletes no row; for the case that somebody else
    /// does, everything is read again before a claim is refused.
    pub(super) full_above: u32,
}

/// A row to be written.
pub(super) struct Row<'a> {
    /// Place in the batch.
    pub(super) index: usize,
    pub(super) admission: &'a Admission,
    pub(super) code: String,
}

/// Outcomes with the rows' places in the batch.
pub(super) type Placed = Vec<(usize, Outcome)>;

impl Row<'_> {
    pub(super) fn campaign(&self) -> &CampaignId {
        &self.admission.record.campaign
    }

    pub(super) fn user(&self) -> &str {
        self.admission.record.user.as_str()
    }

    pub(super) fn slot(&self) -> u32 {
        self.admission.record.slot.get()
    }
}

impl Coupons {
    /// Writes to `database`. Batches of `full_batch` rows are the usual ones.
    #[must_use]
    pub fn new(database: Database, secret: CodeSecret, full_batch: usize) -> Self {
        Self { database, secret, full_batch, known: Mutex::default() }
    }

    /// Writes rows in one transaction, again and again while others are in the way.
    async fn write(&self, rows: &[Row<'_>], deadline: Instant) -> Result<Placed, Trouble> {
        let mut resolving = false;
        for attempt in 1..=TRIES {
            if Instant::now() >= deadline {
                return Err(timeout(ALL_TRIES));
            }
            let mut connection = self.database.connection().await?;
            let write = async {
                if resolving {
                    self.resolve(&mut connection, rows).await
                } else {
                    self.insert_new(&mut connection, rows).await
                }
            };
            let Ok(written) = tokio::time::timeout(DEADLINE, write).await else {
                // Its state is anyone's guess: the pool must not hand it out again.
                drop(connection.detach());
                return Err(timeout(DEADLINE));
            };
            match written {
                Err(Trouble::Constraint) => resolving = true,
                Err(Trouble::Contention) => {}
                Err(Trouble::Away(fault)) => {
                    // After a failover this may be a connection to a server that is read-only for good:
                    // the next try opens one to whatever the name stands for by then.
                    drop(connection.detach());
                    return Err(Trouble::Away(fault));
                }
                other => return other,
            }
            // With it go its locks, which nobody needs to wait for while this one waits.
            drop(connection);
            if attempt > 1 {
                tokio::time::sleep(Duration::from_millis(random() % (10 * u64::from(attempt)))).await;
            }
        }
        Err(Trouble::Away(Fault::unknown(Source::MySql, "contention", "others write the same rows all the time")))
    }

    /// The optimistic way. `Constraint` if not every row is new.
    async fn insert_new(&self, connection: &mut MySqlConnection, rows: &[Row<'_>]) -> Result<Placed, Trouble> {
        let allotments = self.allotments(connection, rows).await?;
        let mut placed = Placed::with_capacity(rows.len());
        let mut inserts = Vec::with_capacity(rows.len());
        for row in rows {
            match allotments.get(row.campaign()) {
                None => placed.push((row.index, unknown_campaign())),
                // Beyond the newest allotment: another slot must be found, if there is one.
                Some(allotment) if row.slot() > *allotment => return Err(Trouble::Constraint),
                Some(allotment) => {
                    inserts.push(Insert { row, slot: row.slot(), allotment: *allotment });
                    placed.push((row.index, Outcome::Issued { slot: row.admission.record.slot }));
                }
            }
        }
        // In the order of the primary key: pages are written in order, and two issuers with the same
        // rows wait for one another instead of deadlocking.
        inserts.sort_unstable_by(|a, b| (a.row.campaign(), a.slot).cmp(&(b.row.campaign(), b.slot)));
        match inserts.as_slice() {
            [] => {}
            // One statement is a transaction: two round trips saved.
            few if few.len() <= MAX_ROWS => self.insert(connection, few).await?,
            many => {
                let mut transaction = connection.begin().await?;
                for some in many.chunks(MAX_ROWS) {
                    self.insert(&mut transaction, some).await?;
                }
                transaction.commit().await?;
            }
        }
        Ok(placed)
    }

    /// Inserts coupon rows, plainly.
    pub(super) async fn insert(&self, connection: &mut MySqlConnection, inserts: &[Insert<'_>]) -> Result<(), Trouble> {
        let issued_at = timestamp::now();
        for some in inserts.chunks(MAX_ROWS) {
            let mut sql = QueryBuilder::<MySql>::new(
                "INSERT INTO coupons (campaign_id, slot, allotment, user_id, code, admitted_at, issued_at) ",
            );
            sql.push_values(some, |mut tuple, insert| {
                tuple
                    .push_bind(insert.row.campaign().as_str())
                    .push_bind(insert.slot)
                    .push_bind(insert.allotment)
                    .push_bind(insert.row.user())
                    .push_bind(insert.row.code.as_str())
                    .push_bind(insert.row.admission.admitted_at)
                    .push_bind(issued_at);
            });
            // Every other length would push a useful statement out of the server's memory.
            let keep = some.len() == self.full_batch || some.len() == MAX_ROWS;
            sql.build().persistent(keep).execute(&mut *connection).await?;
        }
        Ok(())
    }

    /// The newest allotments of the rows' campaigns. Asks the database for those it does not know and
    /// for those that a row's slot exceeds; a campaign that is missing in the answer does not exist.
    async fn allotments(
        &self,
        connection: &mut MySqlConnection,
        rows: &[Row<'_>],
    ) -> Result<HashMap<CampaignId, u32>, Trouble> {
        let mut allotments = HashMap::new();
        let mut ask = HashSet::new();
        {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            for row in rows {
                match known.get(row.campaign()) {
                    Some(campaign) if row.slot() <= campaign.allotment => {
                        if !allotments.contains_key(row.campaign()) {
                            allotments.insert(row.campaign().clone(), campaign.allotment);
                        }
                    }
                    _ => {
                        ask.insert(row.campaign());
                    }
                }
            }
        }
        for campaign in ask {
            match newest_allotment(connection, campaign).await? {
                Some(allotment) => {
                    self.learn(campaign, allotment, None);
                    allotments.insert(campaign.clone(), allotment);
                }
                None => {
                    allotments.remove(campaign);
                }
            }
        }
        Ok(allotments)
    }

    /// Remembers what was read of a campaign, and returns what is known of it now.
    pub(super) fn learn(&self, campaign: &CampaignId, allotment: u32, full_above: Option<u32>) -> Known {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = Known { allotment, full_above: allotment };
        let entry = known.entry(campaign.clone()).or_insert(fresh);
        if entry.allotment != allotment {
            *entry = fresh;
        }
        if let Some(full_above) = full_above {
            entry.full_above = entry.full_above.min(full_above);
        }
        *entry
    }
}

impl Coupons {
    /// Replaces what is remembered of a campaign.
    pub(super) fn relearn(&self, campaign: &CampaignId, allotment: u32, full_above: u32) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(campaign.clone(), Known { allotment, full_above });
    }
}

impl Ledger for Coupons {
    async fn persist(&self, admissions: &[Admission]) -> Result<Vec<Outcome>, Fault> {
        // A user's second record in a batch takes the outcome of his first.
        let mut first_of = HashMap::with_capacity(admissions.len());
        let mut rows = Vec::with_capacity(admissions.len());
        let mut twins = Vec::new();
        for (index, admission) in admissions.iter().enumerate() {
            let record = &admission.record;
            match first_of.entry((&record.campaign, &record.user)) {
                std::collections::hash_map::Entry::Occupied(first) => twins.push((index, *first.get())),
                std::collections::hash_map::Entry::Vacant(place) => {
                    place.insert(index);
                    rows.push(Row { index, admission, code: self.secret.code(&record.campaign, &record.user) });
                }
            }
        }

        let mut placed = HashMap::with_capacity(admissions.len());
        // A value that the database will never take is found by halving, so that it alone is blamed.
        let mut work = vec![rows];
        let deadline = Instant::now() + ALL_TRIES;
        while let Some(mut rows) = work.pop() {
            match self.write(&rows, deadline).await {
                Ok(outcomes) => placed.extend(outcomes),
                Err(Trouble::Data(text)) => match rows.as_slice() {
                    [row] => {
                        placed.insert(row.index, Outcome::Poison(Cause { label: "data", text }));
                    }
                    _ => {
                        let half = rows.split_off(rows.len() / 2);
                        work.extend([half, rows]);
                    }
                },
                Err(Trouble::Away(fault)) => return Err(fault),
                // `write` ends only with the two above; to wait is right for anything else.
                Err(Trouble::Constraint | Trouble::Contention) => return Err(incomplete()),
            }
        }
        for (index, first) in twins {
            let outcome = match placed.get(&first) {
                Some(Outcome::Issued { slot }) => Outcome::Already { slot: *slot },
                Some(other) => other.clone(),
                None => return Err(incomplete()),
            };
            placed.insert(index, outcome);
        }
        (0..admissions.len()).map(|index| placed.remove(&index).ok_or_else(incomplete)).collect()
    }
}

/// A row with the slot that it will have.
pub(super) struct Insert<'a> {
    pub(super) row: &'a Row<'a>,
    pub(super) slot: u32,
    pub(super) allotment: u32,
}

/// The greatest capacity that the campaign was granted; `None` if there is no such campaign.
pub(super) async fn newest_allotment(
    connection: &mut MySqlConnection,
    campaign: &CampaignId,
) -> Result<Option<u32>, Trouble> {
    Ok(sqlx::query_scalar("SELECT MAX(capacity) FROM allotments WHERE campaign_id = ?")
        .bind(campaign.as_str())
        .fetch_one(connection)
        .await?)
}

pub(super) fn unknown_campaign() -> Outcome {
    Outcome::Poison(Cause {
        label: UNKNOWN_CAMPAIGN,
        text: "MySQL knows no such campaign: create it; the outbox sends the claim again".to_owned(),
    })
}

fn timeout(after: Duration) -> Trouble {
    let detail = format!("a batch took longer than {} s", after.as_secs());
    Trouble::Away(Fault::unknown(Source::MySql, "timeout", detail))
}

fn incomplete() -> Fault {
    Fault::unknown(Source::MySql, "incomplete", "a batch came back without an outcome for each record")
}
