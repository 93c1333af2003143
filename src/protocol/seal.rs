//! Proof that a text comes from a node on the same store.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use crate::domain::secret::Secret;

/// Seals texts of one kind with the key of the log, which only the store holds (HMAC-SHA256).
#[derive(Clone)]
pub struct Seal(Hmac<Sha256>);

impl Seal {
    /// For texts of the kind `of`; those of another kind have other seals. None without a key.
    pub fn new(key: &Secret, of: &str) -> Option<Self> {
        let mut mac = Hmac::new_from_slice(key.expose().as_bytes()).expect("invariant: HMAC takes keys of any length");
        mac.update(of.as_bytes());
        mac.update(b"\n");
        (!key.is_empty()).then_some(Self(mac))
    }

    /// The seal of a text that is given in parts, in base64.
    pub fn of(&self, text: &[&[u8]]) -> String {
        STANDARD.encode(self.mac(text).finalize().into_bytes())
    }

    /// Whether `seal` is that of this text. The comparison takes constant time.
    pub fn holds(&self, text: &[&[u8]], seal: &str) -> bool {
        STANDARD.decode(seal).is_ok_and(|seal| self.mac(text).verify_slice(&seal).is_ok())
    }

    fn mac(&self, text: &[&[u8]]) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        text.iter().for_each(|part| mac.update(part));
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_holds_for_one_text_of_one_kind_under_one_key() {
        let seal = |key: &str, of: &str| Seal::new(&Secret::new(key), of).expect("a key");
        let (own, of) = (seal("k", "a"), seal("k", "a").of(&[b"x", b"yz"]));
        assert!(own.holds(&[b"xy", b"z"], &of));
        for (other, text) in [(own, "xyy"), (seal("l", "a"), "xyz"), (seal("k", "b"), "xyz")] {
            assert!(!other.holds(&[text.as_bytes()], &of));
        }
        assert!(!seal("k", "a").holds(&[b"xyz"], "") && !seal("k", "a").holds(&[b"xyz"], "?"));
        assert!(Seal::new(&Secret::default(), "a").is_none());
    }
}
