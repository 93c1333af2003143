//! Plays the four services of an auction platform, with faults that can be switched on.
//!
//! ```text
//! cargo run --example services            # prints the variables that make the Event Handler deliver to them
//! curl -X POST localhost:7100/eliza/error # ok | slow | error | hang | flap | refuse
//! curl localhost:7100                     # who is in which mode, and what each has seen
//! ```
//!
//! Its one argument is the port of the control, 7100 by default; the services have the next four. With 0 all of them
//! are free ones.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::web::{Bytes, Data, Path};
use actix_web::{App, HttpResponse, HttpServer, web};
use serde_json::{Value, json};

/// Names, and the variables that switch them on.
const SERVICES: [(&str, &str); 4] = [
    ("auction-manager", "AUCTION_MANAGER_URL"),
    ("stream-manager", "STREAM_MANAGER_URL"),
    ("eliza", "ELIZA_URL"),
    ("shape-l2", "SHAPE_L2_URL"),
];
const CONTROL_PORT: u16 = 7100;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Mode {
    #[default]
    Ok,
    /// Answers after a second.
    Slow,
    /// Answers 500.
    Error,
    /// Never answers.
    Hang,
    /// Answers 500 every other ten requests.
    Flap,
    /// Does not listen.
    Refuse,
}

impl Mode {
    const ALL: [(&str, Self); 6] = [
        ("ok", Self::Ok),
        ("slow", Self::Slow),
        ("error", Self::Error),
        ("hang", Self::Hang),
        ("flap", Self::Flap),
        ("refuse", Self::Refuse),
    ];

    fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, mode)| *mode == self).map_or("", |(name, _)| name)
    }
}

/// One service: how it behaves, and what it has seen.
#[derive(Default)]
struct Service {
    mode: Mode,
    port: u16,
    requests: u64,
    repeated: u64,
    seen: BTreeSet<u64>,
    server: Option<ServerHandle>,
}

/// All services, by name.
type Services = Arc<Mutex<BTreeMap<&'static str, Service>>>;

fn with<T>(services: &Services, name: &str, work: impl FnOnce(&mut Service) -> T) -> Option<T> {
    services.lock().unwrap_or_else(PoisonError::into_inner).get_mut(name).map(work)
}

/// `POST /events` of one service. What it answers with 200 it has kept, once however often it comes.
async fn take(name: &'static str, services: Services, body: Bytes) -> HttpResponse {
    let Ok(event) = serde_json::from_slice::<Value>(&body) else {
        return HttpResponse::BadRequest().body("not JSON");
    };
    let (mode, request) = with(&services, name, |service| {
        service.requests += 1;
        (service.mode, service.requests)
    })
    .unwrap_or_default();
    match mode {
        Mode::Ok | Mode::Refuse => {}
        Mode::Slow => actix_rt::time::sleep(Duration::from_secs(1)).await,
        Mode::Hang => std::future::pending().await,
        Mode::Flap if request / 10 % 2 == 0 => {}
        Mode::Error | Mode::Flap => return HttpResponse::InternalServerError().body("out of order"),
    }
    with(&services, name, |service| {
        let is_new = service.seen.insert(event["id"].as_u64().unwrap_or_default());
        service.repeated += u64::from(!is_new);
    });
    HttpResponse::Ok().finish()
}

fn start(name: &'static str, port: u16, services: &Services) -> std::io::Result<()> {
    let of_server = Arc::clone(services);
    let server = HttpServer::new(move || {
        let services = Arc::clone(&of_server);
        App::new().route("/events", web::post().to(move |body| take(name, Arc::clone(&services), body)))
    })
    .workers(1)
    .disable_signals()
    .bind(("127.0.0.1", port))?;
    let port = server.addrs().first().map_or(port, SocketAddr::port);
    let server = server.run();
    with(services, name, |service| (service.server, service.port) = (Some(server.handle()), port));
    actix_rt::spawn(server);
    Ok(())
}

/// `POST /{service}/{mode}`.
async fn switch(path: Path<(String, String)>, services: Data<Services>) -> HttpResponse {
    let (name, mode) = path.into_inner();
    let known = SERVICES.into_iter().find(|(service, _)| *service == name);
    let mode = Mode::ALL.into_iter().find(|(text, _)| *text == mode);
    let (Some((name, _)), Some((_, mode))) = (known, mode) else {
        return HttpResponse::NotFound().body("POST /{service}/{ok|slow|error|hang|flap|refuse}\n");
    };
    let (server, port) = with(&services, name, |service| {
        service.mode = mode;
        let server = if mode == Mode::Refuse { service.server.take() } else { service.server.clone() };
        (server, service.port)
    })
    .unwrap_or_default();
    match (server, mode) {
        (Some(server), Mode::Refuse) => server.stop(false).await,
        (None, Mode::Refuse) | (Some(_), _) => {}
        (None, _) => {
            if let Err(error) = start(name, port, &services) {
                return HttpResponse::InternalServerError().body(format!("{error}\n"));
            }
        }
    }
    HttpResponse::Ok().body(format!("{name} is in mode {}\n", mode.name()))
}

/// `GET /`.
async fn report(services: Data<Services>) -> HttpResponse {
    let services = services.lock().unwrap_or_else(PoisonError::into_inner);
    let report: Value = services
        .iter()
        .map(|(name, service)| {
            let Service { mode, port: _, requests, repeated, seen, server: _ } = service;
            let of_one =
                json!({ "mode": mode.name(), "requests": requests, "events": seen.len(), "repeated": repeated });
            ((*name).to_owned(), of_one)
        })
        .collect();
    HttpResponse::Ok().json(report)
}

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let control_port = match std::env::args().nth(1).map(|port| port.parse()) {
        None => CONTROL_PORT,
        Some(Ok(port)) => port,
        Some(Err(error)) => return Err(std::io::Error::other(format!("not a port: {error}"))),
    };
    let services: Services = Services::default();
    for ((name, variable), offset) in SERVICES.into_iter().zip(1..) {
        services.lock().unwrap_or_else(PoisonError::into_inner).insert(name, Service::default());
        start(name, if control_port == 0 { 0 } else { control_port + offset }, &services)?;
        let port = with(&services, name, |service| service.port).unwrap_or_default();
        println!("export {variable}=http://127.0.0.1:{port}");
    }
    let control = HttpServer::new(move || {
        App::new()
            .app_data(Data::new(Arc::clone(&services)))
            .route("/", web::get().to(report))
            .route("/{service}/{mode}", web::post().to(switch))
    })
    .workers(1)
    .bind(("127.0.0.1", control_port))?;
    println!("# control: http://127.0.0.1:{}", control.addrs().first().map_or(control_port, SocketAddr::port));
    control.run().await
}
