//! The cooperative-sticky assignor for one topic that all members subscribe to.
//!
//! | rule | source (librdkafka 2.12.1, src/) |
//! |---|---|
//! | the newest claim to a partition counts; two claims of one generation cancel each other | rdkafka_sticky_assignor.c `prepopulateCurrentAssignments` |
//! | free partitions go to the member with the fewest, ties by member id | `maybeAssignPartition`, `sort_by_map_elem_val_toppar_list_cnt` |
//! | partitions move until no member has two more than another | `performReassignments`, `isBalanced` |
//! | the order in which they are looked at | `sortPartitions`; partitions without an owner come last, from the highest down (the order of `rd_map`, src/rdmap.c) |
//! | a partition whose owner changes is first assigned to no member: its owner revokes it and joins again, then it moves | rdkafka_cgrp.c `rd_kafka_cooperative_protocol_adjust_assignment` (KIP-429) |

use super::wire::{MemberInfo, Partitions};
use std::collections::{BTreeMap, BTreeSet};

type Owners = BTreeMap<String, BTreeSet<i32>>;

/// Divides `count` partitions among `members`.
#[must_use]
pub fn assign(members: &[MemberInfo], count: i32) -> BTreeMap<String, Partitions> {
    cooperative(&sticky(members, count), members)
}

fn sticky(members: &[MemberInfo], count: i32) -> Owners {
    let mut balance = Balance::new(members, count);
    let sorted = balance.order(count);
    let free: Vec<i32> = sorted.iter().copied().filter(|partition| !balance.owner.contains_key(partition)).collect();
    for partition in &free {
        balance.give_to_least(*partition);
    }
    if members.len() > 1 {
        balance.reassign(&free);
        balance.reassign(&sorted);
    }
    balance.owned
}

struct Balance {
    /// As they joined: in this order a better owner is looked for.
    members: Vec<String>,
    owned: Owners,
    owner: BTreeMap<i32, String>,
    previous: BTreeMap<i32, String>,
    /// Partition to the first and the last of those between whom it moved.
    moves: BTreeMap<i32, (String, String)>,
}

impl Balance {
    fn new(members: &[MemberInfo], count: i32) -> Self {
        let mut claims: BTreeMap<i32, Vec<(i32, &str)>> = BTreeMap::new();
        for member in members {
            for partition in member.subscription.owned.iter().filter(|partition| (0..count).contains(*partition)) {
                claims
                    .entry(*partition)
                    .or_default()
                    .push((member.subscription.owned_generation, member.member_id.as_str()));
            }
        }
        let mut balance = Self {
            members: members.iter().map(|member| member.member_id.clone()).collect(),
            owned: members.iter().map(|member| (member.member_id.clone(), BTreeSet::new())).collect(),
            owner: BTreeMap::new(),
            previous: BTreeMap::new(),
            moves: BTreeMap::new(),
        };
        for (partition, mut claims) in claims {
            claims.sort_unstable();
            let generations: BTreeSet<i32> = claims.iter().map(|(generation, _)| *generation).collect();
            if generations.len() < claims.len() {
                continue;
            }
            if let Some((_, owner)) = claims.pop() {
                balance.owned.entry(owner.to_owned()).or_default().insert(partition);
                balance.owner.insert(partition, owner.to_owned());
            }
            if let Some((_, previous)) = claims.pop() {
                balance.previous.insert(partition, previous.to_owned());
            }
        }
        balance
    }

    fn load(&self, member: &str) -> usize {
        self.owned.get(member).map_or(0, BTreeSet::len)
    }

    fn least(&self) -> Option<String> {
        self.owned.iter().min_by_key(|(id, owned)| (owned.len(), *id)).map(|(id, _)| id.clone())
    }

    fn balanced(&self) -> bool {
        let loads = || self.owned.values().map(BTreeSet::len);
        loads().min().unwrap_or(0) + 1 >= loads().max().unwrap_or(0)
    }

    /// The order in which partitions are looked at: from the member with the most, one at a time.
    fn order(&self, count: i32) -> Vec<i32> {
        let mut remaining = self.owned.clone();
        let mut order = Vec::new();
        while let Some((id, owned)) = remaining.iter_mut().max_by_key(|(id, owned)| (owned.len(), (*id).clone())) {
            let moved = owned.iter().copied().find(|partition| self.previous.contains_key(partition));
            let Some(partition) = moved.or_else(|| owned.first().copied()) else {
                let id = id.clone();
                remaining.remove(&id);
                continue;
            };
            owned.remove(&partition);
            order.push(partition);
        }
        if order.is_empty() {
            return (0..count).collect();
        }
        order.extend((0..count).rev().filter(|partition| !self.owner.contains_key(partition)));
        order
    }

    fn give_to_least(&mut self, partition: i32) {
        if let Some(member) = self.least() {
            self.owned.entry(member.clone()).or_default().insert(partition);
            self.owner.insert(partition, member);
        }
    }

    fn reassign(&mut self, partitions: &[i32]) {
        let mut modified = true;
        while modified {
            modified = false;
            for partition in partitions {
                if self.balanced() {
                    return;
                }
                let Some(owner) = self.owner.get(partition).cloned() else {
                    continue;
                };
                let to = match self.previous.get(partition) {
                    Some(previous) if self.load(&owner) > self.load(previous) + 1 => Some(previous.clone()),
                    _ => {
                        let better = |other: &&String| **other != owner && self.load(&owner) > self.load(other) + 1;
                        if self.members.iter().any(|other| better(&other)) { self.least() } else { None }
                    }
                };
                if let Some(to) = to {
                    let partition = self.instead(*partition, &owner, &to);
                    self.move_to(partition, &to);
                    modified = true;
                }
            }
        }
    }

    /// A partition that moved the other way before goes back in its place.
    fn instead(&self, partition: i32, from: &str, to: &str) -> i32 {
        let from = self.moves.get(&partition).map_or(from, |(first, _)| first.as_str());
        let back = |(_, pair): &(&i32, &(String, String))| pair.0 == to && pair.1 == from;
        self.moves.iter().find(back).map_or(partition, |(back, _)| *back)
    }

    fn move_to(&mut self, partition: i32, to: &str) {
        let Some(from) = self.owner.insert(partition, to.to_owned()) else {
            return;
        };
        let first = self.moves.remove(&partition).map_or_else(|| from.clone(), |(first, _)| first);
        if first != to {
            self.moves.insert(partition, (first, to.to_owned()));
        }
        if let Some(owned) = self.owned.get_mut(&from) {
            owned.remove(&partition);
        }
        self.owned.entry(to.to_owned()).or_default().insert(partition);
    }
}

/// Removes partitions that another member still owns; keeps owned partitions that the assignor does not know.
fn cooperative(assigned: &Owners, members: &[MemberInfo]) -> BTreeMap<String, Partitions> {
    let mut owners: BTreeMap<i32, &str> = BTreeMap::new();
    for member in members {
        owners.extend(member.subscription.owned.iter().map(|partition| (*partition, member.member_id.as_str())));
    }
    let mut result: BTreeMap<String, Partitions> =
        members.iter().map(|member| (member.member_id.clone(), Partitions::new())).collect();
    for (member, partitions) in assigned {
        for partition in partitions {
            if owners.remove(partition).is_none_or(|owner| owner == member) {
                result.entry(member.clone()).or_default().insert(*partition);
            }
        }
    }
    for (partition, owner) in owners {
        result.entry(owner.to_owned()).or_default().insert(partition);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::super::wire::Subscription;
    use super::*;

    fn member(id: &str, owned: &[i32], owned_generation: i32) -> MemberInfo {
        let subscription = Subscription { owned: owned.iter().copied().collect(), owned_generation };
        MemberInfo { member_id: id.to_owned(), instance_id: None, subscription }
    }

    fn lists(assigned: &BTreeMap<String, Partitions>) -> Vec<Vec<i32>> {
        assigned.values().map(|partitions| partitions.iter().copied().collect()).collect()
    }

    #[test]
    fn a_first_member_gets_all_and_a_second_half_of_them_in_two_steps() {
        assert_eq!(lists(&assign(&[member("a", &[], -1)], 4)), [vec![0, 1, 2, 3]]);
        let first = assign(&[member("a", &[0, 1, 2, 3], 1), member("b", &[], -1)], 4);
        assert_eq!(lists(&first), [vec![2, 3], vec![]], "not before they are revoked");
        let second = assign(&[member("a", &[2, 3], 2), member("b", &[], 2)], 4);
        assert_eq!(lists(&second), [vec![2, 3], vec![0, 1]]);
    }

    #[test]
    fn what_a_dead_member_had_goes_to_those_with_the_fewest_and_nothing_else_moves() {
        let three = assign(&[member("a", &[0, 1], 3), member("b", &[2, 3], 3)], 6);
        assert_eq!(lists(&three), [vec![0, 1, 5], vec![2, 3, 4]]);
    }

    #[test]
    fn the_newest_claim_counts() {
        let stale = assign(&[member("a", &[0, 1], 2), member("b", &[0], 5)], 2);
        assert_eq!(lists(&stale), [vec![1], vec![0]]);
        // Two claims of one generation: neither keeps partition 0, and no member gets it before both have revoked it.
        let same = assign(&[member("a", &[0], 5), member("b", &[0], 5)], 2);
        assert_eq!(lists(&same), [vec![], vec![1]]);
    }
}
