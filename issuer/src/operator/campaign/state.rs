//! Pause, resume, close, raise. MySQL first; then one call updates the gate.

use super::error::CampaignError;
use super::publish::publish;
use super::settings::{campaign, write_settings};
use crate::kafka::ports::Backlog;
use crate::operator::servers::Servers;
use crate::store::ports::{Session, Store, StoreResult};
use crate::timestamp::Clock;
use dropgate_shared::campaign::CampaignState;
use dropgate_shared::fault::Source;
use dropgate_shared::http::Http;
use dropgate_shared::ids::CampaignId;
use dropgate_shared::scripts;

/// A change of a campaign's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// Admit nobody for now.
    Pause,
    /// Admit again; with `reopen` even after the campaign was closed.
    Resume { reopen: bool },
    /// Admit nobody any more.
    Close,
}

impl Transition {
    fn to(self) -> CampaignState {
        match self {
            Self::Pause => CampaignState::Paused,
            Self::Resume { .. } => CampaignState::Open,
            Self::Close => CampaignState::Closed,
        }
    }

    /// The states in which it is allowed. Its own is among them, so that it can be repeated.
    fn from(self) -> &'static [CampaignState] {
        match self {
            Self::Pause | Self::Resume { reopen: false } => &[CampaignState::Open, CampaignState::Paused],
            Self::Resume { reopen: true } | Self::Close => {
                &[CampaignState::Open, CampaignState::Paused, CampaignState::Closed]
            }
        }
    }
}

/// What became of a request to raise a capacity.
enum Raised {
    /// A new allotment was granted.
    Now { before: u32 },
    /// It is in force already.
    Before,
    /// A greater one is in force.
    Lower { in_force: u32 },
    /// There is no such campaign.
    Unknown,
}

/// Sets a campaign's state. Returns what to print.
///
/// # Errors
/// [`CampaignError`]; it is safe to repeat, and updates the gate again.
pub async fn set<S: Store, H: Http, B: Backlog>(
    servers: &Servers<S, H, B>,
    id: &CampaignId,
    transition: Transition,
) -> Result<String, CampaignError> {
    let mut session = servers.store.connect().await?;
    let before = campaign(&mut session, id).await?;
    if !session.set_state(id, transition.from(), transition.to()).await? {
        return Err(CampaignError::Closed(id.clone()));
    }
    let now = campaign(&mut session, id).await?;
    let changed = if before.state == now.state {
        format!("campaign {id} is {} already", now.state)
    } else {
        format!("campaign {id} is {} now, it was {}", now.state, before.state)
    };
    Ok(format!("{changed}\n{}", update_gate(servers, &mut session, id).await?))
}

/// Grants a greater capacity. Returns what to print.
///
/// # Errors
/// [`CampaignError`]; it is safe to repeat, and updates the gate again.
pub async fn raise<S: Store, H: Http, B: Backlog>(
    servers: &Servers<S, H, B>,
    id: &CampaignId,
    capacity: u32,
) -> Result<String, CampaignError> {
    let mut session = servers.store.connect().await?;
    let raised = match grant(&mut session, &servers.clock, id, capacity).await? {
        Raised::Now { before } => format!("campaign {id} has a capacity of {capacity} now, it had {before}"),
        Raised::Before => format!("campaign {id} has a capacity of {capacity} already"),
        Raised::Lower { in_force } => return Err(CampaignError::Lower { id: id.clone(), capacity, in_force }),
        Raised::Unknown => return Err(CampaignError::Unknown(id.clone())),
    };
    Ok(format!("{raised}\n{}", update_gate(servers, &mut session, id).await?))
}

async fn grant(session: &mut impl Session, clock: &Clock, id: &CampaignId, capacity: u32) -> StoreResult<Raised> {
    session.begin().await?;
    // The lock under which free slots are searched: a search sees the old allotment or the new one.
    let is_known = session.lock_campaign(id).await?;
    let raised = match session.newest_allotment(id).await?.filter(|_| is_known) {
        None => Raised::Unknown,
        Some(in_force) if in_force > capacity => Raised::Lower { in_force },
        Some(in_force) if in_force == capacity => Raised::Before,
        Some(before) => {
            session.insert_allotment(id, capacity, clock.now()).await?;
            session.next_version(id, 0).await?;
            Raised::Now { before }
        }
    };
    session.commit().await?;
    Ok(raised)
}

/// Redis follows what MySQL has decided. Without an answer of Redis the gate goes on as before: MySQL has
/// the change, and the operator learns that the gate may not.
async fn update_gate<S: Store, H: Http, B: Backlog>(
    servers: &Servers<S, H, B>,
    session: &mut S::Session,
    id: &CampaignId,
) -> Result<String, CampaignError> {
    let not_updated = |fault| CampaignError::GateNotUpdated { id: id.clone(), fault };
    let reply = match write_settings(servers, session, id, &scripts::UPDATE, &[]).await {
        Err(CampaignError::Fault(fault)) if fault.source == Source::Redis => return Err(not_updated(fault)),
        other => other?.1,
    };
    if reply.as_u64() == Some(0) {
        return publish(servers, id).await;
    }
    Ok("the gate is up to date".to_owned())
}
