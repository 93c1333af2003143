//! How operators get into `/admin`, and are told so at the start.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use url::form_urlencoded;

use crate::access::AccessControl;
use crate::access::admin_token::{self, Obtained};
use crate::config::{Config, Secret};
use crate::storage::StoreUrl;
use crate::telemetry::logging;

/// How operators get in, for them to know.
pub enum AdminEntry {
    /// By what is configured.
    Configured,
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
            return Self::Configured;
        }
        let file = admin_token::file(admin, store);
        match admin_token::obtain(&file) {
            Ok(Obtained { token, is_new }) => {
                access.set_admin_token(token.clone());
                Self::Kept { file, shown: (is_new || !is_named).then_some(token) }
            }
            Err(reason) => Self::Closed { reason },
        }
    }

    /// Says it. Only logs for people who develop hold a token, and only one that was made here.
    pub fn tell(&self, config: &Config, address: SocketAddr) {
        match self {
            Self::Configured => {}
            Self::Kept { file, shown: Some(token) }
                if !config.is_production() && logging::is_readable(&config.log, false) =>
            {
                let token: String = form_urlencoded::byte_serialize(token.expose().as_bytes()).collect();
                let url = format!("http://{}{}/admin#token={token}", reachable(address), config.server.base_path);
                log::info!(file:% = file.display(); "admin page at {url}");
            }
            Self::Kept { file, .. } => log::info!(file:% = file.display(); "the admin token is in a file"),
            Self::Closed { reason } => {
                log::warn!(reason; "/admin is closed: set ADMIN_TOKEN, or admin.token_file to a file that can be written");
            }
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
