//! What the list of waiting claims gives to the loop: which of them may be decided now.

use dropgate_shared::claim::ClaimEntry;
use dropgate_shared::ids::CampaignId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long an approval holds. Redis goes on handing out slots.
const VALID: Duration = Duration::from_secs(10);

/// What is known of a campaign at one moment, so that claims that wait can be decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// Users who wait, and before whose claims nothing is left in Kafka.
    pub users: BTreeSet<String>,
    /// The claims that Redis has under way, of users who wait and of others.
    pub under_way: BTreeMap<String, ClaimEntry>,
}

/// Approvals that the loop has not used yet, by campaign, with their time.
#[derive(Clone, Default)]
pub(super) struct Approvals(Arc<Mutex<BTreeMap<CampaignId, (Instant, Approval)>>>);

impl Approvals {
    pub(super) fn has_any(&self) -> bool {
        !self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    pub(super) fn give(&self, campaign: CampaignId, approval: Approval) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(campaign, (Instant::now(), approval));
    }

    /// Takes one that holds.
    pub(super) fn take(&self) -> Option<(CampaignId, Approval)> {
        let mut approvals = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        approvals.retain(|_, (given, _)| given.elapsed() < VALID);
        approvals.pop_first().map(|(campaign, (_, approval))| (campaign, approval))
    }
}
