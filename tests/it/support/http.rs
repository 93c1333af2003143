//! A blocking HTTP/1.1 client that sends exactly what it is told and hides nothing of the answer.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::described;

/// Longest wait for any single read or write.
const IO_TIMEOUT: Duration = Duration::from_secs(20);

/// A request under construction; sent over a connection of its own.
#[derive(Debug, Clone)]
pub struct Request {
    addr: SocketAddr,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    /// `Authorization`, unless it is given.
    bearer: Option<String>,
    body: Vec<u8>,
}

impl Request {
    pub fn new(addr: SocketAddr, method: &str, path: &str) -> Self {
        Self {
            addr,
            method: method.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            bearer: None,
            body: Vec::new(),
        }
    }

    /// Adds a header. `Host` and `Content-Length` are made unless given.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sends this token, unless the header `Authorization` is given.
    pub fn bearer(mut self, token: Option<String>) -> Self {
        self.bearer = token;
        self
    }

    /// A body without a content type.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// A JSON body, exactly as given.
    pub fn json(self, body: impl ToString) -> Self {
        let body = body.to_string();
        self.header("Content-Type", "application/json").body(body)
    }

    /// Sends the request and reads the whole answer.
    ///
    /// # Panics
    /// When the connection fails before the answer is complete.
    pub fn send(self) -> Response {
        let what = format!("{} {}", self.method, self.path);
        self.try_send().unwrap_or_else(|error| panic!("{what}: no complete answer: {error}"))
    }

    /// Like [`Self::send`], for servers that may be going away.
    pub fn try_send(self) -> io::Result<Response> {
        let mut connection = Connection::open(self.addr)?;
        connection.send(&self.header("Connection", "close"))
    }

    /// The request as it goes over the wire.
    pub fn encode(&self) -> Vec<u8> {
        let Self { addr, method, path, headers, bearer, body } = self;
        let given = |name: &str| headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        if !given("host") {
            head += &format!("Host: {addr}\r\n");
        }
        if !given("content-length") && !given("transfer-encoding") && (!body.is_empty() || method == "POST") {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        if let Some(token) = bearer.as_ref().filter(|_| !given("authorization")) {
            head += &format!("Authorization: Bearer {token}\r\n");
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        [head.as_bytes(), body].concat()
    }
}

/// A kept-alive connection.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub fn open(addr: SocketAddr) -> io::Result<Self> {
        Self::open_patient(addr, IO_TIMEOUT)
    }

    /// One that waits no longer than `patience` for any single read or write.
    pub fn open_patient(addr: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&addr, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends `request` and reads its answer.
    pub fn send(&mut self, request: &Request) -> io::Result<Response> {
        self.send_raw(&request.encode())?;
        let response = self.receive(request.method == "HEAD")?;
        described::check(&request.method, &request.path, &response);
        Ok(response)
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Reads one answer; the answer to a HEAD request has no body whatever its headers say.
    pub fn receive(&mut self, to_head: bool) -> io::Result<Response> {
        let (status, headers) = self.receive_head()?;
        let mut response = Response { status, headers, body: Vec::new() };
        if to_head || status == 204 || status == 304 {
            return Ok(response);
        }
        if response.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            while self.read_chunk(&mut response.body)? {}
        } else if let Some(length) = response.header("content-length") {
            let length = length.parse().map_err(|_| invalid(format!("content-length {length:?}")))?;
            response.body.resize(length, 0);
            self.stream.read_exact(&mut response.body)?;
        } else {
            self.stream.read_to_end(&mut response.body)?;
        }
        Ok(response)
    }

    /// Reads status and headers only; the body may be endless.
    pub fn receive_head(&mut self) -> io::Result<(u16, Vec<(String, String)>)> {
        let status_line = self.read_line()?;
        let status = status_line
            .strip_prefix("HTTP/1.1 ")
            .or_else(|| status_line.strip_prefix("HTTP/1.0 "))
            .and_then(|rest| rest.get(..3))
            .and_then(|code| code.parse().ok())
            .ok_or_else(|| invalid(format!("status line {status_line:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.read_line()?;
            if line.is_empty() {
                return Ok((status, headers));
            }
            let (name, value) = line.split_once(':').ok_or_else(|| invalid(format!("header {line:?}")))?;
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    /// Appends one chunk to `body`; false after the last.
    pub fn read_chunk(&mut self, body: &mut Vec<u8>) -> io::Result<bool> {
        let line = self.read_line()?;
        let size = usize::from_str_radix(&line, 16).map_err(|_| invalid(format!("chunk size {line:?}")))?;
        let start = body.len();
        body.resize(start + size, 0);
        self.stream.read_exact(&mut body[start..])?;
        match self.read_line()?.as_str() {
            "" => Ok(size > 0),
            junk => Err(invalid(format!("after a chunk: {junk:?}"))),
        }
    }

    fn read_line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line)?;
        let line = line.strip_suffix(b"\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
        String::from_utf8(line.to_vec()).map_err(|_| invalid("a head that is not UTF-8".to_owned()))
    }
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// An answer, as it came.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    /// In the order they came.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of that name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers_named(name).next()
    }

    /// Every header of that name, in any case.
    pub fn headers_named(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body in UTF-8")
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}), status {}: {:?}", self.status, self.text()))
    }

    /// `data` of an answer that must be a success.
    pub fn data(&self) -> Value {
        let mut body = self.json();
        assert!(matches!(self.status, 200 | 201) && body["status"] == "ok", "{}: {body}", self.status);
        body["data"].take()
    }

    /// `data` of an answer that must be the error `status`, in the envelope that every error has.
    pub fn error(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        let mut body = self.json();
        let keys: Vec<&String> = body.as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["data", "message", "status"], "{body}");
        assert_eq!(body["status"], "error", "{body}");
        assert!(body["message"].as_str().is_some_and(|m| !m.is_empty()), "{body}");
        let code = body["data"]["code"].as_str().unwrap_or_default();
        assert!(!code.is_empty() && code.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{body}");
        assert_eq!(self.header("content-type"), Some("application/json"), "{body}");
        body["data"].take()
    }

    /// Id in the header `Event-Id`.
    pub fn event_id(&self) -> i64 {
        assert_eq!(self.status, 200, "{}", self.text());
        self.header("event-id").and_then(|id| id.parse().ok()).expect("a header Event-Id with a number")
    }
}
