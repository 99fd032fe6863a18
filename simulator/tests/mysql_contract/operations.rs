//! Operations on a session, drawn at random, and their results in a form that compares.

use dropgate_issuer::store::ports::{Session, StoreError};
use dropgate_issuer::store::rows::{Campaign, DeadLetterKey, NewCoupon, NewRefusal, NewWaiting};
use dropgate_issuer::timestamp::from_ms;
use dropgate_shared::campaign::CampaignState;
use dropgate_shared::ids::{CampaignId, UserId};
use dropgate_simulator::mysql::Server;
use dropgate_simulator::random::Random;
use std::fmt::Debug;
use time::{Duration, PrimitiveDateTime};

/// All tables, a line each row.
pub type Rows = Vec<String>;

/// Random numbers as these tests draw them.
pub struct Draw(Random);

impl Draw {
    pub fn new(seed: u64) -> Self {
        Self(Random::new(seed))
    }

    pub fn below(&mut self, n: usize) -> usize {
        self.0.below(n as u64) as usize
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        self.0.pick(items).unwrap().clone()
    }
}

#[derive(Debug, Clone)]
pub struct Coupon {
    campaign: CampaignId,
    slot: u32,
    allotment: u32,
    user: UserId,
    code: String,
    admitted_at: PrimitiveDateTime,
}

#[derive(Debug, Clone)]
pub struct Refusal {
    campaign: CampaignId,
    user: UserId,
    reason: String,
}

#[derive(Debug, Clone)]
pub enum Operation {
    Begin,
    Commit,
    Rollback,
    NewestAllotment(CampaignId),
    SetWindow(CampaignId, u64, Option<u64>),
    LockCampaign(CampaignId),
    CouponSlots(CampaignId, Vec<String>),
    RefusalSlots(CampaignId, Vec<String>),
    AllotmentAndRefusals(CampaignId),
    CampaignsWithRefusals,
    WithSlots(CampaignId, Vec<u32>),
    TakenUpTo(CampaignId, u32, u32),
    InsertCoupons(Vec<Coupon>),
    InsertRefusals(Vec<Refusal>),
    InsertWaiting(Vec<Refusal>),
    WaitingAmong(CampaignId, Vec<String>),
    Waiting(Option<CampaignId>, u32),
    InsertCampaign(CampaignId, CampaignState, Option<i64>),
    InsertAllotment(CampaignId, u32),
    SetState(CampaignId, Vec<CampaignState>, CampaignState),
    Campaign(CampaignId),
    Campaigns,
    Tally(CampaignId),
    Counts(CampaignId),
    CouponsAfter(CampaignId, Option<u32>, u32),
    RefusalsAfter(CampaignId, String, u32),
    RefusedAfter(CampaignId, String, u32),
    Settled(CampaignId, Vec<String>),
    Replayed(Vec<DeadLetterKey>),
    RememberReplayed(Vec<DeadLetterKey>),
}

pub fn campaign(id: &str) -> CampaignId {
    CampaignId::parse(id).unwrap()
}

pub fn at(ms: u64) -> PrimitiveDateTime {
    from_ms(1_763_700_000_000 + ms).unwrap()
}

const USERS: [&str; 12] = ["a", "b", "B", "bb", "b!", "ä", "鬼", "m", "n", "o", "y", "z"];
const CAPACITIES: [u32; 4] = [0, 5, 8, 12];
const STATES: [CampaignState; 3] = [CampaignState::Open, CampaignState::Paused, CampaignState::Closed];

impl Operation {
    pub fn coupons(id: &str, allotment: u32, rows: &[(u32, &str)]) -> Self {
        let coupon = |(slot, user): &(u32, &str)| Coupon {
            campaign: campaign(id),
            slot: *slot,
            allotment,
            user: UserId::parse(user).unwrap(),
            code: "CODE".to_owned(),
            admitted_at: at(1),
        };
        Self::InsertCoupons(rows.iter().map(coupon).collect())
    }

    pub fn refusal(id: &str, user: &str) -> Self {
        let user = UserId::parse(user).unwrap();
        Self::InsertRefusals(vec![Refusal { campaign: campaign(id), user, reason: "full".to_owned() }])
    }

    /// An operation, weighted towards those that conflict.
    pub fn draw(random: &mut Draw, in_transaction: bool) -> Self {
        if random.chance(if in_transaction { 20 } else { 30 }) {
            let ends = if in_transaction { [Self::Commit, Self::Rollback] } else { [Self::Begin, Self::Begin] };
            return random.pick(&ends);
        }
        let id = campaign(random.pick(&["c1", "c1", "c1", "c2", "c2", "nowhere"]));
        let users = |random: &mut Draw| {
            (0..=random.below(4)).map(|_| format!("{}{}", random.pick(&USERS), random.pick(&["", " "]))).collect()
        };
        let keys = |random: &mut Draw| -> Vec<DeadLetterKey> {
            let key = |random: &mut Draw| (random.below(2) as i32, random.below(4) as i64, at(random.below(2) as u64));
            (0..=random.below(4)).map(|_| key(random)).collect()
        };
        match random.below(39) {
            0 => Self::NewestAllotment(id),
            1..=3 => Self::LockCampaign(id),
            4 => Self::CouponSlots(id, users(random)),
            5 => Self::RefusalSlots(id, users(random)),
            6 => Self::WithSlots(id, (0..=random.below(9)).map(|_| random.below(14) as u32).collect()),
            7 => Self::TakenUpTo(id, random.below(14) as u32, 1 + random.below(6) as u32),
            8..=18 => Self::InsertCoupons((0..=random.below(5)).map(|_| Coupon::draw(random, &id)).collect()),
            19..=21 => Self::InsertRefusals((0..=random.below(3)).map(|_| Refusal::draw(random, &id)).collect()),
            22 => {
                let closes = [None, None, Some(1_000), Some(1), Some(0), Some(-1)];
                let id = campaign(random.pick(&["c1", "c3", "nowhere"]));
                Self::InsertCampaign(id, random.pick(&STATES), random.pick(&closes))
            }
            23 => Self::InsertAllotment(id, random.pick(&CAPACITIES)),
            24 if random.chance(40) => {
                let closes = [None, Some(2_000), Some(1_000), Some(999)];
                Self::SetWindow(id, random.pick(&[0, 1, 1_000]), random.pick(&closes))
            }
            24 => Self::SetState(id, vec![random.pick(&STATES), random.pick(&STATES)], random.pick(&STATES)),
            25 => Self::Campaign(id),
            26 => Self::Campaigns,
            27 => Self::Tally(id),
            28 => Self::Counts(id),
            29 => {
                Self::CouponsAfter(id, random.pick(&[None, Some(0), Some(4), Some(u32::MAX)]), random.below(5) as u32)
            }
            30 => Self::RefusalsAfter(id, random.pick(&USERS).to_owned(), random.below(5) as u32),
            31 => Self::RefusedAfter(id, random.pick(&["", "b", "m"]).to_owned(), 3),
            32 => Self::Settled(id, users(random)),
            33 if random.chance(50) => Self::CampaignsWithRefusals,
            33 => Self::AllotmentAndRefusals(id),
            34 | 35 => Self::InsertWaiting((0..=random.below(3)).map(|_| Refusal::draw(random, &id)).collect()),
            36 if random.chance(50) => Self::WaitingAmong(id, users(random)),
            36 | 37 => {
                let id = random.chance(50).then_some(id);
                Self::Waiting(id, random.below(5) as u32)
            }
            _ if random.chance(50) => Self::Replayed(keys(random)),
            _ => Self::RememberReplayed(keys(random)),
        }
    }

    /// Carries it out.
    pub async fn run(&self, session: &mut impl Session) -> String {
        match self {
            Self::Begin => shown(session.begin().await),
            Self::Commit => shown(session.commit().await),
            Self::Rollback => shown(session.rollback().await),
            Self::NewestAllotment(id) => shown(session.newest_allotment(id).await),
            Self::LockCampaign(id) => shown(session.lock_campaign(id).await),
            Self::CouponSlots(id, users) => sorted(session.coupon_slots_of(id, &texts(users)).await),
            Self::RefusalSlots(id, users) => sorted(session.refusal_slots_of(id, &texts(users)).await),
            Self::CampaignsWithRefusals => shown(session.campaigns_with_refusals().await),
            Self::AllotmentAndRefusals(id) => shown(session.newest_allotment_and_refusals(id).await),
            Self::WithSlots(id, slots) => {
                let mut slots = slots.clone();
                slots.sort_unstable();
                slots.dedup();
                sorted_debug(session.coupons_with_slots(id, &slots).await)
            }
            Self::TakenUpTo(id, top, limit) => shown(session.taken_slots_up_to(id, *top, *limit).await),
            Self::InsertCoupons(coupons) => {
                let rows: Vec<_> = coupons.iter().map(Coupon::row).collect();
                shown(session.insert_coupons(&rows, false).await)
            }
            Self::InsertRefusals(refusals) => {
                let rows: Vec<_> = refusals.iter().map(Refusal::row).collect();
                shown(session.insert_refusals(&rows).await)
            }
            Self::InsertWaiting(claims) => {
                let rows: Vec<_> = claims.iter().map(Refusal::waiting).collect();
                shown(session.insert_waiting(&rows).await)
            }
            Self::WaitingAmong(id, users) => sorted(session.waiting_among(id, &texts(users)).await),
            Self::Waiting(id, limit) => shown(session.waiting(id.as_ref(), *limit).await),
            Self::InsertCampaign(id, state, closes_us) => {
                let closes_at = closes_us.map(|us| at(0) + Duration::microseconds(us));
                let campaign = Campaign { state: *state, capacity: 0, opens_at: at(0), closes_at, version: 1 };
                shown(session.insert_campaign(id, &campaign, at(7)).await)
            }
            Self::InsertAllotment(id, capacity) => shown(session.insert_allotment(id, *capacity, at(8)).await),
            Self::SetState(id, from, to) => shown(session.set_state(id, from, *to).await),
            Self::SetWindow(id, opens_ms, closes_ms) => {
                shown(session.set_window(id, at(*opens_ms), closes_ms.map(at)).await)
            }
            Self::Campaign(id) => shown(session.campaign(id).await),
            Self::Campaigns => shown(session.campaigns().await),
            Self::Tally(id) => shown(session.tally(id).await),
            Self::Counts(id) => shown(session.counts(id).await),
            Self::CouponsAfter(id, after, limit) => shown(session.coupons_after(id, *after, *limit).await),
            Self::RefusalsAfter(id, after, limit) => shown(session.refusals_after(id, after, *limit).await),
            Self::RefusedAfter(id, after, limit) => shown(session.refused_after(id, after, *limit).await),
            Self::Settled(id, users) => sorted_debug(session.settled(id, users).await),
            Self::Replayed(keys) => sorted_debug(session.replayed(keys).await),
            Self::RememberReplayed(keys) => shown(session.remember_replayed(keys, at(9)).await),
        }
    }
}

impl Coupon {
    fn draw(random: &mut Draw, id: &CampaignId) -> Self {
        Self {
            campaign: if random.chance(90) { id.clone() } else { campaign("c2") },
            slot: random.below(14) as u32,
            allotment: random.pick(&[5, 8, 8, 8, 8, 12, 13]),
            user: UserId::parse(random.pick(&USERS)).unwrap(),
            code: "C".repeat(if random.chance(97) { random.below(33) } else { 33 }),
            admitted_at: at(random.below(1_000) as u64) + Duration::microseconds(random.below(1_000) as i64),
        }
    }

    fn row(&self) -> NewCoupon<'_> {
        NewCoupon {
            campaign: &self.campaign,
            slot: self.slot,
            allotment: self.allotment,
            user: &self.user,
            code: &self.code,
            admitted_at: self.admitted_at,
            issued_at: at(5),
        }
    }
}

impl Refusal {
    fn draw(random: &mut Draw, id: &CampaignId) -> Self {
        let reason =
            random.pick(&["full", "ä", "spaces at the end                   ", "longer than the 32 of its column"]);
        let reason = if random.chance(5) { format!("{reason}{}", "x".repeat(33)) } else { reason.to_owned() };
        Self { campaign: id.clone(), user: UserId::parse(random.pick(&USERS)).unwrap(), reason }
    }

    fn row(&self) -> NewRefusal<'_> {
        NewRefusal {
            campaign: &self.campaign,
            user: &self.user,
            proposed_slot: 3,
            reason: &self.reason,
            admitted_at: at(1),
            refused_at: at(6),
        }
    }

    /// The same claim, waiting.
    fn waiting(&self) -> NewWaiting<'_> {
        NewWaiting {
            campaign: &self.campaign,
            user: &self.user,
            proposed_slot: 3,
            code: &self.reason,
            admitted_at: at(self.reason.len() as u64 % 3),
            waiting_since: at(6),
        }
    }
}

fn texts(users: &[String]) -> Vec<&str> {
    users.iter().map(String::as_str).collect()
}

/// Text of an error is the server's own, so only its kind counts.
pub fn shown<T: Debug>(result: Result<T, StoreError>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(StoreError::Data(_)) => "data".to_owned(),
        Err(StoreError::OthersConstraint(_)) => "others' constraint".to_owned(),
        Err(StoreError::Away(fault)) => format!("away: {}", fault.label),
        Err(error) => format!("{error:?}"),
    }
}

fn sorted<T: Debug + Ord>(result: Result<Vec<T>, StoreError>) -> String {
    shown(result.map(|mut values| {
        values.sort();
        values.dedup();
        values
    }))
}

fn sorted_debug<T: Debug>(result: Result<impl IntoIterator<Item = T>, StoreError>) -> String {
    shown(result.map(|values| {
        let mut values: Vec<_> = values.into_iter().map(|value| format!("{value:?}")).collect();
        values.sort();
        values
    }))
}

/// All tables of the model.
pub fn rows_of(server: &Server, campaigns: &[&str]) -> Rows {
    let mut rows = Rows::new();
    for row in server.campaigns() {
        rows.push(format!("campaign {:?}", (row.id, row.state.as_str(), row.opens_at, row.closes_at, row.created_at)));
    }
    let ids: Vec<_> = campaigns.iter().map(|id| campaign(id)).collect();
    for id in &ids {
        rows.extend(
            server
                .allotments(id)
                .into_iter()
                .map(|(capacity, at)| format!("allotment {:?}", (id.as_str(), capacity, at))),
        );
    }
    for id in &ids {
        rows.extend(server.coupons(id).into_iter().map(|row| {
            let row = (id.as_str(), row.slot, row.allotment, row.user, row.code, row.admitted_at, row.issued_at);
            format!("coupon {row:?}")
        }));
    }
    for id in &ids {
        rows.extend(server.refusals(id).into_iter().map(|row| {
            let row = (id.as_str(), row.user, row.proposed_slot, row.reason, row.admitted_at, row.refused_at);
            format!("refusal {row:?}")
        }));
    }
    let replays = server.replays().into_iter();
    rows.extend(
        replays.map(|((partition, offset, at), replayed)| format!("replay {:?}", (partition, offset, at, replayed))),
    );
    rows
}
