use crate::paths::Paths;
use crate::ports;
use crate::probe::Probe;
use crate::process::ProcessSpec;
use crate::secrets::write_secret;
use crate::settings::wants_mariadb;
use anyhow::{Context as _, Result, bail};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The folder of the release that `devstack/setup` unpacks.
const RELEASE: &str = "mysql-sid";

/// A MySQL, or a MariaDB with `DATABASE_KIND=mariadb`, with a database and a user `dropgate`. Returns its URL.
pub fn spec(paths: &Paths, password: &str) -> Result<(ProcessSpec, String)> {
    let port = ports::choose("MYSQL_PORT", None)?;
    let home = paths.folder("mysql")?;
    let data = home.join("data");
    let init = home.join("init.sql");
    let server = if wants_mariadb() { Server::mariadb()? } else { Server::mysql(&paths.cache)? };
    if !data.is_dir() {
        // Under another name first: a partly initialised folder cannot be used.
        let part = home.join("data.part");
        if part.exists() {
            fs::remove_dir_all(&part)?;
        }
        let done = server.initialise(&part).output().context("cannot initialise the folder of the database")?;
        if !done.status.success() {
            bail!("cannot initialise the folder of the database:\n{}", String::from_utf8_lossy(&done.stderr));
        }
        fs::rename(&part, &data)?;
    }
    // Clients that can use the socket: over TCP on loopback, TLS makes large statements wait for delayed
    // acknowledgements.
    let socket = socket(&home);
    let url = format!("mysql://dropgate:{password}@127.0.0.1:{port}/dropgate?socket={}", socket.display());
    write_secret(
        &init,
        &format!(
            "CREATE DATABASE IF NOT EXISTS dropgate;\n\
             CREATE USER IF NOT EXISTS 'dropgate'@'%' IDENTIFIED BY '{password}';\n\
             GRANT ALL ON *.* TO 'dropgate'@'%' WITH GRANT OPTION;\n\
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
    let spec = ProcessSpec {
        name: "mysql",
        program: server.program,
        args: list,
        env: vec![],
        cwd: home,
        probe: Probe::Database(url.clone()),
        stop_timeout: Duration::from_secs(30),
    };
    Ok((spec, url))
}

/// The path of a Unix socket has 107 bytes at most, which a deep checkout would exceed.
fn socket(home: &Path) -> PathBuf {
    let near = home.join("sock");
    if near.as_os_str().len() <= 100 {
        return near;
    }
    std::env::temp_dir().join(format!("dropgate-mysql-{}.sock", std::process::id()))
}

/// How to run a program of the MySQL release, which is a Debian tree of its own: through the dynamic loader of
/// the tree, so that it needs neither root nor chroot nor the libraries of the machine.
fn in_tree(tree: &Path, program: &str) -> Result<(PathBuf, Vec<OsString>)> {
    if !tree.is_dir() {
        bail!("MySQL is not installed in {}: run `make setup`, or set DATABASE_URL to your own", tree.display());
    }
    let libraries = tree.join(format!("usr/lib/{}-linux-gnu", std::env::consts::ARCH));
    let loader = fs::read_dir(&libraries)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("ld-linux")))
        .with_context(|| format!("found no dynamic loader in {}: run `make setup` again", libraries.display()))?;
    Ok((loader, vec!["--library-path".into(), libraries.into(), tree.join(program).into()]))
}

/// The MySQL client, connected to `url`: the one of the release, or `mysql` of the machine.
pub fn client(paths: &Paths, url: &str) -> Result<Command> {
    let url = reqwest::Url::parse(url).context("DATABASE_URL is not a URL")?;
    let tree = paths.cache.join(RELEASE);
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
        // In the environment: every user of the machine can read arguments.
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
        let tree = cache.join(RELEASE);
        let (loader, mut list) = in_tree(&tree, "usr/sbin/mysqld")?;
        let share = tree.join("usr/share/mysql");
        list.extend(["--no-defaults", "--user=root", "--mysqlx=OFF", "--secure-file-priv=NULL"].map(Into::into));
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
            .context("mariadbd is not installed: run `DATABASE_KIND=mariadb make setup`")?;
        let args = ["--no-defaults", "--user=root"].map(Into::into).to_vec();
        Ok(Self { program, args, install: Some("mariadb-install-db".into()) })
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
