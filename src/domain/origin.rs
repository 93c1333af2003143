//! Whether a request is made by a web page of another origin.
//!
//! A browser lets any page send requests anywhere, and only keeps the answers from it; and a page whose name is made to
//! point to this machine (DNS rebinding) gets the answers too. But a browser says who asks, in headers that no page can
//! set: `Origin`, `Sec-Fetch-Site`, and the name in `Host`.

use std::net::IpAddr;

/// Allows every origin, if it stands alone in a list.
pub const EVERY: &str = "*";

/// What a browser says of the page that makes a request. Programs that are no browsers say nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Provenance<'a> {
    /// `Origin`.
    pub origin: Option<&'a str>,
    /// `Sec-Fetch-Site`.
    pub site: Option<&'a str>,
    /// The host that the request is for: `Host`, or the authority of its target.
    pub host: Option<&'a str>,
}

impl Provenance<'_> {
    /// Whether a page of another origin asks that is not in `allowed`.
    pub fn is_foreign(self, allowed: &[String]) -> bool {
        if allowed.iter().any(|allowed| allowed == EVERY) {
            return false;
        }
        // Alone it comes with a request whose answer the page cannot read, such as for an image. It knows the scheme.
        let is_elsewhere = matches!(self.site, Some("cross-site" | "same-site"));
        self.origin.map_or(is_elsewhere, |origin| {
            let is_named = allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin));
            !is_named && (is_elsewhere || !self.is_same(origin))
        })
    }

    /// Whether `origin` is the one that is asked. Its scheme is not known here, where a proxy may speak TLS.
    fn is_same(self, origin: &str) -> bool {
        let Some((scheme, authority)) = origin.split_once("://") else { return false };
        let default_port = if scheme == "https" { ":443" } else { ":80" };
        let bare = |authority: &'_ str| authority.strip_suffix(default_port).unwrap_or(authority).to_ascii_lowercase();
        self.host.is_some_and(|host| bare(host) == bare(authority))
    }

    /// Whether the name under which the service is asked may be anybody's: it is no address, not `localhost`, and not
    /// in `allowed`. Who names none is no browser.
    pub fn is_rebound(self, allowed: &[String]) -> bool {
        let Some(host) = self.host else { return false };
        let name = match host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => host.rsplit_once(':').map_or(host, |(name, _)| name),
        };
        let is_own = name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok();
        !is_own && !allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const APP: &str = "https://app.example.com";

    fn is_foreign(origin: &str, host: &str, allowed: &[&str]) -> bool {
        let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
        Provenance { origin: Some(origin), site: None, host: Some(host) }.is_foreign(&allowed)
    }

    #[test]
    fn an_origin_is_foreign_unless_it_is_the_one_asked_or_a_named_one() {
        assert!(!is_foreign("http://127.0.0.1:4300", "127.0.0.1:4300", &[]));
        assert!(!is_foreign("https://events.example", "Events.Example", &[]), "a proxy speaks TLS");
        assert!(!is_foreign("http://events.example", "events.example:80", &[]));
        assert!(!is_foreign(APP, "127.0.0.1:4300", &[APP]) && !is_foreign(APP, "h", &["*"]));
        for origin in ["http://evil.example", "null", "", "http://127.0.0.1", "http://127.0.0.1:4300.evil.example"] {
            assert!(is_foreign(origin, "127.0.0.1:4300", &[APP]), "{origin}");
        }
        assert!(Provenance { origin: Some(APP), ..Provenance::default() }.is_foreign(&[]), "nobody is asked");
    }

    #[test]
    fn a_page_of_another_scheme_is_foreign() {
        let who = Provenance { origin: Some("http://h"), site: Some("cross-site"), host: Some("h") };
        assert!(who.is_foreign(&[]) && !who.is_foreign(&["http://h".to_owned()]));
    }

    #[test]
    fn without_an_origin_the_browser_says_whether_the_page_is_of_this_site() {
        let is_foreign = |site, allowed: &[String]| Provenance { site, ..Provenance::default() }.is_foreign(allowed);
        assert!(is_foreign(Some("cross-site"), &[]) && is_foreign(Some("same-site"), &[APP.to_owned()]));
        assert!(!is_foreign(Some("cross-site"), &[EVERY.to_owned()]));
        assert!(!is_foreign(None, &[]) && !is_foreign(Some("same-origin"), &[]) && !is_foreign(Some("none"), &[]));
    }

    #[test]
    fn a_name_may_be_anybodys_and_an_address_is_not() {
        let is_rebound =
            |host| Provenance { host: Some(host), ..Provenance::default() }.is_rebound(&["events.example".to_owned()]);
        for host in
            ["localhost", "LOCALHOST:4300", "127.0.0.1", "10.1.2.3:80", "[::1]", "[::1]:4300", "Events.Example:1"]
        {
            assert!(!is_rebound(host), "{host}");
        }
        for host in ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "x.localhost", "", ":80"] {
            assert!(is_rebound(host), "{host}");
        }
        assert!(!Provenance::default().is_rebound(&[]));
    }
}
