//! The script on the model.

use crate::app::{self, Command, Report};
use crate::script::{self, Log, MAX_POLL, Member, SESSION, World};
use dropgate_simulator::kafka::{
    Availability, BrokerSettings, Kafka, MemberHandle, MemberSettings, NewRecord, SimRecordSource,
};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, LocalSet};

pub fn run() -> Vec<Log> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let settings = BrokerSettings { initial_rebalance_delay: Duration::ZERO, ..BrokerSettings::default() };
        script::run(&Model(Kafka::start(settings))).await
    })
}

struct Model(Kafka);

impl World for Model {
    type Member = ModelMember;

    async fn create_topic(&self, topic: &'static str, partitions: i32) {
        assert!(self.0.create_topic(topic, partitions));
    }

    async fn delete_topic(&self, topic: &'static str) {
        assert!(self.0.delete_topic(topic));
    }

    async fn produce(&self, topic: &'static str, partition: i32, count: usize) {
        for _ in 0..count {
            self.0.produce(topic, NewRecord { partition: Some(partition), ..NewRecord::default() }).unwrap();
        }
    }

    async fn join(&self, topic: &'static str, instance_id: Option<&str>) -> ModelMember {
        let settings = MemberSettings {
            instance_id: instance_id.map(str::to_owned),
            session_timeout: SESSION,
            max_poll_interval: MAX_POLL,
            ..MemberSettings::new(topic)
        };
        let source = SimRecordSource::join(&self.0, topic, 1, settings);
        let (handle, (calls, commands)) = (source.handle(), mpsc::unbounded_channel());
        let task = tokio::task::spawn_local(async move {
            if let Some((source, reply)) = app::run(source, commands).await {
                source.leave().await;
                let _ = reply.send(Report::default());
            }
        });
        ModelMember { handle, calls, task: task.abort_handle() }
    }

    async fn committed(&self, topic: &'static str) -> BTreeMap<i32, i64> {
        self.0.committed(topic, topic)
    }

    async fn lag(&self, topic: &'static str) -> u64 {
        self.0.lag(topic, topic).unwrap()
    }

    async fn group(&self, topic: &'static str) -> (usize, bool) {
        (self.0.members(topic), self.0.is_settled(topic))
    }

    async fn frozen<T>(&self, work: impl Future<Output = T>) -> T {
        self.0.set_availability(Availability::Hangs);
        let done = work.await;
        self.0.set_availability(Availability::Up);
        done
    }

    async fn crashed<T>(&self, work: impl Future<Output = T>) -> T {
        self.0.set_availability(Availability::Down);
        let done = work.await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        self.0.set_availability(Availability::Up);
        done
    }
}

struct ModelMember {
    handle: MemberHandle,
    calls: mpsc::UnboundedSender<app::Call>,
    task: AbortHandle,
}

impl Member for ModelMember {
    async fn call(&self, command: Command) -> Report {
        let (reply, answer) = oneshot::channel();
        self.calls.send((command, reply)).unwrap();
        answer.await.unwrap()
    }

    async fn kill(self) {
        self.handle.kill();
        self.task.abort();
    }

    async fn freeze(&self) {
        self.handle.freeze();
    }

    async fn thaw(&self) {
        self.handle.thaw();
    }
}
