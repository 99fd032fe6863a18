//! The issuer with a Kafka like a hosted one: TLS, and a user with a password (PLAIN and SCRAM).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

use dropgate_devstack::{Probe, Process, ports};
use dropgate_tests::issuers::{Issuer, produce, users};
use dropgate_tests::{System, until};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A second broker beside the stack's, which requires TLS and a user.
struct SecuredKafka {
    process: Process,
    plaintext: String,
    sasl_ssl: String,
    ca_file: PathBuf,
}

fn run(command: &mut Command) -> Vec<u8> {
    let done = command.output().unwrap();
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    done.stdout
}

fn keytool(keystore: &Path) -> Command {
    let mut keytool = Command::new("keytool");
    keytool.args(["-keystore", keystore.to_str().unwrap(), "-storepass", "changeit", "-alias", "broker"]);
    keytool
}

impl SecuredKafka {
    async fn start(system: &System) -> Self {
        let mut spec = system.stack.process("kafka").unwrap().spec.clone();
        let home = spec.cwd.join("secured");
        let _ = fs::remove_dir_all(&home);
        fs::create_dir_all(&home).unwrap();
        let (keystore, ca_file) = (home.join("keystore.p12"), home.join("ca.pem"));
        run(keytool(&keystore)
            .args(["-genkeypair", "-keyalg", "RSA", "-storetype", "PKCS12", "-validity", "365"])
            .args(["-dname", "CN=localhost", "-ext", "san=dns:localhost,ip:127.0.0.1"]));
        fs::write(&ca_file, run(keytool(&keystore).args(["-exportcert", "-rfc"]))).unwrap();

        let [plain, secured, controller] = [(); 3].map(|()| ports::free().unwrap());
        let (plaintext, sasl_ssl) = (format!("127.0.0.1:{plain}"), format!("127.0.0.1:{secured}"));
        let properties = home.join("server.properties");
        let text = format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://{plaintext},SASL_SSL://{sasl_ssl},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://{plaintext},SASL_SSL://{sasl_ssl}\n\
             controller.listener.names=CONTROLLER\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT\n\
             ssl.keystore.location={keystore}\nssl.keystore.type=PKCS12\nssl.keystore.password=changeit\n\
             listener.name.sasl_ssl.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256\n\
             listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule \
             required user_issuer=\"by-plain\";\n\
             listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=\
             org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
             log.dirs={data}\nauto.create.topics.enable=false\noffsets.topic.replication.factor=1\n\
             offsets.topic.num.partitions=4\ngroup.initial.rebalance.delay.ms=0\n",
            keystore = keystore.display(),
            data = home.join("data").display(),
        );
        fs::write(&properties, text).unwrap();
        // The arguments of the stack's Kafka, up to the class.
        let class = spec.args.iter().position(|arg| arg == "kafka.Kafka").unwrap();
        let scram = "SCRAM-SHA-256=[name=issuer,password=by-scram]";
        run(Command::new(&spec.program)
            .args(&spec.args[..class])
            .args(["kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qg", "--add-scram", scram, "-c"])
            .arg(&properties));
        spec.name = "kafka-secured";
        spec.args[class + 1] = properties.into();
        spec.probe = Probe::Kafka(plaintext.clone());
        let process = spec.start_ready(&home).await.unwrap();
        Self { process, plaintext, sasl_ssl, ca_file }
    }
}

#[tokio::test]
async fn tls_with_plain_or_scram_works_and_a_wrong_password_is_reported() {
    let mut system = System::start("issuer-security").await;
    system.stack.stop_process("issuer").await.unwrap();
    let secured = SecuredKafka::start(&system).await;
    system.stack.endpoints.kafka_bootstrap.clone_from(&secured.plaintext);
    let campaign = system.campaign(100);
    let ca_file = secured.ca_file.to_str().unwrap();
    let start = |name: &'static str, mechanism: &str, password: &str| {
        let settings = [
            ("KAFKA_BOOTSTRAP", secured.sasl_ssl.as_str()),
            ("KAFKA_SECURITY_PROTOCOL", "sasl_ssl"),
            ("KAFKA_CA_FILE", ca_file),
            ("KAFKA_SASL_MECHANISM", mechanism),
            ("KAFKA_SASL_USERNAME", "issuer"),
            ("KAFKA_SASL_PASSWORD", password),
        ];
        Issuer::start(&system, name, &settings)
    };

    let wrong = start("issuer-wrong", "PLAIN", "no-such-password");
    until("the wrong password is reported", async || wrong.process.output().contains("Authentication failed")).await;
    assert!(!wrong.process.output().contains("no-such-password"));
    assert!(wrong.process.stop().await.unwrap().success());

    let mut rows = 0;
    for (name, mechanism, password) in
        [("issuer-plain", "PLAIN", "by-plain"), ("issuer-scram", "SCRAM-SHA-256", "by-scram")]
    {
        let mut issuer = start(name, mechanism, password);
        issuer.process.ready().await.unwrap();
        produce(&system, &campaign, users(name, 10), u32::try_from(rows).unwrap() + 1, None).await;
        rows += 10;
        until("the records are rows", async || system.coupon_count(&campaign).await.unwrap() == rows).await;
        assert!(issuer.process.stop().await.unwrap().success());
    }
    secured.process.stop().await.unwrap();
    system.stop().await;
}
