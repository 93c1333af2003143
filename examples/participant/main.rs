//! A participant of sagas: reserves money, and gives it back. Whatever comes twice, late or in the wrong order does no
//! harm.
//!
//! ```sh
//! cargo run --example participant -- 127.0.0.1:8080 participant.db
//! ```
//!
//! See docs/sagas.md for what a participant promises; [`Barrier`] keeps the promise, and what is here is the service's
//! own work.

mod barrier;

use actix_web::web::{Bytes, Data, Path};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use serde_json::{Value, json};

use self::barrier::{ACTION, Barrier, COMPENSATION, Failure, Step, answer};

const FUNDS: &str = "CREATE TABLE IF NOT EXISTS funds (
        owner TEXT NOT NULL PRIMARY KEY, free BIGINT NOT NULL, reserved BIGINT NOT NULL);";

diesel::table! {
    funds (owner) { owner -> Text, free -> BigInt, reserved -> BigInt, }
}

fn reserve(db: &mut SqliteConnection, body: &[u8]) -> Result<Value, Failure> {
    let body: Value = serde_json::from_slice(body).map_err(|_| Failure::Invalid("the body must be JSON"))?;
    let (Some(owner), Some(amount @ 0..)) = (body["owner"].as_str(), body["amount"].as_i64()) else {
        return Err(Failure::Invalid("owner must be text, and amount a whole number"));
    };
    let enough = funds::table.find(owner).filter(funds::free.ge(amount));
    let change = (funds::free.eq(funds::free - amount), funds::reserved.eq(funds::reserved + amount));
    match diesel::update(enough).set(change).execute(db)? {
        0 => Err(Failure::Refused("there is not enough money")),
        _ => Ok(json!({ "owner": owner, "reserved": amount })),
    }
}

fn give_back(db: &mut SqliteConnection, reserved: &Value) -> Result<Value, Failure> {
    let (owner, amount) = (reserved["owner"].as_str().unwrap_or_default(), reserved["reserved"].as_i64().unwrap_or(0));
    let change = (funds::free.eq(funds::free + amount), funds::reserved.eq(funds::reserved - amount));
    diesel::update(funds::table.find(owner)).set(change).execute(db)?;
    Ok(json!({ "owner": owner, "given_back": amount }))
}

/// Somebody has so much money now.
fn fund(db: &mut SqliteConnection, owner: &str, body: &[u8]) -> Result<Value, Failure> {
    let free: i64 = serde_json::from_slice(body).map_err(|_| Failure::Invalid("the body must be a number"))?;
    let row = (funds::owner.eq(owner), funds::free.eq(free), funds::reserved.eq(0));
    diesel::insert_into(funds::table)
        .values(row)
        .on_conflict(funds::owner)
        .do_update()
        .set(funds::free.eq(free))
        .execute(db)?;
    Ok(json!({}))
}

fn funds_of(db: &mut SqliteConnection, owner: &str) -> Result<Option<Value>, Failure> {
    let found: Option<(i64, i64)> =
        funds::table.find(owner).select((funds::free, funds::reserved)).first(db).optional()?;
    Ok(found.map(|(free, reserved)| json!({ "free": free, "reserved": reserved })))
}

async fn post_reservation(request: HttpRequest, body: Bytes, barrier: Data<Barrier>) -> HttpResponse {
    let step = Step::of(&request, ACTION);
    answer(barrier, move |barrier| barrier.call(&step?, ACTION, |db, _| reserve(db, &body)).map(Some)).await
}

async fn cancel_reservation(request: HttpRequest, barrier: Data<Barrier>) -> HttpResponse {
    let step = Step::of(&request, COMPENSATION);
    answer(barrier, move |barrier| barrier.call(&step?, COMPENSATION, give_back).map(Some)).await
}

async fn probe_reservation(path: Path<(String, String)>, barrier: Data<Barrier>) -> HttpResponse {
    let (saga, step) = path.into_inner();
    answer(barrier, move |barrier| barrier.done(&Step { saga, step })).await
}

async fn put_funds(owner: Path<String>, body: Bytes, barrier: Data<Barrier>) -> HttpResponse {
    answer(barrier, move |barrier| fund(&mut barrier.db(), &owner, &body).map(Some)).await
}

async fn get_funds(owner: Path<String>, barrier: Data<Barrier>) -> HttpResponse {
    answer(barrier, move |barrier| funds_of(&mut barrier.db(), &owner)).await
}

#[actix_web::main]
async fn main() -> std::io::Result<()> {
    let argument = |at: usize, default: &str| std::env::args().nth(at).unwrap_or_else(|| default.to_owned());
    let mut db = SqliteConnection::establish(&argument(2, "participant.db")).map_err(std::io::Error::other)?;
    db.batch_execute(FUNDS).map_err(std::io::Error::other)?;
    let barrier = Data::new(Barrier::new(db).map_err(std::io::Error::other)?);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(barrier.clone())
            .route("/reservations", web::post().to(post_reservation))
            .route("/reservations/cancel", web::post().to(cancel_reservation))
            .route("/reservations/{saga}/{step}", web::get().to(probe_reservation))
            .route("/funds/{owner}", web::put().to(put_funds))
            .route("/funds/{owner}", web::get().to(get_funds))
    })
    .workers(2)
    .bind(argument(1, "127.0.0.1:8080"))?;
    for address in server.addrs() {
        eprintln!("listening on {address}");
    }
    server.run().await
}
