//! The names that a schema knows, by number: a member of a payload is looked up once, when it is read.

use std::collections::HashMap;

/// The number of a name that is not known.
pub(super) const UNKNOWN: u32 = u32::MAX;
/// Places that are tried, one after the other, before a name counts as unknown.
const MAX_TRIES: usize = 8;
/// Ways to spread the names that are tried before they are searched in order instead.
const SPREADS: u64 = 16;

/// Names being collected.
#[derive(Default)]
pub(super) struct Collected {
    numbers: HashMap<Box<str>, u32>,
    names: Vec<Box<str>>,
}

impl Collected {
    pub(super) fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.names.len() as u32;
        self.names.push(name.into());
        self.numbers.insert(name.into(), number);
        number
    }

    pub(super) fn finish(self) -> Names {
        let names = self.names;
        let size = (names.len() * 4).next_power_of_two();
        let spread = (1..=SPREADS).find_map(|seed| Some((seed, spread(&names, seed, size)?)));
        let (seed, table) = spread.unwrap_or_default();
        let mut sorted: Vec<u32> = (0..names.len() as u32).collect();
        sorted.sort_unstable_by_key(|number| &names[*number as usize]);
        let (mut texts, mut starts) = (String::new(), vec![0]);
        for name in &names {
            texts.push_str(name);
            texts.push('"');
            starts.push(texts.len() as u32);
        }
        let is_plain = |name: &str| !name.bytes().any(|byte| matches!(byte, b'"' | b'\\' | 0..=0x1f));
        let plain = names.iter().map(|name| is_plain(name)).collect();
        Names { texts, starts, plain, seed, table, sorted }
    }
}

/// A table in which each name is found in a few tries; nothing if this seed makes none.
fn spread(names: &[Box<str>], seed: u64, size: usize) -> Option<Vec<u32>> {
    let mut table = vec![UNKNOWN; size + MAX_TRIES];
    for (number, name) in names.iter().enumerate() {
        let first = hash(name.as_bytes(), seed) as usize & (size - 1);
        let free = (first..first + MAX_TRIES).find(|place| table[*place] == UNKNOWN)?;
        table[free] = number as u32;
    }
    Some(table)
}

/// The names of a schema. Who writes the schema cannot make a look-up cost more than `MAX_TRIES` comparisons, or
/// those of a binary search.
#[derive(Default)]
pub(super) struct Names {
    /// One after the other, each with a quotation mark behind it, so that a payload which has them in order reads them in
    /// order.
    texts: String,
    /// Where each begins, and where the last one ends.
    starts: Vec<u32>,
    /// Whether each is written in JSON as it is.
    plain: Vec<bool>,
    seed: u64,
    /// Numbers by hash; empty if no seed spreads them well.
    table: Vec<u32>,
    /// Numbers in the order of their names.
    sorted: Vec<u32>,
}

impl Names {
    pub(super) fn len(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    pub(super) fn text(&self, number: u32) -> &str {
        self.get(number).unwrap_or_default()
    }

    fn get(&self, number: u32) -> Option<&str> {
        let [start, end] = self.starts.get(number as usize..)?.first_chunk()?;
        Some(&self.texts[*start as usize..*end as usize - 1])
    }

    /// The length of this name, if a JSON text begins with it and the quotation mark behind it.
    #[inline]
    pub(super) fn length_at(&self, json: &[u8], number: u32) -> Option<usize> {
        let [start, end] = self.starts.get(number as usize..)?.first_chunk()?;
        let name = &self.texts.as_bytes()[*start as usize..*end as usize];
        (same(json.get(..name.len())?, name) && self.plain[number as usize]).then(|| name.len() - 1)
    }

    /// The number of a name.
    pub(super) fn find(&self, name: &str) -> u32 {
        if self.table.is_empty() {
            let found = self.sorted.binary_search_by(|number| self.text(*number).cmp(name));
            return found.map_or(UNKNOWN, |place| self.sorted[place]);
        }
        let size = self.table.len() - MAX_TRIES;
        let first = hash(name.as_bytes(), self.seed) as usize & (size - 1);
        for number in &self.table[first..first + MAX_TRIES] {
            match self.get(*number) {
                Some(known) if same(known.as_bytes(), name.as_bytes()) => return *number,
                Some(_) => {}
                None => return UNKNOWN,
            }
        }
        UNKNOWN
    }
}

/// Whether two names are the same, by words of eight bytes: shorter than a call to compare memory for most names.
#[inline]
fn same(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let (Some(one_end), Some(other_end), true) = (one.last_chunk::<8>(), other.last_chunk::<8>(), one.len() <= 32)
    else {
        return one == other;
    };
    let mut words = one.as_chunks::<8>().0.iter().zip(other.as_chunks::<8>().0);
    one_end == other_end && words.all(|(one, other)| one == other)
}

/// Spreads names over numbers: words of eight bytes, each multiplied and folded.
fn hash(name: &[u8], seed: u64) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let fold = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        product as u64 ^ (product >> 64) as u64
    };
    let mut hash = seed.wrapping_mul(FACTOR) ^ name.len() as u64;
    let mut words = name.chunks_exact(8);
    for word in &mut words {
        let word = u64::from_le_bytes(word.try_into().expect("invariant: eight bytes"));
        hash = fold(hash ^ word, FACTOR);
    }
    let rest = words.remainder();
    let word = match name.len() {
        8.. if !rest.is_empty() => {
            // The last eight bytes, some of them a second time: no loop over single ones.
            let tail = &name[name.len() - 8..];
            u64::from_le_bytes(tail.try_into().expect("invariant: eight bytes"))
        }
        _ => rest.iter().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    };
    fold(hash ^ word, FACTOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_by_their_text() {
        let mut collected = Collected::default();
        let names: Vec<String> = (0..2_000).map(|number| format!("name{number}")).collect();
        names.iter().for_each(|name| assert_eq!(collected.number(name), collected.number(name)));
        let known = collected.finish();
        for (number, name) in names.iter().enumerate() {
            assert_eq!(known.find(name), number as u32);
            let json = format!("{name}\":1");
            assert_eq!(known.length_at(json.as_bytes(), number as u32), Some(name.len()));
            assert_eq!(known.length_at(json.as_bytes(), number as u32 + 1), None);
        }
        assert_eq!(known.find("other"), UNKNOWN);
        let mut escaped = Collected::default();
        escaped.number("a\"b");
        assert_eq!(escaped.finish().length_at(br#"a"b":1"#, 0), None, "JSON has it otherwise");
        assert_eq!(Collected::default().finish().find(""), UNKNOWN);
    }
}
