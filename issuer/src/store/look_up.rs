//! Which claims have a row already: reads only, without a transaction or a lock.

use super::ports::{Session, StoreResult};
use crate::consume::ports::{Admission, ClaimOutcome};
use dropgate_shared::ids::CampaignId;
use std::collections::{BTreeMap, HashMap};

/// Values in one `IN (..)`.
const CHUNK: usize = 1_000;

/// What the rows say that are there already: a coupon, or else a refusal.
pub(super) async fn rows_of(
    session: &mut impl Session,
    admissions: &[&Admission],
) -> StoreResult<Vec<Option<ClaimOutcome>>> {
    let mut campaigns = BTreeMap::<&CampaignId, Vec<&str>>::new();
    for admission in admissions {
        campaigns.entry(&admission.record.campaign).or_default().push(admission.record.user.as_str());
    }
    let mut rows = HashMap::new();
    for (campaign, users) in &campaigns {
        for some in users.chunks(CHUNK) {
            let refused = session.refusal_slots_of(campaign, some).await?.into_iter();
            rows.extend(refused.map(|(user, slot)| ((*campaign, user), ClaimOutcome::Refused { slot })));
            let issued = session.coupon_slots_of(campaign, some).await?.into_iter();
            rows.extend(issued.map(|(user, slot)| ((*campaign, user), ClaimOutcome::Already { slot })));
        }
    }
    let row = |admission: &&Admission| {
        let record = &admission.record;
        rows.get(&(&record.campaign, record.user.as_str().to_owned())).cloned()
    };
    Ok(admissions.iter().map(row).collect())
}
