//! A reader of server-sent events that works on the bytes of its connection, as the standard says.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::{PATIENCE, Server};

/// One answer without an end.
pub struct EventStream {
    reader: BufReader<TcpStream>,
    pub status: u16,
    headers: Vec<(String, String)>,
    /// What a client would come back with.
    pub last_id: String,
    /// When it would come back, in milliseconds.
    pub retry: Option<u64>,
}

/// What an empty line ends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Block {
    pub id: Option<String>,
    pub event: Option<String>,
    pub data: Option<String>,
    pub retry: Option<u64>,
    pub comments: usize,
}

impl EventStream {
    /// Asks for `path` with further `headers`, which are lines of the request.
    pub fn open(addr: SocketAddr, path: &str, headers: &[&str]) -> Self {
        Self::request(addr, "HTTP/1.1", path, headers).expect("an answer")
    }

    /// Like [`Self::open`], by any version of HTTP, for servers that may be going away.
    pub fn request(addr: SocketAddr, version: &str, path: &str, headers: &[&str]) -> io::Result<Self> {
        Self::request_patient(addr, version, path, headers, PATIENCE)
    }

    /// Waits no longer than `patience` for anything.
    pub fn request_patient(
        addr: SocketAddr,
        version: &str,
        path: &str,
        headers: &[&str],
        patience: Duration,
    ) -> io::Result<Self> {
        let mut stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(patience))?;
        let lines: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        stream.write_all(format!("GET {path} {version}\r\nHost: {addr}\r\n{lines}\r\n").as_bytes())?;
        let mut reader = BufReader::new(stream);
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if line == "\r\n" {
                break;
            }
            head.push(line.trim_end().to_owned());
        }
        let status = head[0].split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
        let headers = head[1..].iter().filter_map(|line| line.split_once(": "));
        let headers = headers.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        Ok(Self { reader, status, headers, last_id: String::new(), retry: None })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The connection below.
    pub fn stream(&self) -> &TcpStream {
        self.reader.get_ref()
    }

    /// The next block; none at the end of the stream.
    pub fn next_block(&mut self) -> Option<Block> {
        self.try_block().unwrap_or_else(|error| panic!("no block came: {error}"))
    }

    /// Like [`Self::next_block`], for servers that may fall silent.
    pub fn try_block(&mut self) -> io::Result<Option<Block>> {
        let mut block = Block::default();
        let mut data: Vec<String> = Vec::new();
        loop {
            let mut line = String::new();
            match self.reader.read_line(&mut line) {
                Ok(0) => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                read => read?,
            };
            let line = line.strip_suffix('\n').expect("whole lines");
            if line.is_empty() {
                break;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value).to_owned();
            match field {
                "" => block.comments += 1,
                "id" => block.id = Some(value),
                "event" => block.event = Some(value),
                "data" => data.push(value),
                "retry" => block.retry = Some(value.parse().expect("a number")),
                other => panic!("an unknown field {other:?}"),
            }
        }
        if !data.is_empty() {
            block.data = Some(data.join("\n"));
        }
        if let Some(id) = &block.id {
            self.last_id.clone_from(id);
        }
        self.retry = block.retry.or(self.retry);
        Ok(Some(block))
    }

    /// The next event, which must come: id, name and data.
    pub fn event(&mut self) -> (i64, String, Value) {
        self.try_event().expect("an event, not the end")
    }

    /// The next event; none at the end.
    pub fn try_event(&mut self) -> Option<(i64, String, Value)> {
        loop {
            let Block { event, data, .. } = self.next_block()?;
            if let Some(data) = data {
                let id = self.last_id.parse().unwrap_or_default();
                let data = serde_json::from_str(&data).unwrap_or_else(|error| panic!("not JSON ({error}): {data:?}"));
                return Some((id, event.unwrap_or_default(), data));
            }
        }
    }
}

impl Server {
    /// Opens a stream of events.
    pub fn stream(&self, query: &str, headers: &[&str]) -> EventStream {
        let stream = EventStream::open(self.addr(), &format!("/events/stream{query}"), headers);
        assert_eq!(stream.status, 200, "{query}");
        stream
    }
}
