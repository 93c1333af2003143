//! Where deliveries go: to services that are configured or once were, and to durable subscriptions, whose dead letters
//! are stored like those of services.

use super::known_services;
use super::orphans::orphans;
use crate::domain::routes::ServiceId;
use crate::protocol::error::{ApiError, ErrorCode};
use crate::storage::{Orphan, service_name};
use crate::web::{ConfiguredService, Edge};

/// A destination of deliveries.
pub struct Destination<'a> {
    /// The name of the service, or `durable/` and that of the durable subscription.
    pub name: String,
    /// None until the service is registered in the store.
    pub id: Option<ServiceId>,
    pub kind: Kind<'a>,
}

/// What a destination is.
#[derive(Clone, Copy)]
pub enum Kind<'a> {
    Service(&'a ConfiguredService),
    Durable,
    /// A service that is not configured.
    Orphan,
}

impl<'a> Destination<'a> {
    /// The service, if the destination is a configured one.
    pub fn service(&self) -> Option<&'a ConfiguredService> {
        match self.kind {
            Kind::Service(service) => Some(service),
            Kind::Durable | Kind::Orphan => None,
        }
    }
}

/// All destinations, or the one whose name is `wanted`; an error of this `code` if there is none of that name.
pub async fn destinations<'a>(
    edge: &'a Edge,
    wanted: Option<&str>,
    code: ErrorCode,
) -> Result<Vec<Destination<'a>>, ApiError> {
    let services = edge.parts.services.iter().map(|service| Destination {
        name: service.config.name.clone(),
        id: service.slot.id(),
        kind: Kind::Service(service),
    });
    let mut all: Vec<Destination<'_>> = services.collect();
    if !all.iter().any(|destination| Some(&*destination.name) == wanted) {
        let durables = edge.parts.reader.consumers().await?;
        let durable = |durable: crate::storage::ConsumerRecord| Destination {
            name: service_name(&durable.name),
            id: Some(durable.service),
            kind: Kind::Durable,
        };
        all.extend(durables.into_iter().map(durable));
        let orphan = |Orphan { service, name, .. }| Destination { name, id: Some(service), kind: Kind::Orphan };
        all.extend(orphans(edge).await?.into_iter().map(orphan));
    }
    all.retain(|destination| wanted.is_none_or(|wanted| wanted == destination.name));
    if wanted.is_some() && all.is_empty() {
        let services = match &known_services(edge)[..] {
            [] => "a configured service, of which there is none".to_owned(),
            known => format!("one of {}", known.join(", ")),
        };
        let reason = format!("must be {services}, or \"durable/\" and the name of a durable subscription");
        return Err(ApiError::field(code, "service", reason));
    }
    Ok(all)
}
