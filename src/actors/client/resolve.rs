//! Connections to services: names are resolved, addresses vetted, and exactly those that were vetted connected to.

mod final_answers;
mod head;

use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use actix_service::Service;
use actix_tls::connect::rustls_0_23::TlsConnector;
use actix_tls::connect::tcp::TcpConnectorService;
use actix_tls::connect::{ConnectError, ConnectInfo, Connection};
use awc::http::Uri;
use futures_util::TryFutureExt;
use futures_util::future::LocalBoxFuture;
use rustls::ClientConfig;

use self::final_answers::FinalAnswers;

tokio::task_local! {
    /// How far the attempt at hand has come in making a connection.
    pub(super) static STAGE: Cell<Stage>;
}

/// How far an attempt has come in making a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// None was asked for: one from the pool is used, or still waited for.
    Pooled,
    Connecting,
    /// There is one to the address; TLS may be under way.
    Connected,
}

/// Makes connections on which interim answers are not seen.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    /// Whether addresses may be other than public.
    pub allow_private: bool,
    /// For a connection, and again for its TLS handshake.
    pub timeout: Duration,
    /// With it connections are made by TLS; the URI's scheme does not matter.
    pub tls: Option<Arc<ClientConfig>>,
}

/// An address that must not be connected to.
#[derive(Debug)]
pub(super) struct RefusedAddress(IpAddr);

impl fmt::Display for RefusedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not a public address", self.0)
    }
}

impl std::error::Error for RefusedAddress {}

impl Service<ConnectInfo<Uri>> for Connector {
    type Response = Connection<Uri, FinalAnswers>;
    type Error = ConnectError;
    type Future = LocalBoxFuture<'static, Result<Self::Response, Self::Error>>;

    actix_service::always_ready!();

    fn call(&self, info: ConnectInfo<Uri>) -> Self::Future {
        let Self { allow_private, timeout, tls } = self.clone();
        Box::pin(async move {
            reached(Stage::Connecting);
            let connect = async {
                let port = info.request().port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
                let addresses = resolve(info.hostname(), port, allow_private).await.map_err(ConnectError::Resolver)?;
                if addresses.is_empty() {
                    return Err(ConnectError::NoRecords);
                }
                TcpConnectorService::default().call(info.set_addrs(addresses)).await
            };
            let connection = within(timeout, connect).await?;
            // A request is written whole: there is nothing to wait for. Without it, it is only slower.
            let _ = connection.io_ref().set_nodelay(true);
            reached(Stage::Connected);
            let Some(tls) = tls else {
                let (io, connection) = connection.replace_io(());
                return Ok(connection.replace_io(FinalAnswers::new(io)).1);
            };
            let handshake = TlsConnector::service(tls).call(connection).map_err(ConnectError::Io);
            let (io, connection) = within(timeout, handshake).await?.replace_io(());
            Ok(connection.replace_io(FinalAnswers::new(io)).1)
        })
    }
}

async fn within<T>(timeout: Duration, work: impl Future<Output = Result<T, ConnectError>>) -> Result<T, ConnectError> {
    let late = |_| Err(ConnectError::Io(io::ErrorKind::TimedOut.into()));
    tokio::time::timeout(timeout, work).await.unwrap_or_else(late)
}

fn reached(stage: Stage) {
    // Outside of an attempt nobody wants to know.
    let _ = STAGE.try_with(|reached| reached.set(stage));
}

/// The addresses of `host`. Unless private ones are allowed, a single one refuses all: who answers with both kinds is
/// up to no good.
async fn resolve(host: &str, port: u16, allow_private: bool) -> Result<Vec<SocketAddr>, Box<dyn std::error::Error>> {
    let literal = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let addresses: Vec<_> = match literal.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, port)],
        Err(_) => tokio::net::lookup_host((host, port)).await?.collect(),
    };
    match addresses.iter().find(|address| !allow_private && !is_public(address.ip())) {
        Some(address) => Err(Box::new(RefusedAddress(address.ip()))),
        None => Ok(addresses),
    }
}

/// Whether `address` is one that anybody on the internet may have.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// Everything but the special blocks of the IANA registry (RFC 6890).
fn is_public_v4(address: Ipv4Addr) -> bool {
    const SPECIAL: [([u8; 4], u32); 15] = [
        ([0, 0, 0, 0], 8),
        ([10, 0, 0, 0], 8),
        ([100, 64, 0, 0], 10),
        ([127, 0, 0, 0], 8),
        ([169, 254, 0, 0], 16),
        ([172, 16, 0, 0], 12),
        ([192, 0, 0, 0], 24),
        ([192, 0, 2, 0], 24),
        ([192, 88, 99, 0], 24),
        ([192, 168, 0, 0], 16),
        ([198, 18, 0, 0], 15),
        ([198, 51, 100, 0], 24),
        ([203, 0, 113, 0], 24),
        ([224, 0, 0, 0], 4),
        ([240, 0, 0, 0], 4),
    ];
    let bits = address.to_bits();
    !SPECIAL.iter().any(|(block, length)| (bits ^ u32::from_be_bytes(*block)) >> (32 - length) == 0)
}

/// Global unicast (`2000::/3`) without its special blocks, and what NAT64 makes of public IPv4 addresses.
fn is_public_v6(address: Ipv6Addr) -> bool {
    const GLOBAL: (u128, u32) = (0x2000 << 112, 3);
    const NAT64: (u128, u32) = (0x0064_ff9b << 96, 96);
    const SPECIAL: [(u128, u32); 4] =
        [(0x2001 << 112, 23), (0x2001_0db8 << 96, 32), (0x2002 << 112, 16), (0x3fff << 112, 20)];
    let bits = address.to_bits();
    let within = |(block, length): (u128, u32)| (bits ^ block) >> (128 - length) == 0;
    if within(NAT64) {
        return is_public_v4(Ipv4Addr::from_bits(bits as u32));
    }
    within(GLOBAL) && !SPECIAL.into_iter().any(within)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_addresses_are_told_from_others() {
        let public = |text: &str| is_public(text.parse().expect("an address"));
        for address in
            ["1.1.1.1", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "192.0.1.1", "223.255.255.255"]
        {
            assert!(public(address), "{address}");
        }
        for address in ["2606:4700::1111", "2a00::1", "2001:200::1", "64:ff9b::101:101"] {
            assert!(public(address), "{address}");
        }
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
        ] {
            assert!(!public(address), "{address}");
        }
        for address in [
            "::",
            "::1",
            "::ffff:1.1.1.1",
            "::ffff:127.0.0.1",
            "::1.1.1.1",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!public(address), "{address}");
        }
    }

    #[tokio::test]
    async fn names_and_literals_are_vetted_alike() {
        for host in ["localhost", "127.0.0.1", "[::1]"] {
            let refusal = resolve(host, 80, false).await.expect_err("refused");
            assert!(refusal.is::<RefusedAddress>(), "{host}: {refusal}");
            let allowed = resolve(host, 80, true).await.expect("allowed");
            assert!(allowed.iter().all(|address| address.ip().is_loopback() && address.port() == 80), "{allowed:?}");
        }
        let vetted = resolve("1.1.1.1", 80, false).await.expect("public");
        assert_eq!(vetted, [SocketAddr::from(([1, 1, 1, 1], 80))]);
    }
}
