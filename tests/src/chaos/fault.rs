//! The faults, and how long each lasts.

use dropgate_simulator::random::Random;
use std::fmt;
use std::ops::RangeInclusive;

/// A connection with a proxy in its middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    GateToRedis,
    IssuerToRedis,
    /// From the Redis REST proxy to Redis.
    RestToRedis,
    GateToKafka,
    /// From the Kafka REST proxy to Kafka.
    RestToKafka,
    IssuerToKafka,
    IssuerToMySql,
}

impl Link {
    pub const ALL: [Self; 7] = [
        Self::GateToRedis,
        Self::IssuerToRedis,
        Self::RestToRedis,
        Self::GateToKafka,
        Self::RestToKafka,
        Self::IssuerToKafka,
        Self::IssuerToMySql,
    ];

    fn is_http(self) -> bool {
        matches!(self, Self::GateToRedis | Self::IssuerToRedis | Self::GateToKafka)
    }
}

/// What a proxy does to its connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkFault {
    Slow,
    RequestsLost,
    ResponsesLost,
    Silent,
    Refused,
    /// Only HTTP: the other protocols would not be understood at all.
    Garbage,
}

impl LinkFault {
    const ALL: [Self; 6] =
        [Self::Slow, Self::RequestsLost, Self::ResponsesLost, Self::Silent, Self::Refused, Self::Garbage];
}

/// A kind of process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    Issuer,
    Gate,
    Redis,
    RedisRest,
    Kafka,
    KafkaRest,
    MySql,
}

impl Party {
    const ALL: [Self; 7] =
        [Self::Issuer, Self::Gate, Self::Redis, Self::RedisRest, Self::Kafka, Self::KafkaRest, Self::MySql];
}

/// What an operator does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    Publish,
    /// And `resume` a while later.
    Pause,
    Raise,
    Reconcile,
    Verify,
    Close,
}

impl Verb {
    const ALL: [Self; 6] = [Self::Publish, Self::Pause, Self::Raise, Self::Reconcile, Self::Verify, Self::Close];
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Link(Link, LinkFault),
    /// SIGKILL; started again a while later.
    Killed(Party),
    /// SIGSTOP, and SIGCONT a while later.
    Frozen(Party),
    /// Longer than a session of the consumer group.
    IssuerFrozenBeyondItsSession,
    /// SIGTERM: its partitions move to the others, and back.
    IssuerLeaves,
    /// Partitions move to it, and back.
    IssuerJoins,
    /// Both stand still for longer than a session, and the database answers first or last.
    KafkaAndMySqlFrozen,
    TopicRecreated,
    MySqlReadOnly,
    /// A foreign transaction holds the row of a campaign.
    MySqlForeignLock,
    MySqlConnectionsKilled,
    RedisScriptsFlushed,
    RedisOutOfMemory,
    /// A user cancels a request.
    HangUp,
    Operator(Verb),
    /// SIGKILL in the middle of a verb.
    OperatorKilled(Verb),
    RedisRestored,
    RedisFlushed,
    MySqlRowsLost,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Link(link, fault) => format!("{link:?}: {fault:?}"),
            Self::Killed(party) => format!("{party:?}: killed"),
            Self::Frozen(party) => format!("{party:?}: frozen"),
            Self::Operator(verb) => format!("operator: {verb:?}"),
            Self::OperatorKilled(verb) => format!("operator killed in {verb:?}"),
            other => format!("{other:?}"),
        };
        f.pad(&text)
    }
}

impl Fault {
    /// Every fault of a run.
    #[must_use]
    pub fn all(with_data_loss: bool) -> Vec<Self> {
        let mut all = vec![
            Self::IssuerFrozenBeyondItsSession,
            Self::IssuerLeaves,
            Self::IssuerJoins,
            Self::KafkaAndMySqlFrozen,
            Self::MySqlReadOnly,
            Self::MySqlForeignLock,
            Self::MySqlConnectionsKilled,
            Self::RedisScriptsFlushed,
            Self::RedisOutOfMemory,
        ];
        for link in Link::ALL {
            let faults = LinkFault::ALL.into_iter().filter(|fault| *fault != LinkFault::Garbage || link.is_http());
            all.extend(faults.map(|fault| Self::Link(link, fault)));
        }
        all.extend(Party::ALL.into_iter().flat_map(|party| [Self::Killed(party), Self::Frozen(party)]));
        all.extend(Verb::ALL.map(Self::Operator));
        all.extend([Verb::Publish, Verb::Raise, Verb::Reconcile].map(Self::OperatorKilled));
        if with_data_loss {
            all.extend(Self::DATA_LOSS);
        }
        all
    }

    /// Those of them whose name contains one of `only`, if there are any.
    #[must_use]
    pub fn chosen(with_data_loss: bool, only: &[String]) -> Vec<Self> {
        let mut chosen = Self::all(with_data_loss);
        chosen.retain(|fault| only.is_empty() || only.iter().any(|name| fault.to_string().contains(name)));
        chosen
    }

    /// Faults that lose what a server has acknowledged.
    pub const DATA_LOSS: [Self; 4] =
        [Self::RedisRestored, Self::RedisFlushed, Self::MySqlRowsLost, Self::TopicRecreated];

    /// How long it lasts, ms.
    #[must_use]
    pub fn lasts_ms(self, random: &mut Random) -> u64 {
        let range: RangeInclusive<u64> = match self {
            Self::Killed(Party::Kafka | Party::MySql) => 0..=3_000,
            Self::Killed(_) => 0..=6_000,
            // The session timeout of the group is 15 s.
            Self::IssuerFrozenBeyondItsSession | Self::KafkaAndMySqlFrozen => 16_000..=22_000,
            Self::IssuerJoins => 5_000..=15_000,
            Self::MySqlForeignLock => 2_000..=12_000,
            Self::RedisOutOfMemory => 1_000..=4_000,
            Self::Operator(Verb::Pause) => 500..=4_000,
            Self::OperatorKilled(_) => 5..=120,
            _ => 500..=8_000,
        };
        random.range(range)
    }
}

/// Every fault comes once in a random order, before any comes again.
#[derive(Debug)]
pub struct Deck {
    all: Vec<Fault>,
    left: Vec<Fault>,
    random: Random,
}

impl Deck {
    #[must_use]
    pub fn new(all: Vec<Fault>, random: Random) -> Self {
        assert!(!all.is_empty(), "no fault has such a name");
        Self { all, left: Vec::new(), random }
    }

    pub fn draw(&mut self) -> Fault {
        if self.left.is_empty() {
            self.left.clone_from(&self.all);
            self.random.shuffle(&mut self.left);
        }
        self.left.pop().expect("there are faults")
    }
}
