//! Preconditions of a change or a read: RFC 9110, sections 8.8.3 and 13.1.

use smallvec::SmallVec;

use super::Version;

/// What the current version has to be. Without any, everything is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Precondition {
    /// `If-Match`: it is one of these.
    pub is: Option<Tags>,
    /// `If-None-Match`: it is none of these.
    pub is_not: Option<Tags>,
}

/// The entity tags of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tags {
    /// `*`: whatever is there.
    Any,
    Listed(SmallVec<[Tag; 1]>),
}

/// One entity tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    pub is_weak: bool,
    /// None if it is the tag of no version.
    version: Option<Version>,
}

/// The text is no list of entity tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be '*' or a list of entity tags like \"57\", in quotation marks")]
pub struct TagError;

impl Precondition {
    /// The version has to be this one; with 0 there must be none.
    pub fn version(expected: Version) -> Self {
        match expected {
            0 => Self { is: None, is_not: Some(Tags::Any) },
            version => {
                let tag = Tag { is_weak: false, version: Some(version) };
                Self { is: Some(Tags::Listed(SmallVec::from_buf([tag]))), is_not: None }
            }
        }
    }

    /// Whether it is met by an entity of the version `current`, or by one that is not there. `If-Match` takes no weak
    /// tag for equal, `If-None-Match` does.
    pub fn is_met(&self, current: Option<Version>) -> bool {
        let Self { is, is_not } = self;
        is.as_ref().is_none_or(|tags| tags.match_strongly(current))
            && !is_not.as_ref().is_some_and(|tags| tags.match_weakly(current))
    }
}

impl Tags {
    /// Reads the values of one header, each a list.
    pub fn parse<'a>(values: impl IntoIterator<Item = &'a str>) -> Result<Self, TagError> {
        let (mut tags, mut is_any) = (SmallVec::new(), false);
        for value in values {
            let mut rest = value.trim_matches([' ', '\t']);
            if rest == "*" {
                is_any = true;
                continue;
            }
            while !rest.is_empty() {
                // A list may have empty elements.
                if let Some(after) = rest.strip_prefix(',') {
                    rest = after.trim_start_matches([' ', '\t']);
                    continue;
                }
                let (tag, after) = Tag::parse(rest)?;
                tags.push(tag);
                rest = after.trim_start_matches([' ', '\t']);
                if !(rest.is_empty() || rest.starts_with(',')) {
                    return Err(TagError);
                }
            }
        }
        match (is_any, tags.is_empty()) {
            (true, true) => Ok(Self::Any),
            (false, false) => Ok(Self::Listed(tags)),
            _ => Err(TagError),
        }
    }

    fn match_strongly(&self, current: Option<Version>) -> bool {
        self.any(current, |tag| !tag.is_weak)
    }

    /// Whether a tag is that of the version, weak or not.
    pub fn match_weakly(&self, current: Option<Version>) -> bool {
        self.any(current, |_| true)
    }

    fn any(&self, current: Option<Version>, counts: impl Fn(&Tag) -> bool) -> bool {
        match (self, current) {
            (_, None) => false,
            (Self::Any, Some(_)) => true,
            (Self::Listed(tags), current) => tags.iter().any(|tag| counts(tag) && tag.version == current),
        }
    }
}

impl Tag {
    /// The first tag of a list, and what follows it.
    fn parse(text: &str) -> Result<(Self, &str), TagError> {
        let (is_weak, opaque) = text.strip_prefix("W/").map_or((false, text), |opaque| (true, opaque));
        let (tag, rest) = opaque.strip_prefix('"').and_then(|tag| tag.split_once('"')).ok_or(TagError)?;
        if tag.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return Err(TagError);
        }
        // Only the number as it is written in an answer is the tag of a version.
        let version = tag.parse().ok().filter(|version: &Version| version.to_string() == tag);
        Ok((Self { is_weak, version }, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Tags, TagError> {
        Tags::parse([text])
    }

    fn precondition(is: Option<&str>, is_not: Option<&str>) -> Precondition {
        let tags = |text: &str| parse(text).expect("tags");
        Precondition { is: is.map(tags), is_not: is_not.map(tags) }
    }

    #[test]
    fn lists_and_weak_tags_are_read() {
        assert_eq!(parse("*"), Ok(Tags::Any));
        assert_eq!(parse(" * "), Ok(Tags::Any));
        for good in [r#""57""#, r#"W/"57""#, r#""57", "58""#, r#""a,b""#, r#", "1" ,, W/"2","#, r#""""#] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["", "57", r#""57"#, r#""57" "58""#, r#"w/"57""#, r#"*, "57""#, r#""5 7""#, ",", r#"'57'"#] {
            assert_eq!(parse(bad), Err(TagError), "{bad}");
        }
        assert_eq!(Tags::parse([r#""1""#, r#""2""#]), parse(r#""1", "2""#));
        assert_eq!(Tags::parse(["*", r#""2""#]), Err(TagError));
    }

    #[test]
    fn preconditions_are_those_of_the_rfc() {
        let cases = [
            (None, None, Some(1), true),
            (Some("*"), None, Some(1), true),
            (Some("*"), None, None, false),
            (Some(r#""7""#), None, Some(7), true),
            (Some(r#""7""#), None, Some(8), false),
            (Some(r#""7""#), None, None, false),
            (Some(r#""7", "8""#), None, Some(8), true),
            (Some(r#"W/"7""#), None, Some(7), false),
            (Some(r#""07""#), None, Some(7), false),
            (None, Some("*"), None, true),
            (None, Some("*"), Some(1), false),
            (None, Some(r#""7""#), Some(7), false),
            (None, Some(r#"W/"7""#), Some(7), false),
            (None, Some(r#""7""#), Some(8), true),
            (Some(r#""7""#), Some(r#""8""#), Some(7), true),
        ];
        for (is, is_not, current, met) in cases {
            assert_eq!(precondition(is, is_not).is_met(current), met, "{is:?} {is_not:?} {current:?}");
        }
    }

    #[test]
    fn version_zero_is_an_entity_that_is_not_there() {
        assert!(Precondition::version(0).is_met(None));
        assert!(!Precondition::version(0).is_met(Some(1)));
        assert!(Precondition::version(7).is_met(Some(7)));
        assert!(!Precondition::version(7).is_met(None));
    }
}
