//! `event-handler man`: the man pages.

use std::path::PathBuf;

use clap::Args;
use clap_mangen::Man;

use super::{Failure, output};

#[derive(Debug, Args)]
pub struct ManArgs {
    /// An existing folder to write a page for every command to, such as /usr/share/man/man1. Without it the page of the
    /// program is printed: `event-handler man | man -l -`.
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Prints or writes the pages that follow from `definition`.
pub fn run(args: &ManArgs, definition: clap::Command) -> Result<(), Failure> {
    let Some(dir) = &args.dir else {
        let mut page = Vec::new();
        Man::new(definition).render(&mut page).map_err(Failure::failed)?;
        return output::print(String::from_utf8_lossy(&page).trim_end());
    };
    clap_mangen::generate_to(definition, dir)
        .map_err(|error| Failure::Failed(format!("cannot write to {}: {error}", dir.display())))
}
