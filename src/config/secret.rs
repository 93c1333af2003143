//! Values that must never be shown: in logs, in errors, in `check-config`.

use std::fmt;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::Url;

use crate::domain::secret::REDACTED;

/// The address of a database, as it was written. `Display`, `Debug` and `Serialize` hide passwords.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The address with its passwords.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A path (`sqlite:…`) holds no secret; anything else must be understood to be shown.
        if self.is_empty() || self.0.starts_with("sqlite:") {
            return f.write_str(&self.0);
        }
        match Url::parse(&self.0) {
            Ok(url) if url.has_host() => f.write_str(&redact(&url)),
            _ => f.write_str(REDACTED),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl Serialize for DatabaseUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A URL that may hold credentials. `Display`, `Debug` and `Serialize` hide them.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(Url);

impl SecretUrl {
    /// The URL with its credentials.
    pub fn expose(&self) -> &Url {
        &self.0
    }

    /// `path` below this URL, without user name and password. A query in `path` goes before one of the URL.
    pub fn join_path(&self, path: &str) -> Url {
        let mut url = self.0.clone();
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        url.set_path(&format!("{}{path}", self.0.path().trim_end_matches('/')));
        if query.is_some() {
            url.set_query(query);
        }
        // Both fail only for URLs that cannot have any.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.set_fragment(None);
        url
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact(&self.0))
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl Serialize for SecretUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Reads the URL of a Redis server; empty is none.
pub(super) fn redis_url<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SecretUrl>, D::Error> {
    optional_url(&String::deserialize(from)?, ["redis", "rediss"]).map_err(D::Error::custom)
}

/// Reads the URLs of Sentinels.
pub(super) fn redis_urls<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<SecretUrl>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    let urls = texts.iter().map(|text| optional_url(text, ["redis", "rediss"]).map_err(D::Error::custom));
    urls.filter_map(Result::transpose).collect()
}

/// Reads the base URL of a service; empty is none.
pub(super) fn http_url<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SecretUrl>, D::Error> {
    optional_url(&String::deserialize(from)?, ["http", "https"]).map_err(D::Error::custom)
}

/// The reason never repeats the text, which may hold a password.
fn optional_url(text: &str, schemes: [&str; 2]) -> Result<Option<SecretUrl>, String> {
    let text = text.trim();
    if text.is_empty() {
        return Ok(None);
    }
    let [plain, secure] = schemes;
    let refuse = |why: &str| Err(format!("must be a URL beginning with {plain}:// or {secure}://: {why}"));
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(error) => return refuse(&error.to_string()),
    };
    match url.scheme() {
        scheme if !schemes.contains(&scheme) => refuse("another scheme"),
        _ if url.host_str().is_none_or(str::is_empty) => refuse("empty host"),
        _ => Ok(Some(SecretUrl(url))),
    }
}

/// `url` without its password, the values of its query, and, where that serves as a token, its user name.
fn redact(url: &Url) -> String {
    let mut shown = url.clone();
    // Both setters fail only for URLs that cannot hold credentials.
    if url.password().is_some() {
        let _ = shown.set_password(Some(REDACTED));
    }
    if url.scheme().starts_with("http") && !url.username().is_empty() {
        let _ = shown.set_username(REDACTED);
    }
    if url.query().is_some() {
        let keys: Vec<_> = url.query_pairs().map(|(key, _)| format!("{key}={REDACTED}")).collect();
        shown.set_query(Some(&keys.join("&")));
    }
    shown.set_fragment(None);
    shown.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn database_urls_hide_their_passwords() {
        let cases = [
            ("", ""),
            ("sqlite:data/event-handler.db", "sqlite:data/event-handler.db"),
            ("postgres://eve@db/events", "postgres://eve@db/events"),
            ("postgres://eve:s3cret@db:5432/events", "postgres://eve:***@db:5432/events"),
            ("postgres://db/events?user=eve&password=s3cret", "postgres://db/events?user=***&password=***"),
            ("host=db user=eve password=s3cret", "***"),
            ("postgres:s3cret", "***"),
        ];
        for (url, shown) in cases {
            assert_eq!(DatabaseUrl(url.to_owned()).to_string(), shown);
        }
    }

    #[test]
    fn urls_hide_their_credentials() {
        let shown = |text| optional_url(text, ["http", "https"]).map(|url| url.map(|u| format!("{u:?}")));
        assert_eq!(shown("https://token@host/a?key=1#x"), Ok(Some(r#""https://***@host/a?key=***""#.to_owned())));
        assert_eq!(shown(" "), Ok(None));
    }

    #[test]
    fn bad_urls_are_refused_without_being_repeated() {
        let reason = |text| optional_url(text, ["redis", "rediss"]).unwrap_err();
        let must = "must be a URL beginning with redis:// or rediss://";
        assert_eq!(reason("s3cret"), format!("{must}: relative URL without a base"));
        assert_eq!(reason("https://:s3cret@host"), format!("{must}: another scheme"));
        assert_eq!(reason("redis:s3cret"), format!("{must}: empty host"));
        assert_eq!(reason("redis://h:99999"), format!("{must}: invalid port number"));
    }
}
