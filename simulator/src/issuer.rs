//! An issuer's process: the real loop, store rules and confirmation on the models.

use crate::backlog::GroupLag;
use crate::clock::Clock;
use crate::kafka::dead_letters::SimDeadLetters;
use crate::kafka::{Kafka, MemberHandle, MemberSettings, SimRecordSource};
use crate::mutant::Mutant;
use crate::mysql::ModelStore;
use crate::network::Port;
use crate::random::Random;
use crate::record::{GROUP, Record, START_MS};
use crate::tasks::Tasks;
use dropgate_issuer::backoff::Jitter;
use dropgate_issuer::consume::service::{Limits, Service, Step};
use dropgate_issuer::consume::traces::Traces;
use dropgate_issuer::health::Health;
use dropgate_issuer::metrics::Metrics;
use dropgate_issuer::redis::confirm;
use dropgate_issuer::store::coupon_writer::CouponWriter;
use dropgate_issuer::timestamp;
use dropgate_issuer::waitlist::{IN_FLIGHT, Waitlist};
use dropgate_shared::code::CodeSecrets;
use dropgate_shared::names::{DEAD_LETTER_TOPIC, TOPIC};
use dropgate_shared::redis_rest::RedisRest;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// What a process has around it.
pub struct Surroundings {
    pub kafka: Kafka,
    pub mysql: ModelStore,
    pub redis: RedisRest<Port>,
    pub clock: Clock,
    pub random: Random,
    pub secrets: CodeSecrets,
    pub batch_records: usize,
    pub write_budget: String,
    pub record: Rc<RefCell<Record>>,
    pub world_clock: Clock,
    pub mutant: Option<Mutant>,
}

/// The process.
pub struct IssuerProcess {
    tasks: Tasks,
    member: MemberHandle,
    stop: watch::Sender<bool>,
    ended: Rc<Cell<bool>>,
    /// Whoever took it down starts it again.
    held_down: Cell<bool>,
}

impl IssuerProcess {
    /// `issuer run`.
    #[must_use]
    pub fn start(around: Surroundings) -> Self {
        let tasks = Tasks::default();
        let (stop, stopped) = watch::channel(false);
        let ended = Rc::new(Cell::new(false));
        let Surroundings { kafka, mysql, redis, clock, random, secrets, record, world_clock, .. } = around;
        let partitions = usize::try_from(kafka.partitions(TOPIC).unwrap_or(0)).unwrap_or(0);
        let mut settings = MemberSettings::new(GROUP);
        if let Some(mutant) = around.mutant {
            mutant.member(&mut settings);
        }
        let source = SimRecordSource::join(&kafka, TOPIC, partitions, settings);
        let member = source.handle();
        let metrics = Arc::new(Metrics::default());
        let health = Arc::new(Health::new(Arc::clone(&metrics)));
        let (queue, confirming) = confirm::queue(redis.clone(), Arc::clone(&metrics));
        tasks.spawn(confirming);
        let random = Mutex::new(random);
        let jitter = Jitter::new(move || random.lock().unwrap_or_else(PoisonError::into_inner).next_u64());
        let clock = timestamp::Clock::new(move || clock.now_ms());
        let writer = CouponWriter::new(mysql, secrets, around.batch_records, clock, jitter.clone());
        let takes_early = around.mutant == Some(Mutant::FreeSlotTakenEarly);
        let backlog = GroupLag { kafka: kafka.clone(), is_blind: takes_early };
        let in_flight = if takes_early { Duration::ZERO } else { IN_FLIGHT };
        let waitlist = Waitlist::new(writer.clone(), redis, backlog, in_flight, Arc::clone(&metrics));
        tasks.spawn(waitlist.run());
        let limits = Limits {
            batch_records: around.batch_records,
            linger: Duration::from_millis(20),
            budget: around.write_budget.parse().unwrap_or_else(|_| unreachable!("a budget of the plan")),
            dead_letter_limit: 100,
        };
        let dead_letters = SimDeadLetters::new(&kafka, TOPIC, DEAD_LETTER_TOPIC);
        let mut service = Service::new(
            (source, writer, dead_letters, queue),
            limits,
            (health, metrics, Traces::default()),
            jitter,
            stopped,
        );
        let is_ended = Rc::clone(&ended);
        tasks.spawn(async move {
            let outcome = loop {
                match service.step().await {
                    Ok(Step::Again) => {}
                    Ok(Step::Stopped) => break None,
                    Err(error) => break Some(error.to_string()),
                }
            };
            let (source, ..) = service.into_ports();
            source.leave().await;
            let text = outcome.map_or_else(|| "stopped".to_owned(), |error| format!("ended: {error}"));
            record.borrow_mut().line(world_clock.now_ms() - START_MS, &format!("issue {text}"));
            is_ended.set(true);
        });
        Self { tasks, member, stop, ended, held_down: Cell::new(false) }
    }

    /// SIGKILL.
    pub fn kill(&self) {
        self.member.kill();
        self.tasks.kill();
        self.ended.set(true);
    }

    /// SIGTERM.
    pub fn stop(&self) {
        let _ = self.stop.send(true);
    }

    /// SIGSTOP.
    pub fn freeze(&self) {
        self.member.freeze();
        self.tasks.freeze();
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.member.thaw();
        self.tasks.thaw();
    }

    /// No supervisor starts it again.
    pub fn hold_down(&self) {
        self.held_down.set(true);
    }

    #[must_use]
    pub fn is_held_down(&self) -> bool {
        self.held_down.get()
    }

    /// Whether the process has ended: a supervisor starts another one.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended.get()
    }
}
