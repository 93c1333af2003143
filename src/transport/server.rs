//! The HTTP server: what `HttpServer` of the library is, but that connections go through an [`HttpStream`].

use std::fmt::Debug;
use std::io;
use std::net::TcpListener;
use std::time::Duration;

use actix_http::{HttpService, Request, Response};
use actix_rt::net::TcpStream;
use actix_service::{IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt, fn_service, map_config};
use actix_web::body::MessageBody;
use actix_web::dev::{AppConfig, Server};

use super::http_stream::{HttpStream, Refuse};
use super::socket::{ConnectionSocket, ConnectionTimeouts};

/// How connections are served.
#[derive(Debug, Clone, Copy)]
pub struct HttpSettings {
    pub workers: usize,
    /// Of each worker; further ones wait to be accepted.
    pub max_connections: usize,
    /// Time for the head of the first request.
    pub head_timeout: Duration,
    /// Time until the next request begins.
    pub keep_alive: Duration,
    pub timeouts: ConnectionTimeouts,
    /// Time for requests to be finished when the server is stopped, in whole seconds.
    pub shutdown_timeout: Duration,
    pub refuse: Refuse,
}

/// Time for the peer to close a connection whose last answer is written.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves what `app` makes, which is asked once for each worker, on its thread.
pub fn serve<F, I, S, B>(listener: TcpListener, settings: HttpSettings, app: F) -> io::Result<Server>
where
    F: Fn() -> I + Send + Clone + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig> + 'static,
    S::Error: Into<actix_web::Error> + 'static,
    S::InitError: Debug,
    S::Response: Into<Response<B>> + 'static,
    <S::Service as Service<Request>>::Future: 'static,
    S::Service: 'static,
    B: MessageBody + 'static,
{
    let HttpSettings { workers, max_connections, head_timeout, keep_alive, timeouts, shutdown_timeout, refuse } =
        settings;
    let server = Server::build()
        .workers(workers)
        .max_concurrent_connections(max_connections)
        .shutdown_timeout(shutdown_timeout.as_secs())
        .disable_signals();
    let stopping = server.graceful_shutdown_signal();
    let service = move || {
        let stopping = stopping.clone();
        let app = app().into_factory().map_err(|error: S::Error| error.into().error_response());
        let http = HttpService::build()
            .graceful_shutdown_signal(move || {
                let stopping = stopping.clone();
                async move { stopping.notified().await }
            })
            .keep_alive(keep_alive)
            .client_request_timeout(head_timeout)
            .client_disconnect_timeout(DISCONNECT_TIMEOUT)
            .on_connect_ext(move |io: &HttpStream, data| ConnectionSocket::register(io.socket(), data, timeouts))
            .h1(map_config(app, |()| AppConfig::default()));
        let stream = fn_service(move |io: TcpStream| async move {
            let peer = io.peer_addr().ok();
            Ok((HttpStream::new(io, refuse), peer))
        });
        stream.and_then(http)
    };
    Ok(server.listen("http", listener, service)?.run())
}
