//! Notifications of PostgreSQL, by which a node learns at once what another one has committed.
//!
//! A notification is a hint, and says how far the log reaches. Whatever is missed is found by the next look at the
//! store. diesel has no way to wait for notifications, so this uses libpq itself, on a connection of its own.

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::error::{StoreError, StoreErrorKind};
use super::options::{Access, Reached, StoreOptions};
use super::session;
use super::url::StoreUrl;
use crate::domain::event::EventId;

/// A connection that listens. It stays on the thread that made it.
pub struct Listener {
    connection: NonNull<pq_sys::PGconn>,
    reached: Reached,
    /// How often the writer had connected.
    made: u64,
}

impl Listener {
    /// Connects and begins to listen; blocks. `None` where no other process can have the store.
    ///
    /// Fails with [`StoreErrorKind::Unavailable`] if the server cannot be reached, or the writer has not opened the store
    /// yet.
    pub fn open(options: &StoreOptions) -> Result<Option<Self>, StoreError> {
        let StoreUrl::Postgres(url) = &options.url else { return Ok(None) };
        let channel = session::channel(&options.schema.found()?);
        let (reached, made) = (options.reached.clone(), options.reached.connections());
        // Where the writer is.
        let mut conninfos = options.conninfos(url, Access::Write);
        let place = reached.host() % conninfos.len();
        let conninfo = text(&conninfos.swap_remove(place))?;
        // SAFETY: `conninfo` ends with a zero byte, and libpq copies what it needs of it.
        let connection = unsafe { pq_sys::PQconnectdb(conninfo.as_ptr()) };
        let out_of_memory = || StoreError::new(StoreErrorKind::Unavailable, "no memory for a connection");
        let connection = NonNull::new(connection).ok_or_else(out_of_memory)?;
        let listener = Self { connection, reached, made };
        // SAFETY: the pointer is that of a connection, which ends when `listener` is dropped.
        if unsafe { pq_sys::PQstatus(listener.connection.as_ptr()) } != pq_sys::ConnStatusType::CONNECTION_OK {
            return Err(listener.failure());
        }
        listener.execute(&session::forget_the_silent())?;
        listener.execute(&format!("LISTEN {}", session::quoted(&channel)))?;
        Ok(Some(listener))
    }

    /// Waits for a notification, for as long as `patience`; how far the log reaches, if one has come. What the node of
    /// the generation `own` has committed is passed over.
    ///
    /// Fails also when the writer has connected anew since: this connection may lead to an earlier primary, which notifies
    /// nobody.
    pub fn wait(&self, patience: Duration, own: impl Fn() -> i64) -> Result<Option<EventId>, StoreError> {
        if self.reached.connections() != self.made {
            return Err(StoreError::new(StoreErrorKind::Unavailable, "the writer has connected anew"));
        }
        let newest = self.newest(&own)?;
        if newest.is_some() {
            return Ok(newest);
        }
        // SAFETY: the connection is open, and so is its socket until `self` is dropped; libpq gives -1 if it has none.
        let socket = unsafe { pq_sys::PQsocket(self.connection.as_ptr()) };
        if socket < 0 {
            return Err(self.failure());
        }
        // SAFETY: the socket is open, as said above, and is only waited for.
        let socket = unsafe { BorrowedFd::borrow_raw(socket) };
        let timeout = Timespec::try_from(patience).ok();
        match poll(&mut [PollFd::new(&socket, PollFlags::IN)], timeout.as_ref()) {
            Ok(0) | Err(rustix::io::Errno::INTR) => Ok(None),
            Ok(_) => self.newest(&own),
            Err(error) => Err(StoreError::new(StoreErrorKind::Unavailable, error.to_string())),
        }
    }

    /// What the notifications of others say that have come: the greatest.
    fn newest(&self, own: &impl Fn() -> i64) -> Result<Option<EventId>, StoreError> {
        // SAFETY: the connection is open.
        if unsafe { pq_sys::PQconsumeInput(self.connection.as_ptr()) } == 0 {
            return Err(self.failure());
        }
        let mut newest = None;
        // SAFETY: the connection is open; what is returned is null, or a notification that is freed below.
        while let Some(notification) = NonNull::new(unsafe { pq_sys::PQnotifies(self.connection.as_ptr()) }) {
            // SAFETY: the notification is not freed yet, and its `extra` is a text that ends with a zero byte.
            let said = unsafe { CStr::from_ptr(notification.as_ref().extra) };
            let said = said.to_str().ok().and_then(|said| said.split_once(' '));
            let said = said.and_then(|(last, by)| Some((last.parse().ok()?, by.parse::<i64>().ok()?)));
            newest = newest.max(said.filter(|(_, by)| *by != own()).map(|(last, _)| last));
            // SAFETY: the notification was given by libpq to be freed once, and is not used any more.
            unsafe { pq_sys::PQfreemem(notification.as_ptr().cast()) };
        }
        Ok(newest)
    }

    fn execute(&self, sql: &str) -> Result<(), StoreError> {
        let sql = text(sql)?;
        // SAFETY: the connection is open, and `sql` ends with a zero byte. Both calls allow for a result that is null.
        let status = unsafe {
            let result = pq_sys::PQexec(self.connection.as_ptr(), sql.as_ptr());
            let status = pq_sys::PQresultStatus(result);
            pq_sys::PQclear(result);
            status
        };
        if status == pq_sys::ExecStatusType::PGRES_COMMAND_OK { Ok(()) } else { Err(self.failure()) }
    }

    fn failure(&self) -> StoreError {
        // SAFETY: the connection is there, and its message is a text that ends with a zero byte until the next call.
        let message = unsafe { CStr::from_ptr(pq_sys::PQerrorMessage(self.connection.as_ptr())) };
        StoreError::new(StoreErrorKind::Unavailable, message.to_string_lossy().trim())
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // SAFETY: the connection is there, and is not used any more.
        unsafe { pq_sys::PQfinish(self.connection.as_ptr()) };
    }
}

fn text(text: &str) -> Result<CString, StoreError> {
    CString::new(text).map_err(|error| StoreError::new(StoreErrorKind::Unusable, error.to_string()))
}
