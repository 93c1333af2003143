//! `event-handler token`: makes tokens, and revokes them.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::json;

use super::api_client::{ApiClient, segment};
use super::target::TargetArgs;
use super::{Failure, output};
use crate::access::new_token;
use crate::actors::clock::now;
use crate::config::{Config, check_token_name};
use crate::domain::event::Timestamp;
use crate::domain::pattern::Pattern;

const NEW_EXAMPLES: &str = "\
Examples:
  event-handler token new --name shop --publish 'order.>' --read 'order.>' --expires-in 90d
  event-handler token new --name dashboard --subscribe '>' --subscribe '$sys.>'
  event-handler token new --name operator --admin

Without any scope it may publish, subscribe to and read everything. Only the hash goes into the configuration.";

const REVOKE_EXAMPLES: &str = "\
Examples:
  event-handler token revoke shop          a configured token, by its name
  event-handler token revoke --sub shop    JWTs, by their sub; or by --jti one of them
  event-handler token revoke shop --undo   it counts again

Revocations are kept in the store: they outlive restarts, and hold on every node within some seconds. Connections are
closed.";

#[derive(Debug, Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Print a new random token, and the section of the configuration that admits it. It is stored nowhere.
    New(NewArgs),
    /// Have a token count no more, at once.
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
#[command(after_help = NEW_EXAMPLES)]
struct NewArgs {
    /// Name of the token, for logs and operators.
    #[arg(long, default_value = "my-service", value_parser = name)]
    name: String,
    /// What it may publish; may be repeated.
    #[arg(long, value_name = "NAME|PATTERN", value_parser = pattern)]
    publish: Vec<Pattern>,
    /// What it may subscribe to; may be repeated.
    #[arg(long, value_name = "NAME|PATTERN", value_parser = pattern)]
    subscribe: Vec<Pattern>,
    /// What of the stored events it may read; may be repeated.
    #[arg(long, value_name = "NAME|PATTERN", value_parser = pattern)]
    read: Vec<Pattern>,
    /// It may use /admin.
    #[arg(long)]
    admin: bool,
    /// It ends after this time, such as 12h or 90d.
    #[arg(long, value_name = "SPAN", value_parser = humantime::parse_duration)]
    expires_in: Option<Duration>,
    /// It ends at this time (RFC 3339, such as 2027-01-31T12:00:00Z).
    #[arg(long, value_name = "TIME", value_parser = time, conflicts_with = "expires_in")]
    expires_at: Option<Timestamp>,
}

#[derive(Debug, Args)]
#[command(after_help = REVOKE_EXAMPLES)]
struct RevokeArgs {
    /// Name of a configured token.
    #[arg(required_unless_present_any = ["sub", "jti"], conflicts_with_all = ["sub", "jti"])]
    name: Option<String>,
    /// The `sub` of JWTs.
    #[arg(long, conflicts_with = "jti")]
    sub: Option<String>,
    /// The `jti` of a JWT.
    #[arg(long)]
    jti: Option<String>,
    /// Take a revocation back.
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    target: TargetArgs,
}

/// Makes or revokes.
pub fn run(args: &TokenArgs, config: &Config) -> Result<(), Failure> {
    match &args.command {
        TokenCommand::New(args) => new(args),
        TokenCommand::Revoke(args) => revoke(args, config),
    }
}

fn new(args: &NewArgs) -> Result<(), Failure> {
    let NewArgs { name, publish, subscribe, read, admin, expires_in, expires_at } = args;
    let (token, hash) = new_token();
    let of = [("publish", publish), ("subscribe", subscribe), ("read", read)];
    let is_any_given = *admin || of.iter().any(|(_, patterns)| !patterns.is_empty());
    let advice = if is_any_given { "" } else { "; change the scopes to what the client needs" };
    // No pattern has anything in it that TOML would have to escape.
    let list = |patterns: &[Pattern]| {
        let quoted: Vec<String> = patterns.iter().map(|pattern| format!("\"{}\"", pattern.as_str())).collect();
        format!("[{}]", if is_any_given { quoted.join(", ") } else { "\">\"".to_owned() })
    };
    let given = of.iter().filter(|(_, patterns)| !is_any_given || !patterns.is_empty());
    let mut scopes: Vec<String> = given.map(|(scope, patterns)| format!("{scope} = {}", list(patterns))).collect();
    if *admin {
        scopes.push("admin = true".to_owned());
    }
    let expires_at = expires_at.or(expires_in.map(|span| now().plus(span)));
    let expiry = expires_at.map(|at| format!("\nexpires_at = \"{at}\"")).unwrap_or_default();
    output::print(format_args!(
        "# The token. It is shown this once: give it to the api.\n{token}\n\n\
         # For the configuration file{advice}.\n[[access.tokens]]\nname = \"{name}\"\nhash = \"{}\"\n\
         scopes = {{ {} }}{expiry}",
        hash.to_text(),
        scopes.join(", ")
    ))
}

fn revoke(args: &RevokeArgs, config: &Config) -> Result<(), Failure> {
    let RevokeArgs { name, sub, jti, undo, target } = args;
    let api = ApiClient::new(target.resolve_admin(config)?);
    let (kind, value) = match (name, sub, jti) {
        (Some(name), _, _) => ("token", name),
        (None, Some(sub), _) => ("sub", sub),
        (None, None, Some(jti)) => ("jti", jti),
        (None, None, None) => return Err(Failure::Usage("say which: NAME, --sub or --jti".into())),
    };
    let answer = actix_rt::System::new().block_on(async {
        match (kind, undo) {
            ("token", false) => api.post(&format!("/admin/tokens/{}/revoke", segment(value)), Vec::new()).await,
            ("token", true) => api.post(&format!("/admin/tokens/{}/restore", segment(value)), Vec::new()).await,
            (kind, false) => {
                let body = json!({ "kind": kind, "value": value }).to_string().into_bytes();
                api.post("/admin/revocations", body).await
            }
            (kind, true) => api.delete(&format!("/admin/revocations/{kind}/{}", segment(value))).await,
        }
    })?;
    answer.success()?;
    output::print(format_args!("{kind} {value} is {}", if *undo { "restored" } else { "revoked" }))
}

fn name(text: &str) -> Result<String, String> {
    check_token_name(text).map(|()| text.to_owned())
}

fn pattern(text: &str) -> Result<Pattern, String> {
    Pattern::parse(text.to_owned()).map_err(|reason| reason.to_string())
}

fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).ok_or_else(|| "expected an RFC 3339 time such as 2027-01-31T12:00:00Z".to_owned())
}
