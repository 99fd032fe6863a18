//! `campaign create`.

use super::error::CampaignError;
use crate::operator::moment::{distance, shown};
use crate::phase::Phase;
use crate::store::ports::{Session, Store, StoreError, StoreResult};
use crate::store::rows::Campaign;
use dropgate_shared::campaign::CampaignState;
use dropgate_shared::ids::CampaignId;
use time::PrimitiveDateTime;

/// Creates a campaign in MySQL. `opens_at` is `None` for "now". Returns what to print.
///
/// # Errors
/// [`CampaignError`]. To create the same campaign again is none: with "now", the same is one that is
/// open already.
pub async fn create(
    store: &impl Store,
    now: PrimitiveDateTime,
    id: &CampaignId,
    capacity: u32,
    opens_at: Option<PrimitiveDateTime>,
    closes_at: Option<PrimitiveDateTime>,
) -> Result<String, CampaignError> {
    let (version, starts_at) = (Campaign::FIRST_VERSION, opens_at.unwrap_or(now));
    let wanted = Campaign { state: CampaignState::Open, capacity, opens_at: starts_at, closes_at, version };
    match insert(&mut store.connect().await?, now, id, &wanted).await {
        Ok(()) => {
            let past = opens_at.filter(|opens_at| *opens_at < now).map_or_else(String::new, |opens_at| {
                format!(
                    "\nwarning: --opens-at is in the past ({}); the campaign opens as soon as it is published",
                    distance(opens_at, now)
                )
            });
            return Ok(format!("campaign {id} created: {}{past}", described(&wanted, now)));
        }
        Err(StoreError::Constraint) => {}
        Err(error) => return Err(error.into()),
    }
    let existing = store.connect().await?.campaign(id).await?.ok_or_else(|| CampaignError::Unknown(id.clone()))?;
    // "now" was another time when it was created: what counts is that it has begun.
    let begins_alike = match opens_at {
        None => existing.opens_at <= now,
        Some(opens_at) => existing.opens_at == opens_at,
    };
    let rest_alike = Campaign { opens_at: existing.opens_at, version: existing.version, ..wanted.clone() } == existing;
    if begins_alike && rest_alike {
        return Ok(format!("campaign {id} exists already, with exactly these settings"));
    }
    let differences = format!("it is {}; requested was {}", described(&existing, now), described(&wanted, now));
    Err(CampaignError::Exists { id: id.clone(), differences })
}

/// `Constraint` if the id is taken.
async fn insert(
    session: &mut impl Session,
    now: PrimitiveDateTime,
    id: &CampaignId,
    campaign: &Campaign,
) -> StoreResult<()> {
    session.begin().await?;
    session.insert_campaign(id, campaign, now).await?;
    session.insert_allotment(id, campaign.capacity, now).await?;
    session.commit().await
}

/// A campaign's settings for a human.
#[must_use]
pub fn described(campaign: &Campaign, now: PrimitiveDateTime) -> String {
    format!(
        "{}, capacity {}\n  opens at   {}\n  closes at  {}",
        Phase::of(campaign, 0, now),
        campaign.capacity,
        shown(campaign.opens_at, now),
        campaign.closes_at.map_or_else(|| "never".to_owned(), |at| shown(at, now)),
    )
}
