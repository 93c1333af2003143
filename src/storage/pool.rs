//! Connections that read, and the blocking threads on which they do so.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::connection::Connection;
use super::error::{StoreError, StoreErrorKind};
use super::options::{Access, StoreOptions};

/// How many reads may wait for each connection.
const WAITING_PER_READER: usize = 64;
/// How long the shutdown waits for reads under way.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(200);

/// A pool of connections to one store; clones share it. As many reads run at a time as there are connections. A bounded
/// number of others waits; when that is full, a read fails with [`StoreErrorKind::Busy`].
#[derive(Clone)]
pub(super) struct Pool(Arc<Shared>);

struct Shared {
    options: StoreOptions,
    access: Access,
    /// The longest wait for a connection.
    admission: Duration,
    /// The longest time that one read may take.
    patience: Duration,
    slots: r2d2::Pool<Slots>,
    /// One permit for each read that runs.
    running: Arc<Semaphore>,
    /// One permit for each read that runs or waits.
    admitted: Arc<Semaphore>,
    /// Raised when a connection fails. Connections of earlier generations are closed, because they probably lead to the
    /// same dead server.
    generation: AtomicU64,
}

/// Leave to run one read.
pub(super) type Permits = [OwnedSemaphorePermit; 2];

/// A read that failed, with what may repeat it; none if its thread was not done in time.
pub(super) struct Failed<R> {
    pub error: StoreError,
    pub again: Option<R>,
}

impl Pool {
    /// Makes the pool; each connection is opened when it is first needed.
    pub fn new(
        options: StoreOptions,
        access: Access,
        (admission, patience): (Duration, Duration),
    ) -> Result<Self, StoreError> {
        let readers = options.readers.max(1);
        let slots = r2d2::Pool::builder()
            .max_size(readers)
            .min_idle(Some(0))
            .test_on_check_out(false)
            .max_lifetime(None)
            .build(Slots)
            .map_err(|error| StoreError::new(StoreErrorKind::Internal, error.to_string()))?;
        Ok(Self(Arc::new(Shared {
            slots,
            running: Arc::new(Semaphore::new(readers as usize)),
            admitted: Arc::new(Semaphore::new(readers as usize * (1 + WAITING_PER_READER))),
            generation: AtomicU64::new(0),
            options,
            access,
            admission,
            patience,
        })))
    }

    /// Runs `work` on a connection and returns `state` with its result. `work` is repeated on a new connection if the
    /// first one was dead, so a failed attempt must leave `state` unchanged.
    pub async fn run<S: Send + 'static, T: Send + 'static, W>(
        &self,
        mut state: S,
        work: W,
    ) -> Result<(T, S), Failed<(S, W)>>
    where
        W: Fn(&mut Connection, &mut S) -> Result<T, StoreError> + Send + 'static,
    {
        let without_more = |error| Failed { error, again: None };
        let permits = self.admit().await.map_err(without_more)?;
        let pool = self.clone();
        let task = actix_rt::task::spawn_blocking(move || {
            // The permits are kept to the end of the read, even if nobody awaits its result.
            let _permits = permits;
            match pool.attempt(|connection| work(connection, &mut state)) {
                Ok(done) => Ok((done, state)),
                Err(error) => Err(Failed { error, again: Some((state, work)) }),
            }
        });
        match timeout(self.0.patience, task).await {
            Ok(Ok(done)) => done,
            Ok(Err(error)) => Err(without_more(StoreError::new(StoreErrorKind::Internal, error.to_string()))),
            Err(_) => {
                let error = StoreError::new(StoreErrorKind::Unavailable, "a read of the store has timed out");
                Err(without_more(error))
            }
        }
    }

    /// Waits until a read may run.
    pub async fn admit(&self) -> Result<Permits, StoreError> {
        let busy = |message| StoreError::new(StoreErrorKind::Busy, message);
        let admitted = Arc::clone(&self.0.admitted).try_acquire_owned();
        let admitted = admitted.map_err(|_| busy("too many reads are waiting for the store"))?;
        let running = Arc::clone(&self.0.running).acquire_owned();
        match timeout(self.0.admission, running).await {
            Ok(Ok(running)) => Ok([admitted, running]),
            _ => Err(busy("other reads have kept all connections busy for too long")),
        }
    }

    /// Runs `work`, and once more on a new connection if the pooled one turns out to be dead. Blocks; the caller has
    /// [`Permits`].
    pub fn attempt<T>(&self, mut work: impl FnMut(&mut Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let Shared { slots, generation, options, access, .. } = &*self.0;
        let slots = slots.get();
        let mut slot = slots.map_err(|error| StoreError::new(StoreErrorKind::Internal, error.to_string()))?;
        // A writer that has connected anew may have found another primary: an earlier one shows what is not true any
        // more, and need not say so.
        let present = || (generation.load(Ordering::Relaxed), options.reached.connections());
        let now = present();
        if let Some((mut connection, made)) = slot.take()
            && made == now
            && connection.verify().is_ok()
        {
            match work(&mut connection) {
                Err(error) if error.kind == StoreErrorKind::Unavailable => {
                    generation.fetch_max(now.0 + 1, Ordering::Relaxed);
                }
                Err(error) => return Err(error),
                Ok(done) => {
                    *slot = Some((connection, made));
                    return Ok(done);
                }
            }
        }
        let now = present();
        let mut connection = Connection::open(options, *access)?;
        let done = work(&mut connection)?;
        *slot = Some((connection, now));
        Ok(done)
    }

    /// Waits shortly for reads under way and closes the connections. A later read would open another one.
    pub async fn close(&self) {
        let Shared { slots, running, .. } = &*self.0;
        let readers = slots.max_size();
        if let Ok(Ok(_all)) = timeout(CLOSE_TIMEOUT, running.acquire_many(readers)).await {
            let slots: Vec<_> = (0..readers).filter_map(|_| slots.get().ok()).collect();
            slots.into_iter().for_each(|mut slot| drop(slot.take()));
        }
    }
}

/// A place for a connection, with its generation and that of the writer's connection.
///
/// The pool manages places and not connections: r2d2 would retry a failing connect until its own timeout, and hide the
/// error.
struct Slots;

impl r2d2::ManageConnection for Slots {
    type Connection = Option<(Connection, (u64, u64))>;
    type Error = std::convert::Infallible;

    fn connect(&self) -> Result<Self::Connection, Self::Error> {
        Ok(None)
    }

    fn is_valid(&self, _: &mut Self::Connection) -> Result<(), Self::Error> {
        Ok(())
    }

    fn has_broken(&self, _: &mut Self::Connection) -> bool {
        false
    }
}
