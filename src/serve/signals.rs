//! What the process is told by signals.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Receives a signal from now on; none if the system does not let it.
fn receive(kind: SignalKind) -> Option<Signal> {
    signal(kind).inspect_err(|error| log::warn!(error:%; "a signal cannot be received")).ok()
}

async fn received(signal: &mut Option<Signal>) {
    let told = match signal {
        Some(signal) => signal.recv().await,
        None => None,
    };
    if told.is_none() {
        std::future::pending::<()>().await;
    }
}

/// The signals that end the process; received from the moment this is made. With them those begin to be ignored that
/// mean nothing here: by default they would end it.
pub struct StopSignals {
    terminate: Option<Signal>,
    interrupt: Option<Signal>,
    quit: Option<Signal>,
}

impl StopSignals {
    pub fn listen() -> Self {
        // What was received once is received for ever, and nobody listens.
        for kind in [SignalKind::user_defined1(), SignalKind::user_defined2()] {
            drop(receive(kind));
        }
        Self {
            terminate: receive(SignalKind::terminate()),
            interrupt: receive(SignalKind::interrupt()),
            quit: receive(SignalKind::quit()),
        }
    }

    /// The first of them; from then on another one ends the process at once.
    pub async fn stop(&mut self) {
        let signal = self.next().await; // outside of the log macro, which skips its arguments below its level
        log::info!(signal; "shutting down");
        let mut again =
            Self { terminate: self.terminate.take(), interrupt: self.interrupt.take(), quit: self.quit.take() };
        actix_rt::spawn(async move {
            let signal = again.next().await;
            log::warn!(signal; "shutting down at once");
            std::process::exit(1);
        });
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            () = received(&mut self.terminate) => "SIGTERM",
            () = received(&mut self.interrupt) => "SIGINT",
            () = received(&mut self.quit) => "SIGQUIT",
        }
    }
}

/// SIGHUP: what can be read again is to be.
pub struct Hangups(Option<Signal>);

impl Hangups {
    pub fn listen() -> Self {
        Self(receive(SignalKind::hangup()))
    }

    /// The next one.
    pub async fn next(&mut self) {
        received(&mut self.0).await;
    }
}
