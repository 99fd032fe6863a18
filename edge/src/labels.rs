//! The names in the gate's logs and metrics. Each set is small: it is a dimension of the metrics.

/// An enum whose variants are names.
macro_rules! labels {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name {
            $($variant,)*
        }

        impl $name {
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }
    };
}

labels! {
    /// The pattern of a route, never the path itself.
    RouteLabel {
        Claim = "/v1/campaigns/{id}/claims",
        OwnClaim = "/v1/campaigns/{id}/claims/me",
        Campaign = "/v1/campaigns/{id}",
        Health = "/healthz",
        Options = "OPTIONS",
        Unknown = "unknown",
    }
}

labels! {
    /// What a response says. Of a problem it is also the last word of its type.
    Outcome {
        Ok = "ok",
        Options = "options",
        Campaign = "campaign",
        Claim = "claim",
        Admitted = "admitted",
        Again = "again",
        SoldOut = "sold-out",
        Closed = "closed",
        NotOpen = "not-open",
        Paused = "paused",
        UnknownCampaign = "unknown-campaign",
        NoClaim = "no-claim",
        Unauthenticated = "unauthenticated",
        BadRequest = "bad-request",
        NotFound = "not-found",
        MethodNotAllowed = "method-not-allowed",
        TooLarge = "too-large",
        TooLong = "too-long",
        TooManyRequests = "too-many-requests",
        ChallengeFailed = "challenge-failed",
        Unavailable = "unavailable",
        Misconfigured = "misconfigured",
    }
}

labels! {
    /// What the gate was doing when a call failed.
    Activity {
        Request = "request",
        Identity = "identity",
        Keys = "keys",
        Admit = "admit",
        Holders = "holders",
        Forward = "forward",
        Sweep = "sweep",
    }
}

/// Labels of the faults that the gate itself finds. The port for HTTP and the Redis client add theirs.
pub mod fault {
    /// The response is not what the protocol says.
    pub const GARBLED: &str = "garbled";
    /// Another request was to bring the result, and did not in time.
    pub const NO_RESULT: &str = "no_result";
    pub const STATUS: &str = "status";
    pub const REFUSED: &str = "refused";
    pub const BUSY: &str = "busy";
    pub const UNAUTHORIZED: &str = "unauthorized";
    pub const UNKNOWN_TOPIC: &str = "unknown_topic";
    /// Kafka rejected a record within an accepted call.
    pub const RECORD_FAILED: &str = "record_failed";
    pub const QUEUE_FULL: &str = "queue_full";
    pub const BUFFER_FULL: &str = "buffer_full";
    pub const LIMITER: &str = "limiter";
    /// Redis has no campaign at all.
    pub const NO_CAMPAIGNS: &str = "no_campaigns";
    /// A counter that only grows is lower than before.
    pub const WENT_BACK: &str = "went_back";
    pub const UNUSABLE_KEY: &str = "unusable_key";
}
