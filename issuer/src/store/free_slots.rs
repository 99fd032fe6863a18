//! Which slot an admission gets when the proposed one cannot be had.

use std::collections::HashSet;

/// Finds the highest free slots of a campaign while its taken slots are read from the top down.
///
/// The highest, because the lowest free slot is the one that the next admission will propose: to give
/// that one away would make it collide, and the next, and so on down the line.
#[derive(Debug)]
pub struct Gaps<'a> {
    /// The slot looked at next; all above are known.
    next: u32,
    reserved: &'a HashSet<u32>,
    needed: usize,
    free: Vec<u32>,
    full_above: Option<u32>,
}

impl<'a> Gaps<'a> {
    /// Looks for `needed` slots, from `top` down, none of them in `reserved`.
    #[must_use]
    pub fn new(top: u32, reserved: &'a HashSet<u32>, needed: usize) -> Self {
        Self { next: top, reserved, needed, free: Vec::new(), full_above: None }
    }

    /// Whether more taken slots need to be read.
    #[must_use]
    pub fn wants_more(&self) -> bool {
        self.next > 0 && self.free.len() < self.needed
    }

    /// The slot to read on from, downwards.
    #[must_use]
    pub fn next(&self) -> u32 {
        self.next
    }

    /// `slot` is taken. Slots come in descending order.
    pub fn taken(&mut self, slot: u32) {
        self.free_down_to(slot);
        if self.next == slot {
            self.next = slot.saturating_sub(1);
        }
    }

    /// There are no more taken slots below.
    pub fn end(&mut self) {
        self.free_down_to(0);
    }

    /// The slots found, highest first, and the slot above which all are taken for good (rows are never
    /// deleted), so that the next search begins there.
    #[must_use]
    pub fn found(self) -> (Vec<u32>, u32) {
        (self.free, self.full_above.unwrap_or(self.next))
    }

    fn free_down_to(&mut self, taken: u32) {
        while self.next > taken && self.free.len() < self.needed {
            self.full_above.get_or_insert(self.next);
            if !self.reserved.contains(&self.next) {
                self.free.push(self.next);
            }
            self.next -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(top: u32, taken: &[u32], reserved: &[u32], needed: usize) -> (Vec<u32>, u32) {
        let reserved = reserved.iter().copied().collect();
        let mut gaps = Gaps::new(top, &reserved, needed);
        for slot in taken {
            if gaps.wants_more() {
                gaps.taken(*slot);
            }
        }
        gaps.end();
        gaps.found()
    }

    #[test]
    fn the_highest_free_slots_come_first() {
        assert_eq!(search(10, &[10, 9, 7, 3], &[], 3), (vec![8, 6, 5], 8));
        assert_eq!(search(5, &[], &[], 2), (vec![5, 4], 5));
    }

    #[test]
    fn reserved_slots_are_passed_over_but_are_not_taken_yet() {
        assert_eq!(search(5, &[5], &[4, 2], 2), (vec![3, 1], 4));
    }

    #[test]
    fn a_full_campaign_has_none() {
        assert_eq!(search(3, &[3, 2, 1], &[], 1), (vec![], 0));
        assert_eq!(search(0, &[], &[], 1), (vec![], 0), "the search that begins where all is taken");
    }

    #[test]
    fn fewer_than_needed_are_all_there_are() {
        assert_eq!(search(4, &[4, 2], &[], 5), (vec![3, 1], 3));
    }
}

#[cfg(test)]
mod properties {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        /// I10: exactly the highest free slots are found, however the taken ones are paged; and the next search, which
        /// begins below what is full for good, finds what one from the top would.
        #[test]
        fn i10_the_highest_free_slots_are_found(
            top in 0_u32..60,
            taken in prop::collection::btree_set(1_u32..60, 0..50),
            reserved in prop::collection::hash_set(1_u32..60, 0..10),
            needed in 0_usize..12,
            page in 1_usize..8,
        ) {
            let taken: BTreeSet<u32> = taken.into_iter().filter(|slot| *slot <= top).collect();
            let reserved: HashSet<u32> = reserved.into_iter().filter(|slot| !taken.contains(slot)).collect();
            let search = |top: u32, reserved: &HashSet<u32>, needed: usize| {
                let mut gaps = Gaps::new(top, reserved, needed);
                while gaps.wants_more() {
                    let slots: Vec<u32> = taken.range(..=gaps.next()).rev().take(page).copied().collect();
                    let is_last = slots.len() < page;
                    slots.into_iter().for_each(|slot| gaps.taken(slot));
                    if is_last {
                        gaps.end();
                    }
                }
                gaps.found()
            };
            let free = |reserved: &HashSet<u32>| -> Vec<u32> {
                (1..=top).rev().filter(|slot| !taken.contains(slot) && !reserved.contains(slot)).collect()
            };
            let (found, full_above) = search(top, &reserved, needed);
            let expected: Vec<u32> = free(&reserved).into_iter().take(needed).collect();
            prop_assert_eq!(found, expected);
            let none = HashSet::new();
            prop_assert_eq!(search(full_above, &none, 60).0, free(&none));
        }
    }
}
