//! A model of the MySQL server that the issuer writes to.

mod connection;
mod engine;
mod error;
mod faults;
mod locks;
mod rows;
mod server;
mod session;
mod statements;
mod table_locks;
mod tables;
mod text;
mod view;

#[cfg(test)]
mod tests;

pub use faults::{At, Away, Dice, Place, Sink, Strike};
pub use rows::{CampaignRow, Coupon, LostRow, Refusal};
pub use server::{Server, Settings};
pub use session::{ModelSession, ModelStore};
pub use table_locks::{Table, TableLock};

/// Which server this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavor {
    /// 9.7.
    MySql,
    /// 10.11.
    MariaDb,
}

/// The constraints of the schema, each of which can be switched off to see that the oracle notices.
#[derive(Debug, Clone, Copy)]
pub struct Schema {
    /// Primary key of `coupons`: a slot is given away once.
    pub is_slot_unique: bool,
    /// `coupon_user`: a user has one coupon.
    pub is_user_unique: bool,
    /// `coupon_slot`: a slot does not exceed the allotment.
    pub is_slot_checked: bool,
    /// `coupon_allotment`: the allotment was granted.
    pub is_allotment_foreign_key: bool,
    /// Characters of `coupons.user_id`. Fewer than 128: some users cannot have a row.
    pub user_chars: usize,
}

impl Default for Schema {
    fn default() -> Self {
        Self {
            is_slot_unique: true,
            is_user_unique: true,
            is_slot_checked: true,
            is_allotment_foreign_key: true,
            user_chars: 128,
        }
    }
}
