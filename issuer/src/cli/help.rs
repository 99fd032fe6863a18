//! What `--help` prints after the options.

/// The exit statuses of most verbs.
pub const STATUSES: &str = "\
Exit status:
  0  done
  1  failed, and the message gives the reason
  2  invalid arguments or settings, or no such campaign
  3  MySQL, Redis or Kafka did not respond: the result is unknown, and it is safe to run the same command again";

/// The exit statuses of `verify`.
pub const VERDICTS: &str = "\
Exit status, by the verdict:
  0  holds      every promise holds, and nothing is open
  1  violated   a promise is broken; the findings list which, how often, and what repairs it
  2  invalid arguments or settings, or no such campaign
  3  unknown    MySQL, Redis or Kafka did not respond, or does not have the campaign
  4  under way  nothing is broken, and claims are still on their way or wait for you
  5  capacity kept
                nothing is open and every coupon is right, and some users were admitted and then refused

Example:
  issuer verify spring --json | jq .verdict";

pub const RECONCILE: &str = "\
Exit status: that of `issuer verify`, for the final state.

Examples:
  issuer reconcile spring             shows what it would do
  issuer reconcile spring --apply     does it, and verifies again";

pub const DLQ: &str = "\
A dead letter counts as replayed once Kafka has acknowledged it on its original topic. MySQL remembers it
(table dead_letter_replays), so that a second replay sends only the others. Sending twice does no harm.

Examples:
  issuer dlq list --campaign spring --remaining
  issuer dlq show 0/17
  issuer dlq replay --cause unknown_campaign --dry-run
  issuer dlq replay --cause unknown_campaign";

pub const EXPORT: &str = "\
Spreadsheets take a cell that begins with = + - @, one of these in full width, a tab or a return for a
formula. In CSV such a user id gets an apostrophe before it, and standard error reports how many did;
--raw leaves ids unchanged. JSON is never changed.

Examples:
  issuer export spring --format csv --out winners.csv
  issuer export spring --format json --refusals | jq length";

pub const CHECK_CONFIG: &str = "\
Checks everything that `issuer run` needs, and tests each server that is configured. MySQL's constraints
are tested too, in a transaction that is rolled back. Nothing is changed.

Exit status: 0 every check passed, 1 a check failed.";
