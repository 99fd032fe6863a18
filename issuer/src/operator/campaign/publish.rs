//! `campaign publish`: Redis is rebuilt from MySQL.

use super::create::described;
use super::error::CampaignError;
use super::settings::write_settings;
use crate::kafka::ports::Backlog;
use crate::operator::servers::Servers;
use crate::redis::confirm::{PAIRS, confirm};
use crate::store::ports::{Session, Store};
use crate::store::rows::{CouponRow, Holder};
use dropgate_shared::code::{CodeKeyId, CodeSecret, CodeSecrets};
use dropgate_shared::http::Http;
use dropgate_shared::ids::{CampaignId, UserId};
use dropgate_shared::redis_rest::text_of;
use dropgate_shared::scripts;
use serde_json::Value;
use std::fmt::Write as _;

/// Makes a campaign known to the gate, or rebuilds what Redis holds of it. Returns what to print.
///
/// # Errors
/// [`CampaignError`]; it is always safe to publish again.
pub async fn publish<S: Store, H: Http, B: Backlog>(
    servers: &Servers<S, H, B>,
    id: &CampaignId,
) -> Result<String, CampaignError> {
    let redis = &servers.redis;
    let secrets = servers.secrets.as_ref().ok_or_else(|| CampaignError::NoSecret(id.clone()))?;
    let mut session = servers.store.connect().await?;
    session.campaign(id).await?.ok_or_else(|| CampaignError::Unknown(id.clone()))?;
    // Before the meta: if Redis loses its last writes, it rather knows a campaign that is lost than none. And the cron
    // visits these: a campaign that is published is among them, wherever this ends.
    add_to_known(servers, id).await?;
    // Looked at before the rows: what is under way now has no row yet, and is not among the holders below.
    let lag = match &servers.kafka {
        None => "not looked at (KAFKA_BOOTSTRAP is not set)".to_owned(),
        Some(backlog) => match backlog.lag().await {
            Ok(0) => "0".to_owned(),
            Ok(lag) => format!("{lag} records, whose rows are still to come"),
            Err(fault) => format!("unknown ({fault})"),
        },
    };

    let (mut issued, mut after, mut proven) = (0_u64, None, None);
    loop {
        let page = session.coupons_after(id, after, PAIRS as u32).await?;
        let Some(last) = page.last() else { break };
        after = Some(last.slot);
        issued += page.len() as u64;
        proven = proven.or_else(|| page.iter().find_map(|row| secret_of(row, id, secrets)));
        confirm(redis, id, &pairs(page.into_iter().filter_map(|row| row.holder()))).await?;
    }
    let (mut refused, mut after) = (0_u64, String::new());
    loop {
        let page = session.refused_after(id, &after, PAIRS as u32).await?;
        let Some((last, _)) = page.last() else { break };
        after.clone_from(last);
        refused += page.len() as u64;
        confirm(redis, id, &pairs(page)).await?;
    }

    if issued > 0 && proven.is_none() {
        return Err(CampaignError::OtherCodes { id: id.clone(), key_ids: secrets.ids() });
    }
    // What was read before the holders may be outdated by now.
    let code_keys = [secrets.ids(), proven.map(String::from).unwrap_or_default()];
    let (campaign, reply) = write_settings(servers, &mut session, id, &scripts::PUBLISH, &code_keys).await?;
    let waiting = redis.command(&["ZCARD", &redis.keys(id).outbox]).await?;

    let shown = |value: Option<&Value>, absent: &str| value.and_then(text_of).unwrap_or_else(|| absent.to_owned());
    let (count, before) = (shown(reply.get(0), "?"), shown(reply.get(1), "not published"));
    let mut text = String::new();
    let _ = writeln!(text, "campaign {id} published: {}", described(&campaign));
    let _ = writeln!(text, "  rows in MySQL         {issued} issued, {refused} refused");
    let _ = writeln!(text, "  slots handed out      {before} before, {count} now");
    let _ = writeln!(text, "  waiting in the outbox {}", shown(Some(&waiting), "?"));
    let _ = writeln!(text, "  consumer lag          {lag}");
    let _ = match shown(reply.get(2), "").as_str() {
        "" => write!(text, "  code secret           not known yet: publish again when there are rows"),
        key => write!(text, "  code secret           {key}"),
    };
    Ok(text)
}

/// Adds the campaign to those that the cron visits and that the gate knows.
///
/// # Errors
/// [`CampaignError`]; it is always safe to repeat it.
pub async fn add_to_known<S: Store, H: Http, B: Backlog>(
    servers: &Servers<S, H, B>,
    id: &CampaignId,
) -> Result<(), CampaignError> {
    let known = servers.redis.prefix().campaigns_key();
    let mut add = vec!["SADD".to_owned(), known.clone(), id.to_string()];
    if servers.redis.eval(&scripts::READ, &[&known], &["SCARD"]).await? == 0 {
        // Redis has lost everything, or is new. While the set is missing the gate reports no campaign as unknown; it
        // must not begin to while the others are still to be published.
        let campaigns = servers.store.connect().await?.campaigns().await?;
        add.extend(campaigns.into_iter().map(|summary| summary.id));
    }
    servers.redis.command(&add).await?;
    Ok(())
}

/// The key id of the secret that the row's code is derived from, if it is one of ours.
fn secret_of(row: &CouponRow, id: &CampaignId, secrets: &CodeSecrets) -> Option<CodeKeyId> {
    let user = UserId::parse(&row.user_id).ok()?;
    secrets.all().find(|secret| secret.code(id, &user) == row.code).map(CodeSecret::id)
}

fn pairs(holders: impl IntoIterator<Item = Holder>) -> Vec<String> {
    holders.into_iter().flat_map(|(user, entry)| [user, entry.to_string()]).collect()
}
