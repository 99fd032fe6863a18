//! `dropgate-local`: the whole system on one machine.

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand};
use dropgate_local::stack::{Database, Site, Stack, State};
use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::signal::unix::{SignalKind, signal};

/// Runs dropgate with real servers on this machine.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// The checkout.
    #[arg(long, default_value = ".", global = true)]
    repo: PathBuf,
    /// The folder for data and logs.
    #[arg(long, default_value = ".stack", global = true)]
    dir: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Start the stack, send a crowd, print the verdict, stop the stack.
    Demo(Demo),
    /// Start the stack and leave it running.
    Up,
    /// Stop the stack that runs. Its data stays.
    Down,
    /// Say what runs, and where.
    Status,
    /// Ask the database of the stack that runs; without a question, a prompt.
    Sql {
        /// The question.
        query: Option<String>,
    },
    /// Follow the logs of all parts.
    Logs,
    /// Run a command with a database of its own in `DROPGATE_TEST_DATABASE_URL`.
    WithDatabase {
        /// The command.
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// The stack's supervisor: what `up` starts in the background.
    #[command(hide = true)]
    Supervise,
}

#[derive(Args)]
struct Demo {
    /// How many different users claim a coupon.
    #[arg(long, env = "USERS", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    users: u32,
    /// How many coupons there are.
    #[arg(long, env = "CAPACITY", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    capacity: u32,
    /// Claims beyond the first, as a share of the users.
    #[arg(long, env = "REPEATS", default_value_t = 0.2)]
    repeats: f64,
    /// The time in which all of them arrive.
    #[arg(long, env = "OVER", default_value = "1s")]
    over: String,
}

fn main() -> ExitCode {
    // One thread: children ask the kernel to end them with the thread that started them.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return failed(&e.into()),
    };
    let cli = Cli::parse();
    match runtime.block_on(run(cli)) {
        Ok(code) => code,
        Err(e) => failed(&e),
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    eprintln!("\nerror: {error:#}");
    ExitCode::FAILURE
}

async fn run(cli: Cli) -> Result<ExitCode> {
    let site = |dir: PathBuf| -> Result<Site> {
        let programs = std::env::current_exe()?.parent().map(Path::to_owned).context("no folder of programs")?;
        Site::new(&cli.repo, &programs, &dir)
    };
    match &cli.verb {
        Verb::Demo(demo) => {
            let site = site(cli.dir.join("demo"))?;
            interruptible(demo_on(site, demo)).await
        }
        Verb::Supervise => {
            let site = site(cli.dir.clone())?;
            supervise(site).await
        }
        Verb::WithDatabase { command } => {
            // Neither server can read the other's folder.
            let mariadb = std::env::var("DATABASE_KIND").is_ok_and(|kind| kind == "mariadb");
            let site = site(cli.dir.join(if mariadb { "mariadb" } else { "database" }))?;
            interruptible(with_database(site, command)).await
        }
        Verb::Up => up(&cli, &site(cli.dir.clone())?).await,
        Verb::Down => down(&cli.dir).await,
        Verb::Status => {
            match State::of(&cli.dir)? {
                Some(state) => print_state(&state),
                None => println!("no stack runs in {}: `make up` starts one", cli.dir.display()),
            }
            Ok(ExitCode::SUCCESS)
        }
        Verb::Sql { query } => {
            let Some(state) = State::of(&cli.dir)? else {
                bail!("no stack runs in {}: `make up` starts one", cli.dir.display())
            };
            let mut client = state.endpoints.sql_client(&site(cli.dir.clone())?)?;
            if let Some(query) = query {
                client.args(["--execute", query]);
            }
            Err(client.exec()).context("there is no MySQL client: run `make setup`")
        }
        Verb::Logs => {
            let logs: Vec<PathBuf> = fs::read_dir(cli.dir.join("log"))
                .with_context(|| format!("there are no logs in {}: `make up` first", cli.dir.display()))?
                .filter_map(|entry| Some(entry.ok()?.path()))
                .collect();
            // Replaces this process, so ^C reaches tail.
            Err(Command::new("tail").args(["-n", "20", "-F"]).args(logs).exec().into())
        }
    }
}

/// Runs `work`; on ^C or SIGTERM drops it, which stops every part it has started.
async fn interruptible(work: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let stopped = |what: &str| {
        eprintln!("\n{what}: everything is stopped");
        Ok(ExitCode::from(130))
    };
    tokio::select! {
        result = work => result,
        _ = interrupt.recv() => stopped("interrupted"),
        _ = terminate.recv() => stopped("terminated"),
        _ = hangup.recv() => stopped("terminal closed"),
    }
}

async fn demo_on(site: Site, demo: &Demo) -> Result<ExitCode> {
    let begun = Instant::now();
    let report = site.dir.join("report.html");
    let burst = site.programs.join("burst");
    println!("starting the stack; data and logs in {}", site.dir.display());
    let mut say = |line: &str| println!("  {line}");
    let mut stack = Stack::start_anew(site, &mut say).await?;

    let campaign = format!("demo-{}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis());
    let capacity = demo.capacity.to_string();
    stack.issuer(&["campaign", "create", &campaign, "--capacity", &capacity])?;
    stack.issuer(&["campaign", "publish", &campaign])?;
    println!("campaign {campaign} of {capacity} is published after {:.1} s", begun.elapsed().as_secs_f32());

    let mut burst = tokio::process::Command::new(burst);
    burst
        .args(["run", "--url", &stack.endpoints.edge_url, "--campaign", &campaign, "--capacity", &capacity])
        .args(["--users", &demo.users.to_string(), "--repeats", &demo.repeats.to_string(), "--over", &demo.over])
        .arg("--report")
        .arg(&report)
        // By the environment: it holds the password.
        .env("DATABASE_URL", &stack.endpoints.database_url)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let status = {
        let mut child = burst.spawn().context("burst cannot be started")?;
        tokio::select! {
            status = child.wait() => status?,
            result = stack.supervise(&mut say) => {
                result?;
                bail!("the supervisor has ended")
            }
        }
    };
    println!("report: {}", report.display());
    stack.stop().await?;
    println!("everything is stopped; the whole took {:.1} s", begun.elapsed().as_secs_f32());
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn with_database(site: Site, command: &[OsString]) -> Result<ExitCode> {
    let Some((program, args)) = command.split_first() else { bail!("no command was given") };
    let database = Database::start(&site).await?;
    let mut child = tokio::process::Command::new(program)
        .args(args)
        .env("DROPGATE_TEST_DATABASE_URL", &database.url)
        .process_group(0)
        .spawn()
        .with_context(|| format!("{} cannot be run", program.display()))?;
    // Interrupted, the command ends with all it has started.
    let group = Group(child.id().and_then(pid));
    let status = child.wait().await?;
    drop(group);
    database.stop().await?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A process group that ends with this value.
struct Group(Option<rustix::process::Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::TERM);
        }
    }
}

async fn supervise(site: Site) -> Result<ExitCode> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut say = |line: &str| println!("  {line}");
    let mut stack = tokio::select! {
        stack = Stack::start(site, &mut say) => stack?,
        _ = terminate.recv() => return Ok(ExitCode::from(130)),
    };
    tokio::select! {
        result = stack.supervise(&mut say) => result?,
        // `down`: let every part end well.
        _ = terminate.recv() => {}
    }
    stack.stop().await?;
    Ok(ExitCode::SUCCESS)
}

async fn up(cli: &Cli, site: &Site) -> Result<ExitCode> {
    if let Some(state) = State::of(&site.dir)? {
        println!("the stack runs already");
        print_state(&state);
        return Ok(ExitCode::SUCCESS);
    }
    State::forget(&site.dir);
    fs::create_dir_all(site.logs())?;
    let log = site.logs().join("supervisor.log");
    let out = fs::File::create(&log)?;
    let mut child = Command::new(std::env::current_exe()?)
        .arg("--repo")
        .arg(&cli.repo)
        .arg("--dir")
        .arg(&cli.dir)
        .arg("supervise")
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .process_group(0)
        .spawn()?;
    println!("starting the stack; data and logs in {}", site.dir.display());
    let mut told = 0;
    let mut interrupt = signal(SignalKind::interrupt())?;
    loop {
        let text = fs::read_to_string(&log)?;
        if let Some(fresh) = text.get(told..) {
            print!("{fresh}");
        }
        told = text.len();
        // Its word, not its lock: to look at that would be in its way.
        if let Some(state) = State::written(&site.dir) {
            print_state(&state);
            return Ok(ExitCode::SUCCESS);
        }
        if child.try_wait()?.is_some() {
            return Ok(ExitCode::FAILURE);
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
            _ = interrupt.recv() => {
                if let Some(pid) = pid(child.id()) {
                    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
                }
                child.wait()?;
                eprintln!("\ninterrupted: everything is stopped");
                return Ok(ExitCode::from(130));
            }
        }
    }
}

fn pid(id: u32) -> Option<rustix::process::Pid> {
    i32::try_from(id).ok().and_then(rustix::process::Pid::from_raw)
}

async fn down(dir: &Path) -> Result<ExitCode> {
    let Some(state) = State::of(dir)? else {
        println!("no stack runs in {}", dir.display());
        return Ok(ExitCode::SUCCESS);
    };
    let pid = pid(state.supervisor).context("no process id")?;
    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    let deadline = Instant::now() + Duration::from_secs(120);
    while rustix::process::test_kill_process(pid).is_ok() {
        if Instant::now() > deadline {
            bail!("the supervisor, pid {}, does not end", state.supervisor);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("stopped; the data stays in {}", dir.display());
    Ok(ExitCode::SUCCESS)
}

fn print_state(state: &State) {
    let at = &state.endpoints;
    let issuer = at.issuer_env().iter().map(|(name, value)| format!("  export {name}='{value}'\n")).collect::<String>();
    let parts = state.parts.iter().map(|(name, pid)| format!("{name} {pid}")).collect::<Vec<_>>().join(", ");
    println!(
        "
the gate     {edge}
process ids  supervisor {supervisor}, {parts}

Try:
{issuer}
  target/service/issuer campaign create spring --capacity 100
  target/service/issuer campaign publish spring
  curl -i -X POST -H 'X-User-Id: me' {edge}/v1/campaigns/spring/claims
  curl -i -H 'X-User-Id: me' {edge}/v1/campaigns/spring/claims/me
  curl -i {edge}/v1/campaigns/spring
  make sql Q='SELECT * FROM coupons'
  target/service/burst run --url {edge} --campaign spring --capacity 100 --users 10000

make logs follows what it does, make down stops it.",
        edge = at.edge_url,
        supervisor = state.supervisor,
    );
}
