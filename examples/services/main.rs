//! Plays the four services of an auction platform, with faults that can be switched on. See docs/auction.md.
//!
//! ```text
//! cargo run --example services            # prints the variables that make the Event Handler deliver to them
//! curl -X POST localhost:7100/eliza/error # ok | slow | error | hang | flap | refuse | decline | lose
//! curl localhost:7100                     # who is in which mode, and what each has seen and made
//! ```
//!
//! Its arguments are the port of the control, 7100 by default (the services have the next four; with 0 all of them are
//! free ones), and the folder in which the services keep what they make, which is in memory otherwise.
//! `EVENT_HANDLER_URL` is where they publish, `http://127.0.0.1:4300` by default.

mod amount;
mod auction;
#[path = "../participant/barrier.rs"]
mod barrier;
mod event_handler;
mod participants;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix_web::dev::ServerHandle;
use actix_web::web::{Bytes, Data, Path};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use serde_json::{Value, json};

use self::barrier::{ACTION, Barrier, Step};
use self::event_handler::EventHandler;

/// Names, the variables that switch them on, and what they make for sagas.
const SERVICES: [(&str, &str, &str); 4] = [
    ("auction-manager", "AUCTION_MANAGER_URL", "winners"),
    ("stream-manager", "STREAM_MANAGER_URL", "announcements"),
    ("eliza", "ELIZA_URL", "pictures"),
    ("shape-l2", "SHAPE_L2_URL", "transfers"),
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
    /// Refuses what a saga asks it to make.
    Decline,
    /// Makes what a saga asks for, and never answers.
    Lose,
}

impl Mode {
    const ALL: [(&str, Self); 8] = [
        ("ok", Self::Ok),
        ("slow", Self::Slow),
        ("error", Self::Error),
        ("hang", Self::Hang),
        ("flap", Self::Flap),
        ("refuse", Self::Refuse),
        ("decline", Self::Decline),
        ("lose", Self::Lose),
    ];

    fn name(self) -> &'static str {
        Self::ALL.into_iter().find(|(_, mode)| *mode == self).map_or("", |(name, _)| name)
    }
}

/// One service: how it behaves, and what it has seen.
struct Service {
    mode: Mode,
    port: u16,
    requests: u64,
    repeated: u64,
    seen: BTreeSet<u64>,
    server: Option<ServerHandle>,
    barrier: Data<Barrier>,
}

/// All services, by name.
type Services = Arc<Mutex<BTreeMap<&'static str, Service>>>;

/// What the handlers of one service know.
#[derive(Clone)]
struct Own {
    name: &'static str,
    services: Services,
    barrier: Data<Barrier>,
    handler: EventHandler,
}

fn with<T>(services: &Services, name: &str, work: impl FnOnce(&mut Service) -> T) -> Option<T> {
    services.lock().unwrap_or_else(PoisonError::into_inner).get_mut(name).map(work)
}

impl Own {
    /// The mode, once a request has suffered what it brings; an answer if that is all that comes of it.
    async fn suffer(&self) -> Result<Mode, HttpResponse> {
        let (mode, request) = with(&self.services, self.name, |service| {
            service.requests += 1;
            (service.mode, service.requests)
        })
        .unwrap_or_default();
        match mode {
            Mode::Ok | Mode::Refuse | Mode::Decline | Mode::Lose => {}
            Mode::Slow => actix_rt::time::sleep(Duration::from_secs(1)).await,
            Mode::Hang => std::future::pending().await,
            Mode::Flap if request / 10 % 2 == 0 => {}
            Mode::Error | Mode::Flap => return Err(HttpResponse::InternalServerError().body("out of order")),
        }
        Ok(mode)
    }
}

/// `POST /events` of one service. What it answers with 200 it has kept, once however often it comes.
async fn take(own: Data<Own>, body: Bytes) -> HttpResponse {
    let Ok(event) = serde_json::from_slice::<Value>(&body) else {
        return HttpResponse::BadRequest().body("not JSON");
    };
    if let Err(answer) = own.suffer().await {
        return answer;
    }
    if own.name == "auction-manager"
        && let Err(trouble) = auction::take(&own.handler, &event).await
    {
        return HttpResponse::InternalServerError().body(format!("{trouble:?}"));
    }
    with(&own.services, own.name, |service| {
        let is_new = service.seen.insert(event["id"].as_u64().unwrap_or_default());
        service.repeated += u64::from(!is_new);
    });
    HttpResponse::Ok().finish()
}

/// `POST /auctions/{id}/bids` of the auction manager.
async fn bid(own: Data<Own>, id: Path<String>, body: Bytes) -> HttpResponse {
    match own.suffer().await {
        Ok(_) => auction::bid(&own.handler, &id, &body).await,
        Err(answer) => answer,
    }
}

/// `POST /{kind}`, for sagas.
async fn act(own: Data<Own>, request: HttpRequest, body: Bytes) -> HttpResponse {
    let mode = match own.suffer().await {
        Ok(mode) => mode,
        Err(answer) => return answer,
    };
    let mut answer = participants::act(&request, body, own.barrier.clone(), mode == Mode::Decline).await;
    if own.name == "shape-l2"
        && answer.status().is_success()
        && let Ok(step) = Step::of(&request, ACTION)
    {
        actix_rt::spawn(participants::confirm(step, own.barrier.clone(), own.handler.clone()));
        answer = HttpResponse::Accepted().finish();
    }
    if mode == Mode::Lose { std::future::pending().await } else { answer }
}

/// `POST /{kind}/cancel`, for sagas.
async fn undo(own: Data<Own>, request: HttpRequest) -> HttpResponse {
    match own.suffer().await {
        Ok(_) => participants::undo(&request, own.barrier.clone()).await,
        Err(answer) => answer,
    }
}

/// `GET /{kind}/{saga}/{step}`, for sagas.
async fn probe(own: Data<Own>, path: Path<(String, String)>) -> HttpResponse {
    let (saga, step) = path.into_inner();
    match own.suffer().await {
        Ok(_) => participants::probe(saga, step, own.barrier.clone()).await,
        Err(answer) => answer,
    }
}

fn start(name: &'static str, port: u16, services: &Services) -> std::io::Result<()> {
    let Some(barrier) = with(services, name, |service| service.barrier.clone()) else { return Ok(()) };
    let kind = SERVICES.into_iter().find(|(service, ..)| *service == name).map_or("", |(.., kind)| kind);
    let url = std::env::var("EVENT_HANDLER_URL").unwrap_or_else(|_| "http://127.0.0.1:4300".to_owned());
    let own = Data::new(Own { name, services: Arc::clone(services), barrier, handler: EventHandler(url) });
    let server = HttpServer::new(move || {
        let app = App::new()
            .app_data(own.clone())
            .route("/events", web::post().to(take))
            .route(&format!("/{kind}"), web::post().to(act))
            .route(&format!("/{kind}/cancel"), web::post().to(undo))
            .route(&format!("/{kind}/{{saga}}/{{step}}"), web::get().to(probe));
        if name == "auction-manager" { app.route("/auctions/{id}/bids", web::post().to(bid)) } else { app }
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
    let known = SERVICES.into_iter().find(|(service, ..)| *service == name);
    let mode = Mode::ALL.into_iter().find(|(text, _)| *text == mode);
    let (Some((name, ..)), Some((_, mode))) = (known, mode) else {
        return HttpResponse::NotFound().body("POST /{service}/{ok|slow|error|hang|flap|refuse|decline|lose}\n");
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
            let Service { mode, port: _, requests, repeated, seen, server: _, barrier } = service;
            let of_one = json!({
                "mode": mode.name(), "requests": requests, "events": seen.len(), "repeated": repeated,
                "made": participants::all(barrier),
            });
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
    for ((name, variable, _), offset) in SERVICES.into_iter().zip(1..) {
        let file = std::env::args().nth(2).map_or_else(|| ":memory:".to_owned(), |dir| format!("{dir}/{name}.db"));
        let service = Service {
            mode: Mode::Ok,
            port: 0,
            requests: 0,
            repeated: 0,
            seen: BTreeSet::new(),
            server: None,
            barrier: Data::new(participants::open(&file)?),
        };
        services.lock().unwrap_or_else(PoisonError::into_inner).insert(name, service);
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
