//! The issuer's image on a container engine, with the real stack: it issues coupons with a read-only root file
//! system and an unprivileged user, reports its health, and drains on SIGTERM.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use dropgate_devstack::ports;
use dropgate_tests::{System, until};
use std::process::{Command, Output};

/// Runs the container engine that `deploy/image.sh` has chosen.
fn engine(args: &[&str]) -> Output {
    let engine = std::env::var("ENGINE").unwrap();
    let mut words = engine.split_whitespace();
    Command::new(words.next().unwrap()).args(words).args(args).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

struct Container(String);

impl Drop for Container {
    fn drop(&mut self) {
        engine(&["rm", "-f", &self.0]);
    }
}

#[tokio::test]
async fn the_image_issues_coupons_and_drains() {
    let mut system = System::start("image").await;
    system.stack.stop_process("issuer").await.unwrap();
    let image = std::env::var("IMAGE").unwrap();
    let container = Container(format!("dropgate-image-test-{}", std::process::id()));
    let name = container.0.as_str();
    let listen = format!("127.0.0.1:{}", ports::free().unwrap());

    let mut args: Vec<String> =
        ["run", "-d", "--name", name, "--read-only", "--network", "host"].map(Into::into).into();
    args.extend(["--cap-drop", "ALL", "--ulimit", "nofile=4096:4096", "--ulimit", "nproc=1000:1000"].map(Into::into));
    let mut settings = system.stack.endpoints.issuer_env();
    settings.push(("HTTP_LISTEN", listen.clone()));
    settings.push(("WRITE_BUDGET", "unlimited".to_owned()));
    for (key, value) in settings {
        // The container cannot use the socket; TCP reaches the same database.
        let value = if key == "DATABASE_URL" { value.split('?').next().unwrap().to_owned() } else { value };
        args.extend(["-e".to_owned(), format!("{key}={value}")]);
    }
    args.push(image);
    let started = engine(&args.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(started.status.success(), "{}", text(&started));

    let campaign = system.campaign(30);
    for n in 0..40 {
        let status = system.claim(&campaign, &format!("u-{n}")).await.status;
        assert_eq!(status, if n < 30 { 202 } else { 410 }, "u-{n}: {}", text(&engine(&["logs", name])));
    }
    until("the container has issued all coupons", async || system.coupon_count(&campaign).await.unwrap() == 30).await;
    until("they are confirmed", async || system.outbox_len(&campaign).await == 0).await;

    // The probe of the image's own health check, in the container.
    until("it is ready", async || {
        engine(&["exec", name, "/usr/local/bin/issuer", "probe", "--ready"]).status.success()
    })
    .await;
    let user = text(&engine(&["inspect", "-f", "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}}", name]));
    assert_eq!(user.trim(), "65532:65532 true");
    let metrics = dropgate_devstack::http_client().get(format!("http://{listen}/metrics")).send().await.unwrap();
    assert!(metrics.text().await.unwrap().contains("dropgate_issuer_"));

    assert!(engine(&["kill", "-s", "TERM", name]).status.success());
    let code = text(&engine(&["wait", name]));
    assert_eq!(code.trim(), "0", "{}", text(&engine(&["logs", name])));
    let size = text(&engine(&["image", "inspect", "-f", "{{.Size}}", &std::env::var("IMAGE").unwrap()]));
    println!("size of the image: {} MB", size.trim().parse::<u64>().unwrap() / 1_000_000);
    drop(container);
    system.stop().await;
}
