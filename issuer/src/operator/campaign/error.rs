//! Why a verb on a campaign fails.

use crate::store::ports::StoreError;
use dropgate_shared::fault::Fault;
use dropgate_shared::ids::CampaignId;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum CampaignError {
    /// MySQL, Redis or Kafka failed.
    #[error("{0}")]
    Fault(#[from] Fault),
    #[error("MySQL has no campaign {0}; create it with `issuer campaign create {0} --capacity N`")]
    Unknown(CampaignId),
    /// The id is taken by another campaign.
    #[error("campaign {id} exists already, and differs: {differences}")]
    Exists { id: CampaignId, differences: String },
    /// The campaign is closed, and the transition does not reopen it.
    #[error(
        "campaign {0} is closed, and visitors have seen that it is over. To open it again: \
         `issuer campaign resume {0} --reopen`"
    )]
    Closed(CampaignId),
    /// Its closing time has passed, and the change does not reopen it.
    #[error(
        "campaign {0} is over since its closing time, and visitors have seen that. To open it again: repeat the command \
         with --reopen"
    )]
    Over(CampaignId),
    /// The opening has passed.
    #[error(
        "campaign {id} has opened ({since}), and visitors have seen that: its opening cannot move any more. To stop \
         admitting: `issuer campaign pause {id}`"
    )]
    HasOpened { id: CampaignId, since: String },
    #[error(
        "campaign {id} would close at {closes_at}, which is not after its opening at {opens_at}; expected a later --closes-at"
    )]
    Window { id: CampaignId, opens_at: String, closes_at: String },
    /// Less than was granted before.
    #[error(
        "campaign {id} has a capacity of {in_force}, and {capacity} is less: so many coupons may be promised already. \
         To end it early: `issuer campaign close {id}`"
    )]
    Lower { id: CampaignId, capacity: u32, in_force: u32 },
    #[error("others change campaign {0} at the same time; run the same command again")]
    Contention(CampaignId),
    /// A gate with another secret would go unnoticed.
    #[error(
        "COUPON_CODE_SECRET is not set, and campaign {0} must be published, or rows of it written: Redis gets the key id \
         of the secret, so that no gate shows other codes, and rows get their codes. Expected the secret of the gate \
         and the issuer"
    )]
    NoSecret(CampaignId),
    #[error(
        "the codes of the coupons of campaign {id} are derived from another secret than COUPON_CODE_SECRET (key id \
         {key_ids}); expected the secret of the gate and the issuer, and the one before as COUPON_CODE_SECRET_PREVIOUS"
    )]
    OtherCodes { id: CampaignId, key_ids: String },
    /// MySQL has the change, and Redis did not answer.
    #[error(
        "MySQL has the change, but the gate may not have it yet: {fault}\nRun the same command again, or \
         `issuer campaign publish {id}`, to update the gate"
    )]
    GateNotUpdated { id: CampaignId, fault: Fault },
}

impl From<StoreError> for CampaignError {
    fn from(error: StoreError) -> Self {
        Self::Fault(error.into())
    }
}
