//! `dlq list`, `show` and `replay`. Each returns what to print.

use super::output::{json, masked, progress, table};
use crate::cli::dlq::{DlqFilter, DlqListArgs, DlqReplayOptions};
use crate::kafka::ports::{DeadLetter, DeadLetterReader, DeadLetterReplayer, header};
use crate::labels;
use crate::store::ports::{Session, Store, StoreError};
use crate::store::rows::DeadLetterKey;
use crate::timestamp::{self, Clock};
use dropgate_shared::fault::{Fault, Source};
use indicatif::ProgressBar;
use serde::Serialize;
use std::fmt::Write as _;

/// Why a verb on dead letters failed.
#[derive(Debug, thiserror::Error)]
pub enum DlqError {
    /// Kafka or MySQL failed.
    #[error("{0}")]
    Fault(#[from] Fault),
    #[error("the dead-letter topic has no record {partition}/{offset}; `issuer dlq list` shows what it has")]
    Absent { partition: i32, offset: i64 },
    /// Some were not acknowledged. `fault` is that of the last one.
    #[error("{sent} dead letters were sent again, {unsent} were not ({fault}); the same command sends what remains")]
    Partly { sent: u64, unsent: u64, fault: Fault },
}

impl From<StoreError> for DlqError {
    fn from(error: StoreError) -> Self {
        Self::Fault(error.into())
    }
}

/// A reader with a progress bar.
pub struct WithProgress<R> {
    reader: R,
    bar: ProgressBar,
}

impl<R> WithProgress<R> {
    /// Of at most `total` dead letters.
    #[must_use]
    pub fn new(reader: R, total: u64) -> Self {
        Self { reader, bar: progress(true, "dead letters", total) }
    }
}

impl<R: DeadLetterReader> DeadLetterReader for WithProgress<R> {
    async fn page(&mut self) -> Result<Vec<DeadLetter>, Fault> {
        let page = self.reader.page().await?;
        self.bar.inc(page.len() as u64);
        Ok(page)
    }
}

impl<R> Drop for WithProgress<R> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A reading of those that pass the filter.
struct Reading<'a, S, R> {
    session: S,
    reader: R,
    filter: &'a DlqFilter,
    with_replayed: bool,
    left: u64,
}

impl<'a, S: Session, R: DeadLetterReader> Reading<'a, S, R> {
    async fn begin(
        store: &impl Store<Session = S>,
        reader: R,
        filter: &'a DlqFilter,
        with_replayed: bool,
    ) -> Result<Self, StoreError> {
        let session = store.connect().await?;
        Ok(Self { session, reader, filter, with_replayed, left: filter.limit.unwrap_or(u64::MAX) })
    }

    /// The next dead letters that are wanted, each with whether it was replayed before; `None` at the end.
    async fn page(&mut self) -> Result<Option<Vec<(DeadLetter, bool)>>, DlqError> {
        let page = if self.left > 0 { self.reader.page().await? } else { Vec::new() };
        if page.is_empty() {
            return Ok(None);
        }
        let page: Vec<DeadLetter> = page.into_iter().filter(|letter| passes(letter, self.filter)).collect();
        let keys: Vec<DeadLetterKey> = page.iter().map(DeadLetter::identity).collect();
        let replayed = self.session.replayed(&keys).await?;
        let marked = page.into_iter().map(|letter| {
            let replayed = replayed.contains(&letter.identity());
            (letter, replayed)
        });
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let marked: Vec<_> = marked.filter(|(_, replayed)| self.with_replayed || !replayed).take(left).collect();
        self.left -= marked.len() as u64;
        Ok(Some(marked))
    }
}

/// Whether the filter lets it through, its limit aside.
fn passes(letter: &DeadLetter, filter: &DlqFilter) -> bool {
    filter.campaign.as_ref().is_none_or(|id| letter.claim().0.as_deref() == Some(id.as_str()))
        && filter.cause.as_ref().is_none_or(|cause| letter.header(header::CAUSE) == *cause)
        && filter.since.is_none_or(|since| letter.dead_at >= since)
        && filter.until.is_none_or(|until| letter.dead_at < until)
}

#[derive(Serialize)]
struct Line {
    place: String,
    dead_at: String,
    cause: String,
    campaign: Option<String>,
    user: Option<String>,
    replayed: bool,
    topic: String,
    partition: String,
    offset: String,
    bytes: usize,
}

impl Line {
    fn of(letter: &DeadLetter, replayed: bool, show_users: bool) -> Self {
        let (campaign, user) = letter.claim();
        Self {
            place: format!("{}/{}", letter.partition, letter.offset),
            dead_at: timestamp::format(letter.dead_at),
            cause: letter.header(header::CAUSE),
            campaign: campaign.map(|campaign| campaign.escape_debug().to_string()),
            user: user.map(|user| if show_users { user } else { masked(&user) }),
            replayed,
            topic: letter.topic(),
            partition: letter.header(header::PARTITION),
            offset: letter.header(header::OFFSET),
            bytes: letter.payload.len(),
        }
    }

    fn cells(&self) -> [String; 7] {
        let or_dash =
            |text: &Option<String>| text.as_ref().map_or_else(|| "-".to_owned(), |t| t.escape_debug().to_string());
        [
            self.place.clone(),
            self.dead_at.clone(),
            self.cause.escape_debug().to_string(),
            or_dash(&self.campaign),
            or_dash(&self.user),
            if self.replayed { "yes" } else { "no" }.to_owned(),
            format!("{} {}/{}", self.topic, self.partition, self.offset),
        ]
    }
}

/// Lists dead letters.
pub async fn list(store: &impl Store, reader: impl DeadLetterReader, args: &DlqListArgs) -> Result<String, DlqError> {
    let mut reading = Reading::begin(store, reader, &args.filter, !args.remaining).await?;
    let mut lines = Vec::new();
    while let Some(page) = reading.page().await? {
        lines.extend(page.iter().map(|(letter, replayed)| Line::of(letter, *replayed, args.show_users)));
    }
    if args.json {
        return Ok(json(&lines));
    }
    if lines.is_empty() {
        return Ok("no dead letters".to_owned());
    }
    let mut rows =
        vec![["PLACE", "GIVEN UP AT", "CAUSE", "CAMPAIGN", "USER", "REPLAYED", "CAME FROM"].map(str::to_owned)];
    rows.extend(lines.iter().map(Line::cells));
    let remaining = lines.iter().filter(|line| !line.replayed).count();
    Ok(format!("{}\n\n{} dead letters, {remaining} not replayed", table(&rows), lines.len()))
}

/// Shows one dead letter.
pub async fn show(
    store: &impl Store,
    mut reader: impl DeadLetterReader,
    (partition, offset): (i32, i64),
) -> Result<String, DlqError> {
    let page = reader.page().await?;
    let Some(letter) = page.into_iter().find(|letter| (letter.partition, letter.offset) == (partition, offset)) else {
        return Err(DlqError::Absent { partition, offset });
    };
    let replayed = !store.connect().await?.replayed(&[letter.identity()]).await?.is_empty();
    let mut text = String::new();
    let _ = writeln!(text, "place     {partition}/{offset}");
    let _ = writeln!(text, "given up  {}", timestamp::format(letter.dead_at));
    let _ = writeln!(text, "replayed  {}", if replayed { "yes" } else { "no" });
    for (key, value) in &letter.headers {
        let _ = writeln!(text, "header    {} = {}", key.escape_debug(), escaped(value));
    }
    let _ = writeln!(text, "key       {}", letter.key.as_deref().map_or_else(|| "(none)".to_owned(), escaped));
    let _ = write!(text, "payload   {}", escaped(&letter.payload));
    Ok(text)
}

/// Text as it is but for control characters, and bytes that are no text as `\xNN`: a terminal must not
/// obey a dead letter.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                '"' | '\'' => text.push(character),
                other => text.extend(other.escape_debug()),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// Sends dead letters again, key and payload as they came, and remembers each that is acknowledged.
///
/// # Errors
/// [`DlqError`]; to replay again sends what remains.
pub async fn replay(
    store: &impl Store,
    reader: impl DeadLetterReader,
    replayer: &impl DeadLetterReplayer,
    clock: &Clock,
    filter: &DlqFilter,
    options: &DlqReplayOptions,
) -> Result<String, DlqError> {
    let mut reading = Reading::begin(store, reader, filter, options.again).await?;
    let (mut sent, mut partial) = (0, 0);
    while let Some(page) = reading.page().await? {
        let (whole, parts): (Vec<_>, Vec<_>) =
            page.into_iter().map(|(letter, _)| letter).partition(|l| l.header(header::PAYLOAD_BYTES).is_empty());
        partial += parts.len();
        if options.dry_run {
            sent += whole.len() as u64;
            continue;
        }
        let (mut done, mut failed) = (Vec::with_capacity(whole.len()), None);
        let mut results = replayer.replay(&whole).await.into_iter();
        for letter in &whole {
            match results.next() {
                Some(Ok(())) => done.push(letter.identity()),
                Some(Err(fault)) => failed = Some(fault),
                None => failed = Some(Fault::unknown(Source::Kafka, labels::INCOMPLETE, "results are missing")),
            }
        }
        reading.session.remember_replayed(&done, clock.now()).await?;
        sent += done.len() as u64;
        if let Some(fault) = failed {
            let unsent = (whole.len() - done.len()) as u64;
            return Err(DlqError::Partly { sent, unsent, fault });
        }
    }
    let mut text = String::new();
    if partial > 0 {
        let _ = writeln!(
            text,
            "{partial} dead letters hold only the beginning of a large record, which `issuer dlq show` finds; they stay"
        );
    }
    text.push_str(&match (options.dry_run, sent) {
        (_, 0) => "no matching dead letters remain".to_owned(),
        (true, _) => format!("{sent} dead letters would be sent again"),
        (false, _) => format!("{sent} dead letters were sent again and acknowledged"),
    });
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_obeys_no_dead_letter() {
        assert_eq!(escaped(b"{\"v\":1,\"user\":\"\xe9\xac\xbc\"}"), "{\"v\":1,\"user\":\"\u{9b3c}\"}");
        assert_eq!(escaped(b"\x1b[2J\n\xff\\"), "\\u{1b}[2J\\n\\xff\\\\");
    }
}
