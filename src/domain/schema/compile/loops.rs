//! Schemas that lead back to themselves without a step into the value: judging by them would not end.

use crate::domain::schema::compiled::{Combined, Id, Node};

/// Fails with a node that leads back to itself.
pub(super) fn check(nodes: &[Node]) -> Result<(), Id> {
    let mut state = vec![State::New; nodes.len()];
    for start in 0..nodes.len() as Id {
        let mut path = vec![(start, false)];
        while let Some((id, is_left)) = path.pop() {
            let state = &mut state[id as usize];
            match (is_left, *state) {
                (true, _) => *state = State::Done,
                (false, State::Done) => {}
                (false, State::Open) => return Err(id),
                (false, State::New) => {
                    *state = State::Open;
                    path.push((id, true));
                    in_place(&nodes[id as usize], |next| path.push((next, false)));
                }
            }
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum State {
    New,
    Open,
    Done,
}

/// The schemas that look at the same value.
fn in_place(node: &Node, mut each: impl FnMut(Id)) {
    let Some(deep) = &node.deep else { return };
    for combined in &deep.combined {
        match combined {
            Combined::Ref(id) | Combined::DynamicRef(id, _) | Combined::Not(id) => each(*id),
            Combined::AllOf(ids) | Combined::AnyOf(ids) | Combined::OneOf(ids) => {
                ids.iter().copied().for_each(&mut each)
            }
            Combined::If(condition, then, otherwise) => {
                each(*condition);
                then.iter().chain(otherwise).copied().for_each(&mut each);
            }
        }
    }
    if let Some(object) = &deep.object {
        object.dependent.iter().for_each(|(_, id)| each(*id));
    }
}
