//! Echoes over the transport of `/ws`, for conformance suites.
//!
//! ```text
//! cargo run --example ws_echo -- [PORT [MAX_MESSAGE [MAX_FRAGMENTS]]]    # 7200, 16 MiB, 1,048,576
//! ```
//!
//! Texts and binary messages come back as they are, pings are answered, close frames returned. Everything below the
//! meaning of messages is what `/ws` runs on: handshake, takeover of the connection, framing, queues, pacing, close.

use std::fmt::Display;
use std::net::SocketAddr;
use std::rc::Rc;
use std::str::FromStr;
use std::time::Duration;

use actix::{Actor, ActorContext, AsyncContext, Context, StreamHandler};
use actix_web::error::InternalError;
use actix_web::web::{Data, Payload};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use event_handler::transport::{
    CloseFrame, ConnectionLimit, ConnectionSocket, ConnectionTimeouts, Inbound, InboundError, InboundLimits, SendQueue,
    ShardQueues, Upgrade, binary_frame, pong_frame, text_frame, upgrade,
};

const PORT: u16 = 7200;
const LIMITS: InboundLimits = InboundLimits { max_message: 16 << 20, max_fragments: 1 << 20 };
const MAX_CONNECTIONS: usize = 1024;
const TIMEOUTS: ConnectionTimeouts =
    ConnectionTimeouts { unacknowledged: Duration::from_secs(60), next_request: Duration::from_secs(60) };
/// Bytes of echoes that a client leaves unread before it is read no further, and down to which it then has to go.
const UNREAD: (usize, usize) = (1 << 20, 256 << 10);

/// One connection. It ends with its input; what is queued by then is still written.
struct Echo {
    send_queue: Rc<SendQueue>,
}

impl Actor for Echo {
    type Context = Context<Self>;
}

impl StreamHandler<Result<Inbound, InboundError>> for Echo {
    fn handle(&mut self, item: Result<Inbound, InboundError>, _: &mut Self::Context) {
        match item {
            Ok(Inbound::Text(text)) => self.send_queue.push(text_frame(text.as_bytes())),
            Ok(Inbound::Binary(data)) => self.send_queue.push(binary_frame(&data)),
            Ok(Inbound::Ping(data)) => self.send_queue.push(pong_frame(&data)),
            Ok(Inbound::Pong(_)) => {}
            Ok(Inbound::Close(said)) => {
                let code = said.map_or(1000, |said| said.code);
                self.send_queue.close(&CloseFrame::new(code, ""));
            }
            Err(error) => {
                if let Some(frame) = error.close_frame() {
                    self.send_queue.close(&frame);
                }
            }
        }
        let (most, low) = UNREAD;
        if self.send_queue.queued_bytes() > most {
            self.send_queue.reading().pause_until(low);
        }
    }

    fn finished(&mut self, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

async fn connect(
    req: HttpRequest,
    payload: Payload,
    limits: Data<InboundLimits>,
    queues: Data<Rc<ShardQueues>>,
) -> actix_web::Result<HttpResponse> {
    let Upgrade { response, send_queue, inbound, .. } = upgrade(&req, payload, &[], **limits, Rc::clone(&queues))
        .map_err(|error| InternalError::new(error, error.status()))?;
    Echo::create(|ctx| {
        ctx.add_stream(inbound);
        Echo { send_queue }
    });
    Ok(response)
}

/// The command line argument in this place, if it is there.
fn argument<T: FromStr<Err: Display>>(place: usize, default: T) -> std::io::Result<T> {
    let wrong = |error| std::io::Error::other(format!("argument {place}: {error}"));
    std::env::args().nth(place).map_or(Ok(default), |text| text.parse().map_err(wrong))
}

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let port = argument(1, PORT)?;
    let limits = InboundLimits {
        max_message: argument(2, LIMITS.max_message)?,
        max_fragments: argument(3, LIMITS.max_fragments)?,
    };
    let connections = ConnectionLimit::new(MAX_CONNECTIONS);
    let server = HttpServer::new(move || {
        let queues = ShardQueues::new(usize::MAX, connections.clone());
        App::new().app_data(Data::new(limits)).app_data(Data::new(queues)).default_service(web::get().to(connect))
    })
    .workers(1)
    .on_connect(|io, data| ConnectionSocket::register(io, data, TIMEOUTS))
    .bind(("127.0.0.1", port))?;
    println!("ws://127.0.0.1:{}", server.addrs().first().map_or(port, SocketAddr::port));
    server.run().await
}
