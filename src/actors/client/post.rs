//! Requests to one service over HTTP, and its answers. Time and size of both are bounded.

use std::cell::Cell;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant, SystemTime};

use actix_web::error::HttpError;
use actix_web::http::Method;
use actix_web::http::header::{
    AUTHORIZATION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, TRANSFER_ENCODING, USER_AGENT,
};
use awc::error::{ConnectError, SendRequestError};
use awc::http::Uri;
use awc::{Client, ClientResponse};
use bytes::Bytes;
use futures_util::StreamExt;

use super::messages::{BodyEnd, Content};
use super::resolve::{Connector, HAS_ENDED, RefusedAddress, STAGE, Stage};
use super::tls::client_config;
use crate::actors::clock::now;
use crate::config::{SecretUrl, ServiceConfig};
use crate::protocol::delivery_request::Headers;

/// Bytes of an answer's body that are kept.
pub const EXCERPT_BYTES: usize = 20_000;
/// Bytes of an answer's body that are read so that its connection can be used again. A longer body closes the
/// connection.
const READ_BYTES: usize = 256 * 1024;
/// Time in which the body of an answer is read, as far as the timeout of the attempt allows. The head has decided the
/// outcome before.
const BODY_PATIENCE: Duration = Duration::from_secs(1);

const AGENT: &str = concat!("event-handler/", env!("CARGO_PKG_VERSION"));

/// Posts to one service. It has its own connections, so a slow service takes none from another.
pub struct Poster {
    client: Client,
    /// The URL that paths are appended to. Its user name and password are not part of the request URL.
    url: SecretUrl,
    headers: Headers,
    /// The timeout of a whole attempt.
    timeout: Duration,
}

/// How one attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub outcome: Outcome,
    /// Time until the head of the answer or until the failure.
    pub took: Duration,
    /// What was answered to an ask.
    pub content: Option<Content>,
    /// It was sent twice: the connection of the first time ended without an answer. The service may have got both.
    pub is_repeat: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The service answered.
    Answered {
        status: u16,
        /// What the header asks for. The caller bounds it.
        retry_after: Option<Duration>,
        /// The beginning of the body, as far as it arrived. Bytes that are not UTF-8 are replaced.
        excerpt: String,
    },
    Failed {
        kind: FailureKind,
        message: String,
    },
}

/// What became of one attempt's request.
struct Requested {
    /// The head of the answer.
    answered: Result<ClientResponse, Failure>,
    /// The time until then.
    took: Duration,
    /// See [`Attempt`].
    is_repeat: bool,
}

/// Why there is no answer, and what exactly has happened.
type Failure = (FailureKind, String);

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// Nobody listens at the address.
    Connect,
    /// The name has no address.
    Dns,
    /// The TLS handshake failed, for instance because the certificate is not trusted.
    Tls,
    /// No answer arrived in time.
    Timeout,
    /// The address is not public, and private ones are not allowed.
    RefusedAddress,
    /// The connection ended, or what arrived is not HTTP.
    Broken,
    /// The request itself could not be made.
    Request,
    /// This machine has no descriptor or memory for a connection, so nothing was sent.
    Resources,
}

impl FailureKind {
    /// Whether the service may have got the request all the same.
    pub fn is_perhaps_sent(self) -> bool {
        match self {
            Self::Timeout | Self::Broken => true,
            Self::Connect | Self::Dns | Self::Tls | Self::RefusedAddress | Self::Request | Self::Resources => false,
        }
    }

    /// The name in logs, metrics and the store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Dns => "dns",
            Self::Tls => "tls",
            Self::Timeout => "timeout",
            Self::RefusedAddress => "refused_address",
            Self::Broken => "broken",
            Self::Request => "request",
            Self::Resources => "resources",
        }
    }
}

/// The headers of every request to `service`, as configured.
fn headers(service: &ServiceConfig) -> Headers {
    let authorization = service.authorization().filter(|_| !service.headers.contains_key(AUTHORIZATION.as_str()));
    let authorization = authorization.and_then(|value| header(AUTHORIZATION.as_str(), value.expose()));
    let others = service.headers.iter().filter_map(|(name, value)| header(name, value.expose()));
    authorization.into_iter().chain(others).collect()
}

/// A header that the configuration has checked. Its value does not appear in debug output.
fn header(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some((HeaderName::try_from(name).ok()?, value))
}

impl Poster {
    /// Reads the certificates that the service needs. The result is to be used on the thread it was made on.
    pub fn new(service: &ServiceConfig) -> Result<Self, String> {
        let ServiceConfig { url, options, .. } = service;
        let tls = match url.expose().scheme() {
            "https" => Some(client_config(options).map_err(|(key, reason)| format!("{key}: {reason}"))?),
            _ => None,
        };
        let timeout = options.timeout.get();
        let connector = Connector { allow_private: options.allow_private, timeout: options.connect_timeout.get(), tls };
        let connector = awc::Connector::new()
            .connector(connector)
            .timeout(timeout)
            .limit(options.concurrency)
            .conn_keep_alive(options.idle_timeout.get())
            .conn_lifetime(options.connection_max_age.get());
        let client = Client::builder()
            .connector(connector)
            .disable_redirects()
            .disable_timeout()
            .add_default_header((USER_AGENT, AGENT))
            .finish();
        Ok(Self { client, url: url.clone(), headers: headers(service), timeout })
    }

    /// Posts `body` to `path` below the service's URL.
    ///
    /// The head decides the outcome; of the body only the beginning is kept.
    pub async fn post(&self, path: &str, headers: &[(HeaderName, HeaderValue)], body: Bytes) -> Attempt {
        let Requested { answered, took, is_repeat } = self.request(Method::POST, path, headers, body).await;
        let outcome = match answered {
            Ok(response) => answer(response, self.timeout.saturating_sub(took).min(BODY_PATIENCE)).await,
            Err((kind, message)) => Outcome::Failed { kind, message },
        };
        Attempt { outcome, took, content: None, is_repeat }
    }

    /// Sends `body` to `path` below the service's URL, and reads the whole answer, up to `max_answer_bytes`. Head and
    /// body have one timeout.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
        max_answer_bytes: usize,
    ) -> Attempt {
        let Requested { answered, took, is_repeat } = self.request(method, path, headers, body).await;
        let (outcome, content) = match answered.and_then(final_head) {
            Ok((response, status, retry_after)) => {
                let content = content(response, max_answer_bytes, self.timeout.saturating_sub(took)).await;
                (Outcome::Answered { status, retry_after, excerpt: String::new() }, Some(content))
            }
            Err((kind, message)) => (Outcome::Failed { kind, message }, None),
        };
        Attempt { outcome, took, content, is_repeat }
    }

    /// If a pooled connection turns out to be dead before any byte of an answer has come, one other connection is
    /// tried.
    async fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Requested {
        let begin = Instant::now();
        let mut is_repeat = false;
        let answered = match client_uri(self.url.join_path(path).as_str()) {
            Ok(uri) => {
                let attempt = self.attempt(&method, &uri, headers, body, &mut is_repeat);
                tokio::time::timeout(self.timeout, attempt).await.unwrap_or_else(|_| {
                    let message = format!("no answer within {:?}", self.timeout);
                    Err((FailureKind::Timeout, message))
                })
            }
            Err(error) => Err((FailureKind::Request, error.to_string())),
        };
        Requested { answered, took: begin.elapsed(), is_repeat }
    }

    /// Returns the head of the answer.
    async fn attempt(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
        is_repeat: &mut bool,
    ) -> Result<ClientResponse, Failure> {
        let (mut sent, mut stage) = self.send(method, uri, headers, body.clone()).await;
        if stage == Stage::Pooled && sent.as_ref().is_err_and(is_dead_connection) {
            *is_repeat = true;
            (sent, stage) = self.send(method, uri, headers, body).await;
        }
        sent.map_err(|error| failure(&error, stage))
    }

    /// Returns the head of the answer, and how far the connection got.
    async fn send(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> (Result<ClientResponse, SendRequestError>, Stage) {
        let mut request = self.client.request(method.clone(), uri.clone());
        let all = request.headers_mut();
        for (name, value) in self.headers.iter().chain(headers) {
            all.append(name.clone(), value.clone());
        }
        let send = async move {
            let sent = request.send_body(body).await.map(|response| response.map_body(|_, body| body));
            (sent, STAGE.with(Cell::get))
        };
        STAGE.scope(Cell::new(Stage::Pooled), send).await
    }
}

/// The URL as the HTTP client gets it. It names no TLS, which the connector adds.
fn client_uri(url: &str) -> Result<Uri, HttpError> {
    let uri = Uri::try_from(url)?;
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(host)) => {
            let authority = format!("{host}:{}", uri.port_u16().unwrap_or(443));
            let target = uri.path_and_query().map_or("/", |target| target.as_str());
            Uri::builder().scheme("http").authority(authority).path_and_query(target).build()
        }
        _ => Ok(uri),
    }
}

/// Whether a pooled connection ended without a byte of an answer: the service closed it just when it was taken from the
/// pool.
fn is_dead_connection(error: &SendRequestError) -> bool {
    use actix_http::error::ParseError;
    match error {
        SendRequestError::Connect(ConnectError::Disconnected) | SendRequestError::Send(_) => true,
        SendRequestError::Response(ParseError::Io(error)) => {
            matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
        }
        _ => false,
    }
}

/// Status and wait of an answer that is final.
fn final_head(response: ClientResponse) -> Result<(ClientResponse, u16, Option<Duration>), Failure> {
    let status = response.status().as_u16();
    let retry_after = retry_after(response.headers(), now().into());
    if status < 200 {
        // Interim answers are skipped below. This one announces another protocol, which nobody has asked for.
        return Err((FailureKind::Broken, format!("interim answer {status}")));
    }
    Ok((response, status, retry_after))
}

/// Reads the body for at most `patience`, and at most `max_bytes` of it.
async fn content(mut response: ClientResponse, max_bytes: usize, patience: Duration) -> Content {
    // Any other body ends with its connection.
    let is_delimited = [CONTENT_LENGTH, TRANSFER_ENCODING].iter().any(|name| response.headers().contains_key(name));
    let mut body = Vec::new();
    let read = async {
        while let Some(chunk) = response.next().await {
            let Ok(chunk) = chunk else { return BodyEnd::BrokenOff };
            let room = max_bytes - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() > room {
                return BodyEnd::TooLong;
            }
        }
        if is_delimited && HAS_ENDED.with(Cell::get) { BodyEnd::BrokenOff } else { BodyEnd::Whole }
    };
    let read = HAS_ENDED.scope(Cell::new(false), read);
    let end = tokio::time::timeout(patience, read).await.unwrap_or(BodyEnd::BrokenOff);
    Content { body: body.into(), end }
}

/// Reads the body for at most `patience`. A body that stalls or breaks off does not change the outcome.
async fn answer(response: ClientResponse, patience: Duration) -> Outcome {
    let (mut response, status, retry_after) = match final_head(response) {
        Ok(answered) => answered,
        Err((kind, message)) => return Outcome::Failed { kind, message },
    };
    let mut excerpt = Vec::new();
    let read = async {
        let mut read = 0;
        while let Some(Ok(chunk)) = response.next().await {
            let room = EXCERPT_BYTES - excerpt.len();
            excerpt.extend_from_slice(&chunk[..chunk.len().min(room)]);
            read += chunk.len();
            if read > READ_BYTES {
                break;
            }
        }
    };
    // A body that is dropped before its end closes the connection.
    let _ = tokio::time::timeout(patience, read).await;
    // NUL is valid UTF-8, but PostgreSQL cannot store it.
    let excerpt = String::from_utf8_lossy(&excerpt).replace('\0', "\u{fffd}");
    Outcome::Answered { status, retry_after, excerpt }
}

/// Reads any number of seconds, or a date (RFC 9110, section 10.2.3). Any other value counts as absent.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// Whether this process or machine lacks a resource that a connection to any service needs.
fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// Why a TLS handshake failed, with advice where the reason alone does not help.
fn tls_reason(error: &io::Error) -> String {
    use rustls::{CertificateError, Error};
    let certificate = match error.get_ref().and_then(|error| error.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(reason)) => reason,
        _ => return error.to_string(),
    };
    match certificate {
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "the service shows a certificate that is an authority, which it may not use for itself: sign one by that \
             authority, or make one that is none (`openssl req -x509 -addext basicConstraints=CA:FALSE …`), and name it \
             in tls_ca_file"
                .to_owned()
        }
        CertificateError::UnknownIssuer => {
            format!("{error}: neither the system nor tls_ca_file has the authority that has signed the service's certificate")
        }
        _ => error.to_string(),
    }
}

fn failure(error: &SendRequestError, stage: Stage) -> Failure {
    let kind = match error {
        SendRequestError::Connect(ConnectError::Resolver(reason)) => match reason.downcast_ref::<RefusedAddress>() {
            Some(refused) => return (FailureKind::RefusedAddress, refused.to_string()),
            // The resolver does not always report that it could not open a socket, so it is tried here.
            None => match UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)) {
                Err(error) if is_shortage(&error) => return (FailureKind::Resources, error.to_string()),
                _ => return (FailureKind::Dns, format!("the name cannot be resolved: {reason}")),
            },
        },
        SendRequestError::Connect(ConnectError::NoRecords | ConnectError::Unresolved) => FailureKind::Dns,
        SendRequestError::Connect(ConnectError::Io(error)) if is_shortage(error) => FailureKind::Resources,
        SendRequestError::Connect(ConnectError::Io(error)) if error.kind() == ErrorKind::TimedOut => {
            let what = if stage == Stage::Connected { "TLS handshake" } else { "connection" };
            return (FailureKind::Timeout, format!("no {what} in time"));
        }
        SendRequestError::Connect(ConnectError::Timeout) => FailureKind::Timeout,
        SendRequestError::Connect(ConnectError::Disconnected) => {
            return (FailureKind::Broken, "the connection was closed without an answer".to_owned());
        }
        SendRequestError::Connect(ConnectError::Io(error)) if stage == Stage::Connected => {
            return (FailureKind::Tls, tls_reason(error));
        }
        SendRequestError::Connect(ConnectError::SslIsNotSupported) => FailureKind::Tls,
        SendRequestError::Connect(_) => FailureKind::Connect,
        SendRequestError::Timeout => FailureKind::Timeout,
        SendRequestError::Url(_) | SendRequestError::Http(_) => FailureKind::Request,
        _ => FailureKind::Broken,
    };
    (kind, error.to_string())
}
