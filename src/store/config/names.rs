//! Which names certificates are for, and which of them no client will ever get.

use std::collections::HashSet;

use rustls::SignatureAlgorithm;
use rustls::pki_types::CertificateDer;

use crate::store::config::{Tls, TlsFiles, files};

/// A certificate among several is chosen by the name that the client asks for. Where two hold the same name and a key
/// of the same kind, the earlier one wins: for each later one that loses a name, and for each without any, the field
/// and what to do. Files that cannot be read are somebody else's to complain of.
pub(crate) fn shadowed_certificates(tls: &Tls) -> Vec<(String, String)> {
    let mut known = HashSet::new();
    let mut warnings = Vec::new();
    for (field, files) in tls.certificates() {
        let Some((kind, names)) = read(files) else {
            continue;
        };
        // The first one is for whoever names none, and needs no name itself.
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

/// The DNS names of a certificate's subject alternative names in lower case, each once; `*.` begins one for a whole
/// level of names.
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
