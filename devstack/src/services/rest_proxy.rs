use crate::paths::Paths;
use crate::ports;
use crate::probe::Probe;
use crate::process::ProcessSpec;
use anyhow::Result;
use std::time::Duration;

/// The Redis REST proxy over the Redis at `redis_url`. Returns its URL.
pub fn redis(paths: &Paths, redis_url: &str, token: &str) -> Result<(ProcessSpec, String)> {
    spec(paths, ("redis-rest", "redis", "REDIS_REST_PORT"), ("REDIS_URL", redis_url), token)
}

/// The Kafka REST proxy over the Kafka at `bootstrap`. Returns its URL.
pub fn kafka(paths: &Paths, bootstrap: &str, token: &str) -> Result<(ProcessSpec, String)> {
    spec(paths, ("kafka-rest", "kafka", "KAFKA_REST_PORT"), ("KAFKA_BOOTSTRAP", bootstrap), token)
}

fn spec(
    paths: &Paths,
    (name, command, port_env): (&'static str, &str, &str),
    (upstream_env, upstream): (&'static str, &str),
    token: &str,
) -> Result<(ProcessSpec, String)> {
    let listen = format!("127.0.0.1:{}", ports::choose(port_env, None)?);
    let url = format!("http://{listen}");
    let spec = ProcessSpec {
        name,
        program: paths.program("dropgate-rest-proxy")?,
        args: [command, "--listen", &listen].map(Into::into).to_vec(),
        env: vec![(upstream_env, upstream.to_owned()), ("DROPGATE_REST_PROXY_TOKEN", token.to_owned())],
        cwd: paths.dir.clone(),
        probe: Probe::Http(format!("{url}/healthz")),
        stop_timeout: Duration::from_secs(25),
    };
    Ok((spec, url))
}
