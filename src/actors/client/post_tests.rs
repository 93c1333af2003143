//! Against real sockets: a server that says exactly what a test wants said.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, SystemTime};

use actix_web::http::Method;
use actix_web::http::header::{HeaderName, HeaderValue};
use bytes::Bytes;
use socket2::SockRef;

use super::messages::BodyEnd;
use super::post::{Attempt, EXCERPT_BYTES, FailureKind, Outcome, Poster};
use crate::config::{Config, LoadArgs, ServiceConfig};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi";

/// A service at `url`; `options` are keys of the configuration.
pub fn target(url: &str, options: &[(&str, &str)]) -> ServiceConfig {
    let key = |(key, value): &(&str, &str)| ("--set", format!("services.s.{key}"), (*value).to_owned());
    let overrides = [("url", url)].iter().chain(options).map(key).collect();
    let config = Config::load(LoadArgs { file: None, overrides }, []).expect("a valid configuration");
    config.services[0].clone()
}

fn poster(addr: SocketAddr, options: &[(&str, &str)]) -> Poster {
    Poster::new(&target(&format!("http://{addr}"), options)).expect("a poster")
}

async fn post(poster: &Poster) -> Attempt {
    poster.post("/events", &[], Bytes::from_static(b"body")).await
}

fn answered(attempt: &Attempt) -> (u16, Option<Duration>, &str) {
    match &attempt.outcome {
        Outcome::Answered { status, retry_after, excerpt } => (*status, *retry_after, excerpt),
        Outcome::Failed { kind, message } => panic!("failed: {kind:?}: {message}"),
    }
}

fn failed(attempt: &Attempt) -> (FailureKind, &str) {
    match &attempt.outcome {
        Outcome::Answered { status, .. } => panic!("answered {status}"),
        Outcome::Failed { kind, message } => (*kind, message),
    }
}

/// Serves each connection with `serve` on a thread of its own, handing it the number of the connection.
pub fn serve(serve: impl Fn(usize, TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().flatten().enumerate() {
            let serve = serve.clone();
            std::thread::spawn(move || serve(number, stream));
        }
    });
    addr
}

/// Answers every request with `answer`, and tells each request with the number of its connection.
pub fn serve_always(answer: impl Into<Vec<u8>>) -> (SocketAddr, Receiver<(usize, String)>) {
    let (tell, told) = channel();
    let answer = answer.into();
    let addr = serve(move |number, mut stream| {
        while let Some(request) = read_request(&mut stream) {
            let _ = tell.send((number, request));
            if stream.write_all(&answer).is_err() {
                return;
            }
        }
    });
    (addr, told)
}

/// Gives one of the answers to each request, in their order.
pub fn serve_in_turn(answers: Vec<String>) -> SocketAddr {
    let answers = std::sync::Arc::new(std::sync::Mutex::new(answers.into_iter()));
    serve(move |_, mut stream| {
        while read_request(&mut stream).is_some() {
            let Some(answer) = answers.lock().expect("not poisoned").next() else { return };
            let _ = stream.write_all(answer.as_bytes());
        }
    })
}

/// One request, head and body; none at the end of the connection.
pub fn read_request(stream: &mut impl Read) -> Option<String> {
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&request);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(':')?;
                name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
            });
            if body.len() >= length.unwrap_or(0) {
                return Some(text.into_owned());
            }
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return None,
            Ok(n) => request.extend_from_slice(&chunk[..n]),
        }
    }
}

/// Waits until the peer has gone.
fn linger(mut stream: TcpStream) {
    let _ = stream.read(&mut [0; 1024]);
}

#[actix_rt::test]
async fn a_request_is_what_it_was_asked_to_be() {
    let (addr, requests) = serve_always(OK);
    let target = target(&format!("http://u:p@{addr}/base?k=v"), &[]);
    let poster = Poster::new(&target).expect("a poster");
    let header = (HeaderName::from_static("webhook-id"), HeaderValue::from_static("evt_1_s"));
    let attempt = poster.post("/events", &[header], Bytes::from_static(b"the body")).await;
    assert_eq!(answered(&attempt), (200, None, "hi"));
    let (_, request) = requests.recv().expect("a request");
    let (head, body) = request.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("POST /base/events?k=v HTTP/1.1\r\n"), "{head}");
    let mut headers: Vec<_> = head.lines().skip(1).map(str::to_lowercase).collect();
    headers.sort();
    let agent = format!("user-agent: event-handler/{}", env!("CARGO_PKG_VERSION"));
    let host = format!("host: {addr}");
    let expected = ["authorization: basic dtpw", "content-length: 8", &host, &agent, "webhook-id: evt_1_s"];
    let given: Vec<_> = headers.iter().filter(|line| expected.contains(&line.as_str())).collect();
    assert_eq!(given.len(), expected.len(), "{headers:?}");
    assert_eq!(body, "the body");
}

#[actix_rt::test]
async fn connections_are_used_again_after_any_whole_answer() {
    let (addr, requests) = serve_always("HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    let poster = poster(addr, &[]);
    for _ in 0..3 {
        assert_eq!(answered(&post(&poster).await), (500, None, "abc"));
        assert_eq!(requests.recv().expect("a request").0, 0, "the first connection");
    }
}

#[actix_rt::test]
async fn interim_answers_are_passed_over() {
    let addr = serve(|_, mut stream| {
        stream.set_nodelay(true).expect("a socket");
        let mut number = 0;
        while read_request(&mut stream).is_some() {
            number += 1;
            let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
            let answer = format!("{interim}HTTP/1.1 20{number} OK\r\nContent-Length: 10\r\n\r\nHTTP/1.1 1");
            // Whole, and byte by byte.
            let size = if number == 1 { answer.len() } else { 1 };
            for piece in answer.as_bytes().chunks(size) {
                stream.write_all(piece).expect("a peer that reads");
            }
        }
    });
    let poster = poster(addr, &[]);
    for status in 201..=203 {
        assert_eq!(answered(&post(&poster).await), (status, None, "HTTP/1.1 1"), "its own answer");
    }
}

#[actix_rt::test]
async fn an_interim_answer_alone_is_none() {
    let (switching, _requests) = serve_always("HTTP/1.1 101 Switching Protocols\r\n\r\n");
    assert_eq!(failed(&post(&poster(switching, &[])).await), (FailureKind::Broken, "interim answer 101"));
    let endless = serve(|_, mut stream| {
        read_request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 103 Early Hints\r\n");
        while stream.write_all(&[b'x'; 8192]).is_ok() {}
    });
    assert_eq!(failed(&post(&poster(endless, &[])).await).0, FailureKind::Broken);
    let closed = serve(|_, mut stream| {
        read_request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n");
    });
    assert_eq!(failed(&post(&poster(closed, &[])).await).0, FailureKind::Broken);
}

#[actix_rt::test]
async fn redirects_are_answers() {
    let head = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
    let (addr, _requests) = serve_always(head);
    assert_eq!(answered(&post(&poster(addr, &[])).await), (302, None, ""));
}

#[actix_rt::test]
async fn retry_after_is_seconds_or_a_date() {
    let later = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(3600));
    for (value, at_most) in [
        ("120", Some(120)),
        ("99999999999999999999999", Some(u64::MAX)),
        (later.as_str(), Some(3600)),
        ("Sun, 06 Nov 1994 08:49:37 GMT", Some(0)),
        ("soon", None),
        ("-1", None),
    ] {
        let head = format!("HTTP/1.1 503 Busy\r\nRetry-After: {value}\r\nContent-Length: 0\r\n\r\n");
        let (addr, _requests) = serve_always(head);
        let (status, after, _) = answered(&post(&poster(addr, &[])).await).to_owned();
        assert_eq!(
            (status, after.map(|after| after.as_secs().div_ceil(60))),
            (503, at_most.map(|s: u64| s.div_ceil(60)))
        );
    }
}

#[actix_rt::test]
async fn a_late_head_is_a_timeout() {
    for begun in ["", "HTTP/1.1 200 OK\r\n"] {
        let addr = serve(move |_, mut stream| {
            read_request(&mut stream);
            let _ = stream.write_all(begun.as_bytes());
            linger(stream);
        });
        let attempt = post(&poster(addr, &[("timeout", "200ms")])).await;
        assert_eq!(failed(&attempt), (FailureKind::Timeout, "no answer within 200ms"), "{begun:?}");
        assert!(attempt.took >= Duration::from_millis(200) && attempt.took < Duration::from_secs(5), "{attempt:?}");
    }
}

#[actix_rt::test]
async fn an_endless_body_is_read_up_to_a_bound_and_not_on() {
    let addr = serve(|_, mut stream| {
        read_request(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000000\r\n\r\n");
        while stream.write_all(&[b'x'; 8192]).is_ok() {}
    });
    let attempt = post(&poster(addr, &[])).await;
    assert_eq!(answered(&attempt), (200, None, "x".repeat(EXCERPT_BYTES).as_str()));
}

#[actix_rt::test]
async fn large_answers_leave_the_connection_usable() {
    let body = "y".repeat(100_000);
    let (addr, requests) = serve_always(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
    let poster = poster(addr, &[]);
    for _ in 0..2 {
        assert_eq!(answered(&post(&poster).await).2.len(), EXCERPT_BYTES);
        assert_eq!(requests.recv().expect("a request").0, 0, "the first connection");
    }
}

#[actix_rt::test]
async fn answers_that_break_off_are_broken() {
    let lengths = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd";
    for begun in ["", "HTTP/1.1 200", "HTTP/1.1 200 OK\r\nX: y\r\n", "nonsense\r\n\r\n", lengths] {
        let addr = serve(move |_, mut stream| {
            read_request(&mut stream);
            let _ = stream.write_all(begun.as_bytes());
        });
        assert_eq!(failed(&post(&poster(addr, &[])).await).0, FailureKind::Broken, "{begun:?}");
    }
}

#[actix_rt::test]
async fn an_answer_whose_body_stalls_or_breaks_off_is_one() {
    for stalls in [true, false] {
        for (status, body) in
            [(200, "Content-Length: 9"), (200, "Transfer-Encoding: chunked"), (404, "Content-Length: 9")]
        {
            let addr = serve(move |_, mut stream| {
                read_request(&mut stream);
                let chunk = if body.starts_with('C') { "abc" } else { "3\r\nabc\r\n" };
                let _ = write!(stream, "HTTP/1.1 {status} Status\r\n{body}\r\n\r\n{chunk}");
                if stalls {
                    linger(stream);
                }
            });
            let attempt = post(&poster(addr, &[])).await;
            assert_eq!(answered(&attempt), (status, None, "abc"), "{body}");
        }
    }
}

#[actix_rt::test]
async fn answers_are_read_as_other_clients_read_them() {
    let many: String = (0..150).map(|n| format!("X-Header-{n}: {n}\r\n")).collect();
    let heads = [
        format!("HTTP/1.1 202 Accepted\r\n{many}Content-Length: 2\r\n\r\n"),
        "HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n".to_owned(),
        "HTTP/1.1 202 Accepted\r\nContent-Length: 2, 2\r\n\r\n".to_owned(),
        "HTTP/1.1 202 Accepted\r\nServer: a\r\n\t(folded)\r\nContent-Length: 2\r\n\r\n".to_owned(),
        "HTTP/1.1 202\nServer : \u{e4}\nContent-Length:2\n\n".to_owned(),
    ];
    for head in heads {
        let (addr, requests) = serve_always(format!("{head}hi"));
        let poster = poster(addr, &[]);
        for _ in 0..2 {
            assert_eq!(answered(&post(&poster).await), (202, None, "hi"), "{head:?}");
            assert_eq!(requests.recv().expect("a request").0, 0, "the first connection, after {head:?}");
        }
    }
}

#[actix_rt::test]
async fn a_connection_is_not_used_beyond_its_age() {
    let (addr, requests) = serve_always(OK);
    let poster = poster(addr, &[("connection_max_age", "1ms"), ("idle_timeout", "1h")]);
    for number in 0..3 {
        assert_eq!(answered(&post(&poster).await).0, 200);
        assert_eq!(requests.recv().expect("a request").0, number);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A service that closes its connection while the next request is on its way: the pool cannot have seen it.
#[actix_rt::test]
async fn a_dead_connection_from_the_pool_is_replaced_once() {
    for reset in [false, true] {
        let (tell, told) = channel();
        let addr = serve(move |number, mut stream| {
            read_request(&mut stream);
            let _ = stream.write_all(OK.as_bytes());
            let second = read_request(&mut stream).is_some();
            if reset {
                SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a socket");
            }
            let _ = tell.send((number, second));
        });
        let poster = poster(addr, &[]);
        let first = post(&poster).await;
        assert_eq!((answered(&first).0, first.is_repeat), (200, false));
        // The first connection takes this request and dies; the second one answers it.
        let second = post(&poster).await;
        assert_eq!((answered(&second).0, second.is_repeat), (200, true), "reset: {reset}");
        assert_eq!(told.recv(), Ok((0, true)));
    }
}

#[actix_rt::test]
async fn a_new_connection_that_dies_is_not_replaced() {
    let (tell, told) = channel();
    let addr = serve(move |number, mut stream| {
        read_request(&mut stream);
        let _ = tell.send(number);
    });
    let attempt = post(&poster(addr, &[])).await;
    assert_eq!(failed(&attempt), (FailureKind::Broken, "the connection was closed without an answer"));
    assert_eq!(told.recv(), Ok(0));
    assert!(told.try_recv().is_err(), "one connection only");
}

#[actix_rt::test]
async fn a_connection_that_began_to_answer_is_not_replaced() {
    let (tell, told) = channel();
    let addr = serve(move |number, mut stream| {
        read_request(&mut stream);
        let _ = stream.write_all(OK.as_bytes());
        read_request(&mut stream);
        let _ = tell.send(number);
        let _ = stream.write_all(b"HTTP/1.1 2");
    });
    let poster = poster(addr, &[]);
    assert_eq!(answered(&post(&poster).await).0, 200);
    assert_eq!(failed(&post(&poster).await).0, FailureKind::Broken);
    assert_eq!(told.recv(), Ok(0));
    assert!(told.try_recv().is_err(), "one connection only");
}

#[actix_rt::test]
async fn a_refused_port_and_an_unknown_name_are_told_apart() {
    let addr = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    assert_eq!(failed(&post(&poster(addr, &[])).await).0, FailureKind::Connect);
    let unknown = Poster::new(&target("http://name.invalid", &[])).expect("a poster");
    assert_eq!(failed(&post(&unknown).await).0, FailureKind::Dns);
}

#[actix_rt::test]
async fn private_addresses_are_refused_before_anything_is_sent() {
    let (addr, requests) = serve_always(OK);
    let port = addr.port();
    for host in ["127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0x7f.1", "2130706433", "0.0.0.0"] {
        let target = target(&format!("http://{host}:{port}"), &[("allow_private", "false")]);
        let attempt = post(&Poster::new(&target).expect("a poster")).await;
        let (kind, message) = failed(&attempt);
        assert_eq!(kind, FailureKind::RefusedAddress, "{host}: {message}");
        assert!(message.ends_with("is not a public address"), "{message}");
    }
    assert!(requests.try_recv().is_err(), "nothing came");
    let allowed = Poster::new(&target(&format!("http://localhost:{port}"), &[])).expect("a poster");
    assert_eq!(answered(&post(&allowed).await).0, 200);
}

#[actix_rt::test]
async fn no_more_connections_than_requests_at_a_time() {
    let (addr, requests) = serve_always(OK);
    let poster = poster(addr, &[("concurrency", "2")]);
    let attempts = futures_util::future::join_all((0..20).map(|_| post(&poster))).await;
    assert!(attempts.iter().all(|attempt| answered(attempt).0 == 200));
    assert!(requests.try_iter().all(|(connection, _)| connection < 2));
}

/// The whole of an answer: what it ended with, and how much there was.
async fn content(poster: &Poster, max_bytes: usize) -> (BodyEnd, usize) {
    let attempt = poster.ask(Method::GET, "/digest", &[], Bytes::new(), max_bytes).await;
    let content = attempt.content.expect("an answer");
    (content.end, content.body.len())
}

#[actix_rt::test]
async fn who_asks_gets_the_whole_answer_up_to_a_bound() {
    let large = 3 * 1024 * 1024;
    let answer = [format!("HTTP/1.1 200 OK\r\nContent-Length: {large}\r\n\r\n").into_bytes(), vec![b'x'; large]];
    let (addr, requests) = serve_always(answer.concat());
    let poster = poster(addr, &[]);
    assert_eq!(content(&poster, large).await, (BodyEnd::Whole, large));
    assert_eq!(content(&poster, large - 1).await, (BodyEnd::TooLong, large - 1));
    let connections: Vec<usize> = requests.try_iter().map(|(number, _)| number).collect();
    assert_eq!(connections, [0, 0], "the connection is used again after a whole answer");
}

#[actix_rt::test]
async fn a_body_that_breaks_off_or_stalls_is_not_whole() {
    let answers = [
        "1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        "1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "1.0 200 OK\r\n\r\nabc",
        "1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
    ];
    let addr = serve(move |number, mut stream| {
        let _ = read_request(&mut stream);
        let _ = stream.write_all(format!("HTTP/{}", answers[number]).as_bytes());
        if number == 3 {
            linger(stream);
        }
    });
    let poster = poster(addr, &[("timeout", "200ms")]);
    for end in [BodyEnd::BrokenOff, BodyEnd::BrokenOff, BodyEnd::Whole, BodyEnd::BrokenOff] {
        assert_eq!(content(&poster, 100).await, (end, 3));
    }
}
