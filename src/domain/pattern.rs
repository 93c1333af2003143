//! Patterns: event names with wildcards.

use std::fmt;

use bytestring::ByteString;

use super::name::{EventName, NameError, SYSTEM_PREFIX, check_length, check_text};

/// An event name in which `*` stands for exactly one segment, or behind a `:` for the rest of its segment, and a last
/// segment `>` for one or more.
///
/// Wildcards never reach the Event Handler's own events: only a pattern whose first segment is
/// literally `$sys` matches names beginning with `$sys.`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern(ByteString);

impl Pattern {
    /// Checks `pattern`.
    pub fn parse(pattern: impl Into<ByteString>) -> Result<Self, NameError> {
        let pattern = pattern.into();
        check_length(&pattern)?;
        check_text(&pattern)?;
        let mut segments = pattern.split('.').peekable();
        while let Some(segment) = segments.next() {
            if segment.strip_suffix('*').unwrap_or(segment).contains('*') {
                return Err(NameError::PartialStar);
            }
            if segment.ends_with('*') && segment != "*" && stem(segment).is_none() {
                return Err(NameError::PartialStar);
            }
            if segment.contains('>') && (segment != ">" || segments.peek().is_some()) {
                return Err(NameError::MisplacedTail);
            }
        }
        Ok(Self(pattern))
    }

    /// The pattern that matches every event but the Event Handler's own.
    pub fn everything() -> Self {
        Self(ByteString::from_static(">"))
    }

    /// A pattern read back from the store, where only valid ones are written.
    pub(crate) fn from_store(pattern: String) -> Self {
        Self(pattern.into())
    }

    /// The pattern as shared text.
    pub(super) fn as_shared(&self) -> &ByteString {
        &self.0
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the pattern is the name of one event.
    pub fn is_exact(&self) -> bool {
        !self.0.contains(['*', '>'])
    }

    /// Whether the pattern matches every event but the Event Handler's own.
    pub fn is_everything(&self) -> bool {
        &*self.0 == ">"
    }

    /// Whether the pattern matches only the Event Handler's own events.
    pub fn is_system(&self) -> bool {
        self.0.starts_with(SYSTEM_PREFIX)
    }

    /// The part before the first wildcard, as text that every matching name begins with.
    pub fn literal_prefix(&self) -> &str {
        self.0.find(['*', '>']).map_or(self.as_str(), |end| &self.0[..end])
    }

    /// Whether `name` matches.
    pub fn matches(&self, name: &EventName) -> bool {
        let mut pattern = self.segments();
        let mut segments = name.as_str().split('.');
        let mut wildcard_allowed = !name.is_system();
        loop {
            match (pattern.next(), segments.next()) {
                (Some(">"), Some(_)) => return wildcard_allowed,
                (Some("*"), Some(_)) if wildcard_allowed => {}
                (Some(p), Some(s)) if p == s || stem(p).is_some_and(|stem| s.starts_with(stem)) => {}
                (None, None) => return true,
                _ => return false,
            }
            // A first segment that was matched literally opens the rest to wildcards.
            wildcard_allowed = true;
        }
    }

    /// Whether every name that `other` matches is matched by this pattern too.
    pub fn covers(&self, other: &Self) -> bool {
        let (mut wide, mut narrow) = (self.segments(), other.segments());
        let mut wildcard_allowed = !other.is_system();
        loop {
            match (wide.next(), narrow.next()) {
                (Some(">"), Some(_)) => return wildcard_allowed,
                (_, Some(">")) => return false,
                (Some("*"), Some(_)) if wildcard_allowed => {}
                // The text of a narrower prefix begins like the names that it matches.
                (Some(w), Some(n)) if w == n || stem(w).is_some_and(|stem| n.starts_with(stem)) => {}
                (None, None) => return true,
                _ => return false,
            }
            wildcard_allowed = true;
        }
    }

    /// Whether there may be a name that both match.
    pub fn overlaps(&self, other: &Self) -> bool {
        if self.is_system() != other.is_system() {
            return false;
        }
        let (mut one, mut other) = (self.segments(), other.segments());
        loop {
            match (one.next(), other.next()) {
                (Some(">"), Some(_)) | (Some(_), Some(">")) | (None, None) => return true,
                (Some("*"), Some(_)) | (Some(_), Some("*")) => {}
                (Some(a), Some(b)) => match (stem(a), stem(b)) {
                    (Some(a), Some(b)) if a.starts_with(b) || b.starts_with(a) => {}
                    (Some(a), None) if b.starts_with(a) => {}
                    (None, Some(b)) if a.starts_with(b) => {}
                    (None, None) if a == b => {}
                    _ => return false,
                },
                _ => return false,
            }
        }
    }

    pub(super) fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }
}

/// What names have to begin with in a segment such as `lot:*`; it ends with `:`.
pub(super) fn stem(segment: &str) -> Option<&str> {
    segment.strip_suffix('*').filter(|stem| stem.ends_with(':'))
}

impl From<EventName> for Pattern {
    fn from(name: EventName) -> Self {
        Self(name.as_shared().clone())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        let pattern = Pattern::parse(pattern.to_owned()).expect("a valid pattern");
        pattern.matches(&EventName::parse(name.to_owned()).expect("a valid name"))
    }

    #[test]
    fn star_is_one_segment_and_tail_is_one_or_more() {
        assert!(matches("auction.*.bid", "auction.7.bid"));
        assert!(!matches("auction.*.bid", "auction.7.8.bid"));
        assert!(!matches("auction.*", "auction"));
        assert!(matches("auction.>", "auction.7"));
        assert!(matches("auction.>", "auction.7.bid.won"));
        assert!(!matches("auction.>", "auction"));
        assert!(matches(">", "anything.at.all"));
        assert!(matches("*", "one"));
        assert!(!matches("*", "one.two"));
        assert!(matches("a.b", "a.b"));
        assert!(!matches("a.b", "a.c"));
    }

    #[test]
    fn a_star_behind_a_colon_is_the_rest_of_its_segment() {
        assert!(matches("lot:*", "lot:created") && matches("lot:*", "lot:bid:placed"));
        assert!(matches("lot:bid:*", "lot:bid:placed") && !matches("lot:bid:*", "lot:created"));
        assert!(!matches("lot:*", "lot") && !matches("lot:*", "lots:created") && !matches("lot:*", "lot:a.b"));
        assert!(matches("eu.lot:*.won", "eu.lot:7.won") && matches("eu.lot:*.>", "eu.lot:7.a.b"));
        assert!(matches("*", "lot:created") && !matches("$sys:*", "$sys.service.opened"));
        let covers = |wide: &'static str, narrow: &'static str| {
            Pattern::parse(wide).unwrap().covers(&Pattern::parse(narrow).unwrap())
        };
        for (wide, narrow) in
            [("lot:*", "lot:bid:*"), ("lot:*", "lot:bid"), ("lot:*", "lot:*"), ("*", "lot:*"), (">", "lot:*.a")]
        {
            assert!(covers(wide, narrow), "{wide} covers {narrow}");
        }
        for (wide, narrow) in
            [("lot:bid:*", "lot:*"), ("lot:*", "*"), ("lot:*", ">"), ("lot:*", "lot:a.b"), ("lot:a", "lot:*")]
        {
            assert!(!covers(wide, narrow), "{wide} does not cover {narrow}");
        }
    }

    #[test]
    fn patterns_overlap_if_a_name_is_of_both() {
        let overlap = |one: &'static str, other: &'static str| {
            let [one, other] = [one, other].map(|text| Pattern::parse(text).unwrap());
            assert_eq!(one.overlaps(&other), other.overlaps(&one));
            one.overlaps(&other)
        };
        for (one, other) in [
            ("a.*", "*.b"),
            ("a.>", "*.b.c"),
            ("lot:*", "lot:bid:*"),
            ("lot:*", "*"),
            ("lot:*.a", "lot:7.>"),
            ("a", "a"),
        ] {
            assert!(overlap(one, other), "{one} {other}");
        }
        for (one, other) in [("a.*", "b.*"), ("a", "a.>"), ("lot:*", "bid:*"), ("a.*", "a.b.c"), (">", "$sys.>")] {
            assert!(!overlap(one, other), "{one} {other}");
        }
    }

    #[test]
    fn wildcards_do_not_reach_the_systems_own_events() {
        assert!(!matches(">", "$sys.service.opened"));
        assert!(!matches("*.service.opened", "$sys.service.opened"));
        assert!(!matches("*.>", "$sys.service.opened"));
        assert!(matches("$sys.>", "$sys.service.opened"));
        assert!(matches("$sys.*.opened", "$sys.service.opened"));
        assert!(matches("$sys.service.opened", "$sys.service.opened"));
    }

    #[test]
    fn refuses_misplaced_wildcards() {
        for (pattern, error) in [
            ("a.b*", NameError::PartialStar),
            ("**", NameError::PartialStar),
            ("lot:**", NameError::PartialStar),
            ("lot:*x", NameError::PartialStar),
            ("*:*", NameError::PartialStar),
            ("lot*", NameError::PartialStar),
            ("lot:>", NameError::MisplacedTail),
            (">.a", NameError::MisplacedTail),
            ("a.>b", NameError::MisplacedTail),
            ("a.>.b", NameError::MisplacedTail),
            ("a..b", NameError::EmptySegment),
            ("", NameError::Empty),
        ] {
            assert_eq!(Pattern::parse(pattern), Err(error), "{pattern:?}");
        }
    }

    #[test]
    fn literal_prefix_ends_at_the_first_wildcard() {
        let prefix = |p: &str| Pattern::parse(p.to_owned()).map(|p| p.literal_prefix().to_owned());
        assert_eq!(prefix("auction.*.bid").as_deref(), Ok("auction."));
        assert_eq!(prefix("auction.7").as_deref(), Ok("auction.7"));
        assert_eq!(prefix("a.lot:*.b").as_deref(), Ok("a.lot:"));
        assert_eq!(prefix(">").as_deref(), Ok(""));
    }

    /// A few names of each length that `pattern` matches, wildcards filled in with segments that occur nowhere else,
    /// and with some that do.
    fn samples(pattern: &Pattern) -> Vec<EventName> {
        let fillers = [
            &["new", "other", "rare", "odd"][..],
            &["a", "$sys", "b", "a"],
            &["$sys", "a", "a", "b"],
            &["a:", "a:b:", "a:b:x", "a:x"],
        ];
        let mut names = Vec::new();
        for (filler, tail) in fillers.iter().flat_map(|filler| (1..=4).map(move |tail| (filler, tail))) {
            let segments = pattern.segments().enumerate().flat_map(|(place, segment)| match segment {
                "*" => vec![filler[place % 4]],
                ">" => filler[..tail].to_vec(),
                literal => vec![literal],
            });
            let name = segments.collect::<Vec<_>>().join(".");
            // The rest of a segment: any, none, and some that reach further prefixes.
            let rests = if name.contains('*') { &["x", "", "b:y", "b:"][..] } else { &[""] };
            names.extend(rests.iter().map(|rest| EventName::parse(name.replace('*', rest)).expect("valid segments")));
        }
        names.retain(|name| pattern.matches(name));
        names
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn covering_is_matching_whatever_the_other_matches(
            wide in "(a|b|\\*|\\$sys|a:x|a:\\*|a:b:\\*)(\\.(a|b|\\*|a:b:|a:\\*|a:b:\\*)){0,3}(\\.>)?|>",
            narrow in "(a|b|\\*|\\$sys|a:x|a:\\*|a:b:\\*)(\\.(a|b|\\*|a:b:|a:\\*|a:b:\\*)){0,3}(\\.>)?|>",
        ) {
            let (wide, narrow) = (Pattern::parse(wide).unwrap(), Pattern::parse(narrow).unwrap());
            let all = samples(&narrow).iter().all(|name| wide.matches(name));
            prop_assert_eq!(wide.covers(&narrow), all, "{} covers {}", wide, narrow);
        }
    }

    #[test]
    fn only_what_begins_with_sys_covers_the_systems_own_names() {
        let covers = |wide: &'static str, narrow: &'static str| {
            Pattern::parse(wide).unwrap().covers(&Pattern::parse(narrow).unwrap())
        };
        for wide in [">", "*.>", "*.service.opened"] {
            assert!(!covers(wide, "$sys.service.opened") && !covers(wide, "$sys.>"), "{wide}");
        }
        assert!(covers("$sys.>", "$sys.service.*") && covers(">", "$sys") && covers(">", "$system.up"));
    }
}
