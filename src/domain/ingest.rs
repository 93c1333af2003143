//! How the entries of a Redis stream are read: from where on, and how many at a time.

use std::fmt;

/// The id of an entry: rising within a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct EntryId {
    /// Milliseconds since the Unix epoch, unless the writer has said otherwise.
    pub time: u64,
    pub number: u64,
}

impl EntryId {
    /// Before the first entry.
    pub const ZERO: Self = Self { time: 0, number: 0 };

    /// Reads what `Display` has written.
    pub fn parse(text: &str) -> Option<Self> {
        let (time, number) = text.split_once('-')?;
        Some(Self { time: time.parse().ok()?, number: number.parse().ok()? })
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.time, self.number)
    }
}

/// One entry, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub id: EntryId,
    /// Names and values in order, of which Redis demands nothing. Empty if the entry was deleted before it was read.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// Memory that its texts take.
    pub fn bytes(&self) -> usize {
        self.fields.iter().map(|(name, value)| name.len() + value.len()).sum()
    }
}

/// After which entry reading begins, if all up to `stored` is stored and the stream has come to `last`. A stream that
/// lies behind was lost, and is another one.
pub fn begin(stored: Option<EntryId>, last: EntryId) -> EntryId {
    stored.filter(|stored| *stored <= last).unwrap_or_default()
}

/// How many entries are asked for at a time: so many that they take about [`Self::BYTES`], going by those before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSize(usize);

impl BatchSize {
    /// At most so many.
    pub const MAX: usize = 1024;
    /// What a batch is to take, in bytes.
    pub const BYTES: usize = 4 << 20;
    /// With how many it begins, of unknown size.
    const FIRST: usize = 16;

    pub fn get(self) -> usize {
        self.0
    }

    /// So many have come, with so many bytes.
    pub fn came(&mut self, entries: usize, bytes: usize) {
        // Those that come after a pause may be of another kind.
        let more = (entries * 2).max(Self::FIRST);
        let fits = bytes.checked_div(entries).map_or(more, |average| Self::BYTES / average.max(1));
        self.0 = fits.min(more).clamp(1, Self::MAX);
    }

    /// They did not come, perhaps because they were too many for the time.
    pub fn failed(&mut self) {
        self.0 = (self.0 / 8).max(1);
    }
}

impl Default for BatchSize {
    fn default() -> Self {
        Self(Self::FIRST)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(text: &str) -> EntryId {
        EntryId::parse(text).expect("an id")
    }

    #[test]
    fn ids_are_read_and_ordered_as_numbers() {
        assert!(id("9-1") < id("10-0") && id("10-2") < id("10-10"));
        assert_eq!(id("18446744073709551615-7").to_string(), "18446744073709551615-7");
        for text in ["", "1", "1-", "-1", "a-1", "1-1-1", "18446744073709551616-0"] {
            assert_eq!(EntryId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_stream_that_lies_behind_is_read_from_its_beginning() {
        assert_eq!(begin(None, id("7-0")), EntryId::ZERO);
        assert_eq!(begin(Some(id("5-1")), id("7-0")), id("5-1"));
        assert_eq!(begin(Some(id("7-0")), id("7-0")), id("7-0"), "all of it is stored");
        assert_eq!(begin(Some(id("7-1")), id("7-0")), EntryId::ZERO);
    }

    proptest! {
        /// Whatever comes, the next batch takes about what it may if its entries are like those before.
        #[test]
        fn a_batch_takes_about_what_it_may(batches in prop::collection::vec(0..10_000_000_usize, 1..50)) {
            let mut size = BatchSize::default();
            for entry_bytes in batches {
                let (before, came) = (size.get(), size.get());
                size.came(came, came * entry_bytes);
                prop_assert!((1..=BatchSize::MAX).contains(&size.get()) && size.get() <= (before * 2).max(16));
                prop_assert!(size.get() == 1 || size.get() * entry_bytes <= BatchSize::BYTES);
            }
        }
    }

    #[test]
    fn what_does_not_come_is_asked_for_in_smaller_batches() {
        let mut size = BatchSize::default();
        (0..10).for_each(|_| size.came(size.get(), size.get() * 100));
        let sizes = std::iter::repeat_with(|| {
            size.failed();
            size.get()
        });
        assert_eq!(sizes.take(4).collect::<Vec<_>>(), [128, 16, 2, 1]);
    }

    #[test]
    fn small_entries_come_in_large_batches() {
        let mut size = BatchSize::default();
        (0..10).for_each(|_| size.came(size.get(), size.get() * 100));
        assert_eq!(size.get(), BatchSize::MAX);
        size.came(100, 100);
        assert_eq!(size.get(), 200, "fewer came: what comes next is of unknown size");
        size.came(0, 0);
        assert_eq!(size, BatchSize::default());
    }
}
