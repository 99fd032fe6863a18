//! Who a user is: credentials, checks without I/O, and the public keys that need I/O.

use crate::cache::single_flight::SingleFlight;
use crate::http::problem::{Problem, Rejection};
use crate::identity::jwks::{PublicKey, candidates, read_keys};
use crate::identity::jwt::{Algorithm, TokenError, UnverifiedSignature};
use crate::identity::{Auth, AuthError, Identity};
use crate::labels::{self, Activity};
use crate::platform::{Network, Platform};
use crate::telemetry::Telemetry;
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::http::HttpResponse;
use dropgate_shared::ids::UserId;
use dropgate_shared::time::Millis;
use std::rc::Rc;

/// Time limit of one fetch of the key set, in ms.
const DEADLINE_MS: u32 = 5_000;
/// How long a request waits for the keys, and a fetch reserves its turn.
const TIMEOUT: Millis = Millis(5_500);
/// From this age on the keys are fetched again, while the old ones are used.
const FRESH: Millis = Millis(600_000);
/// Older keys are not used: a key that is withdrawn is accepted for an hour at most.
const STALE: Millis = Millis(3_600_000);
/// Time between two fetches because of an unknown key id: anybody can make one up.
const COOLDOWN: Millis = Millis(10_000);
/// Time after a fetch that failed until the next.
const AFTER_FAULT: Millis = Millis(1_000);
/// Keys that are tried for one token at most: a token without a key id may be of any key of its algorithm.
const TRIES: usize = 16;

type Keys = Rc<Vec<PublicKey>>;

/// Owns the kind of authentication and the public keys that the isolate has fetched.
pub struct Authenticator<H> {
    network: H,
    auth: Auth,
    keys: SingleFlight<Keys>,
    telemetry: Rc<Telemetry>,
}

impl<H: Network> Authenticator<H> {
    #[must_use]
    pub fn new(network: H, auth: Auth, telemetry: Rc<Telemetry>) -> Self {
        Self { network, auth, keys: SingleFlight::default(), telemetry }
    }

    /// What needs no I/O.
    #[must_use]
    pub fn auth(&self) -> &Auth {
        &self.auth
    }

    /// Verifies the signature, if that needs a public key. Returns the user, who is now certain.
    ///
    /// # Errors
    /// A [`Problem`], or a [`Fault`] where the keys are not available: then nobody is accepted and nobody refused.
    pub async fn verify<P: Platform>(self: &Rc<Self>, identity: Identity, platform: &P) -> Result<UserId, Rejection> {
        let (user, signature) = match identity {
            Identity::Verified(user) => return Ok(user),
            Identity::Unverified(user, signature) => (user, signature),
        };
        let reject = |error: TokenError| Rejection::from(self.reject(&error.into(), platform));
        let Auth::KeySet { url, accepted, .. } = &self.auth else { return Err(reject(TokenError::Missing)) };
        if !accepted.iter().any(|algorithm| algorithm.name() == signature.algorithm) {
            // No key can help, so none is fetched.
            return Err(reject(TokenError::OtherAlgorithm));
        }
        let keys = self.keys_for(url, accepted, &signature, platform).await?;
        let mut tried = candidates(&keys, &signature, accepted);
        let mut none = true;
        for key in tried.by_ref().take(TRIES) {
            none = false;
            match self.network.verify(key, signature.message.as_bytes(), &signature.bytes).await {
                Ok(true) => return Ok(user),
                Ok(false) => {}
                Err(fault) => self.telemetry.record_fault(Activity::Identity, &fault, platform),
            }
        }
        let untried = tried.next().is_some();
        Err(reject(match none {
            true => TokenError::NoSuchKey,
            false if untried => TokenError::TooManyKeys,
            false => TokenError::BadSignature,
        }))
    }

    /// The problem for the visitor. The reason goes to the operator only.
    pub fn reject<P: Platform>(&self, error: &AuthError, platform: &P) -> Problem {
        self.telemetry.record_unauthenticated(error.label(), platform);
        error.problem()
    }

    /// The keys, once they have one that may have made `signature`, or a fetch has shown that there is none.
    async fn keys_for<P: Platform>(
        self: &Rc<Self>,
        url: &str,
        accepted: &[Algorithm],
        signature: &UnverifiedSignature,
        platform: &P,
    ) -> Result<Keys, Fault> {
        let began = platform.now();
        let deadline = began + TIMEOUT;
        let fetch = |now: Millis| {
            if self.keys.try_lead(now, TIMEOUT) {
                // In the background: a client that disconnects must not strand the others.
                platform.spawn(Rc::clone(self).fetch_keys(url.to_owned(), platform.clone()));
            }
        };
        loop {
            let now = platform.now();
            let since_last = now - self.keys.began();
            if let Some((asked, keys)) = self.keys.fresh(now, STALE) {
                if candidates(&keys, signature, accepted).next().is_some() {
                    if now - asked >= FRESH && since_last >= COOLDOWN {
                        fetch(now);
                    }
                    return Ok(keys);
                }
                // These are the keys of the last fetch, and it is too early for another.
                if !self.keys.is_fetching(now) && since_last < COOLDOWN && asked >= self.keys.began() {
                    return Ok(keys);
                }
            }
            if let Some(fault) = self.keys.fault_since(began - AFTER_FAULT) {
                return Err(fault);
            }
            if now >= deadline {
                let detail = "no keys from another request in time";
                return Err(Fault::none(Source::KeySet, labels::fault::NO_RESULT, true, detail));
            }
            fetch(now);
            self.keys.ended(deadline, platform).await;
        }
    }

    async fn fetch_keys<P: Platform>(self: Rc<Self>, url: String, platform: P) {
        let asked = platform.now();
        let fault = |label, detail: String| Fault::none(Source::KeySet, label, true, detail);
        let result = match self.network.get(&url, DEADLINE_MS).await {
            Ok(HttpResponse { status: 200, body }) => read_keys(&body)
                .filter(|keys| !keys.is_empty())
                .map(Rc::new)
                .ok_or_else(|| fault(labels::fault::GARBLED, "the document has no usable key".to_owned())),
            Ok(HttpResponse { status, .. }) => Err(fault(labels::fault::STATUS, format!("status {status}"))),
            Err(failed) => Err(fault(failed.label, failed.detail)),
        };
        if let Err(fault) = &result {
            self.telemetry.record_fault(Activity::Keys, fault, &platform);
        }
        self.keys.complete(asked, platform.now(), result);
    }
}
