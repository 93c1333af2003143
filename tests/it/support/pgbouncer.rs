//! PgBouncer in front of a PostgreSQL server.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use diesel::{Connection as _, PgConnection};
use tempfile::TempDir;

use super::{eventually, postgres};

/// A running pooler; killed on drop.
pub struct PgBouncer {
    child: Child,
    url: String,
    _dir: TempDir,
}

impl PgBouncer {
    /// Pools connections to the database of `url`, by the session, transaction or statement.
    pub fn start(url: &str, pool_mode: &str) -> Self {
        let (server, database) = url.rsplit_once('/').expect("a path");
        let (_, port) = server.rsplit_once(':').expect("a port");
        let dir = TempDir::with_prefix("pgbouncer-").expect("a temporary folder");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let own_port = listener.local_addr().expect("an address").port();
        drop(listener);
        let ini = dir.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n{database} = host=127.0.0.1 port={port} user=postgres\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {own_port}\nunix_socket_dir =\nauth_type = any\n\
             pool_mode = {pool_mode}\ndefault_pool_size = 20\nmax_client_conn = 200\n"
        );
        fs::write(&ini, text).expect("a writable folder");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some((uid, gid)) = postgres::unprivileged() {
            for path in [dir.path(), &ini] {
                chown(path, Some(uid), Some(gid)).expect("give it to an unprivileged user");
            }
            command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}")).arg("--clear-groups");
        }
        let debian = Path::new("/usr/sbin/pgbouncer");
        let program = if debian.exists() { debian } else { Path::new("pgbouncer") };
        let child = command.arg(program).arg("-q").arg(&ini).stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.expect("PgBouncer can be started: install the Debian package `pgbouncer`");
        let url = format!("postgres://postgres@127.0.0.1:{own_port}/{database}");
        eventually("PgBouncer answers", || PgConnection::establish(&url).ok());
        Self { child, url, _dir: dir }
    }

    /// The URL of the database, through the pooler.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
