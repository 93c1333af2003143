//! Connections to services. A name is resolved, its addresses are checked, and only a checked address is connected to.

mod final_answers;
mod head;

use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
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
use crate::domain::network::is_public;

tokio::task_local! {
    /// How far the current attempt has come in making a connection.
    pub(super) static STAGE: Cell<Stage>;
    /// Whether the connection has ended while the body of an answer was being read. The HTTP client does not tell that
    /// from the end of the body.
    pub(super) static HAS_ENDED: Cell<bool>;
}

/// How far an attempt has come in making a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// No connection was asked for: the attempt uses one of the pool, or waits for one.
    Pooled,
    Connecting,
    /// TCP is connected; the TLS handshake may be under way.
    Connected,
}

/// Makes connections on which interim answers are skipped.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    /// Whether addresses may be other than public ones.
    pub allow_private: bool,
    /// The timeout for a TCP connection, and again for the TLS handshake.
    pub timeout: Duration,
    /// Connections use TLS if this is given, whatever the scheme of the URI says.
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
            // A request is written at once, so waiting for more to send (Nagle) only delays it. A failure costs time
            // alone.
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
    // Outside of an attempt nobody reads the stage.
    let _ = STAGE.try_with(|reached| reached.set(stage));
}

/// The addresses of `host`. Unless private addresses are allowed, one private address refuses the name: a name with
/// addresses of both kinds may be an attempt to reach this network (DNS rebinding).
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

#[cfg(test)]
mod tests {
    use super::*;

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
