//! What the services ask of the Event Handler.

use actix_web::http::{StatusCode, header};
use awc::error::SendRequestError;
use awc::{Client, ClientResponse};
use serde_json::Value;

/// Longest answer that is read.
const MAX_ANSWER: usize = 1 << 20;

/// Where it is, such as `http://127.0.0.1:4300`.
#[derive(Debug, Clone)]
pub struct EventHandler(pub String);

/// Why there is no answer to go by.
#[derive(Debug)]
pub enum Trouble {
    /// The entity is not as it was expected to be: somebody else has changed it.
    Conflict,
    /// It is away, or refuses: whoever asks may ask again.
    Failed(String),
}

impl EventHandler {
    /// The newest value of an auction, with its version.
    pub async fn auction(&self, id: &str) -> Result<Option<(u64, Value)>, Trouble> {
        let request = Client::default().get(self.url_of(id));
        let (status, body) = answer(request.send().await).await?;
        match status {
            StatusCode::OK => {
                Ok(Some((body["data"]["version"].as_u64().unwrap_or_default(), body["data"]["value"].clone())))
            }
            StatusCode::NOT_FOUND => Ok(None),
            _ => Err(Trouble::Failed(body.to_string())),
        }
    }

    /// Changes an auction that has this version.
    pub async fn put_auction(&self, id: &str, auction: &Value, version: u64) -> Result<(), Trouble> {
        let request = Client::default().put(format!("{}?source=auction-manager", self.url_of(id)));
        let request = request.insert_header((header::IF_MATCH, format!("\"{version}\"")));
        let (status, body) = answer(request.send_json(auction).await).await?;
        match status {
            StatusCode::OK => Ok(()),
            StatusCode::PRECONDITION_FAILED => Err(Trouble::Conflict),
            _ => Err(Trouble::Failed(body.to_string())),
        }
    }

    fn url_of(&self, id: &str) -> String {
        let id = percent_encoding::utf8_percent_encode(id, percent_encoding::NON_ALPHANUMERIC);
        format!("{}/state/auction/{id}", self.0)
    }

    /// Publishes an event; returns the answer's data.
    pub async fn publish(&self, event: &Value) -> Result<Value, Trouble> {
        let request = Client::default().post(format!("{}/publish", self.0));
        let (status, mut body) = answer(request.send_json(event).await).await?;
        match status {
            StatusCode::OK => Ok(body["data"].take()),
            StatusCode::CONFLICT if body["data"]["code"] == "version_conflict" => Err(Trouble::Conflict),
            _ => Err(Trouble::Failed(body.to_string())),
        }
    }

    /// Cancels a schedule. One that is not there any more needs none.
    pub async fn cancel(&self, schedule: &str) {
        let _ = Client::default().delete(format!("{}/schedules/{schedule}", self.0)).send().await;
    }
}

async fn answer(sent: Result<ClientResponse, SendRequestError>) -> Result<(StatusCode, Value), Trouble> {
    let mut response = sent.map_err(|error| Trouble::Failed(error.to_string()))?;
    let status = response.status();
    let body = response.body().limit(MAX_ANSWER).await.map_err(|error| Trouble::Failed(error.to_string()))?;
    Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
}
