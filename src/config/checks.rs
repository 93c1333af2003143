//! Checks of single texts, shared by the sections: names, hosts, paths, origins, log filters, and what a mistyped word
//! was meant to be. A check gives the reason, which completes "`key`: …".

use url::Url;

/// Longest name of a service, in bytes: a label in names of hosts, metrics and variables.
const MAX_SERVICE_NAME: usize = 63;

/// Longest name of a token, in bytes.
const MAX_TOKEN_NAME: usize = 63;
/// Fewest characters of an admin token.
const MIN_ADMIN_TOKEN: usize = 4;
/// Fewest characters of an admin token that cannot be guessed by trying.
const GOOD_ADMIN_TOKEN: usize = 16;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Whether a service may be called `name`.
pub(super) fn check_service_name(name: &str) -> Result<(), String> {
    let good = name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    if good && (1..=MAX_SERVICE_NAME).contains(&name.len()) {
        return Ok(());
    }
    Err(format!("must be 1 to {MAX_SERVICE_NAME} of a-z, 0-9 and \"-\", not {name:?}"))
}

/// Whether a token may be called `name`.
pub fn check_token_name(name: &str) -> Result<(), String> {
    let good = name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'));
    if good && (1..=MAX_TOKEN_NAME).contains(&name.len()) {
        return Ok(());
    }
    Err(format!("must be 1 to {MAX_TOKEN_NAME} of a-z, 0-9, \"-\" and \"_\""))
}

/// Whether `text` can be an admin token: long enough not to be a mistake, and fit for a header. The reason never
/// repeats it.
pub fn check_admin_token(text: &str) -> Result<(), String> {
    if text.chars().count() < MIN_ADMIN_TOKEN {
        return Err(format!("must have at least {MIN_ADMIN_TOKEN} characters, better {GOOD_ADMIN_TOKEN} and more"));
    }
    if text.trim() != text || !text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err("must be visible ASCII, to be sent in a header".into());
    }
    Ok(())
}

/// Whether an admin token could be guessed by trying, and is therefore only good enough on the user's own machine.
pub fn is_weak_admin_token(text: &str) -> bool {
    text.chars().count() < GOOD_ADMIN_TOKEN
}

pub(super) fn is_host_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

/// Reads a base path; slashes at its end are removed.
pub(super) fn checked_base_path(text: &str) -> Result<String, String> {
    let path = text.trim_end_matches('/');
    let is_segment = |segment: &str| {
        !matches!(segment, "" | "." | "..")
            && segment.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b))
    };
    match path.strip_prefix('/') {
        None if path.is_empty() => Ok(String::new()),
        // These paths are answered outside of the base path too.
        Some(segments) if matches!(segments.split('/').next(), Some("health" | "metrics")) => {
            Err(format!("must not begin with /health or /metrics, which are answered everywhere, not {text:?}"))
        }
        Some(segments) if segments.split('/').all(is_segment) => Ok(path.to_owned()),
        _ => Err(format!("must be a path such as \"/events\", of letters, digits and -._~, not {text:?}")),
    }
}

/// The path of requests to a service, perhaps with a query.
pub(super) fn checked_path(path: String) -> Result<String, String> {
    if path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        return Ok(path);
    }
    Err(format!("must begin with \"/\" and be visible ASCII without \"#\", not {path:?}"))
}

pub(super) fn browser_origin(text: &str) -> Result<String, String> {
    let only_origin = |url: &Url| {
        let rest =
            [url.username(), url.path().trim_matches('/'), url.query().unwrap_or(""), url.fragment().unwrap_or("")];
        url.origin().is_tuple() && rest.iter().all(|part| part.is_empty())
    };
    match Url::parse(text) {
        Ok(url) if only_origin(&url) => Ok(url.origin().ascii_serialization()),
        _ => Err(format!("must be origins such as \"https://app.example.com\", not {text:?}")),
    }
}

/// A log filter is `directive,…[/text]`, each directive a level, a module, or `module=level`.
pub(super) fn check_log_filter(filter: &str) -> Result<(), String> {
    let directives = filter.split('/').next().unwrap_or_default();
    let is_alone = !directives.contains(',');
    let is_ours = |module: &str| module.starts_with("event_handler");
    for directive in directives.split(',').map(str::trim).filter(|d| !d.is_empty()) {
        let (text, is_level) = match directive.split_once('=') {
            Some((_, level)) => (level.trim(), true),
            // A module may have any name; one that resembles a level, or stands alone and is none of ours, was meant to
            // be a level: it would silence everything.
            None => {
                (directive, suggest(&directive.to_lowercase(), LEVELS).is_some() || is_alone && !is_ours(directive))
            }
        };
        if is_level && !LEVELS.iter().any(|level| level.eq_ignore_ascii_case(text)) {
            return Err(format!("unknown level {text:?} (known: {})", LEVELS.join(", ")));
        }
    }
    Ok(())
}

/// The candidate that `name` was probably meant to be: at most two letters away, and fewer than half of it.
pub(super) fn suggest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = candidates.into_iter().map(|candidate| (distance(name, candidate), candidate)).min()?;
    (near.0 <= 2 && near.0 * 2 <= near.1.len()).then_some(near.1)
}

/// Letters to insert, delete or replace to get from `a` to `b` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_filters_are_checked() {
        for good in ["", "info", "WARN", "event_handler", "info,event_handler::web=debug", "actix=off,info/text=x"] {
            assert_eq!(check_log_filter(good), Ok(()), "{good}");
        }
        for (bad, text) in [("inof", "inof"), ("verbose", "verbose"), ("5", "5"), ("info,a=loud", "loud"), ("a=", "")] {
            let reason = format!("unknown level {text:?} (known: off, error, warn, info, debug, trace)");
            assert_eq!(check_log_filter(bad), Err(reason));
        }
    }

    #[test]
    fn base_paths_begin_with_a_slash_and_end_with_none() {
        for (text, path) in [("", ""), ("/", ""), ("/events", "/events"), ("/a/b-1.x_~/", "/a/b-1.x_~")] {
            assert_eq!(checked_base_path(text).as_deref(), Ok(path), "{text}");
        }
        for bad in [
            "events",
            "/a//b",
            "/a/../b",
            "/.",
            "/a b",
            "/a?b",
            "/\u{e4}",
            "/%65",
            "http://h/a",
            "/health",
            "/metrics/a/",
        ] {
            assert!(checked_base_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn origins_are_brought_into_the_form_of_browsers() {
        assert_eq!(browser_origin("HTTPS://App.Example.com:443/"), Ok("https://app.example.com".to_owned()));
        assert_eq!(browser_origin("http://localhost:3000"), Ok("http://localhost:3000".to_owned()));
        for bad in ["*", "null", "app.example.com", "https://a/b", "https://a?b", "file:///a", "https://u@a"] {
            assert!(browser_origin(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn suggestions_are_near() {
        let keys = ["host", "port", "max_body"];
        assert_eq!(suggest("prot", keys), Some("port"));
        assert_eq!(suggest("maxbody", keys), Some("max_body"));
        assert_eq!(suggest("zz", keys), None);
        assert_eq!(suggest("", keys), None);
    }

    #[test]
    fn distance_counts_letters() {
        assert_eq!(
            [("", ""), ("a", ""), ("prot", "port"), ("größe", "grösse")].map(|(a, b)| distance(a, b)),
            [0, 1, 2, 2]
        );
    }
}
