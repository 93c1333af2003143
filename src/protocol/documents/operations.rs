//! The operations of the HTTP API, as `operations.toml` writes them down.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::Value;

use super::notation::Schemas;
use crate::protocol::error::ErrorCode;

/// What no operation answers, but the program may answer to any request: there is no operation, or no (whole) request.
pub const OUTSIDE: [ErrorCode; 3] = [ErrorCode::MethodNotAllowed, ErrorCode::HeadTooLarge, ErrorCode::RequestTimeout];

/// All operations, with what they refer to.
#[derive(Debug, Deserialize)]
pub struct Table {
    errors: BTreeMap<String, Vec<String>>,
    pub query: BTreeMap<String, String>,
    pub header: BTreeMap<String, String>,
    pub path: BTreeMap<String, String>,
    pub returned: BTreeMap<String, String>,
    #[serde(rename = "operation")]
    pub operations: Vec<Operation>,
    #[serde(skip)]
    pub schemas: Option<Schemas>,
}

/// Who may ask for an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum May {
    Open,
    /// Anybody; whoever shows a token sees what that may read.
    Types,
    Page,
    Metrics,
    Publish,
    Subscribe,
    Read,
    /// Who may publish or subscribe.
    Connect,
    Admin,
}

/// One operation.
#[derive(Debug, Deserialize)]
pub struct Operation {
    /// Method and path.
    pub on: String,
    pub id: String,
    pub tag: String,
    pub summary: String,
    pub about: Option<String>,
    pub may: May,
    #[serde(default)]
    pub query: Vec<String>,
    #[serde(default)]
    pub headers: Vec<String>,
    #[serde(default)]
    pub path: BTreeMap<String, String>,
    #[serde(default)]
    pub body: BTreeMap<String, Value>,
    #[serde(default)]
    pub returns: Vec<String>,
    #[serde(default)]
    pub also: BTreeMap<String, String>,
    #[serde(default)]
    errors: Vec<String>,
    /// By status.
    #[serde(flatten)]
    pub answers: BTreeMap<String, Answer>,
}

/// What is answered with a status.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// The type of `data` in the envelope.
    Data(String),
    /// Types by media type; none for an answer without a body.
    Media(BTreeMap<String, String>),
}

/// The operations, read once.
pub fn operations() -> &'static [Operation] {
    &table().operations
}

pub(super) fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let text = concat!(include_str!("operations.toml"), "\n", include_str!("operations_admin.toml"));
        let table: Table = toml::from_str(text).expect("invariant: tests read operations.toml");
        let schemas = toml::from_str(include_str!("schemas.toml")).expect("invariant: tests read schemas.toml");
        Table { schemas: Some(schemas), ..table }
    })
}

impl Operation {
    pub fn method(&self) -> &str {
        self.on.split_once(' ').map_or("", |(method, _)| method)
    }

    pub fn path(&self) -> &str {
        self.on.split_once(' ').map_or("", |(_, path)| path)
    }

    /// The errors that it may answer, each with its status.
    pub fn errors(&self) -> Vec<(u16, ErrorCode)> {
        let mut names: Vec<&str> = Vec::new();
        for error in &self.errors {
            match table().errors.get(error) {
                Some(group) => names.extend(group.iter().map(String::as_str)),
                None => names.push(error),
            }
        }
        names.extend(self.always());
        let mut found: Vec<(u16, ErrorCode)> = names.into_iter().map(read_error).collect();
        found.sort_by_key(|(status, code)| (*status, code.as_str()));
        found.dedup();
        found
    }

    /// What every operation of its kind may answer.
    fn always(&self) -> Vec<&'static str> {
        const QUERY: &[&str] =
            &["unknown_parameter", "invalid_parameter", "malformed_request", "foreign_origin", "internal"];
        let of_caller: &[&str] = match self.may {
            May::Open => return vec!["malformed_request"],
            May::Metrics => return vec!["malformed_request", "unauthorized", "forbidden", "internal"],
            May::Page => &[],
            May::Types => &["unauthorized", "store_unavailable"],
            May::Publish | May::Subscribe | May::Read | May::Connect | May::Admin => {
                &["unauthorized", "forbidden", "store_unavailable"]
            }
        };
        [QUERY, of_caller].concat()
    }
}

/// A code, behind another status than its own if there is one.
fn read_error(text: &str) -> (u16, ErrorCode) {
    let (status, name) = text.split_once(' ').map_or((None, text), |(status, name)| (status.parse().ok(), name));
    let code = ErrorCode::ALL.iter().copied().find(|code| code.as_str() == name);
    let code = code.unwrap_or_else(|| panic!("invariant: {text:?} is an error code"));
    (status.unwrap_or(code.status()), code)
}
