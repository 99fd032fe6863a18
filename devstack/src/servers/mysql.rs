//! The servers: Redis, Kafka and MySQL, each from its own release, with its data in a folder of ours.

use super::Site;
use super::ports;
use super::probe::Probe;
use super::process::Spec;
use anyhow::{Context as _, Result, bail};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// Kafka's version, as `local/setup` installs it.
const KAFKA: &str = "kafka-4.3.1";
/// The folder of the MySQL release that `local/setup` unpacks.
const MYSQL: &str = "mysql-sid";

fn args<const N: usize>(list: [&str; N]) -> Vec<OsString> {
    list.map(OsString::from).to_vec()
}

/// A Redis with its append-only file on, so that a restart finds what was acknowledged. Returns its URL.
///
/// # Errors
/// If there is no `redis-server`, or a given port is taken.
pub fn redis(site: &Site) -> Result<(Spec, String)> {
    let port = ports::given("REDIS_PORT", None)?;
    let data = site.folder("redis")?;
    let installed = site.cache.join("bin/redis-server");
    let program = if installed.exists() { installed } else { PathBuf::from("redis-server") };
    let spec = Spec {
        name: "redis",
        program,
        args: args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--appendonly",
            "yes",
            "--appendfsync",
            "everysec",
            "--save",
            "",
            "--dir",
            &data.to_string_lossy(),
        ]),
        env: vec![],
        cwd: data,
        probe: Probe::Redis(format!("127.0.0.1:{port}")),
        stop_within: Duration::from_secs(5),
    };
    Ok((spec, format!("redis://127.0.0.1:{port}")))
}

/// A Kafka of one node in KRaft mode. Formats its folder the first time. Returns its bootstrap address.
///
/// # Errors
/// If Kafka is not installed, there is no Java, or formatting fails.
pub fn kafka(site: &Site) -> Result<(Spec, String)> {
    let (port, controller) = (ports::given("KAFKA_PORT", None)?, ports::free()?);
    let libs = site.cache.join(KAFKA);
    if !libs.is_dir() {
        bail!("there is no Kafka in {}: run `make setup`", libs.display());
    }
    let home = site.folder("kafka")?;
    let data = home.join("data");
    let properties = home.join("server.properties");
    let logging = home.join("log4j2.properties");
    fs::write(&properties, kafka_properties(port, controller, &data))?;
    fs::write(&logging, KAFKA_LOGGING)?;
    let classpath = format!("{}/*", libs.display());
    let java = |class: &'static str, heap: &str| {
        args([
            heap,
            "-XX:+UseSerialGC",
            &format!("-Dlog4j2.configurationFile={}", logging.display()),
            "-cp",
            &classpath,
            class,
        ])
    };
    if !data.join("meta.properties").exists() {
        let mut format = java("kafka.tools.StorageTool", "-Xmx256m");
        format.extend(args(["format", "-t", &super::random_id()?, "-c", &properties.to_string_lossy()]));
        let done = Command::new("java").args(format).stdin(Stdio::null()).output().context(
            "there is no `java`: install Java 17 or newer (Debian: apt-get install openjdk-17-jre-headless), \
             or name your own Kafka in KAFKA_BOOTSTRAP",
        )?;
        if !done.status.success() {
            bail!("Kafka's folder cannot be formatted:\n{}", String::from_utf8_lossy(&done.stderr));
        }
    }
    let mut run = java("kafka.Kafka", "-Xmx512m");
    run.push(properties.into());
    let bootstrap = format!("127.0.0.1:{port}");
    let spec = Spec {
        name: "kafka",
        program: "java".into(),
        args: run,
        env: vec![],
        cwd: home,
        probe: Probe::Kafka(bootstrap.clone()),
        stop_within: Duration::from_secs(15),
    };
    Ok((spec, bootstrap))
}

fn kafka_properties(port: u16, controller: u16, data: &Path) -> String {
    format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         controller.quorum.voters=1@127.0.0.1:{controller}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
         controller.listener.names=CONTROLLER\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
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

const KAFKA_LOGGING: &str = "\
rootLogger.level = WARN
rootLogger.appenderRef.out.ref = out
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %p %c{1}: %m%n
";

/// A real MySQL, or MariaDB where `DATABASE_KIND=mariadb` asks for it, with a database and a user
/// `dropgate`. Returns its URL.
///
/// # Errors
/// If there is no server program, or its folder cannot be initialised.
pub fn database(site: &Site, password: &str) -> Result<(Spec, String)> {
    let port = ports::given("MYSQL_PORT", None)?;
    let home = site.folder("mysql")?;
    let data = home.join("data");
    let init = home.join("init.sql");
    let server = if std::env::var("DATABASE_KIND").is_ok_and(|kind| kind == "mariadb") {
        Server::mariadb()?
    } else {
        Server::mysql(&site.cache)?
    };
    if !data.is_dir() {
        // Under another name first: a folder that was left half initialised cannot be used.
        let part = home.join("data.part");
        if part.exists() {
            fs::remove_dir_all(&part)?;
        }
        let done = server.initialise(&part).output().context("the database's folder cannot be initialised")?;
        if !done.status.success() {
            bail!("the database's folder cannot be initialised:\n{}", String::from_utf8_lossy(&done.stderr));
        }
        fs::rename(&part, &data)?;
    }
    // By the socket where a client can: over TCP on loopback, TLS makes large statements wait for
    // delayed acknowledgements.
    let socket = socket(&home);
    let url = format!("mysql://dropgate:{password}@127.0.0.1:{port}/dropgate?socket={}", socket.display());
    super::write_secret(
        &init,
        &format!(
            "CREATE DATABASE IF NOT EXISTS dropgate;\n\
             CREATE USER IF NOT EXISTS 'dropgate'@'%' IDENTIFIED BY '{password}';\n\
             GRANT ALL ON *.* TO 'dropgate'@'%';\n\
             ALTER USER 'root'@'localhost' IDENTIFIED BY '{password}';\n"
        ),
    )?;
    let mut list = server.args;
    list.extend(
        [
            format!("--datadir={}", data.display()),
            format!("--port={port}"),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--socket={}", socket.display()),
            format!("--pid-file={}", home.join("pid").display()),
            format!("--init-file={}", init.display()),
        ]
        .map(OsString::from),
    );
    let spec = Spec {
        name: "mysql",
        program: server.program,
        args: list,
        env: vec![],
        cwd: home,
        probe: Probe::Database(url.clone()),
        stop_within: Duration::from_secs(30),
    };
    Ok((spec, url))
}

/// A Unix socket's path has 107 bytes at most; a deep checkout would exceed that.
fn socket(home: &Path) -> PathBuf {
    let near = home.join("sock");
    if near.as_os_str().len() <= 100 {
        return near;
    }
    std::env::temp_dir().join(format!("dropgate-mysql-{}.sock", std::process::id()))
}

/// How to run a program of the MySQL release, which is a Debian tree of its own: through the tree's
/// dynamic loader, so that it needs neither root nor chroot, and nothing of the machine's libraries.
fn in_tree(tree: &Path, program: &str) -> Result<(PathBuf, Vec<OsString>)> {
    if !tree.is_dir() {
        bail!("there is no MySQL in {}: run `make setup`, or name your own in DATABASE_URL", tree.display());
    }
    let libraries = tree.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
    let loader = fs::read_dir(&libraries)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld-linux")))
        .with_context(|| format!("no dynamic loader in {}: run `make setup` again", libraries.display()))?;
    Ok((loader, vec!["--library-path".into(), libraries.into(), tree.join(program).into()]))
}

/// A MySQL client for `url`: the one of the unpacked release, or `mysql` of the machine.
pub fn client(site: &Site, url: &str) -> Result<Command> {
    let url = reqwest::Url::parse(url).context("DATABASE_URL is no URL")?;
    let tree = site.cache.join(MYSQL);
    let mut command = if tree.join("usr/bin/mysql").exists() {
        let (loader, list) = in_tree(&tree, "usr/bin/mysql")?;
        let mut command = Command::new(loader);
        command.args(list).arg("--no-defaults");
        command.arg(format!("--character-sets-dir={}", tree.join("usr/share/mysql/charsets").display()));
        command
    } else {
        Command::new("mysql")
    };
    command
        .args(["--protocol=tcp", "--default-character-set=utf8mb4", "--table"])
        .args(["--host", url.host_str().unwrap_or("127.0.0.1")])
        .args(["--port", &url.port().unwrap_or(3306).to_string()])
        .args(["--user", url.username()])
        // By the environment: arguments are for everybody to read.
        .env("MYSQL_PWD", url.password().unwrap_or_default())
        .arg(url.path().trim_start_matches('/'));
    Ok(command)
}

struct Server {
    program: PathBuf,
    args: Vec<OsString>,
    install: Option<PathBuf>,
}

impl Server {
    fn mysql(cache: &Path) -> Result<Self> {
        let tree = cache.join(MYSQL);
        let (loader, mut list) = in_tree(&tree, "usr/sbin/mysqld")?;
        let share = tree.join("usr/share/mysql");
        list.extend(args(["--no-defaults", "--user=root", "--mysqlx=OFF", "--secure-file-priv=NULL"]));
        list.push(format!("--basedir={}", tree.join("usr").display()).into());
        list.push(format!("--lc-messages-dir={}", share.display()).into());
        list.push(format!("--character-sets-dir={}", share.join("charsets").display()).into());
        Ok(Self { program: loader, args: list, install: None })
    }

    fn mariadb() -> Result<Self> {
        let program = ["/usr/sbin/mariadbd", "/usr/bin/mariadbd", "/usr/local/bin/mariadbd"]
            .map(PathBuf::from)
            .into_iter()
            .find(|path| path.exists())
            .context("there is no mariadbd: run `DATABASE_KIND=mariadb make setup`")?;
        Ok(Self { program, args: args(["--no-defaults", "--user=root"]), install: Some("mariadb-install-db".into()) })
    }

    fn initialise(&self, data: &Path) -> Command {
        let datadir = format!("--datadir={}", data.display());
        let mut command = match &self.install {
            Some(install) => {
                let mut command = Command::new(install);
                command.args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"]);
                command.args(["--user=root", &datadir]);
                command
            }
            None => {
                let mut command = Command::new(&self.program);
                command.args(&self.args).args(["--initialize-insecure", &datadir]);
                command
            }
        };
        command.stdin(Stdio::null());
        command
    }
}
