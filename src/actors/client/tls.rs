//! TLS to services: which authorities are trusted, and which certificate this side shows.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::config::{Config, ConfigError, DeliveryConfig};

/// A key of `[delivery]`, and what is wrong with its file.
type TlsError = (&'static str, String);

/// Reads the files of all services that are reached by TLS, so that a mistake is found when the process starts.
pub fn check_files(config: &Config) -> Result<(), ConfigError> {
    let secure = config.services.iter().filter(|service| service.url.expose().scheme() == "https");
    secure.into_iter().try_for_each(|service| {
        let checked = client_config(&service.options).map(drop);
        checked.map_err(|(key, reason)| config.service_error_at(&service.name, key, reason))
    })
}

/// HTTP/1.1 over TLS 1.2 or 1.3. The authorities of the system are trusted, and those in `tls_ca_file`. A service that
/// asks for a certificate gets the one in `tls_cert_file`.
pub(super) fn client_config(options: &DeliveryConfig) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("invariant: ring offers what these versions need")
        .with_root_certificates(roots(file(&options.tls_ca_file))?);
    let mut config = match file(&options.tls_cert_file).zip(file(&options.tls_key_file)) {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let certificates = certificates(chain).map_err(|reason| ("tls_cert_file", reason))?;
            let found = PrivateKeyDer::from_pem_file(key).map_err(|error| ("tls_key_file", unreadable(key, error)))?;
            let identity = builder.with_client_auth_cert(certificates, found);
            identity.map_err(|error| ("tls_key_file", unreadable(key, error)))?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The path in an option; `None` if the option is not set.
fn file(path: &str) -> Option<&Path> {
    (!path.is_empty()).then(|| Path::new(path))
}

fn roots(more: Option<&Path>) -> Result<RootCertStore, TlsError> {
    const KEY: &str = "tls_ca_file";
    let mut roots = RootCertStore::empty();
    // Certificates of the system that cannot be read or used are left out, as other clients do.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(file) = more {
        for certificate in certificates(file).map_err(|reason| (KEY, reason))? {
            roots.add(certificate).map_err(|error| (KEY, unreadable(file, error)))?;
        }
    }
    if roots.is_empty() {
        return Err((KEY, "is required, as the system has no authorities to trust".to_owned()));
    }
    Ok(roots)
}

/// The certificates in a file, of which there must be one at least.
fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = || CertificateDer::pem_file_iter(file)?.collect::<Result<Vec<_>, _>>();
    let found = read().map_err(|error| unreadable(file, error))?;
    if found.is_empty() { Err(unreadable(file, "no certificate in it")) } else { Ok(found) }
}

fn unreadable(file: &Path, reason: impl std::fmt::Display) -> String {
    format!("{}: {reason}", file.display())
}
