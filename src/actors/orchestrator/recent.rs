//! Instances as they were stored last, so that they need not be replayed for the end of their next call.
//!
//! Somebody else may have decided on one of them since. A decision on it is void then, and all of them are forgotten; and
//! what seems to change nothing is decided on what is stored.

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::saga::{Definition, Instance, Json, Member};

/// Most instances of each of two parts.
const MAX: usize = 2048;
/// About the most bytes of one.
const MAX_BYTES: usize = 8 * 1024;

type Known = HashMap<String, (Arc<Definition>, Instance)>;

/// See the module.
#[derive(Default)]
pub struct Recent {
    young: Known,
    /// Once there are as many young ones, those that are here go.
    old: Known,
}

impl Recent {
    /// One of them.
    pub fn get(&self, id: &str) -> Option<(Arc<Definition>, Instance)> {
        self.young.get(id).or_else(|| self.old.get(id)).cloned()
    }

    /// Keeps one that is being stored, if it has a call under way.
    pub fn keep(&mut self, Member { definition, instance, .. }: Member) {
        let id = &instance.origin.id;
        self.forget(id);
        let has_call = instance.steps.iter().any(|step| step.calling.is_some());
        if !has_call || bytes(&instance) > MAX_BYTES {
            return;
        }
        if self.young.len() >= MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(id.clone(), (definition, instance));
    }

    pub fn forget(&mut self, id: &str) {
        self.young.remove(id);
        self.old.remove(id);
    }
}

fn bytes(instance: &Instance) -> usize {
    let length = |json: &Option<Json>| json.as_ref().map_or(0, |json| json.as_str().len());
    let of_steps = instance.steps.iter().map(|step| {
        let undo = step.undo.as_ref().map_or(0, |undo| undo.path.len() + length(&undo.body));
        length(&step.response) + length(&step.event) + undo
    });
    instance.origin.trigger.len() + of_steps.sum::<usize>()
}
