//! Entities as they stand in Redis: keys and texts.

use crate::domain::entity::EntityId;
use crate::domain::event::{EventId, Timestamp};
use crate::domain::mirror::entity;

/// How the keys of entities begin.
pub const PREFIX: &str = "state:";
/// Where it stands how far the mirror has come, and of which log it is.
pub const STAND: &str = "event-handler:mirror";

/// The key of an entity: `state:{type}:{key}`.
pub fn mirror_key(id: &EntityId) -> String {
    format!("{PREFIX}{}:{}", id.kind, id.key)
}

/// Reads what [`mirror_key`] has made; none if it can be no entity's.
pub fn read_mirror_key(key: &[u8]) -> Option<EntityId> {
    let (kind, key) = std::str::from_utf8(key).ok()?.strip_prefix(PREFIX)?.split_once(':')?;
    entity(kind, key)
}

/// The text of an entity. The value goes in as it was written.
pub fn mirror_text(version: EventId, value: &str, updated_at: Timestamp) -> String {
    format!(r#"{{"version":{version},"value":{value},"updated_at":"{updated_at}"}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::mirror::version;

    #[test]
    fn keys_are_read_as_they_were_made() {
        for (kind, key) in [("auction", "1"), ("größe", "a:b c/d"), ("t", ":")] {
            let id = entity(kind, key).expect("an entity");
            let made = mirror_key(&id);
            assert_eq!(made, format!("state:{kind}:{key}"));
            assert_eq!(read_mirror_key(made.as_bytes()), Some(id));
        }
        for other in ["state:", "state:a", "state:a:", "state::a", "states:a:b", "state:a.b:c", "state:a:\n"] {
            assert_eq!(read_mirror_key(other.as_bytes()), None, "{other}");
        }
        assert_eq!(read_mirror_key(b"state:a:\xff"), None);
    }

    #[test]
    fn a_text_has_its_version_at_the_beginning() {
        let text = mirror_text(58, r#"{ "a": 1e400}"#, Timestamp(0));
        assert_eq!(text, r#"{"version":58,"value":{ "a": 1e400},"updated_at":"1970-01-01T00:00:00.000000Z"}"#);
        assert_eq!(version(text.as_bytes()), Some(58));
    }
}
