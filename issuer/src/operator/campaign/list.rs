//! `campaign list`.

use crate::operator::output::table;
use crate::store::rows::CampaignSummary;
use crate::timestamp;
use dropgate_shared::campaign::CampaignState;
use serde::Serialize;

#[derive(Serialize)]
struct Line<'a> {
    campaign: &'a str,
    state: CampaignState,
    capacity: u32,
    issued: u64,
    refused: u64,
    opens_at: String,
    closes_at: Option<String>,
}

/// All campaigns as a JSON array.
#[must_use]
pub fn list_json(campaigns: &[CampaignSummary]) -> String {
    let lines: Vec<Line<'_>> = campaigns
        .iter()
        .map(|CampaignSummary { id, campaign, rows }| Line {
            campaign: id,
            state: campaign.state,
            capacity: campaign.capacity,
            issued: rows.issued,
            refused: rows.refused,
            opens_at: timestamp::format(campaign.opens_at),
            closes_at: campaign.closes_at.map(timestamp::format),
        })
        .collect();
    serde_json::to_string_pretty(&lines).unwrap_or_default()
}

/// All campaigns for a terminal.
#[must_use]
pub fn list_table(campaigns: &[CampaignSummary]) -> String {
    if campaigns.is_empty() {
        return "no campaigns; create one with `issuer campaign create ID --capacity N`".to_owned();
    }
    let mut lines =
        vec![["CAMPAIGN", "STATE", "CAPACITY", "ISSUED", "REFUSED", "OPENS AT", "CLOSES AT"].map(str::to_owned)];
    lines.extend(campaigns.iter().map(|CampaignSummary { id, campaign, rows }| {
        [
            id.clone(),
            campaign.state.to_string(),
            campaign.capacity.to_string(),
            rows.issued.to_string(),
            rows.refused.to_string(),
            timestamp::format(campaign.opens_at),
            campaign.closes_at.map_or_else(|| "never".to_owned(), timestamp::format),
        ]
    }));
    table(&lines)
}
