//! Writes rows again that MySQL has lost: a failover to a server without the last commits, or a restored backup. Their
//! offsets are committed, so Kafka does not deliver the records again; Redis still has user, slot and time.

use crate::backoff::Jitter;
use crate::consume::ports::{Admission, ClaimOutcome, CouponStore};
use crate::kafka::ports::Backlog;
use crate::operator::campaign::error::CampaignError;
use crate::operator::servers::Servers;
use crate::redis::confirm::confirm;
use crate::redis::view::View;
use crate::store::coupon_writer::CouponWriter;
use crate::store::ports::{Session, Store, StoreError};
use crate::store::resolve::CAPACITY_EXHAUSTED;
use crate::store::rows::NewRefusal;
use crate::timestamp;
use dropgate_shared::claim::{ClaimEntry, ClaimStatus};
use dropgate_shared::code::CodeKeyId;
use dropgate_shared::http::Http;
use dropgate_shared::ids::{CampaignId, UserId};
use dropgate_shared::record::AdmissionRecord;
use dropgate_shared::scripts;

/// Rows of one transaction.
const BATCH: usize = 500;

/// Writes a row for every claim that Redis calls issued or refused, and that has none. Returns how many claims that
/// were.
///
/// The rules are those of the issuer: whose slot another user holds by now waits, or is refused.
///
/// # Errors
/// [`CampaignError`]; it is safe to repeat.
pub async fn reissue<S: Store, H: Http, B: Backlog>(
    servers: &Servers<S, H, B>,
    id: &CampaignId,
) -> Result<u64, CampaignError> {
    let secrets = servers.secrets.clone().ok_or_else(|| CampaignError::NoSecret(id.clone()))?;
    let view = View::new(&servers.redis, id);
    // The codes that the gate has shown.
    let code_key = view.meta().await?.and_then(|meta| meta.code_key);
    if secrets.of(code_key).is_none() {
        return Err(CampaignError::OtherCodes { id: id.clone(), key_ids: secrets.ids() });
    }
    let mut session = servers.store.connect().await?;
    let writer = CouponWriter::new(servers.store.clone(), secrets, BATCH, servers.clock.clone(), Jitter::new(|| 0));
    let (mut cursor, mut written) = ("0".to_owned(), 0);
    loop {
        let (next, page) = view.claims_page(&cursor).await?;
        let users: Vec<String> = page.iter().map(|(user, _)| user.clone()).collect();
        let settled = session.settled(id, &users).await?;
        let (mut issued, mut refused) = (Vec::new(), Vec::new());
        for (user, entry) in page.into_iter().filter(|(user, _)| !settled.contains_key(user)) {
            let (Ok(entry), Ok(user)) = (entry.parse::<ClaimEntry>(), UserId::parse(&user)) else { continue };
            match entry.status {
                ClaimStatus::Issued => issued.extend(admission(id, code_key, user, entry)),
                ClaimStatus::Refused => refused.push((user, entry)),
                ClaimStatus::Admitted | ClaimStatus::DeadLettered => {}
            }
        }
        written += (issued.len() + refused.len()) as u64;
        for some in issued.chunks(BATCH) {
            let outcomes = writer.persist(&some.iter().collect::<Vec<_>>()).await?;
            confirm_outcomes(servers, id, some, outcomes).await?;
        }
        write_refusals(servers, &mut session, id, &refused).await?;
        if next == "0" {
            return Ok(written);
        }
        cursor = next;
    }
}

fn admission(id: &CampaignId, code_key: Option<CodeKeyId>, user: UserId, entry: ClaimEntry) -> Option<Admission> {
    let (campaign, slot, admitted_at) = (id.clone(), entry.slot, entry.admitted_ms);
    let record = AdmissionRecord { campaign, user, slot, admitted_at, trace: None, code_key };
    Some(Admission { record, admitted_at: timestamp::from_ms(entry.admitted_ms)? })
}

/// Redis gets what MySQL has decided now.
async fn confirm_outcomes<S: Store, H: Http, B: Backlog>(
    servers: &Servers<S, H, B>,
    id: &CampaignId,
    admissions: &[Admission],
    outcomes: Vec<ClaimOutcome>,
) -> Result<(), CampaignError> {
    let (mut pairs, mut open) = (Vec::new(), Vec::new());
    for (Admission { record, .. }, outcome) in admissions.iter().zip(outcomes) {
        let (slot, status) = match outcome {
            ClaimOutcome::Issued { slot } | ClaimOutcome::Already { slot } => (slot, ClaimStatus::Issued),
            ClaimOutcome::Refused { slot } => (slot, ClaimStatus::Refused),
            ClaimOutcome::Waiting => (record.slot, ClaimStatus::Admitted),
            ClaimOutcome::Rejected(_) => (record.slot, ClaimStatus::DeadLettered),
        };
        let entry = ClaimEntry { slot, admitted_ms: record.admitted_at, status };
        pairs.extend([record.user.as_str().to_owned(), entry.to_string()]);
        if status == ClaimStatus::Admitted {
            open.push(record.user.as_str());
        }
    }
    confirm(&servers.redis, id, &pairs).await?;
    if !open.is_empty() {
        let keys = servers.redis.keys(id);
        servers.redis.eval(&scripts::RESTORE, &[&keys.claims, &keys.outbox], &open).await?;
    }
    Ok(())
}

async fn write_refusals<S: Store, H: Http, B: Backlog>(
    servers: &Servers<S, H, B>,
    session: &mut S::Session,
    id: &CampaignId,
    refused: &[(UserId, ClaimEntry)],
) -> Result<(), CampaignError> {
    let now = servers.clock.now();
    for (user, entry) in refused {
        let Some(admitted_at) = timestamp::from_ms(entry.admitted_ms) else { continue };
        let refusal = NewRefusal {
            campaign: id,
            user,
            proposed_slot: entry.slot.get(),
            reason: CAPACITY_EXHAUSTED,
            admitted_at,
            refused_at: now,
        };
        session.begin().await?;
        // Under the lock nobody decides about this user meanwhile.
        session.lock_campaign(id).await?;
        let has_row = !session.settled(id, &[user.as_str().to_owned()]).await?.is_empty();
        let inserted = if has_row { Ok(()) } else { session.insert_refusals(&[refusal]).await };
        match inserted {
            Ok(()) => session.commit().await?,
            // Somebody has written it meanwhile.
            Err(StoreError::Constraint) => session.rollback().await?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
