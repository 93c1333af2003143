//! Sagas that would begin each other for ever.

use super::definition::{Definition, Work};
use super::machine::Told;
use crate::domain::name::EventName;

/// A saga that would begin itself, perhaps by way of others, and how; of several versions the greatest counts, as it
/// alone begins new instances. What filters and conditions keep out is not looked at.
pub fn endless(sagas: &[&Definition]) -> Option<(usize, String)> {
    let is_newest = |saga: &Definition| !sagas.iter().any(|s| s.name == saga.name && s.version > saga.version);
    let newest: Vec<usize> = (0..sagas.len()).filter(|at| is_newest(sagas[*at])).collect();
    for &at in &newest {
        if let Some(told) = Told::ALL.into_iter().find(|told| hears(sagas[at], *told)) {
            let trigger = sagas[at].trigger.event.as_str();
            return Some((at, format!("{trigger:?} matches what is told of sagas: $sys.saga.{}", told.as_str())));
        }
    }
    let begins: Vec<Vec<usize>> = newest
        .iter()
        .map(|from| newest.iter().copied().filter(|to| leads(sagas[*from], sagas[*to])).collect())
        .collect();
    let after = |at: usize| newest.iter().position(|known| *known == at).map_or(&[][..], |known| &begins[known][..]);
    newest.iter().find_map(|&at| {
        let way = way_back(at, &after)?;
        let names: Vec<&str> = way.iter().map(|at| &*sagas[*at].name).collect();
        Some((at, format!("the saga would begin itself: {}", names.join(", which begins "))))
    })
}

/// Whether an instance of the saga begins when this is told of one.
fn hears(saga: &Definition, told: Told) -> bool {
    EventName::parse(format!("$sys.saga.{}", told.as_str())).is_ok_and(|name| saga.trigger.event.matches(&name))
}

/// Whether a step of `from` publishes what begins an instance of `to`.
fn leads(from: &Definition, to: &Definition) -> bool {
    from.steps.iter().any(|step| match &step.work {
        Work::Publish { event, .. } => to.trigger.event.matches(event),
        Work::Call(_) | Work::Wait(_) => false,
    })
}

/// The shortest way from `at` back to it, both ends included.
fn way_back<'a>(at: usize, after: &impl Fn(usize) -> &'a [usize]) -> Option<Vec<usize>> {
    let mut ways = std::collections::VecDeque::from([vec![at]]);
    let mut seen = std::collections::BTreeSet::new();
    while let Some(way) = ways.pop_front() {
        for &next in after(*way.last()?) {
            let longer = [&way[..], &[next]].concat();
            if next == at {
                return Some(longer);
            }
            if seen.insert(next) {
                ways.push_back(longer);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn saga(name: &str, version: u32, trigger: &str, publishes: &[&str]) -> Definition {
        let publish = |(at, event): (usize, &&str)| json!({ "name": format!("s{at}"), "publish": { "event": event, "payload": {} } });
        let steps: Vec<_> = publishes.iter().enumerate().map(publish).collect();
        let text = json!({
            "name": name, "version": version, "trigger": { "event": trigger }, "correlation": "/id", "steps": steps,
        });
        Definition::parse(&text.to_string(), |_| true).expect("a saga")
    }

    fn found(sagas: &[Definition]) -> Option<(usize, String)> {
        endless(&sagas.iter().collect::<Vec<_>>())
    }

    #[test]
    fn a_circle_is_found_with_its_way() {
        let sagas = [
            saga("a", 1, "order.made", &["x", "order.paid"]),
            saga("b", 1, "order.paid", &["shipment.asked"]),
            saga("c", 7, "shipment.*", &["order.made"]),
        ];
        assert_eq!(found(&sagas[..2]), None);
        let way = "the saga would begin itself: a, which begins b, which begins c, which begins a";
        assert_eq!(found(&sagas), Some((0, way.to_owned())));
        let [a, b, c] = sagas;
        assert_eq!(found(&[a, b, c, saga("c", 8, "shipment.*", &["order.over"])]), None, "the old one begins nothing");
    }

    #[test]
    fn what_is_told_of_sagas_begins_none() {
        for trigger in ["$sys.saga.started", "$sys.saga.*", "$sys.*.completed", "$sys.>"] {
            let (at, reason) = found(&[saga("b", 1, "b", &["a"]), saga("a", 1, trigger, &["x"])]).expect(trigger);
            assert!(at == 1 && reason.contains("matches what is told of sagas: $sys.saga."), "{reason}");
        }
        assert_eq!(found(&[saga("a", 1, "$sys.service.opened", &["x"]), saga("b", 1, "b.>", &["x"])]), None);
    }
}
