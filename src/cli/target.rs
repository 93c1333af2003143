//! Which service a command talks to.

use std::net::Ipv6Addr;

use clap::Args;
use url::{Host, Url};

use super::Failure;
use crate::access::admin_token;
use crate::config::Config;
use crate::serve::store_options;

/// How to reach the service, and as whom.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Service")]
pub struct TargetArgs {
    /// Where the service is; by default the configured host, port and base path.
    #[arg(long, env = "EVENT_HANDLER_URL", value_name = "URL")]
    url: Option<String>,
    /// Token to send as `Authorization: Bearer`. Better in the environment: arguments are seen by other users.
    #[arg(long, env = "EVENT_HANDLER_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
}

/// The service.
#[derive(Debug)]
pub struct Target {
    /// `http://HOST:PORT`, with a path where a proxy or the service has one, without a slash at the end.
    base: String,
    pub token: Option<String>,
}

impl TargetArgs {
    /// `--url`, or else the address in the configuration.
    pub fn resolve(&self, config: &Config) -> Result<Target, Failure> {
        let given = |text: &Option<String>| text.as_deref().map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned);
        let base = match given(&self.url) {
            Some(url) => checked(&url)?,
            None => format!("{}{}", configured(&config.server.host, config.server.port)?, config.server.base_path),
        };
        Ok(Target { base, token: given(&self.token) })
    }

    /// The same for commands that operators give. Without a token of its own, the configured address gets the
    /// configured `admin.token`, or else the one that the service has put into its file; so does another port of this
    /// machine, where only a service of this folder can have put it. No other address gets either.
    pub fn resolve_admin(&self, config: &Config) -> Result<Target, Failure> {
        let mut target = self.resolve(config)?;
        if target.token.is_some() {
            return Ok(target);
        }
        let is_configured = self.url.as_deref().is_none_or(|url| url.trim().is_empty());
        let Config { admin, .. } = config;
        target.token = if !admin.token.is_empty() {
            is_configured.then(|| admin.token.expose().to_owned())
        } else if is_configured || target.is_local() {
            kept_token(config)?
        } else {
            None
        };
        Ok(target)
    }
}

impl Target {
    /// The address of `path`, which begins with a slash.
    pub fn http(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// The same for WebSocket.
    pub fn ws(&self, path: &str) -> String {
        format!("ws{}{path}", self.base.trim_start_matches("http"))
    }

    /// Whether this machine is meant.
    fn is_local(&self) -> bool {
        Url::parse(&self.base).is_ok_and(|url| match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        })
    }

    /// The address itself, for messages.
    pub fn base(&self) -> &str {
        &self.base
    }
}

/// The token that a service of this configuration keeps in a file.
fn kept_token(config: &Config) -> Result<Option<String>, Failure> {
    let path = admin_token::file(&config.admin, &store_options(config)?.url);
    let token = admin_token::read(&path).map_err(|reason| {
        Failure::Failed(format!("the admin token in {reason}\nGive one by EVENT_HANDLER_TOKEN or --token."))
    })?;
    Ok(token.map(|token| token.expose().to_owned()))
}

fn checked(text: &str) -> Result<String, Failure> {
    let refuse = |why: &str| Err(Failure::Usage(format!("--url: {text:?} {why}; give one like http://127.0.0.1:4300")));
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(error) => return refuse(&format!("is not a URL ({error})")),
    };
    match url.scheme() {
        "http" if url.query().is_none() && url.fragment().is_none() && url.username().is_empty() => {
            Ok(url.as_str().trim_end_matches('/').to_owned())
        }
        "http" => refuse("has more than host, port and path"),
        "https" => refuse("needs TLS, which these commands do not speak"),
        _ => refuse("does not begin with http://"),
    }
}

/// Where a service that listens on `host` is reached from this machine.
fn configured(host: &str, port: u16) -> Result<String, Failure> {
    if port == 0 {
        return Err(Failure::Usage("the configured port is 0, any free one: name the service by --url".into()));
    }
    let host = host.trim().trim_start_matches('[').trim_end_matches(']');
    Ok(match host {
        "0.0.0.0" => format!("http://127.0.0.1:{port}"),
        "::" => format!("http://[::1]:{port}"),
        host if host.parse::<Ipv6Addr>().is_ok() => format!("http://[{host}]:{port}"),
        host => format!("http://{host}:{port}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listening_address_becomes_one_to_connect_to() {
        for (host, base) in [
            ("127.0.0.1", "http://127.0.0.1:4300"),
            ("0.0.0.0", "http://127.0.0.1:4300"),
            ("::", "http://[::1]:4300"),
            ("[::]", "http://[::1]:4300"),
            ("::1", "http://[::1]:4300"),
            ("[::1]", "http://[::1]:4300"),
            ("localhost", "http://localhost:4300"),
        ] {
            assert_eq!(configured(host, 4300).ok().as_deref(), Some(base), "{host}");
        }
        assert_eq!(configured("localhost", 0).map_err(|failure| failure.exit_code()), Err(2));
    }

    #[test]
    fn urls_are_checked() {
        let target = Target { base: checked("http://h:1/events/").expect("valid"), token: None };
        assert_eq!(target.http("/publish"), "http://h:1/events/publish");
        assert_eq!(target.ws("/ws"), "ws://h:1/events/ws");
        let local = |base: &str| Target { base: base.into(), token: None }.is_local();
        assert!(local("http://127.0.0.1:1") && local("http://[::1]:1") && local("http://localhost:1/events"));
        assert!(
            !local("http://127.0.0.1.example:1") && !local("http://10.0.0.1:1") && !local("http://localhost.example")
        );
        for bad in ["h:1", "https://h", "ftp://h", "http://u:p@h", "http://h?x=1", "http://"] {
            assert_eq!(checked(bad).map_err(|failure| failure.exit_code()), Err(2), "{bad}");
        }
    }
}
