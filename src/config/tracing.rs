//! The section `[tracing]`: where spans go, and which traces are recorded.

use std::collections::BTreeMap;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

use super::delivery::DeliveryConfig;
use super::secret::{SecretUrl, http_url};
use super::services::{ServiceConfig, StartFrom};
use super::units::{SECOND, Span, number};
use crate::domain::secret::Secret;
use crate::domain::span::{Sampler, Sampling};
use crate::protocol::otlp::{TRACES_PATH, pairs};

/// Milliseconds that a collector may take for a request.
const PATIENCE: u64 = 10 * SECOND;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TracingConfig {
    #[serde(deserialize_with = "http_url")]
    pub endpoint: Option<SecretUrl>,
    #[serde(deserialize_with = "http_url")]
    pub traces_endpoint: Option<SecretUrl>,
    #[serde(deserialize_with = "secret_pairs")]
    pub headers: Secret,
    pub service_name: String,
    #[serde(deserialize_with = "shown_pairs")]
    pub resource_attributes: String,
    pub sampler: Sampler,
    #[serde(deserialize_with = "number::<0, 1, _>")]
    pub sampler_ratio: f64,
}

impl TracingConfig {
    /// The collector as a service, and the path that spans are posted to. None: there is no tracing.
    pub fn collector(&self, delivery: &DeliveryConfig) -> Option<(ServiceConfig, &'static str)> {
        let whole = self.traces_endpoint.as_ref().map(|url| (url, ""));
        let (url, path) = whole.or(self.endpoint.as_ref().map(|url| (url, TRACES_PATH)))?;
        let headers = pairs(self.headers.expose()).unwrap_or_default();
        let collector = ServiceConfig {
            name: "collector".to_owned(),
            url: url.clone(),
            path: path.to_owned(),
            routes: Vec::new(),
            secrets: Vec::new(),
            headers: headers.into_iter().map(|(name, value)| (name.to_lowercase(), Secret::new(value))).collect(),
            echo: false,
            aliases: Vec::new(),
            sources: BTreeMap::new(),
            start_from: StartFrom::Now,
            sync: None,
            critical: false,
            options: DeliveryConfig {
                concurrency: 1,
                allow_private: true,
                timeout: Span::from_millis(PATIENCE),
                ..delivery.clone()
            },
        };
        Some((collector, path))
    }

    pub fn sampling(&self) -> Sampling {
        Sampling { sampler: self.sampler, ratio: self.sampler_ratio }
    }

    /// What describes this program, the node called `node`.
    pub fn resource(&self, node: &str) -> Vec<(String, String)> {
        let mut resource = pairs(&self.resource_attributes).unwrap_or_default();
        if !self.service_name.is_empty() {
            resource.retain(|(key, _)| key != "service.name");
            resource.push(("service.name".to_owned(), self.service_name.clone()));
        }
        let own = [
            ("service.name", "event-handler"),
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("service.instance.id", node),
        ];
        for (key, value) in own {
            if !resource.iter().any(|(given, _)| given == key) {
                resource.push((key.to_owned(), value.to_owned()));
            }
        }
        resource
    }
}

fn shown_pairs<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    pairs(&text).map_err(D::Error::custom)?;
    Ok(text)
}

fn secret_pairs<'de, D: Deserializer<'de>>(from: D) -> Result<Secret, D::Error> {
    shown_pairs(from).map(Secret::new)
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, LoadArgs};
    use crate::domain::span::Sampler;

    fn load(environment: &[(&str, &str)]) -> Result<Config, String> {
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::load(LoadArgs::default(), environment).map_err(|error| error.to_string())
    }

    #[test]
    fn the_standard_variables_set_it() {
        let none = load(&[]).expect("valid");
        assert!(none.tracing.collector(&none.delivery).is_none());
        let base = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/");
        let config = load(&[
            base,
            ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20s3cret"),
            ("OTEL_RESOURCE_ATTRIBUTES", "service.name=a,deployment.environment.name=prod"),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ]);
        let config = config.expect("valid");
        let (collector, path) = config.tracing.collector(&config.delivery).expect("an endpoint");
        assert_eq!(collector.url.join_path(path).as_str(), "http://collector:4318/v1/traces");
        assert!(!config.to_toml_redacted().contains("s3cret"));
        assert_eq!((config.tracing.sampler, config.tracing.sampler_ratio), (Sampler::ParentBasedRatio, 0.25));
        let resource = config.tracing.resource("n1");
        let value = |key: &str| resource.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
        assert_eq!((value("service.name"), value("service.instance.id")), (Some("a"), Some("n1")));
        let whole = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://b/x");
        let config = load(&[base, whole, ("OTEL_SERVICE_NAME", "b")]).expect("valid");
        let (collector, path) = config.tracing.collector(&config.delivery).expect("an endpoint");
        assert_eq!(collector.url.join_path(path).as_str(), "https://b/x");
        assert!(config.tracing.resource("n").contains(&("service.name".into(), "b".into())));
    }

    #[test]
    fn what_cannot_be_used_stops_the_start() {
        for (name, value) in [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "s3cret"),
            ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
            ("OTEL_TRACES_SAMPLER_ARG", "2"),
        ] {
            let error = load(&[(name, value)]).expect_err("it cannot be used");
            assert!(error.contains(name) && !error.contains("s3cret"), "{error}");
        }
    }
}
