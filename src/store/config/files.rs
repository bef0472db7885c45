//! Checks the files that a config names: readable, and with the right content. The code that uses them reads them
//! again.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

/// In bytes.
const MAX_FILE: u64 = 4 << 20;

/// The content of a small file. It may be a private key or a credential, so its memory is wiped when it is dropped.
pub(crate) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let unreadable = |error: std::io::Error| {
        format!(
            "{} cannot be read ({error}); name a file that the gateway's user may read",
            path.display()
        )
    };
    let file = File::open(path).map_err(unreadable)?;
    // Allocates for the whole file: if the vector grew, the memory that it leaves would not be wiped.
    let size = file.metadata().map_or(0, |found| found.len().min(MAX_FILE));
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 64));
    file.take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(format!(
            "{} is larger than {} MiB; name another file",
            path.display(),
            MAX_FILE >> 20
        ));
    }
    Ok(bytes)
}

/// A PEM file with at least one certificate.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let bytes = read(path)?;
    let certificates = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("{} is not PEM ({error}); name a PEM file", path.display()))?;
    if certificates.is_empty() {
        return Err(format!(
            "{} holds no certificate; name a PEM file with BEGIN CERTIFICATE in it",
            path.display()
        ));
    }
    Ok(certificates)
}

/// A PEM file with a private key.
pub(crate) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let bytes = read(path)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| {
        format!(
            "{} holds no private key; name a PEM file with an unencrypted BEGIN PRIVATE KEY in it",
            path.display()
        )
    })
}

/// Checks that the private key is usable and belongs to the first certificate.
pub(crate) fn check_key_pair(
    certificates: Vec<CertificateDer<'static>>,
    private_key: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, String> {
    CertifiedKey::from_der(certificates, private_key, &ring::default_provider()).map_err(|error| {
        format!(
            "cannot be used with the certificate ({error}); name the key that the chain's first certificate was made \
             for"
        )
    })
}

/// Checks that a PEM file has at least one certificate and that each can be a root.
pub(crate) fn certificate_authorities(path: &Path) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| {
            format!(
                "{} holds a certificate that cannot be used ({error}); name the PEM file of the CA",
                path.display()
            )
        })?;
    }
    Ok(())
}
