//! The newest event of a log, as it is remembered in Redis.

use super::seal::Seal;
use crate::domain::event::Timestamp;
use crate::domain::log::{LogId, Seen};
use crate::domain::secret::Secret;

/// Where the newest event of a log is remembered.
pub fn newest_key(log: LogId) -> String {
    format!("event-handler:{log}:newest")
}

/// `seen` as a text with a seal. Texts of one log are ordered as their ids.
pub fn write_newest(seen: &Seen, key: &Secret) -> Option<String> {
    let text = format!("{:020} {:+021}", seen.last, seen.at.0);
    Some(format!("{text} {}", seal(seen.log, key)?.of(&[text.as_bytes()])))
}

/// Reads what [`write_newest`] has written for this log, with the same key. None if it was not made so.
pub fn read_newest(text: &str, log: LogId, key: &Secret) -> Option<Seen> {
    let (sealed, of) = text.rsplit_once(' ')?;
    let (last, at) = sealed.split_once(' ')?;
    let seen = Seen { log, last: last.parse().ok()?, at: Timestamp(at.parse().ok()?) };
    seal(log, key)?.holds(&[sealed.as_bytes()], of).then_some(seen)
}

fn seal(log: LogId, key: &Secret) -> Option<Seal> {
    Seal::new(key, &format!("newest {log}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_ordered_and_cannot_be_made_up() {
        let (log, key) = (LogId::new(1), Secret::new("k"));
        let newest = |last: i64, at: i64| Seen { log, last, at: Timestamp(at) };
        let text = |last, at| write_newest(&newest(last, at), &key).expect("a key");
        for (last, at) in [(0, 0), (7, -5), (i64::MAX, i64::MAX)] {
            assert_eq!(read_newest(&text(last, at), log, &key), Some(newest(last, at)));
        }
        assert!(text(9, 5) < text(10, 4) && text(10, 4) < text(i64::MAX, 0));
        let (made_up, other) = (text(10, 4).replacen("10 ", "11 ", 1), LogId::new(2));
        for (text, log, key) in [
            (&made_up, log, &key),
            (&text(10, 4), other, &key),
            (&text(10, 4), log, &Secret::new("l")),
            (&String::new(), log, &key),
            (&"zz z z".to_owned(), log, &key),
        ] {
            assert_eq!(read_newest(text, log, key), None, "{text}");
        }
    }
}
