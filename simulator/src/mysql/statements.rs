//! The statements that write or lock. One that has to wait returns [`Halt::Wait`], and is called again with the same
//! [`Cursor`] when the wait ends.
//!
//! **Order of the checks of a row** (tried; one row after the other):
//! 1. its values fit into their columns (1406; 1441 for a time whose rounding leaves the year 9999),
//! 2. CHECK constraints (3819; 4025 on MariaDB),
//! 3. foreign key (1452): a shared lock on the parent's record. MySQL 9.7 checks it before it writes the row; MariaDB
//!    when it writes the index of the foreign key: for `coupons` that is the last one, for the others the first,
//! 4. primary key (1062): a shared lock on the record that has the same key,
//! 5. unique key (1062): a shared lock on that record **and on the gap before it**, also at READ COMMITTED.
//!
//! A record that an open transaction has inserted counts too: the lock on it waits until that transaction ends.
//! So a second inserter waits, and fails after a commit, goes on after a rollback.
//!
//! `INSERT .. ON DUPLICATE KEY UPDATE` takes an exclusive lock on the record that has the same key. `UPDATE` takes one
//! on the record that it finds, and releases it if the rest of its condition does not hold (READ COMMITTED only).
//!
//! Sources: MySQL manual, "Locks Set by Different SQL Statements in InnoDB", "FOREIGN KEY Constraints", "CHECK
//! Constraints", "The CHAR and VARCHAR Types"; tried on 9.7.4 and MariaDB 10.11.

use super::engine::{Change, Engine, Halt};
use super::error::ServerError;
use super::locks::{Key, Mode, Part, Trx};
use super::schema::{Flavor, Schema};
use super::tables::{AllotmentRow, CampaignRow, CouponRow, RefusalRow, ReplayRow, Revision, WaitingRow};
use super::text::{Padded, varchar};
use dropgate_issuer::store::rows::{Campaign, DeadLetterKey, NewCoupon, NewRefusal, NewWaiting};
use dropgate_shared::campaign::CampaignState;
use std::cell::Cell;
use std::rc::Rc;
use time::{Duration, PrimitiveDateTime};

/// How far a statement has come: the row, and the step within the row.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    row: usize,
    step: u8,
}

impl Cursor {
    /// Does `step` unless it has been done.
    fn once(&mut self, number: u8, step: impl FnOnce() -> Result<(), Halt>) -> Result<(), Halt> {
        if self.step < number {
            step()?;
            self.step = number;
        }
        Ok(())
    }

    fn next_row(&mut self) {
        *self = Self { row: self.row + 1, step: 0 };
    }
}

/// A row of an INSERT, or what is wrong with its values.
pub(super) type Values<T> = Result<T, ServerError>;

/// A row of `refusals`, with its keys.
pub(super) type Refusal = (Rc<str>, Padded, RefusalRow);

/// A row of `waiting_claims`, with its keys.
pub(super) type Waiting = (Rc<str>, Padded, WaitingRow);

/// A time as DATETIME(3) stores it. MySQL rounds to the ms (manual, "Fractional Seconds in Time Values"), MariaDB cuts
/// off (its manual, "Microseconds in MariaDB").
fn datetime(flavor: Flavor, time: PrimitiveDateTime) -> Result<PrimitiveDateTime, ServerError> {
    let ms = time.millisecond();
    let down = time.replace_millisecond(ms).unwrap_or(time);
    if flavor == Flavor::MariaDb || time.microsecond() - u32::from(ms) * 1_000 < 500 {
        return Ok(down);
    }
    down.checked_add(Duration::MILLISECOND).ok_or_else(ServerError::overflow)
}

impl Engine {
    /// The rows of an INSERT.
    pub(super) fn coupons(&mut self, coupons: &[NewCoupon<'_>]) -> Vec<Values<Rc<CouponRow>>> {
        let Schema { user_chars, is_slot_unique, is_user_unique, .. } = self.schema;
        let flavor = self.flavor;
        let mut row = 0;
        let mut values = |coupon: &NewCoupon<'_>| {
            row += 1;
            Ok(Rc::new(CouponRow {
                owner: Cell::new(Trx::NONE),
                campaign: self.tables.name(coupon.campaign.as_str()),
                slot: coupon.slot,
                allotment: coupon.allotment,
                user: Padded::new(varchar(coupon.user.as_str(), user_chars, "user_id", row)?),
                code: varchar(coupon.code, 32, "code", row)?.into(),
                admitted_at: datetime(flavor, coupon.admitted_at)?,
                issued_at: datetime(flavor, coupon.issued_at)?,
                slot_twin: if is_slot_unique { 0 } else { self.twin() },
                user_twin: if is_user_unique { 0 } else { self.twin() },
            }))
        };
        coupons.iter().map(&mut values).collect()
    }

    pub(super) fn insert_coupons(
        &mut self,
        trx: Trx,
        rows: &[Values<Rc<CouponRow>>],
        cursor: &mut Cursor,
    ) -> Result<(), Halt> {
        while let Some(row) = rows.get(cursor.row) {
            let row = row.as_ref().map_err(Clone::clone)?;
            if self.schema.is_slot_checked && !(1..=row.allotment).contains(&row.slot) {
                return Err(ServerError::check(self.flavor, "coupon_slot").into());
            }
            if self.flavor == Flavor::MySql {
                cursor.once(1, || self.allotment_of(trx, row))?;
            }
            cursor.once(2, || self.insert_slot(trx, row))?;
            cursor.once(3, || self.insert_user(trx, row))?;
            if self.flavor == Flavor::MariaDb {
                self.allotment_of(trx, row)?;
            }
            cursor.next_row();
        }
        Ok(())
    }

    fn allotment_of(&mut self, trx: Trx, row: &CouponRow) -> Result<(), Halt> {
        if !self.schema.is_allotment_foreign_key {
            return Ok(());
        }
        self.parent(trx, &Key::Allotment(row.campaign.clone(), row.allotment), "coupon_allotment")
    }

    fn parent(&mut self, trx: Trx, key: &Key, constraint: &str) -> Result<(), Halt> {
        self.intend(trx, key, Mode::Shared);
        if self.tables.owner(key).is_none() {
            return Err(ServerError::no_parent(constraint).into());
        }
        self.lock(trx, key, Mode::Shared, Part::Record)?;
        Ok(())
    }

    /// Fails if the record is there; waits for whoever has it inserted.
    fn vacant(&mut self, trx: Trx, key: &Key, part: Part, name: &str) -> Result<(), Halt> {
        self.intend(trx, key, Mode::Exclusive);
        if self.tables.owner(key).is_none() {
            return self.room(trx, key);
        }
        self.lock(trx, key, Mode::Shared, part)?;
        Err(ServerError::duplicate(name).into())
    }

    fn insert_slot(&mut self, trx: Trx, row: &Rc<CouponRow>) -> Result<(), Halt> {
        let key = row.slot_key();
        self.vacant(trx, &key, Part::Record, "coupons.PRIMARY")?;
        row.owner.set(trx);
        self.tables.of_mut(&row.campaign).by_slot.insert((row.slot, row.slot_twin), row.clone());
        self.inserted(trx, &key, Change::Slot(row.clone()));
        Ok(())
    }

    fn insert_user(&mut self, trx: Trx, row: &Rc<CouponRow>) -> Result<(), Halt> {
        let key = row.user_key();
        self.vacant(trx, &key, Part::NextKey, "coupons.coupon_user")?;
        self.tables.of_mut(&row.campaign).by_user.insert((row.user.clone(), row.user_twin), row.clone());
        self.inserted(trx, &key, Change::User(row.clone()));
        Ok(())
    }

    /// The rows of an INSERT.
    pub(super) fn refusals(&mut self, refusals: &[NewRefusal<'_>]) -> Vec<Values<Refusal>> {
        let (mut row, flavor) = (0, self.flavor);
        let mut values = |refusal: &NewRefusal<'_>| {
            row += 1;
            let values = RefusalRow {
                owner: Trx::NONE,
                proposed_slot: refusal.proposed_slot,
                reason: varchar(refusal.reason, 32, "reason", row)?.into(),
                admitted_at: datetime(flavor, refusal.admitted_at)?,
                refused_at: datetime(flavor, refusal.refused_at)?,
            };
            Ok((self.tables.name(refusal.campaign.as_str()), Padded::new(refusal.user.as_str()), values))
        };
        refusals.iter().map(&mut values).collect()
    }

    pub(super) fn insert_refusals(
        &mut self,
        trx: Trx,
        rows: &[Values<Refusal>],
        cursor: &mut Cursor,
    ) -> Result<(), Halt> {
        while let Some(row) = rows.get(cursor.row) {
            let (name, user, row) = row.as_ref().map_err(Clone::clone)?;
            cursor.once(1, || self.parent(trx, &Key::Campaign(name.clone()), "refusal_campaign"))?;
            let key = Key::Refusal(name.clone(), user.clone());
            self.vacant(trx, &key, Part::Record, "refusals.PRIMARY")?;
            let row = RefusalRow { owner: trx, ..row.clone() };
            self.tables.of_mut(name).refusals.insert(user.clone(), row);
            self.inserted(trx, &key, Change::Refusal(name.clone(), user.clone()));
            cursor.next_row();
        }
        Ok(())
    }

    /// The rows of an INSERT.
    pub(super) fn waiting_claims(&mut self, claims: &[NewWaiting<'_>]) -> Vec<Values<Waiting>> {
        let (mut row, flavor) = (0, self.flavor);
        let mut values = |claim: &NewWaiting<'_>| {
            row += 1;
            datetime(flavor, claim.waiting_since)?;
            let values = WaitingRow {
                owner: Trx::NONE,
                proposed_slot: claim.proposed_slot,
                code: varchar(claim.code, 32, "code", row)?.into(),
                admitted_at: datetime(flavor, claim.admitted_at)?,
            };
            let user = Padded::new(varchar(claim.user.as_str(), self.schema.user_chars, "user_id", row)?);
            Ok((self.tables.name(claim.campaign.as_str()), user, values))
        };
        claims.iter().map(&mut values).collect()
    }

    pub(super) fn insert_waiting(
        &mut self,
        trx: Trx,
        rows: &[Values<Waiting>],
        cursor: &mut Cursor,
    ) -> Result<(), Halt> {
        while let Some(row) = rows.get(cursor.row) {
            let (name, user, row) = row.as_ref().map_err(Clone::clone)?;
            cursor.once(1, || self.parent(trx, &Key::Campaign(name.clone()), "waiting_campaign"))?;
            let key = Key::Waiting(name.clone(), user.clone());
            self.vacant(trx, &key, Part::Record, "waiting_claims.PRIMARY")?;
            self.tables.of_mut(name).waiting.insert(user.clone(), WaitingRow { owner: trx, ..row.clone() });
            self.inserted(trx, &key, Change::Waiting(name.clone(), user.clone()));
            cursor.next_row();
        }
        Ok(())
    }

    pub(super) fn insert_campaign(
        &mut self,
        trx: Trx,
        id: &str,
        campaign: &Campaign,
        created_at: PrimitiveDateTime,
    ) -> Result<(), Halt> {
        let (name, flavor) = (self.tables.name(id), self.flavor);
        let opens_at = datetime(flavor, campaign.opens_at)?;
        let closes_at = campaign.closes_at.map(|at| datetime(flavor, at)).transpose()?;
        let created_at = datetime(flavor, created_at)?;
        if closes_at.is_some_and(|closes_at| closes_at <= opens_at) {
            return Err(ServerError::check(self.flavor, "campaign_window").into());
        }
        let key = Key::Campaign(name.clone());
        self.vacant(trx, &key, Part::Record, "campaigns.PRIMARY")?;
        let revision = Revision { state: campaign.state, version: Campaign::FIRST_VERSION, opens_at, closes_at };
        let row = CampaignRow { owner: trx, revision, pending: None, created_at };
        self.tables.of_mut(&name).row = Some(row);
        self.inserted(trx, &key, Change::Campaign(name));
        Ok(())
    }

    pub(super) fn insert_allotment(
        &mut self,
        trx: Trx,
        id: &str,
        capacity: u32,
        granted_at: PrimitiveDateTime,
    ) -> Result<(), Halt> {
        let (name, flavor) = (self.tables.name(id), self.flavor);
        let granted_at = datetime(flavor, granted_at)?;
        if capacity == 0 {
            return Err(ServerError::check(self.flavor, "allotment_capacity").into());
        }
        self.parent(trx, &Key::Campaign(name.clone()), "allotment_campaign")?;
        let key = Key::Allotment(name.clone(), capacity);
        self.vacant(trx, &key, Part::Record, "allotments.PRIMARY")?;
        self.tables.of_mut(&name).allotments.insert(capacity, AllotmentRow { owner: trx, granted_at });
        self.inserted(trx, &key, Change::Allotment(name, capacity));
        Ok(())
    }

    /// `SELECT .. FOR UPDATE`. Where there is no record, nothing is locked.
    pub(super) fn lock_campaign(&mut self, trx: Trx, id: &str) -> Result<bool, Halt> {
        let key = Key::Campaign(self.tables.name(id));
        self.intend(trx, &key, Mode::Exclusive);
        if self.tables.owner(&key).is_none() {
            return Ok(false);
        }
        self.lock(trx, &key, Mode::Exclusive, Part::Record)?;
        Ok(true)
    }

    /// True if the row matches the condition, whether it changes or not (the driver asks for found rows).
    pub(super) fn set_state(
        &mut self,
        trx: Trx,
        id: &str,
        from: &[CampaignState],
        to: CampaignState,
    ) -> Result<bool, Halt> {
        let name = self.tables.name(id);
        let key = Key::Campaign(name.clone());
        self.intend(trx, &key, Mode::Exclusive);
        if self.tables.owner(&key).is_none() {
            return Ok(false);
        }
        let is_new = self.lock(trx, &key, Mode::Exclusive, Part::Record)?;
        let Some(row) = &mut self.tables.of_mut(&name).row else { return Ok(false) };
        let before = row.revision_for(trx);
        if !from.contains(&before.state) {
            if is_new {
                self.unlock(trx, &key);
            }
            return Ok(false);
        }
        let was_pending =
            row.pending.replace((trx, Revision { state: to, version: before.version + 1, ..before })).is_some();
        self.changed(trx, Change::Revision { campaign: name, before, was_pending });
        Ok(true)
    }

    pub(super) fn next_version(&mut self, trx: Trx, id: &str, known: u32) -> Result<(), Halt> {
        let name = self.tables.name(id);
        let key = Key::Campaign(name.clone());
        if self.tables.owner(&key).is_none() {
            return Ok(());
        }
        self.lock(trx, &key, Mode::Exclusive, Part::Record)?;
        let Some(row) = &mut self.tables.of_mut(&name).row else { return Ok(()) };
        let before = row.revision_for(trx);
        let version = before.version.max(known) + 1;
        let was_pending = row.pending.replace((trx, Revision { version, ..before })).is_some();
        self.changed(trx, Change::Revision { campaign: name, before, was_pending });
        Ok(())
    }

    pub(super) fn set_window(
        &mut self,
        trx: Trx,
        id: &str,
        opens_at: PrimitiveDateTime,
        closes_at: Option<PrimitiveDateTime>,
    ) -> Result<(), Halt> {
        let (name, flavor) = (self.tables.name(id), self.flavor);
        let opens_at = datetime(flavor, opens_at)?;
        let closes_at = closes_at.map(|at| datetime(flavor, at)).transpose()?;
        let key = Key::Campaign(name.clone());
        self.intend(trx, &key, Mode::Exclusive);
        if self.tables.owner(&key).is_none() {
            return Ok(());
        }
        self.lock(trx, &key, Mode::Exclusive, Part::Record)?;
        if closes_at.is_some_and(|closes_at| closes_at <= opens_at) {
            return Err(ServerError::check(flavor, "campaign_window").into());
        }
        let Some(row) = &mut self.tables.of_mut(&name).row else { return Ok(()) };
        let before = row.revision_for(trx);
        let after = Revision { version: before.version + 1, opens_at, closes_at, ..before };
        let was_pending = row.pending.replace((trx, after)).is_some();
        self.changed(trx, Change::Revision { campaign: name, before, was_pending });
        Ok(())
    }

    /// `INSERT .. ON DUPLICATE KEY UPDATE` that changes nothing in a row that is there.
    pub(super) fn remember_replayed(
        &mut self,
        trx: Trx,
        keys: &[DeadLetterKey],
        at: PrimitiveDateTime,
        cursor: &mut Cursor,
    ) -> Result<(), Halt> {
        let flavor = self.flavor;
        let replayed_at = datetime(flavor, at)?;
        while let Some((partition, offset, dead_at)) = keys.get(cursor.row) {
            let id = (*partition, *offset, datetime(flavor, *dead_at)?);
            let key = Key::Replay(id);
            self.intend(trx, &key, Mode::Exclusive);
            if self.tables.owner(&key).is_some() {
                self.lock(trx, &key, Mode::Exclusive, Part::Record)?;
            } else {
                self.room(trx, &key)?;
                self.tables.replays.insert(id, ReplayRow { owner: trx, replayed_at });
                self.inserted(trx, &key, Change::Replay(id));
            }
            cursor.next_row();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dropgate_issuer::timestamp::from_ms;

    #[test]
    fn times_are_rounded_to_the_ms() {
        let at = from_ms(1_763_700_000_123).unwrap();
        let rounded = |nanos: i64| datetime(Flavor::MySql, at + Duration::nanoseconds(nanos)).unwrap();
        assert_eq!((rounded(0), rounded(499_999)), (at, at));
        assert_eq!(rounded(500_000), from_ms(1_763_700_000_124).unwrap());
        let last = from_ms(253_402_300_799_999).unwrap();
        assert_eq!(datetime(Flavor::MySql, last), Ok(last));
        let beyond = last + Duration::microseconds(600);
        assert_eq!(datetime(Flavor::MySql, beyond).unwrap_err().number, 1441);
        assert_eq!(datetime(Flavor::MariaDb, beyond), Ok(last));
    }
}
