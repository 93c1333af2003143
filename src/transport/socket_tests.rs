//! The transport over real sockets.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, AsyncContext, Context, StreamHandler};
use actix_rt::net::TcpStream;
use actix_web::dev::ServerHandle;
use actix_web::http::StatusCode;
use actix_web::test::TestRequest;
use actix_web::{App, FromRequest, HttpRequest, HttpResponse, HttpServer, web};
use awc::ws::{CloseCode, Frame, Message};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::test_client::{client_frame, until};
use super::{
    CloseFrame, ConnectionLimit, ConnectionSocket, ConnectionTimeouts, HandshakeError, Inbound, InboundError,
    InboundLimits, SendQueue, ShardQueues, Streaming, Upgrade, pong_frame, stream, text_frame, upgrade,
};

const TIMEOUTS: ConnectionTimeouts =
    ConnectionTimeouts { unacknowledged: Duration::from_secs(60), next_request: Duration::from_secs(60) };
const PROTOCOLS: [&str; 2] = ["one", "two"];
const FLOOD: usize = 64 << 20;
/// Less than the dispatcher gathers before it writes, and more than the sockets of the test take at once.
const PAGE: usize = 30_000;
/// Room for answers in a socket of the server, in bytes.
const SEND_BUFFER: usize = 4096;
const MAX_CONNECTIONS: usize = 4;
const STALL: Duration = Duration::from_millis(200);

/// What a session tells the test.
#[derive(Debug)]
enum Report {
    Waiting { queued: usize, used: usize, stalled: Duration },
    Ended { used: usize },
}

/// Echoes; sends far more than any buffer holds when asked to "flood", and kills a connection that stalls.
struct Session {
    send_queue: Rc<SendQueue>,
    shard: Rc<ShardQueues>,
    reports: UnboundedSender<Report>,
}

impl Session {
    fn report(&self, report: Report) {
        // A test that has seen enough no longer listens.
        let _ = self.reports.send(report);
    }

    fn look(&mut self, _: &mut Context<Self>) {
        if let Some(stalled) = self.send_queue.stalled_for(Instant::now()) {
            let (queued, used) = (self.send_queue.queued_bytes(), self.shard.budget.used());
            self.report(Report::Waiting { queued, used, stalled });
            if stalled >= STALL {
                self.send_queue.kill();
            }
        }
    }
}

impl Actor for Session {
    type Context = Context<Self>;

    fn stopped(&mut self, _: &mut Self::Context) {
        self.report(Report::Ended { used: self.shard.budget.used() });
    }
}

impl StreamHandler<Result<Inbound, InboundError>> for Session {
    fn handle(&mut self, item: Result<Inbound, InboundError>, ctx: &mut Self::Context) {
        match item {
            Ok(Inbound::Text(text)) if text == "flood" => {
                let mebibyte = Bytes::from(vec![0; 1 << 20]);
                (0..FLOOD >> 20).for_each(|_| self.send_queue.push(mebibyte.clone()));
                ctx.run_interval(Duration::from_millis(5), Self::look);
            }
            Ok(Inbound::Text(text)) => self.send_queue.push(text_frame(text.as_bytes())),
            Ok(Inbound::Ping(payload)) => self.send_queue.push(pong_frame(&payload)),
            Ok(Inbound::Binary(_) | Inbound::Pong(_)) => {}
            Ok(Inbound::Close(frame)) => self.send_queue.close(&frame.unwrap_or(CloseFrame::new(1000, ""))),
            Err(error) => {
                if let Some(frame) = error.close_frame() {
                    self.send_queue.close(&frame);
                }
            }
        }
    }
}

async fn serve(
    req: HttpRequest,
    payload: web::Payload,
    reports: web::Data<UnboundedSender<Report>>,
    connections: web::Data<Arc<ConnectionLimit>>,
) -> Result<HttpResponse, actix_web::Error> {
    let shard = ShardQueues::new(FLOOD, Arc::clone(&connections));
    let Upgrade { response, send_queue, inbound, .. } =
        upgrade(&req, payload, &PROTOCOLS, InboundLimits::default(), Rc::clone(&shard))
            .map_err(|error| actix_web::error::InternalError::new(error, error.status()))?;
    Session::create(|ctx| {
        ctx.add_stream(inbound);
        Session { send_queue, shard, reports: reports.get_ref().clone() }
    });
    Ok(response)
}

/// Sends a page without an end, and after that what the client is gone for. `?unserved` does so where no request is
/// counted.
async fn stream_page(
    req: HttpRequest,
    reports: web::Data<UnboundedSender<Report>>,
    connections: web::Data<Arc<ConnectionLimit>>,
) -> Result<HttpResponse, actix_web::Error> {
    let socket = req.conn_data::<Rc<ConnectionSocket>>().expect("registered");
    let _served = (req.query_string() != "unserved").then(|| socket.serve());
    let shard = ShardQueues::new(FLOOD, Arc::clone(&connections));
    let Streaming { response, send_queue, input } = stream(&req, HttpResponse::Ok(), Rc::clone(&shard))
        .map_err(|error| actix_web::error::InternalError::new(error, error.status()))?;
    send_queue.push(Bytes::from(vec![b'x'; PAGE]));
    let reports = reports.get_ref().clone();
    actix_rt::spawn(async move {
        let end = input.end().await;
        send_queue.push(Bytes::from(format!("{end:?}")));
        send_queue.end();
        let _ = reports.send(Report::Ended { used: 0 });
    });
    Ok(response)
}

struct TestServer {
    address: SocketAddr,
    handle: ServerHandle,
    reports: UnboundedReceiver<Report>,
    connections: Arc<ConnectionLimit>,
}

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

impl TestServer {
    fn start() -> Self {
        let (sender, reports) = unbounded_channel();
        let connections = ConnectionLimit::new(MAX_CONNECTIONS);
        let limit = Arc::clone(&connections);
        let server = HttpServer::new(move || {
            App::new()
                .app_data(web::Data::new(sender.clone()))
                .app_data(web::Data::new(Arc::clone(&limit)))
                .route("/ws", web::get().to(serve))
                .route("/page", web::get().to(|| async { vec![b'x'; PAGE] }))
                .route("/stream", web::get().to(stream_page))
        })
        .on_connect(|io, data| {
            let stream = io.downcast_ref::<TcpStream>().expect("TCP");
            SockRef::from(stream).set_send_buffer_size(SEND_BUFFER).expect("set");
            ConnectionSocket::register(io, data, TIMEOUTS);
        })
        .workers(1)
        .disable_signals()
        .bind(("127.0.0.1", 0))
        .expect("a free port");
        let address = server.addrs()[0];
        let server = server.run();
        let handle = server.handle();
        actix_rt::spawn(server);
        Self { address, handle, reports, connections }
    }

    async fn raw_client(&self) -> TcpStream {
        let mut client = self.client_that_says(UPGRADE.as_bytes()).await;
        let answer = read_until(&mut client, b"\r\n\r\n").await;
        let answer = String::from_utf8_lossy(&answer).to_lowercase();
        assert!(answer.starts_with("http/1.1 101"), "{answer}");
        // RFC 6455, section 1.3.
        assert!(answer.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{answer}");
        assert!(!answer.contains("transfer-encoding") && !answer.contains("extensions"), "{answer}");
        client
    }

    async fn client_that_says(&self, first: &[u8]) -> TcpStream {
        let mut client = TcpStream::connect(self.address).await.expect("connected");
        client.write_all(first).await.expect("written");
        client
    }

    async fn stop(self) {
        self.handle.stop(false).await;
    }
}

async fn read_until(client: &mut (impl AsyncRead + Unpin), end: &[u8]) -> Vec<u8> {
    let mut read = Vec::new();
    while !read.ends_with(end) {
        let byte = client.read_u8().await;
        read.push(byte.unwrap_or_else(|error| panic!("{error} after {:?}", String::from_utf8_lossy(&read))));
    }
    read
}

#[actix_web::test]
async fn a_client_library_is_served() {
    let mut server = TestServer::start();
    let client = awc::Client::new();
    let url = format!("http://{}/ws", server.address);
    let (head, mut connection) = client.ws(url).protocols(["zero", "two", "one"]).connect().await.expect("upgraded");
    assert_eq!(head.headers().get("sec-websocket-protocol").map(|value| value.as_bytes()), Some(&b"two"[..]));

    let long = "ä".repeat(30_000);
    connection.send(Message::Text("hello".into())).await.expect("sent");
    connection.send(Message::Text(long.clone().into())).await.expect("sent");
    connection.send(Message::Ping("p".into())).await.expect("sent");
    for expected in [Frame::Text("hello".into()), Frame::Text(long.into()), Frame::Pong("p".into())] {
        assert_eq!(connection.next().await.expect("open").expect("valid"), expected);
    }
    connection.send(Message::Close(Some(CloseCode::Away.into()))).await.expect("sent");
    let answer = connection.next().await.expect("open").expect("valid");
    assert_eq!(answer, Frame::Close(Some(CloseCode::Away.into())));
    assert!(matches!(server.reports.recv().await, Some(Report::Ended { .. })));
    server.stop().await;
}

#[actix_web::test]
async fn a_violation_is_answered_with_its_close_code() {
    let server = TestServer::start();
    for (frame, code) in [
        (b"\x81\x05Hello".to_vec(), 1002u16),
        (client_frame(0x81, b"\xff", *b"mask"), 1007),
        (super::test_client::client_header(0x82, 2 << 30, *b"mask"), 1009),
    ] {
        let mut client = server.raw_client().await;
        client.write_all(&frame).await.expect("written");
        let mut close = [0; 4];
        client.read_exact(&mut close).await.expect("a close frame");
        assert_eq!((close[0], [close[2], close[3]]), (0x88, code.to_be_bytes()));
    }
    server.stop().await;
}

#[actix_web::test]
async fn a_frame_may_arrive_in_pieces() {
    let server = TestServer::start();
    let mut client = server.raw_client().await;
    let pieces = client_frame(0x81, b"in pieces", *b"mask");
    for piece in pieces.chunks(3) {
        client.write_all(piece).await.expect("written");
    }
    read_until(&mut client, b"\x81\x09in pieces").await;
    server.stop().await;
}

#[actix_web::test]
async fn a_client_that_stops_reading_stalls_alone_and_is_cut_off() {
    let mut server = TestServer::start();
    let mut client = server.raw_client().await;
    client.write_all(&client_frame(0x81, b"flood", *b"mask")).await.expect("written");
    let mut longest = Duration::ZERO;
    let left = loop {
        match server.reports.recv().await.expect("the session reports") {
            Report::Waiting { queued, used, stalled } => {
                assert!(queued == used && queued <= FLOOD);
                longest = longest.max(stalled);
            }
            Report::Ended { used } => break used,
        }
    };
    assert!(longest >= STALL);
    assert_eq!(left, 0, "the budget is returned");
    // Another client was never affected.
    let mut other = server.raw_client().await;
    other.write_all(&client_frame(0x81, b"hi", *b"mask")).await.expect("written");
    read_until(&mut other, b"\x81\x02hi").await;
    server.stop().await;
}

#[actix_web::test]
async fn a_client_that_goes_away_ends_its_session() {
    let mut server = TestServer::start();
    drop(server.raw_client().await);
    assert!(matches!(server.reports.recv().await, Some(Report::Ended { used: 0 })));
    server.stop().await;
}

#[actix_web::test]
async fn what_a_client_says_before_the_answer_is_heard() {
    let server = TestServer::start();
    let words: Vec<String> = (0..2000).map(|k| format!("word {k:04} {}", "x".repeat(40))).collect();
    let frames: Vec<u8> = words.iter().flat_map(|word| client_frame(0x81, word.as_bytes(), *b"mask")).collect();
    let expected: Vec<u8> = words.iter().flat_map(|word| text_frame(word.as_bytes())).collect();
    // All at once; cut within the head, after it, and within a frame.
    let bytes = [UPGRADE.as_bytes(), &frames].concat();
    for cut in [bytes.len(), 50, UPGRADE.len(), UPGRADE.len() + 1000] {
        let mut client = server.client_that_says(&bytes[..cut]).await;
        tokio::task::yield_now().await;
        let (mut reading, mut writing) = client.split();
        let write = async {
            writing.write_all(&bytes[cut..]).await.expect("written");
        };
        let read = async {
            read_until(&mut reading, b"\r\n\r\n").await;
            let mut answers = vec![0; expected.len()];
            reading.read_exact(&mut answers).await.expect("answers");
            answers
        };
        let ((), answers) = futures_util::future::join(write, read).await;
        assert!(answers == expected, "cut at {cut}");
    }
    server.stop().await;
}

/// The head of the answer waits behind another answer, which the socket does not take at once.
#[actix_web::test]
async fn the_answer_is_written_whole_before_the_connection_is_taken_over() {
    let server = TestServer::start();
    let page = "GET /page HTTP/1.1\r\nHost: test\r\n\r\n";
    let first = [page.as_bytes(), UPGRADE.as_bytes(), &client_frame(0x81, b"early", *b"mask")].concat();
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(2048).expect("set");
    let mut client = socket.connect(server.address).await.expect("connected");
    client.write_all(&first).await.expect("written");
    until(|| server.connections.open() == 1).await;
    // The whole answer is under way, but not written.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    read_until(&mut client, b"\r\n\r\n").await;
    let mut body = vec![0; PAGE];
    let page = tokio::time::timeout(Duration::from_secs(20), client.read_exact(&mut body)).await;
    page.expect("nothing is lost").expect("a page");
    let head = read_until(&mut client, b"\r\n\r\n").await;
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    read_until(&mut client, b"\x81\x05early").await;
    server.stop().await;
}

#[actix_web::test]
async fn there_are_only_so_many_connections() {
    let server = TestServer::start();
    let mut clients = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        clients.push(server.raw_client().await);
    }
    assert_eq!(server.connections.open(), MAX_CONNECTIONS);
    let mut refused = server.client_that_says(UPGRADE.as_bytes()).await;
    let head = read_until(&mut refused, b"\r\n\r\n").await;
    assert!(head.starts_with(b"HTTP/1.1 503"), "{}", String::from_utf8_lossy(&head));
    clients.pop();
    until(|| server.connections.open() < MAX_CONNECTIONS).await;
    server.raw_client().await;
    server.stop().await;
}

#[actix_web::test]
async fn a_client_that_closes_its_side_gets_its_answers() {
    let mut server = TestServer::start();
    let mut client = server.raw_client().await;
    client.write_all(&client_frame(0x81, b"last", *b"mask")).await.expect("written");
    client.shutdown().await.expect("open");
    let mut answers = Vec::new();
    client.read_to_end(&mut answers).await.expect("an orderly end");
    assert_eq!(answers, b"\x81\x04last");
    assert!(matches!(server.reports.recv().await, Some(Report::Ended { .. })));
    server.stop().await;
}

#[actix_web::test]
async fn no_descriptor_is_left() {
    let server = TestServer::start();
    for round in 0..30 {
        let mut client = server.raw_client().await;
        match round % 3 {
            0 => drop(client),
            1 => {
                client.write_all(&client_frame(0x88, b"\x03\xe8", *b"mask")).await.expect("written");
                client.read_to_end(&mut Vec::new()).await.expect("an orderly end");
            }
            _ => client.write_all(&client_frame(0x81, b"flood", *b"mask")).await.expect("written"),
        }
    }
    until(|| server.connections.open() == 0).await;
    // Other tests of this process have descriptors too: only sockets of this server count.
    let port = format!("{:04X}", server.address.port());
    let ours = || {
        let table = std::fs::read_to_string("/proc/self/net/tcp").expect("Linux");
        let inodes: Vec<String> = table
            .lines()
            .skip(1)
            .filter(|line| line.split_whitespace().nth(1).is_some_and(|local| local.ends_with(&port)))
            .filter_map(|line| Some(format!("socket:[{}]", line.split_whitespace().nth(9)?)))
            .collect();
        let open =
            std::fs::read_dir("/proc/self/fd").expect("Linux").filter_map(|entry| entry.ok()?.path().read_link().ok());
        open.filter(|target| target.to_str().is_some_and(|target| inodes.iter().any(|inode| inode == target))).count()
    };
    // The listener remains.
    until(|| ours() <= 1).await;
    server.stop().await;
}

fn shard() -> Rc<ShardQueues> {
    ShardQueues::new(0, ConnectionLimit::new(MAX_CONNECTIONS))
}

#[actix_web::test]
async fn other_requests_are_refused_with_a_reason() {
    let websocket = || {
        TestRequest::get()
            .insert_header(("Upgrade", "websocket"))
            .insert_header(("Connection", "keep-alive, Upgrade"))
            .insert_header(("Sec-WebSocket-Version", "13"))
            .insert_header(("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="))
    };
    let without = |name| {
        let mut request = websocket().to_srv_request();
        request.headers_mut().remove(name);
        request.into_parts()
    };
    let old = websocket().insert_header(("Sec-WebSocket-Version", "1")).to_srv_request().into_parts();
    let cases = [
        // All is well but for the connection: there is none.
        (websocket().to_srv_request().into_parts(), Some((HandshakeError::Malformed("the connection has ended"), 400))),
        (TestRequest::get().to_srv_request().into_parts(), Some((HandshakeError::NotWebSocket, 426))),
        (without("Connection"), Some((HandshakeError::NotWebSocket, 426))),
        (old, Some((HandshakeError::UnsupportedVersion, 426))),
        (without("Sec-WebSocket-Version"), Some((HandshakeError::Malformed("Sec-WebSocket-Version is missing"), 400))),
        (without("Sec-WebSocket-Key"), Some((HandshakeError::Malformed("Sec-WebSocket-Key is missing"), 400))),
    ];
    for ((req, mut payload), expected) in cases {
        let payload = web::Payload::from_request(&req, &mut payload).await.expect("a payload");
        let outcome = upgrade(&req, payload, &PROTOCOLS, InboundLimits::default(), shard());
        let status = |code| StatusCode::from_u16(code).expect("a status");
        assert_eq!(
            outcome.err().map(|error| (error, error.status())),
            expected.map(|(error, code)| (error, status(code)))
        );
    }
}

#[actix_web::test]
async fn an_endless_answer_is_taken_over_whole() {
    let mut server = TestServer::start();
    // More requests on the same connection are not answered: it ends with the first.
    let twice = "GET /stream HTTP/1.1\r\nHost: test\r\n\r\nGET /page HTTP/1.1\r\nHost: test\r\n\r\n";
    for request in ["GET /stream HTTP/1.1\r\nHost: test\r\n\r\n", "GET /stream HTTP/1.0\r\n\r\n", twice] {
        let mut client = server.client_that_says(request.as_bytes()).await;
        let head = String::from_utf8(read_until(&mut client, b"\r\n\r\n").await).expect("UTF-8").to_lowercase();
        assert!(head.starts_with("http/1.") && head.contains(" 200 "), "{head}");
        assert!(!head.contains("transfer-encoding") && !head.contains("content-length"), "{head}");
        let mut page = vec![0; PAGE];
        client.read_exact(&mut page).await.expect("a page");
        assert!(page.iter().all(|byte| *byte == b'x'));
        client.shutdown().await.expect("open");
        let mut rest = String::new();
        client.read_to_string(&mut rest).await.expect("an end");
        assert_eq!(rest, "Gone");
        assert!(matches!(server.reports.recv().await, Some(Report::Ended { .. })));
    }
    until(|| server.connections.open() == 0).await;
    server.stop().await;
}

#[actix_web::test]
async fn who_sends_to_an_endless_answer_is_heard_no_longer_than_bounded() {
    let server = TestServer::start();
    let mut client = server.client_that_says(b"GET /stream HTTP/1.1\r\nHost: test\r\n\r\n").await;
    read_until(&mut client, b"\r\n\r\n").await;
    let mut page = vec![0; PAGE];
    client.read_exact(&mut page).await.expect("a page");
    client.write_all(&[b'y'; 65_537]).await.expect("sent");
    assert_eq!(read_until(&mut client, b"Flood").await, b"Flood");
    server.stop().await;
}

#[actix_web::test]
async fn no_handle_is_made_where_no_request_is_counted() {
    let server = TestServer::start();
    let mut client = server.client_that_says(b"GET /stream?unserved HTTP/1.1\r\nHost: test\r\n\r\n").await;
    let head = String::from_utf8(read_until(&mut client, b"\r\n\r\n").await).expect("UTF-8");
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    server.stop().await;
}
