//! What the proxies are started with: key files, tokens and a certificate. The same keys every time.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use keygate::policy::token::BearerToken;

use crate::Fault;
use crate::options::Options;

/// Writes into a folder: `keys.jsonl`, a table of so many keys for which everything is allowed and two that are
/// restricted; `tokens.txt`, the tokens of the former; `network.txt` and `model.txt`, those of the latter; `bad.txt`,
/// tokens of the same form that no table holds.
pub(crate) fn keys(options: &Options) -> Result<(), Fault> {
    let folder = Path::new(options.required("folder")?);
    let count: u64 = options.number("count", 1000)?;
    let create = |name: &str| File::create(folder.join(name)).map(BufWriter::new);
    let mut keys = create("keys.jsonl")?;
    let mut tokens = create("tokens.txt")?;
    for number in 0..count {
        let token = token(number);
        write_key(
            &mut keys,
            number,
            &token,
            r#""model_access":{"mode":"all"}"#,
        )?;
        writeln!(tokens, "{}", token.reveal())?;
    }
    let restricted = [
        (
            "network.txt",
            r#""model_access":{"mode":"all"},"allow_from":["192.0.2.0/24"]"#,
        ),
        (
            "model.txt",
            r#""model_access":{"mode":"inclusive","models":["another-model"]}"#,
        ),
    ];
    for (number, (file, rules)) in (u64::MAX / 2..).zip(restricted) {
        let token = token(number);
        write_key(&mut keys, number, &token, rules)?;
        writeln!(create(file)?, "{}", token.reveal())?;
    }
    let mut bad = create("bad.txt")?;
    for number in 0..1000 {
        writeln!(bad, "{}", token(u64::MAX - number).reveal())?;
    }
    for mut file in [keys, tokens, bad] {
        file.flush()?;
    }
    Ok(())
}

fn write_key(
    out: &mut impl Write,
    number: u64,
    token: &BearerToken,
    rules: &str,
) -> std::io::Result<()> {
    let (hash, hint) = (token.hash(), token.hint());
    writeln!(
        out,
        r#"{{"id":"key_{number:022}","name":"key {number}","hash":"{hash}","hint":"{hint}",{rules},"created_at":"2026-11-22T10:00:00Z"}}"#
    )
}

/// The token of the key of this number.
fn token(number: u64) -> BearerToken {
    let mut state = number;
    let made = BearerToken::make(|bytes: &mut [u8]| {
        for byte in bytes {
            *byte = u8::try_from(mixed(&mut state) >> 56).unwrap_or_default();
        }
        Ok::<_, Infallible>(())
    });
    match made {
        Ok(token) => token,
        Err(never) => match never {},
    }
}

/// SplitMix64: the next number of a sequence that looks random and is the same every time.
pub(crate) fn mixed(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut value = *state;
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// Writes an authority of its own, and a certificate for localhost by it, as ECDSA on P-256, the kind in common use.
pub(crate) fn certificate(options: &Options) -> Result<(), Fault> {
    let folder = Path::new(options.required("folder")?);
    let mut authority = rcgen::CertificateParams::new(Vec::new())?;
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = rcgen::CertifiedIssuer::self_signed(authority, rcgen::KeyPair::generate()?)?;
    let key = rcgen::KeyPair::generate()?;
    let certificate =
        rcgen::CertificateParams::new(vec!["localhost".to_owned()])?.signed_by(&key, &issuer)?;
    fs::write(folder.join("ca.pem"), issuer.pem())?;
    fs::write(folder.join("tls.crt"), certificate.pem())?;
    fs::write(folder.join("tls.key"), key.serialize_pem())?;
    // HAProxy wants both in one file.
    let both = certificate.pem() + &key.serialize_pem();
    fs::write(folder.join("tls.pem"), both)?;
    Ok(())
}
