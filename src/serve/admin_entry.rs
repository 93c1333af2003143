//! How operators get into `/admin`, and are told so at the start.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use url::form_urlencoded;

use crate::access::AccessControl;
use crate::access::admin_token::{self, Obtained};
use crate::config::{Config, is_weak_admin_token};
use crate::domain::secret::Secret;
use crate::storage::StoreUrl;
use crate::telemetry::logging;

/// How operators get in, for them to know.
pub enum AdminEntry {
    /// By what is configured.
    Configured { is_weak: bool },
    /// By the token in a file. It may be shown if it is this program's own work.
    Kept { file: PathBuf, shown: Option<Secret> },
    /// Not at all.
    Closed { reason: String },
}

impl AdminEntry {
    /// Sees to it that a token opens `/admin`. To be called when the store has been opened, and with it the folder of the
    /// data.
    pub fn open(config: &Config, access: &AccessControl, store: &StoreUrl) -> Self {
        let admin = &config.admin;
        let is_named = !admin.token_file.is_empty();
        if !admin.token.is_empty() || access.can_administer() && !is_named {
            return Self::Configured { is_weak: !admin.token.is_empty() && is_weak_admin_token(admin.token.expose()) };
        }
        let file = admin_token::file(admin, store);
        match admin_token::obtain(&file) {
            Ok(Obtained { token, .. }) if is_weak_admin_token(token.expose()) && !config.server.is_loopback() => {
                let file = file.display();
                Self::Closed { reason: format!("{file} has less than 16 characters, and server.host is not loopback") }
            }
            Ok(Obtained { token, is_new }) => {
                access.set_admin_token(token.clone());
                Self::Kept { file, shown: (is_new || !is_named).then_some(token) }
            }
            Err(reason) => Self::Closed { reason },
        }
    }

    /// Says what is to be mended.
    pub fn warn(&self) {
        match self {
            Self::Configured { is_weak: false } | Self::Kept { .. } => {}
            Self::Configured { is_weak: true } => {
                log::warn!("the admin token has less than 16 characters: it may be found by trying");
            }
            Self::Closed { reason } => {
                log::warn!(reason; "/admin is closed: set ADMIN_TOKEN, or admin.token_file to a file that can be written");
            }
        }
    }

    /// Says it. Only logs for people who develop hold a token, and only one that was made here.
    pub fn tell(&self, config: &Config, address: SocketAddr) {
        match self {
            Self::Kept { file, shown: Some(token) }
                if !config.is_production() && logging::is_readable(&config.log, false) =>
            {
                let token: String = form_urlencoded::byte_serialize(token.expose().as_bytes()).collect();
                let url = format!("http://{}{}/admin#token={token}", reachable(address), config.server.base_path);
                log::info!(file:% = file.display(); "admin page at {url}");
            }
            Self::Kept { file, .. } => log::info!(file:% = file.display(); "the admin token is in a file"),
            Self::Configured { .. } | Self::Closed { .. } => self.warn(),
        }
    }
}

/// Where a listener is reached from this machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
