//! `dlq list`, `show` and `replay`.

use super::{masked, progress, table};
use crate::cli::args::{DlqFilter, DlqListArgs, DlqReplayArgs};
use crate::kafka::client::{self, Logged};
use crate::kafka::dead_letter_reader::{Letter, Reader};
use crate::kafka::dead_letters::header;
use crate::kafka::settings::KafkaSettings;
use crate::store::mysql::Database;
use crate::store::mysql::replays::LetterKey;
use crate::timestamp;
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::names::DEAD_LETTER_TOPIC;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde::Serialize;
use std::collections::HashSet;
use std::time::Duration;

/// Why a verb on dead letters failed.
#[derive(Debug, thiserror::Error)]
pub enum DlqError {
    /// Kafka or MySQL failed.
    #[error("{0}")]
    Fault(#[from] Fault),
    /// There is none at this place.
    #[error("{DEAD_LETTER_TOPIC} has no record {partition}/{offset}; `issuer dlq list` shows what it has")]
    NoLetter {
        /// The partition asked for.
        partition: i32,
        /// The offset asked for.
        offset: i64,
    },
    /// Some were not acknowledged.
    #[error("{sent} dead letters were sent again, {unsent} were not ({fault}); the same command sends what remains")]
    Partly {
        /// Acknowledged, and remembered.
        sent: u64,
        /// Not acknowledged.
        unsent: u64,
        /// Why the last of them was not.
        fault: Fault,
    },
}

/// A page of letters that pass the filter, with what is known of their replays.
type Marked = Vec<(Letter, bool)>;

struct Reading<'a> {
    reader: Option<Reader>,
    database: &'a Database,
    filter: &'a DlqFilter,
    with_replayed: bool,
    left: u64,
    bar: indicatif::ProgressBar,
}

impl<'a> Reading<'a> {
    async fn open(
        database: &'a Database,
        kafka: &KafkaSettings,
        filter: &'a DlqFilter,
        with_replayed: bool,
    ) -> Result<Self, Fault> {
        let settings = kafka.clone();
        let reader = blocking(move || Reader::open(&settings, None)).await?;
        let bar = progress("dead letters", reader.total());
        Ok(Self { reader: Some(reader), database, filter, with_replayed, left: filter.limit.unwrap_or(u64::MAX), bar })
    }

    /// The next letters that are wanted; `None` at the end.
    async fn page(&mut self) -> Result<Option<Marked>, Fault> {
        let Some(mut reader) = self.reader.take().filter(|_| self.left > 0) else {
            self.bar.finish_and_clear();
            return Ok(None);
        };
        let (reader, page) = blocking(move || {
            let page = reader.page()?;
            Ok((reader, page))
        })
        .await?;
        if page.is_empty() {
            self.bar.finish_and_clear();
            return Ok(None);
        }
        self.reader = Some(reader);
        self.bar.inc(page.len() as u64);
        let page: Vec<Letter> = page.into_iter().filter(|letter| letter.passes(self.filter)).collect();
        let keys: Vec<LetterKey> = page.iter().map(Letter::identity).collect();
        let replayed: HashSet<LetterKey> = self.database.replayed(&keys).await?;
        let marked = page.into_iter().map(|letter| {
            let replayed = replayed.contains(&letter.identity());
            (letter, replayed)
        });
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        let marked: Marked = marked.filter(|(_, replayed)| self.with_replayed || !replayed).take(left).collect();
        self.left -= marked.len() as u64;
        Ok(Some(marked))
    }
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
    fn of(letter: &Letter, replayed: bool, show_users: bool) -> Self {
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
///
/// # Errors
/// [`DlqError`].
pub async fn list(database: &Database, kafka: &KafkaSettings, args: &DlqListArgs) -> Result<(), DlqError> {
    let mut reading = Reading::open(database, kafka, &args.filter, !args.remaining).await?;
    let mut lines = Vec::new();
    while let Some(page) = reading.page().await? {
        lines.extend(page.iter().map(|(letter, replayed)| Line::of(letter, *replayed, args.show_users)));
    }
    if args.json {
        say!("{}", serde_json::to_string_pretty(&lines).unwrap_or_default());
        return Ok(());
    }
    if lines.is_empty() {
        say!("no dead letters");
        return Ok(());
    }
    let mut rows =
        vec![["PLACE", "GIVEN UP AT", "CAUSE", "CAMPAIGN", "USER", "REPLAYED", "CAME FROM"].map(str::to_owned)];
    rows.extend(lines.iter().map(Line::cells));
    say!(
        "{}\n\n{} dead letters, {} not replayed",
        table(&rows),
        lines.len(),
        lines.iter().filter(|l| !l.replayed).count()
    );
    Ok(())
}

/// Prints one dead letter.
///
/// # Errors
/// [`DlqError`].
pub async fn show(database: &Database, kafka: &KafkaSettings, (partition, offset): (i32, i64)) -> Result<(), DlqError> {
    let settings = kafka.clone();
    let page = blocking(move || Reader::open(&settings, Some((partition, offset)))?.page()).await?;
    let Some(letter) = page.into_iter().find(|letter| letter.offset == offset) else {
        return Err(DlqError::NoLetter { partition, offset });
    };
    let replayed = !database.replayed(&[letter.identity()]).await?.is_empty();
    say!("place     {DEAD_LETTER_TOPIC} {partition}/{offset}");
    say!("given up  {}", timestamp::format(letter.dead_at));
    say!("replayed  {}", if replayed { "yes" } else { "no" });
    for (key, value) in &letter.headers {
        say!("header    {} = {}", key.escape_debug(), escaped(value));
    }
    say!("key       {}", letter.key.as_deref().map_or_else(|| "(none)".to_owned(), escaped));
    say!("payload   {}", escaped(&letter.payload));
    Ok(())
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
pub async fn replay(database: &Database, kafka: &KafkaSettings, args: &DlqReplayArgs) -> Result<(), DlqError> {
    let mut reading = Reading::open(database, kafka, &args.filter, args.again).await?;
    let producer = producer(kafka)?;
    let mut sent = 0;
    let mut partial = 0;
    while let Some(mut page) = reading.page().await? {
        let all = page.len();
        page.retain(|(letter, _)| letter.header(header::PAYLOAD_BYTES).is_empty());
        partial += all - page.len();
        if args.dry_run {
            sent += page.len() as u64;
            continue;
        }
        let deliveries: Vec<_> = page
            .iter()
            .map(|(letter, _)| {
                let topic = letter.topic();
                let replayed = OwnedHeaders::new().insert(Header { key: header::REPLAYED, value: Some("1") });
                let mut record = FutureRecord::<[u8], [u8]>::to(&topic).payload(&letter.payload).headers(replayed);
                record.key = letter.key.as_deref();
                (letter, producer.send_result(record).map_err(|(error, _)| error))
            })
            .collect();
        let (mut done, mut failed) = (Vec::with_capacity(deliveries.len()), None);
        for (letter, delivery) in deliveries {
            let acknowledged = match delivery {
                Ok(waiting) => match waiting.await {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err((error, _))) => Err(error),
                    Err(_) => Err(KafkaError::Canceled),
                },
                Err(error) => Err(error),
            };
            match acknowledged {
                Ok(()) => done.push(letter.identity()),
                Err(error) => failed = Some(client::fault("replay", true, &error)),
            }
        }
        database.remember_replayed(&done).await?;
        sent += done.len() as u64;
        if let Some(fault) = failed {
            let unsent = (page.len() - done.len()) as u64;
            return Err(DlqError::Partly { sent, unsent, fault });
        }
    }
    if partial > 0 {
        say!(
            "{partial} dead letters hold only the beginning of a large record, which `issuer dlq show` finds; they stay"
        );
    }
    match (args.dry_run, sent) {
        (_, 0) => say!("no dead letters remain that fit"),
        (true, _) => say!("{sent} dead letters would be sent again"),
        (false, _) => say!("{sent} dead letters were sent again and acknowledged"),
    }
    Ok(())
}

fn producer(settings: &KafkaSettings) -> Result<FutureProducer<Logged>, Fault> {
    settings
        .client()
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("message.timeout.ms", Duration::from_secs(30).as_millis().to_string())
        .set("linger.ms", "5")
        // The partition that the record came from: that of a Java producer.
        .set("partitioner", "murmur2_random")
        .create_with_context(Logged)
        .map_err(|error| client::fault("settings", false, &error))
}

async fn blocking<T: Send + 'static>(call: impl FnOnce() -> Result<T, Fault> + Send + 'static) -> Result<T, Fault> {
    let cancelled = |_| Fault::unknown(Source::Kafka, "cancelled", "the reading was given up");
    tokio::task::spawn_blocking(call).await.map_err(cancelled)?
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
