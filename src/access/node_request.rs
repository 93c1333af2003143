//! Requests that a node passes on to another one, and what it answers.
//!
//! They are signed with the key of the log, which only the store holds: who can read it could also read and write
//! whatever the nodes do. A signature is good for one node, one path with its query, and half a minute. So whoever gets
//! to see one learns from it nothing that its answer does not say. The answer is signed too, with the signature of its
//! request: where a node is reached is what somebody has written into the store, and another program may be there.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use crate::domain::event::Timestamp;
use crate::domain::secret::Secret;

/// The header with the signature, of a request and of its answer. It also says that the request was passed on, which is
/// done once.
pub const SIGNATURE: &str = "event-handler-node-signature";
/// For how long a signature is good, and by how much the times of two nodes may differ. The store tells them the time.
const LIFETIME: Duration = Duration::from_secs(30);

/// What is asked of a node, with the method GET.
#[derive(Debug, Clone, Copy)]
pub struct NodeRequest<'a> {
    /// The name of the node that is asked.
    pub to: &'a str,
    pub path: &'a str,
    pub query: &'a str,
}

impl NodeRequest<'_> {
    /// The time in seconds, and the base64 of an HMAC-SHA256.
    pub fn sign(&self, key: &Secret, now: Timestamp) -> String {
        let seconds = now.0.div_euclid(1_000_000);
        format!("{seconds},{}", STANDARD.encode(self.mac(key, seconds).finalize().into_bytes()))
    }

    /// Whether [`Self::sign`] has made `signature` with the same key, a short time ago. Nothing is signed with an empty
    /// key. The comparison takes constant time.
    pub fn is_signed(&self, key: &Secret, signature: &str, now: Timestamp) -> bool {
        let Some((seconds, mac)) = signature.split_once(',') else { return false };
        let (Ok(seconds), Ok(mac)) = (seconds.parse::<u32>().map(i64::from), STANDARD.decode(mac)) else {
            return false;
        };
        let at = Timestamp(seconds * 1_000_000);
        let is_fresh = now.since(at).max(at.since(now)) <= LIFETIME;
        !key.is_empty() && is_fresh && self.mac(key, seconds).verify_slice(&mac).is_ok()
    }

    fn mac(&self, key: &Secret, seconds: i64) -> Hmac<Sha256> {
        let Self { to, path, query } = self;
        mac_of(key, &[format!("event-handler node request\n{seconds}\n{to}\n{path}?{query}").as_bytes()])
    }
}

/// What is answered to a request with this signature.
#[derive(Debug, Clone, Copy)]
pub struct NodeAnswer<'a> {
    pub request: &'a [u8],
    /// The header `Link`; empty if there is none.
    pub link: &'a [u8],
    pub body: &'a [u8],
}

impl NodeAnswer<'_> {
    /// The base64 of an HMAC-SHA256.
    pub fn sign(&self, key: &Secret) -> String {
        STANDARD.encode(self.mac(key).finalize().into_bytes())
    }

    /// Whether [`Self::sign`] has made `signature` with the same key. Nothing is signed with an empty key. The comparison
    /// takes constant time.
    pub fn is_signed(&self, key: &Secret, signature: &[u8]) -> bool {
        let mac = STANDARD.decode(signature);
        !key.is_empty() && mac.is_ok_and(|mac| self.mac(key).verify_slice(&mac).is_ok())
    }

    fn mac(&self, key: &Secret) -> Hmac<Sha256> {
        let Self { request, link, body } = self;
        // No header has a line break.
        mac_of(key, &[b"event-handler node answer\n", request, b"\n", link, b"\n", body])
    }
}

fn mac_of(key: &Secret, parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = Hmac::new_from_slice(key.expose().as_bytes()).expect("invariant: HMAC takes keys of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_good_for_one_request_to_one_node_and_for_a_short_time() {
        let at = |second: i64| Timestamp(second * 1_000_000);
        let key = Secret::new("the key of the log");
        let asked = NodeRequest { to: "b", path: "/admin/actors", query: "node=b" };
        let signature = asked.sign(&key, at(1_000));
        let holds = |asked: NodeRequest<'_>, key: &str, now| asked.is_signed(&Secret::new(key), &signature, now);
        for second in [970, 1_000, 1_030] {
            assert!(holds(asked, key.expose(), at(second)), "{second}");
        }
        assert!(!holds(asked, key.expose(), at(968)) && !holds(asked, key.expose(), at(1_032)));
        assert!(!holds(asked, "another key", at(1_000)));
        for other in [
            NodeRequest { to: "a", ..asked },
            NodeRequest { path: "/admin/sessions", ..asked },
            NodeRequest { query: "node=all", ..asked },
        ] {
            assert!(!holds(other, key.expose(), at(1_000)), "{other:?}");
        }
        let later = signature.replacen("1000,", "1010,", 1);
        for made_up in ["", "1000", "1000,", ",", "x,y", &later] {
            assert!(!asked.is_signed(&key, made_up, at(1_000)), "{made_up}");
        }
    }

    #[test]
    fn the_signature_of_an_answer_is_good_for_one_answer_to_one_request() {
        let key = Secret::new("the key of the log");
        let answer = NodeAnswer { request: b"1000,AAAA", link: b"", body: b"{}" };
        let signature = answer.sign(&key);
        let holds = |answer: NodeAnswer<'_>, key: &str| answer.is_signed(&Secret::new(key), signature.as_bytes());
        assert!(holds(answer, key.expose()));
        assert!(!holds(answer, "another key") && !holds(answer, ""));
        for other in [
            NodeAnswer { request: b"1001,AAAA", ..answer },
            NodeAnswer { link: b"<?after=1>; rel=\"next\"", ..answer },
            NodeAnswer { body: b"{ }", ..answer },
        ] {
            assert!(!holds(other, key.expose()), "{other:?}");
        }
        assert!(!answer.is_signed(&key, b"") && !answer.is_signed(&key, b"what"));
    }

    #[test]
    fn before_the_store_was_opened_nothing_is_taken_for_signed() {
        let asked = NodeRequest { to: "b", path: "/admin/actors", query: "node=b" };
        let signature = asked.sign(&Secret::default(), Timestamp(0));
        assert!(!asked.is_signed(&Secret::default(), &signature, Timestamp(0)));
    }
}
