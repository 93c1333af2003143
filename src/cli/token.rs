//! `event-handler token new`: a token, and what to put into the configuration.

use clap::{Args, Subcommand};

use super::{Failure, output};
use crate::access::new_token;
use crate::config::check_token_name;

#[derive(Debug, Args)]
pub struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Print a new random token, and the section of the configuration that admits it. It is stored nowhere.
    New {
        /// Name of the token, for logs and operators.
        #[arg(long, default_value = "my-service", value_parser = name)]
        name: String,
    },
}

pub fn run(args: &TokenArgs) -> Result<(), Failure> {
    let TokenCommand::New { name } = &args.command;
    let (token, hash) = new_token();
    output::print(format_args!(
        "# The token. It is shown this once: give it to the client.\n{token}\n\n\
         # For the configuration file; change the scopes to what the client needs.\n[[access.tokens]]\n\
         name = \"{name}\"\nhash = \"{}\"\nscopes = {{ publish = [\">\"], subscribe = [\">\"], read = [\">\"] }}",
        hash.to_text()
    ))
}

fn name(text: &str) -> Result<String, String> {
    check_token_name(text).map(|()| text.to_owned())
}
