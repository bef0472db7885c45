//! TLS 1.2 and 1.3 toward clients and upstreams: certificates that can be replaced while connections are open, and
//! roots that are always checked.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// The certificate in use, for connections to come. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Certificate {
    current: Arc<ArcSwap<ServerConfig>>,
}

/// Why a certificate or CA cannot be used.
#[derive(Debug)]
pub enum TlsFault {
    /// A PEM file cannot be read.
    Unreadable(PathBuf, rustls::pki_types::pem::Error),
    /// Key and certificate do not go together, or are not usable.
    Unusable(PathBuf, rustls::Error),
    /// The file holds no certificate.
    Empty(PathBuf),
    /// The system has no root certificates.
    NoRoots,
}

impl std::fmt::Display for TlsFault {
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

impl std::error::Error for TlsFault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable(_, cause) => Some(cause),
            Self::Unusable(_, cause) => Some(cause),
            Self::Empty(_) | Self::NoRoots => None,
        }
    }
}

impl TlsFault {
    /// The file it is about.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::Unreadable(file, _) | Self::Unusable(file, _) | Self::Empty(file) => Some(file),
            Self::NoRoots => None,
        }
    }
}

impl Certificate {
    /// Reads a chain and its key.
    ///
    /// # Errors
    /// [`TlsFault`]
    pub fn load(certificate: &Path, private_key: &Path) -> Result<Self, TlsFault> {
        let current = Arc::new(ArcSwap::new(server_config(certificate, private_key)?));
        Ok(Self { current })
    }

    /// Reads it again, from the same files or others. Connections to come use what was read; where it is faulty, what
    /// was there stays.
    ///
    /// # Errors
    /// [`TlsFault`]
    pub fn reload(&self, certificate: &Path, private_key: &Path) -> Result<(), TlsFault> {
        self.current.store(server_config(certificate, private_key)?);
        Ok(())
    }

    /// For one connection.
    #[must_use]
    pub fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        self.current.load_full().into()
    }

    /// For one connection that speaks HTTP/1.1 and nothing else.
    #[must_use]
    pub fn http1_acceptor(&self) -> tokio_rustls::TlsAcceptor {
        let mut config = ServerConfig::clone(&self.current.load());
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config).into()
    }
}

/// Whether a chain and its key could be used.
///
/// # Errors
/// [`TlsFault`]
pub fn check(certificate: &Path, private_key: &Path) -> Result<(), TlsFault> {
    server_config(certificate, private_key).map(drop)
}

/// How an upstream's certificate is checked: against the CA file, or the system's roots. There is no way not to.
///
/// # Errors
/// [`TlsFault`]
pub fn client_config(ca_file: Option<&Path>) -> Result<Arc<ClientConfig>, TlsFault> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(file) => {
            for certificate in certificates(file)? {
                roots
                    .add(certificate)
                    .map_err(|cause| TlsFault::Unusable(file.into(), cause))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(TlsFault::NoRoots);
            }
        }
    }
    let builder =
        ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|cause| TlsFault::Unusable(PathBuf::new(), cause))?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn server_config(certificate: &Path, private_key: &Path) -> Result<Arc<ServerConfig>, TlsFault> {
    let chain = certificates(certificate)?;
    let key = PrivateKeyDer::from_pem_file(private_key)
        .map_err(|cause| TlsFault::Unreadable(private_key.into(), cause))?;
    let unusable = |cause| TlsFault::Unusable(certificate.into(), cause);
    let builder =
        ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let mut config = builder
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFault> {
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(file).and_then(|certificates| certificates.collect());
    match chain {
        Ok(chain) if chain.is_empty() => Err(TlsFault::Empty(file.into())),
        Ok(chain) => Ok(chain),
        Err(cause) => Err(TlsFault::Unreadable(file.into(), cause)),
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
