//! A batch of admissions becomes coupons, or refusals, in one transaction.
//!
//! Optimistic: one plain multi-row INSERT. Nearly every batch holds new claims under the slots that Redis proposed, and
//! then that one statement is all: no row is read first. If a constraint rejects it, `resolve` reads which rows exist
//! and chooses slots for the rest. Never INSERT IGNORE or ON DUPLICATE: they would hide which row was rejected, and
//! why.
//!
//! | a try ends with | next |
//! |---|---|
//! | `Constraint` | `resolve` at once; again if another issuer wrote one of the rows in between |
//! | `Contention` | the same way again, after a random pause that grows from the second try on |
//! | `Data`, `OthersConstraint` | both halves of the batch by themselves, until the one bad record is alone: it is rejected |
//! | `Away` with an unknown error number | the same, and the one record is written again; if that fails too, `blame` decides whether it is rejected, or the fault goes to the loop |
//! | `Away`, or no end within 30 s | the connection is discarded and the fault goes to the loop, which waits |
//! | 12 tries, or 60 s in all | a fault goes to the loop |
//!
//! The loop hands in the whole batch again; rows that were written by then are found by `resolve` (I6). So a failure at
//! any point, a lost answer to COMMIT included, needs no other handling.

use super::approvals::Approvals;
use super::look_up::rows_of;
use super::ports::{Session, Store, StoreError, StoreResult};
use super::rows::NewCoupon;
use crate::backoff::Jitter;
use crate::consume::ports::{Admission, ClaimOutcome, Confirmation, CouponStore, Hold, RejectReason};
use crate::labels;
use crate::timestamp::Clock;
use dropgate_shared::code::CodeSecrets;
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::ids::{CampaignId, Slot, UserId};
use dropgate_shared::redis_rest::OTHER_CODE_KEY;
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long a transaction may take before the connection counts as dead. Far below `max.poll.interval.ms`.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);
/// How often a batch is tried when others write the same rows.
const TRIES: u32 = 12;
/// After this time a batch goes back to the loop, whatever is still to be tried, so that the loop can log, wait, or
/// stop.
const ALL_TRIES: Duration = Duration::from_secs(60);
/// Rows that may be to blame for an unknown error number, before the server counts as the cause.
const UNCLEAR: usize = 8;
/// Rows of one INSERT. 7 binds a row: well below 65,535 a statement, and the statement well below
/// `max_allowed_packet`.
pub const MAX_ROWS: usize = 2_000;

/// Writes coupons to a [`Store`]. Clones share what is remembered.
#[derive(Clone)]
pub struct CouponWriter<S> {
    pub(super) store: S,
    secrets: CodeSecrets,
    /// Rows of a full batch: the one statement worth keeping prepared.
    full_batch: usize,
    clock: Clock,
    jitter: Jitter,
    known: Arc<Mutex<HashMap<CampaignId, Known>>>,
    pub(super) approvals: Approvals,
}

/// What is remembered of a campaign. It may be out of date, but only in ways that a constraint reveals: an allotment
/// that is too small makes a slot look too high, and the newest one is read; a row under an old allotment is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Known {
    /// The newest allotment: the greatest capacity that was granted.
    pub(super) allotment: u32,
    /// All slots above this one were taken, so a search for free slots begins here. The service deletes no row; for
    /// the case that an operator does, everything is read again before a claim is refused.
    pub(super) full_above: u32,
    /// Some claims were refused. Such a user never gets a coupon, so each batch of the campaign is looked up first. A
    /// refusal by another issuer is seen within seconds (`waiting`), and always before a slot of a later raise is used.
    pub(super) has_refusals: bool,
}

/// An admission of the batch, the first one of its user.
pub(super) struct Row<'a> {
    /// Place in the batch.
    pub(super) index: usize,
    pub(super) admission: &'a Admission,
    pub(super) code: String,
}

/// What an error of unknown number blames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blame {
    /// The row.
    Row,
    /// The row, if the server takes another one of the batch: a constraint of the shop rejects trial rows.
    RowIfAnotherIsWritten,
    /// The server, as far as is known.
    Server,
}

/// Outcomes with their places in the batch.
pub(super) type Placed = Vec<(usize, ClaimOutcome)>;

impl Row<'_> {
    pub(super) fn campaign(&self) -> &CampaignId {
        &self.admission.record.campaign
    }

    pub(super) fn user(&self) -> &UserId {
        &self.admission.record.user
    }

    /// The slot that Redis proposed.
    pub(super) fn slot(&self) -> u32 {
        self.admission.record.slot.get()
    }
}

impl<S: Store> CouponWriter<S> {
    /// Writes to `store`. Batches of `full_batch` rows are the usual ones.
    #[must_use]
    pub fn new(store: S, secrets: CodeSecrets, full_batch: usize, clock: Clock, jitter: Jitter) -> Self {
        Self { store, secrets, full_batch, clock, jitter, known: Arc::default(), approvals: Approvals::default() }
    }

    /// Writes rows in one transaction, by the table above.
    async fn write(&self, rows: &[Row<'_>], deadline: Instant) -> StoreResult<Placed> {
        let mut resolving = false;
        for attempt in 1..=TRIES {
            if Instant::now() >= deadline {
                return Err(timeout(ALL_TRIES));
            }
            let mut session = self.store.session().await?;
            let write = async {
                let written = if resolving {
                    self.resolve(&mut session, rows).await
                } else {
                    self.insert_new(&mut session, rows).await
                };
                match written {
                    // Its locks end with the transaction: others must not wait while this one waits for its next try.
                    Err(error) if !matches!(error, StoreError::Away(_)) => session.rollback().await.and(Err(error)),
                    other => other,
                }
            };
            match tokio::time::timeout(DEADLINE, write).await {
                Err(_) => {
                    // Nobody knows its state: the pool must not hand it out again.
                    session.discard();
                    return Err(timeout(DEADLINE));
                }
                Ok(Err(StoreError::Constraint)) => resolving = true,
                Ok(Err(StoreError::Contention)) => {}
                Ok(Err(StoreError::Away(fault))) => {
                    // After a failover this may be a connection to a server that is read-only for good:
                    // the next try opens one to whatever the name stands for by then.
                    session.discard();
                    return Err(StoreError::Away(fault));
                }
                Ok(other) => return other,
            }
            drop(session);
            if attempt > 1 {
                let spread_ms = 10 * u64::from(attempt);
                tokio::time::sleep(Duration::from_millis(self.jitter.next() % spread_ms)).await;
            }
        }
        Err(StoreError::Away(Fault::unknown(
            Source::MySql,
            labels::CONTENTION,
            "others write the same rows all the time",
        )))
    }

    /// Writes a row that was rejected with `fault`. None if it is rejected with the same error number.
    async fn write_again(&self, rows: &[Row<'_>], fault: &Fault, deadline: Instant) -> Result<Option<Placed>, Fault> {
        match self.write(rows, deadline).await {
            Ok(outcomes) => Ok(Some(outcomes)),
            Err(StoreError::Away(again)) if again.detail == fault.detail => Ok(None),
            Err(StoreError::Away(again)) => Err(again),
            // Another error than before: the loop hands the batch in again.
            Err(_) => Err(fault.clone()),
        }
    }

    /// The optimistic way: one round trip where the allotments are known. `Constraint` if not every row is new.
    async fn insert_new(&self, session: &mut S::Session, rows: &[Row<'_>]) -> StoreResult<Placed> {
        let allotments = self.allotments(session, rows).await?;
        let issued_at = self.clock.now();
        let mut placed = Placed::with_capacity(rows.len());
        let mut coupons = Vec::with_capacity(rows.len());
        for row in rows {
            match allotments.get(row.campaign()) {
                None => placed.push((row.index, unknown_campaign())),
                Some(_) if self.has_refusals(row.campaign()) => return Err(StoreError::Constraint),
                // Beyond the newest allotment, which was just read: the CHECK would reject it.
                Some(allotment) if row.slot() > *allotment => return Err(StoreError::Constraint),
                Some(allotment) => {
                    coupons.push(row.coupon(row.slot(), *allotment, issued_at));
                    placed.push((row.index, ClaimOutcome::Issued { slot: row.admission.record.slot }));
                }
            }
        }
        // In the order of the primary key: pages are filled in order, and of two issuers with the same rows the second
        // waits for the first instead of both deadlocking.
        coupons.sort_unstable_by(|a, b| (a.campaign, a.slot).cmp(&(b.campaign, b.slot)));
        // One statement is a transaction by itself, which saves the round trips of BEGIN and COMMIT.
        if coupons.len() <= MAX_ROWS {
            self.insert(session, &coupons).await?;
        } else {
            session.begin().await?;
            self.insert(session, &coupons).await?;
            session.commit().await?;
        }
        Ok(placed)
    }

    /// Inserts coupons in as few statements as their binds allow. Only the two lengths that recur stay prepared: any
    /// other would push a useful statement out of the server's memory.
    pub(super) async fn insert(&self, session: &mut S::Session, coupons: &[NewCoupon<'_>]) -> StoreResult<()> {
        for some in coupons.chunks(MAX_ROWS) {
            let recurs = some.len() == self.full_batch || some.len() == MAX_ROWS;
            session.insert_coupons(some, recurs).await?;
        }
        Ok(())
    }

    /// The newest allotments of the rows' campaigns. Read where none is remembered, and where a row's slot exceeds the
    /// remembered one (the campaign was raised, or the slot is invalid); a campaign that is missing in the result does
    /// not exist. A campaign is never remembered as absent: it may be created at any time.
    async fn allotments(&self, session: &mut S::Session, rows: &[Row<'_>]) -> StoreResult<HashMap<CampaignId, u32>> {
        let mut allotments = HashMap::new();
        let mut unknown = BTreeSet::new();
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
                        unknown.insert(row.campaign());
                    }
                }
            }
        }
        for campaign in unknown {
            match session.newest_allotment_and_refusals(campaign).await? {
                Some((allotment, has_refusals)) => {
                    self.learn(campaign, allotment, None);
                    if has_refusals {
                        self.note_refusals(campaign);
                    }
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
        let fresh = Known { allotment, full_above: allotment, has_refusals: false };
        let entry = known.entry(campaign.clone()).or_insert(fresh);
        if entry.allotment != allotment {
            *entry = Known { has_refusals: entry.has_refusals, ..fresh };
        }
        if let Some(full_above) = full_above {
            entry.full_above = entry.full_above.min(full_above);
        }
        *entry
    }

    /// Replaces what is remembered of a campaign's slots.
    pub(super) fn relearn(&self, campaign: &CampaignId, allotment: u32, full_above: u32) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let has_refusals = known.get(campaign).is_some_and(|campaign| campaign.has_refusals);
        known.insert(campaign.clone(), Known { allotment, full_above, has_refusals });
    }

    /// Some claims of the campaign were refused.
    pub(super) fn note_refusals(&self, campaign: &CampaignId) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(campaign) = known.get_mut(campaign) {
            campaign.has_refusals = true;
        }
    }

    fn has_refusals(&self, campaign: &CampaignId) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(campaign).is_some_and(|campaign| campaign.has_refusals)
    }

    pub(super) fn random(&self) -> u64 {
        self.jitter.next()
    }

    /// Works in a session of its own, within the deadline of a batch.
    pub(super) async fn run<T>(&self, work: impl AsyncFnOnce(&mut S::Session) -> StoreResult<T>) -> Result<T, Fault> {
        let mut session = self.store.session().await?;
        let worked =
            tokio::time::timeout(DEADLINE, work(&mut session)).await.unwrap_or_else(|_| Err(timeout(DEADLINE)));
        match worked {
            Ok(worked) => Ok(worked),
            // Nobody knows its state: the pool must not hand it out again.
            Err(StoreError::Away(fault)) => {
                session.discard();
                Err(fault)
            }
            Err(error) => {
                session.rollback().await?;
                Err(error.into())
            }
        }
    }

    /// The clock by which rows are dated.
    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }
}

impl<'a> Row<'a> {
    /// The row to be written.
    pub(super) fn coupon(&'a self, slot: u32, allotment: u32, issued_at: time::PrimitiveDateTime) -> NewCoupon<'a> {
        NewCoupon {
            campaign: self.campaign(),
            slot,
            allotment,
            user: self.user(),
            code: &self.code,
            admitted_at: self.admission.admitted_at,
            issued_at,
        }
    }
}

impl<S: Store> CouponStore for CouponWriter<S> {
    fn must_hold(&self, admissions: &[&Admission]) -> Option<Hold> {
        let is_other = |admission: &&&Admission| self.secrets.of(admission.record.code_key).is_none();
        let record = &admissions.iter().find(is_other)?.record;
        let key = record.code_key.map(String::from).unwrap_or_default();
        let text = format!(
            "the gate showed codes of campaign {} that are derived from the secret {key}, and this issuer has {}: \
             give gate and issuer the same COUPON_CODE_SECRET, or while it is replaced the other one as \
             COUPON_CODE_SECRET_PREVIOUS",
            record.campaign,
            self.secrets.ids()
        );
        Some(Hold { label: OTHER_CODE_KEY, text })
    }

    async fn look_up(&self, admissions: &[&Admission]) -> Result<Vec<Option<ClaimOutcome>>, Fault> {
        self.run(async |session| rows_of(session, admissions).await).await
    }

    async fn persist(&self, admissions: &[&Admission]) -> Result<Vec<ClaimOutcome>, Fault> {
        // A user's second record in a batch takes the outcome of their first.
        let mut first_of = HashMap::with_capacity(admissions.len());
        let mut rows = Vec::with_capacity(admissions.len());
        let mut twins = Vec::new();
        for (index, admission) in admissions.iter().copied().enumerate() {
            let record = &admission.record;
            match first_of.entry((&record.campaign, &record.user)) {
                Entry::Occupied(first) => twins.push((index, *first.get())),
                Entry::Vacant(place) => {
                    place.insert(index);
                    // Without its secret it is held before it comes here.
                    let secret = self.secrets.of(record.code_key).ok_or_else(incomplete)?;
                    rows.push(Row { index, admission, code: secret.code(&record.campaign, &record.user) });
                }
            }
        }

        let mut placed = HashMap::with_capacity(admissions.len());
        // A value that the database will never take is found by halving, so that it alone is blamed.
        let mut work = vec![rows];
        let mut unclear = Vec::new();
        let deadline = Instant::now() + ALL_TRIES;
        while let Some(rows) = work.pop() {
            match self.write(&rows, deadline).await {
                Ok(outcomes) => placed.extend(outcomes),
                Err(StoreError::Data(_) | StoreError::OthersConstraint(_)) if rows.len() > 1 => halve(rows, &mut work),
                Err(StoreError::Data(text)) => reject(&rows, labels::DATA, text, &mut placed),
                Err(StoreError::OthersConstraint(text)) => {
                    reject(&rows, labels::OTHERS_CONSTRAINT, text, &mut placed);
                }
                Err(StoreError::Away(fault)) if fault.label == labels::REFUSED && rows.len() > 1 => {
                    halve(rows, &mut work);
                }
                Err(StoreError::Away(fault)) if fault.label == labels::REFUSED => {
                    if let Some(outcomes) = self.write_again(&rows, &fault, deadline).await? {
                        placed.extend(outcomes);
                        continue;
                    }
                    match self.blame(&rows, &fault).await {
                        Blame::Row => reject(&rows, labels::ROW_REFUSED, fault.detail, &mut placed),
                        Blame::RowIfAnotherIsWritten if unclear.len() < UNCLEAR => unclear.push((rows, fault)),
                        Blame::RowIfAnotherIsWritten | Blame::Server => return Err(fault),
                    }
                }
                Err(StoreError::Away(fault)) => return Err(fault),
                // `write` returns only those above. For anything else the loop waits.
                Err(StoreError::Constraint | StoreError::Contention) => return Err(incomplete()),
            }
        }
        let is_writable = placed.values().any(|outcome| matches!(outcome, ClaimOutcome::Issued { .. }));
        for (rows, fault) in unclear {
            // Written again after the others, since the server may have rejected all rows before.
            match self.write_again(&rows, &fault, deadline).await? {
                Some(outcomes) => placed.extend(outcomes),
                None if is_writable => reject(&rows, labels::ROW_REFUSED, fault.detail, &mut placed),
                None => return Err(fault),
            }
        }
        for (index, first) in twins {
            let outcome = match placed.get(&first) {
                Some(ClaimOutcome::Issued { slot }) => ClaimOutcome::Already { slot: *slot },
                Some(other) => other.clone(),
                None => return Err(incomplete()),
            };
            placed.insert(index, outcome);
        }
        (0..admissions.len()).map(|index| placed.remove(&index).ok_or_else(incomplete)).collect()
    }

    async fn holders(&self, slots: &BTreeSet<(&CampaignId, Slot)>) -> Result<Vec<Confirmation>, Fault> {
        self.holders_of(slots).await
    }

    fn can_decide(&self) -> bool {
        self.approvals.has_any()
    }

    async fn decide(&self, limit: usize) -> Result<Vec<Confirmation>, Fault> {
        self.decide_waiting(limit).await
    }
}

fn halve<'a>(mut rows: Vec<Row<'a>>, work: &mut Vec<Vec<Row<'a>>>) {
    let half = rows.split_off(rows.len() / 2);
    work.extend([half, rows]);
}

/// The rows are one.
fn reject(rows: &[Row<'_>], label: &'static str, text: String, placed: &mut HashMap<usize, ClaimOutcome>) {
    let rejected = |row: &Row<'_>| (row.index, ClaimOutcome::Rejected(RejectReason { label, text: text.clone() }));
    placed.extend(rows.iter().map(rejected));
}

pub(super) fn unknown_campaign() -> ClaimOutcome {
    ClaimOutcome::Rejected(RejectReason {
        label: labels::UNKNOWN_CAMPAIGN,
        text: "MySQL has no such campaign: create it; the outbox sends the claim again".to_owned(),
    })
}

fn timeout(after: Duration) -> StoreError {
    let detail = format!("a batch took longer than {} s", after.as_secs());
    StoreError::Away(Fault::unknown(Source::MySql, labels::TIMEOUT, detail))
}

fn incomplete() -> Fault {
    Fault::unknown(Source::MySql, labels::INCOMPLETE, "a batch came back without an outcome for each record")
}
