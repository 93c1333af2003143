//! Query parameters: unknown ones are refused, and so are repeated ones that may be given once.

use std::borrow::Cow;

use actix_web::HttpRequest;
use percent_encoding::percent_decode_str;
use url::form_urlencoded;

use crate::protocol::error::{ApiError, ErrorCode};

/// Rows of a page without the parameter `limit`, and the most that it may ask for.
pub const DEFAULT_LIMIT: usize = 100;
pub const MAX_LIMIT: usize = 1000;

/// The parameters of a request, decoded, in order.
#[derive(Debug, Default)]
pub struct Query<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Query<'a> {
    /// Refuses parameters that are not in `known`, and those given twice that are not in `repeatable`.
    pub fn parse(req: &'a HttpRequest, known: &[&str], repeatable: &[&str]) -> Result<Self, ApiError> {
        let pairs = req.query_string().split('&').filter(|pair| !pair.is_empty()).map(pair);
        let mut pairs = pairs.collect::<Result<Vec<_>, _>>()?;
        for (k, (name, _)) in pairs.iter().enumerate() {
            if !known.contains(&&**name) {
                return Err(ApiError::unknown(ErrorCode::UnknownParameter, name, known));
            }
            if !repeatable.contains(&&**name) && pairs[..k].iter().any(|(earlier, _)| earlier == name) {
                return Err(invalid(name, "given twice"));
            }
        }
        // The token is secret: only the code that authenticates reads it.
        pairs.retain(|(name, _)| name != super::access::TOKEN_PARAMETER);
        Ok(Self(pairs))
    }

    /// All values of a parameter.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, value)| &**value)
    }

    /// The value of a parameter.
    pub fn one(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// The value of a parameter, read by `parse`; `expected` completes the error "must be …".
    pub fn read<T>(
        &self,
        name: &str,
        expected: &str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.one(name) else { return Ok(None) };
        parse(value).map(Some).ok_or_else(|| invalid(name, &format!("must be {expected}")))
    }

    /// The parameter `limit`, from 1 to `max`.
    pub fn limit(&self, default: usize, max: usize) -> Result<usize, ApiError> {
        let in_range = |text: &str| text.parse().ok().filter(|limit| (1..=max).contains(limit));
        Ok(self.read("limit", &format!("an integer from 1 to {max}"), in_range)?.unwrap_or(default))
    }

    /// The query with `set` in place of the parameters in `without`.
    pub fn rewritten(&self, without: &[&str], set: (&str, impl ToString)) -> String {
        let kept = self.0.iter().filter(|(name, _)| !without.contains(&&**name));
        form_urlencoded::Serializer::new(String::new())
            .extend_pairs(kept)
            .append_pair(set.0, &set.1.to_string())
            .finish()
    }
}

/// One parameter, decoded like a form: `+` is a space. A text that is not UTF-8 is refused.
fn pair(pair: &str) -> Result<(Cow<'_, str>, Cow<'_, str>), ApiError> {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    let name = decoded(name).ok_or_else(|| invalid(name, "its name is not UTF-8"))?;
    let value = decoded(value).ok_or_else(|| invalid(&name, "must be UTF-8 once it is decoded"))?;
    Ok((name, value))
}

fn decoded(text: &str) -> Option<Cow<'_, str>> {
    if text.contains('+') {
        let spaced = text.replace('+', " ");
        return percent_decode_str(&spaced).decode_utf8().ok().map(|text| Cow::Owned(text.into_owned()));
    }
    percent_decode_str(text).decode_utf8().ok()
}

/// The error of a parameter with an invalid value.
pub fn invalid(name: &str, reason: &str) -> ApiError {
    ApiError::field(ErrorCode::InvalidParameter, name, reason)
}
