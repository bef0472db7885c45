//! HAProxy with the config of `deploy/fleet` before three gateways with the settings of `deploy/fleet`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use crate::support::balancer::Balancer;
use crate::support::client::{Call, Client, End, Response};
use crate::support::gateway::{Gateway, Setup};
use crate::support::recorder::{Exchange, Recorder, Reserved};
use crate::support::streams;
use crate::support::token::Key;
use crate::support::{DEADLINE, assert_error, eventually, lock};

/// An address of this machine that is not HAProxy's.
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));
/// Clients that send one request after the other.
const CLIENTS: usize = 4;

fn deployed(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("deploy/fleet")
        .join(name);
    std::fs::read_to_string(file).expect("it is deployed")
}

/// A line of the gateways' config.
fn setting(name: &str) -> String {
    let config = deployed("keygate.toml");
    let line = config
        .lines()
        .find(|line| line.starts_with(&format!("{name} = ")));
    line.unwrap_or_else(|| panic!("no {name}")).to_owned()
}

/// The addresses that the configs of `deploy/fleet` have.
const HAPROXY: &str = "10.89.77.2";
const GATEWAYS: [&str; 3] = ["10.89.77.11:8080", "10.89.77.12:8080", "10.89.77.13:8080"];

struct Fleet {
    gateways: Vec<Gateway>,
    haproxy: Balancer,
    /// Holds the gateways' ports: a gateway that is started again has the one that HAProxy knows.
    _ports: Vec<Reserved>,
}

impl Fleet {
    fn before(up: &Recorder, keys: &[&Key]) -> Self {
        let ports: Vec<Reserved> = GATEWAYS.iter().map(|_| Reserved::new()).collect();
        let trusted = setting("trusted_proxies");
        assert_eq!(trusted, format!("trusted_proxies = [\"{HAPROXY}\"]"));
        let start = |port: &Reserved| {
            Setup::before(up)
                .reading_usage()
                .keys(keys)
                .listen(&port.address.to_string())
                .line(&setting("public_health"))
                .set("client_address", &setting("from"))
                .set("client_address", &trusted.replace(HAPROXY, "127.0.0.1"))
                .set("timeouts", &setting("drain_delay"))
                .start()
        };
        let gateways: Vec<Gateway> = ports.iter().map(start).collect();
        let addresses: Vec<SocketAddr> = gateways.iter().map(|gateway| gateway.address).collect();
        Self {
            haproxy: haproxy(&addresses),
            gateways,
            _ports: ports,
        }
    }

    fn client(&self) -> Client {
        Client::connect(self.haproxy.address)
    }

    fn in_flight(&self) -> Vec<f64> {
        let gateways = self.gateways.iter();
        gateways
            .map(|gateway| gateway.metric("keygate_in_flight"))
            .collect()
    }
}

/// HAProxy with the deployed config, on a port of this machine, before these gateways.
fn haproxy(gateways: &[SocketAddr]) -> Balancer {
    let mut config = deployed("haproxy.cfg");
    for (deployed, here) in GATEWAYS.iter().zip(gateways) {
        assert!(config.contains(deployed), "{deployed}");
        config = config.replace(deployed, &here.to_string());
    }
    // This machine's port, and no more descriptors than it may have.
    for (deployed, here) in [
        ("    bind :8080\n", "    bind 127.0.0.1:{port}\n"),
        ("    maxconn 20000\n", "    maxconn 200\n"),
    ] {
        assert!(config.contains(deployed), "{deployed}");
        config = config.replace(deployed, here);
    }
    Balancer::haproxy(&config)
}

/// A stream through HAProxy that has begun.
fn begun(fleet: &Fleet, key: &Key, streams: &Receiver<Exchange>) -> (Client, Response, Exchange) {
    let mut client = fleet.client();
    client.send(&streams::chat(key).bytes());
    let mut exchange = streams.recv_timeout(DEADLINE).expect("a stream");
    exchange.begin_stream();
    let mut response = client.head();
    assert_eq!(response.status, 200);
    piece(&mut client, &mut response, &mut exchange, "first");
    (client, response, exchange)
}

/// Sends a piece, and waits until it has reached the client: the next one is not sent before.
fn piece(client: &mut Client, response: &mut Response, exchange: &mut Exchange, text: &str) {
    let event = format!("data: {text}\n\n");
    exchange.chunk(&event);
    client.until(response, event.as_bytes());
}

/// Answers chats at once, and hands out streams.
fn upstream() -> (Recorder, Receiver<Exchange>) {
    let (sender, streams): (Sender<Exchange>, _) = channel();
    let sender = Mutex::new(sender);
    let up = Recorder::start(move |mut exchange| {
        let body = exchange.body().unwrap_or_default();
        if String::from_utf8_lossy(&body).contains("\"stream\":true") {
            let _ = lock(&sender).send(exchange);
        } else {
            exchange.complete();
        }
    });
    (up, streams)
}

#[test]
fn a_stream_passes_piece_by_piece_and_the_client_is_who_haproxy_says() {
    let (up, streams) = upstream();
    let all = Key::all("key_all");
    let near = Key::all("key_near").only_from(&["127.0.0.3"]);
    let fleet = Fleet::before(&up, &[&all, &near]);
    let (mut client, mut response, mut exchange) = begun(&fleet, &all, &streams);
    assert_eq!(response.header("content-type"), Some("text/event-stream"));
    for at in 0..50 {
        piece(&mut client, &mut response, &mut exchange, &at.to_string());
    }
    exchange.end_stream();
    client.finish(&mut response, DEADLINE);
    assert_eq!(response.end, End::Whole);

    let mut client = Client::connect_from(OTHER, fleet.haproxy.address);
    let shown = client.ask(&Call::get("/v1/key", &all.token)).json();
    assert_eq!(shown["client_address"], "127.0.0.3", "{shown}");
    assert_eq!(client.ask(&Call::chat(&near.token, "good")).status, 200);
    // What a client claims of itself counts for nothing.
    let claim = Call::chat(&near.token, "good").header("x-forwarded-for", "127.0.0.3");
    assert_error(&fleet.client().ask(&claim), 401, "ip_not_authorized");
}

#[test]
fn streams_are_spread_over_the_gateways() {
    let (up, streams) = upstream();
    let all = Key::all("key_all");
    let fleet = Fleet::before(&up, &[&all]);
    let mut running = Vec::new();
    for _ in 0..6 {
        running.push(begun(&fleet, &all, &streams));
    }
    assert_eq!(fleet.in_flight(), [2.0, 2.0, 2.0]);
}

#[test]
fn gateways_that_are_restarted_one_after_the_other_lose_no_request_and_break_no_stream() {
    let (up, streams) = upstream();
    let all = Key::all("key_all");
    let mut fleet = Fleet::before(&up, &[&all]);
    let haproxy = fleet.haproxy.address;
    let (done, answered) = (Arc::new(AtomicBool::new(false)), Arc::default());
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (done, answered): (_, Arc<AtomicUsize>) =
                (Arc::clone(&done), Arc::clone(&answered));
            let call = Call::chat(&all.token, "good");
            std::thread::spawn(move || {
                let mut client = Client::connect(haproxy);
                while !done.load(Ordering::Relaxed) {
                    let answer = client.ask(&call);
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    let healthy = |clients: &[std::thread::JoinHandle<()>]| {
        assert!(
            clients.iter().all(|client| !client.is_finished()),
            "a request failed"
        );
    };
    for at in 0..GATEWAYS.len() {
        // More than one for each gateway, so that the one that stops has one.
        let mut running: Vec<_> = (0..6).map(|_| begun(&fleet, &all, &streams)).collect();
        fleet.gateways[at].process.terminate();
        // It takes requests for drain_delay, and then no more.
        let address = fleet.gateways[at].address;
        eventually("it does not listen any more", DEADLINE, || {
            healthy(&clients);
            std::net::TcpStream::connect(address).err()
        });
        for (client, response, exchange) in &mut running {
            piece(client, response, exchange, "while it stops");
        }
        for (mut client, mut response, exchange) in running {
            exchange.end_stream();
            client.finish(&mut response, DEADLINE);
            assert_eq!(response.end, End::Whole);
        }
        let ended = fleet.gateways[at].process.exits_within(DEADLINE);
        assert!(ended.success(), "{ended}");
        fleet.gateways[at].start_again();
        eventually("HAProxy sends it requests again", DEADLINE, || {
            healthy(&clients);
            let served = fleet.gateways[at].metric("keygate_requests_total{outcome=\"allowed\"}");
            (served > 0.0).then_some(())
        });
    }
    done.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("no request failed");
    }
    assert!(answered.load(Ordering::Relaxed) > GATEWAYS.len());
}

#[test]
fn a_gateway_that_is_killed_costs_no_request_that_comes_after() {
    let (up, _streams) = upstream();
    let all = Key::all("key_all");
    let mut fleet = Fleet::before(&up, &[&all]);
    let mut client = fleet.client();
    let chat = Call::chat(&all.token, "good");
    assert_eq!(client.ask(&chat).status, 200);
    // HAProxy has not noticed yet when the next requests come.
    drop(fleet.gateways.pop());
    for _ in 0..30 {
        assert_eq!(client.ask(&chat).status, 200);
    }
    // Nobody is left: the answer is one that OpenAI's libraries read.
    fleet.gateways.clear();
    let refused = client.ask(&chat);
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert_eq!(refused.json()["error"]["code"], "unavailable");
    assert_eq!(refused.header("content-type"), Some("application/json"));
    assert_eq!(refused.header("retry-after"), Some("5"));
}
