//! Values on their way into and out of statements.

use crate::labels;
use crate::store::ports::{StoreError, StoreResult};
use crate::store::rows::{Holder, entry};
use dropgate_shared::campaign::CampaignState;
use dropgate_shared::claim::ClaimStatus;
use dropgate_shared::fault::{Fault, Source};
use sqlx::{MySql, QueryBuilder};
use time::PrimitiveDateTime;

/// `(?, ?, ..)`
pub(super) fn list<'a, T>(sql: &mut QueryBuilder<MySql>, values: &'a [T])
where
    &'a T: sqlx::Encode<'a, MySql> + sqlx::Type<MySql>,
{
    sql.push("(");
    let mut list = sql.separated(", ");
    for value in values {
        list.push_bind(value);
    }
    sql.push(")");
}

pub(super) fn holders(
    rows: Vec<(String, u32, PrimitiveDateTime)>,
    status: ClaimStatus,
) -> impl Iterator<Item = Holder> {
    rows.into_iter().filter_map(move |(user, slot, admitted_at)| Some((user, entry(slot, admitted_at, status)?)))
}

/// The schema allows no other state.
pub(super) fn parse_state(text: &str) -> StoreResult<CampaignState> {
    text.parse().map_err(|error| {
        StoreError::Away(Fault::none(
            Source::MySql,
            labels::STATE,
            false,
            format!("campaigns.state is {text:?}: {error}"),
        ))
    })
}
