//! An error whose number dropgate does not know: does it blame the row, or the server?
//!
//! The row, only if the server rejects it again and again, and takes a trial row before, between and after: the same
//! claim of a user who does not exist, written the same way, in a transaction that is rolled back. So the two rows
//! differ in nothing but the user, meet the same locks, and work in a full campaign and with the service's rights. An
//! error that comes only with COMMIT blames no row.

use super::coupon_writer::{Blame, CouponWriter, DEADLINE, Row};
use super::ports::{Session, Store, StoreError, StoreResult};
use crate::consume::ports::Admission;
use dropgate_shared::fault::Fault;
use dropgate_shared::ids::UserId;
use dropgate_shared::record::AdmissionRecord;

impl<S: Store> CouponWriter<S> {
    /// Judges a row, which is alone and was rejected with `fault`. Leaves nothing behind.
    pub(super) async fn blame(&self, rows: &[Row<'_>], fault: &Fault) -> Blame {
        let ([row], Ok(mut session)) = (rows, self.store.session().await) else { return Blame::Server };
        match tokio::time::timeout(DEADLINE, self.try_rows(&mut session, row, fault)).await {
            Ok(Ok(blame)) => blame,
            _ => {
                // Nobody knows its state: the pool must not hand it out again.
                session.discard();
                Blame::Server
            }
        }
    }

    async fn try_rows(&self, session: &mut S::Session, row: &Row<'_>, fault: &Fault) -> StoreResult<Blame> {
        let Ok(user) = UserId::parse(&format!("dropgate-trial-{:016x}", self.random())) else {
            return Ok(Blame::Server);
        };
        let record = AdmissionRecord { user, ..row.admission.record.clone() };
        let admission = Admission { record, ..row.admission.clone() };
        let trial = Row { index: row.index, admission: &admission, code: row.code.clone() };
        let mut blame = Blame::Row;
        for is_trial in [true, false, true, false, true] {
            session.begin().await?;
            let tried = self.resolve_campaign(session, row.campaign(), &[if is_trial { &trial } else { row }]).await;
            session.rollback().await?;
            match tried {
                Ok(_) if is_trial => {}
                Err(StoreError::Data(_) | StoreError::OthersConstraint(_)) if is_trial => {
                    blame = Blame::RowIfAnotherIsWritten;
                }
                // The server has answered, so the session is usable.
                Err(StoreError::Away(again)) if !is_trial && again.detail == fault.detail => {}
                _ => return Ok(Blame::Server),
            }
        }
        Ok(blame)
    }
}
