//! Compares what MySQL, Redis and Kafka hold of a campaign, and mends what can be mended.
//!
//! Two passes, page by page, so memory does not grow with the campaign: every claim in Redis is looked
//! up in MySQL (I3), and every row of MySQL is looked up in Redis (I4). Whatever changes meanwhile goes
//! one way only (a row never disappears, a settled claim stays settled), so the order of the reads keeps
//! a running campaign from looking broken: Redis before MySQL in the first pass, MySQL before Redis in
//! the second.

pub mod findings;

use self::findings::{Kind, Repair, Report};
use crate::kafka::topics;
use crate::operator::campaign::publish::{CampaignError, publish};
use crate::operator::{Servers, progress};
use crate::redis::confirm::{PAIRS, confirm};
use crate::redis::view::{Meta, View};
use crate::store::mysql::audit::CouponRow;
use crate::store::mysql::campaigns::Campaign;
use crate::timestamp;
use dropgate_shared::claim::{ClaimEntry, ClaimStatus};
use dropgate_shared::code::CodeSecret;
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::ids::{CampaignId, UserId};
use dropgate_shared::names::{CampaignKeys, TOPIC};
use dropgate_shared::scripts;

/// Rows in one page.
const ROWS: u32 = 1_000;

/// What to do with what a pass finds.
enum Then<'a> {
    Note(&'a mut Report),
    Mend(&'a mut u64),
}

/// Looks at everything. What Redis or Kafka does not answer becomes part of the report.
///
/// # Errors
/// [`CampaignError`]: MySQL failed, or knows no such campaign.
pub async fn verify(servers: &Servers, id: &CampaignId, secret: Option<&CodeSecret>) -> Result<Report, CampaignError> {
    let database = &servers.database;
    if database.campaign(id).await?.is_none() {
        return Err(CampaignError::Unknown(id.clone()));
    }
    let mut report = Report::new(id.to_string(), secret.is_some());
    // Before the claims: what waits in Kafka now has no row yet, or one by the time it is looked at.
    let lag = match &servers.kafka {
        None => Err("Kafka was not looked at: KAFKA_BOOTSTRAP is not set".to_owned()),
        Some(settings) => topics::lag(settings, TOPIC).await.map_err(|fault| fault.to_string()),
    };
    match lag {
        Ok(lag) => report.lag = Some(lag),
        Err(why) => report.unknown.push(why),
    }
    match look(servers, id, secret, &mut report).await {
        Ok(()) => {}
        Err(fault) if fault.source == Source::Redis => report.unknown.push(fault.to_string()),
        Err(fault) => return Err(fault.into()),
    }
    Ok(report)
}

async fn look(
    servers: &Servers,
    id: &CampaignId,
    secret: Option<&CodeSecret>,
    report: &mut Report,
) -> Result<(), Fault> {
    let database = &servers.database;
    let figures = database.figures(id).await?;
    report.capacity = figures.capacity;
    report.coupons = figures.coupons.unsigned_abs();
    report.refusals = figures.refusals.unsigned_abs();
    let too_many = report.coupons.saturating_sub(u64::from(figures.capacity));
    report.counted(Kind::BeyondCapacity, too_many.max(figures.beyond.unsigned_abs()));
    report.counted(Kind::UserTwice, (figures.coupons - figures.users).unsigned_abs());
    report.counted(Kind::CouponAndRefusal, figures.both.unsigned_abs());

    let view = View::new(&servers.redis, id);
    let meta = view.meta().await;
    // After Redis: MySQL is written first, so what differs is older at the gate.
    let campaign = database.campaign(id).await?;
    report.state = campaign.as_ref().map(|campaign| campaign.state.clone()).unwrap_or_default();
    if let Some(meta) = meta.as_ref().ok().and_then(Option::as_ref) {
        report.published = Some(true);
        report.claims = Some(view.claims().await?);
        report.waiting = Some(view.waiting().await?);
        if let Some(campaign) = &campaign {
            compare_settings(meta, campaign, report);
        }
        count(&view, meta, servers, id, report).await?;
        claims_pass(servers, &view, id, &mut Then::Note(report)).await?;
        if report.waiting != Some(0) {
            outbox_pass(&view, report).await?;
        }
        rows_pass(servers, Some(&view), id, secret, &mut Then::Note(report)).await?;
        refusals_pass(servers, &view, id, &mut Then::Note(report)).await
    } else {
        // The codes can be judged all the same.
        rows_pass(servers, None, id, secret, &mut Then::Note(report)).await?;
        if meta?.is_none() {
            report.published = Some(false);
            report.unknown.push(format!(
                "Redis does not know the campaign, so there is nothing to compare with: issuer campaign publish {id}"
            ));
        }
        Ok(())
    }
}

fn compare_settings(meta: &Meta, campaign: &Campaign, report: &mut Report) {
    if meta.capacity > u64::from(campaign.capacity) {
        report.found(Kind::GatePromisesMore, "capacity");
    }
    let closes_ms = campaign.closes_at.map_or(0, timestamp::to_ms);
    for (name, differs) in [
        ("state", meta.state != campaign.state),
        ("capacity", meta.capacity < u64::from(campaign.capacity)),
        ("opens_at", meta.opens_ms != timestamp::to_ms(campaign.opens_at)),
        ("closes_at", meta.closes_ms != closes_ms),
    ] {
        if differs {
            report.found(Kind::GateDiffers, name);
        }
    }
}

/// Count and claims grow together, so the claims lie between two looks at the count. Refused claims may
/// or may not be counted: a rebuilt Redis leaves them out, since they hold no slot.
async fn count(
    view: &View<'_>,
    before: &Meta,
    servers: &Servers,
    id: &CampaignId,
    report: &mut Report,
) -> Result<(), Fault> {
    let claims = view.claims().await?;
    let after = view.meta().await?.map_or(before.count, |meta| meta.count);
    let refused = servers.database.tally(id).await?.refused;
    report.counted(Kind::CountOff, before.count.saturating_sub(claims));
    report.counted(Kind::Uncounted, claims.saturating_sub(refused).saturating_sub(after));
    Ok(())
}

/// Every claim of Redis against MySQL.
async fn claims_pass(servers: &Servers, view: &View<'_>, id: &CampaignId, then: &mut Then<'_>) -> Result<(), Fault> {
    let bar = progress("claims", view.claims().await?);
    let mut cursor = "0".to_owned();
    loop {
        let (next, page) = view.claims_page(&cursor).await?;
        bar.inc(page.len() as u64);
        let users: Vec<String> = page.iter().map(|(user, _)| user.clone()).collect();
        let settled = servers.database.settled(id, &users).await?;
        let mut rowless = Vec::new();
        for (user, entry) in page {
            let status = entry.parse::<ClaimEntry>().map(|entry| entry.status);
            if let (Err(_), Then::Note(report)) = (&status, &mut *then) {
                report.found(Kind::Unreadable, &user);
            }
            match (status, &mut *then) {
                // What has a row is the other pass's.
                _ if settled.contains_key(&user) => {}
                (Ok(ClaimStatus::Admitted), _) => rowless.push(user),
                (Ok(ClaimStatus::Issued | ClaimStatus::Refused), Then::Note(report)) => {
                    report.found(Kind::ToldWithoutRow, &user);
                }
                (Ok(ClaimStatus::DeadLettered), Then::Note(report)) => report.found(Kind::DeadLettered, &user),
                _ => {}
            }
        }
        stranded(servers, view, id, rowless, then).await?;
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
async fn stranded(
    servers: &Servers,
    view: &View<'_>,
    id: &CampaignId,
    users: Vec<String>,
    then: &mut Then<'_>,
) -> Result<(), Fault> {
    let owed = view.in_outbox(&users).await?;
    let mut absent = Vec::new();
    for (user, owed) in users.into_iter().zip(owed) {
        match then {
            Then::Note(report) if owed => report.found(Kind::Owed, &user),
            _ if owed => {}
            _ => absent.push(user),
        }
    }
    let entries = view.entries(&absent).await?;
    let settled = servers.database.settled(id, &absent).await?;
    let still = |entry: &Option<String>| {
        entry
            .as_ref()
            .and_then(|entry| entry.parse::<ClaimEntry>().ok())
            .is_some_and(|e| e.status == ClaimStatus::Admitted)
    };
    let absent: Vec<String> = absent
        .into_iter()
        .zip(&entries)
        .filter(|(user, entry)| still(entry) && !settled.contains_key(user))
        .map(|(user, _)| user)
        .collect();
    match then {
        Then::Note(report) => absent.iter().for_each(|user| report.found(Kind::Stranded, user)),
        Then::Mend(_) if absent.is_empty() => {}
        Then::Mend(mended) => {
            let keys = CampaignKeys::of(id);
            let back = servers.redis.eval(&scripts::RESTORE, &[&keys.claims, &keys.outbox], &absent).await?;
            **mended += back.as_u64().unwrap_or(0);
        }
    }
    Ok(())
}

async fn outbox_pass(view: &View<'_>, report: &mut Report) -> Result<(), Fault> {
    let mut cursor = "0".to_owned();
    loop {
        let (next, page) = view.outbox_page(&cursor).await?;
        let users: Vec<&str> = page.iter().map(|(user, _)| user.as_str()).collect();
        for (user, entry) in users.iter().zip(view.entries(&users).await?) {
            if entry.is_none() {
                report.found(Kind::OutboxWithoutClaim, user);
            }
        }
        if next == "0" {
            return Ok(());
        }
        cursor = next;
    }
}

/// Every coupon against Redis, and its code.
async fn rows_pass(
    servers: &Servers,
    view: Option<&View<'_>>,
    id: &CampaignId,
    secret: Option<&CodeSecret>,
    then: &mut Then<'_>,
) -> Result<(), Fault> {
    let bar = progress("rows", servers.database.tally(id).await?.issued);
    let mut after = None;
    loop {
        let page = servers.database.coupons_after(id, after, ROWS).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.slot);
        bar.inc(page.len() as u64);
        if let (Some(secret), Then::Note(report)) = (secret, &mut *then) {
            for row in page.iter().filter(|row| !is_code_right(secret, id, row)) {
                report.found(Kind::WrongCode, &row.user_id);
            }
        }
        if let Some(view) = view {
            let rows = page.into_iter().filter_map(|row| Some((row.entry()?, row.user_id))).collect();
            compare(servers, view, id, rows, then).await?;
        }
    }
    bar.finish_and_clear();
    Ok(())
}

fn is_code_right(secret: &CodeSecret, id: &CampaignId, row: &CouponRow) -> bool {
    UserId::parse(&row.user_id).is_ok_and(|user| secret.code(id, &user) == row.code)
}

async fn refusals_pass(servers: &Servers, view: &View<'_>, id: &CampaignId, then: &mut Then<'_>) -> Result<(), Fault> {
    let mut after = String::new();
    loop {
        let page = servers.database.refused_after(id, &after, ROWS).await?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after.clone_from(last);
        let rows = page.into_iter().map(|(user, entry)| (entry, user)).collect();
        compare(servers, view, id, rows, then).await?;
    }
}

/// Rows against what Redis tells of the same users.
async fn compare(
    servers: &Servers,
    view: &View<'_>,
    id: &CampaignId,
    rows: Vec<(ClaimEntry, String)>,
    then: &mut Then<'_>,
) -> Result<(), Fault> {
    let users: Vec<&str> = rows.iter().map(|(_, user)| user.as_str()).collect();
    let told = view.entries(&users).await?;
    let mut pairs = Vec::new();
    for ((row, user), told) in rows.iter().zip(told) {
        let told = told.map(|text| text.parse::<ClaimEntry>());
        let kind = match told {
            None => Kind::RowWithoutClaim,
            // Found by the other pass; what MySQL has mends it.
            Some(Err(_)) => Kind::ToldOtherwise,
            Some(Ok(told)) => {
                if let (true, Then::Note(report)) = (told.slot != row.slot && told.status != row.status, &mut *then) {
                    report.found(Kind::SlotResolved, user);
                }
                match told.status {
                    ClaimStatus::Admitted | ClaimStatus::DeadLettered => Kind::Unconfirmed,
                    status if status != row.status || told.slot != row.slot => Kind::ToldOtherwise,
                    _ => continue,
                }
            }
        };
        match then {
            Then::Note(report) => report.found(kind, user),
            Then::Mend(_) => pairs.extend([user.clone(), row.to_string()]),
        }
    }
    if let Then::Mend(mended) = then {
        for some in pairs.chunks(2 * PAIRS) {
            confirm(&servers.redis, id, some).await?;
            **mended += some.len() as u64 / 2;
        }
    }
    Ok(())
}

/// Mends what `report` calls for. Returns what was done. To repair again is right.
///
/// # Errors
/// [`CampaignError`]: a server failed meanwhile; what was mended until then stays so.
pub async fn repair(servers: &Servers, id: &CampaignId, report: &Report) -> Result<String, CampaignError> {
    let mut done = Vec::new();
    let view = View::new(&servers.redis, id);
    if report.needs(Repair::Publish) {
        done.push(publish(&servers.database, &servers.redis, servers.kafka.as_ref(), id).await?);
    } else if report.needs(Repair::Confirm) {
        let mut mended = 0;
        rows_pass(servers, Some(&view), id, None, &mut Then::Mend(&mut mended)).await?;
        refusals_pass(servers, &view, id, &mut Then::Mend(&mut mended)).await?;
        done.push(format!("{mended} claims confirmed"));
    }
    if report.needs(Repair::Restore) {
        let mut mended = 0;
        claims_pass(servers, &view, id, &mut Then::Mend(&mut mended)).await?;
        done.push(format!("{mended} obligations put back into the outbox"));
    }
    Ok(done.join("\n"))
}
