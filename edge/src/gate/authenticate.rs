//! The part of an identity that needs I/O: the public keys, and what they say about a signature.

use crate::gate::{Gate, Network, Rejection};
use crate::identity::jwks::{PublicKey, candidates, read_keys};
use crate::identity::jwt::{Algorithm, Signed};
use crate::identity::{Auth, BAD_TOKEN, Identity};
use crate::platform::Platform;
use dropgate_shared::fault::{Fault, Source};
use dropgate_shared::ids::UserId;
use std::rc::Rc;

/// How long one fetch of the key set may take, ms.
const DEADLINE_MS: u32 = 5_000;
/// From this age on the keys are fetched anew while the old ones serve, ms.
const FRESH_MS: u64 = 600_000;
/// Older keys are not believed: whoever withdraws one is heard after an hour at the latest, ms.
const STALE_MS: u64 = 3_600_000;
/// Between two fetches for the sake of a key id that nobody knows, ms: anybody can make one up.
const COOLDOWN_MS: u64 = 10_000;
/// After a fetch that failed, ms.
const AFTER_FAULT_MS: u64 = 1_000;
/// Between two looks for keys that another request fetches, ms.
const LOOK_MS: u32 = 10;
/// Keys tried for one token at most.
const TRIES: usize = 4;

/// The keys an isolate knows.
pub type Keys = Rc<Vec<PublicKey>>;

impl<H: Network> Gate<H> {
    /// Who the visitor is, now surely.
    pub(crate) async fn user<P: Platform>(
        self: &Rc<Self>,
        identity: Identity,
        platform: &P,
    ) -> Result<UserId, Rejection> {
        let (user, signed) = match identity {
            Identity::Known(user) => return Ok(user),
            Identity::Signed(user, signed) => (user, signed),
        };
        let Auth::KeySet { url, accepted, .. } = &self.auth else { return Err(BAD_TOKEN.into()) };
        let keys = self.keys_for(url, accepted, &signed, platform).await?;
        for key in candidates(&keys, &signed, accepted).take(TRIES) {
            match self.network.verify(key, signed.message.as_bytes(), &signed.signature).await {
                Ok(true) => return Ok(user),
                Ok(false) => {}
                Err(detail) => {
                    self.report("identity", &Fault::none(Source::KeySet, "unusable_key", false, detail), platform);
                }
            }
        }
        Err(BAD_TOKEN.into())
    }

    async fn keys_for<P: Platform>(
        self: &Rc<Self>,
        url: &str,
        accepted: &[Algorithm],
        signed: &Signed,
        platform: &P,
    ) -> Result<Keys, Fault> {
        let begun_ms = platform.now_ms();
        let deadline_ms = begun_ms.saturating_add(u64::from(DEADLINE_MS)).saturating_add(500);
        let fetch = |now_ms: u64| {
            if self.keys.try_lead(now_ms, u64::from(DEADLINE_MS).saturating_add(500)) {
                // Not as a part of this request: a visitor who hangs up must not strand the others.
                platform.after_answer(Rc::clone(self).fetch_keys(url.to_owned(), platform.clone()));
            }
        };
        loop {
            let now_ms = platform.now_ms();
            let since_try_ms = now_ms.saturating_sub(self.keys.tried_ms());
            if let Some((asked_ms, keys)) = self.keys.fresh(now_ms, STALE_MS) {
                if candidates(&keys, signed, accepted).next().is_some() {
                    if now_ms.saturating_sub(asked_ms) >= FRESH_MS && since_try_ms >= COOLDOWN_MS {
                        fetch(now_ms);
                    }
                    return Ok(keys);
                }
                if !self.keys.fetching(now_ms) && since_try_ms < COOLDOWN_MS && asked_ms >= self.keys.tried_ms() {
                    return Ok(keys);
                }
            }
            if let Some(fault) = self.keys.fault_since(begun_ms.saturating_sub(AFTER_FAULT_MS)) {
                return Err(fault);
            }
            if now_ms >= deadline_ms {
                return Err(Fault::none(Source::KeySet, "patience", true, "no keys in time"));
            }
            fetch(now_ms);
            platform.sleep(LOOK_MS).await;
        }
    }

    async fn fetch_keys<P: Platform>(self: Rc<Self>, url: String, platform: P) {
        let asked_ms = platform.now_ms();
        let result = match self.network.get(&url, DEADLINE_MS).await {
            Ok(response) if response.status == 200 => {
                read_keys(&response.body).filter(|keys| !keys.is_empty()).ok_or_else(|| {
                    Fault::none(Source::KeySet, "garbled", true, "the document holds no key that can be used")
                })
            }
            Ok(response) => Err(Fault::none(Source::KeySet, "status", true, format!("status {}", response.status))),
            Err(fault) => Err(Fault::none(Source::KeySet, fault.label, true, fault.detail)),
        };
        if let Err(fault) = &result {
            self.report("keys", fault, &platform);
        }
        self.keys.complete(asked_ms, platform.now_ms(), result.map(Rc::new));
    }
}
