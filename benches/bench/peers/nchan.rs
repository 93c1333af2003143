//! nginx with the nchan module: publish/subscribe from shared memory, nothing stored.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;
use std::{fs, io};

use crate::Bench;
use crate::system::{Dialect, System, free_addr, log_file};

pub const INSTALL: &str = "apt-get install nginx-light libnginx-mod-nchan";

const MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";

pub fn find() -> Option<PathBuf> {
    ["/usr/sbin/nginx", "/usr/bin/nginx"]
        .into_iter()
        .map(PathBuf::from)
        .find(|path| path.is_file() && Path::new(MODULE).is_file())
}

pub fn start(bench: &Bench, nginx: &Path) -> io::Result<System> {
    let scratch = bench.scratch("nchan")?;
    let addr = free_addr()?;
    let config = scratch.path().join("nginx.conf");
    fs::write(&config, configuration(scratch.path(), addr.port()))?;
    let began = Instant::now();
    let server = bench.cores.spawn_server(
        Command::new(nginx)
            .arg("-p")
            .arg(scratch.path())
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log_file(scratch.path())?)
            .stderr(log_file(scratch.path())?),
    )?;
    System::adopt(addr, Dialect::Nchan, began, server, Vec::new(), scratch)
}

fn configuration(directory: &Path, port: u16) -> String {
    let directory = directory.display();
    // Started as root, nginx would otherwise drop its worker to a user that cannot enter the directory.
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    format!(
        r#"
load_module {MODULE};
daemon off;
{user}
worker_processes 1;
worker_rlimit_nofile 65536;
pid {directory}/nginx.pid;
error_log {directory}/output.log error;
events {{ worker_connections 30000; }}
http {{
  access_log off;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  keepalive_requests 1000000000;
  keepalive_timeout 1h;
  client_max_body_size 2m;
  client_body_buffer_size 128k;
  tcp_nodelay on;
  nchan_shared_memory_size 512M;
  nchan_message_buffer_length 1000;
  nchan_message_timeout 1m;
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location = /health {{ return 200 "ok"; }}
    location ~ ^/pub/(.+)$ {{ nchan_publisher http; nchan_channel_id $1; }}
    location ~ ^/sub/(.+)$ {{
      nchan_subscriber websocket;
      nchan_channel_id $1;
      nchan_channel_id_split_delimiter ",";
      nchan_subscriber_first_message newest;
    }}
  }}
}}
"#
    )
}
