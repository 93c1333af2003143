//! The other side: frames as a client writes them, and its end of a connection.

use std::time::{Duration, Instant};

use actix_rt::net::{TcpListener, TcpStream};

/// A masked frame; `first` is its first byte (FIN, reserved bits, opcode).
pub(super) fn client_frame(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
    let mut frame = client_header(first, payload.len() as u64, mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// The header of a masked frame that declares `length` bytes.
pub(super) fn client_header(first: u8, length: u64, mask: [u8; 4]) -> Vec<u8> {
    let mut header = vec![first];
    match length {
        0..=125 => header.push(0x80 | length as u8),
        126..=0xffff => {
            header.push(0x80 | 126);
            header.extend((length as u16).to_be_bytes());
        }
        _ => {
            header.push(0x80 | 127);
            header.extend(length.to_be_bytes());
        }
    }
    header.extend(mask);
    header
}

/// A connection on loopback whose server side can be written to: (server, client).
pub(super) async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
    let (server, _) = listener.accept().await.expect("accepted");
    server.writable().await.expect("open");
    (server, client)
}

/// Gives the other tasks their turns until `condition` holds.
pub(super) async fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain");
        tokio::task::yield_now().await;
    }
}
