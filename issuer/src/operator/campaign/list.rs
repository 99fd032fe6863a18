//! `campaign list`.

use crate::operator::moment::{distance, shown};
use crate::operator::output::{json, table};
use crate::phase::Phase;
use crate::store::rows::CampaignSummary;
use crate::timestamp;
use serde::Serialize;
use time::PrimitiveDateTime;

#[derive(Serialize)]
struct List<'a> {
    campaigns: Vec<Line<'a>>,
}

#[derive(Serialize)]
struct Line<'a> {
    campaign: &'a str,
    state: Phase,
    capacity: u32,
    issued: u64,
    refused: u64,
    opens_at: String,
    closes_at: Option<String>,
}

/// The state by the rows in MySQL: the list asks no other server.
fn phase(CampaignSummary { campaign, rows, .. }: &CampaignSummary, now: PrimitiveDateTime) -> Phase {
    Phase::of(campaign, rows.issued, now)
}

/// All campaigns as one JSON object.
#[must_use]
pub fn list_json(campaigns: &[CampaignSummary], now: PrimitiveDateTime) -> String {
    let campaigns = campaigns
        .iter()
        .map(|summary @ CampaignSummary { id, campaign, rows }| Line {
            campaign: id,
            state: phase(summary, now),
            capacity: campaign.capacity,
            issued: rows.issued,
            refused: rows.refused,
            opens_at: timestamp::format(campaign.opens_at),
            closes_at: campaign.closes_at.map(timestamp::format),
        })
        .collect();
    json(&List { campaigns })
}

/// All campaigns for a terminal.
#[must_use]
pub fn list_table(campaigns: &[CampaignSummary], now: PrimitiveDateTime) -> String {
    if campaigns.is_empty() {
        return "no campaigns; create one with `issuer campaign create ID --capacity N`".to_owned();
    }
    let mut lines =
        vec![["CAMPAIGN", "STATE", "CAPACITY", "ISSUED", "REFUSED", "OPENS AT", "CLOSES"].map(str::to_owned)];
    lines.extend(campaigns.iter().map(|summary @ CampaignSummary { id, campaign, rows }| {
        [
            id.clone(),
            phase(summary, now).to_string(),
            campaign.capacity.to_string(),
            rows.issued.to_string(),
            rows.refused.to_string(),
            shown(campaign.opens_at, now),
            campaign.closes_at.map_or_else(|| "never".to_owned(), |at| distance(at, now)),
        ]
    }));
    table(&lines)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::rows::{Campaign, Tally};
    use crate::timestamp::parse;
    use dropgate_shared::campaign::CampaignState;

    #[test]
    fn the_states_are_those_that_visitors_see() {
        let now = parse("2026-11-25T11:00:00Z").unwrap();
        let summary = |id: &str, state, issued, opens_at: &str, closes_at: Option<&str>| CampaignSummary {
            id: id.to_owned(),
            campaign: Campaign {
                state,
                capacity: 5,
                opens_at: parse(opens_at).unwrap(),
                closes_at: closes_at.map(|at| parse(at).unwrap()),
                version: 1,
            },
            rows: Tally { issued, refused: 0 },
        };
        let (soon, before) = ("2026-11-27T09:00:00Z", "2026-11-25T10:00:00Z");
        let all = [
            summary("soon", CampaignState::Open, 0, soon, None),
            summary("running", CampaignState::Open, 4, before, Some("2026-11-25T11:30:00Z")),
            summary("full", CampaignState::Open, 5, before, None),
            summary("over", CampaignState::Open, 1, before, Some("2026-11-25T10:30:00Z")),
            summary("halted", CampaignState::Paused, 1, before, None),
        ];
        let table = list_table(&all, now);
        let states = ["scheduled", "open", "sold out", "closed", "paused"];
        for (line, state) in table.lines().skip(1).zip(states) {
            assert!(line.contains(&format!("  {state}  ")), "{state}: {line}");
        }
        assert!(
            table.contains("(2026-11-27T09:00:00Z), in 1 d 22 h")
                || table.contains("2026-11-27T09:00:00Z, in 1 d 22 h")
        );
        assert!(
            table.contains("in 30 min 0 s") && table.contains("30 min 0 s ago") && table.contains("never"),
            "{table}"
        );
        let read: serde_json::Value = serde_json::from_str(&list_json(&all, now)).unwrap();
        let words: Vec<&str> =
            read["campaigns"].as_array().unwrap().iter().map(|line| line["state"].as_str().unwrap()).collect();
        assert_eq!(words, ["not-open", "open", "sold-out", "closed", "paused"]);
        assert_eq!(read["version"], 1);
    }
}
