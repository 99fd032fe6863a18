//! The only source of randomness in the simulator.
//!
//! The generator is xoshiro256** (Blackman and Vigna, <https://prng.di.unimi.it/xoshiro256starstar.c>, public
//! domain), seeded through SplitMix64 as its authors advise. Both are frozen by golden tests: a change
//! makes every recorded seed worthless.

use std::ops::RangeInclusive;

/// A stream of random numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Random {
    seed: u64,
    state: [u64; 4],
}

impl Random {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut mixer = seed;
        Self { seed, state: std::array::from_fn(|_| split_mix(&mut mixer)) }
    }

    /// The stream named `label` below this one.
    ///
    /// It depends on the seed and the label alone, not on what was drawn so far. So one more draw in one
    /// place shifts nothing elsewhere, which keeps a failing run recognisable while it is shrunk. The
    /// same label gives the same stream.
    #[must_use]
    pub fn split(&self, label: &str) -> Self {
        let mut mixer = self.seed ^ hash(label.as_bytes());
        Self::new(split_mix(&mut mixer))
    }

    pub fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = &mut self.state;
        let result = b.wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = *b << 17;
        *c ^= *a;
        *d ^= *b;
        *b ^= *c;
        *a ^= *d;
        *c ^= shifted;
        *d = d.rotate_left(45);
        result
    }

    /// A number in `0..n`, each equally likely; 0 for `n` = 0.
    pub fn below(&mut self, n: u64) -> u64 {
        // Lemire's method: the high half of a product, without the part that would favour small numbers.
        loop {
            let product = u128::from(self.next_u64()) * u128::from(n);
            let (high, low) = ((product >> 64) as u64, product as u64);
            if low >= n.wrapping_neg().checked_rem(n).unwrap_or(0) {
                return high;
            }
        }
    }

    /// A number in `range`, both ends included.
    pub fn range(&mut self, range: RangeInclusive<u64>) -> u64 {
        let (start, end) = range.into_inner();
        match end.checked_sub(start).map(|width| width.checked_add(1)) {
            Some(Some(width)) => start + self.below(width),
            Some(None) => self.next_u64(),
            None => start,
        }
    }

    /// True with probability `p`. Draws one number whatever `p` is.
    pub fn chance(&mut self, p: f64) -> bool {
        ((self.next_u64() >> 11) as f64) < p * (1u64 << 53) as f64
    }

    /// One of `items`; `None` if there are none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        items.get(self.below(items.len() as u64) as usize)
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// FNV-1a, 64 bits.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// The place of `bytes` in an order that is arbitrary, and fixed by `seed`.
pub(crate) fn place(seed: u64, bytes: &[u8]) -> u64 {
    split_mix(&mut (seed ^ hash(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_sequences_come_out() {
        let mut state = 1_234_567;
        let mixed: [u64; 5] = std::array::from_fn(|_| split_mix(&mut state));
        assert_eq!(
            mixed,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423,
                4_593_380_528_125_082_431,
                16_408_922_859_458_223_821
            ]
        );
        let mut random = Random { seed: 0, state: [1, 2, 3, 4] };
        let drawn: [u64; 6] = std::array::from_fn(|_| random.next_u64());
        let expected = [11520, 0, 1_509_978_240, 1_215_971_899_390_074_240, 1_216_172_134_540_287_360];
        assert_eq!(drawn[..5], expected);
        assert_eq!(drawn[5], 607_988_272_756_665_600);
        assert_eq!(hash(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn what_a_seed_gives_is_frozen() {
        let mut random = Random::new(42);
        let mut items: Vec<u64> = (0..8).collect();
        random.shuffle(&mut items);
        let mut child = random.split("redis");
        let seen = (
            random.next_u64(),
            random.below(1_000),
            random.range(5..=7),
            random.chance(0.5),
            random.pick(&items).copied(),
            child.next_u64(),
            items,
        );
        let first = 15_679_888_225_317_814_407;
        let of_child = 3_290_059_682_378_550_919;
        assert_eq!(seen, (first, 761, 6, false, Some(6), of_child, vec![7, 1, 6, 3, 5, 4, 2, 0]));
    }

    #[test]
    fn a_child_depends_on_seed_and_label_alone() {
        let mut parent = Random::new(7);
        let before = parent.split("a");
        parent.next_u64();
        assert_eq!(before, parent.split("a"));
        assert_ne!(before, parent.split("b"));
        assert_ne!(before, Random::new(8).split("a"));
    }

    #[test]
    fn draws_stay_in_their_bounds_and_reach_them() {
        let mut random = Random::new(1);
        let mut seen = [0u32; 5];
        for _ in 0..5_000 {
            seen[random.below(5) as usize] += 1;
        }
        assert!(seen.iter().all(|count| (850..1_150).contains(count)), "{seen:?}");
        let ends: Vec<u64> = (0..100).map(|_| random.range(3..=4)).collect();
        assert!(ends.contains(&3) && ends.contains(&4) && ends.iter().all(|n| (3..=4).contains(n)));
        assert_eq!((random.below(0), random.below(1), random.range(9..=9)), (0, 0, 9));
        random.range(0..=u64::MAX);
        assert!((0..100).all(|_| random.chance(1.0) && !random.chance(0.0)));
        assert_eq!(random.pick::<u8>(&[]), None);
    }
}
