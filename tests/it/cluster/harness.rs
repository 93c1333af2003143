//! Node processes on one PostgreSQL, each through a link of its own, and what can happen to them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use diesel::{Connection as _, PgConnection, RunQueryDsl as _};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::history::Outcome;
use crate::support::postgres::Postgres;
use crate::support::server::Builder;
use crate::support::tcp_proxy::TcpProxy;
use crate::support::{Redis, Server, Service, eventually};

/// What opens `/admin` of all nodes.
const ADMIN_TOKEN: &str = "token-of-all-nodes";

/// A node with its links to PostgreSQL and, if there is one, to Redis.
pub struct Node {
    pub name: String,
    pub link: TcpProxy,
    pub redis_link: Option<TcpProxy>,
    pub server: Server,
    address: Arc<Mutex<SocketAddr>>,
}

/// Where a node listens now, for clients on threads of their own. It changes with each restart.
#[derive(Clone)]
pub struct Address {
    pub name: String,
    now: Arc<Mutex<SocketAddr>>,
}

impl Address {
    /// Of a node that is not one of a [`Cluster`].
    pub fn of(name: &str, addr: SocketAddr) -> Self {
        Self { name: name.to_owned(), now: Arc::new(Mutex::new(addr)) }
    }

    pub fn set(&self, addr: SocketAddr) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = addr;
    }

    pub fn get(&self) -> SocketAddr {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module.
pub struct Cluster {
    pub url: String,
    pub nodes: Vec<Node>,
}

impl Cluster {
    /// Three nodes on a database of their own.
    pub fn start(configure: impl Fn(&str, Builder) -> Builder) -> Self {
        Self::start_on(Postgres::shared(), 3, configure)
    }

    /// So many nodes on a database of their own.
    pub fn start_on(postgres: &Postgres, count: usize, configure: impl Fn(&str, Builder) -> Builder) -> Self {
        Self::start_with(postgres, None, count, configure)
    }

    /// The same, with a Redis.
    pub fn start_with(
        postgres: &Postgres,
        redis: Option<&Redis>,
        count: usize,
        configure: impl Fn(&str, Builder) -> Builder,
    ) -> Self {
        let url = postgres.url();
        let nodes = (1..=count).map(|number| Node::start(&format!("n{number}"), &url, redis, &configure)).collect();
        let cluster = Self { url, nodes };
        cluster.wait_for_members(count);
        cluster
    }

    /// Starts one more node.
    pub fn add(&mut self, name: &str, configure: &impl Fn(&str, Builder) -> Builder) {
        self.nodes.push(Node::start(name, &self.url, None, configure));
    }

    pub fn addresses(&self) -> Vec<Address> {
        self.nodes.iter().map(Node::address).collect()
    }

    pub fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name == name).expect("a node of this name")
    }

    pub fn node_mut(&mut self, name: &str) -> &mut Node {
        self.nodes.iter_mut().find(|node| node.name == name).expect("a node of this name")
    }

    /// All nodes but this one.
    pub fn others(&self, name: &str) -> Vec<&Node> {
        self.nodes.iter().filter(|node| node.name != name).collect()
    }

    /// Waits until each of the nodes that run sees so many members.
    pub fn wait_for_members(&self, count: usize) {
        for node in &self.nodes {
            eventually(&format!("{} sees {count} members", node.name), || {
                let nodes = node.try_nodes()?;
                let up = nodes.iter().filter(|node| node["state"] == "up").count();
                (up == count).then_some(())
            });
        }
    }

    /// Waits until a node holds `lease`; its name.
    pub fn wait_for_holder(&self, lease: &str) -> String {
        eventually(&format!("{lease} is held"), || self.nodes.iter().find_map(|node| node.holder_of(lease)))
    }

    /// What the store says of the deliveries to `service`. In an answer, the number of the post comes after the last "#".
    pub fn outcomes(&self, service: &str) -> Vec<Outcome> {
        #[derive(diesel::QueryableByName)]
        struct Row {
            #[diesel(sql_type = diesel::sql_types::BigInt)]
            event_id: i64,
            #[diesel(sql_type = diesel::sql_types::SmallInt)]
            state: i16,
            #[diesel(sql_type = diesel::sql_types::Integer)]
            attempts: i32,
            #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::Integer>)]
            attempt: Option<i32>,
            #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::SmallInt>)]
            http_status: Option<i16>,
            #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::Text>)]
            answer: Option<String>,
        }
        const DELIVERED: i16 = 2;
        let mut connection = PgConnection::establish(&self.url).expect("a connection to PostgreSQL");
        let rows: Vec<Row> = diesel::sql_query(
            "SELECT d.event_id, d.state, d.attempts, a.attempt, a.http_status, a.answer \
             FROM event_handler.deliveries d JOIN event_handler.services s ON s.id = d.service \
             LEFT JOIN event_handler.delivery_attempts a ON a.event_id = d.event_id AND a.service = d.service \
             WHERE s.name = $1 ORDER BY d.event_id, a.attempt",
        )
        .bind::<diesel::sql_types::Text, _>(service)
        .load(&mut connection)
        .expect("rows");
        let mut outcomes: Vec<Outcome> = Vec::new();
        for row in rows {
            if outcomes.last().is_none_or(|last| last.id != row.event_id) {
                let attempts = usize::try_from(row.attempts).expect("a count");
                let is_delivered = row.state == DELIVERED;
                outcomes.push(Outcome { id: row.event_id, is_delivered, attempts, failed: Vec::new() });
            }
            if let (Some(outcome), Some(attempt)) = (outcomes.last_mut(), row.attempt) {
                let status = row.http_status.and_then(|status| u16::try_from(status).ok());
                let post = row.answer.and_then(|answer| answer.rsplit_once('#')?.1.parse().ok());
                outcome.failed.push((usize::try_from(attempt).expect("a number"), status, post));
            }
        }
        outcomes
    }
}

/// A node on the database at `url`.
pub fn node_on(name: &str, url: &str) -> Builder {
    let builder = Server::builder().env("DATABASE_URL", url).operated(ADMIN_TOKEN);
    builder.env("EVENT_HANDLER__NODE__NAME", name).env("EVENT_HANDLER__SERVER__WORKERS", 1)
}

impl Node {
    fn start(name: &str, url: &str, redis: Option<&Redis>, configure: &impl Fn(&str, Builder) -> Builder) -> Self {
        let (head, database) = url.rsplit_once('/').expect("a database");
        let upstream = head.rsplit_once('@').expect("a user").1.parse().expect("an address");
        let link = TcpProxy::to(upstream);
        let url = format!("postgres://postgres@{}/{database}", link.addr());
        let builder = node_on(name, &url);
        let redis_link = redis.map(|redis| TcpProxy::to(([127, 0, 0, 1], redis.port()).into()));
        let builder = match &redis_link {
            Some(link) => builder.env("REDIS_URL", format!("redis://{}", link.addr())),
            None => builder,
        };
        let server = configure(name, builder).start();
        let address = Arc::new(Mutex::new(server.addr()));
        Self { name: name.to_owned(), link, redis_link, server, address }
    }

    pub fn address(&self) -> Address {
        Address { name: self.name.clone(), now: Arc::clone(&self.address) }
    }

    /// Starts it again under its name, at another address.
    pub fn restart(&mut self) {
        self.server.restart();
        self.address().set(self.server.addr());
    }

    /// Stops the process in its tracks, and has it go on.
    pub fn freeze(&self) {
        self.server.signal(Signal::STOP);
        self.wait_until_frozen();
    }

    pub fn thaw(&self) {
        self.server.signal(Signal::CONT);
    }

    /// Waits until the process has stopped in its tracks.
    pub fn wait_until_frozen(&self) {
        eventually("the process has stopped", || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.server.pid())).ok()?;
            stat.rsplit_once(") ")?.1.starts_with('T').then_some(())
        });
    }

    /// `data` of an answer of `/admin`; none if it is no success.
    pub fn try_admin(&self, path: &str) -> Option<Value> {
        let response = self.server.request("GET", path).try_send().ok()?;
        (response.status == 200).then(|| response.data())
    }

    /// What it says of the nodes of the cluster.
    pub fn try_nodes(&self) -> Option<Vec<Value>> {
        self.try_admin("/admin/nodes")?.as_array().cloned()
    }

    /// Which node it says to hold `lease`.
    pub fn holder_of(&self, lease: &str) -> Option<String> {
        let nodes = self.try_nodes()?;
        let holds = |node: &&Value| {
            let held = node["holds"].as_array().is_some_and(|held| held.contains(&json!(lease)));
            held && node["state"] != "lost"
        };
        Some(nodes.iter().find(holds)?["name"].as_str()?.to_owned())
    }

    /// What it says of a service.
    pub fn service(&self, name: &str) -> Value {
        self.server.get(&format!("/admin/services/{name}")).data()
    }

    /// Has it do something with a service.
    pub fn operate(&self, service: &str, command: &str) {
        let answer = self.server.post(&format!("/admin/services/{service}/{command}"), "");
        assert!([200, 202].contains(&answer.status), "{answer:?}");
    }

    /// Makes it fail at a point once.
    #[cfg(feature = "fault-injection")]
    pub fn arm(&self, point: &str) {
        self.server.post(&format!("/admin/fault/{point}?times=1"), "").data();
    }

    /// An event of a service, published once it is taken.
    pub fn publish(&self, event_name: &str, key: Option<&str>) -> i64 {
        let body = json!({"event_name": event_name, "key": key});
        eventually("a publish is answered", || {
            let response = self.server.request("POST", "/publish").json(&body).try_send().ok()?;
            (response.status == 200).then(|| response.event_id())
        })
    }
}

/// Makes `service` the service `name` of a node, which it is told by the path of each request.
pub fn serve(node: &str, builder: Builder, service: &Service, name: &str, options: &[(&str, &str)]) -> Builder {
    let path = format!("/{node}");
    service.configure(builder, name, &[&[("path", &*path)], options].concat())
}
