//! The API client: how the commands reach a running Event Handler, and errors that say what to do next.

use std::fmt::Display;
use std::time::Duration;

use actix_web::http::Method;
use actix_web::http::header::{self, HeaderMap};
use actix_web::web::Bytes;
use awc::error::{ConnectError, SendRequestError, WsClientError};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::Failure;
use super::target::Target;

/// Time for an answer to begin. A publish may wait 10 s for its commit.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest answer: a page of 1,000 events of the largest allowed size is longer than anybody wants.
const MAX_ANSWER: usize = 1 << 30;

/// Talks to one Event Handler.
pub struct ApiClient {
    http: awc::Client,
    target: Target,
}

/// A complete answer, whatever its status.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// The envelope of errors.
#[derive(Deserialize)]
struct Refused {
    message: String,
    data: RefusedData,
}

#[derive(Deserialize)]
struct RefusedData {
    code: String,
}

impl ApiClient {
    pub fn new(target: Target) -> Self {
        Self { http: awc::Client::builder().disable_redirects().timeout(ANSWER_TIMEOUT).finish(), target }
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    pub async fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.send(Method::GET, path, Vec::new()).await
    }

    pub async fn post(&self, path: &str, json: Vec<u8>) -> Result<Answer, Failure> {
        self.send(Method::POST, path, json).await
    }

    pub async fn delete(&self, path: &str) -> Result<Answer, Failure> {
        self.send(Method::DELETE, path, Vec::new()).await
    }

    /// The objects of a list, each as the text it is; those of all its pages, or of the first.
    pub async fn list(&self, path: &str, all: bool) -> Result<Vec<Box<RawValue>>, Failure> {
        let mut objects = Vec::new();
        let mut next = Some(path.to_owned());
        while let Some(path) = next {
            let answer = self.get(&path).await?.success()?;
            next = answer.next_page(&path).filter(|_| all);
            objects.extend(self.data::<Vec<Box<RawValue>>>(answer)?);
        }
        Ok(objects)
    }

    /// The `data` of an answer, which must be a success.
    pub fn data<T: DeserializeOwned>(&self, answer: Answer) -> Result<T, Failure> {
        #[derive(Deserialize)]
        struct Envelope<T> {
            data: T,
        }
        Ok(self.whole::<Envelope<T>>(answer)?.data)
    }

    /// An answer with its envelope, which must be a success.
    pub fn whole<T: DeserializeOwned>(&self, answer: Answer) -> Result<T, Failure> {
        let answer = answer.success()?;
        serde_json::from_slice(&answer.body)
            .map_err(|error| Failure::Failed(format!("{} is not an Event Handler: {error}", self.target.base())))
    }

    /// A request for a WebSocket connection.
    pub fn ws(&self, path: &str) -> awc::ws::WebsocketsRequest {
        let request = self.http.ws(self.target.ws(path));
        match &self.target.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn send(&self, method: Method, path: &str, body: Vec<u8>) -> Result<Answer, Failure> {
        self.send_if(method, path, body, None).await
    }

    /// Sends a request with a header that makes a condition.
    pub async fn send_if(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        condition: Option<(&'static str, String)>,
    ) -> Result<Answer, Failure> {
        let mut request = self.http.request(method, self.target.http(path));
        if let Some(condition) = condition {
            request = request.insert_header(condition);
        }
        if let Some(token) = &self.target.token {
            request = request.bearer_auth(token);
        }
        if !body.is_empty() {
            request = request.content_type("application/json");
        }
        let mut response = request.send_body(body).await.map_err(|error| self.unreachable(&error))?;
        let body = response.body().limit(MAX_ANSWER).await;
        let body =
            body.map_err(|error| Failure::Failed(format!("the answer of {} broke off: {error}", self.target.base())))?;
        Ok(Answer { status: response.status().as_u16(), headers: response.headers().clone(), body })
    }

    /// What to say when no answer came.
    fn unreachable(&self, error: &SendRequestError) -> Failure {
        let base = self.target.base();
        Failure::Failed(match error {
            SendRequestError::Connect(error) => {
                let reason = match error {
                    ConnectError::Io(error) => plain(error),
                    other => other.to_string(),
                };
                format!(
                    "cannot connect to {base}: {reason}\n\
                     Is the service running there? Start it with `event-handler serve`, or name another by --url."
                )
            }
            SendRequestError::Timeout => format!("no answer from {base} within {} s", ANSWER_TIMEOUT.as_secs()),
            other => format!("{base} did not answer: {other}"),
        })
    }

    /// What to say when no WebSocket connection came about.
    pub fn not_upgraded(&self, error: &WsClientError) -> Failure {
        match error {
            WsClientError::SendRequest(error) => self.unreachable(error),
            WsClientError::InvalidResponseStatus(status) => Failure::Failed(format!(
                "{} refused the connection with {status}{}",
                self.target.ws("/ws"),
                advice(status.as_u16()).unwrap_or_default()
            )),
            other => Failure::Failed(format!("{} does not speak WebSocket: {other}", self.target.ws("/ws"))),
        }
    }
}

impl Answer {
    /// The answer, if it is a success; else the service's own reason.
    pub fn success(self) -> Result<Self, Failure> {
        if (200..300).contains(&self.status) {
            return Ok(self);
        }
        let reason = match serde_json::from_slice::<Refused>(&self.body) {
            Ok(Refused { message, data: RefusedData { code } }) => format!("{message} ({code})"),
            Err(_) => format!("the service answered with {}", self.status),
        };
        let when = self.headers.get(header::RETRY_AFTER).and_then(|after| after.to_str().ok());
        let when = when.map(|after| format!("\nTry again in {after} s.")).unwrap_or_default();
        Err(Failure::Failed(format!("{reason}{when}{}", advice(self.status).unwrap_or_default())))
    }

    /// Path and query of the next page, if there is more than that at `path`.
    pub fn next_page(&self, path: &str) -> Option<String> {
        let links = self.headers.get_all(header::LINK).filter_map(|link| link.to_str().ok());
        let next = links.flat_map(|links| links.split(", ")).find_map(|link| link.strip_suffix(r#"; rel="next""#))?;
        // Whatever path a proxy puts before it, it is the same but for the query.
        let (_, query) = next.strip_suffix('>')?.split_once('?')?;
        Some(format!("{}?{query}", path.split('?').next().unwrap_or_default()))
    }
}

/// `text` as one segment of a path.
pub fn segment(text: &str) -> impl Display {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
}

fn advice(status: u16) -> Option<&'static str> {
    match status {
        401 | 403 => Some("\nGive a token by EVENT_HANDLER_TOKEN or --token."),
        _ => None,
    }
}

/// The reason without the number of the system's error.
fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}
