//! What systemd is told over `NOTIFY_SOCKET`: that the process listens, that its supervisor answers, that it drains.
//!
//! See `sd_notify(3)`. Without the variable nothing is told.

use std::env;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::process;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::Addr;

use crate::actors::supervisor::Supervisor;
use crate::actors::supervisor::messages::Ping;

/// The service manager that started the process, if it wants to be told.
pub struct ServiceManager {
    socket: Option<Arc<UnixDatagram>>,
    /// The time within which it wants to hear that all is well, again and again.
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// The one that the environment names. A socket that cannot be reached is logged, and then none.
    pub fn of_environment() -> Self {
        let socket = env::var("NOTIFY_SOCKET").ok().and_then(|name| {
            let socket = connect(&name).inspect_err(|error| log::warn!(error:%; "the service manager cannot be told"));
            socket.ok().map(Arc::new)
        });
        Self { socket, watchdog: watchdog(|name| env::var(name).ok(), process::id()) }
    }

    pub fn ready(&self, address: SocketAddr) {
        self.tell(&format!("READY=1\nSTATUS=Listening on {address}"));
    }

    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=Draining");
    }

    /// From now on it is told that all is well, each time that the supervisor has answered.
    pub fn watch(&self, supervisor: Addr<Supervisor>) {
        let (Some(socket), Some(watchdog)) = (self.socket.clone(), self.watchdog) else { return };
        let interval = watchdog / 2;
        actix_rt::spawn(async move {
            let mut pings = tokio::time::interval(interval);
            pings.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let mut is_told = false;
            loop {
                pings.tick().await;
                match tokio::time::timeout(interval, supervisor.send(Ping)).await {
                    Ok(Ok(())) => {
                        is_told = false;
                        send(&socket, "WATCHDOG=1");
                    }
                    _ if !std::mem::replace(&mut is_told, true) => log::error!("the supervisor does not answer"),
                    _ => {}
                }
            }
        });
    }

    fn tell(&self, state: &str) {
        if let Some(socket) = &self.socket {
            send(socket, state);
        }
    }
}

fn send(socket: &UnixDatagram, state: &str) {
    if let Err(error) = socket.send(state.as_bytes()) {
        log::warn!(error:%; "the service manager was not told");
    }
}

/// `@` begins a name in the abstract namespace, which Linux alone has.
fn connect(name: &str) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read is not waited for.
    socket.set_nonblocking(true)?;
    match name.strip_prefix('@') {
        #[cfg(target_os = "linux")]
        Some(name) => {
            use std::os::linux::net::SocketAddrExt as _;
            socket.connect_addr(&std::os::unix::net::SocketAddr::from_abstract_name(name)?)?;
        }
        _ => socket.connect(name)?,
    }
    Ok(socket)
}

/// What `WATCHDOG_USEC` says (microseconds), unless `WATCHDOG_PID` says that it is for another process.
fn watchdog(variable: impl Fn(&str) -> Option<String>, pid: u32) -> Option<Duration> {
    if variable("WATCHDOG_PID").is_some_and(|meant| meant.parse() != Ok(pid)) {
        return None;
    }
    let period = Duration::from_micros(variable("WATCHDOG_USEC")?.parse().ok()?);
    (period >= Duration::from_millis(2)).then_some(period)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::watchdog;

    #[test]
    fn the_watchdog_is_for_the_process_that_is_meant() {
        let read = |usec: &str, pid: Option<&str>| {
            let variable = |name: &str| match name {
                "WATCHDOG_USEC" => Some(usec.to_owned()),
                _ => pid.map(str::to_owned),
            };
            watchdog(variable, 7)
        };
        assert_eq!(read("30000000", Some("7")), Some(Duration::from_secs(30)));
        assert_eq!(read("30000000", None), Some(Duration::from_secs(30)));
        assert_eq!(read("30000000", Some("8")), None);
        assert_eq!(read("0", None), None);
        assert_eq!(read("soon", None), None);
    }
}
