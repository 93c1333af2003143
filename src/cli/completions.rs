//! `event-handler completions`: what shells complete commands and options with.

use clap::Args;
use clap_complete::Shell;

use super::{Failure, output};

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell that reads them.
    #[arg(value_enum)]
    shell: Shell,
}

/// Prints the completions that follow from `definition`.
pub fn run(args: &CompletionsArgs, mut definition: clap::Command) -> Result<(), Failure> {
    let name = definition.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut definition, name, &mut script);
    // The library writes the hyphen of the program's name in two ways, so that bash would find no command of commands.
    let script = String::from_utf8_lossy(&script).replace("event__subcmd__handler", "event__handler");
    output::print(script.trim_end())
}
