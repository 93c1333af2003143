//! Digests: short sums over all entities of a type, by which two sides find where they differ.
//!
//! The bucket of a key is the first 8 bytes of `SHA-256(key)`, big-endian, modulo the number of buckets. The digest of a
//! bucket is the exclusive or over its entities of the first 8 bytes of `SHA-256(key ‖ 0x00 ‖ version in decimal)`. It
//! finds accidents, not forgeries.

use sha2::{Digest as _, Sha256};

use super::Version;

/// Most buckets.
pub const MAX_BUCKETS: u32 = 1 << 16;

/// What an entity adds to a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Its bucket, among [`MAX_BUCKETS`]. Among fewer, it is the remainder.
    pub slot: u32,
    /// What goes into the digest of the bucket.
    pub sum: u64,
}

impl Mark {
    pub fn of(key: &str, version: Version) -> Self {
        Self { slot: Self::slot(key), sum: Self::sum(key, version) }
    }

    /// The bucket of a key, among [`MAX_BUCKETS`].
    pub fn slot(key: &str) -> u32 {
        (first_bytes(Sha256::digest(key)) % u64::from(MAX_BUCKETS)) as u32
    }

    fn sum(key: &str, version: Version) -> u64 {
        first_bytes(Sha256::new().chain_update(key).chain_update([0]).chain_update(version.to_string()).finalize())
    }
}

fn first_bytes(hash: impl AsRef<[u8]>) -> u64 {
    hash.as_ref().first_chunk().copied().map_or(0, u64::from_be_bytes)
}

/// The digests of all buckets of a type, and how many entities they are over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Buckets {
    pub count: u64,
    pub sums: Vec<u64>,
}

impl Buckets {
    /// No entities. The number of buckets is a power of two, at most [`MAX_BUCKETS`].
    pub fn new(buckets: u32) -> Self {
        debug_assert!(buckets.is_power_of_two() && buckets <= MAX_BUCKETS);
        Self { count: 0, sums: vec![0; buckets as usize] }
    }

    /// Adds an entity.
    pub fn insert(&mut self, mark: Mark) {
        self.count += 1;
        self.toggle(mark);
    }

    /// Takes an entity out again.
    pub fn remove(&mut self, mark: Mark) {
        self.count = self.count.saturating_sub(1);
        self.toggle(mark);
    }

    fn toggle(&mut self, Mark { slot, sum }: Mark) {
        let bucket = slot as usize & (self.sums.len() - 1);
        self.sums[bucket] ^= sum;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The figures are those of `hashlib` in Python.
    #[test]
    fn the_digest_is_the_documented_one() {
        assert_eq!(Mark::of("a1", 57), Mark { slot: 13152, sum: 0xdef02fac8c486aa2 });
    }

    proptest! {
        #[test]
        fn fewer_buckets_are_the_sum_of_more(entities in prop::collection::vec(("[a-z]{1,8}", 1i64..1000), 0..60)) {
            let digest = |buckets| {
                let mut made = Buckets::new(buckets);
                entities.iter().for_each(|(key, version)| made.insert(Mark::of(key, *version)));
                made
            };
            let (fine, coarse) = (digest(64), digest(4));
            let mut folded = vec![0; 4];
            fine.sums.iter().enumerate().for_each(|(at, sum)| folded[at % 4] ^= sum);
            prop_assert_eq!(coarse.sums, folded);
        }

        #[test]
        fn what_is_taken_out_leaves_nothing(entities in prop::collection::vec(("[a-z]{1,8}", 1i64..1000), 0..60)) {
            let mut buckets = Buckets::new(16);
            entities.iter().for_each(|(key, version)| buckets.insert(Mark::of(key, *version)));
            entities.iter().for_each(|(key, version)| buckets.remove(Mark::of(key, *version)));
            prop_assert_eq!(buckets, Buckets::new(16));
        }
    }
}
