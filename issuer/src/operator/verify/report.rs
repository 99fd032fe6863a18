//! What `verify` found, and the verdict on it. No I/O.

use super::findings::{FindingKind, Repair, Verdict, Weight};
use crate::kafka::ports::CampaignLag;
use crate::labels;
use crate::operator::output::{json, masked};
use dropgate_shared::campaign::CampaignState;
use dropgate_shared::code::CodeKeyId;
use dropgate_shared::fault::Fault;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

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
    pub campaign: String,
    pub state: Option<CampaignState>,
    /// The newest allotment.
    pub capacity: u32,
    pub coupons: u64,
    pub refusals: u64,
    /// Claims in Redis, where it answered.
    pub claims: Option<u64>,
    /// Outbox entries, where Redis answered.
    pub waiting: Option<u64>,
    /// Records that wait for the issuer, where Kafka answered.
    pub lag: Option<CampaignLag>,
    /// How long ago the oldest one of the campaign was admitted.
    pub oldest_seconds: Option<u64>,
    /// Whether codes were computed again.
    pub codes_checked: bool,
    /// The secret of the codes, as Redis names it.
    pub code_key: Option<CodeKeyId>,
    /// Whether Redis has the campaign; `None` where it did not answer.
    pub published: Option<bool>,
    /// Why something is unknown.
    pub unknown: Vec<String>,
    /// Whether a server refused the credentials.
    pub is_denied: bool,
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
    refused_after_admission: u64,
    claims: Option<u64>,
    outbox: Option<u64>,
    lag: Option<u64>,
    campaign_lag: Option<u64>,
    oldest_record_seconds: Option<u64>,
    codes_checked: bool,
    code_key: Option<CodeKeyId>,
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
    #[must_use]
    pub fn new(campaign: String, codes_checked: bool) -> Self {
        Self { campaign, codes_checked, ..Self::default() }
    }

    /// Notes that a server gave no answer, or none that counts.
    pub fn unanswered(&mut self, fault: &Fault) {
        self.is_denied |= labels::is_refusal_of_credentials(fault.label);
        self.unknown.push(fault.to_string());
    }

    /// The exit status.
    #[must_use]
    pub fn status(&self) -> u8 {
        match self.verdict() {
            Verdict::Unknown if self.is_denied => 2,
            verdict => verdict.status(),
        }
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
            | FindingKind::NoCodeKey
            | FindingKind::Unconfirmed
            | FindingKind::Owed
            | FindingKind::Waiting
            | FindingKind::DeadLettered => Weight::UnderWay,
            // A record that waits in Kafka may be the missing one; and while rows are written, their confirmation
            // is on its way to a Redis that may have been rebuilt.
            FindingKind::CountOff | FindingKind::Uncounted if self.waiting.is_some_and(|waiting| waiting > 0) => {
                Weight::UnderWay
            }
            FindingKind::Stranded | FindingKind::RowWithoutClaim | FindingKind::CountOff | FindingKind::Uncounted => {
                match self.lag {
                    // What waits of other campaigns is none of these.
                    Some(CampaignLag { all: 0, .. } | CampaignLag { own: Some(0), .. }) => Weight::Violated,
                    Some(_) => Weight::UnderWay,
                    None => Weight::Unknown,
                }
            }
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
            Weight::Note if self.refused_after_admission() > 0 => Verdict::CapacityKept,
            Weight::Note => Verdict::Holds,
        }
    }

    /// Users who were admitted and have a refusal, and no coupon.
    #[must_use]
    pub fn refused_after_admission(&self) -> u64 {
        self.refusals.saturating_sub(self.count(FindingKind::CouponAndRefusal))
    }

    /// Whether `repair` is called for.
    #[must_use]
    pub fn needs(&self, repair: Repair) -> bool {
        (repair == Repair::Publish && self.published == Some(false))
            || self.findings.keys().any(|kind| kind.repair() == Some(repair))
    }

    /// Whether there is anything that `reconcile` can repair, with `--reissue` or without.
    #[must_use]
    pub fn needs_repair(&self, reissue: bool) -> bool {
        let always = [Repair::Publish, Repair::Confirm, Repair::Restore];
        always.into_iter().any(|repair| self.needs(repair)) || (reissue && self.needs(Repair::Reissue))
    }

    /// What `reconcile` would do.
    #[must_use]
    pub fn plan(&self) -> String {
        let mut plan = Vec::new();
        if self.needs(Repair::Reissue) {
            let count = self.count(FindingKind::SettledWithoutRow);
            plan.push(format!("with --reissue: write {count} rows again that MySQL has lost, from what Redis has"));
        }
        if self.needs(Repair::Publish) {
            plan.push("publish the campaign: Redis gets its settings and every holder from MySQL".to_owned());
        }
        if self.needs(Repair::Confirm) {
            let count = self.count(FindingKind::Unconfirmed) + self.count(FindingKind::EntryDiffers);
            plan.push(format!("confirm {count} claims to Redis as MySQL has them, and end their outbox entries"));
        }
        if self.needs(Repair::Restore) {
            let count = self.count(FindingKind::Stranded);
            plan.push(format!("restore {count} outbox entries, for the sweeper to send again"));
        }
        match plan.is_empty() {
            true => "plan: nothing to repair".to_owned(),
            false => format!("plan:\n  {}", plan.join("\n  ")),
        }
    }

    fn state_name(&self) -> &'static str {
        self.state.map_or("", CampaignState::as_str)
    }

    /// The report as it is printed, with whole or masked user ids.
    #[must_use]
    pub fn shown(&self, show_users: bool) -> ShownReport<'_> {
        ShownReport { report: self, show_users }
    }
}

/// A report as it is printed: `Display` for a terminal, or JSON.
pub struct ShownReport<'a> {
    report: &'a VerifyReport,
    show_users: bool,
}

impl fmt::Display for ShownReport<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let VerifyReport { campaign, capacity, coupons, refusals, .. } = self.report;
        let known = |count: Option<u64>| count.map_or_else(|| "unknown".to_owned(), |count| count.to_string());
        writeln!(f, "campaign   {campaign} ({})", self.report.state_name())?;
        writeln!(f, "MySQL      {coupons} coupons of {capacity}, {refusals} refusals")?;
        let (claims, waiting) = (known(self.report.claims), known(self.report.waiting));
        writeln!(f, "Redis      {claims} claims, {waiting} in the outbox")?;
        writeln!(f, "Kafka      {}", self.lag())?;
        let codes = match self.report.codes_checked {
            true => "computed again",
            false => "not checked (that needs the COUPON_CODE_SECRET of the campaign)",
        };
        writeln!(f, "codes      {codes}\n")?;
        for (kind, finding) in &self.report.findings {
            let (invariant, words, remedy) = kind.words();
            let weight = match self.report.weight(*kind) {
                Weight::Note => "note",
                Weight::UnderWay => "under way",
                Weight::Unknown => "unknown",
                Weight::Violated => "VIOLATED",
            };
            writeln!(f, "{weight:9}  {invariant:3} {} {words}", finding.count)?;
            let examples = self.examples(finding);
            if !examples.is_empty() {
                writeln!(f, "               such as {}", examples.join(", "))?;
            }
            writeln!(f, "               {remedy}")?;
        }
        for reason in &self.report.unknown {
            writeln!(f, "unknown        {reason}")?;
        }
        write!(f, "VERDICT: {}", self.report.verdict().as_str())?;
        match self.report.refused_after_admission() {
            0 => Ok(()),
            refused => write!(f, ", {refused} refused after admission"),
        }
    }
}

impl ShownReport<'_> {
    /// One JSON object.
    #[must_use]
    pub fn json(&self) -> String {
        let report = self.report;
        let findings = report.findings.iter().map(|(kind, finding)| {
            let (invariant, text, remedy) = kind.words();
            FindingJson {
                finding: *kind,
                weight: report.weight(*kind),
                invariant: Some(invariant).filter(|invariant| !invariant.is_empty()),
                text,
                count: finding.count,
                examples: self.examples(finding),
                remedy,
            }
        });
        json(&ReportJson {
            campaign: &report.campaign,
            verdict: report.verdict(),
            state: report.state_name(),
            capacity: report.capacity,
            coupons: report.coupons,
            refusals: report.refusals,
            refused_after_admission: report.refused_after_admission(),
            claims: report.claims,
            outbox: report.waiting,
            lag: report.lag.map(|lag| lag.all),
            campaign_lag: report.lag.and_then(|lag| lag.own),
            oldest_record_seconds: report.oldest_seconds,
            codes_checked: report.codes_checked,
            code_key: report.code_key,
            unknown: &report.unknown,
            findings: findings.collect(),
        })
    }

    fn lag(&self) -> String {
        let Some(CampaignLag { all, own, .. }) = self.report.lag else {
            return "it is unknown how many records wait for the issuer".to_owned();
        };
        let own = match (own, self.report.oldest_seconds) {
            (None, _) => "too many to count those of this campaign".to_owned(),
            (Some(own), None) => format!("{own} of them of this campaign"),
            (Some(own), Some(seconds)) => {
                format!("{own} of them of this campaign, the oldest admitted {seconds} s ago")
            }
        };
        format!("{all} records wait for the issuer, {own}")
    }

    fn examples(&self, finding: &Finding) -> Vec<String> {
        finding.examples.iter().map(|user| if self.show_users { user.clone() } else { masked(user) }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(lag: Option<u64>) -> VerifyReport {
        VerifyReport {
            campaign: "c".to_owned(),
            published: Some(true),
            waiting: Some(0),
            lag: lag.map(|own| CampaignLag { all: 500 + own, own: Some(own), oldest_ms: None }),
            ..VerifyReport::default()
        }
    }

    #[test]
    fn the_verdict_is_that_of_the_worst_finding() {
        let mut it = report(Some(0));
        assert_eq!(it.verdict(), Verdict::Holds);
        it.found(FindingKind::SlotResolved, "u");
        assert_eq!(it.verdict(), Verdict::Holds);
        it.refusals = 3;
        assert_eq!(it.verdict(), Verdict::CapacityKept);
        assert!(it.shown(false).to_string().ends_with("VERDICT: capacity kept, 3 refused after admission"));
        it.found(FindingKind::Owed, "u");
        assert_eq!(it.verdict(), Verdict::UnderWay);
        it.found(FindingKind::SettledWithoutRow, "u");
        assert_eq!(it.verdict(), Verdict::Violated);
        it.unknown.push("Kafka is away".to_owned());
        assert_eq!(it.verdict(), Verdict::Unknown, "not violated while a source is away");
        it.counted(FindingKind::BeyondCapacity, 1);
        assert_eq!(it.verdict(), Verdict::Violated, "MySQL alone proves it");
    }

    #[test]
    fn refused_credentials_have_a_status_of_their_own() {
        let mut it = report(Some(0));
        it.unanswered(&Fault::none(dropgate_shared::fault::Source::Redis, "unauthorized", false, "x"));
        assert_eq!((it.verdict(), it.status()), (Verdict::Unknown, 2));
        it.counted(FindingKind::UserTwice, 1);
        assert_eq!(it.status(), 1, "a broken promise counts first");
        let mut it = report(Some(0));
        it.unanswered(&Fault::unknown(dropgate_shared::fault::Source::Redis, "timeout", "x"));
        assert_eq!(it.status(), 3);
    }

    #[test]
    fn a_claim_that_will_not_be_sent_is_judged_by_what_kafka_holds() {
        for (lag, verdict) in [(Some(0), Verdict::Violated), (Some(3), Verdict::UnderWay), (None, Verdict::Unknown)] {
            let mut it = report(lag);
            it.found(FindingKind::Stranded, "u");
            assert_eq!(it.verdict(), verdict, "{lag:?}");
            assert!(it.needs(Repair::Restore) && !it.needs(Repair::Publish));
        }
    }

    #[test]
    fn what_waits_of_other_campaigns_excuses_nothing() {
        let mut it = report(Some(0));
        it.found(FindingKind::Stranded, "u");
        assert_eq!(it.verdict(), Verdict::Violated, "500 records of others wait");
        assert!(it.shown(false).to_string().contains("500 records wait for the issuer, 0 of them of this campaign"));
        it.lag = Some(CampaignLag { all: 9, own: Some(2), oldest_ms: None });
        it.oldest_seconds = Some(70);
        assert_eq!(it.verdict(), Verdict::UnderWay);
        assert!(it.shown(false).to_string().contains("2 of them of this campaign, the oldest admitted 70 s ago"));
        let json = it.shown(false).json();
        assert!(json.contains("\"campaign_lag\":2") || json.contains("\"campaign_lag\": 2"), "{json}");
        it.lag = Some(CampaignLag { all: 9, own: None, oldest_ms: None });
        assert_eq!(it.verdict(), Verdict::UnderWay, "it may be among them");
    }

    #[test]
    fn a_wrong_count_breaks_a_promise_once_all_is_quiet() {
        for kind in [FindingKind::CountOff, FindingKind::Uncounted] {
            let mut it = report(Some(0));
            it.counted(kind, 1);
            assert_eq!(it.verdict(), Verdict::Violated);
            it.waiting = Some(1);
            assert_eq!(it.verdict(), Verdict::UnderWay, "a refusal may not be confirmed yet");
            assert!(it.needs(Repair::Publish));
        }
    }

    #[test]
    fn users_are_masked_unless_they_are_asked_for() {
        let mut it = report(Some(0));
        it.found(FindingKind::Owed, "alice@example.org");
        let masked = it.shown(false);
        assert!(!masked.to_string().contains("alice") && !masked.json().contains("alice"));
        let whole = it.shown(true);
        assert!(whole.to_string().contains("alice@example.org") && whole.json().contains("alice@example.org"));
    }

    #[test]
    fn statuses_are_those_of_the_help() {
        let statuses = [
            (Verdict::Holds, 0),
            (Verdict::Violated, 1),
            (Verdict::Unknown, 3),
            (Verdict::UnderWay, 4),
            (Verdict::CapacityKept, 5),
        ];
        for (verdict, status) in statuses {
            assert_eq!(verdict.status(), status);
            assert!(crate::cli::help::VERDICTS.contains(&format!("{status}  {}", verdict.as_str())));
        }
    }
}
