//! `campaign reschedule`: another opening or closing time. MySQL first; then one call updates the gate.

use super::create::described;
use super::error::CampaignError;
use super::state::update_gate;
use crate::kafka::ports::Backlog;
use crate::operator::moment::distance;
use crate::operator::servers::Servers;
use crate::store::ports::{Session, Store};
use crate::store::rows::Campaign;
use crate::timestamp;
use dropgate_shared::campaign::CampaignState;
use dropgate_shared::http::Http;
use dropgate_shared::ids::CampaignId;
use time::{Duration, PrimitiveDateTime};

/// How often a page that waits for the opening asks for the campaign, at most (`until_next_poll_ms` of the page).
const PAGES_KNOW_AFTER: Duration = Duration::minutes(2);

/// What is to change; `None` stays as it is.
#[derive(Debug, Clone, Copy)]
pub struct Change {
    pub opens_at: Option<PrimitiveDateTime>,
    /// `Some(None)`: the campaign closes when it is sold out.
    pub closes_at: Option<Option<PrimitiveDateTime>>,
    /// Also where the closing time has passed.
    pub reopen: bool,
}

/// Moves the opening or the closing time. Returns what to print.
///
/// # Errors
/// [`CampaignError`]; it is safe to repeat, and updates the gate again.
pub async fn reschedule<S: Store, H: Http, B: Backlog>(
    servers: &Servers<S, H, B>,
    id: &CampaignId,
    change: Change,
) -> Result<String, CampaignError> {
    let now = servers.clock.now();
    let mut session = servers.store.connect().await?;
    session.begin().await?;
    // What is decided below must hold when it is written.
    session.lock_campaign(id).await?;
    let before = session.campaign(id).await?.ok_or_else(|| CampaignError::Unknown(id.clone()))?;
    let after = decide(&before, id, change, now)?;
    if after != before {
        session.set_window(id, after.opens_at, after.closes_at).await?;
    }
    session.commit().await?;
    let changed = if after == before { "has these times already" } else { "is rescheduled" };
    let is_near = after.opens_at != before.opens_at && after.opens_at < now + PAGES_KNOW_AFTER;
    let warning = if is_near {
        format!(
            "\nwarning: it opens {}, and waiting pages learn of a new opening within {} min: some users will press late",
            distance(after.opens_at.max(now), now),
            PAGES_KNOW_AFTER.whole_minutes()
        )
    } else {
        String::new()
    };
    let updated = update_gate(servers, &mut session, id).await?;
    let settings = described(&after, now);
    Ok(format!("campaign {id} {changed}: {settings}{warning}\n{updated}\nnext: issuer campaign show {id}"))
}

/// The campaign with its new times.
fn decide(
    before: &Campaign,
    id: &CampaignId,
    change: Change,
    now: PrimitiveDateTime,
) -> Result<Campaign, CampaignError> {
    // An opening in the past is "now" to a campaign that is open: nothing changes, and the command can be repeated.
    let opens_at = change.opens_at.filter(|opens_at| now < before.opens_at.max(*opens_at)).unwrap_or(before.opens_at);
    let closes_at = change.closes_at.unwrap_or(before.closes_at);
    let after = Campaign { opens_at, closes_at, ..before.clone() };
    if after == *before {
        return Ok(after);
    }
    if before.state == CampaignState::Closed {
        return Err(CampaignError::Closed(id.clone()));
    }
    if !change.reopen && before.closes_at.is_some_and(|closes_at| closes_at <= now) {
        return Err(CampaignError::Over(id.clone()));
    }
    if opens_at != before.opens_at && before.opens_at <= now {
        return Err(CampaignError::HasOpened { id: id.clone(), since: distance(before.opens_at, now) });
    }
    match closes_at {
        Some(closes_at) if closes_at <= opens_at => {
            let [opens_at, closes_at] = [opens_at, closes_at].map(timestamp::format);
            Err(CampaignError::Window { id: id.clone(), opens_at, closes_at })
        }
        _ => Ok(after),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timestamp::from_ms;

    const NOW_MS: u64 = 1_763_700_000_000;

    fn at(offset_s: i64) -> PrimitiveDateTime {
        from_ms(NOW_MS.saturating_add_signed(offset_s * 1_000)).unwrap()
    }

    fn decided(
        (state, opens_s, closes_s): (CampaignState, i64, Option<i64>),
        (opens_at, closes_at, reopen): (Option<i64>, Option<Option<i64>>, bool),
    ) -> Result<(PrimitiveDateTime, Option<PrimitiveDateTime>), String> {
        let before = Campaign { state, capacity: 3, opens_at: at(opens_s), closes_at: closes_s.map(at), version: 7 };
        let change = Change { opens_at: opens_at.map(at), closes_at: closes_at.map(|new| new.map(at)), reopen };
        let after = decide(&before, &CampaignId::parse("c").unwrap(), change, at(0));
        after.map(|after| (after.opens_at, after.closes_at)).map_err(|error| error.to_string())
    }

    #[test]
    fn an_opening_moves_until_it_has_passed_and_a_closing_until_the_end() {
        let open = CampaignState::Open;
        assert_eq!(decided((open, 60, None), (Some(90), None, false)), Ok((at(90), None)));
        assert_eq!(decided((open, 60, Some(90)), (Some(-5), Some(None), false)), Ok((at(-5), None)), "at once");
        assert_eq!(
            decided((CampaignState::Paused, -60, Some(5)), (None, Some(Some(50)), false)),
            Ok((at(-60), Some(at(50))))
        );
        assert_eq!(decided((open, -60, Some(-5)), (None, Some(Some(50)), true)), Ok((at(-60), Some(at(50)))));
        // Repeated.
        assert_eq!(decided((open, -60, None), (Some(0), None, false)), Ok((at(-60), None)));
        assert_eq!(
            decided((CampaignState::Closed, -60, Some(-5)), (Some(-60), Some(Some(-5)), false)),
            Ok((at(-60), Some(at(-5))))
        );
    }

    #[test]
    fn what_visitors_have_seen_stays() {
        let open = CampaignState::Open;
        for (before, change, problem) in [
            ((open, -60, None), (Some(90), None, true), "has opened (1 min 0 s ago)"),
            ((open, -60, Some(-5)), (None, Some(None), false), "is over since its closing time"),
            ((CampaignState::Closed, 60, None), (Some(90), None, true), "resume c --reopen"),
            ((open, 60, Some(90)), (Some(90), None, false), "is not after its opening"),
            ((open, 60, None), (None, Some(Some(10)), false), "is not after its opening"),
        ] {
            let error = decided(before, change).unwrap_err();
            assert!(error.contains(problem), "{error}");
        }
    }
}
