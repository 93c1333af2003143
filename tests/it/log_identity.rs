//! Which log it is: told wherever ids are, kept as long as the store, and another one for another store.

use std::collections::HashSet;

use serde_json::json;

use crate::support::service::{Delivery, Service};
use crate::support::{Server, for_each_backend};

#[test]
fn deliveries_name_their_log_in_every_format_and_no_two_logs_share_a_webhook_id() {
    for_each_backend(|backend| {
        let of_a_log = |format: &str| {
            let service = Service::start();
            let builder = Server::builder().backend(backend);
            let options = [("routes", r#"["a"]"#), ("format", format)];
            let mut server = service.configure(builder, "billing", &options).start();
            let first = server.publish("a", json!(1));
            service.wait_for(1);
            server.restart();
            let second = server.publish("a", json!(2));
            // What was not settled before the end comes again, under the same name.
            let deliveries = service.wait_until("the second event", |all| all.iter().any(|d| d.event_id == second));
            let header = |delivery: &Delivery, name: &str| delivery.header(name).expect("a header").to_owned();
            let ids: HashSet<_> = deliveries.iter().map(|delivery| header(delivery, "event-id")).collect();
            assert_eq!(ids, HashSet::from([first.to_string(), second.to_string()]));
            let logs: HashSet<_> = deliveries.iter().map(|delivery| header(delivery, "event-log")).collect();
            assert_eq!((logs.len(), logs.iter().next().map(String::len)), (1, Some(36)), "{logs:?}");
            let webhooks: HashSet<_> = deliveries.iter().map(|delivery| header(delivery, "webhook-id")).collect();
            assert_eq!(webhooks.len(), 2);
            (logs, webhooks)
        };
        let (log, webhooks) = of_a_log("json");
        let (other_log, other_webhooks) = of_a_log("cloudevents-binary");
        assert!(log.is_disjoint(&other_log), "{log:?}");
        assert!(webhooks.is_disjoint(&other_webhooks), "{webhooks:?}");
    });
}
