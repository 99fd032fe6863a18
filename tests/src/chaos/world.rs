//! The system that faults strike: real servers with a proxy on each connection.

use super::fault::{Fault, Link, Party};
use super::servers::Server;
use crate::fault_proxy::{FaultProxy, ResponseFault};
use dropgate_devstack::{Endpoints, Paths, ProcessSpec, ProxiedListener, Signal, Stack, Worker, ports};
use dropgate_simulator::random::Random;
use sqlx::MySqlPool;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::sync::Mutex as AsyncMutex;

/// How often the supervisor looks after the processes.
const SUPERVISE_EVERY: Duration = Duration::from_millis(200);
/// A statement of the harness waits so long: a frozen server is no reason to wait.
const HARNESS_DEADLINE: Duration = Duration::from_secs(3);

/// A gate on workerd.
#[derive(Debug)]
pub struct Gate {
    pub url: String,
    pub cron_url: String,
}

/// Everything that runs.
pub struct World {
    pub paths: Paths,
    /// Without the proxies: for the harness.
    pub direct: Endpoints,
    /// Through the proxies: for issuers and operators.
    pub proxied: Endpoints,
    pub mysql: MySqlPool,
    pub redis_url: String,
    pub gates: Vec<Gate>,
    links: BTreeMap<Link, FaultProxy>,
    servers: BTreeMap<Party, Vec<Server>>,
    struck: Mutex<BTreeMap<Fault, u64>>,
    log: Mutex<File>,
    /// What belongs to one party, so that two faults do not undo each other.
    pub busy: Mutex<Vec<Target>>,
    /// Holds the lock of the folder.
    stack: AsyncMutex<Option<Stack>>,
}

/// What a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    Link(Link),
    Server(Party),
    Topic,
    Campaign,
}

/// ms since the epoch.
#[must_use]
pub fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// The port of `scheme://host:port/..`, or of `host:port`.
fn port_of(address: &str) -> u16 {
    let host = address.rsplit("//").next().unwrap().rsplit('@').next().unwrap();
    host.split('/').next().unwrap().rsplit(':').next().unwrap().parse().unwrap()
}

impl World {
    /// Starts everything and waits until it is ready.
    pub async fn start(paths: Paths, mut random: Random) -> Self {
        let mut listeners = BTreeMap::new();
        for link in Link::ALL {
            listeners.insert(link, TcpListener::bind(loopback(0)).await.unwrap());
        }
        let port = |link: Link| listeners[&link].local_addr().unwrap().port();
        let kafka = [Link::RestToKafka, Link::IssuerToKafka]
            .map(|link| ProxiedListener { port: ports::free().unwrap(), proxy_port: port(link) });
        let mut stack =
            Stack::start_servers_with(paths.clone(), &kafka, &mut |line| println!("  {line}")).await.unwrap();
        let direct = stack.endpoints.clone();
        let redis_port = stack.process("redis").unwrap().spec.args[1].to_string_lossy().into_owned();
        let proxied =
            Endpoints {
                redis_rest_url: format!("http://127.0.0.1:{}", port(Link::IssuerToRedis)),
                kafka_bootstrap: format!("127.0.0.1:{}", port(Link::IssuerToKafka)),
                // Without the socket, which no proxy can stand before.
                database_url: direct.database_url.split('?').next().unwrap().replace(
                    &format!(":{}/", port_of(&direct.database_url)),
                    &format!(":{}/", port(Link::IssuerToMySql)),
                ),
                ..direct.clone()
            };
        let gate_vars = [
            ("UPSTASH_REDIS_REST_URL", format!("http://127.0.0.1:{}", port(Link::GateToRedis))),
            ("KAFKA_REST_URL", format!("http://127.0.0.1:{}", port(Link::GateToKafka))),
            ("AUTH", "insecure-header".to_owned()),
        ];
        let rest = [
            ("redis-rest", "REDIS_URL", format!("redis://127.0.0.1:{}", port(Link::RestToRedis))),
            ("kafka-rest", "KAFKA_BOOTSTRAP", format!("127.0.0.1:{}", port(Link::RestToKafka))),
        ];
        let links = listeners.into_iter().map(|(link, listener)| {
            let server = match link {
                Link::GateToRedis | Link::IssuerToRedis => port_of(&direct.redis_rest_url),
                Link::RestToRedis => redis_port.parse().unwrap(),
                Link::GateToKafka => port_of(&direct.kafka_rest_url),
                Link::RestToKafka => kafka[0].port,
                Link::IssuerToKafka => kafka[1].port,
                Link::IssuerToMySql => port_of(&direct.database_url),
            };
            (link, FaultProxy::start(listener, loopback(server)))
        });
        let links = links.collect();

        let logs = paths.logs();
        let mut servers = BTreeMap::<Party, Vec<Server>>::new();
        let mut add = |party: Party, server: Server| servers.entry(party).or_default().push(server);
        for (name, variable, address) in rest {
            let process = stack.take(name).unwrap();
            let mut spec = process.spec.clone();
            process.stop().await.unwrap();
            spec.env.push((variable, address));
            let party = if name == "redis-rest" { Party::RedisRest } else { Party::KafkaRest };
            add(party, Server::new(spec.start_ready(&logs).await.unwrap(), logs.clone()));
        }
        for (name, party) in [("redis", Party::Redis), ("kafka", Party::Kafka), ("mysql", Party::MySql)] {
            let process = stack.take(name).unwrap();
            let Some(durable) = durable(party, &process.spec) else {
                add(party, Server::new(process, logs.clone()));
                continue;
            };
            process.stop().await.unwrap();
            add(party, Server::new(durable.start_ready(&logs).await.unwrap(), logs.clone()));
        }
        let mut gates = Vec::new();
        for (name, ack) in [("gate-a", "redis"), ("gate-b", "kafka")] {
            let vars: Vec<(&str, &str)> = gate_vars.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let vars = [&vars[..], &[("ADMIT_ACK", ack)]].concat();
            let Worker { url, cron_url, process } = stack.gate(name, &vars, &[]).await.unwrap();
            add(Party::Gate, Server::new(process, logs.clone()));
            gates.push(Gate { url, cron_url });
        }
        let budget = random.pick(&["unlimited", "auto", "500/s"]).copied().unwrap();
        let issuer = [
            ("DATABASE_URL", proxied.database_url.as_str()),
            ("KAFKA_BOOTSTRAP", &proxied.kafka_bootstrap),
            ("UPSTASH_REDIS_REST_URL", &proxied.redis_rest_url),
        ];
        for (name, budget) in [("issuer-a", "unlimited"), ("issuer-b", budget), ("issuer-c", "unlimited")] {
            let env = [&issuer[..], &[("WRITE_BUDGET", budget)]].concat();
            let spec = stack.issuer_spec(name, &env).unwrap().0;
            let server = if name == "issuer-c" {
                Server::held(spec, logs.clone())
            } else {
                Server::new(spec.start_ready(&logs).await.unwrap(), logs.clone())
            };
            add(Party::Issuer, server);
        }
        let log = Mutex::new(File::create(paths.dir.join("timeline.log")).unwrap());
        let mysql = sqlx::mysql::MySqlPoolOptions::new()
            .acquire_timeout(HARNESS_DEADLINE)
            .connect_lazy(&direct.database_url)
            .unwrap();
        let redis_url = format!("redis://127.0.0.1:{redis_port}");
        let stack = AsyncMutex::new(Some(stack));
        let (struck, busy) = (Mutex::default(), Mutex::default());
        Self { paths, direct, proxied, mysql, redis_url, gates, links, servers, struck, log, busy, stack }
    }

    /// Writes a line to the timeline.
    pub fn line(&self, text: &str) {
        let _ = writeln!(self.log.lock().unwrap(), "{} {text}", now_ms());
    }

    pub fn link(&self, link: Link) -> &FaultProxy {
        &self.links[&link]
    }

    pub fn servers(&self, party: Party) -> &[Server] {
        &self.servers[&party]
    }

    /// Counts a fault that took effect.
    pub fn strike(&self, fault: Fault, times: u64) {
        *self.struck.lock().unwrap().entry(fault).or_default() += times;
    }

    #[must_use]
    pub fn struck(&self) -> BTreeMap<Fault, u64> {
        self.struck.lock().unwrap().clone()
    }

    /// Starts again what has ended. Never returns.
    pub async fn supervise(&self) {
        loop {
            for server in self.servers.values().flatten() {
                if server.revive().await {
                    self.line(&format!("super {} is started again", server.name()));
                }
            }
            tokio::time::sleep(SUPERVISE_EVERY).await;
        }
    }

    /// Runs the cron of each gate in turn. Never returns.
    pub async fn cron(&self) {
        loop {
            for gate in &self.gates {
                tokio::time::sleep(Duration::from_secs(1)).await;
                let call = dropgate_devstack::http_client().get(&gate.cron_url).timeout(Duration::from_secs(20)).send();
                let outcome = match call.await {
                    Ok(response) => response.status().to_string(),
                    Err(error) => error.to_string(),
                };
                self.line(&format!("cron  {outcome}"));
            }
        }
    }

    /// All faults have ended: every server runs and is ready.
    pub async fn calm(&self) {
        for link in self.links.values() {
            link.inject(ResponseFault::None);
        }
        for (party, servers) in &self.servers {
            for server in servers {
                server.signal(Signal::CONT).await;
                if (*party, server.name()) != (Party::Issuer, "issuer-c") {
                    server.release().await;
                }
            }
        }
        for party in [Party::Redis, Party::Kafka, Party::MySql, Party::RedisRest, Party::KafkaRest, Party::Gate] {
            for server in self.servers(party) {
                server.ready().await;
            }
        }
    }

    /// Runs a command on Redis.
    pub async fn redis<T: redis::FromRedisValue>(&self, command: &[&str]) -> Result<T, String> {
        let run = async {
            let client = redis::Client::open(self.redis_url.as_str())?;
            let mut connection = client.get_multiplexed_async_connection().await?;
            redis::cmd(command[0]).arg(&command[1..]).query_async(&mut connection).await
        };
        let done = tokio::time::timeout(HARNESS_DEADLINE, run).await.map_err(|_| "Redis is silent".to_owned())?;
        done.map_err(|error: redis::RedisError| error.to_string())
    }

    /// Runs a statement on MySQL. It may wait for a lock, but not for a silent server.
    pub async fn sql(&self, statement: &str) -> Result<u64, String> {
        let run = sqlx::query(sqlx::AssertSqlSafe(statement.to_owned())).execute(&self.mysql);
        let done = tokio::time::timeout(HARNESS_DEADLINE, run).await.map_err(|_| "MySQL is silent".to_owned())?;
        done.map(|done| done.rows_affected()).map_err(|error| error.to_string())
    }

    /// Stops every process.
    pub async fn stop(&self) {
        self.mysql.close().await;
        for party in
            [Party::Gate, Party::Issuer, Party::RedisRest, Party::KafkaRest, Party::Kafka, Party::MySql, Party::Redis]
        {
            for server in self.servers(party) {
                server.stop().await;
            }
        }
        drop(self.stack.lock().await.take());
    }
}

/// Where an acknowledged write could be lost by SIGKILL, the process with another setting.
fn durable(party: Party, spec: &ProcessSpec) -> Option<ProcessSpec> {
    if party != Party::Redis {
        return None;
    }
    let mut spec = spec.clone();
    spec.args.extend(["--appendfsync", "always"].map(Into::into));
    Some(spec)
}
