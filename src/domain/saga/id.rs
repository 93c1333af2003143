//! The ids of instances: UUIDv7 (RFC 9562), so that they sort by age.

use crate::domain::event::Timestamp;

/// Gives ids that rise.
#[derive(Debug, Default)]
pub struct SagaIds {
    /// Milliseconds, and what comes after them but the fixed bits.
    last: (u64, u128),
}

/// How many bits of an id are random.
const RANDOM_BITS: u32 = 74;

impl SagaIds {
    /// The next id. `random` is anything.
    pub fn next(&mut self, now: Timestamp, random: u128) -> String {
        let millis = u64::try_from(now.0 / 1000).unwrap_or(0);
        self.last = if millis > self.last.0 {
            // Half of the range is left to count on within the millisecond.
            (millis, random & ((1 << (RANDOM_BITS - 1)) - 1))
        } else {
            (self.last.0, self.last.1 + 1 + random % (1 << 32))
        };
        let (millis, rest) = self.last;
        let (high, low) = ((rest >> 62) & 0xfff, rest & ((1 << 62) - 1));
        let id = (u128::from(millis) & 0xffff_ffff_ffff) << 80 | 7 << 76 | high << 64 | 2 << 62 | low;
        let hex = format!("{id:032x}");
        format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_rise_and_are_uuids_of_version_7() {
        let (mut ids, mut last) = (SagaIds::default(), String::new());
        for n in 0..10_000u128 {
            let now = Timestamp(1_790_000_000_000_000 + (n as i64 / 100) * 700 - 5_000 * i64::from(n % 997 == 0));
            let id = ids.next(now, n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c834));
            assert!(id > last, "{id} {last}");
            assert_eq!((id.len(), &id[14..15]), (36, "7"));
            assert!("89ab".contains(&id[19..20]), "{id}");
            last = id;
        }
    }
}
