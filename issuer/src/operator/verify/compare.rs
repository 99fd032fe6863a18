//! Compares what MySQL, Redis and Kafka hold of a campaign, and repairs what can be repaired.
//!
//! Two passes, page by page, so memory does not grow with the campaign: every claim in Redis is looked
//! up in MySQL (I3), and every row of MySQL is looked up in Redis (I4). Whatever changes meanwhile goes
//! one way only (a row never disappears, a settled claim stays settled), so the order of the reads keeps
//! a running campaign from looking broken: Redis before MySQL in the first pass, MySQL before Redis in
//! the second.

use super::findings::{FindingKind, Repair};
use super::report::VerifyReport;
use crate::kafka::ports::Backlog;
use crate::operator::campaign::error::CampaignError;
use crate::operator::campaign::publish::publish;
use crate::operator::output::progress;
use crate::operator::servers::Servers;
use crate::redis::confirm::{PAIRS, confirm};
use crate::redis::view::View;
use crate::store::ports::{Session, Store};
use crate::store::rows::{Campaign, CouponRow, Holder};
use dropgate_shared::campaign::{CampaignMeta, CampaignState};
use dropgate_shared::claim::{ClaimEntry, ClaimStatus};
use dropgate_shared::code::{CodeSecret, CodeSecrets};
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::http::Http;
use dropgate_shared::ids::{CampaignId, UserId};
use dropgate_shared::redis_rest::RedisRest;
use dropgate_shared::scripts;
use indicatif::ProgressBar;

/// Rows in one page.
const ROWS: u32 = 1_000;

/// What to do with what a pass finds.
enum Action<'a> {
    Report(&'a mut VerifyReport),
    /// Counts what was repaired.
    Repair(&'a mut u64),
}

/// One campaign at both ends.
struct Comparison<'a, S, H> {
    session: S,
    redis: &'a RedisRest<H>,
    view: View<'a, H>,
    id: &'a CampaignId,
    progress: bool,
}

/// Looks at everything. What Redis or Kafka does not answer becomes part of the report.
///
/// # Errors
/// [`CampaignError`]: MySQL failed, or has no such campaign.
pub async fn verify<S: Store, H: Http, B: Backlog>(
    servers: &Servers<S, H, B>,
    id: &CampaignId,
) -> Result<VerifyReport, CampaignError> {
    let mut comparison = Comparison::of(servers, id).await?;
    if comparison.session.campaign(id).await?.is_none() {
        return Err(CampaignError::Unknown(id.clone()));
    }
    let secrets = servers.secrets.as_ref();
    let mut report = VerifyReport::new(id.to_string(), secrets.is_some());
    // Before the claims: what waits in Kafka now has no row yet, or one by the time it is looked at.
    match &servers.kafka {
        None => report.unknown.push("Kafka was not looked at: KAFKA_BOOTSTRAP is not set".to_owned()),
        Some(backlog) => match backlog.lag_of(id).await {
            Ok(lag) => {
                report.lag = Some(lag);
                let age = |oldest_ms: u64| servers.clock.now_ms().saturating_sub(oldest_ms) / 1_000;
                report.oldest_seconds = lag.oldest_ms.map(age);
            }
            Err(fault) => report.unanswered(&fault),
        },
    }
    match comparison.look(secrets, &mut report).await {
        Ok(()) => {}
        Err(fault) if fault.source == Source::Redis => report.unanswered(&fault),
        Err(fault) => return Err(fault.into()),
    }
    Ok(report)
}

/// Repairs what `report` calls for. Returns what was done. It is safe to repeat.
///
/// # Errors
/// [`CampaignError`]: a server failed meanwhile; what was repaired until then stays so.
pub async fn repair<S: Store, H: Http, B: Backlog>(
    servers: &Servers<S, H, B>,
    id: &CampaignId,
    report: &VerifyReport,
) -> Result<String, CampaignError> {
    let mut done = Vec::new();
    let mut comparison = Comparison::of(servers, id).await?;
    if report.needs(Repair::Publish) {
        done.push(publish(servers, id).await?);
    } else if report.needs(Repair::Confirm) {
        let mut repaired = 0;
        comparison.rows_pass(true, &[], &mut Action::Repair(&mut repaired)).await?;
        comparison.refusals_pass(&mut Action::Repair(&mut repaired)).await?;
        done.push(format!("{repaired} claims confirmed"));
    }
    if report.needs(Repair::Restore) {
        let mut repaired = 0;
        comparison.claims_pass(&mut Action::Repair(&mut repaired)).await?;
        done.push(format!("{repaired} outbox entries restored"));
    }
    Ok(done.join("\n"))
}

impl<'a, S: Session, H: Http> Comparison<'a, S, H> {
    async fn of<T: Store<Session = S>, B>(servers: &'a Servers<T, H, B>, id: &'a CampaignId) -> Result<Self, Fault> {
        let redis = &servers.redis;
        let session = servers.store.connect().await?;
        Ok(Self { session, redis, view: View::new(redis, id), id, progress: servers.progress })
    }

    fn bar(&self, what: &'static str, total: u64) -> ProgressBar {
        progress(self.progress, what, total)
    }

    async fn look(&mut self, secrets: Option<&CodeSecrets>, report: &mut VerifyReport) -> Result<(), Fault> {
        let counts = self.session.counts(self.id).await?;
        report.capacity = counts.capacity;
        report.coupons = counts.coupons;
        report.refusals = counts.refusals;
        let too_many = counts.coupons.saturating_sub(u64::from(counts.capacity));
        report.counted(FindingKind::BeyondCapacity, too_many.max(counts.beyond));
        report.counted(FindingKind::UserTwice, counts.coupons.saturating_sub(counts.users));
        report.counted(FindingKind::CouponAndRefusal, counts.both);
        for claim in self.session.waiting(Some(self.id), ROWS).await? {
            report.found(FindingKind::Waiting, &claim.user_id);
        }

        let meta = self.view.meta().await;
        // After Redis: MySQL is written first, so what differs is older at the gate.
        let campaign = self.session.campaign(self.id).await?;
        report.state = campaign.as_ref().map(|campaign| campaign.state);
        // The codes of a campaign are derived from the secret that Redis names; where it names none, from any of ours.
        let mut secrets: Vec<&CodeSecret> = secrets.into_iter().flat_map(CodeSecrets::all).collect();
        if let Some(meta) = meta.as_ref().ok().and_then(Option::as_ref) {
            report.published = Some(true);
            report.code_key = meta.code_key;
            match meta.code_key {
                None if report.state == Some(CampaignState::Closed) => {}
                None => report.counted(FindingKind::NoCodeKey, 1),
                Some(key) if secrets.iter().any(|secret| secret.id() == key) => {
                    secrets.retain(|secret| secret.id() == key);
                }
                Some(_) if secrets.is_empty() => {}
                Some(key) if report.state == Some(CampaignState::Closed) => {
                    secrets.clear();
                    report.codes_checked = false;
                    report.unknown.push(format!(
                        "the codes of this closed campaign are derived from the secret {key}, which was replaced: to \
                         check them, give it as COUPON_CODE_SECRET_PREVIOUS"
                    ));
                }
                Some(_) => report.counted(FindingKind::OtherCodeKey, 1),
            }
            let secrets = secrets.as_slice();
            report.claims = Some(self.view.claims().await?);
            report.waiting = Some(self.view.waiting().await?);
            if let Some(campaign) = &campaign {
                compare_settings(meta, campaign, report);
            }
            if !self.view.is_listed(self.id).await? {
                report.found(FindingKind::GateDiffers, &self.redis.prefix().campaigns_key());
            }
            self.compare_count(meta, counts.refusals.saturating_sub(counts.both), report).await?;
            self.claims_pass(&mut Action::Report(report)).await?;
            if report.waiting != Some(0) {
                self.outbox_pass(report).await?;
            }
            self.rows_pass(true, secrets, &mut Action::Report(report)).await?;
            self.refusals_pass(&mut Action::Report(report)).await
        } else {
            // The codes can be judged all the same.
            self.rows_pass(false, &secrets, &mut Action::Report(report)).await?;
            if meta?.is_none() {
                report.published = Some(false);
                report.unknown.push(format!(
                    "Redis has no such campaign, so there is nothing to compare with: issuer campaign publish {}",
                    self.id
                ));
            }
            Ok(())
        }
    }

    /// The count is the number of claims that are not refused. Both change together, so the claims lie between two
    /// looks at the count; a refusal is in MySQL before its claim is refused in Redis.
    async fn compare_count(&self, before: &CampaignMeta, refused: u64, report: &mut VerifyReport) -> Result<(), Fault> {
        let held = self.view.claims().await?.saturating_sub(refused);
        let after = self.view.meta().await?.map_or(before.count, |meta| meta.count);
        report.counted(FindingKind::CountOff, before.count.min(after).saturating_sub(held));
        report.counted(FindingKind::Uncounted, held.saturating_sub(before.count.max(after)));
        Ok(())
    }

    /// Every claim of Redis against MySQL.
    async fn claims_pass(&mut self, action: &mut Action<'_>) -> Result<(), Fault> {
        let bar = self.bar("claims", self.view.claims().await?);
        let mut cursor = "0".to_owned();
        loop {
            let (next, page) = self.view.claims_page(&cursor).await?;
            bar.inc(page.len() as u64);
            let users: Vec<String> = page.iter().map(|(user, _)| user.clone()).collect();
            let settled = self.session.settled(self.id, &users).await?;
            let mut rowless = Vec::new();
            for (user, entry) in page {
                let status = entry.parse::<ClaimEntry>().map(|entry| entry.status);
                if let (Err(_), Action::Report(report)) = (&status, &mut *action) {
                    report.found(FindingKind::Unreadable, &user);
                }
                match (status, &mut *action) {
                    // What has a row is the other pass's.
                    _ if settled.contains_key(&user) => {}
                    (Ok(ClaimStatus::Admitted), _) => rowless.push(user),
                    (Ok(ClaimStatus::Issued | ClaimStatus::Refused), Action::Report(report)) => {
                        report.found(FindingKind::SettledWithoutRow, &user);
                    }
                    (Ok(ClaimStatus::DeadLettered), Action::Report(report)) => {
                        report.found(FindingKind::DeadLettered, &user);
                    }
                    _ => {}
                }
            }
            self.stranded(rowless, action).await?;
            if next == "0" {
                break;
            }
            cursor = next;
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// Admitted claims without a row: those in the outbox are owed. The others are looked at once more,
    /// since a confirmation may have come in between.
    async fn stranded(&mut self, users: Vec<String>, action: &mut Action<'_>) -> Result<(), Fault> {
        let owed = self.view.in_outbox(&users).await?;
        let mut absent = Vec::new();
        for (user, owed) in users.into_iter().zip(owed) {
            match action {
                Action::Report(report) if owed => report.found(FindingKind::Owed, &user),
                _ if owed => {}
                _ => absent.push(user),
            }
        }
        let entries = self.view.entries(&absent).await?;
        let settled = self.session.settled(self.id, &absent).await?;
        let is_admitted = |entry: &Option<String>| {
            let entry = entry.as_ref().and_then(|entry| entry.parse::<ClaimEntry>().ok());
            entry.is_some_and(|entry| entry.status == ClaimStatus::Admitted)
        };
        let absent: Vec<String> = absent
            .into_iter()
            .zip(&entries)
            .filter(|(user, entry)| is_admitted(entry) && !settled.contains_key(user))
            .map(|(user, _)| user)
            .collect();
        match action {
            Action::Report(report) => absent.iter().for_each(|user| report.found(FindingKind::Stranded, user)),
            Action::Repair(_) if absent.is_empty() => {}
            Action::Repair(repaired) => {
                let keys = self.redis.keys(self.id);
                let restored = self.redis.eval(&scripts::RESTORE, &[&keys.claims, &keys.outbox], &absent).await?;
                **repaired += restored.as_u64().unwrap_or(0);
            }
        }
        Ok(())
    }

    async fn outbox_pass(&self, report: &mut VerifyReport) -> Result<(), Fault> {
        let mut cursor = "0".to_owned();
        loop {
            let (next, page) = self.view.outbox_page(&cursor).await?;
            let users: Vec<&str> = page.iter().map(|(user, _)| user.as_str()).collect();
            for (user, entry) in users.iter().zip(self.view.entries(&users).await?) {
                if entry.is_none() {
                    report.found(FindingKind::OutboxWithoutClaim, user);
                }
            }
            if next == "0" {
                return Ok(());
            }
            cursor = next;
        }
    }

    /// Every coupon's code, and, unless Redis has no such campaign, every coupon against Redis.
    async fn rows_pass(
        &mut self,
        is_published: bool,
        secrets: &[&CodeSecret],
        action: &mut Action<'_>,
    ) -> Result<(), Fault> {
        let total = self.session.tally(self.id).await?.issued;
        let bar = self.bar("rows", total);
        let mut after = None;
        loop {
            let page = self.session.coupons_after(self.id, after, ROWS).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.slot);
            bar.inc(page.len() as u64);
            if let (false, Action::Report(report)) = (secrets.is_empty(), &mut *action) {
                for row in page.iter().filter(|row| !is_code_right(secrets, self.id, row)) {
                    report.found(FindingKind::WrongCode, &row.user_id);
                }
            }
            if is_published {
                self.compare(page.into_iter().filter_map(CouponRow::holder).collect(), action).await?;
            }
        }
        bar.finish_and_clear();
        Ok(())
    }

    async fn refusals_pass(&mut self, action: &mut Action<'_>) -> Result<(), Fault> {
        let mut after = String::new();
        loop {
            let page = self.session.refused_after(self.id, &after, ROWS).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after.clone_from(last);
            self.compare(page, action).await?;
        }
    }

    /// Rows against what Redis holds for the same users.
    async fn compare(&self, rows: Vec<Holder>, action: &mut Action<'_>) -> Result<(), Fault> {
        let users: Vec<&str> = rows.iter().map(|(user, _)| user.as_str()).collect();
        let entries = self.view.entries(&users).await?;
        let mut pairs = Vec::new();
        for ((user, row), entry) in rows.iter().zip(entries) {
            let kind = match entry.map(|text| text.parse::<ClaimEntry>()) {
                None => FindingKind::RowWithoutClaim,
                // Found by the other pass; what MySQL has repairs it.
                Some(Err(_)) => FindingKind::EntryDiffers,
                Some(Ok(entry)) => {
                    let differs = entry.slot != row.slot;
                    if let (true, Action::Report(report)) = (differs && entry.status != row.status, &mut *action) {
                        report.found(FindingKind::SlotResolved, user);
                    }
                    match entry.status {
                        ClaimStatus::Admitted | ClaimStatus::DeadLettered => FindingKind::Unconfirmed,
                        status if status != row.status || differs => FindingKind::EntryDiffers,
                        _ => continue,
                    }
                }
            };
            match action {
                Action::Report(report) => report.found(kind, user),
                Action::Repair(_) => pairs.extend([user.clone(), row.to_string()]),
            }
        }
        if let Action::Repair(repaired) = action {
            for some in pairs.chunks(2 * PAIRS) {
                confirm(self.redis, self.id, some).await?;
                **repaired += some.len() as u64 / 2;
            }
        }
        Ok(())
    }
}

fn compare_settings(meta: &CampaignMeta, campaign: &Campaign, report: &mut VerifyReport) {
    let (gate, wanted) = (&meta.settings, campaign.settings());
    if gate.capacity > wanted.capacity {
        report.found(FindingKind::GatePromisesMore, "capacity");
    }
    for (name, differs) in [
        ("state", gate.state != wanted.state),
        ("capacity", gate.capacity < wanted.capacity),
        ("opens_at", gate.opens_ms != wanted.opens_ms),
        ("closes_at", gate.closes_ms != wanted.closes_ms),
    ] {
        if differs {
            report.found(FindingKind::GateDiffers, name);
        }
    }
}

fn is_code_right(secrets: &[&CodeSecret], id: &CampaignId, row: &CouponRow) -> bool {
    let user = UserId::parse(&row.user_id);
    user.is_ok_and(|user| secrets.iter().any(|secret| secret.code(id, &user) == row.code))
}
