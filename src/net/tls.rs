//! TLS 1.2 and 1.3 for clients and upstreams. Certificates can be replaced while connections are open, and certificates
//! of upstreams are always verified.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, Error, InconsistentKeys, RootCertStore, ServerConfig, SupportedProtocolVersion,
};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use crate::store::config::{Tls, TlsFiles, names};

/// The supported versions, for clients and upstreams.
const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

/// The current certificates, for new connections. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Certificates {
    current: Arc<ArcSwap<TlsState>>,
}

#[derive(Debug)]
struct TlsState {
    first: Identity,
    more: Vec<Identity>,
    /// Verifies client certificates, if clients need one.
    clients: Option<Arc<dyn ClientCertVerifier>>,
    data: Arc<ServerConfig>,
    admin: Arc<ServerConfig>,
}

#[derive(Clone, Debug)]
struct Identity {
    files: TlsFiles,
    key: Arc<CertifiedKey>,
}

/// An error in a field of the config, with the path of the field.
pub(crate) type TlsFieldError = (String, TlsError);

/// Why a certificate or CA cannot be used.
#[derive(Debug)]
pub(crate) enum TlsError {
    /// A PEM file cannot be read.
    Unreadable(PathBuf, rustls::pki_types::pem::Error),
    /// The key does not match the certificate, or one of them is invalid.
    Unusable(PathBuf, rustls::Error),
    /// The file has no certificate.
    Empty(PathBuf),
    /// The system has no root certificates.
    NoRoots,
}

impl std::fmt::Display for TlsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreadable(file, cause) => {
                write!(f, "{}: cannot be read as PEM: {cause}", file.display())
            }
            Self::Unusable(file, cause) => write!(f, "{}: cannot be used: {cause}", file.display()),
            Self::Empty(file) => write!(
                f,
                "{}: holds no certificate; give a PEM file with one",
                file.display()
            ),
            Self::NoRoots => {
                f.write_str("the system has no root certificates; install them, or set ca_file")
            }
        }
    }
}

impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable(_, cause) => Some(cause),
            Self::Unusable(_, cause) => Some(cause),
            Self::Empty(_) | Self::NoRoots => None,
        }
    }
}

impl TlsError {
    /// The file with the error.
    #[must_use]
    pub(crate) fn file(&self) -> Option<&Path> {
        match self {
            Self::Unreadable(file, _) | Self::Unusable(file, _) | Self::Empty(file) => Some(file),
            Self::NoRoots => None,
        }
    }
}

impl Certificates {
    /// Reads every certificate chain with its key, and the CA of client certificates.
    ///
    /// # Errors
    /// The first error found.
    pub(crate) fn load(tls: &Tls) -> Result<Self, TlsError> {
        let (state, errors) = TlsState::read(tls, None)?;
        match errors.into_iter().next() {
            Some((_, error)) => Err(error),
            None => Ok(Self {
                current: Arc::new(ArcSwap::from_pointee(state)),
            }),
        }
    }

    /// Reads all files again, or other files, for new connections. An invalid certificate does not affect the others:
    /// the previous one stays in use, or none if it is new, and its error is returned.
    #[must_use]
    pub(crate) fn reload(&self, tls: &Tls) -> Vec<TlsFieldError> {
        match TlsState::read(tls, Some(&self.current.load())) {
            Ok((state, errors)) => {
                self.current.store(Arc::new(state));
                errors
            }
            Err(error) => vec![("tls".to_owned(), error)],
        }
    }

    /// For a client connection.
    #[must_use]
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        Arc::clone(&self.current.load().data).into()
    }

    /// For a connection to the admin API, which supports only HTTP/1.1 and checks a token instead of a client
    /// certificate.
    #[must_use]
    pub(crate) fn admin_acceptor(&self) -> TlsAcceptor {
        Arc::clone(&self.current.load().admin).into()
    }
}

/// The errors in these files.
#[must_use]
pub(crate) fn check(tls: &Tls) -> Vec<TlsFieldError> {
    match TlsState::read(tls, None) {
        Ok((_, errors)) => errors,
        Err(error) => vec![("tls".to_owned(), error)],
    }
}

impl TlsState {
    /// If a certificate is invalid, the one from `before` is used and the error is returned. Fails if there is no first
    /// certificate at all.
    fn read(tls: &Tls, before: Option<&Self>) -> Result<(Self, Vec<TlsFieldError>), TlsError> {
        let mut errors = Vec::new();
        let first = match (Identity::read(&tls.first), before) {
            (Ok(first), _) => first,
            (Err(error), None) => return Err(error),
            (Err(error), Some(before)) => {
                errors.push(("tls".to_owned(), error));
                before.of(&tls.first).unwrap_or(&before.first).clone()
            }
        };
        let mut more = Vec::new();
        for (index, files) in tls.more.iter().enumerate() {
            match Identity::read(files) {
                Ok(identity) => more.push(identity),
                Err(error) => {
                    more.extend(before.and_then(|before| before.of(files)).cloned());
                    errors.push((format!("tls.more[{index}]"), error));
                }
            }
        }
        let clients = match tls.client_ca.as_deref().map(client_verifier) {
            None => None,
            Some(Ok(clients)) => Some(clients),
            Some(Err(error)) => {
                errors.push(("tls.client_ca".to_owned(), error));
                before.and_then(|before| before.clients.clone())
            }
        };
        Ok((Self::of_parts(first, more, clients)?, errors))
    }

    fn of(&self, files: &TlsFiles) -> Option<&Identity> {
        std::iter::once(&self.first)
            .chain(&self.more)
            .find(|known| known.files == *files)
    }

    /// Each port has its own configuration. With a shared one, a session from the admin port, where clients need no
    /// certificate, could be resumed on the data port, where they may need one.
    fn of_parts(
        first: Identity,
        more: Vec<Identity>,
        clients: Option<Arc<dyn ClientCertVerifier>>,
    ) -> Result<Self, TlsError> {
        let resolver = Arc::new(CertificateResolver::new(&first, &more));
        let unusable = |cause| TlsError::Unusable(first.files.certificate.clone(), cause);
        let config = |clients: Option<Arc<dyn ClientCertVerifier>>| {
            let builder = ServerConfig::builder_with_provider(provider())
                .with_protocol_versions(&VERSIONS)
                .map_err(unusable)?;
            let builder = match clients {
                Some(clients) => builder.with_client_cert_verifier(clients),
                None => builder.with_no_client_auth(),
            };
            Ok(builder.with_cert_resolver(resolver.clone()))
        };
        let mut data = config(clients.clone())?;
        data.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        if clients.is_some() {
            // A resumed session would outlive the client certificate that it began with.
            data.session_storage = Arc::new(NoServerSessionStorage {});
            data.send_tls13_tickets = 0;
        }
        let mut admin = config(None)?;
        admin.alpn_protocols = vec![b"http/1.1".to_vec()];
        let (data, admin) = (Arc::new(data), Arc::new(admin));
        Ok(Self {
            first,
            more,
            clients,
            data,
            admin,
        })
    }
}

impl Identity {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let TlsFiles {
            certificate,
            private_key,
        } = files;
        let chain = certificates(certificate)?;
        let unreadable = |cause| TlsError::Unreadable(private_key.clone(), cause);
        let unusable = |cause| TlsError::Unusable(certificate.clone(), cause);
        // The buffers with the private key are zeroed after use; only the signer keeps the key.
        let text = fs::read(private_key).map(Zeroizing::new);
        let text = text.map_err(|cause| unreadable(pem::Error::Io(cause)))?;
        let key = PrivateKeyDer::from_pem_slice(&text).map_err(unreadable)?;
        let key = any_supported_type(&Zeroizing::new(key)).map_err(unusable)?;
        let key = CertifiedKey::new(chain, key);
        match key.keys_match() {
            Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(Self {
                files: files.clone(),
                key: Arc::new(key),
            }),
            Err(cause) => Err(unusable(cause)),
        }
    }
}

/// Chooses the certificate for a client by the name that it asks for (SNI): an exact match before a wildcard (`*.`),
/// and of those the first with a signature scheme that the client supports. Without a match, the first certificate.
#[derive(Debug)]
struct CertificateResolver {
    by_name: HashMap<String, Vec<Arc<CertifiedKey>>>,
    first: Arc<CertifiedKey>,
}

impl CertificateResolver {
    fn new(first: &Identity, more: &[Identity]) -> Self {
        let mut by_name: HashMap<String, Vec<_>> = HashMap::new();
        for Identity { key, .. } in std::iter::once(first).chain(more) {
            for name in key.cert.first().into_iter().flat_map(names::of) {
                by_name.entry(name).or_default().push(Arc::clone(key));
            }
        }
        let first = Arc::clone(&first.key);
        Self { by_name, first }
    }
}

impl ResolvesServerCert for CertificateResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let checkable = |known: &&Arc<CertifiedKey>| {
            known.key.choose_scheme(hello.signature_schemes()).is_some()
        };
        let of = |name: &str| self.by_name.get(name)?.iter().find(checkable);
        let named = hello.server_name().and_then(|name| {
            let name = name.to_ascii_lowercase();
            let level = name.split_once('.').map(|(_, level)| format!("*.{level}"));
            of(&name).or_else(|| of(&level?))
        });
        Some(Arc::clone(named.unwrap_or(&self.first)))
    }
}

/// Accepts only clients with a valid certificate from this CA.
fn client_verifier(ca_file: &Path) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let roots = Arc::new(roots_of(ca_file)?);
    WebPkiClientVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(|_| TlsError::Empty(ca_file.into()))
}

/// Verifies upstreams against the CA file, or against the system's roots. Verification cannot be turned off.
///
/// # Errors
/// [`TlsError`]
pub(crate) fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = match ca_file {
        Some(file) => roots_of(file)?,
        None => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(TlsError::NoRoots);
            }
            roots
        }
    };
    let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&VERSIONS);
    let builder = builder.map_err(|cause| TlsError::Unusable(PathBuf::new(), cause))?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn roots_of(ca_file: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca_file)? {
        roots
            .add(certificate)
            .map_err(|cause| TlsError::Unusable(ca_file.into(), cause))?;
    }
    Ok(roots)
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(file).and_then(|certificates| certificates.collect());
    match chain {
        Ok(chain) if chain.is_empty() => Err(TlsError::Empty(file.into())),
        Ok(chain) => Ok(chain),
        Err(cause) => Err(TlsError::Unreadable(file.into(), cause)),
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
