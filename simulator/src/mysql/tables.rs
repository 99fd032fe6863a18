//! The rows of `migrations/*.sql`, in the order of their primary keys.
//!
//! A row knows the transaction that inserted it and has not committed yet; no other transaction sees it before. The
//! service deletes nothing, so a row goes away only by a rollback, or by commits that a failover undoes.

use super::locks::{Key, Trx};
use super::text::Padded;
use dropgate_issuer::store::rows::DeadLetterKey;
use dropgate_shared::campaign::CampaignState;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::rc::Rc;
use time::PrimitiveDateTime;

/// What an update changes of a campaign.
#[derive(Debug, Clone, Copy)]
pub(super) struct Revision {
    pub(super) state: CampaignState,
    pub(super) version: u32,
    pub(super) opens_at: PrimitiveDateTime,
    pub(super) closes_at: Option<PrimitiveDateTime>,
}

/// A row of `campaigns`.
#[derive(Debug)]
pub(super) struct CampaignRow {
    pub(super) owner: Trx,
    pub(super) revision: Revision,
    /// What a transaction has set and not committed.
    pub(super) pending: Option<(Trx, Revision)>,
    pub(super) created_at: PrimitiveDateTime,
}

impl CampaignRow {
    /// The revision that `trx` sees.
    pub(super) fn revision_for(&self, trx: Trx) -> Revision {
        match self.pending {
            Some((writer, revision)) if writer == trx => revision,
            _ => self.revision,
        }
    }
}

/// A row of `allotments`.
#[derive(Debug)]
pub(super) struct AllotmentRow {
    pub(super) owner: Trx,
    pub(super) granted_at: PrimitiveDateTime,
}

/// A row of `coupons`.
#[derive(Debug)]
pub(super) struct CouponRow {
    pub(super) owner: Cell<Trx>,
    pub(super) campaign: Rc<str>,
    pub(super) slot: u32,
    pub(super) allotment: u32,
    pub(super) user: Padded,
    pub(super) code: Box<str>,
    pub(super) admitted_at: PrimitiveDateTime,
    pub(super) issued_at: PrimitiveDateTime,
    /// What makes the keys differ where a unique key is switched off; 0 otherwise.
    pub(super) slot_twin: u32,
    pub(super) user_twin: u32,
}

impl CouponRow {
    pub(super) fn slot_key(&self) -> Key {
        Key::Slot(self.campaign.clone(), self.slot, self.slot_twin)
    }

    pub(super) fn user_key(&self) -> Key {
        Key::User(self.campaign.clone(), self.user.clone(), self.user_twin)
    }
}

/// A row of `refusals`.
#[derive(Debug, Clone)]
pub(super) struct RefusalRow {
    pub(super) owner: Trx,
    pub(super) proposed_slot: u32,
    pub(super) reason: Box<str>,
    pub(super) admitted_at: PrimitiveDateTime,
    pub(super) refused_at: PrimitiveDateTime,
}

/// A row of `waiting_claims`.
#[derive(Debug, Clone)]
pub(super) struct WaitingRow {
    pub(super) owner: Trx,
    pub(super) proposed_slot: u32,
    pub(super) code: Box<str>,
    pub(super) admitted_at: PrimitiveDateTime,
}

/// A row of `dead_letter_replays`.
#[derive(Debug)]
pub(super) struct ReplayRow {
    pub(super) owner: Trx,
    pub(super) replayed_at: PrimitiveDateTime,
}

/// Everything of one campaign id, whether there is a campaign of that id or not.
#[derive(Debug, Default)]
pub(super) struct OfCampaign {
    pub(super) row: Option<CampaignRow>,
    pub(super) allotments: BTreeMap<u32, AllotmentRow>,
    pub(super) by_slot: BTreeMap<(u32, u32), Rc<CouponRow>>,
    pub(super) by_user: BTreeMap<(Padded, u32), Rc<CouponRow>>,
    pub(super) refusals: BTreeMap<Padded, RefusalRow>,
    pub(super) waiting: BTreeMap<Padded, WaitingRow>,
}

/// All rows.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) campaigns: BTreeMap<Rc<str>, OfCampaign>,
    pub(super) replays: BTreeMap<DeadLetterKey, ReplayRow>,
}

impl Tables {
    /// The id as it is shared by all keys.
    pub(super) fn name(&mut self, id: &str) -> Rc<str> {
        if let Some((name, _)) = self.campaigns.get_key_value(id) {
            return name.clone();
        }
        let name: Rc<str> = id.into();
        self.campaigns.insert(name.clone(), OfCampaign::default());
        name
    }

    pub(super) fn of(&self, id: &str) -> Option<&OfCampaign> {
        self.campaigns.get(id)
    }

    pub(super) fn of_mut(&mut self, name: &Rc<str>) -> &mut OfCampaign {
        self.campaigns.entry(name.clone()).or_default()
    }

    /// Who has inserted the record and not committed; `None` if there is no such record.
    pub(super) fn owner(&self, key: &Key) -> Option<Trx> {
        match key {
            Key::Campaign(name) => self.of(name)?.row.as_ref().map(|row| row.owner),
            Key::Allotment(name, capacity) => self.of(name)?.allotments.get(capacity).map(|row| row.owner),
            Key::Slot(name, slot, twin) => self.of(name)?.by_slot.get(&(*slot, *twin)).map(|row| row.owner.get()),
            Key::User(name, user, twin) => {
                self.of(name)?.by_user.get(&(user.clone(), *twin)).map(|row| row.owner.get())
            }
            Key::Refusal(name, user) => self.of(name)?.refusals.get(user).map(|row| row.owner),
            Key::Replay(key) => self.replays.get(key).map(|row| row.owner),
            Key::Waiting(name, user) => self.of(name)?.waiting.get(user).map(|row| row.owner),
            Key::End(_) => None,
        }
    }

    /// The record behind `key`, whether that is there or not.
    pub(super) fn next(&self, key: &Key) -> Key {
        let next = match key {
            Key::Campaign(name) => self.behind(name, |name, of| of.row.as_ref().map(|_| Key::Campaign(name.clone()))),
            Key::Allotment(name, capacity) => {
                let own = self.of(name).and_then(|of| of.allotments.range((Excluded(capacity), Unbounded)).next());
                let first = |of: &OfCampaign| of.allotments.keys().next().copied();
                own.map(|(capacity, _)| Key::Allotment(name.clone(), *capacity))
                    .or_else(|| self.behind(name, |name, of| Some(Key::Allotment(name.clone(), first(of)?))))
            }
            Key::Slot(name, slot, twin) => {
                let own = self.of(name).and_then(|of| of.by_slot.range((Excluded((*slot, *twin)), Unbounded)).next());
                own.map(|(_, row)| row.slot_key())
                    .or_else(|| self.behind(name, |_, of| Some(of.by_slot.values().next()?.slot_key())))
            }
            Key::User(name, user, twin) => {
                let from = (Excluded((user.clone(), *twin)), Unbounded);
                let own = self.of(name).and_then(|of| of.by_user.range(from).next());
                own.map(|(_, row)| row.user_key())
                    .or_else(|| self.behind(name, |_, of| Some(of.by_user.values().next()?.user_key())))
            }
            Key::Refusal(name, user) => {
                let own = self.of(name).and_then(|of| of.refusals.range((Excluded(user), Unbounded)).next());
                let first = |of: &OfCampaign| of.refusals.keys().next().cloned();
                own.map(|(user, _)| Key::Refusal(name.clone(), user.clone()))
                    .or_else(|| self.behind(name, |name, of| Some(Key::Refusal(name.clone(), first(of)?))))
            }
            Key::Waiting(name, user) => {
                let own = self.of(name).and_then(|of| of.waiting.range((Excluded(user), Unbounded)).next());
                let first = |of: &OfCampaign| of.waiting.keys().next().cloned();
                own.map(|(user, _)| Key::Waiting(name.clone(), user.clone()))
                    .or_else(|| self.behind(name, |name, of| Some(Key::Waiting(name.clone(), first(of)?))))
            }
            Key::Replay(key) => self.replays.range((Excluded(key), Unbounded)).next().map(|(key, _)| Key::Replay(*key)),
            Key::End(_) => None,
        };
        next.unwrap_or_else(|| Key::End(key.index()))
    }

    /// The first that `find` finds in the campaigns behind `name`.
    fn behind(&self, name: &Rc<str>, find: impl Fn(&Rc<str>, &OfCampaign) -> Option<Key>) -> Option<Key> {
        self.campaigns.range::<str, _>((Excluded(&**name), Unbounded)).find_map(|(name, of)| find(name, of))
    }
}
