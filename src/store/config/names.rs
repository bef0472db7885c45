//! The names in certificates, and the certificates that no client ever gets.

use std::collections::HashSet;

use rustls::SignatureAlgorithm;
use rustls::pki_types::CertificateDer;

use crate::store::config::{Tls, TlsFiles, files};

/// Warns of certificates that are never served, as pairs of field and message. The server chooses a certificate by the
/// name that the client sends. If two contain the same name and have keys of the same kind, the earlier one is served.
/// Files that cannot be read are skipped, since the config's reader reports them.
pub(crate) fn shadowed_certificates(tls: &Tls) -> Vec<(String, String)> {
    let mut known = HashSet::new();
    let mut warnings = Vec::new();
    for (field, files) in tls.certificates() {
        let Some((kind, names)) = read(files) else {
            continue;
        };
        // The default certificate is for clients that send no name, so it needs none.
        if names.is_empty() && *files != tls.first {
            warnings.push((
                format!("{field}.certificate"),
                "holds no DNS name, so no client will ever get it; have it made for the names that clients use"
                    .to_owned(),
            ));
        }
        let is_taken = |name: &&String| !known.insert((u8::from(kind), String::clone(name)));
        let taken: Vec<&str> = names.iter().filter(is_taken).map(String::as_str).collect();
        if !taken.is_empty() {
            warnings.push((
                format!("{field}.certificate"),
                format!(
                    "is for {} like an earlier certificate, which clients get; name each once, or change the order",
                    taken.join(", ")
                ),
            ));
        }
    }
    warnings
}

/// The DNS names of a certificate (subject alternative names), in lower case, sorted, each once. A wildcard begins with
/// `*.`.
pub(crate) fn of(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok(parsed) = webpki::EndEntityCert::try_from(certificate) else {
        return Vec::new();
    };
    let mut names: Vec<String> = parsed
        .valid_dns_names()
        .map(str::to_ascii_lowercase)
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

fn read(of_files: &TlsFiles) -> Option<(SignatureAlgorithm, Vec<String>)> {
    let chain = files::certificates(&of_files.certificate).ok()?;
    let key = files::private_key(&of_files.private_key).ok()?;
    let identity = files::check_key_pair(chain, key).ok()?;
    let names = of(identity.cert.first()?);
    Some((identity.key.algorithm(), names))
}
