//! TLS against a real server, with an authority made for the test.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, Stream};

use super::post::{FailureKind, Outcome, Poster};
use super::post_tests::target;
use super::tls::check_files;
use crate::config::{Config, LoadArgs};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
}

/// A certificate for `name`, and its key.
fn identity(authority: &Authority, name: &str) -> (rcgen::Certificate, KeyPair) {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new([name.to_owned()]).expect("parameters");
    (params.signed_by(&key, authority).expect("a certificate"), key)
}

/// Answers one request a connection with 204; asks for a certificate of `clients`, if there is one.
fn serve(authority: &Authority, name: &str, clients: Option<&Authority>) -> SocketAddr {
    serve_as(identity(authority, name), clients)
}

fn serve_as((certificate, key): (rcgen::Certificate, KeyPair), clients: Option<&Authority>) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().expect("versions");
    let builder = match clients {
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der().clone()).expect("a root");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("a verifier"))
        }
        None => builder.with_no_client_auth(),
    };
    let chain: Vec<CertificateDer<'static>> = vec![certificate.der().clone()];
    let config = builder.with_single_cert(chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into());
    let config = Arc::new(config.expect("a server"));
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            let config = Arc::clone(&config);
            std::thread::spawn(move || {
                let mut connection = ServerConnection::new(config).expect("a connection");
                let mut stream = Stream::new(&mut connection, &mut socket);
                let mut request = [0; 4096];
                if stream.read(&mut request).is_ok_and(|n| n > 0) {
                    let _ = stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n");
                    let _ = stream.read(&mut request);
                }
            });
        }
    });
    addr
}

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).expect("a file");
    path.display().to_string()
}

/// The status, or the kind of failure.
async fn status(url: &str, options: &[(&str, &str)]) -> Result<u16, (FailureKind, String)> {
    let poster = Poster::new(&target(url, options)).expect("a poster");
    match poster.post("/events", &[], Bytes::from_static(b"{}")).await.outcome {
        Outcome::Answered { status, .. } => Ok(status),
        Outcome::Failed { kind, message } => Err((kind, message)),
    }
}

fn kind(outcome: Result<u16, (FailureKind, String)>) -> FailureKind {
    outcome.expect_err("no answer").0
}

#[actix_rt::test]
async fn a_service_is_trusted_under_its_name_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let (ours, other) = (authority(), authority());
    let file = write(dir.path(), "ca.pem", &ours.pem());
    let trusted = [("tls_ca_file", file.as_str())];
    let port = serve(&ours, "localhost", None).port();
    assert_eq!(status(&format!("https://localhost:{port}"), &trusted).await, Ok(204));
    assert_eq!(kind(status(&format!("https://127.0.0.1:{port}"), &trusted).await), FailureKind::Tls);
    let elsewhere = serve(&ours, "elsewhere.example", None).port();
    assert_eq!(kind(status(&format!("https://localhost:{elsewhere}"), &trusted).await), FailureKind::Tls);
    let stranger = serve(&other, "localhost", None).port();
    assert_eq!(kind(status(&format!("https://localhost:{stranger}"), &trusted).await), FailureKind::Tls);
    let by_address = serve(&ours, "127.0.0.1", None);
    assert_eq!(status(&format!("https://{by_address}"), &trusted).await, Ok(204));
}

/// As `openssl req -x509` makes them, by default as an authority of its own.
#[actix_rt::test]
async fn a_certificate_that_is_its_own_authority_is_taken_or_refused_with_advice() {
    let dir = tempfile::tempdir().expect("a directory");
    for is_ca in [false, true] {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(["localhost".to_owned()]).expect("parameters");
        if is_ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        let certificate = params.self_signed(&key).expect("a certificate");
        let file = write(dir.path(), "self.pem", &certificate.pem());
        let url = format!("https://localhost:{}", serve_as((certificate, key), None).port());
        match status(&url, &[("tls_ca_file", &file)]).await {
            Ok(status) => assert_eq!((status, is_ca), (204, false)),
            Err((kind, message)) => {
                assert_eq!((kind, is_ca), (FailureKind::Tls, true), "{message}");
                assert!(message.contains("basicConstraints=CA:FALSE"), "{message}");
            }
        }
    }
}

#[actix_rt::test]
async fn a_handshake_has_its_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = write(dir.path(), "ca.pem", &authority().pem());
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("https://{}", listener.local_addr().expect("an address"));
    let failure = status(&url, &[("tls_ca_file", &file), ("connect_timeout", "100ms")]).await;
    assert_eq!(failure, Err((FailureKind::Timeout, "no TLS handshake in time".to_owned())));
}

#[actix_rt::test]
async fn a_service_may_ask_who_is_calling() {
    let dir = tempfile::tempdir().expect("a directory");
    let (ours, other) = (authority(), authority());
    let file = write(dir.path(), "ca.pem", &ours.pem());
    let url = format!("https://localhost:{}", serve(&ours, "localhost", Some(&ours)).port());
    let with = |name: &str, authority: &Authority| {
        let (certificate, key) = identity(authority, "event-handler");
        let chain = write(dir.path(), &format!("{name}.pem"), &certificate.pem());
        (chain, write(dir.path(), &format!("{name}.key"), &key.serialize_pem()))
    };
    for (name, authority, welcome) in [("ours", &ours, true), ("other", &other, false)] {
        let (chain, key) = with(name, authority);
        let options = [("tls_ca_file", &*file), ("tls_cert_file", &*chain), ("tls_key_file", &*key)];
        assert_eq!(status(&url, &options).await.is_ok(), welcome, "{name}");
    }
    assert!(status(&url, &[("tls_ca_file", &*file)]).await.is_err());
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let (certificate, _) = identity(&authority(), "a");
    let chain = write(dir.path(), "chain.pem", &certificate.pem());
    let (_, key) = identity(&authority(), "a");
    let key = write(dir.path(), "other.key", &key.serialize_pem());
    let empty = write(dir.path(), "empty.pem", "");
    let refusal = |options: &[(&str, &str)]| Poster::new(&target("https://x", options)).err().unwrap_or_default();
    assert!(refusal(&[("tls_ca_file", "/no/such.pem")]).starts_with("tls_ca_file: /no/such.pem: "));
    assert_eq!(refusal(&[("tls_ca_file", &empty)]), format!("tls_ca_file: {empty}: no certificate in it"));
    let mismatch = refusal(&[("tls_cert_file", &chain), ("tls_key_file", &key)]);
    assert!(mismatch.starts_with(&format!("tls_key_file: {key}: ")), "{mismatch}");
    let url = ("--set", "services.s.url".to_owned(), "https://x".to_owned());
    let file = ("--set", "delivery.tls_ca_file".to_owned(), empty.clone());
    let config = Config::load(LoadArgs { file: None, overrides: vec![url, file] }, []).expect("valid so far");
    let error = check_files(&config).expect_err("an empty file").to_string();
    assert_eq!(error, format!("--set: delivery.tls_ca_file: {empty}: no certificate in it"));
}
