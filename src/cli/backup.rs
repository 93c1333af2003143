//! `event-handler backup` and `event-handler restore`: copies of the store.

use std::path::PathBuf;

use clap::Args;

use super::{Failure, output};
use crate::actors::clock::now;
use crate::config::Config;
use crate::storage::{Restoration, StoreError, StoreLock};
use crate::{serve, storage};

const BACKUP: &str = "\
The copy is the store as it is at one moment, and one file. The service may run meanwhile, and publish.
PostgreSQL is backed up with its own tools.";

const RESTORE: &str = "\
Stop the service before. The database that was there is kept beside it, as NAME.before-restore. The log becomes another
one (log_id), goes on with ids above all that is known to have been shown, and says so with $sys.log.restored.

Without FILE, the store stays as it is: say so after it was restored by other means, such as PostgreSQL's own.";

/// Where to.
#[derive(Debug, Args)]
#[command(after_help = BACKUP)]
pub struct BackupArgs {
    /// The file to write; it must not exist.
    file: PathBuf,
}

/// Where from.
#[derive(Debug, Args)]
#[command(after_help = RESTORE)]
pub struct RestoreArgs {
    /// A backup, or any copy of a database file that was not in use.
    file: Option<PathBuf>,
}

/// Copies the store while it may be in use.
pub fn back_up(args: &BackupArgs, config: &Config) -> Result<(), Failure> {
    let options = serve::store_options(config)?;
    let found = storage::backup(&options, &args.file).map_err(|error| failed(&options.url, &error))?;
    let (file, log, last) = (args.file.display(), found.log, found.last);
    output::print(format_args!("{file}: log {log} up to event {last}"))
}

/// Puts a copy in the place of the store.
pub fn restore(args: &RestoreArgs, config: &Config) -> Result<(), Failure> {
    let options = serve::store_options(config)?;
    let _lock = StoreLock::take(&options).map_err(|error| failed(&options.url, &error))?;
    let done = storage::restore(&options, args.file.as_deref(), now()).map_err(|error| failed(&options.url, &error))?;
    let Restoration { restored, kept } = done;
    let (log, last, first) = (restored.log, restored.last, restored.after + 1);
    output::print(format_args!("{}: log {log} has events up to {last}, and goes on with {first}", options.url))?;
    match kept {
        Some(kept) => output::print(format_args!("what was there before is kept as {}", kept.display())),
        None => Ok(()),
    }
}

fn failed(url: &storage::StoreUrl, error: &StoreError) -> Failure {
    Failure::Failed(format!("{url}: {}", error.message))
}
