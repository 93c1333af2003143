//! The barrier of a participant of sagas: one table, which makes repeated, late and misplaced calls harmless. See "The
//! barrier" in docs/sagas.md.

use std::sync::{Mutex, MutexGuard, PoisonError};

use actix_web::web::Data;
use actix_web::{HttpRequest, HttpResponse, web};
use diesel::connection::SimpleConnection as _;
use diesel::prelude::*;
use serde_json::{Value, json};

const TABLE: &str = "PRAGMA synchronous = FULL;
    PRAGMA busy_timeout = 5000;
    CREATE TABLE IF NOT EXISTS barrier (
        saga TEXT NOT NULL, step TEXT NOT NULL, operation TEXT NOT NULL, answer TEXT,
        PRIMARY KEY (saga, step, operation));";

diesel::table! {
    barrier (saga, step, operation) { saga -> Text, step -> Text, operation -> Text, answer -> Nullable<Text>, }
}

pub const ACTION: &str = "action";
pub const COMPENSATION: &str = "compensation";

/// Why a call has no answer. Nothing was done.
pub enum Failure {
    /// For a reason that the saga is told. It is forgotten: the same call may succeed later.
    Refused(&'static str),
    /// The request is wrong.
    Invalid(&'static str),
    /// Whether it is done is not known yet: the saga will ask again.
    Busy,
    /// Nothing is known: the saga will ask again.
    Store(diesel::result::Error),
}

impl From<diesel::result::Error> for Failure {
    fn from(error: diesel::result::Error) -> Self {
        Self::Store(error)
    }
}

/// A step of a saga.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub saga: String,
    pub step: String,
}

/// One row for each operation of each step of each saga, with the answer that it was given.
pub struct Barrier {
    db: Mutex<SqliteConnection>,
    under_way: Mutex<Vec<Step>>,
}

/// A call that is under way, until it is dropped.
struct UnderWay<'a>(&'a Barrier, &'a Step);

impl Barrier {
    /// On a store, in which the table is made if it is missing.
    pub fn new(mut db: SqliteConnection) -> QueryResult<Self> {
        db.batch_execute(TABLE)?;
        Ok(Self { db: Mutex::new(db), under_way: Mutex::default() })
    }

    /// The participant's own store.
    pub fn db(&self) -> MutexGuard<'_, SqliteConnection> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `work` at most once; returns the answer. `work` gets the connection and, if it undoes an action, the answer
    /// that the action was given. Its changes are in the transaction of the row, so they are there together.
    pub fn call(
        &self,
        step: &Step,
        operation: &str,
        work: impl FnOnce(&mut SqliteConnection, &Value) -> Result<Value, Failure>,
    ) -> Result<Value, Failure> {
        self.under_way().push(step.clone());
        let _until_the_end = UnderWay(self, step);
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

    /// The answer of an action that is done, and not undone. None is a promise: no call of it is under way.
    pub fn done(&self, step: &Step) -> Result<Option<Value>, Failure> {
        self.be_idle(step)?;
        let mut db = self.db();
        let undone = step.answered(&mut db, COMPENSATION)?;
        let answer = if undone.is_some() { None } else { step.answered(&mut db, ACTION)? };
        if answer.is_none() {
            self.be_idle(step)?;
        }
        Ok(answer)
    }

    fn under_way(&self) -> MutexGuard<'_, Vec<Step>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn be_idle(&self, step: &Step) -> Result<(), Failure> {
        if self.under_way().contains(step) { Err(Failure::Busy) } else { Ok(()) }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let Self(barrier, step) = self;
        let mut under_way = barrier.under_way();
        if let Some(at) = under_way.iter().position(|one| one == *step) {
            under_way.swap_remove(at);
        }
    }
}

impl Step {
    /// Which one a request is this operation of.
    pub fn of(request: &HttpRequest, operation: &str) -> Result<Self, Failure> {
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let (saga, step) = (header("saga-id").to_owned(), header("saga-step").to_owned());
        if saga.is_empty() || step.is_empty() || header("saga-operation") != operation {
            return Err(Failure::Invalid("this is an operation of a step of a saga, and not that one"));
        }
        Ok(Self { saga, step })
    }

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

/// The answer to a request. Works on a thread that may wait for the disk. Nothing found is 404.
pub async fn answer(
    barrier: Data<Barrier>,
    work: impl FnOnce(&Barrier) -> Result<Option<Value>, Failure> + Send + 'static,
) -> HttpResponse {
    let reason = |reason: &str| json!({ "reason": reason });
    match web::block(move || work(&barrier)).await {
        Ok(Ok(Some(data))) => HttpResponse::Ok().json(data),
        Ok(Ok(None)) => HttpResponse::NotFound().json(json!({})),
        Ok(Err(Failure::Refused(text))) => HttpResponse::Conflict().json(reason(text)),
        Ok(Err(Failure::Invalid(text))) => HttpResponse::BadRequest().json(reason(text)),
        Ok(Err(Failure::Busy)) => HttpResponse::ServiceUnavailable().json(reason("it is under way")),
        Ok(Err(Failure::Store(error))) => HttpResponse::InternalServerError().json(reason(&error.to_string())),
        Err(error) => HttpResponse::InternalServerError().json(reason(&error.to_string())),
    }
}
