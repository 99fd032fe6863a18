//! Which server it is, and the constraints that can be switched off.

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
    /// Characters of `user_id` in coupons and waiting claims. Fewer than 128: some users cannot have a row.
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
