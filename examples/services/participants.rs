//! What each service does for a saga: it makes a thing of a kind, and takes it back. The barrier does the rest.

use std::time::Duration;

use actix_web::web::{Bytes, Data};
use actix_web::{HttpRequest, HttpResponse};
use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use serde_json::{Value, json};

use super::barrier::{ACTION, Barrier, COMPENSATION, Failure, Step, answer};
use super::event_handler::EventHandler;

const THINGS: &str = "CREATE TABLE IF NOT EXISTS things (saga TEXT NOT NULL PRIMARY KEY, thing TEXT NOT NULL);";
/// How long a transfer takes that the chain has accepted.
const CONFIRMATION: Duration = Duration::from_millis(500);

diesel::table! {
    things (saga) { saga -> Text, thing -> Text, }
}

/// A store for the things and the barrier: a file, or `:memory:`.
pub fn open(file: &str) -> std::io::Result<Barrier> {
    let mut db = SqliteConnection::establish(file).map_err(std::io::Error::other)?;
    db.batch_execute(THINGS).map_err(std::io::Error::other)?;
    Barrier::new(db).map_err(std::io::Error::other)
}

/// The things that there are.
pub fn all(barrier: &Barrier) -> Vec<Value> {
    let found: Vec<String> = things::table.select(things::thing).load(&mut *barrier.db()).unwrap_or_default();
    found.iter().filter_map(|thing| serde_json::from_str(thing).ok()).collect()
}

/// `POST /{kind}`: the thing is what the body says. A refusal leaves nothing.
pub async fn act(request: &HttpRequest, body: Bytes, barrier: Data<Barrier>, declines: bool) -> HttpResponse {
    let step = Step::of(request, ACTION);
    let make = move |barrier: &Barrier| {
        let step = step?;
        let made = barrier.call(&step, ACTION, |db, _| {
            if declines {
                return Err(Failure::Refused("declined"));
            }
            let thing: Value = serde_json::from_slice(&body).map_err(|_| Failure::Invalid("the body must be JSON"))?;
            let row = (things::saga.eq(&step.saga), things::thing.eq(thing.to_string()));
            diesel::insert_into(things::table).values(row).execute(db)?;
            Ok(thing)
        });
        made.map(Some)
    };
    answer(barrier, make).await
}

/// `POST /{kind}/cancel`.
pub async fn undo(request: &HttpRequest, barrier: Data<Barrier>) -> HttpResponse {
    let step = Step::of(request, COMPENSATION);
    let unmake = move |barrier: &Barrier| {
        let step = step?;
        let unmade = barrier.call(&step, COMPENSATION, |db, thing| {
            diesel::delete(things::table.find(&step.saga)).execute(db)?;
            Ok(json!({ "taken_back": thing }))
        });
        unmade.map(Some)
    };
    answer(barrier, unmake).await
}

/// `GET /{kind}/{saga}/{step}`.
pub async fn probe(saga: String, step: String, barrier: Data<Barrier>) -> HttpResponse {
    answer(barrier, move |barrier| barrier.done(&Step { saga, step })).await
}

/// Tells that a transfer is done, unless it was taken back meanwhile. A transfer that is asked for again is told of
/// again, as one event.
pub async fn confirm(step: Step, barrier: Data<Barrier>, handler: EventHandler) {
    actix_rt::time::sleep(CONFIRMATION).await;
    let Ok(Some(transfer)) = barrier.done(&step) else { return };
    let payload = json!({
        "auction_id": transfer["auction_id"], "status": "done", "to": transfer["to"],
        "token": format!("https://tokens.example/{}", transfer["auction_id"]),
    });
    let event = json!({
        "event_name": "transfer.done", "payload": payload, "source": "shape-l2",
        "idempotency_key": format!("transfer/{}", step.saga),
    });
    // If this fails, nobody is told; the saga asks when it has waited long enough.
    let _ = handler.publish(&event).await;
}
