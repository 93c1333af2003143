//! Tokens for servers under test.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use super::server::Builder;

/// A configured token: its name, which is the beginning of the token itself, and the TOML of its scopes.
pub fn config(tokens: &[(&str, &str)]) -> String {
    let mut text = String::new();
    for (name, scopes) in tokens {
        let hash: String = Sha256::digest(token(name)).iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "[[access.tokens]]\nname = \"{name}\"\nhash = \"sha256:{hash}\"\n{scopes}")
            .expect("text can be written");
    }
    text
}

/// The token called `name`.
pub fn token(name: &str) -> String {
    format!("eh_secret-of-{name}")
}

/// The header that shows it.
pub fn bearer(name: &str) -> String {
    format!("Bearer {}", token(name))
}

impl Builder {
    /// Configures tokens, each with a name and the TOML of what it may do, and `more` TOML.
    pub fn tokens(self, tokens: &[(&str, &str)], more: &str) -> Self {
        self.file("tokens.toml", &format!("{more}\n{}", config(tokens))).env("EVENT_HANDLER_CONFIG", "tokens.toml")
    }
}
