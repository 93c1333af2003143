//! Regular expressions, as far as they are decided here.

/// Characters that mean something else than themselves.
const SPECIAL: &[char] = &['\\', '^', '$', '.', '|', '?', '*', '+', '(', ')', '[', ']', '{', '}'];

/// Whether a text matches a pattern somewhere; nothing if it cannot be said: only plain texts, anchored or not, are
/// understood.
pub(super) fn matches(pattern: &str, text: &str) -> Option<bool> {
    if takes_everything(pattern) {
        return Some(true);
    }
    let (starts, rest) = pattern.strip_prefix('^').map_or((false, pattern), |rest| (true, rest));
    let (ends, plain) = rest.strip_suffix('$').map_or((false, rest), |rest| (true, rest));
    if plain.contains(SPECIAL) {
        return None;
    }
    Some(match (starts, ends) {
        (true, true) => text == plain,
        (true, false) => text.starts_with(plain),
        (false, true) => text.ends_with(plain),
        (false, false) => text.contains(plain),
    })
}

/// Whether a pattern matches every text, as can be seen at once.
pub(super) fn takes_everything(pattern: &str) -> bool {
    matches!(pattern, "" | "^" | "$" | ".*" | "^.*")
}
