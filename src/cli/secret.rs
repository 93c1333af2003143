//! `event-handler secret encode`: a secret that deliveries are signed with.

use std::io::Read as _;

use clap::{Args, Subcommand};

use super::{Failure, output};
use crate::protocol::webhook::encode_secret;

/// Longest secret read, in bytes.
const MAX_SECRET: u64 = 4096;

#[derive(Debug, Args)]
pub struct SecretArgs {
    #[command(subcommand)]
    command: SecretCommand,
}

#[derive(Debug, Subcommand)]
enum SecretCommand {
    /// Read a secret of at least 24 bytes from standard input, without the end of its line, and print it as `secret` of
    /// a service and the libraries for Standard Webhooks take it. `head -c 32 /dev/urandom` makes a good one.
    Encode,
}

/// Prints it.
pub fn run(SecretArgs { command: SecretCommand::Encode }: &SecretArgs) -> Result<(), Failure> {
    let mut key = Vec::new();
    std::io::stdin().take(MAX_SECRET + 1).read_to_end(&mut key).map_err(Failure::failed)?;
    if key.len() as u64 > MAX_SECRET {
        return Err(Failure::Failed(format!("the secret is longer than {MAX_SECRET} bytes")));
    }
    let line = key.strip_suffix(b"\n").map(|line| line.strip_suffix(b"\r").unwrap_or(line)).unwrap_or(&key);
    let encoded = encode_secret(line).map_err(|reason| Failure::Failed(format!("the secret {reason}")))?;
    output::print(encoded)
}
