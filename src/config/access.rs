//! The sections `[access]` and `[limits]`: who may do what, and how often.
//!
//! What each key means is said once, in `config/default.toml`.

use std::fmt;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::checks::{check_admin_token, check_token_name};
use super::units::{HOUR, MINUTE, Span, span, whole};
use crate::domain::access::Grants;
use crate::domain::event::Timestamp;
use crate::domain::network::Network;
use crate::domain::pattern::Pattern;
use crate::domain::secret::Secret;

/// Tokens in a configuration.
const MAX_TOKENS: usize = 10_000;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessConfig {
    #[serde(deserialize_with = "tokens")]
    pub tokens: Vec<TokenConfig>,
    pub protect_metrics: bool,
    #[serde(deserialize_with = "span::<0, HOUR, _>")]
    pub expiry_notice: Span,
    pub jwt: JwtConfig,
}

/// A token, known by its hash.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// 1 to 63 of `a-z`, `0-9`, `-`, `_`; unique.
    #[serde(deserialize_with = "token_name")]
    pub name: String,
    pub hash: TokenHash,
    #[serde(default)]
    pub scopes: ScopesConfig,
    #[serde(default, deserialize_with = "instant", serialize_with = "shown_instant")]
    pub expires_at: Option<Timestamp>,
}

/// What a token opens; the same in the configuration and in the claim `scopes` of a JWT.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ScopesConfig {
    #[serde(deserialize_with = "patterns", serialize_with = "shown_patterns")]
    pub publish: Vec<Pattern>,
    #[serde(deserialize_with = "patterns", serialize_with = "shown_patterns")]
    pub subscribe: Vec<Pattern>,
    #[serde(deserialize_with = "patterns", serialize_with = "shown_patterns")]
    pub read: Vec<Pattern>,
    pub admin: bool,
}

impl From<ScopesConfig> for Grants {
    fn from(ScopesConfig { publish, subscribe, read, admin }: ScopesConfig) -> Self {
        Self { publish, subscribe, read, admin }
    }
}

/// The SHA-256 of a token, written as `sha256:` and 64 hexadecimal digits. Shown by its beginning.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash(pub [u8; 32]);

impl TokenHash {
    const PREFIX: &'static str = "sha256:";

    fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix(Self::PREFIX)?;
        if digits.len() != 64 || !digits.is_ascii() {
            return None;
        }
        let mut hash = [0; 32];
        for (byte, digits) in hash.iter_mut().zip(digits.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        }
        Some(Self(hash))
    }

    /// As it is written in the configuration.
    pub fn to_text(self) -> String {
        self.0.iter().fold(Self::PREFIX.to_owned(), |text, byte| format!("{text}{byte:02x}"))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.15}…", self.to_text())
    }
}

impl Serialize for TokenHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{self:?}"))
    }
}

impl<'de> Deserialize<'de> for TokenHash {
    /// The reason never repeats the value: it may be the token itself.
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from).map_err(|_| D::Error::custom("must be text"))?;
        let refuse = || {
            D::Error::custom("must be \"sha256:\" and 64 hexadecimal digits, as `event-handler token new` prints them")
        };
        Self::parse(text.trim()).ok_or_else(refuse)
    }
}

/// JWTs; none are accepted without a file of keys.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtConfig {
    pub jwks_file: String,
    pub issuer: String,
    pub audience: Vec<String>,
    #[serde(deserialize_with = "span::<0, {10 * MINUTE}, _>")]
    pub leeway: Span,
}

impl AccessConfig {
    /// Whether callers need a token.
    pub fn is_required(&self) -> bool {
        !self.tokens.is_empty() || !self.jwt.jwks_file.is_empty()
    }
}

/// Rates per second and numbers; 0 is off.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsConfig {
    #[serde(deserialize_with = "whole::<0, 1_000_000, _, _>")]
    pub publish_rate: u32,
    #[serde(deserialize_with = "whole::<0, 1_000_000, _, _>")]
    pub publish_burst: u32,
    #[serde(deserialize_with = "whole::<0, 1_000_000, _, _>")]
    pub connect_rate: u32,
    #[serde(deserialize_with = "whole::<0, 1_000_000, _, _>")]
    pub connect_burst: u32,
    #[serde(deserialize_with = "whole::<0, 1_000_000, _, _>")]
    pub frame_rate: u32,
    #[serde(deserialize_with = "whole::<0, 1_000_000, _, _>")]
    pub frame_burst: u32,
    #[serde(deserialize_with = "whole::<0, 1_000_000, _, _>")]
    pub connections_per_peer: usize,
}

/// Reads networks in CIDR notation.
pub(super) fn networks<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Network>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    let network = |text: &String| {
        let reason = || format!("must be networks such as \"10.0.0.0/8\" or addresses, not {text:?}");
        Network::parse(text.trim()).ok_or_else(|| D::Error::custom(reason()))
    };
    texts.iter().map(network).collect()
}

/// Writes them.
pub(super) fn shown_networks<S: Serializer>(networks: &[Network], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(networks.iter().map(ToString::to_string))
}

/// Reads an admin token; empty is none.
pub(super) fn admin_token<'de, D: Deserializer<'de>>(from: D) -> Result<Secret, D::Error> {
    let token = Secret::deserialize(from)?;
    if !token.is_empty() {
        check_admin_token(token.expose()).map_err(D::Error::custom)?;
    }
    Ok(token)
}

fn token_name<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let name = String::deserialize(from)?;
    check_token_name(&name).map_err(D::Error::custom)?;
    Ok(name)
}

fn tokens<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<TokenConfig>, D::Error> {
    let tokens = Vec::<TokenConfig>::deserialize(from)?;
    if tokens.len() > MAX_TOKENS {
        return Err(D::Error::custom(format!("must be at most {MAX_TOKENS} tokens, not {}", tokens.len())));
    }
    for (index, token) in tokens.iter().enumerate() {
        let earlier = &tokens[..index];
        if earlier.iter().any(|other| other.name == token.name) {
            return Err(D::Error::custom(format!("{:?} is the name of two tokens", token.name)));
        }
        if let Some(other) = earlier.iter().find(|other| other.hash == token.hash) {
            return Err(D::Error::custom(format!("{:?} and {:?} have the same hash", other.name, token.name)));
        }
    }
    Ok(tokens)
}

fn patterns<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Pattern>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    let pattern =
        |text: String| Pattern::parse(text.clone()).map_err(|reason| D::Error::custom(format!("{text:?}: {reason}")));
    texts.into_iter().map(pattern).collect()
}

fn shown_patterns<S: Serializer>(patterns: &[Pattern], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(patterns.iter().map(Pattern::as_str))
}

/// An instant, as text or as a date of TOML.
fn instant<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Timestamp>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Text(String),
        Date(toml::value::Datetime),
    }
    let refuse = || D::Error::custom("must be an instant such as \"2027-01-31T12:00:00Z\"");
    let text = match Written::deserialize(from).map_err(|_| refuse())? {
        Written::Text(text) => text,
        Written::Date(date) => date.to_string(),
    };
    Timestamp::parse(text.trim()).map(Some).ok_or_else(refuse)
}

fn shown_instant<S: Serializer>(instant: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&instant.map(|instant| instant.to_string()).unwrap_or_default())
}
