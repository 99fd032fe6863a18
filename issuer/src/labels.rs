//! The stable labels of faults, logs and metrics. Dashboards and alerts are written against them. Labels of records
//! that cannot be decoded, and of what a Redis service reports, are in `dropgate_shared`.

// Any system.
/// There was no answer in time.
pub const TIMEOUT: &str = "timeout";
/// An answer has fewer parts than the request.
pub const INCOMPLETE: &str = "incomplete";

// Of a record that can never become a row.
/// The record is no admission.
pub const MALFORMED: &str = "malformed";
/// The database does not take a value; also a fault of a statement.
pub const DATA: &str = "data";
/// A constraint or trigger of the database that is not dropgate's rejects the row.
pub const OTHERS_CONSTRAINT: &str = "others_constraint";
/// The server rejects the row with an error whose number this build does not know, and takes other rows.
pub const ROW_REFUSED: &str = "row_refused";
/// MySQL has no such campaign. MySQL is written before Redis, so such a database is most likely the wrong one or not
/// yet restored: the outbox entry does not end with the dead letter, and the sweeper sends the claim again.
pub const UNKNOWN_CAMPAIGN: &str = "unknown_campaign";

// Of what became of a record, in traces.
pub const ISSUED: &str = "issued";
pub const ALREADY: &str = "already";
pub const REFUSED_CLAIM: &str = "refused";
pub const WAITING: &str = "waiting";
pub const DEAD_LETTERED: &str = "dead_lettered";

// MySQL.
pub const UNREACHABLE: &str = "unreachable";
pub const ACCESS_DENIED: &str = "access_denied";
pub const NO_DATABASE: &str = "no_database";
pub const NO_SCHEMA: &str = "no_schema";
pub const TOO_MANY_CONNECTIONS: &str = "too_many_connections";
pub const READ_ONLY: &str = "read_only";
pub const OUT_OF_SPACE: &str = "out_of_space";
/// The server ended the connection.
pub const GOING_DOWN: &str = "going_down";
/// The server or its cluster takes no writes now.
pub const NOT_READY: &str = "not_ready";
/// Any other error of the server.
pub const REFUSED: &str = "refused";
/// Others write the same rows.
pub const CONTENTION: &str = "contention";
pub const CONSTRAINT: &str = "constraint";
pub const MIGRATION: &str = "migration";
/// A campaign's state is none that this build knows.
pub const STATE: &str = "state";
/// The check of the constraints could not be completed.
pub const CONSTRAINT_CHECK: &str = "constraint_check";
/// The server accepted a row that a constraint must reject.
pub const NO_CONSTRAINTS: &str = "no_constraints";
/// User ids do not come to the database as they are.
pub const CHARACTER_SET: &str = "character_set";
/// The server and the connection cannot agree on how to authenticate.
pub const AUTHENTICATION: &str = "authentication";
pub const PACKET_TOO_LARGE: &str = "packet_too_large";
/// The server cannot log what the service writes.
pub const BINLOG_FORMAT: &str = "binlog_format";

// Redis.
pub const CONNECT: &str = "connect";
pub const TRANSPORT: &str = "transport";
pub const GARBLED: &str = "garbled";
/// No HTTP client can be made.
pub const CLIENT: &str = "client";
/// A script was loaded under another name.
pub const SCRIPT: &str = "script";
/// Too many claims are under way to decide those that wait.
pub const MANY_UNDER_WAY: &str = "many_under_way";
/// A confirmation was dropped since Redis is slower than MySQL.
pub const QUEUE_FULL: &str = "queue_full";

/// The service rejects the token, or Redis the user.
pub const UNAUTHORIZED: &str = "unauthorized";

/// Whether a fault with this label is a refusal of credentials: nothing changes before they are corrected.
#[must_use]
pub fn is_refusal_of_credentials(label: &str) -> bool {
    matches!(label, ACCESS_DENIED | AUTHENTICATION | UNAUTHORIZED)
}

// Kafka.
/// librdkafka refuses a setting.
pub const SETTINGS: &str = "settings";
pub const SUBSCRIBE: &str = "subscribe";
pub const CONSUME: &str = "consume";
/// The consumer will never deliver again.
pub const FATAL: &str = "fatal";
pub const STORE_OFFSET: &str = "store_offset";
pub const COMMIT: &str = "commit";
pub const METADATA: &str = "metadata";
pub const NO_TOPIC: &str = "no_topic";
pub const CREATE_TOPIC: &str = "create_topic";
/// A dead letter was not acknowledged.
pub const DEAD_LETTER: &str = "dead_letter";
/// The dead letters could not be read.
pub const DEAD_LETTERS: &str = "dead_letters";
pub const REPLAY: &str = "replay";
pub const CANCELLED: &str = "cancelled";
pub const TLS: &str = "tls";
pub const ALL_BROKERS_DOWN: &str = "all_brokers_down";
/// Any other error of the client.
pub const OTHER: &str = "other";

// Traces.
pub const TRACES: &str = "traces";
