//! A blocking WebSocket client, of another make than the server's implementation.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;
use tungstenite::client::IntoClientRequest;
use tungstenite::http::{HeaderName, HeaderValue};
use tungstenite::protocol::CloseFrame;
use tungstenite::{Error, HandshakeError, Message, WebSocket};

use super::PATIENCE;

/// One connection to `/ws`.
pub struct Socket {
    inner: WebSocket<TcpStream>,
    barriers: u32,
}

/// Why there is no connection.
#[derive(Debug)]
pub struct Refused {
    pub status: u16,
    pub body: String,
}

impl Socket {
    /// Connects with further `headers`.
    ///
    /// # Panics
    /// When there is no answer at all.
    pub fn connect(addr: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Self, Refused> {
        match Self::try_connect(addr, path, headers) {
            Ok(socket) => Ok(socket),
            Err(Error::Http(response)) => {
                let body = response.body().clone().unwrap_or_default();
                Err(Refused { status: response.status().as_u16(), body: String::from_utf8(body).expect("UTF-8") })
            }
            Err(error) => panic!("the handshake broke: {error}"),
        }
    }

    /// Like [`Self::connect`], for servers that may be going away.
    pub fn try_connect(addr: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Self, Error> {
        Self::connect_patient(addr, path, headers, PATIENCE)
    }

    /// Waits no longer than `patience` for the answer.
    pub fn connect_patient(
        addr: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
        patience: Duration,
    ) -> Result<Self, Error> {
        let mut request = format!("ws://{addr}{path}").into_client_request()?;
        for (name, value) in headers {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a header name");
            request.headers_mut().insert(name, HeaderValue::from_str(value).expect("a header value"));
        }
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        match tungstenite::client(request, stream) {
            Ok((inner, _)) => Ok(Self { inner, barriers: 0 }),
            Err(HandshakeError::Failure(error)) => Err(error),
            Err(HandshakeError::Interrupted(_)) => Err(Error::Io(io::ErrorKind::TimedOut.into())),
        }
    }

    /// The connection below.
    pub fn stream(&self) -> &TcpStream {
        self.inner.get_ref()
    }

    /// The address of this end.
    pub fn local_addr(&self) -> SocketAddr {
        self.stream().local_addr().expect("a connected socket")
    }

    /// Sends one text frame, exactly as given (a [`Value`] or a text).
    pub fn send(&mut self, text: impl ToString) {
        self.try_send(text).expect("an open connection");
    }

    /// Like [`Self::send`], for servers that may be going away.
    pub fn try_send(&mut self, text: impl ToString) -> Result<(), Error> {
        self.inner.send(Message::text(text.to_string()))
    }

    /// Sends any frame.
    pub fn send_message(&mut self, message: Message) {
        self.inner.send(message).expect("an open connection");
    }

    /// The next text frame, which must come soon.
    pub fn recv_text(&mut self) -> String {
        match self.recv(PATIENCE) {
            Ok(Message::Text(text)) => text.as_str().to_owned(),
            other => panic!("expected a text frame, not {other:?}"),
        }
    }

    /// The next text frame as JSON.
    pub fn recv_json(&mut self) -> Value {
        let text = self.recv_text();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("not JSON ({error}): {text:?}"))
    }

    /// Sends a request and returns the next frame, which must be its reply.
    pub fn request(&mut self, request: Value) -> Value {
        self.send(&request);
        let reply = self.recv_json();
        assert_eq!(reply["id"], request["id"], "the reply to {request}: {reply}");
        reply
    }

    /// Every text frame that the server sent before it answered a ping sent now. Requests sent earlier are
    /// carried out by then.
    pub fn barrier(&mut self) -> Vec<String> {
        self.barriers += 1;
        let mark = format!("barrier {}", self.barriers);
        self.send_message(Message::Ping(mark.clone().into()));
        let mut frames = Vec::new();
        loop {
            match self.recv(PATIENCE) {
                Ok(Message::Text(text)) => frames.push(text.as_str().to_owned()),
                Ok(Message::Pong(data)) if data == mark.as_bytes() => return frames,
                other => panic!("expected the pong {mark:?}, not {other:?}"),
            }
        }
    }

    /// Reads until the server closes; returns code and reason, and the text frames before.
    pub fn recv_close(&mut self) -> (Option<CloseFrame>, Vec<String>) {
        let mut frames = Vec::new();
        loop {
            match self.recv(PATIENCE) {
                Ok(Message::Text(text)) => frames.push(text.as_str().to_owned()),
                Ok(Message::Close(frame)) => return (frame, frames),
                Ok(_) => {}
                Err(error) => panic!("expected a close frame, not {error}"),
            }
        }
    }

    /// The next frame within `patience`; pings are answered on the way.
    pub fn recv(&mut self, patience: Duration) -> Result<Message, Error> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Io(io::ErrorKind::TimedOut.into()));
            }
            self.inner.get_ref().set_read_timeout(Some(left))?;
            match self.inner.read() {
                Ok(Message::Ping(_)) => self.inner.flush()?,
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }
}
