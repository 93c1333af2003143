//! `event-handler health`: what containers call.

use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::config::Config;

/// Ask a running service whether it is well.
#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Ask whether it is ready for its job, not only whether it can serve.
    #[arg(long)]
    ready: bool,
    /// Longest time to wait for an answer, in seconds.
    #[arg(long, default_value_t = 3, value_name = "SECONDS")]
    timeout: u64,
}

/// Asks the service at the configured host and port.
pub fn run(args: &HealthArgs, config: &Config) -> ExitCode {
    let host = match config.server.host.as_str() {
        "0.0.0.0" => "127.0.0.1",
        "::" | "[::]" => "::1",
        host => host,
    };
    let path = if args.ready { "/health/ready" } else { "/health" };
    match ask(host, config.server.port, path, Duration::from_secs(args.timeout)) {
        Ok((200, body)) => {
            println!("{body}");
            ExitCode::SUCCESS
        }
        Ok((status, body)) => {
            eprintln!("{host}:{}{path} answered {status}: {body}", config.server.port);
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{host}:{}{path} did not answer: {error}", config.server.port);
            ExitCode::FAILURE
        }
    }
}

fn ask(host: &str, port: u16, path: &str, timeout: Duration) -> std::io::Result<(u16, String)> {
    let invalid = || std::io::Error::new(std::io::ErrorKind::InvalidData, "not an HTTP answer");
    let address = (host, port).to_socket_addrs()?.next().ok_or_else(invalid)?;
    let mut stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(64 * 1024).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(invalid)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(invalid)?;
    Ok((status, body.trim().to_owned()))
}
