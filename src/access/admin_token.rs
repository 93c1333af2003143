//! The token that opens `/admin` where none is configured: made at the start, and kept in a file of its owner's alone,
//! where the command line finds it.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::{MAX_TOKEN, new_token};
use crate::config::{AdminConfig, check_admin_token};
use crate::domain::secret::Secret;
use crate::storage::StoreUrl;

/// Name of the file, beside the data.
const FILE_NAME: &str = "admin.token";
/// Read and written by its owner alone.
const MODE: u32 = 0o600;

/// A token, and how it came about.
pub struct Obtained {
    pub token: Secret,
    /// Whether it was made just now.
    pub is_new: bool,
}

/// Where the token is, or is to be.
pub fn file(config: &AdminConfig, store: &StoreUrl) -> PathBuf {
    if config.token_file.is_empty() { store.beside(FILE_NAME) } else { PathBuf::from(&config.token_file) }
}

/// The token in the file at `path`; if there is none, a new one is put there. The error is why neither can be done.
pub fn obtain(path: &Path) -> Result<Obtained, String> {
    if let Some(token) = read(path)? {
        // A copy may have lost that it is secret. Whoever it belongs to: what cannot be changed stays.
        let is_shared = fs::metadata(path).is_ok_and(|file| file.permissions().mode() & 0o077 != 0);
        if is_shared {
            let _ = fs::set_permissions(path, Permissions::from_mode(MODE));
        }
        return Ok(Obtained { token, is_new: false });
    }
    let (token, _) = new_token();
    match put(path, &token) {
        Ok(()) => Ok(Obtained { token: Secret::new(token), is_new: true }),
        // Another process was faster: its token is as good.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let token = read(path)?.ok_or_else(|| format!("{} comes and goes", path.display()))?;
            Ok(Obtained { token, is_new: false })
        }
        Err(error) => Err(format!("{} cannot be written: {error}", path.display())),
    }
}

/// The token in the file at `path`; none without such a file.
pub fn read(path: &Path) -> Result<Option<Secret>, String> {
    let unusable = |reason: &dyn std::fmt::Display| Err(format!("{} {reason}", path.display()));
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return unusable(&format_args!("cannot be read: {error}")),
    };
    let mut text = String::new();
    match file.take(MAX_TOKEN as u64 + 1).read_to_string(&mut text) {
        Ok(length) if length > MAX_TOKEN => unusable(&"is too long to hold a token"),
        Ok(_) => match check_admin_token(text.trim()) {
            Ok(()) => Ok(Some(Secret::new(text.trim()))),
            Err(reason) => unusable(&format_args!("is no token: it {reason}")),
        },
        Err(error) => unusable(&format_args!("cannot be read: {error}")),
    }
}

/// Puts the token at `path` whole or not at all, and never over another one.
fn put(path: &Path, token: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new(""));
    if folder == StoreUrl::default_folder() {
        fs::create_dir_all(folder)?;
    }
    let draft = folder.join(format!(".{FILE_NAME}.{:016x}", rand::random::<u64>()));
    let written = write_new(&draft, token).and_then(|()| match fs::hard_link(&draft, path) {
        // Not every file system has links.
        Err(error) if error.kind() != ErrorKind::AlreadyExists => fs::rename(&draft, path),
        linked => linked,
    });
    let _ = fs::remove_file(&draft);
    written
}

fn write_new(path: &Path, token: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(path)?;
    file.write_all(format!("{token}\n").as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.token");
        let first = obtain(&path).expect("made");
        assert!(first.is_new);
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(&path), MODE);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("ours");
        let second = obtain(&path).expect("read");
        assert!(!second.is_new && second.token.matches(first.token.expose()));
        assert_eq!(mode(&path), MODE, "a copy is made secret again");
        assert_eq!(fs::read_dir(folder.path()).expect("there").count(), 1, "no draft is left");
    }

    #[test]
    fn processes_that_start_together_have_one_token() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = &folder.path().join("admin.token");
        let tokens: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| obtain(path).expect("a token").token)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        assert!(tokens.iter().all(|token| token.matches(tokens[0].expose())));
    }

    #[test]
    fn what_is_no_token_is_said() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("admin.token");
        for (content, reason) in
            [(" \n".to_owned(), "must have at least 4"), ("x".repeat(MAX_TOKEN + 1), "is too long")]
        {
            fs::write(&path, content).expect("written");
            assert!(obtain(&path).is_err_and(|error| error.contains(reason)), "{reason}");
        }
        assert!(
            obtain(&folder.path().join("none/admin.token")).is_err_and(|error| error.contains("cannot be written"))
        );
    }
}
