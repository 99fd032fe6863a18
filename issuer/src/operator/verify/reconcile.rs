//! `reconcile`: repairs what `verify` finds, and verifies again.

use super::compare::{repair, verify};
use super::findings::{Repair, Verdict};
use super::reissue::reissue;
use super::report::VerifyReport;
use crate::kafka::ports::Backlog;
use crate::operator::campaign::error::CampaignError;
use crate::operator::campaign::publish::add_to_known;
use crate::operator::servers::Servers;
use crate::store::ports::Store;
use dropgate_shared::http::Http;
use dropgate_shared::ids::CampaignId;

/// How often it repairs and looks again: a publish may bring to light what could not be compared before.
const ROUNDS: u32 = 3;

/// What to do with what is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Apply {
    /// Show it.
    Nothing,
    /// Repair it; with `reissue` rows too that MySQL has lost.
    Repair { reissue: bool },
}

/// Verifies, and by `apply` repairs what it finds. `print` receives the plan of each round and what was done.
/// Returns the last report.
///
/// # Errors
/// [`CampaignError`]; what was repaired until then stays so.
pub async fn reconcile<S: Store, H: Http, B: Backlog>(
    servers: &Servers<S, H, B>,
    id: &CampaignId,
    apply: Apply,
    mut print: impl FnMut(String),
) -> Result<VerifyReport, CampaignError> {
    let mut report = verify(servers, id).await?;
    for _ in 0..ROUNDS {
        print(report.plan());
        let Apply::Repair { reissue: with_rows } = apply else { break };
        if !report.needs_repair(with_rows) {
            break;
        }
        if with_rows && report.needs(Repair::Reissue) {
            print(format!("{} rows written again", reissue(servers, id).await?));
        }
        print(format!("{}\n", repair(servers, id, &report).await?));
        report = verify(servers, id).await?;
    }
    if apply != Apply::Nothing && report.verdict() != Verdict::Unknown {
        // Redis may have lost this alone: then the cron does not visit the campaign.
        add_to_known(servers, id).await?;
    }
    Ok(report)
}
