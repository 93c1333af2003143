//! A participant of sagas: reserves money, and gives it back. Whatever comes twice, late or in the wrong order does no
//! harm.
//!
//! ```sh
//! cargo run --example participant -- 127.0.0.1:8080 participant.db
//! ```
//!
//! See docs/sagas.md for what a participant promises; [`Barrier`] keeps the promise, and the rest is the service's own
//! work.

use std::sync::{Mutex, MutexGuard, PoisonError};

use actix_web::web::{Bytes, Data, Path};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use serde_json::{Value, json};

const TABLES: &str = "PRAGMA synchronous = FULL;
    CREATE TABLE IF NOT EXISTS barrier (
        saga TEXT NOT NULL, step TEXT NOT NULL, operation TEXT NOT NULL, answer TEXT,
        PRIMARY KEY (saga, step, operation));
    CREATE TABLE IF NOT EXISTS funds (owner TEXT NOT NULL PRIMARY KEY, free BIGINT NOT NULL, reserved BIGINT NOT NULL);";

diesel::table! {
    barrier (saga, step, operation) { saga -> Text, step -> Text, operation -> Text, answer -> Nullable<Text>, }
}
diesel::table! {
    funds (owner) { owner -> Text, free -> BigInt, reserved -> BigInt, }
}

const ACTION: &str = "action";
const COMPENSATION: &str = "compensation";

/// Why a call has no answer. Nothing was done.
enum Failure {
    /// For a reason that the saga is told. It is forgotten: the same call may succeed later.
    Refused(&'static str),
    /// The request is wrong.
    Invalid(&'static str),
    /// Nothing is known: the saga will ask again.
    Store(diesel::result::Error),
}

impl From<diesel::result::Error> for Failure {
    fn from(error: diesel::result::Error) -> Self {
        Self::Store(error)
    }
}

/// A step of a saga.
struct Step {
    saga: String,
    step: String,
}

/// One row for each operation of each step of each saga, with the answer that it was given.
struct Barrier {
    db: Mutex<SqliteConnection>,
}

impl Barrier {
    fn db(&self) -> MutexGuard<'_, SqliteConnection> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `work` at most once; returns the answer. `work` gets the connection and, if it undoes an action, the answer
    /// that the action was given. Its changes are in the transaction of the row, so they are there together.
    fn call(
        &self,
        step: &Step,
        operation: &str,
        work: impl FnOnce(&mut SqliteConnection, &Value) -> Result<Value, Failure>,
    ) -> Result<Value, Failure> {
        self.db().immediate_transaction(|db| {
            let mut undone = Value::Null;
            if operation == COMPENSATION {
                // If the action has not come, this row keeps it away: it does nothing when it comes after all.
                if step.add(db, ACTION)? {
                    step.add(db, COMPENSATION)?;
                    return step.answer(db, COMPENSATION, json!({}));
                }
                undone = step.answered(db, ACTION)?.unwrap_or_default();
            }
            if step.add(db, operation)? {
                let answer = work(db, &undone)?;
                return step.answer(db, operation, answer);
            }
            step.answered(db, operation)?.ok_or(Failure::Refused("its compensation came first"))
        })
    }

    /// The answer of an action that is done, and not undone.
    fn done(&self, step: &Step) -> Result<Option<Value>, Failure> {
        let mut db = self.db();
        if step.answered(&mut db, COMPENSATION)?.is_some() { Ok(None) } else { step.answered(&mut db, ACTION) }
    }
}

impl Step {
    /// Whether the row is new. A database with several writers makes the second one wait here for the first.
    fn add(&self, db: &mut SqliteConnection, operation: &str) -> Result<bool, Failure> {
        let row = (barrier::saga.eq(&self.saga), barrier::step.eq(&self.step), barrier::operation.eq(operation));
        Ok(diesel::insert_into(barrier::table).values(row).on_conflict_do_nothing().execute(db)? == 1)
    }

    fn answered(&self, db: &mut SqliteConnection, operation: &str) -> Result<Option<Value>, Failure> {
        let row = barrier::table.find((&self.saga, &self.step, operation)).select(barrier::answer);
        let answer: Option<String> = row.first(db).optional()?.flatten();
        Ok(answer.and_then(|answer| serde_json::from_str(&answer).ok()))
    }

    fn answer(&self, db: &mut SqliteConnection, operation: &str, answer: Value) -> Result<Value, Failure> {
        let row = barrier::table.find((&self.saga, &self.step, operation));
        diesel::update(row).set(barrier::answer.eq(answer.to_string())).execute(db)?;
        Ok(answer)
    }
}

// The service's own work.

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

/// The step that a request is an operation of.
fn step_of(request: &HttpRequest, operation: &str) -> Result<Step, Failure> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (saga, step) = (header("saga-id").to_owned(), header("saga-step").to_owned());
    if saga.is_empty() || step.is_empty() || header("saga-operation") != operation {
        return Err(Failure::Invalid("this is an operation of a step of a saga, and not that one"));
    }
    Ok(Step { saga, step })
}

/// Works on a thread that may wait for the disk.
async fn answer(
    barrier: Data<Barrier>,
    work: impl FnOnce(&Barrier) -> Result<Option<Value>, Failure> + Send + 'static,
) -> HttpResponse {
    let reason = |reason: &str| json!({ "reason": reason });
    match web::block(move || work(&barrier)).await {
        Ok(Ok(Some(data))) => HttpResponse::Ok().json(data),
        Ok(Ok(None)) => HttpResponse::NotFound().json(json!({})),
        Ok(Err(Failure::Refused(text))) => HttpResponse::Conflict().json(reason(text)),
        Ok(Err(Failure::Invalid(text))) => HttpResponse::BadRequest().json(reason(text)),
        Ok(Err(Failure::Store(error))) => HttpResponse::InternalServerError().json(reason(&error.to_string())),
        Err(error) => HttpResponse::InternalServerError().json(reason(&error.to_string())),
    }
}

async fn post_reservation(request: HttpRequest, body: Bytes, barrier: Data<Barrier>) -> HttpResponse {
    let step = step_of(&request, ACTION);
    answer(barrier, move |barrier| barrier.call(&step?, ACTION, |db, _| reserve(db, &body)).map(Some)).await
}

async fn cancel_reservation(request: HttpRequest, barrier: Data<Barrier>) -> HttpResponse {
    let step = step_of(&request, COMPENSATION);
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
    db.batch_execute(TABLES).map_err(std::io::Error::other)?;
    let barrier = Data::new(Barrier { db: Mutex::new(db) });
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
