//! What `verify` found, and the verdict on it. No I/O.

use super::findings::{FindingKind, Repair, Verdict, Weight};
use crate::operator::output::masked;
use dropgate_shared::campaign::CampaignState;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Examples kept of each finding.
const EXAMPLES: usize = 5;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Finding {
    count: u64,
    examples: Vec<String>,
}

/// All that was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// The campaign.
    pub campaign: String,
    /// Its state in MySQL.
    pub state: Option<CampaignState>,
    /// Its newest allotment.
    pub capacity: u32,
    /// Coupon rows.
    pub coupons: u64,
    /// Refusal rows.
    pub refusals: u64,
    /// Claims in Redis, where it answered.
    pub claims: Option<u64>,
    /// Obligations, where Redis answered.
    pub waiting: Option<u64>,
    /// Records of all campaigns that wait for the issuer, where Kafka answered.
    pub lag: Option<u64>,
    /// Whether codes were computed again.
    pub codes_checked: bool,
    /// Whether the gate knows the campaign; `None` where Redis did not answer.
    pub published: Option<bool>,
    /// Why something is not known.
    pub unknown: Vec<String>,
    findings: BTreeMap<FindingKind, Finding>,
}

#[derive(Serialize)]
struct ReportJson<'a> {
    campaign: &'a str,
    verdict: Verdict,
    state: &'a str,
    capacity: u32,
    coupons: u64,
    refusals: u64,
    claims: Option<u64>,
    outbox: Option<u64>,
    lag: Option<u64>,
    codes_checked: bool,
    unknown: &'a [String],
    findings: Vec<FindingJson<'a>>,
}

#[derive(Serialize)]
struct FindingJson<'a> {
    finding: FindingKind,
    weight: Weight,
    invariant: Option<&'a str>,
    text: &'a str,
    count: u64,
    examples: Vec<String>,
    remedy: &'a str,
}

impl VerifyReport {
    /// A report of nothing yet.
    #[must_use]
    pub fn new(campaign: String, codes_checked: bool) -> Self {
        Self { campaign, codes_checked, ..Self::default() }
    }

    /// Notes a finding of one user or slot.
    pub fn found(&mut self, kind: FindingKind, example: &str) {
        let finding = self.findings.entry(kind).or_default();
        finding.count += 1;
        if finding.examples.len() < EXAMPLES {
            finding.examples.push(example.to_owned());
        }
    }

    /// Notes a finding without examples.
    pub fn counted(&mut self, kind: FindingKind, count: u64) {
        if count > 0 {
            self.findings.entry(kind).or_default().count += count;
        }
    }

    /// How often `kind` was found.
    #[must_use]
    pub fn count(&self, kind: FindingKind) -> u64 {
        self.findings.get(&kind).map_or(0, |finding| finding.count)
    }

    fn weight(&self, kind: FindingKind) -> Weight {
        match kind {
            FindingKind::SlotResolved => Weight::Note,
            FindingKind::GateDiffers
            | FindingKind::Uncounted
            | FindingKind::Unconfirmed
            | FindingKind::Owed
            | FindingKind::DeadLettered => Weight::UnderWay,
            // A record that waits in Kafka may be the missing one; and while rows are written, their confirmation
            // is on its way to a Redis that may have been rebuilt.
            FindingKind::Stranded | FindingKind::RowWithoutClaim => match self.lag {
                Some(0) => Weight::Violated,
                Some(_) => Weight::UnderWay,
                None => Weight::Unknown,
            },
            _ => Weight::Violated,
        }
    }

    /// The verdict. While a source does not answer, nothing is called violated but what MySQL alone proves.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        let worst = self.findings.keys().map(|kind| self.weight(*kind)).max().unwrap_or(Weight::Note);
        match worst {
            _ if self.count(FindingKind::BeyondCapacity) + self.count(FindingKind::UserTwice) > 0 => Verdict::Violated,
            _ if !self.unknown.is_empty() => Verdict::Unknown,
            Weight::Unknown => Verdict::Unknown,
            Weight::Violated => Verdict::Violated,
            Weight::UnderWay => Verdict::UnderWay,
            Weight::Note if self.waiting.is_some_and(|waiting| waiting > 0) => Verdict::UnderWay,
            Weight::Note => Verdict::Holds,
        }
    }

    /// Whether `repair` is called for.
    #[must_use]
    pub fn needs(&self, repair: Repair) -> bool {
        (repair == Repair::Publish && self.published == Some(false))
            || self.findings.keys().any(|kind| kind.repair() == Some(repair))
    }

    /// Whether there is anything that `reconcile` can mend.
    #[must_use]
    pub fn needs_repair(&self) -> bool {
        [Repair::Publish, Repair::Confirm, Repair::Restore].into_iter().any(|repair| self.needs(repair))
    }

    /// What `reconcile` would do.
    #[must_use]
    pub fn plan(&self) -> String {
        let mut plan = Vec::new();
        if self.needs(Repair::Publish) {
            plan.push("publish the campaign: Redis gets its settings and every holder from MySQL".to_owned());
        }
        if self.needs(Repair::Confirm) {
            let count = self.count(FindingKind::Unconfirmed) + self.count(FindingKind::ToldOtherwise);
            plan.push(format!("confirm {count} claims to Redis as MySQL has them, and end their obligations"));
        }
        if self.needs(Repair::Restore) {
            let count = self.count(FindingKind::Stranded);
            plan.push(format!("put {count} obligations back into the outbox, for the sweeper to send again"));
        }
        match plan.is_empty() {
            true => "plan: nothing that a repair could mend".to_owned(),
            false => format!("plan:\n  {}", plan.join("\n  ")),
        }
    }

    fn state_name(&self) -> &'static str {
        self.state.map_or("", CampaignState::as_str)
    }

    /// For a terminal.
    #[must_use]
    pub fn human(&self, show_users: bool) -> String {
        let known = |figure: Option<u64>| figure.map_or_else(|| "unknown".to_owned(), |figure| figure.to_string());
        let mut text = format!(
            "campaign   {} ({})\nMySQL      {} coupons of {}, {} refusals\nRedis      {} claims, {} in the outbox\nKafka      {} records wait for the issuer\ncodes      {}\n\n",
            self.campaign,
            self.state_name(),
            self.coupons,
            self.capacity,
            self.refusals,
            known(self.claims),
            known(self.waiting),
            known(self.lag),
            if self.codes_checked { "computed again" } else { "not checked (COUPON_CODE_SECRET is not set)" },
        );
        for (kind, finding) in &self.findings {
            let (invariant, words, remedy) = kind.words();
            let weight = match self.weight(*kind) {
                Weight::Note => "note",
                Weight::UnderWay => "under way",
                Weight::Unknown => "unknown",
                Weight::Violated => "VIOLATED",
            };
            let _ = writeln!(text, "{weight:9}  {invariant:3} {} {words}", finding.count);
            let examples = examples(finding, show_users);
            if !examples.is_empty() {
                let _ = writeln!(text, "               such as {}", examples.join(", "));
            }
            let _ = writeln!(text, "               {remedy}");
        }
        for why in &self.unknown {
            let _ = writeln!(text, "unknown        {why}");
        }
        let _ = write!(text, "VERDICT: {}", self.verdict().as_str());
        text
    }

    /// One JSON object.
    #[must_use]
    pub fn json(&self, show_users: bool) -> String {
        let findings = self.findings.iter().map(|(kind, finding)| {
            let (invariant, text, remedy) = kind.words();
            FindingJson {
                finding: *kind,
                weight: self.weight(*kind),
                invariant: Some(invariant).filter(|invariant| !invariant.is_empty()),
                text,
                count: finding.count,
                examples: examples(finding, show_users),
                remedy,
            }
        });
        let report = ReportJson {
            campaign: &self.campaign,
            verdict: self.verdict(),
            state: self.state_name(),
            capacity: self.capacity,
            coupons: self.coupons,
            refusals: self.refusals,
            claims: self.claims,
            outbox: self.waiting,
            lag: self.lag,
            codes_checked: self.codes_checked,
            unknown: &self.unknown,
            findings: findings.collect(),
        };
        serde_json::to_string_pretty(&report).unwrap_or_default()
    }
}

fn examples(finding: &Finding, show_users: bool) -> Vec<String> {
    finding.examples.iter().map(|user| if show_users { user.clone() } else { masked(user) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lag: Option<u64>) -> VerifyReport {
        VerifyReport {
            campaign: "c".to_owned(),
            published: Some(true),
            waiting: Some(0),
            lag,
            ..VerifyReport::default()
        }
    }

    #[test]
    fn the_verdict_is_that_of_the_worst_finding() {
        let mut it = report(Some(0));
        assert_eq!(it.verdict(), Verdict::Holds);
        it.found(FindingKind::SlotResolved, "u");
        assert_eq!(it.verdict(), Verdict::Holds);
        it.found(FindingKind::Owed, "u");
        assert_eq!(it.verdict(), Verdict::UnderWay);
        it.found(FindingKind::ToldWithoutRow, "u");
        assert_eq!(it.verdict(), Verdict::Violated);
        it.unknown.push("Kafka is away".to_owned());
        assert_eq!(it.verdict(), Verdict::Unknown, "not violated while a source is away");
        it.counted(FindingKind::BeyondCapacity, 1);
        assert_eq!(it.verdict(), Verdict::Violated, "MySQL alone proves it");
    }

    #[test]
    fn a_claim_that_nobody_will_send_is_judged_by_what_kafka_holds() {
        for (lag, verdict) in [(Some(0), Verdict::Violated), (Some(3), Verdict::UnderWay), (None, Verdict::Unknown)] {
            let mut it = report(lag);
            it.found(FindingKind::Stranded, "u");
            assert_eq!(it.verdict(), verdict, "{lag:?}");
            assert!(it.needs(Repair::Restore) && !it.needs(Repair::Publish));
        }
    }

    #[test]
    fn users_are_masked_unless_they_are_asked_for() {
        let mut it = report(Some(0));
        it.found(FindingKind::Owed, "alice@example.org");
        assert!(!it.human(false).contains("alice") && !it.json(false).contains("alice"));
        assert!(it.human(true).contains("alice@example.org") && it.json(true).contains("alice@example.org"));
    }

    #[test]
    fn statuses_are_those_of_the_help() {
        for (verdict, status) in
            [(Verdict::Holds, 0), (Verdict::Violated, 1), (Verdict::Unknown, 3), (Verdict::UnderWay, 4)]
        {
            assert_eq!(verdict.status(), status);
            assert!(crate::cli::help::VERDICTS.contains(&format!("{status}  {}", verdict.as_str())));
        }
    }
}
