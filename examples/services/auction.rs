//! The auction manager. What it knows of an auction is an entity that the Event Handler keeps, so it may be killed at any
//! moment, and there may be several of it: every change names the version that it was decided on.

use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::web::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::amount::Amount;
use super::event_handler::{EventHandler, Trouble};

/// Changes of others that a change is decided anew for.
const MAX_CONFLICTS: usize = 1000;

/// What is delivered to the auction manager. An error has it delivered again.
pub async fn take(handler: &EventHandler, event: &Value) -> Result<(), Trouble> {
    let payload = &event["payload"];
    match event["event_name"].as_str().unwrap_or_default() {
        "auction.start_due" => start(handler, payload).await,
        "auction.end_due" => end(handler, payload).await,
        "auction.settled" => leave(handler, &payload["auction_id"], "settled").await,
        "$sys.saga.compensated" if payload["name"] == "settle-auction" => {
            leave(handler, &payload["correlation"], "unsettled").await
        }
        _ => Ok(()),
    }
}

/// An auction opens. The same event, delivered again, finds it open.
async fn start(handler: &EventHandler, due: &Value) -> Result<(), Trouble> {
    let ends_at = Timestamp::now() + seconds(&due["lasts"]);
    let end = schedule_end(handler, &due["auction_id"], ends_at).await?;
    let auction = json!({
        "auction_id": due["auction_id"], "state": "open", "ends_at": ends_at.to_string(), "end": end, "extension": due["extension"],
        "from": due["from"], "highest": null, "bids": 0,
    });
    let payload = json!({ "auction_id": due["auction_id"], "from": due["from"], "ends_at": auction["ends_at"] });
    match publish(handler, "auction.started", &payload, &auction, 0).await {
        Err(Trouble::Conflict) => {
            handler.cancel(&end).await;
            Ok(())
        }
        other => other,
    }
}

/// `POST /auctions/{id}/bids`. A bid that is not answered may be made again: it is the same bid.
pub async fn bid(handler: &EventHandler, id: &str, body: &Bytes) -> HttpResponse {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let Some(bidder) = body["bidder"].as_str().filter(|bidder| !bidder.is_empty()) else {
        return HttpResponse::UnprocessableEntity().json(json!({ "reason": "the bidder is missing" }));
    };
    if Amount::of(&body["amount"]).is_none() {
        return HttpResponse::UnprocessableEntity().json(json!({ "reason": "the amount must be a decimal text" }));
    }
    for _ in 0..MAX_CONFLICTS {
        match try_bid(handler, id, bidder, &body["amount"]).await {
            Ok(answer) => return answer,
            Err(Trouble::Conflict) => {}
            Err(Trouble::Failed(reason)) => {
                return HttpResponse::ServiceUnavailable().json(json!({ "reason": reason }));
            }
        }
    }
    HttpResponse::ServiceUnavailable().json(json!({ "reason": "others were always faster" }))
}

async fn try_bid(handler: &EventHandler, id: &str, bidder: &str, amount: &Value) -> Result<HttpResponse, Trouble> {
    let Some((version, mut auction)) = handler.auction(id).await? else {
        return Ok(HttpResponse::NotFound().json(json!({ "reason": "there is no such auction" })));
    };
    let (now, ends_at) = (Timestamp::now(), instant(&auction["ends_at"])?);
    let highest = &auction["highest"];
    let (amount_bid, amount_highest) = (Amount::of(amount), Amount::of(&highest["amount"]));
    if highest["bidder"] == bidder && amount_bid == amount_highest {
        return Ok(HttpResponse::Ok().json(auction));
    }
    let refuse = |reason: &str| Ok(HttpResponse::Conflict().json(json!({ "reason": reason, "auction": auction })));
    if auction["state"] != "open" || now >= ends_at {
        return refuse("too_late");
    }
    let is_too_low = match amount_highest {
        Some(highest) => amount_bid <= Some(highest),
        None => amount_bid < Amount::of(&auction["from"]),
    };
    if is_too_low {
        return refuse("too_low");
    }
    let old_end = auction["end"].as_str().unwrap_or_default().to_owned();
    let later = now + seconds(&auction["extension"]);
    let extended = later > ends_at;
    if extended {
        auction["ends_at"] = json!(later.to_string());
        auction["end"] = json!(schedule_end(handler, &auction["auction_id"], later).await?);
    }
    auction["highest"] = json!({ "bidder": bidder, "amount": amount });
    auction["bids"] = json!(auction["bids"].as_u64().unwrap_or(0) + 1);
    let payload = json!({
        "auction_id": auction["auction_id"], "bidder": bidder, "amount": amount, "ends_at": auction["ends_at"], "extended": extended,
    });
    let placed = publish(handler, "bid.placed", &payload, &auction, version).await;
    if extended {
        // One of both ends is not that of the auction any more, and would do nothing. So this need not succeed.
        let superseded = if placed.is_ok() { &old_end } else { auction["end"].as_str().unwrap_or_default() };
        handler.cancel(superseded).await;
    }
    placed.map(|()| HttpResponse::Ok().json(auction))
}

/// An end is due. It counts if it is the auction's own: the end may have been moved meanwhile.
async fn end(handler: &EventHandler, due: &Value) -> Result<(), Trouble> {
    let id = key(&due["auction_id"]);
    for _ in 0..MAX_CONFLICTS {
        let Some((version, mut auction)) = handler.auction(&id).await? else { return Ok(()) };
        if auction["state"] != "open" || auction["ends_at"] != due["ends_at"] {
            return Ok(());
        }
        auction["state"] = json!("ended");
        let mut payload = json!({ "auction_id": due["auction_id"] });
        if let Some(bidder) = auction["highest"]["bidder"].as_str() {
            payload["winner"] = json!(bidder);
            payload["amount"] = auction["highest"]["amount"].clone();
        }
        match publish(handler, "auction.ended", &payload, &auction, version).await {
            Err(Trouble::Conflict) => {}
            other => return other,
        }
    }
    Err(Trouble::Conflict)
}

/// An auction that has ended is settled, or cannot be.
async fn leave(handler: &EventHandler, id: &Value, state: &str) -> Result<(), Trouble> {
    let Some((version, mut auction)) = handler.auction(&key(id)).await? else { return Ok(()) };
    if auction["state"] != "ended" {
        return Ok(());
    }
    auction["state"] = json!(state);
    handler.put_auction(&key(id), &auction, version).await
}

/// Publishes what has happened to an auction, and what the auction is now, both or neither.
async fn publish(
    handler: &EventHandler,
    name: &str,
    payload: &Value,
    auction: &Value,
    expected: u64,
) -> Result<(), Trouble> {
    let id = key(&payload["auction_id"]);
    let entity = json!({ "type": "auction", "key": id, "op": "put", "value": auction, "expected_version": expected });
    let event = json!({
        "event_name": name, "payload": payload, "source": "auction-manager", "key": format!("auction:{id}"),
        "entity": entity,
    });
    handler.publish(&event).await.map(drop)
}

/// The end of an auction, published when it is due; returns the schedule. It is not told with the manager's own name,
/// since a service does not get what it has published itself.
async fn schedule_end(handler: &EventHandler, id: &Value, ends_at: Timestamp) -> Result<String, Trouble> {
    let ends_at = ends_at.to_string();
    let event = json!({
        "event_name": "auction.end_due", "payload": { "auction_id": id, "ends_at": ends_at },
        "key": format!("auction:{}", key(id)), "deliver_at": ends_at,
    });
    let scheduled = handler.publish(&event).await?;
    Ok(scheduled["schedule_id"].as_str().unwrap_or_default().to_owned())
}

/// A number of seconds, such as 2.5.
fn seconds(value: &Value) -> Duration {
    Duration::try_from_secs_f64(value.as_f64().unwrap_or_default()).unwrap_or_default()
}

fn instant(text: &Value) -> Result<Timestamp, Trouble> {
    let text = text.as_str().unwrap_or_default();
    text.parse().map_err(|_| Trouble::Failed(format!("{text:?} is no instant")))
}

/// The key of an auction's entity: its id, which may be a number.
fn key(id: &Value) -> String {
    id.as_str().map_or_else(|| id.to_string(), str::to_owned)
}
