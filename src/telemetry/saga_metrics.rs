//! The metric of how many instances of sagas there are.

use super::metrics::Metrics;
use crate::domain::saga::State;

impl Metrics {
    /// Exports how many instances there are of each saga in each state; `None` if another node exports it.
    pub fn count_sagas(&self, counts: Option<&[(String, State, u64)]>) {
        let Some(counts) = counts else { return self.sagas.reset() };
        for (saga, ..) in counts {
            for known in State::ALL {
                let of = counts.iter().find(|(name, state, _)| name == saga && *state == known);
                let count = of.map_or(0, |(.., count)| i64::try_from(*count).unwrap_or(i64::MAX));
                self.sagas.with_label_values(&[saga, known.as_str()]).set(count);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_without_instances_are_none() {
        let metrics = Metrics::new().expect("names are unique");
        let count = |state: State| metrics.sagas.with_label_values(&["pay", state.as_str()]).get();
        metrics.count_sagas(Some(&[("pay".to_owned(), State::Waiting, 3)]));
        assert_eq!((count(State::Waiting), count(State::Running)), (3, 0));
        metrics.count_sagas(Some(&[("pay".to_owned(), State::Running, 1)]));
        assert_eq!((count(State::Waiting), count(State::Running)), (0, 1));
        metrics.count_sagas(None);
        assert!(!metrics.encode().expect("text").contains("event_handler_sagas{"));
    }
}
