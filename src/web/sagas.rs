//! `/sagas` and `/admin/sagas`: the instances of sagas, what operators say to them, and how one is begun by hand.

use std::time::{Duration, Instant};

use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder};
use bytestring::ByteString;
use futures_util::stream::{self, StreamExt as _};
use serde_json::{Value, json};

use super::health::breaker_state;
use super::observe::request_id;
use super::publish::headers;
use super::query::{DEFAULT_LIMIT, MAX_LIMIT, Query};
use super::reply::{self, Refusal};
use super::{Edge, access, body};
use crate::actors::orchestrator::desk::{SagaRefusal, Shown, Told};
use crate::domain::access::{Caller, Scope};
use crate::domain::breaker::BreakerState;
use crate::domain::event::{Idempotency, NewEvent, Timestamp};
use crate::domain::name::EventName;
use crate::domain::pattern::Pattern;
use crate::domain::saga::{Correlation, State, Unfit};
use crate::domain::system::SystemState;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::protocol::finding::refusal;
use crate::protocol::permit;
use crate::protocol::publish::checked_text;
use crate::protocol::saga::{Listed, listed_json, shown_json, unreadable_json};
use crate::protocol::saga_request::{
    EXPECTED_CORRELATION, EXPECTED_ID, EXPECTED_NAME, EXPECTED_STATE, EXPECTED_TIME, ManyRequest, Order, check_verb,
    instance_id, payload_of, saga_name, start_payload,
};
use crate::storage::{SagaFilter, SagaRecord};

const PARAMETERS: &[&str] = &["name", "state", "correlation", "started_before", "after", "limit"];
/// Longest body of an operator's request, in bytes. It bounds the response that `skip` gives.
const MAX_BODY: usize = 64 * 1024;
/// Of a request to many: instances that are read at a time, and told at a time.
const PAGE: usize = 256;
const AT_ONCE: usize = 8;
/// A request to many ends after this time, and says where it is to be gone on.
const PATIENCE: Duration = Duration::from_secs(15);

/// Answers with a page of instances, the newest first.
pub async fn list(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    access::admin(&req, &edge)?;
    let query = Query::parse(&req, PARAMETERS, &[])?;
    let filter = SagaFilter {
        name: query.read("name", EXPECTED_NAME, saga_name)?,
        state: query.read("state", EXPECTED_STATE, State::parse)?,
        correlation: query.read("correlation", EXPECTED_CORRELATION, Correlation::of)?,
        started_before: query.read("started_before", EXPECTED_TIME, Timestamp::parse)?,
    };
    let after = query.read("after", EXPECTED_ID, instance_id)?;
    let limit = query.limit(DEFAULT_LIMIT, MAX_LIMIT)?;
    let mut page = edge.parts.reader.list_sagas(filter, after, limit + 1).await?;
    let has_more = page.len() > limit;
    page.truncate(limit);
    let rows: Vec<String> = page.iter().map(|record| listed_json(&listed(record))).collect();
    let mut response = reply::ok_builder();
    if let Some(last) = page.last().filter(|_| has_more) {
        let next = query.rewritten(&["after"], ("after", &last.saga.origin.id));
        response.append_header(reply::link(&next, "next"));
    }
    Ok(response.body(reply::envelope("success", format!("[{}]", rows.join(",")).as_bytes())))
}

/// Answers with one instance, its journal and what it waits for.
pub async fn one(req: HttpRequest, id: Path<String>, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    access::admin(&req, &edge)?;
    Query::parse(&req, &[], &[])?;
    let found = edge.parts.desk.show(&known_id(&id)?).await.map_err(|refusal| refused(refusal, &id))?;
    Ok(reply::ok("success", shown(&edge, &found).as_bytes()))
}

/// Answers with all definitions that are kept, and which of them begin new instances.
pub async fn definitions(req: HttpRequest, edge: Data<Edge>) -> Result<HttpResponse, Refusal> {
    access::admin(&req, &edge)?;
    Query::parse(&req, &[], &[])?;
    let mut kept = edge.parts.reader.saga_definitions().await?;
    kept.sort_by(|a, b| (&a.saga, a.version).cmp(&(&b.saga, b.version)));
    let declared = edge.parts.reader.declared_sagas().await?;
    let rows = kept.iter().map(|kept| {
        let active = declared.iter().find(|saga| (&saga.saga, saga.version) == (&kept.saga, kept.version));
        let (name, version, is_active) = (&kept.saga, kept.version, active.is_some());
        let since = active.map_or_else(|| "null".to_owned(), |saga| saga.since.to_string());
        let definition = &kept.text;
        format!(
            r#"{{"name":"{name}","version":{version},"active":{is_active},"since":{since},"definition":{definition}}}"#
        )
    });
    Ok(reply::ok("success", format!("[{}]", rows.collect::<Vec<_>>().join(",")).as_bytes()))
}

/// Begins an instance by hand. Who does so says what the event says that it begins with, and so must be allowed to
/// publish that; of a pattern, every event that it matches.
pub async fn start(
    req: HttpRequest,
    payload: Payload,
    name: Path<String>,
    edge: Data<Edge>,
) -> Result<HttpResponse, Refusal> {
    let caller = match access::caller(&req, &edge) {
        Ok(caller) => caller,
        Err(error) => {
            body::discard(&req, payload).await;
            return Err(error.into());
        }
    };
    let body = body::read(&req, payload, edge.parts.config.server.max_body.as_usize(), &edge).await?;
    Query::parse(&req, &[], &[])?;
    if !body.is_empty() {
        body::content_type(&req, &["application/json"])?;
    }
    permit::any(&caller, Scope::Publish)?;
    let key = headers(req.headers())?.idempotency_key;
    let key = key.map(|key| checked_text("Idempotency-Key", key.into())).transpose()?;
    let payload = start_payload(&body)?;
    let trigger = permit_start(&req, &edge, &caller, &name).await?;
    access::limit_publish(&req, &edge, &caller, 1)?;
    // A caller's keys are its own.
    let key = key.map(|key| match caller.principal() {
        None => key.to_string(),
        Some(known) => Idempotency::scoped_key(known.identity.kind(), known.identity.value(), &key).to_string(),
    });
    if let Some(answer) = repeated(&edge, &name, key.as_deref(), &payload).await? {
        return Ok(answer);
    }
    admit_start(&edge, &trigger, &payload).await?;
    let begun = edge.parts.desk.start(&name, payload.clone(), key.clone()).await;
    let Some(id) = begun.map_err(|refusal| refused(refusal, &name))? else {
        // The same request was faster, or another with its key.
        let answer = repeated(&edge, &name, key.as_deref(), &payload).await?;
        return answer.ok_or_else(|| refused(SagaRefusal::Busy, &name).into());
    };
    log::info!(saga = name.as_str(), id = id.as_str(), request_id = request_id(&req).as_str(); "saga begun by hand");
    Ok(started(&mut HttpResponse::Created(), &name, &id))
}

/// The answer to a start whose key has begun an instance already, with the same payload.
async fn repeated(
    edge: &Edge,
    name: &str,
    key: Option<&str>,
    payload: &ByteString,
) -> Result<Option<HttpResponse>, ApiError> {
    let Some(key) = key else { return Ok(None) };
    let Some(id) = edge.parts.reader.saga_of_start_key(name.to_owned(), key.to_owned()).await? else {
        return Ok(None);
    };
    let found = edge.parts.desk.show(&id).await.map_err(|refusal| refused(refusal, &id))?;
    if payload_of(&found.record.saga.origin.trigger) != Some(&**payload) {
        return Err(ApiError::key_reused());
    }
    let mut response = HttpResponse::Created();
    response.insert_header(("Idempotent-Replayed", "true"));
    Ok(Some(started(&mut response, name, &id)))
}

/// The events that the saga begins with.
async fn permit_start(req: &HttpRequest, edge: &Edge, caller: &Caller, name: &str) -> Result<Pattern, ApiError> {
    let declared = edge.parts.desk.declared().await.map_err(|refusal| refused(refusal, name))?;
    let found = declared.iter().find(|(saga, _)| saga.saga == name);
    let (_, definition) = found.ok_or_else(|| refused(SagaRefusal::NoSaga, name))?;
    let trigger = &definition.trigger.event;
    // Nobody publishes the Event Handler's own events.
    if trigger.is_system() { access::admin(req, edge) } else { permit::publish_all(caller, trigger) }?;
    Ok(trigger.clone())
}

/// Refuses what would be refused of the event that the saga begins with, had it been published. Of a pattern nobody knows
/// which event that is: no type counts.
async fn admit_start(edge: &Edge, trigger: &Pattern, payload: &ByteString) -> Result<(), ApiError> {
    let parts = &edge.parts;
    if parts.health.is_draining() {
        return Err(ApiError::draining());
    }
    let refused = &parts.config.system.maintenance_refuses;
    // The store is asked: what this node saw last may be older than the answer to who began the maintenance.
    if refused.iter().any(|refused| refused.overlaps(trigger))
        && parts.reader.system().await?.state == SystemState::Maintenance
    {
        return Err(ApiError::maintenance());
    }
    let Ok(name) = EventName::parse(trigger.as_str().to_owned()) else { return Ok(()) };
    let event = NewEvent::own(name.as_str(), payload.to_string());
    // Nobody judges it once more, so it is judged by what is stored.
    parts.reader.learn_catalogue(&parts.catalogue.catalogue).await?;
    match parts.catalogue.catalogue.with(|catalogue| catalogue.judge_event(&event)) {
        Some(finding) if finding.refuses => Err(refusal(&finding)),
        _ => Ok(()),
    }
}

fn started(response: &mut HttpResponseBuilder, name: &str, id: &str) -> HttpResponse {
    let data = json!({ "id": id }).to_string();
    let response = response.insert_header(actix_web::http::header::ContentType::json());
    response.body(reply::envelope(&format!("Saga '{name}' begun."), data.as_bytes()))
}

/// Tells an instance what an operator says.
pub async fn operate(
    req: HttpRequest,
    payload: Payload,
    path: Path<(String, String)>,
    edge: Data<Edge>,
) -> Result<HttpResponse, Refusal> {
    let (id, verb) = path.into_inner();
    if let Err(error) = access::admin(&req, &edge).and_then(|()| check_verb(&verb)) {
        body::discard(&req, payload).await;
        return Err(error.into());
    }
    let Order { verb: said, reason } = Order::parse(&verb, &body::read_json(&req, payload, MAX_BODY, &edge).await?)?;
    let id = known_id(&id)?;
    let told = edge.parts.desk.operate(&id, said, &reason).await.map_err(|refusal| refused(refusal, &id))?;
    let SagaRecord { saga, standing } = &told.record;
    log::info!(
        saga = saga.origin.saga.as_str(), id = id.as_str(), verb = verb.as_str(), reason = reason.as_str(),
        state = standing.state.as_str(), request_id = request_id(&req).as_str();
        "an operator has told a saga"
    );
    Ok(reply::ok("Done.", shown(&edge, &told).as_bytes()))
}

/// Tells many instances the same, or counts those to which it could be said.
pub async fn operate_many(
    req: HttpRequest,
    payload: Payload,
    verb: Path<String>,
    edge: Data<Edge>,
) -> Result<HttpResponse, Refusal> {
    if let Err(error) = check_verb(&verb) {
        body::discard(&req, payload).await;
        return Err(error.into());
    }
    let request = ManyRequest::parse(&verb, &body::read_json(&req, payload, MAX_BODY, &edge).await?)?;
    let (begin, order) = (Instant::now(), &request.order);
    let (mut after, mut left) = (request.after.clone(), request.limit);
    let (mut count, mut unfit) = (0, 0);
    let has_more = loop {
        let page = live(&edge, &request, after.clone(), left.min(PAGE) + 1).await?;
        let taken = page.len().min(left.min(PAGE));
        let told = stream::iter(&page[..taken]).map(|record| tell(&edge, &record.saga.origin.id, &request));
        let told: Vec<Result<bool, ApiError>> = told.buffered(AT_ONCE).collect().await;
        for (told, record) in told.into_iter().zip(&page) {
            // What was done stays.
            match told.map_err(|error| error.with("count", count).with("after", after.clone()))? {
                true => count += 1,
                false => unfit += 1,
            }
            after = Some(record.saga.origin.id.clone());
        }
        left -= taken;
        if page.len() <= taken || left == 0 || begin.elapsed() > PATIENCE {
            break page.len() > taken;
        }
    };
    let next = after.filter(|_| has_more);
    if !request.dry_run {
        log::info!(
            verb = verb.as_str(), reason = order.reason.as_str(), count, unfit, request_id = request_id(&req).as_str();
            "an operator has told many sagas"
        );
    }
    let message = match request.dry_run {
        true => "Counted; nothing was done.",
        false if count == 0 => "There is nothing to do.",
        false => "Done.",
    };
    let data: Value = json!({ "dry_run": request.dry_run, "count": count, "unfit": unfit, "next": next });
    Ok(reply::ok(message, data.to_string().as_bytes()))
}

/// The instances that a request is about, the newest first. What has ended takes no orders.
async fn live(
    edge: &Edge,
    request: &ManyRequest,
    after: Option<String>,
    limit: usize,
) -> Result<Vec<SagaRecord>, ApiError> {
    let ManyRequest { name, state, correlation, started_before, .. } = request;
    let states = State::ALL.into_iter().filter(|known| state.map_or(known.is_live(), |state| state == *known));
    let mut found: Vec<SagaRecord> = Vec::new();
    for state in states {
        let filter = SagaFilter {
            name: name.clone(),
            state: Some(state),
            correlation: correlation.clone(),
            started_before: *started_before,
        };
        found.extend(edge.parts.reader.list_sagas(filter, after.clone(), limit).await?);
    }
    found.sort_by(|a, b| b.saga.origin.id.cmp(&a.saga.origin.id));
    // One may have changed its state meanwhile.
    found.dedup_by(|a, b| a.saga.origin.id == b.saga.origin.id);
    found.truncate(limit);
    Ok(found)
}

/// Whether an instance has taken the order, or would.
async fn tell(edge: &Edge, id: &str, request: &ManyRequest) -> Result<bool, ApiError> {
    let (desk, Order { verb, reason }) = (&edge.parts.desk, &request.order);
    let told = if request.dry_run {
        desk.would_operate(id, verb).await
    } else {
        desk.operate(id, verb.clone(), reason).await.map(|_| true)
    };
    match told {
        Err(SagaRefusal::NotFound | SagaRefusal::State(..) | SagaRefusal::Live(_) | SagaRefusal::Unusable(_)) => {
            Ok(false)
        }
        told => told.map_err(|refusal| refused(refusal, id)),
    }
}

fn listed(SagaRecord { saga, standing }: &SagaRecord) -> Listed<'_> {
    Listed {
        origin: &saga.origin,
        state: standing.state,
        is_paused: standing.is_paused,
        started_at: standing.started_at,
        updated_at: standing.updated_at,
    }
}

fn shown(edge: &Edge, Shown { record, told }: &Shown) -> String {
    let is_open = |name: &str| {
        let service = edge.parts.services.iter().find(|service| service.config.name == name);
        let state = service.map(|service| breaker_state(service.slot.registered().as_ref()));
        matches!(state, Some(BreakerState::Open | BreakerState::ForcedOpen))
    };
    match told {
        Ok(Told { definition, instance, journal }) => {
            shown_json(&listed(record), (definition, instance, journal), is_open)
        }
        Err(error) => unreadable_json(&listed(record), error),
    }
}

fn known_id(text: &str) -> Result<String, ApiError> {
    instance_id(text).ok_or_else(|| refused(SagaRefusal::NotFound, text))
}

/// What is said of a refusal; `of` is the saga or the instance.
fn refused(refusal: SagaRefusal, of: &str) -> ApiError {
    match refusal {
        SagaRefusal::NotFound => {
            ApiError::new(ErrorCode::SagaNotFound, format!("there is no instance {of:?} of a saga"))
        }
        SagaRefusal::NoSaga => ApiError::new(ErrorCode::SagaNotFound, format!("no saga {of:?} is declared")),
        SagaRefusal::State(state, unfit) => {
            let state = state.as_str();
            let message = match unfit {
                Unfit::State => format!("that does not fit now: the instance is {state}"),
                Unfit::NoStep => {
                    "no step is stuck, so there is none to be skipped: retry, compensate or abort".to_owned()
                }
                Unfit::NoWayBack => {
                    "there is no way back: the saga is past its pivot, or has turned back before".to_owned()
                }
            };
            ApiError::new(ErrorCode::SagaState, message).with("state", state)
        }
        SagaRefusal::Live(id) => {
            let message = format!("a live instance has this correlation value: {id}");
            ApiError::new(ErrorCode::SagaLive, message).with("id", id)
        }
        SagaRefusal::NoCorrelation => {
            let reason = "has no string of at most 1024 bytes, number or boolean where the saga has its correlation";
            ApiError::field(ErrorCode::InvalidField, "payload", reason)
        }
        SagaRefusal::Unusable(reason) => ApiError::new(ErrorCode::SagaState, reason),
        SagaRefusal::Busy => ApiError::transient(ErrorCode::Overloaded, "others decide on this instance all the time"),
        SagaRefusal::Store(error) => error.into(),
        SagaRefusal::Unavailable(failure) => failure.into(),
    }
}
