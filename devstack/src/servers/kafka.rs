use crate::paths::Paths;
use crate::ports;
use crate::probe::Probe;
use crate::process::ProcessSpec;
use crate::secrets::random_id;
use anyhow::{Context as _, Result, bail};
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The release that `devstack/setup` installs.
const RELEASE: &str = "kafka-4.3.1";

/// A port that a proxy stands before: clients that come through the proxy stay behind it.
#[derive(Debug, Clone, Copy)]
pub struct ProxiedListener {
    /// Where Kafka listens.
    pub port: u16,
    /// Where the proxy listens.
    pub proxy_port: u16,
}

/// A Kafka of one node in KRaft mode. Formats its folder at the first start. Returns its bootstrap address.
pub fn spec(paths: &Paths, proxied: &[ProxiedListener]) -> Result<(ProcessSpec, String)> {
    let (port, controller) = (ports::choose("KAFKA_PORT", None)?, ports::free()?);
    let libs = paths.cache.join(RELEASE);
    if !libs.is_dir() {
        bail!("Kafka is not installed in {}: run `make setup`", libs.display());
    }
    let home = paths.folder("kafka")?;
    let data = home.join("data");
    let properties = home.join("server.properties");
    let logging = home.join("log4j2.properties");
    fs::write(&properties, server_properties(port, controller, &data, proxied))?;
    fs::write(&logging, LOGGING)?;
    let classpath = format!("{}/*", libs.display());
    let log_config = format!("-Dlog4j2.configurationFile={}", logging.display());
    let java = |class: &str, heap: &str| -> Vec<OsString> {
        [heap, "-XX:+UseSerialGC", &log_config, "-cp", &classpath, class].map(Into::into).to_vec()
    };
    if !data.join("meta.properties").exists() {
        let mut format = java("kafka.tools.StorageTool", "-Xmx256m");
        format.extend(["format", "-t", &random_id()?, "-c", &properties.to_string_lossy()].map(Into::into));
        let done = Command::new("java").args(format).stdin(Stdio::null()).output().context(
            "cannot run `java`: install Java 17 or newer (Debian: apt-get install openjdk-17-jre-headless), \
             or set KAFKA_BOOTSTRAP to your own Kafka",
        )?;
        if !done.status.success() {
            bail!("cannot format the folder of Kafka:\n{}", String::from_utf8_lossy(&done.stderr));
        }
    }
    let mut run = java("kafka.Kafka", "-Xmx512m");
    run.push(properties.into());
    let bootstrap = format!("127.0.0.1:{port}");
    let spec = ProcessSpec {
        name: "kafka",
        program: "java".into(),
        args: run,
        env: vec![],
        cwd: home,
        probe: Probe::Kafka(bootstrap.clone()),
        stop_timeout: Duration::from_secs(15),
    };
    Ok((spec, bootstrap))
}

fn server_properties(port: u16, controller: u16, data: &Path, proxied: &[ProxiedListener]) -> String {
    let each = |line: &dyn Fn(usize, &ProxiedListener) -> String| -> String {
        proxied.iter().enumerate().map(|(nth, listener)| line(nth, listener)).collect()
    };
    let listeners = each(&|nth, at| format!(",PROXIED{nth}://127.0.0.1:{}", at.port));
    let advertised = each(&|nth, at| format!(",PROXIED{nth}://127.0.0.1:{}", at.proxy_port));
    let protocols = each(&|nth, _| format!(",PROXIED{nth}:PLAINTEXT"));
    format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         controller.quorum.voters=1@127.0.0.1:{controller}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}{listeners}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}{advertised}\n\
         controller.listener.names=CONTROLLER\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT{protocols}\n\
         log.dirs={}\n\
         auto.create.topics.enable=false\n\
         offsets.topic.replication.factor=1\n\
         offsets.topic.num.partitions=4\n\
         transaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\n\
         group.initial.rebalance.delay.ms=0\n",
        data.display()
    )
}

const LOGGING: &str = "\
rootLogger.level = WARN
rootLogger.appenderRef.out.ref = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %p %c{1}: %m%n
";
