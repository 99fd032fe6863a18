//! Switches that take away what the issuer's Kafka adapter does in its callbacks. The decisions themselves are the
//! issuer's own: [`dropgate_issuer::kafka::assignment`].

/// What a member carries out of [`dropgate_issuer::kafka::assignment::Assignment`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdapterRules {
    /// At assign, new partitions are resumed, or paused if the application's last call was `pause`. Off: a partition
    /// keeps the flag that it had when it was assigned last.
    pub resume_on_assign: bool,
    /// At revoke, what is stored is committed, and the callback waits for it.
    pub commit_on_revoke: bool,
    /// At revoke, the application can learn from `revoked` which of its records in hand are void.
    pub report_revoked: bool,
    /// Stored offsets that do not exceed the committed ones are committed.
    pub commit_back: bool,
    /// A client that reads nothing although there are records is replaced.
    pub replace_silent: bool,
    /// An offset is stored as soon as its record is received.
    pub store_at_once: bool,
}

impl Default for AdapterRules {
    /// As the issuer's adapter is.
    fn default() -> Self {
        Self {
            resume_on_assign: true,
            commit_on_revoke: true,
            report_revoked: true,
            commit_back: true,
            replace_silent: true,
            store_at_once: false,
        }
    }
}
