//! The script on a real broker, with the issuer's adapter in processes of their own.

use crate::app::{self, Command, Report};
use crate::script::{self, Log, MAX_POLL, Member, SESSION, World};
use dropgate_devstack::{Broker, Paths};
use dropgate_issuer::kafka::consumer::KafkaSource;
use dropgate_issuer::kafka::settings::KafkaSettings;
use dropgate_issuer::kafka::topics;
use dropgate_issuer::metrics::Metrics;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::Child;
use tokio::sync::{Mutex, mpsc, oneshot};

const ADDRESS: &str = "DROPGATE_CONTRACT_MEMBER";
const TIMEOUT: Duration = Duration::from_secs(10);

pub fn run() -> Vec<Log> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let repo = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let kafka = Broker::start(&Paths::new(repo, repo, dir.path()).unwrap()).await.unwrap();
        let settings = KafkaSettings { bootstrap: kafka.bootstrap.clone(), ..KafkaSettings::default() };
        let real = Real {
            admin: settings.client().create().unwrap(),
            producer: settings.client().set("linger.ms", "0").create().unwrap(),
            dir: dir.path().to_owned(),
            members: AtomicU32::new(0),
            settings,
            kafka: Mutex::new(Some(kafka)),
        };
        let log = script::run(&real).await;
        real.kafka.into_inner().unwrap().stop().await.unwrap();
        log
    })
}

struct Real {
    settings: KafkaSettings,
    admin: AdminClient<DefaultClientContext>,
    producer: FutureProducer,
    dir: std::path::PathBuf,
    members: AtomicU32,
    kafka: Mutex<Option<Broker>>,
}

impl Real {
    fn of_group(&self, group: &str) -> KafkaSettings {
        KafkaSettings { group: group.to_owned(), ..self.settings.clone() }
    }

    /// Asks with a client that joins nothing.
    async fn ask<T: Send + 'static>(&self, group: &str, ask: impl FnOnce(BaseConsumer) -> T + Send + 'static) -> T {
        let mut config = self.settings.client();
        config.set("group.id", group);
        tokio::task::spawn_blocking(move || ask(config.create().unwrap())).await.unwrap()
    }
}

impl World for Real {
    type Member = RealMember;

    async fn create_topic(&self, topic: &'static str, partitions: i32) {
        let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
        let options = AdminOptions::new().operation_timeout(Some(TIMEOUT));
        let results = self.admin.create_topics(&[new], &options).await.unwrap();
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        let leader = async || {
            let metadata = self.producer.client().fetch_metadata(Some(topic), TIMEOUT).unwrap();
            metadata.topics()[0].partitions().iter().filter(|one| one.leader() >= 0).count()
        };
        while leader().await != usize::try_from(partitions).unwrap() {}
    }

    async fn delete_topic(&self, topic: &'static str) {
        let options = AdminOptions::new().operation_timeout(Some(TIMEOUT));
        let results = self.admin.delete_topics(&[topic], &options).await.unwrap();
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    }

    async fn produce(&self, topic: &'static str, partition: i32, count: usize) {
        for n in 0..count {
            let value = n.to_string();
            loop {
                let record = FutureRecord::<str, str>::to(topic).payload(&value).partition(partition);
                match self.producer.send(record, TIMEOUT).await {
                    Ok(_) => break,
                    // The producer has not heard of a new topic yet.
                    Err((error, _)) => assert!(
                        matches!(
                            error.rdkafka_error_code(),
                            Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownPartition)
                        ),
                        "{error}"
                    ),
                }
            }
        }
    }

    async fn join(&self, topic: &'static str, instance_id: Option<&str>) -> RealMember {
        let socket = self.dir.join(format!("m{}", self.members.fetch_add(1, Ordering::Relaxed)));
        let listener = UnixListener::bind(&socket).unwrap();
        let address = serde_json::json!([socket, self.settings.bootstrap, topic, instance_id]);
        let child = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "member_process", "--nocapture"])
            .env(ADDRESS, address.to_string())
            .stdout(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        RealMember { child, stream: Mutex::new(BufReader::new(stream)) }
    }

    async fn committed(&self, topic: &'static str) -> BTreeMap<i32, i64> {
        self.ask(topic, move |consumer| {
            let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT).unwrap();
            let mut wanted = TopicPartitionList::new();
            for partition in metadata.topics()[0].partitions() {
                wanted.add_partition(topic, partition.id());
            }
            let committed = consumer.committed_offsets(wanted, TIMEOUT).unwrap();
            let offset = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match element.offset() {
                Offset::Offset(offset) => Some((element.partition(), offset)),
                _ => None,
            };
            committed.elements().iter().filter_map(offset).collect()
        })
        .await
    }

    async fn lag(&self, topic: &'static str) -> u64 {
        topics::lag(&self.of_group(topic), topic).await.unwrap()
    }

    async fn group(&self, topic: &'static str) -> (usize, bool) {
        self.ask(topic, move |consumer| {
            let list = consumer.fetch_group_list(Some(topic), TIMEOUT).unwrap();
            list.groups().first().map_or((0, false), |group| (group.members().len(), group.state() == "Stable"))
        })
        .await
    }

    async fn frozen<T>(&self, work: impl Future<Output = T>) -> T {
        self.kafka.lock().await.as_ref().unwrap().frozen(work).await
    }

    async fn crashed<T>(&self, work: impl Future<Output = T>) -> T {
        let mut kafka = self.kafka.lock().await;
        let (broker, done) = kafka.take().unwrap().crashed(work).await.unwrap();
        *kafka = Some(broker);
        done
    }
}

struct RealMember {
    child: Child,
    stream: Mutex<BufReader<UnixStream>>,
}

impl RealMember {
    async fn signal(&self, signal: &str) {
        let pid = self.child.id().unwrap().to_string();
        let done = tokio::process::Command::new("kill").args([signal, &pid]).status().await.unwrap();
        assert!(done.success());
    }
}

impl Member for RealMember {
    async fn call(&self, command: Command) -> Report {
        let mut stream = self.stream.lock().await;
        let line = serde_json::to_string(&command).unwrap() + "\n";
        stream.write_all(line.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_line(&mut answer).await.unwrap();
        serde_json::from_str(&answer).expect("the member has ended")
    }

    async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    async fn freeze(&self) {
        self.signal("-STOP").await;
    }

    async fn thaw(&self) {
        self.signal("-CONT").await;
    }
}

/// The other side of [`RealMember`].
pub fn member_process() {
    let Ok(address) = std::env::var(ADDRESS) else {
        return;
    };
    let (socket, bootstrap, topic, instance_id): (String, String, String, Option<String>) =
        serde_json::from_str(&address).unwrap();
    let millis = |duration: Duration| duration.as_millis().to_string();
    let options =
        vec![("session.timeout.ms".to_owned(), millis(SESSION)), ("max.poll.interval.ms".to_owned(), millis(MAX_POLL))];
    let settings = KafkaSettings { bootstrap, group: topic.clone(), instance_id, options, ..KafkaSettings::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let source = KafkaSource::join(&settings, &topic, 1, Arc::new(Metrics::default())).unwrap();
        let (read, mut write) = UnixStream::connect(&socket).await.unwrap().into_split();
        let mut lines = BufReader::new(read).lines();
        let (calls, commands) = mpsc::unbounded_channel();
        let app = tokio::spawn(app::run(source, commands));
        let talk = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                let (reply, answer) = oneshot::channel();
                let command: Command = serde_json::from_str(&line).unwrap();
                calls.send((command, reply)).unwrap();
                if command == Command::Leave {
                    break;
                }
                let report = serde_json::to_string(&answer.await.unwrap()).unwrap() + "\n";
                write.write_all(report.as_bytes()).await.unwrap();
            }
        };
        talk.await;
        if let Some((source, _)) = app.await.unwrap() {
            source.leave().await;
            let report = serde_json::to_string(&Report::default()).unwrap() + "\n";
            write.write_all(report.as_bytes()).await.unwrap();
        }
    });
}
