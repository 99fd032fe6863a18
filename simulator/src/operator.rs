//! The operator: the real verbs on the models, over a good network.

use crate::backlog::GroupLag;
use crate::kafka::{Kafka, dead_letters};
use crate::mysql::ModelStore;
use crate::network::Port;
use crate::record::START_MS;
use crate::world::World;
use dropgate_issuer::cli::dlq::{DlqFilter, DlqReplayOptions};
use dropgate_issuer::kafka::ports::{DeadLetter, DeadLetterReader, DeadLetterReplayer, header};
use dropgate_issuer::operator::campaign::create::create;
use dropgate_issuer::operator::campaign::publish::publish;
use dropgate_issuer::operator::campaign::state::{Transition, raise, set};
use dropgate_issuer::operator::dlq;
use dropgate_issuer::operator::servers::Servers;
use dropgate_issuer::operator::verify::compare::verify;
use dropgate_issuer::operator::verify::findings::Verdict;
use dropgate_issuer::operator::verify::reconcile::{Apply, reconcile};
use dropgate_issuer::timestamp;
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::ids::CampaignId;
use dropgate_shared::names::DEAD_LETTER_TOPIC;

/// A reading of the dead-letter topic.
struct Reader(Vec<DeadLetter>);

impl DeadLetterReader for Reader {
    async fn page(&mut self) -> Result<Vec<DeadLetter>, Fault> {
        Ok(std::mem::take(&mut self.0))
    }
}

struct Replayer(Kafka);

impl DeadLetterReplayer for Replayer {
    async fn replay(&self, letters: &[DeadLetter]) -> Vec<Result<(), Fault>> {
        let mut results = Vec::with_capacity(letters.len());
        for letter in letters {
            let stored = self
                .0
                .records(DEAD_LETTER_TOPIC)
                .into_iter()
                .find(|(partition, record)| (*partition, record.offset) == (letter.partition, letter.offset));
            let sent = match stored {
                Some((_, record)) => dead_letters::replay(&self.0, &record).await.map(drop).map_err(|error| error.0),
                None => Err("gone"),
            };
            results.push(sent.map_err(|detail| Fault::unknown(Source::Kafka, "replay", detail)));
        }
        results
    }
}

type All = Servers<ModelStore, Port, GroupLag>;

/// What an operator can do to a campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Publish,
    Pause,
    Resume,
    Close,
    RaiseTo(u32),
    Reconcile,
    Reissue,
}

impl World {
    fn servers(&self) -> All {
        let clock = self.clock;
        Servers {
            store: self.mysql.store(2),
            redis: self.redis_client("operator"),
            kafka: Some(GroupLag { kafka: self.kafka.clone(), is_blind: false }),
            secrets: Some(self.issuer_secrets()),
            clock: timestamp::Clock::new(move || clock.now_ms()),
            progress: false,
        }
    }

    fn id(&self, campaign: usize) -> Option<&CampaignId> {
        self.campaigns.get(campaign)
    }

    /// Creates and publishes a campaign. Times in ms of the run.
    ///
    /// # Errors
    /// What the verb prints.
    pub async fn create(&self, campaign: usize) -> Result<(), String> {
        let (Some(id), Some(setup)) = (self.id(campaign), self.plan.setup.campaigns.get(campaign)) else {
            return Err("no such campaign in the plan".to_owned());
        };
        let servers = self.servers();
        let at = |ms: u64| timestamp::from_ms(START_MS + ms);
        let opens_at = at(setup.opens_at_ms);
        let closes_at = setup.closes_at_ms.and_then(at);
        create(&servers.store, servers.clock.now(), id, setup.capacity, opens_at, closes_at)
            .await
            .map_err(|error| error.to_string())?;
        publish(&servers, id).await.map(drop).map_err(|error| error.to_string())
    }

    /// Carries out a verb.
    ///
    /// # Errors
    /// What the verb prints.
    pub async fn act(&self, campaign: usize, act: Act) -> Result<(), String> {
        let Some(id) = self.id(campaign) else { return Ok(()) };
        let servers = self.servers();
        let done = match act {
            Act::Publish => publish(&servers, id).await,
            Act::Pause => set(&servers, id, Transition::Pause).await,
            Act::Resume => set(&servers, id, Transition::Resume { reopen: false }).await,
            Act::Close => set(&servers, id, Transition::Close).await,
            Act::RaiseTo(capacity) => raise(&servers, id, capacity).await,
            Act::Reconcile | Act::Reissue => {
                let how = Apply::Repair { reissue: act == Act::Reissue };
                reconcile(&servers, id, how, |_| {}).await.map(|_| String::new())
            }
        };
        let text = match &done {
            Ok(_) => format!("oper  c{campaign} {act:?} done"),
            Err(error) => format!("oper  c{campaign} {act:?} failed: {error}"),
        };
        self.line(&text);
        done.map(drop).map_err(|error| error.to_string())
    }

    /// `dlq replay` of everything that was not replayed.
    pub async fn replay_dead_letters(&self) {
        let letters = self.kafka.records(DEAD_LETTER_TOPIC).into_iter().filter_map(|(partition, record)| {
            let dead_at = record.header(header::TIME_MS).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
            Some(DeadLetter {
                partition,
                offset: record.offset,
                dead_at: timestamp::from_ms(dead_at?)?,
                headers: record.headers,
                key: record.key,
                payload: record.value,
            })
        });
        let servers = self.servers();
        let filter = DlqFilter { campaign: None, cause: None, since: None, until: None, limit: None };
        let options = DlqReplayOptions { dry_run: false, again: false };
        let replayer = Replayer(self.kafka.clone());
        let reader = Reader(letters.collect());
        let done = dlq::replay(&servers.store, reader, &replayer, &servers.clock, &filter, &options).await;
        self.line(&format!("oper  dlq replay: {done:?}"));
    }

    /// The verdict of `verify`, with its report.
    ///
    /// # Errors
    /// What the verb prints.
    pub async fn verify(&self, campaign: usize) -> Result<(Verdict, String), String> {
        let Some(id) = self.id(campaign) else { return Err("no such campaign".to_owned()) };
        let report = verify(&self.servers(), id).await.map_err(|error| error.to_string())?;
        Ok((report.verdict(), report.shown(true).json()))
    }
}
