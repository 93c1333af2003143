//! Where deliveries go: configured services, and those that are no longer; and the durable subscriptions, whose dead
//! letters are kept alike.

use super::known_services;
use super::orphans::orphans;
use crate::domain::routes::ServiceId;
use crate::protocol::error::ApiError;
use crate::storage::{Orphan, service_name};
use crate::web::{ConfiguredService, Edge};

/// See the module.
pub struct Destination<'a> {
    /// Of a durable subscription: `durable/<name>`.
    pub name: String,
    /// None as long as the store does not know it.
    pub id: Option<ServiceId>,
    pub kind: Kind<'a>,
}

/// What it is.
#[derive(Clone, Copy)]
pub enum Kind<'a> {
    Service(&'a ConfiguredService),
    Durable,
    /// A service that is not configured.
    Orphan,
}

impl<'a> Destination<'a> {
    /// The service, if it is one that is configured.
    pub fn service(&self) -> Option<&'a ConfiguredService> {
        match self.kind {
            Kind::Service(service) => Some(service),
            Kind::Durable | Kind::Orphan => None,
        }
    }
}

/// All of them, or the one that is `wanted`; none if there is none of that name.
pub async fn destinations<'a>(edge: &'a Edge, wanted: Option<&str>) -> Result<Vec<Destination<'a>>, ApiError> {
    let services = edge.parts.services.iter().map(|service| Destination {
        name: service.config.name.clone(),
        id: service.slot.id(),
        kind: Kind::Service(service),
    });
    let mut all: Vec<Destination<'_>> = services.collect();
    if !all.iter().any(|destination| Some(&*destination.name) == wanted) {
        let durables = edge.parts.reader.durables().await?;
        let durable = |durable: crate::storage::DurableRecord| Destination {
            name: service_name(&durable.name),
            id: Some(durable.service),
            kind: Kind::Durable,
        };
        all.extend(durables.into_iter().map(durable));
        let orphan = |Orphan { service, name, .. }| Destination { name, id: Some(service), kind: Kind::Orphan };
        all.extend(orphans(edge).await?.into_iter().map(orphan));
    }
    all.retain(|destination| wanted.is_none_or(|wanted| wanted == destination.name));
    Ok(all)
}

/// What is wrong with a destination that does not exist, completing "must be …".
pub fn one_of_the_destinations(edge: &Edge) -> String {
    match &known_services(edge)[..] {
        [] => "a configured service, of which there is none, or \"durable/\" and the name of a durable subscription"
            .to_owned(),
        known => format!("one of {}, or \"durable/\" and the name of a durable subscription", known.join(", ")),
    }
}
