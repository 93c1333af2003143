//! The URL of the store.

use std::fmt;
use std::path::{Path, PathBuf};

use super::error::{StoreError, StoreErrorKind};

/// The address of a SQLite file or a PostgreSQL server. `Display` hides passwords.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreUrl {
    Sqlite(PathBuf),
    /// A connection URL in the syntax of libpq.
    Postgres(String),
}

impl StoreUrl {
    /// The SQLite file that is used without configuration.
    pub const DEFAULT_FILE: &str = "data/event-handler.db";

    /// Parses `DATABASE_URL`: empty (the default file), `sqlite:path`, `sqlite://path`, `postgres://…` or
    /// `postgresql://…`. The name of a driver, as in `postgresql+asyncpg://…`, is removed.
    pub fn parse(text: &str) -> Result<Self, StoreError> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Self::Sqlite(Self::DEFAULT_FILE.into()));
        }
        if let Some(path) = text.strip_prefix("sqlite:") {
            return sqlite(path.strip_prefix("//").unwrap_or(path));
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            let (scheme, driver) = scheme.split_once('+').map_or((scheme, None), |(scheme, name)| (scheme, Some(name)));
            if matches!(scheme, "postgres" | "postgresql") && driver != Some("") {
                return postgres(&format!("{scheme}://{rest}"));
            }
        }
        Err(invalid(
            "the database URL must begin with sqlite: (a file: sqlite:data/events.db, sqlite:/var/lib/events.db), \
             postgres:// or postgresql://",
        ))
    }

    /// The folder of [`Self::DEFAULT_FILE`].
    pub fn default_folder() -> &'static Path {
        Path::new(Self::DEFAULT_FILE).parent().unwrap_or(Path::new(""))
    }

    /// The path of a file called `name` beside the data: in the folder of the SQLite file, or on PostgreSQL in the
    /// default folder.
    pub fn beside(&self, name: &str) -> PathBuf {
        match self {
            Self::Sqlite(path) => path.with_file_name(name),
            Self::Postgres(_) => Self::default_folder().join(name),
        }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(url) => f.write_str(&without_password(url)),
        }
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreUrl({self})")
    }
}

/// Whether a PostgreSQL URL names more than one host.
pub(super) fn has_many_hosts(url: &str) -> bool {
    authority(url).hosts.contains(',') || parameter(url, "host").is_some_and(|hosts| hosts.contains(','))
}

/// A PostgreSQL URL for each host that `url` names, in their order. One with the hosts in its parameters stays whole.
pub(super) fn single_hosts(url: &str) -> Vec<String> {
    let Authority { before, hosts, after } = authority(url);
    hosts.split(',').map(|host| format!("{before}{host}{after}")).collect()
}

/// The value of the parameter `name` in the query of a PostgreSQL URL.
pub(super) fn parameter<'a>(url: &'a str, name: &str) -> Option<&'a str> {
    let (_, query) = url.split_once('?')?;
    query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// `path` as a URI for SQLite. Percent-encoding keeps special characters in the path from changing its meaning.
pub(super) fn sqlite_uri(path: &Path, mode: &str) -> String {
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => uri.push(char::from(*byte)),
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri + "?mode=" + mode
}

fn sqlite(path: &str) -> Result<StoreUrl, StoreError> {
    match path {
        "" | "/" => {
            Err(invalid("the database URL names no SQLite file: sqlite:data/events.db, sqlite:/var/lib/events.db"))
        }
        ":memory:" | "/:memory:" => {
            Err(invalid("a log in memory would not be durable: name a SQLite file, such as sqlite:data/events.db"))
        }
        _ if path.contains('\0') => Err(invalid("the path of the SQLite file contains a zero byte")),
        _ if path.ends_with('/') => Err(invalid("the database URL names a directory, not a SQLite file")),
        _ => Ok(StoreUrl::Sqlite(path.into())),
    }
}

fn postgres(url: &str) -> Result<StoreUrl, StoreError> {
    if url.contains('\0') {
        return Err(invalid("the database URL contains a zero byte"));
    }
    check_shape(url)?;
    let mode = parameter(url, "sslmode").unwrap_or_default();
    let needs_tls = matches!(mode, "require" | "verify-ca" | "verify-full");
    if needs_tls && !cfg!(feature = "postgres-tls") {
        return Err(invalid(format!(
            "sslmode={mode} needs TLS to PostgreSQL, which this build has not: build with `cargo build --release \
             --features postgres-tls` (needs perl and make), or use sslmode=disable on a network that is trusted"
        )));
    }
    Ok(StoreUrl::Postgres(url.to_owned()))
}

/// Refuses what libpq would refuse later, because its messages quote the URL with the password.
fn check_shape(url: &str) -> Result<(), StoreError> {
    let percent_encoded = url
        .as_bytes()
        .split(|byte| *byte == b'%')
        .skip(1)
        .all(|after| after.len() >= 2 && after[..2].iter().all(u8::is_ascii_hexdigit));
    if !percent_encoded {
        return Err(invalid("a '%' in the database URL is not followed by two hexadecimal digits; write it as %25"));
    }
    let Authority { before, hosts, after } = authority(url);
    // libpq allows several hosts, each with its port, but the URL standard only one: each is parsed by itself.
    let mut parameters = Vec::new();
    for host in hosts.split(',') {
        let parsed = url::Url::parse(&format!("{before}{host}{after}"))
            .map_err(|error| invalid(format!("not a database URL: {error}; percent-encode special characters")))?;
        parameters = parsed.query_pairs().into_owned().collect();
    }
    for (name, value) in parameters {
        if !PARAMETERS.contains(&&*name) {
            return Err(invalid(format!("{name:?} is not a parameter of a PostgreSQL URL")));
        }
        if name == "sslmode" && !SSL_MODES.contains(&&*value) {
            return Err(invalid(format!("sslmode must be one of {}", SSL_MODES.join(", "))));
        }
    }
    Ok(())
}

const SSL_MODES: &[&str] = &["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// The parameters of a PostgreSQL connection URI (libpq, "Parameter Key Words").
const PARAMETERS: &[&str] = &[
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "passfile",
    "require_auth",
    "channel_binding",
    "connect_timeout",
    "client_encoding",
    "options",
    "application_name",
    "fallback_application_name",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "replication",
    "gssencmode",
    "sslmode",
    "sslnegotiation",
    "sslcompression",
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslcertmode",
    "sslrootcert",
    "sslcrl",
    "sslcrldir",
    "sslsni",
    "requirepeer",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
    "krbsrvname",
    "gsslib",
    "gssdelegation",
    "service",
    "target_session_attrs",
    "load_balance_hosts",
];

/// A URL, split at its hosts.
struct Authority<'a> {
    before: &'a str,
    /// The hosts with their ports, separated by commas.
    hosts: &'a str,
    after: &'a str,
}

fn authority(url: &str) -> Authority<'_> {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |at| start + at);
    let hosts = url[start..end].rfind('@').map_or(start, |at| start + at + 1);
    Authority { before: &url[..hosts], hosts: &url[hosts..end], after: &url[end..] }
}

fn without_password(url: &str) -> String {
    let (url, query) = url.split_once('?').map_or((url, None), |(url, query)| (url, Some(query)));
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find('/').map_or(url.len(), |at| start + at);
    let mut shown = url.to_owned();
    // A password that was not percent-encoded may itself contain '/', so everything up to the last '@' is hidden.
    if let Some(at) = url[start..].rfind('@').map(|at| start + at)
        && let Some(colon) = url[start..at].find(':').map(|colon| start + colon)
        && colon < end
    {
        shown.replace_range(colon + 1..at, "***");
    }
    let Some(query) = query else { return shown };
    let hide = |pair: &str| match pair.split_once('=') {
        Some((key, _)) if key.contains("password") => format!("{key}=***"),
        _ => pair.to_owned(),
    };
    shown + "?" + &query.split('&').map(hide).collect::<Vec<_>>().join("&")
}

fn invalid(message: impl AsRef<str>) -> StoreError {
    StoreError::new(StoreErrorKind::Invalid, message)
}

impl StoreError {
    /// Whether waiting cannot help when the store fails to open for the first time. A server may come back; for a file,
    /// only a full disk and a lock may pass.
    pub fn stops_start(&self, url: &StoreUrl) -> bool {
        match url {
            StoreUrl::Sqlite(_) => {
                !matches!(self.kind, StoreErrorKind::Full | StoreErrorKind::Locked | StoreErrorKind::Busy)
            }
            StoreUrl::Postgres(_) => self.kind == StoreErrorKind::Unusable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_backends() {
        let sqlite = |path: &str| Ok(StoreUrl::Sqlite(path.into()));
        assert_eq!(StoreUrl::parse(""), sqlite("data/event-handler.db"));
        assert_eq!(StoreUrl::parse("sqlite:a.db"), sqlite("a.db"));
        assert_eq!(StoreUrl::parse("sqlite://data/a.db"), sqlite("data/a.db"));
        assert_eq!(StoreUrl::parse("sqlite:///var/lib/a.db"), sqlite("/var/lib/a.db"));
        for url in [
            "postgres://h/db",
            "postgresql://u:p@h:5433/db?sslmode=disable",
            "postgres://u:p@a:5432,b:5433,[::1]:5434/db?target_session_attrs=read-write",
            "postgres:///db?host=/run/postgresql",
        ] {
            assert_eq!(StoreUrl::parse(url), Ok(StoreUrl::Postgres(url.to_owned())));
        }
    }

    #[test]
    fn the_name_of_a_driver_is_left_out() {
        for (given, url) in [
            ("postgresql+asyncpg://u:p@h/db", "postgresql://u:p@h/db"),
            ("postgres+psycopg2://u:p+q@h/db?sslmode=disable", "postgres://u:p+q@h/db?sslmode=disable"),
        ] {
            assert_eq!(StoreUrl::parse(given), Ok(StoreUrl::Postgres(url.to_owned())));
        }
        assert!(StoreUrl::parse("postgresql+://h/db").is_err());
    }

    #[test]
    fn several_hosts_are_told_from_one() {
        for (url, expected) in [
            ("postgres://u:p,q@h:1/db", false),
            ("postgres://a,b/db", true),
            ("postgres://u@a:1,b:2/db", true),
            ("postgres:///db?host=a,b", true),
            ("postgres://h/a,b", false),
        ] {
            assert_eq!(has_many_hosts(url), expected, "{url}");
        }
        for bad in ["postgres://a:x,b/db", "postgres://a,b:99999/db"] {
            assert!(StoreUrl::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_are_taken_apart() {
        let url = "postgres://u:p,q@a:1,[::1]:2,c/db?connect_timeout=3";
        let each = ["a:1", "[::1]:2", "c"].map(|host| format!("postgres://u:p,q@{host}/db?connect_timeout=3"));
        assert_eq!(single_hosts(url), each);
        for whole in ["postgres://h/db", "postgres:///db?host=a,b"] {
            assert_eq!(single_hosts(whole), [whole]);
        }
    }

    #[test]
    fn refuses_everything_else_without_repeating_it() {
        for url in ["mysql://u:secret@h/db", "data/a.db", "sqlite:", "sqlite::memory:", "sqlite:data/", "postgres:h"] {
            let error = StoreUrl::parse(url).expect_err(url);
            assert_eq!(error.kind, StoreErrorKind::Invalid);
            assert!(!error.message.contains("secret") && !error.message.contains('\n'), "{error}");
        }
    }

    #[cfg(not(feature = "postgres-tls"))]
    #[test]
    fn says_which_build_has_tls() {
        for mode in ["require", "verify-ca", "verify-full"] {
            let error = StoreUrl::parse(&format!("postgres://h/db?sslmode={mode}")).expect_err(mode);
            assert!(error.message.contains("postgres-tls"), "{error}");
        }
        assert!(StoreUrl::parse("postgres://h/db?sslmode=prefer").is_ok());
    }

    #[test]
    fn never_shows_a_password() {
        for (url, shown) in [
            ("postgres://u:secret@h:5432/db", "postgres://u:***@h:5432/db"),
            ("postgres://u:sec@ret@h/db?application_name=x", "postgres://u:***@h/db?application_name=x"),
            ("postgres://u@h/db?password=secret&user=u", "postgres://u@h/db?password=***&user=u"),
            ("postgres://u:sec/ret@h/db", "postgres://u:***@h/db"),
            ("postgres://h:5432/db", "postgres://h:5432/db"),
            ("postgres://u:secret@a:1,b:2/db", "postgres://u:***@a:1,b:2/db"),
        ] {
            assert_eq!(StoreUrl::Postgres(url.to_owned()).to_string(), shown);
        }
    }

    #[test]
    fn files_are_kept_beside_the_data() {
        for (url, path) in [
            ("", "data/admin.token"),
            ("sqlite:a.db", "admin.token"),
            ("sqlite:/var/lib/a.db", "/var/lib/admin.token"),
            ("postgres://h/db", "data/admin.token"),
        ] {
            assert_eq!(StoreUrl::parse(url).map(|url| url.beside("admin.token")), Ok(path.into()), "{url}");
        }
    }

    #[test]
    fn paths_are_never_read_as_uris() {
        assert_eq!(sqlite_uri(Path::new("/a b/c?x#y%.db"), "rw"), "file:/a%20b/c%3Fx%23y%25.db?mode=rw");
    }
}
