//! The ports of the issuer's store: a pool, and sessions.

use super::connection::{Control, Kind, Link};
use super::engine::{Engine, Halt};
use super::error::{ServerError, lost, pool_timed_out};
use super::locks::Trx;
use super::server::{CONNECT_DEADLINE, Server};
use super::statements::Cursor;
use super::table_locks::{Access, Table};
use super::view::View;
use dropgate_issuer::store::ports::{Session, Store, StoreError};
use dropgate_issuer::store::rows::{
    Campaign, CampaignCounts, CampaignSummary, CouponRow, DeadLetterKey, Holder, NewCoupon, NewRefusal, NewWaiting,
    RefusalRow, Tally, WaitingRow,
};
use dropgate_shared::campaign::CampaignState;
use dropgate_shared::claim::ClaimEntry;
use dropgate_shared::ids::{CampaignId, Slot};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use time::PrimitiveDateTime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

/// A pool of connections to a [`Server`]. Clones share it.
#[derive(Debug, Clone)]
pub struct ModelStore {
    server: Server,
    pool: Rc<Pool>,
}

#[derive(Debug)]
struct Pool {
    permits: Arc<Semaphore>,
    idle: RefCell<Vec<Link>>,
}

impl Server {
    /// A pool of at most `connections`, as each issuer has one.
    #[must_use]
    pub fn store(&self, connections: u32) -> ModelStore {
        ModelStore::new(self.clone(), connections)
    }
}

impl ModelStore {
    pub(super) fn new(server: Server, connections: u32) -> Self {
        let permits = Arc::new(Semaphore::new(connections as usize));
        Self { server, pool: Rc::new(Pool { permits, idle: RefCell::default() }) }
    }
}

impl Store for ModelStore {
    type Session = ModelSession;

    /// As sqlx's pool: an idle connection as it is, or a new one within 5 s.
    async fn session(&self) -> Result<ModelSession, StoreError> {
        let deadline = Instant::now() + CONNECT_DEADLINE;
        let permit = match timeout_at(deadline, self.pool.permits.clone().acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            _ => return Err(pool_timed_out()),
        };
        let idle = self.pool.idle.borrow_mut().pop();
        let link = match idle {
            Some(link) => link,
            None => self.server.connect_pooled(deadline).await?,
        };
        Ok(ModelSession { link: Some(link), home: Some((self.pool.clone(), permit)), in_transaction: false })
    }

    async fn connect(&self) -> Result<ModelSession, StoreError> {
        Ok(ModelSession { link: Some(self.server.connect().await?), home: None, in_transaction: false })
    }
}

/// A session. One that is dropped within a transaction, or while a statement is under way, ends its connection.
#[derive(Debug)]
pub struct ModelSession {
    link: Option<Link>,
    home: Option<(Rc<Pool>, OwnedSemaphorePermit)>,
    in_transaction: bool,
}

impl Drop for ModelSession {
    fn drop(&mut self) {
        if let (Some(link), Some((pool, _)), false) = (self.link.take(), &self.home, self.in_transaction)
            && link.is_idle()
        {
            pool.idle.borrow_mut().push(link);
        }
    }
}

impl ModelSession {
    fn link(&self) -> Result<&Link, StoreError> {
        self.link.as_ref().ok_or_else(|| lost("the session was discarded"))
    }

    async fn read<T: 'static>(
        &self,
        statement: &'static str,
        access: Access,
        mut query: impl FnMut(&View<'_>) -> T + 'static,
    ) -> Result<T, StoreError> {
        let kind = Kind { statement, access, writes: false };
        self.link()?.execute(kind, move |engine, trx| Ok(query(&engine.view(trx)))).await
    }

    async fn write<T: 'static>(
        &self,
        statement: &'static str,
        access: Access,
        body: impl FnMut(&mut Engine, Trx) -> Result<T, Halt> + 'static,
    ) -> Result<T, StoreError> {
        self.link()?.execute(Kind { statement, access, writes: true }, body).await
    }

    async fn control(&self, control: Control) -> Result<(), StoreError> {
        self.link()?.control(control).await
    }
}

const CAMPAIGNS: Access = Access::reads(&[Table::Campaigns, Table::Allotments]);
const ALLOTMENTS: Access = Access::reads(&[Table::Allotments]);
const COUPONS: Access = Access::reads(&[Table::Coupons]);
const REFUSALS: Access = Access::reads(&[Table::Refusals]);
const ROWS: Access = Access::reads(&[Table::Coupons, Table::Refusals]);
const REPLAYS: Access = Access::reads(&[Table::Replays]);
const COUNTS: Access = Access::reads(&[Table::Allotments, Table::Coupons, Table::Refusals]);
const WAITING: Access = Access::reads(&[Table::Waiting, Table::Coupons, Table::Refusals]);
const ALLOTMENTS_AND_REFUSALS: Access = Access::reads(&[Table::Allotments, Table::Refusals]);
const ALL: Access = Access::reads(&[Table::Campaigns, Table::Allotments, Table::Coupons, Table::Refusals]);

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// A statement with an empty list is malformed.
fn not_empty<T>(list: &[T]) -> Result<(), StoreError> {
    if list.is_empty() { Err(ServerError::syntax().into()) } else { Ok(()) }
}

impl Session for ModelSession {
    async fn begin(&mut self) -> Result<(), StoreError> {
        self.in_transaction = true;
        self.control(Control::Begin).await
    }

    async fn commit(&mut self) -> Result<(), StoreError> {
        self.control(Control::Commit).await?;
        self.in_transaction = false;
        Ok(())
    }

    async fn rollback(&mut self) -> Result<(), StoreError> {
        if self.in_transaction {
            self.control(Control::Rollback).await?;
            self.in_transaction = false;
        }
        Ok(())
    }

    fn discard(mut self) {
        self.link = None;
    }

    async fn newest_allotment(&mut self, id: &CampaignId) -> Result<Option<u32>, StoreError> {
        let id = id.clone();
        self.read("newest_allotment", ALLOTMENTS, move |view| view.newest_allotment(id.as_str())).await
    }

    async fn newest_allotment_and_refusals(&mut self, id: &CampaignId) -> Result<Option<(u32, bool)>, StoreError> {
        let id = id.clone();
        let query = move |view: &View<'_>| Some((view.newest_allotment(id.as_str())?, view.has_refusals(id.as_str())));
        self.read("newest_allotment_and_refusals", ALLOTMENTS_AND_REFUSALS, query).await
    }

    async fn lock_campaign(&mut self, id: &CampaignId) -> Result<bool, StoreError> {
        let id = id.clone();
        let kind = Kind { statement: "lock_campaign", access: Access::writes(Table::Campaigns, None), writes: false };
        self.link()?.execute(kind, move |engine, trx| engine.lock_campaign(trx, id.as_str())).await
    }

    async fn coupon_slots_of(&mut self, id: &CampaignId, users: &[&str]) -> Result<Vec<(String, Slot)>, StoreError> {
        not_empty(users)?;
        let (id, users) = (id.clone(), owned(users));
        self.read("coupon_slots_of", COUPONS, move |view| view.coupon_slots_of(id.as_str(), &users)).await
    }

    async fn refusal_slots_of(&mut self, id: &CampaignId, users: &[&str]) -> Result<Vec<(String, Slot)>, StoreError> {
        not_empty(users)?;
        let (id, users) = (id.clone(), owned(users));
        self.read("refusal_slots_of", REFUSALS, move |view| view.refusal_slots_of(id.as_str(), &users)).await
    }

    async fn coupons_with_slots(&mut self, id: &CampaignId, slots: &[u32]) -> Result<Vec<CouponRow>, StoreError> {
        not_empty(slots)?;
        let (id, slots) = (id.clone(), slots.to_vec());
        self.read("coupons_with_slots", COUPONS, move |view| view.coupons_with_slots(id.as_str(), &slots)).await
    }

    async fn taken_slots_up_to(&mut self, id: &CampaignId, top: u32, limit: u32) -> Result<Vec<u32>, StoreError> {
        let id = id.clone();
        let query = move |view: &View<'_>| view.taken_slots_up_to(id.as_str(), top, limit);
        self.read("taken_slots_up_to", COUPONS, query).await
    }

    async fn insert_coupons(&mut self, coupons: &[NewCoupon<'_>], _recurs: bool) -> Result<(), StoreError> {
        not_empty(coupons)?;
        let rows = self.link()?.prepare(|engine| engine.coupons(coupons));
        let mut cursor = Cursor::default();
        let insert = move |engine: &mut Engine, trx| engine.insert_coupons(trx, &rows, &mut cursor);
        self.write("insert_coupons", Access::writes(Table::Coupons, Some(Table::Allotments)), insert).await
    }

    async fn insert_refusals(&mut self, refusals: &[NewRefusal<'_>]) -> Result<(), StoreError> {
        not_empty(refusals)?;
        let rows = self.link()?.prepare(|engine| engine.refusals(refusals));
        let mut cursor = Cursor::default();
        let insert = move |engine: &mut Engine, trx| engine.insert_refusals(trx, &rows, &mut cursor);
        self.write("insert_refusals", Access::writes(Table::Refusals, Some(Table::Campaigns)), insert).await
    }

    async fn campaigns_with_refusals(&mut self) -> Result<Vec<String>, StoreError> {
        self.read("campaigns_with_refusals", REFUSALS, |view| view.campaigns_with_refusals()).await
    }

    async fn waiting_among(&mut self, id: &CampaignId, users: &[&str]) -> Result<Vec<String>, StoreError> {
        not_empty(users)?;
        let (id, users) = (id.clone(), owned(users));
        let query = move |view: &View<'_>| view.waiting_among(id.as_str(), &users);
        self.read("waiting_among", Access::reads(&[Table::Waiting]), query).await
    }

    async fn insert_waiting(&mut self, claims: &[NewWaiting<'_>]) -> Result<(), StoreError> {
        not_empty(claims)?;
        let rows = self.link()?.prepare(|engine| engine.waiting_claims(claims));
        let mut cursor = Cursor::default();
        let insert = move |engine: &mut Engine, trx| engine.insert_waiting(trx, &rows, &mut cursor);
        self.write("insert_waiting", Access::writes(Table::Waiting, Some(Table::Campaigns)), insert).await
    }

    async fn waiting(&mut self, id: Option<&CampaignId>, limit: u32) -> Result<Vec<WaitingRow>, StoreError> {
        let id = id.cloned();
        let query = move |view: &View<'_>| view.waiting(id.as_ref().map(CampaignId::as_str), limit);
        self.read("waiting", WAITING, query).await
    }

    async fn insert_campaign(
        &mut self,
        id: &CampaignId,
        campaign: &Campaign,
        created_at: PrimitiveDateTime,
    ) -> Result<(), StoreError> {
        let (id, campaign) = (id.clone(), campaign.clone());
        let insert = move |engine: &mut Engine, trx| engine.insert_campaign(trx, id.as_str(), &campaign, created_at);
        self.write("insert_campaign", Access::writes(Table::Campaigns, None), insert).await
    }

    async fn insert_allotment(
        &mut self,
        id: &CampaignId,
        capacity: u32,
        granted_at: PrimitiveDateTime,
    ) -> Result<(), StoreError> {
        let id = id.clone();
        let insert = move |engine: &mut Engine, trx| engine.insert_allotment(trx, id.as_str(), capacity, granted_at);
        self.write("insert_allotment", Access::writes(Table::Allotments, Some(Table::Campaigns)), insert).await
    }

    async fn next_version(&mut self, id: &CampaignId, known: u32) -> Result<(), StoreError> {
        let id = id.clone();
        let update = move |engine: &mut Engine, trx| engine.next_version(trx, id.as_str(), known);
        self.write("next_version", Access::writes(Table::Campaigns, None), update).await
    }

    async fn set_state(
        &mut self,
        id: &CampaignId,
        from: &[CampaignState],
        to: CampaignState,
    ) -> Result<bool, StoreError> {
        not_empty(from)?;
        let (id, from) = (id.clone(), from.to_vec());
        let update = move |engine: &mut Engine, trx| engine.set_state(trx, id.as_str(), &from, to);
        self.write("set_state", Access::writes(Table::Campaigns, None), update).await
    }

    async fn set_window(
        &mut self,
        id: &CampaignId,
        opens_at: PrimitiveDateTime,
        closes_at: Option<PrimitiveDateTime>,
    ) -> Result<(), StoreError> {
        let id = id.clone();
        let update = move |engine: &mut Engine, trx| engine.set_window(trx, id.as_str(), opens_at, closes_at);
        self.write("set_window", Access::writes(Table::Campaigns, None), update).await
    }

    async fn campaign(&mut self, id: &CampaignId) -> Result<Option<Campaign>, StoreError> {
        let id = id.clone();
        self.read("campaign", CAMPAIGNS, move |view| view.campaign(id.as_str())).await
    }

    async fn campaigns(&mut self) -> Result<Vec<CampaignSummary>, StoreError> {
        self.read("campaigns", ALL, |view| view.campaigns()).await
    }

    async fn tally(&mut self, id: &CampaignId) -> Result<Tally, StoreError> {
        let id = id.clone();
        self.read("tally", ROWS, move |view| view.tally(id.as_str())).await
    }

    async fn counts(&mut self, id: &CampaignId) -> Result<CampaignCounts, StoreError> {
        let id = id.clone();
        // What the driver makes of an answer without a row.
        let none = || lost("no rows returned by a query that expected to return at least one row");
        self.read("counts", COUNTS, move |view| view.counts(id.as_str())).await?.ok_or_else(none)
    }

    async fn coupons_after(
        &mut self,
        id: &CampaignId,
        after: Option<u32>,
        limit: u32,
    ) -> Result<Vec<CouponRow>, StoreError> {
        let id = id.clone();
        self.read("coupons_after", COUPONS, move |view| view.coupons_after(id.as_str(), after, limit)).await
    }

    async fn refusals_after(
        &mut self,
        id: &CampaignId,
        after: &str,
        limit: u32,
    ) -> Result<Vec<RefusalRow>, StoreError> {
        let (id, after) = (id.clone(), after.to_owned());
        self.read("refusals_after", REFUSALS, move |view| view.refusals_after(id.as_str(), &after, limit)).await
    }

    async fn refused_after(&mut self, id: &CampaignId, after: &str, limit: u32) -> Result<Vec<Holder>, StoreError> {
        let (id, after) = (id.clone(), after.to_owned());
        self.read("refused_after", ROWS, move |view| view.refused_after(id.as_str(), &after, limit)).await
    }

    async fn settled(&mut self, id: &CampaignId, users: &[String]) -> Result<HashMap<String, ClaimEntry>, StoreError> {
        if users.is_empty() {
            return Ok(HashMap::new());
        }
        // Two statements, so something may be committed in between. The coupon wins.
        let (campaign, some) = (id.clone(), users.to_vec());
        let refusals = move |view: &View<'_>| view.settled_refusals(campaign.as_str(), &some);
        let mut settled = self.read("settled", REFUSALS, refusals).await?;
        let (campaign, some) = (id.clone(), users.to_vec());
        let coupons = move |view: &View<'_>| view.settled_coupons(campaign.as_str(), &some);
        settled.extend(self.read("settled", COUPONS, coupons).await?);
        Ok(settled)
    }

    async fn replayed(&mut self, keys: &[DeadLetterKey]) -> Result<HashSet<DeadLetterKey>, StoreError> {
        if keys.is_empty() {
            return Ok(HashSet::new());
        }
        let keys = keys.to_vec();
        self.read("replayed", REPLAYS, move |view| view.replayed(&keys)).await
    }

    async fn remember_replayed(&mut self, keys: &[DeadLetterKey], at: PrimitiveDateTime) -> Result<(), StoreError> {
        if keys.is_empty() {
            return Ok(());
        }
        let keys = keys.to_vec();
        let mut cursor = Cursor::default();
        let insert = move |engine: &mut Engine, trx| engine.remember_replayed(trx, &keys, at, &mut cursor);
        self.write("remember_replayed", Access::writes(Table::Replays, None), insert).await
    }
}
